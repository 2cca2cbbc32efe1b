//! The result of `check`: everything that is wrong with a fleet directory.

use std::fmt;

use settings::{Problem, count};

/// Everything that one check of a fleet directory found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CheckReport {
    /// The problems, in the order of files and lines.
    pub problems: Vec<Problem>,
    /// Remarks that are no problems: what was not checked and why, and passwords in clear.
    pub notes: Vec<String>,
    /// How many sites were checked.
    pub sites: usize,
    /// How many phones these sites have.
    pub phones: usize,
    /// How many files their phones can ask for, in all.
    pub files: usize,
}

impl CheckReport {
    /// Whether there is no problem, so that `publish` may go on.
    pub fn is_clean(&self) -> bool {
        self.problems.is_empty()
    }
}

impl fmt::Display for CheckReport {
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

/// The error of a command that refuses to work on a fleet directory with problems.
#[derive(Debug, thiserror::Error)]
#[error("the fleet directory has {}", count(.0.problems.len(), "problem"))]
pub struct NotClean(pub CheckReport);
