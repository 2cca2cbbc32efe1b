//! A router's OFFER, completed for a phone and ready to go. Pure.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Instant;

use dhcproto::v4::MessageType;

use super::action::NotCompleted;
use crate::completed_lease::CompletedLease;
use crate::heard::ServerMessage;
use crate::message::{HEADER_BYTES, MIN_REPLY_BYTES, Request, read_options};
use crate::options::{self, OptionCode, address_list};
use crate::scope::DhcpScope;

/// A lease time that means for ever (RFC 2131 §3.3); so for T1 and T2.
pub(super) const INFINITE: u32 = u32::MAX;

/// Fixed fields, magic cookie, type (53) and server identifier (54). The client's identifier comes behind them.
const HEAD_BYTES: usize = HEADER_BYTES + 3 + 6;
/// Where the value of option 53 is.
const KIND_AT: usize = HEADER_BYTES + 2;

/// What the router is about to tell a phone, with 66, 150 and the vendor's options added and nothing else changed.
///
/// The options are made when the router's OFFER comes, so that the phone's REQUEST only adds what every reply takes over
/// from its request.
#[derive(Debug, Clone)]
pub struct CompletedOffer {
    /// The router, by its server identifier (RFC 2132 §9.7).
    pub server: Ipv4Addr,
    /// The address that the router leases.
    pub address: Ipv4Addr,
    /// How long the lease lasts, in seconds; `u32::MAX` for ever.
    pub lease_seconds: u32,
    /// When the router's OFFER came.
    pub at: Instant,
    /// The message without what is taken over from the request: [`HEAD_BYTES`], then all other options.
    message: Vec<u8>,
    /// Where `message` has lease time, T1 and T2, and their values.
    times: Vec<(usize, u32)>,
    exchange: Arc<Exchange>,
}

/// A phone's DISCOVER and the router's OFFER: what a lease is completed from, now and after a restart.
#[derive(Debug, PartialEq, Eq)]
pub struct Exchange {
    discover: Vec<u8>,
    offer: ServerMessage,
}

impl Exchange {
    /// The exchange as it is remembered, for a phone that took this address.
    pub fn to_keep(&self, address: Ipv4Addr) -> CompletedLease {
        let mut offer = self.offer.emit();
        put(&mut offer, 16, &address.octets());
        CompletedLease { discover: self.discover.clone(), offer }
    }
}

impl CompletedOffer {
    /// Completes an offer for the phone that sent `discover`, whose octets are `bytes`.
    ///
    /// # Errors
    ///
    /// If the offer has no lease time, or no room for a TFTP server within what the phone takes.
    pub fn new(
        scope: &DhcpScope,
        (discover, bytes): (&Request, &[u8]),
        offer: &ServerMessage,
        at: Instant,
    ) -> Result<Self, NotCompleted> {
        let lease_seconds = offer.options.seconds(OptionCode::AddressLeaseTime).ok_or(NotCompleted::NoLeaseTime)?;
        let first = scope.tftp.first().copied().unwrap_or(scope.server());
        let mut added = vec![
            (options::TFTP_SERVERS, address_list(&scope.tftp)),
            (options::TFTP_SERVER_NAME, first.to_string().into_bytes()),
        ];
        for (code, value) in scope.vendor_options_of(discover) {
            added.retain(|(other, _)| *other != code);
            added.push((code, value.to_vec()));
        }
        // The router's own options stay, but for those that belong to the way to us: 82 and 61 are taken over from the
        // phone's request, and 52 (overload) has been resolved. Type and server identifier are written first.
        let theirs = offer.options.iter().filter(|(code, _)| {
            !matches!(
                code,
                OptionCode::MessageType
                    | OptionCode::ServerIdentifier
                    | OptionCode::OptionOverload
                    | OptionCode::ClientIdentifier
                    | OptionCode::RelayAgentInformation
            ) && *code != OptionCode::from(RAPID_COMMIT)
                && !added.iter().any(|(other, _)| other == code)
        });
        let (times, mut rest): (Vec<_>, Vec<_>) =
            theirs.map(|(code, value)| (code, value.to_vec())).partition(|(code, _)| is_time(*code));
        let written =
            |all: &[(OptionCode, Vec<u8>)]| all.iter().map(|(_, value)| options::emitted_len(value)).sum::<usize>();
        // The last octet is End.
        let mut length = HEAD_BYTES + discover.echo().emitted_len() + written(&times) + written(&rest) + 1;
        let limit = discover.max_reply_bytes();
        let mut named = false;
        // What the phone asks for has room first: it may read nothing else.
        let asked = discover.options.get(OptionCode::ParameterRequestList).unwrap_or_default();
        added.sort_by_key(|(code, _)| !asked.contains(&u8::from(*code)));
        for (code, value) in added {
            if length + options::emitted_len(&value) <= limit {
                length += options::emitted_len(&value);
                named |= matches!(code, options::TFTP_SERVERS | options::TFTP_SERVER_NAME);
                rest.push((code, value));
            }
        }
        if !named || length > limit {
            return Err(NotCompleted::NoRoom);
        }
        options::sort_as_asked(&mut rest, asked);
        let mut made = Self {
            server: offer.server,
            address: offer.yiaddr,
            lease_seconds,
            at,
            message: head(offer),
            times: Vec::new(),
            exchange: Arc::new(Exchange { discover: bytes.to_vec(), offer: offer.clone() }),
        };
        for (code, value) in times.iter().chain(&rest) {
            if is_time(*code)
                && let Some(seconds) = offer.options.seconds(*code)
            {
                made.times.push((made.message.len() + 2, seconds));
            }
            options::emit(*code, value, &mut made.message);
        }
        Ok(made)
    }

    /// Puts in another address that the router leases to this phone on the same terms.
    pub fn set_address(&mut self, address: Ipv4Addr) {
        self.address = address;
        put(&mut self.message, 16, &address.octets());
    }

    /// The messages that this offer was made from.
    pub fn exchange(&self) -> Arc<Exchange> {
        Arc::clone(&self.exchange)
    }

    /// The router's OFFER, completed.
    pub fn offer(&self, discover: &Request) -> Vec<u8> {
        self.answer(MessageType::Offer, discover, Ipv4Addr::UNSPECIFIED, None)
    }

    /// The router's ACK, completed. Of a lease that has run for a while, it promises only the `left` seconds.
    pub fn ack(&self, request: &Request, left: Option<u32>) -> Vec<u8> {
        self.answer(MessageType::Ack, request, request.ciaddr, left)
    }

    fn answer(&self, kind: MessageType, request: &Request, ciaddr: Ipv4Addr, left: Option<u32>) -> Vec<u8> {
        let echo = request.echo();
        let (head, rest) = self.message.split_at_checked(HEAD_BYTES).unwrap_or_default();
        let mut message = Vec::with_capacity(MIN_REPLY_BYTES.max(self.message.len() + 1 + echo.emitted_len()));
        message.extend_from_slice(head);
        echo.fill(&mut message);
        put(&mut message, 12, &ciaddr.octets());
        put(&mut message, KIND_AT, &[kind.into()]);
        echo.emit_identifier(&mut message);
        // How far the options are from where they are in `self.message`.
        let moved = message.len() - head.len();
        message.extend_from_slice(rest);
        if let Some(left) = left.filter(|left| *left < self.lease_seconds) {
            for &(place, seconds) in self.times.iter().filter(|(_, seconds)| *seconds != INFINITE) {
                // T1 and T2 keep their place within the lease.
                let scaled = u64::from(seconds) * u64::from(left) / u64::from(self.lease_seconds.max(1));
                put(&mut message, moved + place, &u32::try_from(scaled).unwrap_or(left).to_be_bytes());
            }
        }
        echo.emit_relay_information(&mut message);
        message.push(OptionCode::End.into());
        message.resize(message.len().max(MIN_REPLY_BYTES), 0);
        message
    }
}

/// The first [`HEAD_BYTES`] of a message of the router's. To the client a relayed reply is like a direct one
/// (RFC 1542 §4.1.2): what was for the relay is empty.
fn head(offer: &ServerMessage) -> Vec<u8> {
    let mut head = offer.header.clone();
    for (place, length) in [(3, 1), (8, 2), (12, 4), (24, 4)] {
        blank(&mut head, place, length);
    }
    if offer.options.get(OptionCode::OptionOverload).is_some() {
        blank(&mut head, 44, 192);
    }
    head.extend(dhcproto::v4::MAGIC);
    options::emit(OptionCode::MessageType, &[MessageType::Ack.into()], &mut head);
    options::emit(OptionCode::ServerIdentifier, &offer.server.octets(), &mut head);
    head
}

fn is_time(code: OptionCode) -> bool {
    matches!(code, OptionCode::AddressLeaseTime | OptionCode::Renewal | OptionCode::Rebinding)
}

/// Overwrites a part of a message that is long enough.
fn put(message: &mut [u8], place: usize, value: &[u8]) {
    if let Some(to) = message.get_mut(place..place + value.len()) {
        to.copy_from_slice(value);
    }
}

fn blank(message: &mut [u8], place: usize, length: usize) {
    if let Some(to) = message.get_mut(place..place + length) {
        to.fill(0);
    }
}

/// Rapid commit (RFC 4039): the server leases at once, without OFFER and REQUEST.
const RAPID_COMMIT: u8 = 80;

/// Whether the client wants a lease at once.
pub fn wants_rapid_commit(discover: &Request) -> bool {
    discover.options.get(OptionCode::from(RAPID_COMMIT)).is_some()
}

/// A phone's DISCOVER as a relay agent passes it on: everything as the phone sent it but hops, xid and giaddr
/// (RFC 1542 §4.1.1), and without rapid commit: the router would lease in our transaction, where we only ask.
///
/// All other options mean the same to the router in either copy. A switch's relay information (82) stays, because the
/// router may choose the lease by it, and so do the client's identifier (61), the address that it requests (50), its limit
/// for replies (57) and its subnet (118, RFC 3011). We ask for no option that the phone does not ask for (55): what the
/// router says to us is what it is about to say to the phone.
pub fn relayed(discover: &[u8], relay: Ipv4Addr, xid: u32) -> Vec<u8> {
    let mut message = discover.to_vec();
    put(&mut message, 3, &[1]);
    put(&mut message, 4, &xid.to_be_bytes());
    put(&mut message, 24, &relay.octets());
    options::blank(&mut message, OptionCode::from(RAPID_COMMIT));
    // Padding must not complete an option that a short message was cut off in.
    let (length, said) = (message.len(), read_options(&message));
    message.resize(length.max(MIN_REPLY_BYTES), 0);
    if read_options(&message) != said {
        message.truncate(length);
    }
    message
}
