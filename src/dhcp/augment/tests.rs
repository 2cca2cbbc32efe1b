#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

mod first_boot;
mod holders;
mod lan;
mod routers;

use self::lan::{TestLan, answer, discover, emit_offer, kept, offer, rebind, reboot, replies, said_by, scope, select};
use super::phone::DEFER;
use super::phones::MAX_UNLISTED;
use super::*;
use crate::message::MIN_REPLY_BYTES;
use crate::options::{self, Options};
use crate::question::{self, Question};
use bundle::{DhcpMode, DhcpSettings, VendorOption};
use ids::Lan;

const BOX: Ipv4Addr = Ipv4Addr::new(192, 168, 1, 2);
const ROUTER: Ipv4Addr = Ipv4Addr::new(192, 168, 1, 1);
const SECOND: Ipv4Addr = Ipv4Addr::new(192, 168, 1, 254);
const ADDRESS: Ipv4Addr = Ipv4Addr::new(192, 168, 1, 77);
const PHONE: MacAddr = MacAddr::new([0, 4, 0xf2, 0, 0, 1]);
const BOX_MAC: MacAddr = MacAddr::new([2, 0, 0, 0, 2, 2]);
const PC: MacAddr = MacAddr::new([0x3c, 0x97, 0x0e, 0, 0, 1]);
const HOUR: u32 = 3600;

// A1.
#[test]
fn a_phone_gets_the_routers_lease_with_66_and_150_and_nothing_else_changed() {
    let mut lan = TestLan::new();
    lan.learn();
    let ack = lan.select(ROUTER, ADDRESS).unwrap();
    assert_eq!(ack.kind, MessageType::Ack);
    assert_eq!((ack.yiaddr, ack.server, ack.giaddr), (ADDRESS, ROUTER, Ipv4Addr::UNSPECIFIED));
    let theirs = offer(1, ROUTER, ADDRESS, &[]);
    for (code, value) in theirs.options.iter() {
        if code != OptionCode::MessageType {
            assert_eq!(ack.options.get(code), Some(value), "{code:?}");
        }
    }
    let added: Vec<u8> = ack
        .options
        .iter()
        .filter(|(code, _)| theirs.options.get(*code).is_none())
        .map(|(code, _)| code.into())
        .collect();
    assert_eq!(added, [66, 150]);
    assert_eq!(ack.options.addresses(options::TFTP_SERVERS), [BOX]);
    assert_eq!(ack.options.get(options::TFTP_SERVER_NAME), Some(&b"192.168.1.2"[..]));
}

// RFC 2131 §4.1; RFC 951: 300 octets.
#[test]
fn the_answer_goes_where_the_client_can_hear_it_and_is_at_least_300_octets() {
    let mut lan = TestLan::new();
    lan.learn();
    let actions = lan.request(&select(ROUTER, ADDRESS), true);
    let Action::Reply { mac, address, broadcast, message } = &actions[0] else { panic!("{actions:?}") };
    assert_eq!((*mac, *address, *broadcast), (PHONE, ADDRESS, true));
    assert!(message.len() >= MIN_REPLY_BYTES);
    let mut unicast = select(ROUTER, ADDRESS);
    unicast[10] = 0;
    let actions = lan.request(&unicast, true);
    assert!(matches!(&actions[0], Action::Reply { broadcast: false, .. }), "{actions:?}");
}

// RFC 1542 §4.1.1.
#[test]
fn a_discover_is_relayed_as_the_phone_said_it_to_each_router() {
    let mut lan = TestLan::new();
    lan.augment.set_servers(&[ROUTER, SECOND]);
    let said = discover("Polycom-SPIP670");
    let relays = lan.relays(&said);
    assert_eq!(relays.iter().map(|(server, _)| *server).collect::<Vec<_>>(), [ROUTER, SECOND]);
    let (theirs, ours) = (Request::parse(&said).unwrap(), Request::parse(&relays[0].1).unwrap());
    assert_eq!((ours.chaddr, ours.giaddr, &ours.options), (PHONE, BOX, &theirs.options));
    assert_ne!(ours.xid, theirs.xid);
    assert_eq!(relays[0].1[3], 1, "hops");
}

// A1.
#[test]
fn nothing_is_said_before_the_routers_parameters_are_known() {
    let mut lan = TestLan::new();
    assert_eq!(lan.select(ROUTER, ADDRESS), None);
    lan.relays(&discover("Polycom-SPIP670"));
    assert_eq!(lan.select(ROUTER, ADDRESS), None);
    // An offer without a lease time is none to complete.
    let xid = lan.xid();
    let mut bare = offer(xid, ROUTER, ADDRESS, &[]);
    bare.options = Options::parse(&[53, 1, 2, 54, 4, 192, 168, 1, 1], &[], &[]);
    lan.router(&bare);
    assert_eq!(lan.select(ROUTER, ADDRESS), None);
}

// A1.
#[test]
fn a_request_that_waits_for_a_slow_router_is_answered_when_its_offer_comes() {
    let mut lan = TestLan::new();
    lan.relays(&discover("Polycom-SPIP670"));
    assert_eq!(lan.select(ROUTER, ADDRESS), None);
    let actions = lan.router(&offer(lan.xid(), ROUTER, ADDRESS, &[]));
    assert_eq!(replies(&actions).len(), 1);
    // But not when it comes too late: the router's own ACK has.
    let mut lan = TestLan::new();
    lan.relays(&discover("Polycom-SPIP670"));
    lan.select(ROUTER, ADDRESS);
    lan.pass(DEFER);
    assert!(replies(&lan.router(&offer(lan.xid(), ROUTER, ADDRESS, &[]))).is_empty());
}

#[test]
fn a_router_that_pings_first_is_asked_again_when_it_is_about_to_offer_and_then_no_more() {
    let mut lan = TestLan::new();
    lan.augment.set_slow(&[(ROUTER, Duration::from_secs(1))]);
    assert_eq!(lan.augment.deadline(), None);
    lan.relays(&discover("Polycom-SPIP670"));
    assert_eq!(lan.augment.deadline(), Some(lan.now + Duration::from_millis(996)));
    let asked = |lan: &mut TestLan| {
        let mut actions = Vec::new();
        lan.augment.tick(Some(&lan.scope), lan.now, &mut actions);
        actions.len()
    };
    lan.pass(Duration::from_millis(990));
    assert_eq!(asked(&mut lan), 0);
    lan.pass(Duration::from_millis(20));
    assert_eq!(asked(&mut lan), 3, "dropped while it pings");
    lan.router(&offer(lan.xid(), ROUTER, ADDRESS, &[]));
    lan.pass(Duration::from_millis(200));
    assert_eq!((asked(&mut lan), lan.augment.deadline()), (0, None), "answered");
    assert!(lan.select(ROUTER, ADDRESS).is_some());
    // Not for a phone that the inventory does not list.
    lan.relays(&said_by(PC, "AastraIPPhone6731i"));
    assert_eq!(lan.augment.deadline(), None);
}

#[test]
fn a_router_that_drops_the_relay_while_it_pings_is_asked_again_for_the_next_start() {
    let mut lan = TestLan::new();
    let first = lan.relays(&discover("Polycom-SPIP670"));
    assert_eq!(lan.select(ROUTER, ADDRESS), None);
    let mut actions = Vec::new();
    lan.augment.tick(Some(&lan.scope), lan.now, &mut actions);
    assert!(actions.is_empty(), "the answer may be on its way");
    lan.pass(DEFER);
    lan.augment.tick(Some(&lan.scope), lan.now, &mut actions);
    assert_eq!(actions, [NotCompleted::Late.into(), Action::Relay(ROUTER, first[0].1.clone())]);
    assert!(replies(&lan.router(&offer(lan.xid(), ROUTER, ADDRESS, &[]))).is_empty());
    assert!(answer(&lan.request(&reboot(ADDRESS), true)).is_some());
    lan.augment.tick(Some(&lan.scope), lan.now, &mut actions);
    assert_eq!(actions.len(), 2, "once");
}

// A2.
#[test]
fn only_the_known_server_and_an_address_of_its_subnet_are_answered() {
    let mut lan = TestLan::new();
    lan.learn();
    let broadcast = Ipv4Addr::new(192, 168, 1, 255);
    let outside = Ipv4Addr::new(192, 168, 2, 77);
    for (server, address) in
        [(SECOND, ADDRESS), (BOX, ADDRESS), (ROUTER, broadcast), (ROUTER, outside), (ROUTER, BOX), (ROUTER, ROUTER)]
    {
        assert_eq!(lan.select(server, address), None, "{server} {address}");
    }
    assert!(lan.select(ROUTER, ADDRESS).is_some());
}

#[test]
fn a_router_that_offers_the_relay_another_address_leases_the_one_that_the_phone_names() {
    let mut lan = TestLan::new();
    lan.learn();
    let named = Ipv4Addr::new(192, 168, 1, 78);
    assert_eq!(lan.select(ROUTER, named).unwrap().yiaddr, named);
    assert!(answer(&lan.request(&reboot(named), true)).is_some());
    assert_eq!(answer(&lan.request(&reboot(ADDRESS), true)), None);
}

// A1, A2.
#[test]
fn an_offer_that_nobody_asked_for_or_of_our_own_address_is_not_believed() {
    for (xid, server, address) in
        [(Some(7), ROUTER, ADDRESS), (None, SECOND, ADDRESS), (None, ROUTER, BOX), (None, ROUTER, ROUTER)]
    {
        let mut lan = TestLan::new();
        lan.relays(&discover("Polycom-SPIP670"));
        lan.router(&offer(xid.unwrap_or(lan.xid()), server, address, &[]));
        assert_eq!(lan.select(server, address), None, "{xid:?} {server} {address}");
    }
}

// A3.
#[test]
fn a_nak_after_our_answer_ends_it_for_a_day_and_is_reported() {
    let mut lan = TestLan::new();
    lan.learn();
    lan.select(ROUTER, ADDRESS).unwrap();
    let mut nak = offer(5, ROUTER, ADDRESS, &[]);
    nak.kind = MessageType::Nak;
    let actions = lan.router(&nak);
    assert!(actions.contains(&Action::Tell(Event::Refused { phone: PHONE, server: ROUTER })), "{actions:?}");
    lan.pass(QUIET - Duration::from_secs(1));
    assert!(lan.relays(&discover("Polycom-SPIP670")).is_empty());
    assert_eq!(lan.select(ROUTER, ADDRESS), None);
    lan.pass(Duration::from_secs(1));
    lan.learn();
    assert!(lan.select(ROUTER, ADDRESS).is_some());
}

// A3.
#[test]
fn a_nak_for_what_we_did_not_answer_does_not_cost_a_moved_phone_its_files() {
    let mut lan = TestLan::new();
    let mut nak = offer(9, ROUTER, ADDRESS, &[]);
    nak.kind = MessageType::Nak;
    lan.learn();
    lan.select(ROUTER, ADDRESS).unwrap();
    // It starts again with an address of the network where it was before.
    assert!(!lan.router(&nak).iter().any(|act| matches!(act, Action::Tell(Event::Refused { .. }))));
    lan.learn();
    assert!(lan.select(ROUTER, ADDRESS).is_some());
}

// A4; that there are two is reported by `mode_choice`.
#[test]
fn two_servers_keep_each_its_own_parameters() {
    let mut lan = TestLan::new();
    lan.augment.set_servers(&[ROUTER, SECOND]);
    lan.relays(&discover("Polycom-SPIP670"));
    let theirs = Ipv4Addr::new(192, 168, 1, 200);
    lan.router(&offer(lan.xid(), ROUTER, ADDRESS, &[(3, &[192, 168, 1, 1])]));
    lan.router(&offer(lan.xid_of(SECOND), SECOND, theirs, &[(3, &[192, 168, 1, 254])]));
    let ack = lan.select(SECOND, theirs).unwrap();
    assert_eq!((ack.server, ack.options.addresses(OptionCode::Router)), (SECOND, vec![SECOND]));
    assert_eq!(lan.select(ROUTER, ADDRESS).unwrap().options.addresses(OptionCode::Router), [ROUTER]);
}

// A5. The tests of the server show what is reported.
#[test]
fn a_router_that_points_phones_itself_is_left_alone() {
    for tftp in [&[192, 168, 1, 2][..], &[10, 9, 9, 9]] {
        let mut lan = TestLan::new();
        lan.relays(&discover("AastraIPPhone6731i"));
        let actions = lan.router(&offer(lan.xid(), ROUTER, ADDRESS, &[(150, tftp)]));
        assert!(replies(&actions).is_empty());
        assert!(
            actions.iter().any(|act| matches!(act, Action::Tell(Event::Points { phone: PHONE, server: ROUTER, .. }))),
            "{actions:?}"
        );
        assert_eq!(lan.select(ROUTER, ADDRESS), None);
    }
}

// A5.
#[test]
fn what_a_router_says_to_other_vendors_or_of_us_in_a_vendors_option_does_not_cost_a_phone_its_files() {
    let asking = |asked: &[u8]| {
        let mut bytes = question::emit(Question::Discover(None), PHONE, 5);
        bytes.truncate(243);
        options::emit(OptionCode::ParameterRequestList, asked, &mut bytes);
        bytes.push(255);
        bytes
    };
    let (here, elsewhere) = (&b"tftp://192.168.1.2/"[..], &b"tftp://10.9.9.9"[..]);
    for (asked, option, value, left_alone) in [
        (&[1, 3, 66, 160][..], 160, elsewhere, true),
        (&[1, 3, 66, 160], 160, here, false),
        (&[1, 3, 66, 150], 160, elsewhere, false),
        (&[1, 3, 43, 66], 43, elsewhere, true),
        (&[1, 3, 43, 66], 43, &[1, 4, 0, 0, 0, 2], false),
        (&[1, 3], 66, here, true),
        (&[1, 3], 66, b"\0", false),
    ] {
        let mut lan = TestLan::new();
        lan.relays(&asking(asked));
        let actions = lan.router(&offer(lan.xid(), ROUTER, ADDRESS, &[(option, value)]));
        let told = actions.iter().any(|act| matches!(act, Action::Tell(Event::Points { .. })));
        assert_eq!((told, lan.select(ROUTER, ADDRESS).is_none()), (left_alone, left_alone), "{asked:?} {option}");
    }
}

// A6, RFC 2131 §4.4.5.
#[test]
fn a_renewal_is_between_phone_and_router() {
    let mut lan = TestLan::new();
    lan.learn();
    lan.select(ROUTER, ADDRESS).unwrap();
    assert!(lan.request(&rebind(ADDRESS), false).is_empty());
}

// A1, RFC 2131 §4.3.2 (INIT-REBOOT, REBINDING).
#[test]
fn reboot_and_rebind_of_a_lease_that_we_saw_get_what_is_left_of_it() {
    let mut lan = TestLan::new();
    lan.learn();
    lan.select(ROUTER, ADDRESS).unwrap();
    lan.pass(Duration::from_secs(u64::from(HOUR / 4)));
    for message in [reboot(ADDRESS), rebind(ADDRESS)] {
        let ack = answer(&lan.request(&message, true)).unwrap();
        let seconds = |code| ack.options.seconds(code).unwrap();
        assert_eq!(seconds(OptionCode::AddressLeaseTime), HOUR * 3 / 4);
        assert!(seconds(OptionCode::Renewal) < seconds(OptionCode::Rebinding));
        assert!(seconds(OptionCode::Rebinding) < seconds(OptionCode::AddressLeaseTime));
    }
    // We know nothing of a lease that we did not see, or that has ended.
    assert_eq!(answer(&lan.request(&reboot(Ipv4Addr::new(192, 168, 1, 78)), true)), None);
    lan.pass(Duration::from_secs(u64::from(HOUR)));
    assert_eq!(answer(&lan.request(&reboot(ADDRESS), true)), None);
}

// A1, RFC 2131 §4.3.3 and §4.3.4.
#[test]
fn what_the_phone_gave_back_or_found_in_use_is_no_lease_any_more() {
    for kind in [4, 7] {
        let mut lan = TestLan::new();
        lan.learn();
        lan.select(ROUTER, ADDRESS).unwrap();
        let mut message = question::emit(Question::Release(ADDRESS, ROUTER), PHONE, 3);
        message[242] = kind;
        lan.request(&message, false);
        assert_eq!(answer(&lan.request(&reboot(ADDRESS), true)), None);
    }
}

#[test]
fn after_the_router_was_replaced_nothing_of_the_old_one_is_said() {
    let mut lan = TestLan::new();
    lan.learn();
    lan.select(ROUTER, ADDRESS).unwrap();
    lan.augment.set_servers(&[SECOND]);
    assert_eq!(lan.select(ROUTER, ADDRESS), None);
    assert_eq!(answer(&lan.request(&reboot(ADDRESS), true)), None);
}

// A7.
#[test]
fn for_a_pc_nothing_is_sent_and_nothing_is_asked() {
    let mut lan = TestLan::new();
    for message in [
        question::emit(Question::Discover(None), PC, 1),
        question::emit(Question::Select(ADDRESS, ROUTER), PC, 1),
        question::emit(Question::Reboot(ADDRESS), PC, 1),
        question::emit(Question::Inform(ADDRESS), PC, 1),
    ] {
        assert!(lan.request(&message, true).is_empty());
    }
    assert!(lan.augment.phones.is_empty());
}

#[test]
fn the_offer_is_completed_for_phones_that_choose_by_it() {
    let mut lan = TestLan::new();
    lan.scope = scope(&[VendorOption { vendor_class: "Aastra".to_owned(), code: 43, value: vec![2, 1, 9] }]);
    lan.relays(&discover("AastraIPPhone6731i"));
    let actions = lan.router(&offer(lan.xid(), ROUTER, ADDRESS, &[]));
    let completed = answer(&actions).unwrap();
    assert_eq!((completed.kind, completed.xid, completed.yiaddr), (MessageType::Offer, 5, ADDRESS));
    assert_eq!(completed.options.get(OptionCode::from(43)), Some(&[2, 1, 9][..]));
    assert_eq!(completed.options.addresses(options::TFTP_SERVERS), [BOX]);
    // Offer and ACK agree.
    let ack = lan.select(ROUTER, ADDRESS).unwrap();
    for (code, value) in completed.options.iter().filter(|(code, _)| *code != OptionCode::MessageType) {
        assert_eq!(ack.options.get(code), Some(value));
    }
    let mut lan = TestLan::new();
    lan.relays(&discover("Polycom-SPIP670"));
    assert!(replies(&lan.router(&offer(lan.xid(), ROUTER, ADDRESS, &[]))).is_empty());
}

#[test]
fn an_offer_that_is_full_already_is_left_as_it_is() {
    let mut lan = TestLan::new();
    lan.relays(&discover("Polycom-SPIP670"));
    let text = [b'x'; 255];
    let full = offer(lan.xid(), ROUTER, ADDRESS, &[(15, &text), (43, &text[..40])]);
    lan.router(&full);
    assert_eq!(lan.select(ROUTER, ADDRESS), None);
}

#[test]
fn a_flood_is_not_multiplied_and_pushes_out_no_phone() {
    let mut lan = TestLan::new();
    lan.scope = scope(&[]);
    let mut relays = 0;
    for number in 0..3000_u16 {
        let [high, low] = number.to_be_bytes();
        let mac = MacAddr::new([2, 0, 0, 1, high, low]);
        relays += lan.relays(&said_by(mac, "AastraIPPhone")).len();
    }
    assert!(relays <= 20, "{relays}");
    assert!(lan.augment.phones.len() <= MAX_UNLISTED);
    lan.learn();
    assert!(lan.select(ROUTER, ADDRESS).is_some(), "a phone of the inventory is served as before");
    // Not every DISCOVER of a phone that repeats itself is relayed.
    let again: usize = (0..100).map(|_| lan.relays(&discover("Polycom-SPIP670")).len()).sum();
    assert!(again <= 19, "{again}");
}

#[test]
fn no_bytes_of_a_router_or_client_stop_it() {
    let mut lan = TestLan::new();
    lan.learn();
    let good = [select(ROUTER, ADDRESS), discover("AastraIPPhone"), emit_offer(lan.xid(), ROUTER, ADDRESS, &[])];
    let mut seed = Transactions::new(42);
    for round in 0..20_000 {
        let mut bytes = good[round % 3].clone();
        for _ in 0..1 + round % 4 {
            let place = usize::try_from(seed.next()).unwrap() % bytes.len();
            bytes[place] = u8::try_from(seed.next() & 0xff).unwrap();
        }
        bytes.truncate(bytes.len() - round % 80);
        let mut actions = Vec::new();
        if let Some(message) = ServerMessage::parse(&bytes) {
            actions.push(lan.router(&message));
        }
        if Request::parse(&bytes).is_ok() {
            actions.push(lan.request(&bytes, round % 2 == 0));
        }
        for actions in actions {
            let all = replies(&actions);
            assert!(all.len() <= 1, "one reply to one message: {actions:?}");
            for reply in all {
                let reply_kind = reply[242];
                assert!(reply.len() >= 300 && [2, 5].contains(&reply_kind), "never a NAK: {reply_kind}");
            }
        }
    }
}

// A1: what is left of the lease is counted from when the phone took it, also over a restart.
#[test]
fn a_lease_completed_before_a_restart_is_completed_again_for_what_is_left_of_it() {
    let mut lan = TestLan::new();
    lan.learn();
    let kept = kept(&lan.request(&select(ROUTER, ADDRESS), true));
    let mut lan = TestLan::new();
    lan.augment.recall(&lan.scope, &[(kept.clone(), Duration::from_secs(u64::from(HOUR / 2)))], lan.now);
    lan.pass(Duration::from_secs(u64::from(HOUR / 4)));
    let ack = answer(&lan.request(&reboot(ADDRESS), true)).unwrap();
    assert_eq!((ack.yiaddr, ack.server, ack.options.addresses(options::TFTP_SERVERS)), (ADDRESS, ROUTER, vec![BOX]));
    assert_eq!(ack.options.seconds(OptionCode::AddressLeaseTime), Some(HOUR / 4));
    // Not under another router, in another network, with a router that points phones itself, nor from garbage.
    let elsewhere = CompletedLease { offer: emit_offer(5, ROUTER, Ipv4Addr::new(10, 0, 0, 77), &[]), ..kept.clone() };
    let pointed = CompletedLease { offer: emit_offer(5, ROUTER, ADDRESS, &[(150, &[10, 0, 0, 9])]), ..kept.clone() };
    let cut = CompletedLease { offer: kept.offer[..240].to_vec(), ..kept.clone() };
    let pc = CompletedLease { discover: question::emit(Question::Discover(None), PC, 1), ..kept.clone() };
    for wrong in [elsewhere, pointed, cut, pc] {
        let mut lan = TestLan::new();
        lan.augment.recall(&lan.scope, &[(wrong, Duration::ZERO)], lan.now);
        assert!(lan.augment.phones.is_empty());
    }
    let mut lan = TestLan::new();
    lan.augment.set_servers(&[SECOND]);
    lan.augment.recall(&lan.scope, &[(kept, Duration::ZERO)], lan.now);
    assert_eq!(answer(&lan.request(&reboot(ADDRESS), true)), None);
}

#[test]
fn when_the_site_names_other_tftp_servers_no_phone_hears_of_the_former() {
    let mut lan = TestLan::new();
    lan.learn();
    lan.select(ROUTER, ADDRESS).unwrap();
    lan.augment.drop_completed();
    assert_eq!(lan.select(ROUTER, ADDRESS), None);
    assert_eq!(answer(&lan.request(&reboot(ADDRESS), true)), None);
}

#[test]
fn the_site_says_whose_offer_is_completed() {
    let settings = |offer_classes| DhcpSettings { mode: DhcpMode::Augment, offer_classes, ..DhcpSettings::default() };
    for (classes, completed) in [(None, false), (Some(vec!["Polycom-".to_owned()]), true), (Some(Vec::new()), false)] {
        let mut lan = TestLan::new();
        lan.scope = DhcpScope::new(Lan::new(BOX, 24), &settings(classes), [PHONE]);
        lan.relays(&discover("Polycom-SPIP670"));
        let actions = lan.router(&offer(lan.xid(), ROUTER, ADDRESS, &[]));
        assert_eq!(!replies(&actions).is_empty(), completed);
    }
}

#[test]
fn every_reason_not_to_complete_has_a_counter_of_its_own() {
    let counters: std::collections::BTreeSet<&str> = NotCompleted::ALL.map(NotCompleted::counter).into();
    assert_eq!(counters.len(), NotCompleted::ALL.len());
    assert!(counters.iter().all(|counter| counter.starts_with("dhcp.augment.")));
}
