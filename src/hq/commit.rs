//! The commit of the fleet directory that releases are made from, and whether this checkout lacks one that sites have.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::Path;
use std::process::{Command, Stdio};

use ids::{SiteId, UnixTime};
use online::desk::PushedBy;

/// How many sites are named one by one.
const NAMED: usize = 5;

/// Releases that were made from commits which this checkout does not have: publishing from it would take them back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Outdated {
    sites: Vec<String>,
    newest: PushedBy,
}

impl fmt::Display for Outdated {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let PushedBy { commit, operator, at } = &self.newest;
        let short: String = commit.chars().take(12).collect();
        let by = if operator.is_empty() { String::new() } else { format!(" by {operator}") };
        write!(f, "this checkout is outdated: it lacks commit {short}, published{by} at {at}, for ")?;
        f.write_str(&self.sites.iter().take(NAMED).cloned().collect::<Vec<_>>().join(", "))?;
        match self.sites.len().checked_sub(NAMED).filter(|more| *more > 0) {
            Some(more) => write!(f, " and {more} more"),
            None => Ok(()),
        }
    }
}

/// The commit of this directory; `None` without git or a commit.
pub(crate) fn head(dir: &Path) -> Option<String> {
    let text = git(dir, &["rev-parse", "--verify", "--quiet", "HEAD"])?;
    let commit = text.trim();
    let hex = commit.len() >= 40 && commit.bytes().all(|byte| byte.is_ascii_hexdigit());
    hex.then(|| commit.to_owned())
}

/// Whether releases were made from commits that this checkout lacks. Without git, or in a shallow clone, nobody can say.
pub(crate) fn outdated(
    dir: &Path,
    pushed: &BTreeMap<SiteId, PushedBy>,
    name: &dyn Fn(&SiteId) -> Option<String>,
) -> Option<Outdated> {
    let wanted: BTreeSet<&str> =
        pushed.values().map(|by| by.commit.as_str()).filter(|commit| !commit.is_empty()).collect();
    if wanted.is_empty() || git(dir, &["rev-parse", "--is-shallow-repository"])?.trim() != "false" {
        return None;
    }
    let text = git(dir, &["rev-list", "HEAD"])?;
    let here: BTreeSet<&str> = text.lines().collect();
    let lacking = |by: &PushedBy| !by.commit.is_empty() && !here.contains(by.commit.as_str());
    // A site that is not here cannot be taken back from here.
    let sites: Vec<(String, &PushedBy)> =
        pushed.iter().filter(|(_, by)| lacking(by)).filter_map(|(site, by)| Some((name(site)?, by))).collect();
    let newest = sites.iter().map(|(_, by)| *by).max_by_key(|by| by.at)?.clone();
    let mut names: Vec<String> = sites.into_iter().map(|(name, _)| name).collect();
    names.sort();
    Some(Outdated { sites: names, newest })
}

fn git(dir: &Path, arguments: &[&str]) -> Option<String> {
    let mut command = Command::new("git");
    command.arg("--no-pager").arg("-C").arg(dir).args(arguments).stdin(Stdio::null());
    // What is not here is not fetched: that would run what the repository's settings name.
    command.env("GIT_NO_LAZY_FETCH", "1").env("GIT_TERMINAL_PROMPT", "0");
    let output = command.output().ok()?;
    String::from_utf8(output.stdout).ok().filter(|_| output.status.success())
}

/// What a publish on this machine notes of a release.
pub(crate) fn by_this_machine(commit: Option<String>, now: UnixTime) -> PushedBy {
    PushedBy { commit: commit.unwrap_or_default(), operator: String::new(), at: now }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn commit(dir: &Path, text: &str) -> String {
        let done = Command::new("git")
            .arg("-C")
            .arg(dir)
            .args(["-c", "user.name=t", "-c", "user.email=t@example.net", "commit", "-q", "--allow-empty", "-m", text])
            .status();
        assert!(done.unwrap().success());
        head(dir).unwrap()
    }

    fn pushed(commit: &str) -> BTreeMap<SiteId, PushedBy> {
        let by = PushedBy { commit: commit.to_owned(), operator: "anna".to_owned(), at: UnixTime(0) };
        BTreeMap::from([("s-1".parse().unwrap(), by)])
    }

    #[test]
    fn a_checkout_that_lacks_a_published_commit_is_outdated_and_one_that_has_it_is_not() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(head(dir.path()), None);
        assert!(git(dir.path(), &["init", "-q"]).is_some());
        let first = commit(dir.path(), "one");
        let second = commit(dir.path(), "two");
        let named = |_: &SiteId| Some("bern".to_owned());
        assert_eq!(outdated(dir.path(), &pushed(&first), &named), None);
        assert_eq!(outdated(dir.path(), &pushed(&second), &named), None);
        assert_eq!(outdated(dir.path(), &pushed(""), &named), None);
        git(dir.path(), &["reset", "-q", "--hard", &first]).unwrap();
        let found = outdated(dir.path(), &pushed(&second), &named).unwrap().to_string();
        let short = second.get(..12).unwrap();
        assert!(found.contains(short) && found.contains("by anna") && found.ends_with("for bern"), "{found}");
        // A site that this checkout does not know.
        assert_eq!(outdated(dir.path(), &pushed(&second), &|_| None), None);
    }
}
