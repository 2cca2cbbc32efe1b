//! Asks other clocks, and at last a person, before the desk signs.

use std::io::IsTerminal as _;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::ask;
use crate::login::Session;
use ids::UnixTime;
use online::db::Db;
use repository::layout::Layout;
use repository::lock::TreeLock;
use repository::witness::{ClockDoubt, ClockRecord, HINT, Witness, WitnessKind, judge};
use telemetry::Hint as _;

/// Fails if this machine's clock, which says `now`, may not sign. `confirmed`: a person said that it is right.
pub(crate) fn may_sign(layout: &Layout, now: UnixTime, confirmed: bool) -> anyhow::Result<()> {
    // Without its key nothing is signed here, and there is a better answer to that.
    if !layout.online_key().exists() && Session::read(layout)?.is_none() {
        return Ok(());
    }
    may_state(layout, now, confirmed)
}

/// Fails if nothing bears out what this machine's clock says. `confirmed`: a person said that it is right.
pub(crate) fn may_state(layout: &Layout, now: UnixTime, confirmed: bool) -> anyhow::Result<()> {
    if confirmed {
        return confirm(layout, now);
    }
    let record = ClockRecord::read(layout);
    let mut witnesses = record.for_desk();
    if layout.database().is_file() {
        let time = Db::open_existing(&layout.database())?.newest_site_time()?;
        witnesses.extend(time.map(|time| Witness { kind: WitnessKind::CheckIn, time }));
    }
    witnesses.extend(newest_commit(layout.dir()).map(|time| Witness { kind: WitnessKind::Commit, time }));
    match judge(now, record.newest(), &witnesses) {
        Ok(_) => Ok(()),
        Err(doubt @ ClockDoubt::Alone { .. }) if asked(&doubt)? => confirm(layout, now),
        Err(doubt) => Err(anyhow::Error::new(doubt).hint(HINT)),
    }
}

/// Notes that the desk signed something at `now`.
pub(crate) fn signed(layout: &Layout, now: UnixTime) -> anyhow::Result<()> {
    let _held = TreeLock::wait(&layout.online())?;
    ClockRecord::change(layout, |record| (record.desk, record.signed) = (Some(now), Some(now)))
}

/// Whether a person at the terminal says that the clock of `serve`'s host is right. Asks only if there is no witness;
/// `serve` decides about the rest while it runs.
pub(crate) fn asked_for_host(layout: &Layout, now: UnixTime) -> anyhow::Result<bool> {
    let record = ClockRecord::read(layout);
    match judge(now, record.newest(), &record.for_host()) {
        Err(doubt @ ClockDoubt::Alone { .. }) => asked(&doubt),
        _ => Ok(false),
    }
}

/// Notes what a person said. A machine without `online/` keeps no such note, and asks again.
fn confirm(layout: &Layout, now: UnixTime) -> anyhow::Result<()> {
    if !layout.online().is_dir() {
        return Ok(());
    }
    let _held = TreeLock::wait(&layout.online())?;
    ClockRecord::change(layout, |record| record.confirm(now))
}

/// Whether a person at the terminal says that the clock is right; no if there is no terminal.
fn asked(doubt: &ClockDoubt) -> anyhow::Result<bool> {
    let there = std::io::stdin().is_terminal();
    Ok(there && ask::is_yes(&format!("{doubt}\nIs this machine's clock right?"))?)
}

/// The time of the newest commit here, by the clock of whoever made it; `None` without git or a commit.
fn newest_commit(dir: &Path) -> Option<UnixTime> {
    // A repository's own settings could name a program that checks signatures.
    let arguments = ["--no-pager", "log", "-1", "--no-show-signature", "--format=%ct"];
    let output = Command::new("git").arg("-C").arg(dir).args(arguments).stdin(Stdio::null()).output().ok()?;
    let text = String::from_utf8(output.stdout).ok().filter(|_| output.status.success())?;
    text.trim().parse().ok().map(UnixTime)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::testing::sample;

    const DAY: i64 = 86_400;
    const YEARS: i64 = 3 * 365 * DAY;

    /// A fleet that a person made at the time that is returned.
    fn fleet() -> (crate::testing::Sample, UnixTime) {
        let sample = sample();
        let made = ClockRecord::read(&sample.layout).person.unwrap();
        (sample, made)
    }

    fn commit(sample: &crate::testing::Sample, time: UnixTime) {
        let git = |arguments: &[&str]| {
            let date = format!("@{} +0000", time.0);
            let done = Command::new("git")
                .arg("-C")
                .arg(sample.layout.dir())
                .args(["-c", "user.name=t", "-c", "user.email=t@example.net"])
                .args(arguments)
                .envs([("GIT_COMMITTER_DATE", &date), ("GIT_AUTHOR_DATE", &date)])
                .output();
            assert!(done.unwrap().status.success(), "{arguments:?}");
        };
        git(&["init", "-q"]);
        git(&["commit", "-q", "--allow-empty", "-m", "one"]);
    }

    #[test]
    fn a_fleet_that_was_just_made_is_published_and_not_three_years_away_from_it() {
        let (sample, made) = fleet();
        may_sign(&sample.layout, made, false).unwrap();
        for years in [-YEARS, YEARS] {
            let wrong = UnixTime(made.0 + years);
            let error = may_sign(&sample.layout, wrong, false).unwrap_err();
            let text = telemetry::explain(&error);
            assert!(text.contains(&wrong.to_string()) && text.contains("--clock-is-right"), "{text}");
        }
    }

    #[test]
    fn what_the_desk_signed_is_no_witness_for_the_desk_and_what_the_host_knew_is() {
        let (sample, made) = fleet();
        let later = UnixTime(made.0 + 40 * DAY);
        signed(&sample.layout, UnixTime(later.0 - DAY)).unwrap();
        assert!(may_sign(&sample.layout, later, false).is_err());
        ClockRecord::change(&sample.layout, |record| record.host = Some(UnixTime(later.0 - 60))).unwrap();
        may_sign(&sample.layout, later, false).unwrap();
    }

    #[test]
    fn the_newest_commit_is_a_witness() {
        let (sample, made) = fleet();
        let later = UnixTime(made.0 + 400 * DAY);
        assert!(may_sign(&sample.layout, later, false).is_err());
        commit(&sample, UnixTime(later.0 - 3_600));
        may_sign(&sample.layout, later, false).unwrap();
        assert!(may_sign(&sample.layout, UnixTime(later.0 + YEARS), false).is_err());
    }

    #[test]
    fn who_says_that_the_clock_is_right_is_asked_no_more_for_a_day() {
        let (sample, made) = fleet();
        let later = UnixTime(made.0 + YEARS);
        may_sign(&sample.layout, later, true).unwrap();
        may_sign(&sample.layout, UnixTime(later.0 + DAY), false).unwrap();
        assert!(may_sign(&sample.layout, UnixTime(later.0 + DAY + 1), false).is_err());
        // And back, after it was wrong.
        assert!(may_sign(&sample.layout, made, true).is_ok());
        may_sign(&sample.layout, made, false).unwrap();
    }

    #[test]
    fn without_any_record_the_roots_and_the_tree_say_when_something_was_signed() {
        let (sample, _) = fleet();
        std::fs::remove_file(sample.layout.clock_record()).unwrap();
        let at = |time| may_sign(&sample.layout, time, false).unwrap_err().to_string();
        // 2026-11-20, when the sample's root was signed.
        assert!(at(UnixTime(crate::testing::NOW.0 - YEARS)).contains("earlier than 2026-11-20"));
        assert!(at(UnixTime(crate::testing::NOW.0 + YEARS)).contains("no other clock is known"));
    }
}
