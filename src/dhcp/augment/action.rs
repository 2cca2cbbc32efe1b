//! What `augment` wants done. Pure.

use std::net::Ipv4Addr;
use std::sync::Arc;

use super::completed_offer::Exchange;
use crate::heard::{Overheard, TftpPointer};
use ids::MacAddr;

/// Something to send or to report.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Send a message to a phone.
    Reply {
        /// The phone's hardware address (`chaddr`).
        mac: MacAddr,
        /// The address that the phone gets. The frame goes there unless the phone wants broadcasts.
        address: Ipv4Addr,
        /// Whether the phone wants broadcasts.
        broadcast: bool,
        /// The DHCP message in octets, from `op` on (RFC 2131 §2).
        message: Vec<u8>,
    },
    /// Send a message to the server port of this router.
    Relay(Ipv4Addr, Vec<u8>),
    /// Ask everyone by ARP who has this address.
    Ask(Ipv4Addr),
    /// Tell the server.
    Tell(Event),
}

/// Something that the server counts, reports or remembers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A server that names an address of another network spoke to us: from this address and hardware address, in this
    /// transaction.
    AnsweredFrom {
        /// The server, by its server identifier (RFC 2132 §9.7).
        server: Ipv4Addr,
        /// The transaction.
        xid: u32,
        /// Where the frame came from.
        source: (Ipv4Addr, MacAddr),
    },
    /// A phone's message came in a frame of another device.
    SentBy {
        /// The phone's hardware address (`chaddr`).
        phone: MacAddr,
        /// The hardware address that the frame came from.
        sender: MacAddr,
    },
    /// Another server spoke, to a phone or to us.
    Heard(Box<Overheard>),
    /// We completed a phone's lease.
    Completed {
        /// The phone's hardware address (`chaddr`).
        phone: MacAddr,
        /// The address that it has.
        address: Ipv4Addr,
        /// What a new lease was made from, to be remembered; `None` for a lease that was completed before.
        exchange: Option<Arc<Exchange>>,
    },
    /// A phone rebound a lease that we completed before. It is running, so it fetches nothing now.
    Rebound {
        /// The phone's hardware address (`chaddr`).
        phone: MacAddr,
        /// The address that it has.
        address: Ipv4Addr,
    },
    /// A phone got a lease of some minutes on the terms of the router's pool, because the router pings before it tells us
    /// the phone's own.
    Short {
        /// The phone's hardware address (`chaddr`).
        phone: MacAddr,
        /// The address that it has.
        address: Ipv4Addr,
    },
    /// We learnt the terms of a lease after the router itself had acknowledged it. They are for the phone's next start.
    LearntLate {
        /// The address that the phone has.
        address: Ipv4Addr,
        /// What the lease was made from, to be remembered.
        exchange: Arc<Exchange>,
    },
    /// We completed an offer for this phone.
    Offered(MacAddr),
    /// A router sent a NAK after our answer with its lease. We leave the phone alone for a day.
    Refused {
        /// The phone's hardware address (`chaddr`).
        phone: MacAddr,
        /// The router, by its server identifier (RFC 2132 §9.7).
        server: Ipv4Addr,
    },
    /// A router itself points this phone to TFTP servers.
    Points {
        /// The phone's hardware address (`chaddr`).
        phone: MacAddr,
        /// The router, by its server identifier (RFC 2132 §9.7).
        server: Ipv4Addr,
        /// The servers that its options name, as people read them.
        tftp: Vec<String>,
        /// The same, and which option names each.
        pointers: Vec<TftpPointer>,
    },
    /// We completed nothing.
    NotCompleted(NotCompleted),
    /// We answered a DHCPINFORM.
    Informed,
}

/// Why `augment` completed nothing. Counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NotCompleted {
    /// The DISCOVER went to no router: none is known, or a limit was reached.
    NotRelayed,
    /// We know no lease that this REQUEST could mean.
    Unknown,
    /// A router disputed an earlier answer to this phone.
    Quiet,
    /// The REQUEST contradicts itself.
    Malformed,
    /// The address cannot be this phone's.
    Address,
    /// The phone chose a server that we have no offer of.
    OtherServer,
    /// A TFTP server does not fit into what the phone takes.
    NoRoom,
    /// The router's OFFER has no lease time.
    NoLeaseTime,
    /// The phone asked for a lease at once (rapid commit, RFC 4039), which the router gives it without a REQUEST. The terms
    /// are for the phone's next start.
    RapidCommit,
    /// The phone took the router's lease before the router answered us, as beside one that pings first. The terms are for the
    /// phone's next start.
    Late,
    /// An OFFER in a router's name came in the transaction of another router: somebody forges it.
    Forged,
}

impl NotCompleted {
    /// All reasons there are.
    pub const ALL: [Self; 11] = [
        Self::NotRelayed,
        Self::Unknown,
        Self::Quiet,
        Self::Malformed,
        Self::Address,
        Self::OtherServer,
        Self::NoRoom,
        Self::NoLeaseTime,
        Self::RapidCommit,
        Self::Late,
        Self::Forged,
    ];

    /// The name of the counter.
    pub const fn counter(self) -> &'static str {
        match self {
            Self::NotRelayed => "dhcp.augment.not-relayed",
            Self::Unknown => "dhcp.augment.unknown",
            Self::Quiet => "dhcp.augment.quiet",
            Self::Malformed => "dhcp.augment.malformed",
            Self::Address => "dhcp.augment.address",
            Self::OtherServer => "dhcp.augment.other-server",
            Self::NoRoom => "dhcp.augment.no-room",
            Self::NoLeaseTime => "dhcp.augment.no-lease-time",
            Self::RapidCommit => "dhcp.augment.rapid-commit",
            Self::Late => "dhcp.augment.late",
            Self::Forged => "dhcp.augment.forged",
        }
    }
}

impl From<NotCompleted> for Action {
    fn from(reason: NotCompleted) -> Self {
        Self::Tell(Event::NotCompleted(reason))
    }
}
