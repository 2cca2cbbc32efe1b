//! How many requests are answered: per address, and for all known and all unknown devices together.
//!
//! The shares are apart, so that made-up source addresses use up only what unknown devices have, guesses under a phone's
//! address only what guesses have, and names that do not exist nothing of what those have that do.

use std::collections::HashMap;
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use ids::{Rate, TokenBucket};

/// The most addresses that are counted on their own.
pub const MAX_ADDRESSES: usize = 4096;

/// How often a full table is searched for addresses that may be forgotten.
const SWEEP_EVERY: Duration = Duration::from_secs(1);

/// How many requests a site answers. What is over a rate gets no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RequestRates {
    /// For one address: what a device that is not in the inventory is served; and, apart from that, requests for other
    /// devices' files, whoever asks. A phone that boots asks for about 20 names within seconds.
    pub address: Rate,
    /// For one phone: its own files and shared files; and, apart from that, plain misses. It is more than any phone needs,
    /// because anybody who forges the phone's address can use it up. At 2,000 forged packets a second, one of the phone's
    /// requests in ten still gets through, and phones ask four times and more.
    pub own: Rate,
    /// For all phones of the inventory together, files and misses apart: a few hundred may boot at once after a power cut.
    pub known: Rate,
    /// For all other devices together; and, apart from that, for all guesses, under phones' addresses too.
    pub unknown: Rate,
}

impl Default for RequestRates {
    fn default() -> Self {
        Self {
            address: Rate::per_second(50).with_burst(200),
            own: Rate::per_second(200).with_burst(400),
            known: Rate::per_second(2000).with_burst(8000),
            unknown: Rate::per_second(500).with_burst(1000),
        }
    }
}

/// The share of the rates that a request is counted against.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Share {
    /// A phone of the inventory asks for a file that it may have.
    Own,
    /// A phone of the inventory asks for a name that does not exist, as phones do.
    Misses,
    /// Somebody asks for another device's name, or one who is not in the inventory for what it gets not.
    Guesses,
    /// A device that is not in the inventory asks for a file that it may have.
    Unknown,
}

impl Share {
    /// Whether phones of the inventory need it to boot.
    const fn is_known(self) -> bool {
        matches!(self, Self::Own | Self::Misses)
    }
}

/// Counts requests against [`RequestRates`], in bounded memory.
#[derive(Debug)]
pub(super) struct Limiter {
    limits: RequestRates,
    addresses: HashMap<(Ipv4Addr, Share), TokenBucket>,
    /// Counts all unknown addresses that came when [`MAX_ADDRESSES`] others were counted.
    crowd: TokenBucket,
    /// What all together have of each share.
    all: HashMap<Share, TokenBucket>,
    swept: Option<Instant>,
}

impl Limiter {
    pub(super) fn new(limits: RequestRates) -> Self {
        Self { limits, addresses: HashMap::new(), crowd: TokenBucket::default(), all: HashMap::new(), swept: None }
    }

    /// Whether one more request may be answered.
    pub(super) fn allows(&mut self, address: Ipv4Addr, share: Share, now: Instant) -> bool {
        self.make_room(now);
        let room = self.addresses.len() < MAX_ADDRESSES;
        let (rate, all) = if share.is_known() {
            (self.limits.own, self.limits.known)
        } else {
            (self.limits.address, self.limits.unknown)
        };
        let own = match self.addresses.get_mut(&(address, share)) {
            Some(bucket) => bucket.take(rate, now).is_ok(),
            None if room => self.addresses.entry((address, share)).or_default().take(rate, now).is_ok(),
            // A crowd of made-up addresses must not silence a phone: its share below still holds.
            None if share.is_known() => true,
            None => self.crowd.take(rate, now).is_ok(),
        };
        own && self.all.entry(share).or_default().take(all, now).is_ok()
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

#[cfg(test)]
mod tests {
    use super::*;

    fn allowed(limiter: &mut Limiter, address: u32, share: Share, now: Instant, requests: usize) -> usize {
        (0..requests).filter(|_| limiter.allows(Ipv4Addr::from(address), share, now)).count()
    }

    #[test]
    fn an_address_gets_its_burst_and_then_its_rate() {
        let mut limiter = Limiter::new(RequestRates::default());
        let start = Instant::now();
        assert_eq!(allowed(&mut limiter, 1, Share::Guesses, start, 1000), 200);
        assert_eq!(allowed(&mut limiter, 1, Share::Guesses, start + Duration::from_secs(1), 1000), 50);
        assert_eq!(allowed(&mut limiter, 1, Share::Guesses, start + Duration::from_secs(100), 1000), 200);
    }

    #[test]
    fn one_address_does_not_use_up_anothers() {
        let mut limiter = Limiter::new(RequestRates::default());
        let now = Instant::now();
        allowed(&mut limiter, 1, Share::Unknown, now, 1000);
        assert_eq!(allowed(&mut limiter, 2, Share::Unknown, now, 100), 100);
    }

    #[test]
    fn guesses_under_a_phones_address_use_up_only_what_guesses_have() {
        let mut limiter = Limiter::new(RequestRates::default());
        let start = Instant::now();
        let mut answered = 0;
        // Ten seconds of 2,000 guesses a second; the phone boots meanwhile.
        for millis in 0..10_000 {
            let now = start + Duration::from_millis(millis);
            answered += allowed(&mut limiter, 1, Share::Guesses, now, 2);
            if millis % 100 == 0 {
                assert_eq!(allowed(&mut limiter, 1, Share::Own, now, 2), 2, "after {millis} ms");
            }
        }
        assert!(answered <= 200 + 50 * 10, "{answered}");
    }

    #[test]
    fn names_that_do_not_exist_use_up_nothing_of_what_files_have() {
        let mut limiter = Limiter::new(RequestRates::default());
        let now = Instant::now();
        assert_eq!(allowed(&mut limiter, 1, Share::Misses, now, 10_000), 400);
        for address in 2..100 {
            allowed(&mut limiter, address, Share::Misses, now, 10_000);
        }
        assert_eq!(allowed(&mut limiter, 1, Share::Own, now, 100), 100);
        assert_eq!(allowed(&mut limiter, 100, Share::Guesses, now, 1000), 200);
        assert_eq!(allowed(&mut limiter, 100, Share::Unknown, now, 100), 100);
    }

    #[test]
    fn even_a_flood_of_its_own_names_leaves_a_phone_one_request_in_ten() {
        let mut limiter = Limiter::new(RequestRates::default());
        let start = Instant::now();
        let second = |from: u64| (from..from + 1000).map(move |millis| start + Duration::from_millis(millis));
        let answered: usize = second(5000).map(|now| allowed(&mut limiter, 1, Share::Own, now, 2)).sum();
        assert_eq!(answered, 400 + 200 - 1);
        let answered: usize = second(6000).map(|now| allowed(&mut limiter, 1, Share::Own, now, 2)).sum();
        assert!((199..=201).contains(&answered), "{answered} of 2,000");
    }

    #[test]
    fn made_up_addresses_use_up_only_what_unknown_devices_have() {
        let mut limiter = Limiter::new(RequestRates::default());
        let now = Instant::now();
        let answered: usize = (0..100_000).map(|address| allowed(&mut limiter, address, Share::Unknown, now, 1)).sum();
        assert_eq!(answered, 1000);
        assert!(limiter.addresses.len() <= MAX_ADDRESSES);
        assert_eq!(allowed(&mut limiter, 1_000_000, Share::Own, now, 20), 20);
    }

    #[test]
    fn a_full_table_forgets_only_who_has_been_quiet() {
        let mut limiter = Limiter::new(RequestRates {
            unknown: Rate::per_second(1_000_000).with_burst(1_000_000),
            ..RequestRates::default()
        });
        let start = Instant::now();
        assert_eq!(allowed(&mut limiter, 0, Share::Unknown, start, 1000), 200);
        for address in 1..=10_000 {
            limiter.allows(Ipv4Addr::from(address), Share::Unknown, start);
        }
        // A second later the busy address has earned 50, not a burst.
        let later = start + Duration::from_secs(1);
        limiter.allows(Ipv4Addr::from(20_000), Share::Unknown, later);
        assert!(limiter.addresses.len() < 10);
        assert_eq!(allowed(&mut limiter, 0, Share::Unknown, later, 1000), 50);
    }
}
