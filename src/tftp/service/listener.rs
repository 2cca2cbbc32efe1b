//! Port 69: who asks for what, and what becomes of it.

mod upload;

use std::collections::{HashMap, VecDeque};
use std::io;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::net::UdpSocket;
use tokio::task::{Id, JoinError, JoinSet};
use tokio::time::{MissedTickBehavior, interval, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, trace, warn};

use super::gate::Verdict;
use super::session::{Control, Job, device_of, serve};
use super::{Shared, in_network};
use crate::access::{Decision, Reason, Resolution};
use crate::ids::{FileName, Generation, MAX_FILE_NAME_BYTES};
use crate::status::{Outcome, TransferRecord};
use crate::tftp::packet::{MAX_REQUEST_BYTES, Mode, Packet, Refusal, Request};
use crate::tftp::transfer::Input;

/// How long a request waits for its address to be resolved. Under any phone's own patience.
const HOLD: Duration = Duration::from_secs(1);

/// How often a waiting request looks whether its address is resolved.
const HOLD_STEP: Duration = Duration::from_millis(10);

/// Requests that wait at one time.
const MAX_HELD: usize = 256;

/// Requests of one address that wait at one time.
const MAX_HELD_PER_ADDRESS: usize = 4;

/// Refusals per second that no policy limits: WRQ, and modes that do not exist. A whole site of phones that write their
/// log first fits; a flood of forged ones makes 21 bytes each.
const REFUSALS_PER_SECOND: u32 = 1000;

/// Requests read before others get their turn.
const BATCH: usize = 64;

/// What a name that cannot be one is asked as, so that it is counted, limited and answered like any unknown name.
const BAD_NAME: &str = "?";

/// How long transfers that were told to stop may take to say so.
const FAREWELL: Duration = Duration::from_secs(1);

pub(super) struct Listener {
    socket: UdpSocket,
    shared: Arc<Shared>,
    tasks: JoinSet<()>,
    /// Where each task's client is.
    running: HashMap<Id, SocketAddrV4>,
    /// The newest transfer of each client port.
    sessions: HashMap<SocketAddrV4, Session>,
    per_address: HashMap<Ipv4Addr, usize>,
    held: VecDeque<Held>,
    budget: Budget,
}

struct Session {
    task: Id,
    request: Box<[u8]>,
    control: Arc<Control>,
    began: Instant,
}

/// A request whose address is not resolved yet.
struct Held {
    datagram: Box<[u8]>,
    peer: SocketAddrV4,
    since: Instant,
}

impl Listener {
    pub(super) fn new(socket: UdpSocket, shared: Arc<Shared>) -> Self {
        Self {
            socket,
            shared,
            tasks: JoinSet::new(),
            running: HashMap::new(),
            sessions: HashMap::new(),
            per_address: HashMap::new(),
            held: VecDeque::new(),
            budget: Budget::default(),
        }
    }

    /// Answers until `stop`, then waits for what runs.
    pub(super) async fn run(mut self, stop: CancellationToken) -> io::Result<()> {
        let mut buffer = [0; MAX_REQUEST_BYTES];
        let mut step = interval(HOLD_STEP);
        step.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                Some(ended) = self.tasks.join_next_with_id() => self.forget(ended),
                _ = step.tick(), if !self.held.is_empty() => self.look_at_held(Instant::now()),
                readable = self.socket.readable() => {
                    readable?;
                    self.read_batch(&mut buffer);
                }
            }
        }
        self.drain().await;
        Ok(())
    }

    fn read_batch(&mut self, buffer: &mut [u8]) {
        for _ in 0..BATCH {
            match self.socket.try_recv_from(buffer) {
                Ok((length, SocketAddr::V4(peer))) => {
                    let datagram = buffer.get(..length).unwrap_or_default();
                    // A datagram that fills the buffer was cut.
                    if length == buffer.len() {
                        self.shared.stats.count("tftp.malformed");
                    } else {
                        self.receive(datagram, peer, Instant::now());
                    }
                }
                Ok((_, SocketAddr::V6(_))) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                // An ICMP error of an earlier answer, or memory ran short: neither is the socket's end.
                Err(error) => {
                    debug!(%error, "receiving failed");
                    self.shared.stats.count("tftp.receive-failed");
                }
            }
        }
    }

    fn receive(&mut self, datagram: &[u8], peer: SocketAddrV4, now: Instant) {
        let stats = &self.shared.stats;
        if peer.port() == 0 || !in_network(*peer.ip(), self.shared.config.lan) {
            return stats.count("tftp.outside-lan");
        }
        match Packet::parse(datagram) {
            Ok(Packet::Read(request)) => {
                stats.count("tftp.rrq");
                self.read(&request, datagram, peer, now);
            }
            Ok(Packet::Write(request)) => {
                stats.count("tftp.wrq");
                if !self.takes(&request, datagram, peer, now) {
                    self.refuse_plainly(&request, peer, Refusal::AccessViolation, "write-refused", now);
                }
            }
            // An ERROR to this port is never answered, or two servers would talk for ever; nor is anything else.
            Ok(_) => stats.count("tftp.stray"),
            Err(error) => {
                trace!(%peer, %error, "malformed");
                stats.count("tftp.malformed");
            }
        }
    }

    fn read(&mut self, request: &Request<'_>, datagram: &[u8], peer: SocketAddrV4, now: Instant) {
        if matches!(request.mode, Mode::Mail | Mode::Unknown) {
            return self.refuse_plainly(request, peer, Refusal::IllegalOperation, "unsupported-mode", now);
        }
        if let Some(session) = self.sessions.get(&peer)
            && *session.request == *datagram
            && session.control.owns_repeated_request(now)
        {
            self.shared.stats.count("tftp.repeated");
            return session.control.tell(Input::Repeated);
        }
        match self.shared.gate.who(*peer.ip()) {
            Resolution::Unknown if self.shared.gate.can_resolve() => self.hold(datagram, peer, now),
            requester => self.decide(request, datagram, peer, requester, now, now),
        }
    }

    /// An address without an entry belongs to a phone that was there before the appliance started, more often than not.
    /// ERROR 1 would make it give up its own file.
    fn hold(&mut self, datagram: &[u8], peer: SocketAddrV4, now: Instant) {
        let of_address = self.held.iter().filter(|held| held.peer.ip() == peer.ip());
        let (mut count, mut twin) = (0, false);
        for held in of_address {
            count += 1;
            twin |= held.peer == peer && *held.datagram == *datagram;
        }
        if twin {
            return self.shared.stats.count("tftp.repeated");
        }
        if count >= MAX_HELD_PER_ADDRESS || self.held.len() >= MAX_HELD {
            return self.shared.stats.count("tftp.not-held");
        }
        self.shared.stats.count("tftp.held");
        self.shared.gate.resolve(*peer.ip());
        self.held.push_back(Held { datagram: datagram.into(), peer, since: now });
    }

    fn look_at_held(&mut self, now: Instant) {
        for _ in 0..self.held.len() {
            let Some(held) = self.held.pop_front() else { break };
            let requester = self.shared.gate.who(*held.peer.ip());
            if requester == Resolution::Unknown && now < held.since + HOLD {
                self.held.push_back(held);
            } else if let Ok(Packet::Read(request)) = Packet::parse(&held.datagram) {
                self.decide(&request, &held.datagram, held.peer, requester, held.since, now);
            }
        }
    }

    fn decide(
        &mut self,
        request: &Request<'_>,
        datagram: &[u8],
        peer: SocketAddrV4,
        requester: Resolution,
        began: Instant,
        now: Instant,
    ) {
        let name = FileName::from_wire(request.name);
        let bad = name.is_err();
        let Some(name) = name.ok().or_else(|| BAD_NAME.parse().ok()) else { return };
        let Verdict { decision, guessing, release } = self.shared.gate.decide(*peer.ip(), requester, &name, now);
        if let Some(guessing) = guessing {
            let who = guessing.device.map_or_else(|| guessing.address.to_string(), |mac| mac.to_string());
            warn!(device = %who, address = %guessing.address, names = guessing.names, "a device guesses file names");
            self.shared.stats.alert("guessing-device", format!("{who} guesses file names"));
        }
        let decision = match decision {
            Decision::Serve(_) if bad => Decision::NotFound(Reason::NotFound),
            decision => decision,
        };
        let reason = match decision {
            Decision::Serve(entry) => {
                let job = Job { peer, requester, entry, request: datagram.into(), release, began };
                return self.start(request, job);
            }
            Decision::NotFound(reason) => {
                self.refuse(peer, Refusal::NotFound);
                if bad { "bad-name" } else { reason.code() }
            }
            // Forged sources can make any number of these, so they leave a count and no record.
            Decision::Silence(reason) => {
                debug!(%peer, file = %name, reason = reason.code(), "not answered");
                return self.shared.stats.count(match reason {
                    Reason::OutsideLan => "tftp.outside-lan",
                    Reason::RateLimited => "tftp.rate-limited",
                    _ => "tftp.silent",
                });
            }
        };
        let record = Record { peer, requester, known: release.known, generation: release.generation, began };
        self.record(request, &record, reason);
    }

    fn start(&mut self, request: &Request<'_>, job: Job) {
        let peer = job.peer;
        // Whatever this port was doing, this is what its owner wants now (the Cisco 7921 has but one port).
        if let Some(old) = self.sessions.remove(&peer) {
            old.control.tell(Input::Replaced);
        }
        if !self.has_room(*peer.ip()) {
            self.refuse(peer, Refusal::Busy);
            let Job { requester, release, began, .. } = job;
            let record = Record { peer, requester, known: release.known, generation: release.generation, began };
            return self.record(request, &record, "busy");
        }
        *self.per_address.entry(*peer.ip()).or_default() += 1;
        let control = Arc::new(Control::default());
        let (request, began) = (job.request.clone(), job.began);
        let serving = serve(Arc::clone(&self.shared), job, Arc::clone(&control));
        let task = self.tasks.spawn(serving).id();
        self.running.insert(task, peer);
        self.sessions.insert(peer, Session { task, request, control, began });
    }

    /// Whether one more transfer may start. At a bound, the oldest whose client never answered makes room, else one that
    /// its client lets wait: neither requests under a forged address nor files that a phone stopped reading without an
    /// ERROR keep the next one out.
    fn has_room(&mut self, address: Ipv4Addr) -> bool {
        let config = &self.shared.config;
        let full = self.tasks.len() >= config.max_transfers;
        let crowded = self.per_address.get(&address).is_some_and(|count| *count >= config.max_transfers_per_address);
        if !full && !crowded {
            return true;
        }
        let idle = self.sessions.iter().filter(|(peer, _)| !crowded || *peer.ip() == address);
        let idle = idle.filter(|(_, session)| !session.control.is_proven() || session.control.is_stalled());
        let next = idle.min_by_key(|(_, session)| (session.control.is_proven(), session.began));
        let Some(peer) = next.map(|(peer, _)| *peer) else { return false };
        if let Some(session) = self.sessions.remove(&peer) {
            self.shared.stats.count("tftp.made-room");
            session.control.tell(Input::Replaced);
        }
        true
    }

    /// A transfer is over.
    fn forget(&mut self, ended: Result<(Id, ()), JoinError>) {
        let task = match ended {
            Ok((task, ())) => task,
            Err(failure) => {
                error!(%failure, "a transfer broke off");
                self.shared.stats.count("tftp.broken");
                failure.id()
            }
        };
        let Some(peer) = self.running.remove(&task) else { return };
        if self.sessions.get(&peer).is_some_and(|session| session.task == task) {
            self.sessions.remove(&peer);
        }
        if let Some(count) = self.per_address.get_mut(peer.ip()) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                self.per_address.remove(peer.ip());
            }
        }
    }

    /// The same answer for every name, so that it tells nobody which files exist.
    fn refuse_plainly(
        &mut self,
        request: &Request<'_>,
        peer: SocketAddrV4,
        refusal: Refusal,
        reason: &'static str,
        now: Instant,
    ) {
        if !self.budget.spend(now) {
            return self.shared.stats.count("tftp.rate-limited");
        }
        self.refuse(peer, refusal);
        let requester = self.shared.gate.who(*peer.ip());
        let record = Record { peer, requester, known: false, generation: Generation::default(), began: now };
        self.record(request, &record, reason);
    }

    fn refuse(&self, peer: SocketAddrV4, refusal: Refusal) {
        if let Err(error) = self.shared.refusals.send_to(refusal.packet(), peer) {
            debug!(%peer, %error, "sending failed");
            self.shared.stats.count("tftp.send-failed");
        }
    }

    fn record(&self, request: &Request<'_>, record: &Record, reason: &'static str) {
        let name = request.name.get(..MAX_FILE_NAME_BYTES).unwrap_or(request.name);
        let file: String = String::from_utf8_lossy(name).chars().filter(|one| !one.is_control()).collect();
        let device = device_of(record.requester);
        debug!(peer = %record.peer, ?device, ?file, reason, "refused");
        self.shared.stats.count("tftp.refused");
        self.shared.stats.transfer(TransferRecord {
            device,
            known: record.known,
            address: *record.peer.ip(),
            file,
            bytes: 0,
            retransmissions: 0,
            duration: record.began.elapsed(),
            generation: record.generation,
            outcome: Outcome::Refused(reason),
        });
    }

    /// No new requests; what runs may end.
    async fn drain(self) {
        let Self { socket, shared, mut tasks, sessions, .. } = self;
        drop(socket);
        let all = async { while tasks.join_next().await.is_some() {} };
        if timeout(shared.config.drain, all).await.is_ok() {
            return;
        }
        for session in sessions.values() {
            session.control.tell(Input::Stopped);
        }
        let told = async { while tasks.join_next().await.is_some() {} };
        if timeout(FAREWELL, told).await.is_err() {
            debug!(transfers = tasks.len(), "cut off");
            tasks.shutdown().await;
        }
    }
}

/// What a refused request leaves behind.
struct Record {
    peer: SocketAddrV4,
    requester: Resolution,
    known: bool,
    generation: Generation,
    began: Instant,
}

/// So many per second, counted in whole seconds.
#[derive(Default)]
struct Budget {
    since: Option<Instant>,
    spent: u32,
}

impl Budget {
    fn spend(&mut self, now: Instant) -> bool {
        if self.since.is_none_or(|since| now.saturating_duration_since(since) >= Duration::from_secs(1)) {
            *self = Self { since: Some(now), spent: 0 };
        }
        self.spent = self.spent.saturating_add(1);
        self.spent <= REFUSALS_PER_SECOND
    }
}
