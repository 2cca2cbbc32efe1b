#![allow(clippy::unwrap_used, clippy::indexing_slicing)]
use std::collections::BTreeSet;

use super::*;

const NOW: UnixTime = UnixTime(1_700_000_000);
const HOUR: Duration = Duration::from_secs(3600);

#[test]
fn a_client_keeps_its_address_even_after_the_lease_ended() {
    let mut leases = table(10);
    let address = bind(&mut leases, 1, NOW).address;
    let later = NOW.plus(HOUR * 100);
    assert_eq!(choose(&leases, 1, later), Some(address));
}

#[test]
fn an_appliance_without_memory_chooses_the_same_address_again() {
    assert_eq!(choose(&table(50), 7, NOW), choose(&table(50), 7, NOW.plus(HOUR)));
}

#[test]
fn all_addresses_are_used_before_one_changes_hands_and_then_the_longest_free_does() {
    let mut leases = table(4);
    let first = bind(&mut leases, 1, NOW).address;
    for device in 2..=4 {
        bind(&mut leases, device, NOW.plus(Duration::from_secs(device.into())));
    }
    assert_eq!(choose(&leases, 5, NOW.plus(Duration::from_secs(10))), None);
    assert_eq!(choose(&leases, 5, NOW.plus(HOUR * 2)), Some(first));
}

#[test]
fn a_declined_address_is_nobodys_for_ten_minutes() {
    let mut leases = table(1);
    let mut lease = bind(&mut leases, 1, NOW);
    lease.state = LeaseState::Declined;
    lease.until = NOW.plus(QUARANTINE);
    leases.put(lease);
    assert_eq!(choose(&leases, 1, NOW), None);
    assert!(choose(&leases, 2, NOW.plus(QUARANTINE)).is_some());
}

#[test]
fn a_flood_of_discoveries_does_not_take_a_phones_offer() {
    let mut leases = table(8);
    let phone = offer(&mut leases, 1, PHONE_OFFER).unwrap();
    for device in 2..3000 {
        offer(&mut leases, device, OTHER_OFFER);
    }
    let own = leases.of(&id(1), mac(1)).map(|record| record.address);
    assert!(leases.is_free_for(phone, own, NOW));
    assert_eq!(leases.at(phone).map(|record| record.mac), Some(mac(1)));
    assert!(choose(&leases, 4000, NOW).is_some(), "and a later one still gets an offer");
    assert!(leases.records.len() <= 8 && leases.by_client.len() <= 8);
}

#[test]
fn a_bound_lease_is_never_taken_for_an_offer() {
    let mut leases = table(2);
    bind(&mut leases, 1, NOW);
    bind(&mut leases, 2, NOW);
    assert_eq!(offer(&mut leases, 3, OTHER_OFFER), None);
}

#[test]
fn boot_loader_and_firmware_are_one_client_and_two_identifiers_are_two() {
    let mut leases = table(10);
    let address = bind(&mut leases, 1, NOW).address;
    let firmware = ClientId(Box::new([0xff, 0xff, 0, b'x']));
    assert_eq!(leases.of(&firmware, mac(1)).map(|record| record.address), Some(address));
    let bound = Lease { client: firmware, ..leases.at(address).unwrap().clone() };
    leases.put(bound);
    let other = ClientId(Box::new([0xff, 0xff, 0, b'y']));
    assert_eq!(leases.of(&other, mac(1)), None);
    assert_eq!(leases.of(&id(1), mac(1)).map(|record| record.address), Some(address));
}

#[test]
fn leases_survive_a_reload() {
    let mut log = MemoryLog::default();
    let mut leases = table(10);
    let lease = bind(&mut leases, 1, NOW);
    log.commit(&Lease::parse(&lease.emit()).unwrap()).unwrap();
    let mut again = table(10);
    again.load(log.load(), NOW);
    assert_eq!(again.live(NOW).collect::<Vec<_>>(), vec![&lease]);
}

#[test]
fn a_pause_without_a_range_forgets_nothing() {
    let mut leases = table(10);
    let lease = bind(&mut leases, 1, NOW);
    let range = leases.range.clone();
    leases.set_range(None);
    assert_eq!(choose(&leases, 1, NOW), None);
    leases.set_range(range);
    assert_eq!(choose(&leases, 1, NOW), Some(lease.address));
}

#[test]
fn a_lease_written_under_a_wrong_clock_ends_like_others() {
    let mut leases = table(10);
    let lease = bind(&mut leases, 1, NOW.plus(HOUR * 1_000_000));
    leases.load(vec![lease], NOW);
    assert_eq!(leases.live(NOW.plus(HOUR * 24 * 8)).count(), 0);
}

#[test]
fn setting_the_clock_ends_no_lease() {
    let mut leases = table(10);
    bind(&mut leases, 1, UnixTime(1000));
    leases.shift(NOW.0 - 1000);
    assert_eq!(leases.live(NOW).count(), 1);
    assert_eq!(leases.live(NOW.plus(HOUR)).count(), 0);
}

#[test]
fn excluded_addresses_and_those_in_use_are_not_chosen() {
    let excluded = BTreeSet::from([Ipv4Addr::new(10, 0, 0, 1)]);
    let mut leases = Leases::new();
    leases.set_range(Range::new(Ipv4Addr::new(10, 0, 0, 1), Ipv4Addr::new(10, 0, 0, 3), excluded));
    let in_use = |address| address == Ipv4Addr::new(10, 0, 0, 2);
    for device in 0..20 {
        let link = Occupancy { in_use: &in_use, ..quiet() };
        let chosen = leases.choose(&id(device), mac(device), Some(Ipv4Addr::new(10, 0, 0, 1)), NOW, &link);
        assert_eq!(chosen, Some(Ipv4Addr::new(10, 0, 0, 3)));
    }
}

#[test]
fn a_range_that_is_too_large_or_backwards_is_none() {
    let at = |value: u32| Ipv4Addr::from(value);
    assert!(Range::new(at(10), at(9), BTreeSet::new()).is_none());
    assert!(Range::new(at(0), at(MAX_RANGE), BTreeSet::new()).is_none());
    assert!(Range::new(at(0), at(u32::MAX), BTreeSet::new()).is_none());
    assert!(Range::new(at(1), at(MAX_RANGE), BTreeSet::new()).is_some());
}

#[test]
fn of_addresses_that_nobody_had_a_silent_one_is_chosen_and_where_all_are_the_devices_own() {
    let leases = table(200);
    let own = choose(&leases, 7, NOW).unwrap();
    let silent = |address| address != own;
    let link = Occupancy { is_silent: &silent, ..quiet() };
    let other = leases.choose(&id(7), mac(7), None, NOW, &link);
    assert!(other.is_some() && other != Some(own));
    // One far from it is found, too, if that is the only one.
    let far = Ipv4Addr::from(u32::from(own).wrapping_add(100));
    let far = if leases.in_range(far) { far } else { Ipv4Addr::from(u32::from(own) - 100) };
    let silent = |address| address == far;
    let first_silent = |fits: &dyn Fn(&Ipv4Addr) -> bool| Some(far).filter(fits);
    let link = Occupancy { is_silent: &silent, first_silent: &first_silent, ..quiet() };
    assert_eq!(leases.choose(&id(7), mac(7), None, NOW, &link), Some(far));
    let none = Occupancy { is_silent: &|_| false, ..quiet() };
    assert_eq!(leases.choose(&id(7), mac(7), None, NOW, &none), Some(own), "nothing is known: its own is asked for");
}

/// A link on which nobody is.
fn quiet() -> Occupancy<'static> {
    Occupancy { in_use: &|_| false, is_silent: &|_| true, first_silent: &|_| None }
}

fn table(count: u8) -> Leases {
    let mut leases = Leases::new();
    leases.set_range(Range::new(Ipv4Addr::new(10, 0, 0, 1), Ipv4Addr::new(10, 0, 0, count), BTreeSet::new()));
    leases
}

fn mac(device: u16) -> MacAddr {
    let [high, low] = device.to_be_bytes();
    MacAddr::new([0, 4, 0xf2, 0, high, low])
}

fn id(device: u16) -> ClientId {
    ClientId::hardware(1, mac(device))
}

fn choose(leases: &Leases, device: u16, now: UnixTime) -> Option<Ipv4Addr> {
    leases.choose(&id(device), mac(device), None, now, &quiet())
}

fn offer(leases: &mut Leases, device: u16, hold: Duration) -> Option<Ipv4Addr> {
    let address = choose(leases, device, NOW)?;
    leases.put(lease(device, address, LeaseState::Offered, NOW.plus(hold)));
    Some(address)
}

fn bind(leases: &mut Leases, device: u16, now: UnixTime) -> Lease {
    let address = choose(leases, device, now).unwrap();
    let lease = lease(device, address, LeaseState::Bound, now.plus(HOUR));
    leases.put(lease.clone());
    lease
}

fn lease(device: u16, address: Ipv4Addr, state: LeaseState, until: UnixTime) -> Lease {
    Lease { address, mac: mac(device), client: id(device), state, until }
}
