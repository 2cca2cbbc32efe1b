//! How many transfers there may be, and who gives way.

use super::*;

const BUSY: &[u8] = b"\0\x05\0\0server busy, try again\0";

#[test]
fn of_twelve_transfers_at_once_those_that_are_accepted_end_well_and_the_others_hear_it_at_once() {
    let mut site = site();
    let expected = shelf::pattern(3000);
    let mut running: Vec<(SocketAddrV4, Left, Vec<u8>)> = Vec::new();
    let mut busy = 0;
    for number in 0..12 {
        let phone = port(PHONE, 2000 + number);
        site.ask(phone, "model.bin", &[]);
        let answer = site.hear();
        if answer.bytes == BUSY {
            busy += 1;
        } else {
            running.push((phone, answer, Vec::new()));
        }
    }
    assert_eq!((running.len(), busy), (8, 4));
    // In lock-step, each a round trip of 30 ms after the other.
    let mut done = 0;
    while let Some((phone, left, mut got)) = (!running.is_empty()).then(|| running.remove(0)) {
        site.wait_millis(30);
        assert_eq!((left.to, &left.bytes[..2]), (phone, &b"\0\x03"[..]), "{left:?}");
        got.extend_from_slice(&left.bytes[4..]);
        site.ack(&left, u16::from_be_bytes([left.bytes[2], left.bytes[3]]));
        if left.bytes.len() < 516 {
            assert_eq!(got, expected);
            done += 1;
        } else {
            running.push((phone, site.hear(), got));
        }
    }
    assert_eq!(done, 8);
    assert!(site.hears_nothing() && site.is_idle());
    site.ask(port(PHONE, 2012), "model.bin", &[]);
    assert_eq!(site.hear().bytes[..2], [0, 3], "there is room again");
}

#[test]
fn over_the_bound_one_address_is_refused_and_others_go_on() {
    let mut site = site_with(|config| config.max_transfers_per_address = 2);
    let reading = [begin(&mut site, port(PHONE, 2000), "jar.sbn"), begin(&mut site, port(PHONE, 2001), "jar.sbn")];
    for number in 0..200 {
        for (left, block) in reading.iter().zip([number, number]) {
            site.wait_millis(20);
            site.ack(left, block + 2);
            site.hear();
        }
    }
    site.ask(port(PHONE, 2002), "jar.sbn", &[]);
    assert_eq!(site.hear().bytes, BUSY);
    assert_eq!(site.records.last().unwrap().outcome, FileOutcome::from(FileRefusal::Busy));
    site.ask(port(OTHER, 2000), "ringlist.xml", &[]);
    assert_eq!(site.hear().bytes[..2], [0, 3]);
}

#[test]
fn requests_under_a_phones_address_keep_it_from_its_files_for_a_second_at_most() {
    let mut site = site_with(|config| config.max_transfers_per_address = 2);
    let forged = [port(PHONE, 2000), port(PHONE, 2001)];
    for peer in forged {
        site.ask(peer, "jar.sbn", &[]);
        site.hear();
    }
    let phone = port(PHONE, 3000);
    site.ask(phone, "ringlist.xml", &[]);
    assert_eq!(site.hear().bytes, BUSY, "nobody who has just been answered is ended");
    site.wait_millis(999);
    site.left.clear();
    site.ask(phone, "ringlist.xml", &[]);
    assert_eq!(site.hear().bytes, BUSY);
    site.wait_millis(1);
    site.left.clear();
    site.ask(phone, "ringlist.xml", &[]);
    // Whoever is ended hears it.
    let (error, data) = (site.hear(), site.hear());
    assert_eq!((&error.bytes[..], error.to), (BUSY, forged[0]));
    assert_eq!((&data.bytes[..], data.to), (&b"\0\x03\0\x01<rings/>\r\n"[..], phone));
    assert_eq!(site.count("tftp.made-room"), 1);
    site.wait_millis(60_000);
    assert!(site.is_idle());
}

#[test]
fn files_that_a_phone_stopped_reading_make_room_for_its_next() {
    let mut site = site_with(|config| config.max_transfers_per_address = 1);
    let second = begin(&mut site, port(PHONE, 2000), "jar.sbn");
    site.wait_millis(900);
    assert_eq!(site.hear().bytes, second.bytes, "the first resend");
    site.ask(port(PHONE, 2001), "ringlist.xml", &[]);
    while site.left.len() > 1 {
        site.hear();
    }
    assert_eq!(site.hear().bytes, BUSY, "within a second of its last word it may be writing its flash");
    site.wait_millis(101);
    site.left.clear();
    site.ask(port(PHONE, 2001), "ringlist.xml", &[]);
    assert_eq!(site.hear().bytes, BUSY);
    assert_eq!(site.hear().bytes, b"\0\x03\0\x01<rings/>\r\n");
}

#[test]
fn a_full_server_ends_the_client_that_never_answered_and_was_answered_longest_ago() {
    let mut site = site_with(|config| config.max_transfers = 3);
    site.ask(port(PHONE, 2000), "jar.sbn", &[]);
    site.wait_millis(1);
    site.ask(port(OTHER, 2000), "jar.sbn", &[]);
    site.left.clear();
    let goes_on = begin(&mut site, port(OTHER, 2001), "jar.sbn");
    site.left.clear();
    site.wait_millis(990);
    site.left.clear();
    site.ask(port(OTHER, 2002), "ringlist.xml", &[]);
    site.left.retain(|left| left.to != goes_on.to);
    assert_eq!(site.hear().to, port(PHONE, 2000), "it hears that the server is busy");
    assert_eq!(site.hear().to, port(OTHER, 2002));
    let (running, _) = site.endpoint.flows.running();
    assert_eq!(running, 3);
    site.left.clear();
    site.ack(&goes_on, 2);
    assert_eq!(site.hear().bytes[..4], [0, 3, 0, 3]);
}

#[test]
fn one_that_waits_for_the_disk_gives_way_too_and_takes_no_room_from_then_on() {
    let mut site = site_with(|config| config.max_transfers_per_address = 1);
    site.slow_disk = true;
    for round in 0..5 {
        site.ask(port(PHONE, 2000 + round), "jar.sbn", &[]);
        assert_eq!(site.endpoint.flows.running(), (1, 1));
        site.wait_millis(1000);
    }
    assert_eq!(site.left.iter().filter(|left| left.bytes == BUSY).count(), 4);
    site.finish_work();
    assert_eq!(site.left.pop_back().unwrap().bytes[..4], [0, 3, 0, 1]);
    assert_eq!(site.ports.len(), 1);
}

#[test]
fn without_a_port_the_client_hears_that_the_server_is_busy() {
    let mut site = site();
    site.free_ports = 0;
    site.ask(port(PHONE, 2000), OWN, &[]);
    let answer = site.hear();
    assert_eq!((&answer.bytes[..], answer.way), (BUSY, Way::Refusal));
    assert_eq!((site.count("tftp.no-port"), site.records.len()), (1, 1));
    assert!(site.hears_nothing() && site.is_idle());
}

#[test]
fn a_stop_tells_every_client_and_leaves_nothing() {
    let mut site = site();
    begin(&mut site, port(PHONE, 2000), "jar.sbn");
    site.slow_disk = true;
    site.ask(port(OTHER, 2000), "jar.sbn", &[]);
    site.endpoint.refuse_new();
    site.endpoint.stop(site.now);
    site.drain();
    for _ in 0..2 {
        assert_eq!(site.hear().bytes, ErrorReply::TemporaryFailure.packet());
    }
    site.finish_work();
    assert!(site.hears_nothing() && site.is_idle());
    assert!(site.records.iter().all(|record| record.outcome == TransferEnd::Failed.into()));
}
