#![allow(clippy::unwrap_used)]
use rtnetlink::packet_route::neighbour::NeighbourHeader;

use super::*;
use access::Resolution;
use ids::Lan;

const PHONE: MacAddr = MacAddr::new([0, 4, 0xf2, 0, 0, 1]);
const PHONE_2: MacAddr = MacAddr::new([0, 4, 0xf2, 0, 0, 2]);
const ADDRESS: Ipv4Addr = Ipv4Addr::new(192, 168, 1, 20);

#[test]
fn only_entries_that_a_device_answered_for_count() {
    let service = service();
    for state in [
        NeighbourState::Reachable,
        NeighbourState::Stale,
        NeighbourState::Delay,
        NeighbourState::Probe,
        NeighbourState::Permanent,
    ] {
        assert_eq!(service.read_entry(&entry(state)), Some((ADDRESS, Some(PHONE))), "{state:?}");
    }
    for state in [NeighbourState::Failed, NeighbourState::Incomplete, NeighbourState::Noarp, NeighbourState::None] {
        assert_eq!(service.read_entry(&entry(state)), Some((ADDRESS, None)), "{state:?}");
    }
}

#[test]
fn other_interfaces_and_families_do_not_count() {
    let service = service();
    let mut other = entry(NeighbourState::Reachable);
    other.header.ifindex = 8;
    assert_eq!(service.read_entry(&other), None);
    let mut other = entry(NeighbourState::Reachable);
    other.header.family = AddressFamily::Inet6;
    assert_eq!(service.read_entry(&other), None);
}

#[test]
fn an_address_that_changes_hands_is_told_only_if_it_concerns_a_phone_of_the_inventory() {
    let change = |from, to| AddressChange { address: ADDRESS, from, to };
    let [one, other] = [1, 2].map(|last| MacAddr::new([2, 0, 0, 0, 0, last]));
    let is_phone = |mac| mac == PHONE;
    assert!(concerns(&change(PHONE, one), is_phone));
    assert!(concerns(&change(one, PHONE), is_phone));
    assert!(!concerns(&change(one, other), is_phone), "the router leased a visitor's address to the next one");
    // Whoever is to be found is not the phone.
    let is_phone = |mac| mac == PHONE || mac == PHONE_2;
    for (from, to, begins) in [
        (
            PHONE,
            one,
            "192.168.1.20 went from phone 00:04:f2:00:00:01 to 02:00:00:00:00:01, which is not in the inventory",
        ),
        (
            one,
            PHONE,
            "192.168.1.20 is phone 00:04:f2:00:00:01's again, or for the first time; 02:00:00:00:00:01, which",
        ),
        (PHONE, PHONE_2, "192.168.1.20 went from phone 00:04:f2:00:00:01 to phone 00:04:f2:00:00:02, both"),
    ] {
        let text = describe(&change(from, to), is_phone);
        assert!(text.starts_with(begins), "{text}");
        assert_eq!(text.contains("find 02:00:00:00:00:01"), from == one || to == one, "{text}");
        assert!(!text.contains("find 00:04:f2"), "{text}");
        assert!(text.len() <= status::stats::MAX_TEXT_BYTES, "{text}");
    }
}

#[test]
fn an_address_that_goes_to_a_repeater_is_no_conflict_and_a_conflict_says_all_of_one_phone() {
    let mut service = service();
    let repeater = MacAddr::new([2, 0, 0, 0, 0, 9]);
    let alerts = |service: &NeighbourService| -> Vec<String> {
        let report = status::StatusReport::of(&service.stats);
        report.alerts.into_iter().map(|alert| alert.code).collect()
    };
    service.stats.alert(AlertCode::BehindOneDevice, format!("1 phone seems to sit behind one device ({repeater})"));
    service.apply(ADDRESS, Some(PHONE));
    service.apply(ADDRESS, Some(repeater));
    assert_eq!(alerts(&service), ["address-conflict"], "one alert, whose words name both causes");
    assert!(service.devices.read().unwrap().is_suspect(repeater));
    service.stats.clear_alert(AlertCode::AddressConflict);
    service.devices.write().unwrap().set_repeaters([repeater]);
    for mac in [PHONE, repeater, PHONE] {
        service.apply(ADDRESS, Some(mac));
    }
    assert_eq!(alerts(&service), [""; 0], "several phones are behind it");
}

#[test]
fn only_addresses_of_the_link_are_asked_for() {
    let service = service();
    assert!(service.is_neighbour(ADDRESS));
    for outside in ["192.168.1.2", "192.168.1.0", "192.168.1.255", "192.168.2.20", "8.8.8.8", "255.255.255.255"] {
        assert!(!service.is_neighbour(outside.parse().unwrap()), "{outside}");
    }
}

#[test]
fn a_phone_keeps_its_address_while_it_is_asked_again_and_loses_it_if_nobody_answers() {
    let mut service = service();
    let who = |service: &NeighbourService| service.devices.read().unwrap().resolve(ADDRESS);
    service.apply(ADDRESS, Some(PHONE));
    for _ in 0..3 {
        service.apply(ADDRESS, None);
        assert_eq!(service.doubts.take_due(Instant::now()), [ADDRESS]);
        assert_eq!(who(&service), Resolution::Device(PHONE));
        service.apply(ADDRESS, Some(PHONE));
        assert!(service.doubts.is_empty());
    }
    // Another device answers: at once it is no longer the phone's.
    let thief = MacAddr::new([2, 0, 0, 0, 0, 9]);
    service.apply(ADDRESS, None);
    service.apply(ADDRESS, Some(thief));
    assert_eq!(who(&service), Resolution::Device(thief));
    service.apply(ADDRESS, None);
    assert_eq!(service.doubts.take_due(Instant::now()), [ADDRESS]);
    for address in service.doubts.ended(Instant::now() + doubts::GRACE) {
        service.gone(address);
    }
    assert_eq!((who(&service), service.doubts.is_empty()), (Resolution::Unknown, true));
}

fn service() -> NeighbourService {
    let lan = Lan::new(Ipv4Addr::new(192, 168, 1, 2), 24);
    let lan = LanInterface { name: "eth0".to_owned(), index: 7, lan, mtu: 1500, mac: None };
    NeighbourService::new(lan, Arc::default(), Stats::new())
}

fn entry(state: NeighbourState) -> NeighbourMessage {
    let mut message = NeighbourMessage::default();
    message.header = NeighbourHeader { family: AddressFamily::Inet, ifindex: 7, state, ..NeighbourHeader::default() };
    message.attributes = vec![
        NeighbourAttribute::Destination(NeighbourAddress::Inet(ADDRESS)),
        NeighbourAttribute::LinkLayerAddress(PHONE.octets().to_vec()),
    ];
    message
}
