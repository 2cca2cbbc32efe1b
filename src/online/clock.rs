//! Whether `serve` may sign under this host's clock.
//!
//! A running service counts on from the newest witness by its monotonic clock, so that a clock that steps is noticed and a
//! quiet fleet is no doubt. A restart begins with what the desk and a person left ([`ClockRecord`]), and with check-ins.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use ids::UnixTime;
use repository::layout::Layout;
use repository::lock::TreeLock;
use repository::witness::{ClockDoubt, ClockRecord, Witness, WitnessKind, judge};

/// How long a record that was read counts as what the desk left last.
const REREAD: Duration = Duration::from_secs(30);
/// How often one doubt is logged.
const TELL: Duration = Duration::from_secs(600);

/// This host's clock as a signer's. Each method takes the time as the system says it, and the time since some fixed moment
/// of this run.
#[derive(Debug)]
pub(crate) struct SigningClock {
    layout: Layout,
    known: Mutex<Known>,
}

/// What is known about the time.
#[derive(Debug, Default)]
struct Known {
    /// The newest witness, and when it showed its time.
    newest: Option<(Witness, Duration)>,
    record: ClockRecord,
    read_at: Option<Duration>,
    told_at: Option<Duration>,
}

impl Known {
    fn counted(&self, at: Duration) -> Option<Witness> {
        let (witness, since) = self.newest?;
        Some(Witness { time: witness.time.plus(at.saturating_sub(since)), ..witness })
    }

    fn believe(&mut self, witness: Witness, at: Duration) {
        if self.counted(at).is_none_or(|counted| counted.time < witness.time) {
            self.newest = Some((witness, at));
        }
    }
}

impl SigningClock {
    /// A clock that no witness has vouched for yet. `layout` has the `online/` directory.
    pub(crate) fn new(layout: Layout) -> Self {
        Self { layout, known: Mutex::default() }
    }

    /// A site whose clock follows a time server says what time it is. A time that is later than ours vouches for ours
    /// alone, so that no site can vouch for a time to come.
    pub(crate) fn heard(&self, site: UnixTime, now: UnixTime, at: Duration) {
        self.known().believe(Witness { kind: WitnessKind::CheckIn, time: site.min(now) }, at);
    }

    /// A person says that the clock is right.
    pub(crate) fn confirm(&self, now: UnixTime, at: Duration) -> anyhow::Result<()> {
        let _held = TreeLock::wait(&self.layout.online())?;
        ClockRecord::change(&self.layout, |record| record.confirm(now))?;
        let mut known = self.known();
        known.newest = Some((Witness { kind: WitnessKind::Person, time: now }, at));
        known.read_at = None;
        Ok(())
    }

    /// Whether something may be signed now.
    ///
    /// # Errors
    ///
    /// Why not.
    pub(crate) fn may_sign(&self, now: UnixTime, at: Duration) -> Result<(), ClockDoubt> {
        let mut known = self.known();
        if known.read_at.is_none_or(|read| at.saturating_sub(read) >= REREAD) {
            known.record = ClockRecord::read(&self.layout);
            known.read_at = Some(at);
            // What was written while this service runs was no older than this when it was read.
            for witness in known.record.for_host() {
                known.believe(Witness { time: witness.time.min(now), ..witness }, at);
            }
        }
        // A clock that steps back behind what this run knew is as wrong as one behind a signature.
        let counted = known.counted(at);
        let no_earlier = known.record.newest().max(counted.map(|witness| witness.time));
        judge(now, no_earlier, counted.as_slice()).map(drop)
    }

    /// The same; if the clock is good, the desk will find in the record that it was, and, if so, that something was signed.
    pub(crate) fn note(&self, now: UnixTime, at: Duration, signed: bool) -> anyhow::Result<()> {
        if self.may_sign(now, at).is_err() {
            return Ok(());
        }
        // A `publish` that runs now writes the record itself.
        let Some(_held) = TreeLock::try_now(&self.layout.online())? else { return Ok(()) };
        self.known().read_at = None;
        ClockRecord::change(&self.layout, |record| {
            record.host = Some(now);
            if signed {
                record.signed = Some(now);
            }
        })
    }

    /// Whether a doubt has to be logged, as it was not lately.
    pub(crate) fn must_tell(&self, at: Duration) -> bool {
        let mut known = self.known();
        let tell = known.told_at.is_none_or(|told| at.saturating_sub(told) >= TELL);
        if tell {
            known.told_at = Some(at);
        }
        tell
    }

    fn known(&self) -> std::sync::MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    const NOW: UnixTime = UnixTime(1_800_000_000);
    const DAY: u64 = 86_400;
    const YEARS: i64 = 3 * 365 * 86_400;

    fn after(days: u64) -> (UnixTime, Duration) {
        let span = Duration::from_secs(days * DAY);
        (NOW.plus(span), span)
    }

    /// A clock whose record a person left at `NOW`.
    fn clock() -> (tempfile::TempDir, SigningClock) {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout::of_online(dir.path());
        ClockRecord::change(&layout, |record| record.confirm(NOW)).unwrap();
        (dir, SigningClock::new(layout))
    }

    #[test]
    fn a_service_that_runs_for_years_in_a_quiet_fleet_goes_on_signing() {
        let (_dir, clock) = clock();
        for days in [0, 1, 30, 900] {
            let (now, at) = after(days);
            assert_eq!(clock.may_sign(now, at), Ok(()), "{days}");
        }
    }

    #[test]
    fn a_clock_that_steps_by_three_years_signs_nothing_until_it_steps_back() {
        for years in [-YEARS, YEARS] {
            let (_dir, clock) = clock();
            assert_eq!(clock.may_sign(NOW, Duration::ZERO), Ok(()));
            let (now, at) = after(10);
            clock.note(now, at, true).unwrap();
            let wrong = UnixTime(now.0 + years);
            assert!(clock.may_sign(wrong, at).is_err(), "{years}");
            clock.note(wrong, at, true).unwrap();
            // Neither do further checks make the wrong clock a witness of itself.
            assert!(clock.may_sign(UnixTime(wrong.0 + 60), at + REREAD + REREAD).is_err());
            assert_eq!(clock.may_sign(now.plus(REREAD), at + REREAD), Ok(()));
        }
    }

    #[test]
    fn after_a_restart_the_time_that_passed_is_no_witness_and_a_site_is_one() {
        let (dir, clock) = clock();
        clock.note(NOW, Duration::ZERO, true).unwrap();
        let restarted = SigningClock::new(Layout::of_online(dir.path()));
        let (now, _) = after(20);
        assert!(matches!(restarted.may_sign(now, Duration::ZERO), Err(ClockDoubt::Ahead { .. })));
        restarted.heard(UnixTime(now.0 - 3), now, Duration::ZERO);
        assert_eq!(restarted.may_sign(now, Duration::ZERO), Ok(()));
    }

    #[test]
    fn a_site_that_lies_about_the_time_vouches_for_no_time_to_come() {
        let (_dir, clock) = clock();
        assert_eq!(clock.may_sign(NOW, Duration::ZERO), Ok(()));
        clock.heard(UnixTime(NOW.0 + YEARS), NOW, Duration::ZERO);
        assert!(clock.may_sign(UnixTime(NOW.0 + YEARS), Duration::ZERO).is_err());
        clock.heard(UnixTime(NOW.0 - YEARS), NOW, Duration::ZERO);
        assert_eq!(clock.may_sign(NOW, Duration::ZERO), Ok(()));
    }

    #[test]
    fn small_steps_do_not_add_up() {
        let (_dir, clock) = clock();
        let mut now = NOW;
        let refused = (1..10).find(|_| {
            now = now.plus(Duration::from_secs(20 * 3600));
            clock.may_sign(now, Duration::from_secs(1)).is_err()
        });
        assert_eq!(refused, Some(2));
    }

    #[test]
    fn without_any_record_a_person_has_to_say_that_the_clock_is_right() {
        let dir = tempfile::tempdir().unwrap();
        let clock = SigningClock::new(Layout::of_online(dir.path()));
        assert!(matches!(clock.may_sign(NOW, Duration::ZERO), Err(ClockDoubt::Alone { .. })));
        clock.confirm(NOW, Duration::ZERO).unwrap();
        assert_eq!(clock.may_sign(NOW, Duration::ZERO), Ok(()));
    }

    #[test]
    fn a_doubt_is_logged_now_and_then() {
        let (_dir, clock) = clock();
        let told = (0..1_300).filter(|second| clock.must_tell(Duration::from_secs(*second))).count();
        assert_eq!(told, 3);
    }
}
