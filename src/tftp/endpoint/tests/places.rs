//! How many places one device may take, and all together that the inventory does not have.

#![allow(clippy::cast_possible_truncation)]

use std::time::Duration;

use super::shelf::{catalog_of, pattern, shelf_of};
use super::*;
use bundle::{Class, Scope, SiteSettings};

const BUSY: &[u8] = b"\0\x05\0\0server busy, try again\0";

/// The last octets of the addresses that devices outside the inventory take: with eight places each they could take 608.
const TAKEN: std::ops::Range<u8> = 150..226;

/// A site of 100 phones, at the addresses from 10.0.0.10 on.
fn site_of_100(change: impl FnOnce(&mut EndpointConfig)) -> Bench {
    let pages = vec![("jar.sbn".to_owned(), Scope::Everyone, Class::Firmware, pattern(700_001))];
    let macs: Vec<MacAddr> = (0..100).map(phone_mac).collect();
    let mut config = config();
    change(&mut config);
    let site = Bench::new(config, catalog_of(7, SiteSettings::default(), pages.clone(), &macs), shelf_of(pages));
    (0..100).for_each(|index| site.knows(at(10 + index), phone_mac(index)));
    site
}

fn at(last: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 0, 0, last)
}

const fn phone_mac(index: u8) -> MacAddr {
    MacAddr::new([0, 4, 0xf2, 0, 1, index])
}

const fn stranger_mac(index: u8) -> MacAddr {
    MacAddr::new([2, 0, 0, 0, 0, index])
}

/// Asks for a file from this port, and acknowledges the first block at once. Whether the transfer goes on; if not, whoever
/// asked heard that the server is busy.
fn goes_on(site: &mut Bench, peer: SocketAddrV4) -> bool {
    site.left.clear();
    site.ask(peer, "jar.sbn", &[]);
    let Some(at) = site.left.iter().position(|left| left.to == peer) else { panic!("{peer} hears nothing") };
    let answer = site.left.remove(at).unwrap();
    if answer.bytes == BUSY {
        return false;
    }
    assert_eq!(answer.bytes[..4], [0, 3, 0, 1]);
    site.ack(&answer, 1);
    assert!(site.left.iter().any(|left| left.to == peer && left.bytes[..4] == [0, 3, 0, 2]));
    true
}

/// Each of these addresses asks eight times, from as many ports. How many transfers go on.
fn all_ask(site: &mut Bench, addresses: impl Iterator<Item = u8>) -> usize {
    let ports = addresses.flat_map(|last| (0..8).map(move |number| port(at(last), 2000 + number)));
    ports.filter(|peer| goes_on(site, *peer)).count()
}

#[test]
fn a_device_with_76_addresses_gets_the_places_of_eight() {
    let mut site = site_of_100(|_| {});
    TAKEN.for_each(|last| site.knows(at(last), stranger_mac(1)));
    assert_eq!(all_ask(&mut site, TAKEN), 64);
    assert_eq!(site.endpoint.flows.running(), [64, 64, 8, 64]);
    assert_eq!(
        (site.count("tftp.device-full"), site.count("tftp.refused"), site.count("tftp.made-room")),
        (544, 544, 0)
    );
    assert_eq!(site.records.last().unwrap().outcome, FileOutcome::from(FileRefusal::Busy));
    // Other devices do not notice, whether the inventory has them or not.
    assert_eq!(all_ask(&mut site, 10..60), 400);
    site.knows(STRANGER, stranger_mac(2));
    assert!(goes_on(&mut site, port(STRANGER, 2000)));
}

#[test]
fn a_phone_of_the_inventory_with_76_addresses_gets_no_more_either() {
    let mut site = site_of_100(|_| {});
    TAKEN.for_each(|last| site.knows(at(last), phone_mac(0)));
    assert_eq!(all_ask(&mut site, TAKEN), 64);
    assert_eq!(site.endpoint.flows.running(), [64, 0, 8, 64]);
}

#[test]
fn six_phones_behind_one_repeater_have_all_the_places_of_their_addresses() {
    let mut site = site_of_100(|_| {});
    (150..156).for_each(|last| site.knows(at(last), stranger_mac(1)));
    assert_eq!(all_ask(&mut site, 150..156), 48);
}

#[test]
fn all_devices_outside_the_inventory_together_get_half_of_the_places() {
    let mut site = site_of_100(|_| {});
    TAKEN.for_each(|last| site.knows(at(last), stranger_mac(last)));
    assert_eq!(all_ask(&mut site, TAKEN), 300);
    assert_eq!(site.endpoint.flows.running(), [300, 300, 8, 8]);
    assert_eq!((site.count("tftp.unknown-full"), site.count("tftp.device-full")), (308, 0));
    // The other half is the phones'.
    assert_eq!(all_ask(&mut site, 10..47), 296);
    assert_eq!(site.count("tftp.made-room"), 0);
}

#[test]
fn addresses_that_nobody_answers_for_or_two_devices_claim_count_among_them() {
    let mut site = site_of_100(|config| config.max_transfers = 5);
    for (number, last) in (150..156).enumerate() {
        site.ask(port(at(last), 2000 + number as u16), "jar.sbn", &[]);
    }
    site.wait_millis(1000);
    assert_eq!(site.endpoint.flows.running(), [3, 3, 1, 0], "half of five, rounded up");
    assert!(goes_on(&mut site, port(at(10), 2000)));
}

#[test]
fn a_phone_of_the_inventory_takes_the_place_of_the_unknown_device_that_has_most() {
    let mut site = site_of_100(|_| {});
    (150..158).for_each(|last| site.knows(at(last), stranger_mac(1)));
    (158..226).for_each(|last| site.knows(at(last), stranger_mac(last)));
    assert_eq!(all_ask(&mut site, TAKEN), 300);
    assert_eq!(all_ask(&mut site, 10..47), 296);
    assert_eq!(all_ask(&mut site, 47..48), 8);
    // Four of those places were free.
    assert_eq!(site.endpoint.flows.running(), [600, 296, 8, 60]);
    assert_eq!(site.count("tftp.made-room"), 4);
    site.left.clear();
    site.ask(port(at(48), 2000), "jar.sbn", &[]);
    let (ended, answer) = (site.hear(), site.hear());
    assert_eq!((&ended.bytes[..], ended.to), (BUSY, port(at(157), 2003)), "the last but four that it began");
    assert_eq!((&answer.bytes[..4], answer.to), (&[0, 3, 0, 1][..], port(at(48), 2000)));
    site.ack(&answer, 1);
    // An unknown device does not take it back.
    assert!(!goes_on(&mut site, port(at(225), 3000)));
    // Among themselves, phones of the inventory end nobody that goes on.
    assert_eq!(all_ask(&mut site, 49..86), 295);
    assert_eq!(site.endpoint.flows.running(), [600, 0, 8, 8]);
    assert!(!goes_on(&mut site, port(at(100), 2000)));
}

#[test]
fn a_phone_of_the_inventory_does_not_wait_for_an_unknown_device() {
    // All of these were asked for just now and are unproven.
    let mut site = site_of_100(|config| config.max_transfers = 2);
    site.knows(STRANGER, stranger_mac(1));
    site.ask(port(STRANGER, 2000), "jar.sbn", &[]);
    assert!(goes_on(&mut site, port(at(10), 2000)) && goes_on(&mut site, port(at(11), 2000)));
    // Between two of the inventory the newcomer waits, as ever.
    let mut site = site_of_100(|config| config.max_transfers = 2);
    [10, 11].into_iter().for_each(|last| site.ask(port(at(last), 2000), "jar.sbn", &[]));
    site.left.clear();
    site.ask(port(at(12), 2000), "jar.sbn", &[]);
    assert!(site.hears_nothing() && site.endpoint.held() == 1);
}

#[test]
fn an_unknown_device_ends_no_phone_that_pauses_but_one_that_never_answered() {
    let mut site = site_of_100(|config| config.max_transfers = 4);
    site.knows(STRANGER, stranger_mac(1));
    for last in 10..14 {
        assert!(goes_on(&mut site, port(at(last), 2000)));
    }
    site.wait_millis(3000);
    assert!(!goes_on(&mut site, port(STRANGER, 2000)), "a phone that writes its flash keeps its place");
    assert!(goes_on(&mut site, port(at(14), 2000)), "but not beside a phone of the inventory");
    let mut site = site_of_100(|config| config.max_transfers = 4);
    site.knows(STRANGER, stranger_mac(1));
    for last in 10..14 {
        site.ask(port(at(last), 2000), "jar.sbn", &[]);
    }
    site.wait_millis(1000);
    assert!(goes_on(&mut site, port(STRANGER, 2000)), "requests under phones' addresses keep nobody out");
}

#[test]
fn unknown_devices_take_half_of_the_room_to_wait_in() {
    let mut site = site_of_100(|config| config.max_transfers = 16);
    TAKEN.for_each(|last| site.knows(at(last), stranger_mac(last)));
    for last in TAKEN {
        site.ask(port(at(last), 2000), "jar.sbn", &[]);
    }
    assert_eq!((site.endpoint.flows.running()[0], site.endpoint.held()), (8, MAX_WAITING / 2));
    assert_eq!(site.count("tftp.not-held"), 76 - 8 - 32);
    // Somebody asks under a phone's address, and then the phone does.
    for number in 0..9 {
        site.ask(port(at(10), 2000 + number), "jar.sbn", &[]);
    }
    assert_eq!(site.endpoint.held(), MAX_WAITING / 2 + 1);
}

#[test]
fn on_loopback_nobody_counts_as_unknown() {
    let mut site = site_of_100(|_| {});
    *site.devices.write().unwrap() = access::DeviceTable::without_link();
    assert_eq!(all_ask(&mut site, TAKEN), 600);
    assert_eq!(site.endpoint.flows.running(), [600, 0, 8, 0]);
}

#[test]
fn places_are_free_again_when_their_transfers_have_ended() {
    let mut site = site_of_100(|_| {});
    TAKEN.for_each(|last| site.knows(at(last), stranger_mac(1)));
    for _ in 0..2 {
        assert_eq!(all_ask(&mut site, TAKEN), 64);
        site.wait(Duration::from_secs(120));
        assert!(site.is_idle());
    }
}
