//! A phone's end of the wire, packet by packet, in a host of its own.

use std::net::{SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

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
