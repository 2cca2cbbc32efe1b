//! What a router leases to every client of its pool, as its OFFERs show it. Pure.
//!
//! It serves one case. ISC dhcpd pings an address for a second before it first offers it to a client, and drops what a relay
//! asks for that client meanwhile. The client's REQUEST follows the OFFER at once, so that we cannot know the terms of this
//! very lease by then. What the router offered to us or to another phone within the hour are the terms of the pool, and
//! the phone gets them for five minutes. It renews with the router itself after half of that.
//!
//! Terms that differ are of two kinds. A reservation or class has terms of its own: then nobody gets the pool's. Or somebody
//! has edited the router's settings: then the pool's are the new ones. Our own OFFER tells them apart, for which the router is
//! asked again: after an edit ours has changed as well.

use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use super::completed_offer::{CompletedOffer, INFINITE};
use crate::heard::ServerMessage;
use crate::message::Request;
use crate::options::{self, OptionCode, Options};
use crate::scope::DhcpScope;
use ids::MacAddr;

/// How long an OFFER says what the pool's terms are.
const VALID: Duration = Duration::from_secs(3600);
/// How old the OFFER to ourselves is when we ask again.
const ASK_AGAIN: Duration = Duration::from_secs(45 * 60);
/// How long we wait for an answer before we ask again, at first and later.
const ASK_WAITS: [Duration; 2] = [Duration::from_secs(5), Duration::from_secs(300)];
/// So many questions wait for the shorter time.
const ASK_SOON: u32 = 6;
/// How long after terms differed an answer to us tells an edit from a reservation. Later both may have happened.
const DOUBT: Duration = Duration::from_secs(600);
/// The longest lease on the pool's terms, in seconds.
const MAX_LEASE_SECONDS: u32 = 300;

/// The terms of a pool: mask, time offset, routers, DNS, domain, broadcast address, NTP, time zone, domain search, routes.
const POOL: [u8; 11] = [1, 2, 3, 6, 15, 28, 42, 100, 101, 119, 121];
/// What is of one client or one message: name, address, times, type, server, overload, limits, identifier, relay.
const OF_ONE_CLIENT: [u8; 14] = [12, 50, 51, 52, 53, 54, 55, 56, 57, 58, 59, 61, 81, 82];

/// The pools of all routers.
#[derive(Debug, Default)]
pub(super) struct Pools(Vec<Pool>);

#[derive(Debug)]
struct Pool {
    server: Ipv4Addr,
    /// The newest OFFER to us.
    ours: Option<Sample>,
    /// The newest OFFER to a phone.
    phones: Option<Sample>,
    /// Whether different clients were offered different terms: there are reservations with terms of their own, or classes.
    differs: bool,
    /// Since when it is open whether terms that differ are those of one client, or the router's settings have changed.
    doubt: Option<Instant>,
    /// When we last asked as a client, and how often without an answer.
    asked: Option<(Instant, u32)>,
}

/// An OFFER, and what its client had asked for.
#[derive(Debug)]
struct Sample {
    offer: ServerMessage,
    /// The client's parameter request list (55), if it sent one.
    asked: Option<Vec<u8>>,
    at: Instant,
}

impl Sample {
    fn is_valid(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.at) < VALID
    }

    /// Whether the two OFFERs have different terms. An option that only one of the clients asked for tells nothing.
    fn differs(&self, other: &Self) -> bool {
        let fields = |sample: &Self| {
            let plain = sample.offer.options.get(OptionCode::OptionOverload).is_none();
            let at = |range: std::ops::Range<usize>| sample.offer.header.get(range).map(<[u8]>::to_vec);
            (at(20..24), plain.then(|| at(44..236)).flatten())
        };
        let lacks = |sample: &Self, code: u8| sample.asked.as_ref().is_some_and(|asked| asked.contains(&code));
        let differ = |code: u8| {
            let value = |sample: &Self| {
                let code = OptionCode::from(code);
                sample.offer.options.get(code).map(<[u8]>::to_vec)
            };
            match (value(self), value(other)) {
                (None, None) => false,
                (Some(one), Some(two)) => one != two,
                (Some(_), None) => lacks(other, code),
                (None, Some(_)) => lacks(self, code),
            }
        };
        fields(self) != fields(other) || (1..=254).any(|code| !OF_ONE_CLIENT.contains(&code) && differ(code))
    }
}

/// Who was offered a lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum OfferedTo {
    /// We, as a client.
    Us,
    /// A phone.
    Phone,
}

impl Pool {
    /// The router has offered us a lease. If ours has changed, so have its settings, and what it offered others before counts
    /// no more. If not, terms that differ are a client's own.
    fn offered_to_us(&mut self, sample: Sample, now: Instant) {
        let doubt = self.doubt.take();
        let in_time = doubt.is_none_or(|since| now.saturating_duration_since(since) < DOUBT);
        let has_changed = self.ours.as_ref().is_some_and(|before| before.differs(&sample));
        if has_changed && in_time {
            self.phones = self.phones.take().filter(|phone| doubt.is_some_and(|since| phone.at >= since));
        } else {
            self.differs |= doubt.is_some();
        }
        let phone = self.phones.as_ref().filter(|phone| phone.is_valid(now));
        self.differs |= phone.is_some_and(|phone| phone.differs(&sample));
        (self.ours, self.asked) = (Some(sample), None);
    }
}

impl Pools {
    /// Forgets the routers that are not among these.
    pub(super) fn retain(&mut self, servers: &[Ipv4Addr]) {
        self.0.retain(|pool| servers.contains(&pool.server));
    }

    fn of(&mut self, server: Ipv4Addr) -> &mut Pool {
        let known = self.0.iter().position(|pool| pool.server == server);
        let place = known.unwrap_or_else(|| {
            self.0.push(Pool { server, ours: None, phones: None, differs: false, doubt: None, asked: None });
            self.0.len() - 1
        });
        // It is there, or has just been put there.
        self.0.get_mut(place).expect("the pool's place")
    }

    /// A router that was asked has offered a lease. `asked` is the client's parameter request list.
    pub(super) fn learn(&mut self, offer: &ServerMessage, asked: Option<&[u8]>, to: OfferedTo, now: Instant) {
        let pool = self.of(offer.server);
        let sample = Sample { offer: offer.clone(), asked: asked.map(<[u8]>::to_vec), at: now };
        match to {
            OfferedTo::Us => pool.offered_to_us(sample, now),
            OfferedTo::Phone => {
                let others = pool.ours.iter().chain(&pool.phones);
                if others.filter(|other| other.is_valid(now)).any(|other| other.differs(&sample)) {
                    pool.doubt.get_or_insert(now);
                }
                pool.phones = Some(sample);
            }
        }
    }

    /// Whether it is time to ask this router for an OFFER to ourselves. Then it counts as asked.
    pub(super) fn asks_now(&mut self, server: Ipv4Addr, now: Instant) -> bool {
        let pool = self.of(server);
        let since = |at: Instant| now.saturating_duration_since(at);
        let tries = pool.asked.map_or(0, |(_, tries)| tries);
        let [soon, later] = ASK_WAITS;
        let waits = pool.asked.is_some_and(|(at, _)| since(at) < if tries < ASK_SOON { soon } else { later });
        let is_old = pool.doubt.is_some() || pool.ours.as_ref().is_none_or(|ours| since(ours.at) >= ASK_AGAIN);
        let due = !pool.differs && !waits && is_old;
        if due {
            pool.asked = Some((now, tries.saturating_add(1)));
        }
        due
    }

    /// A lease of this address on the terms of the pool, for at most five minutes and without T1 and T2, completed for a
    /// phone. `None` if the terms are not known, are not the same for all, or name this address as somebody's.
    pub(super) fn lease(
        &self,
        scope: &DhcpScope,
        (discover, bytes): (&Request, &[u8]),
        (server, address): (Ipv4Addr, Ipv4Addr),
        now: Instant,
    ) -> Option<CompletedOffer> {
        let pool = self.0.iter().find(|pool| pool.server == server && !pool.differs && pool.doubt.is_none())?;
        let samples: Vec<&Sample> = pool.phones.iter().chain(&pool.ours).filter(|it| it.is_valid(now)).collect();
        let model = samples.first()?;
        // A router that points phones itself needs nothing of us.
        if samples.iter().any(|sample| !sample.offer.pointers().is_empty()) || !scope.lan.is_host(address) {
            return None;
        }
        let value = |code: OptionCode| samples.iter().find_map(|sample| sample.offer.options.get(code));
        if let Some(mask) = value(OptionCode::SubnetMask).and_then(<[u8]>::first_chunk).copied().map(Ipv4Addr::from) {
            let network = |address: Ipv4Addr| u32::from(address) & u32::from(mask);
            if network(address) != network(model.offer.yiaddr) {
                return None;
            }
        }
        let named = [OptionCode::Router, OptionCode::DomainNameServer, OptionCode::NtpServers];
        let of_others = samples.iter().flat_map(|sample| named.map(|code| sample.offer.options.addresses(code)));
        if address == server || of_others.flatten().any(|other| other == address) {
            return None;
        }
        let times = samples.iter().filter_map(|sample| sample.offer.options.seconds(OptionCode::AddressLeaseTime));
        let lease = times.min()?.min(MAX_LEASE_SECONDS);
        let mut written = Vec::new();
        options::emit(OptionCode::AddressLeaseTime, &lease.to_be_bytes(), &mut written);
        let lists_none = discover.options.get(OptionCode::ParameterRequestList).is_none();
        for code in POOL.map(OptionCode::from) {
            let wanted = lists_none || code == OptionCode::SubnetMask || discover.asks_for(code);
            if let Some(value) = value(code).filter(|_| wanted) {
                options::emit(code, value, &mut written);
            }
        }
        let mut header = model.offer.header.clone();
        header.get_mut(16..20)?.copy_from_slice(&address.octets());
        if model.offer.options.get(OptionCode::OptionOverload).is_some() {
            header.get_mut(44..236)?.fill(0);
        }
        let options = Options::parse(&written, &[], &[]);
        let chaddr: MacAddr = discover.chaddr;
        let offer = ServerMessage { yiaddr: address, chaddr, options, header, ..model.offer.clone() };
        debug_assert_ne!(lease, INFINITE);
        CompletedOffer::new(scope, (discover, bytes), &offer, now).ok()
    }
}
