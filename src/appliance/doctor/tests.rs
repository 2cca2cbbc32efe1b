#![allow(clippy::unwrap_used)]

use super::*;
use crate::interface::LanInterface;
use dhcp::heard::{LeaseTerms, TftpPointer};
use ids::UnixTime;

const ROUTER: Ipv4Addr = Ipv4Addr::new(192, 168, 1, 1);
const SECOND: Ipv4Addr = Ipv4Addr::new(192, 168, 1, 254);
const OWN: Ipv4Addr = Ipv4Addr::new(192, 168, 1, 5);

#[test]
fn beside_a_home_router_it_says_augment_and_the_line_to_enter() {
    let text = told(&[said(ROUTER, &[])]);
    for part in [
        "DHCP server 192.168.1.1",
        "for            3600 seconds",
        "answers in     2.0 to 2.0 ms",
        "relay agents   answered",
        "no TFTP server (66/150)",
        "Take mode `augment`",
        "dhcp-option-force=66,192.168.1.5",
        "code=150 value=0xc0a80105",
        "-ScopeId 192.168.1.0",
        "network 192.168.1.0 255.255.255.0",
    ] {
        assert!(text.contains(part), "no `{part}` in:\n{text}");
    }
    assert!(!text.contains("pings") && !text.contains("RouterOS is set so"), "{text}");
}

#[test]
fn where_the_router_points_here_there_is_nothing_to_enter() {
    for tftp in ["192.168.1.5", "tftp://192.168.1.5", "tftp://192.168.1.5:69/phones/"] {
        let text = told(&[said(ROUTER, &[(66, tftp)])]);
        assert!(text.contains("points phones here (192.168.1.5)") && text.contains("Take mode `inform`"), "{text}");
        assert!(!text.contains("MikroTik"), "{text}");
    }
}

#[test]
fn silence_other_pointers_and_second_servers_are_told_apart() {
    assert!(told(&[]).contains("No DHCP server answered"));
    assert!(told(&[]).contains("Take mode `all`"));
    assert!(
        told(&[said(ROUTER, &[(66, "10.0.0.9")])]).contains("points phones to 10.0.0.9, which is not this machine")
    );
    let other = Overheard { terms: Some(terms("8.8.8.8")), ..said(SECOND, &[]) };
    let two = told(&[said(ROUTER, &[]), other]);
    assert!(two.contains("several DHCP servers answer"), "{two}");
    assert!(two.contains("192.168.1.1 and 192.168.1.254 differ: DNS 9.9.9.9 or 8.8.8.8"), "{two}");
}

#[test]
fn a_pair_that_agrees_is_taken_for_one_server() {
    let text = told(&[said(ROUTER, &[]), said(SECOND, &[])]);
    assert!(text.contains("agree in all but their address") && text.contains("Take mode `augment`"), "{text}");
    assert!(!text.contains("Find out which one should not"), "{text}");
}

#[test]
fn a_router_that_answers_no_relay_agent_is_named_with_the_setting_and_augment_is_not_recommended() {
    let mut findings = found(&[said(ROUTER, &[])]);
    findings.lan.relays(ROUTER, Relays::Refused);
    let text = advice(&lan(), &findings);
    for part in [
        "relay agents   not answered",
        "Take mode `inform`: 192.168.1.1 does not answer relay agents",
        "augment      gets nothing: the router does not answer relay agents",
        "`relay=0.0.0.0` in /ip dhcp-server",
        "code=150 value=0xc0a80105",
    ] {
        assert!(text.contains(part), "no `{part}` in:\n{text}");
    }
}

#[test]
fn a_lease_time_of_nothing_is_named_and_augment_is_not_recommended() {
    let terms = LeaseTerms { lease_seconds: Some(0), ..terms("9.9.9.9") };
    let text = told(&[Overheard { terms: Some(terms), ..said(ROUTER, &[]) }]);
    for part in [
        "for            0 seconds: a lease that is over at once",
        "Take mode `inform`: 192.168.1.1 offers addresses for a lease time of 0 seconds (option 51)",
        "augment      gets nothing: the router's lease is over at once",
    ] {
        assert!(text.contains(part), "no `{part}` in:\n{text}");
    }
}

#[test]
fn a_server_that_cannot_be_read_is_a_server() {
    let mut findings = found(&[]);
    let reply = [&[2, 1, 6, 0][..], &[0; 296]].concat();
    findings.lan.heard(&Overheard::unreadable(&reply, ROUTER, |_| true).unwrap(), UnixTime(0));
    findings.unreadable_at(ROUTER, MacAddr::new([2, 0, 0, 0, 0, 9]));
    let text = advice(&lan(), &findings);
    for part in [
        "a DHCP server at 192.168.1.1 answers in a way that cannot be read (02:00:00:00:00:09)",
        "Take mode `inform`: somebody serves here",
        "all          refused: another server leases here",
    ] {
        assert!(text.contains(part), "no `{part}` in:\n{text}");
    }
    assert!(!text.contains("Take mode `all`"), "{text}");
}

#[test]
fn who_answers_others_and_not_us_is_a_server() {
    let text = told(&[Overheard { asked: false, ..said(ROUTER, &[]) }]);
    assert!(text.contains("192.168.1.1 speaks as a DHCP server") && text.contains("Take mode `inform`"), "{text}");
}

#[test]
fn pointers_that_are_true_for_some_phones_are_told_as_they_are() {
    for (tftp, parts) in [
        (
            &[(150, "10.0.0.9,192.168.1.5")][..],
            &["points phones to 10.0.0.9 first, then here (192.168.1.5)", "put this machine first"][..],
        ),
        (
            &[(150, "192.168.1.5"), (66, "10.0.0.9")],
            &["here (192.168.1.5) by option 150, to 10.0.0.9, which is not this machine by option 66"],
        ),
        (
            &[(66, "tftp.example.lan")],
            &["to tftp.example.lan, which may or may not be this machine", "if it is this one, nothing is missing"],
        ),
        (
            &[(160, "http://10.0.0.9/")],
            &["option 160 sends Polycom, Mitel and Aastra phones to 10.0.0.9", "Take mode `augment`"],
        ),
        (&[(43, "http://10.0.0.9/")], &["option 43 sends phones that read vendor options first (Yealink"]),
    ] {
        let text = told(&[said(ROUTER, tftp)]);
        for part in parts {
            assert!(text.contains(part), "no `{part}` in:\n{text}");
        }
    }
}

#[test]
fn a_name_that_resolves_to_this_machine_points_here() {
    let mut findings = found(&[said(ROUTER, &[(66, "tftp.example.lan")])]);
    assert_eq!(findings.names(), ["tftp.example.lan"]);
    findings.resolved("tftp.example.lan".to_owned(), vec![OWN]);
    let text = advice(&lan(), &findings);
    assert!(text.contains("points phones here (192.168.1.5)") && text.contains("nothing is missing"), "{text}");
    assert!(text.contains("tftp.example.lan is 192.168.1.5"), "{text}");
    findings.resolved("tftp.example.lan".to_owned(), vec![Ipv4Addr::new(10, 0, 0, 9)]);
    assert!(advice(&lan(), &findings).contains("to tftp.example.lan (10.0.0.9), which is not this machine"));
}

#[test]
fn what_was_measured_is_shown() {
    let for_ever = LeaseTerms { lease_seconds: Some(u32::MAX), ..terms("9.9.9.9") };
    let slow = Overheard {
        terms: Some(for_ever),
        after: Some(Duration::from_millis(1001)),
        relayed: false,
        ..said(ROUTER, &[])
    };
    let mut findings = found(&[slow]);
    let mut offer = vec![2, 1, 6, 0];
    offer.resize(236, 0);
    offer.extend([99, 130, 83, 99, 53, 1, 2, 54, 4, 192, 168, 1, 1, 43, 1, 9, 255]);
    findings.options(&ServerMessage::parse(&offer).unwrap());
    let text = advice(&lan(), &findings);
    for part in [
        "lease          for ever",
        "answers in     1001.0 to 1001.0 ms",
        "pings          it seems to ask for an address before it offers it",
        "options        43, 53, 54",
        "relay agents   not found out",
    ] {
        assert!(text.contains(part), "no `{part}` in:\n{text}");
    }
    let blind = Findings::new(false);
    assert!(!advice(&lan(), &blind).contains("relay agents"));
}

fn told(said: &[Overheard]) -> String {
    advice(&lan(), &found(said))
}

fn found(said: &[Overheard]) -> Findings {
    let mut findings = Findings::new(true);
    for overheard in said {
        findings.lan.heard(overheard, UnixTime(0));
    }
    findings
}

fn lan() -> LanInterface {
    LanInterface { name: "eth0".to_owned(), index: 2, lan: ids::Lan::new(OWN, 24), mtu: 1500, mac: None }
}

fn terms(dns: &str) -> LeaseTerms {
    LeaseTerms { lease_seconds: Some(3600), dns: vec![dns.parse().unwrap()], ..LeaseTerms::default() }
}

fn said(server: Ipv4Addr, tftp: &[(u8, &str)]) -> Overheard {
    Overheard {
        server,
        chaddr: MacAddr::new([2, 0, 0, 0, 0, 1]),
        nak: false,
        readable: true,
        pointers: tftp.iter().flat_map(|(option, text)| TftpPointer::of_text(*option, text)).collect(),
        tftp: tftp.iter().map(|(_, text)| (*text).to_owned()).collect(),
        address: Some(Ipv4Addr::new(192, 168, 1, 77)),
        terms: Some(terms("9.9.9.9")),
        asked: true,
        after: Some(Duration::from_millis(2)),
        informed: false,
        relayed: true,
    }
}
