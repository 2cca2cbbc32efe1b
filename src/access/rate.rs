//! How many requests are answered: per address, and for all known and all unknown devices together.
//!
//! The shares are apart, so that made-up source addresses use up only what unknown devices have.

use std::collections::HashMap;
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

/// The most addresses that are counted on their own.
pub const MAX_ADDRESSES: usize = 4096;

/// How often a full table is searched for addresses that may be forgotten.
const SWEEP_EVERY: Duration = Duration::from_secs(1);

/// A rate with room for bursts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    /// Requests per second in the long run; 0 counts as 1.
    pub per_second: u32,
    /// Requests at once after a pause; 0 counts as 1.
    pub burst: u32,
}

/// The rates of a site.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// One address. A phone that boots asks for about 20 names within seconds.
    pub address: Rate,
    /// All phones of the inventory together: a few hundred may boot at once after a power cut.
    pub known: Rate,
    /// All other devices together.
    pub unknown: Rate,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            address: Rate { per_second: 50, burst: 200 },
            known: Rate { per_second: 2000, burst: 8000 },
            unknown: Rate { per_second: 500, burst: 1000 },
        }
    }
}

/// Counts requests against [`Limits`], in bounded memory.
#[derive(Debug)]
pub(super) struct Limiter {
    limits: Limits,
    addresses: HashMap<Ipv4Addr, Bucket>,
    /// All unknown addresses that found no room of their own.
    crowd: Bucket,
    known: Bucket,
    unknown: Bucket,
    swept: Option<Instant>,
}

impl Limiter {
    pub(super) fn new(limits: Limits) -> Self {
        Self {
            limits,
            addresses: HashMap::new(),
            crowd: Bucket::default(),
            known: Bucket::default(),
            unknown: Bucket::default(),
            swept: None,
        }
    }

    /// Whether one more request may be answered.
    pub(super) fn allows(&mut self, address: Ipv4Addr, known: bool, now: Instant) -> bool {
        self.make_room(now);
        let room = self.addresses.len() < MAX_ADDRESSES;
        let own = match self.addresses.get_mut(&address) {
            Some(bucket) => bucket.take(self.limits.address, now),
            None if room => self.addresses.entry(address).or_default().take(self.limits.address, now),
            // A crowd of made-up addresses must not silence a phone: its share below still holds.
            None if known => true,
            None => self.crowd.take(self.limits.address, now),
        };
        let (all, rate) =
            if known { (&mut self.known, self.limits.known) } else { (&mut self.unknown, self.limits.unknown) };
        own && all.take(rate, now)
    }

    /// Forgets addresses that have been quiet for so long that remembering them changes nothing. No other is ever
    /// forgotten, so nobody can use up the table to be counted afresh.
    fn make_room(&mut self, now: Instant) {
        let due = self.swept.is_none_or(|swept| now.saturating_duration_since(swept) >= SWEEP_EVERY);
        if self.addresses.len() >= MAX_ADDRESSES && due {
            self.swept = Some(now);
            self.addresses.retain(|_, bucket| !bucket.is_full(now));
        }
    }
}

/// A token bucket as one point in time: when it will be full again (the "generic cell rate algorithm").
#[derive(Debug, Default)]
struct Bucket {
    full_at: Option<Instant>,
}

impl Bucket {
    fn take(&mut self, rate: Rate, now: Instant) -> bool {
        let each = Duration::from_secs(1) / rate.per_second.max(1);
        let full_at = self.full_at.map_or(now, |full_at| full_at.max(now)) + each;
        let allowed = full_at.saturating_duration_since(now) <= each * rate.burst.max(1);
        if allowed {
            self.full_at = Some(full_at);
        }
        allowed
    }

    fn is_full(&self, now: Instant) -> bool {
        self.full_at.is_none_or(|full_at| full_at <= now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allowed(limiter: &mut Limiter, address: u32, known: bool, now: Instant, requests: usize) -> usize {
        (0..requests).filter(|_| limiter.allows(Ipv4Addr::from(address), known, now)).count()
    }

    #[test]
    fn an_address_gets_its_burst_and_then_its_rate() {
        let mut limiter = Limiter::new(Limits::default());
        let start = Instant::now();
        assert_eq!(allowed(&mut limiter, 1, true, start, 1000), 200);
        assert_eq!(allowed(&mut limiter, 1, true, start + Duration::from_secs(1), 1000), 50);
        assert_eq!(allowed(&mut limiter, 1, true, start + Duration::from_secs(100), 1000), 200);
    }

    #[test]
    fn one_address_does_not_use_up_anothers() {
        let mut limiter = Limiter::new(Limits::default());
        let now = Instant::now();
        allowed(&mut limiter, 1, false, now, 1000);
        assert_eq!(allowed(&mut limiter, 2, false, now, 100), 100);
    }

    #[test]
    fn made_up_addresses_use_up_only_what_unknown_devices_have() {
        let mut limiter = Limiter::new(Limits::default());
        let now = Instant::now();
        let answered: usize = (0..100_000).map(|address| allowed(&mut limiter, address, false, now, 1)).sum();
        assert_eq!(answered, 1000);
        assert!(limiter.addresses.len() <= MAX_ADDRESSES);
        assert_eq!(allowed(&mut limiter, 1_000_000, true, now, 20), 20);
    }

    #[test]
    fn a_full_table_forgets_only_who_has_been_quiet() {
        let mut limiter =
            Limiter::new(Limits { unknown: Rate { per_second: 1_000_000, burst: 1_000_000 }, ..Limits::default() });
        let start = Instant::now();
        assert_eq!(allowed(&mut limiter, 0, false, start, 1000), 200);
        for address in 1..=10_000 {
            limiter.allows(Ipv4Addr::from(address), false, start);
        }
        // A second later the busy address has earned 50, not a burst.
        let later = start + Duration::from_secs(1);
        limiter.allows(Ipv4Addr::from(20_000), false, later);
        assert!(limiter.addresses.len() < 10);
        assert_eq!(allowed(&mut limiter, 0, false, later, 1000), 50);
    }
}
