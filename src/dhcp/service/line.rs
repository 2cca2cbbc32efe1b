//! The link itself, seen and spoken to frame by frame, on a thread of its own: `augment` has to be faster than the router.

use std::io;
use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::os::fd::AsRawFd as _;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime};

use nix::errno::Errno;
use nix::sys::socket::{LinkAddr, MsgFlags, recv, sendto};
use socket2::{SockFilter, Socket};
use thread_priority::{
    RealtimeThreadSchedulePolicy, ThreadPriority, ThreadPriorityValue, ThreadSchedulePolicy,
    set_thread_priority_and_policy, thread_native_id,
};
use tokio::sync::mpsc;
use tracing::debug;

use super::packet_sockets::{PacketSockets, Purpose};
use crate::access::{DeviceTable, Resolution};
use crate::dhcp::augment::{Act, Augment, Event, Kept, MAX_SERVERS};
use crate::dhcp::desk::Orders;
use crate::dhcp::frame::{self, Datagram};
use crate::dhcp::heard::ServerMessage;
use crate::dhcp::lan::Lan;
use crate::dhcp::leases::Leases;
use crate::dhcp::message::{Kind, Request};
use crate::dhcp::probe::{self, Question};
use crate::dhcp::responder::{To, Verdict, View, respond};
use crate::dhcp::scope::Mode;
use crate::ids::{MacAddr, UnixTime};

/// How long the thread waits for a frame before it looks whether it shall end.
const WAIT: Duration = Duration::from_millis(200);
/// What the kernel's clock for it can tell apart.
const SHORTEST_WAIT: Duration = Duration::from_millis(1);
/// The most events that wait for the service; over it they are lost, and with them a line in a report.
const EVENTS: usize = 256;
/// More than any frame that is read.
const FRAME_BYTES: usize = 2048;

/// Of 99: before all that is not real time, after what drives hardware (50).
const PRIORITY: u8 = 20;
/// See [`Pace`].
const BURST: u32 = 64;
/// See [`Pace`].
const BURST_SPAN: Duration = Duration::from_millis(32);
/// See [`Pace`].
const BREATH: Duration = Duration::from_millis(2);

/// Who we are on the link.
#[derive(Debug, Clone, Copy)]
pub struct Port {
    /// Our hardware address.
    pub mac: MacAddr,
    /// The interface as the kernel names it to raw sockets.
    pub link: LinkAddr,
    /// Our address.
    pub address: Ipv4Addr,
    /// The server's and the client's port.
    pub ports: (u16, u16),
}

/// The thread and what goes to and from it. Dropping it ends the thread.
#[derive(Debug)]
pub struct Line {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
    events: mpsc::Receiver<Event>,
}

#[derive(Debug)]
struct Shared {
    orders: Mutex<Arc<Orders>>,
    changed: AtomicBool,
    stop: AtomicBool,
}

impl Line {
    /// Opens the link. `relay` sends from the server port: routers answer relay agents there.
    pub fn open(
        port: Port,
        (sockets, relay): (&mut PacketSockets, UdpSocket),
        orders: Arc<Orders>,
        devices: Arc<RwLock<DeviceTable>>,
    ) -> io::Result<Self> {
        let raw = sockets.take(Purpose::Dhcp, &port.link, Some(&filter(port.ports)))?;
        raw.set_nonblocking(false)?;
        raw.set_read_timeout(Some(WAIT))?;
        let mut seed = [0; 8];
        getrandom::fill(&mut seed).map_err(io::Error::other)?;
        let shared = Arc::new(Shared {
            orders: Mutex::new(orders),
            changed: AtomicBool::new(true),
            stop: AtomicBool::new(false),
        });
        let (tell, events) = mpsc::channel(EVENTS);
        let worker = Worker {
            raw,
            relay,
            port,
            devices,
            tell,
            augment: Augment::new(u64::from_ne_bytes(seed), Instant::now()),
            asked: Vec::new(),
            recalled: None,
            lan: Lan::new(),
            leases: Leases::new(),
        };
        let told = Arc::clone(&shared);
        let thread = std::thread::Builder::new().name("dhcp-line".to_owned()).spawn(move || worker.run(&told))?;
        Ok(Self { shared, thread: Some(thread), events })
    }

    /// What the thread has to do from now on.
    pub fn order(&self, orders: &Arc<Orders>) {
        let mut held = self.shared.orders.lock().unwrap_or_else(PoisonError::into_inner);
        if !Arc::ptr_eq(&held, orders) {
            *held = Arc::clone(orders);
            self.shared.changed.store(true, Ordering::Release);
        }
    }

    /// What the thread has to tell; `None` if it has ended. Cancel safe.
    pub async fn event(&mut self) -> Option<Event> {
        self.events.recv().await
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            // A thread that panicked has said so.
            let _ = thread.join();
        }
    }
}

struct Worker {
    raw: Socket,
    relay: UdpSocket,
    port: Port,
    devices: Arc<RwLock<DeviceTable>>,
    tell: mpsc::Sender<Event>,
    augment: Augment,
    /// The routers that were asked.
    asked: Vec<Ipv4Addr>,
    /// What was recalled already.
    recalled: Option<Arc<Vec<(Kept, Duration)>>>,
    /// `respond` wants them; nothing is leased here.
    lan: Lan,
    leases: Leases,
}

impl Worker {
    fn run(mut self, shared: &Shared) {
        be_first();
        let mut pace = Pace { frames: 0, since: Instant::now() };
        let mut bytes = [0; FRAME_BYTES];
        let mut acts = Vec::with_capacity(16);
        let mut orders = Arc::clone(&shared.orders.lock().unwrap_or_else(PoisonError::into_inner));
        let mut wait = WAIT;
        while !shared.stop.load(Ordering::Acquire) {
            let due = self.augment.deadline().map(|at| at.saturating_duration_since(Instant::now()));
            let next = due.map_or(WAIT, |due| due.clamp(SHORTEST_WAIT, WAIT));
            if next != wait && self.raw.set_read_timeout(Some(next)).is_ok() {
                wait = next;
            }
            let received = recv(self.raw.as_raw_fd(), &mut bytes, MsgFlags::empty());
            if shared.changed.swap(false, Ordering::AcqRel) {
                let before = std::mem::replace(
                    &mut orders,
                    Arc::clone(&shared.orders.lock().unwrap_or_else(PoisonError::into_inner)),
                );
                self.ask_as_relay(&orders);
                self.follow(&before, &orders);
            }
            let scope = (orders.scope.mode == Mode::Augment).then_some(&orders.scope);
            self.augment.tick(scope, Instant::now(), &mut acts);
            for act in acts.drain(..) {
                self.act(act);
            }
            let length = match received {
                Ok(length) => length,
                Err(Errno::EAGAIN | Errno::EINTR) => continue,
                // The interface is down; it may come back.
                Err(error) => {
                    debug!(%error, "the link cannot be read");
                    std::thread::sleep(WAIT);
                    continue;
                }
            };
            pace.one_more();
            let Some(datagram) = bytes.get(..length).and_then(frame::parse) else { continue };
            self.decide(&orders, &datagram, &mut acts);
            for act in acts.drain(..) {
                self.act(act);
            }
        }
    }

    /// Whether routers that are new answer relay agents at all, for reports.
    fn ask_as_relay(&mut self, orders: &Orders) {
        for &server in orders.servers.iter().filter(|server| !self.asked.contains(server)).take(MAX_SERVERS) {
            let discover = probe::emit(Question::Discover(None), self.port.mac, 0);
            let act = self.augment.relay(server, &discover, self.port.address);
            self.act(act);
        }
        self.asked.clone_from(&orders.servers);
    }

    fn decide(&mut self, orders: &Orders, datagram: &Datagram<'_>, acts: &mut Vec<Act>) {
        let now = Instant::now();
        let augments = orders.scope.mode == Mode::Augment;
        let taken = |address: Ipv4Addr, mac: MacAddr| is_taken(&self.devices, address, mac);
        if let Some(message) = ServerMessage::parse(datagram.payload) {
            if *datagram.source.ip() != self.port.address {
                let scope = augments.then_some(&orders.scope);
                self.augment.server(scope, &message, &taken, now, acts);
            }
            return;
        }
        if !orders.scope.answers_first() || datagram.destination.port() != self.port.ports.0 {
            return;
        }
        let Ok(request) = Request::parse(datagram.payload) else { return };
        if request.chaddr == self.port.mac {
            return;
        }
        if request.kind == Kind::Inform {
            return self.inform(orders, &request, *datagram.source.ip(), acts);
        }
        if !augments {
            return;
        }
        let what = (&orders.scope, &request, datagram.payload);
        self.augment.client(what, datagram.broadcast, &|address| taken(address, request.chaddr), now, acts);
    }

    fn follow(&mut self, before: &Orders, orders: &Orders) {
        self.augment.set_servers(&orders.servers);
        self.augment.set_slow(&orders.slow);
        if before.scope.tftp != orders.scope.tftp || before.scope.vendor_options != orders.scope.vendor_options {
            self.augment.set_added();
        }
        // Not before its router is known and `augment` is in force; then once.
        let ready = orders.scope.mode == Mode::Augment && !orders.servers.is_empty();
        if ready && !self.recalled.as_ref().is_some_and(|recalled| Arc::ptr_eq(recalled, &orders.recalled)) {
            self.augment.recall(&orders.scope, &orders.recalled, Instant::now());
            self.recalled = Some(Arc::clone(&orders.recalled));
        }
    }

    /// DHCPINFORM: routers answer it too, without 66/150, and the first answer counts.
    fn inform(&self, orders: &Orders, request: &Request, source: Ipv4Addr, acts: &mut Vec<Act>) {
        let view = View { lan: &self.lan, leases: &self.leases, source };
        let verdict = respond(&orders.scope, &view, request, UnixTime::of(SystemTime::now()));
        if let Verdict::Reply(reply, To::Address(address), None) = verdict {
            let (mac, message) = (request.chaddr, reply.emit());
            acts.push(Act::Reply { mac, address, broadcast: false, message });
            acts.push(Act::Tell(Event::Silent("dhcp.ack")));
        }
    }

    fn act(&self, act: Act) {
        match act {
            Act::Reply { mac, address, broadcast, message } => {
                let (mac, address) =
                    if broadcast { (MacAddr::new([0xff; 6]), Ipv4Addr::BROADCAST) } else { (mac, address) };
                let from = (self.port.mac, SocketAddrV4::new(self.port.address, self.port.ports.0));
                let to = (mac, SocketAddrV4::new(address, self.port.ports.1));
                if let Some(frame) = frame::emit(from, to, &message)
                    && let Err(error) = sendto(self.raw.as_raw_fd(), &frame, &self.port.link, MsgFlags::MSG_DONTWAIT)
                {
                    debug!(%error, "a completed answer could not be sent");
                }
            }
            Act::Relay(server, message) => {
                if let Err(error) = self.relay.send_to(&message, (server, self.port.ports.0)) {
                    debug!(%error, %server, "a DISCOVER could not be relayed");
                }
            }
            Act::Tell(event) => {
                // A report less is better than an answer late.
                let _ = self.tell.try_send(event);
            }
        }
    }
}

/// Runs this thread before all others of the machine. On a machine that is busy, serving TFTP or otherwise, it would lose
/// to the router now and then: measured, with 20 processes waiting for two cores, about every third time.
fn be_first() {
    let Ok(priority) = ThreadPriorityValue::try_from(PRIORITY) else { return };
    let policy = ThreadSchedulePolicy::Realtime(RealtimeThreadSchedulePolicy::Fifo);
    let priority = ThreadPriority::Crossplatform(priority);
    if let Err(error) = set_thread_priority_and_policy(thread_native_id(), priority, policy) {
        debug!(
            ?error,
            "no real-time priority (CAP_SYS_NICE or LimitRTPRIO=); `augment` loses more races on a busy box"
        );
    }
}

/// A flood must not take a core from everybody else: over [`BURST`] frames in [`BURST_SPAN`] the thread sleeps between.
struct Pace {
    frames: u32,
    since: Instant,
}

impl Pace {
    fn one_more(&mut self) {
        self.frames += 1;
        if self.frames == BURST {
            if self.since.elapsed() < BURST_SPAN {
                std::thread::sleep(BREATH);
            }
            *self = Self { frames: 0, since: Instant::now() };
        }
    }
}

/// Whether the link says that another device has an address.
fn is_taken(devices: &RwLock<DeviceTable>, address: Ipv4Addr, mac: MacAddr) -> bool {
    match devices.read().unwrap_or_else(PoisonError::into_inner).resolve(address) {
        Resolution::Device(other) | Resolution::Conflict { seen: other, .. } => other != mac,
        Resolution::Unknown => false,
    }
}

/// Lets through whole UDP datagrams to one of two ports; the kernel drops the rest before we are woken.
fn filter((server, client): (u16, u16)) -> [SockFilter; 12] {
    const LOAD_HALF: u16 = 0x28;
    const LOAD_BYTE: u16 = 0x30;
    const LOAD_LENGTH: u16 = 0xb1;
    const LOAD_HALF_AT: u16 = 0x48;
    const EQUAL: u16 = 0x15;
    const ANY_BIT: u16 = 0x45;
    const RETURN: u16 = 0x06;
    [
        SockFilter::new(LOAD_HALF, 0, 0, 12),
        SockFilter::new(EQUAL, 0, 9, 0x0800),
        SockFilter::new(LOAD_BYTE, 0, 0, 23),
        SockFilter::new(EQUAL, 0, 7, 17),
        SockFilter::new(LOAD_HALF, 0, 0, 20),
        SockFilter::new(ANY_BIT, 5, 0, 0x3fff),
        SockFilter::new(LOAD_LENGTH, 0, 0, 14),
        SockFilter::new(LOAD_HALF_AT, 0, 0, 16),
        SockFilter::new(EQUAL, 1, 0, server.into()),
        SockFilter::new(EQUAL, 0, 1, client.into()),
        SockFilter::new(RETURN, 0, 0, 0xffff),
        SockFilter::new(RETURN, 0, 0, 0),
    ]
}
