//! A device's own log, where the site takes logs: the only request to write that is not refused at once.

use std::io;
use std::net::SocketAddrV4;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::sync::Arc;
use std::time::Instant;

use nix::sys::epoll::EpollFlags;
use tracing::{debug, info};

use super::gate::{Binding, Release};
use super::line::{From, Line};
use super::reader::{Loaded, Work};
use super::session::device_of;
use super::transfers::{Flow, Site, Waits};
use super::{Shared, in_network};
use crate::options::{Limits, Terms, announced_size};
use crate::packet::{DATA_HEADER_BYTES, Mode, Packet, Refusal, Request};
use crate::receive::{Input, Receive, Transmit};
use crate::transfer::{self, is_straggler};
use access::logs::MAX_LOG_BYTES;
use access::{ContentError, Logs, OwnLog, Resolution};
use ids::FileName;
use status::{Outcome, TransferRecord};

/// The largest block of an upload: what Ethernet carries.
const MAX_BLKSIZE: u16 = 1468;

const INCOMING_BYTES: usize = MAX_BLKSIZE as usize + DATA_HEADER_BYTES + 1;

/// One upload and its socket.
struct Upload {
    logs: Arc<dyn Logs>,
    log: OwnLog,
    requester: Resolution,
    peer: SocketAddrV4,
    request: Box<[u8]>,
    release: Release,
    began: Instant,
    line: Line,
    binding: Binding,
    receive: Receive,
    oack: Option<Box<[u8]>>,
    ticket: u64,
    /// The disk keeps what came.
    keeping: bool,
    /// What it was told meanwhile.
    told: Option<transfer::Input>,
    proven: Option<Instant>,
    bytes: u64,
}

/// Takes the upload if it is a device's own log and the site takes logs. False for all others, which get one and the same
/// refusal.
pub(super) fn takes(
    site: &mut Site<'_>,
    request: &Request<'_>,
    datagram: &[u8],
    peer: SocketAddrV4,
    now: Instant,
) -> bool {
    let Site { shared, transfers } = site;
    if shared.sink.is_none() || !matches!(request.mode, Mode::Octet | Mode::Netascii) {
        return false;
    }
    let Ok(name) = FileName::from_wire(request.name) else { return false };
    let requester = shared.gate.who(*peer.ip());
    if requester == Resolution::Unknown && shared.gate.can_resolve() {
        // A Polycom writes its log before it asks for its file: that one need not wait then.
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
        // From another port: a phone that has started again begins its log again, and holds one place for each.
        transfers.replace_one(shared, former, now);
    }
    transfers.start(shared, |shared, ticket| {
        let line = match Line::open(&shared.config, peer) {
            Ok(line) => line,
            Err(error) => {
                debug!(%error, "no port for an upload");
                shared.stats.count("tftp.no-port");
                return None;
            }
        };
        let announced = announced_size(&request.options);
        let blksize = release.max_blksize.unwrap_or(MAX_BLKSIZE).min(MAX_BLKSIZE);
        let limits = Limits::new(shared.mtu, Some(blksize), Some(1));
        let terms = Terms::agree(&request.options, announced.unwrap_or(0), &limits);
        let limit = usize::try_from(MAX_LOG_BYTES).unwrap_or(usize::MAX);
        let mut upload = Upload {
            logs,
            log,
            requester,
            peer,
            request: datagram.into(),
            release,
            began: now,
            line,
            binding: Binding::new(*peer.ip(), requester),
            receive: Receive::new(announced, limit, &terms, now),
            oack: terms.oack,
            ticket,
            keeping: false,
            told: None,
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
    /// For every packet, as when files are served: an address that somebody else took writes nothing more.
    fn event(&mut self, shared: &mut Shared, input: Input<'_>, now: Instant) {
        if shared.gate.holds(&mut self.binding) {
            self.receive.handle(input, now);
        } else {
            shared.stats.count("tftp.binding-lost");
            self.receive.handle(Input::Over, now);
        }
        self.pump(shared);
    }

    /// Has kept what is whole, and sends what there is to send.
    fn pump(&mut self, shared: &mut Shared) {
        if let Some(text) = self.receive.complete() {
            self.bytes = u64::try_from(text.len()).unwrap_or(u64::MAX);
            self.keeping = true;
            let (logs, at) = (Arc::clone(&self.logs), shared.stats.now());
            shared.reader.submit(self.ticket, Work::Keep { logs, log: self.log, text, at });
        }
        while let Some(transmit) = self.receive.poll_transmit() {
            let sent = match transmit {
                Transmit::Oack => self.line.send(self.oack.as_deref().unwrap_or_default()),
                Transmit::Ack(block) => {
                    let mut ack = Vec::with_capacity(DATA_HEADER_BYTES);
                    Packet::Ack(block).emit(&mut ack);
                    self.line.send(&ack)
                }
                Transmit::Error(refusal) => self.line.send(refusal.packet()),
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
        match self.line.receive(&mut buffer) {
            Ok((length, From::Client)) => match Input::from_datagram(buffer.get(..length).unwrap_or_default()) {
                Some(input) => {
                    self.proven.get_or_insert(now);
                    self.event(shared, input, now);
                }
                None => shared.stats.count("tftp.stray"),
            },
            Ok((_, From::Stranger(stranger))) => {
                shared.stats.count("tftp.stranger");
                // RFC 1350 §4. A port that is guessed is rare, and the answer is no longer than the question.
                if in_network(*stranger.ip(), shared.config.lan) {
                    let _ = self.line.send_to(Refusal::UnknownTransferId.packet(), stranger);
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
        match self.told.take() {
            Some(input) => self.tell(shared, input, now),
            None if shared.gate.holds(&mut self.binding) => self.pump(shared),
            None => self.event(shared, Input::Over, now),
        }
    }

    fn tell(&mut self, shared: &mut Shared, input: transfer::Input, now: Instant) {
        if self.keeping {
            self.told = Some(input);
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
        if shared.gate.holds(&mut self.binding) {
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
            Outcome::Received => info!(device = %self.log.device, file = %self.log, bytes, ?duration, "log taken"),
            outcome => debug!(peer = %self.peer, file = %self.log, bytes, ?duration, ?outcome, "upload ended"),
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
            outcome,
        });
    }

    fn as_fd(&self) -> BorrowedFd<'_> {
        self.line.as_fd()
    }
}
