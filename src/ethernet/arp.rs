//! ARP frames (RFC 826): a question, and an answer that can be believed. Pure.
//!
//! An answer says twice who sent it: in its Ethernet header and in its payload. What the payload says costs a liar nothing.
//! The source in the header is also what a switch learns its table from: a frame with it shows that the switch has just
//! heard that device, and knows the port behind which it is. So an answer counts only if both are the same.

use std::net::Ipv4Addr;

use ids::MacAddr;

/// The length of Ethernet header and ARP message, in octets.
pub const FRAME_BYTES: usize = 14 + 28;

/// The hardware address that everyone hears.
pub const EVERYONE: MacAddr = MacAddr::new([0xff; 6]);

/// The frame in which `from`, a hardware address and the protocol address there, asks who has an address. `to` is who hears
/// it: [`EVERYONE`], or the one device that is expected there (RFC 1122 §2.3.2.1, unicast poll).
pub fn ask(from: (MacAddr, Ipv4Addr), to: MacAddr, address: Ipv4Addr) -> Vec<u8> {
    let (mac, own) = from;
    let mut frame = Vec::with_capacity(FRAME_BYTES);
    frame.extend(to.octets());
    frame.extend(mac.octets());
    frame.extend([8, 6, 0, 1, 8, 0, 6, 4, 0, 1]);
    frame.extend(mac.octets());
    frame.extend(own.octets());
    frame.extend([0; 6]);
    frame.extend(address.octets());
    frame
}

/// Reads the answer of a device to a question of ours: the address that it has, and its hardware address. `None` for
/// everything else, and for an answer that one device sends in the name of another.
pub fn answer(frame: &[u8]) -> Option<(Ipv4Addr, MacAddr)> {
    let frame = frame.get(..FRAME_BYTES)?;
    // EtherType ARP; hardware Ethernet, protocol IPv4, lengths 6 and 4, reply.
    if frame.get(12..22)? != [8, 6, 0, 1, 8, 0, 6, 4, 0, 2] {
        return None;
    }
    let sender: [u8; 6] = frame.get(22..28)?.try_into().ok()?;
    let address = Ipv4Addr::from(<[u8; 4]>::try_from(frame.get(28..32)?).ok()?);
    let mac = MacAddr::new(sender);
    (frame.get(6..12)? == sender && mac.is_unicast()).then_some((address, mac))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::indexing_slicing)]
    use super::*;

    const BOX: (MacAddr, Ipv4Addr) = (MacAddr::new([2, 0, 0, 0, 0, 1]), Ipv4Addr::new(192, 168, 1, 2));
    const PHONE: MacAddr = MacAddr::new([0, 4, 0xf2, 0, 0, 1]);
    const ADDRESS: Ipv4Addr = Ipv4Addr::new(192, 168, 1, 77);

    fn phones_answer() -> Vec<u8> {
        let mut frame = Vec::from(BOX.0.octets());
        frame.extend(PHONE.octets());
        frame.extend([8, 6, 0, 1, 8, 0, 6, 4, 0, 2]);
        frame.extend(PHONE.octets());
        frame.extend(ADDRESS.octets());
        frame.extend(BOX.0.octets());
        frame.extend(BOX.1.octets());
        frame.resize(60, 0);
        frame
    }

    #[test]
    fn a_question_goes_to_whom_it_is_put_and_is_no_answer() {
        for to in [EVERYONE, PHONE] {
            let frame = ask(BOX, to, ADDRESS);
            assert_eq!((frame.len(), &frame[..6], answer(&frame)), (FRAME_BYTES, &to.octets()[..], None));
            assert_eq!((&frame[28..32], &frame[38..]), (&[192, 168, 1, 2][..], &[192, 168, 1, 77][..]));
        }
    }

    #[test]
    fn only_an_answer_that_its_device_sent_itself_is_believed() {
        let good = phones_answer();
        assert_eq!(answer(&good), Some((ADDRESS, PHONE)));
        // Each octet of either hardware address.
        for place in (6..12).chain(22..28) {
            let mut frame = good.clone();
            frame[place] ^= 1;
            assert_eq!(answer(&frame), None, "{place}");
        }
        let mut everyone = good;
        everyone[6..12].fill(0xff);
        everyone[22..28].fill(0xff);
        assert_eq!(answer(&everyone), None, "nobody has that address");
    }

    #[test]
    fn what_is_cut_or_no_answer_of_arp_says_nothing() {
        let good = phones_answer();
        for length in 0..FRAME_BYTES {
            assert_eq!(answer(&good[..length]), None, "{length}");
        }
        for (place, wrong) in [(12, 0x86), (15, 6), (16, 9), (18, 8), (19, 16), (21, 1), (21, 3)] {
            let mut frame = good.clone();
            frame[place] = wrong;
            assert_eq!(answer(&frame), None, "{place}");
        }
    }
}
