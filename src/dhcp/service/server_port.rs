//! The socket on the server port, and the link for frames to clients that have no address yet.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::os::fd::{AsFd as _, AsRawFd as _};

use nix::libc;
use nix::net::if_::InterfaceFlags;
use nix::sys::socket::{ControlMessage, MsgFlags, SockaddrIn, sendmsg};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::io::Interest;
use tokio::net::UdpSocket;
use tracing::debug;

use super::config::{BindError, Config};
use super::fast_path::LinkIdentity;
use super::link::Link;
use crate::lan::ServerPath;
use crate::responder::Destination;
use crate::server::Outgoing;
use ethernet::PacketSockets;
use ids::is_private_or_loopback;
use status::Stats;

/// Where datagrams go that only make the kernel ask for an address by ARP (RFC 863).
const DISCARD_PORT: u16 = 9;

/// Receives from clients and relays, and sends to them.
#[derive(Debug)]
pub(super) struct ServerPort {
    config: Config,
    port: u16,
    socket: UdpSocket,
    link: Option<Link>,
}

impl ServerPort {
    /// Opens the port, or takes over the socket that somebody else has bound to it. Must be called in a tokio runtime.
    pub(super) fn open(
        config: Config,
        inherited: Option<std::net::UdpSocket>,
        packets: &mut PacketSockets,
    ) -> Result<Self, BindError> {
        if !is_private_or_loopback(config.lan.address()) {
            return Err(BindError::Address(config.lan.address()));
        }
        let failed = |what| move |source| BindError::Socket { what, source };
        let socket = inherited.map_or_else(|| bind(&config), Ok)?;
        socket.set_broadcast(true).map_err(failed("allow broadcasts"))?;
        let socket = UdpSocket::from_std(socket).map_err(failed("register the socket"))?;
        let port = socket.local_addr().map_err(failed("read the socket's port"))?.port();
        let link = config.interface.as_deref().filter(|_| config.has_link());
        let link = link.map(|interface| Link::open(interface, packets)).transpose()?;
        Ok(Self { config, port, socket, link })
    }

    pub(super) const fn config(&self) -> &Config {
        &self.config
    }

    pub(super) const fn port(&self) -> u16 {
        self.port
    }

    pub(super) const fn link(&self) -> Option<&Link> {
        self.link.as_ref()
    }

    /// What the fast path needs: our identity on the link, and a socket that relays from the server port. `None` if frames
    /// cannot be sent here.
    pub(super) fn for_fast_path(&self) -> Option<(LinkIdentity, std::net::UdpSocket)> {
        let link = self.link.as_ref().filter(|link| link.raw.is_some())?;
        let relay = self.socket.as_fd().try_clone_to_owned().ok()?;
        let identity = LinkIdentity {
            mac: link.mac,
            link: link.address,
            address: self.config.lan.address(),
            server_port: self.port,
            client_port: self.config.client_port,
        };
        Some((identity, relay.into()))
    }

    /// Whether the interface has a carrier, as far as the kernel says.
    pub(super) fn carries(&self) -> bool {
        let Some(name) = self.config.interface.as_deref() else { return true };
        let mut all = nix::ifaddrs::getifaddrs().into_iter().flatten();
        all.find(|found| found.interface_name == name)
            .is_none_or(|found| found.flags.contains(InterfaceFlags::IFF_RUNNING))
    }

    /// Waits until a datagram has come. Cancel safe.
    pub(super) async fn readable(&self) -> io::Result<()> {
        self.socket.readable().await
    }

    /// A datagram that has come, if there is one.
    pub(super) fn try_receive(&self, bytes: &mut [u8]) -> io::Result<(usize, SocketAddr)> {
        self.socket.try_recv_from(bytes)
    }

    /// Makes the kernel ask for an address by ARP: it asks before it sends, whatever becomes of the datagram.
    pub(super) async fn make_kernel_ask(&self, address: Ipv4Addr) -> io::Result<()> {
        self.socket.send_to(&[], SocketAddrV4::new(address, DISCARD_PORT)).await.map(drop)
    }

    /// Sends a message to another server, as a relay agent does.
    pub(super) async fn send_to_server(&self, bytes: &[u8], path: ServerPath) -> io::Result<()> {
        match path {
            ServerPath::Address(address) => self.send_to(bytes, SocketAddrV4::new(address, self.port)).await,
            ServerPath::Frame(mac, address) => {
                let (from, to) = (self.config.lan.address(), SocketAddrV4::new(address, self.port));
                let sent = self
                    .link
                    .as_ref()
                    .is_some_and(|link| link.send(SocketAddrV4::new(from, self.port), (mac, to), bytes));
                if sent { Ok(()) } else { Err(io::ErrorKind::HostUnreachable.into()) }
            }
        }
    }

    /// Sends a reply and counts it.
    pub(super) async fn send(&self, outgoing: &Outgoing, stats: &Stats) {
        let (address, port) = match outgoing.to {
            Destination::Relay(address) => (address, self.config.relay_port),
            Destination::Address(address) => (address, self.config.client_port),
            Destination::Everyone => (Ipv4Addr::BROADCAST, self.config.client_port),
            Destination::Client(address, mac) => {
                let from = SocketAddrV4::new(self.config.lan.address(), self.port);
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
            ipi_spec_dst: libc::in_addr { s_addr: u32::from_ne_bytes(self.config.lan.address().octets()) },
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

    /// Counts an error of any socket on this interface.
    pub(super) fn failed(&self, stats: &Stats, what: &'static str, error: &io::Error) {
        stats.count("dhcp.failed");
        debug!(what, %error, interface = self.config.interface.as_deref().unwrap_or("none"), "socket");
    }
}

fn bind(config: &Config) -> Result<std::net::UdpSocket, BindError> {
    let failed = |what| move |source| BindError::Socket { what, source };
    let socket = Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP)).map_err(failed("open a socket"))?;
    socket.set_nonblocking(true).map_err(failed("set up the socket"))?;
    if let Some(interface) = &config.interface {
        socket.bind_device(Some(interface.as_bytes())).map_err(failed("bind to the interface"))?;
    }
    // Broadcasts reach a socket only if it is bound to no address.
    let own = if config.has_link() { Ipv4Addr::UNSPECIFIED } else { config.lan.address() };
    socket.bind(&SocketAddrV4::new(own, config.server_port).into()).map_err(|source| match source.kind() {
        io::ErrorKind::AddrInUse => BindError::PortInUse(config.server_port),
        _ => BindError::Socket { what: "bind to the DHCP server port", source },
    })?;
    Ok(socket.into())
}
