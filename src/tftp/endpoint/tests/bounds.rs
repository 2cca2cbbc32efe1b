//! How many transfers there may be, and who gives way.

#![allow(clippy::cast_possible_truncation)]

use std::time::Duration;

use super::*;

const BUSY: &[u8] = b"\0\x05\0\0server busy, try again\0";

#[test]
fn of_twelve_transfers_at_once_those_that_are_accepted_end_well_and_the_others_hear_it_at_once() {
    let mut site = site();
    let expected = shelf::pattern(3000);
    let mut running: Vec<(SocketAddrV4, Left, Vec<u8>)> = Vec::new();
    for number in 0..12 {
        let phone = port(PHONE, 2000 + number);
        site.ask(phone, "model.bin", &[]);
        if number < 8 {
            running.push((phone, site.hear(), Vec::new()));
        }
        assert!(site.hears_nothing(), "as long as a place may become free, a request waits");
    }
    // In lock-step, each a round trip of 30 ms after the other.
    let (mut done, mut busy) = (0, 0);
    while let Some((phone, left, mut got)) = (!running.is_empty()).then(|| running.remove(0)) {
        site.wait_millis(30);
        busy += site.left.iter().filter(|left| left.bytes == BUSY).count();
        site.left.clear();
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
    assert_eq!((done, busy), (8, 4));
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
fn requests_under_a_phones_address_keep_it_waiting_for_a_round_trip() {
    let mut site = site_with(|config| config.max_transfers_per_address = 2);
    let forged = [port(PHONE, 2000), port(PHONE, 2001)];
    for peer in forged {
        site.ask(peer, "jar.sbn", &[]);
        site.hear();
    }
    let phone = port(PHONE, 3000);
    site.ask(phone, "ringlist.xml", &[]);
    site.ask(phone, "ringlist.xml", &[]);
    assert_eq!((site.endpoint.held(), site.count("tftp.repeated")), (1, 1));
    site.wait(UNPROVEN_GRACE - Duration::from_millis(1));
    assert!(site.hears_nothing(), "it would give up if it heard that the server is busy");
    site.wait_millis(1);
    // Whoever is ended hears it.
    let (error, data) = (site.hear(), site.hear());
    assert_eq!((&error.bytes[..], error.to), (BUSY, forged[0]));
    assert_eq!((&data.bytes[..], data.to), (&b"\0\x03\0\x01<rings/>\r\n"[..], phone));
    assert_eq!(site.count("tftp.made-room"), 1);
    site.wait_millis(60_000);
    assert!(site.is_idle());
}

/// A phone boots while somebody sends so many requests a second under its address, each from another port, for 12 seconds.
/// The phone asks again after 1, 2 and 4 seconds, `tries` times for each file at most. Returns how often it asked in all.
fn boots_beside_forged_requests(per_second: u64, tries: u32) -> u32 {
    let mut site = site();
    let (start, mut forged, mut asked) = (site.now, 0, 0);
    let phone_port = |number: u16| port(PHONE, 3000 + number);
    let wants = [OWN, "ringlist.xml", "model.bin", "tones.raw", "model.bin"];
    for (file, number) in wants.into_iter().zip(0..) {
        let phone = phone_port(number);
        let (mut wait, before) = (0, asked);
        let mut next = site.now + Duration::from_millis(1500);
        // What the phone acknowledges, 5 ms after it came.
        let mut to_ack: Option<(Instant, Left)> = None;
        let mut heard_last = false;
        while !heard_last || to_ack.is_some() {
            if site.now >= next && to_ack.is_none() {
                asked += 1;
                wait = (wait * 2).clamp(1, 4);
                // No clock of a phone beats with the flood's.
                next = site.now + Duration::from_millis(wait * 1000 + u64::from(asked) * 37 % 100);
                assert!(asked - before <= tries, "{file} beside {per_second} a second");
                site.ask(phone, file, &[]);
            }
            if let Some((_, left)) = to_ack.take_if(|(due, _)| site.now >= *due) {
                site.ack(&left, u16::from_be_bytes([left.bytes[2], left.bytes[3]]));
            }
            let flood = (site.now - start).min(Duration::from_secs(12)).as_millis() as u64 * per_second / 1000;
            while forged < flood {
                site.ask(port(PHONE, 20_000 + (forged * 7919 % 40_000) as u16), "model.bin", &[]);
                forged += 1;
            }
            while let Some(left) = site.left.pop_front() {
                if left.to == phone {
                    assert_ne!(left.bytes, BUSY, "{file} beside {per_second} a second");
                    heard_last |= left.bytes.len() < 516;
                    to_ack = Some((site.now + Duration::from_millis(5), left));
                    next = site.now + Duration::from_secs(4);
                }
            }
            site.wait_millis(1);
        }
    }
    site.wait_millis(60_000);
    assert!(site.is_idle());
    asked
}

#[test]
fn a_phone_boots_while_somebody_floods_its_address_with_requests() {
    assert_eq!([0, 10, 20].map(|many| boots_beside_forged_requests(many, 1)), [5; 3], "it is always answered at once");
    for many in [40, 100, 200] {
        boots_beside_forged_requests(many, 4);
    }
    // Over what one address may ask (`RequestRates::own`) chance decides which request is heard.
    boots_beside_forged_requests(400, 6);
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
    assert_eq!(site.endpoint.flows.running()[0], 3);
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
        assert_eq!(site.endpoint.flows.running(), [1, 0, 1, 1]);
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
