#![allow(clippy::unwrap_used)]

use super::*;
use api::check_in::report::{FileReport, Pulls, SiteReport};
use api::{CheckIn, DhcpServerSeen};
use ids::Generation;

const NOW: UnixTime = UnixTime(1_800_000_000);

fn file(name: &str, ago: i64, outcome: &str, fetched: &str, wanted: &str) -> FileReport {
    FileReport {
        name: name.to_owned(),
        outcome: outcome.to_owned(),
        at: UnixTime(NOW.0 - ago),
        deliveries: 1,
        failures: 0,
        generation: Generation(u64::from(!fetched.is_empty()) * 6),
        fetched: fetched.to_owned(),
        wanted: wanted.to_owned(),
    }
}

fn details() -> SiteDetails {
    let mut heard = Heard::unsigned(UnixTime(NOW.0 - 60), &CheckIn::default());
    heard.signed_by = Some("0011223344556677".to_owned());
    heard.site_time = Some(UnixTime(NOW.0 - 60 - 300));
    let report = &mut heard.report;
    *report = SiteReport::default();
    report.appliance.dhcp_mode = "augment".to_owned();
    report.now.uptime_seconds = 86_400 * 3;
    report.now.clock_synchronised = true;
    report.now.disk_free_bytes = 12_000_000_000;
    report.pulls = Some(Pulls::then(None, Generation(6), UnixTime(NOW.0 - 7_200)));
    report.counters.since = Some(UnixTime(NOW.0 - 60 - 3_600));
    report.counters.by.insert("tftp.refused.not-found".to_owned(), 7);
    let tftp = vec!["192.168.1.9".to_owned()];
    let server = "192.168.1.1".parse().unwrap();
    report.dhcp_servers.push(DhcpServerSeen { server, tftp, router: None, lease_seconds: None, offer_millis: None });
    for (mac, known, files) in [
        ("001b54000001", true, vec![file("SEP001B54000001.cnf.xml", 120, "delivered", "aa", "aa")]),
        (
            "001b54000002",
            true,
            vec![file("b.cfg", 120, "timed-out", "aa", "bb"), file("a.cfg", 300, "delivered", "cc", "cc")],
        ),
        ("0004f2aabbcc", false, vec![file("x\u{1b}[2J", 9, "unknown-device", "", "")]),
    ] {
        let phone = PhoneReport { known, files, ..PhoneReport::default() };
        report.phones.insert(mac.parse().unwrap(), phone);
    }
    let change = |ago, kind: &str, was: &str, now: &str| Change {
        at: UnixTime(NOW.0 - ago),
        kind: kind.to_owned(),
        was: was.to_owned(),
        now: now.to_owned(),
    };
    SiteDetails {
        heard: Some(heard),
        changes: vec![change(60, "alert", "scan: x", ""), change(120, "generation", "5", "6")],
        inventory: [("001b54000001", "Reception"), ("001b54000002", "Lab"), ("001b54000003", "Lift")]
            .map(|(mac, label)| (mac.parse().unwrap(), label.to_owned()))
            .into(),
        now: NOW,
    }
}

#[test]
fn each_phone_has_its_line_and_the_appliance_says_how_it_is() {
    assert_eq!(
        details().to_string(),
        "up           3 days\n\
         clock        synchronised, 5 min behind HQ's\n\
         disk         12000 MB free\n\
         dhcp         augment\n\
         \x20            another DHCP server 192.168.1.1 hands out 192.168.1.9\n\
         pulls        1 release, the last was generation 6, 2 h ago\n\
         grew         tftp.refused.not-found by 7 in 1 h\n\
         \n\
         phone              label                 seen       outcome         release  content  last file\n\
         00:04:f2:aa:bb:cc  not in the inventory  9 s ago    unknown-device  -        -        x?[2J\n\
         00:1b:54:00:00:01  Reception             2 min ago  delivered       6        current  SEP001B54000001.cnf.xml\n\
         00:1b:54:00:00:02  Lab                   2 min ago  timed-out       6        behind   b.cfg\n\
         00:1b:54:00:00:03  Lift                  never      -               -        -\n\
         \n\
         changes      1 min ago, ended: scan: x\n\
         \x20            2 min ago, generation: 5 -> 6\n"
    );
}

#[test]
fn of_a_site_that_never_checked_in_the_inventory_is_shown() {
    let text = SiteDetails { heard: None, changes: Vec::new(), ..details() }.to_string();
    assert_eq!(text.matches("never").count(), 3, "{text}");
    let text = SiteDetails { heard: None, changes: Vec::new(), inventory: BTreeMap::new(), ..details() }.to_string();
    assert_eq!(text, "");
}
