//! The messages that answer a request: header, options, and where they go. Pure.

use std::net::Ipv4Addr;
use std::time::Duration;

use dhcproto::v4::MessageType;

use super::verdict::{Destination, SilenceReason};
use crate::message::{MessageKind, Reply, Request};
use crate::options::{self, OptionCode, address_list};
use crate::scope::{ActiveMode, DhcpScope};

/// What every answer to a request is made from.
#[derive(Clone, Copy)]
pub(super) struct Answer<'a> {
    pub(super) scope: &'a DhcpScope,
    pub(super) request: &'a Request,
}

impl Answer<'_> {
    /// Why nobody who asks in this way is served at all.
    pub(super) fn refusal(&self) -> Option<SilenceReason> {
        let relay = self.request.giaddr;
        if self.scope.mode == ActiveMode::Shadow {
            return Some(SilenceReason::Mode);
        }
        // One segment is served. A relay's address tells which one the client is on (§4.3.1).
        (!relay.is_unspecified() && !self.scope.lan.is_host(relay)).then_some(SilenceReason::OtherNetwork)
    }

    pub(super) fn relay(&self) -> Option<Destination> {
        (!self.request.giaddr.is_unspecified()).then_some(Destination::Relay(self.request.giaddr))
    }

    /// Where a reply goes that gives this address (§4.1). The address that a client fills in counts only if it is the one
    /// that the client gets: an answer must not leave the LAN, whatever a forged request says.
    pub(super) fn destination(&self, address: Ipv4Addr) -> Destination {
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

    pub(super) fn reply(&self, kind: MessageType, yiaddr: Ipv4Addr, mut options: Vec<(OptionCode, Vec<u8>)>) -> Reply {
        let request = self.request;
        let echo = request.echo();
        if let Some(id) = echo.identifier {
            let place = options.len().min(1);
            options.insert(place, (OptionCode::ClientIdentifier, id.to_vec()));
        }
        Reply {
            kind,
            htype: echo.htype,
            chaddr: echo.chaddr,
            xid: echo.xid,
            flags: echo.flags,
            ciaddr: if request.kind == MessageKind::Inform { request.ciaddr } else { Ipv4Addr::UNSPECIFIED },
            yiaddr,
            siaddr: self.scope.tftp.first().copied().unwrap_or(self.scope.server()),
            giaddr: request.giaddr,
            options,
            relay_information: echo.relay_information.map(<[u8]>::to_vec),
        }
    }

    /// The options of a reply: what the protocol needs, then as many of the others as fit, in the order in which the client
    /// asks for them (RFC 2132 §9.8). If they do not all fit, those that it asks for stay, the most needed of them first.
    pub(super) fn parameters(&self, lease: Option<Duration>) -> Vec<(OptionCode, Vec<u8>)> {
        let mut options = vec![(OptionCode::ServerIdentifier, self.scope.server().octets().to_vec())];
        if let Some(lease) = lease {
            let seconds = u32::try_from(lease.as_secs()).unwrap_or(u32::MAX);
            // §4.4.5: T1 before T2 before the end.
            options.push((OptionCode::AddressLeaseTime, seconds.to_be_bytes().to_vec()));
            options.push((OptionCode::Renewal, (seconds / 2).to_be_bytes().to_vec()));
            options.push((OptionCode::Rebinding, (seconds - seconds / 8).to_be_bytes().to_vec()));
        }
        let asked = self.request.options.get(OptionCode::ParameterRequestList).unwrap_or_default();
        let is_asked = |code: OptionCode| asked.contains(&u8::from(code));
        let mut wanted = self.wanted(lease.is_some());
        wanted.sort_by_key(|(code, _)| !is_asked(*code));
        let mut rest = self.fitting(&options, wanted.clone());
        let tftp = |code: OptionCode| matches!(code, options::TFTP_SERVERS | options::TFTP_SERVER_NAME);
        let asks_tftp = wanted.iter().any(|(code, _)| tftp(*code) && is_asked(*code));
        if !rest.iter().any(|(code, _)| tftp(*code) && (is_asked(*code) || !asks_tftp)) {
            // Without T1 and T2 a client counts with the same parts of the lease (§4.4.5).
            options.retain(|(code, _)| !matches!(code, OptionCode::Renewal | OptionCode::Rebinding));
            rest = self.fitting(&options, wanted);
        }
        options::sort_as_asked(&mut rest, asked);
        options.extend(rest);
        options
    }

    /// Those of `all` that fit beside the options that the protocol needs, the first of them before the others.
    fn fitting(
        &self,
        needed: &[(OptionCode, Vec<u8>)],
        mut all: Vec<(OptionCode, Vec<u8>)>,
    ) -> Vec<(OptionCode, Vec<u8>)> {
        let fixed = self.reply(MessageType::Ack, Ipv4Addr::UNSPECIFIED, needed.to_vec()).emitted_len();
        let mut room = self.request.max_reply_bytes().saturating_sub(fixed);
        all.retain(|(_, value)| {
            let left = room.checked_sub(options::emitted_len(value));
            room = left.unwrap_or(room);
            left.is_some()
        });
        all
    }

    /// The options that there are for this client, the most needed first. TFTP servers are always told: some phones do not
    /// name what they read. The other options are told if the client asks for them, or with a lease if the client has no
    /// parameter request list.
    fn wanted(&self, with_lease: bool) -> Vec<(OptionCode, Vec<u8>)> {
        let Self { scope, request } = self;
        let unspecific = with_lease && request.options.get(OptionCode::ParameterRequestList).is_none();
        let mut all: Vec<(OptionCode, Vec<u8>)> = Vec::new();
        let mut tell = |code: OptionCode, value: Vec<u8>, always: bool| {
            if !value.is_empty() && (always || unspecific || request.asks_for(code)) {
                all.push((code, value));
            }
        };
        // A phone that only asks (DHCPINFORM) has its address, mask and router from somebody else.
        tell(OptionCode::SubnetMask, scope.lan.netmask().octets().to_vec(), with_lease);
        tell(OptionCode::Router, address_list(&scope.routers), with_lease);
        let first = scope.tftp.first().copied().unwrap_or(scope.server());
        tell(options::TFTP_SERVERS, address_list(&scope.tftp), true);
        tell(options::TFTP_SERVER_NAME, first.to_string().into_bytes(), true);
        tell(OptionCode::DomainNameServer, address_list(&scope.dns), with_lease);
        tell(OptionCode::NtpServers, address_list(&scope.ntp), false);
        tell(OptionCode::DomainName, scope.domain.clone().into_bytes(), false);
        tell(OptionCode::BroadcastAddr, scope.lan.broadcast().octets().to_vec(), false);
        for (code, value) in scope.vendor_options_of(request) {
            // A vendor's form of an option takes the place of the general one.
            all.retain(|(other, _)| *other != code);
            all.push((code, value.to_vec()));
        }
        all
    }
}
