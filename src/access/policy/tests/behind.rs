//! Several phones whose requests come from one device, as a repeater or proxy ARP makes it.

use super::*;

/// Six phones of an inventory, each with a file of its own, and a shared file.
fn six_phones() -> (TestSite, Vec<MacAddr>) {
    let phones: Vec<MacAddr> = (1..=6).map(|last| MacAddr::new([0, 4, 0xf2, 0, 0, last])).collect();
    let file = |name: String, scope| FileEntry {
        sha256: Digest::of(name.as_bytes()),
        name: name.parse().unwrap(),
        scope,
        class: Class::Config,
        blob: reference(),
    };
    let own = phones.iter().map(|mac| file(format!("{}.cfg", mac.lower()), Scope::Device(*mac)));
    let files = own.chain([file("000000000000.cfg".to_owned(), Scope::Everyone)]).collect();
    let lines = phones.iter().map(|mac| Phone { mac: *mac, model: "m".to_owned(), label: String::new() });
    let inventory = Inventory { phones: lines.collect() };
    let catalog = Catalog::new(&manifest(), inventory, vec![Shard { files }]).unwrap();
    (TestSite { catalog, ..TestSite::unlimited() }, phones)
}

/// What a phone asks for when it starts, in this order.
fn boot(mac: MacAddr) -> Vec<String> {
    let (lower, upper) = (mac.lower(), mac.upper());
    let own = ["-app.log", ".cfg", "-phone.cfg", "-web.cfg", "-license.cfg", "-directory.xml", "-calls.xml"];
    let mut names: Vec<String> = own.iter().map(|end| format!("{lower}{end}")).collect();
    names.extend([format!("CTLSEP{upper}.tlv"), format!("ITLSEP{upper}.tlv"), format!("SEP{upper}.cnf.xml")]);
    names.push("000000000000.cfg".to_owned());
    names
}

#[test]
fn phones_behind_one_device_get_shared_files_and_are_told_as_what_they_are() {
    for has_leases in [false, true] {
        let (mut site, phones) = six_phones();
        let mut told = Vec::new();
        for round in 0..3 {
            for (host, mac) in (10..).zip(&phones) {
                let address = Ipv4Addr::new(192, 0, 2, host);
                let conflict = Resolution::Conflict { leased: *mac, seen: STRANGER };
                let requester = if has_leases { conflict } else { device(STRANGER) };
                for name in boot(*mac) {
                    let decision = said(&site.decide_from(address, requester, &name));
                    let shared = name == "000000000000.cfg";
                    assert_eq!(decision == "served", shared, "{name}: {decision}");
                    assert_ne!(decision, "locked-out", "{name}");
                    assert!(round == 0 || decision != "other-device", "{name}");
                }
                told.extend(site.policy.poll_behind(site.now));
            }
        }
        assert_eq!(site.reports, []);
        let last = told.pop().unwrap();
        assert_eq!(last, [PhonesBehind { device: STRANGER, phones: 6 }]);
        assert_eq!(told.len(), 5, "at each phone, and never again: {told:?}");
        // By cable they show their own addresses, get their own files, and the alert ends.
        for (mac, host) in phones.iter().zip(10..) {
            let own = site.decide_from(Ipv4Addr::new(192, 0, 2, host), device(*mac), &format!("{}.cfg", mac.lower()));
            assert_eq!(said(&own), "served");
        }
        assert_eq!(site.policy.poll_behind(site.now), Some(vec![]));
    }
}

#[test]
fn one_phone_behind_a_device_is_no_guessing_device_either() {
    let (mut site, phones) = six_phones();
    for name in boot(phones[0]) {
        site.decide(device(STRANGER), &name);
    }
    let told = Some(vec![PhonesBehind { device: STRANGER, phones: 1 }]);
    assert_eq!((site.reports.len(), site.policy.poll_behind(site.now)), (0, told));
}

#[test]
fn a_scanner_with_many_addresses_is_no_repeater() {
    let (mut site, phones) = six_phones();
    for host in 10..16 {
        for mac in &phones {
            let name = format!("{}.cfg", mac.lower());
            let decision = said(&site.decide_from(Ipv4Addr::new(192, 0, 2, host), device(STRANGER), &name));
            assert!(["other-device", "locked-out"].contains(&decision.as_str()), "{decision}");
        }
    }
    assert_eq!(site.reports.len(), 1, "{:?}", site.reports);
    assert!(site.policy.poll_behind(site.now).is_none_or(|devices| devices.is_empty()));
}
