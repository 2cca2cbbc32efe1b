use std::sync::Arc;
use std::sync::Mutex;
use std::time::Duration;

use super::*;
use crate::{ClockReading, HostState, PollState, TransferRecord};
use api::{AlertCode, TransferEnd};
use ids::MacAddr;

#[test]
fn the_text_says_state_release_and_alerts() {
    let (clock, stats) = clocks(1_000);
    stats.poll(polled(SiteState::Unreachable));
    stats.alert(AlertCode::GuessingDevice, "00:00:5e:00:53:01 guesses names".to_owned());
    clock.pass(300);
    let text = StatusReport::of(&stats).text();
    for part in
        ["unreachable: HQ does not answer", "generation 7", "5 min ago", "ALERT        guessing-device: 00:00:5e"]
    {
        assert!(text.contains(part), "{part} is missing in:\n{text}");
    }
}

#[test]
fn the_text_shows_the_last_transfers_with_all_that_is_known_of_them() {
    let stats = Stats::new();
    for number in 0..20u16 {
        stats.transfer(crate::TransferRecord {
            device: (number == 19).then(|| ids::MacAddr::new([2, 0, 0, 0, 0, 1])),
            known: true,
            address: std::net::Ipv4Addr::new(192, 168, 1, 7),
            file: format!("file-{number}\u{1b}[2J.cfg"),
            bytes: 70_000,
            retransmissions: 3,
            duration: std::time::Duration::from_millis(421),
            generation: Generation(8),
            content: None,
            outcome: TransferEnd::Unconfirmed.into(),
        });
    }
    let text = StatusReport::of(&stats).text();
    let rows: Vec<Vec<&str>> = text
        .lines()
        .skip_while(|line| !line.contains("last transfers"))
        .skip(1)
        .map(|line| line.split_whitespace().collect())
        .collect();
    assert_eq!(rows.len(), TEXT_TRANSFERS);
    let expected = ["02:00:00:00:00:01", "0", "s", "ago", "unconfirmed", "70000", "3", "421", "8", "file-19?[2J.cfg"];
    assert_eq!(rows.first().map(Vec::as_slice), Some(&expected[..]), "the newest first, and no escapes");
    assert_eq!(rows.get(1).and_then(|row| row.first()), Some(&"192.168.1.7"));
}

#[test]
fn how_the_keys_lie_on_the_card_is_told_as_it_is() -> Result<(), serde_json::Error> {
    let stats = Stats::new();
    assert!(!StatusReport::of(&stats).text().contains("\nkeys"), "there are none yet");
    for encrypted in [false, true] {
        stats.keys_encrypted(encrypted);
        let report = StatusReport::of(&stats);
        assert!(report.text().contains(&format!("\nkeys         {}\n", keys_text(encrypted))), "{}", report.text());
        let sent = serde_json::to_string(&report.check_in())?;
        // What every board without a TPM says costs no bytes at every poll.
        assert_eq!(sent.contains("\"keys-encrypted\":true"), encrypted, "{sent}");
        assert_eq!(serde_json::from_str::<CheckIn>(&sent)?.keys_encrypted, encrypted);
    }
    Ok(())
}

#[test]
fn a_check_in_of_a_busy_site_stays_bounded() {
    let stats = Stats::new();
    for number in 0..500u16 {
        let [high, low] = number.to_be_bytes();
        stats.transfer(crate::TransferRecord {
            device: Some(ids::MacAddr::new([2, 0, 0, 0, high, low])),
            known: true,
            address: std::net::Ipv4Addr::LOCALHOST,
            file: "f".repeat(100),
            bytes: 1,
            retransmissions: 0,
            duration: std::time::Duration::ZERO,
            generation: Generation(1),
            content: None,
            outcome: TransferEnd::Delivered.into(),
        });
    }
    let check_in = StatusReport::of(&stats).check_in();
    // How much of it fits into a message is `update`'s question.
    assert_eq!((check_in.phones.len(), check_in.files.len()), (500, 500));
    assert_eq!(check_in.counters.get("tftp.delivered"), Some(&500));
}

/// Whatever the clock does, what happened 5 minutes ago happened 5 minutes ago.
#[test]
fn ages_are_right_whatever_the_clock_does_meanwhile() {
    let day = 86_400;
    for (name, step) in
        [("no step", 0), ("from 1970", 20_000 * day), ("a lost battery", -4_781 * day), ("27 days", 27 * day)]
    {
        let (clock, stats) = clocks(1_000_000);
        stats.poll(polled(SiteState::Ok));
        stats.found_current();
        asked(&stats, 1, TransferEnd::Delivered.into());
        clock.pass(300);
        clock.step(step);
        let report = StatusReport::of(&stats);
        let text = report.text();
        assert_eq!(text.matches("5 min ago").count(), 4, "{name}: polled, counted, device, transfer:\n{text}");
        assert!(text.contains("up for 5 min") && text.contains("(signed metadata is current)"), "{name}:\n{text}");
        assert_eq!(report.now.0 - report.phones.first().map_or(0, |phone| phone.last_seen.0), 300, "{name}");
        assert_eq!(report.check_in().uptime_seconds, 300, "{name}");
    }
}

#[test]
fn right_after_a_start_it_says_what_is_served_and_no_age_that_nobody_measured() {
    let (_, stats) = clocks(1_000_000);
    stats.host(HostState { generation: Generation(7), clock_synchronised: true, disk_free_bytes: 5_000_000 });
    let text = StatusReport::of(&stats).text();
    for part in [
        "state        starting: the first poll of HQ since the start has not ended yet\n",
        "serving      generation 7\n",
        "polled       not yet since the start\n",
        "lan          none: phones are not served\n",
        "clock        synchronised\n",
        "disk         5 MB free\n",
    ] {
        assert!(text.contains(part), "no `{part}` in:\n{text}");
    }
    assert!(!text.contains("ago") && !text.contains("never"), "{text}");
}

#[test]
fn a_poll_that_finds_nothing_current_says_since_when() {
    let (clock, stats) = clocks(1_000_000);
    stats.poll(polled(SiteState::Unreachable));
    assert!(StatusReport::of(&stats).text().contains("0 s ago (signed metadata not found current since the start)"));
    stats.found_current();
    clock.pass(7_200);
    stats.poll(polled(SiteState::Unreachable));
    let text = StatusReport::of(&stats).text();
    assert!(text.contains("0 s ago (signed metadata was last found current 2 h ago)"), "{text}");
}

#[test]
fn what_an_earlier_run_saw_has_an_age_only_where_both_clocks_can_be_compared() {
    let (_, before) = clocks(1_764_000_000);
    asked(&before, 1, TransferEnd::Delivered.into());
    let seen = |start: i64, synchronised: bool| {
        let (_, after) = clocks(start);
        after.host(HostState { clock_synchronised: synchronised, ..HostState::default() });
        after.recall(before.memory());
        let text = StatusReport::of(&after).text();
        let row = text.lines().find(|line| line.starts_with("02:00")).unwrap_or_default();
        row.split("yes").last().unwrap_or_default().split("delivered").next().unwrap_or_default().trim().to_owned()
    };
    assert_eq!(seen(1_764_000_000 + 3 * 3_600, true), "3 h ago");
    assert_eq!(seen(1_764_000_000 + 3 * 3_600, false), "2025-11-24 16:00", "the clock may have stood still meanwhile");
    assert_eq!(seen(90, false), "2025-11-24 16:00", "a box that woke in 1970");
    assert_eq!(seen(1_764_000_000 - 3 * 3_600, true), "2025-11-24 16:00", "that clock was ahead");
}

#[test]
fn counters_that_grew_are_told_in_words() {
    let (_, stats) = clocks(1_000_000);
    stats.recall(crate::StatsMemory {
        counters: [("tftp.rrq".to_owned(), 100)].into(),
        ..crate::StatsMemory::default()
    });
    stats.count("tftp.outside-lan");
    stats.count("dhcp.something-new");
    stats.poll(polled(SiteState::Ok));
    let text = StatusReport::of(&stats).text();
    let expected = "\ncounted since the start, 0 s ago\n           1 dhcp.something-new\n           \
                    1 requests for files from outside this LAN, not answered (tftp.outside-lan)\n";
    assert!(text.ends_with(expected), "{text}");
}

#[test]
fn a_flood_shows_as_the_limit_that_it_reached() {
    let (_, stats) = clocks(1_000_000);
    stats.recall(crate::StatsMemory {
        counters: [("tftp.not-held".to_owned(), 7)].into(),
        ..crate::StatsMemory::default()
    });
    for _ in 0..3_000 {
        stats.count("tftp.rate-limited");
    }
    let text = StatusReport::of(&stats).text();
    let expected =
        "LIMIT        requests for files left alone, because there were too many at once: 3000 (tftp.rate-limited)
";
    assert!(text.contains(expected), "{text}");
    assert!(!text.contains("tftp.not-held"), "what an earlier run counted is over: {text}");
}

#[test]
fn the_lan_is_named_with_the_addresses_that_are_not_served() {
    let (_, stats) = clocks(0);
    let lan = |text: &str| text.parse::<ids::Lan>().unwrap_or(ids::Lan::new(std::net::Ipv4Addr::UNSPECIFIED, 0));
    stats.lan("eth0", lan("192.168.77.1/24"), &[lan("10.20.0.2/24")]);
    let text = StatusReport::of(&stats).text();
    let expected = "lan          192.168.77.1/24 on eth0\n             not 10.20.0.2/24, which is there, too; \
                    [lan] interface = \"10.20.0.2\" serves it instead\n";
    assert!(text.contains(expected), "{text}");
}

#[test]
fn phones_of_another_vlan_are_named_with_what_to_do_until_they_are_quiet() {
    let (clock, stats) = clocks(0);
    let phone = MacAddr::new([0, 4, 0xf2, 0, 0, 1]);
    stats.asked_in_vlan(20, phone);
    stats.asked_in_vlan(20, phone);
    clock.pass(60);
    let text = StatusReport::of(&stats).text();
    let expected = "             phones of VLAN 20, such as 00:04:f2:00:00:01, asked 2 times in tagged frames, last 60 s ago:\n             \
                    this box serves what comes to its port without a tag; set the switch's port to VLAN 20 untagged";
    assert!(text.contains(expected), "{text}");
    clock.pass(3_600);
    assert!(!StatusReport::of(&stats).text().contains("VLAN"));
}

#[test]
fn another_networks_phones_are_an_alert_until_they_are_quiet() {
    let (clock, stats) = clocks(0);
    let lan = ids::Lan::new(std::net::Ipv4Addr::new(192, 168, 77, 1), 24);
    stats.lan("eth0", lan, &[]);
    let phone = std::net::Ipv4Addr::new(10, 20, 0, 5);
    for _ in 0..3 {
        stats.asked_from_outside(phone);
        clock.pass(60);
    }
    stats.asked_from_outside(std::net::Ipv4Addr::new(192, 168, 77, 9));
    let report = StatusReport::of(&stats);
    let alerts: Vec<(&str, u64)> = report.alerts.iter().map(|alert| (alert.code.as_str(), alert.count)).collect();
    assert_eq!(alerts, [("other-network", 1)], "once, and not for what is of the LAN");
    let text = report.text();
    assert!(
        text.contains(
            "phones of another network, such as 10.20.0.5, ask for files here, only 192.168.77.0/24 is served"
        ),
        "{text}"
    );
    assert!(
        text.contains("devices of another network, such as 10.20.0.5, asked 3 times and got no answer, last 60 s ago"),
        "{text}"
    );
    assert_eq!(report.counters.get("tftp.outside-lan"), Some(&4));
    stats.forget_quiet_networks();
    assert_eq!(StatusReport::of(&stats).alerts.len(), 1);
    clock.pass(3_600);
    stats.forget_quiet_networks();
    let report = StatusReport::of(&stats);
    assert!(report.alerts.is_empty() && report.outside.is_empty() && stats.memory().untold.is_empty());
    // On another LAN that network may be the one that is served.
    stats.asked_from_outside(phone);
    stats.lan("eth0", ids::Lan::new(std::net::Ipv4Addr::new(10, 20, 0, 1), 24), &[]);
    assert!(StatusReport::of(&stats).alerts.is_empty());
}

/// Clocks that a test lets pass and step.
struct Clocks(Mutex<ClockReading>);

impl Clocks {
    fn pass(&self, seconds: u64) {
        let mut reading = self.0.lock().expect("no test panics with it");
        reading.up += Duration::from_secs(seconds);
        reading.wall = reading.wall.plus(Duration::from_secs(seconds));
    }

    fn step(&self, seconds: i64) {
        self.0.lock().expect("no test panics with it").wall.0 += seconds;
    }
}

/// A record that starts at this time of the wall clock, and its clocks.
fn clocks(wall: i64) -> (Arc<Clocks>, Stats) {
    let clocks = Arc::new(Clocks(Mutex::new(ClockReading { wall: UnixTime(wall), up: Duration::from_secs(77) })));
    let reading = Arc::clone(&clocks);
    (clocks, Stats::with_clock(Arc::new(move || *reading.0.lock().expect("no test panics with it"))))
}

fn polled(state: SiteState) -> PollState {
    let reason = if state == SiteState::Ok { String::new() } else { "HQ does not answer".to_owned() };
    PollState { state, reason, generation: Generation(7), clock_synchronised: true, disk_free_bytes: 5_000_000 }
}

fn asked(stats: &Stats, last: u8, outcome: api::FileOutcome) {
    stats.transfer(TransferRecord {
        device: Some(MacAddr::new([2, 0, 0, 0, 0, last])),
        known: true,
        address: std::net::Ipv4Addr::LOCALHOST,
        file: "a.cfg".to_owned(),
        bytes: 10,
        retransmissions: 0,
        duration: Duration::from_millis(3),
        generation: Generation(4),
        content: None,
        outcome,
    });
}
