//! One UDP datagram in an Ethernet frame, for clients that have no address yet. Pure.
//!
//! RFC 2131 §4.1: without the broadcast bit, a reply goes to the hardware address of the client and to the address that the
//! client is about to get. The kernel would ask for that address by ARP before it sends, and nobody would answer.

use std::net::{Ipv4Addr, SocketAddrV4};

use ids::MacAddr;

/// The length of Ethernet, IPv4 and UDP header, in octets.
const HEADERS_BYTES: usize = 14 + 20 + 8;

/// The octets of a frame with this payload. `None` if the payload is too long for a datagram.
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

/// A UDP datagram as it came in a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Datagram<'a> {
    /// Whether the frame or the datagram was for everyone.
    pub broadcast: bool,
    /// The address and port that it came from.
    pub source: SocketAddrV4,
    /// The address and port that it is for.
    pub destination: SocketAddrV4,
    /// The octets behind the UDP header.
    pub payload: &'a [u8],
}

/// Reads a frame with one whole UDP datagram over IPv4. `None` for everything else.
///
/// Checksums are not verified. Frames of this machine's own virtual links carry none yet, and on a real link the network
/// card drops damaged frames.
pub fn parse(frame: &[u8]) -> Option<Datagram<'_>> {
    let (ethernet, packet) = frame.split_at_checked(14)?;
    if ethernet.get(12..14)? != [0x08, 0x00] {
        return None;
    }
    let &version_length = packet.first()?;
    let header_length = usize::from(version_length & 0x0f) * 4;
    let number = |bytes: &[u8], at: usize| Some(u16::from_be_bytes(bytes.get(at..at + 2)?.try_into().ok()?));
    if version_length >> 4 != 4 || header_length < 20 || *packet.get(9)? != 17 || number(packet, 6)? & 0x3fff != 0 {
        return None;
    }
    // Short frames are padded: the datagram ends where its header says.
    let packet = packet.get(..usize::from(number(packet, 2)?))?;
    let address = |at: usize| Some(Ipv4Addr::from(<[u8; 4]>::try_from(packet.get(at..at + 4)?).ok()?));
    let udp = packet.get(header_length..)?;
    let destination = SocketAddrV4::new(address(16)?, number(udp, 2)?);
    Some(Datagram {
        broadcast: ethernet.starts_with(&[0xff; 6]) || destination.ip().is_broadcast(),
        source: SocketAddrV4::new(address(12)?, number(udp, 0)?),
        destination,
        payload: udp.get(8..usize::from(number(udp, 4)?))?,
    })
}

/// Adds octets to a one's complement sum (RFC 1071). All parts but the last must be of even length.
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
    fn what_is_emitted_is_parsed_and_no_cut_frame_is() {
        let source = SocketAddrV4::new(Ipv4Addr::new(192, 168, 1, 2), 67);
        let destination = SocketAddrV4::new(Ipv4Addr::BROADCAST, 68);
        let mac = MacAddr::new([2, 0, 0, 0, 0, 1]);
        let mut frame = emit((mac, source), (MacAddr::new([0xff; 6]), destination), b"payload").unwrap();
        let whole = Datagram { broadcast: true, source, destination, payload: b"payload" };
        for length in 0..frame.len() {
            assert_eq!(parse(&frame[..length]), None, "{length}");
        }
        assert_eq!(parse(&frame), Some(whole));
        frame.extend([0; 30]);
        assert_eq!(parse(&frame), Some(whole), "padding does not count");
        for (place, wrong) in [(12, 0x86), (14, 0x65), (14, 0x44), (14, 0x4f), (20, 0x20), (23, 6), (16, 0xff)] {
            let mut frame = frame.clone();
            frame[place] = wrong;
            assert_eq!(parse(&frame), None, "{place}");
        }
    }

    #[test]
    fn a_tag_that_was_left_in_the_frame_is_not_taken_for_a_datagram() {
        let end = (MacAddr::new([0xff; 6]), SocketAddrV4::new(Ipv4Addr::BROADCAST, 67));
        let plain =
            emit((MacAddr::new([2; 6]), SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 68)), end, b"payload").unwrap();
        // IEEE 802.1Q and 802.1ad; two of them, as a provider's link has them; and a tag that gives a priority only.
        for tag in [&[0x81, 0, 0, 20][..], &[0x88, 0xa8, 0, 7, 0x81, 0, 0, 20], &[0x81, 0, 0xa0, 0]] {
            let tagged = [&plain[..12], tag, &plain[12..]].concat();
            assert_eq!(parse(&tagged), None, "{tag:x?}");
        }
    }

    #[test]
    fn a_payload_over_64_kilobytes_is_no_datagram() {
        let end = (MacAddr::new([2; 6]), SocketAddrV4::new(Ipv4Addr::BROADCAST, 68));
        assert_eq!(emit(end, end, &vec![0; 65_500]).map(|frame| frame.len()), Some(HEADERS_BYTES + 65_500));
        assert_eq!(emit(end, end, &vec![0; 65_530]), None);
    }
}
