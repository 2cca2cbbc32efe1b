//! What was measured is judged: words for people, for as long as they are true.

use super::*;
use crate::augment::NotCompleted;
use crate::heard::LeaseTerms;
use crate::lan::Relays;

const SECOND: Ipv4Addr = Ipv4Addr::new(192, 168, 1, 254);
const RANGE: (Ipv4Addr, Ipv4Addr) = (Ipv4Addr::new(192, 168, 1, 100), Ipv4Addr::new(192, 168, 1, 149));

#[test]
fn auto_takes_no_lan_where_somebody_answers_who_cannot_be_read() {
    for relayed in [false, true] {
        let mut site = auto();
        site.hear_unreadable(relayed);
        site.pass(ASK_WAIT);
        site.pass(ALONE_AFTER);
        assert_eq!(site.server.label(), "inform (auto)");
        assert!(site.receive(discover(PHONE)).others.is_empty());
        let said = site.alerts("dhcp-unreadable-server");
        assert!(said.contains("a DHCP server at 192.168.1.1 answers in a way that cannot be read"), "{said}");
        assert!(site.alerts("dhcp-mode").contains("192.168.1.1"), "{}", site.alerts("dhcp-mode"));
        // It is gone: it was not heard for as long as every other server.
        site.pass(crate::lan::SERVER_GONE);
        site.pass(SWEEP_EVERY);
        assert_eq!((site.server.label(), site.alerts("dhcp-unreadable-server")), ("all (auto)", String::new()));
    }
}

#[test]
fn who_answers_others_and_not_us_keeps_auto_and_all_from_leasing() {
    for mode in [DhcpMode::Auto, DhcpMode::All] {
        let mut site = Site::wanting(DhcpSettings { mode, range: Some(RANGE), ..DhcpSettings::default() });
        site.server.overheard(&Overheard { asked: false, ..spoke(ROUTER, &[]) }, site.now);
        site.pass(ASK_WAIT);
        site.pass(ALONE_AFTER);
        assert!(site.server.label().starts_with("inform"), "{mode:?}: {}", site.server.label());
        assert!(site.alerts("dhcp-mode").contains("192.168.1.1 speaks as a DHCP server"));
    }
}

#[test]
fn beside_somebody_who_cannot_be_read_phones_only_is_not_proven_and_augment_says_why() {
    let mut site = Site::wanting(phones_only());
    site.hear_unreadable(false);
    site.pass(ASK_WAIT);
    site.prove(|_| None);
    assert_eq!(site.server.label(), "inform (phones-only refused)");
    let mut site = Site::wanting(DhcpSettings { mode: DhcpMode::Augment, ..DhcpSettings::default() });
    site.hear_unreadable(false);
    site.pass(ASK_WAIT);
    assert!(site.alerts("dhcp-mode").contains("cannot be completed"), "{}", site.alerts("dhcp-mode"));
}

#[test]
fn phones_only_is_proven_anew_for_another_range_and_beside_another_router_at_the_same_address() {
    let mut site = Site::wanting(phones_only());
    site.pass(ASK_WAIT);
    site.prove(|_| None);
    assert_eq!(site.server.label(), "phones-only");
    let range = Some((Ipv4Addr::new(192, 168, 1, 60), Ipv4Addr::new(192, 168, 1, 79)));
    site.set(DhcpSettings { range, ..phones_only() });
    assert_eq!(site.server.label(), "inform (phones-only: finding out whether it is safe)");
    site.pass(CHECK_WAIT);
    site.claim(OTHER, Ipv4Addr::new(192, 168, 1, 70));
    site.prove(|_| None);
    assert_eq!(site.server.label(), "inform (phones-only refused)", "an address of the new range is in use");
    site.set(phones_only());
    site.prove(|_| None);
    assert_eq!(site.server.label(), "phones-only");

    let silent = |question| match question {
        Question::Discover(_) => Some((MessageType::Offer, Ipv4Addr::new(192, 168, 1, 50))),
        Question::Select(_, ROUTER) => Some((MessageType::Ack, Ipv4Addr::new(192, 168, 1, 50))),
        _ => None,
    };
    let router = |last| LeaseTerms { routers: vec![Ipv4Addr::new(192, 168, 1, last)], ..LeaseTerms::default() };
    site.server.overheard(&Overheard { terms: Some(router(1)), ..spoke(ROUTER, &[]) }, site.now);
    site.prove(silent);
    assert_eq!(site.server.label(), "phones-only");
    site.server.overheard(&Overheard { terms: Some(router(254)), ..spoke(ROUTER, &[]) }, site.now);
    assert_eq!(site.server.label(), "inform (phones-only: finding out whether it is safe)");
    site.prove(|question| match question {
        Question::Select(_, SERVER) => Some((MessageType::Nak, Ipv4Addr::UNSPECIFIED)),
        other => silent(other),
    });
    assert_eq!(site.server.label(), "inform (phones-only refused)");
    assert!(site.alerts("dhcp-mode").contains("sends a NAK"));
}

#[test]
fn a_router_that_answers_no_relay_agent_is_named_and_no_longer_when_it_does() {
    for mode in [DhcpMode::Auto, DhcpMode::Augment] {
        let mut site = Site::wanting(DhcpSettings { mode, ..DhcpSettings::default() });
        site.hear_offer(ROUTER, &[]);
        let mut asked = 0;
        for _ in 0..20 {
            asked += site.pass(Duration::from_millis(500)).relay_questions.len();
        }
        assert_eq!(asked, 3, "{mode:?}");
        let said = site.alerts("dhcp-relay-refused");
        assert!(said.contains("192.168.1.1 does not answer relay agents") && said.contains("enter 66/150"), "{said}");
        assert_eq!(site.server.orders().scope.mode, ActiveMode::Augment, "as soon as it answers, phones are helped");
        assert!(site.server.label() != "augment (auto)", "{}", site.server.label());

        // Somebody changes that in the router.
        site.pass(Duration::from_secs(600));
        site.hear_offer(ROUTER, &[]);
        assert_eq!(site.pass(Duration::ZERO).relay_questions, [ROUTER]);
        site.server.asked_as_relay(ROUTER, 7);
        let mut out = Outbox::default();
        site.server.receive(&relayed_offer(7), ROUTER, site.now, &mut out);
        assert_eq!(site.alerts("dhcp-relay-refused"), "");
        assert!(site.server.label().starts_with("augment") && !site.server.label().contains("relay"));
    }
}

#[test]
fn a_router_that_answers_relay_agents_is_asked_once_and_a_strangers_answer_does_not_count() {
    let mut site = Site::wanting(DhcpSettings { mode: DhcpMode::Augment, ..DhcpSettings::default() });
    site.hear_offer(ROUTER, &[]);
    assert_eq!(site.pass(Duration::ZERO).relay_questions, [ROUTER]);
    site.server.asked_as_relay(ROUTER, 7);
    for (xid, relays) in [(8, Relays::Unknown), (7, Relays::Answered)] {
        site.server.receive(&relayed_offer(xid), ROUTER, site.now, &mut Outbox::default());
        assert_eq!(site.server.lan.known().next().map(|server| server.relays), Some(relays));
    }
    for _ in 0..20 {
        assert!(site.pass(Duration::from_millis(500)).relay_questions.is_empty());
    }
    assert_eq!(site.alerts("dhcp-relay-refused"), "");
}

#[test]
fn a_pair_that_agrees_is_completed_and_one_that_does_not_is_named_with_what_differs() {
    for (second, label) in [("9.9.9.9", "augment (auto)"), ("8.8.8.8", "inform (auto)")] {
        let mut site = Site::wanting(DhcpSettings { mode: DhcpMode::Auto, ..DhcpSettings::default() });
        for (server, dns) in [(ROUTER, "9.9.9.9"), (SECOND, second)] {
            let terms =
                LeaseTerms { dns: vec![dns.parse().unwrap()], lease_seconds: Some(3600), ..LeaseTerms::default() };
            site.server.overheard(&Overheard { terms: Some(terms), ..spoke(server, &[]) }, site.now);
        }
        site.pass(ASK_WAIT);
        assert_eq!(site.server.label(), label);
        let said = site.alerts("dhcp-mode");
        if second == "9.9.9.9" {
            assert_eq!(said, "");
        } else {
            assert!(said.contains("192.168.1.1 and 192.168.1.254 differ: DNS 9.9.9.9 or 8.8.8.8"), "{said}");
        }
    }
}

#[test]
fn a_partner_that_shows_later_is_no_news_and_a_server_with_other_terms_is() {
    for (dns, news) in [("9.9.9.9", 0), ("8.8.8.8", 1)] {
        let mut site = Site::wanting(DhcpSettings { mode: DhcpMode::Augment, ..DhcpSettings::default() });
        let offer = |server, dns: &str, last| {
            let terms = LeaseTerms { dns: vec![dns.parse().unwrap()], ..LeaseTerms::default() };
            let address = Some(Ipv4Addr::new(192, 168, 1, last));
            Overheard { terms: Some(terms), address, ..spoke(server, &[]) }
        };
        site.server.overheard(&offer(ROUTER, "9.9.9.9", 50), site.now);
        site.pass(ASK_WAIT);
        site.server.overheard(&offer(SECOND, dns, 51), site.now);
        assert_eq!(site.server.stats.counter("alert.dhcp-new-server"), news, "{dns}");
    }
}

#[test]
fn an_option_66_that_is_a_url_of_ours_or_a_name_is_not_held_against_the_router() {
    for (text, label) in [
        ("tftp://192.168.1.2", "inform (auto: the router points here)"),
        ("tftp://192.168.1.2:69/x/", "inform (auto: the router points here)"),
        ("192.168.1.2,10.0.0.9", "inform (auto: the router points here)"),
        ("tftp.example.lan", "inform (auto: the router points phones to a name)"),
    ] {
        let mut site = Site::wanting(DhcpSettings { mode: DhcpMode::Auto, ..DhcpSettings::default() });
        site.server.overheard(&spoke(ROUTER, &[text]), site.now);
        site.event(points(text));
        assert_eq!((site.server.label(), site.alerts("dhcp-mode")), (label, String::new()), "{text}");
        assert_eq!(site.alerts("dhcp-points-elsewhere"), "", "{text}");
    }
    let mut site = Site::wanting(DhcpSettings { mode: DhcpMode::Auto, ..DhcpSettings::default() });
    site.server.overheard(&spoke(ROUTER, &["10.0.0.9,192.168.1.2"]), site.now);
    let said = site.alerts("dhcp-mode");
    assert!(said.contains("10.0.0.9") && said.contains("then here (192.168.1.2)"), "{said}");
}

#[test]
fn a_vendors_option_that_leads_elsewhere_is_reported_until_it_is_corrected() {
    let mut site = Site::wanting(DhcpSettings { mode: DhcpMode::Auto, ..DhcpSettings::default() });
    let sends = |server| {
        let pointers = crate::heard::TftpPointer::of_text(160, server);
        Overheard { pointers, tftp: vec![server.to_owned()], ..spoke(ROUTER, &[]) }
    };
    site.server.overheard(&sends("http://10.0.0.9/"), site.now);
    assert_eq!(site.server.label(), "augment (auto)", "phones that read 66 or 150 are helped");
    let said = site.alerts("dhcp-points-elsewhere");
    assert!(said.contains("option 160 sends Polycom, Mitel and Aastra phones to 10.0.0.9"), "{said}");
    site.server.overheard(&sends("http://192.168.1.2/"), site.now);
    assert_eq!(site.alerts("dhcp-points-elsewhere"), "");
}

#[test]
fn what_the_admin_takes_out_of_the_router_is_gone_with_its_next_answer_and_asked_for_until_then() {
    let vendor = crate::heard::TftpPointer::of_text(43, "http://10.0.0.9/");
    for (pointed, code) in [
        (spoke(ROUTER, &["10.0.0.9"]), "dhcp-mode"),
        (Overheard { pointers: vendor, ..spoke(ROUTER, &[]) }, "dhcp-points-elsewhere"),
    ] {
        let mut site = Site::wanting(DhcpSettings { mode: DhcpMode::Auto, ..DhcpSettings::default() });
        site.server.overheard(&pointed, site.now);
        site.pass(ASK_WAIT);
        assert!(site.alerts(code).contains("10.0.0.9") && site.server.awaits_correction(), "{code}");
        site.server.overheard(&spoke(ROUTER, &[]), site.now);
        assert_eq!((site.server.label(), site.alerts(code)), ("augment (auto)", String::new()), "{code}");
        assert!(!site.server.awaits_correction(), "{code}");
    }
    let mut site = Site::wanting(DhcpSettings { mode: DhcpMode::Augment, ..DhcpSettings::default() });
    site.server.overheard(&spoke(ROUTER, &["10.0.0.9"]), site.now);
    site.event(points("10.0.0.9"));
    assert!(site.alerts("dhcp-points-elsewhere").contains(&PHONE.to_string()));
    site.server.overheard(&spoke(ROUTER, &[]), site.now);
    assert_eq!(site.alerts("dhcp-points-elsewhere"), "", "nor is it held against the router what one phone was told");
}

#[test]
fn phones_of_another_network_are_named_for_as_long_as_they_ask_and_invented_networks_fill_no_memory() {
    for mode in [DhcpMode::Shadow, DhcpMode::Inform, DhcpMode::Augment, DhcpMode::All] {
        let mut site = Site::wanting(DhcpSettings { mode, range: Some(RANGE), ..DhcpSettings::default() });
        for number in 0..100_u8 {
            site.relay(MacAddr::new([2, 0, 0, 0, 0, number]), Ipv4Addr::new(172, 16, number, 1));
        }
        site.relay(PHONE, Ipv4Addr::new(10, 20, 0, 1));
        let said = site.alerts("dhcp-other-network");
        assert!(said.contains("phones near the relay agent 10.20.0.1 ask"), "{mode:?}: {said}");
        assert!(said.contains("only 192.168.1.0/24 is served"), "{said}");
        assert!(said.lines().count() <= 4 && said.contains("devices near the relay agent 172.16."), "{said}");
        assert!(!said.contains("10.20.0.0"), "a relay agent does not say how large its network is: {said}");
        site.pass(Duration::from_secs(3600));
        site.pass(SWEEP_EVERY);
        assert_eq!(site.alerts("dhcp-other-network"), "");
    }
}

#[test]
fn phones_behind_a_relay_agent_of_this_lan_are_named_where_they_are_not_helped() {
    for (mode, named) in [(DhcpMode::Augment, true), (DhcpMode::All, false), (DhcpMode::Inform, false)] {
        let mut site = Site::wanting(DhcpSettings { mode, range: Some(RANGE), ..DhcpSettings::default() });
        site.pass(ASK_WAIT);
        let relay = Ipv4Addr::new(192, 168, 1, 9);
        for (mac, relay) in [(PHONE, relay), (OTHER, Ipv4Addr::new(192, 168, 1, 8)), (PHONE, Ipv4Addr::BROADCAST)] {
            site.relay(mac, relay);
        }
        let said = site.alerts("dhcp-other-network");
        assert_eq!(said.contains("phones of this LAN ask for addresses through the relay agent 192.168.1.9"), named);
        assert_eq!(said.lines().count(), usize::from(named), "{mode:?}: {said}");
        site.pass(Duration::from_secs(3600));
        site.pass(SWEEP_EVERY);
        assert_eq!(site.alerts("dhcp-other-network"), "");
    }
}

// RFC 2131 §4.1: an answer goes to the relay agent, and no host has such an address.
#[test]
fn a_relay_agent_with_an_address_of_no_host_gets_no_offer() {
    for (last, offers) in [(9, 1), (255, 0), (0, 0)] {
        let mut site = Site::ready();
        site.look_ahead();
        let mut message = discover(PHONE);
        message.set_giaddr(Ipv4Addr::new(192, 168, 1, last));
        assert_eq!(site.receive(message).others.len(), offers, "{last}");
    }
}

#[test]
fn two_phones_with_one_identifier_keep_an_address_each_over_renewals_and_are_named() {
    let mut site = Site::ready();
    let [first, second] = [PHONE, OTHER].map(|mac| site.boot(mac, b"clone"));
    assert_ne!(first, second);
    for _ in 0..4 {
        site.pass(Duration::from_secs(21_600));
        for (mac, address) in [(PHONE, first), (OTHER, second)] {
            assert_eq!(site.renew(mac, b"clone", address), MessageType::Ack, "{mac}");
        }
        assert_eq!(
            [PHONE, OTHER].map(|mac| site.boot(mac, b"clone")),
            [first, second],
            "nor does a start move anybody"
        );
    }
    for counter in ["dhcp.nak", "alert.dhcp-address-in-use"] {
        assert_eq!(site.server.stats.counter(counter), 0, "{counter}");
    }
    let said = site.alerts("dhcp-same-client-id");
    assert!(said.contains(&PHONE.to_string()) && said.contains(&OTHER.to_string()), "{said}");
    // One of them gets an identifier of its own, and its old lease ends.
    site.pass(Duration::from_secs(40_000));
    site.renew(PHONE, b"clone", first);
    site.pass(Duration::from_secs(20_000));
    site.pass(SWEEP_EVERY);
    assert_eq!(site.alerts("dhcp-same-client-id"), "");
}

#[test]
fn two_phones_with_one_identifier_that_start_at_once_are_offered_two_addresses() {
    let mut site = Site::ready();
    site.look_ahead();
    let offers = [PHONE, OTHER].map(|mac| address_in(&site.receive(identified(mac, b"clone")).others[0].bytes));
    assert_ne!(offers[0], offers[1]);
    for (mac, address) in [PHONE, OTHER].into_iter().zip(offers) {
        let out = site.receive(selecting(mac, b"clone", address));
        assert!(out.acks.iter().any(|ack| address_in(&ack.bytes) == address), "{mac}");
    }
    assert_eq!(site.server.stats.counter("dhcp.nak"), 0);
}

// RFC 4361 §6.1: the identifier is the client, if nobody else answers for its address.
#[test]
fn a_device_that_comes_with_other_hardware_keeps_its_address_if_the_old_one_is_silent() {
    let mut site = Site::ready();
    let before = site.boot(PHONE, b"duid");
    site.pass(Duration::from_secs(600));
    assert_eq!(site.boot_beside(OTHER, b"duid", None), before);
    assert_eq!(site.alerts("dhcp-same-client-id"), "");
}

#[test]
fn nobody_gives_back_or_takes_a_lease_by_anothers_identifier() {
    let mut site = Site::ready();
    let address = site.boot(PHONE, b"clone");
    site.pass(Duration::from_secs(600));
    for kind in [MessageType::Release, MessageType::Decline] {
        let mut message = selecting(OTHER, b"clone", address);
        message.opts_mut().insert(DhcpOption::MessageType(kind));
        message.set_ciaddr(address);
        site.receive(message);
        assert_eq!(site.server.leases.holding(address, site.now.wall).map(|lease| lease.mac), Some(PHONE), "{kind:?}");
    }
    // It starts with that address, and the phone is there.
    let out = site.receive(selecting(OTHER, b"clone", address));
    assert!(out.checks.contains(&address), "the phone is asked first");
    site.claim(PHONE, address);
    let replies = site.pass(CHECK_WAIT);
    assert!(replies.acks.is_empty(), "{replies:?}");
    assert_eq!(site.renew(PHONE, b"clone", address), MessageType::Ack);
}

#[test]
fn a_phone_that_declines_everything_costs_others_nothing_and_is_named() {
    let range = Some((Ipv4Addr::new(192, 168, 1, 100), Ipv4Addr::new(192, 168, 1, 105)));
    let mut site = Site::wanting(DhcpSettings { mode: DhcpMode::All, range, ..DhcpSettings::default() });
    site.pass(ASK_WAIT);
    let kept = site.boot(OTHER, b"other");
    for _ in 0..40 {
        let address = site.boot(PHONE, b"phone");
        let mut message = selecting(PHONE, b"phone", address);
        message.opts_mut().insert(DhcpOption::MessageType(MessageType::Decline));
        site.receive(message);
    }
    let said = site.alerts("dhcp-declining");
    assert!(said.contains(&PHONE.to_string()), "{said}");
    assert!(site.server.stats.counter("alert.dhcp-address-in-use") <= 2);
    assert_eq!(site.server.stats.counter("alert.dhcp-range-full"), 0);
    assert_eq!(site.renew(OTHER, b"other", kept), MessageType::Ack);
    for last in 10..12 {
        assert!(!site.boot(MacAddr::new([0, 4, 0xf2, 0, 0, last]), b"").is_unspecified());
    }
    site.pass(QUARANTINE);
    site.pass(SWEEP_EVERY);
    assert_eq!(site.alerts("dhcp-declining"), "");
}

#[test]
fn a_range_is_full_until_an_address_is_free() {
    let range = Some((Ipv4Addr::new(192, 168, 1, 100), Ipv4Addr::new(192, 168, 1, 100)));
    let mut site = Site::wanting(DhcpSettings { mode: DhcpMode::All, range, ..DhcpSettings::default() });
    site.pass(ASK_WAIT);
    site.boot(PHONE, b"");
    site.receive(discover(OTHER));
    for _ in 0..3 {
        site.pass(SWEEP_EVERY);
        assert!(site.alerts("dhcp-range-full").contains("all addresses"));
    }
    site.pass(Duration::from_secs(86_400));
    site.pass(SWEEP_EVERY);
    assert_eq!(site.alerts("dhcp-range-full"), "");
}

#[test]
fn phones_that_are_not_helped_are_told_in_words() {
    let mut site = Site::wanting(DhcpSettings { mode: DhcpMode::Augment, ..DhcpSettings::default() });
    site.hear_router();
    site.event(Event::NotCompleted(NotCompleted::NoRoom));
    site.pass(SWEEP_EVERY);
    let said = site.alerts("dhcp-not-completed");
    assert!(said.contains("no room for options 66 and 150"), "{said}");
    site.pass(Duration::from_secs(3600));
    site.pass(SWEEP_EVERY);
    assert_eq!(site.alerts("dhcp-not-completed"), "");
}

fn auto() -> Site {
    Site::wanting(DhcpSettings { mode: DhcpMode::Auto, range: Some(RANGE), ..DhcpSettings::default() })
}

fn identified(mac: MacAddr, client: &[u8]) -> Message {
    let mut message = discover(mac);
    if !client.is_empty() {
        message.opts_mut().insert(DhcpOption::ClientIdentifier([&[0], client].concat()));
    }
    message
}

fn selecting(mac: MacAddr, client: &[u8], address: Ipv4Addr) -> Message {
    let mut message = identified(mac, client);
    message.opts_mut().insert(DhcpOption::MessageType(MessageType::Request));
    message.opts_mut().insert(DhcpOption::ServerIdentifier(SERVER));
    message.opts_mut().insert(DhcpOption::RequestedIpAddress(address));
    message
}

/// The router's offer to us as a relay agent.
fn relayed_offer(xid: u32) -> Vec<u8> {
    let mut bytes = question::emit(Question::Release(Ipv4Addr::new(192, 168, 1, 77), ROUTER), OWN, xid);
    (bytes[0], bytes[242]) = (2, MessageType::Offer.into());
    bytes.copy_within(12..16, 16);
    bytes[12..16].fill(0);
    bytes[24..28].copy_from_slice(&SERVER.octets());
    bytes
}

impl Site {
    /// The texts of the alerts of a code, a line each.
    pub(super) fn alerts(&self, code: &str) -> String {
        let alerts = status::StatusReport::of(&self.server.stats).alerts;
        let texts: Vec<String> =
            alerts.into_iter().filter(|alert| alert.code == code).map(|alert| alert.text).collect();
        texts.join("\n")
    }

    fn set(&mut self, settings: DhcpSettings) {
        self.server.set_scope(DhcpScope::new(Lan::new(SERVER, 24), &settings, [PHONE]), self.now);
    }

    fn hear_offer(&mut self, server: Ipv4Addr, tftp: &[&str]) {
        let address = Some(Ipv4Addr::new(192, 168, 1, 77));
        self.server.overheard(&Overheard { address, ..spoke(server, tftp) }, self.now);
    }

    /// A BOOTREPLY without a message type, at the client port or at the server port.
    fn hear_unreadable(&mut self, at_the_server_port: bool) {
        let mut bytes = relayed_offer(1);
        bytes.truncate(240);
        bytes.resize(300, 0);
        if at_the_server_port {
            self.server.receive(&bytes, ROUTER, self.now, &mut Outbox::default());
        } else {
            self.server.overheard(&Overheard::unreadable(&bytes, ROUTER, |_| false).unwrap(), self.now);
        }
    }

    fn relay(&mut self, mac: MacAddr, relay: Ipv4Addr) {
        let mut message = discover(mac);
        message.set_giaddr(relay);
        self.receive(message);
    }

    /// DISCOVER to ACK. Every device of this site that has a lease answers ARP for it.
    fn boot(&mut self, mac: MacAddr, client: &[u8]) -> Ipv4Addr {
        self.boot_beside(mac, client, Some(()))
    }

    fn boot_beside(&mut self, mac: MacAddr, client: &[u8], others: Option<()>) -> Ipv4Addr {
        let mut out = self.receive(identified(mac, client));
        for _ in 0..8 {
            if let Some(offer) = out.others.first() {
                let address = address_in(&offer.bytes);
                let out = self.receive(selecting(mac, client, address));
                assert!(out.acks.iter().chain(&out.others).any(|reply| address_in(&reply.bytes) == address), "{out:?}");
                return address;
            }
            for address in out.checks.clone() {
                let lease = self.server.leases.holding(address, self.now.wall).filter(|_| others.is_some());
                let by = lease.filter(|lease| lease.state == LeaseState::Bound).map(|lease| lease.mac);
                by.into_iter().for_each(|by| self.claim(by, address));
            }
            out = self.pass(CHECK_WAIT);
        }
        panic!("no offer for {mac}");
    }

    /// The kind of the answer to a renewal.
    fn renew(&mut self, mac: MacAddr, client: &[u8], address: Ipv4Addr) -> MessageType {
        let mut message = identified(mac, client);
        message.opts_mut().insert(DhcpOption::MessageType(MessageType::Request));
        message.set_ciaddr(address);
        let out = self.receive(message);
        let reply = out.acks.iter().chain(&out.others).next().unwrap_or_else(|| panic!("no answer to {mac}"));
        MessageType::from(reply.bytes[242])
    }
}
