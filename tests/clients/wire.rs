//! A phone's end of the wire, packet by packet, in a host of its own.

use std::io::Read as _;
use std::net::{SocketAddr, SocketAddrV4, UdpSocket};
use std::os::fd::AsRawFd as _;
use std::time::{Duration, Instant};

use socket2::{Domain, Protocol, Socket, Type};

use super::net::Host;

/// The answer to everything that is not served.
pub const NOT_FOUND: &[u8] = b"\0\x05\0\x01File not found\0";

/// A socket of a host, with a read timeout of 2 seconds.
pub fn socket(host: &Host, address: &str) -> UdpSocket {
    let address = address.to_owned();
    let socket = host.inside(move || UdpSocket::bind(address).unwrap()).join().unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
    socket
}

/// A request; `opcode` 1 reads, 2 writes.
pub fn request(opcode: u8, name: &str, options: &[(&str, &str)]) -> Vec<u8> {
    let mut packet = vec![0, opcode];
    for text in [name, "octet"].into_iter().chain(options.iter().flat_map(|(name, value)| [*name, *value])) {
        packet.extend_from_slice(text.as_bytes());
        packet.push(0);
    }
    packet
}

pub fn rrq(name: &str) -> Vec<u8> {
    request(1, name, &[])
}

/// The next packet.
pub fn hear(socket: &UdpSocket) -> Option<(Vec<u8>, SocketAddr)> {
    let mut buffer = [0; 2048];
    let (length, from) = socket.recv_from(&mut buffer).ok()?;
    Some((buffer[..length].to_vec(), from))
}

/// Everything that comes within this time.
pub fn hear_for(socket: &UdpSocket, time: Duration) -> Vec<Vec<u8>> {
    let end = Instant::now() + time;
    let mut heard = Vec::new();
    while let Some(left) = end.checked_duration_since(Instant::now()).filter(|left| !left.is_zero()) {
        socket.set_read_timeout(Some(left)).unwrap();
        heard.extend(hear(socket).map(|(packet, _)| packet));
    }
    heard
}

/// Fetches a file without options; the packet that is no DATA if one comes, nothing if nobody answers.
pub fn get(socket: &UdpSocket, server: &str, name: &str) -> Result<Vec<u8>, Vec<u8>> {
    socket.send_to(&rrq(name), format!("{server}:69")).unwrap();
    let mut file = Vec::new();
    let mut block = 1u16;
    loop {
        let (packet, from) = hear(socket).ok_or_else(Vec::new)?;
        let [high, low] = block.to_be_bytes();
        match packet.get(..4) {
            Some(head) if head == [0, 3, high, low] => {
                file.extend_from_slice(&packet[4..]);
                socket.send_to(&[0, 4, high, low], from).unwrap();
                if packet.len() < 516 {
                    return Ok(file);
                }
                block = block.wrapping_add(1);
            }
            Some([0, 3, ..]) => {}
            _ => return Err(packet),
        }
    }
}

/// Writes a file without options: the packet that refuses it, or the last ACK.
pub fn put(socket: &UdpSocket, server: &str, name: &str, text: &[u8]) -> Vec<u8> {
    socket.send_to(&request(2, name, &[]), format!("{server}:69")).unwrap();
    let mut blocks = text.chunks(512).collect::<Vec<_>>();
    if text.len().is_multiple_of(512) {
        blocks.push(&[]);
    }
    let mut last = Vec::new();
    for block in 0..=u16::try_from(blocks.len()).unwrap() {
        let Some((packet, from)) = hear(socket) else { return Vec::new() };
        let [high, low] = block.to_be_bytes();
        if packet != [0, 4, high, low] {
            return packet;
        }
        last = packet;
        if let Some(bytes) = blocks.get(usize::from(block)) {
            let [high, low] = (block + 1).to_be_bytes();
            socket.send_to(&[&[0, 3, high, low], *bytes].concat(), from).unwrap();
        }
    }
    last
}

/// A packet socket on a host's interface: it hears and sends whole frames.
pub fn raw(host: &Host, interface: &str) -> Socket {
    let interface = interface.to_owned();
    let open = move || {
        let all = i32::from(0x0003_u16.to_be()); // ETH_P_ALL
        let socket = Socket::new(Domain::PACKET, Type::RAW, Some(Protocol::from(all))).unwrap();
        let link = nix::ifaddrs::getifaddrs()
            .unwrap()
            .find_map(|one| one.address.filter(|_| one.interface_name == interface)?.as_link_addr().copied());
        let index = link.expect("the interface").ifindex();
        // SAFETY: an address of all zeros is one, and the call reads no more than its length.
        #[allow(unsafe_code)]
        let bound = unsafe {
            let mut link: libc::sockaddr_ll = std::mem::zeroed();
            link.sll_family = libc::AF_PACKET as u16;
            link.sll_protocol = 0x0003_u16.to_be();
            link.sll_ifindex = index as i32;
            let length = std::mem::size_of_val(&link) as libc::socklen_t;
            libc::bind(socket.as_raw_fd(), (&raw const link).cast(), length)
        };
        assert_eq!(bound, 0);
        socket
    };
    let socket = host.inside(open).join().unwrap();
    socket.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
    socket
}

/// The next frame that a packet socket hears.
pub fn frame(socket: &Socket) -> Option<Vec<u8>> {
    let mut buffer = [0; 2048];
    let length = (&*socket).read(&mut buffer).ok()?;
    Some(buffer[..length].to_vec())
}

/// Octets of a hardware address.
pub fn mac(text: &str) -> [u8; 6] {
    let octets: Vec<u8> = text.trim().split(':').map(|octet| u8::from_str_radix(octet, 16).unwrap()).collect();
    octets.try_into().unwrap()
}

/// A UDP datagram in a frame, its UDP checksum left out (RFC 768 allows that).
pub fn udp_frame(ethernet: ([u8; 6], [u8; 6]), from: SocketAddrV4, to: SocketAddrV4, payload: &[u8]) -> Vec<u8> {
    let length = |bytes: usize| u16::try_from(bytes).unwrap().to_be_bytes();
    let mut ip = vec![0x45, 0];
    ip.extend(length(28 + payload.len()));
    ip.extend([0, 0, 0x40, 0, 64, 17, 0, 0]);
    ip.extend(from.ip().octets());
    ip.extend(to.ip().octets());
    let sum: u32 = ip.chunks(2).map(|word| u32::from(word[0]) << 8 | u32::from(word[1])).sum();
    let sum = !((sum & 0xffff) + (sum >> 16)) as u16;
    ip[10..12].copy_from_slice(&sum.to_be_bytes());
    let (source, destination) = ethernet;
    let ends = [from.port().to_be_bytes(), to.port().to_be_bytes(), length(8 + payload.len()), [0, 0]].concat();
    [&destination[..], &source, &[8, 0], &ip, &ends, payload].concat()
}

/// The ends and the payload of a UDP datagram in a frame.
pub fn datagram(frame: &[u8]) -> Option<(SocketAddrV4, SocketAddrV4, &[u8])> {
    if frame.get(12..15)? != [8, 0, 0x45] || frame.get(23) != Some(&17) {
        return None;
    }
    let end = |ip: usize, port: usize| {
        let address: [u8; 4] = frame.get(ip..ip + 4)?.try_into().ok()?;
        Some(SocketAddrV4::new(address.into(), u16::from_be_bytes(frame.get(port..port + 2)?.try_into().ok()?)))
    };
    let length = usize::from(u16::from_be_bytes(frame.get(38..40)?.try_into().ok()?));
    Some((end(26, 34)?, end(30, 36)?, frame.get(42..34 + length)?))
}
