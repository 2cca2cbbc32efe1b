//! Reads a TOML table key by key, and knows the line of each key.

use std::ops::RangeInclusive;

use serde::de::DeserializeOwned;
use toml::Spanned;
use toml::de::{DeTable, DeValue, ValueDeserializer};

use crate::problem::Problem;
use crate::source::Source;

/// A TOML table that is being read. Each key is taken once. Keys that are left at the end are unknown.
#[derive(Debug)]
pub struct Table<'a> {
    source: &'a Source,
    path: String,
    offset: usize,
    entries: DeTable<'a>,
    /// The keys that were asked for, whether the table has them or not.
    known: Vec<&'static str>,
}

/// What is wrong with a value. The table adds the key and the line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wrong {
    message: String,
    hint: Option<String>,
}

impl Wrong {
    /// A message that goes on after the key: "is 5, but must be 1 to 3".
    pub fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), hint: None }
    }

    /// This message with a hint of its own, in place of the one that holds for every wrong value of the key.
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

impl<'a> Table<'a> {
    pub(crate) fn new(source: &'a Source, path: String, offset: usize, entries: DeTable<'a>) -> Self {
        Self { source, path, offset, entries, known: Vec::new() }
    }

    /// The line at which the table begins.
    pub fn line(&self) -> usize {
        self.source.line(self.offset)
    }

    /// The file that the table is in.
    pub fn source(&self) -> &'a Source {
        self.source
    }

    /// The name of a key in messages: with the tables that it is in, as `dhcp.range`.
    pub fn full(&self, key: &str) -> String {
        if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) }
    }

    /// A problem with a key of this table. `message` goes on after the name of the key.
    pub fn problem(&self, line: usize, key: &str, message: &str) -> Problem {
        Problem::at_line(&self.source.name, line, format!("`{}` {message}", self.full(key)))
    }

    /// Takes a value, and returns it with its line. `None` if the key is missing, or has a value of the wrong kind,
    /// which becomes a problem.
    pub fn value<T: DeserializeOwned>(&mut self, key: &'static str, problems: &mut Vec<Problem>) -> Option<(usize, T)> {
        let (start, value) = self.take(key)?;
        let value = self.read(key, start, value).map_err(|problem| problems.push(problem)).ok()?;
        Some((self.source.line(start), value))
    }

    /// Takes a value that `check` accepts, and returns it with its line. `write` is the hint for a wrong one: what to
    /// write instead.
    pub fn checked<T: DeserializeOwned, V>(
        &mut self,
        key: &'static str,
        write: &str,
        problems: &mut Vec<Problem>,
        check: impl FnOnce(T) -> Result<V, Wrong>,
    ) -> Option<(usize, V)> {
        let advice = || format!("write {write}");
        let (start, value) = self.take(key)?;
        let line = self.source.line(start);
        let problem = match self.read(key, start, value).map(check) {
            Ok(Ok(value)) => return Some((line, value)),
            Ok(Err(wrong)) => self.problem(line, key, &wrong.message).hint(wrong.hint.unwrap_or_else(advice)),
            Err(problem) => problem.hint(advice()),
        };
        problems.push(problem);
        None
    }

    /// Takes a number within `range`. A number outside becomes a problem that names the limits.
    pub fn number<N: TryFrom<i64>>(
        &mut self,
        key: &'static str,
        range: RangeInclusive<i64>,
        problems: &mut Vec<Problem>,
    ) -> Option<N> {
        let (line, number) = self.value::<i64>(key, problems)?;
        let fitting = N::try_from(number).ok().filter(|_| range.contains(&number));
        if fitting.is_none() {
            let message = format!("is {number}, but must be {} to {}", range.start(), range.end());
            problems.push(self.problem(line, key, &message));
        }
        fitting
    }

    /// Takes a list of at most `most` items that `check` accepts. Every wrong item becomes a problem with its own line.
    pub fn list<T: DeserializeOwned, V>(
        &mut self,
        key: &'static str,
        write: &str,
        most: usize,
        problems: &mut Vec<Problem>,
        check: impl Fn(T) -> Result<V, Wrong>,
    ) -> Option<Vec<V>> {
        let (start, value) = self.take(key)?;
        let advice = || format!("write {write}");
        let before = problems.len();
        let items = match value.into_inner() {
            DeValue::Array(items) => items,
            other => {
                let message = format!("must be a list, not {}", kind(&other));
                problems.push(self.problem(self.source.line(start), key, &message).hint(advice()));
                return None;
            }
        };
        if items.len() > most {
            let message = format!("has {} items, over the {most} allowed", items.len());
            problems.push(self.problem(self.source.line(start), key, &message));
        }
        let mut good = Vec::new();
        for (index, item) in items.into_iter().enumerate() {
            let name = format!("{key}[{index}]");
            let line = self.source.line(item.span().start);
            match self.read(&name, start, item).map(&check) {
                Ok(Ok(value)) => good.push(value),
                Ok(Err(wrong)) => {
                    let problem = self.problem(line, &name, &wrong.message);
                    problems.push(problem.hint(wrong.hint.unwrap_or_else(advice)));
                }
                Err(problem) => problems.push(problem.hint(advice())),
            }
        }
        (problems.len() == before).then_some(good)
    }

    /// Reports a problem if the key is missing.
    pub fn require(&self, key: &'static str, problems: &mut Vec<Problem>) {
        if !self.entries.contains_key(key) {
            let line = if self.path.is_empty() { 1 } else { self.line() };
            problems.push(self.problem(line, key, "is missing"));
        }
    }

    /// Takes a value as [`Table::value`] does. A missing key becomes a problem.
    pub fn required<T: DeserializeOwned>(
        &mut self,
        key: &'static str,
        problems: &mut Vec<Problem>,
    ) -> Option<(usize, T)> {
        self.require(key, problems);
        self.value(key, problems)
    }

    /// Takes a table. A missing one is empty.
    pub fn table(&mut self, key: &'static str, problems: &mut Vec<Problem>) -> Table<'a> {
        self.known.push(key);
        let path = self.full(key);
        let Some((key, value)) = self.entries.remove_entry(key) else {
            return Table::new(self.source, path, self.offset, DeTable::new());
        };
        let offset = key.span().start;
        match value.into_inner() {
            DeValue::Table(entries) => Table::new(self.source, path, offset, entries),
            other => {
                problems.push(
                    self.source
                        .problem(offset, format!("`{path}` must be a table, not {}", kind(&other)))
                        .hint(format!("write [{path}]")),
                );
                Table::new(self.source, path, offset, DeTable::new())
            }
        }
    }

    /// Takes an array of tables. A missing one is empty.
    pub fn tables(&mut self, key: &'static str, problems: &mut Vec<Problem>) -> Vec<Table<'a>> {
        self.known.push(key);
        let path = self.full(key);
        let Some((key, value)) = self.entries.remove_entry(key) else { return Vec::new() };
        let not_tables =
            |offset| self.source.problem(offset, format!("`{path}` must be tables")).hint(format!("write [[{path}]]"));
        let DeValue::Array(items) = value.into_inner() else {
            problems.push(not_tables(key.span().start));
            return Vec::new();
        };
        let mut tables = Vec::new();
        for item in items {
            let offset = item.span().start;
            match item.into_inner() {
                DeValue::Table(entries) => tables.push(Table::new(self.source, path.clone(), offset, entries)),
                _ => problems.push(not_tables(offset)),
            }
        }
        tables
    }

    /// Returns all entries that are left, as name, line and value. It is for tables whose keys people choose.
    pub fn rest(self) -> Vec<(String, usize, Spanned<DeValue<'a>>)> {
        let source = self.source;
        self.entries
            .into_iter()
            .map(|(key, value)| (key.get_ref().to_string(), source.line(key.span().start), value))
            .collect()
    }

    /// Ends the reading. Every key that nobody asked for becomes a problem.
    pub fn finish(self, problems: &mut Vec<Problem>) {
        for key in self.entries.keys() {
            let problem = self.source.problem(key.span().start, format!("unknown key `{}`", self.full(key.get_ref())));
            problems.push(match nearest(key.get_ref(), &self.known) {
                Some(near) => problem.hint(format!("did you mean `{near}`?")),
                None => problem.hint(format!("known here: {}", self.known.join(", "))),
            });
        }
    }

    /// Takes a value unread, with the offset of its key in bytes.
    fn take(&mut self, key: &'static str) -> Option<(usize, Spanned<DeValue<'a>>)> {
        self.known.push(key);
        let (name, value) = self.entries.remove_entry(key)?;
        Some((name.span().start, value))
    }

    /// Reads one value. `start` is the offset of its key in bytes.
    fn read<T: DeserializeOwned>(&self, key: &str, start: usize, value: Spanned<DeValue<'a>>) -> Result<T, Problem> {
        serde_path_to_error::deserialize(ValueDeserializer::from(value)).map_err(|error| {
            let mut full = self.full(key);
            let within = error.path().to_string();
            if within != "." {
                full.push_str(if within.starts_with('[') { "" } else { "." });
                full.push_str(&within);
            }
            let error = error.into_inner();
            // In a list over several lines this is the line of the wrong item.
            let offset = error.span().map_or(start, |span| span.start);
            let message = error.message().lines().next().unwrap_or_default();
            self.source.problem(offset, format!("`{full}`: {message}"))
        })
    }
}

fn kind(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "text",
        DeValue::Integer(_) => "a number",
        DeValue::Float(_) => "a number with a point",
        DeValue::Boolean(_) => "true or false",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    }
}

/// The known word that a misspelt one most likely means. `None` if none is within two edits.
pub fn nearest<'k>(word: &str, known: &[&'k str]) -> Option<&'k str> {
    known
        .iter()
        .map(|candidate| (edits(word, candidate), *candidate))
        .filter(|(edits, candidate)| *edits <= 2 && *edits < candidate.len())
        .min()
        .map(|(_, candidate)| candidate)
}

/// The Levenshtein distance of two words. Words longer than 64 bytes are never near.
fn edits(a: &str, b: &str) -> usize {
    if a.len() > 64 || b.len() > 64 {
        return usize::MAX;
    }
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.bytes().enumerate() {
        let mut diagonal = i;
        let mut left = i + 1;
        for (y, cell) in b.bytes().zip(row.iter_mut().skip(1)) {
            let next = (*cell + 1).min(left + 1).min(diagonal + usize::from(x != y));
            diagonal = *cell;
            *cell = next;
            left = next;
        }
    }
    row.last().copied().unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(problems: &[Problem]) -> Vec<String> {
        problems.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_typo_finds_the_word_that_was_meant() {
        assert_eq!(nearest("rnage", &["mode", "range", "routers"]), Some("range"));
        assert_eq!(nearest("banana", &["mode", "range"]), None);
    }

    #[test]
    fn unknown_keys_and_wrong_kinds_have_their_line() {
        let source = Source::new("x.toml", "a = 1\n\nb = \"text\"\n[t]\nc = 2\n");
        let mut problems = Vec::new();
        let mut table = source.toml(&mut problems);
        assert_eq!(table.value::<u32>("a", &mut problems), Some((1, 1)));
        assert_eq!(table.value::<u32>("b", &mut problems), None);
        let mut inner = table.table("t", &mut problems);
        assert_eq!(inner.value::<u32>("cc", &mut problems), None);
        inner.finish(&mut problems);
        let lines: Vec<_> = problems.iter().map(|problem| (problem.line, problem.message.clone())).collect();
        assert_eq!(lines.len(), 2, "{problems:?}");
        assert_eq!(problems.first().and_then(|problem| problem.line), Some(3));
        assert_eq!(
            problems.last().map(ToString::to_string),
            Some("x.toml:5: unknown key `t.c`\n  hint: did you mean `cc`?".to_owned())
        );
    }

    #[test]
    fn a_key_that_is_like_none_gets_the_list_of_those_asked_for() {
        let source = Source::new("x.toml", "banana = 1\n");
        let mut problems = Vec::new();
        let mut table = source.toml(&mut problems);
        let _ = table.value::<u32>("port", &mut problems);
        let _ = table.tables("option", &mut problems);
        table.finish(&mut problems);
        assert_eq!(said(&problems), ["x.toml:1: unknown key `banana`\n  hint: known here: port, option"]);
    }

    #[test]
    fn a_wrong_item_is_named_with_its_own_line() {
        let source = Source::new("x.toml", "[t]\nlist = [\n  1,\n  \"two\",\n]\nmap = { \"k\" = true }\n");
        let mut problems = Vec::new();
        let mut table = source.toml(&mut problems).table("t", &mut problems);
        assert_eq!(table.value::<Vec<u32>>("list", &mut problems), None);
        assert_eq!(table.value::<std::collections::BTreeMap<String, u32>>("map", &mut problems), None);
        assert_eq!(
            said(&problems),
            [
                "x.toml:4: `t.list[1]`: invalid type: string \"two\", expected u32",
                "x.toml:6: `t.map.k`: invalid type: boolean `true`, expected u32",
            ]
        );
    }

    #[test]
    fn every_wrong_item_of_a_list_is_told() {
        let source = Source::new("x.toml", "[t]\ngood = [1, 2]\nbad = [\n  1,\n  \"two\",\n  9,\n  3,\n]\nno = 4\n");
        let mut problems = Vec::new();
        let mut table = source.toml(&mut problems).table("t", &mut problems);
        let small = |number: u32| if number < 9 { Ok(number) } else { Err(Wrong::new(format!("is {number}"))) };
        assert_eq!(table.list("good", "small numbers", 3, &mut problems, small), Some(vec![1, 2]));
        assert_eq!(table.list("bad", "small numbers", 3, &mut problems, small), None);
        assert_eq!(table.list("no", "small numbers", 3, &mut problems, small), None);
        assert_eq!(
            said(&problems),
            [
                "x.toml:3: `t.bad` has 4 items, over the 3 allowed",
                "x.toml:5: `t.bad[1]`: invalid type: string \"two\", expected u32\n  hint: write small numbers",
                "x.toml:6: `t.bad[2]` is 9\n  hint: write small numbers",
                "x.toml:9: `t.no` must be a list, not a number\n  hint: write small numbers",
            ]
        );
    }

    #[test]
    fn a_value_out_of_its_bounds_is_said_with_them() {
        let source = Source::new("x.toml", "[t]\na = 0\nb = -1\nc = 3\nd = 'x'\n");
        let mut problems = Vec::new();
        let mut table = source.toml(&mut problems).table("t", &mut problems);
        assert_eq!(table.number::<u8>("a", 1..=3, &mut problems), None);
        // A number within the range must also fit the type.
        assert_eq!(table.number::<u8>("b", -5..=3, &mut problems), None);
        assert_eq!(table.number::<u8>("c", 1..=3, &mut problems), Some(3));
        let absolute =
            |text: String| if text.starts_with('/') { Ok(text) } else { Err(Wrong::new(format!("is `{text}`"))) };
        assert_eq!(table.checked("d", "an absolute path", &mut problems, absolute), None);
        assert_eq!(
            said(&problems),
            [
                "x.toml:2: `t.a` is 0, but must be 1 to 3",
                "x.toml:3: `t.b` is -1, but must be -5 to 3",
                "x.toml:5: `t.d` is `x`\n  hint: write an absolute path",
            ]
        );
    }

    #[test]
    fn what_is_no_table_is_said_with_how_to_write_one() {
        let source = Source::new("x.toml", "t = 1\nu = 2\nv = [3]\n");
        let mut problems = Vec::new();
        let mut table = source.toml(&mut problems);
        table.table("t", &mut problems).finish(&mut problems);
        assert!(table.tables("u", &mut problems).is_empty());
        assert!(table.tables("v", &mut problems).is_empty());
        assert_eq!(
            said(&problems),
            [
                "x.toml:1: `t` must be a table, not a number\n  hint: write [t]",
                "x.toml:2: `u` must be tables\n  hint: write [[u]]",
                "x.toml:3: `v` must be tables\n  hint: write [[v]]",
            ]
        );
    }
}
