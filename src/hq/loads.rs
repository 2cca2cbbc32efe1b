//! Cisco's `.loads` files: a signed header, then the names of the files that make up one firmware. Also finds the
//! `.loads` file that a configuration names.

/// The largest `.loads` file, in bytes. Real ones have less than 2 KB.
pub const MAX_LOADS_BYTES: u64 = 64 * 1024;

/// The file names that a `.loads` file lists, in its order.
///
/// Each line has one name. `#` begins a comment, `KEY=value` lines are settings, and some families write size and MD5
/// behind the name. The header is a list of tag, length and value; tag 2 holds the length of all of it.
pub fn listed(bytes: &[u8]) -> Vec<String> {
    let text = bytes.get(header_bytes(bytes)..).unwrap_or_default();
    let mut names: Vec<String> = Vec::new();
    for line in text.split(|byte| *byte == b'\n' || *byte == b'\r' || *byte == 0) {
        let Ok(line) = std::str::from_utf8(line) else { continue };
        let Some(word) = line.split_whitespace().next() else { continue };
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_');
        if line.trim_start().starts_with('#') || !word.contains('.') || !word.bytes().all(plain) {
            continue;
        }
        if !names.iter().any(|name| name == word) {
            names.push(word.to_owned());
        }
    }
    names
}

/// The length of the signed header, 0 if there is none: `01 0002 major minor 02 0002 length`.
fn header_bytes(bytes: &[u8]) -> usize {
    match bytes {
        [1, 0, 2, _, _, 2, 0, 2, high, low, ..] => usize::from(u16::from_be_bytes([*high, *low])),
        _ => 0,
    }
}

/// The load that a rendered Cisco configuration names in `<loadInformation>`, if any.
pub fn named_in(config: &[u8]) -> Option<&str> {
    let text = std::str::from_utf8(config).ok()?;
    let (_, after) = text.split_once("<loadInformation")?;
    let (attributes, after) = after.split_once('>')?;
    if attributes.ends_with('/') {
        return None;
    }
    let (load, _) = after.split_once('<')?;
    let load = load.trim();
    (!load.is_empty()).then_some(load)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_behind_a_signed_header_are_listed() {
        let mut file = vec![1, 0, 2, 1, 1, 2, 0, 2, 0, 24];
        file.extend(b"CN=signer.nam\n");
        file.extend(b"# comment\r\njar41sip.8-5-2.sbn  \r\ncnu41.8-5-2.sbn 1234 d41d8\r\nLA_VERSION=1.2\r\n");
        assert_eq!(listed(&file), ["jar41sip.8-5-2.sbn", "cnu41.8-5-2.sbn"]);
    }

    #[test]
    fn a_header_longer_than_the_file_lists_nothing() {
        assert!(listed(&[1, 0, 2, 1, 1, 2, 0, 2, 0xff, 0xff, b'a', b'.', b'b']).is_empty());
    }

    #[test]
    fn the_load_of_a_configuration_is_found() {
        assert_eq!(named_in(b"<d><loadInformation>sip9971.9-4-2\n</loadInformation>"), Some("sip9971.9-4-2"));
        assert_eq!(named_in(b"<d><loadInformation model=\"x\">a</loadInformation>"), Some("a"));
        assert_eq!(named_in(b"<d><loadInformation></loadInformation>"), None);
        assert_eq!(named_in(b"<d><loadInformation/><a>b</a>"), None);
    }
}
