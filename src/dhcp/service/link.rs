//! The link of an interface, for frames to clients that have no address yet.

use std::net::SocketAddrV4;
use std::os::fd::AsRawFd as _;

use nix::sys::socket::{LinkAddr, MsgFlags, sendto};
use socket2::Socket;
use tracing::warn;

use super::config::BindError;
use ethernet::frame;
use ethernet::{PacketSockets, Purpose};
use ids::MacAddr;

/// An interface and a socket that sends frames on it.
#[derive(Debug)]
pub(super) struct Link {
    /// The interface's hardware address.
    pub mac: MacAddr,
    /// The interface as the kernel names it to packet sockets.
    pub address: LinkAddr,
    /// The socket for frames, if this process may have one.
    pub raw: Option<Socket>,
}

impl Link {
    /// Opens the link of an interface.
    ///
    /// # Errors
    ///
    /// [`BindError::Interface`] if there is none.
    pub(super) fn open(interface: &str, sockets: &mut PacketSockets) -> Result<Self, BindError> {
        let (address, mac) = hardware(interface)?;
        let raw = sockets.take(Purpose::Send, &address, None);
        let raw = raw.inspect_err(|error| warn!(%error, "no raw socket: replies go out as broadcasts")).ok();
        Ok(Self { mac, address, raw })
    }

    /// Sends a datagram to a device that does not have the address yet. Says whether it was sent.
    pub(super) fn send(&self, from: SocketAddrV4, to: (MacAddr, SocketAddrV4), bytes: &[u8]) -> bool {
        let (Some(raw), Some(frame)) = (&self.raw, frame::emit((self.mac, from), to, bytes)) else { return false };
        sendto(raw.as_raw_fd(), &frame, &self.address, MsgFlags::empty()).is_ok()
    }
}

/// The hardware address of an interface.
///
/// # Errors
///
/// [`BindError::Interface`] if there is none.
pub fn hardware_address(interface: &str) -> Result<MacAddr, BindError> {
    hardware(interface).map(|(_, mac)| mac)
}

pub(super) fn hardware(interface: &str) -> Result<(LinkAddr, MacAddr), BindError> {
    let none = || BindError::Interface(interface.to_owned());
    let mut all = nix::ifaddrs::getifaddrs()
        .map_err(|errno| BindError::Socket { what: "list interfaces", source: errno.into() })?;
    all.find_map(|found| {
        let address = found.address.filter(|_| found.interface_name == interface)?.as_link_addr().copied()?;
        Some((address, MacAddr::new(address.addr()?)))
    })
    .ok_or_else(none)
}
