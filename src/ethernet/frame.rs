//! One UDP datagram in an Ethernet frame, for clients that have no address yet, and for those whose hardware address was
//! judged and must not be looked up again. Pure.
//!
//! RFC 2131 §4.1: without the broadcast bit, a reply goes to the hardware address of the client and to the address that the
//! client is about to get. The kernel would ask for that address by ARP before it sends, and nobody would answer.

use std::net::{Ipv4Addr, SocketAddrV4};

use ids::MacAddr;

/// The length of Ethernet, IPv4 and UDP header, in octets.
pub const HEADERS_BYTES: usize = 14 + 20 + 8;

/// The octets of a frame with this payload. `None` if the payload is too long for a datagram.
pub fn emit(source: (MacAddr, SocketAddrV4), destination: (MacAddr, SocketAddrV4), payload: &[u8]) -> Option<Vec<u8>> {
    let headers = Headers::new(source, destination).before(&[payload])?;
    Some([&headers[..], payload].concat())
}

/// The headers of all datagrams from one end to another. They are made once; for each datagram only the lengths and the
/// checksums change, and of those only what differs is summed.
#[derive(Debug, Clone)]
pub struct Headers {
    octets: [u8; HEADERS_BYTES],
    /// The sum of the IPv4 header without its length.
    ip_sum: u16,
    /// The sum of pseudo-header and UDP header without their lengths.
    udp_sum: u16,
}

impl Headers {
    /// The headers of datagrams between two ends.
    pub fn new(
        (source_mac, source): (MacAddr, SocketAddrV4),
        (destination_mac, destination): (MacAddr, SocketAddrV4),
    ) -> Self {
        let mut octets = [0; HEADERS_BYTES];
        let mut free = octets.iter_mut();
        let mut put = |bytes: &[u8]| bytes.iter().zip(&mut free).for_each(|(byte, at)| *at = *byte);
        put(&destination_mac.octets());
        put(&source_mac.octets());
        put(&[0x08, 0x00]);
        // RFC 791: no options. No fragments either, so no identification is needed (RFC 6864). 64 hops, UDP.
        put(&[0x45, 0, 0, 0, 0, 0, 0x40, 0, 64, 17, 0, 0]);
        put(&source.ip().octets());
        put(&destination.ip().octets());
        put(&source.port().to_be_bytes());
        put(&destination.port().to_be_bytes());
        let (_, packet) = octets.split_at(14);
        let (ip, ports) = packet.split_at(20);
        let (_, addresses) = ip.split_at(12);
        // RFC 768: the checksum covers a pseudo-header, too.
        let udp_sum = sum(sum(sum(0, addresses), &[0, 17]), ports);
        Self { ip_sum: sum(0, ip), udp_sum, octets }
    }

    /// The headers of the datagram whose payload is these pieces, one behind the other. `None` if they are too long for a
    /// datagram.
    pub fn before(&self, pieces: &[&[u8]]) -> Option<[u8; HEADERS_BYTES]> {
        let payload: usize = pieces.iter().map(|piece| piece.len()).sum();
        let udp_length = u16::try_from(payload.checked_add(8)?).ok()?;
        let ip_length = udp_length.checked_add(20)?;
        let (mut total, mut odd) = (add(self.udp_sum, udp_length), false);
        // The length counts twice: in the pseudo-header and in the header.
        total = add(total, udp_length);
        for piece in pieces {
            let of_piece = sum(0, piece);
            // RFC 1071 §2 (B): at an odd place every octet is the other half of its word.
            total = add(total, if odd { of_piece.swap_bytes() } else { of_piece });
            odd ^= piece.len() % 2 == 1;
        }
        let mut octets = self.octets;
        set(&mut octets, 16, ip_length);
        set(&mut octets, 24, !add(self.ip_sum, ip_length));
        set(&mut octets, 38, udp_length);
        // A checksum of 0 would mean none.
        set(&mut octets, 40, if total == u16::MAX { u16::MAX } else { !total });
        Some(octets)
    }
}

fn set(octets: &mut [u8; HEADERS_BYTES], at: usize, value: u16) {
    if let Some(place) = octets.get_mut(at..at + 2) {
        place.copy_from_slice(&value.to_be_bytes());
    }
}

/// A UDP datagram as it came in a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Datagram<'a> {
    /// The hardware address that the frame came from.
    pub sender: MacAddr,
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
        sender: MacAddr::new(<[u8; 6]>::try_from(ethernet.get(6..12)?).ok()?),
        broadcast: ethernet.starts_with(&[0xff; 6]) || destination.ip().is_broadcast(),
        source: SocketAddrV4::new(address(12)?, number(udp, 0)?),
        destination,
        payload: udp.get(8..usize::from(number(udp, 4)?))?,
    })
}

/// Adds octets to a one's complement sum (RFC 1071). All parts but the last must be of even length.
fn sum(start: u16, bytes: &[u8]) -> u16 {
    // RFC 1071 §2 (B) and (C): several words at a time, in whatever order of octets this machine has. From the first octet
    // to the last: a block's bytes are often in no cache yet, and only what is read in order is fetched ahead.
    let (words, rest) = bytes.as_chunks::<8>();
    let (half, rest) = rest.as_chunks::<4>();
    let (pair, odd) = rest.as_chunks::<2>();
    let halves = |word: &[u8; 8]| {
        let word = u64::from_ne_bytes(*word);
        (word & 0xffff_ffff) + (word >> 32)
    };
    let mut total: u64 = words.iter().map(halves).sum();
    total += half.iter().map(|half| u64::from(u32::from_ne_bytes(*half))).sum::<u64>();
    total += pair.iter().map(|pair| u64::from(u16::from_ne_bytes(*pair))).sum::<u64>();
    total += odd.iter().map(|odd| u64::from(u16::from_ne_bytes([*odd, 0]))).sum::<u64>();
    let fold = |total: u64| (total & 0xffff) + (total >> 16 & 0xffff) + (total >> 32 & 0xffff) + (total >> 48);
    let folded = u16::try_from(fold(fold(fold(total)))).unwrap_or(u16::MAX);
    add(start, u16::from_be_bytes(folded.to_ne_bytes()))
}

/// The one's complement sum of two words.
const fn add(a: u16, b: u16) -> u16 {
    let (total, carry) = a.overflowing_add(b);
    if carry { total + 1 } else { total }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::cast_possible_truncation)]
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
    fn pieces_are_summed_as_one_payload_wherever_they_are_cut() {
        let source = (MacAddr::new([2, 0, 0, 0, 0, 1]), SocketAddrV4::new(Ipv4Addr::new(10, 0, 0, 2), 61_000));
        let phone = (MacAddr::new([0, 4, 0xf2, 0, 0, 2]), SocketAddrV4::new(Ipv4Addr::new(10, 0, 0, 99), 50_001));
        let payload: Vec<u8> = (0..1472u32).map(|at| at.wrapping_mul(2_654_435_761).to_be_bytes()[0]).collect();
        let headers = Headers::new(source, phone);
        for length in [0, 1, 2, 7, 8, 9, 516, 1471, 1472] {
            let payload = &payload[..length];
            let whole =
                slow_sum(&[&[10, 0, 0, 2, 10, 0, 0, 99, 0, 17][..], &(length as u16 + 8).to_be_bytes()].concat());
            for cut in [0, 1, 4, 5, length / 2, length] {
                let (one, two) = payload.split_at(cut.min(length));
                let octets = headers.before(&[one, two]).unwrap();
                let udp = [&octets[34..], payload].concat();
                let total = u32::from(whole) + u32::from(slow_sum(&udp));
                assert_eq!(total % 0xffff, 0, "{length} cut at {cut}");
                assert_eq!(slow_sum(&octets[14..34]), 0xffff);
                assert_eq!(emit(source, phone, payload).unwrap(), [&octets[..], payload].concat());
            }
        }
    }

    #[test]
    fn a_checksum_of_zero_is_sent_as_ones() {
        let end = (MacAddr::new([2; 6]), SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 0));
        let headers = Headers::new(end, end);
        // The sum of pseudo-header, header and these two octets is all ones.
        let payload = (!(17 + 10 + 10_u16)).to_be_bytes();
        assert_eq!(headers.before(&[&payload]).unwrap()[40..], [0xff, 0xff]);
    }

    /// RFC 1071, word by word.
    fn slow_sum(bytes: &[u8]) -> u16 {
        let mut total = 0u32;
        for pair in bytes.chunks(2) {
            total += u32::from(pair[0]) << 8 | pair.get(1).map_or(0, |low| u32::from(*low));
            total = (total & 0xffff) + (total >> 16);
        }
        total as u16
    }

    #[test]
    fn what_is_emitted_is_parsed_and_no_cut_frame_is() {
        let source = SocketAddrV4::new(Ipv4Addr::new(192, 168, 1, 2), 67);
        let destination = SocketAddrV4::new(Ipv4Addr::BROADCAST, 68);
        let mac = MacAddr::new([2, 0, 0, 0, 0, 1]);
        let mut frame = emit((mac, source), (MacAddr::new([0xff; 6]), destination), b"payload").unwrap();
        let whole = Datagram { sender: mac, broadcast: true, source, destination, payload: b"payload" };
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
