//! Packet sockets (`packet(7)`): opening one takes `CAP_NET_RAW`, using one does not. So whoever has the capability may
//! open them and pass them on, and DHCP runs without it.

use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};

use nix::sys::socket::{LinkAddr, MsgFlags, bind, recv};
use socket2::{Domain, Protocol, SockFilter, Socket, Type};

/// `BPF_RET | BPF_K`: take that many bytes of the frame.
const RETURN: u16 = 0x06;
/// `ETH_P_IP`.
const IPV4: u16 = 0x0800;
/// `ETH_P_ARP`.
const ARP: u16 = 0x0806;
/// The most frames that are thrown away at once: more than a socket's buffer holds.
const MAX_STALE: usize = 65_536;

/// What a packet socket is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// Sees and sends DHCP frame by frame: `augment`.
    Dhcp,
    /// Hears and asks who has an address.
    Arp,
    /// Only sends: to clients that have no address yet.
    Send,
}

impl Purpose {
    /// All there are.
    pub const ALL: [Self; 3] = [Self::Dhcp, Self::Arp, Self::Send];

    /// Its name where sockets are passed by name, as `LISTEN_FDNAMES` does.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Dhcp => "packet-dhcp",
            Self::Arp => "packet-arp",
            Self::Send => "packet-send",
        }
    }

    /// The one that [`Purpose::name`] names.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|purpose| purpose.name() == name)
    }

    /// How many there may be use for.
    pub const fn count(self) -> usize {
        match self {
            Self::Dhcp => super::cpu_share::MAX_THREADS,
            // One for what everyone says, and one for what is answered to us.
            Self::Arp => 2,
            Self::Send => 1,
        }
    }

    const fn protocol(self) -> u16 {
        match self {
            Self::Dhcp => IPV4,
            Self::Arp => ARP,
            // Hears nothing.
            Self::Send => 0,
        }
    }
}

/// Opens one that hears nothing yet, on no interface.
///
/// # Errors
///
/// Without `CAP_NET_RAW`, or where no more can be opened.
pub fn open(purpose: Purpose) -> io::Result<Socket> {
    let protocol = i32::from(purpose.protocol().to_be());
    let socket = Socket::new(Domain::PACKET, Type::RAW, Some(Protocol::from(protocol)))?;
    socket.attach_filter(&[SockFilter::new(RETURN, 0, 0, 0)])?;
    Ok(socket)
}

/// Those that somebody else opened. Where there is none for a purpose, one is opened when it is needed.
#[derive(Debug, Default)]
pub struct PacketSockets {
    given: Vec<(Purpose, Socket)>,
}

impl PacketSockets {
    /// Takes one that was opened by [`open`], perhaps in another process. Over [`Purpose::count`] it is closed.
    ///
    /// # Errors
    ///
    /// If it is something else.
    pub fn give(&mut self, purpose: Purpose, socket: OwnedFd) -> io::Result<()> {
        let socket = Socket::from(socket);
        if (socket.domain()?, socket.r#type()?) != (Domain::PACKET, Type::RAW) {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is no raw packet socket"));
        }
        if self.given.iter().filter(|(other, _)| *other == purpose).count() < purpose.count() {
            self.given.push((purpose, socket));
        }
        Ok(())
    }

    /// Copies of all, for a service that may end before this one does.
    ///
    /// # Errors
    ///
    /// If there are too many open files.
    pub fn try_clone(&self) -> io::Result<Self> {
        let copy = |(purpose, socket): &(Purpose, Socket)| socket.try_clone().map(|socket| (*purpose, socket));
        Ok(Self { given: self.given.iter().map(copy).collect::<io::Result<_>>()? })
    }

    /// One for `purpose`, not blocking, on the interface of `link` and nothing in it from before. It lets through
    /// what `filter` says; without one, all of its protocol.
    pub(super) fn take(
        &mut self,
        purpose: Purpose,
        link: &LinkAddr,
        filter: Option<&[SockFilter]>,
    ) -> io::Result<Socket> {
        let given = self.given.iter().position(|(other, _)| *other == purpose);
        let socket = given.map_or_else(|| open(purpose), |at| Ok(self.given.swap_remove(at).1))?;
        socket.set_nonblocking(true)?;
        if purpose == Purpose::Send {
            return Ok(socket);
        }
        // Deaf while it moves to the interface, or it would keep frames of another.
        socket.attach_filter(&[SockFilter::new(RETURN, 0, 0, 0)])?;
        bind(socket.as_raw_fd(), link)?;
        for _ in 0..MAX_STALE {
            if recv(socket.as_raw_fd(), &mut [0], MsgFlags::empty()).is_err() {
                break;
            }
        }
        socket.attach_filter(filter.unwrap_or(&[SockFilter::new(RETURN, 0, 0, 0xffff)]))?;
        Ok(socket)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn every_purpose_has_a_name_of_its_own() {
        for purpose in Purpose::ALL {
            assert_eq!(Purpose::from_name(purpose.name()), Some(purpose));
        }
        assert_eq!(Purpose::from_name("packet-"), None);
    }

    #[test]
    fn a_socket_of_another_kind_is_refused() {
        let udp = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let refused = PacketSockets::default().give(Purpose::Arp, udp.into()).unwrap_err();
        assert_eq!(refused.to_string(), "it is no raw packet socket");
    }
}
