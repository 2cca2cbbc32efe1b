//! The two clocks, and what happens when somebody sets one of them. Pure.

use std::time::Instant;

use ids::UnixTime;

/// A wall clock that goes this far from the monotonic one was set, in seconds.
const CLOCK_SET_SECONDS: i64 = 30;

/// What time it is: for leases, which outlive a restart, and for deadlines, which do not.
#[derive(Debug, Clone, Copy)]
pub struct Now {
    /// The system clock.
    pub wall: UnixTime,
    /// The monotonic clock.
    pub tick: Instant,
}

/// Notices when the system clock is set. A Pi starts in the past, and no lease may end because its clock is put right.
#[derive(Debug)]
pub(super) struct ClockWatch {
    last: Now,
}

impl ClockWatch {
    pub(super) const fn new(now: Now) -> Self {
        Self { last: now }
    }

    /// By how many seconds the system clock was set, if it was.
    pub(super) fn was_set(&mut self, now: Now) -> Option<i64> {
        let ticked = i64::try_from(now.tick.saturating_duration_since(self.last.tick).as_secs()).unwrap_or(i64::MAX);
        let shown = now.wall.0.saturating_sub(self.last.wall.0);
        let set = shown.saturating_sub(ticked);
        if set.abs() < CLOCK_SET_SECONDS {
            return None;
        }
        self.last = now;
        Some(set)
    }
}
