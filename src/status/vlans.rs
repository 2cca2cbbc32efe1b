//! Which other VLANs' phones ask for addresses at this port, in tagged frames. They get no answer.
//!
//! Anybody can send such frames. So the record is small, nobody can push another VLAN out of it, and a VLAN is forgotten
//! once it is quiet.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use ids::{MacAddr, UnixTime};

/// The most VLANs that are remembered.
pub const MAX_VLANS: usize = 8;
/// For how long nothing has to come from a VLAN until it is forgotten. A phone without an address asks every minute.
const QUIET: Duration = Duration::from_secs(3_600);

/// A VLAN whose phones ask here, as `lineside status` shows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct TaggedVlan {
    /// Its number (IEEE 802.1Q).
    pub vlan: u16,
    /// The phone that asked first.
    pub first: MacAddr,
    /// The number of requests.
    pub count: u64,
    /// The time of the last one.
    pub last: UnixTime,
}

/// The VLANs that ask.
#[derive(Debug, Default)]
pub(super) struct TaggedVlans(BTreeMap<u16, Asked>);

#[derive(Debug)]
struct Asked {
    first: MacAddr,
    count: u64,
    /// How long the process was up when the last request came.
    last: Duration,
}

impl TaggedVlans {
    /// A phone asked in this VLAN.
    pub(super) fn asked(&mut self, vlan: u16, phone: MacAddr, up: Duration) {
        self.0.retain(|_, asked| up.saturating_sub(asked.last) < QUIET);
        if self.0.len() < MAX_VLANS || self.0.contains_key(&vlan) {
            let asked = self.0.entry(vlan).or_insert(Asked { first: phone, count: 0, last: up });
            (asked.count, asked.last) = (asked.count.saturating_add(1), up);
        }
    }

    /// The VLANs that have asked of late. `date` says when something was.
    pub(super) fn shown(&self, up: Duration, date: impl Fn(Duration) -> UnixTime) -> Vec<TaggedVlan> {
        let recent = self.0.iter().filter(|(_, asked)| up.saturating_sub(asked.last) < QUIET);
        let shown = |(vlan, asked): (&u16, &Asked)| TaggedVlan {
            vlan: *vlan,
            first: asked.first,
            count: asked.count,
            last: date(asked.last),
        };
        recent.map(shown).collect()
    }
}

/// What people read of it, behind how often and when it asked.
pub(super) fn what_to_do(vlan: u16) -> String {
    format!(
        "this box serves what comes to its port without a tag; set the switch's port to VLAN {vlan} untagged (access), or \
         put a box into that VLAN"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vlans_are_shown_until_they_are_quiet_and_made_up_ones_fill_no_memory() {
        let (mut vlans, phone) = (TaggedVlans::default(), MacAddr::new([0, 4, 0xf2, 0, 0, 1]));
        let at = Duration::from_secs;
        let date = |up: Duration| UnixTime(i64::try_from(up.as_secs()).unwrap_or(0));
        vlans.asked(20, phone, at(1));
        vlans.asked(20, MacAddr::new([0, 4, 0xf2, 0, 0, 2]), at(5));
        let shown = TaggedVlan { vlan: 20, first: phone, count: 2, last: UnixTime(5) };
        assert_eq!(vlans.shown(at(6), date), [shown]);
        assert_eq!(vlans.shown(at(3_605), date), []);
        for vlan in 1..4_000 {
            vlans.asked(vlan, phone, at(10));
        }
        assert_eq!(vlans.0.len(), MAX_VLANS);
        assert!(vlans.0.contains_key(&20), "nobody pushes it out");
    }
}
