//! `augment`: the router leases addresses, and for phones we complete its answers with options 66 and 150. Pure.
//!
//! We pass a phone's DISCOVER on to the router as a relay agent does. The router's OFFER to us says what the router is
//! about to tell the phone, and we prepare the ACK from it. The phone's REQUEST names that router and that address, and
//! the prepared ACK goes out at once. The phone takes the first ACK and ignores the router's own. We invent nothing:
//! address, times, mask and gateway are the router's for this phone. A phone that the router answers first has the
//! router's lease, as without us.
//!
//! These rules keep `augment` harmless. Each test says which of them it shows:
//!
//! - A1: Nothing is invented. Lease time, T1, T2, mask and gateway are the router's for this phone, and no time is longer
//!   than the router's. We answer nothing before we know them, but for a first boot beside a router that pings before it
//!   leases: it gets the terms of the router's pool for five minutes (`pool_terms`).
//! - A2: We answer a REQUEST only if it names a known router and an address of that router's subnet that neither another
//!   device nor we have. That another device was there before is no proof (`holders`): it is asked for.
//! - A3: After a NAK of the router whose lease it is to our answer we leave the phone alone for a day, and report it.
//! - A4: Of two routers each keeps its own parameters, and we report that there are two.
//! - A5: We leave a router alone that points a phone itself, in 66, 150 or an option of the phone's vendor, and report it
//!   if it points elsewhere.
//! - A6: A renewal at T1 is between phone and router. We report a phone that we answered and that fetches nothing.
//! - A7: We answer phones only, never with a NAK, and never a device that the site does not name. Each answer is counted.
//!
//! Read `phone` (what we know of one phone), `phones`, [`completed_offer`] (the messages that are made), `transactions` (whose
//! OFFER is believed), then [`Augment`] and `request`. `relay_retry` says how often a router is asked.

mod action;
pub mod completed_offer;
mod holders;
mod phone;
mod phones;
mod pool_terms;
mod relay_retry;
mod request;
mod transactions;

use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use dhcproto::v4::MessageType;

pub use self::action::{Action, Event, NotCompleted};
pub use self::completed_offer::{CompletedOffer, Exchange};
use self::holders::Holders;
pub use self::holders::Occupant;
use self::phone::{AugmentedPhone, Choice, DeferredRequest, Discovery, RELAY_VALID, RouterLease, Standing};
use self::phones::Phones;
use self::pool_terms::{OfferedTo, Pools};
use self::relay_retry::{RelayBudget, RelayRetry};
use self::request::reply;
use self::transactions::{Asked, Transactions};
use super::completed_lease::CompletedLease;
use super::heard::{Answers, Host, ServerMessage, TftpPointer};
use super::message::{MessageKind, Request};
use super::options::OptionCode;
use super::question;
use super::scope::DhcpScope;
use ids::MacAddr;

/// How long we leave a phone alone after a router's NAK to our answer.
pub const QUIET: Duration = Duration::from_secs(86_400);
/// The most routers that are asked.
pub const MAX_SERVERS: usize = 4;

/// The phones of a LAN and what its routers are about to tell them.
///
/// Its methods, in the order in which they are used:
///
/// 1. *What is in force*: [`Self::set_servers`] and [`Self::set_slow`] name the routers, [`Self::drop_completed`] follows
///    a change of the options that we add, [`Self::recall`] brings back leases of before a restart, and
///    [`Self::relay_own`] asks a new router whether it answers relay agents.
/// 2. *What was heard*: [`Self::hear_client`] and [`Self::hear_server`], once for each message on the link, and
///    [`Self::hear_holder`], once for each answer by ARP.
/// 3. *Time*: [`Self::tick`] before each message and at [`Self::deadline`].
///
/// They append what is to be done to a list of [`Action`]s.
#[derive(Debug)]
pub struct Augment {
    servers: Vec<Ipv4Addr>,
    phones: Phones,
    /// The phones with a REQUEST that waits, each once.
    deferred: Vec<MacAddr>,
    relays: RelayBudget,
    relay_retry: RelayRetry,
    pools: Pools,
    /// The names that are known to mean a TFTP server of this site.
    own_names: Vec<String>,
    holders: Holders,
    /// Our own DISCOVER and our address, once a router was asked with it.
    question: Option<(Vec<u8>, Ipv4Addr)>,
    /// The transactions of our own DISCOVERs.
    own: Asked,
    xids: Transactions,
}

impl Augment {
    /// Knows no router and no phone. `seed` makes transactions that nobody can guess.
    pub fn new(seed: u64) -> Self {
        Self {
            servers: Vec::new(),
            phones: Phones::default(),
            deferred: Vec::new(),
            relays: RelayBudget::default(),
            relay_retry: RelayRetry::default(),
            pools: Pools::default(),
            own_names: Vec::new(),
            holders: Holders::default(),
            question: None,
            own: Asked::default(),
            xids: Transactions::new(seed),
        }
    }

    /// Names the routers of this LAN. What other routers said to phones no longer counts.
    pub fn set_servers(&mut self, servers: &[Ipv4Addr]) {
        let servers: Vec<Ipv4Addr> = servers.iter().copied().take(MAX_SERVERS).collect();
        if servers == self.servers {
            return;
        }
        self.servers = servers;
        self.own.retain(&self.servers);
        self.relay_retry.retain(&self.servers);
        self.pools.retain(&self.servers);
        let known = |offer: &CompletedOffer| self.servers.contains(&offer.server);
        for phone in self.phones.iter_mut() {
            if let Some(discovery) = &mut phone.discovery {
                discovery.offers.retain(known);
            }
            phone.lease = phone.lease.take().filter(|lease| known(&lease.offer));
        }
    }

    /// Names the routers that are slow to offer, and how long they take.
    pub fn set_slow(&mut self, slow: &[(Ipv4Addr, Duration)]) {
        self.relay_retry.set_slow(slow);
    }

    /// Names the names that are known to mean a TFTP server of this site.
    pub fn set_own_names(&mut self, names: &[String]) {
        if self.own_names != names {
            self.own_names = names.to_vec();
        }
    }

    /// Drops all that was completed, because the options that we add have changed.
    pub fn drop_completed(&mut self) {
        for phone in self.phones.iter_mut() {
            phone.drop_offers();
            phone.lease = None;
        }
    }

    /// Takes over leases that were completed before a restart, each with the part of it that has passed. What no longer
    /// fits is left out.
    pub fn recall(&mut self, scope: &DhcpScope, completed: &[(CompletedLease, Duration)], now: Instant) {
        for (completed, passed) in completed {
            let Ok(discover) = Request::parse(&completed.discover) else { continue };
            let Some(offer) = ServerMessage::parse(&completed.offer) else { continue };
            let (mac, listed) = (discover.chaddr, scope.knows(discover.chaddr));
            let fits = offer.chaddr == mac
                && scope.is_phone(&discover)
                && self.servers.contains(&offer.server)
                && scope.lan.contains(offer.yiaddr)
                && pointers_for((&scope.tftp, &self.own_names), &discover, &offer).is_empty();
            let made = CompletedOffer::new(scope, (&discover, &completed.discover), &offer, now);
            let Some(offer) = made.ok().filter(|_| fits) else { continue };
            let Some(phone) = self.phones.admit(mac, listed, now) else { continue };
            phone.last_seen = Some(now);
            // What was seen since the restart is newer.
            phone.lease.get_or_insert(RouterLease { offer, since: now, passed: *passed });
        }
    }

    /// Relays a DISCOVER of our own, to find out whether this router answers relay agents at all, and on which terms it
    /// leases. A router that pings is asked for its terms again by [`Self::tick`].
    pub fn relay_own(&mut self, server: Ipv4Addr, discover: &[u8], relay: Ipv4Addr) -> Action {
        let xid = self.xids.next();
        self.own.put(server, xid);
        self.question = Some((discover.to_vec(), relay));
        Action::Relay(server, completed_offer::relayed(discover, relay, xid))
    }

    /// A device answered by ARP that it has this address.
    pub fn hear_holder(&mut self, address: Ipv4Addr, mac: MacAddr) {
        self.holders.heard(address, mac);
    }

    /// A client's message was seen on the link, `broadcast` if it was for everyone. `occupant` says what the neighbour table
    /// has at an address beside this client.
    pub fn hear_client(
        &mut self,
        (scope, request, bytes): (&DhcpScope, &Request, &[u8]),
        broadcast: bool,
        occupant: &dyn Fn(Ipv4Addr) -> Occupant,
        now: Instant,
        out: &mut Vec<Action>,
    ) {
        // We serve phones only, and nobody behind another relay.
        if !scope.is_phone(request) || !request.giaddr.is_unspecified() {
            return;
        }
        match request.kind {
            MessageKind::Discover => self.discover(scope, request, bytes, now, out),
            MessageKind::Request if broadcast => self.request(scope, request, occupant, now, out),
            // The phone found the address in use, or gives it back: it has no lease any more.
            MessageKind::Decline | MessageKind::Release => {
                if let Some(phone) = self.phones.get_mut(request.chaddr) {
                    phone.lease = None;
                    if let Some(discovery) = &mut phone.discovery {
                        discovery.choice.take_waiting();
                    }
                    phone.drop_offers();
                }
            }
            // A unicast REQUEST is a renewal, between phone and router. DHCPINFORM is answered elsewhere.
            MessageKind::Request | MessageKind::Inform => {}
        }
    }

    fn discover(&mut self, scope: &DhcpScope, request: &Request, bytes: &[u8], now: Instant, out: &mut Vec<Action>) {
        let (mac, listed) = (request.chaddr, scope.knows(request.chaddr));
        if self.servers.is_empty() {
            return out.push(NotCompleted::NotRelayed.into());
        }
        let Some(phone) = self.phones.admit(mac, listed, now) else {
            return out.push(NotCompleted::NotRelayed.into());
        };
        // A phone that begins anew chooses anew: only what routers say from now on counts.
        let began = phone.discovery.take().and_then(|before| before.unanswered_since(now)).unwrap_or(now);
        if phone.is_quiet(now) {
            return;
        }
        if !phone.may_be_relayed(now) || !self.relays.allow(listed, now) {
            return out.push(NotCompleted::NotRelayed.into());
        }
        phone.last_seen = Some(now);
        let asked = Asked::new(&self.servers, &mut self.xids);
        for (server, xid) in asked.iter() {
            out.push(Action::Relay(server, completed_offer::relayed(bytes, scope.server(), xid)));
            if listed {
                self.relay_retry.relayed(mac, server, xid, now);
            }
        }
        phone.discovery = Some(Discovery {
            discover: request.clone(),
            bytes: bytes.to_vec(),
            asked,
            began,
            at: now,
            offers: Vec::new(),
            choice: Choice::Open,
        });
    }

    /// A server's message was seen on the link. Without a scope, `augment` is not in force and only learns.
    pub fn hear_server(
        &mut self,
        scope: Option<&DhcpScope>,
        message: &ServerMessage,
        occupant: &dyn Fn(Ipv4Addr, MacAddr) -> Occupant,
        now: Instant,
        out: &mut Vec<Action>,
    ) {
        let is_answer = |asked: &Asked| asked.xid_of(message.server) == Some(message.xid);
        let of_phone = |phone: &AugmentedPhone| phone.discovery.as_ref().is_some_and(|it| is_answer(&it.asked));
        let own = is_answer(&self.own) && !message.giaddr.is_unspecified();
        let asked = own || self.phones.get(message.chaddr).is_some_and(of_phone);
        if own && message.kind == MessageType::Offer {
            self.pools.learn(message, Some(&question::ASKED), OfferedTo::Us, now);
        }
        let answers = if asked && !message.giaddr.is_unspecified() { Answers::Us(None) } else { Answers::Others };
        out.push(Action::Tell(Event::Heard(Box::new(message.overheard(answers)))));
        let Some(scope) = scope else { return };
        match message.kind {
            MessageType::Offer => self.offer(scope, message, occupant, now, out),
            MessageType::Nak => self.nak(message, now, out),
            _ => {}
        }
    }

    /// Only a NAK in the transaction that we answered disputes our answer: a phone that was moved here hears a NAK for its
    /// old address, too. Only the router whose lease it is knows that lease: another machine says NAK to whatever it did
    /// not lease itself (an `authoritative` dhcpd of another network, plugged in here), and that it is there is reported by
    /// what was heard of it.
    fn nak(&mut self, message: &ServerMessage, now: Instant, out: &mut Vec<Action>) {
        let Some(phone) = self.phones.get_mut(message.chaddr) else { return };
        if phone.standing == (Standing::Answered { xid: message.xid, server: message.server }) {
            phone.standing = Standing::Quiet { until: now + QUIET };
            phone.lease = None;
            phone.drop_offers();
            out.push(Action::Tell(Event::Refused { phone: message.chaddr, server: message.server }));
        }
    }

    fn offer(
        &mut self,
        scope: &DhcpScope,
        message: &ServerMessage,
        occupant: &dyn Fn(Ipv4Addr, MacAddr) -> Occupant,
        now: Instant,
        out: &mut Vec<Action>,
    ) {
        let (mac, server, address) = (message.chaddr, message.server, message.yiaddr);
        let Some(phone) = self.phones.get_mut(mac) else { return };
        // The router answers us as a relay agent. If the phone wants broadcasts, the phone hears the answer, too.
        let discovery = phone.discovery.as_mut().filter(|it| message.giaddr == scope.server() && it.is_current(now));
        let Some(discovery) = discovery else { return };
        // Each router knows its own transaction only. The address that the message comes from is not looked at: routers
        // with several addresses answer a relay from another one than they name, and any device can write any address.
        if discovery.asked.xid_of(server) != Some(message.xid) {
            if discovery.asked.is_forged(server, message.xid) {
                out.push(NotCompleted::Forged.into());
            }
            return;
        }
        // Only what can be true: a router that we know, and an address of this LAN.
        let wrong = !scope.lan.contains(address) || [scope.server(), scope.lan.broadcast(), server].contains(&address);
        if wrong || !self.servers.contains(&server) {
            return out.push(NotCompleted::Address.into());
        }
        // It answers before the phone's REQUEST comes, if it is there.
        if occupant(address, mac) != Occupant::Nobody && self.holders.offered(address, now) {
            out.push(Action::Ask(address));
        }
        let list = discovery.discover.options.get(OptionCode::ParameterRequestList);
        self.pools.learn(message, list, OfferedTo::Phone, now);
        let pointers = pointers_for((&scope.tftp, &self.own_names), &discovery.discover, message);
        if !pointers.is_empty() {
            let tftp = pointers.iter().map(|pointer| pointer.server.to_string()).collect();
            return out.push(Action::Tell(Event::Points { phone: mac, server, tftp, pointers }));
        }
        let made = match CompletedOffer::new(scope, (&discovery.discover, &discovery.bytes), message, now) {
            Ok(made) => made,
            Err(reason) => return out.push(reason.into()),
        };
        discovery.offers.retain(|other| other.server != server);
        if let Some(since) = discovery.choice.settle_missed(server, address) {
            self.relay_retry.phone_waited(server, since.saturating_duration_since(discovery.began));
            out.push(Action::Tell(Event::LearntLate { address, exchange: made.exchange() }));
            phone.lease = Some(RouterLease { offer: made, since, passed: Duration::ZERO });
            return;
        }
        // RFC 4039: a router that grants rapid commit has leased by now, and the phone sends no REQUEST. If it does send one,
        // its lease begins anew with that.
        if completed_offer::wants_rapid_commit(&discovery.discover) {
            out.push(NotCompleted::RapidCommit.into());
            out.push(Action::Tell(Event::LearntLate { address, exchange: made.exchange() }));
            phone.lease = Some(RouterLease { offer: made.clone(), since: discovery.at, passed: Duration::ZERO });
        }
        if scope.chooses_by_offer(&discovery.discover) {
            out.push(reply(&discovery.discover, address, made.offer(&discovery.discover)));
            out.push(Action::Tell(Event::Offered(mac)));
        }
        discovery.offers.push(made);
        if let Some(waiting) = discovery.choice.take_waiting().filter(|waiting| !waiting.is_due(now)) {
            self.request(scope, &waiting.request, &|address| occupant(address, mac), now, out);
        }
    }

    /// Time has passed. Without a scope, `augment` is not in force and asks nobody.
    ///
    /// A router that pings before its first offer (ISC dhcpd) drops what a relay asks meanwhile. It is asked once more, in
    /// time for the phone's REQUEST if possible. If not, the phone has the router's own ACK by then, and the terms that we
    /// learn are for its next start.
    pub fn tick(&mut self, scope: Option<&DhcpScope>, now: Instant, out: &mut Vec<Action>) {
        while let Some((mac, server, xid)) = self.relay_retry.next(now) {
            let Some((scope, phone)) = scope.zip(self.phones.get(mac)) else { continue };
            let Some(discovery) = phone.discovery.as_ref() else { continue };
            if discovery.asked.xid_of(server) != Some(xid) {
                continue;
            }
            let recent = |at: Instant| now.saturating_duration_since(at) < RELAY_VALID;
            let answered = phone.lease.as_ref().is_some_and(|lease| recent(lease.offer.at))
                || discovery.offers.iter().any(|offer| offer.server == server);
            if !answered && self.relays.allow(true, now) {
                out.push(Action::Relay(server, completed_offer::relayed(&discovery.bytes, scope.server(), xid)));
            }
        }
        self.ask_for_terms(scope, now, out);
        let phones = &mut self.phones;
        self.deferred.retain(|mac| {
            let Some(discovery) = phones.get_mut(*mac).and_then(|phone| phone.discovery.as_mut()) else { return false };
            match discovery.choice.waiting() {
                None => return false,
                Some(waiting) if !waiting.is_due(now) => return true,
                Some(&DeferredRequest { server, address, since, .. }) => {
                    discovery.choice = Choice::Missed { server, address, since, repeated: None };
                    out.push(NotCompleted::Late.into());
                    if let Some((scope, xid)) = scope.zip(discovery.asked.xid_of(server)) {
                        discovery.at = now;
                        let message = completed_offer::relayed(&discovery.bytes, scope.server(), xid);
                        out.push(Action::Relay(server, message));
                    }
                }
            }
            false
        });
    }

    /// Asks routers that ping for their terms, in time before those that we know are too old.
    fn ask_for_terms(&mut self, scope: Option<&DhcpScope>, now: Instant, out: &mut Vec<Action>) {
        let Some((_, (discover, relay))) = scope.zip(self.question.clone()) else { return };
        for server in self.servers.clone() {
            if self.relay_retry.pings(server) && self.pools.asks_now(server, now) {
                out.push(self.relay_own(server, &discover, relay));
            }
        }
    }

    /// When [`Self::tick`] has something to do that cannot wait for the next message.
    pub fn deadline(&self) -> Option<Instant> {
        self.relay_retry.deadline()
    }
}

/// A5: where the router itself points this phone. 66 and 150 count for every phone. A vendor's option counts for a phone
/// that asks for it, unless it names us: then 66 and 150 say the same.
fn pointers_for(
    (ours, own_names): (&[Ipv4Addr], &[String]),
    discover: &Request,
    message: &ServerMessage,
) -> Vec<TftpPointer> {
    let asks = |option: u8| {
        discover.options.get(OptionCode::ParameterRequestList).is_none() || discover.asks_for(OptionCode::from(option))
    };
    let mut pointers = message.pointers();
    let is_ours = |pointer: &TftpPointer| match &pointer.server {
        Host::Name(name) => own_names.contains(name),
        Host::Address(_) | Host::Resolved(..) => pointer.is_one_of(ours) == Some(true),
    };
    pointers.retain(|pointer| pointer.is_general() || (asks(pointer.option) && !is_ours(pointer)));
    pointers
}

#[cfg(test)]
mod tests;
