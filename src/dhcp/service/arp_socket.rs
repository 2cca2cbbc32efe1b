//! ARP on the link, as other devices say it to everyone.

use std::io;
use std::time::Duration;

use nix::sys::socket::LinkAddr;
use tokio::net::UdpSocket;
use tokio::time::Instant;

use super::packet_sockets::{PacketSockets, Purpose};
use crate::dhcp::arp::{self, Claim};

/// The most frames that are read together.
const BATCH: usize = 32;
/// How long the next frames wait then: a storm costs us 1,600 looks a second at most, and what is lost is said again.
const PAUSE: Duration = Duration::from_millis(20);
/// How long it rests while the interface is down.
const DOWN: Duration = Duration::from_secs(1);

/// A socket that hears ARP.
#[derive(Debug)]
pub struct ArpSocket {
    /// A packet socket. To the runtime it is a socket that is read in datagrams, as any other.
    socket: UdpSocket,
    next: Instant,
}

impl ArpSocket {
    /// Listens on the interface of `link`. Must be called in a tokio runtime.
    pub fn open(sockets: &mut PacketSockets, link: &LinkAddr) -> io::Result<Self> {
        let socket = sockets.take(Purpose::Arp, link, None)?;
        Ok(Self { socket: UdpSocket::from_std(socket.into())?, next: Instant::now() })
    }

    /// What devices claim. Cancel safe.
    pub async fn claims(&mut self) -> io::Result<Vec<Claim>> {
        tokio::time::sleep_until(self.next).await;
        self.socket.readable().await?;
        let mut frame = [0; 64];
        let mut claims = Vec::new();
        for _ in 0..BATCH {
            match self.socket.try_recv(&mut frame) {
                Ok(length) => claims.extend(frame.get(..length).and_then(arp::parse)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => {
                    self.next = Instant::now() + DOWN;
                    return Err(error);
                }
            }
        }
        self.next = Instant::now() + PAUSE;
        Ok(claims)
    }
}
