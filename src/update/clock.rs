//! What time it is, on a box that may have no clock: a Raspberry Pi has no battery for one and starts in 1970.
//!
//! Only what offline keys vouch for raises the floor: the build, the stored floor and opened manifests. A new root may set
//! it, also downwards ([`Timekeeper::set_floor`]). HQ's signed check-in time sets the running clock alone, either way, so
//! that the next honest answer undoes a wrong one. The system clock raises nothing, so a clock that was once in the
//! future blocks nothing later, and one that starts in 1970 does not let expired metadata pass for fresh.

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
    /// The newest time that offline keys vouched for.
    floor: UnixTime,
    /// The time that is counted from without a synchronised clock, and when it was set.
    anchor: TimeMark,
    /// The last time that HQ's online key said, and when; it goes before `anchor`.
    told: Option<TimeMark>,
}

/// A time, and the monotonic time at which it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct TimeMark {
    time: UnixTime,
    at: Duration,
}

impl TimeMark {
    fn counted(self, reading: Reading) -> UnixTime {
        self.time.plus(reading.monotonic.saturating_sub(self.at))
    }
}

impl TrustedClock {
    /// Starts from the build time and the stored floor, whichever is newer.
    pub fn new(stored: Option<UnixTime>, reading: Reading) -> Self {
        let floor = stored.map_or(build_time(), |stored| stored.max(build_time()));
        Self { floor, anchor: TimeMark { time: floor, at: reading.monotonic }, told: None }
    }

    /// The newest time that offline keys vouched for. It is worth storing.
    pub const fn floor(&self) -> UnixTime {
        self.floor
    }

    /// The trusted time. It is never before the floor, and the system clock counts only while it is synchronised.
    pub fn now(&self, reading: Reading) -> UnixTime {
        let told = self.told.filter(|_| !reading.synchronised).map(|told| told.counted(reading));
        told.map_or_else(|| self.without_online_key(reading), |told| told.max(self.floor))
    }

    /// The trusted time without what the online key said: certificates of the line to HQ are judged by it, so that a wrong
    /// answer cannot keep the next one out.
    pub fn without_online_key(&self, reading: Reading) -> UnixTime {
        if reading.synchronised { reading.system.max(self.floor) } else { self.anchor.counted(reading) }
    }

    /// An offline key vouches that it was `time` or later. Returns whether that raised the floor.
    pub fn raise(&mut self, time: UnixTime, reading: Reading) -> bool {
        if time > self.anchor.counted(reading) {
            self.anchor = TimeMark { time, at: reading.monotonic };
        }
        let raised = time > self.floor;
        self.floor = self.floor.max(time);
        raised
    }

    /// The offline threshold says that it is `time`, also if that is earlier than the floor. Never before the build.
    pub fn set_floor(&mut self, time: UnixTime, reading: Reading) {
        let time = time.max(build_time());
        *self = Self { floor: time, anchor: TimeMark { time, at: reading.monotonic }, told: None };
    }

    /// The online key says that it is `time` now. It moves the running clock, either way, and no floor.
    pub const fn tell(&mut self, time: UnixTime, reading: Reading) {
        self.told = Some(TimeMark { time, at: reading.monotonic });
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

    /// What the host's clock says by itself, while it is synchronised.
    pub fn of_time_server(&self) -> Option<UnixTime> {
        Some(self.system.read()).filter(|reading| reading.synchronised).map(|reading| reading.system)
    }

    /// Time since some fixed moment of this run.
    pub fn monotonic(&self) -> Duration {
        self.system.read().monotonic
    }

    /// The trusted time for certificates: see [`TrustedClock::without_online_key`].
    pub fn without_online_key(&self) -> UnixTime {
        let reading = self.system.read();
        self.clock.lock().unwrap_or_else(PoisonError::into_inner).without_online_key(reading)
    }

    /// The newest time that offline keys vouched for.
    pub fn floor(&self) -> UnixTime {
        self.clock.lock().unwrap_or_else(PoisonError::into_inner).floor()
    }

    /// The root says what time it is: the floor is this from now on, also if it was later.
    pub fn set_floor(&self, time: UnixTime) {
        let reading = self.system.read();
        self.clock.lock().unwrap_or_else(PoisonError::into_inner).set_floor(time, reading);
    }

    /// HQ's online key says what time it is. Never beyond `limit`, the expiry of the trusted root.
    pub fn tell(&self, time: UnixTime, limit: UnixTime) {
        let reading = self.system.read();
        if time <= limit {
            self.clock.lock().unwrap_or_else(PoisonError::into_inner).tell(time, reading);
        }
    }

    /// A manifest that was opened says when it was made. Never beyond `limit`, the expiry of the trusted root: a stolen
    /// release key can then not push the floor past what the root's keys signed for.
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
    fn the_online_key_moves_the_running_clock_either_way_and_no_floor() {
        let mut clock = TrustedClock::new(None, at(0, 0, false));
        let floor = clock.floor();
        let wrong = UnixTime(EPOCH.0 + 3_600 * DAY);
        clock.tell(wrong, at(0, 10, false));
        assert_eq!((clock.now(at(0, 15, false)), clock.floor()), (UnixTime(wrong.0 + 5), floor));
        assert_eq!(clock.without_online_key(at(0, 15, false)), UnixTime(floor.0 + 15), "certificates");
        let right = UnixTime(EPOCH.0 + 3 * DAY);
        clock.tell(right, at(0, 20, false));
        assert_eq!(clock.now(at(0, 21, false)), UnixTime(right.0 + 1), "the next honest answer undoes it");
        clock.tell(UnixTime(0), at(0, 30, false));
        assert_eq!(clock.now(at(0, 31, false)), floor, "never before the floor");
        let system = UnixTime(EPOCH.0 + 5 * DAY);
        assert_eq!(clock.now(at(system.0, 31, true)), system, "a synchronised clock goes before");
    }

    #[test]
    fn the_root_sets_the_floor_also_downwards_but_not_before_the_build() {
        let far = UnixTime(EPOCH.0 + 1_095 * DAY);
        let mut clock = TrustedClock::new(Some(far), at(0, 0, false));
        clock.tell(far, at(0, 1, false));
        let right = UnixTime(EPOCH.0 + 30 * DAY);
        clock.set_floor(right, at(0, 2, false));
        assert_eq!((clock.floor(), clock.now(at(0, 3, false))), (right, UnixTime(right.0 + 1)));
        clock.set_floor(UnixTime(0), at(0, 4, false));
        assert_eq!(clock.floor(), build_time());
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
