//! What is wrong with a fleet directory, where, and what to try.

use std::fmt;

/// One problem, at a place that an editor can jump to.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Problem {
    /// The file, relative to the fleet directory.
    pub file: String,
    /// The line, from 1, where one is to blame.
    pub line: Option<usize>,
    /// What is wrong, in lower case and without a full stop.
    pub message: String,
    /// What to try.
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

    /// The same with advice.
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// The same, at this line if one is known.
    pub fn line(mut self, line: Option<usize>) -> Self {
        self.line = line.or(self.line);
        self
    }
}

/// `sites/x.toml:12: message`, and the hint on a line of its own.
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

/// Everything that one run found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// In the order of files and lines.
    pub problems: Vec<Problem>,
    /// What was not checked, and why.
    pub notes: Vec<String>,
    /// How many sites were looked at.
    pub sites: usize,
    /// How many phones.
    pub phones: usize,
    /// How many files phones can ask for, over all sites.
    pub files: usize,
}

impl Report {
    /// Whether publishing may go on.
    pub fn is_clean(&self) -> bool {
        self.problems.is_empty()
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for problem in &self.problems {
            writeln!(f, "{problem}")?;
        }
        for note in &self.notes {
            writeln!(f, "note: {note}")?;
        }
        match self.problems.len() {
            0 => write!(
                f,
                "no problems: {}, {}, {}",
                count(self.sites, "site"),
                count(self.phones, "phone"),
                count(self.files, "file")
            ),
            problems => f.write_str(&count(problems, "problem")),
        }
    }
}

/// Publishing was refused because of problems.
#[derive(Debug, thiserror::Error)]
#[error("the fleet directory has {}", count(.0.problems.len(), "problem"))]
pub struct NotClean(pub Report);

/// `1 phone`, `2 phones`.
pub fn count(number: usize, noun: &str) -> String {
    if number == 1 { format!("1 {noun}") } else { format!("{number} {noun}s") }
}
