//! Devices that ask through a relay agent and are not helped. Those of other networks, as phones of a voice VLAN are: only
//! this LAN is served. Those of this LAN in mode `augment`: it knows only what a phone itself says. Pure.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::time::Duration;

use crate::message::{MessageKind, Request};
use crate::scope::{ActiveMode, DhcpScope};
use ids::{Lan, UnixTime};

/// A network of which nobody has asked for so long does not ask any more. Phones renew a lease within half a day; one that
/// has none asks every minute.
pub(super) const FORGOTTEN_AFTER: Duration = Duration::from_secs(3600);
/// The most networks that are remembered: anybody can put any address into a request.
const MAX_NETWORKS: usize = 4;
/// Relay agents whose addresses agree in so many bits count as those of one network. None says how large its network is.
const PREFIX: u8 = 24;

/// The networks that ask.
#[derive(Debug, Default)]
pub(super) struct OtherNetworks {
    networks: BTreeMap<Ipv4Addr, AskingNetwork>,
    /// The relay agents of this LAN through which phones ask, and when one last did.
    of_this_lan: BTreeMap<Ipv4Addr, UnixTime>,
}

#[derive(Debug)]
struct AskingNetwork {
    relay: Ipv4Addr,
    /// Whether a phone of this site has asked, or only other devices.
    phones: bool,
    last: UnixTime,
}

impl OtherNetworks {
    /// A request has come. Says whether it is of those that are told.
    pub(super) fn heard(&mut self, scope: &DhcpScope, request: &Request, now: UnixTime) -> bool {
        let relay = request.giaddr;
        if relay.is_unspecified() || relay.is_broadcast() || relay.is_multicast() || relay.is_loopback() {
            return false;
        }
        let phones = scope.is_phone(request);
        if scope.lan.contains(relay) {
            let wants_lease = matches!(request.kind, MessageKind::Discover | MessageKind::Request);
            let has_room = self.of_this_lan.len() < MAX_NETWORKS || self.of_this_lan.contains_key(&relay);
            let is_told = phones && wants_lease && has_room && scope.lan.is_host(relay);
            if is_told {
                self.of_this_lan.insert(relay, now);
            }
            return is_told;
        }
        let network = Lan::new(relay, PREFIX).network();
        if self.networks.len() >= MAX_NETWORKS && !self.networks.contains_key(&network) {
            // A network of phones takes the place of one without any.
            let other = self.networks.iter().find(|(_, asking)| phones && !asking.phones).map(|(network, _)| *network);
            let Some(other) = other else { return true };
            self.networks.remove(&other);
        }
        let asking = self.networks.entry(network).or_insert(AskingNetwork { relay, phones, last: now });
        // Of two relay agents of one network that take turns, one is named.
        (asking.relay, asking.last) = (asking.relay.min(relay), now);
        asking.phones |= phones;
        true
    }

    /// What to tell people.
    pub(super) fn texts(&mut self, scope: &DhcpScope, now: UnixTime) -> Vec<String> {
        self.networks.retain(|_, asking| now.since(asking.last) < FORGOTTEN_AFTER);
        self.of_this_lan.retain(|_, last| now.since(*last) < FORGOTTEN_AFTER);
        let served = scope.lan;
        let text = |AskingNetwork { relay, phones, .. }: &AskingNetwork| {
            let who = if *phones { "phones" } else { "devices" };
            format!(
                "{who} near the relay agent {relay} ask for addresses, only {}/{} is served; \
                 set up a box in their network, or take this one out of the relay agent's list (ip helper-address)",
                served.network(),
                served.prefix_len()
            )
        };
        let here = |relay| {
            format!(
                "phones of this LAN ask for addresses through the relay agent {relay}, and `augment` helps only phones that \
                 ask without one; enter 66/150 in the router, or take this LAN out of what that agent relays"
            )
        };
        let augments = scope.mode == ActiveMode::Augment;
        let of_this_lan = self.of_this_lan.keys().filter(|_| augments).map(here);
        self.networks.values().map(text).chain(of_this_lan).collect()
    }

    /// The system clock was set, by so many seconds.
    pub(super) fn shift(&mut self, seconds: i64) {
        let times = self.networks.values_mut().map(|asking| &mut asking.last).chain(self.of_this_lan.values_mut());
        times.for_each(|last| last.0 = last.0.saturating_add(seconds));
    }
}
