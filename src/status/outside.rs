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
/// The prefix length by which addresses are counted together. Nobody here knows the real one.
const PREFIX_LEN: u8 = 24;

/// A network whose devices ask here, as `lineside status` shows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct OutsideNetwork {
    /// The addresses that are counted together, for example `10.20.0.0/24`. Nobody here knows how large their network is.
    pub network: String,
    /// The address that the first request came from; `None` from a version that does not say it.
    #[serde(default)]
    pub first: Option<Ipv4Addr>,
    /// The number of its requests.
    pub count: u64,
    /// The time of the last one.
    pub last: UnixTime,
}

/// The networks that ask, by the first of the addresses that are counted together.
#[derive(Debug, Default)]
pub(super) struct OutsideNetworks {
    pub(super) networks: BTreeMap<Ipv4Addr, Asked>,
}

#[derive(Debug)]
pub(super) struct Asked {
    /// Where the first request came from.
    pub(super) first: Ipv4Addr,
    pub(super) count: u64,
    /// How long the process was up when the last request came.
    pub(super) last: Duration,
}

impl OutsideNetworks {
    /// A request came from this address. Returns the address if it is of a network that is new in the record.
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
        self.networks.insert(network, Asked { first: source, count: 1, last: up });
        Some(source)
    }

    /// Forgets the networks that are quiet, and returns the first address of each that asked.
    pub(super) fn quiet(&mut self, up: Duration) -> Vec<Ipv4Addr> {
        let quiet = |asked: &Asked| up.saturating_sub(asked.last) >= QUIET;
        let gone = self.networks.values().filter(|asked| quiet(asked)).map(|asked| asked.first).collect();
        self.networks.retain(|_, asked| !quiet(asked));
        gone
    }
}

/// The addresses that are counted together, as people write them.
pub(super) fn shown(network: Ipv4Addr) -> String {
    format!("{network}/{PREFIX_LEN}")
}

/// The text of the alert. `first` is where the first request of the network came from.
pub(super) fn alert_text(first: Ipv4Addr, served: Lan) -> String {
    format!(
        "phones of another network, such as {first}, ask for files here, only {}/{} is served: put a box into that \
         network, or these phones into this one",
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
        assert_eq!(outside.asked(Ipv4Addr::new(10, 20, 0, 7), second), Some(Ipv4Addr::new(10, 20, 0, 7)));
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
        assert_eq!(outside.quiet(QUIET + QUIET / 2), [phone]);
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
    fn the_alert_says_what_is_known_of_both_networks() {
        let text = alert_text(Ipv4Addr::new(10, 20, 0, 5), Lan::new(Ipv4Addr::new(192, 168, 77, 1), 24));
        assert!(
            text.starts_with(
                "phones of another network, such as 10.20.0.5, ask for files here, only 192.168.77.0/24 is"
            ),
            "{text}"
        );
        assert!(!text.contains("10.20.0.0"), "a request does not say how large its network is");
        assert!(text.len() <= crate::stats::MAX_TEXT_BYTES);
    }
}
