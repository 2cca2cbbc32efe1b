//! What `lineside doctor` has found on a LAN.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use crate::clock;
use dhcp::LanView;
use dhcp::heard::ServerMessage;
use dhcp::lan::{OtherServer, unreadable_in_words};
use dhcp::message::Request;
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
    /// The VLANs whose devices ask here in tagged frames, and the first device of each.
    pub(super) vlans: BTreeMap<u16, MacAddr>,
    /// The addresses of names, by this machine's resolver.
    pub(super) resolved: BTreeMap<String, Vec<Ipv4Addr>>,
}

impl Findings {
    pub(super) fn new(asks_as_relay: bool) -> Self {
        let (options, unreadable, resolved) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
        Self { lan: LanView::new(), asks_as_relay, options, unreadable, vlans: BTreeMap::new(), resolved }
    }

    /// A device of another VLAN asked for an address, in a tagged frame.
    pub(super) fn tagged(&mut self, vlan: u16, message: &[u8]) {
        if let Some(request) = Request::parse(message).ok().filter(|_| self.vlans.len() < MAX_SERVERS) {
            self.vlans.entry(vlan).or_insert(request.chaddr);
        }
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
    pub(super) fn names(&self) -> Vec<String> {
        self.lan.names().into_iter().map(str::to_owned).collect()
    }

    /// A name was looked up.
    pub(super) fn resolved(&mut self, name: String, addresses: Vec<Ipv4Addr>) {
        self.lan.resolved(&name, addresses.clone(), clock::now());
        self.resolved.insert(name, addresses);
    }

    /// The servers that answered us. A name that is known to be this machine or another one counts as its address.
    pub(super) fn servers(&self, own: Ipv4Addr) -> Vec<OtherServer> {
        self.lan.known_to(&[own])
    }

    /// Who serves here without being one of the servers that answered us.
    pub(super) fn unknown_server(&self) -> Option<String> {
        let at = |address: &Ipv4Addr| self.unreadable.get(address).map_or_else(String::new, |mac| format!(" ({mac})"));
        let unreadable = self.lan.unreadable().next();
        let unreadable = unreadable.map(|address| format!("{}{}", unreadable_in_words(address), at(&address)));
        unreadable.or_else(|| self.lan.unknown_server())
    }
}
