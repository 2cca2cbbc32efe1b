//! What comes of a message.

use std::net::Ipv4Addr;
use std::sync::Arc;

use super::completed_offer::Exchange;
use crate::dhcp::heard::Overheard;
use crate::ids::MacAddr;

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Send this to a phone.
    Reply {
        /// The phone.
        mac: MacAddr,
        /// The address that it gets; where its frame goes unless it wants broadcasts.
        address: Ipv4Addr,
        /// Whether it wants broadcasts.
        broadcast: bool,
        /// The message.
        message: Vec<u8>,
    },
    /// Send this to a router's server port.
    Relay(Ipv4Addr, Vec<u8>),
    /// Let people know.
    Tell(Event),
}

/// What others should know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A server spoke to us.
    Heard(Box<Overheard>),
    /// A phone's lease was completed: for a new lease with what to remember of it.
    Completed(MacAddr, Ipv4Addr, Option<Arc<Exchange>>),
    /// A phone rebound a lease that was completed before. It runs, and fetches nothing for that.
    Rebound(MacAddr, Ipv4Addr),
    /// A phone's lease came to be known when the router had sent its own ACK: to be remembered for its next start.
    Late(Ipv4Addr, Arc<Exchange>),
    /// A phone's offer was completed.
    Offered(MacAddr),
    /// The router sent a phone a NAK after our answer. It is left alone for a day.
    Nak(MacAddr, Ipv4Addr),
    /// The router itself points this phone somewhere.
    Points(MacAddr, Ipv4Addr, Vec<String>),
    /// A phone was not answered, for this counter.
    Silent(&'static str),
}
