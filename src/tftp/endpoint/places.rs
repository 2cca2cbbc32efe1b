//! The places for transfers: who holds how many, which bound the next one meets, and whose transfer may give way.
//!
//! An address holds few places. But a device may have taken as many addresses as it likes, by ARP, so that places are also
//! counted by hardware address; and it may show many of those, so that all devices that the inventory does not have share
//! a part of the places.

use std::collections::HashMap;
use std::hash::Hash;
use std::net::Ipv4Addr;

use super::EndpointConfig;
use super::gate::Gate;
use access::Resolution;
use ids::MacAddr;

/// The addresses whose places one device may take. More than one, as a repeater or Wi-Fi bridge shows its own hardware
/// address for all phones behind it.
pub const ADDRESSES_PER_DEVICE: usize = 8;

/// Who holds a place, as it was judged when the request was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Holder {
    address: Ipv4Addr,
    /// `None` if the address is not known to be one device's, or addresses are not resolved here.
    device: Option<MacAddr>,
    /// Whether the inventory has the device. Where addresses are not resolved, nobody is held to be unknown.
    known: bool,
}

impl Holder {
    /// The device at this address, which the inventory has or has not.
    pub(super) fn new(gate: &Gate, address: Ipv4Addr, requester: Resolution, known: bool) -> Self {
        match requester {
            _ if !gate.can_resolve() => Self { address, device: None, known: true },
            Resolution::Device(mac) => Self { address, device: Some(mac), known },
            Resolution::Unknown | Resolution::Conflict { .. } => Self { address, device: None, known: false },
        }
    }

    /// Whether the inventory has the device.
    pub(super) const fn is_known(&self) -> bool {
        self.known
    }

    /// Whether a transfer of this holder ends rather than that the other one, a phone of the inventory, waits or is refused.
    pub(super) const fn yields_to(&self, other: &Self) -> bool {
        other.known && !self.known
    }
}

/// The places that are taken.
#[derive(Debug, Default)]
pub(super) struct Places {
    taken: usize,
    unknown: usize,
    per_address: HashMap<Ipv4Addr, usize>,
    per_device: HashMap<MacAddr, usize>,
}

/// The bounds that one more transfer of this holder would exceed.
#[derive(Debug, Clone, Copy)]
pub(super) struct Full {
    holder: Holder,
    /// Of its address.
    pub(super) address: bool,
    /// Of its device.
    pub(super) device: bool,
    /// Of all devices that the inventory does not have.
    pub(super) unknown: bool,
    /// Of all.
    all: bool,
}

impl Full {
    /// Whether there is any such bound.
    pub(super) const fn any(&self) -> bool {
        self.address || self.device || self.unknown || self.all
    }

    /// Whether there is a place if a transfer of this holder ends.
    pub(super) fn is_relieved_by(&self, other: &Holder) -> bool {
        (!self.address || other.address == self.holder.address)
            && (!self.device || other.device == self.holder.device)
            && (!self.unknown || !other.known)
    }
}

impl Places {
    pub(super) fn take(&mut self, holder: &Holder) {
        self.taken += 1;
        self.unknown += usize::from(!holder.known);
        *self.per_address.entry(holder.address).or_default() += 1;
        if let Some(device) = holder.device {
            *self.per_device.entry(device).or_default() += 1;
        }
    }

    pub(super) fn free(&mut self, holder: &Holder) {
        self.taken = self.taken.saturating_sub(1);
        self.unknown = self.unknown.saturating_sub(usize::from(!holder.known));
        one_less(&mut self.per_address, holder.address);
        if let Some(device) = holder.device {
            one_less(&mut self.per_device, device);
        }
    }

    /// The bounds that stand against one more transfer of this holder.
    pub(super) fn full(&self, config: &EndpointConfig, holder: Holder) -> Full {
        let of_address = config.max_transfers_per_address;
        let of_device = of_address.saturating_mul(ADDRESSES_PER_DEVICE);
        Full {
            holder,
            address: self.of_address(&holder) >= of_address,
            device: holder.device.is_some_and(|device| count(&self.per_device, device) >= of_device),
            unknown: !holder.known && self.unknown >= config.max_transfers.div_ceil(2),
            all: self.taken >= config.max_transfers,
        }
    }

    /// How many places this holder's device has; its address, if it is not known whose that is.
    pub(super) fn held_by(&self, holder: &Holder) -> usize {
        holder.device.map_or_else(|| self.of_address(holder), |device| count(&self.per_device, device))
    }

    fn of_address(&self, holder: &Holder) -> usize {
        count(&self.per_address, holder.address)
    }
}

fn count<T: Eq + Hash>(counts: &HashMap<T, usize>, of: T) -> usize {
    counts.get(&of).copied().unwrap_or(0)
}

fn one_less<T: Eq + Hash>(counts: &mut HashMap<T, usize>, of: T) {
    if let Some(count) = counts.get_mut(&of) {
        *count = count.saturating_sub(1);
        if *count == 0 {
            counts.remove(&of);
        }
    }
}

#[cfg(test)]
impl Places {
    /// How many are taken, by how many unknown devices, and by one address and one device at most.
    pub(super) fn taken(&self) -> [usize; 4] {
        let most = |counts: &mut dyn Iterator<Item = &usize>| counts.copied().max().unwrap_or(0);
        [self.taken, self.unknown, most(&mut self.per_address.values()), most(&mut self.per_device.values())]
    }
}
