//! One read transfer, from the decision to serve until its record is written. [`Transfer`] decides which blocks are sent; this
//! file brings the file's chunks to it.

use std::net::SocketAddrV4;
use std::sync::Arc;
use std::time::Instant;

use tracing::{debug, info, trace, warn};

use super::file_chunks::FileChunks;
use super::flows::{Flow, Idleness, Piece};
use super::gate::{AddressOwner, ServedRelease};
use super::presence::{ABSENCE_PATIENCE, ARRIVAL_PATIENCE, FAREWELL_PATIENCE, Recipient};
use super::work::{Loaded, Work};
use super::{Payload, SiteState, Ticket, Waits, Way};
use crate::options::{AskedOptions, NegotiatedOptions, OptionLimits};
use crate::packet::{ErrorReply, TransferMode};
use crate::transfer::{Input, Run, Transfer, Transmit, is_straggler};
use access::{ContentError, Resolution};
use api::{AlertCode, FileOutcome, FileRefusal, TransferEnd};
use bundle::{Class, FileEntry, Scope};
use ids::MacAddr;
use status::TransferRecord;

/// A read request that the policy decided to serve.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) peer: SocketAddrV4,
    pub(super) requester: Resolution,
    pub(super) entry: Arc<FileEntry>,
    /// The RRQ as it came, to recognise it when it comes again.
    pub(super) request: Box<[u8]>,
    pub(super) mode: TransferMode,
    pub(super) options: AskedOptions,
    pub(super) release: ServedRelease,
    /// When the request came.
    pub(super) came: Instant,
    /// When it was decided.
    pub(super) began: Instant,
}

/// One transfer.
pub(super) struct Session {
    job: Job,
    owner: AddressOwner,
    ticket: Ticket,
    way: Way,
    /// The device whose own file it is, if it leaves as frames.
    recipient: Option<Recipient>,
    waits: Waits,
    stage: Stage,
    /// What the client repeated while the transfer waited for the disk, the send queue or the device.
    pending_input: Option<Input>,
}

enum Stage {
    /// The file is being opened.
    Opening,
    /// There is no transfer: this ERROR is all that is still sent, unless it has left.
    Refused(Option<ErrorReply>, FileOutcome),
    Active(Box<ActiveTransfer>),
}

struct ActiveTransfer {
    transfer: Transfer,
    chunks: FileChunks,
    oack: Option<Box<[u8]>>,
    /// What is to be sent once the disk or the send queue is ready, or the device has answered.
    rest: Option<Transmit>,
    /// The end of the blocks that were given to be sent last, in bytes of the file.
    given: Option<u64>,
}

impl Session {
    /// Has the file opened, translated if the client wants netascii.
    pub(super) fn begin(site: &mut SiteState, job: Job, ticket: Ticket, now: Instant) -> Box<dyn Flow> {
        let owner = AddressOwner::new(*job.peer.ip(), job.requester);
        // The kernel sends by its live neighbour table, which whoever claims the address by ARP can change between the
        // decision and the packet. So what is only this device's goes to the hardware address that was judged.
        let (way, recipient) = match (&job.entry.scope, job.requester) {
            (Scope::Device(_), Resolution::Device(mac)) if site.config.frames => {
                (Way::Frame(ticket, mac), Some(Recipient::new((*job.peer.ip(), mac), job.came)))
            }
            _ => (Way::Socket(ticket), None),
        };
        let (waits, stage, pending_input) = (Waits::Disk, Stage::Opening, None);
        let mut session = Self { job, owner, ticket, way, recipient, waits, stage, pending_input };
        // It answers while the file is opened.
        let _ = session.recipient.as_mut().is_none_or(|recipient| recipient.is_there(site, now));
        session.open(site, now);
        Box::new(session)
    }

    fn open(&mut self, site: &mut SiteState, now: Instant) {
        let entry = Arc::clone(&self.job.entry);
        let text = matches!(entry.class, Class::Config | Class::Locale);
        let work = match self.job.mode {
            // Translation would destroy an image or a signature, so it is not even tried.
            TransferMode::Netascii if !text => {
                return self.refuse(site, ErrorReply::OctetOnly, FileRefusal::OctetOnly, now);
            }
            TransferMode::Netascii => Work::Translate(entry),
            _ => Work::Open(entry),
        };
        site.submit(self.ticket, work);
    }

    /// Ends it before the first byte, with an ERROR if its client can get one.
    fn refuse(&mut self, site: &mut SiteState, reply: ErrorReply, outcome: impl Into<FileOutcome>, now: Instant) {
        let mut reply = site.gate.still_owns(&mut self.owner).then_some(reply);
        self.waits = Waits::Client;
        if let Some(recipient) = self.recipient.as_mut().filter(|_| reply.is_some())
            && !recipient.is_there(site, now)
        {
            if reply == Some(ErrorReply::Busy) {
                // Room is needed now, and anybody can ask under the address of a phone that is away.
                reply = None;
            } else {
                recipient.wait(site, self.ticket, ARRIVAL_PATIENCE, now);
                self.waits = Waits::Device;
            }
        }
        self.stage = Stage::Refused(reply, outcome.into());
    }

    /// The device has not answered: nothing more leaves for it, because that might reach everybody else.
    fn give_up(&mut self, site: &mut SiteState, now: Instant) {
        debug!(peer = %self.job.peer, "the device does not answer by ARP");
        site.count("tftp.not-there");
        match &mut self.stage {
            Stage::Active(active) => {
                active.rest = None;
                active.transfer.handle(Input::Revoked, now);
            }
            Stage::Refused(reply, _) => *reply = None,
            Stage::Opening => {}
        }
        self.leave(site);
    }

    fn start(&mut self, site: &mut SiteState, chunks: FileChunks, now: Instant) {
        let release = &self.job.release;
        let limits = OptionLimits::new(site.config.mtu, release.max_blksize, release.max_windowsize);
        if let Some(hint) = self.job.options.device_hint() {
            debug!(%hint, device = ?device_of(self.job.requester), "the device names itself");
        }
        let options = NegotiatedOptions::negotiate(&self.job.options, chunks.len(), &limits);
        let transfer = Transfer::new(chunks.len(), &options, now);
        self.stage =
            Stage::Active(Box::new(ActiveTransfer { transfer, chunks, oack: options.oack, rest: None, given: None }));
        // A request that came again while the file was opened gets its answer now.
        self.pending_input = None;
        self.go_on(site, now);
    }

    /// The disk or the kernel's queue is ready again, or the device has answered: acts on the pending input; what is left is
    /// sent next.
    fn go_on(&mut self, site: &mut SiteState, now: Instant) {
        self.waits = Waits::Client;
        match self.pending_input.take() {
            Some(input) => self.event(site, input, now),
            None if site.gate.still_owns(&mut self.owner) => {}
            None => self.event(site, Input::Revoked, now),
        }
    }

    /// Hands an input to the machine. The owner of the address is checked for every packet, not only for the request, so
    /// that an address which another device took gets nothing more.
    fn event(&mut self, site: &mut SiteState, input: Input, now: Instant) {
        let input = if site.gate.still_owns(&mut self.owner) {
            input
        } else {
            debug!(peer = %self.job.peer, "the address is no longer this device's");
            site.count("tftp.binding-lost");
            Input::Revoked
        };
        match &mut self.stage {
            Stage::Active(active) => active.transfer.handle(input, now),
            Stage::Opening if input == Input::Evicted => self.refuse(site, ErrorReply::Busy, TransferEnd::Aborted, now),
            Stage::Opening if input == Input::Stopped => {
                self.refuse(site, ErrorReply::TemporaryFailure, TransferEnd::Failed, now);
            }
            Stage::Opening if input == Input::Replaced => {
                self.stage = Stage::Refused(None, TransferEnd::Aborted.into())
            }
            Stage::Opening if input == Input::Revoked => self.stage = Stage::Refused(None, TransferEnd::Failed.into()),
            Stage::Refused(reply, _) if input != Input::Repeated => {
                *reply = None;
                self.leave(site);
            }
            Stage::Opening | Stage::Refused(..) => {}
        }
        if self.is_over() {
            // Nothing that the disk, the queue or the device still brings is of use.
            self.leave(site);
        }
    }
}

impl ActiveTransfer {
    /// After blocks have left: drops the chunks that are done with, and reads the next one ahead.
    fn have_left(&mut self, site: &mut SiteState, ticket: Ticket) {
        let Some(position) = self.given.take() else { return };
        self.chunks.release_before(self.transfer.lowest_needed());
        if site.has_time()
            && self.chunks.should_read_ahead(position)
            && let Ok(Some(work)) = self.chunks.read_next()
        {
            site.submit(ticket, work);
        }
    }
}

impl Flow for Session {
    fn datagram(&mut self, site: &mut SiteState, datagram: &[u8], now: Instant) {
        match Input::from_datagram(datagram) {
            Some(input) if self.waits == Waits::Client || input == Input::Error => {
                trace!(peer = %self.job.peer, ?input, "received");
                self.event(site, input, now);
            }
            // It was read before the socket was told to wait. The client says it again.
            Some(_) => {}
            None => site.count("tftp.stray"),
        }
    }

    fn stranger(&mut self, datagram: &[u8]) -> Option<ErrorReply> {
        match &mut self.stage {
            Stage::Active(active) => active.transfer.handle_stranger(datagram),
            Stage::Opening | Stage::Refused(..) => None,
        }
    }

    fn loaded(&mut self, site: &mut SiteState, loaded: Result<Loaded, ContentError>, now: Instant) {
        match (loaded, &mut self.stage) {
            (_, Stage::Refused(..)) => {}
            (Ok(Loaded::Opened(content, first)), Stage::Opening) => {
                self.start(site, FileChunks::new(content, first), now);
            }
            (Ok(Loaded::Translated(Some(text))), Stage::Opening) => {
                self.start(site, FileChunks::from_text(&text), now);
            }
            (Ok(Loaded::Translated(None)), Stage::Opening) => {
                self.refuse(site, ErrorReply::OctetOnly, FileRefusal::OctetOnly, now);
            }
            (Ok(_), Stage::Opening) => {}
            (Err(error), Stage::Opening) => {
                unreadable(site, &self.job, &error);
                self.refuse(site, ErrorReply::TemporaryFailure, TransferEnd::Failed, now);
            }
            (loaded, Stage::Active(active)) => {
                active.chunks.arrived(match loaded {
                    Ok(Loaded::Chunk(chunk)) => Ok(chunk),
                    Ok(_) => Err(ContentError::Io("something else was read".to_owned())),
                    Err(error) => Err(error),
                });
                if self.waits == Waits::Disk {
                    active.transfer.transmitted(now);
                    self.go_on(site, now);
                }
            }
        }
    }

    fn writable(&mut self, site: &mut SiteState, now: Instant) {
        match self.waits {
            Waits::Queue => self.go_on(site, now),
            Waits::Device if self.recipient.as_mut().is_none_or(|recipient| recipient.is_there(site, now)) => {
                self.leave(site);
                if let Stage::Active(active) = &mut self.stage {
                    active.transfer.transmitted(now);
                    // What it asked for again leaves now.
                    self.pending_input = None;
                }
                self.go_on(site, now);
            }
            Waits::Client | Waits::Disk | Waits::Device => {}
        }
    }

    fn blocked(&mut self, rest: Run) {
        if let Stage::Active(active) = &mut self.stage {
            (active.rest, active.given, self.waits) = (Some(Transmit::Data(rest)), None, Waits::Queue);
        }
    }

    fn tell(&mut self, site: &mut SiteState, input: Input, now: Instant) {
        if input == Input::Repeated && self.waits != Waits::Client {
            self.pending_input = Some(input);
        } else {
            self.event(site, input, now);
        }
    }

    fn time(&mut self, site: &mut SiteState, now: Instant) {
        if !matches!(self.waits, Waits::Client | Waits::Device) {
            return;
        }
        if !site.gate.still_owns(&mut self.owner) {
            self.event(site, Input::Revoked, now);
            return self.leave(site);
        }
        if self.waits == Waits::Device {
            if self.recipient.as_mut().is_none_or(|recipient| recipient.is_given_up(site, now)) {
                self.give_up(site, now);
            }
            return;
        }
        if let Stage::Active(active) = &mut self.stage {
            let due = active.transfer.poll_timeout();
            self.recipient.iter_mut().for_each(|recipient| recipient.doubt_after(due, now));
            active.transfer.handle_timeout(now);
        }
    }

    fn due(&self) -> Option<Instant> {
        match (&self.stage, self.waits) {
            (_, Waits::Device) => self.recipient.as_ref().and_then(Recipient::due),
            (Stage::Active(active), Waits::Client) => active.transfer.poll_timeout(),
            _ => None,
        }
    }

    fn next(&mut self, site: &mut SiteState, now: Instant) -> Option<Piece> {
        if self.waits != Waits::Client {
            return None;
        }
        let active = match &mut self.stage {
            Stage::Opening => return None,
            Stage::Refused(reply, _) => return reply.take().map(Piece::Error),
            Stage::Active(active) => active,
        };
        active.have_left(site, self.ticket);
        loop {
            let is_last = |transmit: &Transmit| matches!(transmit, Transmit::Error(_));
            let is_over = active.transfer.outcome().is_some();
            let pending = active.rest.take().filter(|transmit| !is_over || is_last(transmit));
            let transmit = pending.or_else(|| active.transfer.poll_transmit())?;
            if let Some(recipient) = &mut self.recipient
                && !recipient.is_there(site, now)
            {
                let proven = active.transfer.proven_at().is_some();
                let patience = match &transmit {
                    // Anybody can have transfers begun and ended under the address of a phone that is away.
                    Transmit::Error(ErrorReply::Busy) if !proven => return None,
                    Transmit::Error(_) => FAREWELL_PATIENCE,
                    _ if recipient.was_there() => ABSENCE_PATIENCE,
                    _ => ARRIVAL_PATIENCE,
                };
                recipient.wait(site, self.ticket, patience, now);
                (self.waits, active.rest) = (Waits::Device, Some(transmit));
                return None;
            }
            trace!(peer = %self.job.peer, ?transmit, "send");
            let run = match transmit {
                Transmit::Oack => return Some(Piece::Oack),
                Transmit::Error(reply) => return Some(Piece::Error(reply)),
                Transmit::Data(run) => run,
            };
            if active.chunks.has(&run.range) {
                active.given = Some(run.range.end);
                return Some(Piece::Data(run));
            }
            match active.chunks.read_next() {
                Ok(work) => {
                    if let Some(work) = work {
                        site.submit(self.ticket, work);
                    }
                    (self.waits, active.rest) = (Waits::Disk, Some(Transmit::Data(run)));
                    return None;
                }
                Err(error) => {
                    unreadable(site, &self.job, &error);
                    active.transfer.handle(Input::Unreadable, now);
                }
            }
        }
    }

    fn payload(&self, piece: Piece) -> Payload<'_> {
        match (piece, &self.stage) {
            (Piece::Error(reply), _) => Payload::Packet(reply.packet()),
            (Piece::Data(run), Stage::Active(active)) => Payload::Blocks(run, &active.chunks),
            (Piece::Oack, Stage::Active(active)) => Payload::Packet(active.oack.as_deref().unwrap_or_default()),
            (Piece::Oack | Piece::Ack | Piece::Data(_), _) => Payload::Packet(&[]),
        }
    }

    fn way(&self) -> Way {
        self.way
    }

    fn waits(&self) -> Waits {
        self.waits
    }

    fn owns_repeated_request(&self, datagram: &[u8], now: Instant) -> bool {
        let proven = match &self.stage {
            Stage::Active(active) => active.transfer.proven_at(),
            Stage::Opening | Stage::Refused(..) => None,
        };
        *self.job.request == *datagram && is_straggler(proven, now)
    }

    fn peer(&self) -> SocketAddrV4 {
        self.job.peer
    }

    fn idleness(&self) -> Option<(Idleness, Instant)> {
        match &self.stage {
            Stage::Active(active) => {
                let (transfer, proven) = (&active.transfer, active.transfer.proven_at().is_some());
                let idleness = match self.waits {
                    _ if proven => Idleness::Stalled,
                    // It was not answered yet.
                    Waits::Device => Idleness::Opening,
                    _ => Idleness::Unproven,
                };
                (!proven || transfer.is_stalled()).then_some((idleness, transfer.progress_at()))
            }
            Stage::Opening => Some((Idleness::Opening, self.job.began)),
            Stage::Refused(..) => (self.waits == Waits::Device).then_some((Idleness::Opening, self.job.began)),
        }
    }

    fn is_over(&self) -> bool {
        match &self.stage {
            Stage::Opening => false,
            Stage::Refused(..) => self.waits != Waits::Device,
            Stage::Active(active) => active.transfer.outcome().is_some(),
        }
    }

    fn leave(&mut self, site: &mut SiteState) {
        self.waits = Waits::Client;
        if let Some(recipient) = &mut self.recipient {
            recipient.leave(site, self.ticket);
        }
    }

    fn record(&self, site: &mut SiteState, now: Instant) {
        let ended = match &self.stage {
            Stage::Opening => EndedTransfer::before_the_first_byte(TransferEnd::Failed.into()),
            Stage::Refused(_, outcome) => EndedTransfer::before_the_first_byte(*outcome),
            Stage::Active(active) => EndedTransfer {
                outcome: active.transfer.outcome().unwrap_or(TransferEnd::Failed).into(),
                bytes: active.transfer.bytes_acked(),
                retransmissions: active.transfer.retransmissions(),
            },
        };
        record(site, &self.job, &ended, now);
    }
}

struct EndedTransfer {
    outcome: FileOutcome,
    bytes: u64,
    retransmissions: u32,
}

impl EndedTransfer {
    const fn before_the_first_byte(outcome: FileOutcome) -> Self {
        Self { outcome, bytes: 0, retransmissions: 0 }
    }
}

/// The device that the record of a transfer names; `None` if the address is not known to be one device's.
pub(super) const fn device_of(requester: Resolution) -> Option<MacAddr> {
    match requester {
        Resolution::Device(mac) => Some(mac),
        Resolution::Unknown | Resolution::Conflict { .. } => None,
    }
}

fn unreadable(site: &mut SiteState, job: &Job, error: &ContentError) {
    warn!(file = %job.entry.name, %error, "a stored file cannot be served");
    // The text is the same at each request, so that each file has one alert.
    let text = match error {
        ContentError::Damaged(_) => format!("{} is damaged on the disk; it is fetched again from HQ", job.entry.name),
        ContentError::Io(_) => format!("{}: {error}", job.entry.name),
    };
    site.alert(AlertCode::DamagedFile, text);
}

fn record(site: &mut SiteState, job: &Job, end: &EndedTransfer, now: Instant) {
    const DELIVERED: FileOutcome = FileOutcome::Ended(TransferEnd::Delivered);
    let device = device_of(job.requester);
    let duration = now.saturating_duration_since(job.came);
    let (name, bytes) = (&job.entry.name, end.bytes);
    match (end.outcome, device) {
        (DELIVERED, Some(mac)) => info!(device = %mac, file = %name, bytes, ?duration, "file served"),
        (DELIVERED, None) => info!(address = %job.peer.ip(), file = %name, bytes, ?duration, "file served"),
        (outcome, _) => {
            debug!(peer = %job.peer, file = %name, bytes, ?duration, outcome = outcome.code(), "transfer ended");
        }
    }
    site.transfer(TransferRecord {
        device,
        known: job.release.known,
        address: *job.peer.ip(),
        file: name.as_str().to_owned(),
        bytes,
        retransmissions: end.retransmissions,
        duration,
        generation: job.release.generation,
        content: Some(job.entry.sha256),
        outcome: end.outcome,
    });
}
