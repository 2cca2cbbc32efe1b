//! What `lineside doctor` has found on a LAN.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use dhcp::LanView;
use dhcp::heard::{Host, ServerMessage};
use dhcp::lan::{OtherServer, unreadable_in_words};
use ids::MacAddr;

/// The most servers whose options and hardware addresses are remembered.
const MAX_SERVERS: usize = 16;

/// All that was found.
#[derive(Debug)]
pub(super) struct Findings {
    pub(super) lan: LanView,
    /// Whether servers could be asked as a relay agent does.
    pub(super) asks_as_relay: bool,
    /// The codes of the options that each server handed out to us.
    options: BTreeMap<Ipv4Addr, BTreeSet<u8>>,
    /// The hardware addresses of those whose messages cannot be read.
    unreadable: BTreeMap<Ipv4Addr, MacAddr>,
    /// The addresses of names, by this machine's resolver.
    pub(super) resolved: BTreeMap<String, Vec<Ipv4Addr>>,
}

impl Findings {
    pub(super) fn new(asks_as_relay: bool) -> Self {
        let (options, unreadable, resolved) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
        Self { lan: LanView::new(), asks_as_relay, options, unreadable, resolved }
    }

    /// Remembers which options a server handed out to us.
    pub(super) fn options(&mut self, message: &ServerMessage) {
        if self.options.len() < MAX_SERVERS || self.options.contains_key(&message.server) {
            let codes = message.options.iter().map(|(code, _)| u8::from(code));
            self.options.entry(message.server).or_default().extend(codes);
        }
    }

    /// Remembers where a message came from that cannot be read.
    pub(super) fn unreadable_at(&mut self, address: Ipv4Addr, mac: MacAddr) {
        if self.unreadable.len() < MAX_SERVERS {
            self.unreadable.insert(address, mac);
        }
    }

    /// The options of a server, as people read them.
    pub(super) fn options_of(&self, server: Ipv4Addr) -> String {
        let codes = self.options.get(&server).into_iter().flatten();
        codes.map(u8::to_string).collect::<Vec<_>>().join(", ")
    }

    /// The names that servers hand out.
    pub(super) fn names(&self) -> BTreeSet<String> {
        let pointers = self.lan.known().flat_map(|server| server.pointers.iter());
        let names = pointers.filter_map(|pointer| match &pointer.server {
            Host::Name(name) => Some(name.clone()),
            Host::Address(_) => None,
        });
        names.collect()
    }

    /// The servers that answered us. A name that is known to be this machine or another one counts as its address.
    pub(super) fn servers(&self, own: Ipv4Addr) -> Vec<OtherServer> {
        let address = |host: &Host| -> Option<Ipv4Addr> {
            let addresses = self.resolved.get(&host.to_string()).filter(|_| matches!(host, Host::Name(_)))?;
            addresses.iter().find(|address| **address == own).or(addresses.first()).copied()
        };
        let mut servers: Vec<OtherServer> = self.lan.known().cloned().collect();
        for pointer in servers.iter_mut().flat_map(|server| server.pointers.iter_mut()) {
            pointer.server = address(&pointer.server).map_or(pointer.server.clone(), Host::Address);
        }
        servers
    }

    /// Who serves here without being one of the servers that answered us.
    pub(super) fn unknown_server(&self) -> Option<String> {
        let at = |address: &Ipv4Addr| self.unreadable.get(address).map_or_else(String::new, |mac| format!(" ({mac})"));
        let unreadable = self.lan.unreadable().next();
        let unreadable = unreadable.map(|address| format!("{}{}", unreadable_in_words(address), at(&address)));
        unreadable.or_else(|| self.lan.unknown_server())
    }
}
