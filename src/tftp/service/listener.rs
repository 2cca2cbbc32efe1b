//! Reads the requests on port 69, has each decided, and starts or refuses the transfer.

use std::collections::VecDeque;
use std::io;
use std::net::{SocketAddr, SocketAddrV4, UdpSocket};
use std::time::{Duration, Instant};

use tracing::{debug, trace, warn};

use super::gate::GateDecision;
use super::session::{Job, Session, device_of};
use super::transfers::{RequestContext, Room};
use super::{Shared, upload};
use crate::packet::{ErrorReply, MAX_REQUEST_BYTES, Packet, TransferMode, TransferRequest};
use access::{Decision, Resolution};
use api::{AlertCode, FileRefusal};
use ids::{FileName, Generation, MAX_FILE_NAME_BYTES, Rate, TokenBucket};
use status::TransferRecord;

/// How long a request waits for its address to be resolved. Every known phone waits longer for an answer.
const HOLD: Duration = Duration::from_secs(1);

/// How often the listener looks whether a waiting request's address is resolved.
const HOLD_STEP: Duration = Duration::from_millis(10);

/// The most requests that wait for their address at one time; one more is dropped and counted.
const MAX_HELD: usize = 256;

/// The most requests of one address that wait at one time.
const MAX_HELD_PER_ADDRESS: usize = 4;

/// Refusals that no policy limits: WRQ, and modes that do not exist. A whole site of phones that write their
/// log first fits; a flood of forged ones makes 21 bytes each.
const REFUSALS: Rate = Rate::per_second(1000).with_burst(1000);

/// The most requests that are read before the transfers get their turn.
const BATCH: usize = 64;

/// Stands in for a name that breaks the rules of [`FileName`], so that it is counted, limited and answered as any unknown
/// name.
const BAD_NAME: &str = "?";

pub(super) struct RequestListener {
    socket: UdpSocket,
    held: VecDeque<WaitingRequest>,
    /// When to look at the waiting requests again; `None` while none waits.
    look: Option<Instant>,
    refusals: TokenBucket,
}

/// A request whose address is not resolved yet.
struct WaitingRequest {
    datagram: Box<[u8]>,
    peer: SocketAddrV4,
    since: Instant,
}

impl RequestListener {
    pub(super) fn new(socket: UdpSocket) -> Self {
        Self { socket, held: VecDeque::new(), look: None, refusals: TokenBucket::default() }
    }

    /// When to call [`RequestListener::look_at_held`], if requests wait for their address to be resolved.
    pub(super) fn due(&self) -> Option<Instant> {
        self.look
    }

    /// Reads requests until there are none or `stopped` says so, and at most a batch.
    pub(super) fn read_batch(&mut self, context: &mut RequestContext<'_>, now: Instant, stopped: impl Fn() -> bool) {
        let mut buffer = [0; MAX_REQUEST_BYTES];
        for _ in 0..BATCH {
            match self.socket.recv_from(&mut buffer) {
                _ if stopped() => break,
                Ok((length, SocketAddr::V4(peer))) => {
                    let datagram = buffer.get(..length).unwrap_or_default();
                    // A datagram that fills the buffer was cut.
                    if length == buffer.len() {
                        context.shared.stats.count("tftp.malformed");
                    } else {
                        self.receive(context, datagram, peer, now);
                    }
                }
                Ok((_, SocketAddr::V6(_))) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                // The ICMP error of an earlier answer, or memory ran short. The socket works on after both.
                Err(error) => {
                    debug!(%error, "receiving failed");
                    context.shared.stats.count("tftp.receive-failed");
                }
            }
        }
    }

    fn receive(&mut self, context: &mut RequestContext<'_>, datagram: &[u8], peer: SocketAddrV4, now: Instant) {
        let stats = context.shared.stats.clone();
        if peer.port() == 0 || !context.shared.config.lan.contains(*peer.ip()) {
            return stats.asked_from_outside(*peer.ip());
        }
        match Packet::parse(datagram) {
            Ok(Packet::Read(request)) => {
                stats.count("tftp.rrq");
                self.read(context, &request, datagram, peer, now);
            }
            Ok(Packet::Write(request)) => {
                stats.count("tftp.wrq");
                if !upload::takes(context, &request, datagram, peer, now) {
                    self.refuse_plainly(
                        context,
                        &request,
                        peer,
                        ErrorReply::AccessViolation,
                        FileRefusal::WriteRefused,
                        now,
                    );
                }
            }
            // Nothing else that comes to this port is answered. If an ERROR were, two servers would talk for ever.
            Ok(_) => stats.count("tftp.stray"),
            Err(error) => {
                trace!(%peer, %error, "malformed");
                stats.count("tftp.malformed");
            }
        }
    }

    fn read(
        &mut self,
        context: &mut RequestContext<'_>,
        request: &TransferRequest<'_>,
        datagram: &[u8],
        peer: SocketAddrV4,
        now: Instant,
    ) {
        if matches!(request.mode, TransferMode::Mail | TransferMode::Unknown) {
            return self.refuse_plainly(
                context,
                request,
                peer,
                ErrorReply::IllegalOperation,
                FileRefusal::UnsupportedMode,
                now,
            );
        }
        if context.transfers.repeated(context.shared, peer, datagram, now) {
            return context.shared.stats.count("tftp.repeated");
        }
        match context.shared.gate.who(*peer.ip()) {
            Resolution::Unknown if context.shared.gate.can_resolve() => self.hold(context.shared, datagram, peer, now),
            requester => decide(context, request, datagram, peer, requester, now, now),
        }
    }

    /// Lets a request wait until its address is resolved. Most such addresses belong to phones that were on before the
    /// appliance started. ERROR 1 would make them give up their own file.
    fn hold(&mut self, shared: &Shared, datagram: &[u8], peer: SocketAddrV4, now: Instant) {
        let of_address = self.held.iter().filter(|held| held.peer.ip() == peer.ip());
        let (mut count, mut twin) = (0, false);
        for held in of_address {
            count += 1;
            twin |= held.peer == peer && *held.datagram == *datagram;
        }
        if twin {
            return shared.stats.count("tftp.repeated");
        }
        if count >= MAX_HELD_PER_ADDRESS || self.held.len() >= MAX_HELD {
            return shared.stats.count("tftp.not-held");
        }
        shared.stats.count("tftp.held");
        shared.gate.resolve(*peer.ip());
        self.held.push_back(WaitingRequest { datagram: datagram.into(), peer, since: now });
        self.look.get_or_insert(now + HOLD_STEP);
    }

    /// Answers the requests whose address is resolved, or that have waited long enough.
    pub(super) fn look_at_held(&mut self, context: &mut RequestContext<'_>, now: Instant) {
        if self.look.is_none_or(|look| now < look) {
            return;
        }
        for _ in 0..self.held.len() {
            let Some(held) = self.held.pop_front() else { break };
            let requester = context.shared.gate.who(*held.peer.ip());
            if requester == Resolution::Unknown && now < held.since + HOLD {
                self.held.push_back(held);
            } else if let Ok(Packet::Read(request)) = Packet::parse(&held.datagram) {
                decide(context, &request, &held.datagram, held.peer, requester, held.since, now);
            }
        }
        self.look = (!self.held.is_empty()).then(|| now + HOLD_STEP);
    }

    /// Refuses a request with the same answer for every name, so that nobody learns which files exist.
    fn refuse_plainly(
        &mut self,
        context: &RequestContext<'_>,
        request: &TransferRequest<'_>,
        peer: SocketAddrV4,
        refusal: ErrorReply,
        reason: FileRefusal,
        now: Instant,
    ) {
        if self.refusals.take(REFUSALS, now).is_err() {
            return context.shared.stats.count("tftp.rate-limited");
        }
        refuse(context.shared, peer, refusal);
        let requester = context.shared.gate.who(*peer.ip());
        let record = RefusedRequest { peer, requester, known: false, generation: Generation::default(), began: now };
        keep(context.shared, request, &record, reason);
    }
}

fn decide(
    context: &mut RequestContext<'_>,
    request: &TransferRequest<'_>,
    datagram: &[u8],
    peer: SocketAddrV4,
    requester: Resolution,
    began: Instant,
    now: Instant,
) {
    let name = FileName::from_wire(request.name);
    let bad = name.is_err();
    let Some(name) = name.ok().or_else(|| BAD_NAME.parse().ok()) else { return };
    let GateDecision { decision, guessing, release } = context.shared.gate.decide(*peer.ip(), requester, &name, now);
    if let Some(guessing) = guessing {
        let who = guessing.device.map_or_else(|| guessing.address.to_string(), |mac| mac.to_string());
        warn!(device = %who, address = %guessing.address, names = guessing.names, "a device guesses file names");
        context.shared.stats.alert(AlertCode::GuessingDevice, format!("{who} guesses file names"));
    }
    let decision = match decision {
        Decision::Serve(_) if bad => Decision::NotFound(FileRefusal::NotFound),
        decision => decision,
    };
    let reason = match decision {
        Decision::Serve(entry) => {
            let job = Job { peer, requester, entry, request: datagram.into(), release, began };
            return start(context, request, job, now);
        }
        Decision::NotFound(reason) => {
            refuse(context.shared, peer, ErrorReply::NotFound);
            if bad { FileRefusal::BadName } else { reason }
        }
        // Anybody can send any number of these from forged sources, so they are counted and leave no record.
        Decision::Silence(reason) => {
            debug!(%peer, file = %name, reason = reason.code(), "not answered");
            return context.shared.stats.count(match reason {
                FileRefusal::OutsideLan => "tftp.outside-lan",
                FileRefusal::RateLimited => "tftp.rate-limited",
                _ => "tftp.silent",
            });
        }
    };
    let record = RefusedRequest { peer, requester, known: release.known, generation: release.generation, began };
    keep(context.shared, request, &record, reason);
}

fn start(context: &mut RequestContext<'_>, request: &TransferRequest<'_>, job: Job, now: Instant) {
    context.transfers.replace(context.shared, job.peer, now);
    match context.transfers.make_room(context.shared, *job.peer.ip(), now) {
        Room::Free => context.transfers.start(context.shared, |shared, ticket| Session::begin(shared, job, ticket)),
        Room::None => {
            refuse(context.shared, job.peer, ErrorReply::Busy);
            let Job { peer, requester, release, began, .. } = job;
            let record =
                RefusedRequest { peer, requester, known: release.known, generation: release.generation, began };
            keep(context.shared, request, &record, FileRefusal::Busy);
        }
    }
}

fn refuse(shared: &Shared, peer: SocketAddrV4, refusal: ErrorReply) {
    if let Err(error) = shared.refusals.send_to(refusal.packet(), peer) {
        debug!(%peer, %error, "sending failed");
        shared.stats.count("tftp.send-failed");
    }
}

fn keep(shared: &Shared, request: &TransferRequest<'_>, record: &RefusedRequest, reason: FileRefusal) {
    let name = request.name.get(..MAX_FILE_NAME_BYTES).unwrap_or(request.name);
    let file: String = String::from_utf8_lossy(name).chars().filter(|one| !one.is_control()).collect();
    let device = device_of(record.requester);
    debug!(peer = %record.peer, ?device, ?file, reason = reason.code(), "refused");
    shared.stats.count("tftp.refused");
    shared.stats.transfer(TransferRecord {
        device,
        known: record.known,
        address: *record.peer.ip(),
        file,
        bytes: 0,
        retransmissions: 0,
        duration: record.began.elapsed(),
        generation: record.generation,
        outcome: reason.into(),
    });
}

/// What the record of a refused request says of its client and its release.
struct RefusedRequest {
    peer: SocketAddrV4,
    requester: Resolution,
    known: bool,
    generation: Generation,
    began: Instant,
}
