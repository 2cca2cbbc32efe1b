//! The fast path: threads that see and send DHCP in frames, because `augment` must be faster than the router.
//!
//! Each processor has a thread, and the thread takes the frames that its processor received. So no frame wakes up another,
//! idle processor, which would take longer than the answer itself (measured in a virtual machine: 50 us of 65, and now and
//! then a millisecond). A thread waits for a frame on its own packet socket, at most until [`Augment::deadline`], decides
//! under one lock, and sends what came of it. It never waits for the service or for a disk.
//!
//! [`FastPath`] is the service's end, `Worker` a thread's, and `FastPathShared` is what stands between them.

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
use crate::arp::{self, Claim};
use crate::augment::{Action, Augment, Event, MAX_SERVERS, Occupant};
use crate::completed_lease::CompletedLease;
use crate::heard::{Overheard, ServerMessage};
use crate::lan::ServerPath;
use crate::message::{MessageKind, Request};
use crate::question::{self, Question};
use crate::responder::{Destination, Verdict, respond_to_inform};
use crate::scope::ActiveMode;
use crate::server::Orders;
use access::{DeviceTable, Resolution};
use ethernet::frame::{self, Datagram};
use ethernet::{PacketSockets, Purpose};
use ids::MacAddr;

/// How long a thread waits for a frame before it looks whether it must end.
const WAIT: Duration = Duration::from_millis(200);
/// The shortest time that the kernel can wait for a frame.
const SHORTEST_WAIT: Duration = Duration::from_millis(1);
/// The most events that wait for the service. Further ones are lost, and with them a count or a report.
const EVENTS: usize = 256;
/// The room for a frame. No frame that is read is longer.
const FRAME_BYTES: usize = 2048;

/// How many frames make a burst.
const BURST: u32 = 64;
/// A burst within this time is a flood.
const BURST_SPAN: Duration = Duration::from_millis(32);
/// How long a thread sleeps after a burst of a flood.
const PAUSE: Duration = Duration::from_millis(2);

/// Our addresses and ports on the link.
#[derive(Debug, Clone, Copy)]
pub(super) struct LinkIdentity {
    /// Our hardware address.
    pub mac: MacAddr,
    /// The interface as the kernel names it to packet sockets.
    pub link: LinkAddr,
    /// Our address.
    pub address: Ipv4Addr,
    /// The server's port.
    pub server_port: u16,
    /// The client's port.
    pub client_port: u16,
}

/// The threads, and what goes to them and comes from them. Dropping it ends the threads.
#[derive(Debug)]
pub(super) struct FastPath {
    shared: Arc<FastPathShared>,
    threads: Vec<JoinHandle<()>>,
    events: mpsc::Receiver<Event>,
}

/// What the service and all threads share.
#[derive(Debug)]
struct FastPathShared {
    /// The newest orders. The service replaces them, and the next thread that decides takes them.
    orders: Mutex<Arc<Orders>>,
    /// Whether the orders are new.
    changed: AtomicBool,
    stop: AtomicBool,
    /// Locked for the microseconds of one decision, by threads that all have the same priority and a processor each.
    state: Mutex<FastPathState>,
}

/// What a decision depends on and changes.
#[derive(Debug)]
struct FastPathState {
    /// The orders that are followed.
    orders: Arc<Orders>,
    augment: Augment,
    /// The routers that were asked whether they answer relay agents, and how they were reached.
    asked: Vec<(Ipv4Addr, ServerPath)>,
    /// The leases of before a restart that `augment` has taken over.
    recalled: Option<Arc<Vec<(CompletedLease, Duration)>>>,
}

impl FastPath {
    /// Opens a socket for each thread and starts the threads. `relay` sends from the server port, where routers answer relay
    /// agents.
    pub(super) fn open(
        identity: LinkIdentity,
        (sockets, relay): (&mut PacketSockets, UdpSocket),
        orders: Arc<Orders>,
        devices: Arc<RwLock<DeviceTable>>,
    ) -> io::Result<Self> {
        let mut seed = [0; 8];
        getrandom::fill(&mut seed).map_err(io::Error::other)?;
        let state = FastPathState {
            orders: Arc::clone(&orders),
            augment: Augment::new(u64::from_ne_bytes(seed)),
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
            let (relay, told, devices) = (Arc::clone(&relay), tell.clone(), Arc::clone(&devices));
            let raw = open(sockets, &identity, &share)?;
            let worker = Worker { raw, relay, identity, devices, events: told };
            let shared = Arc::clone(&fast_path.shared);
            let work = move || {
                let _ending = Ending(&shared);
                share.pin_thread();
                cpu_share::raise_priority();
                worker.run(&shared);
            };
            fast_path.threads.push(std::thread::Builder::new().name(format!("dhcp-fast-{place}")).spawn(work)?);
        }
        Ok(fast_path)
    }

    /// Tells the threads what to do from now on.
    pub(super) fn order(&self, orders: &Arc<Orders>) {
        let mut held = self.shared.orders.lock().unwrap_or_else(PoisonError::into_inner);
        if !Arc::ptr_eq(&held, orders) {
            *held = Arc::clone(orders);
            self.shared.changed.store(true, Ordering::Release);
        }
    }

    /// Devices answered by ARP that they have these addresses.
    pub(super) fn answered(&self, answers: &[Claim]) {
        let mut state = self.shared.state();
        answers.iter().for_each(|claim| state.augment.hear_holder(claim.address, claim.mac));
    }

    /// Waits for what the threads tell. `None` if they have ended. Cancel safe.
    pub(super) async fn event(&mut self) -> Option<Event> {
        self.events.recv().await
    }
}

impl Drop for FastPath {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Release);
        for thread in self.threads.drain(..) {
            // A thread that panicked has logged it.
            let _ = thread.join();
        }
    }
}

/// Ends all threads when one ends: nobody would take the frames of its processor.
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
    /// Asks routers that are new whether they answer relay agents. People see that in reports.
    fn ask_as_relay(&mut self, (mac, address): (MacAddr, Ipv4Addr), actions: &mut Vec<Action>) {
        let orders = &self.orders;
        let servers: Vec<_> = orders.servers.iter().map(|&server| (server, orders.path_to(server))).collect();
        for &(server, _) in servers.iter().filter(|one| !self.asked.contains(one)).take(MAX_SERVERS) {
            let discover = question::emit(Question::Discover(None), mac, 0);
            actions.push(self.augment.relay_own(server, &discover, address));
        }
        self.asked = servers;
    }

    /// Follows new orders.
    #[expect(clippy::disallowed_methods, reason = "a service has a clock")]
    fn follow(&mut self, before: &Orders) {
        let orders = &self.orders;
        self.augment.set_servers(&orders.servers);
        self.augment.set_slow(&orders.slow);
        self.augment.set_own_names(&orders.own_names);
        if before.scope.tftp != orders.scope.tftp || before.scope.vendor_options != orders.scope.vendor_options {
            self.augment.drop_completed();
        }
        // Leases are recalled once, when their router is known and `augment` is in force.
        let ready = orders.scope.mode == ActiveMode::Augment && !orders.servers.is_empty();
        if ready && !self.recalled.as_ref().is_some_and(|recalled| Arc::ptr_eq(recalled, &orders.recalled)) {
            self.augment.recall(&orders.scope, &orders.recalled, Instant::now());
            self.recalled = Some(Arc::clone(&orders.recalled));
        }
    }
}

/// One thread.
struct Worker {
    /// The socket that hears the thread's share, and sends.
    raw: Socket,
    relay: Arc<UdpSocket>,
    identity: LinkIdentity,
    devices: Arc<RwLock<DeviceTable>>,
    events: mpsc::Sender<Event>,
}

impl Worker {
    #[expect(clippy::disallowed_methods, reason = "a service has a clock")]
    fn run(self, shared: &FastPathShared) {
        let mut brake = FloodBrake { frames: 0, since: Instant::now() };
        let mut bytes = [0; FRAME_BYTES];
        let mut actions = Vec::with_capacity(16);
        let mut wait = WAIT;
        while !shared.stop.load(Ordering::Acquire) {
            let received = recv(self.raw.as_raw_fd(), &mut bytes, MsgFlags::empty());
            let frame = received.ok().and_then(|length| bytes.get(..length));
            let (due, orders) = self.decide(shared, frame.and_then(frame::parse).as_ref(), &mut actions);
            for action in actions.drain(..) {
                self.carry_out(action, &orders);
            }
            let due = due.map(|at| at.saturating_duration_since(Instant::now()));
            let next = due.map_or(WAIT, |due| due.clamp(SHORTEST_WAIT, WAIT));
            if next != wait && self.raw.set_read_timeout(Some(next)).is_ok() {
                wait = next;
            }
            match received {
                Ok(_) => brake.count_frame(),
                Err(Errno::EAGAIN | Errno::EINTR) => {}
                // The interface is down; it may come back.
                Err(error) => {
                    debug!(%error, "the link cannot be read");
                    std::thread::sleep(WAIT);
                }
            }
        }
    }

    /// Decides what comes of a datagram and of the time. Says when to call again, and which orders were followed.
    #[expect(clippy::disallowed_methods, reason = "a service has a clock")]
    fn decide(
        &self,
        shared: &FastPathShared,
        datagram: Option<&Datagram<'_>>,
        actions: &mut Vec<Action>,
    ) -> (Option<Instant>, Arc<Orders>) {
        let mut state = shared.state();
        let state = &mut *state;
        shared.take_orders(state, (self.identity.mac, self.identity.address), actions);
        let orders = Arc::clone(&state.orders);
        let scope = (orders.scope.mode == ActiveMode::Augment).then_some(&orders.scope);
        state.augment.tick(scope, Instant::now(), actions);
        if let Some(datagram) = datagram {
            self.hear(&orders, &mut state.augment, datagram, actions);
        }
        (state.augment.deadline(), orders)
    }

    #[expect(clippy::disallowed_methods, reason = "a service has a clock")]
    fn hear(&self, orders: &Orders, augment: &mut Augment, datagram: &Datagram<'_>, actions: &mut Vec<Action>) {
        let now = Instant::now();
        let augments = orders.scope.mode == ActiveMode::Augment;
        let occupant = |address: Ipv4Addr, mac: MacAddr| occupant(&self.devices, address, mac);
        if let Some(message) = ServerMessage::parse(datagram.payload) {
            if *datagram.source.ip() != self.identity.address {
                let scope = augments.then_some(&orders.scope);
                augment.hear_server(scope, &message, &occupant, now, actions);
                // One that a relay agent passes on to us comes from elsewhere, and the kernel's route leads there.
                let to_us = message.chaddr == self.identity.mac && message.giaddr.is_unspecified();
                if to_us && !orders.scope.lan.contains(message.server) {
                    let source = (*datagram.source.ip(), datagram.sender);
                    actions.push(Action::Tell(Event::AnsweredFrom {
                        server: message.server,
                        xid: message.xid,
                        source,
                    }));
                }
            }
            return;
        }
        let foreign = *datagram.source.ip() != self.identity.address;
        if let Some(said) = Overheard::unreadable(datagram.payload, *datagram.source.ip(), |_| false) {
            if foreign {
                actions.push(Action::Tell(Event::Heard(Box::new(said))));
            }
            return;
        }
        if !orders.scope.answers_first() || datagram.destination.port() != self.identity.server_port {
            return;
        }
        let Ok(request) = Request::parse(datagram.payload) else { return };
        if request.chaddr == self.identity.mac {
            return;
        }
        // A relay agent sends in a frame of its own, and says that it is one.
        if request.giaddr.is_unspecified() && orders.scope.knows(request.chaddr) && datagram.sender != request.chaddr {
            actions.push(Action::Tell(Event::SentBy { phone: request.chaddr, sender: datagram.sender }));
        }
        if request.kind == MessageKind::Inform {
            return Self::inform(orders, &request, *datagram.source.ip(), actions);
        }
        if !augments {
            return;
        }
        let what = (&orders.scope, &request, datagram.payload);
        augment.hear_client(what, datagram.broadcast, &|address| occupant(address, request.chaddr), now, actions);
    }

    /// DHCPINFORM: a router answers it, too, without 66 and 150, and the first answer counts.
    fn inform(orders: &Orders, request: &Request, source: Ipv4Addr, actions: &mut Vec<Action>) {
        let verdict = respond_to_inform(&orders.scope, request, source);
        if let Verdict::Reply(reply, Destination::Address(address), None) = verdict {
            let (mac, message) = (request.chaddr, reply.emit());
            actions.push(Action::Reply { mac, address, broadcast: false, message });
            actions.push(Action::Tell(Event::Informed));
        }
    }

    fn carry_out(&self, action: Action, orders: &Orders) {
        match action {
            Action::Reply { mac, address, broadcast, message } => {
                let (mac, address) =
                    if broadcast { (MacAddr::new([0xff; 6]), Ipv4Addr::BROADCAST) } else { (mac, address) };
                if let Err(error) = self.send_frame((mac, address, self.identity.client_port), &message) {
                    debug!(%error, "a completed answer could not be sent");
                }
            }
            Action::Relay(server, message) => {
                let port = self.identity.server_port;
                let sent = match orders.path_to(server) {
                    ServerPath::Address(address) => self.relay.send_to(&message, (address, port)).map(drop),
                    ServerPath::Frame(mac, address) => self.send_frame((mac, address, port), &message),
                };
                if let Err(error) = sent {
                    debug!(%error, %server, "a DISCOVER could not be relayed");
                }
            }
            Action::Ask(address) => {
                let question = arp::ask(self.identity.mac, self.identity.address, address);
                if let Err(error) = sendto(self.raw.as_raw_fd(), &question, &self.identity.link, MsgFlags::MSG_DONTWAIT)
                {
                    debug!(%error, %address, "cannot ask by ARP");
                }
            }
            Action::Tell(event) => {
                // If the service is busy the event is lost. That is better than a late answer.
                let _ = self.events.try_send(event);
            }
        }
    }

    /// Sends a message from the server's port.
    fn send_frame(&self, (mac, address, port): (MacAddr, Ipv4Addr, u16), message: &[u8]) -> io::Result<()> {
        let from = (self.identity.mac, SocketAddrV4::new(self.identity.address, self.identity.server_port));
        let frame =
            frame::emit(from, (mac, SocketAddrV4::new(address, port)), message).ok_or(io::ErrorKind::InvalidInput)?;
        Ok(sendto(self.raw.as_raw_fd(), &frame, &self.identity.link, MsgFlags::MSG_DONTWAIT).map(drop)?)
    }
}

/// Opens the socket that hears the share of one thread.
fn open(sockets: &mut PacketSockets, identity: &LinkIdentity, share: &CpuShare) -> io::Result<Socket> {
    let raw =
        sockets.take(Purpose::Dhcp, &identity.link, Some(share.filter(identity.server_port, identity.client_port)))?;
    raw.set_nonblocking(false)?;
    raw.set_read_timeout(Some(WAIT))?;
    Ok(raw)
}

/// Keeps a flood from taking a processor away from everybody else: after [`BURST`] frames within [`BURST_SPAN`] the thread
/// sleeps.
struct FloodBrake {
    frames: u32,
    since: Instant,
}

impl FloodBrake {
    #[expect(clippy::disallowed_methods, reason = "a service has a clock")]
    fn count_frame(&mut self) {
        self.frames += 1;
        if self.frames == BURST {
            if self.since.elapsed() < BURST_SPAN {
                std::thread::sleep(PAUSE);
            }
            *self = Self { frames: 0, since: Instant::now() };
        }
    }
}

/// What the device table has at an address beside this device.
fn occupant(devices: &RwLock<DeviceTable>, address: Ipv4Addr, mac: MacAddr) -> Occupant {
    let devices = devices.read().unwrap_or_else(PoisonError::into_inner);
    match devices.resolve(address) {
        Resolution::Device(other) | Resolution::Conflict { seen: other, .. } if other != mac => {
            if devices.is_reachable(address) { Occupant::Reachable } else { Occupant::Stale }
        }
        Resolution::Device(_) | Resolution::Conflict { .. } | Resolution::Unknown => Occupant::Nobody,
    }
}
