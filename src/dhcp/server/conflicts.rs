//! Addresses that two devices claim (RFC 5227 §2.4). Pure but for what it reports.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use tracing::debug;

use crate::arp::Claim;
use crate::leases::{Lease, LeaseState};
use api::AlertCode;
use ids::MacAddr;
use status::Stats;

/// The most conflicts that are remembered, not to be reported again.
pub(super) const MAX_CONFLICTS: usize = 64;

/// The conflicts that were reported.
#[derive(Debug, Default)]
pub(super) struct Conflicts(BTreeSet<Claim>);

impl Conflicts {
    /// Reports a claim of an address that is `own` (our address and hardware address) or that `lease` gives to another
    /// device. Each conflict is reported once: whoever claims an address does so many times.
    pub(super) fn report(
        &mut self,
        claim: Claim,
        own: Option<(Ipv4Addr, MacAddr)>,
        lease: Option<&Lease>,
        stats: &Stats,
    ) {
        let Claim { mac, address } = claim;
        let own = own.filter(|(ours, _)| *ours == address);
        let text = match (own, lease.filter(|lease| lease.state == LeaseState::Bound)) {
            (Some((_, own)), _) if own != mac => format!("{mac} claims {address}, which is this appliance's own"),
            (None, Some(lease)) if lease.mac != mac => {
                format!("{mac} claims {address}, which is leased to {}", lease.mac)
            }
            _ => return,
        };
        if self.0.insert(claim) {
            debug!("{text}");
            stats.alert(AlertCode::DhcpAddressConflict, text);
        }
        while self.0.len() > MAX_CONFLICTS {
            self.0.pop_first();
        }
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }
}
