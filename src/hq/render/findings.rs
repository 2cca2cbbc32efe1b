//! Gathers the problems that rendering finds, so that a mistake in a template is one problem and not one for each
//! phone.

use std::collections::{BTreeMap, BTreeSet};

use crate::inventory::PhoneLine;
use crate::templates::RenderError;
use settings::{Problem, count};

/// The problems of one run.
#[derive(Debug, Default)]
pub struct Findings {
    /// Problems in the order in which they were found.
    pub problems: Vec<Problem>,
    /// Problems that many sites or phones may share. Each is kept once.
    once: BTreeSet<Problem>,
    /// Errors of templates, with a text that names the first phone and the number of phones.
    failed: BTreeMap<RenderError, (Option<String>, usize)>,
}

impl Findings {
    /// Adds a problem unless it is there already.
    pub fn once(&mut self, problem: Problem) {
        self.once.insert(problem);
    }

    /// Adds the error of a template, for this phone or, with `None`, for a file that phones share.
    pub fn failed(&mut self, error: RenderError, phone: Option<&PhoneLine>) {
        let (_, number) = self
            .failed
            .entry(error)
            .or_insert_with(|| (phone.map(|phone| format!("for phone {} (phones.csv:{})", phone.mac, phone.line)), 0));
        *number += 1;
    }

    /// Adds the findings of another site.
    pub fn take(&mut self, other: Self) {
        self.problems.extend(other.problems);
        self.once.extend(other.once);
        for (error, (phone, number)) in other.failed {
            let (first, sum) = self.failed.entry(error).or_insert((None, 0));
            *first = first.take().or(phone);
            *sum += number;
        }
    }

    /// All problems in the order of files and lines.
    pub fn finish(self) -> Vec<Problem> {
        let mut problems = self.problems;
        problems.extend(self.once);
        for (error, (phone, number)) in self.failed {
            let mut problem = error.problem();
            if let Some(phone) = phone {
                problem.message = match number {
                    1 => format!("{} {phone}", problem.message),
                    _ => format!("{} {phone} and {}", problem.message, count(number - 1, "other")),
                };
            }
            if error.missing {
                problem = problem.hint(
                    "set it as a column of phones.csv, or under [variables] of the site, the model or the fleet's defaults",
                );
            }
            problems.push(problem);
        }
        problems.sort();
        problems.dedup();
        problems
    }
}
