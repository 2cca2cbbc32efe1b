//! Our leases: the table of who has which address, and the log that brings it over a restart. Pure.
//!
//! The record of an address stays when the lease ends, until the address goes to another client. So a client gets its old
//! address again as long as nobody else needs it. A client is known by its identifier (option 61), or else by its hardware
//! address. A boot loader without an identifier and the firmware with one are the same client.
//!
//! Two devices may use one identifier: configurations are cloned, and some identifiers are text that people enter. Then each
//! device has a record of its own. Which one a request means shows in the hardware address, and where that fits neither, in
//! whether the holder of the record still answers ARP ([`respond`](crate::respond) asks).

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::io;
use std::net::Ipv4Addr;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::completed_lease::CompletedLease;
use super::message::Request;
use super::options::OptionCode;
use super::range::{MAX_RANGE, Range};
use ids::{MacAddr, UnixTime};

/// How long a declined address is not handed out.
pub const QUARANTINE: Duration = Duration::from_secs(600);

/// How long an offer holds an address for a phone.
///
/// Clients answer an offer at once. Phones get longer than [`OTHER_OFFER`] so that a flood of DISCOVERs does not take their
/// offers: [`Leases::choose`] takes back the offer that ends first, and only one with less than [`OTHER_OFFER`] left.
pub const PHONE_OFFER: Duration = Duration::from_secs(60);
/// How long an offer holds an address for any other device.
pub const OTHER_OFFER: Duration = Duration::from_secs(20);

/// The longest lease, in seconds. A kept lease that claims to last longer was written under a wrong clock.
pub const MAX_LEASE_SECONDS: u32 = 604_800;

/// How many addresses are searched, in the client's own order, for one that nobody answers for. Then any such address will
/// do: while few are known to be silent, a search of the whole range would cost too much.
const NEAR: usize = 64;

/// The largest kept lease, in octets.
const MAX_KEPT_BYTES: usize = 2048;

/// What tells a client from others (RFC 2131 §4.2): its identifier, or else its hardware address.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct ClientId(Box<[u8]>);

impl ClientId {
    /// The client that sent a request. An identifier that only repeats hardware type and address counts as none.
    pub fn of(request: &Request) -> Self {
        let hardware = Self::hardware(request.htype, request.chaddr);
        match request.options.get(OptionCode::ClientIdentifier) {
            // RFC 2132 §9.14: at least two octets.
            Some(id) if id.len() >= 2 && *id != *hardware.0 => Self([&[0xff, 0xff], id].concat().into_boxed_slice()),
            _ => hardware,
        }
    }

    /// A client without an identifier of its own.
    pub fn hardware(htype: u8, chaddr: MacAddr) -> Self {
        let [a, b, c, d, e, f] = chaddr.octets();
        // Type 6 is Ethernet, too (RFC 1700), and one device may use both.
        let htype = if htype == 6 { 1 } else { htype };
        Self(Box::new([htype, a, b, c, d, e, f]))
    }

    fn is_hardware(&self) -> bool {
        !self.0.starts_with(&[0xff, 0xff])
    }
}

impl FromStr for ClientId {
    type Err = data_encoding::DecodeError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        data_encoding::HEXLOWER.decode(text.as_bytes()).map(|bytes| Self(bytes.into_boxed_slice()))
    }
}

impl fmt::Display for ClientId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&data_encoding::HEXLOWER.encode(&self.0))
    }
}

impl fmt::Debug for ClientId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

ids::text_serde!(ClientId);

/// What an address is to its client.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LeaseState {
    /// Offered, and held until the client decides. Not written to the log.
    Offered,
    /// Acknowledged: the client has it.
    Bound,
    /// Given back, or offered and not taken.
    Released,
    /// Found in use by somebody else. Nobody gets the address for a while.
    Declined,
}

/// One address and its client.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Lease {
    /// The address that is leased.
    pub address: Ipv4Addr,
    /// The client's hardware address.
    pub mac: MacAddr,
    /// What tells the client from others.
    pub client: ClientId,
    /// What the address is to the client.
    pub state: LeaseState,
    /// Until when the state lasts; for [`LeaseState::Released`], since when.
    pub until: UnixTime,
}

/// Why a kept lease cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum LeaseError {
    /// The octets are too many for a lease.
    #[error("{0} octets are too many for a lease")]
    TooLong(usize),
    /// [`Lease::emit`] did not write these octets.
    #[error("not a lease")]
    Malformed(#[source] serde_json::Error),
}

impl Lease {
    /// The lease as the log keeps it: JSON without a line break.
    pub fn emit(&self) -> Vec<u8> {
        // JSON can hold every lease: its fields are plain, and their names are text.
        serde_json::to_vec(self).unwrap_or_default()
    }

    /// Reads a lease from the log.
    pub fn parse(bytes: &[u8]) -> Result<Self, LeaseError> {
        if bytes.len() > MAX_KEPT_BYTES {
            return Err(LeaseError::TooLong(bytes.len()));
        }
        serde_json::from_slice(bytes).map_err(LeaseError::Malformed)
    }

    /// Whether the lease holds its address at `now`.
    pub fn holds(&self, now: UnixTime) -> bool {
        self.state != LeaseState::Released && self.until > now
    }

    /// Whether the lease must outlive a restart.
    pub fn is_kept(&self) -> bool {
        self.state != LeaseState::Offered
    }
}

/// The log that brings leases over a restart.
pub trait LeaseLog {
    /// The last committed lease of each address. Leases that cannot be read are left out.
    fn load(&mut self) -> Vec<Lease>;

    /// Makes a lease durable, in place of an earlier one of the same address. The ACK follows; after an error there is none.
    /// May block on the disk.
    fn commit(&mut self, lease: &Lease) -> io::Result<()>;

    /// Makes several leases durable: all, or after an error perhaps some. One sync serves them all, so that a site of
    /// hundreds of phones comes back from a power cut in seconds.
    fn commit_all(&mut self, leases: &[Lease]) -> io::Result<()> {
        leases.iter().try_for_each(|lease| self.commit(lease))
    }

    /// Remembers completed leases of the router's, and since when each runs. May lose them.
    fn remember(&mut self, _completed: &[(CompletedLease, UnixTime)]) {}

    /// The completed leases that are remembered, and how long ago each began. `None` while the system clock is not known to
    /// be right: call again later.
    fn recall(&mut self) -> Option<Vec<(CompletedLease, Duration)>> {
        Some(Vec::new())
    }

    /// Forgets the completed leases: the clock that stamped them was wrong.
    fn forget(&mut self) {}
}

/// A log that ends with the process, for the demo and for tests.
#[derive(Debug, Default)]
pub struct MemoryLog(BTreeMap<Ipv4Addr, Lease>);

impl LeaseLog for MemoryLog {
    fn load(&mut self) -> Vec<Lease> {
        self.0.values().cloned().collect()
    }

    fn commit(&mut self, lease: &Lease) -> io::Result<()> {
        self.0.insert(lease.address, lease.clone());
        Ok(())
    }
}

/// What ARP says of addresses, for one client that looks for an address.
pub struct Occupancy<'a> {
    /// Whether another device uses an address.
    pub in_use: &'a dyn Fn(Ipv4Addr) -> bool,
    /// Whether nobody answers for an address, or nobody needs to be asked.
    pub is_silent: &'a dyn Fn(Ipv4Addr) -> bool,
    /// The first address that nobody answers for and that passes a test.
    pub first_silent: &'a FirstSilent<'a>,
}

/// A search as in [`Occupancy::first_silent`].
pub type FirstSilent<'a> = dyn Fn(&dyn Fn(&Ipv4Addr) -> bool) -> Option<Ipv4Addr> + 'a;

impl fmt::Debug for Occupancy<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Occupancy").finish_non_exhaustive()
    }
}

/// All leases of a segment. Their number is bounded by its [`Range`].
#[derive(Debug, Default)]
pub struct Leases {
    range: Option<Range>,
    records: BTreeMap<Ipv4Addr, Lease>,
    /// The addresses of each client, without those that it declined.
    by_client: HashMap<ClientId, Vec<Ipv4Addr>>,
}

impl Leases {
    /// No leases, and no range.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets the addresses to lease. Leases outside are forgotten: their clients hear nothing more, keep their addresses
    /// until their leases end, and then start again. Without a range nothing is leased, but nothing is forgotten either: the
    /// site may go back to a release with a range.
    pub fn set_range(&mut self, range: Option<Range>) {
        if self.range == range {
            return;
        }
        self.range = range;
        if self.range.is_some() {
            let gone: Vec<Ipv4Addr> = self.records.keys().copied().filter(|&address| !self.in_range(address)).collect();
            for address in gone {
                self.remove(address);
            }
        }
    }

    /// Takes over the leases of the log. A lease ends within [`MAX_LEASE_SECONDS`], whatever it claims.
    pub fn load(&mut self, kept: Vec<Lease>, now: UnixTime) {
        let latest = now.plus(Duration::from_secs(u64::from(MAX_LEASE_SECONDS)));
        let mut kept = kept;
        // A client that moved has several addresses in the log. The last one counts.
        kept.sort_by_key(|lease| lease.until);
        for mut lease in kept {
            lease.until = lease.until.min(latest);
            self.put(lease);
        }
    }

    /// Records a lease, in place of earlier ones of its address and of its client on this hardware address. A lease outside
    /// the range is dropped.
    pub fn put(&mut self, lease: Lease) {
        if !self.may_record(lease.address) {
            return;
        }
        self.remove(lease.address);
        // A declined address says nothing about where its client belongs.
        if lease.state != LeaseState::Declined {
            let of_device = |address: &Ipv4Addr| self.records.get(address).is_some_and(|it| it.mac == lease.mac);
            let (earlier, mut addresses): (Vec<Ipv4Addr>, Vec<Ipv4Addr>) =
                self.addresses_of(&lease.client).iter().copied().partition(of_device);
            earlier.iter().for_each(|address| drop(self.records.remove(address)));
            addresses.push(lease.address);
            self.by_client.insert(lease.client.clone(), addresses);
        }
        self.records.insert(lease.address, lease);
    }

    fn remove(&mut self, address: Ipv4Addr) {
        if let Some(lease) = self.records.remove(&address)
            && let Some(addresses) = self.by_client.get_mut(&lease.client)
        {
            addresses.retain(|other| *other != address);
            if addresses.is_empty() {
                self.by_client.remove(&lease.client);
            }
        }
    }

    fn addresses_of(&self, client: &ClientId) -> &[Ipv4Addr] {
        self.by_client.get(client).map_or(&[], Vec::as_slice)
    }

    fn records_of<'a>(&'a self, client: &ClientId) -> impl Iterator<Item = &'a Lease> + use<'a> {
        self.addresses_of(client).iter().filter_map(|address| self.records.get(address))
    }

    fn may_record(&self, address: Ipv4Addr) -> bool {
        match &self.range {
            Some(range) => range.contains(address),
            None => u32::try_from(self.records.len()).is_ok_and(|count| count < MAX_RANGE),
        }
    }

    fn in_range(&self, address: Ipv4Addr) -> bool {
        self.range.as_ref().is_some_and(|range| range.contains(address))
    }

    /// The last lease of an address.
    pub fn at(&self, address: Ipv4Addr) -> Option<&Lease> {
        self.records.get(&address)
    }

    /// The last lease of a client that it did not decline: the one of this hardware address, or else the one that ends last.
    ///
    /// A client that sends an identifier at one time and none at another (boot loader and firmware) is found by its
    /// hardware address. Two identifiers on one hardware address are two clients.
    pub fn of(&self, client: &ClientId, mac: MacAddr) -> Option<&Lease> {
        let own = self.records_of(client).find(|record| record.mac == mac);
        if let Some(record) = own.or_else(|| self.records_of(client).max_by_key(|record| record.until)) {
            return Some(record);
        }
        if client.is_hardware() {
            let mut records = self.records.values();
            records.find(|record| record.mac == mac && record.state != LeaseState::Declined)
        } else {
            self.records_of(&ClientId::hardware(1, mac)).next()
        }
    }

    /// Whether another device holds a lease under the same identifier as this one.
    pub fn is_shared(&self, lease: &Lease) -> bool {
        self.records_of(&lease.client).any(|other| other.mac != lease.mac && other.state == LeaseState::Bound)
    }

    /// The clients that two devices or more hold leases under, each with its devices.
    pub fn shared(&self, now: UnixTime) -> Vec<Vec<&Lease>> {
        let live = |record: &&Lease| record.state == LeaseState::Bound && record.holds(now);
        let several = self.by_client.iter().filter(|(_, addresses)| addresses.len() > 1);
        let shared = several.map(|(client, _)| self.records_of(client).filter(live).collect::<Vec<_>>());
        shared.filter(|devices| devices.len() > 1).collect()
    }

    /// The addresses that this device declined and that nobody gets for that, in the order in which they become free.
    pub fn declined_by(&self, mac: MacAddr, now: UnixTime) -> Vec<&Lease> {
        let declined = |record: &&Lease| record.state == LeaseState::Declined && record.holds(now) && record.mac == mac;
        let mut declined: Vec<&Lease> = self.records.values().filter(declined).collect();
        declined.sort_by_key(|record| record.until);
        declined
    }

    /// Whether a client whose record is of the address `own` can have an address: it is in the range, and nobody else holds
    /// it.
    pub fn is_free_for(&self, address: Ipv4Addr, own: Option<Ipv4Addr>, now: UnixTime) -> bool {
        self.in_range(address) && self.at(address).is_none_or(|record| !record.holds(now) || own == Some(address))
    }

    /// The address to offer (RFC 2131 §4.3.1). The first of these that can be had:
    ///
    /// 1. the address that the client has or had,
    /// 2. the address that it asks for,
    /// 3. an address that nobody had, best one that nobody answers for,
    /// 4. the address that has been free for the longest time, best one that nobody answers for,
    /// 5. an address that is only on offer to somebody,
    /// 6. an address that another device declined, best one that nobody answers for.
    pub fn choose(
        &self,
        client: &ClientId,
        mac: MacAddr,
        requested: Option<Ipv4Addr>,
        now: UnixTime,
        link: &Occupancy<'_>,
    ) -> Option<Ipv4Addr> {
        let Occupancy { in_use, is_silent, first_silent } = link;
        let range = self.range.as_ref()?;
        let former = self.of(client, mac).map(|record| record.address);
        let usable = |address: &Ipv4Addr| self.is_free_for(*address, former, now) && !in_use(*address);
        let is_new = |address: &Ipv4Addr| self.at(*address).is_none() && !in_use(*address);
        let never_had = || range.in_order_of(mac).filter(is_new);
        let prepared = || {
            let near = never_had().take(NEAR).find(|address| is_silent(*address));
            near.or_else(|| first_silent(&|address| range.contains(*address) && is_new(address)))
        };
        let longest_free = || {
            let free = self.records.values().filter(|record| !record.holds(now) && usable(&record.address));
            free.min_by_key(|record| (!is_silent(record.address), record.until)).map(|record| record.address)
        };
        let on_offer = || {
            let limit = now.plus(OTHER_OFFER);
            let offers =
                self.records.values().filter(|record| record.state == LeaseState::Offered && record.until <= limit);
            let offers = offers.filter(|record| self.in_range(record.address) && !in_use(record.address));
            offers.min_by_key(|record| record.until).map(|record| record.address)
        };
        // A device that declines what it is offered must not take the last address from others.
        let declined = || {
            let others = |record: &&Lease| record.state == LeaseState::Declined && record.mac != mac;
            let free = self.records.values().filter(others).filter(|record| self.in_range(record.address));
            let free = free.filter(|record| !in_use(record.address));
            free.min_by_key(|record| (!is_silent(record.address), record.until)).map(|record| record.address)
        };
        former
            .filter(usable)
            .or_else(|| requested.filter(usable))
            .or_else(prepared)
            .or_else(|| never_had().next())
            .or_else(longest_free)
            .or_else(on_offer)
            .or_else(declined)
    }

    /// The addresses that may be leased.
    pub const fn range(&self) -> Option<&Range> {
        self.range.as_ref()
    }

    /// All records, whatever they are.
    pub fn all(&self) -> impl Iterator<Item = &Lease> {
        self.records.values()
    }

    /// Whether all addresses of the range are held.
    pub fn is_full(&self, now: UnixTime) -> bool {
        let held = self.records.values().filter(|record| record.holds(now) && self.in_range(record.address)).count();
        self.range.as_ref().is_some_and(|range| held >= range.usable().count())
    }

    /// Forgets the record of an address: it is as if nobody had ever had it.
    pub fn forget(&mut self, address: Ipv4Addr) {
        self.remove(address);
    }

    /// The leases that clients have now.
    pub fn live(&self, now: UnixTime) -> impl Iterator<Item = &Lease> {
        self.records.values().filter(move |record| record.state == LeaseState::Bound && record.holds(now))
    }

    /// The system clock was set, by so many seconds. Each lease lasts for as long as before.
    pub fn shift(&mut self, seconds: i64) {
        for record in self.records.values_mut() {
            record.until = UnixTime(record.until.0.saturating_add(seconds));
        }
    }
}

#[cfg(test)]
mod tests;
