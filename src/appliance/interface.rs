//! Finds the interface of the LAN and the address that the appliance has on it.
//!
//! `links` asks the kernel, `choose` decides. `lan_echo` finds out which other interfaces are on the LAN.

mod choose;
mod lan_echo;
mod links;

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::net::Ipv4Addr;

pub(super) use self::lan_echo::LanEcho;
use ids::{Lan, MacAddr};

/// The interface that phones are on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LanInterface {
    /// The kernel's name for it, for example `eth0`.
    pub name: String,
    /// The kernel's index of it. An adapter that is plugged in again gets another one.
    pub index: u32,
    /// The appliance's address on it, with the prefix length of the LAN.
    pub lan: Lan,
    /// The largest IP packet that it carries, in octets.
    pub mtu: u32,
    /// Its hardware address; `None` if it has no Ethernet address. Frames name it as their source.
    pub mac: Option<MacAddr>,
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
    List(#[source] io::Error),
    /// The settings name an interface that is not there.
    #[error("there is no network interface {name}; there are {available}")]
    NotFound {
        /// The name in the settings.
        name: String,
        /// All interfaces with their addresses, for the message.
        available: String,
    },
    /// The settings name an address that no interface has.
    #[error("no network interface has the address {address}; there are {available}")]
    NoSuchAddress {
        /// The address in the settings.
        address: Ipv4Addr,
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
    /// The settings name none, and interfaces of several networks are fit. The text lists them with their addresses.
    #[error("several network interfaces could be the LAN: {0}; name the one that phones are on")]
    Several(String),
}

impl InterfaceError {
    /// Whether the error may go away without a change of the settings: an interface or an address may still come.
    pub const fn may_pass(&self) -> bool {
        matches!(self, Self::NotFound { .. } | Self::NoSuchAddress { .. } | Self::NoAddress { .. } | Self::None(_))
    }
}

/// Finds the interface of the LAN, and the address on it.
///
/// `name` is what the settings say: an interface, the label of one of its addresses (`eth0:1`), or an address of this
/// host. Without it the LAN is the only network that fits: see `choose`. Loopback is taken only by name, and only if
/// `allow_loopback`.
///
/// # Errors
///
/// See [`InterfaceError`]. Its messages list the interfaces that there are.
pub fn find(name: Option<&str>, allow_loopback: bool) -> Result<LanInterface, InterfaceError> {
    find_again(name, allow_loopback, None)
}

/// The same for an appliance that serves the LAN already: it keeps the address that it has, as long as that is there.
///
/// # Errors
///
/// As [`find`].
pub fn find_again(
    name: Option<&str>,
    allow_loopback: bool,
    before: Option<Lan>,
) -> Result<LanInterface, InterfaceError> {
    let links = links::list().map_err(InterfaceError::List)?;
    let (link, lan) = choose::choose(&links, name, allow_loopback, before)?;
    let mac = <[u8; 6]>::try_from(link.mac.as_slice()).ok().map(MacAddr::new);
    Ok(LanInterface { name: link.name.clone(), index: link.index, lan, mtu: link.mtu, mac })
}

/// Whether the interface is up and has a carrier, as far as the kernel says.
pub(super) fn carries(lan: &LanInterface) -> bool {
    let Ok(links) = links::list() else { return true };
    links.iter().any(|link| link.index == lan.index && link.has(libc::IFF_UP | libc::IFF_LOWER_UP))
}

/// What else this host has beside the address that is served, as far as people should know it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct BesideLan {
    /// Further IPv4 addresses of the LAN interface. Phones of their networks are not served.
    pub addresses: Vec<Lan>,
    /// What is wrong with a second interface on the same LAN, one sentence each.
    pub doubled: Vec<String>,
    /// The interfaces that are on the LAN as well, where the kernel's settings keep them apart.
    pub kept_apart: Vec<String>,
}

impl BesideLan {
    /// What of it a person should hear, one line each; empty if there is nothing.
    pub fn text(&self) -> String {
        let doubled = self.doubled.iter().map(|text| format!("WARNING: {text}\n"));
        let further = self.addresses.iter().map(|lan| {
            format!(
                "NOTE: the LAN interface has {lan}, too; to serve that network: [lan] interface = \"{}\"\n",
                lan.address()
            )
        });
        let apart = self.kept_apart.iter().map(|name| {
            format!("NOTE: {name} is on this LAN, too; the settings of the kernel keep it out of phones' way\n")
        });
        doubled.chain(further).chain(apart).collect()
    }
}

/// Looks at what else this host has. Without `echo` only addresses tell which other interfaces are on the LAN.
///
/// # Errors
///
/// If the operating system does not list its interfaces.
pub(super) async fn beside(lan: &LanInterface, echo: Option<&mut LanEcho>) -> Result<BesideLan, InterfaceError> {
    let links = links::list().map_err(InterfaceError::List)?;
    let hearing = match echo {
        Some(echo) => echo.among(&choose::others(&links, lan)).await,
        None => BTreeSet::new(),
    };
    Ok(choose::beside(&links, lan, &hearing, |setting| {
        // Out of sight in our own unit (`ProcSubset=pid`); then what each interface says has to do.
        let text = fs::read_to_string(format!("/proc/sys/net/ipv4/conf/all/{setting}"));
        text.ok().and_then(|text| text.trim().parse().ok()).unwrap_or(0)
    }))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[tokio::test]
    async fn this_machines_loopback_is_found() {
        let lan = find(Some("lo"), true).unwrap();
        assert_eq!((lan.name.as_str(), lan.lan.prefix_len()), ("lo", 8));
        assert!(lan.index > 0 && lan.mtu >= 1500);
        assert_eq!(beside(&lan, None).await.unwrap().doubled, Vec::<String>::new());
        assert!(carries(&lan) && !carries(&LanInterface { index: u32::MAX, ..lan }));
    }

    #[test]
    fn an_interface_that_gets_another_hardware_address_has_changed() {
        // Frames and DHCP answers name it as their source, so the services start anew.
        let lan = find(Some("lo"), true).unwrap();
        assert!(lan.mac.is_some());
        assert_eq!(find_again(Some("lo"), true, Some(lan.lan)).unwrap(), lan);
        assert_ne!(LanInterface { mac: Some(MacAddr::new([2, 0, 0, 0, 0, 1])), ..lan.clone() }, lan);
    }
}
