//! `augment`: the router leases, and for phones its answers are completed with 66/150. Pure.
//!
//! A phone's DISCOVER goes on to the router as through a relay agent; the router's OFFER to us tells what it is about to
//! tell the phone. From it the ACK is prepared. When the phone's REQUEST names that router and that address, the prepared
//! ACK goes out at once: the first ACK counts, and the phone ignores the router's own. Nothing is invented: address,
//! times, mask and gateway are the router's for this phone. Who loses the race, or is not answered, has the router's
//! lease as before.
//!
//! What must hold, or it does harm; the tests say which of these each of them shows:
//!
//! - A1: nothing is invented. Lease, T1, T2, mask and gateway are the router's for this phone, never longer; no answer
//!   before they are known.
//! - A2: only a REQUEST that names a known router, for an address of its subnet that no other device has and that is not
//!   ours.
//! - A3: a NAK of the router after our answer: that phone is left alone for a day, and people hear of it.
//! - A4: two routers: each keeps its own parameters, and people hear of it.
//! - A5: a router that gives 66/150 itself is left alone; people hear of it if it points elsewhere.
//! - A6: a renewal at T1 is between phone and router; a phone that was answered and does not fetch is reported.
//! - A7: phones only, never a NAK, never a device that the site does not name; each answer is counted.

mod action;
pub mod completed_offer;
mod relay_retry;
mod token_bucket;

use std::collections::HashMap;
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use dhcproto::v4::MessageType;

pub use self::action::{Action, Event};
pub use self::completed_offer::{CompletedOffer, Exchange};
use self::relay_retry::RelayRetry;
use self::token_bucket::TokenBucket;
use super::completed_lease::CompletedLease;
use super::heard::{Answers, ServerMessage};
use super::message::{BROADCAST, MessageKind, Request};
use super::options::OptionCode;
use super::scope::DhcpScope;
use crate::ids::MacAddr;

/// How long a phone whom the router sent a NAK after our answer is left alone.
pub const QUIET: Duration = Duration::from_secs(86_400);
/// How long an offer of the router is good for an ACK. Routers hold theirs for a minute or two.
const OFFER_VALID: Duration = Duration::from_secs(60);
/// How long a REQUEST waits for the router's OFFER to us: a router that pings first answers phone and relay together.
const PENDING: Duration = Duration::from_millis(250);
/// How long the router may take to answer a relayed DISCOVER.
const RELAY_VALID: Duration = Duration::from_secs(10);
/// DISCOVERs of one phone that are relayed: each second, and at once.
const OF_ONE: (f64, f64) = (5.0, 20.0);
/// DISCOVERs relayed each second, and at once: for phones of the inventory, and for others that say they are phones.
const RELAYS: (f64, f64) = (100.0, 200.0);
/// See [`RELAYS`].
const STRANGERS: (f64, f64) = (10.0, 20.0);
/// The most phones that are remembered, and of these the most that are not of the inventory.
const MAX_PHONES: usize = 4096;
/// See [`MAX_PHONES`].
const MAX_STRANGERS: usize = 256;
/// How long a stranger without a lease is remembered.
const STRANGER_KEPT: Duration = Duration::from_secs(600);
/// The most routers that are asked.
pub const MAX_SERVERS: usize = 4;
/// What remains of a lease must be worth an answer, in seconds.
const MIN_LEFT_SECONDS: u32 = 30;

/// The phones of a LAN and what its routers are about to tell them.
#[derive(Debug)]
pub struct Augment {
    servers: Vec<Ipv4Addr>,
    /// Phones with a request that waits; at most one entry for each DISCOVER that was relayed.
    waiting: Vec<MacAddr>,
    phones: HashMap<MacAddr, AugmentedPhone>,
    all: TokenBucket,
    strangers: TokenBucket,
    relay_retry: RelayRetry,
    /// The transaction of our own question.
    asked: Option<u32>,
    xid: u64,
}

#[derive(Debug)]
struct AugmentedPhone {
    known: bool,
    pace: TokenBucket,
    last: Option<Instant>,
    discover: Option<(Request, u32, Instant)>,
    /// The same as it came, to be asked again.
    said: Vec<u8>,
    /// What it took from the router before we knew the terms: server, address, when.
    late: Option<(Ipv4Addr, Ipv4Addr, Instant)>,
    prepared: Vec<CompletedOffer>,
    pending: Option<(Request, Instant)>,
    /// What the router leased.
    held: Option<RouterLease>,
    /// The transaction that was last answered: a NAK in it disputes our answer.
    answered: Option<u32>,
    quiet_until: Option<Instant>,
}

/// A lease of the router's that a phone has.
#[derive(Debug)]
struct RouterLease {
    lease: CompletedOffer,
    /// When the phone took it; of one that was remembered over a restart, when it was recalled.
    since: Instant,
    /// How much of it was over then.
    gone: Duration,
}

impl RouterLease {
    /// What is left of it for certain: the router may have renewed it since. `None` if that is not worth an answer.
    fn left(&self, now: Instant) -> Option<u32> {
        let gone = self.gone + now.saturating_duration_since(self.since);
        // A part of a second that is over counts as a whole one: nothing is longer than the router's.
        let gone = u32::try_from(gone.as_secs() + u64::from(gone.subsec_nanos() > 0)).ok()?;
        self.lease.lease_seconds.checked_sub(gone).filter(|left| *left >= MIN_LEFT_SECONDS)
    }
}

impl AugmentedPhone {
    fn new(now: Instant) -> Self {
        let pace = TokenBucket::new(OF_ONE, now);
        let (known, last, discover, prepared) = (false, None, None, Vec::new());
        let (said, late) = (Vec::new(), None);
        Self {
            said,
            late,
            known,
            pace,
            last,
            discover,
            prepared,
            pending: None,
            held: None,
            answered: None,
            quiet_until: None,
        }
    }
}

impl Augment {
    /// Knows nothing. `seed` makes transactions that nobody can guess.
    pub fn new(seed: u64, now: Instant) -> Self {
        let (all, strangers) = (TokenBucket::new(RELAYS, now), TokenBucket::new(STRANGERS, now));
        Self {
            servers: Vec::new(),
            waiting: Vec::new(),
            phones: HashMap::new(),
            all,
            strangers,
            relay_retry: RelayRetry::default(),
            asked: None,
            xid: seed,
        }
    }

    /// The routers of this LAN. What is known of phones under others is void.
    pub fn set_servers(&mut self, servers: &[Ipv4Addr]) {
        let servers: Vec<Ipv4Addr> = servers.iter().copied().take(MAX_SERVERS).collect();
        if servers == self.servers {
            return;
        }
        self.servers = servers;
        for phone in self.phones.values_mut() {
            phone.prepared.retain(|prepared| self.servers.contains(&prepared.server));
            phone.held = phone.held.take().filter(|held| self.servers.contains(&held.lease.server));
        }
    }

    /// Routers that take at least [`SLOW_OFFER`](super::lan::SLOW_OFFER) for an offer, and how long they take.
    pub fn set_slow(&mut self, slow: &[(Ipv4Addr, Duration)]) {
        self.relay_retry.set_slow(slow);
    }

    /// When [`Self::tick`] has something to do that cannot wait.
    pub fn deadline(&self) -> Option<Instant> {
        self.relay_retry.deadline()
    }

    /// What is added has changed: what was made with the former is void.
    pub fn set_added(&mut self) {
        for phone in self.phones.values_mut() {
            phone.prepared.clear();
            phone.held = None;
        }
    }

    /// Leases that were completed before a restart, with what of them is over. What no longer fits is left out.
    pub fn recall(&mut self, scope: &DhcpScope, kept: &[(CompletedLease, Duration)], now: Instant) {
        for (kept, gone) in kept {
            let Ok(discover) = Request::parse(&kept.discover) else { continue };
            let Some(offer) = ServerMessage::parse(&kept.offer) else { continue };
            let (mac, known) = (discover.chaddr, scope.knows(discover.chaddr));
            let fits = offer.chaddr == mac
                && scope.is_phone(&discover)
                && self.servers.contains(&offer.server)
                && scope.is_local(offer.yiaddr)
                && offer.tftp().is_empty()
                && self.has_room(mac, known, now);
            let Some(lease) = CompletedOffer::new(scope, (&discover, &kept.discover), &offer, now).filter(|_| fits)
            else {
                continue;
            };
            let phone = self.phones.entry(mac).or_insert_with(|| AugmentedPhone::new(now));
            (phone.known, phone.last) = (known, Some(now));
            // What was seen since is newer.
            phone.held.get_or_insert(RouterLease { lease, since: now, gone: *gone });
        }
    }

    /// A DISCOVER of our own as a relay sends it: whether this router answers relays at all.
    pub fn relay(&mut self, server: Ipv4Addr, discover: &[u8], relay: Ipv4Addr) -> Action {
        let xid = next(&mut self.xid);
        self.asked = Some(xid);
        Action::Relay(server, completed_offer::relayed(discover, relay, xid))
    }

    /// A client's message was seen on the link, `broadcast` if it was for everyone. `taken` says whether another device has
    /// an address.
    pub fn client(
        &mut self,
        (scope, request, bytes): (&DhcpScope, &Request, &[u8]),
        broadcast: bool,
        taken: &dyn Fn(Ipv4Addr) -> bool,
        now: Instant,
        out: &mut Vec<Action>,
    ) {
        // Nothing for anybody but phones, nothing for what comes through another relay.
        if !scope.is_phone(request) || !request.giaddr.is_unspecified() {
            return;
        }
        match request.kind {
            MessageKind::Discover => self.discover(scope, request, bytes, now, out),
            MessageKind::Request if broadcast => self.request(scope, request, taken, now, out),
            // The phone found the address in use, or gives it back: the lease is no more.
            MessageKind::Decline | MessageKind::Release => {
                if let Some(phone) = self.phones.get_mut(&request.chaddr) {
                    (phone.held, phone.pending) = (None, None);
                    phone.prepared.clear();
                }
            }
            // A renewal is between phone and router. DHCPINFORM is answered elsewhere.
            MessageKind::Request | MessageKind::Inform => {}
        }
    }

    fn discover(&mut self, scope: &DhcpScope, request: &Request, bytes: &[u8], now: Instant, out: &mut Vec<Action>) {
        let (mac, known) = (request.chaddr, scope.knows(request.chaddr));
        if self.servers.is_empty() || !self.has_room(mac, known, now) {
            return out.push(Action::Tell(Event::Silent("dhcp.augment.not-relayed")));
        }
        let phone = self.phones.entry(mac).or_insert_with(|| AugmentedPhone::new(now));
        phone.known = known;
        // A phone that begins anew chooses anew: only what routers say now counts.
        (phone.pending, phone.discover, phone.late) = (None, None, None);
        phone.prepared.clear();
        if phone.quiet_until.is_some_and(|until| now < until) {
            return;
        }
        let pace = if known { &mut self.all } else { &mut self.strangers };
        if !phone.pace.take(now) || !pace.take(now) {
            return out.push(Action::Tell(Event::Silent("dhcp.augment.not-relayed")));
        }
        phone.last = Some(now);
        let xid = next(&mut self.xid);
        phone.discover = Some((request.clone(), xid, now));
        phone.said = bytes.to_vec();
        for &server in &self.servers {
            out.push(Action::Relay(server, completed_offer::relayed(bytes, scope.server, xid)));
            if known {
                self.relay_retry.relayed(mac, server, xid, now);
            }
        }
    }

    fn request(
        &mut self,
        scope: &DhcpScope,
        request: &Request,
        taken: &dyn Fn(Ipv4Addr) -> bool,
        now: Instant,
        out: &mut Vec<Action>,
    ) {
        let silent = |why| Action::Tell(Event::Silent(why));
        let Some(phone) = self.phones.get_mut(&request.chaddr) else {
            return out.push(silent("dhcp.augment.unknown"));
        };
        if phone.quiet_until.is_some_and(|until| now < until) {
            return out.push(silent("dhcp.augment.quiet"));
        }
        let requested = request.options.address(OptionCode::RequestedIpAddress);
        let ciaddr = Some(request.ciaddr).filter(|address| !address.is_unspecified());
        let server = request.options.address(OptionCode::ServerIdentifier);
        let address = match (requested, ciaddr) {
            (Some(address), None) | (None, Some(address)) => address,
            _ => return out.push(silent("dhcp.augment.malformed")),
        };
        if !scope.is_local(address) || [scope.server, scope.broadcast()].contains(&address) || taken(address) {
            return out.push(silent("dhcp.augment.address"));
        }
        let fresh = |at: Instant, limit| now.saturating_duration_since(at) < limit;
        match (server, ciaddr) {
            // SELECTING: the router and the address are named. Some routers (Kea) offer each DISCOVER of a new client
            // another address; the phone names the one that it was offered, and all else is the same.
            (Some(server), None) => {
                let known = |offer: &&mut CompletedOffer| offer.server == server && address != server;
                let offer = phone.prepared.iter_mut().find(known).filter(|offer| fresh(offer.at, OFFER_VALID));
                if let Some(offer) = offer {
                    offer.give(address);
                    let message = offer.ack(request, None);
                    out.push(reply(request, address, message));
                    let offer = offer.clone();
                    out.push(Action::Tell(Event::Completed(request.chaddr, address, Some(offer.exchange()))));
                    phone.held = Some(RouterLease { lease: offer, since: now, gone: Duration::ZERO });
                    phone.answered = Some(request.xid);
                } else if self.servers.contains(&server)
                    && phone.discover.as_ref().is_some_and(|(_, _, at)| fresh(*at, RELAY_VALID))
                {
                    phone.pending = Some((request.clone(), now));
                    self.waiting.push(request.chaddr);
                } else {
                    // Another server's lease: what we know of this phone is over.
                    phone.held = None;
                    out.push(silent("dhcp.augment.other-server"));
                }
            }
            // INIT-REBOOT and REBINDING of a lease that we saw being made, for what is left of it at least: the router may
            // have renewed it since, and then its own answer to the phone is the longer one.
            (None, _) => {
                let held = phone.held.as_ref().filter(|held| held.lease.address == address);
                match held.and_then(|held| Some((held, held.left(now)?))) {
                    Some((held, left)) => {
                        phone.answered = Some(request.xid);
                        out.push(reply(request, address, held.lease.ack(request, Some(left))));
                        let event = match ciaddr {
                            None => Event::Completed(request.chaddr, address, None),
                            Some(_) => Event::Rebound(request.chaddr, address),
                        };
                        out.push(Action::Tell(event));
                    }
                    None => out.push(silent("dhcp.augment.unknown")),
                }
            }
            // A client that names a server when it rebinds means only that one.
            (Some(_), Some(_)) => out.push(silent("dhcp.augment.malformed")),
        }
    }

    /// Time has passed. A router that pings before its first offer (ISC dhcpd) drops what a relay asks meanwhile. The phone
    /// has its own ACK by now; what it was told is asked for once more, so that its next start finds us prepared.
    pub fn tick(&mut self, scope: Option<&DhcpScope>, now: Instant, out: &mut Vec<Action>) {
        while let Some((mac, server, xid)) = self.relay_retry.next(now) {
            let Some((scope, phone)) = scope.zip(self.phones.get(&mac)) else { continue };
            let current = phone.discover.as_ref().is_some_and(|(_, current, _)| *current == xid);
            let answered =
                phone.held.as_ref().is_some_and(|held| now.saturating_duration_since(held.lease.at) < RELAY_VALID)
                    || phone.prepared.iter().any(|prepared| prepared.server == server);
            if current && !answered && self.all.take(now) {
                out.push(Action::Relay(server, completed_offer::relayed(&phone.said, scope.server, xid)));
            }
        }
        for mac in std::mem::take(&mut self.waiting) {
            let Some(phone) = self.phones.get_mut(&mac) else { continue };
            let Some((request, at)) = &phone.pending else { continue };
            if now.saturating_duration_since(*at) < PENDING {
                self.waiting.push(mac);
                continue;
            }
            let named = request.options.address(OptionCode::ServerIdentifier);
            let taken = request.options.address(OptionCode::RequestedIpAddress);
            phone.late = named.zip(taken).map(|(server, address)| (server, address, *at));
            phone.pending = None;
            let (Some(scope), Some((server, _, _)), Some(discover)) = (scope, phone.late, &mut phone.discover) else {
                continue;
            };
            discover.2 = now;
            out.push(Action::Relay(server, completed_offer::relayed(&phone.said, scope.server, discover.1)));
        }
    }

    /// A server's message was seen on the link.
    pub fn server(
        &mut self,
        scope: Option<&DhcpScope>,
        message: &ServerMessage,
        taken: &dyn Fn(Ipv4Addr, MacAddr) -> bool,
        now: Instant,
        out: &mut Vec<Action>,
    ) {
        let phone = self.phones.get_mut(&message.chaddr);
        let relayed = |phone: &AugmentedPhone| phone.discover.as_ref().is_some_and(|(_, xid, _)| *xid == message.xid);
        let asked = self.asked == Some(message.xid) || phone.as_deref().is_some_and(relayed);
        let answers = if asked && !message.giaddr.is_unspecified() { Answers::Us(None) } else { Answers::Others };
        out.push(Action::Tell(Event::Heard(Box::new(message.overheard(answers)))));
        let (Some(scope), Some(phone)) = (scope, phone) else { return };
        let mac = message.chaddr;
        if message.kind == MessageType::Nak {
            // Only one that disputes what we said: a phone that was moved here hears a NAK for its old address, too.
            if phone.answered == Some(message.xid) {
                (phone.held, phone.answered) = (None, None);
                phone.quiet_until = Some(now + QUIET);
                phone.prepared.clear();
                out.push(Action::Tell(Event::Nak(mac, message.server)));
            }
            return;
        }
        let Some((discover, _, _)) = phone.discover.as_ref().filter(|(_, xid, at)| {
            let fresh = now.saturating_duration_since(*at) < RELAY_VALID;
            // What the router says to us as a relay agent, or to the phone itself if it wants broadcasts.
            let ours = *xid == message.xid && message.giaddr == scope.server;
            fresh && message.kind == MessageType::Offer && ours
        }) else {
            return;
        };
        // Only what can be true: our routers, an address of this LAN that is nobody else's.
        let address = message.yiaddr;
        let wrong = !scope.is_local(address)
            || [scope.server, scope.broadcast(), message.server].contains(&address)
            || taken(address, mac);
        if wrong || !self.servers.contains(&message.server) {
            return out.push(Action::Tell(Event::Silent("dhcp.augment.address")));
        }
        let points = message.tftp();
        if !points.is_empty() {
            return out.push(Action::Tell(Event::Points(mac, message.server, points)));
        }
        let Some(made) = CompletedOffer::new(scope, (discover, &phone.said), message, now) else {
            return out.push(Action::Tell(Event::Silent("dhcp.augment.no-room")));
        };
        phone.prepared.retain(|other| other.server != message.server);
        if let Some((_, _, at)) = phone.late.filter(|(server, taken, _)| (*server, *taken) == (message.server, address))
        {
            out.push(Action::Tell(Event::Late(address, made.exchange())));
            (phone.held, phone.late) = (Some(RouterLease { lease: made, since: at, gone: Duration::ZERO }), None);
            return;
        }
        if scope.chooses_by_offer(discover) {
            out.push(reply(discover, address, made.offer(discover)));
            out.push(Action::Tell(Event::Offered(mac)));
        }
        phone.prepared.push(made);
        if let Some((pending, at)) = phone.pending.take()
            && now.saturating_duration_since(at) < PENDING
        {
            self.request(scope, &pending, &|address| taken(address, mac), now, out);
        }
    }

    /// Whether there is room to remember this phone.
    fn has_room(&mut self, mac: MacAddr, known: bool, now: Instant) -> bool {
        if self.phones.contains_key(&mac) {
            return true;
        }
        let strangers =
            |phones: &HashMap<MacAddr, AugmentedPhone>| phones.values().filter(|phone| !phone.known).count();
        if !known && strangers(&self.phones) >= MAX_STRANGERS {
            self.phones.retain(|_, phone| {
                let recent = phone.last.is_some_and(|last| now.saturating_duration_since(last) < STRANGER_KEPT);
                phone.known || (recent && (phone.held.is_some() || phone.prepared.is_empty()))
            });
            return strangers(&self.phones) < MAX_STRANGERS;
        }
        self.phones.len() < MAX_PHONES
    }
}

fn reply(request: &Request, address: Ipv4Addr, message: Vec<u8>) -> Action {
    // RFC 2131 §4.1: a client that has the address already (ciaddr) is reached there.
    let broadcast = request.flags & BROADCAST != 0 && request.ciaddr.is_unspecified();
    Action::Reply { mac: request.chaddr, address, broadcast, message }
}

/// SplitMix64: only that a stranger cannot guess the next one is asked of it.
fn next(state: &mut u64) -> u32 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mixed = (*state ^ (*state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    u32::try_from((mixed ^ (mixed >> 31)) >> 32).unwrap_or(0)
}

#[cfg(test)]
mod tests;
