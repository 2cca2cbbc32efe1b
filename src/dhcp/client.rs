//! The client's side of the LAN: asks who else serves, and hears what other servers say.

use std::io;
use std::net::{Ipv4Addr, SocketAddrV4};

use dhcproto::v4::{DhcpOption, Message, MessageType, OptionCode};
use dhcproto::{Encodable as _, Encoder};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::UdpSocket;

use super::message::{MAX_REQUEST_BYTES, Overheard};
use crate::ids::MacAddr;

/// A socket on the client port.
///
/// It shares the port with the machine's own DHCP client, if that uses a plain socket: broadcasts reach both, and what
/// is sent to the machine's address reaches the socket that is bound to it, which this one never is.
#[derive(Debug)]
pub struct Listener {
    socket: UdpSocket,
    mac: MacAddr,
    ports: (u16, u16),
}

impl Listener {
    /// Listens on `interface`, whose hardware address is `mac`, on the second of `ports` (server's and client's).
    pub fn bind(interface: &str, mac: MacAddr, ports: (u16, u16)) -> io::Result<Self> {
        let socket = Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP))?;
        socket.set_reuse_address(true)?;
        socket.set_broadcast(true)?;
        socket.set_nonblocking(true)?;
        socket.bind_device(Some(interface.as_bytes()))?;
        socket.bind(&SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, ports.1).into())?;
        Self::from_socket(socket.into(), mac, ports)
    }

    /// Listens on a socket that is bound to the client port and the interface already. It must not block.
    pub fn from_socket(socket: std::net::UdpSocket, mac: MacAddr, ports: (u16, u16)) -> io::Result<Self> {
        socket.set_broadcast(true)?;
        Ok(Self { socket: UdpSocket::from_std(socket)?, mac, ports })
    }

    /// The interface's hardware address.
    pub const fn mac(&self) -> MacAddr {
        self.mac
    }

    /// Asks all servers for an offer and never takes one: servers hold an address for us for a minute or so.
    pub async fn ask(&self) -> io::Result<()> {
        let mut message = Message::default();
        message.set_chaddr(&self.mac.octets()).set_flags(dhcproto::v4::Flags::default().set_broadcast());
        let options = message.opts_mut();
        options.insert(DhcpOption::MessageType(MessageType::Discover));
        options.insert(DhcpOption::ParameterRequestList(vec![
            OptionCode::SubnetMask,
            OptionCode::Router,
            OptionCode::DomainNameServer,
            OptionCode::TFTPServerName,
            OptionCode::TFTPServerAddress,
        ]));
        let mut bytes = Vec::new();
        message.encode(&mut Encoder::new(&mut bytes)).map_err(io::Error::other)?;
        bytes.resize(bytes.len().max(super::message::MIN_REPLY_BYTES), 0);
        self.socket.send_to(&bytes, SocketAddrV4::new(Ipv4Addr::BROADCAST, self.ports.0)).await?;
        Ok(())
    }

    /// The next message of a server.
    ///
    /// Cancel safe.
    pub async fn hear(&self) -> io::Result<Overheard> {
        let mut bytes = [0; MAX_REQUEST_BYTES + 1];
        loop {
            let (length, _) = self.socket.recv_from(&mut bytes).await?;
            if let Some(overheard) = bytes.get(..length).and_then(Overheard::parse) {
                return Ok(overheard);
            }
        }
    }
}
