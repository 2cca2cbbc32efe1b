//! Which device an IP address belongs to, from our own leases and the kernel's neighbour table.
//!
//! The link decides: an address is a device's while the neighbour table says so. A lease alone proves nothing about
//! who answers at that address now (its phone may be unplugged and somebody else about to claim it), so it only
//! confirms or disputes what the link says.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, RwLock};

use ids::MacAddr;

/// The most addresses that each source is remembered for: four times what the kernel's neighbour table holds.
pub const MAX_ADDRESSES: usize = 4096;

/// The table as services share it. It is locked for one question or one change, never across an `.await`.
pub type SharedDevices = Arc<RwLock<DeviceTable>>;

/// What is known of an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Resolution {
    /// The address belongs to this device.
    Device(MacAddr),
    /// Neither link nor lease says (yet): resolve the address, then ask again.
    Unknown,
    /// Sources disagree: our lease says one device, the link says another.
    Conflict {
        /// The device that has our lease of the address.
        leased: MacAddr,
        /// The device that the neighbour table has at the address.
        seen: MacAddr,
    },
}

/// Says which device has an address. The `dhcp` and `neighbours` tasks tell it of changes; it answers without blocking.
#[derive(Debug, Default, Clone)]
pub struct DeviceTable {
    fixed: BTreeMap<Ipv4Addr, MacAddr>,
    leases: Sightings,
    neighbours: Sightings,
    /// The addresses of `neighbours` whose device was heard of lately.
    reachable: HashSet<Ipv4Addr>,
    no_link: bool,
    changes: ChangeCount,
    /// The devices that several phones seem to sit behind.
    repeaters: HashSet<MacAddr>,
    /// The devices that were reported to have taken a phone's address.
    suspects: HashSet<MacAddr>,
}

/// Counts the changes that may change an answer of [`DeviceTable::resolve`]. Whoever asks for every packet reads the count
/// first, without the table's lock. Clones count the same table.
#[derive(Debug, Default, Clone)]
pub struct ChangeCount(Arc<AtomicU64>);

impl ChangeCount {
    /// The count now. Read it before the table, so that an answer is never taken for newer than it is.
    pub fn count(&self) -> u64 {
        self.0.load(Ordering::Acquire)
    }

    fn add(&self) {
        self.0.fetch_add(1, Ordering::Release);
    }
}

/// An address went from one device to another, and neither our own leases nor a new address of the first device explain it.
/// It is reported once.
///
/// One device on several addresses is no such change: routers, hosts with secondary addresses, virtual addresses of a pair
/// of routers, proxy ARP and phones that renumber all look so.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AddressChange {
    /// The address.
    pub address: Ipv4Addr,
    /// The device that had it.
    pub from: MacAddr,
    /// The device that has it now.
    pub to: MacAddr,
}

impl DeviceTable {
    /// For loopback, which has no link layer to ask: there a lease is all there is to know, and suffices. For demos and
    /// tests only.
    pub fn without_link() -> Self {
        Self { no_link: true, ..Self::default() }
    }

    /// Whether it is worth waiting for the link layer to resolve an address.
    pub const fn has_link(&self) -> bool {
        !self.no_link
    }

    /// Says for good whose `address` is, whatever lease and link say: for labs and loopback, where there is no link
    /// layer to ask. At most [`MAX_ADDRESSES`] are kept; false if there is no room.
    pub fn fixed(&mut self, address: Ipv4Addr, mac: MacAddr) -> bool {
        let fits = self.fixed.len() < MAX_ADDRESSES || self.fixed.contains_key(&address);
        if fits {
            self.fixed.insert(address, mac);
            self.changes.add();
        }
        fits
    }

    /// The link layer says that `address` is at `mac` now.
    ///
    /// Reports an address that another device has taken, unless something explains it: our own lease, or that the device
    /// that had it is at another address now, as after a router has lost its leases.
    pub fn neighbour(&mut self, address: Ipv4Addr, mac: MacAddr) -> Option<AddressChange> {
        let before = self.neighbours.device(address);
        if before == Some(mac) {
            // Heard of again: only its age changes.
            self.neighbours.insert(address, mac, &self.leases);
            return None;
        }
        self.changes.add();
        self.neighbours.insert(address, mac, &self.leases);
        let from = before?;
        let is_explained = self.leases.device(address) == Some(mac) || self.neighbours.address(from).is_some();
        (!is_explained).then_some(AddressChange { address, from, to: mac })
    }

    /// Whether the link layer has heard lately of the device at `address`. Else it may have gone since.
    pub fn set_reachable(&mut self, address: Ipv4Addr, reachable: bool) {
        if !reachable {
            self.reachable.remove(&address);
        } else if self.neighbours.device(address).is_some() {
            if self.reachable.len() >= MAX_ADDRESSES {
                self.reachable.retain(|address| self.neighbours.device(*address).is_some());
            }
            self.reachable.insert(address);
        }
    }

    /// Whether the device at `address` was heard of lately, as far as the link layer says: a device that has just gone still
    /// counts for up to a minute.
    pub fn is_reachable(&self, address: Ipv4Addr) -> bool {
        self.fixed.contains_key(&address) || self.reachable.contains(&address)
    }

    /// Several phones seem to sit behind each of these devices, and behind no other.
    pub fn set_repeaters(&mut self, devices: impl IntoIterator<Item = MacAddr>) {
        self.repeaters = devices.into_iter().take(MAX_ADDRESSES).collect();
    }

    /// Whether several phones seem to sit behind this device: that an address of theirs goes to it, or back, is no conflict.
    pub fn is_repeater(&self, device: MacAddr) -> bool {
        self.repeaters.contains(&device)
    }

    /// It was reported that this device has taken a phone's address.
    pub fn suspect(&mut self, device: MacAddr) {
        if self.suspects.len() < MAX_ADDRESSES {
            self.suspects.insert(device);
        }
    }

    /// Whether it was reported that this device has taken a phone's address.
    pub fn is_suspect(&self, device: MacAddr) -> bool {
        self.suspects.contains(&device)
    }

    /// The link layer no longer knows `address`.
    pub fn neighbour_gone(&mut self, address: Ipv4Addr) {
        self.reachable.remove(&address);
        self.neighbours.remove(address);
        self.changes.add();
    }

    /// We leased `address` to `mac`.
    pub fn leased(&mut self, address: Ipv4Addr, mac: MacAddr) {
        self.leases.insert(address, mac, &Sightings::default());
        self.changes.add();
    }

    /// The lease of `address` ended.
    pub fn lease_gone(&mut self, address: Ipv4Addr) {
        self.leases.remove(address);
        self.changes.add();
    }

    /// The count of changes, to read without the table's lock.
    pub fn changes(&self) -> ChangeCount {
        self.changes.clone()
    }

    /// The device that has this address.
    ///
    /// [`Resolution::Unknown`] as long as the link says nothing, even if there is a lease: then the first packets of a
    /// file would go to whoever answers for the address.
    pub fn resolve(&self, address: Ipv4Addr) -> Resolution {
        if let Some(mac) = self.fixed.get(&address) {
            return Resolution::Device(*mac);
        }
        match (self.leases.device(address), self.neighbours.device(address)) {
            (Some(leased), Some(seen)) if leased != seen => Resolution::Conflict { leased, seen },
            (_, Some(seen)) => Resolution::Device(seen),
            (Some(leased), None) if self.no_link => Resolution::Device(leased),
            (_, None) => Resolution::Unknown,
        }
    }

    /// The address that the link last said this device is at, or that is fixed to it.
    pub fn address(&self, mac: MacAddr) -> Option<Ipv4Addr> {
        let fixed = || self.fixed.iter().find(|(_, device)| **device == mac).map(|(address, _)| *address);
        self.neighbours.address(mac).or_else(fixed)
    }
}

/// What one source says, for at most [`MAX_ADDRESSES`] addresses: a new one takes the place of the one seen longest ago.
#[derive(Debug, Default, Clone)]
struct Sightings {
    devices: HashMap<Ipv4Addr, (MacAddr, u64)>,
    /// The addresses of each device, the newest sighting last.
    addresses: HashMap<MacAddr, Vec<Ipv4Addr>>,
    /// The addresses by the time of their last sighting, the oldest first; times are readings of `clock`.
    ages: BTreeMap<u64, Ipv4Addr>,
    clock: u64,
}

impl Sightings {
    fn device(&self, address: Ipv4Addr) -> Option<MacAddr> {
        self.devices.get(&address).map(|(mac, _)| *mac)
    }

    fn address(&self, mac: MacAddr) -> Option<Ipv4Addr> {
        self.addresses.get(&mac).and_then(|addresses| addresses.last().copied())
    }

    /// Notes a sighting. What must go to make room is the oldest that `keep` does not confirm, so that somebody who
    /// makes up addresses pushes out only such as we never leased.
    fn insert(&mut self, address: Ipv4Addr, mac: MacAddr, keep: &Sightings) {
        self.remove(address);
        if self.devices.len() >= MAX_ADDRESSES {
            let confirmed = |address: &Ipv4Addr| keep.device(*address) == self.device(*address);
            let oldest = self.ages.values().find(|address| !confirmed(address)).or_else(|| self.ages.values().next());
            if let Some(oldest) = oldest.copied() {
                self.remove(oldest);
            }
        }
        self.clock += 1;
        self.devices.insert(address, (mac, self.clock));
        self.ages.insert(self.clock, address);
        self.addresses.entry(mac).or_default().push(address);
    }

    fn remove(&mut self, address: Ipv4Addr) {
        let Some((mac, age)) = self.devices.remove(&address) else {
            return;
        };
        self.ages.remove(&age);
        if let Some(addresses) = self.addresses.get_mut(&mac) {
            addresses.retain(|other| *other != address);
            if addresses.is_empty() {
                self.addresses.remove(&mac);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]

    use super::*;

    const PHONE: MacAddr = MacAddr::new([0, 4, 0xf2, 0, 0, 1]);
    const THIEF: MacAddr = MacAddr::new([2, 0, 0, 0, 0, 9]);

    fn at(host: u8) -> Ipv4Addr {
        Ipv4Addr::new(192, 0, 2, host)
    }

    #[test]
    fn a_lease_suffices_only_where_there_is_no_link_to_ask() {
        let (mut loopback, mut lan) = (DeviceTable::without_link(), DeviceTable::default());
        loopback.leased(at(1), PHONE);
        lan.leased(at(1), PHONE);
        assert_eq!(loopback.resolve(at(1)), Resolution::Device(PHONE));
        assert_eq!(lan.resolve(at(1)), Resolution::Unknown);
        assert!(!loopback.has_link() && lan.has_link());
    }

    #[test]
    fn the_link_names_the_device_until_it_forgets_it() {
        let mut table = DeviceTable::default();
        assert_eq!(table.resolve(at(1)), Resolution::Unknown);
        assert_eq!(table.neighbour(at(1), PHONE), None);
        assert_eq!(table.resolve(at(1)), Resolution::Device(PHONE));
        assert_eq!(table.address(PHONE), Some(at(1)));
        table.neighbour_gone(at(1));
        assert_eq!(table.resolve(at(1)), Resolution::Unknown);
        assert_eq!(table.address(PHONE), None);
    }

    #[test]
    fn a_device_that_was_heard_of_lately_is_told_from_one_that_may_have_gone() {
        let mut table = DeviceTable::default();
        table.set_reachable(at(1), true);
        assert!(!table.is_reachable(at(1)), "nobody is there");
        table.neighbour(at(1), PHONE);
        table.set_reachable(at(1), true);
        assert!(table.is_reachable(at(1)));
        table.set_reachable(at(1), false);
        assert!(!table.is_reachable(at(1)));
        assert_eq!(table.resolve(at(1)), Resolution::Device(PHONE));
        for number in 0..20_000u32 {
            let address = Ipv4Addr::from(0x0a00_0000 + number);
            table.neighbour(address, THIEF);
            table.set_reachable(address, true);
        }
        assert!(table.reachable.len() <= MAX_ADDRESSES);
    }

    #[test]
    fn a_lease_alone_is_no_proof_of_who_answers_there() {
        let mut table = DeviceTable::default();
        table.leased(at(1), PHONE);
        assert_eq!(table.resolve(at(1)), Resolution::Unknown);
        table.neighbour(at(1), PHONE);
        assert_eq!(table.resolve(at(1)), Resolution::Device(PHONE));
    }

    #[test]
    fn a_link_that_contradicts_our_lease_is_a_conflict_until_one_of_them_goes() {
        let mut table = DeviceTable::default();
        table.leased(at(1), PHONE);
        table.neighbour(at(1), THIEF);
        assert_eq!(table.resolve(at(1)), Resolution::Conflict { leased: PHONE, seen: THIEF });
        table.lease_gone(at(1));
        assert_eq!(table.resolve(at(1)), Resolution::Device(THIEF));
    }

    #[test]
    fn a_fixed_address_wins() {
        let mut table = DeviceTable::default();
        assert!(table.fixed(at(1), PHONE));
        table.leased(at(1), THIEF);
        table.neighbour(at(1), THIEF);
        assert_eq!(table.resolve(at(1)), Resolution::Device(PHONE));
    }

    #[test]
    fn an_address_that_changes_its_device_is_reported_once() {
        let mut table = DeviceTable::default();
        table.neighbour(at(1), PHONE);
        let change = AddressChange { address: at(1), from: PHONE, to: THIEF };
        assert_eq!(table.neighbour(at(1), THIEF), Some(change));
        assert_eq!(table.neighbour(at(1), THIEF), None);
    }

    #[test]
    fn a_device_on_several_addresses_is_no_conflict() {
        // A host with secondary addresses, a virtual address beside a router's own, proxy ARP, a repeater.
        let mut table = DeviceTable::default();
        for host in 1..100 {
            assert_eq!(table.neighbour(at(host), PHONE), None);
        }
        // The same where we lease: the link shows the repeater, whoever has our lease.
        for host in 100..=200 {
            table.leased(at(host), MacAddr::new([0, 4, 0xf2, 0, 1, host]));
            assert_eq!(table.neighbour(at(host), PHONE), None);
        }
    }

    #[test]
    fn a_phone_that_renumbers_is_no_conflict_whoever_gets_its_address() {
        let mut table = DeviceTable::default();
        table.neighbour(at(1), PHONE);
        assert_eq!(table.neighbour(at(2), PHONE), None);
        assert_eq!(table.neighbour(at(1), THIEF), None);
        assert_eq!(table.resolve(at(1)), Resolution::Device(THIEF));
    }

    #[test]
    fn an_address_that_two_routers_share_goes_from_one_to_the_other_without_a_word() {
        let (mut table, backup) = (DeviceTable::default(), THIEF);
        table.neighbour(at(2), PHONE);
        table.neighbour(at(3), backup);
        table.neighbour(at(1), PHONE);
        assert_eq!(table.neighbour(at(1), backup), None);
        assert_eq!(table.neighbour(at(1), PHONE), None);
    }

    #[test]
    fn what_our_own_lease_explains_is_not_reported() {
        let mut table = DeviceTable::default();
        table.neighbour(at(1), PHONE);
        table.leased(at(2), PHONE);
        assert_eq!(table.neighbour(at(2), PHONE), None);
        table.leased(at(1), THIEF);
        assert_eq!(table.neighbour(at(1), THIEF), None);
    }

    #[test]
    fn made_up_addresses_fill_no_memory_and_push_out_no_leased_phone() {
        let mut table = DeviceTable::default();
        table.leased(at(1), PHONE);
        table.neighbour(at(1), PHONE);
        for number in 0..20_000u32 {
            table.neighbour(Ipv4Addr::from(0x0a00_0000 + number), THIEF);
            table.leased(Ipv4Addr::from(0x0b00_0000 + number % 4000), THIEF);
        }
        assert_eq!(table.neighbours.devices.len(), MAX_ADDRESSES);
        assert_eq!(table.neighbours.ages.len(), MAX_ADDRESSES);
        assert_eq!(table.resolve(at(1)), Resolution::Device(PHONE));
    }

    #[test]
    fn every_change_of_an_answer_is_counted_and_what_is_heard_again_is_not() {
        let mut table = DeviceTable::default();
        let changes = table.changes();
        let mut before = changes.count();
        let mut moved = |what: &str, expected: bool| {
            assert_eq!(changes.count() != before, expected, "{what}");
            before = changes.count();
        };
        table.neighbour(at(1), PHONE);
        moved("seen", true);
        table.neighbour(at(1), PHONE);
        moved("seen again", false);
        table.neighbour(at(1), THIEF);
        moved("another device", true);
        table.leased(at(1), PHONE);
        moved("a conflict", true);
        table.lease_gone(at(1));
        moved("no conflict", true);
        table.neighbour_gone(at(1));
        moved("gone", true);
        table.fixed(at(1), PHONE);
        moved("fixed", true);
    }

    #[test]
    fn who_is_named_as_a_repeater_or_suspect_is_bounded() {
        let mut table = DeviceTable::default();
        let device = |number: u32| {
            let [a, b, c, d] = number.to_be_bytes();
            MacAddr::new([2, 0, a, b, c, d])
        };
        for number in 0..20_000 {
            table.suspect(device(number));
        }
        table.set_repeaters((0..20_000).map(device));
        assert_eq!((table.suspects.len(), table.repeaters.len()), (MAX_ADDRESSES, MAX_ADDRESSES));
        table.set_repeaters([device(7)]);
        assert!(table.is_repeater(device(7)) && !table.is_repeater(device(8)) && table.is_suspect(device(8)));
    }

    #[test]
    fn fixed_addresses_are_bounded_too() {
        let mut table = DeviceTable::default();
        for number in 0..4096u32 {
            assert!(table.fixed(Ipv4Addr::from(number), PHONE));
        }
        assert!(!table.fixed(at(1), PHONE));
        assert!(table.fixed(Ipv4Addr::from(7), THIEF));
    }
}
