//! Which addresses somebody waits for, and how often the kernel is made to ask for them by ARP.

use std::collections::{HashMap, VecDeque};
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

/// How long an address is wanted after a request for it. Meanwhile the kernel asks once and repeats that by itself; we ask
/// again only if it gives up or forgets the answer.
const WANTED: Duration = Duration::from_secs(1);
/// The most questions within [`WANTED`]; further ones are dropped. So a flood of requests from invented addresses causes
/// at most 256 ARP questions a second.
const MAX_ASKED: usize = 256;
/// The most questions for one address after one request for it.
const MAX_ASKED_PER_ADDRESS: u32 = 8;
/// The addresses that somebody wants to know, and the questions for them. It limits questions for each address and in all.
#[derive(Debug, Default)]
pub(super) struct WantedAddresses {
    /// When each question was asked, the oldest first.
    asked: VecDeque<Instant>,
    wanted: HashMap<Ipv4Addr, WantedAddress>,
}

/// An address for which a request came.
#[derive(Debug)]
struct WantedAddress {
    /// When the last request came.
    since: Instant,
    /// The questions since then.
    questions: u32,
    /// Whether the kernel is still asking.
    open: bool,
}

impl WantedAddresses {
    /// A request came for the address. Whether to ask: not while the kernel is still asking.
    pub(super) fn want(&mut self, address: Ipv4Addr, now: Instant) -> bool {
        if self.wanted.len() >= MAX_ASKED {
            self.wanted.retain(|_, wanted| wanted.is_wanted(now));
        }
        if self.wanted.get(&address).is_some_and(|wanted| wanted.is_wanted(now) && wanted.open) {
            return false;
        }
        let room = self.wanted.len() < MAX_ASKED || self.wanted.contains_key(&address);
        if room {
            self.wanted.insert(address, WantedAddress { since: now, questions: 0, open: false });
        }
        room
    }

    /// Whether one more question may be asked for a wanted address. If so it counts as asked.
    pub(super) fn may_ask(&mut self, address: Ipv4Addr, now: Instant) -> bool {
        self.expire(now);
        let Some(wanted) = self.wanted.get_mut(&address) else { return false };
        if self.asked.len() >= MAX_ASKED || wanted.questions >= MAX_ASKED_PER_ADDRESS {
            return false;
        }
        wanted.questions += 1;
        wanted.open = true;
        self.asked.push_back(now);
        true
    }

    fn expire(&mut self, now: Instant) {
        while self.asked.front().is_some_and(|at| now.saturating_duration_since(*at) >= WANTED) {
            self.asked.pop_front();
        }
    }

    /// The question has its answer, or was never put. If the answer is lost again, the next one is asked at once.
    pub(super) fn answered(&mut self, address: Ipv4Addr) {
        if let Some(wanted) = self.wanted.get_mut(&address) {
            wanted.open = false;
        }
    }

    /// The kernel has no answer, or no longer. Whether the address is still wanted.
    pub(super) fn is_lost(&mut self, address: Ipv4Addr, now: Instant) -> bool {
        self.answered(address);
        self.wanted.get(&address).is_some_and(|wanted| wanted.is_wanted(now))
    }
}

impl WantedAddress {
    fn is_wanted(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.since) < WANTED
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ADDRESS: Ipv4Addr = Ipv4Addr::new(192, 168, 1, 20);

    fn asks(wanted: &mut WantedAddresses, address: Ipv4Addr, now: Instant) -> bool {
        wanted.want(address, now) && wanted.may_ask(address, now)
    }

    #[test]
    fn nobody_is_asked_twice_in_a_second_nor_too_many_at_once() {
        let mut wanted = WantedAddresses::default();
        let start = Instant::now();
        assert!(asks(&mut wanted, ADDRESS, start));
        assert!(!asks(&mut wanted, ADDRESS, start + WANTED / 2));
        assert!(asks(&mut wanted, ADDRESS, start + WANTED));
        let later = start + WANTED * 3;
        let allowed = (0..10_000).filter(|&number| asks(&mut wanted, Ipv4Addr::from(number), later)).count();
        assert_eq!(allowed, MAX_ASKED);
        assert!(wanted.wanted.len() <= MAX_ASKED);
    }

    #[test]
    fn an_answer_that_is_lost_is_asked_for_again_at_once() {
        let mut wanted = WantedAddresses::default();
        let start = Instant::now();
        for _ in 0..MAX_ASKED {
            assert!(asks(&mut wanted, ADDRESS, start), "the table was emptied between two requests");
            wanted.answered(ADDRESS);
        }
        assert!(!asks(&mut wanted, ADDRESS, start));
        let later = start + WANTED;
        assert!(asks(&mut wanted, ADDRESS, later));
        let again = (0..100).filter(|_| wanted.is_lost(ADDRESS, later) && wanted.may_ask(ADDRESS, later)).count();
        assert_eq!(again, 7, "the request still waits, and the table is emptied again and again");
        assert!(!wanted.is_lost(ADDRESS, later + WANTED), "nobody waits any more");
        assert!(!wanted.is_lost(Ipv4Addr::new(192, 168, 1, 21), later), "nobody wanted it");
    }
}
