//! One UDP datagram in an Ethernet frame, for clients that have no address yet. Pure.
//!
//! RFC 2131 §4.1: without the broadcast bit the reply goes to the hardware address of the client and to the address that
//! it is about to get. The kernel would ask by ARP for that address first, and nobody would answer.

use std::net::SocketAddrV4;

use crate::ids::MacAddr;

/// Ethernet, IPv4 and UDP header, in octets.
const HEADERS_BYTES: usize = 14 + 20 + 8;

/// A frame from `source` to `destination` with `payload`; `None` if the payload is too long for a datagram.
pub fn emit(
    (source_mac, source): (MacAddr, SocketAddrV4),
    (destination_mac, destination): (MacAddr, SocketAddrV4),
    payload: &[u8],
) -> Option<Vec<u8>> {
    let udp_length = u16::try_from(payload.len() + 8).ok()?;
    let ip_length = udp_length.checked_add(20)?;
    let [src, dst] = [source.ip().octets(), destination.ip().octets()];

    // RFC 791. No fragments, so no identification is needed (RFC 6864).
    let mut ip = vec![0x45, 0];
    ip.extend(ip_length.to_be_bytes());
    ip.extend([0, 0, 0x40, 0]); // don't fragment
    ip.extend([64, 17]); // hops, UDP
    ip.extend([0, 0]);
    ip.extend(src);
    ip.extend(dst);
    let ip_checksum = !sum(0, &ip);

    // RFC 768. The checksum covers a pseudo-header, too; 0 would mean none.
    let mut udp = Vec::with_capacity(8);
    udp.extend(source.port().to_be_bytes());
    udp.extend(destination.port().to_be_bytes());
    udp.extend(udp_length.to_be_bytes());
    let pseudo = [&src[..], &dst[..], &[0, 17], &udp_length.to_be_bytes()].concat();
    let udp_checksum = match !sum(sum(sum(0, &pseudo), &udp), payload) {
        0 => u16::MAX,
        other => other,
    };

    let mut frame = Vec::with_capacity(HEADERS_BYTES + payload.len());
    frame.extend(destination_mac.octets());
    frame.extend(source_mac.octets());
    frame.extend([0x08, 0x00]);
    frame.extend(ip.iter().take(10));
    frame.extend(ip_checksum.to_be_bytes());
    frame.extend(ip.iter().skip(12));
    frame.extend(udp);
    frame.extend(udp_checksum.to_be_bytes());
    frame.extend(payload);
    Some(frame)
}

/// The one's complement sum of RFC 1071, from `start`. All parts but the last must be of even length.
fn sum(start: u16, bytes: &[u8]) -> u16 {
    let mut total = u32::from(start);
    for pair in bytes.chunks(2) {
        let word = match *pair {
            [high, low] => u16::from_be_bytes([high, low]),
            [high] => u16::from_be_bytes([high, 0]),
            _ => 0,
        };
        total += u32::from(word);
        total = (total & 0xffff) + (total >> 16);
    }
    u16::try_from(total).unwrap_or(u16::MAX)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]
    use std::net::Ipv4Addr;

    use super::*;

    #[test]
    fn both_checksums_come_out_right_for_even_and_odd_payloads() {
        for payload in [&b"even"[..], b"odd", b""] {
            let source = SocketAddrV4::new(Ipv4Addr::new(192, 168, 1, 2), 67);
            let destination = SocketAddrV4::new(Ipv4Addr::new(192, 168, 1, 100), 68);
            let mac = MacAddr::new([2, 0, 0, 0, 0, 1]);
            let frame = emit((mac, source), (mac, destination), payload).unwrap();
            assert_eq!(frame.len(), HEADERS_BYTES + payload.len());
            let (ip, udp) = (&frame[14..34], &frame[34..]);
            // A sum over everything, checksum included, is all ones (RFC 1071).
            assert_eq!(sum(0, ip), 0xffff);
            let pseudo = [&ip[12..20], &[0, 17], &udp[4..6]].concat();
            assert_eq!(sum(sum(0, &pseudo), udp), 0xffff);
        }
    }

    #[test]
    fn a_payload_over_64_kilobytes_is_no_datagram() {
        let end = (MacAddr::new([2; 6]), SocketAddrV4::new(Ipv4Addr::BROADCAST, 68));
        assert_eq!(emit(end, end, &vec![0; 65_500]).map(|frame| frame.len()), Some(HEADERS_BYTES + 65_500));
        assert_eq!(emit(end, end, &vec![0; 65_530]), None);
    }
}
