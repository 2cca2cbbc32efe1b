//! When a router is asked once more. ISC dhcpd pings an address for a second before it offers it to a new client, and
//! drops what a relay asks for that client meanwhile: so it is asked again when its second is over. Pure.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use crate::ids::MacAddr;

/// A little before and after the time that it takes; a phone takes some milliseconds from OFFER to REQUEST.
const AROUND: [u64; 7] = [0, 6, 12, 20, 36, 68, 132];
/// How long before that time the first of these is.
const EARLY: Duration = Duration::from_millis(4);
/// The most that wait; over it nothing is asked again.
const MAX_WAITING: usize = 256;

/// Questions that are due later.
#[derive(Debug, Default)]
pub struct RelayRetry {
    slow: Vec<(Ipv4Addr, Duration)>,
    due: BTreeSet<(Instant, MacAddr, Ipv4Addr, u32)>,
}

impl RelayRetry {
    /// Routers that take their time, and how much.
    pub fn set_slow(&mut self, slow: &[(Ipv4Addr, Duration)]) {
        self.slow.clear();
        self.slow.extend_from_slice(slow);
    }

    /// A DISCOVER was relayed to this router in this transaction.
    pub fn relayed(&mut self, mac: MacAddr, server: Ipv4Addr, xid: u32, now: Instant) {
        for (slow, takes) in &self.slow {
            if *slow != server || self.due.len() + AROUND.len() > MAX_WAITING {
                continue;
            }
            let first = now + takes.saturating_sub(EARLY);
            self.due.extend(AROUND.map(|millis| (first + Duration::from_millis(millis), mac, server, xid)));
        }
    }

    /// The next question that is due: for whom, to which router, in which transaction.
    pub fn next(&mut self, now: Instant) -> Option<(MacAddr, Ipv4Addr, u32)> {
        let (_, mac, server, xid) = self.due.first().copied().filter(|(at, ..)| *at <= now)?;
        self.due.pop_first();
        Some((mac, server, xid))
    }

    /// When something is due.
    pub fn deadline(&self) -> Option<Instant> {
        self.due.first().map(|(at, ..)| *at)
    }
}
