//! Sends a transfer's packets as Ethernet frames, to the hardware address that was judged and to no other. `arp` beside it
//! asks whether the device is there.
//!
//! The socket only sends. It names the interface in every send and is bound to none, so that an interface that went down
//! and came up again is found again; while it is down, or gone, what is sent counts as lost.

use std::io::{self, IoSlice};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd};

use nix::ifaddrs::getifaddrs;
use nix::net::if_::InterfaceFlags;
use nix::sys::socket::{LinkAddr, MsgFlags, MultiHeaders, sendmmsg, sendto};
use socket2::Socket;

use super::arp::ArpLink;
use super::port::{MAX_BLOCKS, Sent, TransferPort, data_headers, joined};
use crate::endpoint::FileChunks;
use crate::options::MAX_BLKSIZE;
use crate::packet::{DATA_HEADER_BYTES, data_header};
use crate::transfer::Run;
use ethernet::frame::{HEADERS_BYTES, Headers};
use ethernet::{PacketSockets, Purpose};
use ids::MacAddr;

/// The longest frame.
const FRAME_BYTES: usize = HEADERS_BYTES + DATA_HEADER_BYTES + MAX_BLKSIZE as usize;

/// Headers down to the block's number, its bytes, and those of its bytes that lie in the next chunk.
const PIECES: usize = 3;

/// The wish for a send buffer: the windows of many phones that begin at once. The kernel grants what `net.core.wmem_max`
/// allows.
const SEND_BUFFER_BYTES: usize = 4 * 1024 * 1024;

/// `ARPHRD_ETHER`: the interface has Ethernet addresses.
const ETHERNET: u16 = 1;

/// A packet socket that only sends, and the interface that it sends on.
#[derive(Debug)]
pub(super) struct FrameLink {
    socket: Socket,
    link: LinkAddr,
    mac: MacAddr,
    pub(super) arp: ArpLink,
}

/// Why a device's own files cannot leave as frames here.
#[derive(Debug, thiserror::Error)]
pub(super) enum NoFrames {
    /// Loopback, a tunnel, or nothing at all.
    #[error("the interface has no Ethernet address")]
    NoEthernet,
    /// Nobody handed a packet socket down, and this process may not open one.
    #[error("this process may not open a packet socket")]
    NotAllowed,
    /// The system refused for another reason.
    #[error("no packet socket")]
    Io(#[source] io::Error),
}

impl FrameLink {
    /// Takes packet sockets for frames on this interface, and for ARP in the name of our address there.
    pub(super) fn open(interface: &str, own: Ipv4Addr, sockets: &mut PacketSockets) -> Result<Self, NoFrames> {
        let mut all = getifaddrs().map_err(|error| NoFrames::Io(error.into()))?;
        let link = all.find_map(|one| {
            let usable = one.interface_name == interface && !one.flags.contains(InterfaceFlags::IFF_LOOPBACK);
            one.address.filter(|_| usable)?.as_link_addr().copied()
        });
        let link = link.filter(|link| link.hatype() == ETHERNET && link.addr().is_some_and(|mac| mac != [0; 6]));
        let (link, mac) = link.and_then(|link| Some((link, MacAddr::new(link.addr()?)))).ok_or(NoFrames::NoEthernet)?;
        let refused = |error: io::Error| match error.kind() {
            io::ErrorKind::PermissionDenied => NoFrames::NotAllowed,
            _ => NoFrames::Io(error),
        };
        let socket = sockets.take(Purpose::Tftp, &link, None).map_err(refused)?;
        let arp = ArpLink::open(&link, (mac, own), sockets).map_err(refused)?;
        // Best effort: with less room windows leave in smaller parts.
        let _ = socket.set_send_buffer_size(SEND_BUFFER_BYTES);
        Ok(Self { socket, link, mac, arp })
    }
}

/// Sends frames. It keeps what `sendmmsg` needs from one window to the next.
pub(super) struct FrameSender {
    link: FrameLink,
    messages: MultiHeaders<LinkAddr>,
    to: Vec<Option<LinkAddr>>,
}

impl FrameSender {
    pub(super) fn new(link: FrameLink) -> Self {
        let to = vec![Some(link.link); MAX_BLOCKS];
        Self { link, messages: MultiHeaders::preallocate(MAX_BLOCKS, None), to }
    }

    /// Where devices are asked whether they are there.
    pub(super) const fn arp(&self) -> &ArpLink {
        &self.link.arp
    }

    /// Sends one small packet from a transfer's port. A full queue loses it, as the network may.
    pub(super) fn send(
        &self,
        port: &mut TransferPort,
        (mac, to): (MacAddr, SocketAddrV4),
        packet: &[u8],
    ) -> io::Result<()> {
        let headers = self.headers(port, mac, to);
        let before = headers.before(&[packet]).ok_or(io::ErrorKind::InvalidInput)?;
        let mut frame = [0; FRAME_BYTES];
        let frame = joined(&mut frame, &[&before, packet]).ok_or(io::ErrorKind::InvalidInput)?;
        sendto(self.link.socket.as_raw_fd(), frame, &self.link.link, MsgFlags::empty())?;
        Ok(())
    }

    /// Sends blocks whose bytes are loaded in `chunks` from a transfer's port, one frame for each.
    pub(super) fn send_run(
        &mut self,
        port: &mut TransferPort,
        (mac, to): (MacAddr, SocketAddrV4),
        mut run: Run,
        chunks: &FileChunks,
    ) -> Sent {
        self.headers(port, mac, to);
        let Some((_, headers)) = &port.headers else { return Sent::Lost(io::ErrorKind::InvalidInput.into()) };
        loop {
            let sent = if run.blocks == 1 {
                self.send_one(headers, &run, chunks)
            } else {
                self.send_many(headers, &run, chunks)
            };
            match sent {
                Ok(blocks) => match run.skip(blocks.max(1)) {
                    Some(rest) => run = rest,
                    None => return Sent::All,
                },
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Sent::Full(run),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Sent::Lost(error),
            }
        }
    }

    fn headers<'a>(&self, port: &'a mut TransferPort, mac: MacAddr, to: SocketAddrV4) -> &'a Headers {
        let new = || (mac, Headers::new((self.link.mac, port.local), (mac, to)));
        if port.headers.as_ref().is_none_or(|(before, _)| *before != mac) {
            port.headers = Some(new());
        }
        &port.headers.get_or_insert_with(new).1
    }

    fn send_one(&self, headers: &Headers, run: &Run, chunks: &FileChunks) -> io::Result<u16> {
        let header = data_header(run.first);
        let (bytes, more) = chunks.slices(&run.range);
        let before = headers.before(&[&header, bytes, more]).ok_or(io::ErrorKind::InvalidInput)?;
        let mut frame = [0; FRAME_BYTES];
        let frame = joined(&mut frame, &[&before, &header, bytes, more]).ok_or(io::ErrorKind::InvalidInput)?;
        sendto(self.link.socket.as_raw_fd(), frame, &self.link.link, MsgFlags::empty())?;
        Ok(1)
    }

    fn send_many(&mut self, headers: &Headers, run: &Run, chunks: &FileChunks) -> io::Result<u16> {
        const BEFORE: usize = HEADERS_BYTES + DATA_HEADER_BYTES;
        let numbers = data_headers(run);
        let mut befores = [[0; BEFORE]; MAX_BLOCKS];
        let mut count = 0;
        for (((_, range), number), before) in run.iter().zip(&numbers).zip(&mut befores) {
            let (bytes, more) = chunks.slices(&range);
            let octets = headers.before(&[number, bytes, more]).ok_or(io::ErrorKind::InvalidInput)?;
            let (headers_at, number_at) = before.split_at_mut(HEADERS_BYTES);
            headers_at.copy_from_slice(&octets);
            number_at.copy_from_slice(number);
            count += 1;
        }
        let mut pieces = [[IoSlice::new(&[]); PIECES]; MAX_BLOCKS];
        for (((_, range), before), pieces) in run.iter().zip(&befores).zip(&mut pieces) {
            let (bytes, more) = chunks.slices(&range);
            *pieces = [IoSlice::new(before), IoSlice::new(bytes), IoSlice::new(more)];
        }
        // The kernel reads a piece of no octets, too, and few blocks lie in two chunks.
        let mut datagrams: [&[IoSlice<'_>]; MAX_BLOCKS] = [&[]; MAX_BLOCKS];
        for (pieces, datagram) in pieces.iter().zip(&mut datagrams) {
            *datagram = match pieces {
                [first @ .., more] if more.is_empty() => first,
                all => all,
            };
        }
        let (datagrams, to) = (datagrams.get(..count).unwrap_or_default(), self.to.get(..count).unwrap_or_default());
        let socket = self.link.socket.as_raw_fd();
        let sent = sendmmsg(socket, &mut self.messages, datagrams, to, [], MsgFlags::empty())?;
        Ok(u16::try_from(sent.count()).unwrap_or(run.blocks))
    }
}

impl AsFd for FrameSender {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.link.socket.as_fd()
    }
}
