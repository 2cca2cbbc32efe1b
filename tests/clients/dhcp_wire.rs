//! DHCP by hand: sockets on a host's ports, messages in octets, and a router that answers as a test says.

use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};

use super::net::Host;

/// A socket on a port of a host, also of one without an address. It waits 200 ms for a message.
pub fn socket(host: &Host, port: u16) -> UdpSocket {
    let work = move || {
        let socket = Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP)).unwrap();
        socket.bind_device(Some(b"eth0")).unwrap();
        socket.set_broadcast(true).unwrap();
        socket.set_reuse_address(true).unwrap();
        socket.bind(&SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, port).into()).unwrap();
        let socket = UdpSocket::from(socket);
        socket.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
        socket
    };
    host.inside(work).join().unwrap()
}

/// A client's message with these options after option 53, which is `kind`. A client without an address wants broadcasts.
pub fn bootp(kind: u8, xid: [u8; 4], mac: [u8; 6], ciaddr: [u8; 4], options: &[&[u8]]) -> Vec<u8> {
    let mut bytes = [&[1, 1, 6, 0][..], &xid, &[0, 0, if ciaddr == [0; 4] { 0x80 } else { 0 }, 0], &ciaddr].concat();
    bytes.resize(28, 0);
    bytes.extend(mac);
    bytes.resize(236, 0);
    bytes.extend([99, 130, 83, 99, 53, 1, kind]);
    options.iter().for_each(|option| bytes.extend(*option));
    bytes.push(255);
    bytes.resize(bytes.len().max(300), 0);
    bytes
}

/// A DHCP server that answers as the test says; it ends when it is dropped.
pub struct ScriptedRouter {
    stop: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<()>>,
}

/// A client's or relay agent's message.
pub struct Asked(Vec<u8>);

impl Asked {
    pub fn giaddr(&self) -> [u8; 4] {
        self.0[24..28].try_into().unwrap()
    }

    /// Option 53.
    pub fn kind(&self) -> u8 {
        self.0[242]
    }

    fn header(&self) -> Vec<u8> {
        let mut bytes = self.0[..240].to_vec();
        bytes[0] = 2;
        bytes[16..20].copy_from_slice(&[10, 78, 0, 50]);
        bytes
    }

    /// OFFER or ACK of a server, with further options.
    pub fn reply(&self, server: [u8; 4], options: &[u8]) -> Vec<u8> {
        let kind = if self.kind() == 1 { 2 } else { 5 };
        let mut bytes = self.header();
        bytes.extend([53, 1, kind, 54, 4]);
        bytes.extend(server);
        bytes.extend([51, 4, 0, 0, 2, 88, 1, 4, 255, 255, 255, 0, 3, 4, 10, 78, 0, 9]);
        bytes.extend(options);
        bytes.push(255);
        bytes.resize(bytes.len().max(300), 0);
        bytes
    }

    /// A reply without options.
    pub fn unreadable(&self) -> Vec<u8> {
        let mut bytes = self.header();
        bytes.push(255);
        bytes.resize(300, 0);
        bytes
    }
}

impl ScriptedRouter {
    /// A router at 10.78.0.9.
    pub fn start(host: &Host, answer: impl Fn(&Asked) -> Vec<Vec<u8>> + Send + 'static) -> Self {
        host.sh("ip address add 10.78.0.9/24 dev eth0");
        Self::start_without_address(host, answer)
    }

    /// A router at the address that the host has.
    pub fn start_without_address(host: &Host, answer: impl Fn(&Asked) -> Vec<Vec<u8>> + Send + 'static) -> Self {
        let (socket, stop) = (socket(host, 67), Arc::new(AtomicBool::new(false)));
        let stopped = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            let mut bytes = [0; 1500];
            while !stopped.load(Ordering::Relaxed) {
                let Ok((length, _)) = socket.recv_from(&mut bytes) else { continue };
                if length < 243 || bytes[0] != 1 {
                    continue;
                }
                let asked = Asked(bytes[..length].to_vec());
                let to = match asked.giaddr() {
                    [0, 0, 0, 0] => SocketAddrV4::new(Ipv4Addr::BROADCAST, 68),
                    relay => SocketAddrV4::new(relay.into(), 67),
                };
                answer(&asked).iter().for_each(|reply| drop(socket.send_to(reply, to)));
            }
        });
        Self { stop, thread: Some(thread) }
    }
}

impl Drop for ScriptedRouter {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.take().map(std::thread::JoinHandle::join);
    }
}
