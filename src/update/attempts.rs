//! What this site has tried, how often and when. Pure: every method is told what time it is.
//!
//! All of it is lost at a restart, which only means that everything is tried once more.

use std::time::Duration;

use super::backoff;
use super::plan::FULL_REFRESH_EVERY;
use super::self_check::CheckError;
use ids::{Generation, SiteId, UnixTime};

/// A release may fail its check so often before its generation is given up.
const CHECK_TRIES: u32 = 3;
/// After so many check-ins in a row that tell of a release which the published tree does not show, someone should look.
const BEHIND_ALERT: u32 = 3;

/// What this site has tried. Times are monotonic.
#[derive(Debug, Default)]
pub(super) struct Attempts {
    /// How many polls failed in a row.
    failed_polls: u32,
    /// When the last full refresh ended.
    refreshed_at: Option<Duration>,
    /// The generation that failed its check last, and how often.
    failed_check: Option<(Generation, u32)>,
    /// How many check-ins in a row told of a release that the published tree does not show.
    behind: u32,
}

/// What a failed check means for its generation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum AfterFailedCheck {
    /// It may be damage: the next poll fetches what is damaged again.
    FetchAgain,
    /// The generation is rejected for good.
    Reject,
}

/// How the published tree compares with what HQ says that it published.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum PublishedTree {
    /// It shows the newest release.
    Current,
    /// It shows an older one: whoever serves it is late.
    Behind,
    /// It has shown an older one for long: someone may hold the release back.
    Withheld,
}

impl Attempts {
    /// Whether a day has passed since the last full refresh, or there was none.
    pub(super) fn full_refresh_due(&self, now: Duration) -> bool {
        self.refreshed_at.is_none_or(|at| now.saturating_sub(at) >= FULL_REFRESH_EVERY)
    }

    /// A full refresh has ended well.
    pub(super) const fn refreshed(&mut self, now: Duration) {
        self.refreshed_at = Some(now);
    }

    /// A release has failed its check. Wrong content is for good; damage is fetched again a few times.
    pub(super) fn check_failed(&mut self, generation: Generation, fault: &CheckError) -> AfterFailedCheck {
        let tries = match self.failed_check {
            Some((failed, tries)) if failed == generation => tries.saturating_add(1),
            _ => 1,
        };
        self.failed_check = Some((generation, tries));
        match fault {
            CheckError::Unreadable { .. } if tries < CHECK_TRIES => AfterFailedCheck::FetchAgain,
            CheckError::Unreadable { .. } | CheckError::WrongContent(_) => AfterFailedCheck::Reject,
        }
    }

    /// HQ says that `newest` is its newest release, and the published tree shows `shown`.
    pub(super) fn compare(&mut self, newest: Generation, shown: Generation) -> PublishedTree {
        self.behind = if newest > shown { self.behind.saturating_add(1) } else { 0 };
        match self.behind {
            0 => PublishedTree::Current,
            1..BEHIND_ALERT => PublishedTree::Behind,
            _ => PublishedTree::Withheld,
        }
    }

    /// Whether the published tree was behind at the last check-in. HQ is asked at every poll until it no longer is.
    pub(super) const fn is_behind(&self) -> bool {
        self.behind > 0
    }

    /// A poll has ended.
    pub(super) fn polled(&mut self, backs_off: bool) {
        self.failed_polls = if backs_off { self.failed_polls.saturating_add(1) } else { 0 };
    }

    /// How long to wait for the next poll ([`backoff::next_poll`]).
    pub(super) fn next_poll(
        &self,
        interval: Duration,
        site: &SiteId,
        now: UnixTime,
        retry_after: Option<Duration>,
        random: f64,
    ) -> Duration {
        let wait = backoff::next_poll(interval, site, now, self.failed_polls, retry_after, random);
        tracing::debug!(?wait, failures = self.failed_polls, "next poll");
        wait
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use access::ContentError;

    fn wrong() -> CheckError {
        CheckError::WrongContent("a.cfg".parse().unwrap())
    }

    fn damaged() -> CheckError {
        let source = ContentError::Damaged("a bit flipped".to_owned());
        CheckError::Unreadable { file: "a.cfg".parse().unwrap(), source }
    }

    #[test]
    fn a_damaged_release_is_fetched_again_twice_and_then_rejected() {
        let mut attempts = Attempts::default();
        let outcomes = [1, 1, 1].map(|generation| attempts.check_failed(Generation(generation), &damaged()));
        assert_eq!(outcomes, [AfterFailedCheck::FetchAgain, AfterFailedCheck::FetchAgain, AfterFailedCheck::Reject]);
        // Another generation starts anew.
        assert_eq!(attempts.check_failed(Generation(2), &damaged()), AfterFailedCheck::FetchAgain);
    }

    #[test]
    fn wrong_content_is_rejected_at_once() {
        assert_eq!(Attempts::default().check_failed(Generation(1), &wrong()), AfterFailedCheck::Reject);
    }

    #[test]
    fn a_tree_that_stays_behind_is_reported_at_the_third_check_in() {
        let mut attempts = Attempts::default();
        let mut compare = |newest, shown| attempts.compare(Generation(newest), Generation(shown));
        let trees = [compare(1, 1), compare(2, 1), compare(2, 1), compare(3, 1), compare(3, 2)];
        let (behind, withheld) = (PublishedTree::Behind, PublishedTree::Withheld);
        assert_eq!(trees, [PublishedTree::Current, behind, behind, withheld, withheld]);
        assert_eq!(compare(3, 3), PublishedTree::Current);
        assert_eq!(compare(4, 3), behind);
        assert!(attempts.is_behind());
    }

    #[test]
    fn a_full_refresh_is_due_at_the_start_and_a_day_after_the_last_one() {
        let mut attempts = Attempts::default();
        let hours = |hours: u64| Duration::from_secs(hours * 3600);
        assert!(attempts.full_refresh_due(hours(0)));
        attempts.refreshed(hours(1));
        assert!(!attempts.full_refresh_due(hours(24)));
        assert!(attempts.full_refresh_due(hours(25)));
    }

    #[test]
    fn a_good_poll_ends_the_back_off() {
        let mut attempts = Attempts::default();
        let site: SiteId = "s-1".parse().unwrap();
        let wait = |attempts: &Attempts| {
            attempts.next_poll(Duration::from_secs(300), &site, UnixTime(1_800_000_000), None, 1.0).as_secs()
        };
        let regular = wait(&attempts);
        attempts.polled(true);
        attempts.polled(true);
        assert_eq!(wait(&attempts), 30);
        attempts.polled(false);
        assert_eq!(wait(&attempts), regular);
    }
}
