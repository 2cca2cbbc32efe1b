//! Asks `access` which device an address belongs to and what that device may have.

use std::net::Ipv4Addr;
use std::sync::{Arc, PoisonError};
use std::time::Instant;

use access::devices::{ChangeCount, SharedDevices};
use access::policy::GuessingDevice;
use access::{Catalog, Decision, FileRequest, OwnLog, PhonesBehind, Policy, Resolution};
use ids::{FileName, Generation};

/// A decision and the release that it was made on.
#[derive(Debug)]
pub(super) struct GateDecision {
    pub(super) decision: Decision,
    /// Set only by the request that locked the requester out.
    pub(super) guessing: Option<GuessingDevice>,
    pub(super) release: ServedRelease,
}

/// What a transfer keeps of the release that it began on.
#[derive(Debug, Clone, Copy)]
pub(super) struct ServedRelease {
    pub(super) generation: Generation,
    /// Whether the inventory has the requester.
    pub(super) known: bool,
    pub(super) max_blksize: Option<u16>,
    pub(super) max_windowsize: Option<u16>,
}

impl ServedRelease {
    fn of(catalog: &Catalog, requester: Resolution) -> Self {
        let settings = &catalog.settings().tftp;
        let known = match requester {
            Resolution::Device(mac) => catalog.phone(mac).is_some(),
            Resolution::Unknown | Resolution::Conflict { .. } => false,
        };
        Self {
            generation: catalog.generation(),
            known,
            max_blksize: settings.max_blksize,
            max_windowsize: settings.max_windowsize,
        }
    }
}

/// The active release, the device table and the policy.
pub(super) struct Gate {
    policy: Policy,
    catalog: Arc<Catalog>,
    devices: SharedDevices,
    changes: ChangeCount,
}

/// The device to which a client's address belonged when its request was decided.
pub(super) struct AddressOwner {
    address: Ipv4Addr,
    requester: Resolution,
    /// [`ChangeCount::count`] when the owner was last found to be the same.
    seen: Option<u64>,
}

impl AddressOwner {
    pub(super) const fn new(address: Ipv4Addr, requester: Resolution) -> Self {
        Self { address, requester, seen: None }
    }
}

impl Gate {
    pub(super) fn new(policy: Policy, catalog: Arc<Catalog>, devices: SharedDevices) -> Self {
        let changes = devices.read().unwrap_or_else(PoisonError::into_inner).changes();
        Self { policy, catalog, devices, changes }
    }

    /// From now on requests are decided on this release.
    pub(super) fn serve(&mut self, catalog: Arc<Catalog>) {
        self.catalog = catalog;
    }

    /// Whether the address still belongs to the same device. Every packet asks, so the table is read only after a change.
    pub(super) fn still_owns(&self, owner: &mut AddressOwner) -> bool {
        let changes = self.changes.count();
        if owner.seen == Some(changes) {
            return true;
        }
        let now = self.who(owner.address);
        if owner.requester == Resolution::Unknown && matches!(now, Resolution::Device(_)) {
            // An unknown requester got what everyone may have. From here on the address is this device's.
            owner.requester = now;
        }
        let still_owns = owner.requester == now;
        owner.seen = still_owns.then_some(changes);
        still_owns
    }

    /// The device to which the address belongs now.
    pub(super) fn who(&self, address: Ipv4Addr) -> Resolution {
        self.devices.read().unwrap_or_else(PoisonError::into_inner).resolve(address)
    }

    /// Whether addresses are resolved at all: not on loopback, where there are no neighbours.
    pub(super) fn can_resolve(&self) -> bool {
        self.devices.read().unwrap_or_else(PoisonError::into_inner).has_link()
    }

    /// The release that is active now, and whether it has the requester.
    pub(super) fn served(&self, requester: Resolution) -> ServedRelease {
        ServedRelease::of(&self.catalog, requester)
    }

    /// Decides one read request on the release that is active now. Counts toward the requester's rate and guesses.
    pub(super) fn decide(
        &mut self,
        address: Ipv4Addr,
        requester: Resolution,
        name: &FileName,
        now: Instant,
    ) -> GateDecision {
        let request = FileRequest { address, requester, name };
        let (decision, guessing) = self.policy.decide(&self.catalog, &request, now);
        GateDecision { decision, guessing, release: ServedRelease::of(&self.catalog, requester) }
    }

    /// The devices with phones behind them, if that has changed. Of devices with a single one only those count that are no
    /// phones themselves, and that were not reported to have taken its address: that report says all of it.
    pub(super) fn poll_behind(&mut self, now: Instant) -> Option<Vec<PhonesBehind>> {
        let mut behind = self.policy.poll_behind(now)?;
        let mut devices = self.devices.write().unwrap_or_else(PoisonError::into_inner);
        devices.set_repeaters(behind.iter().filter(|it| it.phones > 1).map(|it| it.device));
        behind
            .retain(|it| it.phones > 1 || (self.catalog.phone(it.device).is_none() && !devices.is_suspect(it.device)));
        Some(behind)
    }

    /// The requester's own log of this name; `None` if it has no such log, or writes too often.
    pub(super) fn own_log(
        &mut self,
        address: Ipv4Addr,
        requester: Resolution,
        name: &FileName,
        now: Instant,
    ) -> Option<(OwnLog, ServedRelease)> {
        let request = FileRequest { address, requester, name };
        let log = self.policy.own_log(&self.catalog, &request, now)?;
        Some((log, ServedRelease::of(&self.catalog, requester)))
    }
}
