//! What comes of a request, where a reply goes, and why there may be none. Pure.

use std::net::Ipv4Addr;

use crate::leases::Lease;
use crate::message::Reply;
use ids::MacAddr;

/// What to do with a request. A lease in it is a change that must be durable, and true, before the reply goes out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Send nothing.
    Silence(SilenceReason, Option<Lease>),
    /// Ask by ARP who has this address, tell [`LanView::checked`](crate::LanView::checked), and decide again.
    Check(Ipv4Addr),
    /// Send this. If the change cannot be made durable, send nothing.
    Reply(Box<Reply>, Destination, Option<Lease>),
}

/// Where a reply goes (RFC 2131 §4.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Destination {
    /// To the relay's server port.
    Relay(Ipv4Addr),
    /// To the client port of an address that the client has.
    Address(Ipv4Addr),
    /// To an address that the client does not have yet: in a frame to its hardware address, or to everyone if no frame can
    /// be sent.
    Client(Ipv4Addr, MacAddr),
    /// To the client port of 255.255.255.255.
    Everyone,
}

/// Why a request gets no reply. Counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SilenceReason {
    /// The mode in force does not answer this.
    Mode,
    /// The device is no phone.
    NoPhone,
    /// The request is about another network, or has no address to answer to.
    OtherNetwork,
    /// The client chose another server.
    OtherServer,
    /// We know no lease of this client.
    UnknownClient,
    /// All addresses are taken.
    RangeFull,
    /// The message contradicts itself.
    Malformed,
    /// The message wants no answer: DHCPDECLINE, DHCPRELEASE.
    Noted,
}

impl SilenceReason {
    /// All reasons there are.
    pub const ALL: [Self; 8] = [
        Self::Mode,
        Self::NoPhone,
        Self::OtherNetwork,
        Self::OtherServer,
        Self::UnknownClient,
        Self::RangeFull,
        Self::Malformed,
        Self::Noted,
    ];

    /// The name of the counter.
    pub const fn counter(self) -> &'static str {
        match self {
            Self::Mode => "dhcp.silent.mode",
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

pub(super) const fn silent(why: SilenceReason) -> Verdict {
    Verdict::Silence(why, None)
}
