//! What the link is asked and says, and phones that wait for it or need not.

use super::*;

#[test]
fn an_offer_waits_for_the_link_and_goes_to_who_asked_last_once() {
    let mut site = Site::ready();
    let first = site.receive(discover(PHONE));
    let again = site.receive(discover(PHONE));
    assert_eq!((site.server.waiting.addresses().len(), again.checks.len()), (1, 0));
    assert!(first.others.is_empty() && again.others.is_empty());
    assert!(site.server.deadline() <= site.now.tick + CHECK_WAIT);
    assert_eq!(site.pass(CHECK_WAIT).others.len(), 1);
    assert!(site.pass(CHECK_WAIT).others.is_empty());
}

#[test]
fn an_address_that_answers_is_not_offered() {
    let mut site = Site::ready();
    site.receive(discover(PHONE));
    let taken = *site.server.waiting.addresses().first().unwrap();
    site.claim(OTHER, taken);
    let offers = site.pass(CHECK_WAIT).others;
    assert_ne!(address_in(&offers.first().unwrap().bytes), taken, "one that was found silent meanwhile");
}

#[test]
fn a_phone_that_was_never_here_gets_its_offer_at_once() {
    let mut site = Site::ready();
    site.pass(CHECK_WAIT);
    site.look_ahead();
    for number in 0..50 {
        let out = site.receive(discover(MacAddr::new([0, 4, 0xf2, 1, 0, number])));
        assert_eq!((out.others.len(), out.checks.len()), (1, 0), "{number}");
    }
}

#[test]
fn three_thousand_phones_that_were_never_here_get_their_offers_at_once_when_all_begins() {
    let range = Some((Ipv4Addr::new(192, 168, 16, 0), Ipv4Addr::new(192, 168, 31, 255)));
    let settings = DhcpSettings { mode: DhcpMode::All, range, ..DhcpSettings::default() };
    let mut site = Site::in_prefix(16, settings, Vec::new());
    let begin = site.now.tick;
    let mut asked = 0;
    while site.server.label() != "all" {
        asked += site.step().checks.len();
    }
    assert_eq!(site.now.tick - begin, ASK_WAIT, "others have the same time to show as ever");
    assert!((3000..=3300).contains(&asked), "{asked}");
    site.pass(CHECK_WAIT);
    for number in 0..3000_u16 {
        let [high, low] = number.to_be_bytes();
        let out = site.receive(discover(MacAddr::new([0, 4, 0xf2, 1, high, low])));
        assert_eq!((out.others.len(), out.checks.len()), (1, 0), "{number}");
    }
}

#[test]
fn addresses_stay_known_are_asked_for_again_in_the_background_and_not_while_another_server_leases() {
    let mut site = Site::ready();
    assert_eq!(site.look_ahead(), 50 - AT_A_TIME);
    let quiet: usize = (0..9).map(|_| site.pass(Duration::from_secs(60)).checks.len()).sum();
    assert_eq!(quiet, 0);
    site.pass(Duration::from_secs(70));
    assert_eq!(site.receive(discover(PHONE)).others.len(), 1, "good while it is asked for again");
    assert!((40..=50).contains(&site.look_ahead()));
    let mut beside = Site::new();
    beside.hear_router();
    beside.pass(ASK_WAIT);
    assert_eq!(beside.look_ahead(), 0);
}

#[test]
fn whoever_shows_up_at_an_address_of_the_range_makes_it_unavailable_at_once() {
    let mut site = Site::ready();
    site.look_ahead();
    let first = address_in(&site.receive(discover(PHONE)).others.first().unwrap().bytes);
    let mut site = Site::ready();
    site.look_ahead();
    site.claim(OTHER, first);
    assert_ne!(address_in(&site.receive(discover(PHONE)).others.first().unwrap().bytes), first);
    // The link was down, and leads elsewhere now.
    site.server.link_was_down(site.now);
    let out = site.receive(discover(MacAddr::new([0, 4, 0xf2, 1, 0, 1])));
    assert_eq!((out.others.len(), out.checks.len()), (0, 1));
    assert_eq!(site.look_ahead(), 48, "all but what is on offer and what was asked for");
}

// RFC 2131 §4.3.3: people hear of it, and the address is nobody's for a while, then asked for before anybody gets it.
#[test]
fn an_address_that_a_phone_declines_is_reported_set_aside_and_asked_for_again() {
    let mut site = Site::ready();
    site.look_ahead();
    let address = address_in(&site.receive(discover(PHONE)).others.first().unwrap().bytes);
    site.take(PHONE, address);
    let mut decline = discover(PHONE);
    decline.opts_mut().insert(DhcpOption::MessageType(MessageType::Decline));
    decline.opts_mut().insert(DhcpOption::ServerIdentifier(SERVER));
    decline.opts_mut().insert(DhcpOption::RequestedIpAddress(address));
    let out = site.receive(decline);
    assert_eq!((out.acks.len() + out.others.len(), out.keep.len()), (0, 1), "no answer, but remembered");
    assert_eq!(site.server.stats.counter("alert.dhcp-address-in-use"), 1);
    let next = address_in(&site.receive(discover(PHONE)).others.first().unwrap().bytes);
    assert_ne!(next, address);
    assert_eq!(site.look_ahead(), 0, "nobody may have it, so nobody asks");
    site.pass(QUARANTINE);
    let asked = (0..20).flat_map(|_| site.pass(STEP).checks).collect::<Vec<_>>();
    assert!(asked.contains(&address), "{asked:?}");
}

#[test]
fn where_arp_cannot_be_heard_the_kernels_table_says_who_has_an_address() {
    for (arp, at_once) in [(false, 1), (true, 0)] {
        let mut site = Site::ready();
        site.server.link_access.arp = arp;
        site.receive(discover(PHONE));
        let taken = *site.server.waiting.addresses().first().unwrap();
        site.devices.write().unwrap().neighbour(taken, OTHER);
        site.pass(CHECK_WAIT);
        assert_eq!(site.server.stats.counter("alert.dhcp-address-in-use"), at_once);
    }
}

#[test]
fn an_address_found_in_use_ahead_is_offered_to_nobody() {
    let mut site = Site::new();
    let arp_scan = site.pass(ASK_WAIT).checks;
    assert_eq!(arp_scan.len(), AT_A_TIME);
    for (number, address) in arp_scan.iter().enumerate().skip(1) {
        let last = u8::try_from(number).unwrap();
        site.claim(MacAddr::new([2, 9, 9, 9, 9, last]), *address);
    }
    site.pass(CHECK_WAIT);
    let offer = site.receive(discover(PHONE)).others;
    assert_eq!(address_in(&offer.first().unwrap().bytes), *arp_scan.first().unwrap());
}

#[test]
fn a_phone_whose_frames_come_from_another_device_is_told_until_it_speaks_for_itself() {
    let (mut site, bridge) = (Site::ready(), MacAddr::new([2, 0, 0, 0, 0, 9]));
    site.event(Event::SentBy { phone: PHONE, sender: bridge });
    // Who is not in the inventory may sit wherever he likes; and our own frames are ours.
    site.event(Event::SentBy { phone: OTHER, sender: MacAddr::new([2, 0, 0, 0, 0, 8]) });
    site.server.sent_by(PHONE, OWN, site.now);
    site.pass(SWEEP_EVERY);
    let said = site.alerts("behind-one-device");
    assert!(said.starts_with("1 phone seems to sit behind one device (02:00:00:00:00:09)"), "{said}");
    site.server.sent_by(PHONE, PHONE, site.now);
    site.pass(SWEEP_EVERY);
    assert_eq!(site.alerts("behind-one-device"), "");
}

#[test]
fn a_server_that_names_an_address_of_another_network_is_asked_where_it_answers_from() {
    let named = Ipv4Addr::new(172, 31, 0, 1);
    let [here, forged] = [1, 66].map(|last| Ipv4Addr::new(192, 168, 1, last));
    let (router, rogue) = (MacAddr::new([2, 0, 0, 0, 0, 1]), MacAddr::new([2, 0, 0, 0, 0, 66]));
    let mut site = Site::wanting(DhcpSettings { mode: DhcpMode::Augment, ..DhcpSettings::default() });
    site.server.overheard(&spoke(named, &[]), site.now);
    assert_eq!(site.server.orders().path_to(named), ServerPath::Address(named), "nothing else is known of it");
    site.server.answered_from(named, (here, router), site.now);
    let reached = |site: &Site| [site.server.orders().path_to(named), site.server.path_to(named)];
    assert_eq!(reached(&site), [ServerPath::Address(here); 2]);
    // Who answers in its name does not get what is for it.
    site.server.answered_from(named, (forged, rogue), site.now);
    assert_eq!(reached(&site), [ServerPath::Address(here); 2]);
    // A router of this LAN is where ARP finds it.
    site.hear_router();
    site.server.answered_from(ROUTER, (forged, rogue), site.now);
    assert_eq!(site.server.orders().path_to(ROUTER), ServerPath::Address(ROUTER));
    // Another link may lead to another router that names the same address. It has none of this LAN.
    site.server.link_was_down(site.now);
    site.server.answered_from(named, (named, rogue), site.now);
    assert_eq!(reached(&site), [ServerPath::Frame(rogue, named); 2]);
}
