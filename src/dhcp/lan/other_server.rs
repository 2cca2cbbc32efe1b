//! Another DHCP server, what it has shown of itself, and whether two of them agree. Pure.

use std::net::Ipv4Addr;
use std::time::Duration;

use super::points::{self, Points};
use super::relay_check::Relays;
use crate::heard::{LeaseTerms, Overheard, TftpPointer};
use api::DhcpServerSeen;
use ids::UnixTime;

/// A router that takes this long for an OFFER does something before it, such as a ping.
pub const SLOW_OFFER: Duration = Duration::from_millis(300);

/// The most differences that words name.
const MAX_DIFFERENCES: usize = 3;

/// Another DHCP server, and what it has shown of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OtherServer {
    /// The server identifier.
    pub server: Ipv4Addr,
    /// The TFTP servers that the server hands out, as its options say them.
    pub tftp: Vec<String>,
    /// The servers that its options mean.
    pub pointers: Vec<TftpPointer>,
    /// What else the server hands out.
    pub terms: LeaseTerms,
    /// The address that the server last offered to us.
    pub offered: Option<Ipv4Addr>,
    /// The shortest and the longest time that the server took to answer our DISCOVERs.
    pub offer_after: Option<(Duration, Duration)>,
    /// Whether the server answers DHCPINFORM.
    pub informs: bool,
    /// Whether the server answers us as a relay agent.
    pub relays: Relays,
    pub(super) heard: UnixTime,
    /// How many questions in a row the server did not answer.
    pub(super) missed: u8,
}

impl OtherServer {
    pub(super) fn new(server: Ipv4Addr, now: UnixTime) -> Self {
        Self {
            server,
            tftp: Vec::new(),
            pointers: Vec::new(),
            terms: LeaseTerms::default(),
            offered: None,
            offer_after: None,
            informs: false,
            relays: Relays::Unknown,
            heard: now,
            missed: 0,
        }
    }

    /// Says whether anything that people or decisions look at is new.
    pub(super) fn learn(&mut self, overheard: &Overheard, now: UnixTime) -> bool {
        let matters = |server: &Self| {
            let Self { tftp, pointers, terms, relays, .. } = server;
            // Times count down in some offers.
            let terms = LeaseTerms { lease_seconds: None, renew_seconds: None, rebind_seconds: None, ..terms.clone() };
            (tftp.clone(), pointers.clone(), terms, server.takes(), *relays)
        };
        let before = matters(self);
        self.heard = now;
        // A NAK, or an answer to a client that asked for less, holds less. What was seen once stays.
        if !overheard.tftp.is_empty() {
            self.tftp.clone_from(&overheard.tftp);
        }
        if !overheard.pointers.is_empty() {
            self.pointers.clone_from(&overheard.pointers);
        }
        if let Some(terms) = &overheard.terms {
            self.terms.learn(terms);
        }
        self.offered = overheard.address.or(self.offered);
        if let Some(after) = overheard.after {
            let (shortest, longest) = self.offer_after.unwrap_or((after, after));
            self.offer_after = Some((shortest.min(after), longest.max(after)));
        }
        self.informs |= overheard.informed;
        if overheard.relayed {
            self.relays = Relays::Answered;
        }
        before != matters(self)
    }

    /// How long the server takes to offer an address to a new client, if it is slow.
    pub fn takes(&self) -> Option<Duration> {
        self.offer_after.map(|(_, longest)| longest).filter(|longest| *longest >= SLOW_OFFER)
    }

    /// Where the server points phones, for a site with these TFTP servers.
    pub fn points(&self, ours: &[Ipv4Addr]) -> Points {
        Points::of(&self.pointers, ours)
    }

    /// The same in words that follow "points phones".
    pub fn points_in_words(&self, ours: &[Ipv4Addr]) -> Option<String> {
        points::words(&self.pointers, ours)
    }

    /// Where it sends one vendor's phones before they ask 66 or 150, if that is elsewhere.
    pub fn vendors_elsewhere(&self, ours: &[Ipv4Addr]) -> Vec<String> {
        points::vendors_elsewhere(&self.pointers, ours)
    }

    /// What the two servers do not agree in. A pair that agrees in all but the identifier is one server on two machines, as
    /// people set it up on purpose (failover): whichever answers, a client gets the same.
    pub fn differs_from(&self, other: &Self) -> Option<String> {
        let list = |addresses: &[Ipv4Addr]| sorted(addresses.iter().map(Ipv4Addr::to_string).collect());
        let tftp =
            |server: &Self| sorted(server.pointers.iter().map(|it| format!("{}={}", it.option, it.server)).collect());
        let text = |text: &str| if text.is_empty() { "none".to_owned() } else { text.to_owned() };
        let mask = |server: &Self| server.terms.mask.map_or_else(|| "none".to_owned(), |mask| mask.to_string());
        let (a, b) = (&self.terms, &other.terms);
        let mut differences = vec![
            ("router", list(&a.routers), list(&b.routers)),
            ("TFTP server", tftp(self), tftp(other)),
            ("mask", mask(self), mask(other)),
            ("DNS", list(&a.dns), list(&b.dns)),
            ("domain", text(&a.domain), text(&b.domain)),
            ("NTP", list(&a.ntp), list(&b.ntp)),
        ];
        if !have_like_times(a.lease_seconds, b.lease_seconds) {
            differences.push(("lease time", seconds_in_words(a.lease_seconds), seconds_in_words(b.lease_seconds)));
        }
        differences.retain(|(_, mine, theirs)| mine != theirs);
        let named: Vec<String> = differences
            .iter()
            .take(MAX_DIFFERENCES)
            .map(|(name, mine, theirs)| format!("{name} {mine} or {theirs}"))
            .collect();
        (!named.is_empty()).then(|| format!("{} and {} differ: {}", self.server, other.server, named.join("; ")))
    }

    pub(super) fn seen(&self) -> DhcpServerSeen {
        DhcpServerSeen {
            server: self.server,
            tftp: self.tftp.clone(),
            router: self.terms.routers.first().copied(),
            lease_seconds: self.terms.lease_seconds,
            offer_millis: self.offer_after.and_then(|(shortest, _)| u32::try_from(shortest.as_millis()).ok()),
        }
    }
}

/// Whether two lease times can be of servers that agree. One of a pair may know of less time: a lease that runs is offered
/// for what is left of it, and a partner in failover gives a short one first.
fn have_like_times(a: Option<u32>, b: Option<u32>) -> bool {
    let (shorter, longer) = (a.min(b), a.max(b));
    match (shorter, longer) {
        (None, None) => true,
        (Some(shorter), Some(longer)) => shorter >= longer / 2,
        _ => false,
    }
}

/// A time of a lease as people read it.
pub fn seconds_in_words(seconds: Option<u32>) -> String {
    match seconds {
        None => "none".to_owned(),
        // RFC 2132 §9.2 with RFC 2131 §3.3: all ones are infinity.
        Some(u32::MAX) => "for ever".to_owned(),
        Some(seconds) => format!("{seconds} seconds"),
    }
}

fn sorted(mut texts: Vec<String>) -> String {
    texts.sort();
    if texts.is_empty() { "none".to_owned() } else { texts.join(", ") }
}
