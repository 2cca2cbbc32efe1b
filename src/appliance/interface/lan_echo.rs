//! Finds the interfaces of this host that are on the LAN without an address of it: what the LAN interface broadcasts comes
//! back through them.
//!
//! The broadcast is an announcement of our own address (RFC 5227 §3), with octets behind it that nobody can guess. So a
//! device on the network of another interface cannot make it look like the LAN.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::fd::AsRawFd as _;
use std::time::{Duration, Instant};

use nix::ifaddrs::getifaddrs;
use nix::sys::socket::{LinkAddr, MsgFlags, recvfrom, sendto};
use socket2::{SockFilter, Socket};

use super::LanInterface;
use dhcp::arp;
use ethernet::filter::{EQUAL, INTERFACE, LOAD_HALF, LOAD_WORD, RETURN};
use ethernet::{PacketSockets, Purpose};

/// How often our address is announced while another interface is there.
const ANNOUNCE_EVERY: Duration = Duration::from_secs(15);
/// How long an announcement may be under way.
const ECHO_WITHIN: Duration = Duration::from_millis(50);
/// How long an interface counts as one of the LAN after its last echo. Three announcements are lost by then.
const HEARD_VALID: Duration = Duration::from_secs(50);
/// The most frames that are read at a time.
const MAX_FRAMES: usize = 256;
/// The octets behind an announcement. With them it is as long as the shortest frame of Ethernet.
const MARK_BYTES: usize = 16;

/// Announces on the LAN interface and listens on all others.
#[derive(Debug)]
pub(crate) struct LanEcho {
    socket: Socket,
    link: LinkAddr,
    announcement: Vec<u8>,
    announced: Option<(Instant, BTreeSet<u32>)>,
    /// The interfaces that heard an announcement, and when they last did.
    heard: BTreeMap<u32, Instant>,
}

impl LanEcho {
    /// Listens beside this interface.
    ///
    /// # Errors
    ///
    /// If the interface is gone or has no hardware address, or this process may not have a packet socket.
    pub(crate) fn open(packets: &mut PacketSockets, lan: &LanInterface) -> io::Result<Self> {
        let mut links = getifaddrs()?.filter(|found| found.interface_name == lan.name);
        let link = links.find_map(|found| found.address?.as_link_addr().copied());
        let (link, mac) = link.zip(lan.mac).ok_or(io::ErrorKind::AddrNotAvailable)?;
        let [a, b, c, d, e, f] = mac.octets();
        let filter = vec![
            SockFilter::new(LOAD_WORD, 0, 0, INTERFACE),
            SockFilter::new(EQUAL, 4, 0, lan.index),
            SockFilter::new(LOAD_WORD, 0, 0, 6),
            SockFilter::new(EQUAL, 0, 2, u32::from_be_bytes([a, b, c, d])),
            SockFilter::new(LOAD_HALF, 0, 0, 10),
            SockFilter::new(EQUAL, 1, 0, u16::from_be_bytes([e, f]).into()),
            SockFilter::new(RETURN, 0, 0, 0),
            SockFilter::new(RETURN, 0, 0, 0xffff),
        ];
        let socket = packets.take_everywhere(Purpose::Beside, filter)?;
        let mut mark = [0; MARK_BYTES];
        getrandom::fill(&mut mark).map_err(io::Error::other)?;
        let mut announcement = arp::ask(mac, lan.address(), lan.address());
        announcement.extend(mark);
        Ok(Self { socket, link, announcement, announced: None, heard: BTreeMap::new() })
    }

    /// Which of these interfaces are on the LAN. Without any nothing is announced.
    #[expect(clippy::disallowed_methods, reason = "a service has a clock")]
    pub(super) async fn among(&mut self, others: &BTreeSet<u32>) -> BTreeSet<u32> {
        let now = Instant::now();
        let announced = self.announced.as_ref();
        let is_due = announced.is_none_or(|(at, to)| now.duration_since(*at) >= ANNOUNCE_EVERY || to != others);
        if is_due && !others.is_empty() {
            self.announced = Some((now, others.clone()));
            // If the link is down, there is nothing to hear either.
            let _ = sendto(self.socket.as_raw_fd(), &self.announcement, &self.link, MsgFlags::MSG_DONTWAIT);
            tokio::time::sleep(ECHO_WITHIN).await;
        }
        self.hear(Instant::now());
        others.iter().copied().filter(|index| self.heard.contains_key(index)).collect()
    }

    fn hear(&mut self, now: Instant) {
        self.heard.retain(|_, last| now.duration_since(*last) < HEARD_VALID);
        let mut frame = [0; 64];
        for _ in 0..MAX_FRAMES {
            let Ok((length, from)) = recvfrom::<LinkAddr>(self.socket.as_raw_fd(), &mut frame) else { return };
            let is_ours = frame.get(..length).is_some_and(|frame| frame.starts_with(&self.announcement));
            if let Some(from) = from.filter(|_| is_ours) {
                self.heard.insert(u32::try_from(from.ifindex()).unwrap_or(0), now);
            }
        }
    }
}
