//! What clients do to leases that people should know of. Pure.

use std::collections::BTreeMap;

use crate::leases::{Lease, LeaseState, Leases};
use ids::{MacAddr, UnixTime};

/// The most addresses that nobody gets because one device declined them. When it declines a further one, the first is free
/// again: ARP is asked for it before anybody gets it.
pub(super) const MAX_DECLINED: usize = 3;
/// The most devices that a text names.
const MAX_NAMED: usize = 3;

/// Devices that use one client identifier.
pub(super) fn shared_identifiers(leases: &Leases, now: UnixTime) -> Vec<String> {
    let text = |mut devices: Vec<&Lease>| {
        devices.sort_by_key(|lease| lease.mac);
        let named: Vec<String> =
            devices.iter().take(MAX_NAMED).map(|lease| format!("{} ({})", lease.mac, lease.address)).collect();
        let more = devices.len().saturating_sub(named.len());
        let more = if more == 0 { String::new() } else { format!(" and {more} more") };
        format!(
            "{}{more} use one client identifier (option 61); each keeps its own address. Give each an identifier of its \
             own, or none",
            named.join(" and ")
        )
    };
    leases.shared(now).into_iter().map(text).collect()
}

/// Devices that decline one address after the other.
pub(super) fn declining(leases: &Leases, now: UnixTime) -> Vec<String> {
    let mut declined: BTreeMap<MacAddr, usize> = BTreeMap::new();
    for lease in leases.all().filter(|lease| lease.state == LeaseState::Declined && lease.holds(now)) {
        *declined.entry(lease.mac).or_default() += 1;
    }
    let devices = declined.into_iter().filter(|(_, count)| *count >= MAX_DECLINED);
    let text = |(mac, _)| {
        format!(
            "{mac} declines one address after the other: it says that each is in use (DHCPDECLINE). Look whether the phone \
             is at fault, or whether a device there answers ARP for every address"
        )
    };
    devices.map(text).collect()
}
