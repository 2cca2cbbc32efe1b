//! Sockets that systemd opened (`sd_listen_fds(3)`): with them the appliance needs no capability at all.
//!
//! `systemd/lineside-*.socket` name them `tftp`, `dhcp` and `dhcp-client`. systemd binds them to a port on all
//! interfaces, because only the appliance finds out which interface the LAN is. The appliance binds them to that
//! interface before it reads anything. Packet sockets come from systemd as well: [`super::opener`] left them there.

use std::io;
use std::net::UdpSocket;
use std::os::fd::{FromRawFd as _, OwnedFd, RawFd};
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context as _, bail};
use socket2::{Domain, Protocol, SockFilter, SockRef, Socket, Type};
use tracing::warn;

use ethernet::filter::{EQUAL, LOAD_BYTE, PACKET_TYPE, RETURN};
use ethernet::{PacketSockets, Purpose};

/// The most datagrams that [`adopt`] throws away: more than a socket's buffer holds.
const MAX_STALE: usize = 65_536;

/// The sockets that systemd opened for us. All are missing in a process that systemd did not start.
#[derive(Debug, Default)]
pub struct Sockets {
    /// The socket of `lineside-tftp.socket`: UDP port 69, where read requests arrive.
    pub tftp: Option<OwnedFd>,
    /// The socket of the DHCP server: UDP port 67.
    pub dhcp: Option<OwnedFd>,
    /// UDP port 68, where a client hears the answers of other DHCP servers.
    pub dhcp_client: Option<OwnedFd>,
    /// The packet sockets that [`super::opener`] left with systemd.
    pub packets: PacketSockets,
}

impl Sockets {
    /// Takes the sockets that systemd passed to this process. Only the first call returns any.
    ///
    /// # Errors
    /// If the environment names sockets that are not there.
    pub fn of_process() -> io::Result<Self> {
        static TAKEN: AtomicBool = AtomicBool::new(false);
        let mut sockets = Self::default();
        if TAKEN.swap(true, Ordering::Relaxed) {
            return Ok(sockets);
        }
        for (fd, name) in sd_notify::listen_fds_with_names()? {
            let socket = own(fd);
            match name.as_str() {
                "tftp" => sockets.tftp = Some(socket),
                "dhcp" => sockets.dhcp = Some(socket),
                "dhcp-client" => sockets.dhcp_client = Some(socket),
                name => match Purpose::from_name(name) {
                    Some(purpose) => sockets.packets.give(purpose, socket)?,
                    None => warn!(name, "systemd passed a socket that is not known here; it is closed"),
                },
            }
        }
        Ok(sockets)
    }
}

fn own(fd: RawFd) -> OwnedFd {
    // SAFETY: systemd passes LISTEN_FDS descriptors, from 3 on, to this very process (LISTEN_PID). Nothing else here
    // owns them, and `of_process` hands them out once.
    #[expect(unsafe_code, reason = "a descriptor by number can be had in no other way")]
    unsafe {
        OwnedFd::from_raw_fd(fd)
    }
}

/// Copies a socket of systemd's and makes it one of the LAN: non-blocking, and bound to `interface` alone.
///
/// Datagrams that arrived before the socket was bound may come from any network, so they are thrown away. If the socket
/// was bound to this interface already, they arrived on the LAN while the service restarted, and they are kept.
///
/// # Errors
/// If `fd` is no IPv4 UDP socket, or is bound to another interface.
pub fn adopt(fd: &OwnedFd, interface: Option<&str>) -> anyhow::Result<UdpSocket> {
    check(fd)?;
    let socket = Socket::from(fd.try_clone().context("cannot copy the socket")?);
    socket.set_nonblocking(true).context("cannot set up the socket")?;
    if let Some(interface) = interface {
        let bound =
            socket.device().context("its interface is gone; restart the service (systemctl restart lineside)")?;
        match bound.as_deref().map(|name| name.strip_suffix(b"\0").unwrap_or(name)) {
            Some(name) if name == interface.as_bytes() => {}
            Some(name) => bail!(
                "it is bound to {}, and the LAN is {interface}; restart the service (systemctl restart lineside)",
                String::from_utf8_lossy(name)
            ),
            // Since Linux 5.7 this takes no capability, as long as the socket is not bound yet.
            None => {
                socket.bind_device(Some(interface.as_bytes())).context("cannot bind it to the LAN interface")?;
                drain(&socket);
            }
        }
    }
    Ok(socket.into())
}

/// Makes the kernel drop broadcasts on a socket that is bound to no address. A TFTP server ignores requests that were
/// sent to a broadcast address (RFC 1123 §4.2.3.1).
///
/// # Errors
/// If the kernel refuses the packet filter.
pub fn ignore_broadcasts(socket: &UdpSocket) -> io::Result<()> {
    const TO_THIS_HOST: u32 = 0; // PACKET_HOST
    SockRef::from(socket).attach_filter(&[
        SockFilter::new(LOAD_BYTE, 0, 0, PACKET_TYPE),
        SockFilter::new(EQUAL, 0, 1, TO_THIS_HOST),
        SockFilter::new(RETURN, 0, 0, u32::MAX),
        SockFilter::new(RETURN, 0, 0, 0),
    ])
}

fn check(fd: &OwnedFd) -> anyhow::Result<()> {
    let socket = SockRef::from(fd);
    let (domain, kind, protocol) = (socket.domain()?, socket.r#type()?, socket.protocol()?);
    if (domain, kind, protocol) != (Domain::IPV4, Type::DGRAM, Some(Protocol::UDP)) {
        bail!("it is no UDP socket of IPv4");
    }
    Ok(())
}

fn drain(socket: &Socket) {
    let mut nothing = [std::mem::MaybeUninit::uninit(); 1];
    for _ in 0..MAX_STALE {
        if matches!(socket.recv(&mut nothing), Err(error) if error.kind() == io::ErrorKind::WouldBlock) {
            break;
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn what_came_before_the_lan_was_known_is_thrown_away() {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let address = socket.local_addr().unwrap();
        let sender = UdpSocket::bind("127.0.0.1:0").unwrap();
        sender.send_to(b"early", address).unwrap();
        let adopted = adopt(&socket.into(), Some("lo")).unwrap();
        sender.send_to(b"later", address).unwrap();
        adopted.set_nonblocking(false).unwrap();
        let mut buffer = [0; 16];
        let length = adopted.recv(&mut buffer).unwrap();
        assert_eq!(buffer.get(..length), Some(&b"later"[..]));
        if cfg!(target_arch = "aarch64") && SockRef::from(&adopted).device().is_err() {
            eprintln!("SKIPPED the rest: qemu-user cannot tell which interface a socket is bound to");
            return;
        }
        // After a restart of the service the socket is bound to the LAN already. What waited in it is served.
        sender.send_to(b"waited", address).unwrap();
        let again = adopt(&adopted.try_clone().unwrap().into(), Some("lo")).unwrap();
        again.set_nonblocking(false).unwrap();
        let length = again.recv(&mut buffer).unwrap();
        assert_eq!(buffer.get(..length), Some(&b"waited"[..]));
    }

    #[test]
    fn a_socket_of_another_kind_is_refused() {
        let tcp = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        assert_eq!(adopt(&tcp.into(), None).unwrap_err().to_string(), "it is no UDP socket of IPv4");
        let six = UdpSocket::bind("[::1]:0").unwrap();
        assert!(adopt(&six.into(), None).is_err());
    }

    #[test]
    fn without_systemd_there_are_no_sockets() {
        let sockets = Sockets::of_process().unwrap();
        assert!(sockets.tftp.is_none() && sockets.dhcp.is_none() && sockets.dhcp_client.is_none());
    }
}
