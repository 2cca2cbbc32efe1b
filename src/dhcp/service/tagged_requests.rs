//! Hears requests of other VLANs that come to this port with their tag, so that people can be told of them.

use std::io;
use std::time::Duration;

use nix::sys::socket::LinkAddr;
use tokio::io::Interest;
use tokio::net::UdpSocket;
use tokio::time::Instant;

use crate::message::MAX_REQUEST_BYTES;
use ethernet::{PacketSockets, frame, tagged};

/// The room for a frame: the largest message that is read, and the headers before it.
const FRAME_BYTES: usize = MAX_REQUEST_BYTES + 100;
/// How long the next frame waits after one that was read: a flood of another VLAN is none of our business.
const PAUSE: Duration = Duration::from_millis(20);
/// How long the socket rests when the interface is down.
const DOWN: Duration = Duration::from_secs(1);

/// A packet socket on one interface.
#[derive(Debug)]
pub struct TaggedRequests {
    /// To the runtime it is like a socket for UDP: it is read in datagrams.
    socket: UdpSocket,
    next: Instant,
}

impl TaggedRequests {
    /// Listens on the interface of `link` for requests to the server's port. Must be called in a tokio runtime.
    #[expect(clippy::disallowed_methods, reason = "a service has a clock")]
    pub(super) fn open(sockets: &mut PacketSockets, link: &LinkAddr, server_port: u16) -> io::Result<Self> {
        let socket = tagged::open(sockets, link, server_port)?;
        Ok(Self { socket: UdpSocket::from_std(socket.into())?, next: Instant::now() })
    }

    /// The same for a process that has no server of its own.
    ///
    /// # Errors
    ///
    /// If there is no such interface, or this process has no `CAP_NET_RAW`.
    pub fn on(interface: &str) -> io::Result<Self> {
        let (link, _) = super::link::hardware(interface).map_err(io::Error::other)?;
        Self::open(&mut PacketSockets::default(), &link, 67)
    }

    /// The next request: its VLAN, and the DHCP message. Cancel safe.
    ///
    /// # Errors
    ///
    /// If the interface cannot be read.
    #[expect(clippy::disallowed_methods, reason = "a service has a clock")]
    pub async fn hear(&mut self) -> io::Result<(u16, Vec<u8>)> {
        loop {
            tokio::time::sleep_until(self.next).await;
            let mut bytes = [0; FRAME_BYTES];
            let heard = self.socket.async_io(Interest::READABLE, || tagged::hear(&self.socket, &mut bytes)).await;
            self.next = Instant::now() + if heard.is_ok() { PAUSE } else { DOWN };
            let (vlan, length) = heard?;
            let datagram = bytes.get(..length).and_then(frame::parse);
            if let Some((vlan, datagram)) = vlan.zip(datagram) {
                return Ok((vlan, datagram.payload.to_vec()));
            }
        }
    }
}
