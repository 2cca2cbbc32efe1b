#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use std::time::Duration;

use super::*;
use crate::guard::QUIET;
use bundle::{Class, ContentKey, Inventory, Manifest, ObjectRef, Packing, Shard, SiteSettings, Totals};
use ids::{Digest, Generation, Rate, UnixTime};

const RECEPTION: MacAddr = MacAddr::new([0x00, 0x04, 0xf2, 0xaa, 0xbb, 0xcc]);
const KITCHEN: MacAddr = MacAddr::new([0x00, 0x15, 0x65, 0x01, 0x02, 0x03]);
/// A phone that the inventory does not have.
const STRANGER: MacAddr = MacAddr::new([0x64, 0x16, 0x7f, 0x0a, 0x0b, 0x0c]);

fn reference() -> ObjectRef {
    let key = ContentKey::from_bytes([1; 32]);
    ObjectRef { digest: Digest::of(b"x"), bytes: 116, key, packing: Packing::Plain, clear_bytes: 100 }
}

fn manifest() -> Manifest {
    Manifest {
        format: 1,
        fleet: "acme".parse().unwrap(),
        site: "s-3f9a".parse().unwrap(),
        generation: Generation(7),
        created: UnixTime(0),
        totals: Totals::default(),
        catalogue_version: 1,
        activation_window: None,
        settings: SiteSettings::default(),
        inventory: reference(),
        shards: vec![reference()],
        image: None,
    }
}

fn inventory() -> Inventory {
    let phone = |mac, model: &str| Phone { mac, model: model.to_owned(), label: String::new() };
    Inventory { phones: vec![phone(RECEPTION, "polycom-650"), phone(KITCHEN, "yealink-t28")] }
}

fn catalog() -> Catalog {
    let file = |name: &str, scope| FileEntry {
        name: name.parse().unwrap(),
        scope,
        class: Class::Config,
        sha256: Digest::of(name.as_bytes()),
        blob: reference(),
    };
    let files = vec![
        file("0004f2aabbcc.cfg", Scope::Device(RECEPTION)),
        file("001565010203.cfg", Scope::Device(KITCHEN)),
        file("hotel.xml", Scope::Device(KITCHEN)),
        file("64167f0a0b0c.cfg", Scope::Device(STRANGER)),
        file("sip.ld", Scope::Model("polycom-650".to_owned())),
        file("y000000000028.cfg", Scope::Model("yealink-t28".to_owned())),
        file("000000000000.cfg", Scope::Everyone),
        // Odd, but the manifest decides, not the name.
        file("greeting-0004f2aabbcc.wav", Scope::Everyone),
    ];
    Catalog::new(&manifest(), inventory(), vec![Shard { files }]).unwrap()
}

struct TestSite {
    policy: Policy,
    catalog: Catalog,
    now: Instant,
    reports: Vec<GuessingDevice>,
}

impl TestSite {
    fn new() -> Self {
        let policy = Policy::new(Lan::new(Ipv4Addr::new(192, 0, 2, 0), 24));
        Self { policy, catalog: catalog(), now: Instant::now(), reports: Vec::new() }
    }

    /// A site where only the guard limits.
    fn unlimited() -> Self {
        let rate = Rate::per_second(1_000_000).with_burst(1_000_000);
        let limits = RequestRates { address: rate, own: rate, known: rate, unknown: rate };
        Self { policy: Policy::with_limits(Lan::new(Ipv4Addr::new(192, 0, 2, 0), 24), limits), ..Self::new() }
    }

    fn decide(&mut self, requester: Resolution, name: &str) -> Decision {
        self.decide_from(Ipv4Addr::new(192, 0, 2, 10), requester, name)
    }

    fn decide_from(&mut self, address: Ipv4Addr, requester: Resolution, name: &str) -> Decision {
        let name = name.parse().unwrap();
        let (decision, report) =
            self.policy.decide(&self.catalog, &FileRequest { address, requester, name: &name }, self.now);
        self.reports.extend(report);
        decision
    }

    /// Scans neighbours of a known address, as the tools do. Says how many files that gave.
    fn scan(&mut self, requester: Resolution) -> usize {
        let served = |decision: &Decision| matches!(decision, Decision::Serve(_));
        (0..4096u32).map(|number| self.decide(requester, &format!("0004f2aab{number:03x}.cfg"))).filter(served).count()
    }
}

fn device(mac: MacAddr) -> Resolution {
    Resolution::Device(mac)
}

/// `served`, or the reason's code, or that in brackets for silence.
fn said(decision: &Decision) -> String {
    match decision {
        Decision::Serve(_) => "served".to_owned(),
        Decision::NotFound(reason) => reason.code().to_owned(),
        Decision::Silence(reason) => format!("({})", reason.code()),
    }
}

#[test]
fn who_gets_what() {
    let conflict = Resolution::Conflict { leased: RECEPTION, seen: KITCHEN };
    let table = [
        // One's own files.
        (device(RECEPTION), "0004f2aabbcc.cfg", "served"),
        (device(RECEPTION), "/0004F2AABBCC.CFG", "served"),
        (device(KITCHEN), "hotel.xml", "served"),
        (device(STRANGER), "64167f0a0b0c.cfg", "served"),
        // Another's, whether there is such a file or not.
        (device(KITCHEN), "0004f2aabbcc.cfg", "other-device"),
        (device(STRANGER), "0004f2aabbcc.cfg", "other-device"),
        (device(RECEPTION), "hotel.xml", "other-device"),
        (device(KITCHEN), "SEP0004F2AABBCC.cnf.xml", "other-device"),
        (device(KITCHEN), "ATA04F2AABBCC01.cnf.xml", "other-device"),
        (device(KITCHEN), "backup/00-04-f2-aa-bb-cc/config", "other-device"),
        // A model's.
        (device(RECEPTION), "sip.ld", "served"),
        (device(KITCHEN), "sip.ld", "other-model"),
        (device(STRANGER), "sip.ld", "unknown-device"),
        (device(KITCHEN), "Y000000000028.cfg", "served"),
        // Everyone's.
        (device(RECEPTION), "000000000000.cfg", "served"),
        (device(STRANGER), "000000000000.cfg", "served"),
        (Resolution::Unknown, "000000000000.cfg", "served"),
        (conflict, "000000000000.cfg", "served"),
        (device(KITCHEN), "greeting-0004f2aabbcc.wav", "served"),
        // Nobody's.
        (device(RECEPTION), "CTLSEP0004F2AABBCC.tlv", "not-found"),
        (device(RECEPTION), "ITLFile.tlv", "not-found"),
        (device(STRANGER), "64167f0a0b0c-license.cfg", "not-found"),
        (Resolution::Unknown, "XMLDefault.cnf.xml", "not-found"),
        // Who asks is not known, or in dispute.
        (Resolution::Unknown, "0004f2aabbcc.cfg", "unknown-device"),
        (Resolution::Unknown, "SEP0004F2AABBCC.cnf.xml", "unknown-device"),
        (conflict, "0004f2aabbcc.cfg", "unknown-device"),
        (conflict, "001565010203.cfg", "unknown-device"),
        (Resolution::Unknown, "sip.ld", "unknown-device"),
    ];
    for (requester, name, expected) in table {
        let mut site = TestSite::new();
        assert_eq!(said(&site.decide(requester, name)), expected, "{requester:?} asks for {name}");
        assert_eq!(site.reports, []);
    }
}

#[test]
fn what_is_served_is_the_file_that_was_asked_for() {
    let Decision::Serve(entry) = TestSite::new().decide(device(RECEPTION), "0004F2AABBCC.cfg") else {
        panic!("a phone's own file");
    };
    assert_eq!(entry.sha256, Digest::of(b"0004f2aabbcc.cfg"));
}

#[test]
fn outside_the_lan_there_is_silence() {
    for address in [[192, 0, 3, 10], [10, 0, 0, 1], [192, 0, 2, 255]] {
        let decision = TestSite::new().decide_from(address.into(), device(RECEPTION), "000000000000.cfg");
        assert_eq!(said(&decision), "(outside-lan)");
    }
    let everywhere = Policy::new(Lan::new(Ipv4Addr::UNSPECIFIED, 0));
    assert!(everywhere.can_answer(Ipv4Addr::new(8, 8, 8, 8)));
    let single = Policy::new(Lan::new(Ipv4Addr::new(192, 0, 2, 1), 32));
    assert!(single.can_answer(Ipv4Addr::new(192, 0, 2, 1)));
    assert!(!single.can_answer(Ipv4Addr::new(192, 0, 2, 2)));
}

#[test]
fn over_the_rate_there_is_silence_and_then_service_again() {
    let mut site = TestSite::new();
    let answers: Vec<_> = (0..500).map(|_| said(&site.decide(device(RECEPTION), "0004f2aabbcc.cfg"))).collect();
    assert_eq!(answers.iter().filter(|said| *said == "served").count(), 400);
    assert_eq!(answers[499], "(rate-limited)");
    site.now += Duration::from_secs(1);
    assert_eq!(said(&site.decide(device(RECEPTION), "0004f2aabbcc.cfg")), "served");
}

#[test]
fn a_flood_of_guesses_under_a_phones_address_keeps_nothing_from_the_phone() {
    let mut site = TestSite::new();
    let silent = (0..4096u32)
        .map(|number| said(&site.decide(device(RECEPTION), &format!("SEP001565{number:06X}.cnf.xml"))))
        .filter(|said| said == "(rate-limited)")
        .count();
    assert_eq!(silent, 4096 - 200);
    for (name, expected) in [
        ("CTLSEP0004F2AABBCC.tlv", "not-found"),
        ("0004f2aabbcc.cfg", "served"),
        ("sip.ld", "served"),
        ("000000000000.cfg", "served"),
        ("ITLFile.tlv", "not-found"),
    ] {
        assert_eq!(said(&site.decide(device(RECEPTION), name)), expected, "{name}");
    }
    assert_eq!(site.reports.len(), 1);
}

#[test]
fn a_device_writes_its_own_log_where_the_signed_settings_say_so_and_nothing_else() {
    let wanted = |accept, requester, name: &str, address| {
        let mut site = TestSite::new();
        let mut manifest = manifest();
        manifest.settings.tftp.accept_logs = accept;
        site.catalog = Catalog::new(&manifest, inventory(), Vec::new()).unwrap();
        let name = name.parse().unwrap();
        site.policy.own_log(&site.catalog, &FileRequest { address, requester, name: &name }, site.now).is_some()
    };
    let here = Ipv4Addr::new(192, 0, 2, 10);
    for name in ["0004f2aabbcc-app.log", "/0004F2AABBCC-boot.log"] {
        assert!(wanted(true, device(RECEPTION), name, here), "{name}");
        assert!(!wanted(false, device(RECEPTION), name, here), "off by default: {name}");
        assert!(!wanted(true, device(KITCHEN), name, here), "another's: {name}");
        assert!(!wanted(true, Resolution::Unknown, name, here));
        assert!(!wanted(true, Resolution::Conflict { leased: RECEPTION, seen: STRANGER }, name, here));
        assert!(!wanted(true, device(RECEPTION), name, Ipv4Addr::new(10, 0, 0, 1)), "outside the LAN");
    }
    // Not in the inventory.
    assert!(!wanted(true, device(STRANGER), "64167f0a0b0c-app.log", here));
    for name in
        ["0004f2aabbcc.cfg", "0004f2aabbcc-phone.cfg", "0004f2aabbcc-directory.xml", "logs/0004f2aabbcc-app.log"]
    {
        assert!(!wanted(true, device(RECEPTION), name, here), "{name}");
    }
}

#[test]
fn a_scan_of_4096_addresses_gives_no_file_and_one_report() {
    for (requester, who) in [
        (device(STRANGER), Some(STRANGER)),
        (device(KITCHEN), Some(KITCHEN)),
        (Resolution::Unknown, None),
        (Resolution::Conflict { leased: RECEPTION, seen: STRANGER }, Some(STRANGER)),
    ] {
        let mut site = TestSite::unlimited();
        assert_eq!(site.scan(requester), 0, "{requester:?}");
        let expected = GuessingDevice { device: who, address: Ipv4Addr::new(192, 0, 2, 10), names: 8 };
        assert_eq!(site.reports, [expected]);
    }
}

#[test]
fn a_scan_from_4096_addresses_of_one_device_is_one_scan() {
    let mut site = TestSite::unlimited();
    for number in 0..4096u32 {
        let address = Ipv4Addr::from(0xc000_0201 + number % 250);
        site.decide_from(address, device(STRANGER), &format!("SEP0004F2AAB{number:03X}.cnf.xml"));
    }
    assert_eq!(site.reports.len(), 1);
}

#[test]
fn a_lock_out_takes_neither_shared_nor_own_files_from_anybody() {
    let mut site = TestSite::unlimited();
    site.scan(device(STRANGER));
    assert_eq!(said(&site.decide(device(STRANGER), "000000000000.cfg")), "served");
    assert_eq!(said(&site.decide(device(STRANGER), "001565010203.cfg")), "locked-out");
    assert_eq!(said(&site.decide(device(STRANGER), "anything.cfg")), "locked-out");
    assert_eq!(said(&site.decide(device(STRANGER), "64167f0a0b0c.cfg")), "served");
    assert_eq!(said(&site.decide(device(STRANGER), "64167f0a0b0c-phone.cfg")), "not-found");
    site.now += QUIET;
    assert_eq!(said(&site.decide(device(STRANGER), "001565010203.cfg")), "other-device");
}

#[test]
fn whatever_is_known_of_an_address_guesses_under_it_cost_no_shared_file() {
    let states = [
        device(RECEPTION),
        device(STRANGER),
        Resolution::Unknown,
        Resolution::Conflict { leased: RECEPTION, seen: STRANGER },
        Resolution::Conflict { leased: STRANGER, seen: RECEPTION },
    ];
    for guessed in states {
        for asks in states {
            let mut site = TestSite::new();
            site.scan(guessed);
            assert_eq!(site.reports.len(), 1);
            for number in 0..500 {
                site.decide(guessed, &format!("missing-{number}.xml"));
            }
            assert_eq!(said(&site.decide(asks, "000000000000.cfg")), "served", "{guessed:?}, then {asks:?}");
            assert_eq!(said(&site.decide(asks, "greeting-0004f2aabbcc.wav")), "served", "{guessed:?}, then {asks:?}");
            let has_model = !matches!(asks, Resolution::Unknown | Resolution::Device(STRANGER));
            assert_eq!(said(&site.decide(asks, "sip.ld")) == "served", has_model, "{guessed:?}, then {asks:?}");
        }
    }
}

#[test]
fn guesses_under_a_phones_address_cost_the_phone_nothing() {
    let mut site = TestSite::unlimited();
    site.scan(device(RECEPTION));
    assert_eq!(site.reports.len(), 1);
    for (name, expected) in [
        ("0004f2aabbcc.cfg", "served"),
        ("sip.ld", "served"),
        ("000000000000.cfg", "served"),
        ("0004f2aabbcc-license.cfg", "not-found"),
        ("CTLSEP0004F2AABBCC.tlv", "not-found"),
        ("XMLDefault.cnf.xml", "not-found"),
        ("y000000000028.cfg", "other-model"),
        ("001565010203.cfg", "locked-out"),
    ] {
        assert_eq!(said(&site.decide(device(RECEPTION), name)), expected, "{name}");
    }
}

#[test]
fn a_lock_out_of_one_device_is_nothing_to_another_at_the_same_address() {
    let mut site = TestSite::unlimited();
    site.scan(Resolution::Unknown);
    assert_eq!(said(&site.decide(Resolution::Unknown, "anything.cfg")), "locked-out");
    assert_eq!(said(&site.decide(device(STRANGER), "anything.cfg")), "not-found");
}

#[test]
fn a_phone_that_asks_for_all_that_phones_ask_for_never_guesses() {
    let mut site = TestSite::unlimited();
    let wanted = include_str!("../../../tests/vectors/names.tsv").lines().filter(|line| !line.starts_with('#'));
    for round in 0..3 {
        for line in wanted.clone() {
            let name = line.split('\t').next().unwrap();
            let decision = said(&site.decide(device(RECEPTION), name));
            assert!(["served", "not-found", "other-model"].contains(&decision.as_str()), "{name}: {decision}");
        }
        for missing in 0..200 {
            site.decide(device(RECEPTION), &format!("locale{round}/dictionary-{missing}.xml"));
        }
    }
    assert_eq!(site.reports, []);
}

#[test]
fn a_new_phone_boots_without_being_taken_for_a_scanner() {
    for requester in [device(STRANGER), Resolution::Unknown] {
        let mut site = TestSite::unlimited();
        for name in [
            "64167f0a0b0c-app.log",
            "CTLSEP64167F0A0B0C.tlv",
            "ITLSEP64167F0A0B0C.tlv",
            "ITLFile.tlv",
            "SEP64167F0A0B0C.cnf.xml",
            "SEP64167F0A0B0C.cnf.xml.sgn",
            "ATA167F0A0B0C01.cnf.xml",
            "64167f0a0b0c-phone.cfg",
            "64167f0a0b0c-web.cfg",
            "64167f0a0b0c-license.cfg",
            "64167f0a0b0c-directory.xml",
            "64167f0a0b0c-calls.xml",
            "XMLDefault.cnf.xml",
            "bootrom.ld",
        ] {
            assert_eq!(said(&site.decide(requester, name)), "not-found", "{name}");
        }
        assert_eq!(said(&site.decide(requester, "000000000000.cfg")), "served");
        assert_eq!(site.reports, []);
    }
}

#[test]
fn a_list_of_default_names_from_an_unknown_device_is_reported_once() {
    let mut site = TestSite::unlimited();
    for number in 0..500 {
        site.decide(device(STRANGER), &format!("default-{number}.cfg"));
    }
    assert_eq!(site.reports.len(), 1);
}

#[test]
fn floods_of_names_and_addresses_fill_no_memory() {
    let mut site = TestSite::unlimited();
    site.policy.lan = Lan::new(Ipv4Addr::new(10, 0, 0, 0), 8);
    for number in 0..30_000u32 {
        let address = Ipv4Addr::from(0x0a00_0001 + number);
        site.decide_from(address, Resolution::Unknown, &format!("{:012x}.cfg", 0x0004_f200_0000 + u64::from(number)));
    }
    let memory = format!("{:?}", site.policy).len();
    for number in 30_000..60_000u32 {
        let address = Ipv4Addr::from(0x0a00_0001 + number);
        site.decide_from(address, Resolution::Unknown, &format!("{:012x}.cfg", 0x0004_f200_0000 + u64::from(number)));
    }
    let grown = format!("{:?}", site.policy).len();
    assert!(grown < memory + memory / 10, "from {memory} to {grown}");
}

#[test]
fn before_the_first_release_nothing_is_served_and_nobody_is_reported() {
    let mut site = TestSite::unlimited();
    site.catalog = Catalog::empty("s-3f9a".parse().unwrap());
    for name in ["0004f2aabbcc.cfg", "000000000000.cfg", "sip.ld", "SEP0004F2AABBCC.cnf.xml"] {
        assert_eq!(said(&site.decide(device(RECEPTION), name)), "not-found", "{name}");
    }
    assert_eq!(site.reports, []);
}

mod behind;

mod properties {
    use proptest::prelude::*;

    use super::*;

    fn requester() -> impl Strategy<Value = Resolution> {
        let mac = prop_oneof![Just(RECEPTION), Just(KITCHEN), Just(STRANGER)];
        prop_oneof![
            4 => mac.clone().prop_map(Resolution::Device),
            1 => Just(Resolution::Unknown),
            1 => (mac.clone(), mac).prop_map(|(leased, seen)| Resolution::Conflict { leased, seen }),
        ]
    }

    fn wanted() -> impl Strategy<Value = String> {
        let names: Vec<String> = catalog().files().map(|entry| entry.name.to_string()).collect();
        prop_oneof![
            prop::sample::select(names),
            (0u32..64).prop_map(|number| format!("SEP0004F2AABB{number:02X}.cnf.xml")),
            "[a-c]{1,2}\\.cfg",
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]

        /// Whatever happened before, nobody gets what is not theirs, and a phone keeps what is.
        #[test]
        fn history_never_changes_whose_a_file_is(
            history in prop::collection::vec((requester(), wanted(), 0u64..400), 1..200),
        ) {
            let mut site = TestSite::unlimited();
            for (requester, name, seconds) in history {
                site.now += Duration::from_secs(seconds);
                let decision = site.decide(requester, &name);
                let device = match requester {
                    Resolution::Device(mac) => Some(mac),
                    _ => None,
                };
                if let Decision::Serve(entry) = &decision {
                    prop_assert_eq!(&entry.name, &name.parse().unwrap());
                    match &entry.scope {
                        Scope::Device(owner) => prop_assert_eq!(Some(*owner), device),
                        Scope::Model(model) => {
                            let either = match requester {
                                Resolution::Device(mac) => vec![mac],
                                Resolution::Conflict { leased, seen } => vec![leased, seen],
                                Resolution::Unknown => vec![],
                            };
                            let is_of_model = |mac| site.catalog.phone(mac).is_some_and(|phone| phone.model == *model);
                            prop_assert!(either.into_iter().any(is_of_model));
                        }
                        Scope::Everyone => (),
                    }
                }
                prop_assert!(!matches!(decision, Decision::Silence(_)), "all are on the LAN and within the rate");
                for (mac, own) in [(RECEPTION, "0004f2aabbcc.cfg"), (KITCHEN, "hotel.xml"), (STRANGER, "64167f0a0b0c.cfg")] {
                    prop_assert!(matches!(site.decide(Resolution::Device(mac), own), Decision::Serve(_)));
                }
                prop_assert!(matches!(site.decide(Resolution::Device(KITCHEN), "000000000000.cfg"), Decision::Serve(_)));
            }
        }
    }
}
