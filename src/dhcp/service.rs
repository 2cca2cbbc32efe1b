//! DHCP on one interface: sockets, clocks, and the order of durable, true and sent.

mod arp_socket;
mod line;
mod link;
mod packet_sockets;
mod share;

use std::io;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::sync::{Arc, RwLock};
use std::time::{Duration, Instant, SystemTime};

use nix::libc;
use nix::sys::socket::{ControlMessage, MsgFlags, SockaddrIn, sendmsg};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::io::Interest;
use tokio::net::UdpSocket;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, info, warn};

use self::arp_socket::ArpSocket;
use self::line::{Line, Port};
use self::link::Link;
pub use self::link::hardware_address;
pub use self::packet_sockets::{PacketSockets, Purpose, open as open_packet_socket};
use super::arp::Claim;
use super::augment::Event;
use super::client::Listener;
use super::desk::{Desk, Now, Outbox, Outgoing, Senses};
use super::heard::{Answers, ServerMessage};
use super::leases::LeaseLog;
use super::message::MAX_REQUEST_BYTES;
use super::responder::To;
use super::scope::Scope;
use access::{Catalog, DeviceTable};
use api::AlertCode;
use bundle::DhcpSettings;
use ids::{Generation, UnixTime};
use status::Stats;

/// How often other servers are asked for.
const ASK_EVERY: Duration = Duration::from_secs(600);
/// How often they are asked for at the start: a link that has just come up loses packets.
const ASK_AGAIN: Duration = Duration::from_secs(2);
/// How long after the last time they are asked if somebody speaks as a server who is not known as one, or a known one
/// did not answer.
const ASK_SOON: Duration = Duration::from_secs(10);
/// How often it is asked whether the time of completed leases can be told by now.
const RECALL_AGAIN: Duration = Duration::from_secs(20);
/// The most requests that are answered together, with one sync of the lease log.
const MAX_BATCH: usize = 64;
/// Where datagrams go that only make the kernel ask for an address (RFC 863).
const DISCARD_PORT: u16 = 9;

/// Where to serve.
#[derive(Debug, Clone)]
pub struct Config {
    /// The LAN's interface. Without one, and on loopback, only what is sent to [`Self::address`] is heard: relayed and
    /// unicast requests.
    pub interface: Option<String>,
    /// Our address on the LAN, the server identifier.
    pub address: Ipv4Addr,
    /// The length of the LAN's prefix.
    pub prefix: u8,
    /// The port to serve on: 67, or any free one if 0.
    pub server_port: u16,
    /// The port of clients: 68.
    pub client_port: u16,
    /// The port of relays: 67.
    pub relay_port: u16,
}

impl Config {
    /// On a LAN, with the ports of RFC 2131.
    pub const fn on_lan(interface: String, address: Ipv4Addr, prefix: u8) -> Self {
        Self { interface: Some(interface), address, prefix, server_port: 67, client_port: 68, relay_port: 67 }
    }

    /// Whether there is a link to broadcast on, to ask for addresses, and to hear other servers on.
    const fn has_link(&self) -> bool {
        self.interface.is_some() && !self.address.is_loopback()
    }
}

/// Why DHCP cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// Not an address of a private LAN.
    #[error("{0} is not an address of a private network; DHCP is for LANs only")]
    Address(Ipv4Addr),
    /// No such interface, or it has no Ethernet address.
    #[error("there is no interface {0} with a hardware address")]
    Interface(String),
    /// The port is taken.
    #[error("port {0} is in use: another DHCP server runs on this machine")]
    PortInUse(u16),
    /// The system refused.
    #[error("cannot {what}")]
    Socket {
        /// What we tried.
        what: &'static str,
        /// Why not.
        source: io::Error,
    },
}

/// What the service works from and tells.
pub struct Feeds {
    /// The release that is served.
    pub catalog: watch::Receiver<Arc<Catalog>>,
    /// What to do while there is no release.
    pub local: DhcpSettings,
    /// Who has which address: told of leases here, of neighbours by `appliance::neighbours`.
    pub devices: Arc<RwLock<DeviceTable>>,
    /// Where leases outlive a restart.
    pub leases: Box<dyn LeaseLog + Send>,
    /// What happened.
    pub stats: Stats,
}

impl std::fmt::Debug for Feeds {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Feeds").field("local", &self.local).finish_non_exhaustive()
    }
}

/// DHCP on one interface.
#[derive(Debug)]
pub struct Service {
    config: Config,
    port: u16,
    socket: UdpSocket,
    link: Option<Link>,
    others: Option<Listener>,
    /// What everyone says by ARP, and what is answered to us.
    arp: Option<(ArpSocket, ArpSocket)>,
    packets: PacketSockets,
}

/// Sockets that somebody else opened. Those that are missing are opened here.
#[derive(Debug, Default)]
pub struct Given {
    /// For the server's port, bound to the interface, not blocking.
    pub server: Option<std::net::UdpSocket>,
    /// For the client's port, the same.
    pub client: Option<std::net::UdpSocket>,
    /// For frames.
    pub packets: PacketSockets,
}

impl Service {
    /// Takes the server port. Must be called in a tokio runtime.
    ///
    /// # Errors
    ///
    /// No private address, no such interface, port in use, or no permission (`CAP_NET_BIND_SERVICE`). Without
    /// `CAP_NET_RAW` it serves all the same, with broadcasts where frames to one client would do.
    pub fn bind(config: Config) -> Result<Self, BindError> {
        Self::with_sockets(config, Given::default())
    }

    /// The same on sockets that systemd opened, where it did.
    ///
    /// # Errors
    ///
    /// As [`Service::bind`].
    pub fn with_sockets(config: Config, given: Given) -> Result<Self, BindError> {
        let Given { server, client, mut packets } = given;
        if !is_private(config.address) {
            return Err(BindError::Address(config.address));
        }
        let failed = |what| move |source| BindError::Socket { what, source };
        let socket = server.map_or_else(|| Self::open(&config), Ok)?;
        socket.set_broadcast(true).map_err(failed("allow broadcasts"))?;
        let socket = UdpSocket::from_std(socket).map_err(failed("register the socket"))?;
        let port = socket.local_addr().map_err(failed("read the socket's port"))?.port();
        let link = config.interface.as_deref().filter(|_| config.has_link());
        let link = link.map(|interface| Link::open(interface, &mut packets)).transpose()?;
        let others = match (&config.interface, &link) {
            (Some(interface), Some(link)) => {
                let ports = (port, config.client_port);
                let listener = match client {
                    Some(socket) => Listener::from_socket(socket, link.mac, ports),
                    None => Listener::bind(interface, link.mac, ports),
                };
                listener.inspect_err(|error| warn!(%error, "other DHCP servers cannot be looked for")).ok()
            }
            _ => None,
        };
        let arp = link.as_ref().and_then(|link| {
            let mut open = |own| ArpSocket::open(&mut packets, &link.address, own);
            let sockets = open(None).and_then(|all| Ok((all, open(Some(config.address))?)));
            sockets.inspect_err(|error| warn!(%error, "conflicts of addresses cannot be seen")).ok()
        });
        Ok(Self { config, port, socket, link, others, arp, packets })
    }

    fn open(config: &Config) -> Result<std::net::UdpSocket, BindError> {
        let failed = |what| move |source| BindError::Socket { what, source };
        let socket = Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP)).map_err(failed("open a socket"))?;
        socket.set_nonblocking(true).map_err(failed("set up the socket"))?;
        if let Some(interface) = &config.interface {
            socket.bind_device(Some(interface.as_bytes())).map_err(failed("bind to the interface"))?;
        }
        // Broadcasts reach a socket that is bound to no address only.
        let own = if config.has_link() { Ipv4Addr::UNSPECIFIED } else { config.address };
        socket.bind(&SocketAddrV4::new(own, config.server_port).into()).map_err(|source| match source.kind() {
            io::ErrorKind::AddrInUse => BindError::PortInUse(config.server_port),
            _ => BindError::Socket { what: "bind to the DHCP server port", source },
        })?;
        Ok(socket.into())
    }

    /// The port that is served.
    pub const fn port(&self) -> u16 {
        self.port
    }

    /// Serves until `stop`.
    ///
    /// # Errors
    ///
    /// Only if the socket is lost for good, or the lease log panicked: without it nothing may be leased.
    pub async fn run(mut self, feeds: Feeds, stop: CancellationToken) -> io::Result<()> {
        let Feeds { mut catalog, local, devices, leases: mut log, stats } = feeds;
        let kept = log.load();
        let scope = self.scope(&catalog.borrow_and_update(), &local);
        let line = self.port_on_link().filter(|_| self.others.is_some());
        let own = self.others.as_ref().map(Listener::mac);
        let senses = Senses { own, raw: line.is_some(), arp: self.arp.is_some() };
        let mut desk = Desk::new(scope, kept, senses, Arc::clone(&devices), stats.clone(), now());
        let mut line = match line {
            Some((port, relay)) => {
                Some(Line::open(port, (&mut self.packets, relay), Arc::clone(desk.orders()), devices)?)
            }
            None => None,
        };
        let (mut arp, mut asker) = self.arp.take().unzip();
        let mut ask_at = Instant::now();
        let mut asked_at = ask_at;
        let mut recall_at = Some(Instant::now());
        let mut releases = true;
        info!(address = %self.config.address, port = self.port, mode = desk.label(), "DHCP is up");
        loop {
            let mut out = Outbox::default();
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                changed = catalog.changed(), if releases => match changed {
                    Ok(()) => {
                        let scope = self.scope(&catalog.borrow_and_update(), &local);
                        desk.set_scope(scope, now());
                    }
                    // Whoever publishes releases is gone: the last one stays.
                    Err(_) => releases = false,
                },
                ready = self.socket.readable() => {
                    ready?;
                    self.receive(&mut desk, &mut out, &stats);
                }
                event = next_event(line.as_mut()) => match event {
                    Some(event) => desk.event(event, now(), &mut out),
                    None => return Err(io::Error::other("the thread that watches the link has ended")),
                },
                heard = hear(self.others.as_ref()) => match heard {
                    Ok((message, answers)) => desk.heard(&message, answers, now()),
                    Err(error) => self.failed(&stats, "listen", &error),
                },
                () = tokio::time::sleep_until(ask_at.into()), if self.others.is_some() => {
                    if let Some(Err(error)) = ask_others(self.others.as_ref(), self.config.address).await {
                        self.failed(&stats, "ask for other servers", &error);
                    }
                    asked_at = Instant::now();
                    ask_at = asked_at + if desk.is_listening() { ASK_AGAIN } else { ASK_EVERY };
                    desk.asked(now());
                }
                claims = claims(arp.as_mut()) => match claims {
                    Ok(claims) => claims.into_iter().for_each(|claim| desk.claimed(claim, now())),
                    Err(error) => {
                        self.failed(&stats, "watch for conflicts", &error);
                        desk.link_was_down(now());
                    }
                },
                claims = claims(asker.as_mut()) => match claims {
                    Ok(claims) => claims.into_iter().for_each(|claim| desk.claimed(claim, now())),
                    Err(error) => self.failed(&stats, "hear answers", &error),
                },
                () = sleep_until(recall_at) => {
                    let recalled;
                    (log, recalled) = with(log, |log| log.recall()).await?;
                    recall_at = recalled.is_none().then(|| Instant::now() + RECALL_AGAIN);
                    desk.recalled(recalled.unwrap_or_default());
                }
                () = tokio::time::sleep_until(desk.deadline().into()) => {
                    desk.follow_clock(now(), &mut out);
                    desk.tick(now(), &mut out);
                }
            }
            if let Some(line) = &line {
                line.order(desk.orders());
            }
            if desk.is_unsure() {
                ask_at = ask_at.min(asked_at + ASK_SOON);
            }
            self.ask_link(&std::mem::take(&mut out.checks), asker.as_ref(), &stats).await;
            log = self.flush(log, &mut desk, out, &stats).await?;
        }
    }

    /// What a line needs, if raw frames can be sent here.
    fn port_on_link(&self) -> Option<(Port, std::net::UdpSocket)> {
        let link = self.link.as_ref().filter(|link| link.raw.is_some())?;
        let relay = self.socket.as_fd().try_clone_to_owned().ok()?;
        let ports = (self.port, self.config.client_port);
        let port = Port { mac: link.mac, link: link.address, address: self.config.address, ports };
        Some((port, relay.into()))
    }

    fn scope(&self, catalog: &Catalog, local: &DhcpSettings) -> Scope {
        let settings = if catalog.generation() == Generation(0) { local } else { &catalog.settings().dhcp };
        let phones = catalog.phones().map(|phone| phone.mac);
        let mut scope = Scope::new(self.config.address, self.config.prefix, settings, phones);
        scope.check_addresses = self.config.has_link();
        scope
    }

    /// Takes what has come, up to a batch.
    fn receive(&self, desk: &mut Desk, out: &mut Outbox, stats: &Stats) {
        desk.follow_clock(now(), out);
        let mut bytes = [0; MAX_REQUEST_BYTES + 1];
        for _ in 0..MAX_BATCH {
            match self.socket.try_recv_from(&mut bytes) {
                Ok((length, SocketAddr::V4(source))) => {
                    desk.receive(bytes.get(..length).unwrap_or_default(), *source.ip(), now(), out);
                }
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                // An error that an earlier datagram met on its way (ICMP); the socket is none the worse.
                Err(error) => return self.failed(stats, "receive", &error),
            }
        }
    }

    /// Asks everyone who has these addresses.
    async fn ask_link(&self, addresses: &[Ipv4Addr], asker: Option<&ArpSocket>, stats: &Stats) {
        for &address in addresses {
            let asked = match (asker, &self.link) {
                (Some(asker), Some(link)) => asker.ask((link.mac, self.config.address), address),
                // Whatever the datagram meets there: on its way the kernel asks the link who has the address.
                _ => self.socket.send_to(&[], SocketAddrV4::new(address, DISCARD_PORT)).await.map(drop),
            };
            if let Err(error) = asked {
                self.failed(stats, "ask for an address", &error);
            }
        }
    }

    /// Makes changes durable, then true for others, then sends. What cannot be kept is not acknowledged.
    async fn flush(&self, log: Log, desk: &mut Desk, out: Outbox, stats: &Stats) -> io::Result<Log> {
        let Outbox { keep, acks, others, checks: _, questions, forget, remember } = out;
        for (question, mac, xid) in questions {
            if let Some(listener) = &self.others
                && let Err(error) = listener.put(question, mac, xid).await
            {
                self.failed(stats, "ask", &error);
            }
        }
        for outgoing in others {
            self.send(&outgoing, stats).await;
        }
        if keep.is_empty() && remember.is_empty() && !forget {
            return Ok(log);
        }
        let (log, (keep, result)) = with(log, move |log| {
            if forget {
                log.forget();
            }
            if !remember.is_empty() {
                log.remember(&remember);
            }
            let result = if keep.is_empty() { Ok(()) } else { log.commit_all(&keep) };
            (keep, result)
        })
        .await?;
        if keep.is_empty() {
            return Ok(log);
        }
        match result {
            Ok(()) => {
                stats.clear_alert(AlertCode::DhcpLeaseLog);
                desk.kept(&keep);
                for outgoing in acks {
                    self.send(&outgoing, stats).await;
                }
            }
            Err(error) => {
                if desk.not_kept(&keep, now()) {
                    error!(%error, "leases cannot be kept, so none is acknowledged");
                }
                stats.alert(AlertCode::DhcpLeaseLog, format!("leases cannot be kept: {error}"));
            }
        }
        Ok(log)
    }

    async fn send(&self, outgoing: &Outgoing, stats: &Stats) {
        let (address, port) = match outgoing.to {
            To::Relay(address) => (address, self.config.relay_port),
            To::Address(address) => (address, self.config.client_port),
            To::Everyone => (Ipv4Addr::BROADCAST, self.config.client_port),
            To::Client(address, mac) => {
                let from = SocketAddrV4::new(self.config.address, self.port);
                let to = SocketAddrV4::new(address, self.config.client_port);
                if self.link.as_ref().is_some_and(|link| link.send(from, (mac, to), &outgoing.bytes)) {
                    return stats.count(outgoing.counter);
                }
                // §4.1: "If unicasting is not possible, the message MAY be sent as an IP broadcast".
                (Ipv4Addr::BROADCAST, self.config.client_port)
            }
        };
        match self.send_to(&outgoing.bytes, SocketAddrV4::new(address, port)).await {
            Ok(()) => stats.count(outgoing.counter),
            Err(error) => self.failed(stats, "send", &error),
        }
    }

    /// Sends from the address that is the server identifier, also where the interface has others.
    async fn send_to(&self, bytes: &[u8], to: SocketAddrV4) -> io::Result<()> {
        let source = libc::in_pktinfo {
            ipi_ifindex: 0,
            ipi_spec_dst: libc::in_addr { s_addr: u32::from_ne_bytes(self.config.address.octets()) },
            ipi_addr: libc::in_addr { s_addr: 0 },
        };
        let to = SockaddrIn::from(to);
        let send = || {
            let control = [ControlMessage::Ipv4PacketInfo(&source)];
            let parts = [io::IoSlice::new(bytes)];
            sendmsg(self.socket.as_raw_fd(), &parts, &control, MsgFlags::empty(), Some(&to)).map_err(io::Error::from)
        };
        self.socket.async_io(Interest::WRITABLE, send).await.map(drop)
    }

    fn failed(&self, stats: &Stats, what: &'static str, error: &io::Error) {
        stats.count("dhcp.failed");
        debug!(what, %error, interface = self.config.interface.as_deref().unwrap_or("none"), "socket");
    }
}

type Log = Box<dyn LeaseLog + Send>;

/// Uses the log where it may wait for the disk. An error is a panic on the way there.
async fn with<T: Send + 'static>(
    mut log: Log,
    use_it: impl FnOnce(&mut dyn LeaseLog) -> T + Send + 'static,
) -> io::Result<(Log, T)> {
    let task = tokio::task::spawn_blocking(move || {
        let result = use_it(log.as_mut());
        (log, result)
    });
    task.await.map_err(io::Error::other)
}

async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at.into()).await,
        None => std::future::pending().await,
    }
}

fn now() -> Now {
    Now { wall: UnixTime::of(SystemTime::now()), tick: Instant::now() }
}

async fn next_event(line: Option<&mut Line>) -> Option<Event> {
    match line {
        Some(line) => line.event().await,
        None => std::future::pending().await,
    }
}

async fn hear(others: Option<&Listener>) -> io::Result<(ServerMessage, Answers)> {
    match others {
        Some(listener) => listener.hear().await,
        None => std::future::pending().await,
    }
}

async fn claims(arp: Option<&mut ArpSocket>) -> io::Result<Vec<Claim>> {
    match arp {
        Some(arp) => arp.claims().await,
        None => std::future::pending().await,
    }
}

async fn ask_others(others: Option<&Listener>, own: Ipv4Addr) -> Option<io::Result<()>> {
    match others {
        Some(listener) => Some(listener.ask(Some(own)).await),
        None => None,
    }
}

/// Addresses that DHCP may be served on: RFC 1918, link-local, RFC 6598, and loopback for demo and tests.
fn is_private(address: Ipv4Addr) -> bool {
    let [a, b, ..] = address.octets();
    address.is_private() || address.is_link_local() || address.is_loopback() || (a == 100 && b & 0xc0 == 64)
}

#[cfg(test)]
mod tests;
