//! One read transfer, from the decision to serve until its record is written. [`Transfer`] decides what is sent; this file
//! moves the bytes and never waits.

use std::io;
use std::net::SocketAddrV4;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::sync::Arc;
use std::time::Instant;

use nix::sys::epoll::EpollFlags;
use tracing::{debug, info, trace, warn};

use super::Shared;
use super::file_chunks::FileChunks;
use super::gate::{AddressOwner, ServedRelease};
use super::reader::{Loaded, Work};
use super::transfer_socket::{Sent, SourceTid, TransferSocket};
use super::transfers::{Flow, Waits};
use crate::options::{NegotiatedOptions, OptionLimits, device_hint};
use crate::packet::{ErrorReply, Packet, TransferMode};
use crate::transfer::{Input, Run, Transfer, Transmit, is_straggler};
use access::{ContentError, Resolution};
use api::{AlertCode, FileOutcome, FileRefusal, TransferEnd};
use bundle::{Class, FileEntry};
use ids::MacAddr;
use status::TransferRecord;

/// Room for an ACK or an ERROR. A longer datagram is cut; it is neither.
const INCOMING_BYTES: usize = 600;

/// A read request that the policy decided to serve.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) peer: SocketAddrV4,
    pub(super) requester: Resolution,
    pub(super) entry: Arc<FileEntry>,
    /// The RRQ as it came, to recognise it when it comes again.
    pub(super) request: Box<[u8]>,
    pub(super) release: ServedRelease,
    pub(super) began: Instant,
}

/// One transfer and its socket.
pub(super) struct Session {
    job: Job,
    socket: TransferSocket,
    owner: AddressOwner,
    ticket: u64,
    waits: Waits,
    /// `None` while the file is being opened.
    active: Option<ActiveTransfer>,
    /// What the listener passed on while the transfer waited for the disk or the send queue. A later input replaces an
    /// earlier one.
    pending_input: Option<Input>,
    end: Option<EndedTransfer>,
}

struct ActiveTransfer {
    transfer: Transfer,
    chunks: FileChunks,
    oack: Option<Box<[u8]>>,
    /// The blocks that are to be sent once the disk or the send queue is ready.
    rest: Option<Run>,
}

struct EndedTransfer {
    outcome: FileOutcome,
    bytes: u64,
    retransmissions: u32,
}

impl Session {
    /// Takes a port and has the file opened; `None` if there is no port.
    pub(super) fn begin(shared: &mut Shared, job: Job, ticket: u64) -> Option<Box<dyn Flow>> {
        let socket = match TransferSocket::open(&shared.config, job.peer) {
            Ok(socket) => socket,
            Err(error) => {
                warn!(%error, "no port for a transfer");
                shared.stats.count("tftp.no-port");
                let _ = shared.refusals.send_to(ErrorReply::Busy.packet(), job.peer);
                record(shared, &job, &EndedTransfer::before_the_first_byte(TransferEnd::Failed));
                return None;
            }
        };
        let owner = AddressOwner::new(*job.peer.ip(), job.requester);
        let mut session =
            Self { job, socket, owner, ticket, waits: Waits::Disk, active: None, pending_input: None, end: None };
        session.open(shared);
        Some(Box::new(session))
    }

    /// Opens the file, translated if the client wants netascii.
    fn open(&mut self, shared: &mut Shared) {
        let mode = match Packet::parse(&self.job.request) {
            Ok(Packet::Read(request)) => request.mode,
            _ => TransferMode::Octet,
        };
        let entry = Arc::clone(&self.job.entry);
        let text = matches!(entry.class, Class::Config | Class::Locale);
        let work = match mode {
            // Translation would destroy an image or a signature, so it is not even tried.
            TransferMode::Netascii if !text => {
                return self.refuse(shared, ErrorReply::OctetOnly, FileRefusal::OctetOnly);
            }
            TransferMode::Netascii => Work::Translate(entry),
            _ => Work::Open(entry),
        };
        shared.reader.submit(self.ticket, work);
    }

    fn refuse(&mut self, shared: &Shared, reply: ErrorReply, outcome: impl Into<FileOutcome>) {
        if shared.gate.still_owns(&mut self.owner) {
            sent(shared, self.socket.send(reply.packet()));
        }
        self.end = Some(EndedTransfer::before_the_first_byte(outcome));
    }

    fn start(&mut self, shared: &mut Shared, chunks: FileChunks, now: Instant) {
        let release = &self.job.release;
        let limits = OptionLimits::new(shared.mtu, release.max_blksize, release.max_windowsize);
        let asked = match Packet::parse(&self.job.request) {
            Ok(Packet::Read(request)) => request.options,
            _ => Vec::new(),
        };
        if let Some(hint) = device_hint(&asked) {
            debug!(%hint, device = ?device_of(self.job.requester), "the device names itself");
        }
        let options = NegotiatedOptions::negotiate(&asked, chunks.len(), &limits);
        if options.windowsize > 1 {
            self.socket.segment(options.blksize, &mut shared.no_gso);
        }
        let transfer = Transfer::new(chunks.len(), &options, now);
        self.active = Some(ActiveTransfer { transfer, chunks, oack: options.oack, rest: None });
        // A request that came again while the file was opened gets its answer now.
        self.pending_input = self.pending_input.filter(|input| *input != Input::Repeated);
        self.go_on(shared, now);
    }

    /// The disk or the kernel's queue is ready again: acts on the pending input, then sends the rest.
    fn go_on(&mut self, shared: &mut Shared, now: Instant) {
        self.waits = Waits::Client;
        match self.pending_input.take() {
            Some(input) => self.event(shared, input, now),
            None if shared.gate.still_owns(&mut self.owner) => self.pump(shared, now),
            None => self.event(shared, Input::Revoked, now),
        }
    }

    /// Reads one datagram and acts on it.
    fn readable(&mut self, shared: &mut Shared, now: Instant) {
        let mut buffer = [0; INCOMING_BYTES];
        let (length, from) = match self.socket.receive(&mut buffer) {
            Ok(received) => received,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
            Err(error) => {
                debug!(%error, "receiving failed");
                return shared.stats.count("tftp.receive-failed");
            }
        };
        let datagram = buffer.get(..length).unwrap_or_default();
        match from {
            SourceTid::Client => match Input::from_datagram(datagram) {
                Some(input) => {
                    trace!(peer = %self.job.peer, ?input, "received");
                    self.event(shared, input, now);
                }
                None => shared.stats.count("tftp.stray"),
            },
            SourceTid::Stranger(stranger) => self.stranger(shared, datagram, stranger),
        }
    }

    fn stranger(&mut self, shared: &Shared, datagram: &[u8], stranger: SocketAddrV4) {
        debug!(%stranger, peer = %self.job.peer, "a stranger on a transfer's port");
        shared.stats.count("tftp.stranger");
        let near = shared.config.lan.contains(*stranger.ip());
        let answer = self.active.as_mut().and_then(|active| active.transfer.handle_stranger(datagram));
        if let Some(reply) = answer.filter(|_| near) {
            sent(shared, self.socket.send_to(reply.packet(), stranger));
        }
    }

    /// Hands an input to the machine. The owner of the address is checked for every packet, not only for the request, so
    /// that an address which another device took gets nothing more.
    fn event(&mut self, shared: &mut Shared, input: Input, now: Instant) {
        let input = if shared.gate.still_owns(&mut self.owner) {
            input
        } else {
            debug!(peer = %self.job.peer, "the address is no longer this device's");
            shared.stats.count("tftp.binding-lost");
            Input::Revoked
        };
        if let Some(active) = &mut self.active {
            active.transfer.handle(input, now);
            self.pump(shared, now);
        }
    }

    /// Sends everything that the machine wants to be sent, until the disk or the kernel's queue makes it wait.
    fn pump(&mut self, shared: &mut Shared, now: Instant) {
        let Self { job, socket, ticket, waits, active, end, .. } = self;
        let Some(ActiveTransfer { transfer, chunks, oack, rest }) = active else { return };
        loop {
            let pending = rest.take().filter(|_| transfer.outcome().is_none()).map(Transmit::Data);
            let Some(transmit) = pending.or_else(|| transfer.poll_transmit()) else { break };
            trace!(peer = %job.peer, ?transmit, "send");
            let run = match transmit {
                Transmit::Oack => {
                    sent(shared, socket.send(oack.as_deref().unwrap_or_default()));
                    continue;
                }
                Transmit::Error(reply) => {
                    sent(shared, socket.send(reply.packet()));
                    continue;
                }
                Transmit::Data(run) => run,
            };
            if !chunks.has(&run.range) {
                match chunks.read_next() {
                    Ok(work) => {
                        if let Some(work) = work {
                            shared.reader.submit(*ticket, work);
                        }
                        (*waits, *rest) = (Waits::Disk, Some(run));
                        return;
                    }
                    Err(error) => {
                        unreadable(shared, job, &error);
                        transfer.handle(Input::Unreadable, now);
                        continue;
                    }
                }
            }
            let position = run.range.end;
            match socket.send_run(run, chunks, &mut shared.no_gso) {
                Sent::All => {}
                Sent::Full(run) => {
                    (*waits, *rest) = (Waits::Queue, Some(run));
                    return;
                }
                Sent::Lost(error) => sent(shared, Err(error)),
            }
            chunks.release_before(transfer.lowest_needed());
            if shared.reader.has_time()
                && chunks.should_read_ahead(position)
                && let Ok(Some(work)) = chunks.read_next()
            {
                shared.reader.submit(*ticket, work);
            }
        }
        if let Some(outcome) = transfer.outcome() {
            let (bytes, retransmissions) = (transfer.bytes_acked(), transfer.retransmissions());
            *end = Some(EndedTransfer { outcome: outcome.into(), bytes, retransmissions });
        }
    }
}

impl Flow for Session {
    fn ready(&mut self, flags: EpollFlags, shared: &mut Shared, now: Instant) {
        match self.waits {
            Waits::Client => self.readable(shared, now),
            Waits::Queue if flags.contains(EpollFlags::EPOLLOUT) => self.go_on(shared, now),
            Waits::Queue | Waits::Disk => {}
        }
    }

    fn loaded(&mut self, shared: &mut Shared, loaded: Result<Loaded, ContentError>, now: Instant) {
        match (loaded, &mut self.active) {
            (Ok(Loaded::Opened(content, first)), None) => self.start(shared, FileChunks::new(content, first), now),
            (Ok(Loaded::Translated(Some(text))), None) => self.start(shared, FileChunks::from_text(&text), now),
            (Ok(Loaded::Translated(None)), None) => {
                self.refuse(shared, ErrorReply::OctetOnly, FileRefusal::OctetOnly);
            }
            (Ok(_), None) => {}
            (Err(error), None) => {
                unreadable(shared, &self.job, &error);
                self.refuse(shared, ErrorReply::TemporaryFailure, TransferEnd::Failed);
            }
            (loaded, Some(active)) => {
                active.chunks.arrived(match loaded {
                    Ok(Loaded::Chunk(chunk)) => Ok(chunk),
                    Ok(_) => Err(ContentError::Io("something else was read".to_owned())),
                    Err(error) => Err(error),
                });
                if self.waits == Waits::Disk {
                    active.transfer.transmitted(now);
                    self.go_on(shared, now);
                }
            }
        }
    }

    fn tell(&mut self, shared: &mut Shared, input: Input, now: Instant) {
        if self.waits == Waits::Client {
            self.event(shared, input, now);
        } else {
            self.pending_input = Some(input);
        }
    }

    fn time(&mut self, shared: &mut Shared, now: Instant) {
        if self.waits != Waits::Client {
            return;
        }
        if !shared.gate.still_owns(&mut self.owner) {
            return self.event(shared, Input::Revoked, now);
        }
        if let Some(active) = &mut self.active {
            active.transfer.handle_timeout(now);
            self.pump(shared, now);
        }
    }

    fn due(&self) -> Option<Instant> {
        let active = self.active.as_ref().filter(|_| self.waits == Waits::Client)?;
        active.transfer.poll_timeout()
    }

    fn waits(&self) -> Waits {
        self.waits
    }

    fn owns_repeated_request(&self, datagram: &[u8], now: Instant) -> bool {
        let proven = self.active.as_ref().and_then(|active| active.transfer.proven_at());
        *self.job.request == *datagram && is_straggler(proven, now)
    }

    fn peer(&self) -> SocketAddrV4 {
        self.job.peer
    }

    fn idleness(&self) -> Option<(bool, Instant)> {
        let transfer = self.active.as_ref().map(|active| &active.transfer);
        let proven = transfer.is_some_and(|transfer| transfer.proven_at().is_some());
        let stalled = transfer.is_some_and(Transfer::is_stalled);
        (!proven || stalled).then_some((proven, self.job.began))
    }

    fn is_over(&self) -> bool {
        self.end.is_some()
    }

    fn record(&self, shared: &Shared) {
        if let Some(end) = &self.end {
            record(shared, &self.job, end);
        }
    }

    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl EndedTransfer {
    fn before_the_first_byte(outcome: impl Into<FileOutcome>) -> Self {
        Self { outcome: outcome.into(), bytes: 0, retransmissions: 0 }
    }
}

/// The device that the record of a transfer names; `None` if the address is not known to be one device's.
pub(super) fn device_of(requester: Resolution) -> Option<MacAddr> {
    match requester {
        Resolution::Device(mac) => Some(mac),
        Resolution::Unknown | Resolution::Conflict { .. } => None,
    }
}

fn unreadable(shared: &Shared, job: &Job, error: &ContentError) {
    warn!(file = %job.entry.name, %error, "a stored file cannot be served");
    // The text is the same at each request, so that each file has one alert.
    let text = match error {
        ContentError::Damaged(_) => format!("{} is damaged on the disk; it is fetched again from HQ", job.entry.name),
        ContentError::Io(_) => format!("{}: {error}", job.entry.name),
    };
    shared.stats.alert(AlertCode::DamagedFile, text);
}

/// Counts a packet that the kernel did not take. The transfer treats it as lost by the network.
fn sent(shared: &Shared, result: io::Result<()>) {
    if let Err(error) = result {
        debug!(%error, "sending failed");
        shared.stats.count("tftp.send-failed");
    }
}

fn record(shared: &Shared, job: &Job, end: &EndedTransfer) {
    const DELIVERED: FileOutcome = FileOutcome::Ended(TransferEnd::Delivered);
    let device = device_of(job.requester);
    let duration = job.began.elapsed();
    let (name, bytes) = (&job.entry.name, end.bytes);
    match (end.outcome, device) {
        (DELIVERED, Some(mac)) => info!(device = %mac, file = %name, bytes, ?duration, "file served"),
        (DELIVERED, None) => info!(address = %job.peer.ip(), file = %name, bytes, ?duration, "file served"),
        (outcome, _) => {
            debug!(peer = %job.peer, file = %name, bytes, ?duration, outcome = outcome.code(), "transfer ended")
        }
    }
    shared.stats.transfer(TransferRecord {
        device,
        known: job.release.known,
        address: *job.peer.ip(),
        file: name.as_str().to_owned(),
        bytes,
        retransmissions: end.retransmissions,
        duration,
        generation: job.release.generation,
        outcome: end.outcome,
    });
}
