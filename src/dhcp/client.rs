//! The client port: other servers are asked and heard there.

use std::collections::VecDeque;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddrV4};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::UdpSocket;

use super::heard::{Answers, Heard, Overheard, ServerMessage};
use super::message::MAX_REQUEST_BYTES;
use super::question::{self, Question};
use ids::MacAddr;

/// How long after our question a message counts as an answer to it.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);

/// The most questions that are remembered. A server that pings first answers after the next question was asked.
const MAX_ASKED: usize = 8;

/// A socket on the client port.
///
/// It shares the port with the machine's own DHCP client, if that uses a plain socket. Broadcasts reach both. A datagram to
/// the machine's address reaches the socket that is bound to the address, and this socket is bound to none.
#[derive(Debug)]
pub struct ClientSocket {
    socket: UdpSocket,
    mac: MacAddr,
    server_port: u16,
    /// The transactions of our DISCOVERs, and when each was sent.
    asked: Mutex<VecDeque<(u32, Instant)>>,
}

impl ClientSocket {
    /// Opens the client port on `interface`, whose hardware address is `mac`. `ports` are the server's and the client's.
    pub fn bind(interface: &str, mac: MacAddr, ports: (u16, u16)) -> io::Result<Self> {
        let socket = Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP))?;
        socket.set_reuse_address(true)?;
        socket.set_broadcast(true)?;
        socket.set_nonblocking(true)?;
        socket.bind_device(Some(interface.as_bytes()))?;
        socket.bind(&SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, ports.1).into())?;
        Self::from_socket(socket.into(), mac, ports.0)
    }

    /// Takes over a socket that is bound to the client port and the interface. It must not block.
    pub fn from_socket(socket: std::net::UdpSocket, mac: MacAddr, server_port: u16) -> io::Result<Self> {
        socket.set_broadcast(true)?;
        Ok(Self { socket: UdpSocket::from_std(socket)?, mac, server_port, asked: Mutex::default() })
    }

    /// The interface's hardware address.
    pub const fn mac(&self) -> MacAddr {
        self.mac
    }

    /// Asks all servers for an offer. We never take it, and servers hold the address for a minute or so. Then, if we have
    /// `address`, asks what they tell a client with an address (DHCPINFORM).
    #[expect(clippy::disallowed_methods, reason = "a service has a clock")]
    pub async fn ask(&self, address: Option<Ipv4Addr>) -> io::Result<()> {
        let mut xid = [0; 4];
        getrandom::fill(&mut xid).map_err(io::Error::other)?;
        let xid = u32::from_ne_bytes(xid);
        self.send(Question::Discover(None), self.mac, xid, Ipv4Addr::BROADCAST).await?;
        {
            let mut asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
            asked.push_back((xid, Instant::now()));
            while asked.len() > MAX_ASKED {
                asked.pop_front();
            }
        }
        if let Some(address) = address {
            self.send(Question::Inform(address), self.mac, xid.wrapping_add(1), Ipv4Addr::BROADCAST).await?;
        }
        Ok(())
    }

    /// Sends a question in the name of `mac` to this address.
    pub async fn send(&self, question: Question, mac: MacAddr, xid: u32, to: Ipv4Addr) -> io::Result<()> {
        let bytes = question::emit(question, mac, xid);
        self.socket.send_to(&bytes, SocketAddrV4::new(to, self.server_port)).await.map(drop)
    }

    /// What another server says next.
    ///
    /// Cancel safe.
    pub async fn hear(&self) -> io::Result<Heard> {
        let mut bytes = [0; MAX_REQUEST_BYTES + 1];
        loop {
            let (length, source) = self.socket.recv_from(&mut bytes).await?;
            let bytes = bytes.get(..length).unwrap_or_default();
            if let Some(message) = ServerMessage::parse(bytes) {
                let answers = self.answers(&message);
                return Ok(Heard::Message(Box::new(message), answers));
            }
            if let IpAddr::V4(source) = source.ip()
                && let Some(overheard) = Overheard::unreadable(bytes, source, |xid| self.is_ours(xid))
            {
                return Ok(Heard::Unreadable(Box::new(overheard)));
            }
        }
    }

    /// Whether this is the transaction of a question that we asked a moment ago.
    pub fn is_ours(&self, xid: u32) -> bool {
        let asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        asked.iter().any(|(asked, at)| [0, 1].contains(&xid.wrapping_sub(*asked)) && at.elapsed() < ANSWER_WITHIN)
    }

    fn answers(&self, message: &ServerMessage) -> Answers {
        if message.chaddr != self.mac {
            return Answers::Others;
        }
        let asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        let discovers = |xid: u32| asked.iter().find(|(asked, at)| *asked == xid && at.elapsed() < ANSWER_WITHIN);
        match discovers(message.xid) {
            Some((_, at)) => Answers::Us(Some(at.elapsed())),
            // The DHCPINFORM that went with it.
            None if discovers(message.xid.wrapping_sub(1)).is_some() => Answers::Us(None),
            None => Answers::Others,
        }
    }
}
