//! The addresses that a site may lease. Pure.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use ids::MacAddr;

/// The most addresses in a range.
pub const MAX_RANGE: u32 = 4096;

/// Addresses that follow each other, without those that are excluded: at most [`MAX_RANGE`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Range {
    first: u32,
    count: u32,
    excluded: BTreeSet<Ipv4Addr>,
}

impl Range {
    /// The addresses from `first` to `last` without `excluded`. `None` if the range is backwards or too long.
    pub fn new(first: Ipv4Addr, last: Ipv4Addr, excluded: BTreeSet<Ipv4Addr>) -> Option<Self> {
        let (first, last) = (u32::from(first), u32::from(last));
        let count = last.checked_sub(first)?.checked_add(1).filter(|count| *count <= MAX_RANGE)?;
        Some(Self { first, count, excluded })
    }

    /// Whether an address may be leased at all.
    pub fn contains(&self, address: Ipv4Addr) -> bool {
        u32::from(address).checked_sub(self.first).is_some_and(|offset| offset < self.count)
            && !self.excluded.contains(&address)
    }

    /// The first and the last address, whether or not they may be leased.
    pub fn ends(&self) -> (Ipv4Addr, Ipv4Addr) {
        let last = self.first.wrapping_add(self.count.saturating_sub(1));
        (Ipv4Addr::from(self.first), Ipv4Addr::from(last))
    }

    /// The first address that may be leased.
    pub fn first_free(&self) -> Option<Ipv4Addr> {
        self.usable().next()
    }

    /// All addresses that may be leased.
    pub fn usable(&self) -> impl Iterator<Item = Ipv4Addr> + '_ {
        self.all().filter(|address| self.contains(*address))
    }

    /// How many addresses there are, with those that are excluded.
    pub const fn count(&self) -> u32 {
        self.count
    }

    /// The address at a place of the range, if it may be leased.
    pub fn at(&self, place: u32) -> Option<Ipv4Addr> {
        let address = (place < self.count).then(|| Ipv4Addr::from(self.first.wrapping_add(place)));
        address.filter(|address| !self.excluded.contains(address))
    }

    fn all(&self) -> impl Iterator<Item = Ipv4Addr> + '_ {
        (0..self.count).map(|offset| Ipv4Addr::from(self.first.wrapping_add(offset)))
    }

    /// All addresses that may be leased, beginning with one that depends on the device's address alone. If the appliance
    /// loses its leases, a device most likely gets its old address again.
    pub fn in_order_of(&self, mac: MacAddr) -> impl Iterator<Item = Ipv4Addr> + '_ {
        // FNV-1a spreads the devices over the range.
        let hash =
            mac.octets().iter().fold(0x811c_9dc5_u32, |hash, &byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
        let start = hash.checked_rem(self.count).unwrap_or(0);
        let offsets = (start..self.count).chain(0..start);
        offsets.map(|offset| Ipv4Addr::from(self.first.wrapping_add(offset))).filter(|&address| self.contains(address))
    }
}
