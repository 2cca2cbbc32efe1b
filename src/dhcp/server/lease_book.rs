//! The leases, and what the device table knows of them. Pure but for what it tells the table.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::{Arc, PoisonError, RwLock, RwLockWriteGuard};

use tracing::debug;

use crate::leases::{Lease, LeaseState, Leases};
use crate::range::Range;
use access::{DeviceTable, Resolution};
use ids::{MacAddr, UnixTime};

/// All leases of this interface. Others hear of a lease only when it is durable.
#[derive(Debug)]
pub(super) struct LeaseBook {
    table: Leases,
    /// What the device table was told.
    announced: BTreeMap<Ipv4Addr, MacAddr>,
    devices: Arc<RwLock<DeviceTable>>,
    /// Whether the last leases could not be made durable.
    log_failed: bool,
}

impl LeaseBook {
    /// Takes over the leases of before a restart, and announces them.
    pub(super) fn new(kept: Vec<Lease>, devices: Arc<RwLock<DeviceTable>>, now: UnixTime) -> Self {
        let mut table = Leases::new();
        table.load(kept, now);
        Self { table, announced: BTreeMap::new(), devices, log_failed: false }
    }

    pub(super) const fn table(&self) -> &Leases {
        &self.table
    }

    pub(super) fn set_range(&mut self, range: Option<Range>) {
        self.table.set_range(range);
    }

    /// Whether devices hold leases of ours.
    pub(super) fn is_leasing(&self, now: UnixTime) -> bool {
        self.table.live(now).next().is_some()
    }

    /// The lease that holds an address now.
    pub(super) fn holding(&self, address: Ipv4Addr, now: UnixTime) -> Option<&Lease> {
        self.table.at(address).filter(|lease| lease.holds(now))
    }

    pub(super) fn put(&mut self, lease: Lease) {
        self.table.put(lease);
    }

    /// Forgets the record of an address.
    pub(super) fn forget(&mut self, address: Ipv4Addr) {
        self.table.forget(address);
    }

    /// These leases are durable.
    pub(super) fn kept(&mut self, kept: &[Lease]) {
        self.log_failed = false;
        let mut devices = write(&self.devices);
        for lease in kept {
            if lease.state == LeaseState::Bound {
                if self.announced.insert(lease.address, lease.mac) != Some(lease.mac) {
                    debug!(device = %lease.mac, address = %lease.address, "address leased");
                }
                devices.leased(lease.address, lease.mac);
            } else if self.announced.remove(&lease.address).is_some() {
                devices.lease_gone(lease.address);
            }
        }
    }

    /// These leases could not be made durable. An address may have been held before, so it stays held, but only to
    /// `latest`: not for as long as an ACK promises. Says whether this is news.
    pub(super) fn not_kept(&mut self, lost: &[Lease], latest: UnixTime) -> bool {
        for lease in lost {
            if self.table.at(lease.address) == Some(lease) {
                self.table.put(Lease { until: lease.until.min(latest), ..lease.clone() });
            }
        }
        !std::mem::replace(&mut self.log_failed, true)
    }

    /// Tells the device table which leases began and ended without a packet: at the start, and as time goes by.
    pub(super) fn announce(&mut self, now: UnixTime) {
        let live: BTreeMap<Ipv4Addr, MacAddr> = self.table.live(now).map(|lease| (lease.address, lease.mac)).collect();
        let mut devices = write(&self.devices);
        for (&address, _) in self.announced.iter().filter(|(address, _)| !live.contains_key(address)) {
            devices.lease_gone(address);
        }
        for (&address, &mac) in live.iter().filter(|(address, mac)| self.announced.get(address) != Some(mac)) {
            devices.leased(address, mac);
        }
        self.announced = live;
    }

    /// The device that has an address according to the device table, which follows the kernel's neighbours.
    pub(super) fn device_at(&self, address: Ipv4Addr) -> Option<MacAddr> {
        match self.devices.read().unwrap_or_else(PoisonError::into_inner).resolve(address) {
            Resolution::Device(mac) | Resolution::Conflict { seen: mac, .. } => Some(mac),
            Resolution::Unknown => None,
        }
    }

    /// The system clock was set, by so many seconds. Leases go with it; says which ones must be kept anew.
    pub(super) fn shift(&mut self, seconds: i64, now: UnixTime) -> Vec<Lease> {
        self.table.shift(seconds);
        self.table.live(now).cloned().collect()
    }

    #[cfg(test)]
    pub(super) fn is_announced(&self, address: Ipv4Addr) -> bool {
        self.announced.contains_key(&address)
    }
}

fn write(devices: &RwLock<DeviceTable>) -> RwLockWriteGuard<'_, DeviceTable> {
    devices.write().unwrap_or_else(PoisonError::into_inner)
}
