//! A device's own log, where the site takes logs: the only request to write that is not refused at once.

use std::future::poll_fn;
use std::net::SocketAddrV4;
use std::sync::Arc;
use std::time::Instant;

use tokio::sync::OwnedSemaphorePermit;
use tokio::task::spawn_blocking;
use tokio::time::sleep_until;
use tracing::{debug, info};

use super::super::Shared;
use super::super::gate::Release;
use super::super::line::Line;
use super::super::session::{Control, device_of};
use super::{Listener, Session, in_network};
use crate::access::logs::MAX_LOG_BYTES;
use crate::access::{Logs, OwnLog, Resolution};
use crate::ids::FileName;
use crate::status::{Outcome, TransferRecord};
use crate::tftp::options::{Limits, Terms, announced_size};
use crate::tftp::packet::{DATA_HEADER_BYTES, Mode, Packet, Refusal, Request};
use crate::tftp::receive::{Input, Receive, Transmit};
use crate::tftp::transfer;

/// The largest block of an upload: what Ethernet carries.
const MAX_BLKSIZE: u16 = 1468;

const INCOMING_BYTES: usize = MAX_BLKSIZE as usize + DATA_HEADER_BYTES + 1;

/// What the listener hands over.
struct Upload {
    logs: Arc<dyn Logs>,
    log: OwnLog,
    peer: SocketAddrV4,
    requester: Resolution,
    request: Box<[u8]>,
    release: Release,
    began: Instant,
    /// One of the few places for uploads.
    _place: OwnedSemaphorePermit,
}

impl Listener {
    /// Takes the upload if it is a device's own log and the site takes logs. False for all others, which get one and the
    /// same refusal.
    pub(super) fn takes(&mut self, request: &Request<'_>, datagram: &[u8], peer: SocketAddrV4, now: Instant) -> bool {
        let Some(sink) = &self.shared.sink else { return false };
        if !matches!(request.mode, Mode::Octet | Mode::Netascii) {
            return false;
        }
        let Ok(name) = FileName::from_wire(request.name) else { return false };
        let requester = self.shared.gate.who(*peer.ip());
        if requester == Resolution::Unknown && self.shared.gate.can_resolve() {
            // A Polycom writes its log before it asks for its file: that one need not wait then.
            self.shared.gate.resolve(*peer.ip());
        }
        let Some((log, release)) = self.shared.gate.own_log(*peer.ip(), requester, &name, now) else { return false };
        if let Some(session) = self.sessions.get(&peer) {
            if *session.request == *datagram && session.control.owns_repeated_request(now) {
                self.shared.stats.count("tftp.repeated");
                session.control.tell(transfer::Input::Repeated);
                return true;
            }
            session.control.tell(transfer::Input::Replaced);
        }
        let Ok(place) = Arc::clone(&sink.places).try_acquire_owned() else { return false };
        let logs = Arc::clone(&sink.logs);
        let upload =
            Upload { logs, log, peer, requester, request: datagram.into(), release, began: now, _place: place };
        *self.per_address.entry(*peer.ip()).or_default() += 1;
        let control = Arc::new(Control::default());
        let task = self.tasks.spawn(receive(Arc::clone(&self.shared), upload, Arc::clone(&control))).id();
        self.running.insert(task, peer);
        self.sessions.insert(peer, Session { task, request: datagram.into(), control, began: now });
        true
    }
}

/// Runs one upload to its end and keeps its record.
async fn receive(shared: Arc<Shared>, upload: Upload, control: Arc<Control>) {
    let (outcome, bytes, retransmissions) = run(&shared, &upload, &control).await;
    control.end();
    let duration = upload.began.elapsed();
    match outcome {
        Outcome::Received => info!(device = %upload.log.device, file = %upload.log, bytes, ?duration, "log taken"),
        outcome => debug!(peer = %upload.peer, file = %upload.log, bytes, ?duration, ?outcome, "upload ended"),
    }
    shared.stats.transfer(TransferRecord {
        device: device_of(upload.requester),
        known: upload.release.known,
        address: *upload.peer.ip(),
        file: upload.log.to_string(),
        bytes,
        retransmissions,
        duration,
        generation: upload.release.generation,
        outcome,
    });
}

async fn run(shared: &Shared, upload: &Upload, control: &Control) -> (Outcome, u64, u32) {
    let line = match Line::open(&shared.config, upload.peer) {
        Ok(line) => line,
        Err(error) => {
            debug!(%error, "no port for an upload");
            shared.stats.count("tftp.no-port");
            return (Outcome::Failed, 0, 0);
        }
    };
    let options = match Packet::parse(&upload.request) {
        Ok(Packet::Write(request)) => request.options,
        _ => Vec::new(),
    };
    let announced = announced_size(&options);
    let blksize = upload.release.max_blksize.unwrap_or(MAX_BLKSIZE).min(MAX_BLKSIZE);
    let limits = Limits::new(shared.mtu, Some(blksize), Some(1));
    let terms = Terms::agree(&options, announced.unwrap_or(0), &limits);
    let limit = usize::try_from(MAX_LOG_BYTES).unwrap_or(usize::MAX);
    let mut receive = Receive::new(announced, limit, &terms, Instant::now());
    let mut buffer = [0; INCOMING_BYTES];
    let mut bytes = 0;
    loop {
        // For every packet, as when files are served: an address that somebody else took writes nothing more.
        if shared.gate.who(*upload.peer.ip()) != upload.requester {
            shared.stats.count("tftp.binding-lost");
            receive.handle(Input::Over, Instant::now());
        }
        if let Some(text) = receive.complete() {
            bytes = u64::try_from(text.len()).unwrap_or(u64::MAX);
            let kept = keep(shared, upload, text).await;
            receive.kept(kept, Instant::now());
        }
        while let Some(transmit) = receive.poll_transmit() {
            let sent = match transmit {
                Transmit::Oack => line.send(terms.oack.as_deref().unwrap_or_default()),
                Transmit::Ack(block) => {
                    let mut ack = Vec::with_capacity(4);
                    Packet::Ack(block).emit(&mut ack);
                    line.send(&ack)
                }
                Transmit::Error(refusal) => line.send(refusal.packet()),
            };
            if let Err(error) = sent {
                debug!(%error, "sending failed");
                shared.stats.count("tftp.send-failed");
            }
        }
        if let Some(outcome) = receive.outcome() {
            return (outcome, bytes, receive.retransmissions());
        }
        let due = receive.poll_timeout().unwrap_or_else(Instant::now);
        tokio::select! {
            received = poll_fn(|cx| line.poll_recv(cx, &mut buffer)) => match received {
                Ok((length, Ok(()))) => {
                    let datagram = buffer.get(..length).unwrap_or_default();
                    match Input::from_datagram(datagram) {
                        Some(input) => {
                            control.prove(Instant::now());
                            receive.handle(input, Instant::now());
                        }
                        None => shared.stats.count("tftp.stray"),
                    }
                }
                Ok((_, Err(stranger))) => {
                    shared.stats.count("tftp.stranger");
                    // RFC 1350 §4. A port that is guessed is rare, and the answer is no longer than the question.
                    if in_network(*stranger.ip(), shared.config.lan) {
                        let _ = line.send_to(Refusal::UnknownTransferId.packet(), stranger);
                    }
                }
                Err(error) => debug!(%error, "receiving failed"),
            },
            input = control.told() => receive.handle(
                match input {
                    transfer::Input::Repeated => Input::Repeated,
                    transfer::Input::Stopped => Input::Stopped,
                    _ => Input::Over,
                },
                Instant::now(),
            ),
            () = sleep_until(due.into()) => receive.handle_timeout(Instant::now()),
        }
    }
}

async fn keep(shared: &Shared, upload: &Upload, text: Vec<u8>) -> bool {
    let (logs, log, at) = (Arc::clone(&upload.logs), upload.log, shared.stats.now());
    let kept = spawn_blocking(move || logs.keep(log, &text, at, Instant::now())).await;
    match kept {
        Ok(Ok(())) => true,
        Ok(Err(error)) => {
            debug!(%log, %error, "a log was not kept");
            shared.stats.count("tftp.log-not-kept");
            false
        }
        Err(_) => false,
    }
}
