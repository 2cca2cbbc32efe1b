//! A server that nobody hears, and whose offers clients take: a router that serves known devices alone, in frames of their
//! own, says nothing to us (RFC 2131 §4.3.2).

use super::*;
use crate::lan::SERVER_GONE;
use crate::proof::device_asked_for;

const ELSEWHERE: Ipv4Addr = Ipv4Addr::new(1, 1, 1, 1);
const RANGE: (Ipv4Addr, Ipv4Addr) = (Ipv4Addr::new(192, 168, 1, 100), Ipv4Addr::new(192, 168, 1, 149));

#[test]
fn a_server_whose_offers_clients_take_keeps_us_from_leasing_until_it_is_quiet() {
    for (mode, label) in [(DhcpMode::Auto, "all (auto)"), (DhcpMode::All, "all"), (DhcpMode::PhonesOnly, "phones-only")]
    {
        for server in [ROUTER, ELSEWHERE] {
            let mut site = wanting(mode);
            site.take_from(PHONE, server);
            site.pass(ASK_WAIT);
            site.pass(ALONE_AFTER);
            site.prove(|_| None);
            assert!(site.server.label().starts_with("inform"), "{mode:?}: {}", site.server.label());
            let said = site.alerts("dhcp-mode");
            assert!(said.contains(&format!("take addresses from the DHCP server {server}")), "{mode:?}: {said}");
            assert!(site.receive(discover(PHONE)).others.is_empty(), "{mode:?}");
            site.pass(SERVER_GONE);
            site.pass(SWEEP_EVERY);
            site.prove(|_| None);
            assert_eq!((site.server.label(), site.alerts("dhcp-mode")), (label, String::new()), "{mode:?}");
        }
    }
}

#[test]
fn such_a_server_is_asked_about_and_is_known_when_it_answers() {
    let mut site = wanting(DhcpMode::Auto);
    site.pass(ASK_WAIT);
    site.server.asked(true, site.now);
    assert!(!site.server.is_unsure());
    site.pass(Duration::from_secs(20));
    site.take_from(PHONE, ROUTER);
    assert!(site.server.is_unsure());
    site.hear_router();
    assert_eq!((site.server.label(), site.server.lan.unknown_server()), ("augment (auto)", None));
    site.take_from(PHONE, ROUTER);
    assert_eq!(site.server.lan.unknown_server(), None);
}

#[test]
fn who_holds_our_lease_keeps_it_and_the_other_server_is_an_alert_until_it_is_quiet() {
    let mut site = Site::ready();
    let address = site.offer(PHONE);
    site.take(PHONE, address);
    site.take_from(OTHER, ROUTER);
    assert_eq!(site.server.label(), "all");
    assert!(site.alerts("dhcp-second-server").contains("192.168.1.1"), "{}", site.alerts("dhcp-second-server"));
    assert_eq!(site.take(PHONE, address).others.len(), 1, "one forged request ends no lease");
    site.pass(SERVER_GONE);
    site.pass(SWEEP_EVERY);
    assert_eq!(site.alerts("dhcp-second-server"), "");
}

#[test]
fn a_request_that_tells_nothing_of_this_lan_counts_for_nothing_and_many_fill_no_memory() {
    let mut site = wanting(DhcpMode::All);
    for change in [
        |message: &mut Message| _ = message.set_giaddr(Ipv4Addr::new(192, 168, 1, 9)),
        |message: &mut Message| _ = message.set_ciaddr(Ipv4Addr::new(192, 168, 1, 77)),
        |message: &mut Message| _ = message.set_chaddr(&device_asked_for(OWN).octets()),
        |message: &mut Message| _ = message.opts_mut().insert(DhcpOption::ServerIdentifier(SERVER)),
        |message: &mut Message| _ = message.opts_mut().insert(DhcpOption::ServerIdentifier(Ipv4Addr::BROADCAST)),
    ] {
        let mut message = choosing(PHONE, ROUTER);
        change(&mut message);
        site.receive(message);
        assert_eq!(site.server.lan.unknown_server(), None);
    }
    for number in 0..1000_u16 {
        let [high, low] = number.to_be_bytes();
        site.take_from(PHONE, Ipv4Addr::new(10, 9, high, low));
    }
    assert!(site.server.lan.unknown_server().is_some());
    site.pass(SERVER_GONE);
    site.pass(SWEEP_EVERY);
    assert_eq!(site.server.lan.unknown_server(), None);
}

fn wanting(mode: DhcpMode) -> Site {
    Site::wanting(DhcpSettings { mode, range: Some(RANGE), ..DhcpSettings::default() })
}

fn choosing(mac: MacAddr, server: Ipv4Addr) -> Message {
    let mut message = discover(mac);
    message.opts_mut().insert(DhcpOption::MessageType(MessageType::Request));
    message.opts_mut().insert(DhcpOption::ServerIdentifier(server));
    message.opts_mut().insert(DhcpOption::RequestedIpAddress(Ipv4Addr::new(192, 168, 1, 50)));
    message
}

impl Site {
    fn take_from(&mut self, mac: MacAddr, server: Ipv4Addr) {
        self.receive(choosing(mac, server));
    }
}
