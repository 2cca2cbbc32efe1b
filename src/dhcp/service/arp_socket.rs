//! Sockets that hear and ask ARP.

use std::io;
use std::net::Ipv4Addr;
use std::os::fd::AsRawFd as _;
use std::time::Duration;

use nix::sys::socket::{LinkAddr, MsgFlags, send};
use socket2::SockFilter;
use tokio::net::UdpSocket;
use tokio::time::Instant;

use crate::arp::{self, Claim};
use ethernet::filter::{EQUAL, LOAD_HALF, LOAD_WORD, RETURN};
use ethernet::{PacketSockets, Purpose};
use ids::MacAddr;

/// The most frames that are read together.
const BATCH: usize = 32;
/// How long the next frames wait then. So a storm costs us 1,600 frames a second at most. A claim that is lost comes again.
const PAUSE: Duration = Duration::from_millis(20);
/// How long a socket rests when the interface is down.
const DOWN: Duration = Duration::from_secs(1);

/// A socket that hears ARP.
#[derive(Debug)]
pub(super) struct ArpSocket {
    /// A packet socket. To the runtime it is like a socket for UDP: it is read in datagrams.
    socket: UdpSocket,
    /// When frames are read again.
    next: Instant,
}

impl ArpSocket {
    /// Listens on the interface of `link`: to everyone, or only to answers to `own`. Must be called in a tokio runtime.
    #[expect(clippy::disallowed_methods, reason = "a service has a clock")]
    pub(super) fn open(sockets: &mut PacketSockets, link: &LinkAddr, own: Option<Ipv4Addr>) -> io::Result<Self> {
        let socket = sockets.take(Purpose::Arp, link, own.map(answers_to))?;
        Ok(Self { socket: UdpSocket::from_std(socket.into())?, next: Instant::now() })
    }

    /// Asks everyone who has an address. `from` is our hardware address and our address.
    pub(super) fn ask(&self, from: (MacAddr, Ipv4Addr), address: Ipv4Addr) -> io::Result<()> {
        let (mac, own) = from;
        Ok(send(self.socket.as_raw_fd(), &arp::ask(mac, own, address), MsgFlags::MSG_DONTWAIT).map(drop)?)
    }

    /// Waits for frames, and says what devices claim in them, and from which hardware address each came. Cancel safe.
    #[expect(clippy::disallowed_methods, reason = "a service has a clock")]
    pub(super) async fn claims(&mut self) -> io::Result<Vec<(Claim, MacAddr)>> {
        tokio::time::sleep_until(self.next).await;
        self.socket.readable().await?;
        let mut frame = [0; 64];
        let mut claims = Vec::new();
        for _ in 0..BATCH {
            match self.socket.try_recv(&mut frame) {
                Ok(length) => {
                    let frame = frame.get(..length).unwrap_or_default();
                    claims.extend(arp::parse(frame).zip(arp::sender(frame)));
                }
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

/// A filter that lets through only replies to this address, so that a storm on the LAN takes no answer's place.
fn answers_to(own: Ipv4Addr) -> Vec<SockFilter> {
    vec![
        SockFilter::new(LOAD_HALF, 0, 0, 20),
        SockFilter::new(EQUAL, 0, 3, 2),
        SockFilter::new(LOAD_WORD, 0, 0, 38),
        SockFilter::new(EQUAL, 0, 1, u32::from(own)),
        SockFilter::new(RETURN, 0, 0, 0xffff),
        SockFilter::new(RETURN, 0, 0, 0),
    ]
}
