//! Messages as phones and relay agents send them.

use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};

use socket2::{Domain, Protocol, Socket, Type};

pub const DISCOVER: u8 = 1;
pub const OFFER: u8 = 2;
pub const REQUEST: u8 = 3;
pub const ACK: u8 = 5;

/// A socket on a port of this network namespace; `interface` for hosts without an address.
pub fn socket(interface: Option<&str>, address: Ipv4Addr, port: u16) -> UdpSocket {
    let socket = Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP)).unwrap();
    if let Some(interface) = interface {
        socket.bind_device(Some(interface.as_bytes())).unwrap();
    }
    socket.set_broadcast(true).unwrap();
    let _ = socket.set_recv_buffer_size(4 << 20);
    socket.bind(&SocketAddrV4::new(address, port).into()).unwrap();
    socket.into()
}

/// A message of a Polycom phone; with a relay's address as that relay passes it on.
pub fn message(xid: u32, mac: [u8; 6], relay: Ipv4Addr, options: &[u8]) -> Vec<u8> {
    let mut bytes = vec![1, 1, 6, u8::from(!relay.is_unspecified())];
    bytes.extend(xid.to_be_bytes());
    bytes.extend([0, 0, 0x80, 0]);
    bytes.resize(24, 0);
    bytes.extend(relay.octets());
    bytes.extend(mac);
    bytes.resize(236, 0);
    bytes.extend([99, 130, 83, 99]);
    bytes.extend(options);
    bytes.extend([60, 15]);
    bytes.extend(b"Polycom-SPIP670");
    bytes.extend([55, 4, 1, 3, 66, 150, 255]);
    bytes.resize(bytes.len().max(300), 0);
    bytes
}

pub fn discover(xid: u32, mac: [u8; 6], relay: Ipv4Addr) -> Vec<u8> {
    message(xid, mac, relay, &[53, 1, DISCOVER])
}

/// The REQUEST that takes an offer.
pub fn select(offer: &[u8], mac: [u8; 6], relay: Ipv4Addr) -> Option<Vec<u8>> {
    let mut options = vec![53, 1, REQUEST, 50, 4];
    options.extend(offer.get(16..20)?);
    options.extend([54, 4]);
    options.extend(option(offer, 54)?);
    Some(message(xid(offer)?, mac, relay, &options))
}

pub fn xid(message: &[u8]) -> Option<u32> {
    Some(u32::from_be_bytes(message.get(4..8)?.try_into().ok()?))
}

pub fn option(message: &[u8], wanted: u8) -> Option<&[u8]> {
    let mut rest = message.get(240..)?;
    loop {
        match *rest {
            [0, ref more @ ..] => rest = more,
            [255, ..] | [] => return None,
            [code, length, ref more @ ..] => {
                let (value, more) = more.split_at_checked(usize::from(length))?;
                if code == wanted {
                    return Some(value);
                }
                rest = more;
            }
            [_] => return None,
        }
    }
}

/// The type of a server's message.
pub fn kind(message: &[u8]) -> Option<u8> {
    option(message, 53)?.first().copied()
}
