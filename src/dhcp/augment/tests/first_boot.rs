//! A phone's first start beside a router that pings before it leases and drops what a relay asks meanwhile (ISC dhcpd):
//! a lease of some minutes on the terms of the router's pool, and every reason not to give it.

use super::*;

const SECONDS: u64 = 1;
const OTHER: MacAddr = MacAddr::new([0, 4, 0xf2, 0, 0, 2]);
const DNS: [u8; 4] = [192, 168, 1, 53];
const TERMS: &[(u8, &[u8])] = &[(3, &[192, 168, 1, 1]), (6, &DNS), (15, b"lan"), (42, &[192, 168, 1, 1])];

/// A LAN whose router was seen to ping.
fn pinging() -> TestLan {
    let mut lan = TestLan::new();
    lan.augment.set_slow(&[(ROUTER, Duration::from_secs(1))]);
    lan
}

/// The same, where the router has offered these terms to us.
fn offered_to_us(more: &[(u8, &[u8])]) -> TestLan {
    let mut lan = pinging();
    ask_ourselves(&mut lan, more);
    lan
}

fn ask_ourselves(lan: &mut TestLan, more: &[(u8, &[u8])]) -> Vec<Action> {
    let discover = question::emit(Question::Discover(None), BOX_MAC, 0);
    let Action::Relay(_, asked) = lan.augment.relay_own(ROUTER, &discover, BOX) else { panic!() };
    let xid = Request::parse(&asked).unwrap().xid;
    lan.router(&to(BOX_MAC, xid, Ipv4Addr::new(192, 168, 1, 99), more))
}

fn to(mac: MacAddr, xid: u32, address: Ipv4Addr, more: &[(u8, &[u8])]) -> ServerMessage {
    let mut bytes = emit_offer(xid, ROUTER, address, more);
    bytes[28..34].copy_from_slice(&mac.octets());
    ServerMessage::parse(&bytes).unwrap()
}

/// A new phone asks, the router pings for a second, and the phone takes its offer.
fn first_boot(lan: &mut TestLan) -> Vec<Action> {
    lan.relays(&discover("Polycom-SPIP670"));
    lan.pass(Duration::from_secs(SECONDS));
    lan.request(&select(ROUTER, ADDRESS), true)
}

fn is_short(actions: &[Action]) -> bool {
    let told = actions.contains(&Action::Tell(Event::Short { phone: PHONE, address: ADDRESS }));
    assert_eq!(told, !replies(actions).is_empty(), "{actions:?}");
    told
}

#[test]
fn the_first_boot_gets_the_terms_of_the_pool_for_five_minutes_and_the_next_one_its_own() {
    let mut lan = offered_to_us(TERMS);
    let actions = first_boot(&mut lan);
    assert!(is_short(&actions));
    let ack = answer(&actions).unwrap();
    assert_eq!((ack.kind, ack.server, ack.yiaddr, ack.chaddr), (MessageType::Ack, ROUTER, ADDRESS, PHONE));
    assert_eq!(ack.options.seconds(OptionCode::AddressLeaseTime), Some(300));
    assert_eq!((ack.options.get(OptionCode::Renewal), ack.options.get(OptionCode::Rebinding)), (None, None));
    assert_eq!(ack.options.addresses(options::TFTP_SERVERS), [BOX]);
    for (code, value) in TERMS.iter().chain(&[(1, &[255, 255, 255, 0][..])]) {
        assert_eq!(ack.options.get(OptionCode::from(*code)), Some(*value), "{code}");
    }
    // The router is asked at once for what it really leases.
    let asked = actions.iter().filter(|act| matches!(act, Action::Relay(ROUTER, _))).count();
    assert_eq!(asked, 1, "{actions:?}");
    lan.pass(Duration::from_millis(3));
    let actions = lan.router(&offer(lan.xid(), ROUTER, ADDRESS, &[(3, &[192, 168, 1, 1]), (26, &[5, 0])]));
    assert!(replies(&actions).is_empty());
    assert!(actions.iter().any(|act| matches!(act, Action::Tell(Event::LearntLate { address: ADDRESS, .. }))));
    let ack = answer(&lan.request(&reboot(ADDRESS), true)).unwrap();
    assert_eq!(ack.options.seconds(OptionCode::AddressLeaseTime), Some(HOUR - 1));
    assert!(ack.options.get(OptionCode::from(26)).is_some() && ack.options.get(OptionCode::Renewal).is_some());
}

#[test]
fn what_the_router_offered_to_another_phone_counts_as_well() {
    let mut lan = pinging();
    lan.scope = scope_of(&[PHONE, OTHER]);
    lan.relays(&said_by(OTHER, "Polycom-SPIP670"));
    let discovery = lan.augment.phones.get(OTHER).and_then(|phone| phone.discovery.as_ref());
    let xid = discovery.and_then(|discovery| discovery.asked.xid_of(ROUTER)).unwrap();
    lan.router(&to(OTHER, xid, Ipv4Addr::new(192, 168, 1, 80), TERMS));
    assert!(is_short(&first_boot(&mut lan)));
}

#[test]
fn only_what_the_phone_asks_for_is_told() {
    let mut lan = offered_to_us(TERMS);
    let mut said = discover("Polycom-SPIP670");
    said.truncate(243);
    said.extend([55, 3, 3, 66, 150, 255]);
    lan.relays(&said);
    lan.pass(Duration::from_secs(SECONDS));
    let ack = answer(&lan.request(&select(ROUTER, ADDRESS), true)).unwrap();
    let codes: Vec<u8> = ack.options.iter().map(|(code, _)| code.into()).collect();
    assert_eq!(codes, [1, 3, 51, 53, 54, 66, 150]);
}

#[test]
fn a_lease_that_is_shorter_stays_so_and_one_for_ever_is_cut() {
    for (theirs, ours) in [(120_u32, 120), (300, 300), (7200, 300), (u32::MAX, 300)] {
        let mut lan = pinging();
        let discover = question::emit(Question::Discover(None), BOX_MAC, 0);
        let Action::Relay(_, asked) = lan.augment.relay_own(ROUTER, &discover, BOX) else { panic!() };
        let mut bytes = emit_offer(Request::parse(&asked).unwrap().xid, ROUTER, ADDRESS, TERMS);
        let place = bytes.windows(2).position(|at| at == [51, 4]).unwrap() + 2;
        bytes[place..place + 4].copy_from_slice(&theirs.to_be_bytes());
        bytes[28..34].copy_from_slice(&BOX_MAC.octets());
        lan.router(&ServerMessage::parse(&bytes).unwrap());
        let ack = answer(&first_boot(&mut lan)).unwrap();
        assert_eq!(ack.options.seconds(OptionCode::AddressLeaseTime), Some(ours));
    }
}

#[test]
fn beside_a_router_that_does_not_ping_nothing_is_said_before_its_terms_are_known() {
    for slow in [&[][..], &[(ROUTER, Duration::from_millis(400))], &[(SECOND, Duration::from_secs(1))]] {
        let mut lan = offered_to_us(TERMS);
        lan.augment.set_slow(slow);
        assert!(!is_short(&first_boot(&mut lan)), "{slow:?}");
    }
}

// The router answers a phone with a reservation at once: so it does the relay.
#[test]
fn a_phone_that_did_not_wait_for_a_ping_or_whose_terms_are_known_is_answered_as_ever() {
    let mut lan = offered_to_us(TERMS);
    lan.relays(&discover("Polycom-SPIP670"));
    lan.pass(Duration::from_millis(20));
    assert!(!is_short(&lan.request(&select(ROUTER, ADDRESS), true)));
    let mut lan = offered_to_us(TERMS);
    lan.relays(&discover("Polycom-SPIP670"));
    lan.router(&offer(lan.xid(), ROUTER, ADDRESS, &[(6, &[9, 9, 9, 9])]));
    lan.pass(Duration::from_secs(SECONDS));
    let ack = lan.select(ROUTER, ADDRESS).unwrap();
    assert_eq!(ack.options.seconds(OptionCode::AddressLeaseTime), Some(HOUR));
    // A phone that repeats itself while the router pings has waited all the same.
    let mut lan = offered_to_us(TERMS);
    for _ in 0..3 {
        lan.relays(&discover("Polycom-SPIP670"));
        lan.pass(Duration::from_millis(330));
    }
    assert!(is_short(&lan.request(&select(ROUTER, ADDRESS), true)));
}

#[test]
fn terms_are_good_for_an_hour_and_asked_for_again_before_it_is_over() {
    let mut lan = pinging();
    assert!(!is_short(&first_boot(&mut lan)), "nothing is known");
    let mut lan = offered_to_us(TERMS);
    lan.pass(Duration::from_secs(3599));
    assert!(!is_short(&first_boot(&mut lan)));
    let mut lan = offered_to_us(TERMS);
    lan.pass(Duration::from_secs(3597));
    assert!(is_short(&first_boot(&mut lan)));

    let mut lan = offered_to_us(TERMS);
    let tick = |lan: &mut TestLan| {
        let mut actions = Vec::new();
        lan.augment.tick(Some(&lan.scope), lan.now, &mut actions);
        actions.len()
    };
    assert_eq!(tick(&mut lan), 0);
    lan.pass(Duration::from_secs(46 * 60));
    assert_eq!((tick(&mut lan), tick(&mut lan)), (1, 0));
    lan.pass(Duration::from_secs(6));
    assert_eq!(tick(&mut lan), 1, "not answered");
    let asked: usize = (0..600)
        .map(|_| {
            lan.pass(Duration::from_secs(6));
            tick(&mut lan)
        })
        .sum();
    assert!((10..20).contains(&asked), "in an hour: {asked}");
    // Nobody asks a router that does not ping.
    lan.augment.set_slow(&[]);
    lan.pass(Duration::from_secs(600));
    assert_eq!(tick(&mut lan), 0);
}

// A2.
#[test]
fn only_a_free_address_of_the_pool_and_only_the_server_that_was_asked() {
    let at = |last| Ipv4Addr::new(192, 168, 1, last);
    for (server, address) in [
        (ROUTER, Ipv4Addr::new(192, 168, 2, 77)),
        (ROUTER, at(0)),
        (ROUTER, at(255)),
        (ROUTER, BOX),
        (ROUTER, ROUTER),
        (ROUTER, Ipv4Addr::from(DNS)),
        (SECOND, ADDRESS),
    ] {
        let mut lan = offered_to_us(TERMS);
        lan.relays(&discover("Polycom-SPIP670"));
        lan.pass(Duration::from_secs(SECONDS));
        assert_eq!(lan.select(server, address), None, "{server} {address}");
    }
    let mut lan = offered_to_us(TERMS);
    lan.seen = Some((ADDRESS, Occupant::Reachable));
    assert!(!is_short(&first_boot(&mut lan)));
    // The phone that had it before was replaced: the router pinged, and nobody answered.
    let mut lan = offered_to_us(TERMS);
    lan.seen = Some((ADDRESS, Occupant::Stale));
    assert!(is_short(&first_boot(&mut lan)));
    // The pool is another part of the LAN.
    let mut lan = pinging();
    let discover = question::emit(Question::Discover(None), BOX_MAC, 0);
    let Action::Relay(_, asked) = lan.augment.relay_own(ROUTER, &discover, BOX) else { panic!() };
    let mut theirs = to(BOX_MAC, Request::parse(&asked).unwrap().xid, at(99), TERMS);
    theirs.options = Options::parse(&[51, 4, 0, 0, 14, 16, 1, 4, 255, 255, 255, 224], &[], &[]);
    lan.router(&theirs);
    assert!(!is_short(&first_boot(&mut lan)));
}

#[test]
fn once_for_each_phone_and_hour() {
    let mut lan = offered_to_us(TERMS);
    assert!(is_short(&first_boot(&mut lan)));
    lan.pass(Duration::from_secs(1800));
    assert!(!is_short(&first_boot(&mut lan)), "twice within an hour");
    lan.pass(Duration::from_secs(1900));
    ask_ourselves(&mut lan, TERMS);
    assert!(is_short(&first_boot(&mut lan)));
}

#[test]
fn never_where_reservations_have_terms_of_their_own() {
    let offered = |first: &[(u8, &[u8])], second: &[(u8, &[u8])]| {
        let mut lan = offered_to_us(first);
        lan.scope = scope_of(&[PHONE, OTHER]);
        lan.relays(&said_by(OTHER, "Polycom-SPIP670"));
        let discovery = lan.augment.phones.get(OTHER).and_then(|phone| phone.discovery.as_ref());
        let xid = discovery.and_then(|discovery| discovery.asked.xid_of(ROUTER)).unwrap();
        lan.router(&to(OTHER, xid, Ipv4Addr::new(192, 168, 1, 80), second));
        is_short(&first_boot(&mut lan))
    };
    let name: &[(u8, &[u8])] = &[(3, &[192, 168, 1, 1]), (6, &DNS), (15, b"lan"), (42, &[192, 168, 1, 1]), (12, b"x")];
    assert!(offered(TERMS, TERMS));
    assert!(offered(TERMS, name), "a name of its own is no term");
    // Another name server; none at all although it asked; a vendor's option; another mask.
    assert!(!offered(TERMS, &[(3, &[192, 168, 1, 1]), (6, &[9, 9, 9, 9]), (15, b"lan"), (42, &[192, 168, 1, 1])]));
    assert!(!offered(TERMS, &[(3, &[192, 168, 1, 1]), (15, b"lan"), (42, &[192, 168, 1, 1])]));
    assert!(!offered(TERMS, &[TERMS, &[(43, &[1, 1, 1])]].concat()));
    // And for good: the next offers may be alike again.
    let mut lan = offered_to_us(&[(6, &[9, 9, 9, 9])]);
    lan.relays(&discover("Polycom-SPIP670"));
    lan.router(&offer(lan.xid(), ROUTER, ADDRESS, TERMS));
    lan.pass(Duration::from_secs(7200));
    ask_ourselves(&mut lan, TERMS);
    assert!(!is_short(&first_boot(&mut lan)));
    // Until another router takes its place.
    lan.augment.set_servers(&[SECOND]);
    lan.augment.set_servers(&[ROUTER]);
    ask_ourselves(&mut lan, TERMS);
    assert!(is_short(&first_boot(&mut lan)));
}

#[test]
fn an_edited_option_is_the_pools_new_term_and_no_reservation() {
    const EDITED: &[(u8, &[u8])] = &[(3, &[192, 168, 1, 1]), (6, &[9, 9, 9, 9]), (15, b"lan"), (42, &[192, 168, 1, 1])];
    let asks = |lan: &mut TestLan| {
        let mut actions = Vec::new();
        lan.augment.tick(Some(&lan.scope), lan.now, &mut actions);
        actions.iter().any(|action| matches!(action, Action::Relay(ROUTER, _)))
    };
    let dns = |actions: &[Action]| answer(actions).map(|ack| ack.options.addresses(OptionCode::DomainNameServer));
    let edited = Some(vec![Ipv4Addr::new(9, 9, 9, 9)]);

    // A phone shows it first: we ask again at once, and say nothing before we know.
    let mut lan = offered_to_us(TERMS);
    offered_to_other(&mut lan, EDITED);
    assert_eq!(dns(&first_boot(&mut lan)), None);
    let mut lan = offered_to_us(TERMS);
    offered_to_other(&mut lan, TERMS);
    lan.pass(Duration::from_secs(60));
    offered_to_other(&mut lan, EDITED);
    assert!(asks(&mut lan));
    ask_ourselves(&mut lan, EDITED);
    assert_eq!(dns(&first_boot(&mut lan)), edited);
    // Once more, the other way round.
    lan.pass(Duration::from_secs(4000));
    ask_ourselves(&mut lan, TERMS);
    assert_eq!(dns(&first_boot(&mut lan)), Some(vec![Ipv4Addr::from(DNS)]));

    // Our own question shows it first.
    let mut lan = offered_to_us(TERMS);
    offered_to_other(&mut lan, TERMS);
    lan.pass(Duration::from_secs(46 * 60));
    assert!(asks(&mut lan));
    ask_ourselves(&mut lan, EDITED);
    assert_eq!(dns(&first_boot(&mut lan)), edited);

    // A reservation: what we are offered is as before. It counts for good.
    let mut lan = offered_to_us(TERMS);
    offered_to_other(&mut lan, EDITED);
    assert!(asks(&mut lan));
    for terms in [TERMS, EDITED, TERMS] {
        ask_ourselves(&mut lan, terms);
        assert_eq!(dns(&first_boot(&mut lan)), None);
        lan.pass(Duration::from_secs(4000));
    }
    // An edit that leaves a reservation: the phone that showed it has still other terms than we.
    let mut lan = offered_to_us(TERMS);
    offered_to_other(&mut lan, EDITED);
    ask_ourselves(&mut lan, &[(6, &[8, 8, 8, 8])]);
    assert_eq!(dns(&first_boot(&mut lan)), None);
}

/// The router offers these terms to another phone.
fn offered_to_other(lan: &mut TestLan, terms: &[(u8, &[u8])]) {
    lan.scope = scope_of(&[PHONE, OTHER]);
    lan.relays(&said_by(OTHER, "Polycom-SPIP670"));
    let discovery = lan.augment.phones.get(OTHER).and_then(|phone| phone.discovery.as_ref());
    let xid = discovery.and_then(|discovery| discovery.asked.xid_of(ROUTER)).unwrap();
    lan.router(&to(OTHER, xid, Ipv4Addr::new(192, 168, 1, 80), terms));
}

// A5.
#[test]
fn a_router_that_points_phones_itself_is_left_alone_at_a_first_boot_too() {
    for pointer in [(66, &b"tftp://192.168.1.2"[..]), (150, &[10, 9, 9, 9]), (160, b"http://10.9.9.9/")] {
        let mut lan = offered_to_us(&[TERMS, &[pointer]].concat());
        assert!(!is_short(&first_boot(&mut lan)), "{pointer:?}");
    }
}

#[test]
fn terms_that_anybody_can_forge_are_nobodys() {
    let mut lan = pinging();
    lan.augment.set_servers(&[ROUTER, SECOND]);
    let discover = question::emit(Question::Discover(None), BOX_MAC, 7);
    // Our broadcast question's transaction, which everybody hears, and that of another server.
    let Action::Relay(_, to_second) = lan.augment.relay_own(SECOND, &discover, BOX) else { panic!() };
    for xid in [7, Request::parse(&to_second).unwrap().xid] {
        lan.router(&to(BOX_MAC, xid, Ipv4Addr::new(192, 168, 1, 99), TERMS));
    }
    assert!(!is_short(&first_boot(&mut lan)));
}

// A3.
#[test]
fn a_nak_after_it_ends_it_for_a_day() {
    let mut lan = offered_to_us(TERMS);
    assert!(is_short(&first_boot(&mut lan)));
    let mut nak = offer(5, ROUTER, ADDRESS, &[]);
    nak.kind = MessageType::Nak;
    assert!(lan.router(&nak).contains(&Action::Tell(Event::Refused { phone: PHONE, server: ROUTER })));
    lan.pass(Duration::from_secs(3600));
    ask_ourselves(&mut lan, TERMS);
    assert!(!is_short(&first_boot(&mut lan)));
}

fn scope_of(phones: &[MacAddr]) -> DhcpScope {
    let settings = DhcpSettings { mode: DhcpMode::Augment, ..DhcpSettings::default() };
    DhcpScope::new(Lan::new(BOX, 24), &settings, phones.iter().copied())
}

#[test]
fn a_ping_that_shows_in_a_phones_own_exchange_is_one() {
    // Our own question was answered at once, as after a restart of the box: dhcpd had pinged that address just before.
    let boot = |lan: &mut TestLan, waits: Duration| {
        lan.relays(&discover("Polycom-SPIP670"));
        lan.pass(waits);
        assert!(!is_short(&lan.request(&select(ROUTER, ADDRESS), true)));
        lan.pass(DEFER);
        let mut actions = Vec::new();
        lan.augment.tick(Some(&lan.scope), lan.now, &mut actions);
        lan.router(&offer(lan.xid(), ROUTER, ADDRESS, TERMS));
    };
    let second = |lan: &mut TestLan| {
        lan.scope = scope_of(&[PHONE, OTHER]);
        lan.relays(&said_by(OTHER, "Polycom-SPIP670"));
        lan.pass(Duration::from_secs(SECONDS));
        let mut request = select(ROUTER, Ipv4Addr::new(192, 168, 1, 78));
        request[28..34].copy_from_slice(&OTHER.octets());
        !replies(&lan.request(&request, true)).is_empty()
    };
    let mut lan = TestLan::new();
    ask_ourselves(&mut lan, TERMS);
    boot(&mut lan, Duration::from_secs(1));
    assert!(second(&mut lan), "the next phone is helped");
    // No ping: the phone took the offer at once, or asked for a minute.
    for waits in [Duration::from_millis(100), Duration::from_secs(60)] {
        let mut lan = TestLan::new();
        ask_ourselves(&mut lan, TERMS);
        boot(&mut lan, waits);
        assert!(!second(&mut lan), "{waits:?}");
    }
}
