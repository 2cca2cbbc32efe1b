//! What time it is, on a box that may have no clock: a Raspberry Pi has no battery for one and starts in 1970.
//!
//! Only signed sources raise the floor: the build, the stored floor, verified manifests and HQ's signed check-in
//! time. The system clock never does, so a clock that was once in the future blocks nothing later, and one that
//! starts in 1970 does not let expired metadata pass for fresh.

pub mod service;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use ids::UnixTime;

/// 2026-11-01: no release of Lineside is older, so no appliance lives before it.
const EPOCH: UnixTime = UnixTime(1_793_491_200);

/// What the host's clocks say at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reading {
    /// The wall clock.
    pub system: UnixTime,
    /// Time since some fixed moment of this run; never steps.
    pub monotonic: Duration,
    /// Whether the wall clock is known to follow a time server.
    pub synchronised: bool,
}

/// The host's clocks. [`service::HostClock`] is the real one; tests have their own.
pub trait SystemClock: Send + Sync + std::fmt::Debug + 'static {
    /// Reads all of them at one moment.
    fn read(&self) -> Reading;
}

impl<T: SystemClock + ?Sized> SystemClock for Arc<T> {
    fn read(&self) -> Reading {
        T::read(self)
    }
}

/// The trusted time, pure: a floor, and the time that is counted from it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TrustedClock {
    /// The newest time that a signed source vouched for.
    floor: UnixTime,
    /// The time that [`TrustedClock::now`] counts from without a synchronised clock, and when it was set.
    anchor: (UnixTime, Duration),
}

impl TrustedClock {
    /// Starts from the build time and the stored floor, whichever is newer.
    pub fn new(stored: Option<UnixTime>, reading: Reading) -> Self {
        let floor = stored.map_or(build_time(), |stored| stored.max(build_time()));
        Self { floor, anchor: (floor, reading.monotonic) }
    }

    /// The newest time that a signed source vouched for. It is worth storing.
    pub const fn floor(&self) -> UnixTime {
        self.floor
    }

    /// The trusted time. It is never before the floor, and the system clock counts only while it is synchronised.
    pub fn now(&self, reading: Reading) -> UnixTime {
        let (since, at) = self.anchor;
        let counted = since.plus(reading.monotonic.saturating_sub(at));
        if reading.synchronised { reading.system.max(self.floor) } else { counted }
    }

    /// A signed source vouches that it was `time` just now. Returns whether that raised the floor.
    pub fn raise(&mut self, time: UnixTime, reading: Reading) -> bool {
        let (since, at) = self.anchor;
        if time > since.plus(reading.monotonic.saturating_sub(at)) {
            self.anchor = (time, reading.monotonic);
        }
        let raised = time > self.floor;
        self.floor = self.floor.max(time);
        raised
    }
}

/// When this build was made, from `SOURCE_DATE_EPOCH` at compile time where it was set.
pub fn build_time() -> UnixTime {
    let built = option_env!("SOURCE_DATE_EPOCH").and_then(|text| text.parse().ok()).map(UnixTime);
    built.map_or(EPOCH, |built| built.max(EPOCH))
}

/// A [`TrustedClock`] with the host's clocks, shared by everything that asks for the time.
#[derive(Debug, Clone)]
pub struct Timekeeper {
    system: Arc<dyn SystemClock>,
    clock: Arc<Mutex<TrustedClock>>,
}

impl Timekeeper {
    /// Starts from the stored floor.
    pub fn new(system: Arc<dyn SystemClock>, stored: Option<UnixTime>) -> Self {
        let clock = TrustedClock::new(stored, system.read());
        Self { system, clock: Arc::new(Mutex::new(clock)) }
    }

    /// The trusted time.
    pub fn now(&self) -> UnixTime {
        let reading = self.system.read();
        self.clock.lock().unwrap_or_else(PoisonError::into_inner).now(reading)
    }

    /// Whether the host's clock is synchronised.
    pub fn synchronised(&self) -> bool {
        self.system.read().synchronised
    }

    /// Time since some fixed moment of this run.
    pub fn monotonic(&self) -> Duration {
        self.system.read().monotonic
    }

    /// The newest time that a signed source vouched for.
    pub fn floor(&self) -> UnixTime {
        self.clock.lock().unwrap_or_else(PoisonError::into_inner).floor()
    }

    /// A signed source vouches that it was `time` just now. Never beyond `limit`, the expiry of the trusted root:
    /// a stolen online key can then not push the clock past what the offline keys signed for.
    pub fn raise(&self, time: UnixTime, limit: UnixTime) -> bool {
        let reading = self.system.read();
        time <= limit && self.clock.lock().unwrap_or_else(PoisonError::into_inner).raise(time, reading)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// Clocks that a test sets.
    #[derive(Debug)]
    pub(crate) struct SetClock(pub(crate) Mutex<Reading>);

    impl SystemClock for SetClock {
        fn read(&self) -> Reading {
            *self.0.lock().unwrap()
        }
    }

    const fn at(system: i64, monotonic: u64, synchronised: bool) -> Reading {
        Reading { system: UnixTime(system), monotonic: Duration::from_secs(monotonic), synchronised }
    }

    const DAY: i64 = 86_400;

    #[test]
    fn a_box_that_wakes_in_1970_lives_at_its_floor() {
        let floor = UnixTime(EPOCH.0 + 100 * DAY);
        let clock = TrustedClock::new(Some(floor), at(0, 5, false));
        assert_eq!(clock.now(at(0, 5, false)), floor);
        assert_eq!(clock.now(at(0, 65, false)), UnixTime(floor.0 + 60));
    }

    #[test]
    fn without_a_stored_floor_the_build_time_holds() {
        assert_eq!(TrustedClock::new(None, at(0, 0, false)).now(at(0, 0, false)), build_time());
        assert_eq!(TrustedClock::new(Some(UnixTime(0)), at(0, 0, false)).floor(), build_time());
    }

    #[test]
    fn a_synchronised_clock_is_believed_but_not_below_the_floor() {
        let clock = TrustedClock::new(None, at(0, 0, true));
        assert_eq!(clock.now(at(EPOCH.0 + 7 * DAY, 9, true)), UnixTime(EPOCH.0 + 7 * DAY));
        assert_eq!(clock.now(at(EPOCH.0 - 7 * DAY, 9, true)), clock.floor());
    }

    #[test]
    fn the_system_clock_never_raises_the_floor() {
        let clock = TrustedClock::new(None, at(0, 0, true));
        let far = EPOCH.0 + 36_500 * DAY;
        assert_eq!(clock.now(at(far, 1, true)), UnixTime(far));
        // The clock was wrong and steps back; nothing is blocked by where it had been.
        assert_eq!(clock.now(at(EPOCH.0 + DAY, 2, true)), UnixTime(EPOCH.0 + DAY));
        assert_eq!(clock.floor(), build_time());
    }

    #[test]
    fn an_unsynchronised_clock_in_the_future_is_ignored() {
        let clock = TrustedClock::new(None, at(0, 0, false));
        assert_eq!(clock.now(at(EPOCH.0 + 9_999 * DAY, 10, false)), UnixTime(clock.floor().0 + 10));
    }

    #[test]
    fn a_signed_time_raises_the_floor_and_time_goes_on_from_there() {
        let mut clock = TrustedClock::new(None, at(0, 0, false));
        let signed = UnixTime(EPOCH.0 + 30 * DAY);
        assert!(clock.raise(signed, at(0, 100, false)));
        assert_eq!(clock.now(at(0, 160, false)), UnixTime(signed.0 + 60));
        assert!(!clock.raise(UnixTime(EPOCH.0 + DAY), at(0, 170, false)));
        assert_eq!(clock.floor(), signed);
    }

    #[test]
    fn time_never_steps_back_when_a_floor_rises_behind_the_count() {
        let mut clock = TrustedClock::new(None, at(0, 0, false));
        let start = clock.floor();
        let before = clock.now(at(0, 1_000, false));
        assert!(clock.raise(UnixTime(start.0 + 500), at(0, 1_000, false)));
        assert_eq!(clock.now(at(0, 1_000, false)), before);
    }

    #[test]
    fn no_signed_time_reaches_past_the_root() {
        let host = Arc::new(SetClock(Mutex::new(at(0, 0, false))));
        let time = Timekeeper::new(host, None);
        let root_expires = UnixTime(EPOCH.0 + 365 * DAY);
        assert!(!time.raise(UnixTime(EPOCH.0 + 366 * DAY), root_expires));
        assert_eq!(time.now(), build_time());
        assert!(time.raise(UnixTime(EPOCH.0 + 364 * DAY), root_expires));
        assert_eq!(time.now(), UnixTime(EPOCH.0 + 364 * DAY));
    }
}
