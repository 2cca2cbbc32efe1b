//! What `augment` knows of one phone. Pure.
//!
//! Three things change independently of each other, so each is a state of its own: the DISCOVER that is under way
//! ([`Discovery`]), the lease that the phone has from a router ([`RouterLease`]), and whether a router has disputed an
//! answer of ours ([`Standing`]).

use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use super::completed_offer::{CompletedOffer, INFINITE};
use super::transactions::Asked;
use crate::message::Request;
use ids::{Rate, TokenBucket};

/// DISCOVERs of one phone that are relayed.
const OF_ONE_PHONE: Rate = Rate::per_second(5).with_burst(20);
/// How long an offer of the router is good for an ACK. Routers hold theirs for a minute or two.
const OFFER_VALID: Duration = Duration::from_secs(60);
/// How long the router may take to answer a relayed DISCOVER.
pub(super) const RELAY_VALID: Duration = Duration::from_secs(10);
/// How long a REQUEST waits for the router's OFFER to us: a router that pings first answers phone and relay together.
pub(super) const DEFER: Duration = Duration::from_millis(250);
/// A router that takes this long to offer pings first. So does one that leaves a relayed DISCOVER unanswered for so long.
pub(super) const PING: Duration = Duration::from_millis(500);
/// How often a phone may get a lease before its own terms are known.
const SHORT_LEASE_EVERY: Duration = Duration::from_secs(3600);
/// The shortest rest of a lease that is worth an answer, in seconds.
const MIN_LEFT_SECONDS: u32 = 30;

/// A phone that has sent a DISCOVER, or whose lease was recalled after a restart.
#[derive(Debug)]
pub(super) struct AugmentedPhone {
    /// Whether the inventory lists it.
    pub(super) listed: bool,
    relays: TokenBucket,
    /// When a DISCOVER of it was last relayed, or its lease recalled.
    pub(super) last_seen: Option<Instant>,
    pub(super) discovery: Option<Discovery>,
    pub(super) lease: Option<RouterLease>,
    pub(super) standing: Standing,
    /// When it last got a lease on the terms of the pool, before its own terms were known.
    pub(super) short_lease: Option<Instant>,
}

/// Whether we may answer a phone.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Standing {
    /// We have said nothing yet that a router could dispute.
    Unanswered,
    /// We have answered with a lease of this router. Its NAK in this transaction disputes the answer.
    Answered { xid: u32, server: Ipv4Addr },
    /// That router sent a NAK after our answer, so we leave the phone alone.
    Quiet { until: Instant },
}

impl AugmentedPhone {
    pub(super) fn new() -> Self {
        Self {
            listed: false,
            relays: TokenBucket::default(),
            last_seen: None,
            discovery: None,
            lease: None,
            standing: Standing::Unanswered,
            short_lease: None,
        }
    }

    /// Takes one of the DISCOVERs that it may have relayed. Says whether there was one.
    pub(super) fn may_be_relayed(&mut self, now: Instant) -> bool {
        self.relays.take(OF_ONE_PHONE, now).is_ok()
    }

    /// Whether it may get a lease before its own terms are known.
    pub(super) fn may_have_short_lease(&self, now: Instant) -> bool {
        self.short_lease.is_none_or(|last| now.saturating_duration_since(last) >= SHORT_LEASE_EVERY)
    }

    pub(super) fn is_quiet(&self, now: Instant) -> bool {
        matches!(self.standing, Standing::Quiet { until } if now < until)
    }

    /// Drops the offers of the DISCOVER that is under way: they must not become ACKs.
    pub(super) fn drop_offers(&mut self) {
        if let Some(discovery) = &mut self.discovery {
            discovery.offers.clear();
        }
    }

    pub(super) fn has_offers(&self) -> bool {
        self.discovery.as_ref().is_some_and(|discovery| !discovery.offers.is_empty())
    }
}

/// A DISCOVER that went on to the routers, and what came of it.
#[derive(Debug)]
pub(super) struct Discovery {
    pub(super) discover: Request,
    /// The DISCOVER as the phone sent it, to be relayed once more.
    pub(super) bytes: Vec<u8>,
    /// The transactions in which it was relayed.
    pub(super) asked: Asked,
    /// When the phone began to ask. A phone that hears nothing repeats itself.
    pub(super) began: Instant,
    /// When it was relayed last.
    pub(super) at: Instant,
    /// What the routers are about to tell the phone, completed: one for each router that has answered.
    pub(super) offers: Vec<CompletedOffer>,
    pub(super) choice: Choice,
}

impl Discovery {
    /// Whether a router's answer to us may still come.
    pub(super) fn is_current(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.at) < RELAY_VALID
    }

    /// Whether the phone has asked for as long as a ping takes, and this router has not answered us.
    pub(super) fn waited_for_a_ping(&self, server: Ipv4Addr, now: Instant) -> bool {
        self.offers.iter().all(|offer| offer.server != server) && now.saturating_duration_since(self.began) >= PING
    }

    /// Since when the phone asks, if no router has answered us yet and the phone has chosen none.
    pub(super) fn unanswered_since(&self, now: Instant) -> Option<Instant> {
        let unanswered = self.offers.is_empty() && self.choice.is_open();
        Some(self.began).filter(|began| unanswered && now.saturating_duration_since(*began) < RELAY_VALID)
    }

    /// The offer of a router that the phone may still take.
    pub(super) fn offer_of(&mut self, server: Ipv4Addr, now: Instant) -> Option<&mut CompletedOffer> {
        let offer = self.offers.iter_mut().find(|offer| offer.server == server);
        offer.filter(|offer| now.saturating_duration_since(offer.at) < OFFER_VALID)
    }
}

/// What the phone made of the offers that it heard from the routers.
#[derive(Debug)]
pub(super) enum Choice {
    /// The phone has chosen nothing yet, or we answered its choice.
    Open,
    /// The phone's REQUEST came before the router's OFFER to us, and waits for it.
    Waiting(DeferredRequest),
    /// The OFFER did not come in time, and the phone has the router's own ACK. The router was asked once more, so that we
    /// learn the terms of the lease for the phone's next start. A REQUEST that the phone repeats meanwhile waits.
    Missed { server: Ipv4Addr, address: Ipv4Addr, since: Instant, repeated: Option<DeferredRequest> },
}

/// A REQUEST that waits for the router's OFFER to us.
#[derive(Debug)]
pub(super) struct DeferredRequest {
    pub(super) request: Request,
    pub(super) server: Ipv4Addr,
    pub(super) address: Ipv4Addr,
    pub(super) since: Instant,
}

impl DeferredRequest {
    pub(super) fn is_due(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.since) >= DEFER
    }
}

impl Choice {
    pub(super) const fn is_open(&self) -> bool {
        matches!(self, Self::Open)
    }

    /// The REQUEST that waits.
    pub(super) const fn waiting(&self) -> Option<&DeferredRequest> {
        match self {
            Self::Open => None,
            Self::Waiting(waiting) => Some(waiting),
            Self::Missed { repeated, .. } => repeated.as_ref(),
        }
    }

    /// Lets a REQUEST wait, in place of an earlier one.
    pub(super) fn wait(&mut self, request: DeferredRequest) {
        match self {
            Self::Open | Self::Waiting(_) => *self = Self::Waiting(request),
            Self::Missed { repeated, .. } => *repeated = Some(request),
        }
    }

    /// Takes out the REQUEST that waits.
    pub(super) fn take_waiting(&mut self) -> Option<DeferredRequest> {
        match self {
            Self::Open => None,
            Self::Missed { repeated, .. } => repeated.take(),
            Self::Waiting(_) => match std::mem::replace(self, Self::Open) {
                Self::Waiting(waiting) => Some(waiting),
                Self::Open | Self::Missed { .. } => None,
            },
        }
    }

    /// Says since when the phone has this lease, if it took it before we knew the terms. That is then settled.
    pub(super) fn settle_missed(&mut self, from: Ipv4Addr, taken: Ipv4Addr) -> Option<Instant> {
        match self {
            Self::Missed { server, address, since, repeated } if (*server, *address) == (from, taken) => {
                let since = *since;
                *self = repeated.take().map_or(Self::Open, Self::Waiting);
                Some(since)
            }
            _ => None,
        }
    }
}

/// A lease of the router's that a phone has.
#[derive(Debug)]
pub(super) struct RouterLease {
    pub(super) offer: CompletedOffer,
    /// When the phone took the lease, or when a lease of before a restart was recalled.
    pub(super) since: Instant,
    /// How much of the lease had passed by then.
    pub(super) passed: Duration,
}

impl RouterLease {
    /// The seconds that are left of the lease for certain: the router may have renewed it since. `None` if they are too
    /// few for an answer.
    pub(super) fn left(&self, now: Instant) -> Option<u32> {
        if self.offer.lease_seconds == INFINITE {
            return Some(INFINITE);
        }
        let passed = self.passed + now.saturating_duration_since(self.since);
        // Part of a second counts as a whole one, so that nothing is longer than the router's.
        let passed = u32::try_from(passed.as_secs() + u64::from(passed.subsec_nanos() > 0)).ok()?;
        self.offer.lease_seconds.checked_sub(passed).filter(|left| *left >= MIN_LEFT_SECONDS)
    }
}
