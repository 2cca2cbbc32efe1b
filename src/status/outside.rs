//! Which other networks' devices ask here for files. They get no answer, so this is the only trace that they leave.
//!
//! Anybody can send from forged addresses. So the record is small, nobody can push another out of it, and a network is
//! forgotten once it is quiet.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use ids::{Lan, UnixTime};

/// The most networks that are remembered. Requests of further ones are only counted.
pub const MAX_NETWORKS: usize = 8;
/// For how long nothing has to come from a network until it is forgotten. A phone without its files asks every few
/// minutes.
pub const QUIET: Duration = Duration::from_secs(3_600);
/// The prefix length of a network in the record. Nobody here knows the real one.
const PREFIX_LEN: u8 = 24;

/// A network whose devices ask here, as `lineside status` shows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct OutsideNetwork {
    /// The network, for example `10.20.0.0/24`.
    pub network: String,
    /// The number of its requests.
    pub count: u64,
    /// The time of the last one.
    pub last: UnixTime,
}

/// The networks that ask, by their first address.
#[derive(Debug, Default)]
pub(super) struct OutsideNetworks {
    pub(super) networks: BTreeMap<Ipv4Addr, Asked>,
}

#[derive(Debug)]
pub(super) struct Asked {
    pub(super) count: u64,
    /// How long the process was up when the last request came.
    pub(super) last: Duration,
}

impl OutsideNetworks {
    /// A request came from this address. Returns the network if it is a new one in the record.
    pub(super) fn asked(&mut self, source: Ipv4Addr, up: Duration) -> Option<Ipv4Addr> {
        let network = Lan::new(source, PREFIX_LEN).network();
        if let Some(known) = self.networks.get_mut(&network) {
            known.count = known.count.saturating_add(1);
            known.last = up;
            return None;
        }
        let is_host =
            !(source.is_unspecified() || source.is_loopback() || source.is_multicast() || source.is_broadcast());
        if !is_host || self.networks.len() >= MAX_NETWORKS {
            return None;
        }
        self.networks.insert(network, Asked { count: 1, last: up });
        Some(network)
    }

    /// Forgets the networks that are quiet, and returns them.
    pub(super) fn quiet(&mut self, up: Duration) -> Vec<Ipv4Addr> {
        let quiet = |asked: &Asked| up.saturating_sub(asked.last) >= QUIET;
        let gone: Vec<Ipv4Addr> =
            self.networks.iter().filter(|(_, asked)| quiet(asked)).map(|(network, _)| *network).collect();
        for network in &gone {
            self.networks.remove(network);
        }
        gone
    }
}

/// A network of the record as people write it.
pub(super) fn shown(network: Ipv4Addr) -> String {
    format!("{network}/{PREFIX_LEN}")
}

/// The text of the alert.
pub(super) fn alert_text(network: Ipv4Addr, served: Lan) -> String {
    format!(
        "phones of {} ask for files here, only {}/{} is served: put a box into that network, or these phones into this one",
        shown(network),
        served.network(),
        served.prefix_len()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_from_forged_addresses_fills_the_record_and_pushes_nobody_out() {
        let mut outside = OutsideNetworks::default();
        let second = Duration::from_secs(1);
        assert_eq!(outside.asked(Ipv4Addr::new(10, 20, 0, 7), second), Some(Ipv4Addr::new(10, 20, 0, 0)));
        assert_eq!(outside.asked(Ipv4Addr::new(10, 20, 0, 8), second), None, "one network");
        let new = (0..100_000_u32).filter(|number| outside.asked(Ipv4Addr::from(number << 8 | 5), second).is_some());
        assert!(new.count() < MAX_NETWORKS && outside.networks.len() == MAX_NETWORKS);
        assert!(outside.networks.contains_key(&Ipv4Addr::new(10, 20, 0, 0)));
    }

    #[test]
    fn a_network_is_forgotten_after_an_hour_of_silence() {
        let mut outside = OutsideNetworks::default();
        let phone = Ipv4Addr::new(10, 20, 0, 7);
        outside.asked(phone, Duration::ZERO);
        outside.asked(phone, QUIET / 2);
        assert!(outside.quiet(QUIET).is_empty());
        assert_eq!(outside.quiet(QUIET + QUIET / 2), [Ipv4Addr::new(10, 20, 0, 0)]);
        assert!(outside.asked(phone, QUIET * 2).is_some(), "it may come back");
    }

    #[test]
    fn what_no_host_sends_from_is_no_network() {
        let mut outside = OutsideNetworks::default();
        for source in [[0, 0, 0, 0], [127, 0, 0, 1], [224, 0, 0, 1], [255, 255, 255, 255]] {
            assert_eq!(outside.asked(Ipv4Addr::from(source), Duration::ZERO), None, "{source:?}");
        }
    }

    #[test]
    fn the_alert_names_both_networks() {
        let text = alert_text(Ipv4Addr::new(10, 20, 0, 0), Lan::new(Ipv4Addr::new(192, 168, 77, 1), 24));
        assert!(
            text.contains("phones of 10.20.0.0/24 ask") && text.contains("only 192.168.77.0/24 is served"),
            "{text}"
        );
        assert!(text.len() <= crate::stats::MAX_TEXT_BYTES);
    }
}
