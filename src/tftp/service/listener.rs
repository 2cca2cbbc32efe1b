//! Port 69: who asks for what, and what becomes of it.

use std::collections::VecDeque;
use std::io;
use std::net::{SocketAddr, SocketAddrV4, UdpSocket};
use std::time::{Duration, Instant};

use tracing::{debug, trace, warn};

use super::gate::Verdict;
use super::session::{Job, Session, device_of};
use super::transfers::{Room, Site};
use super::{Shared, in_network, upload};
use crate::packet::{MAX_REQUEST_BYTES, Mode, Packet, Refusal, Request};
use access::{Decision, Reason, Resolution};
use ids::{FileName, Generation, MAX_FILE_NAME_BYTES};
use status::{Outcome, TransferRecord};

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

pub(super) struct Listener {
    socket: UdpSocket,
    held: VecDeque<Held>,
    /// When to look at those again.
    look: Option<Instant>,
    budget: Budget,
}

/// A request whose address is not resolved yet.
struct Held {
    datagram: Box<[u8]>,
    peer: SocketAddrV4,
    since: Instant,
}

impl Listener {
    pub(super) fn new(socket: UdpSocket) -> Self {
        Self { socket, held: VecDeque::new(), look: None, budget: Budget::default() }
    }

    /// When to call [`Listener::look_at_held`], if requests wait for their address to be resolved.
    pub(super) fn due(&self) -> Option<Instant> {
        self.look
    }

    /// Reads requests until there are none or `stopped` says so, but not for ever.
    pub(super) fn read_batch(&mut self, site: &mut Site<'_>, now: Instant, stopped: impl Fn() -> bool) {
        let mut buffer = [0; MAX_REQUEST_BYTES];
        for _ in 0..BATCH {
            match self.socket.recv_from(&mut buffer) {
                _ if stopped() => break,
                Ok((length, SocketAddr::V4(peer))) => {
                    let datagram = buffer.get(..length).unwrap_or_default();
                    // A datagram that fills the buffer was cut.
                    if length == buffer.len() {
                        site.shared.stats.count("tftp.malformed");
                    } else {
                        self.receive(site, datagram, peer, now);
                    }
                }
                Ok((_, SocketAddr::V6(_))) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                // An ICMP error of an earlier answer, or memory ran short: neither is the socket's end.
                Err(error) => {
                    debug!(%error, "receiving failed");
                    site.shared.stats.count("tftp.receive-failed");
                }
            }
        }
    }

    fn receive(&mut self, site: &mut Site<'_>, datagram: &[u8], peer: SocketAddrV4, now: Instant) {
        let stats = site.shared.stats.clone();
        if peer.port() == 0 || !in_network(*peer.ip(), site.shared.config.lan) {
            return stats.count("tftp.outside-lan");
        }
        match Packet::parse(datagram) {
            Ok(Packet::Read(request)) => {
                stats.count("tftp.rrq");
                self.read(site, &request, datagram, peer, now);
            }
            Ok(Packet::Write(request)) => {
                stats.count("tftp.wrq");
                if !upload::takes(site, &request, datagram, peer, now) {
                    self.refuse_plainly(site, &request, peer, Refusal::AccessViolation, "write-refused", now);
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

    fn read(&mut self, site: &mut Site<'_>, request: &Request<'_>, datagram: &[u8], peer: SocketAddrV4, now: Instant) {
        if matches!(request.mode, Mode::Mail | Mode::Unknown) {
            return self.refuse_plainly(site, request, peer, Refusal::IllegalOperation, "unsupported-mode", now);
        }
        if site.transfers.repeated(site.shared, peer, datagram, now) {
            return site.shared.stats.count("tftp.repeated");
        }
        match site.shared.gate.who(*peer.ip()) {
            Resolution::Unknown if site.shared.gate.can_resolve() => self.hold(site.shared, datagram, peer, now),
            requester => decide(site, request, datagram, peer, requester, now, now),
        }
    }

    /// An address without an entry belongs to a phone that was there before the appliance started, more often than not.
    /// ERROR 1 would make it give up its own file.
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
        self.held.push_back(Held { datagram: datagram.into(), peer, since: now });
        self.look.get_or_insert(now + HOLD_STEP);
    }

    /// Answers those whose address is resolved, or who waited long enough.
    pub(super) fn look_at_held(&mut self, site: &mut Site<'_>, now: Instant) {
        if self.look.is_none_or(|look| now < look) {
            return;
        }
        for _ in 0..self.held.len() {
            let Some(held) = self.held.pop_front() else { break };
            let requester = site.shared.gate.who(*held.peer.ip());
            if requester == Resolution::Unknown && now < held.since + HOLD {
                self.held.push_back(held);
            } else if let Ok(Packet::Read(request)) = Packet::parse(&held.datagram) {
                decide(site, &request, &held.datagram, held.peer, requester, held.since, now);
            }
        }
        self.look = (!self.held.is_empty()).then(|| now + HOLD_STEP);
    }

    /// The same answer for every name, so that it tells nobody which files exist.
    fn refuse_plainly(
        &mut self,
        site: &Site<'_>,
        request: &Request<'_>,
        peer: SocketAddrV4,
        refusal: Refusal,
        reason: &'static str,
        now: Instant,
    ) {
        if !self.budget.spend(now) {
            return site.shared.stats.count("tftp.rate-limited");
        }
        refuse(site.shared, peer, refusal);
        let requester = site.shared.gate.who(*peer.ip());
        let record = Record { peer, requester, known: false, generation: Generation::default(), began: now };
        keep(site.shared, request, &record, reason);
    }
}

fn decide(
    site: &mut Site<'_>,
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
    let Verdict { decision, guessing, release } = site.shared.gate.decide(*peer.ip(), requester, &name, now);
    if let Some(guessing) = guessing {
        let who = guessing.device.map_or_else(|| guessing.address.to_string(), |mac| mac.to_string());
        warn!(device = %who, address = %guessing.address, names = guessing.names, "a device guesses file names");
        site.shared.stats.alert("guessing-device", format!("{who} guesses file names"));
    }
    let decision = match decision {
        Decision::Serve(_) if bad => Decision::NotFound(Reason::NotFound),
        decision => decision,
    };
    let reason = match decision {
        Decision::Serve(entry) => {
            let job = Job { peer, requester, entry, request: datagram.into(), release, began };
            return start(site, request, job, now);
        }
        Decision::NotFound(reason) => {
            refuse(site.shared, peer, Refusal::NotFound);
            if bad { "bad-name" } else { reason.code() }
        }
        // Forged sources can make any number of these, so they leave a count and no record.
        Decision::Silence(reason) => {
            debug!(%peer, file = %name, reason = reason.code(), "not answered");
            return site.shared.stats.count(match reason {
                Reason::OutsideLan => "tftp.outside-lan",
                Reason::RateLimited => "tftp.rate-limited",
                _ => "tftp.silent",
            });
        }
    };
    let record = Record { peer, requester, known: release.known, generation: release.generation, began };
    keep(site.shared, request, &record, reason);
}

fn start(site: &mut Site<'_>, request: &Request<'_>, job: Job, now: Instant) {
    site.transfers.replace(site.shared, job.peer, now);
    match site.transfers.make_room(site.shared, *job.peer.ip(), now) {
        Room::Free => site.transfers.start(site.shared, |shared, ticket| Session::begin(shared, job, ticket)),
        Room::None => {
            refuse(site.shared, job.peer, Refusal::Busy);
            let Job { peer, requester, release, began, .. } = job;
            let record = Record { peer, requester, known: release.known, generation: release.generation, began };
            keep(site.shared, request, &record, "busy");
        }
    }
}

fn refuse(shared: &Shared, peer: SocketAddrV4, refusal: Refusal) {
    if let Err(error) = shared.refusals.send_to(refusal.packet(), peer) {
        debug!(%peer, %error, "sending failed");
        shared.stats.count("tftp.send-failed");
    }
}

fn keep(shared: &Shared, request: &Request<'_>, record: &Record, reason: &'static str) {
    let name = request.name.get(..MAX_FILE_NAME_BYTES).unwrap_or(request.name);
    let file: String = String::from_utf8_lossy(name).chars().filter(|one| !one.is_control()).collect();
    let device = device_of(record.requester);
    debug!(peer = %record.peer, ?device, ?file, reason, "refused");
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
        outcome: Outcome::Refused(reason),
    });
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
