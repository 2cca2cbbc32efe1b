//! What routers leave out, say twice or mean for ever, what switches put in, and who speaks in a router's name.

use super::*;
use crate::augment::completed_offer::wants_rapid_commit;

const LEASE: OptionCode = OptionCode::AddressLeaseTime;

/// The phone's message with further options.
fn with(mut bytes: Vec<u8>, more: &[(u8, &[u8])]) -> Vec<u8> {
    let end = bytes.iter().rposition(|byte| *byte == 255).unwrap();
    bytes.truncate(end);
    more.iter().for_each(|(code, value)| options::emit(OptionCode::from(*code), value, &mut bytes));
    bytes.push(255);
    bytes.resize(bytes.len().max(300), 0);
    bytes
}

/// A router's OFFER with these options and no others.
fn bare(lan: &TestLan, options: &[(u8, &[u8])]) -> ServerMessage {
    let mut bytes = emit_offer(lan.xid(), ROUTER, ADDRESS, &[]);
    bytes.truncate(240);
    for (code, value) in [(53, &[2][..]), (54, &ROUTER.octets())].iter().chain(options) {
        options::emit(OptionCode::from(*code), value, &mut bytes);
    }
    bytes.push(255);
    ServerMessage::parse(&bytes).unwrap()
}

/// The options of a message as they were written, up to the end.
fn written(message: &[u8]) -> Vec<(u8, &[u8])> {
    let mut rest = &message[240..];
    let mut all = Vec::new();
    while let [code, length, ..] = *rest {
        match code {
            255 => break,
            0 => rest = &rest[1..],
            _ => {
                let end = 2 + usize::from(length);
                all.push((code, &rest[2..end]));
                rest = &rest[end..];
            }
        }
    }
    all
}

fn last_option(message: &[u8]) -> (u8, &[u8]) {
    *written(message).last().unwrap()
}

// RFC 3046 §2.2: a switch that puts option 82 in lets only those replies through that end with it.
#[test]
fn relay_information_and_identifier_come_back_as_they_were_in_the_request_in_every_answer() {
    let told: &[(u8, &[u8])] = &[(61, &[1, 9]), (82, b"\x01\x02p1")];
    let now: &[(u8, &[u8])] = &[(61, &[1, 9]), (82, b"\x01\x03p24")];
    let mut lan = TestLan::new();
    let relayed = lan.relays(&with(discover("AastraIPPhone6731i"), told));
    let relayed = Request::parse(&relayed[0].1).unwrap();
    let kept = relayed.options.get(OptionCode::RelayAgentInformation);
    assert_eq!(kept, Some(&b"\x01\x02p1"[..]), "the router may choose the lease by it");
    // The router echoes both to us. What it echoes is not what the phone's REQUEST brings.
    let actions = lan.router(&offer(lan.xid(), ROUTER, ADDRESS, told));
    assert_eq!(last_option(replies(&actions)[0]), (82, &b"\x01\x02p1"[..]));
    for message in [select(ROUTER, ADDRESS), reboot(ADDRESS), rebind(ADDRESS)] {
        let actions = lan.request(&with(message.clone(), now), true);
        assert_eq!(last_option(replies(&actions)[0]), (82, &b"\x01\x03p24"[..]));
        let ack = answer(&actions).unwrap();
        assert_eq!(ack.options.get(OptionCode::ClientIdentifier), Some(&[1, 9][..]));
        // RFC 6842 §3: who sent none gets none, and nobody gets another's.
        let ack = answer(&lan.request(&message, true)).unwrap();
        assert_eq!(ack.options.get(OptionCode::ClientIdentifier), None);
        assert_eq!(ack.options.get(OptionCode::RelayAgentInformation), None);
    }
}

#[test]
fn relay_information_takes_its_room_before_what_we_add() {
    let mut lan = TestLan::new();
    let big = [7; 200];
    lan.relays(&with(discover("Polycom-SPIP670"), &[(82, &big)]));
    lan.router(&offer(lan.xid(), ROUTER, ADDRESS, &[(43, &[1; 20])]));
    let actions = lan.request(&with(select(ROUTER, ADDRESS), &[(82, &big)]), true);
    let ack = replies(&actions)[0];
    assert!(ack.len() <= 548 && last_option(ack) == (82, &big[..]), "{}", ack.len());
}

#[test]
fn header_and_order_of_options_are_what_the_client_asked_for() {
    let mut lan = TestLan::new();
    let mut said = with(discover("Polycom-SPIP670"), &[]);
    said[1] = 6;
    let list = said.iter().position(|byte| *byte == 55).unwrap();
    // 66 first, then the router before the mask.
    said[list + 2..list + 6].copy_from_slice(&[66, 3, 1, 150]);
    lan.relays(&said);
    let mut wrong = offer(lan.xid(), ROUTER, ADDRESS, &[(3, &[192, 168, 1, 1])]);
    wrong.header[2] = 16;
    lan.router(&wrong);
    let mut request = select(ROUTER, ADDRESS);
    request[1] = 6;
    let actions = lan.request(&request, true);
    let ack = replies(&actions)[0];
    assert_eq!(ack[..4], [2, 6, 6, 0]);
    let order: Vec<u8> = written(ack).into_iter().map(|(code, _)| code).collect();
    assert_eq!(order, [53, 54, 51, 58, 59, 66, 1, 3, 150], "the mask before the router (RFC 2132 §3.3)");
}

#[test]
fn what_a_router_says_twice_is_said_once() {
    let mut lan = TestLan::new();
    lan.relays(&discover("Polycom-SPIP670"));
    let mut bytes = emit_offer(lan.xid(), ROUTER, ADDRESS, &[(3, &[192, 168, 1, 1]), (15, b"lan")]);
    let options = bytes[240..bytes.len() - 1].to_vec();
    bytes.pop();
    bytes.extend(options);
    // A mask that contradicts the first.
    bytes.extend([1, 4, 255, 255, 0, 0, 255]);
    lan.router(&ServerMessage::parse(&bytes).unwrap());
    let ack = lan.select(ROUTER, ADDRESS).unwrap();
    for (code, value) in [(1, &[255, 255, 255, 0][..]), (51, &HOUR.to_be_bytes()), (54, &ROUTER.octets()), (15, b"lan")]
    {
        assert_eq!(ack.options.get(OptionCode::from(code)), Some(value), "{code}");
    }
    lan.pass(Duration::from_secs(600));
    let later = answer(&lan.request(&reboot(ADDRESS), true)).unwrap();
    assert_eq!(later.options.seconds(LEASE), Some(HOUR - 600));
}

// A1: the copies put together are a lease of 921,600 seconds.
#[test]
fn a_time_that_a_router_writes_twice_the_first_too_short_is_never_longer_than_it_says() {
    let (short, hour) = ([0, 14, 16], HOUR.to_be_bytes());
    for code in [51, 58, 59] {
        let mut lan = TestLan::new();
        lan.relays(&discover("Polycom-SPIP670"));
        let options: Vec<(u8, &[u8])> = [51, 58, 59]
            .into_iter()
            .flat_map(|of| (of == code).then_some((of, &short[..])).into_iter().chain([(of, &hour[..])]))
            .chain([(1, &short[..]), (1, &[255, 255, 255, 0])])
            .collect();
        lan.router(&bare(&lan, &options));
        lan.pass(Duration::from_secs(1));
        for (message, time) in [(select(ROUTER, ADDRESS), HOUR), (reboot(ADDRESS), HOUR)] {
            let actions = lan.request(&message, true);
            let ack = answer(&actions).unwrap();
            for of in [51, 58, 59] {
                assert_eq!(ack.options.seconds(OptionCode::from(of)), Some(time), "{code} {of}");
                assert_eq!(written(replies(&actions)[0]).iter().filter(|(its, _)| *its == of).count(), 1, "{of}");
            }
            assert_eq!(ack.options.get(OptionCode::SubnetMask), Some(&[255, 255, 255, 0][..]));
        }
    }
}

// A1.
#[test]
fn what_a_router_leaves_out_is_left_out() {
    let hour = HOUR.to_be_bytes();
    for (given, missing) in [
        (&[(51, &hour[..])][..], &[1, 3, 6, 58, 59][..]),
        (&[(51, &hour), (1, &[255, 255, 255, 0])], &[3, 58, 59]),
        (&[(51, &hour), (3, &[192, 168, 1, 1])], &[1, 58, 59]),
        (&[(51, &hour), (58, &[0, 0, 1, 0])], &[1, 3, 59]),
    ] {
        let mut lan = TestLan::new();
        lan.relays(&discover("Polycom-SPIP670"));
        lan.router(&bare(&lan, given));
        lan.pass(Duration::from_secs(1));
        for message in [select(ROUTER, ADDRESS), reboot(ADDRESS)] {
            let ack = answer(&lan.request(&message, true)).unwrap_or_else(|| panic!("{given:?}"));
            assert!(missing.iter().all(|code| ack.options.get(OptionCode::from(*code)).is_none()), "{ack:?}");
            assert_eq!(ack.options.addresses(options::TFTP_SERVERS), [BOX]);
        }
    }
    let mut lan = TestLan::new();
    lan.relays(&discover("Polycom-SPIP670"));
    let actions = lan.router(&bare(&lan, &[(1, &[255, 255, 255, 0])]));
    assert!(actions.contains(&NotCompleted::NoLeaseTime.into()), "{actions:?}");
}

// RFC 2131 §3.3; A1.
#[test]
fn a_lease_for_ever_stays_one() {
    let ever = [255; 4];
    for times in [&[(51, &ever[..])][..], &[(51, &ever), (58, &ever), (59, &ever)]] {
        let mut lan = TestLan::new();
        lan.relays(&discover("Polycom-SPIP670"));
        lan.router(&bare(&lan, times));
        let actions = lan.request(&select(ROUTER, ADDRESS), true);
        let lease = kept(&actions);
        for days in [0, 1, 30, 400] {
            lan.pass(Duration::from_secs(days * 86_400));
            let ack = answer(&lan.request(&reboot(ADDRESS), true)).unwrap();
            for (code, value) in times {
                assert_eq!(ack.options.get(OptionCode::from(*code)), Some(*value), "{days}");
            }
            assert_eq!(ack.options.get(OptionCode::Renewal).is_some(), times.len() > 1);
        }
        let mut lan = TestLan::new();
        lan.augment.recall(&lan.scope, &[(lease, Duration::from_secs(5_000_000_000))], lan.now);
        let ack = answer(&lan.request(&reboot(ADDRESS), true)).unwrap();
        assert_eq!(ack.options.seconds(LEASE), Some(u32::MAX));
    }
    // T1 and T2 that never come, in a lease that ends.
    let mut lan = TestLan::new();
    lan.relays(&discover("Polycom-SPIP670"));
    lan.router(&bare(&lan, &[(51, &HOUR.to_be_bytes()), (58, &ever), (59, &ever)]));
    lan.select(ROUTER, ADDRESS).unwrap();
    lan.pass(Duration::from_secs(600));
    let ack = answer(&lan.request(&reboot(ADDRESS), true)).unwrap();
    assert_eq!(ack.options.seconds(OptionCode::Renewal), Some(u32::MAX));
    assert_eq!(ack.options.seconds(LEASE), Some(HOUR - 600));
}

#[test]
fn a_message_that_is_cut_off_is_relayed_as_it_was_said() {
    let mut lan = TestLan::new();
    let mut said = discover("Polycom-SPIP670");
    let end = said.iter().rposition(|byte| *byte == 255).unwrap();
    said.truncate(end);
    said.extend([1, 3, 0]);
    let relayed = lan.relays(&said);
    let (theirs, ours) = (Request::parse(&said).unwrap(), Request::parse(&relayed[0].1).unwrap());
    assert_eq!(ours.options, theirs.options);
}

// RFC 4039: the router leases without OFFER and REQUEST.
#[test]
fn a_phone_that_is_leased_at_once_is_completed_at_its_next_start_and_counted() {
    let mut lan = TestLan::new();
    let said = with(discover("Polycom-SPIP670"), &[(80, &[])]);
    assert!(wants_rapid_commit(&Request::parse(&said).unwrap()));
    let relayed = lan.relays(&said);
    let (theirs, ours) = (Request::parse(&said).unwrap(), Request::parse(&relayed[0].1).unwrap());
    assert!(!wants_rapid_commit(&ours), "the router must not lease in our transaction");
    for (code, value) in theirs.options.iter().filter(|(code, _)| u8::from(*code) != 80) {
        assert_eq!(ours.options.get(code), Some(value));
    }
    let actions = lan.router(&offer(lan.xid(), ROUTER, ADDRESS, &[]));
    assert!(replies(&actions).is_empty() && actions.contains(&NotCompleted::RapidCommit.into()), "{actions:?}");
    assert!(actions.iter().any(|act| matches!(act, Action::Tell(Event::LearntLate { address: ADDRESS, .. }))));
    lan.pass(Duration::from_secs(600));
    let ack = answer(&lan.request(&reboot(ADDRESS), true)).unwrap();
    assert_eq!(ack.options.addresses(options::TFTP_SERVERS), [BOX]);
    assert_eq!(ack.options.seconds(LEASE), Some(HOUR - 600));
    // A router that does not grant it gets a REQUEST, which is completed as ever.
    let mut lan = TestLan::new();
    lan.relays(&said);
    lan.router(&offer(lan.xid(), ROUTER, ADDRESS, &[]));
    assert_eq!(lan.select(ROUTER, ADDRESS).unwrap().options.seconds(LEASE), Some(HOUR));
}

// A second server that was asked, too, knows its own transaction and nobody else's.
#[test]
fn terms_that_one_server_forges_in_the_name_of_another_are_not_believed() {
    let mut lan = TestLan::new();
    lan.augment.set_servers(&[ROUTER, SECOND]);
    let relays = lan.relays(&discover("AastraIPPhone6731i"));
    let xids: Vec<u32> = relays.iter().map(|(_, bytes)| Request::parse(bytes).unwrap().xid).collect();
    assert_ne!(xids[0], xids[1]);
    let evil = offer(lan.xid_of(SECOND), ROUTER, ADDRESS, &[(3, &[192, 168, 1, 254])]);
    let actions = lan.router(&evil);
    assert!(replies(&actions).is_empty() && actions.contains(&NotCompleted::Forged.into()), "{actions:?}");
    assert!(actions.iter().all(|act| !matches!(act, Action::Tell(Event::Heard(heard)) if heard.asked)));
    assert_eq!(lan.select(ROUTER, ADDRESS), None);
    // Nor does an earlier transaction of its own help, or that of our own question.
    lan.relays(&discover("AastraIPPhone6731i"));
    lan.router(&evil);
    let own = lan.augment.relay_own(SECOND, &question::emit(Question::Discover(None), BOX_MAC, 0), BOX);
    let Action::Relay(_, own) = own else { panic!() };
    lan.router(&offer(Request::parse(&own).unwrap().xid, ROUTER, ADDRESS, &[]));
    assert_eq!(lan.select(ROUTER, ADDRESS), None);
    // The router itself is believed.
    lan.router(&offer(lan.xid(), ROUTER, ADDRESS, &[]));
    assert!(lan.select(ROUTER, ADDRESS).is_some());
}

// A4. Routers that share their leases, as ISC's failover, Kea's high availability and routers behind one address do.
#[test]
fn an_agreeing_pair_leases_as_one_and_each_is_completed_in_its_own_name() {
    for (chosen, other) in [(ROUTER, SECOND), (SECOND, ROUTER)] {
        let mut lan = TestLan::new();
        lan.augment.set_servers(&[ROUTER, SECOND]);
        lan.relays(&discover("Polycom-SPIP670"));
        for server in [ROUTER, SECOND] {
            lan.router(&offer(lan.xid_of(server), server, ADDRESS, &[(3, &[192, 168, 1, 3])]));
        }
        let ack = lan.select(chosen, ADDRESS).unwrap();
        assert_eq!((ack.server, ack.options.seconds(LEASE)), (chosen, Some(HOUR)));
        // One of the two is gone; the phone starts again.
        lan.augment.set_servers(&[chosen]);
        assert_eq!(answer(&lan.request(&reboot(ADDRESS), true)).unwrap().server, chosen);
        assert_eq!(lan.select(other, ADDRESS), None);
    }
}

// A3: any machine can say NAK to everybody.
#[test]
fn a_nak_of_a_machine_that_is_not_the_phones_router_costs_no_phone_its_files() {
    for stranger in [SECOND, Ipv4Addr::new(10, 9, 9, 9), BOX] {
        let mut lan = TestLan::new();
        lan.augment.set_servers(&[ROUTER, SECOND]);
        let mut nak = offer(5, stranger, Ipv4Addr::UNSPECIFIED, &[]);
        nak.kind = MessageType::Nak;
        lan.learn();
        for message in [select(ROUTER, ADDRESS), reboot(ADDRESS), rebind(ADDRESS)] {
            let actions = lan.request(&message, true);
            nak.xid = answer(&actions).unwrap().xid;
            let actions = lan.router(&nak);
            assert!(!actions.iter().any(|act| matches!(act, Action::Tell(Event::Refused { .. }))), "{actions:?}");
            let heard = |act: &Action| matches!(act, Action::Tell(Event::Heard(it)) if it.nak && it.server == stranger);
            assert!(actions.iter().any(heard), "that it is there is told");
        }
        lan.learn();
        assert!(lan.select(ROUTER, ADDRESS).is_some());
        // The router's own disputes the lease, in each kind of answer.
        nak.server = ROUTER;
        nak.xid = answer(&lan.request(&reboot(ADDRESS), true)).unwrap().xid;
        assert!(lan.router(&nak).contains(&Action::Tell(Event::Refused { phone: PHONE, server: ROUTER })));
    }
}

// A5. What a name means is known once it was looked up.
#[test]
fn a_vendors_name_that_means_us_leads_no_phone_elsewhere() {
    let mut discover = question::emit(Question::Discover(None), PHONE, 5);
    discover.truncate(243);
    options::emit(OptionCode::ParameterRequestList, &[1, 3, 66, 160], &mut discover);
    discover.push(255);
    for (own, completed) in [(&["other.lan"][..], false), (&["tftp.lan", "other.lan"], true)] {
        let mut lan = TestLan::new();
        lan.augment.set_own_names(&own.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>());
        lan.relays(&discover);
        lan.router(&offer(lan.xid(), ROUTER, ADDRESS, &[(160, b"http://tftp.lan/")]));
        assert_eq!(lan.select(ROUTER, ADDRESS).is_some(), completed, "{own:?}");
    }
}
