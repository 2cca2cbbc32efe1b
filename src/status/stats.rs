//! Counters and recent history, in bounded memory. Cheap to share and to tell; never blocks on I/O.

use std::sync::Arc;
use std::time::Duration;

use crate::api::DhcpServerSeen;
use crate::ids::{Generation, MacAddr, UnixTime};

/// How one request for a file ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Outcome {
    /// The client acknowledged the last block.
    Delivered,
    /// Everything was sent, the last acknowledgement never came.
    Unconfirmed,
    /// The client sent ERROR. Normal for probes (`tsize`, Polycom's header check).
    Aborted,
    /// The client fell silent.
    TimedOut,
    /// The file could not be read, or the transfer was ended from our side.
    Failed,
    /// Not served, for this reason ([`crate::access::Reason::code`] or `write-refused`, `malformed`).
    Refused(&'static str),
}

/// One request for a file.
#[derive(Debug, Clone)]
pub struct TransferRecord {
    /// Who asked, if known.
    pub device: Option<MacAddr>,
    /// Whether the inventory has it.
    pub known: bool,
    /// From where.
    pub address: std::net::Ipv4Addr,
    /// What for, as asked; shortened to 255 bytes.
    pub file: String,
    /// Bytes acknowledged.
    pub bytes: u64,
    /// Blocks sent more than once.
    pub retransmissions: u32,
    /// From the request to the end.
    pub duration: Duration,
    /// The release that it was served from.
    pub generation: Generation,
    /// How it ended.
    pub outcome: Outcome,
}

/// What the last poll came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PollState {
    /// When it ended.
    pub at: UnixTime,
    /// `ok`, or a stable code.
    pub state: &'static str,
    /// Why, for people; empty if ok.
    pub reason: String,
    /// The generation that is served.
    pub generation: Generation,
    /// When signed metadata was last found current.
    pub fresh_at: Option<UnixTime>,
    /// Whether the kernel says that the clock is synchronised.
    pub clock_synchronised: bool,
    /// Bytes free on the file system of the store.
    pub disk_free_bytes: u64,
}

/// The shared record. Clones are the same record.
#[derive(Debug, Clone, Default)]
pub struct Stats {
    _inner: Arc<()>,
}

impl Stats {
    /// An empty record.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds one to the counter of this name, for example `dhcp.ack`.
    pub fn count(&self, name: &'static str) {
        self.add(name, 1);
    }

    /// Adds to a counter.
    pub fn add(&self, _name: &'static str, _amount: u64) {}

    /// A request for a file has ended.
    pub fn transfer(&self, _record: TransferRecord) {}

    /// Something that someone should look at. The same code and text again counts up.
    pub fn alert(&self, _code: &'static str, _text: String) {}

    /// It is over: alerts of this code go.
    pub fn clear_alert(&self, _code: &'static str) {}

    /// What DHCP does here now, for example `inform`.
    pub fn dhcp_mode(&self, _mode: &'static str) {}

    /// The other DHCP servers of the LAN.
    pub fn dhcp_servers(&self, _servers: Vec<DhcpServerSeen>) {}

    /// A poll has ended.
    pub fn poll(&self, _state: PollState) {}
}
