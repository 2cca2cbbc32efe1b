//! When something happened, told by a clock that may be set meanwhile.
//!
//! A Raspberry Pi starts with a wrong clock, which is set right minutes later. So the record keeps for each event how
//! long the process was up at that moment, and a report dates it back from the clock of the report: an age is right
//! whatever the clock did in between. What an earlier run kept has only the time that its clock showed.

use std::time::Duration;

use super::carried_over::FileSeen;
use super::stats::TransferShown;
use api::{Alert, PhoneSeen};
use ids::UnixTime;

/// How far two times of one moment may be apart because clocks are read in whole seconds.
pub(super) const ROUNDING_SECONDS: u64 = 2;

/// What the clocks show at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClockReading {
    /// The wall clock. It may be wrong, and may step.
    pub wall: UnixTime,
    /// The time since some fixed moment of this run; never steps.
    pub up: Duration,
}

impl ClockReading {
    /// The time that the wall clock of this reading gives to a moment of this run.
    pub(super) fn date(self, up: Duration) -> UnixTime {
        let ago = i64::try_from(self.up.saturating_sub(up).as_secs()).unwrap_or(i64::MAX);
        UnixTime(self.wall.0.saturating_sub(ago))
    }
}

/// A value with its time, and when that was in this run.
#[derive(Debug, Clone)]
pub(super) struct Kept<T> {
    pub(super) value: T,
    /// How long the process was up; `None` if an earlier run saw it.
    pub(super) up: Option<Duration>,
}

impl<T: HasTime + Clone> Kept<T> {
    /// What happened now.
    pub(super) const fn now(value: T, now: ClockReading) -> Self {
        Self { value, up: Some(now.up) }
    }

    /// What an earlier run saw.
    pub(super) const fn earlier(value: T) -> Self {
        Self { value, up: None }
    }

    /// A copy, dated by this reading of the clocks. Without a step of the wall clock its time stays to the second, so
    /// that nobody writes it to the card anew.
    pub(super) fn dated(&self, now: ClockReading) -> T {
        let mut value = self.value.clone();
        if let Some(up) = self.up {
            let (time, dated) = (value.time(), now.date(up));
            if time.0.abs_diff(dated.0) > ROUNDING_SECONDS {
                *time = dated;
            }
        }
        value
    }
}

/// A value with the time of an event.
pub(super) trait HasTime {
    fn time(&mut self) -> &mut UnixTime;
}

impl HasTime for PhoneSeen {
    fn time(&mut self) -> &mut UnixTime {
        &mut self.last_seen
    }
}

impl HasTime for FileSeen {
    fn time(&mut self) -> &mut UnixTime {
        &mut self.at
    }
}

impl HasTime for TransferShown {
    fn time(&mut self) -> &mut UnixTime {
        &mut self.at
    }
}

impl HasTime for Alert {
    fn time(&mut self) -> &mut UnixTime {
        &mut self.since
    }
}
