use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;

/// An IPv4 address with the length of its network's prefix, as an interface has it: `192.168.1.5/24`.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Lan {
    address: Ipv4Addr,
    prefix_len: u8,
}

/// Why a text is no address with its prefix.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not an IPv4 address with its prefix length; write for example 192.168.1.5/24")]
pub struct LanError(String);

/// RFC 6598: addresses that a provider's customers share behind its address translation.
const SHARED: Lan = Lan::new(Ipv4Addr::new(100, 64, 0, 0), 10);

impl Lan {
    /// The LAN of a host with this address. A prefix length above 32 counts as 32.
    pub const fn new(address: Ipv4Addr, prefix_len: u8) -> Self {
        Self { address, prefix_len: if prefix_len > 32 { 32 } else { prefix_len } }
    }

    /// The LAN of a host with this address and netmask. Bits after the first zero bit of the mask are ignored.
    pub fn with_netmask(address: Ipv4Addr, netmask: Ipv4Addr) -> Self {
        Self::new(address, u8::try_from(netmask.to_bits().leading_ones()).unwrap_or(32))
    }

    /// The host's own address.
    pub const fn address(self) -> Ipv4Addr {
        self.address
    }

    /// The number of bits of an address that are the network's: 0 to 32.
    pub const fn prefix_len(self) -> u8 {
        self.prefix_len
    }

    /// The netmask, for example `255.255.255.0` for a prefix of 24 bits.
    pub const fn netmask(self) -> Ipv4Addr {
        Ipv4Addr::from_bits(self.mask())
    }

    /// The first address, with a zero in every bit that is not the network's.
    pub const fn network(self) -> Ipv4Addr {
        Ipv4Addr::from_bits(self.address.to_bits() & self.mask())
    }

    /// The last address, with a one in every bit that is not the network's. With a prefix of 31 or 32 bits this address
    /// belongs to a host: see [`Lan::is_broadcast`].
    pub const fn broadcast(self) -> Ipv4Addr {
        Ipv4Addr::from_bits(self.address.to_bits() | !self.mask())
    }

    /// Whether the address is of this network.
    pub const fn contains(self, address: Ipv4Addr) -> bool {
        (self.address.to_bits() ^ address.to_bits()) & self.mask() == 0
    }

    /// Whether every host of this network receives what is sent to the address (RFC 919). A network of two addresses
    /// has no such address (RFC 3021), and a single host has none.
    pub const fn is_broadcast(self, address: Ipv4Addr) -> bool {
        self.prefix_len < 31 && address.to_bits() == self.broadcast().to_bits()
    }

    /// Whether a host of this network may have the address. It may not have the network's own address or its broadcast
    /// address, where the network has these (RFC 1122 §3.2.1.3, RFC 3021).
    pub const fn is_host(self, address: Ipv4Addr) -> bool {
        let is_network = self.prefix_len < 31 && address.to_bits() == self.network().to_bits();
        self.contains(address) && !is_network && !self.is_broadcast(address)
    }

    const fn mask(self) -> u32 {
        match u32::MAX.checked_shl(32 - self.prefix_len as u32) {
            Some(mask) => mask,
            None => 0,
        }
    }
}

/// Whether the address is of a private network, which nobody on the Internet can reach: RFC 1918 (10/8, 172.16/12,
/// 192.168/16), RFC 3927 (link-local, 169.254/16) or RFC 6598 (shared, 100.64/10). Loopback is no network.
///
/// TFTP and DHCP are served on such addresses only.
pub const fn is_private(address: Ipv4Addr) -> bool {
    address.is_private() || address.is_link_local() || SHARED.contains(address)
}

/// Whether the address is of a private network (see [`is_private`]) or of this host alone (127/8, RFC 1122 §3.2.1.3).
/// The demo and tests serve on loopback.
pub const fn is_private_or_loopback(address: Ipv4Addr) -> bool {
    is_private(address) || address.is_loopback()
}

impl FromStr for Lan {
    type Err = LanError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parse = || {
            let (address, bits) = text.split_once('/')?;
            // Parsing as `u8` alone would also take `+24` and `024`.
            let plain = bits == "0" || (!bits.starts_with('0') && bits.bytes().all(|byte| byte.is_ascii_digit()));
            let prefix_len = bits.parse().ok().filter(|bits| plain && *bits <= 32)?;
            Some(Self::new(address.parse().ok()?, prefix_len))
        };
        // The longest good text has 18 characters; the error keeps no more than 40.
        parse().ok_or_else(|| LanError(text.chars().take(40).collect()))
    }
}

impl fmt::Display for Lan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix_len)
    }
}

impl fmt::Debug for Lan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn every_prefix_has_its_mask_network_and_broadcast_address() {
        for (lan, netmask, network, broadcast) in [
            ("192.168.1.5/24", "255.255.255.0", "192.168.1.0", "192.168.1.255"),
            ("172.16.99.1/20", "255.255.240.0", "172.16.96.0", "172.16.111.255"),
            ("10.1.2.3/8", "255.0.0.0", "10.0.0.0", "10.255.255.255"),
            ("192.0.2.6/30", "255.255.255.252", "192.0.2.4", "192.0.2.7"),
            ("192.0.2.6/31", "255.255.255.254", "192.0.2.6", "192.0.2.7"),
            ("192.0.2.6/32", "255.255.255.255", "192.0.2.6", "192.0.2.6"),
            ("192.0.2.6/0", "0.0.0.0", "0.0.0.0", "255.255.255.255"),
        ] {
            let (lan, text) = (at(lan), lan);
            assert_eq!(lan.netmask(), ip(netmask), "{text}");
            assert_eq!(lan.network(), ip(network), "{text}");
            assert_eq!(lan.broadcast(), ip(broadcast), "{text}");
            assert_eq!(Lan::with_netmask(lan.address(), ip(netmask)), lan);
            assert_eq!(lan.to_string(), text);
        }
        assert_eq!(Lan::new(ip("192.0.2.6"), 33), at("192.0.2.6/32"));
        assert_eq!(Lan::with_netmask(ip("192.0.2.6"), ip("255.0.255.0")), at("192.0.2.6/8"));
    }

    #[test]
    fn a_network_contains_its_addresses_and_no_neighbours_networks() {
        let lan = at("192.168.1.5/24");
        for inside in ["192.168.1.0", "192.168.1.5", "192.168.1.255"] {
            assert!(lan.contains(ip(inside)), "{inside}");
        }
        for outside in ["192.168.0.255", "192.168.2.0", "8.8.8.8", "255.255.255.255"] {
            assert!(!lan.contains(ip(outside)), "{outside}");
        }
        assert!(at("192.0.2.6/0").contains(ip("8.8.8.8")));
        assert!(at("192.0.2.6/32").contains(ip("192.0.2.6")) && !at("192.0.2.6/32").contains(ip("192.0.2.7")));
    }

    #[test]
    fn the_ends_of_a_network_are_no_hosts_unless_it_has_two_addresses_or_one() {
        let lan = at("192.168.1.5/24");
        assert!(lan.is_host(ip("192.168.1.1")) && lan.is_host(ip("192.168.1.254")));
        assert!(
            !lan.is_host(ip("192.168.1.0")) && !lan.is_host(ip("192.168.1.255")) && !lan.is_host(ip("192.168.2.1"))
        );
        assert!(lan.is_broadcast(ip("192.168.1.255")) && !lan.is_broadcast(ip("192.168.1.0")));
        let pair = at("192.0.2.6/31");
        assert!(pair.is_host(ip("192.0.2.6")) && pair.is_host(ip("192.0.2.7")) && !pair.is_host(ip("192.0.2.8")));
        assert!(!pair.is_broadcast(ip("192.0.2.7")));
        let single = at("192.0.2.6/32");
        assert!(single.is_host(ip("192.0.2.6")) && !single.is_broadcast(ip("192.0.2.6")));
    }

    #[test]
    fn only_addresses_that_the_internet_cannot_reach_are_private() {
        for (network, addresses) in [
            (
                "RFC 1918",
                &["10.0.0.0", "10.255.255.255", "172.16.0.0", "172.31.255.255", "192.168.0.0", "192.168.255.255"][..],
            ),
            ("RFC 3927", &["169.254.0.0", "169.254.255.255"]),
            ("RFC 6598", &["100.64.0.0", "100.127.255.255"]),
        ] {
            for address in addresses {
                assert!(is_private(ip(address)) && is_private_or_loopback(ip(address)), "{network}: {address}");
            }
        }
        for public in [
            "0.0.0.0",
            "8.8.8.8",
            "9.255.255.255",
            "11.0.0.0",
            "100.63.255.255",
            "100.128.0.0",
            "169.253.255.255",
            "169.255.0.0",
            "172.15.255.255",
            "172.32.0.0",
            "192.0.2.1",
            "192.167.255.255",
            "192.169.0.0",
            "224.0.0.1",
            "255.255.255.255",
        ] {
            assert!(!is_private(ip(public)) && !is_private_or_loopback(ip(public)), "{public}");
        }
        for loopback in ["127.0.0.1", "127.255.255.255"] {
            assert!(!is_private(ip(loopback)) && is_private_or_loopback(ip(loopback)), "{loopback}");
        }
    }

    #[test]
    fn what_is_no_address_with_a_prefix_is_refused() {
        for text in [
            "",
            "192.168.1.5",
            "192.168.1.5/",
            "/24",
            "192.168.1/24",
            "192.168.1.5/33",
            "192.168.1.5/+24",
            "192.168.1.5/024",
        ] {
            let error = text.parse::<Lan>().unwrap_err().to_string();
            assert!(error.starts_with(&format!("`{text}` is not an IPv4 address")), "{error}");
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_and_hosts_lie_between_the_ends(own: u32, other: u32, bits in 0u8..=32) {
            let lan = Lan::new(own.into(), bits);
            prop_assert_eq!(lan.to_string().parse(), Ok(lan));
            let other = Ipv4Addr::from(other);
            prop_assert_eq!(lan.contains(other), (lan.network()..=lan.broadcast()).contains(&other));
            prop_assert!(lan.contains(lan.address()));
            if lan.is_host(other) {
                prop_assert!(lan.contains(other) && !lan.is_broadcast(other));
            }
        }
    }

    fn at(text: &str) -> Lan {
        text.parse().unwrap()
    }

    fn ip(text: &str) -> Ipv4Addr {
        text.parse().unwrap()
    }
}
