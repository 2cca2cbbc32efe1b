//! How often a router is asked, and when it is asked once more. Pure.
//!
//! ISC dhcpd pings an address for a second before it offers the address to a new client, and drops what a relay asks for
//! that client meanwhile. So the router is asked again when its second is over.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use super::phone::PING;
use ids::{MacAddr, Rate, TokenBucket};

/// DISCOVERs that are relayed for phones that the inventory lists.
const RELAYS_LISTED: Rate = Rate::per_second(100).with_burst(200);
/// The same for other devices that say they are phones.
const RELAYS_UNLISTED: Rate = Rate::per_second(10).with_burst(20);
/// The retries around the moment at which the router is expected to answer, in milliseconds from the first. A phone takes
/// some milliseconds from OFFER to REQUEST.
const AROUND: [u64; 7] = [0, 6, 12, 20, 36, 68, 132];
/// How long before that moment the first retry is.
const EARLY: Duration = Duration::from_millis(4);
/// The longest ping that is believed: dnsmasq pings for 3 s. A phone that asked for longer had other reasons.
const LONGEST_PING: Duration = Duration::from_secs(4);
/// The most retries that wait. Further ones are dropped.
const MAX_WAITING: usize = 256;

/// How many DISCOVERs may be relayed.
#[derive(Debug, Default)]
pub(super) struct RelayBudget {
    listed: TokenBucket,
    unlisted: TokenBucket,
}

impl RelayBudget {
    /// Takes one from what listed phones or all others have. Says whether there was one.
    pub(super) fn allow(&mut self, listed: bool, now: Instant) -> bool {
        let (bucket, rate) =
            if listed { (&mut self.listed, RELAYS_LISTED) } else { (&mut self.unlisted, RELAYS_UNLISTED) };
        bucket.take(rate, now).is_ok()
    }
}

/// The retries that are due later.
#[derive(Debug, Default)]
pub(super) struct RelayRetry {
    slow: Vec<(Ipv4Addr, Duration)>,
    /// The routers whose ping showed in a phone's own exchange, and how long it took: our own question is answered at once
    /// where the router pinged its address a short while ago.
    seen: Vec<(Ipv4Addr, Duration)>,
    due: BTreeSet<(Instant, MacAddr, Ipv4Addr, u32)>,
}

impl RelayRetry {
    /// Names the routers that are slow to offer, and how long they take.
    pub(super) fn set_slow(&mut self, slow: &[(Ipv4Addr, Duration)]) {
        self.slow.clear();
        self.slow.extend_from_slice(slow);
    }

    /// A phone waited so long for this router's OFFER, took it, and only then the router answered our relay.
    pub(super) fn phone_waited(&mut self, server: Ipv4Addr, waited: Duration) {
        if (PING..=LONGEST_PING).contains(&waited) && !self.pings(server) {
            self.seen.push((server, waited));
        }
    }

    /// Forgets the routers that are not among these.
    pub(super) fn retain(&mut self, servers: &[Ipv4Addr]) {
        self.seen.retain(|(server, _)| servers.contains(server));
    }

    /// Whether this router was seen to ping before it offers.
    pub(super) fn pings(&self, server: Ipv4Addr) -> bool {
        let mut known = self.slow.iter().chain(&self.seen);
        known.any(|(slow, takes)| *slow == server && *takes >= PING)
    }

    /// A DISCOVER was relayed to this router in this transaction.
    pub(super) fn relayed(&mut self, mac: MacAddr, server: Ipv4Addr, xid: u32, now: Instant) {
        let asked = self.slow.iter().any(|(slow, takes)| *slow == server && *takes >= PING);
        let seen = self.seen.iter().filter(|_| !asked);
        for (slow, takes) in self.slow.iter().chain(seen) {
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
