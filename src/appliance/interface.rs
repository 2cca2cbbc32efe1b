//! Finds the interface of the LAN and the address that the appliance has on it.

use std::fs;
use std::net::Ipv4Addr;

use nix::ifaddrs::getifaddrs;
use nix::net::if_::{InterfaceFlags, if_nametoindex};

use ids::{Lan, is_private};

/// The interface that phones are on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LanInterface {
    /// The kernel's name for it, for example `eth0`.
    pub name: String,
    /// The kernel's index of it. An adapter that is plugged in again gets another one.
    pub index: u32,
    /// The appliance's address on it, with the prefix length of the LAN.
    pub lan: Lan,
    /// The largest IP packet that it carries, in octets; 1500 if the kernel does not say.
    pub mtu: u32,
}

impl LanInterface {
    /// The appliance's address on it, without the prefix length.
    pub const fn address(&self) -> Ipv4Addr {
        self.lan.address()
    }
}

/// Why there is no LAN to serve.
#[derive(Debug, thiserror::Error)]
pub enum InterfaceError {
    /// The operating system does not list its interfaces.
    #[error("cannot list network interfaces")]
    List(#[source] nix::Error),
    /// The settings name an interface that is not there.
    #[error("there is no network interface {name}; there are {available}")]
    NotFound {
        /// The name in the settings.
        name: String,
        /// All interfaces with their addresses, for the message.
        available: String,
    },
    /// The interface that the settings name has no IPv4 address.
    #[error("{name} has no IPv4 address; there are {available}")]
    NoAddress {
        /// The name of the interface.
        name: String,
        /// All interfaces with their addresses, for the message.
        available: String,
    },
    /// The interface that the settings name has only addresses that are no private network's.
    #[error("{name} has {address}, which is no address of a private network; phones are served on LANs only")]
    Public {
        /// The name of the interface.
        name: String,
        /// The first of its addresses.
        address: Ipv4Addr,
    },
    /// The settings name none, and no interface is fit. The text lists what there is.
    #[error("no network interface has an address of a private network; there are {0}")]
    None(String),
    /// The settings name none, and several interfaces are fit. The text lists their names.
    #[error("several network interfaces could be the LAN; name one of {0}")]
    Several(String),
}

impl InterfaceError {
    /// Whether the error may go away without a change of the settings: an interface or an address may still come.
    pub const fn may_pass(&self) -> bool {
        matches!(self, Self::NotFound { .. } | Self::NoAddress { .. } | Self::None(_))
    }
}

/// One entry of `getifaddrs(3)`: an interface, and one of its IPv4 addresses if it has any.
#[derive(Debug, Clone, PartialEq, Eq)]
struct ListedAddress {
    name: String,
    up: bool,
    loopback: bool,
    address: Option<Lan>,
}

/// Finds the interface of the LAN: the one with this name, or without a name the only one with an address of a private
/// network (RFC 1918, RFC 3927 link-local, RFC 6598). Loopback is taken only by name, and only if `allow_loopback`.
///
/// # Errors
///
/// See [`InterfaceError`]. Its messages list the interfaces that there are.
pub fn find(name: Option<&str>, allow_loopback: bool) -> Result<LanInterface, InterfaceError> {
    let (name, lan) = choose(&list()?, name, allow_loopback)?;
    let index = if_nametoindex(name.as_str()).map_err(InterfaceError::List)?;
    let mtu = fs::read_to_string(format!("/sys/class/net/{name}/mtu")).ok().and_then(|text| text.trim().parse().ok());
    Ok(LanInterface { name, index, lan, mtu: mtu.unwrap_or(1500) })
}

fn list() -> Result<Vec<ListedAddress>, InterfaceError> {
    let mut all: Vec<ListedAddress> = Vec::new();
    for entry in getifaddrs().map_err(InterfaceError::List)? {
        let v4 = |storage: Option<nix::sys::socket::SockaddrStorage>| {
            storage.and_then(|storage| storage.as_sockaddr_in().map(nix::sys::socket::SockaddrIn::ip))
        };
        let netmask = v4(entry.netmask).unwrap_or(Ipv4Addr::BROADCAST);
        all.push(ListedAddress {
            name: entry.interface_name,
            up: entry.flags.contains(InterfaceFlags::IFF_UP),
            loopback: entry.flags.contains(InterfaceFlags::IFF_LOOPBACK),
            address: v4(entry.address).map(|address| Lan::with_netmask(address, netmask)),
        });
    }
    Ok(all)
}

fn choose(all: &[ListedAddress], name: Option<&str>, allow_loopback: bool) -> Result<(String, Lan), InterfaceError> {
    let fits = |found: &ListedAddress, lan: Lan| {
        let address = lan.address();
        if found.loopback { allow_loopback && address.is_loopback() } else { is_private(address) }
    };
    let Some(name) = name else {
        let addresses = all.iter().filter(|found| found.up && !found.loopback);
        let fitting: Vec<(&ListedAddress, Lan)> = addresses
            .filter_map(|found| Some((found, found.address.filter(|&address| fits(found, address))?)))
            .collect();
        return match fitting.as_slice() {
            [] => Err(InterfaceError::None(describe(all))),
            [(found, address), others @ ..] if others.iter().all(|(other, _)| other.name == found.name) => {
                Ok((found.name.clone(), *address))
            }
            several => {
                let mut names: Vec<&str> = several.iter().map(|(found, _)| found.name.as_str()).collect();
                names.dedup();
                Err(InterfaceError::Several(names.join(", ")))
            }
        };
    };
    let mut own = all.iter().filter(|found| found.name == name).peekable();
    if own.peek().is_none() {
        return Err(InterfaceError::NotFound { name: name.to_owned(), available: describe(all) });
    }
    let addresses: Vec<(&ListedAddress, Lan)> = own.filter_map(|found| Some((found, found.address?))).collect();
    match (addresses.iter().find(|(found, address)| fits(found, *address)), addresses.first()) {
        (Some((_, address)), _) => Ok((name.to_owned(), *address)),
        (None, Some((_, lan))) => Err(InterfaceError::Public { name: name.to_owned(), address: lan.address() }),
        (None, None) => Err(InterfaceError::NoAddress { name: name.to_owned(), available: describe(all) }),
    }
}

/// Lists the interfaces for a message: `eth0 (192.168.1.2/24), wlan0 (no IPv4 address)`.
fn describe(all: &[ListedAddress]) -> String {
    let mut names: Vec<&str> = all.iter().map(|found| found.name.as_str()).collect();
    names.sort_unstable();
    names.dedup();
    let texts: Vec<String> = names
        .iter()
        .map(|name| {
            let addresses = all.iter().filter(|found| found.name == *name).filter_map(|found| found.address);
            let addresses: Vec<String> = addresses.map(|lan| lan.to_string()).collect();
            format!(
                "{name} ({})",
                if addresses.is_empty() { "no IPv4 address".to_owned() } else { addresses.join(", ") }
            )
        })
        .collect();
    if texts.is_empty() { "none".to_owned() } else { texts.join(", ") }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_only_private_address_is_found_without_a_name() {
        let all = [at("lo", "127.0.0.1/8"), at("eth0", "192.168.1.2/24"), at("ppp0", "203.0.113.5/32"), bare("wlan0")];
        assert_eq!(choose(&all, None, false).unwrap(), ("eth0".to_owned(), "192.168.1.2/24".parse().unwrap()));
    }

    #[test]
    fn of_several_one_must_be_named() {
        let all = [at("eth0", "192.168.1.2/24"), at("wlan0", "10.0.0.2/8")];
        let error = choose(&all, None, false).unwrap_err();
        assert_eq!(error.to_string(), "several network interfaces could be the LAN; name one of eth0, wlan0");
        assert_eq!(choose(&all, Some("wlan0"), false).unwrap().1.prefix_len(), 8);
    }

    #[test]
    fn a_public_address_is_refused() {
        let all = [at("eth0", "203.0.113.5/24")];
        assert!(matches!(choose(&all, Some("eth0"), false), Err(InterfaceError::Public { .. })));
        assert!(matches!(choose(&all, None, false), Err(InterfaceError::None(_))));
    }

    #[test]
    fn a_private_address_is_taken_before_a_public_one_on_the_same_interface() {
        let all = [at("eth0", "203.0.113.5/24"), at("eth0", "100.64.3.4/10")];
        assert_eq!(choose(&all, Some("eth0"), false).unwrap().1.prefix_len(), 10);
    }

    #[test]
    fn loopback_is_for_those_who_ask_for_it() {
        let all = [at("lo", "127.0.0.1/8")];
        assert!(choose(&all, Some("lo"), false).is_err());
        assert!(choose(&all, Some("lo"), true).is_ok());
        assert!(choose(&all, None, true).is_err());
    }

    #[test]
    fn a_mistyped_name_shows_what_there_is() {
        let all = [bare("eth0"), at("eth0", "192.168.1.2/24"), bare("wlan0")];
        assert_eq!(
            choose(&all, Some("eht0"), false).unwrap_err().to_string(),
            "there is no network interface eht0; there are eth0 (192.168.1.2/24), wlan0 (no IPv4 address)"
        );
        assert!(matches!(choose(&all, Some("wlan0"), false), Err(InterfaceError::NoAddress { .. })));
    }

    #[test]
    fn this_machines_loopback_is_found() {
        let lan = find(Some("lo"), true).unwrap();
        assert_eq!((lan.name.as_str(), lan.lan.prefix_len()), ("lo", 8));
        assert!(lan.index > 0 && lan.mtu >= 1500);
    }

    fn at(name: &str, text: &str) -> ListedAddress {
        ListedAddress { address: Some(text.parse().unwrap()), ..bare(name) }
    }

    fn bare(name: &str) -> ListedAddress {
        ListedAddress { name: name.to_owned(), up: true, loopback: name == "lo", address: None }
    }
}
