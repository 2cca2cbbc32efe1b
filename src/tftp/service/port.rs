//! The port of one transfer: its socket, which sends blocks from the file's chunks without a copy in user space.

use std::io::{self, IoSlice};
use std::net::{SocketAddr, SocketAddrV4, UdpSocket};
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd};

use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, MultiHeaders, SockaddrIn, sendmmsg, sendmsg, setsockopt, sockopt};
use tracing::debug;

use ethernet::frame::Headers;
use ids::MacAddr;

use super::{Config, PORTS, open_socket};
use crate::endpoint::{FileChunks, Ticket, Waits};
use crate::options::{MAX_BLKSIZE, MAX_WINDOWSIZE};
use crate::packet::{DATA_HEADER_BYTES, data_header};
use crate::transfer::Run;

/// The kernel's `UDP_MAX_SEGMENTS` before Linux 6.9.
const MAX_SEGMENTS: u16 = MAX_WINDOWSIZE;

/// [`DATA_HEADER_BYTES`], beside a block size.
const DATA_HEADER: u16 = 4;

/// The smallest block size that is segmented. The kernel cuts whatever leaves by the socket, so every OACK and ERROR must
/// fit into one segment.
const MIN_SEGMENT_BYTES: u16 = 512;

/// The most bytes of one segmented send; a UDP packet over IPv4 could carry 65,507.
const MAX_SEND_BYTES: u16 = 65_000;

/// Pieces of one DATA packet: its header, its bytes, and those of its bytes that lie in the next chunk.
const PIECES: usize = 3;

/// Blocks are copied behind their header when they leave alone: one short copy is cheaper than a list of pieces.
const COPIED_BYTES: usize = MAX_BLKSIZE as usize;

pub(super) const MAX_BLOCKS: usize = MAX_WINDOWSIZE as usize;

/// How many ports of [`PORTS`] are tried for one transfer. With 600 of them in use, the chance that all of these are is
/// below 1 in 10^50.
const PORT_TRIES: u32 = 64;

/// The server's TID of one transfer (RFC 1350 §4: a UDP port of its own), and the client's.
#[derive(Debug)]
pub(super) struct TransferPort {
    socket: UdpSocket,
    pub(super) ticket: Ticket,
    /// The server's own end.
    pub(super) local: SocketAddrV4,
    /// What the transfer waits for, as `epoll` knows it.
    pub(super) waits: Waits,
    /// The headers of frames to the client, once one has left.
    pub(super) headers: Option<(MacAddr, Headers)>,
    peer: SocketAddrV4,
    to: SockaddrIn,
    /// How many blocks one send may carry (`UDP_SEGMENT`); 1 if the kernel does not segment; `None` until the first window.
    segments: Option<u16>,
}

/// What became of the blocks that [`TransferPort::send_run`] was given.
#[derive(Debug)]
pub(super) enum Sent {
    /// The kernel took all of them.
    All,
    /// The kernel's send queue is full. These blocks are still to be sent.
    Full(Run),
    /// The kernel refused a packet. The transfer goes on as if the network had lost it.
    Lost(io::Error),
}

impl From<io::Result<()>> for Sent {
    fn from(sent: io::Result<()>) -> Self {
        sent.map_or_else(Self::Lost, |()| Self::All)
    }
}

impl TransferPort {
    /// Opens a free port of [`PORTS`] on the service's address, picked at random. That makes injected packets cost more,
    /// not impossible: whoever forges the client's address and port, and a packet to each of the 4,536 ports, hits it.
    pub(super) fn open(config: &Config, ticket: Ticket, peer: SocketAddrV4, waits: Waits) -> io::Result<Self> {
        let (socket, local) = on_free_port(|port| {
            let local = SocketAddrV4::new(*config.bind.ip(), port);
            Ok((open_socket(local, config.interface.as_deref())?.into(), local))
        })?;
        let to = SockaddrIn::from(peer);
        Ok(Self { socket, ticket, local, waits, headers: None, peer, to, segments: None })
    }

    /// Lets the kernel cut windows into blocks of this size (`UDP_SEGMENT`), if it can and `broken` is not set.
    fn segment(&mut self, blksize: u16, broken: &mut bool) {
        let datagram = blksize.saturating_add(DATA_HEADER);
        let segments = (MAX_SEND_BYTES / datagram.max(1)).min(MAX_SEGMENTS);
        self.segments = Some(1);
        if segments < 2 || blksize < MIN_SEGMENT_BYTES || *broken {
            return;
        }
        match setsockopt(&self.socket, sockopt::UdpGsoSegment, &i32::from(datagram)) {
            Ok(()) => self.segments = Some(segments),
            Err(error) => {
                debug!(%error, "the kernel does not segment UDP");
                *broken = true;
            }
        }
    }

    /// Receives one datagram: its length in bytes and whom it came from. `WouldBlock` if there is none.
    pub(super) fn receive(&self, buffer: &mut [u8]) -> io::Result<(usize, SocketAddrV4)> {
        let (length, from) = self.socket.recv_from(buffer)?;
        Ok((length, v4(from)))
    }

    /// Sends one small packet, to the client or to a stranger. A full queue loses it, as the network may.
    pub(super) fn send_to(&self, packet: &[u8], to: SocketAddrV4) -> io::Result<()> {
        self.socket.send_to(packet, to).map(drop)
    }

    /// Sends blocks whose bytes are loaded in `source`. `broken` is set if the kernel cannot cut windows after all.
    pub(super) fn send_run(&mut self, mut run: Run, chunks: &FileChunks, broken: &mut bool) -> Sent {
        if run.blocks > 1 && self.segments.is_none() {
            self.segment(run.blksize, broken);
        }
        loop {
            match self.try_send(&run, chunks) {
                Ok(blocks) => match run.skip(blocks.max(1)) {
                    Some(rest) => run = rest,
                    None => return Sent::All,
                },
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Sent::Full(run),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // The interface cannot checksum (EIO), or this route's MTU is below the interface's: the same blocks are
                // sent again without segmentation.
                Err(error) if self.segments > Some(1) && refuses_segments(&error) => {
                    debug!(%error, "segmented sending is off");
                    *broken |= error.raw_os_error() == Some(Errno::EIO as i32);
                    self.segments = Some(1);
                    if let Err(error) = setsockopt(&self.socket, sockopt::UdpGsoSegment, &0) {
                        return Sent::Lost(error.into());
                    }
                }
                Err(error) => return Sent::Lost(error),
            }
        }
    }

    /// Sends as many blocks of the run as one system call takes, and says how many these were.
    fn try_send(&self, run: &Run, chunks: &FileChunks) -> io::Result<u16> {
        if run.blocks == 1 {
            self.send_one(run, chunks)
        } else if self.segments > Some(1) {
            self.send_segments(run, chunks)
        } else {
            self.send_many(run, chunks)
        }
    }

    fn send_one(&self, run: &Run, chunks: &FileChunks) -> io::Result<u16> {
        let header = data_header(run.first);
        let (bytes, more) = chunks.slices(&run.range);
        let mut block = [0; DATA_HEADER_BYTES + COPIED_BYTES];
        if let Some(datagram) = joined(&mut block, &[&header, bytes, more]) {
            self.socket.send_to(datagram, self.peer)?;
            return Ok(1);
        }
        let pieces = [IoSlice::new(&header), IoSlice::new(bytes), IoSlice::new(more)];
        let pieces = if more.is_empty() { pieces.get(..2).unwrap_or(&pieces) } else { &pieces };
        sendmsg(self.socket.as_raw_fd(), pieces, &[], MsgFlags::empty(), Some(&self.to))?;
        Ok(1)
    }

    fn send_segments(&self, run: &Run, chunks: &FileChunks) -> io::Result<u16> {
        let headers = data_headers(run);
        let mut pieces = [IoSlice::new(&[]); MAX_BLOCKS * PIECES];
        let mut free = pieces.iter_mut();
        let mut push = |bytes| {
            if let Some(piece) = free.next() {
                *piece = IoSlice::new(bytes);
            }
        };
        let blocks = run.blocks.min(self.segments.unwrap_or(1));
        for ((_, range), header) in run.iter().take(usize::from(blocks)).zip(&headers) {
            let (bytes, more) = chunks.slices(&range);
            push(header);
            push(bytes);
            if !more.is_empty() {
                push(more);
            }
        }
        let unused = free.len();
        let used = pieces.get(..pieces.len().saturating_sub(unused)).unwrap_or_default();
        sendmsg(self.socket.as_raw_fd(), used, &[], MsgFlags::empty(), Some(&self.to))?;
        Ok(blocks)
    }

    fn send_many(&self, run: &Run, chunks: &FileChunks) -> io::Result<u16> {
        let headers = data_headers(run);
        let mut datagrams = [[IoSlice::new(&[]); PIECES]; MAX_BLOCKS];
        let mut count = 0;
        for (((_, range), header), datagram) in run.iter().zip(&headers).zip(&mut datagrams) {
            let (bytes, more) = chunks.slices(&range);
            *datagram = [IoSlice::new(header), IoSlice::new(bytes), IoSlice::new(more)];
            count += 1;
        }
        let mut messages = MultiHeaders::preallocate(count, None);
        let datagrams = datagrams.get(..count).unwrap_or_default();
        let to = vec![Some(self.to); count];
        let sent = sendmmsg(self.socket.as_raw_fd(), &mut messages, datagrams, &to, [], MsgFlags::empty())?;
        Ok(u16::try_from(sent.count()).unwrap_or(run.blocks))
    }
}

pub(super) fn data_headers(run: &Run) -> [[u8; DATA_HEADER_BYTES]; MAX_BLOCKS] {
    let mut headers = [[0; DATA_HEADER_BYTES]; MAX_BLOCKS];
    for (header, (number, _)) in headers.iter_mut().zip(run.iter()) {
        *header = data_header(number);
    }
    headers
}

/// The pieces one behind the other in `buffer`, if they fit.
pub(super) fn joined<'a>(buffer: &'a mut [u8], pieces: &[&[u8]]) -> Option<&'a [u8]> {
    let mut end = 0;
    for piece in pieces {
        buffer.get_mut(end..end + piece.len())?.copy_from_slice(piece);
        end += piece.len();
    }
    buffer.get(..end)
}

fn refuses_segments(error: &io::Error) -> bool {
    let refusals = [Errno::EIO, Errno::EINVAL, Errno::EMSGSIZE, Errno::EOPNOTSUPP, Errno::ENOPROTOOPT];
    error.raw_os_error().is_some_and(|code| refusals.contains(&Errno::from_raw(code)))
}

impl AsFd for TransferPort {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// What `open` makes on a free port of [`PORTS`]. Ports that are in use are left to whoever has them.
fn on_free_port<T>(mut open: impl FnMut(u16) -> io::Result<T>) -> io::Result<T> {
    let mut tries = 0;
    loop {
        match open(random_port()?) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && tries < PORT_TRIES => tries += 1,
            opened => return opened,
        }
    }
}

/// A port of [`PORTS`], drawn at random.
fn random_port() -> io::Result<u16> {
    let mut random = [0; 4];
    getrandom::fill(&mut random).map_err(io::Error::other)?;
    let count = u32::from(PORTS.end() - PORTS.start()) + 1;
    Ok(u16::try_from(u32::from_ne_bytes(random) % count).map_or(*PORTS.end(), |at| PORTS.start() + at))
}

/// The socket is IPv4, so the sender is.
fn v4(address: SocketAddr) -> SocketAddrV4 {
    match address {
        SocketAddr::V4(address) => address,
        SocketAddr::V6(address) => SocketAddrV4::new(std::net::Ipv4Addr::UNSPECIFIED, address.port()),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_port_that_somebody_else_has_is_left_to_them_and_the_search_ends() {
        let in_use = || Err(io::Error::from(io::ErrorKind::AddrInUse));
        // Three in four are taken.
        for _ in 0..1000 {
            let port = on_free_port(|port| if port % 4 == 0 { Ok(port) } else { in_use() }).unwrap();
            assert!(PORTS.contains(&port) && port % 4 == 0);
        }
        let mut tries = 0;
        let none = on_free_port::<u16>(|_| {
            tries += 1;
            in_use()
        });
        assert_eq!((none.unwrap_err().kind(), tries), (io::ErrorKind::AddrInUse, PORT_TRIES + 1));
        let other = on_free_port::<u16>(|_| Err(io::ErrorKind::PermissionDenied.into()));
        assert_eq!(other.unwrap_err().kind(), io::ErrorKind::PermissionDenied);
    }

    #[test]
    fn every_port_of_the_range_is_drawn_and_no_other() {
        let mut drawn = std::collections::BTreeSet::new();
        for _ in 0..100_000 {
            drawn.insert(random_port().unwrap());
        }
        assert_eq!((drawn.len(), drawn.first(), drawn.last()), (4536, Some(PORTS.start()), Some(PORTS.end())));
    }
}
