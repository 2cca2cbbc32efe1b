//! Everything that is wrong with a fleet directory, as one run found it.

use std::fmt;

use settings::{Problem, count};

/// Everything that one run found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CheckReport {
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

impl CheckReport {
    /// Whether publishing may go on.
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

/// Publishing was refused because of problems.
#[derive(Debug, thiserror::Error)]
#[error("the fleet directory has {}", count(.0.problems.len(), "problem"))]
pub struct NotClean(pub CheckReport);
