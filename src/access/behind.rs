//! Notices phones behind another device: a repeater, a Wi-Fi client bridge or proxy ARP shows its own MAC address for them all.
//!
//! The link then names one device at the address of each phone, and under each address the names of one phone are asked
//! for, each its own. Nobody can tell these phones apart by the link, so none of them gets its own file. But it is no attack,
//! and people should hear what it is. A scanner gives itself away, because it asks for several phones' names under one
//! address. A single phone looks like somebody who asks for that phone's names alone, and the words for it say both.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use ids::MacAddr;

use super::guard::QUIET;

/// The most pairs of device and phone that are remembered. What finds no room counts as a guess.
pub const MAX_BEHIND: usize = 1024;

/// Names of one phone that are asked for under one address and are no guess. A phone asks for about twenty of its own. They
/// are counted in 64 bits, so a few names coincide.
const MAX_OWN_NAMES: u32 = 24;

/// How long nobody must ask until a phone no longer counts as one behind a device. Most phones start less than once a day.
const FORGET: Duration = Duration::from_secs(2 * 24 * 60 * 60);

/// One phone or several that seem to sit behind a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PhonesBehind {
    /// The device that the link sees at all their addresses.
    pub device: MacAddr,
    /// The number of phones whose names are asked for, each under an address of its own.
    pub phones: usize,
}

impl fmt::Display for PhonesBehind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { device, phones } = self;
        if *phones == 1 {
            return write!(
                f,
                "1 phone seems to sit behind one device ({device}), a repeater or Wi-Fi bridge: the LAN shows its MAC address \
                 for the phone, which gets no own file. Use a cable, or a bridge that keeps MAC addresses. No such device? Find \
                 who asks so"
            );
        }
        write!(
            f,
            "{phones} phones seem to sit behind one device ({device}), a repeater or Wi-Fi bridge: the LAN shows its MAC \
             address for all of them, so none gets its own file. Use a cable, or a bridge that keeps their MAC addresses"
        )
    }
}

/// Remembers which phones' names are asked for under which addresses of a device, in bounded memory.
#[derive(Debug, Default)]
pub(super) struct Behind {
    /// By phone and device.
    claims: BTreeMap<(MacAddr, MacAddr), Claim>,
    /// The phone of each device's address.
    at: HashMap<(MacAddr, Ipv4Addr), MacAddr>,
    /// The devices with phones behind them, and how many.
    devices: BTreeMap<MacAddr, usize>,
    /// Whether `devices` has changed since it was last asked for.
    changed: bool,
    /// When the oldest claim is forgotten.
    until: Option<Instant>,
}

/// Under one address of a device somebody asks for one phone's names.
#[derive(Debug)]
struct Claim {
    address: Ipv4Addr,
    /// One bit for each name, at its hash modulo 64.
    names: u64,
    /// Whether nothing but this phone's names was asked for under the address.
    consistent: bool,
    last: Instant,
}

impl Behind {
    /// Somebody at `address`, where the link sees `device`, asks for a name of `phone`. Whether it may be that phone; if
    /// not, it is a guess.
    pub(super) fn may_be(
        &mut self,
        device: MacAddr,
        address: Ipv4Addr,
        phone: MacAddr,
        hash: u64,
        now: Instant,
    ) -> bool {
        self.forget(now);
        if let Some(claimed) = self.at.get(&(device, address)).copied()
            && claimed != phone
        {
            let claim = self.claims.get_mut(&(claimed, device));
            if let Some(claim) = claim.filter(|claim| now.saturating_duration_since(claim.last) < QUIET) {
                claim.consistent = false;
                self.count(device);
                return false;
            }
            // The address has another phone now.
            self.remove(claimed, device);
        }
        if let Some(claim) = self.claims.get_mut(&(phone, device)) {
            claim.last = claim.last.max(now);
            claim.names |= 1 << (hash % 64);
            let few = claim.names.count_ones() <= MAX_OWN_NAMES;
            if claim.address == address {
                return few && claim.consistent;
            }
            // The phone has another address now.
            let before = claim.address;
            claim.address = address;
            claim.consistent = true;
            self.at.remove(&(device, before));
            self.at.insert((device, address), phone);
            self.count(device);
            return few;
        }
        if self.claims.len() >= MAX_BEHIND {
            return false;
        }
        let claim = Claim { address, names: 1 << (hash % 64), consistent: true, last: now };
        self.claims.insert((phone, device), claim);
        self.at.insert((device, address), phone);
        self.until.get_or_insert(now + FORGET);
        self.count(device);
        true
    }

    /// The link sees the phone itself at an address, so it sits behind nobody.
    pub(super) fn is_itself(&mut self, phone: MacAddr) {
        let all = (phone, MacAddr::new([0; 6]))..=(phone, MacAddr::new([0xff; 6]));
        let devices: Vec<MacAddr> = self.claims.range(all).map(|((_, device), _)| *device).collect();
        for device in devices {
            self.remove(phone, device);
            self.count(device);
        }
    }

    /// Whether several phones seem to sit behind this device.
    pub(super) fn has_phones(&self, device: MacAddr) -> bool {
        self.devices.get(&device).is_some_and(|phones| *phones > 1)
    }

    /// All devices with phones behind them, if that has changed since this was last asked.
    pub(super) fn poll(&mut self, now: Instant) -> Option<Vec<PhonesBehind>> {
        self.forget(now);
        let all = || self.devices.iter().map(|(device, phones)| PhonesBehind { device: *device, phones: *phones });
        std::mem::take(&mut self.changed).then(|| all().collect())
    }

    fn remove(&mut self, phone: MacAddr, device: MacAddr) {
        if let Some(claim) = self.claims.remove(&(phone, device)) {
            self.at.remove(&(device, claim.address));
        }
    }

    /// Counts the phones behind a device. They are phones behind it if most of its addresses ask for one phone's names alone.
    fn count(&mut self, device: MacAddr) {
        let claims = self.claims.iter().filter(|((_, at), _)| *at == device);
        let (consistent, others): (Vec<_>, Vec<_>) = claims.partition(|(_, claim)| claim.consistent);
        let phones = consistent.len();
        let before =
            if phones > others.len() { self.devices.insert(device, phones) } else { self.devices.remove(&device) };
        self.changed |= before != self.devices.get(&device).copied();
    }

    fn forget(&mut self, now: Instant) {
        if self.until.is_none_or(|until| now < until) {
            return;
        }
        let old = |claim: &Claim| now.saturating_duration_since(claim.last) >= FORGET;
        let gone: Vec<_> = self.claims.iter().filter(|(_, claim)| old(claim)).map(|(key, _)| *key).collect();
        for (phone, device) in gone {
            self.remove(phone, device);
            self.count(device);
        }
        self.until = self.claims.values().map(|claim| claim.last + FORGET).min();
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    const REPEATER: MacAddr = MacAddr::new([2, 0, 0, 0, 0, 9]);

    fn phone(number: u32) -> MacAddr {
        let [_, _, a, b] = number.to_be_bytes();
        MacAddr::new([0, 4, 0xf2, 0, a, b])
    }

    fn at(number: u32) -> Ipv4Addr {
        Ipv4Addr::from(0xc000_0200 + number)
    }

    fn behind(devices: &mut Behind, now: Instant) -> Option<Vec<(MacAddr, usize)>> {
        Some(devices.poll(now)?.into_iter().map(|one| (one.device, one.phones)).collect())
    }

    #[test]
    fn each_address_with_its_own_phone_is_told_with_the_number_of_phones() {
        let (mut devices, now) = (Behind::default(), Instant::now());
        for number in 1..=6 {
            for name in 0..12 {
                assert!(devices.may_be(REPEATER, at(number), phone(number), name, now), "{number} {name}");
            }
            assert_eq!(behind(&mut devices, now), Some(vec![(REPEATER, number as usize)]));
            assert_eq!(behind(&mut devices, now), None, "once");
            assert_eq!(devices.has_phones(REPEATER), number > 1, "one phone alone proves no repeater");
        }
        assert!(devices.has_phones(REPEATER) && !devices.has_phones(phone(1)));
    }

    #[test]
    fn several_phones_names_under_one_address_are_guesses_and_the_number_goes_down() {
        let (mut devices, now) = (Behind::default(), Instant::now());
        for number in 1..=3 {
            assert!(devices.may_be(REPEATER, at(number), phone(number), 1, now));
        }
        assert!(!devices.may_be(REPEATER, at(1), phone(2), 1, now));
        assert!(!devices.may_be(REPEATER, at(1), phone(1), 1, now), "its own name, too");
        assert_eq!(behind(&mut devices, now), Some(vec![(REPEATER, 2)]));
        assert!(!devices.may_be(REPEATER, at(2), phone(3), 1, now));
        assert_eq!(behind(&mut devices, now), Some(vec![]));
    }

    #[test]
    fn more_names_of_one_phone_than_phones_have_are_guesses() {
        let (mut devices, now) = (Behind::default(), Instant::now());
        let free = (0..64).filter(|name| devices.may_be(REPEATER, at(1), phone(1), *name, now)).count();
        assert_eq!(free, 24);
    }

    #[test]
    fn a_phone_that_renumbers_behind_a_repeater_is_still_one_phone() {
        let (mut devices, now) = (Behind::default(), Instant::now());
        for number in 1..=2 {
            devices.may_be(REPEATER, at(number), phone(number), 1, now);
        }
        assert_eq!(behind(&mut devices, now), Some(vec![(REPEATER, 2)]));
        assert!(devices.may_be(REPEATER, at(9), phone(1), 1, now));
        assert_eq!(behind(&mut devices, now), None);
        // The address that it left goes to another phone, later.
        assert!(devices.may_be(REPEATER, at(1), phone(3), 1, now));
        assert_eq!(behind(&mut devices, now), Some(vec![(REPEATER, 3)]));
        assert!(devices.may_be(REPEATER, at(2), phone(4), 1, now + QUIET));
        assert_eq!(behind(&mut devices, now + QUIET), None, "phone 4 has the address of phone 2");
    }

    #[test]
    fn it_ends_when_the_phones_show_themselves_or_nobody_asks_for_two_days() {
        let (mut devices, now) = (Behind::default(), Instant::now());
        for number in 1..=3 {
            devices.may_be(REPEATER, at(number), phone(number), 1, now);
        }
        assert_eq!(behind(&mut devices, now), Some(vec![(REPEATER, 3)]));
        devices.is_itself(phone(1));
        assert_eq!(behind(&mut devices, now), Some(vec![(REPEATER, 2)]));
        devices.is_itself(phone(2));
        assert_eq!(behind(&mut devices, now), Some(vec![(REPEATER, 1)]));
        devices.may_be(REPEATER, at(2), phone(2), 1, now + FORGET / 2);
        assert_eq!(behind(&mut devices, now + FORGET / 2), Some(vec![(REPEATER, 2)]));
        assert_eq!(behind(&mut devices, now + FORGET), Some(vec![(REPEATER, 1)]));
        assert_eq!(behind(&mut devices, now + FORGET * 2), Some(vec![]));
        assert!(devices.claims.is_empty() && devices.at.is_empty() && devices.until.is_none());
    }

    #[test]
    fn made_up_pairs_fill_no_memory() {
        let (mut devices, now) = (Behind::default(), Instant::now());
        for number in 0..20_000u32 {
            devices.may_be(phone(number / 7), at(number), phone(number), 1, now);
        }
        assert_eq!((devices.claims.len(), devices.at.len()), (MAX_BEHIND, MAX_BEHIND));
        devices.poll(now + FORGET);
        assert!(devices.claims.is_empty() && devices.at.is_empty() && devices.devices.is_empty());
    }

    #[test]
    fn the_text_fits_into_an_alert_and_accuses_nobody() {
        for (phones, begins) in [(1024, "1024 phones seem"), (1, "1 phone seems")] {
            let text = PhonesBehind { device: REPEATER, phones }.to_string();
            assert!(text.starts_with(&format!("{begins} to sit behind one device (02:00:00:00:00:09)")), "{text}");
            assert!(text.len() <= 255, "{}", text.len());
            assert!(!text.contains("attack") && !text.contains("guess"), "{text}");
        }
    }
}
