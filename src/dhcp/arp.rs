//! ARP, which tells who has an address: before we lease it, and when two devices claim it later (RFC 5227 §2.4). Pure.

use std::net::Ipv4Addr;

use ethernet::arp::{EVERYONE, FRAME_BYTES};
use ids::MacAddr;

/// A device says that an address is its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Claim {
    /// The device that claims.
    pub mac: MacAddr,
    /// The address that it claims.
    pub address: Ipv4Addr,
}

/// The broadcast that asks who has an address (RFC 826).
///
/// The question names our own address as its sender's, so that it is no probe (RFC 5227 §1.1). A phone that probes the
/// address it has just been given would take another device's probe for a conflict (§2.1.1).
pub fn ask(mac: MacAddr, own: Ipv4Addr, address: Ipv4Addr) -> Vec<u8> {
    ethernet::arp::ask((mac, own), EVERYONE, address)
}

/// Reads a frame with an ARP request or reply (RFC 826) whose sender claims an address. `None` for everything else, and for
/// a probe: its sender claims nothing yet (RFC 5227 §1.1).
pub fn parse(frame: &[u8]) -> Option<Claim> {
    let frame = frame.get(..FRAME_BYTES)?;
    // EtherType ARP; hardware Ethernet, protocol IPv4, lengths 6 and 4, request or reply.
    if frame.get(12..21)? != [8, 6, 0, 1, 8, 0, 6, 4, 0] || !matches!(frame.get(21)?, 1 | 2) {
        return None;
    }
    let mac = MacAddr::new(<[u8; 6]>::try_from(frame.get(22..28)?).ok()?);
    let address = Ipv4Addr::from(<[u8; 4]>::try_from(frame.get(28..32)?).ok()?);
    let one_host = !(address.is_unspecified() || address.is_multicast() || address.is_broadcast());
    (mac.is_unicast() && one_host).then_some(Claim { mac, address })
}

/// The hardware address that a frame came from.
pub fn sender(frame: &[u8]) -> Option<MacAddr> {
    Some(MacAddr::new(<[u8; 6]>::try_from(frame.get(6..12)?).ok()?))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::indexing_slicing)]
    use super::*;

    const MAC: MacAddr = MacAddr::new([0, 4, 0xf2, 0, 0, 1]);
    const ADDRESS: Ipv4Addr = Ipv4Addr::new(192, 168, 1, 77);

    fn frame(operation: u8, address: Ipv4Addr) -> Vec<u8> {
        let mut frame = vec![0xff; 6];
        frame.extend(MAC.octets());
        frame.extend([8, 6, 0, 1, 8, 0, 6, 4, 0, operation]);
        frame.extend(MAC.octets());
        frame.extend(address.octets());
        frame.extend([0; 6]);
        frame.extend(ADDRESS.octets());
        frame.resize(60, 0);
        frame
    }

    #[test]
    fn announcements_requests_and_replies_claim_an_address_and_probes_do_not() {
        let claim = Some(Claim { mac: MAC, address: ADDRESS });
        assert_eq!((parse(&frame(1, ADDRESS)), parse(&frame(2, ADDRESS))), (claim, claim));
        assert_eq!(parse(&frame(1, Ipv4Addr::UNSPECIFIED)), None, "RFC 5227 §2.1.1");
    }

    #[test]
    fn a_question_claims_our_own_address_and_is_no_probe() {
        let question = ask(MAC, ADDRESS, Ipv4Addr::new(192, 168, 1, 9));
        assert_eq!((question.len(), parse(&question)), (FRAME_BYTES, Some(Claim { mac: MAC, address: ADDRESS })));
        assert_eq!((&question[..6], &question[38..]), (&[0xff; 6][..], &[192, 168, 1, 9][..]));
    }

    #[test]
    fn what_is_cut_or_no_arp_of_one_device_claims_nothing() {
        let good = frame(1, ADDRESS);
        for length in 0..FRAME_BYTES {
            assert_eq!(parse(&good[..length]), None, "{length}");
        }
        for (place, wrong) in [(12, 0x86), (15, 6), (16, 9), (18, 8), (19, 16), (21, 3), (21, 0), (22, 1), (28, 224)] {
            let mut frame = good.clone();
            frame[place] = wrong;
            assert_eq!(parse(&frame), None, "{place}");
        }
    }
}
