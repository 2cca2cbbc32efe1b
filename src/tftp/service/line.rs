//! The socket of one transfer: from the file's chunks to the kernel with one copy, the kernel's own.

use std::io::{self, IoSlice};
use std::net::{IpAddr, SocketAddr, SocketAddrV4};
use std::os::fd::AsRawFd as _;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};

use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, MultiHeaders, SockaddrIn, sendmmsg, sendmsg, setsockopt, sockopt};
use tokio::io::{Interest, ReadBuf};
use tokio::net::UdpSocket;
use tracing::debug;

use super::source::Source;
use super::{Config, open_socket};
use crate::tftp::options::{DEFAULT_BLKSIZE, MAX_WINDOWSIZE};
use crate::tftp::packet::{DATA_HEADER_BYTES, data_header};
use crate::tftp::transfer::Run;

/// The kernel's `UDP_MAX_SEGMENTS` before Linux 6.9.
const MAX_SEGMENTS: u16 = MAX_WINDOWSIZE;

/// What one segmented send may carry; one UDP packet could have 65,507.
const MAX_SEND_BYTES: u16 = 65_000;

/// Head, bytes, and bytes after the end of a chunk.
const PIECES: usize = 3;

const MAX_BLOCKS: usize = MAX_WINDOWSIZE as usize;

/// A port of our own and the client at the other end.
#[derive(Debug)]
pub(super) struct Line {
    socket: UdpSocket,
    peer: SocketAddrV4,
    to: SockaddrIn,
    /// Blocks that the kernel cuts out of one send; 1 if it does not.
    segments: u16,
}

impl Line {
    /// A free port on the service's address. The kernel picks it at random, which is what keeps others from guessing
    /// into a transfer.
    pub(super) fn open(config: &Config, peer: SocketAddrV4) -> io::Result<Self> {
        let address = SocketAddrV4::new(*config.bind.ip(), 0);
        let socket = open_socket(address, config.interface.as_deref())?;
        Ok(Self { socket: UdpSocket::from_std(socket.into())?, peer, to: SockaddrIn::from(peer), segments: 1 })
    }

    /// Lets the kernel cut windows into blocks of this size (`UDP_SEGMENT`), if it can and `broken` is not set.
    pub(super) fn segment(&mut self, blksize: u16, broken: &AtomicBool) {
        let datagram = blksize.saturating_add(DATA_HEADER_BYTES as u16);
        let segments = (MAX_SEND_BYTES / datagram.max(1)).min(MAX_SEGMENTS);
        // The kernel cuts whatever is longer than a block, an OACK too.
        if blksize < DEFAULT_BLKSIZE || segments < 2 || broken.load(Ordering::Relaxed) {
            return;
        }
        match setsockopt(&self.socket, sockopt::UdpGsoSegment, &i32::from(datagram)) {
            Ok(()) => self.segments = segments,
            Err(error) => {
                debug!(%error, "the kernel does not segment UDP");
                broken.store(true, Ordering::Relaxed);
            }
        }
    }

    /// Receives into `buffer`: how many bytes, and whether they are the client's.
    pub(super) fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<(usize, Result<(), SocketAddrV4>)>> {
        let mut buffer = ReadBuf::new(buffer);
        let from = ready!(self.socket.poll_recv_from(cx, &mut buffer))?;
        let length = buffer.filled().len();
        Poll::Ready(Ok((length, if from == SocketAddr::V4(self.peer) { Ok(()) } else { Err(v4(from)) })))
    }

    /// Sends one small packet, to the client or to a stranger. A full queue loses it, as the network may.
    pub(super) fn send_to(&self, packet: &[u8], to: SocketAddrV4) -> io::Result<()> {
        let sent = sendmsg(
            self.socket.as_raw_fd(),
            &[IoSlice::new(packet)],
            &[],
            MsgFlags::empty(),
            Some(&SockaddrIn::from(to)),
        );
        sent.map(drop).map_err(io::Error::from)
    }

    /// Sends one small packet to the client.
    pub(super) fn send(&self, packet: &[u8]) -> io::Result<()> {
        self.send_to(packet, self.peer)
    }

    /// Sends blocks whose bytes are loaded in `source`.
    pub(super) async fn send_run(&mut self, run: Run, source: &Source, broken: &AtomicBool) -> io::Result<()> {
        let mut rest = Some(run);
        while let Some(run) = rest {
            let segments = self.segments;
            let sent = self.socket.async_io(Interest::WRITABLE, || self.try_send(&run, source)).await;
            rest = match sent {
                Ok(blocks) => run.skip(blocks.max(1)),
                // The interface cannot checksum (EIO), or this route is narrower than the interface: the same blocks again,
                // without.
                Err(error) if segments > 1 && refuses_segments(&error) => {
                    debug!(%error, "segmented sending is off");
                    if error.raw_os_error() == Some(Errno::EIO as i32) {
                        broken.store(true, Ordering::Relaxed);
                    }
                    self.segments = 1;
                    setsockopt(&self.socket, sockopt::UdpGsoSegment, &0)?;
                    Some(run)
                }
                Err(error) => return Err(error),
            };
        }
        Ok(())
    }

    /// Sends as many blocks of the run as go at once.
    fn try_send(&self, run: &Run, source: &Source) -> io::Result<u16> {
        if run.blocks == 1 {
            self.send_one(run, source)
        } else if self.segments > 1 {
            self.send_segments(run, source)
        } else {
            self.send_many(run, source)
        }
    }

    fn send_one(&self, run: &Run, source: &Source) -> io::Result<u16> {
        let header = data_header(run.first);
        let (bytes, more) = source.slices(&run.range);
        let pieces = [IoSlice::new(&header), IoSlice::new(bytes), IoSlice::new(more)];
        let pieces = if more.is_empty() { pieces.get(..2).unwrap_or(&pieces) } else { &pieces };
        sendmsg(self.socket.as_raw_fd(), pieces, &[], MsgFlags::empty(), Some(&self.to))?;
        Ok(1)
    }

    fn send_segments(&self, run: &Run, source: &Source) -> io::Result<u16> {
        let headers = headers(run);
        let mut pieces = [IoSlice::new(&[]); MAX_BLOCKS * PIECES];
        let mut free = pieces.iter_mut();
        let mut push = |bytes| {
            if let Some(piece) = free.next() {
                *piece = IoSlice::new(bytes);
            }
        };
        let blocks = run.blocks.min(self.segments);
        for ((_, range), header) in run.iter().take(usize::from(blocks)).zip(&headers) {
            let (bytes, more) = source.slices(&range);
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

    fn send_many(&self, run: &Run, source: &Source) -> io::Result<u16> {
        let headers = headers(run);
        let mut datagrams = [[IoSlice::new(&[]); PIECES]; MAX_BLOCKS];
        let mut count = 0;
        for (((_, range), header), datagram) in run.iter().zip(&headers).zip(&mut datagrams) {
            let (bytes, more) = source.slices(&range);
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

fn headers(run: &Run) -> [[u8; DATA_HEADER_BYTES]; MAX_BLOCKS] {
    let mut headers = [[0; DATA_HEADER_BYTES]; MAX_BLOCKS];
    for (header, (number, _)) in headers.iter_mut().zip(run.iter()) {
        *header = data_header(number);
    }
    headers
}

fn refuses_segments(error: &io::Error) -> bool {
    let refusals = [Errno::EIO, Errno::EINVAL, Errno::EMSGSIZE, Errno::EOPNOTSUPP, Errno::ENOPROTOOPT];
    error.raw_os_error().is_some_and(|code| refusals.contains(&Errno::from_raw(code)))
}

/// The socket is IPv4, so the sender is.
fn v4(address: SocketAddr) -> SocketAddrV4 {
    match address.ip() {
        IpAddr::V4(ip) => SocketAddrV4::new(ip, address.port()),
        IpAddr::V6(_) => SocketAddrV4::new(std::net::Ipv4Addr::UNSPECIFIED, 0),
    }
}
