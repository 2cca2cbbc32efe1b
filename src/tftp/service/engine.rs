//! The `tftp` thread. It waits for packets, deadlines and results of the disk, and hands each to its transfer.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, warn};

use super::Config;
use super::arp::BATCH as ANSWERS;
use super::frames::{FrameLink, FrameSender};
use super::port::{Sent, TransferPort};
use super::reader::Reader;
use super::wake::Waker;
use crate::endpoint::{Endpoint, Event, Payload, Ticket, Transmit, Waits, Way};
use crate::options::MAX_BLKSIZE;
use crate::packet::{DATA_HEADER_BYTES, MAX_REQUEST_BYTES};
use access::Catalog;
use status::Stats;

/// How long transfers that were told to stop may take to send their ERROR.
const FAREWELL: Duration = Duration::from_secs(1);

/// The most events that one call of `epoll_wait` returns.
const EVENTS: usize = 256;

/// How many packets are handled before the clock is read again.
const MOMENT: usize = 16;

/// The frames of this thread are small; the largest holds a list of a window's pieces.
const STACK_BYTES: usize = 512 * 1024;

/// The most requests that are read before the transfers get their turn.
const BATCH: usize = 64;

/// Room for whatever a client sends to a transfer: a block of a log, and a byte more, by which a longer one shows.
const INCOMING_BYTES: usize = MAX_BLKSIZE as usize + DATA_HEADER_BYTES + 1;

// What `epoll` reports and is no transfer: [`Ticket::number`] is far below these.
const LISTENER: u64 = u64::MAX;
const WAKER: u64 = u64::MAX - 1;
const FRAMES: u64 = u64::MAX - 2;
const ARP: u64 = u64::MAX - 3;

const RUN: u8 = 0;
const DRAIN: u8 = 1;
const ABORT: u8 = 2;

/// What the thread moves packets with.
pub(super) struct Parts {
    pub(super) endpoint: Endpoint,
    /// Port 69.
    pub(super) socket: UdpSocket,
    pub(super) refusals: UdpSocket,
    pub(super) frames: Option<FrameLink>,
    /// The kernel or the interface does not segment (`UDP_SEGMENT`).
    pub(super) no_gso: bool,
    pub(super) config: Config,
    /// The active release.
    pub(super) catalog: watch::Receiver<Arc<Catalog>>,
    /// Asks for an address to be resolved at once.
    pub(super) resolve: mpsc::Sender<Ipv4Addr>,
    pub(super) reader: Reader,
    pub(super) stats: Stats,
}

/// Serves in a thread of its own until `stop`, then for at most as long as running transfers may take.
pub(super) async fn run(parts: Parts, waker: Arc<Waker>, stop: CancellationToken) -> io::Result<()> {
    let order = Order { phase: Arc::new(AtomicU8::new(RUN)), waker: Arc::clone(&waker) };
    let (tell, ended) = oneshot::channel();
    let phase = Arc::clone(&order.phase);
    thread::Builder::new().name("tftp".to_owned()).stack_size(STACK_BYTES).spawn(move || {
        // The task that waits for the end may be gone.
        let _ = tell.send(Engine::new(parts).and_then(|mut engine| engine.serve(&waker, &phase)));
    })?;
    let mut ended = std::pin::pin!(ended);
    let outcome = tokio::select! {
        outcome = &mut ended => outcome,
        () = stop.cancelled() => {
            order.give(DRAIN);
            ended.await
        }
    };
    outcome.unwrap_or_else(|_| Err(io::Error::other("the thread that serves TFTP broke off")))
}

/// Tells the thread what to do. Dropping it ends the thread at once.
struct Order {
    phase: Arc<AtomicU8>,
    waker: Arc<Waker>,
}

impl Order {
    fn give(&self, phase: u8) {
        self.phase.store(phase, Ordering::Release);
        self.waker.wake();
    }
}

impl Drop for Order {
    fn drop(&mut self) {
        self.give(ABORT);
    }
}

/// The sockets, and the endpoint that decides what goes through them.
struct Engine {
    endpoint: Endpoint,
    listener: Option<UdpSocket>,
    refusals: UdpSocket,
    /// The port of each transfer, by [`Ticket::index`].
    ports: Vec<Option<TransferPort>>,
    frames: Option<FrameSender>,
    /// The transfers that wait for room in the queue of `frames`.
    blocked: Vec<Ticket>,
    no_gso: bool,
    epoll: Epoll,
    config: Config,
    catalog: watch::Receiver<Arc<Catalog>>,
    resolve: mpsc::Sender<Ipv4Addr>,
    reader: Reader,
    stats: Stats,
}

impl Engine {
    fn new(parts: Parts) -> io::Result<Self> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        epoll.add(&parts.socket, EpollEvent::new(EpollFlags::EPOLLIN, LISTENER))?;
        if let Some(frames) = &parts.frames {
            epoll.add(&frames.arp, EpollEvent::new(EpollFlags::EPOLLIN, ARP))?;
        }
        Ok(Self {
            endpoint: parts.endpoint,
            listener: Some(parts.socket),
            refusals: parts.refusals,
            ports: Vec::new(),
            frames: parts.frames.map(FrameSender::new),
            blocked: Vec::new(),
            no_gso: parts.no_gso,
            epoll,
            config: parts.config,
            catalog: parts.catalog,
            resolve: parts.resolve,
            reader: parts.reader,
            stats: parts.stats,
        })
    }

    /// The service loop. Each turn waits on one `epoll`, for whichever of these comes first:
    ///
    /// - **The listener's socket** (port 69): a phone asks for a file or wants to write its log. At most a batch of requests
    ///   is read, so that transfers get their turn.
    /// - **The bell** ([`Waker`]): a reader thread has a chunk or has kept a log, or the task that owns this thread gives an
    ///   order: finish what runs, or end at once.
    /// - **A transfer's socket**: its client sent an ACK, DATA or ERROR, or the kernel's full queue has room again. A
    ///   transfer that waits for the disk listens to neither; what its client sends stays in the socket.
    /// - **The packet socket**, while blocks wait for room in its queue: it has room again.
    /// - **The packet socket for ARP**: a device answered that it is there.
    /// - **The earliest deadline**: a transfer resends or gives up, a request has waited long enough for its address to be
    ///   resolved, or the time to finish is over.
    ///
    /// No error opens a socket again here. A receive that fails on port 69 is the ICMP error of an earlier answer, or memory
    /// ran short: it is counted, and the socket stays. On a transfer's socket both directions are like that: what cannot be
    /// sent counts as lost, and the transfer resends or gives up. So it is with frames: the packet socket is bound to no
    /// interface, and one that comes up again is sent on again. Only `epoll` that fails ends the loop, with that error; then
    /// the process ends, and systemd starts it with new sockets. When the address of the LAN changes, the appliance stops
    /// this service and binds another one.
    #[expect(clippy::disallowed_methods, reason = "a service has a clock")]
    fn serve(&mut self, waker: &Waker, phase: &AtomicU8) -> io::Result<()> {
        self.epoll.add(waker, EpollEvent::new(EpollFlags::EPOLLIN, WAKER))?;
        let mut stopping: Option<Stopping> = None;
        let mut events = [EpollEvent::empty(); EVENTS];
        let mut now = Instant::now();
        loop {
            let due = [self.endpoint.poll_timeout(), stopping.as_ref().map(|stopping| stopping.until)];
            let ready = match self.epoll.wait(&mut events, until(due.into_iter().flatten().min(), now)) {
                Ok(ready) => ready,
                Err(Errno::EINTR) => 0,
                Err(error) => return Err(error.into()),
            };
            let events = events.get(..ready).unwrap_or_default();
            now = Instant::now();
            for (index, event) in events.iter().enumerate() {
                if index % MOMENT == MOMENT - 1 {
                    now = Instant::now();
                }
                match event.data() {
                    LISTENER => self.read_requests(now, || phase.load(Ordering::Acquire) != RUN),
                    WAKER => {
                        waker.quiet();
                        for done in self.reader.take() {
                            self.endpoint.handle_loaded(done.ticket, done.loaded, now);
                            self.drain(now);
                        }
                    }
                    FRAMES => self.frames_writable(now),
                    ARP => self.read_answers(now),
                    number => self.port_ready(number, event.events(), now),
                }
            }
            self.endpoint.handle_timeout(now);
            self.drain(now);
            match phase.load(Ordering::Acquire) {
                RUN => continue,
                DRAIN => {}
                _ => return Ok(()),
            }
            // No new request is read; running transfers may end.
            self.listener = None;
            self.endpoint.refuse_new();
            let stopping = stopping.get_or_insert(Stopping { until: now + self.config.drain, told: false });
            if now >= stopping.until && !stopping.told {
                *stopping = Stopping { until: now + FAREWELL, told: true };
                self.endpoint.stop(now);
                self.drain(now);
            }
            if self.endpoint.transfers() == 0 {
                return Ok(());
            }
            if now >= stopping.until {
                debug!(transfers = self.endpoint.transfers(), "cut off");
                return Ok(());
            }
        }
    }

    /// Reads requests until there are none or `stopped` says so, and at most a batch.
    fn read_requests(&mut self, now: Instant, stopped: impl Fn() -> bool) {
        if self.catalog.has_changed().unwrap_or(false) {
            let active = Arc::clone(&self.catalog.borrow_and_update());
            self.endpoint.serve(active);
        }
        let mut buffer = [0; MAX_REQUEST_BYTES];
        for _ in 0..BATCH {
            let Some(listener) = &self.listener else { return };
            match listener.recv_from(&mut buffer) {
                _ if stopped() => return,
                Ok((length, SocketAddr::V4(peer))) => {
                    // A datagram that fills the buffer was cut.
                    if length == buffer.len() {
                        self.stats.count("tftp.malformed");
                        continue;
                    }
                    self.endpoint.handle_request(buffer.get(..length).unwrap_or_default(), peer, now);
                    self.drain(now);
                }
                Ok((_, SocketAddr::V6(_))) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                // The ICMP error of an earlier answer, or memory ran short. The socket works on after both.
                Err(error) => {
                    debug!(%error, "receiving failed");
                    self.stats.count("tftp.receive-failed");
                }
            }
        }
    }

    /// A transfer's socket has a datagram, or room to send.
    fn port_ready(&mut self, number: u64, flags: EpollFlags, now: Instant) {
        let index = usize::try_from(number & u64::from(u32::MAX)).unwrap_or(usize::MAX);
        let port = self.ports.get(index).and_then(Option::as_ref).filter(|port| port.ticket.number() == number);
        let Some(port) = port else { return };
        match port.waits {
            Waits::Client => {
                let mut buffer = [0; INCOMING_BYTES];
                match port.receive(&mut buffer) {
                    Ok((length, from)) => {
                        let datagram = buffer.get(..length).unwrap_or_default();
                        self.endpoint.handle_datagram(port.ticket, datagram, from, now);
                    }
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                    Err(error) => {
                        debug!(%error, "receiving failed");
                        return self.stats.count("tftp.receive-failed");
                    }
                }
            }
            Waits::Queue if flags.contains(EpollFlags::EPOLLOUT) => self.endpoint.handle_writable(port.ticket, now),
            Waits::Queue | Waits::Disk | Waits::Device => return,
        }
        self.drain(now);
    }

    /// The packet socket has room again.
    fn frames_writable(&mut self, now: Instant) {
        for ticket in std::mem::take(&mut self.blocked) {
            self.endpoint.handle_writable(ticket, now);
            self.drain(now);
        }
        if self.blocked.is_empty()
            && let Some(frames) = &self.frames
        {
            let _ = self.epoll.delete(frames);
        }
    }

    /// Devices answered by ARP. At most a batch is read.
    fn read_answers(&mut self, now: Instant) {
        for _ in 0..ANSWERS {
            let Some((address, mac)) = self.frames.as_ref().and_then(|frames| frames.arp().hear()) else { return };
            self.endpoint.handle_answer(address, mac, now);
            self.drain(now);
        }
    }

    /// Does everything that the endpoint wants to be done now.
    fn drain(&mut self, now: Instant) {
        while let Some(event) = self.endpoint.poll_event() {
            self.act(event, now);
        }
        loop {
            while let Some(transmit) = self.endpoint.poll_transmit(now) {
                let Transmit { way, to, payload } = transmit;
                let sent = match way {
                    Way::Refusal => match payload {
                        Payload::Packet(packet) => self.refusals.send_to(packet, to).map(drop).into(),
                        Payload::Blocks(..) => Sent::All,
                    },
                    Way::Socket(ticket) => match (port_of(&mut self.ports, ticket), payload) {
                        (Some(port), Payload::Packet(packet)) => port.send_to(packet, to).into(),
                        (Some(port), Payload::Blocks(run, chunks)) => port.send_run(run, chunks, &mut self.no_gso),
                        (None, _) => Sent::All,
                    },
                    // If there were no frames any more, nothing would leave: never the socket instead.
                    Way::Frame(ticket, mac) => match (port_of(&mut self.ports, ticket), &mut self.frames, payload) {
                        (Some(port), Some(frames), Payload::Packet(packet)) => {
                            frames.send(port, (mac, to), packet).into()
                        }
                        (Some(port), Some(frames), Payload::Blocks(run, chunks)) => {
                            frames.send_run(port, (mac, to), run, chunks)
                        }
                        _ => Sent::All,
                    },
                };
                match (sent, way) {
                    (Sent::All, _) | (Sent::Full(_), Way::Refusal) => {}
                    (Sent::Full(rest), Way::Socket(ticket)) => self.endpoint.handle_blocked(ticket, rest),
                    (Sent::Full(rest), Way::Frame(ticket, _)) => {
                        self.endpoint.handle_blocked(ticket, rest);
                        self.wait_for_frames(ticket);
                    }
                    // The transfer treats it as lost by the network.
                    (Sent::Lost(error), _) => {
                        debug!(%error, "sending failed");
                        self.stats.count("tftp.send-failed");
                    }
                }
            }
            while let Some((ticket, work)) = self.endpoint.poll_work() {
                self.reader.submit(ticket, work);
            }
            let Some(event) = self.endpoint.poll_event() else { return };
            self.act(event, now);
        }
    }

    fn act(&mut self, event: Event, now: Instant) {
        match event {
            Event::Opened { ticket, peer, waits } => self.open(ticket, peer, waits, now),
            Event::Waits(ticket, waits) => {
                let Some(port) = port_of(&mut self.ports, ticket) else { return };
                let frames = self.frames.is_some() && port.headers.is_some();
                let before = listening(std::mem::replace(&mut port.waits, waits), frames);
                let listening = listening(waits, frames);
                if listening != before
                    && let Err(error) = self.epoll.modify(&*port, &mut EpollEvent::new(listening, ticket.number()))
                {
                    // Its deadlines go on, so it ends.
                    error!(%error, "a transfer cannot be listened to");
                }
            }
            // Closing the socket takes it out of `epoll`.
            Event::Closed(ticket) => {
                if let Some(port) = self.ports.get_mut(place(ticket)) {
                    *port = None;
                }
            }
            // The queue is full if the `neighbours` task has much to do. It is asked again while the request waits.
            Event::Resolve(address) => drop(self.resolve.try_send(address)),
            // What cannot be sent counts as lost; it is asked again.
            Event::Ask { address, mac } => {
                if let Some(Err(error)) = self.frames.as_ref().map(|frames| frames.arp().ask(address, mac)) {
                    debug!(%address, %error, "cannot ask by ARP");
                }
            }
            Event::OutsideLan(address) => self.outside_lan(address),
            Event::Count(name) => self.stats.count(name),
            Event::Alert(code, text) => self.stats.alert(code, text),
            Event::ClearAlert(code) => self.stats.clear_alert(code),
            Event::EndAlerts(code, device) => self.stats.end_alerts(code, &device.to_string()),
            Event::Transfer(record) => self.stats.transfer(record),
        }
    }

    /// Somebody outside the LAN asked. There is no answer, only this trace.
    fn outside_lan(&self, address: Ipv4Addr) {
        debug!(%address, "a request from outside the LAN");
        self.stats.asked_from_outside(address);
    }

    fn open(&mut self, ticket: Ticket, peer: SocketAddrV4, waits: Waits, now: Instant) {
        let opened = TransferPort::open(&self.config, ticket, peer, waits).and_then(|port| {
            self.epoll.add(&port, EpollEvent::new(listening(waits, false), ticket.number()))?;
            Ok(port)
        });
        match opened {
            Ok(port) => {
                let index = place(ticket);
                if self.ports.len() <= index {
                    self.ports.resize_with(index.saturating_add(1), || None);
                }
                if let Some(place) = self.ports.get_mut(index) {
                    *place = Some(port);
                }
            }
            Err(error) => {
                warn!(%error, "no port for a transfer");
                self.endpoint.handle_no_port(ticket, now);
            }
        }
    }

    /// Blocks of this transfer wait until the packet socket has room. `epoll` knows that socket only as long as one does:
    /// otherwise it would be woken for every frame that has left.
    fn wait_for_frames(&mut self, ticket: Ticket) {
        if let Some(frames) = &self.frames {
            match self.epoll.add(frames, EpollEvent::new(EpollFlags::EPOLLOUT, FRAMES)) {
                Ok(()) | Err(Errno::EEXIST) => {}
                // Out of memory. The next transfer that has to wait tries again, for all that wait.
                Err(error) => error!(%error, "the packet socket cannot be waited for"),
            }
        }
        self.blocked.push(ticket);
    }
}

fn place(ticket: Ticket) -> usize {
    usize::try_from(ticket.index()).unwrap_or(usize::MAX)
}

fn port_of(ports: &mut [Option<TransferPort>], ticket: Ticket) -> Option<&mut TransferPort> {
    ports.get_mut(place(ticket)).and_then(Option::as_mut).filter(|port| port.ticket == ticket)
}

/// What `epoll` reports of a transfer's socket. Blocks that wait for the packet socket do not wait for this one.
fn listening(waits: Waits, by_frames: bool) -> EpollFlags {
    match waits {
        Waits::Client => EpollFlags::EPOLLIN,
        Waits::Queue if !by_frames => EpollFlags::EPOLLOUT,
        Waits::Disk | Waits::Queue | Waits::Device => EpollFlags::empty(),
    }
}

/// How far the end of the service is.
struct Stopping {
    until: Instant,
    /// Whether the running transfers were told to stop.
    told: bool,
}

/// The time from `now` to `due`, rounded up to whole milliseconds, so that the thread never wakes before something is due.
fn until(due: Option<Instant>, now: Instant) -> EpollTimeout {
    let Some(due) = due else { return EpollTimeout::NONE };
    let millis = due.saturating_duration_since(now).as_micros().div_ceil(1000);
    EpollTimeout::from(u16::try_from(millis).unwrap_or(u16::MAX))
}
