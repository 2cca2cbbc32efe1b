//! One problem with a file, with its place in the form `file:line`, which editors can open.

use std::fmt;

/// One problem with a file: what is wrong, where it is and what to try.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Problem {
    /// The name of the file in messages. HQ's files are named relative to the fleet directory.
    pub file: String,
    /// The line, counted from 1; `None` if the problem is with the whole file.
    pub line: Option<usize>,
    /// What is wrong, in lower case and without a full stop.
    pub message: String,
    /// What to try, in lower case and without a full stop; `None` if the message says enough.
    pub hint: Option<String>,
}

impl Problem {
    /// A problem with a whole file or folder.
    pub fn at_file(file: impl Into<String>, message: impl Into<String>) -> Self {
        Self { file: file.into(), line: None, message: message.into(), hint: None }
    }

    /// A problem at a line, counted from 1.
    pub fn at_line(file: impl Into<String>, line: usize, message: impl Into<String>) -> Self {
        Self { file: file.into(), line: Some(line), message: message.into(), hint: None }
    }

    /// This problem with a hint, in place of one that it may have.
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// This problem at another line. `None` changes nothing.
    pub fn line(mut self, line: Option<usize>) -> Self {
        self.line = line.or(self.line);
        self
    }
}

/// Writes `sites/x.toml:12: message`, and the hint on a line of its own.
impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.file)?;
        if let Some(line) = self.line {
            write!(f, ":{line}")?;
        }
        write!(f, ": {}", self.message)?;
        if let Some(hint) = &self.hint {
            write!(f, "\n  hint: {hint}")?;
        }
        Ok(())
    }
}

/// A number with its noun, for nouns with a regular plural: `1 phone`, `2 phones`.
pub fn count(number: usize, noun: &str) -> String {
    if number == 1 { format!("1 {noun}") } else { format!("{number} {noun}s") }
}
