#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

mod habits;
mod packets;

use dhcproto::v4::Message;
use dhcproto::{Decodable as _, Decoder};
use proptest::prelude::*;

use self::packets::*;
use super::*;
use crate::options;
use bundle::{DhcpMode, DhcpSettings, VendorOption};
use ids::MacAddr;

// RFC 2131 §4.3.5; RFC 5859.
#[test]
fn a_polycom_that_informs_itself_learns_its_tftp_server_and_gets_no_lease() {
    let site = Site::inform();
    let (message, to) = site.replied(&polycom(MessageKind::Inform).ciaddr([192, 168, 1, 77]));
    assert_eq!(to, Destination::Address(Ipv4Addr::new(192, 168, 1, 77)));
    assert_eq!((message.yiaddr(), message.ciaddr()), (NONE, Ipv4Addr::new(192, 168, 1, 77)));
    assert_eq!(raw(&message, 53), [5]);
    assert_eq!(raw(&message, 66), b"192.168.1.2");
    assert_eq!(raw(&message, 150), [192, 168, 1, 2, 192, 168, 1, 3]);
    assert_eq!(message.siaddr(), SERVER);
    for lease in [51, 58, 59] {
        assert!(message.opts().get(OptionCode::from(lease)).is_none(), "{lease}");
    }
}

// RFC 2132 §9.13.
#[test]
fn a_class_that_ends_in_nul_is_a_phone_and_150_comes_unasked() {
    let site = Site::inform();
    let stranger = MacAddr::new([0, 0x1b, 0x54, 9, 9, 9]);
    let packet = Packet { mac: stranger, ..cisco(MessageKind::Inform) }.ciaddr([192, 168, 1, 78]);
    assert_eq!(raw(&site.replied(&packet).0, 150).len(), 8);
    let unasked = spa(MessageKind::Inform).ciaddr([192, 168, 1, 78]).option(55, &[1]);
    let (message, _) = site.replied(&unasked);
    assert_eq!(raw(&message, 66), b"192.168.1.2");
}

#[test]
fn in_inform_a_pc_and_whoever_merely_contains_a_phones_name_hear_nothing() {
    let site = Site::inform();
    for class in [&b"MSFT 5.0"[..], b"not a Cisco Systems, Inc. IP Phone", b""] {
        let packet = Packet::new(PC, MessageKind::Inform).ciaddr([192, 168, 1, 79]).option(60, class);
        assert_eq!(site.decide(&packet), silent(SilenceReason::NoPhone));
    }
}

#[test]
fn in_inform_nothing_but_inform_is_answered_and_nothing_in_shadow() {
    let site = Site::inform();
    for kind in [MessageKind::Discover, MessageKind::Request, MessageKind::Decline, MessageKind::Release] {
        assert_eq!(site.decide(&cisco(kind).option(50, &[10, 9, 8, 7])), silent(SilenceReason::Mode), "{kind:?}");
    }
    let site = Site::new(DhcpSettings { mode: DhcpMode::Shadow, ..settings() });
    assert_eq!(site.decide(&polycom(MessageKind::Inform).ciaddr([192, 168, 1, 77])), silent(SilenceReason::Mode));
}

// RFC 2131 §4.3.5.
#[test]
fn an_inform_cannot_make_us_send_out_of_the_lan() {
    let site = Site::inform();
    for ciaddr in [[8, 8, 8, 8], [192, 168, 2, 1], [192, 168, 1, 255], [255, 255, 255, 255]] {
        assert_eq!(
            site.decide(&polycom(MessageKind::Inform).ciaddr(ciaddr)),
            silent(SilenceReason::OtherNetwork),
            "{ciaddr:?}"
        );
    }
    let relayed = polycom(MessageKind::Inform).ciaddr([192, 168, 1, 77]).giaddr([10, 0, 0, 1]);
    assert_eq!(site.decide(&relayed), silent(SilenceReason::OtherNetwork));
}

#[test]
fn an_inform_without_ciaddr_is_answered_where_it_came_from() {
    let site = Site { source: Ipv4Addr::new(192, 168, 1, 80), ..Site::inform() };
    assert_eq!(site.replied(&polycom(MessageKind::Inform)).1, Destination::Address(Ipv4Addr::new(192, 168, 1, 80)));
    assert_eq!(Site::inform().decide(&polycom(MessageKind::Inform)), silent(SilenceReason::OtherNetwork));
}

// RFC 2131 §3.1: OFFER and ACK agree.
#[test]
fn a_phone_is_led_from_discover_to_ack_and_both_answers_agree() {
    let mut site = Site::all();
    let (offer, to) = site.answer(&cisco(MessageKind::Discover));
    assert_eq!(to, Destination::Client(offer.yiaddr(), CISCO));
    let select = cisco(MessageKind::Request).option(50, &offer.yiaddr().octets()).option(54, &SERVER.octets());
    let (ack, _) = site.answer(&select);
    assert_eq!((raw(&offer, 53), raw(&ack, 53)), (vec![2], vec![5]));
    assert_eq!((ack.yiaddr(), ack.siaddr(), ack.giaddr()), (offer.yiaddr(), offer.siaddr(), offer.giaddr()));
    for code in [1, 3, 6, 51, 54, 58, 59, 66, 150] {
        assert_eq!(raw(&offer, code), raw(&ack, code), "{code}");
    }
    assert_eq!(site.leases.live(NOW).map(|lease| lease.mac).collect::<Vec<_>>(), [CISCO]);
}

// RFC 2131 §4.4.5.
#[test]
fn t1_comes_before_t2_and_t2_before_the_end() {
    for seconds in [None, Some(0), Some(121), Some(u32::MAX)] {
        let mut site = Site::new(DhcpSettings { lease_seconds: seconds, ..all_settings() });
        let (offer, _) = site.answer(&spa(MessageKind::Discover));
        let number = |code| u32::from_be_bytes(raw(&offer, code).try_into().unwrap());
        assert!(0 < number(58) && number(58) < number(59) && number(59) < number(51), "{seconds:?}");
        assert!((120..=604_800).contains(&number(51)));
    }
}

// RFC 2131 §4.3.1: the same client gets the same address.
#[test]
fn everybody_is_leased_to_in_all_and_who_asks_again_gets_the_same_address() {
    let mut site = Site::all();
    let (first, _) = site.answer(&Packet::new(PC, MessageKind::Discover));
    let (again, _) = site.answer(&Packet { xid: 99, ..Packet::new(PC, MessageKind::Discover) });
    assert_eq!(first.yiaddr(), again.yiaddr());
    assert_eq!(raw(&first, 150).len(), 8);
}

#[test]
fn where_a_reply_goes_follows_rfc_2131_section_4_1() {
    let mut site = Site::all();
    let relay = Ipv4Addr::new(192, 168, 1, 9);
    let relayed = spa(MessageKind::Discover).giaddr(relay.octets()).broadcast();
    let (message, to) = site.answer(&relayed);
    assert_eq!((to, message.giaddr()), (Destination::Relay(relay), relay));
    assert_eq!(site.answer(&spa(MessageKind::Discover).broadcast()).1, Destination::Everyone);
    let (offer, to) = site.answer(&spa(MessageKind::Discover));
    assert_eq!(to, Destination::Client(offer.yiaddr(), SPA));
    site.lease(SPA, offer.yiaddr());
    let renew = spa(MessageKind::Request).ciaddr(offer.yiaddr().octets()).broadcast();
    let (ack, to) = site.answer(&renew);
    assert_eq!(
        (to, ack.ciaddr(), ack.yiaddr()),
        (Destination::Address(offer.yiaddr()), offer.yiaddr(), offer.yiaddr())
    );
}

// RFC 2131 §4.3.1.
#[test]
fn header_fields_are_those_of_table_3() {
    let mut site = Site::all();
    let packet = Packet { xid: 0xdead_beef, ..spa(MessageKind::Discover).broadcast() };
    let (message, _) = site.answer(&packet);
    assert_eq!((message.xid(), message.hops(), message.secs()), (0xdead_beef, 0, 0));
    assert_eq!((message.chaddr(), message.ciaddr()), (&SPA.octets()[..], NONE));
    assert_eq!(u16::from(message.flags()), BROADCAST);
    assert!(message.sname().is_none() && message.fname().is_none());
}

// RFC 6842 §3.
#[test]
fn a_client_identifier_comes_back_as_it_was_and_is_never_invented() {
    let mut site = Site::all();
    let (message, _) = site.answer(&spa(MessageKind::Discover).option(61, &[0, 7, 7, 7, 0]));
    assert_eq!(raw(&message, 61), [0, 7, 7, 7, 0]);
    let (message, _) = site.answer(&cisco(MessageKind::Discover));
    assert!(message.opts().get(OptionCode::ClientIdentifier).is_none());
    let nak = spa(MessageKind::Request).option(50, &[10, 0, 0, 1]).option(61, &[0, 7, 7, 7, 0]);
    assert_eq!(raw(&site.answer(&nak).0, 61), [0, 7, 7, 7, 0]);
}

// RFC 3046 §2.1, §2.2.
#[test]
fn relay_agent_information_comes_back_verbatim_and_last() {
    let site = Site::all();
    let information = [1, 4, 0xde, 0xad, 0, 1, 2, 2, 9, 9, 200, 0];
    let packet = spa(MessageKind::Discover).giaddr([192, 168, 1, 9]).option(82, &information);
    let Verdict::Reply(reply, ..) = site.decide(&packet) else { panic!("no reply") };
    let bytes = reply.emit();
    let tail = [&[82, 12][..], &information, &[255]].concat();
    let place = bytes.windows(tail.len()).position(|window| window == tail).unwrap();
    assert!(bytes[place + tail.len()..].iter().all(|&byte| byte == 0));
}

// RFC 951; RFC 2132 §9.10.
#[test]
fn replies_are_at_least_300_octets_and_within_what_the_client_takes() {
    let many: Vec<Ipv4Addr> = (1..=16).map(|last| Ipv4Addr::new(192, 168, 1, last)).collect();
    let big = VendorOption { vendor_class: "LINKSYS".to_owned(), code: 43, value: vec![7; 255] };
    let mut site = Site::new(DhcpSettings {
        dns: many.clone(),
        ntp: many.clone(),
        routers: many,
        domain: "a".repeat(250),
        vendor_options: vec![big],
        ..all_settings()
    });
    for (size, limit) in [(None, 548), (Some(0_u16), 548), (Some(576), 548), (Some(800), 772), (Some(u16::MAX), 1472)] {
        let mut packet = spa(MessageKind::Discover);
        if let Some(size) = size {
            packet = packet.option(57, &size.to_be_bytes());
        }
        let Verdict::Reply(reply, ..) = site.decide(&packet) else { panic!("no reply") };
        let bytes = reply.emit();
        assert!((300..=limit).contains(&bytes.len()), "{size:?}: {}", bytes.len());
        let message = Read::new(&bytes);
        assert_eq!(raw(&message, 66), b"192.168.1.2", "what a phone cannot do without is never left out");
        assert_eq!(raw(&message, 1), [255, 255, 255, 0]);
    }
    assert_eq!(site.answer(&spa(MessageKind::Discover)).0.opts().get(OptionCode::VendorExtensions), None);
    let small = Site::inform();
    let packet = polycom(MessageKind::Inform).ciaddr([192, 168, 1, 77]);
    let Verdict::Reply(reply, ..) = small.decide(&packet) else { panic!("no reply") };
    assert_eq!(reply.emit().len(), 300);
}

// RFC 2132 §3.3, §9.8.
#[test]
fn options_come_in_the_order_asked_for_with_the_mask_before_the_router() {
    let site = Site::all();
    let packet = spa(MessageKind::Discover).option(55, &[150, 3, 66, 1]);
    let Verdict::Reply(reply, ..) = site.decide(&packet) else { panic!("no reply") };
    let codes: Vec<u8> = reply.options.iter().map(|(code, _)| u8::from(*code)).collect();
    assert_eq!(codes, [54, 51, 58, 59, 150, 1, 66, 3, 6]);
}

#[test]
fn a_vendors_option_goes_to_that_vendor_only_and_replaces_the_general_one() {
    let option = VendorOption { vendor_class: "polycom-spip".to_owned(), code: 66, value: b"tftp://x".to_vec() };
    let mut site = Site::new(DhcpSettings { vendor_options: vec![option], ..all_settings() });
    assert_eq!(raw(&site.answer(&polycom(MessageKind::Discover)).0, 66), b"tftp://x");
    assert_eq!(raw(&site.answer(&cisco(MessageKind::Discover)).0, 66), b"192.168.1.2");
}

// RFC 2131 §4.3.2, §3.1 step 4.
#[test]
fn selecting_another_server_is_met_with_silence_and_frees_the_offer() {
    let mut site = Site::all();
    let (offer, _) = site.answer(&spa(MessageKind::Discover));
    let other = spa(MessageKind::Request).option(50, &[192, 168, 1, 200]).option(54, &ROUTER.octets());
    let Verdict::Silence(SilenceReason::OtherServer, Some(change)) = site.decide(&other) else { panic!("not silent") };
    assert_eq!((change.address, change.state), (offer.yiaddr(), LeaseState::Released));
    site.leases.put(change);
    assert!(!site.leases.at(offer.yiaddr()).unwrap().holds(NOW));
    assert_eq!(site.decide(&other), silent(SilenceReason::OtherServer));
}

// RFC 2131 §4.3.2: a NAK is a broadcast.
#[test]
fn selecting_us_with_an_address_that_somebody_else_has_is_nakked_to_everyone() {
    let mut site = Site::all();
    let taken = Ipv4Addr::new(192, 168, 1, 100);
    site.lease(PC, taken);
    for address in [taken, Ipv4Addr::new(192, 168, 1, 50)] {
        let packet = spa(MessageKind::Request).option(50, &address.octets()).option(54, &SERVER.octets());
        let (nak, to) = site.answer(&packet);
        assert_eq!((raw(&nak, 53), to), (vec![6], Destination::Everyone));
        assert_eq!((nak.yiaddr(), nak.ciaddr(), nak.siaddr()), (NONE, NONE, NONE));
        assert!(nak.opts().get(OptionCode::AddressLeaseTime).is_none());
    }
}

// RFC 2131 §4.3.2.
#[test]
fn a_nak_through_a_relay_asks_the_relay_to_broadcast() {
    let mut site = Site::all();
    let packet = spa(MessageKind::Request).option(50, &[10, 0, 0, 7]).giaddr([192, 168, 1, 9]).option(82, &[1, 1, 9]);
    let (nak, to) = site.answer(&packet);
    assert_eq!(raw(&nak, 82), [1, 1, 9], "RFC 3046 §2.2: in every reply");
    assert_eq!((u16::from(nak.flags()), to), (BROADCAST, Destination::Relay(Ipv4Addr::new(192, 168, 1, 9))));
}

// RFC 2131 §4.3.2 (INIT-REBOOT).
#[test]
fn init_reboot_is_acked_nakked_or_ignored_by_what_is_known() {
    let mut site = Site::all();
    let address = Ipv4Addr::new(192, 168, 1, 110);
    site.lease(SPA, address);
    let reboot = |address: [u8; 4]| spa(MessageKind::Request).option(50, &address);
    assert_eq!(raw(&site.answer(&reboot(address.octets())).0, 53), [5]);
    assert_eq!(raw(&site.answer(&reboot([192, 168, 1, 111])).0, 53), [6]);
    assert_eq!(raw(&site.answer(&reboot([10, 0, 0, 1])).0, 53), [6]);
    let unknown = Packet::new(PC, MessageKind::Request).option(50, &address.octets());
    assert_eq!(site.decide(&unknown), silent(SilenceReason::UnknownClient));
}

// RFC 2131 §4.3.2 (REBINDING).
#[test]
fn rebinding_what_we_know_nothing_of_is_met_with_silence() {
    let mut site = Site::all();
    assert_eq!(
        site.decide(&spa(MessageKind::Request).ciaddr([192, 168, 1, 120])),
        silent(SilenceReason::UnknownClient)
    );
    assert_eq!(site.decide(&spa(MessageKind::Request).ciaddr([192, 168, 1, 60])), silent(SilenceReason::UnknownClient));
    site.lease(PC, Ipv4Addr::new(192, 168, 1, 120));
    assert_eq!(raw(&site.answer(&spa(MessageKind::Request).ciaddr([192, 168, 1, 120])).0, 53), [6]);
    assert_eq!(raw(&site.answer(&spa(MessageKind::Request).ciaddr([10, 1, 1, 1])).0, 53), [6]);
}

// RFC 2131 §4.3.3, §4.3.4.
#[test]
fn decline_blocks_and_release_frees_and_neither_is_answered() {
    let mut site = Site::all();
    let address = Ipv4Addr::new(192, 168, 1, 110);
    site.lease(SPA, address);
    let decline = spa(MessageKind::Decline).option(50, &address.octets()).option(54, &SERVER.octets());
    let release = spa(MessageKind::Release).ciaddr(address.octets()).option(54, &SERVER.octets());
    let Verdict::Silence(SilenceReason::Noted, Some(freed)) = site.decide(&release) else { panic!("not noted") };
    assert_eq!((freed.state, freed.holds(NOW)), (LeaseState::Released, false));
    let Verdict::Silence(SilenceReason::Noted, Some(blocked)) = site.decide(&decline) else { panic!("not noted") };
    site.leases.put(blocked);
    let (offer, _) = site.answer(&spa(MessageKind::Discover).option(50, &address.octets()));
    assert_ne!(offer.yiaddr(), address);
}

#[test]
fn nobody_frees_or_blocks_somebody_elses_address() {
    let mut site = Site::all();
    let address = Ipv4Addr::new(192, 168, 1, 110);
    site.lease(SPA, address);
    for kind in [MessageKind::Decline, MessageKind::Release] {
        let packet = Packet::new(PC, kind).ciaddr(address.octets()).option(50, &address.octets());
        assert_eq!(site.decide(&packet.option(54, &SERVER.octets())), silent(SilenceReason::UnknownClient));
        let elsewhere = spa(kind).ciaddr(address.octets()).option(50, &address.octets()).option(54, &ROUTER.octets());
        assert_eq!(site.decide(&elsewhere), silent(SilenceReason::OtherServer));
    }
}

// RFC 2131 §2.2, §3.1 step 2.
#[test]
fn an_address_is_offered_only_after_the_link_was_asked_and_not_if_somebody_answers() {
    let mut site = Site::all();
    site.scope.check_addresses = true;
    let Verdict::Check(first) = site.decide(&spa(MessageKind::Discover)) else { panic!("not checked") };
    site.lan.checked(first, Some(PC), NOW);
    let Verdict::Check(second) = site.decide(&spa(MessageKind::Discover)) else { panic!("not checked") };
    assert_ne!(first, second);
    site.lan.checked(second, None, NOW);
    assert_eq!(site.answer(&spa(MessageKind::Discover)).0.yiaddr(), second);
    site.lan = LanView::new();
    site.lan.checked(first, Some(SPA), NOW);
    site.leases = Site::all().leases;
    assert_eq!(
        site.answer(&spa(MessageKind::Discover)).0.yiaddr(),
        first,
        "the client itself may answer for its address"
    );
}

// RFC 2131 §4.3.1.
#[test]
fn a_restarting_phone_keeps_its_lease_while_it_asks_anew() {
    let mut site = Site::all();
    let address = Ipv4Addr::new(192, 168, 1, 110);
    site.lease(SPA, address);
    let Verdict::Reply(offer, _, None) = site.decide(&spa(MessageKind::Discover)) else {
        panic!("the lease was touched")
    };
    assert_eq!(offer.yiaddr, address);
}

// RFC 2131 §2: BOOTP's 300 octets are a relay's rule, not a client's.
#[test]
fn requests_of_the_bare_header_length_and_above_are_read() {
    let short = Packet { padded: false, ..spa(MessageKind::Discover) }.bytes();
    assert!(short.len() < 300);
    assert!(Request::parse(&short).is_ok());
    assert!(Request::parse(&short[..239]).is_err());
    let mut long = short.clone();
    long.resize(1501, 0);
    assert!(Request::parse(&long).is_err());
}

#[test]
fn what_is_no_request_of_a_device_is_refused() {
    let good = spa(MessageKind::Discover).bytes();
    let with = |place: usize, value: u8| {
        let mut bytes = good.clone();
        bytes[place] = value;
        Request::parse(&bytes)
    };
    assert!(with(0, 1).is_ok());
    // op, htype, hlen (dhcproto would index past chaddr for 255), group address, cookie, type
    for (place, value) in [(0, 2), (1, 7), (2, 255), (2, 0), (28, 1), (236, 0), (242, 9)] {
        assert!(with(place, value).is_err(), "{place} {value}");
    }
}

#[test]
fn every_reason_for_silence_has_a_counter_of_its_own() {
    let counters: std::collections::BTreeSet<&str> = SilenceReason::ALL.map(SilenceReason::counter).into();
    assert_eq!(counters.len(), SilenceReason::ALL.len());
}

proptest! {
    #[test]
    fn no_bytes_panic_and_none_get_more_than_one_reply(bytes in proptest::collection::vec(any::<u8>(), 0..1600)) {
        probe(&bytes)?;
    }

    #[test]
    fn no_options_panic_and_every_reply_fits(
        kind in 0_u8..12,
        options in proptest::collection::vec(any::<u8>(), 0..1200),
        fields in proptest::collection::vec(any::<u8>(), 16),
        overload in 0_u8..5,
    ) {
        let mut bytes = spa(MessageKind::Discover).bytes();
        bytes.truncate(240);
        bytes[12..28].copy_from_slice(&fields);
        bytes[44..236].iter_mut().zip(options.iter().rev()).for_each(|(to, from)| *to = *from);
        bytes.extend([53, 1, kind, 52, 1, overload]);
        bytes.extend(options);
        probe(&bytes)?;
    }
}

fn probe(bytes: &[u8]) -> Result<(), TestCaseError> {
    crate::heard::Overheard::parse(bytes);
    let Ok(request) = Request::parse(bytes) else { return Ok(()) };
    for site in [Site::inform(), Site::all()] {
        let view = View { lan: &site.lan, leases: &site.leases, source: site.source };
        if let Verdict::Reply(reply, to, change) = respond(&site.scope, &view, &request, NOW) {
            let bytes = reply.emit();
            // Identifier and relay information are echoed whole, whatever the client's limit is.
            prop_assert!(
                bytes.len() >= 300 && bytes.len() <= request.max_reply_bytes().max(268 + request.echo().emitted_len())
            );
            prop_assert!(Message::decode(&mut Decoder::new(&bytes)).is_ok());
            if let Destination::Address(address) | Destination::Relay(address) | Destination::Client(address, _) = to {
                prop_assert!(site.scope.lan.contains(address), "{address}");
            }
            if let Some(lease) = change {
                prop_assert!(site.scope.range.as_ref().is_some_and(|range| range.contains(lease.address)));
            }
        }
    }
    Ok(())
}

/// What a client may do in the model below: which client, what, and how many seconds pass before.
fn steps() -> impl Strategy<Value = Vec<(u8, u8, u32)>> {
    proptest::collection::vec((0_u8..12, 0_u8..9, prop_oneof![Just(0_u32), 1_u32..50, 1_u32..40_000]), 1..200)
}

proptest! {
    #[test]
    fn no_two_clients_are_ever_promised_one_address_at_a_time(steps in steps()) {
        let settings = DhcpSettings {
            range: Some((Ipv4Addr::new(192, 168, 1, 100), Ipv4Addr::new(192, 168, 1, 107))),
            lease_seconds: Some(20_000),
            ..all_settings()
        };
        let mut site = Site::new(settings);
        // By address: who was promised it, and until when. By client: the last address that it was offered or promised.
        let mut promised: std::collections::BTreeMap<Ipv4Addr, (u8, i64)> = Default::default();
        let mut known: std::collections::BTreeMap<u8, Ipv4Addr> = Default::default();
        let mut now = NOW;
        for (client, action, seconds) in steps {
            now = now.plus(Duration::from_secs(seconds.into()));
            let mac = MacAddr::new([0, 4, 0xf2, 0, 0, client]);
            let address = known.get(&client).copied().unwrap_or(Ipv4Addr::new(192, 168, 1, 100 + client % 8));
            let octets = address.octets();
            let packet = match action {
                0..=2 => Packet::new(mac, MessageKind::Discover).option(50, &octets),
                3 => Packet::new(mac, MessageKind::Request).option(50, &octets).option(54, &SERVER.octets()),
                4 => Packet::new(mac, MessageKind::Request).option(50, &octets),
                5 => Packet::new(mac, MessageKind::Request).ciaddr(octets),
                6 => Packet::new(mac, MessageKind::Release).ciaddr(octets).option(54, &SERVER.octets()),
                7 => Packet::new(mac, MessageKind::Decline).option(50, &octets).option(54, &SERVER.octets()),
                _ => Packet::new(mac, MessageKind::Request).option(50, &octets).option(54, &ROUTER.octets()),
            };
            let request = Request::parse(&packet.bytes()).unwrap();
            let view = View { lan: &site.lan, leases: &site.leases, source: NONE };
            match respond(&site.scope, &view, &request, now) {
                Verdict::Reply(reply, _, change) => {
                    change.into_iter().for_each(|lease| site.leases.put(lease));
                    if reply.kind != MessageType::Nak {
                        let other = promised.get(&reply.yiaddr).filter(|(owner, until)| *owner != client && *until > now.0);
                        prop_assert_eq!(other, None, "{} to {}", reply.yiaddr, client);
                        known.insert(client, reply.yiaddr);
                    }
                    if reply.kind == MessageType::Ack {
                        promised.insert(reply.yiaddr, (client, now.0 + 20_000));
                        let record = site.leases.at(reply.yiaddr).unwrap();
                        prop_assert!(record.until.0 >= now.0 + 20_000, "held as long as promised");
                    }
                }
                Verdict::Silence(_, change) => {
                    if let Some(lease) = change {
                        if matches!(request.kind, MessageKind::Release | MessageKind::Decline)
                            && promised.get(&lease.address).is_some_and(|(owner, _)| *owner == client)
                        {
                            promised.remove(&lease.address);
                        }
                        site.leases.put(lease);
                    }
                }
                Verdict::Check(_) => unreachable!("the link is not asked here"),
            }
        }
    }
}
