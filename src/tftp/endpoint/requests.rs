//! The requests on port 69: each is parsed once, decided, and then answered, refused, left alone, or made to wait until its
//! address is resolved.

use std::collections::VecDeque;
use std::net::SocketAddrV4;
use std::time::{Duration, Instant};

use tracing::{debug, trace, warn};

use super::flows::{Flows, PRESSED_GRACE, Room, UNPROVEN_GRACE};
use super::gate::GateDecision;
use super::places::Holder;
use super::session::{Job, Session, device_of};
use super::{Event, Replies, SiteState, Way, upload};
use crate::options::AskedOptions;
use crate::packet::{ErrorReply, Packet, TransferMode, TransferRequest};
use access::{Decision, Resolution};
use api::{AlertCode, FileRefusal};
use ids::{FileName, Generation, MAX_FILE_NAME_BYTES, Rate, TokenBucket};
use status::TransferRecord;

/// How long a request waits for its address to be resolved, or for a place. Every known phone waits longer for an answer.
pub const HOLD: Duration = Duration::from_secs(1);

/// How often the waiting requests are looked at, whether their addresses are resolved.
const HOLD_STEP: Duration = Duration::from_millis(10);

/// How often it is asked again that a waiting request's address be resolved, should the first call have been lost.
const RESOLVE_AGAIN: Duration = Duration::from_millis(300);

/// The most requests that wait for their address at one time; one more is dropped and counted.
pub const MAX_HELD: usize = 256;

/// The most requests of one address that wait at one time.
pub const MAX_HELD_PER_ADDRESS: usize = 4;

/// The most requests that wait for a place at one time; of one address no more than [`MAX_HELD_PER_ADDRESS`].
pub const MAX_WAITING: usize = 64;

/// The most records of refusals that wait at one time; of one address no more than [`MAX_HELD_PER_ADDRESS`].
const MAX_UNTOLD: usize = 64;

/// Refusals that no policy limits: WRQ, and modes that do not exist. A whole site of phones that write their
/// log first fits; a flood of forged ones makes 21 bytes each.
const REFUSALS: Rate = Rate::per_second(1000).with_burst(1000);

/// Stands in for a name that breaks the rules of [`FileName`], so that it is counted, limited and answered as any unknown
/// name.
const BAD_NAME: &str = "?";

/// A request as it is read from its datagram, once.
pub(super) struct Asked {
    pub(super) peer: SocketAddrV4,
    /// `None` for a name that breaks the rules.
    pub(super) name: Option<FileName>,
    pub(super) mode: TransferMode,
    pub(super) options: AskedOptions,
    /// How many bytes of the datagram are the name as it was sent, from the third on.
    name_bytes: usize,
    came: Instant,
}

/// Decides the requests on port 69.
#[derive(Default)]
pub(super) struct Requests {
    held: VecDeque<HeldRequest>,
    /// Requests that are to be served once there is a place, the oldest first.
    waiting: VecDeque<(Asked, Job)>,
    /// Requests that were refused before their address was resolved; their records wait for that.
    untold: VecDeque<(HeldRequest, FileRefusal)>,
    /// When to look at the requests that wait again; `None` while none waits.
    look: Option<Instant>,
    refusals: TokenBucket,
}

/// A request whose address is not resolved yet.
struct HeldRequest {
    asked: Asked,
    datagram: Box<[u8]>,
    /// When to ask again that its address be resolved.
    resolve: Instant,
}

/// What a request may change: everything of the endpoint but the waiting requests.
pub(super) struct Context<'a> {
    pub(super) site: &'a mut SiteState,
    pub(super) flows: &'a mut Flows,
    pub(super) replies: &'a mut Replies,
}

impl Requests {
    /// When to call [`Requests::look_at_held`], if requests wait for their address to be resolved.
    pub(super) fn due(&self) -> Option<Instant> {
        self.look
    }

    /// How many requests wait.
    pub(super) fn held(&self) -> usize {
        self.held.len() + self.waiting.len()
    }

    /// Forgets the requests that wait.
    pub(super) fn clear(&mut self) {
        self.untold.clear();
        self.held.clear();
        self.waiting.clear();
        self.look = None;
    }

    /// Acts on one datagram that came to port 69.
    pub(super) fn receive(&mut self, context: &mut Context<'_>, datagram: &[u8], peer: SocketAddrV4, now: Instant) {
        let site = &mut *context.site;
        if peer.port() == 0 || !site.config.lan.contains(*peer.ip()) {
            return site.events.push_back(Event::OutsideLan(*peer.ip()));
        }
        match Packet::parse(datagram) {
            Ok(Packet::Read(request)) => {
                site.count("tftp.rrq");
                self.read(context, Asked::new(&request, peer, now), datagram, now);
            }
            Ok(Packet::Write(request)) => {
                site.count("tftp.wrq");
                let asked = Asked::new(&request, peer, now);
                if !upload::takes(site, context.flows, &asked, datagram, now) {
                    let (reply, reason) = (ErrorReply::AccessViolation, FileRefusal::WriteRefused);
                    self.refuse_plainly(context, asked, datagram, (reply, reason), now);
                }
            }
            // Nothing else that comes to this port is answered. If an ERROR were, two servers would talk for ever.
            Ok(_) => site.count("tftp.stray"),
            Err(error) => {
                trace!(%peer, %error, "malformed");
                site.count("tftp.malformed");
            }
        }
    }

    fn read(&mut self, context: &mut Context<'_>, asked: Asked, datagram: &[u8], now: Instant) {
        if matches!(asked.mode, TransferMode::Mail | TransferMode::Unknown) {
            let refusal = (ErrorReply::IllegalOperation, FileRefusal::UnsupportedMode);
            return self.refuse_plainly(context, asked, datagram, refusal, now);
        }
        if context.flows.repeated(context.site, asked.peer, datagram, now) {
            return context.site.count("tftp.repeated");
        }
        if self.waiting.iter().any(|(_, job)| job.peer == asked.peer && *job.request == *datagram) {
            return context.site.count("tftp.repeated");
        }
        match context.site.gate.who(*asked.peer.ip()) {
            Resolution::Unknown if context.site.gate.can_resolve() => self.hold(context.site, asked, datagram, now),
            requester => self.decide(context, asked, datagram, requester, now),
        }
    }

    /// Lets a request wait until its address is resolved. Most such addresses belong to phones that were on before the
    /// appliance started. ERROR 1 would make them give up their own file.
    fn hold(&mut self, site: &mut SiteState, asked: Asked, datagram: &[u8], now: Instant) {
        let of_address = self.held.iter().filter(|held| held.asked.peer.ip() == asked.peer.ip());
        let (mut count, mut twin) = (0, false);
        for held in of_address {
            count += 1;
            twin |= held.asked.peer == asked.peer && *held.datagram == *datagram;
        }
        if twin {
            return site.count("tftp.repeated");
        }
        if count >= MAX_HELD_PER_ADDRESS || self.held.len() >= MAX_HELD {
            return site.count("tftp.not-held");
        }
        site.count("tftp.held");
        site.events.push_back(Event::Resolve(*asked.peer.ip()));
        self.held.push_back(HeldRequest { asked, datagram: datagram.into(), resolve: now + RESOLVE_AGAIN });
        self.look.get_or_insert(now + HOLD_STEP);
    }

    /// Answers the requests whose address is resolved, for which there is a place now, or that have waited long enough.
    pub(super) fn look_at_held(&mut self, context: &mut Context<'_>, now: Instant) {
        if self.look.is_none_or(|look| now < look) {
            return;
        }
        for _ in 0..self.held.len() {
            let Some(mut held) = self.held.pop_front() else { break };
            let address = *held.asked.peer.ip();
            let requester = context.site.gate.who(address);
            if requester != Resolution::Unknown || now >= held.asked.came + HOLD {
                self.decide(context, held.asked, &held.datagram, requester, now);
                continue;
            }
            held.resolve_again(context.site, now);
            self.held.push_back(held);
        }
        for _ in 0..self.waiting.len() {
            let Some((asked, job)) = self.waiting.pop_front() else { break };
            self.start(context, asked, job, now);
        }
        for _ in 0..self.untold.len() {
            let Some((mut held, reason)) = self.untold.pop_front() else { break };
            match context.site.gate.who(*held.asked.peer.ip()) {
                Resolution::Unknown if now < held.asked.came + HOLD => {
                    held.resolve_again(context.site, now);
                    self.untold.push_back((held, reason));
                }
                // It may be a phone of the inventory, so nobody is told that it is none.
                Resolution::Unknown => context.site.count("tftp.unresolved"),
                requester => keep_plain(context.site, &held.asked, &held.datagram, requester, reason, now),
            }
        }
        self.look = (self.held() + self.untold.len() > 0).then(|| now + HOLD_STEP);
    }

    fn decide(
        &mut self,
        context: &mut Context<'_>,
        asked: Asked,
        datagram: &[u8],
        requester: Resolution,
        now: Instant,
    ) {
        let (site, peer) = (&mut *context.site, asked.peer);
        let bad = asked.name.is_none();
        let Some(name) = asked.name.clone().or_else(|| BAD_NAME.parse().ok()) else { return };
        let GateDecision { decision, guessing, release } = site.gate.decide(*peer.ip(), requester, &name, now);
        if let Some(guessing) = guessing {
            let who = guessing.device.map_or_else(|| guessing.address.to_string(), |mac| mac.to_string());
            warn!(device = %who, address = %guessing.address, names = guessing.names, "a device guesses file names");
            site.alert(AlertCode::GuessingDevice, format!("{who} guesses file names"));
        }
        site.tell_behind(now);
        let unresolved = requester == Resolution::Unknown && site.gate.can_resolve();
        let reason = match decision {
            Decision::Serve(_) if bad => FileRefusal::BadName,
            Decision::Serve(entry) => {
                let (request, came) = (datagram.into(), asked.came);
                let (mode, options) = (asked.mode, asked.options);
                let job = Job { peer, requester, entry, request, mode, options, release, came, began: now };
                return self.start(context, asked, job, now);
            }
            Decision::NotFound(_) if bad => FileRefusal::BadName,
            // Nobody answered for the address in time. "Not found" may be wrong then: the file may be its own, and phones that
            // hear it go on without. They ask again after silence.
            Decision::NotFound(reason) if unresolved && reason != FileRefusal::NotFound => {
                debug!(%peer, file = %name, reason = reason.code(), "the address is not resolved: not answered");
                return site.count("tftp.unresolved");
            }
            Decision::NotFound(reason) => reason,
            // Anybody can send any number of these from forged sources, so they are counted and leave no record.
            Decision::Silence(reason) => {
                debug!(%peer, file = %name, reason = reason.code(), "not answered");
                return match reason {
                    FileRefusal::OutsideLan => site.events.push_back(Event::OutsideLan(*peer.ip())),
                    FileRefusal::RateLimited => site.count("tftp.rate-limited"),
                    _ => site.count("tftp.silent"),
                };
            }
        };
        refuse(context, &asked, ErrorReply::NotFound);
        keep(context.site, &asked, datagram, requester, (release.known, release.generation), reason, now);
    }

    /// Starts a transfer. While somebody holds a place who has not proved that there is anybody, the request waits in silence: a
    /// phone that hears "server busy" gives up, and one that hears nothing asks again.
    fn start(&mut self, context: &mut Context<'_>, asked: Asked, job: Job, now: Instant) {
        let Context { site, flows, .. } = context;
        // Another request of the same port is the one that its client no longer wants.
        self.waiting.retain(|(_, other)| other.peer != job.peer);
        flows.replace(site, job.peer, now);
        let holder = holder_of(site, &job);
        match flows.make_room(site, holder, UNPROVEN_GRACE, now) {
            Room::Free => flows.start(site, (holder, now), |site, ticket| Session::begin(site, job, ticket, now)),
            Room::Soon => self.wait(context, asked, job, now),
            Room::None => {
                let Job { requester, release, request, .. } = job;
                refuse(context, &asked, ErrorReply::Busy);
                let served = (release.known, release.generation);
                keep(context.site, &asked, &request, requester, served, FileRefusal::Busy, now);
            }
        }
    }

    /// Lets a request wait for a place. If too many wait, the oldest of them takes the place of somebody who had the time of a
    /// round trip to answer. Devices that the inventory does not have take at most half of the room to wait.
    fn wait(&mut self, context: &mut Context<'_>, asked: Asked, job: Job, now: Instant) {
        let Context { site, flows, .. } = context;
        let (address, holder) = (*job.peer.ip(), holder_of(site, &job));
        let mut of_address = self.waiting.iter().enumerate().filter(|(_, (_, other))| *other.peer.ip() == address);
        let oldest = of_address.next().map(|(index, _)| index);
        if of_address.count() + 1 >= MAX_HELD_PER_ADDRESS
            && flows.make_room(site, holder, PRESSED_GRACE, now) == Room::Free
            && let Some((_, job)) = oldest.and_then(|oldest| self.waiting.remove(oldest))
        {
            let holder = holder_of(site, &job);
            flows.start(site, (holder, now), |site, ticket| Session::begin(site, job, ticket, now));
        }
        let of_address = self.waiting.iter().filter(|(_, other)| *other.peer.ip() == address).count();
        let unknown = self.waiting.iter().filter(|(_, other)| !holder_of(site, other).is_known()).count();
        let crowd = !holder.is_known() && unknown >= MAX_WAITING / 2;
        let room = self.waiting.len() < MAX_WAITING && of_address < MAX_HELD_PER_ADDRESS && !crowd;
        if !room || now >= asked.came + HOLD {
            return site.count("tftp.not-held");
        }
        self.waiting.push_back((asked, job));
        self.look.get_or_insert(now + HOLD_STEP);
    }

    /// Refuses a request with the same answer for every name, so that nobody learns which files exist.
    fn refuse_plainly(
        &mut self,
        context: &mut Context<'_>,
        asked: Asked,
        datagram: &[u8],
        (reply, reason): (ErrorReply, FileRefusal),
        now: Instant,
    ) {
        if self.refusals.take(REFUSALS, now).is_err() {
            return context.site.count("tftp.rate-limited");
        }
        refuse(context, &asked, reply);
        let site = &mut *context.site;
        let address = *asked.peer.ip();
        match site.gate.who(address) {
            Resolution::Unknown if site.gate.can_resolve() => {
                // A Polycom writes its log before it asks for its file. This request resolves the address for the next.
                site.events.push_back(Event::Resolve(address));
                let of_address = self.untold.iter().filter(|(held, _)| *held.asked.peer.ip() == address).count();
                if of_address >= MAX_HELD_PER_ADDRESS || self.untold.len() >= MAX_UNTOLD {
                    return site.count("tftp.unresolved");
                }
                let held = HeldRequest { asked, datagram: datagram.into(), resolve: now + RESOLVE_AGAIN };
                self.untold.push_back((held, reason));
                self.look.get_or_insert(now + HOLD_STEP);
            }
            requester => keep_plain(site, &asked, datagram, requester, reason, now),
        }
    }
}

impl HeldRequest {
    fn resolve_again(&mut self, site: &mut SiteState, now: Instant) {
        if now >= self.resolve {
            self.resolve = now + RESOLVE_AGAIN;
            site.events.push_back(Event::Resolve(*self.asked.peer.ip()));
        }
    }
}

impl Asked {
    fn new(request: &TransferRequest<'_>, peer: SocketAddrV4, came: Instant) -> Self {
        Self {
            peer,
            name: FileName::from_wire(request.name).ok(),
            mode: request.mode,
            options: AskedOptions::of(&request.options),
            name_bytes: request.name.len(),
            came,
        }
    }

    /// The name as it was sent, for people.
    fn shown(&self, datagram: &[u8]) -> String {
        let length = self.name_bytes.min(MAX_FILE_NAME_BYTES);
        let name = datagram.get(2..2 + length).unwrap_or_default();
        String::from_utf8_lossy(name).chars().filter(|one| !one.is_control()).collect()
    }
}

fn holder_of(site: &SiteState, job: &Job) -> Holder {
    Holder::new(&site.gate, *job.peer.ip(), job.requester, job.release.known)
}

/// Refusals are the same for everybody and for every name, so they may leave by any way.
fn refuse(context: &mut Context<'_>, asked: &Asked, reply: ErrorReply) {
    context.replies.push_back((Way::Refusal, asked.peer, reply));
}

/// Keeps the record of a refusal that no policy decided.
fn keep_plain(
    site: &mut SiteState,
    asked: &Asked,
    datagram: &[u8],
    requester: Resolution,
    reason: FileRefusal,
    now: Instant,
) {
    let release = site.gate.served(requester);
    keep(site, asked, datagram, requester, (release.known, release.generation), reason, now);
}

fn keep(
    site: &mut SiteState,
    asked: &Asked,
    datagram: &[u8],
    requester: Resolution,
    (known, generation): (bool, Generation),
    reason: FileRefusal,
    now: Instant,
) {
    let (device, file) = (device_of(requester), asked.shown(datagram));
    debug!(peer = %asked.peer, ?device, ?file, reason = reason.code(), "refused");
    site.count("tftp.refused");
    site.transfer(TransferRecord {
        device,
        known,
        address: *asked.peer.ip(),
        file,
        bytes: 0,
        retransmissions: 0,
        duration: now.saturating_duration_since(asked.came),
        generation,
        content: None,
        outcome: reason.into(),
    });
}
