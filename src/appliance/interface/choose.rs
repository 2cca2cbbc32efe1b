//! Which interface is the LAN, and which of its addresses. Pure.
//!
//! Without a name in the settings, an interface can be the LAN if phones can be on it: an Ethernet or Wi-Fi interface
//! that is up, has a carrier and has a private IPv4 address of a network with room for phones. Tunnels, ports of a
//! bridge or bond, and bridges that only containers are on, are none. Where this host has a network card, only what leads
//! to one counts ([`reach`]): the card, a VLAN on it, a bond or bridge with it as a port. A link-local address (RFC 3927)
//! counts only where there is no other. Interfaces on one and the same network are one LAN; on several networks a person
//! has to say which.

mod reach;

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use libc::{ARPHRD_ETHER, IFF_LOOPBACK, IFF_LOWER_UP, IFF_NOARP, IFF_POINTOPOINT, IFF_UP};

use self::reach::{Reach, reach};
use super::links::{Link, LinkAddress};
use super::{BesideLan, InterfaceError, LanInterface};
use ids::{Lan, is_private};

/// Kinds of interfaces that lead somewhere else than to a LAN: tunnels and VPNs, and what is none at all.
const NO_LAN: &[&str] = &[
    "dummy",
    "erspan",
    "geneve",
    "gre",
    "gretap",
    "ifb",
    "ip6gre",
    "ip6gretap",
    "ip6tnl",
    "ipip",
    "nlmon",
    "ppp",
    "sit",
    "tun",
    "vcan",
    "vrf",
    "vti",
    "vti6",
    "vxlan",
    "wireguard",
    "xfrm",
];
/// How the engines of containers and of virtual machines name their bridges.
const CONTAINER_BRIDGES: &[&str] =
    &["docker", "podman", "cni", "cbr", "lxcbr", "lxdbr", "incusbr", "virbr", "nat-network", "vnet"];
/// How Docker names the bridges of further networks: with so many digits of their number.
const DOCKER_NETWORK: (&str, usize) = ("br-", 12);
/// Kinds whose ports carry the address of their master.
const MASTERS: &[&str] = &["bridge", "bond", "team", "openvswitch"];

/// The interface of the LAN and the address on it. `before` is the address that was served until now.
pub(super) fn choose<'a>(
    links: &'a [Link],
    name: Option<&str>,
    allow_loopback: bool,
    before: Option<Lan>,
) -> Result<(&'a Link, Lan), InterfaceError> {
    let Some(name) = name else { return the_only_one(links) };
    let link = match (named(links, name), name.parse::<Ipv4Addr>()) {
        (Some(link), _) => link,
        (None, Ok(address)) => return with_address(links, address, allow_loopback),
        (None, Err(_)) => {
            return Err(InterfaceError::NotFound { name: name.to_owned(), available: describe(links) });
        }
    };
    let mut fitting: Vec<&LinkAddress> =
        link.addresses.iter().filter(|found| fits(link, found.lan, allow_loopback)).collect();
    // What is served stays. Only a link-local address gives way to one that somebody gave this host.
    fitting.sort_by_key(|found| {
        let makeshift = found.lan.address().is_link_local();
        (makeshift, Some(found.lan) != before, found.lan.prefix_len() > 30, found.secondary)
    });
    match (fitting.first(), link.addresses.first()) {
        (Some(found), _) => Ok((link, found.lan)),
        (None, Some(found)) => Err(InterfaceError::Public { name: link.name.clone(), address: found.lan.address() }),
        (None, None) => Err(InterfaceError::NoAddress { name: link.name.clone(), available: describe(links) }),
    }
}

/// The interface of this name. A label (`eth0:1`) is a name that an address was given; it means the interface.
fn named<'a>(links: &'a [Link], name: &str) -> Option<&'a Link> {
    let called = |name: &str| links.iter().find(|link| link.name == name);
    called(name).or_else(|| called(name.split_once(':')?.0))
}

fn with_address(links: &[Link], address: Ipv4Addr, allow_loopback: bool) -> Result<(&Link, Lan), InterfaceError> {
    let mut all = links.iter().flat_map(|link| link.addresses.iter().map(move |found| (link, found.lan)));
    match all.find(|(_, lan)| lan.address() == address) {
        Some((link, lan)) if fits(link, lan, allow_loopback) => Ok((link, lan)),
        Some((link, _)) => Err(InterfaceError::Public { name: link.name.clone(), address }),
        None => Err(InterfaceError::NoSuchAddress { address, available: describe(links) }),
    }
}

fn fits(link: &Link, lan: Lan, allow_loopback: bool) -> bool {
    let address = lan.address();
    if link.has(IFF_LOOPBACK) { allow_loopback && address.is_loopback() } else { is_private(address) }
}

fn the_only_one(links: &[Link]) -> Result<(&Link, Lan), InterfaceError> {
    let mut fitting: Vec<(&Link, Lan)> = Vec::new();
    let nearest = nearest(links);
    let near = links.iter().filter(|link| distance(links, link) <= nearest);
    for link in near.filter(|link| why_no_lan(links, link).is_none()) {
        let private = link.addresses.iter().filter(|found| is_private(found.lan.address()) && has_room(found.lan));
        let first = private.min_by_key(|found| (found.lan.address().is_link_local(), found.secondary));
        fitting.extend(first.map(|found| (link, found.lan)));
    }
    if fitting.iter().any(|(_, lan)| !lan.address().is_link_local()) {
        fitting.retain(|(_, lan)| !lan.address().is_link_local());
    }
    // A cable before Wi-Fi, then the kernel's order.
    fitting.sort_by_key(|(link, _)| link.wireless);
    let Some((link, lan)) = fitting.first().copied() else { return Err(InterfaceError::None(describe(links))) };
    if fitting.iter().all(|(_, other)| one_network(lan, *other)) {
        return Ok((link, lan));
    }
    fitting.sort_by_key(|(link, _)| link.index);
    let texts: Vec<String> = fitting.iter().map(|(link, lan)| format!("{} ({lan})", link.name)).collect();
    Err(InterfaceError::Several(texts.join(", ")))
}

/// Why phones cannot be on an interface, whatever its addresses are. `None` if they can.
fn why_no_lan(links: &[Link], link: &Link) -> Option<&'static str> {
    let is_port = link.master.is_some_and(|master| {
        links.iter().any(|other| other.index == master && MASTERS.contains(&other.kind.as_str()))
    });
    if link.has(IFF_LOOPBACK) {
        Some("loopback")
    } else if !link.has(IFF_UP) {
        Some("down")
    } else if link.has(IFF_POINTOPOINT) || NO_LAN.contains(&link.kind.as_str()) {
        Some("a tunnel")
    } else if link.hardware != ARPHRD_ETHER || link.has(IFF_NOARP) || link.mac.iter().all(|byte| *byte == 0) {
        Some("no Ethernet")
    } else if is_port {
        Some("a port of another interface")
    } else if link.kind == "bridge" && !has_card(links, link) {
        Some("a bridge without a network card")
    } else if reach(links, link) == Reach::Nowhere {
        Some("both ends are on this host")
    } else if !link.has(IFF_LOWER_UP) {
        Some(NO_CARRIER)
    } else {
        None
    }
}

/// Why an interface is no LAN now and may be one soon.
const NO_CARRIER: &str = "no carrier";

/// Whether a bridge leads to anybody but containers and virtual machines. An end with a name of its own was made by a
/// person, who may well have phones behind it.
fn has_card(links: &[Link], bridge: &Link) -> bool {
    let (start, digits) = DOCKER_NETWORK;
    let number = bridge.name.strip_prefix(start).unwrap_or_default();
    let is_docker = number.len() == digits && number.bytes().all(|digit| digit.is_ascii_hexdigit());
    let of_engine = is_docker || CONTAINER_BRIDGES.iter().any(|start| bridge.name.starts_with(start));
    match reach(links, bridge) {
        Reach::Card => true,
        Reach::Namespace => !of_engine,
        Reach::Nowhere => false,
    }
}

/// The distance of the surest interface. A card without an address, or without a carrier, counts: it will get them, and until
/// then nothing else becomes the LAN.
fn nearest(links: &[Link]) -> u8 {
    let may_be = |link: &&Link| matches!(why_no_lan(links, link), None | Some(NO_CARRIER));
    links.iter().filter(may_be).map(|link| distance(links, link)).min().unwrap_or(u8::MAX)
}

/// How sure it is that phones can be on an interface, the surest first. A network namespace has no card: there the end of a
/// `veth` is what a card is elsewhere, and goes before a bridge of such ends.
fn distance(links: &[Link], link: &Link) -> u8 {
    match reach(links, link) {
        Reach::Card => 0,
        Reach::Namespace if link.kind != "bridge" => 1,
        Reach::Namespace => 2,
        Reach::Nowhere => 3,
    }
}

/// Whether a network has room for this host, a phone and a broadcast address.
const fn has_room(lan: Lan) -> bool {
    lan.prefix_len() <= 30
}

/// Whether two addresses are of one network, also where one of them has too long or too short a prefix.
const fn one_network(one: Lan, other: Lan) -> bool {
    one.contains(other.address()) || other.contains(one.address())
}

/// The other interfaces that phones can be on, by the kernel's index.
pub(super) fn others(links: &[Link], lan: &LanInterface) -> BTreeSet<u32> {
    let others = links.iter().filter(|link| link.index != lan.index && why_no_lan(links, link).is_none());
    others.map(|link| link.index).collect()
}

/// See [`super::beside`]. `hearing` are the interfaces that hear what the LAN interface sends. `for_all` is the value of a
/// `net.ipv4.conf.all` setting: the larger of it and the interface's own holds.
pub(super) fn beside(
    links: &[Link],
    lan: &LanInterface,
    hearing: &BTreeSet<u32>,
    for_all: impl Fn(&str) -> u32,
) -> BesideLan {
    let own = links.iter().find(|link| link.index == lan.index);
    let mut beside = BesideLan::default();
    let further = own.into_iter().flat_map(|link| &link.addresses).map(|found| found.lan);
    beside.addresses.extend(further.filter(|other| *other != lan.lan && !other.address().is_link_local()));
    // Every link has link-local addresses of the same network, whether it is the same LAN or not.
    if lan.address().is_link_local() || lan.address().is_loopback() {
        return beside;
    }
    let strict = own.map_or(0, |link| link.rp_filter).max(for_all("rp_filter")) == 1;
    for link in links.iter().filter(|link| link.index != lan.index && why_no_lan(links, link).is_none()) {
        let on_lan = |found: &&LinkAddress| has_room(found.lan) && one_network(found.lan, lan.lan);
        // 1, 2 and 8: no ARP answer on an interface for the address of another one.
        let quiet = matches!(link.arp_ignore.max(for_all("arp_ignore")), 1 | 2 | 8);
        let (name, served) = (&link.name, lan.address());
        let Some(found) = link.addresses.iter().find(on_lan) else {
            if !hearing.contains(&link.index) {
                continue;
            }
            // Without an address of the LAN there is no route to phones, and strict filtering drops what they ask.
            if quiet || link.rp_filter.max(for_all("rp_filter")) == 1 {
                beside.kept_apart.push(name.clone());
            } else {
                beside.doubled.push(format!(
                    "{name} has no address of the LAN and hears what {} sends: it is on the same LAN. Phones that learn \
                     its MAC for {served} get no answer; unplug {name}, or set sysctl \
                     net.ipv4.conf.all.arp_ignore=1 and arp_announce=2",
                    lan.name
                ));
            }
            continue;
        };
        let address = found.lan.address();
        if own.is_some_and(|own| own.master == Some(link.index)) {
            beside.doubled.push(format!(
                "{} is a port of {name} ({address}): what phones send goes to {name}, so the LAN interface is {name}; set \
                 `interface` in [lan] to it, or to auto",
                lan.name
            ));
        } else if !quiet {
            beside.doubled.push(format!(
                "{} ({served}) and {name} ({address}) are on one LAN: phones that learn {name}'s hardware address for \
                 {served} get no answer; unplug {name}, or set sysctl net.ipv4.conf.all.arp_ignore=1 and arp_announce=2",
                lan.name
            ));
        } else if strict {
            beside.doubled.push(format!(
                "{} ({served}) and {name} ({address}) are on one LAN, and the kernel may drop what phones send to \
                 {served}; unplug {name}, or set sysctl net.ipv4.conf.all.rp_filter=2",
                lan.name
            ));
        }
    }
    beside
}

/// Lists the interfaces for a message: `eth0 (192.168.1.2/24), wg0 (10.8.0.2/24, a tunnel), wlan0 (no IPv4 address)`.
fn describe(links: &[Link]) -> String {
    let nearest = nearest(links);
    let mut sorted: Vec<&Link> = links.iter().collect();
    sorted.sort_by_key(|link| (link.has(IFF_LOOPBACK), link.index));
    let texts: Vec<String> = sorted
        .into_iter()
        .map(|link| {
            let mut parts: Vec<String> = link.addresses.iter().map(|found| found.lan.to_string()).collect();
            if parts.is_empty() {
                parts.push("no IPv4 address".to_owned());
            }
            let is_far = || (distance(links, link) > nearest).then_some("on no network card");
            let why = why_no_lan(links, link).or_else(is_far).filter(|_| !link.has(IFF_LOOPBACK));
            parts.extend(why.map(str::to_owned));
            format!("{} ({})", link.name, parts.join(", "))
        })
        .collect();
    if texts.is_empty() { "none".to_owned() } else { texts.join(", ") }
}

#[cfg(test)]
mod tests;
