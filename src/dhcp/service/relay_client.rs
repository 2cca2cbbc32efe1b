//! Hears DHCP in frames and asks servers as a relay agent, without the server port: a `lineside` that runs on this machine
//! goes on serving there.

use std::io;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::AsRawFd as _;

use nix::sys::socket::{LinkAddr, MsgFlags, sendto};
use tokio::net::UdpSocket;

use super::config::BindError;
use super::cpu_share::CpuShare;
use super::link::hardware;
use crate::augment::completed_offer;
use crate::message::MAX_REQUEST_BYTES;
use crate::question::{self, Question};
use ethernet::frame;
use ethernet::{PacketSockets, Purpose};
use ids::MacAddr;

/// The ports of DHCP (RFC 2131 §4.1).
const SERVER_PORT: u16 = 67;
const CLIENT_PORT: u16 = 68;
/// The room for a frame: the largest message that is read, and the headers before it.
const FRAME_BYTES: usize = MAX_REQUEST_BYTES + 100;

/// A packet socket on one interface.
#[derive(Debug)]
pub struct RelayClient {
    /// To the runtime it is like a socket for UDP: it is read in datagrams.
    socket: UdpSocket,
    link: LinkAddr,
    mac: MacAddr,
    address: Ipv4Addr,
}

/// A DHCP message as it came in a frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FrameHeard {
    /// The hardware address that the frame came from.
    pub mac: MacAddr,
    /// The address that the message came from.
    pub source: Ipv4Addr,
    /// The message.
    pub message: Vec<u8>,
}

impl RelayClient {
    /// Listens on an interface, where we have this address. Must be called in a tokio runtime.
    ///
    /// # Errors
    ///
    /// If there is no such interface, or this process has no `CAP_NET_RAW`.
    pub fn open(interface: &str, address: Ipv4Addr) -> Result<Self, BindError> {
        let failed = |source| BindError::Socket { what: "open a packet socket", source };
        let (link, mac) = hardware(interface)?;
        let filter = CpuShare::everything().filter(SERVER_PORT, CLIENT_PORT);
        let socket = PacketSockets::default().take(Purpose::Dhcp, &link, Some(filter)).map_err(failed)?;
        Ok(Self { socket: UdpSocket::from_std(socket.into()).map_err(failed)?, link, mac, address })
    }

    /// The next DHCP message that another machine sends. Cancel safe.
    ///
    /// # Errors
    ///
    /// If the interface cannot be read.
    pub async fn hear(&self) -> io::Result<FrameHeard> {
        let mut bytes = [0; FRAME_BYTES];
        loop {
            let length = self.socket.recv(&mut bytes).await?;
            let bytes = bytes.get(..length).unwrap_or_default();
            let mac = bytes.get(6..12).and_then(|octets| <[u8; 6]>::try_from(octets).ok()).map(MacAddr::new);
            if let Some((mac, datagram)) = mac.zip(frame::parse(bytes))
                && mac != self.mac
            {
                return Ok(FrameHeard { mac, source: *datagram.source.ip(), message: datagram.payload.to_vec() });
            }
        }
    }

    /// Asks a server as a relay agent which address it would offer to this machine, and says in which transaction. `server`
    /// is where its own offer came from, and the address to ask it at.
    ///
    /// # Errors
    ///
    /// If the frame cannot be sent.
    pub fn ask(&self, server: (MacAddr, Ipv4Addr)) -> io::Result<u32> {
        let xid = getrandom::u32().map_err(io::Error::other)?;
        let question = question::emit(Question::Discover(None), self.mac, 0);
        let question = completed_offer::relayed(&question, self.address, xid);
        let from = (self.mac, SocketAddrV4::new(self.address, SERVER_PORT));
        let to = (server.0, SocketAddrV4::new(server.1, SERVER_PORT));
        let frame = frame::emit(from, to, &question).ok_or(io::ErrorKind::InvalidInput)?;
        sendto(self.socket.as_raw_fd(), &frame, &self.link, MsgFlags::MSG_DONTWAIT)?;
        Ok(xid)
    }
}
