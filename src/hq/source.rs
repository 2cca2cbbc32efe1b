//! A text file that people write, and TOML read with the position of every key, so that each problem has a line
//! and one run finds them all.

use std::fs;
use std::path::Path;

use serde::de::DeserializeOwned;
use toml::Spanned;
use toml::de::{DeTable, DeValue, ValueDeserializer};

use super::problem::Problem;

/// The largest TOML file or template, in bytes.
pub const MAX_TEXT_BYTES: u64 = 1024 * 1024;
/// The largest `phones.csv`: 100,000 sites' phones with some columns.
pub const MAX_CSV_BYTES: u64 = 256 * 1024 * 1024;

/// A text file and what messages call it.
#[derive(Debug, Clone)]
pub struct Source {
    /// Relative to the fleet directory.
    pub name: String,
    /// The content.
    pub text: String,
}

impl Source {
    /// Reads `path`, of at most `max_bytes`.
    pub fn read(path: &Path, name: &str, max_bytes: u64) -> Result<Self, Problem> {
        let size = fs::metadata(path).map_err(|error| unreadable(name, &error))?.len();
        if size > max_bytes {
            return Err(Problem::at_file(name, format!("the file is {size} bytes, over the {max_bytes} allowed")));
        }
        let bytes = fs::read(path).map_err(|error| unreadable(name, &error))?;
        match String::from_utf8(bytes) {
            // Spreadsheets write a byte order mark.
            Ok(text) => Ok(Self { name: name.to_owned(), text: text.trim_start_matches('\u{feff}').to_owned() }),
            Err(error) => {
                let valid = error.utf8_error().valid_up_to();
                let line = error.as_bytes().iter().take(valid).filter(|byte| **byte == b'\n').count() + 1;
                Err(Problem::at_line(name, line, "the file is not UTF-8 text")
                    .hint("save it as UTF-8; spreadsheets call it \"CSV UTF-8\""))
            }
        }
    }

    /// The line of a byte offset, from 1.
    pub fn line(&self, offset: usize) -> usize {
        self.text.bytes().take(offset).filter(|byte| *byte == b'\n').count() + 1
    }

    /// A problem at a byte offset.
    pub fn problem(&self, offset: usize, message: impl Into<String>) -> Problem {
        Problem::at_line(&self.name, self.line(offset), message)
    }

    /// The file as TOML; every syntax error becomes a problem.
    pub fn toml(&self, problems: &mut Vec<Problem>) -> Table<'_> {
        let (table, errors) = DeTable::parse_recoverable(&self.text);
        for error in errors {
            let offset = error.span().map_or(0, |span| span.start);
            problems.push(self.problem(offset, format!("this is not TOML: {}", error.message())));
        }
        Table { source: self, path: String::new(), offset: 0, entries: table.into_inner() }
    }
}

/// What an unreadable file is reported as.
pub fn unreadable(name: &str, error: &std::io::Error) -> Problem {
    match error.kind() {
        std::io::ErrorKind::NotFound => Problem::at_file(name, "the file is missing"),
        _ => Problem::at_file(name, format!("cannot be read: {error}")),
    }
}

/// A TOML table being read: each key is taken once, and what is left at the end is unknown.
#[derive(Debug)]
pub struct Table<'a> {
    source: &'a Source,
    path: String,
    offset: usize,
    entries: DeTable<'a>,
}

impl<'a> Table<'a> {
    /// The line at which the table begins.
    pub fn line(&self) -> usize {
        self.source.line(self.offset)
    }

    /// The file it is in.
    pub fn source(&self) -> &'a Source {
        self.source
    }

    /// Takes the raw value of a key, with its line.
    pub fn take(&mut self, key: &str) -> Option<(usize, Spanned<DeValue<'a>>)> {
        let (key, value) = self.entries.remove_entry(key)?;
        Some((self.source.line(key.span().start), value))
    }

    /// Takes a value and its line. One of the wrong kind becomes a problem.
    pub fn value<T: DeserializeOwned>(&mut self, key: &str, problems: &mut Vec<Problem>) -> Option<(usize, T)> {
        let (line, value) = self.take(key)?;
        match T::deserialize(ValueDeserializer::from(value)) {
            Ok(value) => Some((line, value)),
            Err(error) => {
                let message = error.message().lines().next().unwrap_or_default().to_owned();
                problems.push(Problem::at_line(&self.source.name, line, format!("`{}`: {message}", self.full(key))));
                None
            }
        }
    }

    /// Takes a value that must be there.
    pub fn required<T: DeserializeOwned>(&mut self, key: &str, problems: &mut Vec<Problem>) -> Option<(usize, T)> {
        if !self.entries.contains_key(key) {
            let line = if self.path.is_empty() { 1 } else { self.line() };
            problems.push(Problem::at_line(&self.source.name, line, format!("`{}` is missing", self.full(key))));
            return None;
        }
        self.value(key, problems)
    }

    /// Takes a table. Absent is an empty one.
    pub fn table(&mut self, key: &str, problems: &mut Vec<Problem>) -> Table<'a> {
        let path = self.full(key);
        let empty = Table { source: self.source, path: path.clone(), offset: self.offset, entries: DeTable::new() };
        let Some((key, value)) = self.entries.remove_entry(key) else { return empty };
        let offset = key.span().start;
        match value.into_inner() {
            DeValue::Table(entries) => Table { source: self.source, path, offset, entries },
            other => {
                let message = format!("`{path}` must be a table, not {}", kind(&other));
                problems.push(self.source.problem(offset, message));
                empty
            }
        }
    }

    /// Takes an array of tables. Absent is none.
    pub fn tables(&mut self, key: &str, problems: &mut Vec<Problem>) -> Vec<Table<'a>> {
        let path = self.full(key);
        let Some((key, value)) = self.entries.remove_entry(key) else { return Vec::new() };
        let DeValue::Array(items) = value.into_inner() else {
            problems.push(self.source.problem(key.span().start, format!("`{path}` must be tables: write [[{path}]]")));
            return Vec::new();
        };
        let mut tables = Vec::new();
        for item in items {
            let offset = item.span().start;
            match item.into_inner() {
                DeValue::Table(entries) => {
                    tables.push(Table { source: self.source, path: path.clone(), offset, entries });
                }
                _ => problems.push(self.source.problem(offset, format!("`{path}` must be tables: write [[{path}]]"))),
            }
        }
        tables
    }

    /// All entries that are left, as name, line and value.
    pub fn rest(self) -> Vec<(String, usize, Spanned<DeValue<'a>>)> {
        let source = self.source;
        self.entries
            .into_iter()
            .map(|(key, value)| (key.get_ref().to_string(), source.line(key.span().start), value))
            .collect()
    }

    /// Ends the reading: keys that nobody took are unknown. `known` is for the hint.
    pub fn finish(self, known: &[&str], problems: &mut Vec<Problem>) {
        let name = self.source.name.clone();
        let path = self.path.clone();
        for (key, line, _) in self.rest() {
            let full = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
            let problem = Problem::at_line(&name, line, format!("unknown key `{full}`"));
            problems.push(match nearest(&key, known) {
                Some(near) => problem.hint(format!("did you mean `{near}`?")),
                None => problem.hint(format!("known here: {}", known.join(", "))),
            });
        }
    }

    fn full(&self, key: &str) -> String {
        if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) }
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

/// The known word that a typo most likely meant: at most two edits away.
pub fn nearest<'k>(word: &str, known: &[&'k str]) -> Option<&'k str> {
    known
        .iter()
        .map(|candidate| (edits(word, candidate), *candidate))
        .filter(|(edits, candidate)| *edits <= 2 && *edits < candidate.len())
        .min()
        .map(|(_, candidate)| candidate)
}

/// Levenshtein distance; words longer than 64 bytes are never near.
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

    #[test]
    fn a_typo_finds_the_word_that_was_meant() {
        assert_eq!(nearest("rnage", &["mode", "range", "routers"]), Some("range"));
        assert_eq!(nearest("banana", &["mode", "range"]), None);
    }

    #[test]
    fn unknown_keys_and_wrong_kinds_have_their_line() {
        let source = Source { name: "x.toml".into(), text: "a = 1\n\nb = \"text\"\n[t]\nc = 2\n".into() };
        let mut problems = Vec::new();
        let mut table = source.toml(&mut problems);
        assert_eq!(table.value::<u32>("a", &mut problems), Some((1, 1)));
        assert_eq!(table.value::<u32>("b", &mut problems), None);
        let inner = table.table("t", &mut problems);
        inner.finish(&["cc"], &mut problems);
        let lines: Vec<_> = problems.iter().map(|problem| (problem.line, problem.message.clone())).collect();
        assert_eq!(lines.len(), 2, "{problems:?}");
        assert_eq!(problems.first().and_then(|problem| problem.line), Some(3));
        assert_eq!(
            problems.last().map(ToString::to_string),
            Some("x.toml:5: unknown key `t.c`\n  hint: did you mean `cc`?".to_owned())
        );
    }

    #[test]
    fn broken_toml_is_reported_with_its_line() {
        let source = Source { name: "x.toml".into(), text: "a = 1\nb = = 2\n".into() };
        let mut problems = Vec::new();
        source.toml(&mut problems);
        assert_eq!(problems.first().and_then(|problem| problem.line), Some(2), "{problems:?}");
    }
}
