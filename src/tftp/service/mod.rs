//! Moves what the [`Endpoint`] decides: one socket for requests, one port for each transfer, and
//! two ways out.
//!
//! `engine` is one thread that waits for packets, deadlines and the disk, and never for anything else. A packet leaves from
//! its transfer's `port` by the kernel's own IP, or as a frame (`frames`) to a device that `arp` has just heard. `reader` reads files and keeps logs, in threads
//! that may wait. Nothing that arrives ends the service.
//!
//! A thread of its own and not a task for each transfer: then a packet needs no wake-up of a task, no timer of a runtime
//! and no lock. `cargo bench --bench tftp` shows what a packet costs.

mod arp;
mod engine;
mod frames;
mod port;
mod reader;
#[cfg(test)]
mod tests;
mod wake;

use std::io;
use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::ops::RangeInclusive;
use std::sync::{Arc, RwLock};
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

#[cfg(doc)]
use crate::endpoint::ADDRESSES_PER_DEVICE;
use crate::endpoint::{Endpoint, EndpointConfig};
use access::{Catalog, DeviceTable, Files, Logs, RequestRates};
use ethernet::PacketSockets;
use frames::{FrameLink, NoFrames};
use ids::{Lan, is_private_or_loopback};
use reader::{Disk, Reader};
use status::Stats;
use wake::Waker;

/// The ports of transfers (RFC 1350 §4: the server's TIDs). They lie above those that Linux gives out by itself
/// (`net.ipv4.ip_local_port_range`), so that a firewall can admit them and nothing else. It must: a transfer's frames do
/// not pass connection tracking, so that to a firewall the client's ACKs are no answers to anything.
pub const PORTS: RangeInclusive<u16> = 61_000..=65_535;

/// Transfers at one time, if the configuration does not say otherwise: a large site after a power cut.
pub const DEFAULT_MAX_TRANSFERS: usize = 600;

/// Transfers of one address at one time, if the configuration does not say otherwise.
pub const DEFAULT_MAX_TRANSFERS_PER_ADDRESS: usize = 8;

/// How long running transfers may take after a stop, if the configuration does not say otherwise.
pub const DEFAULT_DRAIN: Duration = Duration::from_secs(8);

/// The most uploads at one time: each log is held in memory until it is whole.
const MAX_UPLOADS: usize = 8;

/// The socket's receive buffer: it holds the requests of a whole site that got its power back, while the listener is busy.
const REQUEST_BUFFER_BYTES: usize = 1024 * 1024;

/// The MTU of Ethernet in bytes, for an interface whose own cannot be read.
const USUAL_MTU: u32 = 1500;

/// The address that the service binds, whom it answers, and its bounds.
#[derive(Debug, Clone)]
pub struct Config {
    /// The address of the LAN interface and the port, usually 69; 0 takes a free port. Never public or unspecified.
    pub bind: SocketAddrV4,
    /// Only this interface (`SO_BINDTODEVICE`), for hosts that have several on one LAN.
    pub interface: Option<String>,
    /// The site's LAN. Others get no answer.
    pub lan: Lan,
    /// The most transfers at one time, reads and uploads together. Devices that the inventory does not have take at most
    /// half of them together.
    pub max_transfers: usize,
    /// The most transfers of one client address at one time. One device takes at most [`ADDRESSES_PER_DEVICE`] times as many.
    pub max_transfers_per_address: usize,
    /// Requests per second. Labs and load tests, where many phones share an address, need higher ones than the usual.
    pub rates: RequestRates,
    /// How long running transfers may take after a stop.
    pub drain: Duration,
}

impl Config {
    /// The usual bounds for this address and LAN.
    pub fn new(bind: SocketAddrV4, lan: Lan) -> Self {
        Self {
            bind,
            interface: None,
            lan,
            max_transfers: DEFAULT_MAX_TRANSFERS,
            max_transfers_per_address: DEFAULT_MAX_TRANSFERS_PER_ADDRESS,
            rates: RequestRates::default(),
            drain: DEFAULT_DRAIN,
        }
    }
}

/// What the rest of the appliance gives the service. All but `files` and `stats` change while it runs.
pub struct Feeds {
    /// The release that is served now. A transfer ends on the one that it began with.
    pub catalog: watch::Receiver<Arc<Catalog>>,
    /// Opens the files of the release.
    pub files: Arc<dyn Files>,
    /// Says which device an address belongs to: leases and neighbours.
    pub devices: Arc<RwLock<DeviceTable>>,
    /// Asks for an address to be resolved at once; the answer appears in `devices`.
    pub resolve: mpsc::Sender<Ipv4Addr>,
    /// Takes counters, alerts and the record of every transfer.
    pub stats: Stats,
}

/// Why the service cannot listen.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// TFTP has no protection of its own and stays on the LAN (requirements F1 and S7).
    #[error(
        "will not serve TFTP on {0}: it is not a private address; \
         bind the address of the LAN interface, for example 192.168.1.2"
    )]
    NotPrivate(Ipv4Addr),
    /// The port is below 1024 and the process may not use it, or it may not bind to the interface.
    #[error("may not listen on {address}: {source}; give the service CAP_NET_BIND_SERVICE and CAP_NET_RAW")]
    Permission {
        /// [`Config::bind`].
        address: SocketAddrV4,
        /// The error of `socket`, `bind` or `setsockopt`.
        source: io::Error,
    },
    /// Somebody else has the port.
    #[error("{address} is in use; stop the other TFTP server (tftpd-hpa, atftpd or dnsmasq?)")]
    InUse {
        /// [`Config::bind`].
        address: SocketAddrV4,
    },
    /// The host does not have the address (yet).
    #[error("this host has no address {}; is the LAN interface up?", address.ip())]
    NoSuchAddress {
        /// [`Config::bind`].
        address: SocketAddrV4,
    },
    /// The host does not have the interface.
    #[error("there is no interface {0}")]
    NoSuchInterface(String),
    /// The system refused for another reason.
    #[error("cannot listen on {address}: {source}")]
    Io {
        /// [`Config::bind`].
        address: SocketAddrV4,
        /// The error of `socket`, `bind` or `setsockopt`.
        source: io::Error,
    },
}

/// The TFTP server of a site, listening but not yet answering.
pub struct Service {
    socket: UdpSocket,
    /// Refusals leave from a port of their own (RFC 1350 §4), which is never read: an ERROR is not answered.
    refusals: UdpSocket,
    local: SocketAddrV4,
    config: Config,
    mtu: u32,
    /// Whether windows may leave by `UDP_SEGMENT`.
    gso: bool,
    frames: Option<FrameLink>,
    logs: Option<Arc<dyn Logs>>,
    max_uploads: usize,
}

impl std::fmt::Debug for Service {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Service").field("local", &self.local).field("config", &self.config).finish_non_exhaustive()
    }
}

impl Service {
    /// Listens. Requests wait in the socket until [`Service::run`].
    pub fn bind(config: Config) -> Result<Self, BindError> {
        if !is_private_or_loopback(*config.bind.ip()) {
            return Err(BindError::NotPrivate(*config.bind.ip()));
        }
        let socket = open_socket(config.bind, config.interface.as_deref())
            .map_err(|source: io::Error| BindError::new(&config, source))?;
        Self::from_socket(config, socket.into())
    }

    /// The same on a socket that systemd opened. It must be bound to the interface, not block, and get no broadcasts.
    pub fn from_socket(config: Config, socket: UdpSocket) -> Result<Self, BindError> {
        if !is_private_or_loopback(*config.bind.ip()) {
            return Err(BindError::NotPrivate(*config.bind.ip()));
        }
        let named = |source: io::Error| BindError::new(&config, source);
        let socket = Socket::from(socket);
        // Best effort: the kernel's bound (net.core.rmem_max) holds anyway.
        let _ = socket.set_recv_buffer_size(REQUEST_BUFFER_BYTES);
        let any_port = SocketAddrV4::new(*config.bind.ip(), 0);
        let refusals = open_socket(any_port, config.interface.as_deref()).map_err(named)?;
        let local = socket.local_addr().map_err(named)?.as_socket_ipv4().unwrap_or(config.bind);
        let mtu = mtu_of(&config).unwrap_or(USUAL_MTU);
        Ok(Self {
            socket: socket.into(),
            refusals: refusals.into(),
            local,
            config,
            mtu,
            gso: true,
            frames: None,
            logs: None,
            max_uploads: MAX_UPLOADS,
        })
    }

    /// Takes devices' own logs and keeps them there, at sites whose signed settings say so. Without it no site does.
    #[must_use]
    pub fn with_logs(self, logs: Arc<dyn Logs>) -> Self {
        Self { logs: Some(logs), ..self }
    }

    /// Sends a device's own files as frames to the hardware address that was judged, and to no other, once that device has
    /// answered by ARP that it is there. Without this call, and
    /// where there can be no frames, they leave like all others, to whomever the kernel's neighbour table names. That is so
    /// on loopback, on an interface without Ethernet addresses, and in a process that may open no packet sockets and was
    /// given none.
    ///
    /// # Errors
    ///
    /// If there could be frames, but the system refuses a packet socket.
    pub fn with_frames(self, mut sockets: PacketSockets) -> Result<Self, BindError> {
        let name = self.config.interface.clone().or_else(|| interface_of(*self.config.bind.ip()));
        let opened =
            name.map_or(Err(NoFrames::NoEthernet), |name| FrameLink::open(&name, *self.local.ip(), &mut sockets));
        match opened {
            Ok(link) => Ok(Self { frames: Some(link), ..self }),
            Err(NoFrames::Io(source)) => Err(BindError::Io { address: self.config.bind, source }),
            Err(why) => {
                info!(%why, "devices' own files are sent without frames: a claim by ARP can lead them elsewhere");
                Ok(self)
            }
        }
    }

    /// The address and port on which it listens; the port that the kernel chose if [`Config::bind`] had 0.
    pub fn local_addr(&self) -> SocketAddrV4 {
        self.local
    }

    /// Serves until `stop`; then finishes what runs, for at most [`Config::drain`]. It waits on the end of the thread that
    /// serves, and on `stop`. Ends earlier, with an error, only if that thread cannot wait for packets any more: then no
    /// socket is opened again, and the process ends.
    pub async fn run(self, feeds: Feeds, stop: CancellationToken) -> io::Result<()> {
        let waker = Arc::new(Waker::new()?);
        let endpoint = EndpointConfig {
            lan: self.config.lan,
            max_transfers: self.config.max_transfers,
            max_transfers_per_address: self.config.max_transfers_per_address,
            max_uploads: self.logs.as_ref().map_or(0, |_| self.max_uploads),
            rates: self.config.rates,
            mtu: self.mtu,
            frames: self.frames.is_some(),
        };
        let mut catalog = feeds.catalog;
        let active = Arc::clone(&catalog.borrow_and_update());
        let disk = Disk { files: feeds.files, logs: self.logs, stats: feeds.stats.clone() };
        let parts = engine::Parts {
            endpoint: Endpoint::new(endpoint, active, feeds.devices),
            socket: self.socket,
            refusals: self.refusals,
            frames: self.frames,
            no_gso: !self.gso,
            config: self.config,
            catalog,
            resolve: feeds.resolve,
            reader: Reader::start(&disk, &waker)?,
            stats: feeds.stats,
        };
        info!(address = %self.local, mtu = self.mtu, "serving TFTP");
        let ended = engine::run(parts, waker, stop).await;
        match &ended {
            Ok(()) => info!("TFTP stopped"),
            Err(error) => warn!(%error, "TFTP lost its socket"),
        }
        ended
    }
}

impl BindError {
    fn new(config: &Config, source: io::Error) -> Self {
        let address = config.bind;
        match (source.kind(), &config.interface) {
            (io::ErrorKind::PermissionDenied, _) => Self::Permission { address, source },
            (io::ErrorKind::AddrInUse, _) => Self::InUse { address },
            (io::ErrorKind::AddrNotAvailable, _) => Self::NoSuchAddress { address },
            // ENODEV of SO_BINDTODEVICE has no kind of its own.
            (_, Some(interface)) if !interface_exists(interface) => Self::NoSuchInterface(interface.clone()),
            _ => Self::Io { address, source },
        }
    }
}

/// A non-blocking UDP socket on this address, and on this interface only.
fn open_socket(address: SocketAddrV4, interface: Option<&str>) -> io::Result<Socket> {
    let socket = Socket::new(Domain::IPV4, Type::DGRAM.nonblocking(), Some(Protocol::UDP))?;
    if let Some(interface) = interface {
        socket.bind_device(Some(interface.as_bytes()))?;
    }
    socket.bind(&address.into())?;
    Ok(socket)
}

fn interface_exists(name: &str) -> bool {
    nix::net::if_::if_nametoindex(name).is_ok()
}

fn mtu_of(config: &Config) -> Option<u32> {
    let name = match &config.interface {
        Some(name) => name.clone(),
        None => interface_of(*config.bind.ip())?,
    };
    // The kernel's own file; names with a slash cannot be interfaces.
    let path = std::path::Path::new("/sys/class/net").join(name).join("mtu");
    std::fs::read_to_string(path).ok()?.trim().parse().ok()
}

fn interface_of(address: Ipv4Addr) -> Option<String> {
    let mut interfaces = nix::ifaddrs::getifaddrs().ok()?;
    if address.is_loopback() {
        // Every address of 127/8 is there, but only one is listed.
        return interfaces.find(|one| one.flags.contains(nix::net::if_::InterfaceFlags::IFF_LOOPBACK)).map(name_of);
    }
    let here = |one: &nix::ifaddrs::InterfaceAddress| {
        one.address.and_then(|found| found.as_sockaddr_in().map(nix::sys::socket::SockaddrIn::ip)) == Some(address)
    };
    interfaces.find(here).map(name_of)
}

fn name_of(interface: nix::ifaddrs::InterfaceAddress) -> String {
    interface.interface_name
}

/// Where simulated time starts.
#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "a service has a clock")]
pub(super) fn epoch() -> std::time::Instant {
    std::time::Instant::now()
}
