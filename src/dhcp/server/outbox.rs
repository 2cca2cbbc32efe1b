//! What the server wants sent, kept and asked. Pure.

use std::net::Ipv4Addr;

use crate::completed_lease::CompletedLease;
use crate::leases::Lease;
use crate::question::Question;
use crate::responder::Destination;
use ids::{MacAddr, UnixTime};

/// A reply, ready to be sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outgoing {
    /// The DHCP message.
    pub bytes: Vec<u8>,
    /// Where the message goes.
    pub to: Destination,
    /// The name of the counter that counts it.
    pub counter: &'static str,
}

/// What came of some packets. The service takes it in this order: `questions` and `others` at once, then `forget`,
/// `remember` and `keep` on the disk, then `acks`.
#[derive(Debug, Default)]
pub struct Outbox {
    /// Leases that must be durable before `acks` are sent.
    pub keep: Vec<Lease>,
    /// Replies that may be sent once `keep` is durable.
    pub acks: Vec<Outgoing>,
    /// Replies that may be sent in any case.
    pub others: Vec<Outgoing>,
    /// Addresses to ask for by ARP.
    pub checks: Vec<Ipv4Addr>,
    /// What to ask other servers as a client: in the name of which device, in which transaction.
    pub questions: Vec<(Question, MacAddr, u32)>,
    /// The servers to ask as a relay agent, each in a transaction that [`DhcpServer::asked_as_relay`] is told.
    ///
    /// [`DhcpServer::asked_as_relay`]: super::DhcpServer::asked_as_relay
    pub relay_questions: Vec<Ipv4Addr>,
    /// Whether to forget the completed leases that were remembered so far: the clock that stamped them was wrong.
    pub forget: bool,
    /// Completed leases to remember, and since when each runs.
    pub remember: Vec<(CompletedLease, UnixTime)>,
}
