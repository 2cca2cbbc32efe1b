//! When a router is asked once more. Pure.
//!
//! ISC dhcpd pings an address for a second before it offers the address to a new client, and drops what a relay asks for
//! that client meanwhile. So the router is asked again when its second is over.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use ids::MacAddr;

/// The retries around the moment at which the router is expected to answer, in milliseconds from the first. A phone takes
/// some milliseconds from OFFER to REQUEST.
const AROUND: [u64; 7] = [0, 6, 12, 20, 36, 68, 132];
/// How long before that moment the first retry is.
const EARLY: Duration = Duration::from_millis(4);
/// The most retries that wait. Further ones are dropped.
const MAX_WAITING: usize = 256;

/// The retries that are due later.
#[derive(Debug, Default)]
pub(super) struct RelayRetry {
    slow: Vec<(Ipv4Addr, Duration)>,
    due: BTreeSet<(Instant, MacAddr, Ipv4Addr, u32)>,
}

impl RelayRetry {
    /// Names the routers that are slow to offer, and how long they take.
    pub(super) fn set_slow(&mut self, slow: &[(Ipv4Addr, Duration)]) {
        self.slow.clear();
        self.slow.extend_from_slice(slow);
    }

    /// A DISCOVER was relayed to this router in this transaction.
    pub(super) fn relayed(&mut self, mac: MacAddr, server: Ipv4Addr, xid: u32, now: Instant) {
        for (slow, takes) in &self.slow {
            if *slow != server || self.due.len() + AROUND.len() > MAX_WAITING {
                continue;
            }
            let first = now + takes.saturating_sub(EARLY);
            self.due.extend(AROUND.map(|millis| (first + Duration::from_millis(millis), mac, server, xid)));
        }
    }

    /// Takes out a retry that is due: for which phone, to which router, in which transaction.
    pub(super) fn next(&mut self, now: Instant) -> Option<(MacAddr, Ipv4Addr, u32)> {
        let (_, mac, server, xid) = self.due.first().copied().filter(|(at, ..)| *at <= now)?;
        self.due.pop_first();
        Some((mac, server, xid))
    }

    /// When the next retry is due.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.due.first().map(|(at, ..)| *at)
    }
}
