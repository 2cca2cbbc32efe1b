//! Where what is sent on an interface can arrive. Pure.

use std::collections::BTreeSet;

use crate::interface::links::Link;

/// How many interfaces may lie one on the other: a VLAN on a bond in a bridge has three.
const MAX_DEPTH: u8 = 8;
/// Kinds that are network cards: none named, the port of a switch chip, a further Wi-Fi interface of a card.
const CARDS: &[&str] = &["", "dsa", "wlan"];
/// Pairs of interfaces of which each is the other's cable.
const PAIRS: &[&str] = &["veth", "netkit"];

/// Where an interface leads, the farthest last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Reach {
    /// To this host itself, or to containers and virtual machines on it.
    Nowhere,
    /// Into another network namespace, where a card may be.
    Namespace,
    /// To a network card.
    Card,
}

/// Where an interface leads: down to what it is made on, and through the ports that it has.
pub(super) fn reach(links: &[Link], link: &Link) -> Reach {
    Search { links, masters: BTreeSet::new() }.from(link, MAX_DEPTH)
}

/// A way through the interfaces of this host.
struct Search<'a> {
    links: &'a [Link],
    /// The bridges and bonds whose ports were looked at: bridges may be joined in a ring.
    masters: BTreeSet<u32>,
}

impl<'a> Search<'a> {
    fn from(&mut self, link: &Link, depth: u8) -> Reach {
        let Some(depth) = depth.checked_sub(1) else { return Reach::Nowhere };
        if PAIRS.contains(&link.kind.as_str()) {
            // Container engines and the kernel name the end that they put into a bridge `veth…`.
            let of_container = link.master.is_some() && link.name.starts_with("veth");
            return match self.named(link.below) {
                // Both ends are here. The other one may be a port of something that leads on.
                Some(peer) => self.named(peer.master).map_or(Reach::Nowhere, |master| self.through(master, depth)),
                None if of_container => Reach::Nowhere,
                None => Reach::Namespace,
            };
        }
        if link.wireless || CARDS.contains(&link.kind.as_str()) {
            return Reach::Card;
        }
        // The end of a virtual machine or of a VPN.
        if link.kind == "tun" {
            return Reach::Nowhere;
        }
        let below = self.named(link.below).map(|below| self.from(below, depth));
        let has_ports = self.links.iter().any(|port| port.master == Some(link.index));
        // Of what the kernel names nothing below, nothing is known: it may well be a card.
        let unknown = match link {
            _ if link.leads_elsewhere => Reach::Namespace,
            _ if link.kind == "bridge" || has_ports || below.is_some() => Reach::Nowhere,
            _ => Reach::Card,
        };
        self.through(link, depth).max(below.unwrap_or(unknown)).max(unknown)
    }

    /// Where a bridge or bond leads through its ports.
    fn through(&mut self, master: &Link, depth: u8) -> Reach {
        if !self.masters.insert(master.index) {
            return Reach::Nowhere;
        }
        let links = self.links;
        // Open vSwitch has one master for the ports of all its switches.
        let of_switch = |index: u32| links.iter().any(|other| other.index == index && other.kind == "openvswitch");
        let is_master = |index: u32| index == master.index || (master.kind == "openvswitch" && of_switch(index));
        let ports = links.iter().filter(|port| port.master.is_some_and(is_master));
        ports.map(|port| self.from(port, depth)).max().unwrap_or(Reach::Nowhere)
    }

    fn named(&self, index: Option<u32>) -> Option<&'a Link> {
        self.links.iter().find(|other| Some(other.index) == index)
    }
}
