//! What phones are known to send, and what RFCs say of it.

use super::*;
use crate::message::ParseError;
use crate::options::Options;
use ethernet::frame;

const WRONG: Ipv4Addr = Ipv4Addr::new(192, 168, 1, 77);

fn from(mac: [u8; 6], kind: MessageKind) -> Packet {
    Packet::new(MacAddr::new(mac), kind).ciaddr(WRONG.octets())
}

// RFC 2132 §9.13 says nothing of case or padding; phones differ in both.
#[test]
fn vendor_classes_with_nuls_in_lower_case_and_cut_short_are_those_of_phones() {
    let classes = vec!["Cisco System".to_owned()];
    let site = Site::new(DhcpSettings { phone_classes: classes, ..settings() });
    for class in [
        &b"Cisco Systems, Inc. IP Phone CP-7941G\0"[..],
        b"Cisco Systems, Inc. IP Phone\0\0\0\0",
        b"cisco systems, inc. ip phone cp-7960g",
        b"Cisco System,",
    ] {
        let packet = from([0, 0x1b, 0x54, 9, 9, 9], MessageKind::Inform).option(60, class);
        assert_eq!(raw(&site.replied(&packet).0, 66), b"192.168.1.2", "{class:?}");
    }
}

// RFC 3925 §3.
#[test]
fn a_phone_is_known_by_option_124_or_by_who_made_it_where_the_site_allows_it() {
    let class = vec!["Polycom-".to_owned()];
    let by_class = Site::new(DhcpSettings { phone_classes: class, ..settings() });
    let by_maker = Site::new(DhcpSettings { phone_ouis: vec!["00:15:65".parse().unwrap()], ..settings() });
    let of_124 = from(PC.octets(), MessageKind::Inform).option(124, b"\0\0\x36\x3d\x0bPolycom-VVX");
    let yealink = from([0, 0x15, 0x65, 1, 2, 3], MessageKind::Inform);
    assert_eq!(raw(&by_class.replied(&of_124).0, 66), b"192.168.1.2");
    assert_eq!(raw(&by_maker.replied(&yealink).0, 66), b"192.168.1.2");
    for (site, packet) in [(&by_maker, &of_124), (&by_class, &yealink)] {
        assert_eq!(site.decide(packet), silent(SilenceReason::NoPhone));
    }
}

// RFC 2131 §3.5: without a parameter request list the server sends what it has; RFC 2132 §9.14: 61 is optional.
#[test]
fn a_phone_without_options_55_and_61_gets_address_and_tftp_servers() {
    let mut site = Site::all();
    let packet = Packet { padded: false, ..Packet::new(SPA, MessageKind::Discover) };
    assert!(packet.bytes().len() < 300);
    let (offer, _) = site.answer(&packet);
    assert_eq!((raw(&offer, 66), raw(&offer, 1)), (b"192.168.1.2".to_vec(), vec![255, 255, 255, 0]));
    assert!(offer.opts().get(OptionCode::ClientIdentifier).is_none());
}

// RFC 2131 §4.3.1: a server may ignore the time that the client asks for.
#[test]
fn a_phone_that_brings_its_own_lease_time_gets_the_sites() {
    let mut site = Site::new(DhcpSettings { lease_seconds: Some(3600), ..all_settings() });
    for asked in [1_u32, 0, u32::MAX] {
        let (offer, _) = site.answer(&spa(MessageKind::Discover).option(51, &asked.to_be_bytes()));
        assert_eq!(raw(&offer, 51), 3600_u32.to_be_bytes());
    }
}

// RFC 2132 §3.14 wants ASCII; some phones were named by people.
#[test]
fn a_host_name_that_is_no_text_before_option_60_hides_nothing() {
    let site = Site::inform();
    let mut packet = from([0, 0x1b, 0x54, 9, 9, 9], MessageKind::Inform).option(12, &[0xff, 0xfe, 0x80, b'a']);
    packet = packet.option(60, b"Cisco Systems, Inc. IP Phone CP-7970G");
    assert_eq!(raw(&site.replied(&packet).0, 66), b"192.168.1.2");
}

// RFC 768: a checksum of 0 means that the sender made none.
#[test]
fn a_datagram_without_a_udp_checksum_is_read() {
    let payload = spa(MessageKind::Discover).bytes();
    let to = std::net::SocketAddrV4::new(Ipv4Addr::BROADCAST, 67);
    let from = std::net::SocketAddrV4::new(NONE, 68);
    let mut sent = frame::emit((SPA, from), (MacAddr::new([0xff; 6]), to), &payload).unwrap();
    sent[40..42].fill(0);
    let read = frame::parse(&sent).unwrap();
    assert!(Request::parse(read.payload).is_ok());
}

// RFC 5859 §2: servers in order of preference.
#[test]
fn option_150_lists_the_sites_servers_in_their_order_asked_for_or_not() {
    let mut site = Site::all();
    for packet in [cisco(MessageKind::Discover), Packet::new(PC, MessageKind::Discover).option(55, &[1, 3])] {
        let (offer, _) = site.answer(&packet);
        assert_eq!(raw(&offer, 150), [192, 168, 1, 2, 192, 168, 1, 3]);
        assert_eq!((raw(&offer, 66), offer.siaddr()), (b"192.168.1.2".to_vec(), SERVER));
    }
}

// What vendors read besides 66 and 150: 43, 125, 128 to 135 (VLAN), 156, 159, 160, 161, 176, 242.
#[test]
fn every_option_that_a_vendor_reads_can_come_from_the_site_and_goes_to_that_vendor_alone() {
    for code in [43, 125, 128, 132, 133, 135, 156, 159, 160, 161, 176, 242] {
        let option = VendorOption { vendor_class: "polycom-".to_owned(), code, value: vec![1, 2, 3] };
        let mut site = Site::new(DhcpSettings { vendor_options: vec![option], ..all_settings() });
        let (to_polycom, _) = site.answer(&polycom(MessageKind::Discover).option(55, &[1, 3, code]));
        assert!(to_polycom.opts().get(OptionCode::from(code)).is_some(), "{code}");
        let (to_cisco, _) = site.answer(&cisco(MessageKind::Discover).option(55, &[1, 3, code]));
        assert!(to_cisco.opts().get(OptionCode::from(code)).is_none(), "{code}");
    }
}

// RFC 3396 §5 to §8, RFC 2132 §9.3: parts of an option that do not follow each other, over all three fields.
#[test]
fn a_vendor_class_in_parts_and_in_overloaded_fields_is_put_together() {
    let site = Site::inform();
    let mut bytes = from([0, 0x1b, 0x54, 9, 9, 9], MessageKind::Inform).bytes();
    bytes.truncate(243);
    bytes.extend([60, 6]);
    bytes.extend(b"Cisco ");
    bytes.extend([52, 1, 3, 60, 5]);
    bytes.extend(b"Syste");
    bytes.push(255);
    // RFC 3396 §7: the options field, then `file`, then `sname`.
    bytes[108..123].copy_from_slice(b"<\x0cms, Inc. IP \xff");
    bytes[44..52].copy_from_slice(b"<\x05Phone\xff");
    let request = Request::parse(&bytes).unwrap();
    assert_eq!(request.options.vendor_class(), Some(&b"Cisco Systems, Inc. IP Phone"[..]));
    assert!(site.scope.is_phone(&request));
}

// RFC 4361 §6.1: an identifier of type 255 is the client, whatever its hardware address.
#[test]
fn a_client_with_a_duid_keeps_its_address_when_its_hardware_is_replaced() {
    let mut site = Site::all();
    let duid = [255, 0, 0, 0, 1, 0, 2, 0, 0, 0xab, 0x11, 9, 9, 9, 9];
    let (before, _) = site.answer(&Packet::new(PC, MessageKind::Discover).option(61, &duid));
    let (after, _) = site.answer(&Packet::new(SPA, MessageKind::Discover).option(61, &duid));
    assert_eq!((before.yiaddr(), raw(&after, 61)), (after.yiaddr(), duid.to_vec()));
}

// RFC 2131 §4.3.2 lets a server say NAK; beside other servers that is not ours to say.
#[test]
fn outside_all_nothing_that_a_client_says_is_met_with_a_nak() {
    let phones_only = DhcpSettings { mode: DhcpMode::PhonesOnly, ..all_settings() };
    let mut site = Site::new(phones_only);
    assert_eq!(site.scope.mode, ActiveMode::PhonesOnly);
    let (offer, _) = site.answer(&spa(MessageKind::Discover));
    site.lease(POLYCOM, Ipv4Addr::new(192, 168, 1, 110));
    let ask = || spa(MessageKind::Request);
    for request in [
        // Selects us with an address that another has; starts again with addresses of others and of other networks.
        ask().option(50, &[192, 168, 1, 110]).option(54, &SERVER.octets()),
        ask().option(50, &[192, 168, 1, 110]),
        ask().option(50, &[10, 0, 0, 1]),
        ask().option(50, &[192, 168, 1, 50]),
        // Rebinds and renews what is not its own.
        ask().ciaddr([192, 168, 1, 110]),
        ask().ciaddr([10, 0, 0, 1]),
        ask().ciaddr([192, 168, 1, 50]),
        // Selects another server.
        ask().option(50, &offer.yiaddr().octets()).option(54, &ROUTER.octets()),
    ] {
        assert!(matches!(site.decide(&request), Verdict::Silence(..)), "{:?}", request.options);
    }
}

#[test]
fn where_only_phones_are_served_nobody_else_hears_anything_whatever_he_sends() {
    let classes = [&b""[..], b"MSFT 5.0", b"not a Cisco Systems, Inc. IP Phone", b"Cisco Systems, Inc. IP Phon"];
    for mode in [DhcpMode::PhonesOnly, DhcpMode::Augment, DhcpMode::Inform, DhcpMode::Shadow] {
        let mut site = Site::new(DhcpSettings { mode, ..all_settings() });
        // Even with what looks like a lease of ours.
        let address = [192, 168, 1, 120];
        site.lease(PC, address.into());
        for (kind, class) in (1..=8).flat_map(|kind| classes.map(|class| (kind, class))) {
            let kind = match kind {
                1 => MessageKind::Discover,
                4 => MessageKind::Decline,
                7 => MessageKind::Release,
                8 => MessageKind::Inform,
                _ => MessageKind::Request,
            };
            for packet in [
                from(PC.octets(), kind).option(50, &address),
                from(PC.octets(), kind).option(50, &address).option(54, &SERVER.octets()),
                from(PC.octets(), kind).ciaddr(address),
                from(PC.octets(), kind).giaddr([192, 168, 1, 9]).option(82, b"\x01\x01x"),
            ] {
                let packet = packet.option(60, class).option(12, b"SEP001B54123456");
                assert!(matches!(site.decide(&packet), Verdict::Silence(_, None)), "{mode:?} {:?}", packet.options);
            }
        }
    }
}

// RFC 2132 §9.14: an identifier has at least two octets; a shorter one tells nobody apart, and comes back all the same.
#[test]
fn an_identifier_of_one_octet_makes_no_client_of_its_own() {
    let mut site = Site::all();
    let (first, _) = site.answer(&spa(MessageKind::Discover).option(61, &[7]));
    let (second, _) = site.answer(&cisco(MessageKind::Discover).option(61, &[7]));
    assert_ne!(first.yiaddr(), second.yiaddr(), "two devices");
    assert_eq!(raw(&second, 61), [7]);
    assert_eq!(site.answer(&spa(MessageKind::Discover)).0.yiaddr(), first.yiaddr(), "the same with it and without");
}

// RFC 2131 table 5: ciaddr is 0 in a DISCOVER.
#[test]
fn an_address_that_a_client_does_not_have_is_never_answered_to() {
    let mut site = Site::all();
    let foreign = [203, 0, 113, 9];
    let (offer, to) = site.answer(&spa(MessageKind::Discover).ciaddr(foreign));
    assert_eq!(to, Destination::Client(offer.yiaddr(), SPA));
    let (_, to) = site.answer(&spa(MessageKind::Discover).ciaddr(foreign).broadcast());
    assert_eq!(to, Destination::Everyone);
    let renewal = spa(MessageKind::Request).ciaddr(foreign);
    assert_eq!(site.replied(&renewal).1, Destination::Everyone, "a NAK");
}

// RFC 2132 §9.8.
#[test]
fn what_a_phone_asks_for_has_room_before_what_it_does_not() {
    let mut site = Site::all();
    for (asked, wanted, other) in [(&[1, 3, 66][..], 66, 150), (&[1, 3, 150], 150, 66)] {
        let phone = spa(MessageKind::Discover).option(55, asked).option(61, &[1; 7]);
        let discover = |relay: usize| phone.clone().option(82, &vec![7; relay]);
        for relay in 200..=255 {
            let (offer, _) = site.answer(&discover(relay));
            let has =
                |code: u8| if code == 150 { !offer.list.is_empty() } else { offer.opts().get(code.into()).is_some() };
            assert!(has(wanted) && has(1) && has(3), "{asked:?} {relay}");
            assert!(relay != 255 || !has(other), "this test is about too little room");
            assert!(relay != 200 || (has(other) && has(58)));
        }
    }
}

// RFC 3396 and RFC 3046 §2.2.
#[test]
fn relay_information_of_several_parts_comes_back_whole_and_leaves_room_for_a_tftp_server() {
    for length in [255, 256, 258, 300, 510, 700, 1000] {
        let site = Site::all();
        let relay: Vec<u8> = (0..=255).cycle().take(length).collect();
        let discover = spa(MessageKind::Discover).option(55, &[1, 3, 66]).option(82, &relay);
        let request = Request::parse(&discover.bytes()).unwrap();
        let Verdict::Reply(reply, ..) = site.decide(&discover) else { panic!("{length}") };
        assert!(!reply.lacks_tftp() && reply.emit().len() <= request.max_reply_bytes(), "{length}");
        let read = Options::parse(&reply.emit()[240..], &[], &[]);
        assert_eq!(read.get(OptionCode::RelayAgentInformation), Some(&relay[..]), "{length}");
        assert_eq!(read.get(options::TFTP_SERVER_NAME), Some(&b"192.168.1.2"[..]), "{length}");
        assert_eq!(read.addresses(OptionCode::Router), [ROUTER], "{length}");
    }
    // More than a reply can hold beside the lease.
    let bytes = Packet { padded: false, ..Packet::new(SPA, MessageKind::Discover) }.option(82, &[7; 1194]).bytes();
    assert!(matches!(Request::parse(&bytes), Err(ParseError::OptionTooLong(82, 1194))));
}

#[test]
fn a_reply_without_room_for_a_tftp_server_says_so() {
    let site = Site::all();
    let discover = |identifier: &[u8]| spa(MessageKind::Discover).option(61, identifier).option(82, &[7; 255]);
    let lacks = |packet: &Packet| match site.decide(packet) {
        Verdict::Reply(reply, ..) => reply.lacks_tftp(),
        verdict => panic!("{verdict:?}"),
    };
    assert!(lacks(&discover(&[7; 200])));
    assert!(!lacks(&discover(&[7; 7])));
}
