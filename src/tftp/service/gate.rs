//! Where the service asks who somebody is and what he may have.

use std::net::Ipv4Addr;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Instant;

use tokio::sync::{mpsc, watch};

use access::devices::Changes;
use access::policy::GuessingDevice;
use access::{Catalog, Decision, DeviceTable, OwnLog, Policy, Request, Resolution};
use ids::{FileName, Generation};

/// A decision and the release that it was made on.
#[derive(Debug)]
pub(super) struct Verdict {
    pub(super) decision: Decision,
    /// The requester was locked out just now.
    pub(super) guessing: Option<GuessingDevice>,
    pub(super) release: Release,
}

/// What a transfer keeps of its release.
#[derive(Debug, Clone, Copy)]
pub(super) struct Release {
    pub(super) generation: Generation,
    /// Whether the inventory has the requester.
    pub(super) known: bool,
    pub(super) max_blksize: Option<u16>,
    pub(super) max_windowsize: Option<u16>,
}

impl Release {
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

/// The release, the devices and the policy, as the service asks them.
pub(super) struct Gate {
    policy: Policy,
    catalog: watch::Receiver<Arc<Catalog>>,
    devices: Arc<RwLock<DeviceTable>>,
    changes: Changes,
    resolve: mpsc::Sender<Ipv4Addr>,
}

/// Whose address it was when the request was decided.
pub(super) struct Binding {
    address: Ipv4Addr,
    requester: Resolution,
    /// [`Changes::count`] when it was last found to hold.
    seen: Option<u64>,
}

impl Binding {
    pub(super) const fn new(address: Ipv4Addr, requester: Resolution) -> Self {
        Self { address, requester, seen: None }
    }
}

impl Gate {
    pub(super) fn new(
        policy: Policy,
        catalog: watch::Receiver<Arc<Catalog>>,
        devices: Arc<RwLock<DeviceTable>>,
        resolve: mpsc::Sender<Ipv4Addr>,
    ) -> Self {
        let changes = devices.read().unwrap_or_else(PoisonError::into_inner).changes();
        Self { policy, catalog, devices, changes, resolve }
    }

    /// Whether the address is still whose it was. Asked for every packet, so it looks only where something changed.
    pub(super) fn holds(&self, binding: &mut Binding) -> bool {
        let changes = self.changes.count();
        if binding.seen == Some(changes) {
            return true;
        }
        let now = self.who(binding.address);
        if binding.requester == Resolution::Unknown && matches!(now, Resolution::Device(_)) {
            // It got what everyone may have; from here on it is this device.
            binding.requester = now;
        }
        let holds = binding.requester == now;
        binding.seen = holds.then_some(changes);
        holds
    }

    /// Whose address it is now.
    pub(super) fn who(&self, address: Ipv4Addr) -> Resolution {
        self.devices.read().unwrap_or_else(PoisonError::into_inner).resolve(address)
    }

    /// Whether waiting for an address can help: not on loopback, where nobody resolves.
    pub(super) fn can_resolve(&self) -> bool {
        self.devices.read().unwrap_or_else(PoisonError::into_inner).has_link()
    }

    /// Asks for the address to be resolved; the answer shows in [`Gate::who`].
    pub(super) fn resolve(&self, address: Ipv4Addr) {
        // Full means that the neighbour service has plenty to do; the phone will ask again.
        let _ = self.resolve.try_send(address);
    }

    /// Decides one request.
    pub(super) fn decide(
        &mut self,
        address: Ipv4Addr,
        requester: Resolution,
        name: &FileName,
        now: Instant,
    ) -> Verdict {
        let catalog = Arc::clone(&self.catalog.borrow());
        let request = Request { address, requester, name };
        let (decision, guessing) = self.policy.decide(&catalog, &request, now);
        Verdict { decision, guessing, release: Release::of(&catalog, requester) }
    }

    /// The log that may be written under this name, if there is one and it is not too often.
    pub(super) fn own_log(
        &mut self,
        address: Ipv4Addr,
        requester: Resolution,
        name: &FileName,
        now: Instant,
    ) -> Option<(OwnLog, Release)> {
        let catalog = Arc::clone(&self.catalog.borrow());
        let request = Request { address, requester, name };
        let log = self.policy.own_log(&catalog, &request, now)?;
        Some((log, Release::of(&catalog, requester)))
    }
}
