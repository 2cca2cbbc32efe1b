//! Servers that point phones to a name, which only the resolver can tell from this machine.

use super::*;
use crate::heard::TftpPointer;

const NAME: &str = "tftp.example.lan";
const ELSEWHERE: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 9);

#[test]
fn what_a_name_means_decides_on_the_mode_and_the_alerts() {
    for (addresses, label, alert) in [
        (&[][..], "inform (auto: the router points phones to a name)", ""),
        (&[SERVER], "inform (auto: the router points here)", ""),
        (&[ELSEWHERE, SERVER], "inform (auto: the router points here)", ""),
        (&[ELSEWHERE], "inform (auto)", "to tftp.example.lan (10.0.0.9), which is not this machine"),
    ] {
        let mut site = Site::wanting(DhcpSettings { mode: DhcpMode::Auto, ..DhcpSettings::default() });
        assert_eq!(site.server.name_to_resolve(site.now), None);
        site.server.overheard(&names(66), site.now);
        assert_eq!(site.server.label(), "inform (auto: the router points phones to a name)");
        assert_eq!(site.server.name_to_resolve(site.now).as_deref(), Some(NAME));
        site.server.resolved(NAME, addresses.to_vec(), site.now);
        assert_eq!((site.server.label(), site.server.name_to_resolve(site.now)), (label, None), "{addresses:?}");
        let said = site.alerts("dhcp-mode");
        assert!(said.is_empty() == alert.is_empty() && said.contains(alert), "{said}");
    }
}

#[test]
fn a_vendors_name_is_held_against_the_router_until_it_is_known_to_mean_us() {
    let mut site = Site::wanting(DhcpSettings { mode: DhcpMode::Augment, ..DhcpSettings::default() });
    site.server.overheard(&names(160), site.now);
    assert!(site.alerts("dhcp-points-elsewhere").contains("tftp.example.lan, which may or may not be this machine"));
    site.server.resolved(NAME, vec![SERVER], site.now);
    assert_eq!(site.alerts("dhcp-points-elsewhere"), "");
    assert_eq!(site.server.orders().own_names, [NAME], "and phones that ask for the option are completed");
    // Another machine has the name now. What the router says to one phone is judged alike.
    site.server.resolved(NAME, vec![ELSEWHERE], site.now);
    assert!(site.alerts("dhcp-points-elsewhere").contains("tftp.example.lan (10.0.0.9)"));
    assert!(site.server.orders().own_names.is_empty());
    let pointers = TftpPointer::of_text(66, NAME);
    site.event(Event::Points { phone: PHONE, server: ROUTER, tftp: vec![NAME.to_owned()], pointers });
    let said = site.alerts("dhcp-points-elsewhere");
    assert!(said.contains(&format!("192.168.1.1 points {PHONE} to tftp.example.lan (10.0.0.9)")), "{said}");
}

#[test]
fn a_name_that_nobody_hands_out_any_more_is_looked_up_no_more() {
    let mut site = Site::wanting(DhcpSettings { mode: DhcpMode::Auto, ..DhcpSettings::default() });
    site.server.overheard(&names(66), site.now);
    site.server.resolved(NAME, vec![], site.now);
    site.pass(Duration::from_secs(61));
    assert_eq!(site.server.name_to_resolve(site.now).as_deref(), Some(NAME), "it was not found");
    site.server.overheard(&spoke(ROUTER, &[]), site.now);
    assert_eq!((site.server.name_to_resolve(site.now), site.server.label()), (None, "augment (auto)"));
}

fn names(option: u8) -> Overheard {
    let pointers = TftpPointer::of_text(option, &format!("tftp://{NAME}/"));
    Overheard { pointers, tftp: vec![NAME.to_owned()], ..spoke(ROUTER, &[]) }
}
