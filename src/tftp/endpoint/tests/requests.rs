//! What comes to port 69, and what it is answered with.

use std::time::Duration;

use super::*;
use ids::Generation;

#[test]
fn not_yours_not_found_and_no_name_are_the_same_packet() {
    let mut site = site();
    let phone = port(PHONE, 2000);
    for name in ["SEP0004F2000003.cnf.xml", "SEP0004F2000099.cnf.xml", "nothing", "../etc/passwd", "", "a\u{1}b"] {
        site.ask(phone, name, &[]);
        let answer = site.hear();
        assert_eq!((&answer.bytes[..], answer.to, answer.way), (NOT_FOUND, phone, Way::Refusal), "{name:?}");
    }
    site.request(phone, b"\0\x01\xff\xfe\0octet\0");
    assert_eq!(site.hear().bytes, NOT_FOUND);
    assert!(site.is_idle());
}

#[test]
fn outside_the_lan_there_is_silence() {
    let mut site = site();
    let outside = Ipv4Addr::new(10, 20, 0, 7);
    site.ask(port(outside, 2000), "ringlist.xml", &[]);
    site.request(port(outside, 2000), &rrq("ringlist.xml", TransferMode::Mail, &[]));
    site.request(port(outside, 2000), b"\0\x02a\0octet\0");
    // The broadcast address of the LAN is nobody's.
    site.ask(port(Ipv4Addr::new(10, 0, 0, 255), 2000), "ringlist.xml", &[]);
    site.ask(port(PHONE, 0), "ringlist.xml", &[]);
    site.wait_millis(5000);
    assert!(site.hears_nothing() && site.is_idle());
    assert_eq!(site.outside[..3], [outside; 3], "who asked is told");
}

#[test]
fn mail_is_an_illegal_operation_and_writing_is_refused_alike() {
    let mut site = site();
    site.request(port(PHONE, 2000), &rrq("ringlist.xml", TransferMode::Mail, &[]));
    assert_eq!(site.hear().bytes, ErrorReply::IllegalOperation.packet());
    for name in ["SEP0004F2000002.cnf.xml", "SEP0004F2000003.cnf.xml", "0004f2000002-app.log"] {
        site.request(port(PHONE, 2000), format!("\0\u{2}{name}\0octet\0").as_bytes());
        assert_eq!(site.hear().bytes, b"\0\x05\0\x02Access violation\0");
    }
}

#[test]
fn a_phone_whose_first_packet_is_refused_is_told_as_the_phone_that_it_is() {
    let writes = b"\0\x020004f2000002-boot.log\0octet\0".to_vec();
    let mail = rrq("ringlist.xml", TransferMode::Mail, &[]);
    for (request, reason) in [(writes, FileRefusal::WriteRefused), (mail, FileRefusal::UnsupportedMode)] {
        let mut site = site();
        for address in [PHONE, STRANGER] {
            site.request(port(address, 2000), &request);
            assert_eq!(site.hear().bytes[..2], [0, 5], "the answer does not wait");
        }
        assert_eq!((&site.resolve[..], site.records.len()), (&[STRANGER][..], 1));
        site.knows(STRANGER, PHONE_MAC);
        site.wait_millis(10);
        for record in &site.records {
            let told = (record.device, record.known, record.generation, record.outcome);
            assert_eq!(told, (Some(PHONE_MAC), true, Generation(7), FileOutcome::from(reason)));
        }
        assert_eq!(site.records.len(), 2);
        assert!(site.is_idle());
        // Of an address that stays unknown nobody is told that it is not in the inventory.
        for number in 0..10 {
            site.request(port(Ipv4Addr::new(10, 0, 0, 77), 2000 + number), &request);
        }
        site.wait_millis(1010);
        assert_eq!((site.records.len(), site.count("tftp.unresolved")), (2, 10));
        assert!(site.is_idle());
        // A device that is none of the inventory's is told as such.
        site.knows(Ipv4Addr::new(10, 0, 0, 78), MacAddr::new([2, 0, 0, 0, 0, 0x78]));
        site.request(port(Ipv4Addr::new(10, 0, 0, 78), 2000), &request);
        assert!(!site.records.last().unwrap().known);
    }
}

#[test]
fn an_address_that_nobody_knows_yet_is_resolved_and_its_first_request_is_answered() {
    let mut site = site();
    let phone = port(STRANGER, 2000);
    site.ask(phone, OWN, &[]);
    // The phone's patience is short; it still gets one answer.
    site.wait_millis(100);
    site.ask(phone, OWN, &[]);
    assert_eq!(site.resolve, [STRANGER]);
    // The first call may be lost on a busy machine or LAN.
    site.wait_millis(600);
    assert_eq!(site.resolve, [STRANGER; 3]);
    assert!(site.hears_nothing());
    site.knows(STRANGER, PHONE_MAC);
    site.wait_millis(10);
    let first = site.hear();
    assert_eq!((&first.bytes[..4], first.way), (&b"\0\x03\0\x01"[..], Way::Frame(first.from.unwrap(), PHONE_MAC)));
    site.ack(&first, 1);
    assert!(site.hears_nothing() && site.is_idle());
    assert_eq!(site.records.len(), 1);
    assert!(site.records[0].duration < HOLD, "{:?}", site.records[0].duration);
}

#[test]
fn an_address_that_stays_unknown_hears_nothing_of_files_that_may_be_its_own() {
    // ERROR 1 would make a phone give up its own file; after silence it asks again.
    for name in [OWN, "SEP0004F2000003.cnf.xml", "SEP0004F2000003-other.xml", "model.bin"] {
        let mut site = site();
        site.ask(port(STRANGER, 2000), name, &[]);
        site.wait_millis(20_000);
        assert!(site.hears_nothing() && site.is_idle(), "{name}");
        assert_eq!((site.count("tftp.unresolved"), site.count("tftp.refused")), (1, 0), "{name}");
    }
}

#[test]
fn an_address_that_stays_unknown_gets_what_everyone_gets_after_a_second() {
    let mut site = site();
    let asked = site.now;
    site.ask(port(STRANGER, 2000), "ringlist.xml", &[]);
    site.ask(port(STRANGER, 2001), "nobody-has-this.cfg", &[]);
    site.wait_millis(1010);
    let mut answers = [site.hear().bytes, site.hear().bytes];
    answers.sort();
    assert_eq!(answers, [b"\0\x03\0\x01<rings/>\r\n".to_vec(), NOT_FOUND.to_vec()]);
    assert!(site.now - asked < Duration::from_millis(1100));
}

#[test]
fn on_loopback_nobody_waits_to_be_resolved() {
    let mut site = site();
    *site.devices.write().unwrap() = access::DeviceTable::without_link();
    site.ask(port(STRANGER, 2000), OWN, &[]);
    assert_eq!(site.hear().bytes, NOT_FOUND);
}

#[test]
fn requests_that_wait_are_bounded_for_one_address_and_for_all() {
    let mut site = site();
    for number in 0..10 {
        site.ask(port(STRANGER, 2000 + number), "ringlist.xml", &[]);
    }
    assert_eq!((site.endpoint.held(), site.count("tftp.not-held")), (MAX_HELD_PER_ADDRESS, 6));
    for last in 10..250 {
        for number in 0..4 {
            site.ask(port(Ipv4Addr::new(10, 0, 0, last), 2000 + number), "ringlist.xml", &[]);
        }
    }
    assert_eq!(site.endpoint.held(), MAX_HELD);
    site.endpoint.refuse_new();
    assert!(site.is_idle());
}

#[test]
fn what_is_no_request_is_never_answered() {
    let mut site = site();
    for datagram in [&b"\0\x05\0\0loop\0"[..], b"\0\x04\0\x01", b"\0\x03\0\x01x", b"\0\x06", b"", b"\0\x01cut", b"\xff"]
    {
        site.request(port(PHONE, 2000), datagram);
    }
    assert!(site.hears_nothing() && site.is_idle());
}

#[test]
fn a_repeated_request_does_not_start_a_second_transfer() {
    let mut site = site();
    site.ask(port(PHONE, 2000), "jar.sbn", &[]);
    let first = site.hear();
    site.wait_millis(100);
    site.ask(port(PHONE, 2000), "jar.sbn", &[]);
    assert_eq!(site.hear(), first);
    site.ack(&first, 1);
    let second = site.hear();
    assert_eq!((&second.bytes[..4], second.from), (&b"\0\x03\0\x02"[..], first.from));
    assert_eq!(site.ports.len(), 1);
}

#[test]
fn a_new_request_from_a_busy_port_replaces_the_old_transfer_without_an_error() {
    // Cisco 7921 has one port for all its requests: an ERROR of the old transfer would end the new one.
    let mut site = site();
    let phone = port(PHONE, 2000);
    site.ask(phone, "jar.sbn", &[]);
    let old = site.hear();
    site.ask(phone, "ringlist.xml", &[]);
    let new = site.hear();
    assert_eq!(new.bytes, b"\0\x03\0\x01<rings/>\r\n");
    assert_ne!(old.from, new.from);
    site.ack(&old, 1);
    site.wait_millis(100);
    assert!(site.hears_nothing(), "the old transfer is over");
    site.ack(&new, 1);
    assert!(site.hears_nothing() && site.is_idle());
}

#[test]
fn a_stranger_on_the_port_gets_error_5_and_the_transfer_goes_on() {
    // RFC 1350 §4
    let mut site = site();
    site.ask(port(PHONE, 2000), "jar.sbn", &[]);
    let first = site.hear();
    let (ticket, other) = (first.from.unwrap(), port(OTHER, 3000));
    site.datagram(ticket, other, b"\0\x04\0\x01");
    let answer = site.hear();
    assert_eq!((&answer.bytes[..], answer.to), (ErrorReply::UnknownTransferId.packet(), other));
    site.datagram(ticket, other, b"\0\x05\0\0die\0");
    site.datagram(ticket, port(Ipv4Addr::new(10, 9, 9, 9), 3000), b"\0\x04\0\x01");
    assert!(site.hears_nothing());
    site.ack(&first, 1);
    assert_eq!(site.hear().bytes[..4], [0, 3, 0, 2]);
}

#[test]
fn a_transfer_ends_on_the_release_that_it_began_with() {
    let mut site = site();
    let second = begin(&mut site, port(PHONE, 2000), "jar.sbn");
    site.endpoint.serve(Arc::new(Catalog::empty("site".parse().unwrap())));
    site.ack(&second, 2);
    assert_eq!(site.hear().bytes[..4], [0, 3, 0, 3]);
    site.ask(port(OTHER, 2000), "jar.sbn", &[]);
    assert_eq!(site.hear().bytes, NOT_FOUND);
}

#[test]
fn a_client_that_repeats_its_request_while_the_disk_is_slow_gets_one_answer() {
    let mut site = site();
    site.slow_disk = true;
    for _ in 0..3 {
        site.ask(port(PHONE, 2000), OWN, &[("tsize", "0")]);
        site.wait_millis(500);
    }
    assert!(site.hears_nothing());
    site.finish_work();
    assert_eq!(site.hear().bytes, b"\0\x06tsize\x0019\0");
    assert!(site.hears_nothing());
    assert_eq!(site.count("tftp.repeated"), 2);
}
