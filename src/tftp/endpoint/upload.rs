//! Takes a device's own log, at sites whose signed settings allow it. Every other WRQ is refused at once.

use std::io;
use std::net::SocketAddrV4;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::sync::Arc;
use std::time::Instant;

use nix::sys::epoll::EpollFlags;
use tracing::{debug, info};

use super::Shared;
use super::gate::{AddressOwner, ServedRelease};
use super::reader::{Loaded, Work};
use super::session::device_of;
use super::transfer_socket::{SourceTid, TransferSocket};
use super::transfers::{Flow, RequestContext, Waits};
use crate::options::{NegotiatedOptions, OptionLimits, announced_size};
use crate::packet::{DATA_HEADER_BYTES, ErrorReply, Packet, TransferMode, TransferRequest};
use crate::receive::{Input, Receive, Transmit};
use crate::transfer::{self, is_straggler};
use access::logs::MAX_LOG_BYTES;
use access::{ContentError, Logs, OwnLog, Resolution};
use api::TransferEnd;
use ids::FileName;
use status::TransferRecord;

/// The largest block of an upload in bytes: what fits into one Ethernet frame.
const MAX_BLKSIZE: u16 = 1468;

const INCOMING_BYTES: usize = MAX_BLKSIZE as usize + DATA_HEADER_BYTES + 1;

/// One upload, its socket, and where its log goes.
struct Upload {
    logs: Arc<dyn Logs>,
    log: OwnLog,
    requester: Resolution,
    peer: SocketAddrV4,
    request: Box<[u8]>,
    release: ServedRelease,
    began: Instant,
    socket: TransferSocket,
    owner: AddressOwner,
    receive: Receive,
    oack: Option<Box<[u8]>>,
    ticket: u64,
    /// Whether the reader is writing the log. Until that is done, nothing is sent.
    keeping: bool,
    /// What the listener passed on while the log was being written.
    pending_input: Option<transfer::Input>,
    proven: Option<Instant>,
    bytes: u64,
}

/// Takes the upload if it is a device's own log and the site takes logs. False for all others: they all get the same ERROR.
pub(super) fn takes(
    site: &mut RequestContext<'_>,
    request: &TransferRequest<'_>,
    datagram: &[u8],
    peer: SocketAddrV4,
    now: Instant,
) -> bool {
    let RequestContext { shared, transfers } = site;
    if shared.sink.is_none() || !matches!(request.mode, TransferMode::Octet | TransferMode::Netascii) {
        return false;
    }
    let Ok(name) = FileName::from_wire(request.name) else { return false };
    let requester = shared.gate.who(*peer.ip());
    if requester == Resolution::Unknown && shared.gate.can_resolve() {
        // A Polycom writes its log before it asks for its file. This request resolves the address for the next.
        shared.gate.resolve(*peer.ip());
    }
    let Some((log, release)) = shared.gate.own_log(*peer.ip(), requester, &name, now) else { return false };
    if transfers.repeated(shared, peer, datagram, now) {
        shared.stats.count("tftp.repeated");
        return true;
    }
    transfers.replace(shared, peer, now);
    let Some(sink) = &mut shared.sink else { return false };
    sink.running.retain(|_, ticket| transfers.runs(*ticket));
    let former = sink.running.remove(&log);
    if sink.running.len() >= sink.max {
        return false;
    }
    let logs = Arc::clone(&sink.logs);
    if let Some(former) = former {
        // A phone that has started again begins its log again, from another port. Each log has one upload.
        transfers.replace_one(shared, former, now);
    }
    transfers.start(shared, |shared, ticket| {
        let socket = match TransferSocket::open(&shared.config, peer) {
            Ok(socket) => socket,
            Err(error) => {
                debug!(%error, "no port for an upload");
                shared.stats.count("tftp.no-port");
                return None;
            }
        };
        let announced = announced_size(&request.options);
        let blksize = release.max_blksize.unwrap_or(MAX_BLKSIZE).min(MAX_BLKSIZE);
        let limits = OptionLimits::new(shared.mtu, Some(blksize), Some(1));
        let negotiated = NegotiatedOptions::negotiate(&request.options, announced.unwrap_or(0), &limits);
        let limit = usize::try_from(MAX_LOG_BYTES).unwrap_or(usize::MAX);
        let mut upload = Upload {
            logs,
            log,
            requester,
            peer,
            request: datagram.into(),
            release,
            began: now,
            socket,
            owner: AddressOwner::new(*peer.ip(), requester),
            receive: Receive::new(announced, limit, &negotiated, now),
            oack: negotiated.oack,
            ticket,
            keeping: false,
            pending_input: None,
            proven: None,
            bytes: 0,
        };
        if let Some(sink) = &mut shared.sink {
            sink.running.insert(log, ticket);
        }
        upload.pump(shared);
        Some(Box::new(upload))
    });
    true
}

impl Upload {
    /// Hands an input to the machine. The owner of the address is checked for every packet, so that an address which
    /// another device took writes nothing more.
    fn event(&mut self, shared: &mut Shared, input: Input<'_>, now: Instant) {
        if shared.gate.still_owns(&mut self.owner) {
            self.receive.handle(input, now);
        } else {
            shared.stats.count("tftp.binding-lost");
            self.receive.handle(Input::Over, now);
        }
        self.pump(shared);
    }

    /// Submits the log once it is whole, and sends what the machine wants to be sent.
    fn pump(&mut self, shared: &mut Shared) {
        if let Some(text) = self.receive.complete() {
            self.bytes = u64::try_from(text.len()).unwrap_or(u64::MAX);
            self.keeping = true;
            let (logs, at) = (Arc::clone(&self.logs), shared.stats.now());
            shared.reader.submit(self.ticket, Work::Keep { logs, log: self.log, text, at });
        }
        while let Some(transmit) = self.receive.poll_transmit() {
            let sent = match transmit {
                Transmit::Oack => self.socket.send(self.oack.as_deref().unwrap_or_default()),
                Transmit::Ack(block) => {
                    let mut ack = Vec::with_capacity(DATA_HEADER_BYTES);
                    Packet::Ack(block).emit(&mut ack);
                    self.socket.send(&ack)
                }
                Transmit::Error(refusal) => self.socket.send(refusal.packet()),
            };
            if let Err(error) = sent {
                debug!(%error, "sending failed");
                shared.stats.count("tftp.send-failed");
            }
        }
    }
}

impl Flow for Upload {
    fn ready(&mut self, _flags: EpollFlags, shared: &mut Shared, now: Instant) {
        if self.keeping {
            return;
        }
        let mut buffer = [0; INCOMING_BYTES];
        match self.socket.receive(&mut buffer) {
            Ok((length, SourceTid::Client)) => match Input::from_datagram(buffer.get(..length).unwrap_or_default()) {
                Some(input) => {
                    self.proven.get_or_insert(now);
                    self.event(shared, input, now);
                }
                None => shared.stats.count("tftp.stray"),
            },
            Ok((_, SourceTid::Stranger(stranger))) => {
                shared.stats.count("tftp.stranger");
                // RFC 1350 §4. A port that is guessed is rare, and the answer is no longer than the question.
                if shared.config.lan.contains(*stranger.ip()) {
                    let _ = self.socket.send_to(ErrorReply::UnknownTransferId.packet(), stranger);
                }
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => debug!(%error, "receiving failed"),
        }
    }

    fn loaded(&mut self, shared: &mut Shared, loaded: Result<Loaded, ContentError>, now: Instant) {
        self.keeping = false;
        let kept = match loaded {
            Ok(Loaded::Kept(Ok(()))) => true,
            Ok(Loaded::Kept(Err(error))) => {
                debug!(log = %self.log, %error, "a log was not kept");
                shared.stats.count("tftp.log-not-kept");
                false
            }
            _ => false,
        };
        self.receive.kept(kept, now);
        match self.pending_input.take() {
            Some(input) => self.tell(shared, input, now),
            None if shared.gate.still_owns(&mut self.owner) => self.pump(shared),
            None => self.event(shared, Input::Over, now),
        }
    }

    fn tell(&mut self, shared: &mut Shared, input: transfer::Input, now: Instant) {
        if self.keeping {
            self.pending_input = Some(input);
            return;
        }
        let input = match input {
            transfer::Input::Repeated => Input::Repeated,
            transfer::Input::Stopped => Input::Stopped,
            _ => Input::Over,
        };
        self.event(shared, input, now);
    }

    fn time(&mut self, shared: &mut Shared, now: Instant) {
        if self.keeping {
            return;
        }
        if shared.gate.still_owns(&mut self.owner) {
            self.receive.handle_timeout(now);
            self.pump(shared);
        } else {
            self.event(shared, Input::Over, now);
        }
    }

    fn due(&self) -> Option<Instant> {
        self.receive.poll_timeout()
    }

    fn waits(&self) -> Waits {
        if self.keeping { Waits::Disk } else { Waits::Client }
    }

    fn owns_repeated_request(&self, datagram: &[u8], now: Instant) -> bool {
        *self.request == *datagram && is_straggler(self.proven, now)
    }

    fn peer(&self) -> SocketAddrV4 {
        self.peer
    }

    fn idleness(&self) -> Option<(bool, Instant)> {
        self.proven.is_none().then_some((false, self.began))
    }

    fn is_over(&self) -> bool {
        !self.keeping && self.receive.outcome().is_some()
    }

    fn record(&self, shared: &Shared) {
        let Some(outcome) = self.receive.outcome() else { return };
        let (bytes, duration) = (self.bytes, self.began.elapsed());
        match outcome {
            TransferEnd::Received => info!(device = %self.log.device, file = %self.log, bytes, ?duration, "log taken"),
            outcome => {
                debug!(peer = %self.peer, file = %self.log, bytes, ?duration, outcome = outcome.code(), "upload ended")
            }
        }
        shared.stats.transfer(TransferRecord {
            device: device_of(self.requester),
            known: self.release.known,
            address: *self.peer.ip(),
            file: self.log.to_string(),
            bytes,
            retransmissions: self.receive.retransmissions(),
            duration,
            generation: self.release.generation,
            outcome: outcome.into(),
        });
    }

    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}
