//! Addresses that a phone is about to get, at which the link saw another device before. Pure.
//!
//! A router leases the address of a phone that was replaced to its successor, and the kernel's neighbour table still has the
//! old phone there, for minutes and longer. So an entry proves nothing by itself: the other device is asked for, and only
//! its answer says that it is there.

use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use ids::MacAddr;

/// What the neighbour table has at an address that a phone is about to get.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Occupant {
    /// Nobody, or the phone itself.
    Nobody,
    /// Another device that the kernel has not heard of lately.
    Stale,
    /// Another device, which the kernel has heard of in the last minute.
    Reachable,
}

/// How long a question and its answer count.
const VALID: Duration = Duration::from_secs(10);
/// How old a question must be to be put again for the next OFFER of the address.
const AGAIN: Duration = Duration::from_millis(100);
/// How long a device on the LAN may take to answer.
const ANSWERS_WITHIN: Duration = Duration::from_millis(20);
/// The most addresses that are asked for at one time; one more takes the place of the oldest.
const MAX_QUESTIONS: usize = 64;

/// Who was asked for, and who answered.
#[derive(Debug, Default)]
pub(super) struct Holders(Vec<Question>);

#[derive(Debug)]
struct Question {
    address: Ipv4Addr,
    at: Instant,
    /// The device that answered last.
    holder: Option<MacAddr>,
}

impl Holders {
    /// A router offers the address. Whether to ask who has it.
    pub(super) fn offered(&mut self, address: Ipv4Addr, now: Instant) -> bool {
        self.ask(address, AGAIN, now)
    }

    /// A phone wants the address now. Whether to ask who has it; the answer is for next time.
    pub(super) fn wanted(&mut self, address: Ipv4Addr, now: Instant) -> bool {
        self.ask(address, VALID, now)
    }

    fn ask(&mut self, address: Ipv4Addr, age: Duration, now: Instant) -> bool {
        if self.0.iter().any(|one| one.address == address && now < one.at + age) {
            return false;
        }
        self.0.retain(|one| one.address != address && now < one.at + VALID);
        if self.0.len() >= MAX_QUESTIONS {
            self.0.remove(0);
        }
        self.0.push(Question { address, at: now, holder: None });
        true
    }

    /// A device answered that it has this address.
    pub(super) fn heard(&mut self, address: Ipv4Addr, mac: MacAddr) {
        if let Some(question) = self.0.iter_mut().find(|one| one.address == address) {
            question.holder = Some(mac);
        }
    }

    /// Whether a device other than this one has the address. `trusted` is a router's word that it is free: then a device that
    /// was there longer ago counts only if it answers. Without that word it counts until it has not answered.
    pub(super) fn has_another(
        &self,
        (address, mac): (Ipv4Addr, MacAddr),
        occupant: Occupant,
        trusted: bool,
        now: Instant,
    ) -> bool {
        let asked = self.0.iter().find(|one| one.address == address && now < one.at + VALID);
        match asked {
            Some(Question { holder: Some(holder), .. }) => *holder != mac,
            Some(question) if now >= question.at + ANSWERS_WITHIN => false,
            _ => match occupant {
                Occupant::Nobody => false,
                Occupant::Stale => !trusted,
                Occupant::Reachable => true,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ADDRESS: Ipv4Addr = Ipv4Addr::new(192, 168, 1, 77);
    const PHONE: MacAddr = MacAddr::new([0, 4, 0xf2, 0, 0, 1]);
    const OLD: MacAddr = MacAddr::new([0, 4, 0xf2, 0, 0, 2]);

    #[test]
    fn only_an_answer_of_another_device_or_a_fresh_entry_says_that_it_is_there() {
        let (mut holders, now) = (Holders::default(), Instant::now());
        let phone = (ADDRESS, PHONE);
        assert!(!holders.has_another(phone, Occupant::Stale, true, now));
        assert!(holders.has_another(phone, Occupant::Stale, false, now));
        assert!(holders.has_another(phone, Occupant::Reachable, true, now));
        assert!(holders.offered(ADDRESS, now) && !holders.wanted(ADDRESS, now));
        assert!(holders.has_another(phone, Occupant::Reachable, true, now), "it had no time to answer");
        let later = now + ANSWERS_WITHIN;
        assert!(!holders.has_another(phone, Occupant::Reachable, false, later), "nobody answered");
        holders.heard(ADDRESS, PHONE);
        assert!(!holders.has_another(phone, Occupant::Reachable, false, now), "it has the address itself");
        holders.heard(ADDRESS, OLD);
        assert!(holders.has_another(phone, Occupant::Nobody, true, later));
        // The next offer asks anew.
        let later = now + AGAIN;
        assert!(holders.offered(ADDRESS, later));
        assert!(!holders.has_another(phone, Occupant::Stale, true, later));
    }

    #[test]
    fn questions_are_bounded_and_what_nobody_asked_leaves_nothing() {
        let (mut holders, now) = (Holders::default(), Instant::now());
        holders.heard(ADDRESS, OLD);
        assert!(!holders.has_another((ADDRESS, PHONE), Occupant::Stale, true, now));
        for number in 0..1000 {
            assert!(holders.offered(Ipv4Addr::from(number), now));
        }
        assert_eq!(holders.0.len(), MAX_QUESTIONS);
    }
}
