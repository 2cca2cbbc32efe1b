//! Devices' own logs, where the site takes logs: the only requests to write that are not refused at once.
//!
//! Each upload is a small task with a port of its own, apart from the transfers: they are few, slow and short.

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

use tokio::net::UdpSocket;
use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::task::spawn_blocking;
use tokio::time::sleep_until;
use tokio_util::sync::{CancellationToken, DropGuard};
use tracing::{debug, info};

use super::gate::{Gate, Release};
use super::{Config, in_network, open_socket};
use crate::access::logs::MAX_LOG_BYTES;
use crate::access::{DeviceTable, Logs, OwnLog, Resolution};
use crate::ids::FileName;
use crate::status::{Outcome, Stats, TransferRecord};
use crate::tftp::options::{Limits, Terms, announced_size};
use crate::tftp::packet::{DATA_HEADER_BYTES, Mode, Packet, Refusal, Request};
use crate::tftp::receive::{Input, Receive, Transmit};

/// Logs that are taken at one time: each is held in memory until it is whole.
pub(super) const MAX_UPLOADS: usize = 8;

/// The largest block of an upload: what Ethernet carries.
const MAX_BLKSIZE: u16 = 1468;

const INCOMING_BYTES: usize = MAX_BLKSIZE as usize + DATA_HEADER_BYTES + 1;

/// The same request from the same port is a repetition for so long; later it is a client that begins anew.
const REPEATED: Duration = Duration::from_secs(10);

/// What all uploads share.
#[derive(Clone)]
pub(super) struct Sink {
    pub(super) logs: Arc<dyn Logs>,
    pub(super) devices: Arc<RwLock<DeviceTable>>,
    pub(super) stats: Stats,
    pub(super) config: Config,
    pub(super) mtu: u32,
}

/// The uploads that run. Dropping it ends them.
pub(super) struct Uploads {
    sink: Sink,
    runtime: Handle,
    places: Arc<Semaphore>,
    running: HashMap<OwnLog, Running>,
    stop: CancellationToken,
    _stop: DropGuard,
}

struct Running {
    peer: SocketAddrV4,
    request: Box<[u8]>,
    began: Instant,
    /// True: the request came again. False: it is over. Closed when the upload has ended.
    tell: mpsc::Sender<bool>,
}

struct Upload {
    sink: Sink,
    log: OwnLog,
    peer: SocketAddrV4,
    requester: Resolution,
    request: Box<[u8]>,
    release: Release,
    began: Instant,
    /// One of the few places.
    _place: OwnedSemaphorePermit,
}

impl Uploads {
    /// None yet, and never more than `places`. Must be called in a tokio runtime, where the uploads will run.
    pub(super) fn new(sink: Sink, places: usize) -> Self {
        let stop = CancellationToken::new();
        Self {
            sink,
            runtime: Handle::current(),
            places: Arc::new(Semaphore::new(places)),
            running: HashMap::new(),
            _stop: stop.clone().drop_guard(),
            stop,
        }
    }

    /// Takes the upload if it is a device's own log and the site takes logs. False for all others, which get one and the
    /// same refusal.
    pub(super) fn takes(
        &mut self,
        gate: &Gate,
        request: &Request<'_>,
        datagram: &[u8],
        peer: SocketAddrV4,
        now: Instant,
    ) -> bool {
        if !matches!(request.mode, Mode::Octet | Mode::Netascii) {
            return false;
        }
        let Ok(name) = FileName::from_wire(request.name) else { return false };
        let requester = gate.who(*peer.ip());
        if requester == Resolution::Unknown && gate.can_resolve() {
            // A Polycom writes its log before it asks for its file: that one need not wait then.
            gate.resolve(*peer.ip());
        }
        let Some((log, release)) = gate.own_log(*peer.ip(), requester, &name, now) else { return false };
        self.running.retain(|_, running| !running.tell.is_closed());
        if let Some(running) = self.running.get(&log) {
            let recent = now.saturating_duration_since(running.began) < REPEATED;
            let again = running.peer == peer && *running.request == *datagram && recent;
            // Full means that it has been told.
            let _ = running.tell.try_send(again);
            if again {
                self.sink.stats.count("tftp.repeated");
                return true;
            }
        }
        let Ok(place) = Arc::clone(&self.places).try_acquire_owned() else { return false };
        let (tell, told) = mpsc::channel(1);
        let request: Box<[u8]> = datagram.into();
        self.running.insert(log, Running { peer, request: request.clone(), began: now, tell });
        let sink = self.sink.clone();
        let upload = Upload { sink, log, peer, requester, request, release, began: now, _place: place };
        self.runtime.spawn(upload.run(told, self.stop.clone()));
        true
    }
}

impl Upload {
    /// Runs to the end and keeps the record.
    async fn run(self, told: mpsc::Receiver<bool>, stop: CancellationToken) {
        let (outcome, bytes, retransmissions) = self.receive(told, stop).await;
        let duration = self.began.elapsed();
        match outcome {
            Outcome::Received => info!(device = %self.log.device, file = %self.log, bytes, ?duration, "log taken"),
            outcome => debug!(peer = %self.peer, file = %self.log, bytes, ?duration, ?outcome, "upload ended"),
        }
        self.sink.stats.transfer(TransferRecord {
            device: Some(self.log.device),
            known: self.release.known,
            address: *self.peer.ip(),
            file: self.log.to_string(),
            bytes,
            retransmissions,
            duration,
            generation: self.release.generation,
            outcome,
        });
    }

    async fn receive(&self, mut told: mpsc::Receiver<bool>, stop: CancellationToken) -> (Outcome, u64, u32) {
        let stats = &self.sink.stats;
        let socket = match self.open() {
            Ok(socket) => socket,
            Err(error) => {
                debug!(%error, "no port for an upload");
                stats.count("tftp.no-port");
                return (Outcome::Failed, 0, 0);
            }
        };
        let options = match Packet::parse(&self.request) {
            Ok(Packet::Write(request)) => request.options,
            _ => Vec::new(),
        };
        let announced = announced_size(&options);
        let blksize = self.release.max_blksize.unwrap_or(MAX_BLKSIZE).min(MAX_BLKSIZE);
        let terms = Terms::agree(&options, announced.unwrap_or(0), &Limits::new(self.sink.mtu, Some(blksize), Some(1)));
        let limit = usize::try_from(MAX_LOG_BYTES).unwrap_or(usize::MAX);
        let mut receive = Receive::new(announced, limit, &terms, Instant::now());
        let mut buffer = [0; INCOMING_BYTES];
        let mut bytes = 0;
        loop {
            // For every packet, as when files are served: an address that somebody else took writes nothing more.
            if self.who(*self.peer.ip()) != self.requester {
                stats.count("tftp.binding-lost");
                receive.handle(Input::Over, Instant::now());
            }
            if let Some(text) = receive.complete() {
                bytes = u64::try_from(text.len()).unwrap_or(u64::MAX);
                let kept = self.keep(text).await;
                receive.kept(kept, Instant::now());
            }
            while let Some(transmit) = receive.poll_transmit() {
                let mut packet = Vec::new();
                match transmit {
                    Transmit::Oack => packet.extend_from_slice(terms.oack.as_deref().unwrap_or_default()),
                    Transmit::Ack(block) => Packet::Ack(block).emit(&mut packet),
                    Transmit::Error(refusal) => packet.extend_from_slice(refusal.packet()),
                }
                self.send(&socket, &packet, self.peer).await;
            }
            if let Some(outcome) = receive.outcome() {
                return (outcome, bytes, receive.retransmissions());
            }
            let due = receive.poll_timeout().unwrap_or_else(Instant::now);
            tokio::select! {
                received = socket.recv_from(&mut buffer) => match received {
                    Ok((length, SocketAddr::V4(from))) if from == self.peer => {
                        match Input::from_datagram(buffer.get(..length).unwrap_or_default()) {
                            Some(input) => receive.handle(input, Instant::now()),
                            None => stats.count("tftp.stray"),
                        }
                    }
                    Ok((_, SocketAddr::V4(stranger))) => {
                        stats.count("tftp.stranger");
                        // RFC 1350 §4. A port that is guessed is rare, and the answer is shorter than most questions.
                        if in_network(*stranger.ip(), self.sink.config.lan) {
                            self.send(&socket, Refusal::UnknownTransferId.packet(), stranger).await;
                        }
                    }
                    Ok(_) => {}
                    Err(error) => debug!(%error, "receiving failed"),
                },
                again = told.recv() => {
                    receive.handle(if again == Some(true) { Input::Repeated } else { Input::Over }, Instant::now());
                }
                () = stop.cancelled() => receive.handle(Input::Stopped, Instant::now()),
                () = sleep_until(due.into()) => receive.handle_timeout(Instant::now()),
            }
        }
    }

    fn open(&self) -> std::io::Result<UdpSocket> {
        let address = SocketAddrV4::new(*self.sink.config.bind.ip(), 0);
        UdpSocket::from_std(open_socket(address, self.sink.config.interface.as_deref())?.into())
    }

    async fn send(&self, socket: &UdpSocket, packet: &[u8], to: SocketAddrV4) {
        if let Err(error) = socket.send_to(packet, to).await {
            debug!(%error, "sending failed");
            self.sink.stats.count("tftp.send-failed");
        }
    }

    fn who(&self, address: Ipv4Addr) -> Resolution {
        self.sink.devices.read().unwrap_or_else(PoisonError::into_inner).resolve(address)
    }

    async fn keep(&self, text: Vec<u8>) -> bool {
        let (logs, log, at) = (Arc::clone(&self.sink.logs), self.log, self.sink.stats.now());
        match spawn_blocking(move || logs.keep(log, &text, at, Instant::now())).await {
            Ok(Ok(())) => true,
            Ok(Err(error)) => {
                debug!(%log, %error, "a log was not kept");
                self.sink.stats.count("tftp.log-not-kept");
                false
            }
            Err(_) => false,
        }
    }
}
