//! Which device an IP address belongs to, from our own leases and the kernel's neighbour table.

use std::net::Ipv4Addr;

use crate::ids::MacAddr;

/// What is known of an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Resolution {
    /// It belongs to this device.
    Device(MacAddr),
    /// Nobody knows (yet): resolve it, then ask again.
    Unknown,
    /// Sources disagree: our lease says one device, the link says another.
    Conflict {
        /// By our lease.
        leased: MacAddr,
        /// By the link.
        seen: MacAddr,
    },
}

/// Address to device. Told of changes by whoever owns the sources; answers without blocking.
#[derive(Debug, Default, Clone)]
pub struct DeviceTable {
    _private: (),
}

/// A change that someone should hear of once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// One device on two addresses.
    TwoAddresses(MacAddr, Ipv4Addr, Ipv4Addr),
    /// An address went from one device to another.
    Moved(Ipv4Addr, MacAddr, MacAddr),
}

impl DeviceTable {
    /// The link layer says that `address` is at `mac` now.
    pub fn neighbour(&mut self, _address: Ipv4Addr, _mac: MacAddr) -> Option<Change> {
        todo!()
    }

    /// The link layer no longer knows `address`.
    pub fn neighbour_gone(&mut self, _address: Ipv4Addr) {
        todo!()
    }

    /// We leased `address` to `mac`.
    pub fn leased(&mut self, _address: Ipv4Addr, _mac: MacAddr) {
        todo!()
    }

    /// The lease of `address` ended.
    pub fn lease_gone(&mut self, _address: Ipv4Addr) {
        todo!()
    }

    /// Whose address it is.
    pub fn resolve(&self, _address: Ipv4Addr) -> Resolution {
        todo!()
    }
}
