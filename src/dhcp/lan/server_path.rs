//! The way to a server whose identifier (RFC 2132 §9.7) is no address of this LAN. Pure.
//!
//! Some routers name an address of another interface of theirs. The kernel's route to it leads to the default gateway, or
//! nowhere. The server itself is where its answers come from, on this link.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use super::SERVER_GONE;
use ids::{Lan, MacAddr, UnixTime};

/// The most servers whose way is remembered.
const MAX_PATHS: usize = 16;

/// How to reach a server on this link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ServerPath {
    /// At this address of the LAN.
    Address(Ipv4Addr),
    /// In a frame to this hardware address: the server has no address of the LAN, and answers from this one.
    Frame(MacAddr, Ipv4Addr),
}

impl ServerPath {
    /// The way to a server of this LAN that answers from this address and this hardware address. `None` for a server whose
    /// identifier is an address of the LAN: ARP finds it.
    pub fn of(server: Ipv4Addr, (address, mac): (Ipv4Addr, MacAddr), lan: Lan) -> Option<Self> {
        if lan.contains(server) || address == lan.address() {
            return None;
        }
        Some(if lan.is_host(address) { Self::Address(address) } else { Self::Frame(mac, address) })
    }
}

/// The ways that are known, by the server's identifier.
///
/// Whoever hears our question can answer in a server's name. So the first way stays for as long as answers come that way.
#[derive(Debug, Default)]
pub(super) struct ServerPaths(BTreeMap<Ipv4Addr, (ServerPath, UnixTime)>);

impl ServerPaths {
    /// The server has answered us this way. Says whether that is news.
    pub(super) fn answered(&mut self, server: Ipv4Addr, path: ServerPath, now: UnixTime) -> bool {
        if let Some((known, last)) = self.0.get_mut(&server) {
            if *known == path {
                *last = now;
            }
            return false;
        }
        self.0.len() < MAX_PATHS && self.0.insert(server, (path, now)).is_none()
    }

    /// The way to a server.
    pub(super) fn to(&self, server: Ipv4Addr) -> Option<ServerPath> {
        self.0.get(&server).map(|(path, _)| *path)
    }

    /// Forgets the ways that no answer has come for long.
    pub(super) fn forget(&mut self, now: UnixTime) {
        self.0.retain(|_, (_, last)| now.since(*last) < SERVER_GONE);
    }

    /// Forgets all ways: the link was down, and may lead elsewhere now.
    pub(super) fn clear(&mut self) {
        self.0.clear();
    }

    /// When each way was last used, to follow the system clock.
    pub(super) fn times(&mut self) -> impl Iterator<Item = &mut UnixTime> {
        self.0.values_mut().map(|(_, last)| last)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const ROUTER: Ipv4Addr = Ipv4Addr::new(172, 31, 0, 1);
    const MAC: MacAddr = MacAddr::new([2, 0, 0, 0, 0, 1]);
    const NOW: UnixTime = UnixTime(1_000_000);

    #[test]
    fn a_server_of_another_network_is_where_its_answers_come_from() {
        let lan: Lan = "192.168.1.2/24".parse().unwrap();
        let here = Ipv4Addr::new(192, 168, 1, 1);
        assert_eq!(ServerPath::of(ROUTER, (here, MAC), lan), Some(ServerPath::Address(here)));
        assert_eq!(ServerPath::of(ROUTER, (ROUTER, MAC), lan), Some(ServerPath::Frame(MAC, ROUTER)));
        // ARP finds who names an address of the LAN, wherever an answer seems to come from.
        assert_eq!(ServerPath::of(here, (Ipv4Addr::new(192, 168, 1, 66), MAC), lan), None);
        assert_eq!(ServerPath::of(ROUTER, (lan.address(), MAC), lan), None);
    }

    #[test]
    fn nobody_takes_the_way_to_a_server_over_as_long_as_it_answers() {
        let mut paths = ServerPaths::default();
        let [true_one, forged] = [1, 66].map(|last| ServerPath::Address(Ipv4Addr::new(192, 168, 1, last)));
        assert!(paths.answered(ROUTER, true_one, NOW));
        let hours = NOW.plus(SERVER_GONE - std::time::Duration::from_secs(1));
        assert!(!paths.answered(ROUTER, forged, hours) && paths.to(ROUTER) == Some(true_one));
        assert!(!paths.answered(ROUTER, true_one, hours));
        paths.forget(NOW.plus(SERVER_GONE));
        assert_eq!(paths.to(ROUTER), Some(true_one), "it answered in between");
        paths.forget(hours.plus(SERVER_GONE));
        assert!(paths.answered(ROUTER, forged, hours.plus(SERVER_GONE)), "a router that has moved is found again");
        for number in 0..1000 {
            paths.answered(Ipv4Addr::from(number), forged, NOW);
        }
        assert!(paths.0.len() <= MAX_PATHS);
    }
}
