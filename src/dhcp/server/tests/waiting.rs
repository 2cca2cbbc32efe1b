//! What another server keeps from being in force, for how long, and what people hear of it.

use super::*;

#[test]
fn all_names_the_server_that_it_waits_for_and_leases_ten_minutes_after_its_last_answer() {
    let mut site = Site::new();
    site.hear_router();
    site.devices.write().unwrap().neighbour(ROUTER, OTHER);
    site.pass(ASK_WAIT);
    site.pass(SWEEP_EVERY);
    let said = site.alerts("dhcp-mode");
    let who = format!("{ROUTER} ({OTHER}) answers DHCP on this LAN since 1970-01-02 00:00 UTC;");
    assert!(said.contains(&who) && said.contains("10 minutes after its last answer"), "{said}");
    assert!(site.server.awaits_correction(), "so it is asked each minute");
    // It is there as long as it answers now and then.
    for minute in 0..60 {
        site.ask(true);
        if minute % 9 == 0 {
            site.hear_router();
        }
        assert_eq!(site.server.label(), "inform (all asked for)", "{minute}");
    }
    // Our own cable was out: that is no silence.
    site.hear_router();
    (0..30).for_each(|_| site.ask(false));
    assert_eq!(site.server.label(), "inform (all asked for)");
    let mut minutes = 0;
    while site.server.label() != "all" {
        site.ask(true);
        minutes += 1;
    }
    assert_eq!((minutes, site.alerts("dhcp-mode")), (10, String::new()));
    // Who comes back is named as well.
    let address = site.offer(PHONE);
    site.take(PHONE, address);
    site.hear_router();
    let said = site.alerts("dhcp-second-server");
    assert!(said.contains("192.168.1.1 (") && site.server.label() == "all", "{said}");
}

#[test]
fn a_server_that_augment_completes_is_not_given_up_after_ten_minutes() {
    let mut site = Site::wanting(DhcpSettings { mode: DhcpMode::Augment, ..DhcpSettings::default() });
    site.pass(ASK_WAIT);
    site.hear_router();
    (0..20).for_each(|_| site.ask(true));
    assert!(site.server.lan.has_other_server());
}

#[test]
fn phones_only_is_proven_anew_when_the_router_that_objected_is_gone() {
    let mut site = Site::wanting(phones_only());
    site.pass(ASK_WAIT);
    site.hear_router();
    site.prove(|question| match question {
        Question::Discover(_) => Some((MessageType::Offer, Ipv4Addr::new(192, 168, 1, 50))),
        Question::Select(_, SERVER) => Some((MessageType::Nak, Ipv4Addr::UNSPECIFIED)),
        _ => None,
    });
    assert_eq!(site.server.label(), "inform (phones-only refused)");
    site.pass(crate::lan::SERVER_GONE);
    site.pass(SWEEP_EVERY);
    site.prove(|_| None);
    assert_eq!((site.server.label(), site.alerts("dhcp-mode")), ("phones-only", String::new()));
}

impl Site {
    /// A minute passes, and other servers are asked.
    fn ask(&mut self, carries: bool) {
        self.pass(Duration::from_secs(60));
        self.server.asked(carries, self.now);
    }
}
