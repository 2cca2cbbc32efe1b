//! Asks the device of an own file by ARP whether it is there, and hears the answers, beside the kernel's own ARP.

use std::io;
use std::net::Ipv4Addr;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd};

use nix::errno::Errno;
use nix::sys::socket::{LinkAddr, MsgFlags, recv, send};
use socket2::Socket;

use ethernet::arp::{self, EVERYONE};
use ethernet::{PacketSockets, Purpose, answers_to};
use ids::MacAddr;

/// The most answers that are read before packets get their turn.
pub(super) const BATCH: usize = 32;

/// A packet socket that hears answers to us. It is bound to the interface, and works again when that comes up again.
#[derive(Debug)]
pub(super) struct ArpLink {
    socket: Socket,
    /// Our hardware address and our address.
    own: (MacAddr, Ipv4Addr),
}

impl ArpLink {
    pub(super) fn open(link: &LinkAddr, own: (MacAddr, Ipv4Addr), sockets: &mut PacketSockets) -> io::Result<Self> {
        let socket = sockets.take(Purpose::TftpArp, link, Some(answers_to(own.1)))?;
        Ok(Self { socket, own })
    }

    /// Asks who has this address: this device alone, or everyone.
    pub(super) fn ask(&self, address: Ipv4Addr, whom: Option<MacAddr>) -> io::Result<()> {
        let frame = arp::ask(self.own, whom.unwrap_or(EVERYONE), address);
        Ok(send(self.socket.as_raw_fd(), &frame, MsgFlags::MSG_DONTWAIT).map(drop)?)
    }

    /// The next answer, if there is one: an address, and the device that has it.
    pub(super) fn hear(&self) -> Option<(Ipv4Addr, MacAddr)> {
        loop {
            let mut frame = [0; 64];
            match recv(self.socket.as_raw_fd(), &mut frame, MsgFlags::MSG_DONTWAIT) {
                Ok(length) => {
                    if let Some(answer) = frame.get(..length).and_then(arp::answer) {
                        return Some(answer);
                    }
                }
                Err(Errno::EINTR) => {}
                // There is none, or the interface is down; then the device is asked again.
                Err(_) => return None,
            }
        }
    }
}

impl AsFd for ArpLink {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}
