//! What the server tells the fast path to do. Pure.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use crate::completed_lease::CompletedLease;
use crate::lan::{LanView, ServerPath};
use crate::scope::DhcpScope;

/// A snapshot of what is in force. The server makes a new one whenever anything in it changes.
#[derive(Debug)]
pub struct Orders {
    /// The settings in force. The fast path answers in modes `inform` and `augment` only.
    pub scope: DhcpScope,
    /// The other servers.
    pub servers: Vec<Ipv4Addr>,
    /// How to reach those of them that name an address of another network.
    pub paths: Vec<(Ipv4Addr, ServerPath)>,
    /// The names that are known to mean a TFTP server of this site.
    pub own_names: Vec<String>,
    /// The other servers that are slow to offer, and how long they take.
    pub slow: Vec<(Ipv4Addr, Duration)>,
    /// Leases that were completed before a restart, and how much of each had passed when they were recalled.
    pub recalled: Arc<Vec<(CompletedLease, Duration)>>,
}

impl Orders {
    /// Orders for these settings on this LAN.
    pub(super) fn new(scope: DhcpScope, lan: &LanView, recalled: Arc<Vec<(CompletedLease, Duration)>>) -> Self {
        let servers = lan.known().map(|server| server.server).collect();
        let paths = lan.known().filter_map(|server| Some((server.server, lan.path_to(server.server)?))).collect();
        let slow = lan.known().filter_map(|server| Some((server.server, server.takes()?))).collect();
        let own_names = lan.names_of(&scope.tftp);
        Self { scope, servers, paths, own_names, slow, recalled }
    }

    /// How to reach a server: where it is known to answer from, or by the address that it names.
    pub fn path_to(&self, server: Ipv4Addr) -> ServerPath {
        let known = self.paths.iter().find(|(named, _)| *named == server);
        known.map_or(ServerPath::Address(server), |(_, path)| *path)
    }
}
