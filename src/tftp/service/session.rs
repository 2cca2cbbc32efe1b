//! One transfer, from the decision to serve to its record. The machine decides; this waits and moves bytes.

use std::future::{Future as _, poll_fn};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::task::Poll;
use std::time::Instant;

use tokio::sync::Notify;
use tokio::time::Sleep;
use tracing::{Instrument as _, debug, debug_span, info, trace, warn};

use super::Shared;
use super::gate::{Gate, Release};
use super::line::Line;
use super::source::Source;
use crate::access::{ContentError, Resolution};
use crate::bundle::{Class, FileEntry};
use crate::ids::MacAddr;
use crate::status::{Outcome, TransferRecord};
use crate::tftp::netascii;
use crate::tftp::options::{Limits, Terms, device_hint};
use crate::tftp::packet::{Mode, Packet, Refusal};
use crate::tftp::transfer::{Input, Transfer, Transmit, is_straggler};

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

/// What the listener can still do to a transfer, and what it may know of it.
#[derive(Debug, Default)]
pub(super) struct Control {
    command: Mutex<Option<Input>>,
    notify: Notify,
    proven: OnceLock<Instant>,
    stalled: AtomicBool,
    over: AtomicBool,
}

impl Control {
    /// Tells the transfer. Later commands replace earlier ones that were not seen yet.
    pub(super) fn tell(&self, input: Input) {
        *self.command.lock().unwrap_or_else(PoisonError::into_inner) = Some(input);
        self.notify.notify_one();
    }

    /// Whether the same request, coming again now, belongs to this transfer.
    pub(super) fn owns_repeated_request(&self, now: Instant) -> bool {
        !self.over.load(Ordering::Acquire) && is_straggler(self.proven.get().copied(), now)
    }

    /// Whether the client has answered.
    pub(super) fn is_proven(&self) -> bool {
        self.proven.get().is_some()
    }

    /// Whether the client lets the transfer wait, so that its place may be given away.
    pub(super) fn is_stalled(&self) -> bool {
        self.stalled.load(Ordering::Relaxed)
    }

    /// The client has answered.
    pub(super) fn prove(&self, at: Instant) {
        let _ = self.proven.set(at);
    }

    /// It is over.
    pub(super) fn end(&self) {
        self.over.store(true, Ordering::Release);
    }

    /// Waits for what the listener has to say.
    pub(super) async fn told(&self) -> Input {
        loop {
            if let Some(input) = self.take() {
                return input;
            }
            self.notify.notified().await;
        }
    }

    fn take(&self) -> Option<Input> {
        self.command.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// Runs one transfer to its end and keeps its record.
pub(super) async fn serve(shared: Arc<Shared>, job: Job, control: Arc<Control>) {
    let span = debug_span!("transfer", peer = %job.peer, file = %job.entry.name);
    let end = run(&shared, &job, &control).instrument(span).await;
    control.over.store(true, Ordering::Release);
    let device = device_of(job.requester);
    let duration = job.began.elapsed();
    let name = &job.entry.name;
    match end.outcome {
        Outcome::Delivered => match device {
            Some(mac) => info!(device = %mac, file = %name, bytes = end.bytes, ?duration, "file served"),
            None => info!(address = %job.peer.ip(), file = %name, bytes = end.bytes, ?duration, "file served"),
        },
        outcome => debug!(peer = %job.peer, file = %name, bytes = end.bytes, ?duration, ?outcome, "transfer ended"),
    }
    shared.stats.transfer(TransferRecord {
        device,
        known: job.release.known,
        address: *job.peer.ip(),
        file: name.as_str().to_owned(),
        bytes: end.bytes,
        retransmissions: end.retransmissions,
        duration,
        generation: job.release.generation,
        outcome: end.outcome,
    });
}

/// Whom the record names.
pub(super) fn device_of(requester: Resolution) -> Option<MacAddr> {
    match requester {
        Resolution::Device(mac) => Some(mac),
        Resolution::Unknown | Resolution::Conflict { .. } => None,
    }
}

struct End {
    outcome: Outcome,
    bytes: u64,
    retransmissions: u32,
}

impl End {
    fn before_the_first_byte(outcome: Outcome) -> Self {
        Self { outcome, bytes: 0, retransmissions: 0 }
    }
}

async fn run(shared: &Shared, job: &Job, control: &Control) -> End {
    let mut line = match Line::open(&shared.config, job.peer) {
        Ok(line) => line,
        Err(error) => {
            warn!(%error, "no port for a transfer");
            shared.stats.count("tftp.no-port");
            let _ = shared.refusals.send_to(Refusal::Busy.packet(), job.peer);
            return End::before_the_first_byte(Outcome::Failed);
        }
    };
    let source = match open(shared, job).await {
        Ok(source) => source,
        Err((refusal, outcome)) => {
            let mut binding = Binding::of(job);
            if binding.holds(&shared.gate) {
                sent(shared, line.send(refusal.packet()));
            }
            return End::before_the_first_byte(outcome);
        }
    };
    let limits = Limits::new(shared.mtu, job.release.max_blksize, job.release.max_windowsize);
    let options = match Packet::parse(&job.request) {
        Ok(Packet::Read(request)) => request.options,
        _ => Vec::new(),
    };
    if let Some(hint) = device_hint(&options) {
        debug!(%hint, device = ?device_of(job.requester), "the device names itself");
    }
    let terms = Terms::agree(&options, source.len(), &limits);
    if terms.windowsize > 1 {
        line.segment(terms.blksize, &shared.no_gso);
    }
    transfer(shared, job, control, line, source, &terms).await
}

/// Opens the file, translated if the client wants netascii.
async fn open(shared: &Shared, job: &Job) -> Result<Source, (Refusal, Outcome)> {
    let mode = match Packet::parse(&job.request) {
        Ok(Packet::Read(request)) => request.mode,
        _ => Mode::Octet,
    };
    let octet_only = (Refusal::OctetOnly, Outcome::Refused("octet-only"));
    // Translation would destroy an image or a signature, so it is not even tried.
    if mode == Mode::Netascii && !matches!(job.entry.class, Class::Config | Class::Locale) {
        return Err(octet_only);
    }
    let unreadable = |error: ContentError| {
        unreadable(shared, job, &error);
        (Refusal::TemporaryFailure, Outcome::Failed)
    };
    let reads = Arc::clone(&shared.reads);
    let opening = Source::open(Arc::clone(&shared.files), Arc::clone(&job.entry), reads);
    let mut source = opening.await.map_err(unreadable)?;
    if mode != Mode::Netascii {
        return Ok(source);
    }
    let text = source.read_all(netascii::MAX_TEXT_BYTES).await.map_err(unreadable)?;
    let translated = text.and_then(|bytes| netascii::translate(&bytes)).ok_or(octet_only)?;
    Ok(Source::from_bytes(&translated, Arc::clone(&shared.reads)))
}

fn unreadable(shared: &Shared, job: &Job, error: &ContentError) {
    warn!(file = %job.entry.name, %error, "a stored file cannot be served");
    // One alert for each file, whatever is found out about it from one request to the next.
    let text = match error {
        ContentError::Damaged(_) => format!("{} is damaged on the disk; it is fetched again from HQ", job.entry.name),
        ContentError::Io(_) => format!("{}: {error}", job.entry.name),
    };
    shared.stats.alert("damaged-file", text);
}

async fn transfer(
    shared: &Shared,
    job: &Job,
    control: &Control,
    mut line: Line,
    mut source: Source,
    terms: &Terms,
) -> End {
    let mut binding = Binding::of(job);
    let mut transfer = Transfer::new(source.len(), terms, Instant::now());
    let mut buffer = [0; INCOMING_BYTES];
    let mut alarm = pin!(Alarm::new());
    if !binding.holds(&shared.gate) {
        transfer.handle(Input::Revoked, Instant::now());
    }
    // What came while the file was opened; a repeated request is about to be answered.
    if let Some(input) = control.take().filter(|input| *input != Input::Repeated) {
        transfer.handle(input, Instant::now());
    }
    loop {
        while let Some(transmit) = transfer.poll_transmit() {
            trace!(?transmit, "send");
            match transmit {
                Transmit::Oack => sent(shared, line.send(terms.oack.as_deref().unwrap_or_default())),
                Transmit::Error(refusal) => sent(shared, line.send(refusal.packet())),
                Transmit::Data(run) => {
                    if !source.has(&run.range) {
                        if let Err(error) = source.load(run.range.clone()).await {
                            unreadable(shared, job, &error);
                            transfer.handle(Input::Unreadable, Instant::now());
                            continue;
                        }
                        let now = Instant::now();
                        transfer.transmitted(now);
                        if !binding.holds(&shared.gate) {
                            transfer.handle(Input::Revoked, now);
                            continue;
                        }
                    }
                    let position = run.range.end;
                    sent(shared, line.send_run(run, &source, &shared.no_gso).await);
                    source.release_before(transfer.lowest_needed());
                    source.read_ahead(position);
                }
            }
        }
        control.stalled.store(transfer.is_stalled(), Ordering::Relaxed);
        if let Some(outcome) = transfer.outcome() {
            return End { outcome, bytes: transfer.bytes_acked(), retransmissions: transfer.retransmissions() };
        }
        let event = next_event(&line, control, alarm.as_mut(), transfer.poll_timeout(), &mut buffer).await;
        let now = Instant::now();
        // For every packet, not only for the request: an address that somebody else took gets nothing more.
        if !binding.holds(&shared.gate) {
            debug!("the address is no longer this device's");
            shared.stats.count("tftp.binding-lost");
            transfer.handle(Input::Revoked, now);
            continue;
        }
        match event {
            Event::Datagram(length) => {
                let datagram = buffer.get(..length).unwrap_or_default();
                let input = Input::from_datagram(datagram);
                trace!(?input, "received");
                match input {
                    Some(input) => transfer.handle(input, now),
                    None => shared.stats.count("tftp.stray"),
                }
                if let Some(proven) = transfer.proven_at() {
                    let _ = control.proven.set(proven);
                }
            }
            Event::Stranger(length, stranger) => {
                debug!(%stranger, "a stranger on a transfer's port");
                shared.stats.count("tftp.stranger");
                let near = super::in_network(*stranger.ip(), shared.config.lan);
                let answer = transfer.handle_stranger(buffer.get(..length).unwrap_or_default());
                if let Some(refusal) = answer.filter(|_| near) {
                    sent(shared, line.send_to(refusal.packet(), stranger));
                }
            }
            Event::Command(input) => transfer.handle(input, now),
            Event::Time => transfer.handle_timeout(now),
            Event::Lost(error) => {
                debug!(%error, "receiving failed");
                shared.stats.count("tftp.receive-failed");
            }
        }
    }
}

/// A packet that the kernel would not take is a packet that the network lost.
fn sent(shared: &Shared, result: std::io::Result<()>) {
    if let Err(error) = result {
        debug!(%error, "sending failed");
        shared.stats.count("tftp.send-failed");
    }
}

/// Whose address it was when the request was decided.
struct Binding {
    address: Ipv4Addr,
    requester: Resolution,
}

impl Binding {
    fn of(job: &Job) -> Self {
        Self { address: *job.peer.ip(), requester: job.requester }
    }

    fn holds(&mut self, gate: &Gate) -> bool {
        let now = gate.who(self.address);
        if self.requester == Resolution::Unknown && matches!(now, Resolution::Device(_)) {
            // It got what everyone may have; from here on it is this device.
            self.requester = now;
        }
        self.requester == now
    }
}

enum Event {
    Datagram(usize),
    Stranger(usize, SocketAddrV4),
    Command(Input),
    Time,
    Lost(std::io::Error),
}

async fn next_event(
    line: &Line,
    control: &Control,
    mut alarm: Pin<&mut Alarm>,
    due: Option<Instant>,
    buffer: &mut [u8],
) -> Event {
    alarm.as_mut().set_no_later_than(due);
    let mut notified = pin!(control.notify.notified());
    poll_fn(move |cx| {
        if let Poll::Ready(received) = line.poll_recv(cx, buffer) {
            return Poll::Ready(match received {
                Ok((length, Ok(()))) => Event::Datagram(length),
                Ok((length, Err(stranger))) => Event::Stranger(length, stranger),
                Err(error) => Event::Lost(error),
            });
        }
        while notified.as_mut().poll(cx).is_ready() {
            if let Some(input) = control.take() {
                return Poll::Ready(Event::Command(input));
            }
            notified.set(control.notify.notified());
        }
        if alarm.as_mut().poll_due(cx, due) { Poll::Ready(Event::Time) } else { Poll::Pending }
    })
    .await
}

/// A timer that is moved only when it must ring earlier: deadlines move later with every ACK, and moving costs.
struct Alarm {
    sleep: Pin<Box<Sleep>>,
    set_for: Instant,
}

impl Alarm {
    fn new() -> Self {
        let now = Instant::now();
        Self { sleep: Box::pin(tokio::time::sleep_until(now.into())), set_for: now }
    }

    fn set_no_later_than(mut self: Pin<&mut Self>, due: Option<Instant>) {
        if let Some(due) = due
            && (self.sleep.is_elapsed() || due < self.set_for)
        {
            self.set_for = due;
            self.sleep.as_mut().reset(due.into());
        }
    }

    fn poll_due(mut self: Pin<&mut Self>, cx: &mut std::task::Context<'_>, due: Option<Instant>) -> bool {
        while self.sleep.as_mut().poll(cx).is_ready() {
            let Some(due) = due else { return false };
            if due <= self.set_for {
                return true;
            }
            self.set_for = due;
            self.sleep.as_mut().reset(due.into());
        }
        false
    }
}
