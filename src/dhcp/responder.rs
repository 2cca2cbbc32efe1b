//! The decision: one request, at most one reply. Pure.
//!
//! RFC 2131 §4.3 in its order. What a verdict changes is in the verdict: the service makes it durable, then true, then
//! sends the reply.

use std::net::Ipv4Addr;
use std::time::Duration;

use dhcproto::v4::MessageType;

use super::lan::{AddressUse, LanView};
use super::leases::{ClientId, Lease, LeaseState, Leases, OTHER_OFFER, Occupancy, PHONE_OFFER, QUARANTINE};
use super::message::{BROADCAST, MessageKind, Reply, Request};
use super::options::{self, OptionCode, address_list};
use super::scope::{ActiveMode, DhcpScope};
use crate::ids::{MacAddr, UnixTime};

/// What part of a lease an address is held longer than the client is told.
const RESERVE: u32 = 16;

/// What is known besides the site's settings.
#[derive(Debug, Clone, Copy)]
pub struct View<'a> {
    /// What others do here.
    pub lan: &'a LanView,
    /// Whose address it is.
    pub leases: &'a Leases,
    /// Where the request came from; 0.0.0.0 for a client without an address.
    pub source: Ipv4Addr,
}

/// What to do with a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Say nothing.
    Silence(SilenceReason, Option<Lease>),
    /// Ask the link whether somebody has this address, tell [`LanView::checked`], and decide again.
    Check(Ipv4Addr),
    /// Say this. The change comes first; if it cannot be kept, nothing is said.
    Reply(Box<Reply>, Destination, Option<Lease>),
}

/// Where a reply goes (RFC 2131 §4.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Destination {
    /// To the relay's address, server port.
    Relay(Ipv4Addr),
    /// To an address that the client has, client port.
    Address(Ipv4Addr),
    /// To an address that the client does not have yet, so in a frame to its hardware address; if that is not possible,
    /// to everyone.
    Client(Ipv4Addr, MacAddr),
    /// To 255.255.255.255, client port.
    Everyone,
}

/// Why nothing was said. Counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SilenceReason {
    /// The mode does not answer this.
    ActiveMode,
    /// The device is no phone.
    NoPhone,
    /// It is about another network, or has no address to answer to.
    OtherNetwork,
    /// The client chose another server.
    OtherServer,
    /// Nothing is known of this client.
    UnknownClient,
    /// All addresses are taken.
    RangeFull,
    /// The message contradicts itself.
    Malformed,
    /// It asks for no answer: DHCPDECLINE, DHCPRELEASE.
    Noted,
}

impl SilenceReason {
    /// The name of its counter.
    pub const fn counter(self) -> &'static str {
        match self {
            Self::ActiveMode => "dhcp.silent.mode",
            Self::NoPhone => "dhcp.silent.no-phone",
            Self::OtherNetwork => "dhcp.silent.other-network",
            Self::OtherServer => "dhcp.silent.other-server",
            Self::UnknownClient => "dhcp.silent.unknown-client",
            Self::RangeFull => "dhcp.silent.range-full",
            Self::Malformed => "dhcp.silent.malformed",
            Self::Noted => "dhcp.noted",
        }
    }
}

const fn silent(why: SilenceReason) -> Verdict {
    Verdict::Silence(why, None)
}

/// Decides one request.
pub fn respond(scope: &DhcpScope, view: &View<'_>, request: &Request, now: UnixTime) -> Verdict {
    if scope.mode == ActiveMode::Shadow {
        return silent(SilenceReason::ActiveMode);
    }
    // One segment is served. A relay's address tells which one the client is on (§4.3.1).
    if !request.giaddr.is_unspecified() && !scope.is_local(request.giaddr) {
        return silent(SilenceReason::OtherNetwork);
    }
    let case = Case { scope, view, request, client: ClientId::of(request), now };
    match (request.kind, scope.mode) {
        (MessageKind::Inform, _) => case.inform(),
        (_, ActiveMode::Shadow | ActiveMode::Inform | ActiveMode::Augment) => silent(SilenceReason::ActiveMode),
        (_, ActiveMode::PhonesOnly) if !scope.is_phone(request) => silent(SilenceReason::NoPhone),
        (MessageKind::Discover, _) => case.discover(),
        (MessageKind::Request, _) => case.request(),
        (MessageKind::Decline, _) => case.decline(),
        (MessageKind::Release, _) => case.release(),
    }
}

struct Case<'a> {
    scope: &'a DhcpScope,
    view: &'a View<'a>,
    request: &'a Request,
    client: ClientId,
    now: UnixTime,
}

impl Case<'_> {
    /// RFC 2131 §4.3.5.
    fn inform(&self) -> Verdict {
        if self.scope.mode != ActiveMode::All && !self.scope.is_phone(self.request) {
            return silent(SilenceReason::NoPhone);
        }
        // The client must say where it is; some leave ciaddr empty and mean the address they send from.
        let ciaddr = if self.request.ciaddr.is_unspecified() { self.view.source } else { self.request.ciaddr };
        // An answer must not leave the LAN, whatever a forged request says.
        if !self.scope.is_local(ciaddr) || ciaddr == self.scope.broadcast() {
            return silent(SilenceReason::OtherNetwork);
        }
        let reply = self.reply(MessageType::Ack, Ipv4Addr::UNSPECIFIED, self.parameters(None));
        let to = self.relay().unwrap_or(Destination::Address(ciaddr));
        Verdict::Reply(Box::new(reply), to, None)
    }

    /// RFC 2131 §4.3.1.
    fn discover(&self) -> Verdict {
        let Self { scope, view, request, client, now } = self;
        let (mac, now) = (request.chaddr, *now);
        let in_use = |address| matches!(view.lan.usage(address, now), AddressUse::By(other) if other != mac);
        let requested = request.options.address(OptionCode::RequestedIpAddress);
        let is_silent = |address| !scope.check_addresses || view.lan.usage(address, now) == AddressUse::Silent;
        let first_silent = |fits: &dyn Fn(&Ipv4Addr) -> bool| view.lan.silent(now).find(fits);
        let link = Occupancy { in_use: &in_use, is_silent: &is_silent, first_silent: &first_silent };
        let Some(address) = view.leases.choose(client, mac, requested, now, &link) else {
            return silent(SilenceReason::RangeFull);
        };
        let held = view.leases.at(address).filter(|record| record.holds(now) && record.mac == mac);
        let bound = held.is_some_and(|record| record.state == LeaseState::Bound);
        // §3.1 step 2: a server should check that an address is not in use before it offers it. What this client holds,
        // it may well be using itself.
        if scope.check_addresses && held.is_none() && view.lan.usage(address, now) == AddressUse::Unknown {
            return Verdict::Check(address);
        }
        // A client that restarts goes on holding its lease: an offer that it does not take must not shorten that.
        let offer = (!bound).then(|| {
            let hold = if scope.is_phone(request) { PHONE_OFFER } else { OTHER_OFFER };
            self.lease(address, LeaseState::Offered, hold)
        });
        let reply = self.reply(MessageType::Offer, address, self.parameters(Some(scope.lease)));
        Verdict::Reply(Box::new(reply), self.destination(address), offer)
    }

    /// RFC 2131 §4.3.2: which of its four states a client is in shows in what it filled in (table 4).
    fn request(&self) -> Verdict {
        let requested = self.request.options.address(OptionCode::RequestedIpAddress);
        let ciaddr = Some(self.request.ciaddr).filter(|address| !address.is_unspecified());
        match (self.request.options.address(OptionCode::ServerIdentifier), requested, ciaddr) {
            (Some(server), _, _) if server != self.scope.server => self.lost(),
            (Some(_), Some(address), None) => self.selecting(address),
            (None, Some(address), None) => self.init_reboot(address),
            // Some clients name the server when they renew.
            (_, _, Some(address)) => self.extending(address),
            (_, None, None) => silent(SilenceReason::Malformed),
        }
    }

    /// The client took another server's offer. Ours is void; what it had from us before stays until it ends.
    fn lost(&self) -> Verdict {
        let record = self.view.leases.of(&self.client, self.request.chaddr);
        let offered = record.filter(|record| record.state == LeaseState::Offered);
        Verdict::Silence(
            SilenceReason::OtherServer,
            offered.map(|record| self.lease(record.address, LeaseState::Released, Duration::ZERO)),
        )
    }

    /// The client took our offer. If it cannot have the address after all, it must learn so.
    fn selecting(&self, address: Ipv4Addr) -> Verdict {
        if self.is_free(address) { self.ack(address) } else { self.nak("address not available") }
    }

    /// The client remembers an address and checks whether it still holds.
    fn init_reboot(&self, address: Ipv4Addr) -> Verdict {
        // "If the server detects that the client is on the wrong net … the server SHOULD send a DHCPNAK".
        if !self.scope.is_local(address) {
            return self.nak("wrong network");
        }
        match self.view.leases.of(&self.client, self.request.chaddr) {
            Some(record) if record.address == address && self.is_free(address) => self.ack(address),
            // "… or if the client's notion of its IP address is incorrect".
            Some(_) => self.nak("not your address"),
            // "If the DHCP server has no record of this client, then it MUST remain silent".
            None => silent(SilenceReason::UnknownClient),
        }
    }

    /// The client renews (unicast) or rebinds (broadcast).
    fn extending(&self, address: Ipv4Addr) -> Verdict {
        if !self.scope.is_local(address) {
            return self.nak("wrong network");
        }
        match self.view.leases.of(&self.client, self.request.chaddr) {
            Some(record) if record.address == address && self.is_free(address) => self.ack(address),
            Some(record) if record.holds(self.now) => self.nak("not your address"),
            // Somebody else holds it from us: two devices on one address is what a NAK is for.
            _ if self
                .view
                .leases
                .at(address)
                .is_some_and(|other| other.state == LeaseState::Bound && other.holds(self.now)) =>
            {
                self.nak("address taken")
            }
            // Not ours, or forgotten: no NAK to a client that may have its lease from somebody else.
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
        if self.request.options.address(OptionCode::ServerIdentifier) != Some(self.scope.server) {
            return silent(SilenceReason::OtherServer);
        }
        // Only its own: nobody can free or block somebody else's address by naming it.
        let own = self.view.leases.of(&self.client, self.request.chaddr).filter(|record| record.holds(self.now));
        match own {
            Some(own) if own.address == address => {
                Verdict::Silence(SilenceReason::Noted, Some(self.lease(address, state, span)))
            }
            _ => silent(SilenceReason::UnknownClient),
        }
    }

    fn is_free(&self, address: Ipv4Addr) -> bool {
        self.view.leases.is_free_for(address, &self.client, self.request.chaddr, self.now)
    }

    fn lease(&self, address: Ipv4Addr, state: LeaseState, span: Duration) -> Lease {
        let (mac, client) = (self.request.chaddr, self.client.clone());
        Lease { address, mac, client, state, until: self.now.plus(span) }
    }

    fn ack(&self, address: Ipv4Addr) -> Verdict {
        let lease = self.scope.lease;
        let mut reply = self.reply(MessageType::Ack, address, self.parameters(Some(lease)));
        reply.ciaddr = self.request.ciaddr;
        // We hold the address for longer than we say, and write again only when that reserve is used up: a client that
        // repeats itself, or somebody who does it for harm, wears no SD card out.
        let promised = self.now.plus(lease);
        let bound = self.view.leases.at(address).is_some_and(|record| {
            record.state == LeaseState::Bound
                && record.until >= promised
                && (record.mac, &record.client) == (self.request.chaddr, &self.client)
        });
        let change = (!bound).then(|| self.lease(address, LeaseState::Bound, lease + lease / RESERVE));
        Verdict::Reply(Box::new(reply), self.destination(address), change)
    }

    /// §4.3.2 and table 3: no address, no parameters; to everyone, through a relay with the broadcast bit set.
    ///
    /// Only where we are the one server: elsewhere the address may be another server's to give.
    fn nak(&self, message: &str) -> Verdict {
        if self.scope.mode != ActiveMode::All {
            return silent(SilenceReason::UnknownClient);
        }
        let options = vec![
            (OptionCode::ServerIdentifier, self.scope.server.octets().to_vec()),
            (OptionCode::Message, message.as_bytes().to_vec()),
        ];
        let mut reply = self.reply(MessageType::Nak, Ipv4Addr::UNSPECIFIED, options);
        reply.siaddr = Ipv4Addr::UNSPECIFIED;
        if !self.request.giaddr.is_unspecified() {
            reply.flags |= BROADCAST;
        }
        Verdict::Reply(Box::new(reply), self.relay().unwrap_or(Destination::Everyone), None)
    }

    fn relay(&self) -> Option<Destination> {
        (!self.request.giaddr.is_unspecified()).then_some(Destination::Relay(self.request.giaddr))
    }

    /// §4.1. What a client fills in as its address counts only where it is the one that it gets: an answer must not leave
    /// the LAN, whatever a forged request says.
    fn destination(&self, address: Ipv4Addr) -> Destination {
        self.relay().unwrap_or_else(|| {
            if self.request.ciaddr == address {
                Destination::Address(address)
            } else if self.request.wants_broadcast() {
                Destination::Everyone
            } else {
                Destination::Client(address, self.request.chaddr)
            }
        })
    }

    fn reply(&self, kind: MessageType, yiaddr: Ipv4Addr, mut options: Vec<(OptionCode, Vec<u8>)>) -> Reply {
        let request = self.request;
        // RFC 6842: the identifier comes back as it was; a client that sent none gets none.
        if let Some(id) = request.options.get(OptionCode::ClientIdentifier) {
            let place = options.len().min(1);
            options.insert(place, (OptionCode::ClientIdentifier, id.to_vec()));
        }
        Reply {
            kind,
            htype: request.htype,
            chaddr: request.chaddr,
            xid: request.xid,
            flags: request.flags,
            ciaddr: if request.kind == MessageKind::Inform { request.ciaddr } else { Ipv4Addr::UNSPECIFIED },
            yiaddr,
            siaddr: self.scope.tftp.first().copied().unwrap_or(self.scope.server),
            giaddr: request.giaddr,
            options,
            relay_information: request.options.get(OptionCode::RelayAgentInformation).map(<[u8]>::to_vec),
        }
    }

    /// What the client gets to know: first what the protocol needs, then what fits of the rest, the most needed first, in
    /// the order in which the client asks (RFC 2132 §9.8).
    fn parameters(&self, lease: Option<Duration>) -> Vec<(OptionCode, Vec<u8>)> {
        let mut options = vec![(OptionCode::ServerIdentifier, self.scope.server.octets().to_vec())];
        if let Some(lease) = lease {
            let seconds = u32::try_from(lease.as_secs()).unwrap_or(u32::MAX);
            // §4.4.5: T1 before T2 before the end.
            options.push((OptionCode::AddressLeaseTime, seconds.to_be_bytes().to_vec()));
            options.push((OptionCode::Renewal, (seconds / 2).to_be_bytes().to_vec()));
            options.push((OptionCode::Rebinding, (seconds - seconds / 8).to_be_bytes().to_vec()));
        }
        let fixed = self.reply(MessageType::Ack, Ipv4Addr::UNSPECIFIED, options.clone()).emitted_len();
        let mut room = self.request.max_reply_bytes().saturating_sub(fixed);
        let mut rest = self.wanted(lease.is_some());
        rest.retain(|(_, value)| {
            let left = room.checked_sub(options::emitted_len(value));
            room = left.unwrap_or(room);
            left.is_some()
        });
        let asked = self.request.options.get(OptionCode::ParameterRequestList).unwrap_or_default();
        let place = |code: OptionCode| asked.iter().position(|&asked| asked == u8::from(code)).unwrap_or(usize::MAX);
        rest.sort_by_key(|(code, _)| place(*code));
        // RFC 2132 §3.3: the mask before the router, whatever the client's order.
        let at = |wanted: OptionCode| rest.iter().position(|(code, _)| *code == wanted);
        if let (Some(mask), Some(router)) = (at(OptionCode::SubnetMask), at(OptionCode::Router))
            && router < mask
        {
            rest.swap(mask, router);
        }
        options.extend(rest);
        options
    }

    /// What there is to tell, the most needed first. TFTP servers are told even if nobody asked: some phones do not name
    /// what they read. The rest is told if asked for, or with a lease to a client that asked for nothing in particular.
    fn wanted(&self, with_lease: bool) -> Vec<(OptionCode, Vec<u8>)> {
        let (scope, request) = (self.scope, self.request);
        let unspecific = with_lease && request.options.get(OptionCode::ParameterRequestList).is_none();
        let mut all: Vec<(OptionCode, Vec<u8>)> = Vec::new();
        let mut tell = |code: OptionCode, value: Vec<u8>, always: bool| {
            if !value.is_empty() && (always || unspecific || request.asks_for(code)) {
                all.push((code, value));
            }
        };
        // A phone that only asks (DHCPINFORM) has its address, mask and router from somebody else.
        tell(OptionCode::SubnetMask, scope.netmask().octets().to_vec(), with_lease);
        tell(OptionCode::Router, address_list(&scope.routers), with_lease);
        let first = scope.tftp.first().copied().unwrap_or(scope.server);
        tell(options::TFTP_SERVERS, address_list(&scope.tftp), true);
        tell(options::TFTP_SERVER_NAME, first.to_string().into_bytes(), true);
        tell(OptionCode::DomainNameServer, address_list(&scope.dns), with_lease);
        tell(OptionCode::NtpServers, address_list(&scope.ntp), false);
        tell(OptionCode::DomainName, scope.domain.clone().into_bytes(), false);
        tell(OptionCode::BroadcastAddr, scope.broadcast().octets().to_vec(), false);
        for (code, value) in scope.vendor_options_of(request) {
            // A vendor's form of an option takes the place of the general one.
            all.retain(|(other, _)| *other != code);
            all.push((code, value.to_vec()));
        }
        all
    }
}

#[cfg(test)]
mod tests;
