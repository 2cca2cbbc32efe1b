//! A router's OFFER, completed for a phone and ready to go. Pure.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Instant;

use dhcproto::v4::MessageType;

use crate::completed_lease::CompletedLease;
use crate::heard::ServerMessage;
use crate::message::{MIN_REPLY_BYTES, Request};
use crate::options::{self, OptionCode, address_list};
use crate::scope::DhcpScope;

/// Where the value of option 53 is: it is the first option.
const KIND_AT: usize = 242;

/// What the router is about to tell a phone, with 66, 150 and the vendor's options added and nothing else changed.
///
/// The whole message is made when the router's OFFER comes, so that the phone's REQUEST only fills in its own fields.
#[derive(Debug, Clone)]
pub struct CompletedOffer {
    /// The router, by its server identifier (RFC 2132 §9.7).
    pub server: Ipv4Addr,
    /// The address that the router leases.
    pub address: Ipv4Addr,
    /// How long the lease lasts, in seconds.
    pub lease_seconds: u32,
    /// When the router's OFFER came.
    pub at: Instant,
    /// Where the message has lease time, T1 and T2, and their values.
    times: Vec<(usize, u32)>,
    message: Vec<u8>,
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
        put(&mut offer, 16, &address.octets(), 4);
        CompletedLease { discover: self.discover.clone(), offer }
    }
}

impl CompletedOffer {
    /// Completes an offer for the phone that sent `discover`, whose octets are `bytes`. `None` if the offer has no lease
    /// time, or no room for a TFTP server within what the phone takes.
    pub fn new(
        scope: &DhcpScope,
        (discover, bytes): (&Request, &[u8]),
        offer: &ServerMessage,
        at: Instant,
    ) -> Option<Self> {
        let lease_seconds = offer.options.seconds(OptionCode::AddressLeaseTime)?;
        let first = scope.tftp.first().copied().unwrap_or(scope.server());
        let mut added = vec![
            (options::TFTP_SERVERS, address_list(&scope.tftp)),
            (options::TFTP_SERVER_NAME, first.to_string().into_bytes()),
        ];
        for (code, value) in scope.vendor_options_of(discover) {
            added.retain(|(other, _)| *other != code);
            added.push((code, value.to_vec()));
        }
        // The router's own options stay, but for two that served the way to us only: 82 is the relay's, and 52
        // (overload) has been resolved. Type and server identifier are written first.
        let theirs = offer.options.iter().filter(|(code, _)| {
            !matches!(
                code,
                OptionCode::MessageType
                    | OptionCode::ServerIdentifier
                    | OptionCode::OptionOverload
                    | OptionCode::RelayAgentInformation
            ) && !added.iter().any(|(other, _)| other == code)
        });
        let mut message = offer.header.clone();
        // RFC 1542 §4.1.2: to the client a relayed reply is like a direct one.
        for (place, length) in [(3, 1), (8, 2), (12, 4), (24, 4)] {
            put(&mut message, place, &[0; 4], length);
        }
        if offer.options.get(OptionCode::OptionOverload).is_some() {
            put(&mut message, 44, &[0; 192], 192);
        }
        message.extend(dhcproto::v4::MAGIC);
        options::emit(OptionCode::MessageType, &[MessageType::Ack.into()], &mut message);
        options::emit(OptionCode::ServerIdentifier, &offer.server.octets(), &mut message);
        let mut times = Vec::new();
        for (code, value) in theirs {
            if matches!(code, OptionCode::AddressLeaseTime | OptionCode::Renewal | OptionCode::Rebinding)
                && let Some(seconds) = offer.options.seconds(code)
            {
                times.push((message.len() + 2, seconds));
            }
            options::emit(code, value, &mut message);
        }
        let limit = discover.max_reply_bytes();
        let mut named = false;
        for (code, value) in added {
            if message.len() + options::emitted_len(&value) < limit {
                options::emit(code, &value, &mut message);
                named |= matches!(code, options::TFTP_SERVERS | options::TFTP_SERVER_NAME);
            }
        }
        if !named || message.len() >= limit {
            return None;
        }
        message.push(OptionCode::End.into());
        message.resize(message.len().max(MIN_REPLY_BYTES), 0);
        Some(Self {
            server: offer.server,
            address: offer.yiaddr,
            lease_seconds,
            at,
            times,
            message,
            exchange: Arc::new(Exchange { discover: bytes.to_vec(), offer: offer.clone() }),
        })
    }

    /// Puts in another address that the router leases to this phone on the same terms.
    pub fn set_address(&mut self, address: Ipv4Addr) {
        self.address = address;
        put(&mut self.message, 16, &address.octets(), 4);
    }

    /// The messages that this offer was made from.
    pub fn exchange(&self) -> Arc<Exchange> {
        Arc::clone(&self.exchange)
    }

    /// The router's OFFER, completed.
    pub fn offer(&self, discover: &Request) -> Vec<u8> {
        let mut message = self.answer(discover);
        put(&mut message, KIND_AT, &[MessageType::Offer.into()], 1);
        message
    }

    /// The router's ACK, completed. Of a lease that has run for a while, it promises only the `left` seconds.
    pub fn ack(&self, request: &Request, left: Option<u32>) -> Vec<u8> {
        let mut message = self.answer(request);
        put(&mut message, 12, &request.ciaddr.octets(), 4);
        if let Some(left) = left.filter(|left| *left < self.lease_seconds) {
            for (place, seconds) in &self.times {
                // T1 and T2 keep their place within the lease.
                let scaled = u64::from(*seconds) * u64::from(left) / u64::from(self.lease_seconds.max(1));
                put(&mut message, *place, &u32::try_from(scaled).unwrap_or(left).to_be_bytes(), 4);
            }
        }
        message
    }

    fn answer(&self, request: &Request) -> Vec<u8> {
        let mut message = self.message.clone();
        put(&mut message, 4, &request.xid.to_be_bytes(), 4);
        put(&mut message, 10, &request.flags.to_be_bytes(), 2);
        message
    }
}

/// Overwrites `length` octets of a message that is long enough, from `place` on.
fn put(message: &mut [u8], place: usize, value: &[u8], length: usize) {
    if let (Some(to), Some(from)) = (message.get_mut(place..place + length), value.get(..length)) {
        to.copy_from_slice(from);
    }
}

/// A phone's DISCOVER as a relay agent passes it on: everything as the phone sent it but hops, xid and giaddr
/// (RFC 1542 §4.1.1).
pub fn relayed(discover: &[u8], relay: Ipv4Addr, xid: u32) -> Vec<u8> {
    let mut message = discover.to_vec();
    put(&mut message, 3, &[1], 1);
    put(&mut message, 4, &xid.to_be_bytes(), 4);
    put(&mut message, 24, &relay.octets(), 4);
    message.resize(message.len().max(MIN_REPLY_BYTES), 0);
    message
}
