//! A phone's REQUEST, and what of it we answer. Pure.

use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use super::action::{Action, Event, NotCompleted};
use super::completed_offer::relayed;
use super::phone::{AugmentedPhone, Choice, DeferredRequest, RouterLease, Standing};
use super::{Augment, Occupant};
use crate::message::{BROADCAST, Request};
use crate::options::OptionCode;
use crate::scope::DhcpScope;

impl Augment {
    /// RFC 2131 §4.3.2: which state a client is in shows in what it filled in (table 4).
    pub(super) fn request(
        &mut self,
        scope: &DhcpScope,
        request: &Request,
        occupant: &dyn Fn(Ipv4Addr) -> Occupant,
        now: Instant,
        out: &mut Vec<Action>,
    ) {
        let Some(phone) = self.phones.get_mut(request.chaddr) else {
            return out.push(NotCompleted::Unknown.into());
        };
        if phone.is_quiet(now) {
            return out.push(NotCompleted::Quiet.into());
        }
        let requested = request.options.address(OptionCode::RequestedIpAddress);
        let ciaddr = Some(request.ciaddr).filter(|address| !address.is_unspecified());
        let server = request.options.address(OptionCode::ServerIdentifier);
        let address = match (requested, ciaddr) {
            (Some(address), None) | (None, Some(address)) => address,
            _ => return out.push(NotCompleted::Malformed.into()),
        };
        if !scope.lan.contains(address) || [scope.server(), scope.lan.broadcast()].contains(&address) {
            return out.push(NotCompleted::Address.into());
        }
        let seen = occupant(address);
        if seen != Occupant::Nobody && self.holders.wanted(address, now) {
            out.push(Action::Ask(address));
        }
        // A phone that selects was just offered the address by its router. One that comes back with its lease may have lost
        // the address to somebody else meanwhile.
        let selects = server.is_some() && ciaddr.is_none();
        if self.holders.has_another((address, request.chaddr), seen, selects, now) {
            return out.push(NotCompleted::Address.into());
        }
        match (server, ciaddr) {
            (Some(server), None) => self.selecting(scope, request, server, address, now, out),
            (None, None) => {
                let completed = Event::Completed { phone: request.chaddr, address, exchange: None };
                confirm(phone, request, address, completed, now, out);
            }
            (None, Some(_)) => {
                let rebound = Event::Rebound { phone: request.chaddr, address };
                confirm(phone, request, address, rebound, now, out);
            }
            // A client that names a server when it rebinds means only that one.
            (Some(_), Some(_)) => out.push(NotCompleted::Malformed.into()),
        }
    }

    /// SELECTING: the phone takes the offer of a router.
    ///
    /// Some routers (Kea) offer another address to each DISCOVER of a new client. The phone names the address that it was
    /// offered itself, and all else is the same.
    fn selecting(
        &mut self,
        scope: &DhcpScope,
        request: &Request,
        server: Ipv4Addr,
        address: Ipv4Addr,
        now: Instant,
        out: &mut Vec<Action>,
    ) {
        let mac = request.chaddr;
        let Some(phone) = self.phones.get_mut(mac) else { return };
        let offer = phone.discovery.as_mut().and_then(|discovery| discovery.offer_of(server, now));
        if let Some(offer) = offer.filter(|_| address != server) {
            offer.set_address(address);
            let message = offer.ack(request, None);
            out.push(reply(request, address, message));
            let offer = offer.clone();
            let exchange = Some(offer.exchange());
            out.push(Action::Tell(Event::Completed { phone: mac, address, exchange }));
            phone.lease = Some(RouterLease { offer, since: now, passed: Duration::ZERO });
            phone.standing = Standing::Answered { xid: request.xid, server };
            return;
        }
        let may_be_short = phone.may_have_short_lease(now);
        let discovery = phone.discovery.as_mut().filter(|discovery| discovery.is_current(now));
        let Some(discovery) = discovery.filter(|_| self.servers.contains(&server)) else {
            // The phone takes another server's lease, so the one that we know of has ended.
            phone.lease = None;
            return out.push(NotCompleted::OtherServer.into());
        };
        let pings = self.relay_retry.pings(server) && discovery.waited_for_a_ping(server, now);
        if pings && may_be_short && discovery.choice.is_open() {
            let what = (&discovery.discover, discovery.bytes.as_slice());
            if let Some(offer) = self.pools.lease(scope, what, (server, address), now) {
                out.push(reply(request, address, offer.ack(request, None)));
                out.push(Action::Tell(Event::Short { phone: mac, address }));
                // What the router really leases is for the phone's next start.
                if let Some(xid) = discovery.asked.xid_of(server) {
                    out.push(Action::Relay(server, relayed(&discovery.bytes, scope.server(), xid)));
                }
                discovery.choice = Choice::Missed { server, address, since: now, repeated: None };
                discovery.at = now;
                phone.short_lease = Some(now);
                phone.standing = Standing::Answered { xid: request.xid, server };
                return;
            }
        }
        discovery.choice.wait(DeferredRequest { request: request.clone(), server, address, since: now });
        if !self.deferred.contains(&mac) {
            self.deferred.push(mac);
        }
    }
}

/// INIT-REBOOT and REBINDING of a lease that we saw being made, for what is certainly left of it. If the router has renewed
/// it since, its own answer to the phone is the longer one.
fn confirm(
    phone: &mut AugmentedPhone,
    request: &Request,
    address: Ipv4Addr,
    event: Event,
    now: Instant,
    out: &mut Vec<Action>,
) {
    let lease = phone.lease.as_ref().filter(|lease| lease.offer.address == address);
    let Some((lease, left)) = lease.and_then(|lease| Some((lease, lease.left(now)?))) else {
        return out.push(NotCompleted::Unknown.into());
    };
    phone.standing = Standing::Answered { xid: request.xid, server: lease.offer.server };
    out.push(reply(request, address, lease.offer.ack(request, Some(left))));
    out.push(Action::Tell(event));
}

pub(super) fn reply(request: &Request, address: Ipv4Addr, message: Vec<u8>) -> Action {
    // RFC 2131 §4.1: a client that has the address already (ciaddr) is reached there.
    let broadcast = request.flags & BROADCAST != 0 && request.ciaddr.is_unspecified();
    Action::Reply { mac: request.chaddr, address, broadcast, message }
}
