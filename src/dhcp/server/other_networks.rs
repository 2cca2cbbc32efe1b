//! Devices of other networks that ask through a relay agent, as phones of a voice VLAN do. Only this LAN is served. Pure.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::time::Duration;

use crate::message::Request;
use crate::scope::DhcpScope;
use ids::{Lan, UnixTime};

/// A network of which nobody has asked for so long does not ask any more. Phones renew a lease within half a day; one that
/// has none asks every minute.
pub(super) const FORGOTTEN_AFTER: Duration = Duration::from_secs(3600);
/// The most networks that are remembered: anybody can put any address into a request.
const MAX_NETWORKS: usize = 4;
/// How a relay agent's network is written. The agent does not say how large it is, and most have 24 bits.
const PREFIX: u8 = 24;

/// The networks that ask.
#[derive(Debug, Default)]
pub(super) struct OtherNetworks(BTreeMap<Ipv4Addr, AskingNetwork>);

#[derive(Debug)]
struct AskingNetwork {
    relay: Ipv4Addr,
    /// Whether a phone of this site has asked, or only other devices.
    phones: bool,
    last: UnixTime,
}

impl OtherNetworks {
    /// A request has come. Says whether it is of another network.
    pub(super) fn heard(&mut self, scope: &DhcpScope, request: &Request, now: UnixTime) -> bool {
        let relay = request.giaddr;
        if relay.is_unspecified() || scope.lan.contains(relay) {
            return false;
        }
        let network = Lan::new(relay, PREFIX).network();
        let phones = scope.is_phone(request);
        if self.0.len() >= MAX_NETWORKS && !self.0.contains_key(&network) {
            // A network of phones takes the place of one without any.
            let other = self.0.iter().find(|(_, asking)| phones && !asking.phones).map(|(network, _)| *network);
            let Some(other) = other else { return true };
            self.0.remove(&other);
        }
        let asking = self.0.entry(network).or_insert(AskingNetwork { relay, phones, last: now });
        (asking.relay, asking.last) = (relay, now);
        asking.phones |= phones;
        true
    }

    /// What to tell people.
    pub(super) fn texts(&mut self, served: Lan, now: UnixTime) -> Vec<String> {
        self.0.retain(|_, asking| now.since(asking.last) < FORGOTTEN_AFTER);
        let text = |(network, AskingNetwork { relay, phones, .. }): (&Ipv4Addr, &AskingNetwork)| {
            let who = if *phones { "phones" } else { "devices" };
            format!(
                "{who} of {network}/{PREFIX} ask for addresses through the relay agent {relay}, only {}/{} is served; \
                 set up a box in that network, or take this one out of the relay agent's list (ip helper-address)",
                served.network(),
                served.prefix_len()
            )
        };
        self.0.iter().map(text).collect()
    }

    /// The system clock was set, by so many seconds.
    pub(super) fn shift(&mut self, seconds: i64) {
        self.0.values_mut().for_each(|asking| asking.last.0 = asking.last.0.saturating_add(seconds));
    }
}
