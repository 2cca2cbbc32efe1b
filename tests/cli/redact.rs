//! What differs from run to run becomes a word in brackets: the folder, the port, ids and keys, times and sizes.

/// The shortest run of hex digits that is an id or a key. A MAC address has 12.
const ID: usize = 16;

/// Units whose numbers depend on the machine and the moment.
const UNITS: [&str; 3] = ["MB", "days", "s"];

/// `text` without what differs from run to run.
pub fn redact(text: &str, dir: &str, port: u16) -> String {
    let text = text.replace(dir, "[DIR]").replace(&format!(":{port}"), ":[PORT]");
    let mut out = String::new();
    let mut rest = text.as_str();
    while let Some(first) = rest.chars().next() {
        // A word begins where the one before it has ended.
        let (seen, word) = if out.ends_with(|c: char| c.is_ascii_alphanumeric()) {
            (first.len_utf8(), None)
        } else {
            date(rest)
                .or_else(|| id(rest))
                .or_else(|| quantity(rest, out.ends_with(" new objects, ")))
                .map_or((first.len_utf8(), None), |(n, w)| (n, Some(w)))
        };
        let (head, tail) = rest.split_at(seen);
        out.push_str(word.unwrap_or(head));
        rest = tail;
    }
    out
}

/// How long the run of such characters is at the beginning.
fn run(text: &str, fits: impl Fn(char) -> bool) -> usize {
    text.find(|c| !fits(c)).unwrap_or(text.len())
}

/// `2026-11-28`, and `2026-11-28T14:59:16Z`.
fn date(text: &str) -> Option<(usize, &'static str)> {
    let shape = |pattern: &str| {
        let fits = |(have, want): (char, char)| if want == '0' { have.is_ascii_digit() } else { have == want };
        text.chars().count() >= pattern.len() && text.chars().zip(pattern.chars()).all(fits)
    };
    ["0000-00-00T00:00:00Z", "0000-00-00"]
        .into_iter()
        .find(|pattern| shape(pattern))
        .map(|found| (found.len(), "[TIME]"))
}

/// Hex digits in lower case.
fn id(text: &str) -> Option<(usize, &'static str)> {
    let length = run(text, |c| c.is_ascii_digit() || ('a'..='f').contains(&c));
    let ends = !text[length..].starts_with(|c: char| c.is_ascii_alphanumeric());
    (length >= ID && ends).then_some((length, "[ID]"))
}

/// The number of `12.5 MB`; that of bytes only if they are `sealed`, which depends on random parts.
fn quantity(text: &str, sealed: bool) -> Option<(usize, &'static str)> {
    let length = run(text, |c| c.is_ascii_digit() || c == '.');
    let unit = text[length..].strip_prefix(' ')?;
    let unit = &unit[..run(unit, |c| c.is_ascii_alphabetic())];
    (length > 0 && (UNITS.contains(&unit) || sealed && unit == "bytes")).then_some((length, "[N]"))
}

#[cfg(test)]
mod tests {
    use super::redact;

    #[test]
    fn only_what_differs_is_taken_out() {
        let text = "made /tmp/x/fleet as f-0123456789abcdef at https://h:8443 until 2026-12-01T14:59:16Z, 12.5 MB for 3 s, 11 new objects, 5381 bytes\n";
        assert_eq!(
            redact(text, "/tmp/x", 8443),
            "made [DIR]/fleet as f-[ID] at https://h:[PORT] until [TIME], [N] MB for [N] s, 11 new objects, [N] bytes\n"
        );
        let stays =
            "SEP001B54000001 00:1b:54:00:00:01 0004f2000003.cfg 3 phones, 9 seconds, line 12; 5 sites, 100 bytes\n";
        assert_eq!(redact(stays, "/tmp/x", 8443), stays);
    }
}
