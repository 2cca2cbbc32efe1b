//! The link itself, seen and spoken to frame by frame, on threads of its own: `augment` has to be faster than the router.
//!
//! There is a thread for each processor, and each takes the frames that its processor received. So nobody has to be woken
//! up elsewhere: to get an idle processor to work costs more than all that is done here (measured in a virtual machine:
//! 50 us of 65, and now and then a millisecond).

use std::io;
use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::os::fd::AsRawFd as _;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::socket::{LinkAddr, MsgFlags, recv, sendto};
use socket2::Socket;
use tokio::sync::mpsc;
use tracing::debug;

use super::cpu_share::{self, CpuShare};
use super::packet_sockets::{PacketSockets, Purpose};
use crate::augment::{Action, Augment, Event, MAX_SERVERS};
use crate::completed_lease::CompletedLease;
use crate::frame::{self, Datagram};
use crate::heard::ServerMessage;
use crate::message::{MessageKind, Request};
use crate::question::{self, Question};
use crate::responder::{Destination, Verdict, respond_to_inform};
use crate::scope::ActiveMode;
use crate::server::Orders;
use access::{DeviceTable, Resolution};
use ids::MacAddr;

/// How long a thread waits for a frame before it looks whether it shall end.
const WAIT: Duration = Duration::from_millis(200);
/// What the kernel's clock for it can tell apart.
const SHORTEST_WAIT: Duration = Duration::from_millis(1);
/// The most events that wait for the service; over it they are lost, and with them a line in a report.
const EVENTS: usize = 256;
/// More than any frame that is read.
const FRAME_BYTES: usize = 2048;

/// See [`FloodBrake`].
const BURST: u32 = 64;
/// See [`FloodBrake`].
const BURST_SPAN: Duration = Duration::from_millis(32);
/// See [`FloodBrake`].
const BREATH: Duration = Duration::from_millis(2);

/// Who we are on the link.
#[derive(Debug, Clone, Copy)]
pub struct LinkIdentity {
    /// Our hardware address.
    pub mac: MacAddr,
    /// The interface as the kernel names it to raw sockets.
    pub link: LinkAddr,
    /// Our address.
    pub address: Ipv4Addr,
    /// The server's and the client's port.
    pub ports: (u16, u16),
}

/// The threads and what goes to and from them. Dropping it ends them.
#[derive(Debug)]
pub struct FastPath {
    shared: Arc<FastPathShared>,
    threads: Vec<JoinHandle<()>>,
    events: mpsc::Receiver<Event>,
}

#[derive(Debug)]
struct FastPathShared {
    orders: Mutex<Arc<Orders>>,
    changed: AtomicBool,
    stop: AtomicBool,
    /// Held for the microseconds of one decision, by threads that all have the same priority and a processor each.
    state: Mutex<FastPathState>,
}

#[derive(Debug)]
struct FastPathState {
    orders: Arc<Orders>,
    augment: Augment,
    /// The routers that were asked.
    asked: Vec<Ipv4Addr>,
    /// What was recalled already.
    recalled: Option<Arc<Vec<(CompletedLease, Duration)>>>,
}

impl FastPath {
    /// Opens the link. `relay` sends from the server port: routers answer relay agents there.
    pub fn open(
        identity: LinkIdentity,
        (sockets, relay): (&mut PacketSockets, UdpSocket),
        orders: Arc<Orders>,
        devices: Arc<RwLock<DeviceTable>>,
    ) -> io::Result<Self> {
        let mut seed = [0; 8];
        getrandom::fill(&mut seed).map_err(io::Error::other)?;
        let state = FastPathState {
            orders: Arc::clone(&orders),
            augment: Augment::new(u64::from_ne_bytes(seed), Instant::now()),
            asked: Vec::new(),
            recalled: None,
        };
        let shared = Arc::new(FastPathShared {
            orders: Mutex::new(orders),
            changed: AtomicBool::new(true),
            stop: AtomicBool::new(false),
            state: Mutex::new(state),
        });
        let (tell, events) = mpsc::channel(EVENTS);
        let relay = Arc::new(relay);
        let mut fast_path = Self { shared, threads: Vec::new(), events };
        for (place, share) in cpu_share::divide(&cpu_share::processors()).into_iter().enumerate() {
            let (relay, tell, devices) = (Arc::clone(&relay), tell.clone(), Arc::clone(&devices));
            let raw = open(sockets, &identity, &share)?;
            let worker = Worker { raw, relay, identity, devices, tell };
            let told = Arc::clone(&fast_path.shared);
            let work = move || {
                let _ending = Ending(&told);
                share.pin_thread();
                cpu_share::raise_priority();
                worker.run(&told);
            };
            fast_path.threads.push(std::thread::Builder::new().name(format!("dhcp-fast-{place}")).spawn(work)?);
        }
        Ok(fast_path)
    }

    /// What the threads have to do from now on.
    pub fn order(&self, orders: &Arc<Orders>) {
        let mut held = self.shared.orders.lock().unwrap_or_else(PoisonError::into_inner);
        if !Arc::ptr_eq(&held, orders) {
            *held = Arc::clone(orders);
            self.shared.changed.store(true, Ordering::Release);
        }
    }

    /// What the threads have to tell; `None` if they have ended. Cancel safe.
    pub async fn event(&mut self) -> Option<Event> {
        self.events.recv().await
    }
}

impl Drop for FastPath {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Release);
        for thread in self.threads.drain(..) {
            // A thread that panicked has said so.
            let _ = thread.join();
        }
    }
}

/// When one thread ends, all do: what its processor receives would be nobody's.
struct Ending<'a>(&'a FastPathShared);

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        self.0.stop.store(true, Ordering::Release);
    }
}

impl FastPathShared {
    fn state(&self) -> MutexGuard<'_, FastPathState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes new orders, if there are any.
    fn take_orders(&self, state: &mut FastPathState, own: (MacAddr, Ipv4Addr), actions: &mut Vec<Action>) {
        if self.changed.swap(false, Ordering::AcqRel) {
            let orders = Arc::clone(&self.orders.lock().unwrap_or_else(PoisonError::into_inner));
            let before = std::mem::replace(&mut state.orders, orders);
            state.ask_as_relay(own, actions);
            state.follow(&before);
        }
    }
}

impl FastPathState {
    /// Whether routers that are new answer relay agents at all, for reports.
    fn ask_as_relay(&mut self, (mac, address): (MacAddr, Ipv4Addr), actions: &mut Vec<Action>) {
        let new = self.orders.servers.iter().filter(|server| !self.asked.contains(server));
        for &server in new.take(MAX_SERVERS) {
            let discover = question::emit(Question::Discover(None), mac, 0);
            actions.push(self.augment.relay_own(server, &discover, address));
        }
        self.asked.clone_from(&self.orders.servers);
    }

    fn follow(&mut self, before: &Orders) {
        let orders = &self.orders;
        self.augment.set_servers(&orders.servers);
        self.augment.set_slow(&orders.slow);
        if before.scope.tftp != orders.scope.tftp || before.scope.vendor_options != orders.scope.vendor_options {
            self.augment.drop_completed();
        }
        // Not before its router is known and `augment` is in force; then once.
        let ready = orders.scope.mode == ActiveMode::Augment && !orders.servers.is_empty();
        if ready && !self.recalled.as_ref().is_some_and(|recalled| Arc::ptr_eq(recalled, &orders.recalled)) {
            self.augment.recall(&orders.scope, &orders.recalled, Instant::now());
            self.recalled = Some(Arc::clone(&orders.recalled));
        }
    }
}

struct Worker {
    raw: Socket,
    relay: Arc<UdpSocket>,
    identity: LinkIdentity,
    devices: Arc<RwLock<DeviceTable>>,
    tell: mpsc::Sender<Event>,
}

impl Worker {
    fn run(self, shared: &FastPathShared) {
        let mut pace = FloodBrake { frames: 0, since: Instant::now() };
        let mut bytes = [0; FRAME_BYTES];
        let mut actions = Vec::with_capacity(16);
        let mut wait = WAIT;
        while !shared.stop.load(Ordering::Acquire) {
            let received = recv(self.raw.as_raw_fd(), &mut bytes, MsgFlags::empty());
            let frame = received.ok().and_then(|length| bytes.get(..length));
            let due = self.decide(shared, frame.and_then(frame::parse).as_ref(), &mut actions);
            for act in actions.drain(..) {
                self.act(act);
            }
            let due = due.map(|at| at.saturating_duration_since(Instant::now()));
            let next = due.map_or(WAIT, |due| due.clamp(SHORTEST_WAIT, WAIT));
            if next != wait && self.raw.set_read_timeout(Some(next)).is_ok() {
                wait = next;
            }
            match received {
                Ok(_) => pace.one_more(),
                Err(Errno::EAGAIN | Errno::EINTR) => {}
                // The interface is down; it may come back.
                Err(error) => {
                    debug!(%error, "the link cannot be read");
                    std::thread::sleep(WAIT);
                }
            }
        }
    }

    /// What comes of a datagram, and of the time. Says when there is something to do again.
    fn decide(
        &self,
        shared: &FastPathShared,
        datagram: Option<&Datagram<'_>>,
        actions: &mut Vec<Action>,
    ) -> Option<Instant> {
        let mut state = shared.state();
        let state = &mut *state;
        shared.take_orders(state, (self.identity.mac, self.identity.address), actions);
        let orders = Arc::clone(&state.orders);
        let scope = (orders.scope.mode == ActiveMode::Augment).then_some(&orders.scope);
        state.augment.tick(scope, Instant::now(), actions);
        if let Some(datagram) = datagram {
            self.hear(&orders, &mut state.augment, datagram, actions);
        }
        state.augment.deadline()
    }

    fn hear(&self, orders: &Orders, augment: &mut Augment, datagram: &Datagram<'_>, actions: &mut Vec<Action>) {
        let now = Instant::now();
        let augments = orders.scope.mode == ActiveMode::Augment;
        let taken = |address: Ipv4Addr, mac: MacAddr| is_taken(&self.devices, address, mac);
        if let Some(message) = ServerMessage::parse(datagram.payload) {
            if *datagram.source.ip() != self.identity.address {
                let scope = augments.then_some(&orders.scope);
                augment.hear_server(scope, &message, &taken, now, actions);
            }
            return;
        }
        if !orders.scope.answers_first() || datagram.destination.port() != self.identity.ports.0 {
            return;
        }
        let Ok(request) = Request::parse(datagram.payload) else { return };
        if request.chaddr == self.identity.mac {
            return;
        }
        if request.kind == MessageKind::Inform {
            return Self::inform(orders, &request, *datagram.source.ip(), actions);
        }
        if !augments {
            return;
        }
        let what = (&orders.scope, &request, datagram.payload);
        augment.hear_client(what, datagram.broadcast, &|address| taken(address, request.chaddr), now, actions);
    }

    /// DHCPINFORM: routers answer it too, without 66/150, and the first answer counts.
    fn inform(orders: &Orders, request: &Request, source: Ipv4Addr, actions: &mut Vec<Action>) {
        let verdict = respond_to_inform(&orders.scope, request, source);
        if let Verdict::Reply(reply, Destination::Address(address), None) = verdict {
            let (mac, message) = (request.chaddr, reply.emit());
            actions.push(Action::Reply { mac, address, broadcast: false, message });
            actions.push(Action::Tell(Event::Informed));
        }
    }

    fn act(&self, act: Action) {
        match act {
            Action::Reply { mac, address, broadcast, message } => {
                let (mac, address) =
                    if broadcast { (MacAddr::new([0xff; 6]), Ipv4Addr::BROADCAST) } else { (mac, address) };
                let from = (self.identity.mac, SocketAddrV4::new(self.identity.address, self.identity.ports.0));
                let to = (mac, SocketAddrV4::new(address, self.identity.ports.1));
                if let Some(frame) = frame::emit(from, to, &message)
                    && let Err(error) =
                        sendto(self.raw.as_raw_fd(), &frame, &self.identity.link, MsgFlags::MSG_DONTWAIT)
                {
                    debug!(%error, "a completed answer could not be sent");
                }
            }
            Action::Relay(server, message) => {
                if let Err(error) = self.relay.send_to(&message, (server, self.identity.ports.0)) {
                    debug!(%error, %server, "a DISCOVER could not be relayed");
                }
            }
            Action::Tell(event) => {
                // A report less is better than an answer late.
                let _ = self.tell.try_send(event);
            }
        }
    }
}

/// A socket that hears what falls to one thread.
fn open(sockets: &mut PacketSockets, identity: &LinkIdentity, share: &CpuShare) -> io::Result<Socket> {
    let raw = sockets.take(Purpose::Dhcp, &identity.link, Some(&share.filter(identity.ports)))?;
    raw.set_nonblocking(false)?;
    raw.set_read_timeout(Some(WAIT))?;
    Ok(raw)
}

/// A flood must not take a core from everybody else: over [`BURST`] frames in [`BURST_SPAN`] the thread sleeps between.
struct FloodBrake {
    frames: u32,
    since: Instant,
}

impl FloodBrake {
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
