//! Everything that the server decides, as one machine without socket, clock or disk: which requests are answered, which wait,
//! which are refused, which transfer a datagram belongs to, which one ends to make room, and by which way each packet leaves.
//!
//! The doc of [`Endpoint`] says which methods it has and in which order to call them. `requests` decides what comes to
//! port 69 through the `gate`, `flows` keeps the transfers, `places` counts whose they are, `session` brings a file's chunks
//! (`file_chunks`) to one [`Transfer`](crate::transfer::Transfer), `upload` a device's log to one
//! [`Receive`](crate::receive::Receive). `presence` knows which devices are there now, so that their own files reach nobody else.

mod chunk;
mod file_chunks;
mod flows;
mod gate;
mod places;
mod presence;
mod requests;
mod session;
#[cfg(test)]
pub(crate) mod tests;
mod upload;
mod work;

use std::collections::{HashMap, VecDeque};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::sync::Arc;
use std::time::Instant;

use tracing::debug;

use crate::packet::ErrorReply;
use crate::transfer::Run;
use access::devices::SharedDevices;
use access::{Catalog, ContentError, OwnLog, Policy, RequestRates};
use api::AlertCode;
use flows::Flows;
use gate::Gate;
use ids::{Lan, MacAddr};
use presence::Presences;
use requests::{Context, Requests};
use status::TransferRecord;

pub use chunk::Chunk;
pub(crate) use chunk::checked;
pub use file_chunks::FileChunks;
pub use flows::{ANSWER_GRACE, PRESSED_GRACE, UNPROVEN_GRACE};
pub use places::ADDRESSES_PER_DEVICE;
pub use presence::{ABSENCE_PATIENCE, ARRIVAL_PATIENCE, FAREWELL_PATIENCE, FRESH, RENEW};
pub use requests::{HOLD, MAX_HELD, MAX_HELD_PER_ADDRESS, MAX_WAITING};
pub use work::{Loaded, NetasciiText, Work};

/// The pieces of work under way at which nothing more is read ahead. Chunks that a transfer waits for are always read.
const MAX_AHEAD: usize = 8;

/// Whom an endpoint answers, and its bounds.
#[derive(Debug, Clone)]
pub struct EndpointConfig {
    /// The site's LAN. Others get no answer.
    pub lan: Lan,
    /// The most transfers at one time, reads and uploads together. Devices that the inventory does not have take at most
    /// half of them together.
    pub max_transfers: usize,
    /// The most transfers of one client address at one time. One device takes at most [`ADDRESSES_PER_DEVICE`] times as many.
    pub max_transfers_per_address: usize,
    /// The most uploads at one time: each log is held in memory until it is whole. With 0 no log is taken.
    pub max_uploads: usize,
    /// Requests per second.
    pub rates: RequestRates,
    /// The largest IP packet that the interface carries, in octets.
    pub mtu: u32,
    /// Whether a device's own files leave as frames to the hardware address that was judged ([`Way::Frame`]), once the
    /// device itself has answered by ARP ([`Event::Ask`]).
    pub frames: bool,
}

/// Names one transfer of an [`Endpoint`]. No two transfers have the same ticket.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ticket {
    index: u32,
    serial: u32,
}

impl Ticket {
    const fn new(index: u32, serial: u32) -> Self {
        Self { index, serial }
    }

    /// A small number that no other running transfer has, for a table of sockets.
    pub const fn index(self) -> u32 {
        self.index
    }

    /// The ticket as a number, for `epoll`. It is below `u64::MAX - u32::MAX`.
    pub const fn number(self) -> u64 {
        ((self.serial & 0x7fff_ffff) as u64) << 32 | self.index as u64
    }

    fn parts(self) -> (usize, u32) {
        (usize::try_from(self.index).unwrap_or(usize::MAX), self.serial)
    }
}

/// The event that a transfer waits for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Waits {
    /// A datagram of the client, or the transfer's deadline.
    #[default]
    Client,
    /// The result of [`Work`]. Datagrams wait in the socket.
    Disk,
    /// Room to send what was given back by [`Endpoint::handle_blocked`]. Datagrams wait in the socket.
    Queue,
    /// An answer of the device to ARP ([`Event::Ask`]). Datagrams wait in the socket.
    Device,
}

/// By which way a packet leaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// From a port that no transfer has and that is never read.
    Refusal,
    /// From the port of this transfer; the kernel finds the way.
    Socket(Ticket),
    /// From the port of this transfer, in a frame to this hardware address and no other.
    Frame(Ticket, MacAddr),
}

/// Something to send.
#[derive(Debug)]
pub struct Transmit<'a> {
    /// By which way it leaves.
    pub way: Way,
    /// The address and port that it goes to.
    pub to: SocketAddrV4,
    /// What is sent.
    pub payload: Payload<'a>,
}

/// The bytes of a [`Transmit`].
pub enum Payload<'a> {
    /// One TFTP packet.
    Packet(&'a [u8]),
    /// DATA packets of consecutive blocks, and where their bytes are.
    Blocks(Run, &'a FileChunks),
}

impl std::fmt::Debug for Payload<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Packet(packet) => f.debug_tuple("Packet").field(packet).finish(),
            Self::Blocks(run, _) => f.debug_tuple("Blocks").field(run).finish(),
        }
    }
}

/// What the caller does besides sending.
#[derive(Debug, Clone)]
pub enum Event {
    /// A transfer with this client has begun. It needs a port, of which only datagrams are read while `waits` is
    /// [`Waits::Client`]. If there is no port, call [`Endpoint::handle_no_port`].
    Opened {
        /// The transfer.
        ticket: Ticket,
        /// The client's address and port.
        peer: SocketAddrV4,
        /// What it waits for first.
        waits: Waits,
    },
    /// From now on the transfer waits for something else.
    Waits(Ticket, Waits),
    /// The transfer is over and its port is free.
    Closed(Ticket),
    /// The address should be resolved at once; the answer shows in the device table.
    Resolve(Ipv4Addr),
    /// It should be asked by ARP who has this address: this device alone, or everyone. Answers go to
    /// [`Endpoint::handle_answer`].
    Ask {
        /// The address.
        address: Ipv4Addr,
        /// Who hears the question; `None` for everyone.
        mac: Option<MacAddr>,
    },
    /// Somebody outside the LAN asked, and got no answer.
    OutsideLan(Ipv4Addr),
    /// One more of these happened.
    Count(&'static str),
    /// People should know this.
    Alert(AlertCode, String),
    /// Remove all alerts of this code: their cause has gone.
    ClearAlert(AlertCode),
    /// Remove the alerts of this code that name this device: something else explains them.
    EndAlerts(AlertCode, MacAddr),
    /// A transfer has ended, or a request was refused.
    Transfer(TransferRecord),
}

/// A TFTP server: all its requests and transfers, as a machine.
///
/// It has four kinds of method:
///
/// 1. Handlers take what happens, with the time: [`handle_request`](Self::handle_request) a datagram that came to port 69,
///    [`handle_datagram`](Self::handle_datagram) one that came to a transfer's port,
///    [`handle_loaded`](Self::handle_loaded) the result of work, [`handle_answer`](Self::handle_answer) an answer to ARP,
///    [`handle_timeout`](Self::handle_timeout) the deadline,
///    [`handle_blocked`](Self::handle_blocked), [`handle_writable`](Self::handle_writable) and
///    [`handle_no_port`](Self::handle_no_port) what the sockets say.
/// 2. [`serve`](Self::serve) gives it another release. [`refuse_new`](Self::refuse_new) and [`stop`](Self::stop) end it.
/// 3. Polls say what the caller does next: [`poll_event`](Self::poll_event), [`poll_work`](Self::poll_work) what to read,
///    [`poll_transmit`](Self::poll_transmit) what to send, [`poll_timeout`](Self::poll_timeout) when to call
///    `handle_timeout`.
/// 4. Getters change nothing: [`transfers`](Self::transfers).
///
/// Call them in this order. After each handler, poll events, then transmits, then work, each until it gives `None`, and so
/// again while there is an event. A transfer's last word comes before its [`Event::Closed`]. If blocks cannot
/// be sent because the send queue is full, call `handle_blocked` with those that are left before anything else; once there
/// is room, `handle_writable`. Then wait for a datagram, for work, or for `poll_timeout`, whichever comes first, and hand
/// that in.
pub struct Endpoint {
    site: SiteState,
    flows: Flows,
    requests: Requests,
    replies: Replies,
}

/// Answers that are no transfer's: to whom, and by which way.
type Replies = VecDeque<(Way, SocketAddrV4, ErrorReply)>;

/// What all transfers share.
struct SiteState {
    config: EndpointConfig,
    gate: Gate,
    events: VecDeque<Event>,
    presences: Presences,
    work: VecDeque<(Ticket, Work)>,
    /// How many pieces of work are under way.
    outstanding: usize,
    /// The upload of each log. Those that have ended are removed when the next one begins.
    uploads: HashMap<OwnLog, Ticket>,
}

impl Endpoint {
    /// An endpoint that serves this release to the devices that the table names.
    pub fn new(config: EndpointConfig, catalog: Arc<Catalog>, devices: SharedDevices) -> Self {
        let gate = Gate::new(Policy::with_limits(config.lan, config.rates), catalog, devices);
        let site = SiteState {
            config,
            gate,
            events: VecDeque::new(),
            presences: Presences::default(),
            work: VecDeque::new(),
            outstanding: 0,
            uploads: HashMap::new(),
        };
        Self { site, flows: Flows::default(), requests: Requests::default(), replies: VecDeque::new() }
    }

    /// From now on requests are decided on this release. Transfers end on the one that they began with.
    pub fn serve(&mut self, catalog: Arc<Catalog>) {
        self.site.gate.serve(catalog);
    }

    /// A datagram came to port 69.
    pub fn handle_request(&mut self, datagram: &[u8], peer: SocketAddrV4, now: Instant) {
        let (requests, mut context) = self.split();
        requests.receive(&mut context, datagram, peer, now);
    }

    /// A datagram came to the port of a transfer, from its client or from a stranger.
    pub fn handle_datagram(&mut self, ticket: Ticket, datagram: &[u8], from: SocketAddrV4, now: Instant) {
        let answer = self.flows.datagram(&mut self.site, ticket, from, datagram, now);
        if let Some(reply) = answer.filter(|_| self.site.config.lan.contains(*from.ip())) {
            debug!(stranger = %from, "a stranger on a transfer's port");
            self.replies.push_back((Way::Socket(ticket), from, reply));
        }
    }

    /// Work for a transfer is done. It may have ended meanwhile.
    pub fn handle_loaded(&mut self, ticket: Ticket, loaded: Result<Loaded, ContentError>, now: Instant) {
        self.site.outstanding = self.site.outstanding.saturating_sub(1);
        self.flows.loaded(&mut self.site, ticket, loaded, now);
    }

    /// A device answered by ARP that it has this address, in a frame of its own: its Ethernet source is the same hardware
    /// address that the answer names.
    pub fn handle_answer(&mut self, address: Ipv4Addr, mac: MacAddr, now: Instant) {
        for ticket in self.site.presences.heard(address, mac, now) {
            self.flows.writable(&mut self.site, ticket, now);
        }
    }

    /// Time has come to [`Endpoint::poll_timeout`]. Earlier calls do nothing.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.flows.time(&mut self.site, now);
        let (requests, mut context) = self.split();
        requests.look_at_held(&mut context, now);
    }

    /// The send queue is full: these blocks of the last [`Payload::Blocks`] are left.
    pub fn handle_blocked(&mut self, ticket: Ticket, rest: Run) {
        self.flows.blocked(ticket, rest);
    }

    /// There is room again for the blocks that were given back.
    pub fn handle_writable(&mut self, ticket: Ticket, now: Instant) {
        self.flows.writable(&mut self.site, ticket, now);
    }

    /// There is no port for this transfer.
    pub fn handle_no_port(&mut self, ticket: Ticket, now: Instant) {
        self.site.count("tftp.no-port");
        if let Some(peer) = self.flows.no_port(&mut self.site, ticket, now) {
            self.replies.push_back((Way::Refusal, peer, ErrorReply::Busy));
        }
    }

    /// No new request comes from now on; those that wait are forgotten. Running transfers may end.
    pub fn refuse_new(&mut self) {
        self.requests.clear();
    }

    /// Ends all transfers, and tells their clients.
    pub fn stop(&mut self, now: Instant) {
        self.flows.stop_all(&mut self.site, now);
    }

    /// The next thing to do besides sending.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.site.events.pop_front()
    }

    /// The next piece of work; its result goes to [`Endpoint::handle_loaded`]. Every transfer has at most one under way.
    pub fn poll_work(&mut self) -> Option<(Ticket, Work)> {
        self.site.work.pop_front()
    }

    /// The next thing to send.
    pub fn poll_transmit(&mut self, now: Instant) -> Option<Transmit<'_>> {
        if let Some((way, to, reply)) = self.replies.pop_front() {
            return Some(Transmit { way, to, payload: Payload::Packet(reply.packet()) });
        }
        let (ticket, piece) = self.flows.next(&mut self.site, now)?;
        let flow = self.flows.flow(ticket)?;
        Some(Transmit { way: flow.way(), to: flow.peer(), payload: flow.payload(piece) })
    }

    /// When to call [`Endpoint::handle_timeout`], if anything runs or waits.
    pub fn poll_timeout(&self) -> Option<Instant> {
        [self.flows.due(), self.requests.due()].into_iter().flatten().min()
    }

    /// The number of transfers that have not sent their last word, both directions.
    pub fn transfers(&self) -> usize {
        self.flows.len()
    }

    /// The number of requests that wait until their address is resolved, or for a place.
    pub fn held(&self) -> usize {
        self.requests.held()
    }

    fn split(&mut self) -> (&mut Requests, Context<'_>) {
        let Self { site, flows, requests, replies } = self;
        (requests, Context { site, flows, replies })
    }
}

impl SiteState {
    fn count(&mut self, name: &'static str) {
        self.events.push_back(Event::Count(name));
    }

    fn alert(&mut self, code: AlertCode, text: String) {
        self.events.push_back(Event::Alert(code, text));
    }

    /// Tells of the devices that have phones behind them, if that has changed.
    fn tell_behind(&mut self, now: Instant) {
        if let Some(devices) = self.gate.poll_behind(now) {
            self.events.push_back(Event::ClearAlert(AlertCode::BehindOneDevice));
            for behind in devices {
                // An address of a phone that went to a repeater was not taken.
                if behind.phones > 1 {
                    self.events.push_back(Event::EndAlerts(AlertCode::AddressConflict, behind.device));
                }
                self.alert(AlertCode::BehindOneDevice, behind.to_string());
            }
        }
    }

    fn transfer(&mut self, record: TransferRecord) {
        self.events.push_back(Event::Transfer(record));
    }

    fn submit(&mut self, ticket: Ticket, work: Work) {
        self.outstanding += 1;
        self.work.push_back((ticket, work));
    }

    /// Whether something may be read that nobody waits for yet.
    fn has_time(&self) -> bool {
        self.outstanding < MAX_AHEAD
    }
}
