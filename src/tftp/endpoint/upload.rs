//! Takes a device's own log, at sites whose signed settings allow it. Every other WRQ is refused at once.

use std::net::SocketAddrV4;
use std::time::Instant;

use tracing::{debug, info};

use super::flows::{Flow, Flows, Idleness, Piece};
use super::gate::{AddressOwner, ServedRelease};
use super::places::Holder;
use super::requests::Asked;
use super::session::device_of;
use super::work::{Loaded, Work};
use super::{Payload, SiteState, Ticket, Waits, Way};
use crate::options::{MAX_BLKSIZE, NegotiatedOptions, OptionLimits};
use crate::packet::{ErrorReply, Packet, TransferMode};
use crate::receive::{Input, Receive, Transmit};
use crate::transfer::{self, Run, is_straggler};
use access::logs::MAX_LOG_BYTES;
use access::{ContentError, OwnLog, Resolution};
use api::TransferEnd;
use status::TransferRecord;

/// One upload.
struct Upload {
    log: OwnLog,
    requester: Resolution,
    peer: SocketAddrV4,
    request: Box<[u8]>,
    release: ServedRelease,
    began: Instant,
    owner: AddressOwner,
    receive: Receive,
    oack: Option<Box<[u8]>>,
    /// The ACK that is sent next, as a packet.
    ack: Vec<u8>,
    ticket: Ticket,
    /// Whether the log is being written. Until that is done, nothing is sent.
    keeping: bool,
    /// What was passed on while the log was being written.
    pending_input: Option<transfer::Input>,
    proven: Option<Instant>,
    bytes: u64,
}

/// Takes the upload if it is a device's own log and the site takes logs. False for all others: they all get the same ERROR.
pub(super) fn takes(site: &mut SiteState, flows: &mut Flows, asked: &Asked, datagram: &[u8], now: Instant) -> bool {
    let peer = asked.peer;
    if site.config.max_uploads == 0 || !matches!(asked.mode, TransferMode::Octet | TransferMode::Netascii) {
        return false;
    }
    let Some(name) = &asked.name else { return false };
    let requester = site.gate.who(*peer.ip());
    let Some((log, release)) = site.gate.own_log(*peer.ip(), requester, name, now) else { return false };
    if flows.repeated(site, peer, datagram, now) {
        site.count("tftp.repeated");
        return true;
    }
    flows.replace(site, peer, now);
    site.uploads.retain(|_, ticket| flows.runs(*ticket));
    let former = site.uploads.remove(&log);
    if site.uploads.len() >= site.config.max_uploads {
        return false;
    }
    if let Some(former) = former {
        // A phone that has started again begins its log again, from another port. Each log has one upload.
        flows.tell(site, former, transfer::Input::Replaced, now);
    }
    let holder = Holder::new(&site.gate, *peer.ip(), requester, release.known);
    flows.start(site, (holder, now), |site, ticket| {
        let announced = asked.options.announced_size();
        let blksize = release.max_blksize.unwrap_or(MAX_BLKSIZE);
        let limits = OptionLimits::new(site.config.mtu, Some(blksize), Some(1));
        let negotiated = NegotiatedOptions::negotiate(&asked.options, announced.unwrap_or(0), &limits);
        let limit = usize::try_from(MAX_LOG_BYTES).unwrap_or(usize::MAX);
        site.uploads.insert(log, ticket);
        Box::new(Upload {
            log,
            requester,
            peer,
            request: datagram.into(),
            release,
            began: now,
            owner: AddressOwner::new(*peer.ip(), requester),
            receive: Receive::new(announced, limit, &negotiated, now),
            oack: negotiated.oack,
            ack: Vec::new(),
            ticket,
            keeping: false,
            pending_input: None,
            proven: None,
            bytes: 0,
        })
    });
    true
}

impl Upload {
    /// Hands an input to the machine. The owner of the address is checked for every packet, so that an address which
    /// another device took writes nothing more.
    fn event(&mut self, site: &mut SiteState, input: Input<'_>, now: Instant) {
        if site.gate.still_owns(&mut self.owner) {
            self.receive.handle(input, now);
        } else {
            site.count("tftp.binding-lost");
            self.receive.handle(Input::Over, now);
        }
        if let Some(text) = self.receive.complete() {
            self.bytes = u64::try_from(text.len()).unwrap_or(u64::MAX);
            self.keeping = true;
            site.submit(self.ticket, Work::Keep { log: self.log, text });
        }
    }
}

impl Flow for Upload {
    fn datagram(&mut self, site: &mut SiteState, datagram: &[u8], now: Instant) {
        if self.keeping {
            return;
        }
        match Input::from_datagram(datagram) {
            Some(input) => {
                self.proven.get_or_insert(now);
                self.event(site, input, now);
            }
            None => site.count("tftp.stray"),
        }
    }

    /// RFC 1350 §4. A port that is guessed is rare, and the answer is no longer than the question.
    fn stranger(&mut self, _datagram: &[u8]) -> Option<ErrorReply> {
        Some(ErrorReply::UnknownTransferId)
    }

    fn loaded(&mut self, site: &mut SiteState, loaded: Result<Loaded, ContentError>, now: Instant) {
        self.keeping = false;
        let kept = match loaded {
            Ok(Loaded::Kept(Ok(()))) => true,
            Ok(Loaded::Kept(Err(error))) => {
                debug!(log = %self.log, %error, "a log was not kept");
                site.count("tftp.log-not-kept");
                false
            }
            _ => false,
        };
        self.receive.kept(kept, now);
        match self.pending_input.take() {
            Some(input) => self.tell(site, input, now),
            None if site.gate.still_owns(&mut self.owner) => {}
            None => self.event(site, Input::Over, now),
        }
    }

    /// It sends one small packet at a time, and a full queue loses it, as the network may.
    fn writable(&mut self, _site: &mut SiteState, _now: Instant) {}

    fn blocked(&mut self, _rest: Run) {}

    fn tell(&mut self, site: &mut SiteState, input: transfer::Input, now: Instant) {
        if self.keeping {
            self.pending_input = Some(input);
            return;
        }
        let input = match input {
            transfer::Input::Repeated => Input::Repeated,
            transfer::Input::Stopped => Input::Stopped,
            transfer::Input::Evicted => Input::Evicted,
            _ => Input::Over,
        };
        self.event(site, input, now);
    }

    fn time(&mut self, site: &mut SiteState, now: Instant) {
        if self.keeping {
            return;
        }
        if site.gate.still_owns(&mut self.owner) {
            self.receive.handle_timeout(now);
        } else {
            self.event(site, Input::Over, now);
        }
    }

    fn due(&self) -> Option<Instant> {
        self.receive.poll_timeout()
    }

    fn next(&mut self, _site: &mut SiteState, _now: Instant) -> Option<Piece> {
        match self.receive.poll_transmit()? {
            Transmit::Oack => Some(Piece::Oack),
            Transmit::Ack(block) => {
                self.ack.clear();
                Packet::Ack(block).emit(&mut self.ack);
                Some(Piece::Ack)
            }
            Transmit::Error(refusal) => Some(Piece::Error(refusal)),
        }
    }

    fn payload(&self, piece: Piece) -> Payload<'_> {
        match piece {
            Piece::Oack => Payload::Packet(self.oack.as_deref().unwrap_or_default()),
            Piece::Ack | Piece::Data(_) => Payload::Packet(&self.ack),
            Piece::Error(reply) => Payload::Packet(reply.packet()),
        }
    }

    /// What it sends is no secret.
    fn way(&self) -> Way {
        Way::Socket(self.ticket)
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

    fn idleness(&self) -> Option<(Idleness, Instant)> {
        self.proven.is_none().then_some((Idleness::Unproven, self.began))
    }

    fn is_over(&self) -> bool {
        !self.keeping && self.receive.outcome().is_some()
    }

    fn leave(&mut self, _: &mut SiteState) {}

    fn record(&self, site: &mut SiteState, now: Instant) {
        let outcome = self.receive.outcome().unwrap_or(TransferEnd::Failed);
        let (bytes, duration) = (self.bytes, now.saturating_duration_since(self.began));
        match outcome {
            TransferEnd::Received => info!(device = %self.log.device, file = %self.log, bytes, ?duration, "log taken"),
            outcome => {
                debug!(peer = %self.peer, file = %self.log, bytes, ?duration, outcome = outcome.code(), "upload ended");
            }
        }
        site.transfer(TransferRecord {
            device: device_of(self.requester),
            known: self.release.known,
            address: *self.peer.ip(),
            file: self.log.to_string(),
            bytes,
            retransmissions: self.receive.retransmissions(),
            duration,
            generation: self.release.generation,
            content: None,
            outcome: outcome.into(),
        });
    }
}
