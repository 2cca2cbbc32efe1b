//! The decision: one request, at most one reply. Pure.
//!
//! RFC 2131 §4.3 in its order. Read [`Verdict`] (what can come of a request), [`respond`], `answer` (how a reply is made),
//! then [`respond_to_inform`], which needs no lease.

mod answer;
mod inform;
mod verdict;

use std::net::Ipv4Addr;
use std::time::Duration;

use dhcproto::v4::MessageType;

use self::answer::Answer;
pub use self::inform::respond_to_inform;
use self::verdict::silent;
pub use self::verdict::{Destination, SilenceReason, Verdict};
use super::lan::{AddressUse, LanView};
use super::leases::{ClientId, Lease, LeaseState, Leases, OTHER_OFFER, Occupancy, PHONE_OFFER, QUARANTINE};
use super::message::{BROADCAST, MessageKind, Request};
use super::options::OptionCode;
use super::scope::{ActiveMode, DhcpScope};
use ids::UnixTime;

/// A device may not answer ARP at once for an address that it has just got.
const SETTLES_WITHIN: Duration = Duration::from_secs(60);

/// An address is held longer than the client is told, by one part in so many of the lease.
const RESERVE: u32 = 16;

/// What an answer depends on besides the request and the settings.
#[derive(Debug, Clone, Copy)]
pub struct View<'a> {
    /// The other servers, and who uses which address.
    pub lan: &'a LanView,
    /// The addresses that are leased.
    pub leases: &'a Leases,
    /// The address that the request came from; 0.0.0.0 for a client without one.
    pub source: Ipv4Addr,
}

/// Decides one request.
pub fn respond(scope: &DhcpScope, view: &View<'_>, request: &Request, now: UnixTime) -> Verdict {
    let answer = Answer { scope, request };
    if let Some(reason) = answer.refusal() {
        return silent(reason);
    }
    let case = || Case { scope, view, request, answer, client: ClientId::of(request), now };
    match (request.kind, scope.mode) {
        (MessageKind::Inform, _) => respond_to_inform(scope, request, view.source),
        (_, ActiveMode::Shadow | ActiveMode::Inform | ActiveMode::Augment) => silent(SilenceReason::Mode),
        (_, ActiveMode::PhonesOnly) if !scope.is_phone(request) => silent(SilenceReason::NoPhone),
        (MessageKind::Discover, _) => case().discover(),
        (MessageKind::Request, _) => case().request(),
        (MessageKind::Decline, _) => case().decline(),
        (MessageKind::Release, _) => case().release(),
    }
}

/// Whose the record of a client is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Holder {
    /// The device that asks.
    ThisDevice,
    /// Another device with the same identifier.
    OtherDevice,
    /// ARP must be asked.
    Unknown,
}

/// One request about a lease, and what its answer depends on.
struct Case<'a> {
    scope: &'a DhcpScope,
    view: &'a View<'a>,
    request: &'a Request,
    answer: Answer<'a>,
    client: ClientId,
    now: UnixTime,
}

impl Case<'_> {
    /// Whose a record of this client is. Two devices may use one identifier (option 61), and one device may come with another
    /// hardware address. So what tells them apart is whether the device that the record names is still there.
    fn holder(&self, record: &Lease) -> Holder {
        let (mac, now) = (self.request.chaddr, self.now);
        // Where ARP cannot be asked, the identifier alone says who a client is (RFC 2131 §4.2).
        if record.mac == mac || !record.holds(now) || !self.scope.check_addresses {
            return Holder::ThisDevice;
        }
        let is_new = record.state == LeaseState::Offered
            || record.until.since(now) + SETTLES_WITHIN >= self.scope.lease + self.scope.lease / RESERVE;
        match self.view.lan.usage(record.address, now) {
            _ if is_new => Holder::OtherDevice,
            AddressUse::Unknown => Holder::Unknown,
            AddressUse::By(other) if other != mac => Holder::OtherDevice,
            AddressUse::By(_) | AddressUse::Silent => Holder::ThisDevice,
        }
    }

    /// The record of this device, or what is to be done first to find out whether it is this device's.
    fn record(&self) -> Result<Option<&Lease>, Verdict> {
        let record = self.view.leases.of(&self.client, self.request.chaddr);
        match record.map(|record| (record, self.holder(record))) {
            Some((record, Holder::Unknown)) => Err(Verdict::Check(record.address)),
            Some((_, Holder::OtherDevice)) => Ok(None),
            Some((record, Holder::ThisDevice)) => Ok(Some(record)),
            None => Ok(None),
        }
    }

    /// RFC 2131 §4.3.1.
    fn discover(&self) -> Verdict {
        let Self { scope, view, request, client, now, .. } = self;
        let (mac, now) = (request.chaddr, *now);
        let is_anothers = |address| {
            let record = view.leases.at(address).filter(|record| record.client == *client);
            record.is_some_and(|record| self.holder(record) == Holder::OtherDevice)
        };
        let in_use = |address| {
            matches!(view.lan.usage(address, now), AddressUse::By(other) if other != mac) || is_anothers(address)
        };
        let requested = request.options.address(OptionCode::RequestedIpAddress);
        let is_silent = |address| !scope.check_addresses || view.lan.usage(address, now) == AddressUse::Silent;
        let first_silent = |fits: &dyn Fn(&Ipv4Addr) -> bool| view.lan.silent(now).find(fits);
        let occupancy = Occupancy { in_use: &in_use, is_silent: &is_silent, first_silent: &first_silent };
        let Some(address) = view.leases.choose(client, mac, requested, now, &occupancy) else {
            return silent(SilenceReason::RangeFull);
        };
        let held = view.leases.at(address).filter(|record| record.holds(now) && record.mac == mac);
        let bound = held.is_some_and(|record| record.state == LeaseState::Bound);
        // §3.1 step 2: a server should check that an address is not in use before it offers it. An address that this client
        // holds may be in use by the client itself.
        if scope.check_addresses && held.is_none() && view.lan.usage(address, now) == AddressUse::Unknown {
            return Verdict::Check(address);
        }
        // A client that restarts still holds its lease. An offer that it does not take must not shorten the lease.
        let offer = (!bound).then(|| {
            let hold = if scope.is_phone(request) { PHONE_OFFER } else { OTHER_OFFER };
            self.lease(address, LeaseState::Offered, hold)
        });
        let reply = self.answer.reply(MessageType::Offer, address, self.answer.parameters(Some(scope.lease)));
        Verdict::Reply(Box::new(reply), self.answer.destination(address), offer)
    }

    /// RFC 2131 §4.3.2.
    fn request(&self) -> Verdict {
        match self.record() {
            Ok(own) => self.request_of(own),
            Err(first) => first,
        }
    }

    /// Which of its four states a client is in shows in what it filled in (table 4). `own` is the record of this device.
    fn request_of(&self, own: Option<&Lease>) -> Verdict {
        let requested = self.request.options.address(OptionCode::RequestedIpAddress);
        let ciaddr = Some(self.request.ciaddr).filter(|address| !address.is_unspecified());
        match (self.request.options.address(OptionCode::ServerIdentifier), requested, ciaddr) {
            (Some(server), _, _) if server != self.scope.server() => self.took_other_offer(),
            (Some(_), Some(address), None) => self.selecting(address, own),
            (None, Some(address), None) => self.init_reboot(address, own),
            // Some clients name the server when they renew.
            (_, _, Some(address)) => self.extending(address, own),
            (_, None, None) => silent(SilenceReason::Malformed),
        }
    }

    /// The client took another server's offer. Ours is void; a lease that it had from us before stays until it ends.
    fn took_other_offer(&self) -> Verdict {
        let record = self.view.leases.of(&self.client, self.request.chaddr);
        let mine = record.filter(|record| record.mac == self.request.chaddr);
        let offered = mine.filter(|record| record.state == LeaseState::Offered);
        Verdict::Silence(
            SilenceReason::OtherServer,
            offered.map(|record| self.lease(record.address, LeaseState::Released, Duration::ZERO)),
        )
    }

    /// The client took our offer. If it cannot have the address after all, it must learn so.
    fn selecting(&self, address: Ipv4Addr, own: Option<&Lease>) -> Verdict {
        if self.is_free(address, own) { self.ack(address) } else { self.nak("address not available") }
    }

    /// The client remembers an address and checks whether it still holds.
    fn init_reboot(&self, address: Ipv4Addr, own: Option<&Lease>) -> Verdict {
        // "If the server detects that the client is on the wrong net … the server SHOULD send a DHCPNAK".
        if !self.scope.lan.contains(address) {
            return self.nak("wrong network");
        }
        match own {
            Some(record) if record.address == address && self.is_free(address, own) => self.ack(address),
            // "… or if the client's notion of its IP address is incorrect".
            Some(_) => self.nak("not your address"),
            // "If the DHCP server has no record of this client, then it MUST remain silent".
            None => silent(SilenceReason::UnknownClient),
        }
    }

    /// The client renews (unicast) or rebinds (broadcast).
    fn extending(&self, address: Ipv4Addr, own: Option<&Lease>) -> Verdict {
        if !self.scope.lan.contains(address) {
            return self.nak("wrong network");
        }
        match own {
            Some(record) if record.address == address && self.is_free(address, own) => self.ack(address),
            Some(record) if record.holds(self.now) => self.nak("not your address"),
            // We leased the address to somebody else: a NAK keeps two devices off one address.
            _ if self
                .view
                .leases
                .at(address)
                .is_some_and(|other| other.state == LeaseState::Bound && other.holds(self.now)) =>
            {
                self.nak("address taken")
            }
            // We never leased it, or have forgotten. The client may have its lease from another server: no NAK.
            _ => silent(SilenceReason::UnknownClient),
        }
    }

    /// RFC 2131 §4.3.3: the client found that somebody else uses the address.
    fn decline(&self) -> Verdict {
        let Some(address) = self.request.options.address(OptionCode::RequestedIpAddress) else {
            return silent(SilenceReason::Malformed);
        };
        self.give_back(address, LeaseState::Declined, QUARANTINE)
    }

    /// RFC 2131 §4.3.4.
    fn release(&self) -> Verdict {
        self.give_back(self.request.ciaddr, LeaseState::Released, Duration::ZERO)
    }

    fn give_back(&self, address: Ipv4Addr, state: LeaseState, span: Duration) -> Verdict {
        if self.request.options.address(OptionCode::ServerIdentifier) != Some(self.scope.server()) {
            return silent(SilenceReason::OtherServer);
        }
        // Only its own: nobody can free or block somebody else's address by naming it, or by naming his identifier.
        let mac = self.request.chaddr;
        let own = self.view.leases.of(&self.client, mac).filter(|record| record.mac == mac && record.holds(self.now));
        match own {
            Some(own) if own.address == address => {
                Verdict::Silence(SilenceReason::Noted, Some(self.lease(address, state, span)))
            }
            _ => silent(SilenceReason::UnknownClient),
        }
    }

    fn is_free(&self, address: Ipv4Addr, own: Option<&Lease>) -> bool {
        self.view.leases.is_free_for(address, own.map(|record| record.address), self.now)
    }

    fn lease(&self, address: Ipv4Addr, state: LeaseState, span: Duration) -> Lease {
        let (mac, client) = (self.request.chaddr, self.client.clone());
        Lease { address, mac, client, state, until: self.now.plus(span) }
    }

    fn ack(&self, address: Ipv4Addr) -> Verdict {
        let lease = self.scope.lease;
        let mut reply = self.answer.reply(MessageType::Ack, address, self.answer.parameters(Some(lease)));
        reply.ciaddr = self.request.ciaddr;
        // We hold the address for longer than we promise, and write again only when that reserve is used up. So a client
        // that repeats its REQUEST, by fault or on purpose, does not wear out the SD card.
        let promised = self.now.plus(lease);
        let bound = self.view.leases.at(address).is_some_and(|record| {
            record.state == LeaseState::Bound
                && record.until >= promised
                && (record.mac, &record.client) == (self.request.chaddr, &self.client)
        });
        let change = (!bound).then(|| self.lease(address, LeaseState::Bound, lease + lease / RESERVE));
        Verdict::Reply(Box::new(reply), self.answer.destination(address), change)
    }

    /// §4.3.2 and table 3: a NAK has no address and no parameters. It goes to everyone, through a relay with the broadcast
    /// bit set.
    ///
    /// We send it only in mode `all`, where we are the one server. Elsewhere another server may have given the address.
    fn nak(&self, message: &str) -> Verdict {
        if self.scope.mode != ActiveMode::All {
            return silent(SilenceReason::UnknownClient);
        }
        let options = vec![
            (OptionCode::ServerIdentifier, self.scope.server().octets().to_vec()),
            (OptionCode::Message, message.as_bytes().to_vec()),
        ];
        let mut reply = self.answer.reply(MessageType::Nak, Ipv4Addr::UNSPECIFIED, options);
        reply.siaddr = Ipv4Addr::UNSPECIFIED;
        if !self.request.giaddr.is_unspecified() {
            reply.flags |= BROADCAST;
        }
        Verdict::Reply(Box::new(reply), self.answer.relay().unwrap_or(Destination::Everyone), None)
    }
}

#[cfg(test)]
mod tests;
