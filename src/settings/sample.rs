//! Compares the keys that a sample file documents with those that its reader knows. Only tests use it.
//!
//! A sample shows a key as `key = value`, or commented out as `# key = value`. Each reader of settings has a sample,
//! and a test that [`SampleKeys::documented`] and [`SampleKeys::known`] are the same.

use std::collections::BTreeSet;

use toml::{Table, Value};

use crate::problem::Problem;
use crate::source::Source;

/// A key that no reader knows, and that is no near miss of a known one.
const STRANGER: &str = "zzzzzzzzzzzzzzzz";

/// The keys of a sample and of its reader, each with the path of its table: `dhcp.range`.
#[derive(Debug, PartialEq, Eq)]
pub struct SampleKeys {
    /// The keys in the sample, without those of tables whose keys people choose.
    pub documented: BTreeSet<String>,
    /// The keys that the reader asks for.
    pub known: BTreeSet<String>,
}

/// The sample with every key in force that it shows in a comment.
pub fn uncommented(sample: &str) -> String {
    let line = |line: &str| {
        let shown = line.strip_prefix("#: ").or_else(|| line.strip_prefix("# ")).filter(|rest| is_toml(rest));
        shown.unwrap_or(line).to_owned() + "\n"
    };
    sample.lines().map(line).collect()
}

/// The keys in `sample` and those that `read` asks for. `read` returns the problems that it finds.
///
/// The reader's own messages tell its keys: each table gets a key that no reader knows, and the hint of that problem
/// lists the known ones.
pub fn keys(sample: &str, read: impl FnOnce(&Source) -> Vec<Problem>) -> SampleKeys {
    let text = uncommented(sample);
    let mut with_strangers = format!("{STRANGER} = 1\n");
    for line in text.lines() {
        with_strangers.push_str(line);
        with_strangers.push('\n');
        if line.starts_with('[') {
            with_strangers.push_str(&format!("{STRANGER} = 1\n"));
        }
    }
    let mut known = BTreeSet::new();
    let mut tables = BTreeSet::new();
    for problem in read(&Source::new("sample", &with_strangers)) {
        let path =
            problem.message.strip_prefix("unknown key `").and_then(|rest| rest.strip_suffix(&format!("{STRANGER}`")));
        let listed = problem.hint.as_deref().and_then(|hint| hint.strip_prefix("known here: "));
        if let (Some(path), Some(listed)) = (path, listed) {
            known.extend(listed.split(", ").filter(|key| !key.is_empty()).map(|key| format!("{path}{key}")));
            tables.insert(path.to_owned());
        }
    }
    let mut documented = BTreeSet::new();
    let parsed = text.parse::<Table>().unwrap_or_default();
    collect("", &parsed, &mut documented);
    documented.retain(|key| tables.contains(key.rfind('.').map_or("", |dot| key.get(..=dot).unwrap_or_default())));
    SampleKeys { documented, known }
}

fn collect(path: &str, table: &Table, found: &mut BTreeSet<String>) {
    for (key, value) in table {
        let full = format!("{path}{key}");
        let below = format!("{full}.");
        found.insert(full);
        match value {
            Value::Table(table) => collect(&below, table, found),
            Value::Array(items) => {
                items.iter().filter_map(Value::as_table).for_each(|table| collect(&below, table, found));
            }
            _ => {}
        }
    }
}

/// Whether the text of a comment is a key or the head of a table, and no sentence.
fn is_toml(text: &str) -> bool {
    let plain = |word: &str, more: &[char]| {
        !word.is_empty()
            && word
                .chars()
                .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || "-_".contains(c) || more.contains(&c))
    };
    match text.split_once(" = ") {
        Some((key, _)) => plain(key, &[]),
        None => text.starts_with('[') && text.ends_with(']') && plain(text.trim_matches(['[', ']']), &['.']),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAMPLE: &str =
        "# A sentence.\n# a = 1\n#: b = \"x\"\n[t]\n# c = [\"y\"]\n\n# [[t.u]]\n# d = 1\n[free]\nchosen = 1\n";

    fn read(source: &Source) -> Vec<Problem> {
        let mut problems = Vec::new();
        let mut root = source.toml(&mut problems);
        for key in ["a", "b", "missing"] {
            let _ = root.value::<toml::Value>(key, &mut problems);
        }
        let mut table = root.table("t", &mut problems);
        let _ = table.value::<toml::Value>("c", &mut problems);
        for item in table.tables("u", &mut problems) {
            item.finish(&mut problems);
        }
        table.finish(&mut problems);
        let _ = root.table("free", &mut problems).rest();
        root.finish(&mut problems);
        problems
    }

    #[test]
    fn keys_that_only_one_of_the_two_has_are_seen() {
        let keys = keys(SAMPLE, read);
        let only_known: Vec<_> = keys.known.difference(&keys.documented).collect();
        assert_eq!(only_known, ["missing"]);
        let only_documented: Vec<_> = keys.documented.difference(&keys.known).collect();
        assert_eq!(only_documented, ["t.u.d"], "{keys:?}");
        assert!(keys.known.contains("t.c") && keys.known.contains("free"));
    }
}
