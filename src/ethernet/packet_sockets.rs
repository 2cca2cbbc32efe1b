//! Packet sockets (`packet(7)`). Opening one takes `CAP_NET_RAW`, using one does not. So a process with the capability can
//! open them and pass them on, and DHCP runs without it.

pub mod tagged;

use std::io;
use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd as _, OwnedFd};

use nix::sys::socket::{LinkAddr, MsgFlags, bind, recv};
use socket2::{Domain, Protocol, SockFilter, Socket, Type};

use super::filter::{
    ANY_BIT, EQUAL, EQUAL_X, KEEP_IN_X, LOAD_HALF, LOAD_WORD, PACKET_TYPE, RETURN, VLAN_TAG, VLAN_TAG_PRESENT,
};

/// `ETH_P_IP`.
const IPV4: u16 = 0x0800;
/// `ETH_P_ALL`.
const ALL: u16 = 0x0003;
/// `ETH_P_ARP`.
const ARP: u16 = 0x0806;
/// The most old frames that are thrown away. A socket's buffer holds fewer.
const MAX_STALE: usize = 65_536;

/// The most sockets for DHCP: one for each thread of the fast path.
pub const MAX_DHCP_SOCKETS: usize = 4;

/// `PACKET_OTHERHOST`: for a host that is not this one.
const OTHER_HOST: u32 = 3;
/// The beginning of every filter: drops frames that the interface's own IP does not take.
///
/// The kernel makes a frame with a VLAN identifier that no interface here has one for another host, and then takes its tag
/// away, before it looks for sockets of one protocol. So the type tells such a frame, and the tag only where a kernel
/// leaves it. The same type has a unicast frame for another device, which only a promiscuous interface hears.
const THIS_VLAN: [SockFilter; 7] = [
    SockFilter::new(LOAD_WORD, 0, 0, PACKET_TYPE),
    SockFilter::new(EQUAL, 4, 0, OTHER_HOST),
    SockFilter::new(LOAD_WORD, 0, 0, VLAN_TAG_PRESENT),
    SockFilter::new(EQUAL, 3, 0, 0),
    SockFilter::new(LOAD_WORD, 0, 0, VLAN_TAG),
    SockFilter::new(ANY_BIT, 0, 1, 0x0fff),
    SockFilter::new(RETURN, 0, 0, 0),
];

/// What a packet socket is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// It sees and sends DHCP in frames, for the fast path.
    Dhcp,
    /// It hears ARP and asks by ARP.
    Arp,
    /// It hears on all interfaces what the LAN interface says by ARP.
    Beside,
    /// It only sends frames, to DHCP clients that have no address yet.
    Send,
    /// It only sends frames: a device's own files, to the hardware address that was judged.
    Tftp,
    /// It asks by ARP whether the device of such a file is there, and hears the answers.
    TftpArp,
    /// It hears DHCP requests with a VLAN tag, to say which VLANs come to this port.
    Tagged,
}

impl Purpose {
    /// All purposes.
    pub const ALL: [Self; 7] =
        [Self::Dhcp, Self::Arp, Self::Beside, Self::Send, Self::Tftp, Self::TftpArp, Self::Tagged];

    /// The name under which such a socket is passed on, as in `LISTEN_FDNAMES`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Dhcp => "packet-dhcp",
            Self::Arp => "packet-arp",
            Self::Beside => "packet-beside",
            Self::Send => "packet-send",
            Self::Tftp => "packet-tftp",
            Self::TftpArp => "packet-tftp-arp",
            Self::Tagged => "packet-tagged",
        }
    }

    /// The purpose with this [`Purpose::name`].
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|purpose| purpose.name() == name)
    }

    /// How many such sockets a service can use.
    pub const fn count(self) -> usize {
        match self {
            Self::Dhcp => MAX_DHCP_SOCKETS,
            // One hears every claim, the other the answers to us.
            Self::Arp => 2,
            Self::Beside | Self::Send | Self::Tftp | Self::TftpArp | Self::Tagged => 1,
        }
    }

    const fn protocol(self) -> u16 {
        match self {
            Self::Dhcp => IPV4,
            Self::Arp | Self::Beside | Self::TftpArp => ARP,
            // Only here the kernel still has the tag.
            Self::Tagged => ALL,
            // It hears nothing.
            Self::Send | Self::Tftp => 0,
        }
    }
}

/// Opens a packet socket that hears nothing yet and is on no interface.
///
/// # Errors
///
/// If this process has no `CAP_NET_RAW`, or too many open files.
pub fn open(purpose: Purpose) -> io::Result<Socket> {
    let protocol = i32::from(purpose.protocol().to_be());
    let socket = Socket::new(Domain::PACKET, Type::RAW, Some(Protocol::from(protocol)))?;
    socket.attach_filter(&[SockFilter::new(RETURN, 0, 0, 0)])?;
    Ok(socket)
}

/// A filter that lets through only answers to this address that [`answer`](crate::arp::answer) believes, so that others wake nobody.
pub fn answers_to(own: Ipv4Addr) -> Vec<SockFilter> {
    vec![
        SockFilter::new(LOAD_HALF, 0, 0, 20),
        SockFilter::new(EQUAL, 0, 11, 2),
        SockFilter::new(LOAD_WORD, 0, 0, 38),
        SockFilter::new(EQUAL, 0, 9, u32::from(own)),
        SockFilter::new(LOAD_WORD, 0, 0, 6),
        SockFilter::new(KEEP_IN_X, 0, 0, 0),
        SockFilter::new(LOAD_WORD, 0, 0, 22),
        SockFilter::new(EQUAL_X, 0, 5, 0),
        SockFilter::new(LOAD_HALF, 0, 0, 10),
        SockFilter::new(KEEP_IN_X, 0, 0, 0),
        SockFilter::new(LOAD_HALF, 0, 0, 26),
        SockFilter::new(EQUAL_X, 0, 1, 0),
        SockFilter::new(RETURN, 0, 0, 0xffff),
        SockFilter::new(RETURN, 0, 0, 0),
    ]
}

/// The packet sockets that another process has opened. Those that are missing are opened when they are needed.
#[derive(Debug, Default)]
pub struct PacketSockets {
    given: Vec<(Purpose, Socket)>,
}

impl PacketSockets {
    /// Adds a socket that [`open`] has opened, perhaps in another process. Sockets over [`Purpose::count`] are closed.
    ///
    /// # Errors
    ///
    /// If the file is no packet socket.
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

    /// Copies of all sockets, so that a service can end and the next one has sockets, too.
    ///
    /// # Errors
    ///
    /// If this process has too many open files.
    pub fn try_clone(&self) -> io::Result<Self> {
        let copy = |(purpose, socket): &(Purpose, Socket)| socket.try_clone().map(|socket| (*purpose, socket));
        Ok(Self { given: self.given.iter().map(copy).collect::<io::Result<_>>()? })
    }

    /// Takes out a socket for a purpose, or opens one: not blocking, on the interface of `link`, and without old frames. The
    /// filter says what it hears; without a filter it hears all frames of its protocol.
    ///
    /// Frames that a VLAN tag sends to another VLAN are left out in any case (IEEE 802.1Q), as are unicast frames for
    /// another device: the kernel takes the tag off before a packet socket reads, so that they look like frames of this
    /// LAN. A tag that gives a priority only (VLAN 0) is no other VLAN. [`Purpose::Tagged`] alone is for them.
    ///
    /// # Errors
    ///
    /// If none is given and this process may not open one, or the interface is gone.
    pub fn take(&mut self, purpose: Purpose, link: &LinkAddr, filter: Option<Vec<SockFilter>>) -> io::Result<Socket> {
        self.prepare(purpose, Some(link), filter)
    }

    /// The same for a socket that hears all interfaces.
    ///
    /// # Errors
    ///
    /// As [`Self::take`].
    pub fn take_everywhere(&mut self, purpose: Purpose, filter: Vec<SockFilter>) -> io::Result<Socket> {
        self.prepare(purpose, None, Some(filter))
    }

    fn prepare(
        &mut self,
        purpose: Purpose,
        link: Option<&LinkAddr>,
        filter: Option<Vec<SockFilter>>,
    ) -> io::Result<Socket> {
        let given = self.given.iter().position(|(other, _)| *other == purpose);
        let socket = given.map_or_else(|| open(purpose), |at| Ok(self.given.swap_remove(at).1))?;
        socket.set_nonblocking(true)?;
        if purpose.protocol() == 0 {
            return Ok(socket);
        }
        // It hears nothing while it moves to the interface: frames of the interface before must not stay in it.
        socket.attach_filter(&[SockFilter::new(RETURN, 0, 0, 0)])?;
        link.map(|link| bind(socket.as_raw_fd(), link)).transpose()?;
        for _ in 0..MAX_STALE {
            if recv(socket.as_raw_fd(), &mut [0], MsgFlags::empty()).is_err() {
                break;
            }
        }
        let mut program = if purpose == Purpose::Tagged { Vec::new() } else { Vec::from(THIS_VLAN) };
        program.extend(filter.unwrap_or_else(|| vec![SockFilter::new(RETURN, 0, 0, 0xffff)]));
        socket.attach_filter(&program)?;
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
