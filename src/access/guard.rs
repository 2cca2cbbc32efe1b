//! Notices devices that guess names, within bounded memory.
//!
//! MAC addresses of phones are easy to guess once one is known, so a scan is thousands of requests for other devices'
//! names. What makes it useless is the policy: none of them is served. The guard makes it seen, once. A lock-out takes
//! nothing from anybody, because anybody can guess under a phone's address, and shared files are no secret: it changes the
//! reason with which later guesses are refused, and is what people hear of. Phones behind one device are no guessing
//! device: see [`super::behind`].

use std::collections::HashMap;
use std::collections::hash_map::RandomState;
use std::hash::BuildHasher as _;
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use super::behind::{Behind, PhonesBehind};
use ids::{FileName, MacAddr};

/// Other devices' names that a device may ask for before it counts as guessing. A phone that was moved to another desk
/// with its old settings asks for about five.
pub const MAX_GUESSES: u32 = 8;

/// Names without an address that do not exist, from a device that is not in the inventory: the tools that try lists of
/// default names have hundreds, the most curious phone asks for about 30. Counted in 256 bits, so a few names coincide.
pub const MAX_MISSES: u32 = 56;

/// A lock-out ends so long after the last guess, and guesses are forgotten after so long without a further one.
pub const QUIET: Duration = Duration::from_secs(15 * 60);

/// The most devices that are watched one by one.
pub const MAX_WATCHED: usize = 4096;

const SWEEP_EVERY: Duration = Duration::from_secs(1);

/// The device or address for which guesses are counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Who {
    /// A device, at whatever address.
    Device(MacAddr),
    /// An address whose device is not known.
    Address(Ipv4Addr),
}

/// A request for a name that is not the asker's.
#[derive(Debug, Clone, Copy)]
pub(super) enum Attempt {
    /// A name that belongs to another device.
    Other,
    /// A name that belongs to this device. The asker may be that device: its address is not resolved, or it sits behind the
    /// device that the link sees.
    OtherOrOwn(MacAddr),
    /// A name that does not exist and that carries no address.
    Missing,
}

/// Counts attempts of each device or address, and locks out whoever makes too many.
#[derive(Debug, Default)]
pub(super) struct Guard {
    watched: HashMap<Who, GuessRecord>,
    /// Counts the attempts of all who came when [`MAX_WATCHED`] others were watched.
    crowd: Option<GuessRecord>,
    swept: Option<Instant>,
    behind: Behind,
    /// Hashes names with a random key, so that nobody can choose names that count as one.
    hasher: RandomState,
}

/// What one device or address has asked for.
#[derive(Debug)]
struct GuessRecord {
    /// Hashes of other devices' names, at most [`MAX_GUESSES`].
    guesses: Vec<u64>,
    /// Missing names: one bit for each, at its hash modulo 256.
    misses: [u64; 4],
    /// The device whose names an unresolved address asked for first. It may be that device, so these do not count.
    claimed: Option<MacAddr>,
    locked: bool,
    last: Instant,
}

impl Guard {
    /// Whether somebody is locked out.
    pub(super) fn is_locked(&self, who: Who, now: Instant) -> bool {
        let crowd = || self.crowd.as_ref().filter(|_| self.watched.len() >= MAX_WATCHED);
        self.watched.get(&who).or_else(crowd).is_some_and(|record| record.locked && !record.is_over(now))
    }

    /// Counts an attempt from `address`. If it locks somebody out, returns the number of names that it took.
    pub(super) fn attempt(
        &mut self,
        (who, address): (Who, Ipv4Addr),
        what: Attempt,
        name: &FileName,
        now: Instant,
    ) -> Option<u32> {
        let mut hash = self.hasher.hash_one(name);
        let mut what = what;
        if let (Who::Device(device), Attempt::OtherOrOwn(phone)) = (who, what) {
            if self.behind.may_be(device, address, phone, hash, now) {
                return None;
            }
            // Whoever asks for the same few phones' names under each of its addresses guesses at each of them.
            hash = self.hasher.hash_one((name, address));
            what = Attempt::Other;
        }
        self.make_room(now);
        let room = self.watched.len() < MAX_WATCHED || self.watched.contains_key(&who);
        let record = if room {
            self.watched.entry(who).or_insert_with(|| GuessRecord::new(now))
        } else {
            self.crowd.get_or_insert_with(|| GuessRecord::new(now))
        };
        if record.is_over(now) {
            *record = GuessRecord::new(now);
        }
        record.count(what, hash, now)
    }

    /// The link sees this phone itself, so it sits behind no other device.
    pub(super) fn is_itself(&mut self, phone: MacAddr) {
        self.behind.is_itself(phone);
    }

    /// Whether several phones seem to sit behind this device.
    pub(super) fn has_phones_behind(&self, device: MacAddr) -> bool {
        self.behind.has_phones(device)
    }

    /// All devices with phones behind them, if that has changed since this was last asked.
    pub(super) fn poll_behind(&mut self, now: Instant) -> Option<Vec<PhonesBehind>> {
        self.behind.poll(now)
    }

    /// Forgets those who have been quiet for [`QUIET`], and nobody else: filling the table makes nobody forgotten.
    fn make_room(&mut self, now: Instant) {
        let due = self.swept.is_none_or(|swept| now.saturating_duration_since(swept) >= SWEEP_EVERY);
        if self.watched.len() >= MAX_WATCHED && due {
            self.swept = Some(now);
            self.watched.retain(|_, record| !record.is_over(now));
        }
    }
}

impl GuessRecord {
    fn new(now: Instant) -> Self {
        Self { guesses: Vec::new(), misses: [0; 4], claimed: None, locked: false, last: now }
    }

    fn is_over(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.last) >= QUIET
    }

    fn count(&mut self, what: Attempt, hash: u64, now: Instant) -> Option<u32> {
        self.last = self.last.max(now);
        match what {
            Attempt::OtherOrOwn(mac) if *self.claimed.get_or_insert(mac) == mac => return None,
            Attempt::Other | Attempt::OtherOrOwn(_) => {
                if !self.locked && !self.guesses.contains(&hash) {
                    self.guesses.push(hash);
                }
            }
            Attempt::Missing => {
                let bit = hash % 256;
                if let Some(word) = usize::try_from(bit / 64).ok().and_then(|word| self.misses.get_mut(word)) {
                    *word |= 1 << (bit % 64);
                }
            }
        }
        let guesses = u32::try_from(self.guesses.len()).unwrap_or(u32::MAX);
        let misses = self.misses.iter().map(|word| word.count_ones()).sum::<u32>();
        if self.locked || guesses < MAX_GUESSES && misses < MAX_MISSES {
            return None;
        }
        self.locked = true;
        Some(guesses + misses)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    const THIEF: Who = Who::Device(MacAddr::new([2, 0, 0, 0, 0, 9]));
    const HERE: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);

    fn mac(number: u32) -> MacAddr {
        let [_, _, a, b] = number.to_be_bytes();
        MacAddr::new([0, 4, 0xf2, 0, a, b])
    }

    fn guess(guard: &mut Guard, who: Who, number: u32, now: Instant) -> Option<u32> {
        let name = format!("SEP{}.cnf.xml", mac(number).upper()).parse().unwrap();
        guard.attempt((who, HERE), Attempt::Other, &name, now)
    }

    fn lock(guard: &mut Guard, now: Instant) {
        let names = (0..8).find_map(|number| guess(guard, THIEF, number, now));
        assert_eq!(names, Some(8));
    }

    #[test]
    fn the_eighth_name_locks_and_is_reported_once() {
        let mut guard = Guard::default();
        let now = Instant::now();
        let reports: Vec<_> = (0..4096).map(|number| guess(&mut guard, THIEF, number, now)).collect();
        assert_eq!(reports.iter().flatten().collect::<Vec<_>>(), [&8]);
        assert_eq!(reports.get(7), Some(&Some(8)));
        assert!(guard.is_locked(THIEF, now));
    }

    #[test]
    fn asking_for_one_name_again_and_again_is_one_guess() {
        let mut guard = Guard::default();
        let now = Instant::now();
        assert!((0..1000).all(|_| guess(&mut guard, THIEF, 1, now).is_none()));
        assert!(!guard.is_locked(THIEF, now));
    }

    #[test]
    fn a_lock_out_ends_a_quarter_of_an_hour_after_the_last_guess() {
        let mut guard = Guard::default();
        let start = Instant::now();
        lock(&mut guard, start);
        let later = start + Duration::from_secs(600);
        assert_eq!(guess(&mut guard, THIEF, 8, later), None);
        assert!(guard.is_locked(THIEF, later + QUIET - Duration::from_secs(1)));
        assert!(!guard.is_locked(THIEF, later + QUIET));
        assert_eq!(guess(&mut guard, THIEF, 9, later + QUIET), None);
        assert!(!guard.is_locked(THIEF, later + QUIET));
    }

    #[test]
    fn one_unknown_address_may_ask_for_one_devices_names() {
        let mut guard = Guard::default();
        let now = Instant::now();
        let who = Who::Address(Ipv4Addr::new(192, 0, 2, 1));
        for file in 0..20 {
            let name = format!("{}-{file}.cfg", mac(1).lower()).parse().unwrap();
            assert_eq!(guard.attempt((who, HERE), Attempt::OtherOrOwn(mac(1)), &name, now), None);
        }
        let locked: Vec<_> = (2..=9)
            .filter_map(|number| {
                let name = format!("{}.cfg", mac(number).lower()).parse().unwrap();
                guard.attempt((who, HERE), Attempt::OtherOrOwn(mac(number)), &name, now)
            })
            .collect();
        assert_eq!(locked, [8]);
    }

    #[test]
    fn a_device_that_asks_for_all_phones_names_under_each_of_its_addresses_is_reported_once() {
        let (mut guard, now) = (Guard::default(), Instant::now());
        let mut reports = Vec::new();
        for address in (1..=6).map(|host| Ipv4Addr::new(192, 0, 2, host)) {
            for number in 1..=6 {
                let name = format!("SEP{}.cnf.xml", mac(number).upper()).parse().unwrap();
                reports.extend(guard.attempt((THIEF, address), Attempt::OtherOrOwn(mac(number)), &name, now));
            }
        }
        assert_eq!(reports, [8]);
        assert!(guard.poll_behind(now).is_none_or(|devices| devices.is_empty()));
    }

    #[test]
    fn a_list_of_default_names_is_a_scan_and_a_booting_phone_is_not() {
        let mut guard = Guard::default();
        let now = Instant::now();
        let reports: Vec<_> = (0..400)
            .map(|number| {
                guard.attempt((THIEF, HERE), Attempt::Missing, &format!("default{number}.cfg").parse().unwrap(), now)
            })
            .collect();
        assert_eq!(reports.iter().flatten().count(), 1);
        assert!(reports.iter().take(55).all(Option::is_none));
    }

    #[test]
    fn a_crowd_fills_no_memory_and_frees_no_one() {
        let mut guard = Guard::default();
        let now = Instant::now();
        lock(&mut guard, now);
        let mut reports = 0;
        for address in 0..50_000u32 {
            reports += guess(&mut guard, Who::Address(address.into()), address, now).iter().count();
        }
        assert_eq!(guard.watched.len(), MAX_WATCHED);
        assert_eq!(reports, 1, "the crowd that found no room is reported as one");
        assert!(guard.is_locked(THIEF, now));
        assert!(guard.is_locked(Who::Address(60_000.into()), now));
        let later = now + QUIET;
        assert_eq!(guess(&mut guard, Who::Address(60_001.into()), 1, later), None);
        assert_eq!(guard.watched.len(), 1);
    }
}
