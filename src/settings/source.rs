//! Reads a text file that people write, up to a size.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::Path;

use toml::de::DeTable;

use crate::problem::Problem;
use crate::table::Table;

/// The largest file of settings or template that is read, in bytes.
pub const MAX_TEXT_BYTES: u64 = 1024 * 1024;

/// The text of a file, and the name of the file in messages.
#[derive(Debug, Clone)]
pub struct Source {
    /// The name of the file in messages.
    pub name: String,
    /// The text, without the byte order mark that spreadsheets write.
    pub text: String,
}

impl Source {
    /// Reads `path`, which may have at most `max_bytes`. Not more is read, even of a device that never ends.
    pub fn read(path: &Path, name: &str, max_bytes: u64) -> Result<Self, Problem> {
        Self::of(File::open(path), name, max_bytes)
    }

    /// Reads a file that was opened, or says why it could not be. Otherwise as [`Source::read`].
    pub fn of(file: io::Result<File>, name: &str, max_bytes: u64) -> Result<Self, Problem> {
        let mut bytes = Vec::new();
        file.and_then(|file| file.take(max_bytes.saturating_add(1)).read_to_end(&mut bytes))
            .map_err(|error| unreadable(name, &error))?;
        if bytes.len() as u64 > max_bytes {
            return Err(Problem::at_file(name, format!("the file is over the {max_bytes} bytes allowed")));
        }
        match String::from_utf8(bytes) {
            Ok(text) => Ok(Self::new(name, &text)),
            Err(error) => {
                let valid = error.utf8_error().valid_up_to();
                let line = error.as_bytes().iter().take(valid).filter(|byte| **byte == b'\n').count() + 1;
                let hint = if name.ends_with(".csv") {
                    "save it as UTF-8; spreadsheets call it \"CSV UTF-8\""
                } else {
                    "save it as UTF-8"
                };
                Err(Problem::at_line(name, line, "the file is not UTF-8 text").hint(hint))
            }
        }
    }

    /// A source with this name and text.
    pub fn new(name: &str, text: &str) -> Self {
        Self { name: name.to_owned(), text: text.trim_start_matches('\u{feff}').to_owned() }
    }

    /// The line of a byte offset, counted from 1.
    pub fn line(&self, offset: usize) -> usize {
        self.text.bytes().take(offset).filter(|byte| *byte == b'\n').count() + 1
    }

    /// A problem at a byte offset.
    pub fn problem(&self, offset: usize, message: impl Into<String>) -> Problem {
        Problem::at_line(&self.name, self.line(offset), message)
    }

    /// Parses the text as TOML. Every syntax error becomes a problem, and what could be parsed is returned.
    pub fn toml(&self, problems: &mut Vec<Problem>) -> Table<'_> {
        let (table, errors) = DeTable::parse_recoverable(&self.text);
        for error in errors {
            let offset = error.span().map_or(0, |span| span.start);
            problems.push(self.problem(offset, format!("this is not TOML: {}", error.message())));
        }
        Table::new(self, String::new(), 0, table.into_inner())
    }
}

/// The problem with a file that cannot be opened or read.
pub fn unreadable(name: &str, error: &io::Error) -> Problem {
    match error.kind() {
        io::ErrorKind::NotFound => Problem::at_file(name, "the file is missing"),
        _ => Problem::at_file(name, format!("cannot be read: {error}")),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn broken_toml_is_reported_with_its_line() {
        let source = Source::new("x.toml", "a = 1\nb = = 2\n");
        let mut problems = Vec::new();
        source.toml(&mut problems);
        assert_eq!(problems.first().and_then(|problem| problem.line), Some(2), "{problems:?}");
    }

    #[test]
    fn no_more_is_read_than_allowed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.toml");
        std::fs::write(&path, "abcd").unwrap();
        assert_eq!(Source::read(&path, "x.toml", 4).unwrap().text, "abcd");
        assert_eq!(
            Source::read(&path, "x.toml", 3).unwrap_err().to_string(),
            "x.toml: the file is over the 3 bytes allowed"
        );
        // The device has no size, and its content never ends.
        assert!(Source::read(Path::new("/dev/zero"), "zero", 1000).is_err());
    }

    #[test]
    fn text_in_another_encoding_is_refused_at_its_line() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("phones.csv");
        std::fs::write(&path, b"mac,label\n00,caf\xe9\n").unwrap();
        assert_eq!(Source::read(&path, "phones.csv", 100).unwrap_err().line, Some(2));
    }

    #[test]
    fn a_byte_order_mark_is_no_part_of_the_text() {
        assert_eq!(Source::new("x", "\u{feff}a = 1").text, "a = 1");
    }
}
