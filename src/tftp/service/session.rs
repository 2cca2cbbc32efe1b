//! One transfer, from the decision to serve to its record. The machine decides; this moves bytes, and never waits.

use std::io;
use std::net::SocketAddrV4;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::sync::Arc;
use std::time::Instant;

use nix::sys::epoll::EpollFlags;
use tracing::{debug, info, trace, warn};

use super::Shared;
use super::gate::{Binding, Release};
use super::line::{From, Line, Sent};
use super::reader::{Loaded, Work};
use super::source::Source;
use super::transfers::{Flow, Waits};
use crate::options::{Limits, Terms, device_hint};
use crate::packet::{Mode, Packet, Refusal};
use crate::transfer::{Input, Run, Transfer, Transmit, is_straggler};
use access::{ContentError, Resolution};
use api::{AlertCode, FileOutcome, FileRefusal, TransferEnd};
use bundle::{Class, FileEntry};
use ids::MacAddr;
use status::TransferRecord;

/// ACK and ERROR; whatever is longer is neither.
const INCOMING_BYTES: usize = 600;

/// What the listener hands over.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) peer: SocketAddrV4,
    pub(super) requester: Resolution,
    pub(super) entry: Arc<FileEntry>,
    /// The RRQ as it came.
    pub(super) request: Box<[u8]>,
    pub(super) release: Release,
    pub(super) began: Instant,
}

/// One transfer and its socket.
pub(super) struct Session {
    job: Job,
    line: Line,
    binding: Binding,
    ticket: u64,
    waits: Waits,
    /// `None` while the file is being opened.
    running: Option<Running>,
    /// What it was told while it waited. Later commands replace earlier ones.
    told: Option<Input>,
    end: Option<End>,
}

struct Running {
    transfer: Transfer,
    source: Source,
    oack: Option<Box<[u8]>>,
    /// What the machine wanted to be sent and what waits.
    rest: Option<Run>,
}

struct End {
    outcome: FileOutcome,
    bytes: u64,
    retransmissions: u32,
}

impl Session {
    /// Takes a port and has the file opened; `None` if there is no port.
    pub(super) fn begin(shared: &mut Shared, job: Job, ticket: u64) -> Option<Box<dyn Flow>> {
        let line = match Line::open(&shared.config, job.peer) {
            Ok(line) => line,
            Err(error) => {
                warn!(%error, "no port for a transfer");
                shared.stats.count("tftp.no-port");
                let _ = shared.refusals.send_to(Refusal::Busy.packet(), job.peer);
                record(shared, &job, &End::before_the_first_byte(TransferEnd::Failed));
                return None;
            }
        };
        let binding = Binding::new(*job.peer.ip(), job.requester);
        let mut session = Self { job, line, binding, ticket, waits: Waits::Disk, running: None, told: None, end: None };
        session.open(shared);
        Some(Box::new(session))
    }

    /// Opens the file, translated if the client wants netascii.
    fn open(&mut self, shared: &mut Shared) {
        let mode = match Packet::parse(&self.job.request) {
            Ok(Packet::Read(request)) => request.mode,
            _ => Mode::Octet,
        };
        let entry = Arc::clone(&self.job.entry);
        let text = matches!(entry.class, Class::Config | Class::Locale);
        let work = match mode {
            // Translation would destroy an image or a signature, so it is not even tried.
            Mode::Netascii if !text => return self.refuse(shared, Refusal::OctetOnly, FileRefusal::OctetOnly),
            Mode::Netascii => Work::Translate(entry),
            _ => Work::Open(entry),
        };
        shared.reader.submit(self.ticket, work);
    }

    fn refuse(&mut self, shared: &Shared, refusal: Refusal, outcome: impl Into<FileOutcome>) {
        if shared.gate.holds(&mut self.binding) {
            sent(shared, self.line.send(refusal.packet()));
        }
        self.end = Some(End::before_the_first_byte(outcome));
    }

    fn start(&mut self, shared: &mut Shared, source: Source, now: Instant) {
        let release = &self.job.release;
        let limits = Limits::new(shared.mtu, release.max_blksize, release.max_windowsize);
        let options = match Packet::parse(&self.job.request) {
            Ok(Packet::Read(request)) => request.options,
            _ => Vec::new(),
        };
        if let Some(hint) = device_hint(&options) {
            debug!(%hint, device = ?device_of(self.job.requester), "the device names itself");
        }
        let terms = Terms::agree(&options, source.len(), &limits);
        if terms.windowsize > 1 {
            self.line.segment(terms.blksize, &mut shared.no_gso);
        }
        let transfer = Transfer::new(source.len(), &terms, now);
        self.running = Some(Running { transfer, source, oack: terms.oack, rest: None });
        // A request that was repeated meanwhile is about to be answered.
        self.told = self.told.filter(|input| *input != Input::Repeated);
        self.go_on(shared, now);
    }

    /// The disk or the kernel's queue is ready again: what it was told meanwhile, then what was to be sent.
    fn go_on(&mut self, shared: &mut Shared, now: Instant) {
        self.waits = Waits::Client;
        match self.told.take() {
            Some(input) => self.event(shared, input, now),
            None if shared.gate.holds(&mut self.binding) => self.pump(shared, now),
            None => self.event(shared, Input::Revoked, now),
        }
    }

    /// Reads one datagram and acts on it.
    fn readable(&mut self, shared: &mut Shared, now: Instant) {
        let mut buffer = [0; INCOMING_BYTES];
        let (length, from) = match self.line.receive(&mut buffer) {
            Ok(received) => received,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
            Err(error) => {
                debug!(%error, "receiving failed");
                return shared.stats.count("tftp.receive-failed");
            }
        };
        let datagram = buffer.get(..length).unwrap_or_default();
        match from {
            From::Client => match Input::from_datagram(datagram) {
                Some(input) => {
                    trace!(peer = %self.job.peer, ?input, "received");
                    self.event(shared, input, now);
                }
                None => shared.stats.count("tftp.stray"),
            },
            From::Stranger(stranger) => self.stranger(shared, datagram, stranger),
        }
    }

    fn stranger(&mut self, shared: &Shared, datagram: &[u8], stranger: SocketAddrV4) {
        debug!(%stranger, peer = %self.job.peer, "a stranger on a transfer's port");
        shared.stats.count("tftp.stranger");
        let near = shared.config.lan.contains(*stranger.ip());
        let answer = self.running.as_mut().and_then(|running| running.transfer.handle_stranger(datagram));
        if let Some(refusal) = answer.filter(|_| near) {
            sent(shared, self.line.send_to(refusal.packet(), stranger));
        }
    }

    /// For every packet, not only for the request: an address that somebody else took gets nothing more.
    fn event(&mut self, shared: &mut Shared, input: Input, now: Instant) {
        let input = if shared.gate.holds(&mut self.binding) {
            input
        } else {
            debug!(peer = %self.job.peer, "the address is no longer this device's");
            shared.stats.count("tftp.binding-lost");
            Input::Revoked
        };
        if let Some(running) = &mut self.running {
            running.transfer.handle(input, now);
            self.pump(shared, now);
        }
    }

    /// Sends what there is to send.
    fn pump(&mut self, shared: &mut Shared, now: Instant) {
        let Self { job, line, ticket, waits, running, end, .. } = self;
        let Some(Running { transfer, source, oack, rest }) = running else { return };
        loop {
            let pending = rest.take().filter(|_| transfer.outcome().is_none()).map(Transmit::Data);
            let Some(transmit) = pending.or_else(|| transfer.poll_transmit()) else { break };
            trace!(peer = %job.peer, ?transmit, "send");
            let run = match transmit {
                Transmit::Oack => {
                    sent(shared, line.send(oack.as_deref().unwrap_or_default()));
                    continue;
                }
                Transmit::Error(refusal) => {
                    sent(shared, line.send(refusal.packet()));
                    continue;
                }
                Transmit::Data(run) => run,
            };
            if !source.has(&run.range) {
                match source.read_next() {
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
            match line.send_run(run, source, &mut shared.no_gso) {
                Sent::All => {}
                Sent::Full(run) => {
                    (*waits, *rest) = (Waits::Queue, Some(run));
                    return;
                }
                Sent::Lost(error) => sent(shared, Err(error)),
            }
            source.release_before(transfer.lowest_needed());
            if shared.reader.has_time()
                && source.should_read_ahead(position)
                && let Ok(Some(work)) = source.read_next()
            {
                shared.reader.submit(*ticket, work);
            }
        }
        if let Some(outcome) = transfer.outcome() {
            let (bytes, retransmissions) = (transfer.bytes_acked(), transfer.retransmissions());
            *end = Some(End { outcome: outcome.into(), bytes, retransmissions });
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
        match (loaded, &mut self.running) {
            (Ok(Loaded::Opened(content, first)), None) => self.start(shared, Source::new(content, first), now),
            (Ok(Loaded::Translated(Some(text))), None) => self.start(shared, Source::from_text(&text), now),
            (Ok(Loaded::Translated(None)), None) => {
                self.refuse(shared, Refusal::OctetOnly, FileRefusal::OctetOnly);
            }
            (Ok(_), None) => {}
            (Err(error), None) => {
                unreadable(shared, &self.job, &error);
                self.refuse(shared, Refusal::TemporaryFailure, TransferEnd::Failed);
            }
            (loaded, Some(running)) => {
                running.source.arrived(match loaded {
                    Ok(Loaded::Chunk(chunk)) => Ok(chunk),
                    Ok(_) => Err(ContentError::Io("something else was read".to_owned())),
                    Err(error) => Err(error),
                });
                if self.waits == Waits::Disk {
                    running.transfer.transmitted(now);
                    self.go_on(shared, now);
                }
            }
        }
    }

    fn tell(&mut self, shared: &mut Shared, input: Input, now: Instant) {
        if self.waits == Waits::Client {
            self.event(shared, input, now);
        } else {
            self.told = Some(input);
        }
    }

    fn time(&mut self, shared: &mut Shared, now: Instant) {
        if self.waits != Waits::Client {
            return;
        }
        if !shared.gate.holds(&mut self.binding) {
            return self.event(shared, Input::Revoked, now);
        }
        if let Some(running) = &mut self.running {
            running.transfer.handle_timeout(now);
            self.pump(shared, now);
        }
    }

    fn due(&self) -> Option<Instant> {
        let running = self.running.as_ref().filter(|_| self.waits == Waits::Client)?;
        running.transfer.poll_timeout()
    }

    fn waits(&self) -> Waits {
        self.waits
    }

    fn owns_repeated_request(&self, datagram: &[u8], now: Instant) -> bool {
        let proven = self.running.as_ref().and_then(|running| running.transfer.proven_at());
        *self.job.request == *datagram && is_straggler(proven, now)
    }

    fn peer(&self) -> SocketAddrV4 {
        self.job.peer
    }

    fn idleness(&self) -> Option<(bool, Instant)> {
        let transfer = self.running.as_ref().map(|running| &running.transfer);
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
        self.line.as_fd()
    }
}

impl End {
    fn before_the_first_byte(outcome: impl Into<FileOutcome>) -> Self {
        Self { outcome: outcome.into(), bytes: 0, retransmissions: 0 }
    }
}

/// Whom the record names.
pub(super) fn device_of(requester: Resolution) -> Option<MacAddr> {
    match requester {
        Resolution::Device(mac) => Some(mac),
        Resolution::Unknown | Resolution::Conflict { .. } => None,
    }
}

fn unreadable(shared: &Shared, job: &Job, error: &ContentError) {
    warn!(file = %job.entry.name, %error, "a stored file cannot be served");
    // One alert for each file, whatever is found out about it from one request to the next.
    let text = match error {
        ContentError::Damaged(_) => format!("{} is damaged on the disk; it is fetched again from HQ", job.entry.name),
        ContentError::Io(_) => format!("{}: {error}", job.entry.name),
    };
    shared.stats.alert(AlertCode::DamagedFile, text);
}

/// A packet that the kernel would not take is a packet that the network lost.
fn sent(shared: &Shared, result: io::Result<()>) {
    if let Err(error) = result {
        debug!(%error, "sending failed");
        shared.stats.count("tftp.send-failed");
    }
}

fn record(shared: &Shared, job: &Job, end: &End) {
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
