//! A device's own file leaves only while the device itself answers by ARP.

use std::time::Duration;

use super::shelf::{Page, catalog_of, pattern, shelf_of};
use super::*;
use access::Resolution;
use bundle::{Class, Scope, SiteSettings};

/// A name of the phone's with 20 blocks.
const LONG: &str = "0004f2000002-directory.xml";

/// A site whose devices answer only when a test says so.
fn silent_site() -> Bench {
    let mut site = site();
    site.answers = false;
    site
}

/// The same with a phone's own file of 20 blocks.
fn long_site() -> Bench {
    let page: Page = (LONG.to_owned(), Scope::Device(PHONE_MAC), Class::Config, pattern(10_000));
    let catalog = catalog_of(7, SiteSettings::default(), vec![page.clone()], &[PHONE_MAC, OTHER_MAC]);
    let site = Bench::new(config(), catalog, shelf_of(vec![page]));
    site.knows(PHONE, PHONE_MAC);
    site
}

#[test]
fn an_own_file_waits_for_its_device_and_leaves_with_its_answer() {
    for options in [&[][..], &[("tsize", "0")]] {
        let mut site = silent_site();
        site.ask(port(PHONE, 2000), OWN, options);
        assert_eq!(site.asked, [(PHONE, Some(PHONE_MAC))], "at once, and the device alone");
        assert!(site.hears_nothing());
        // It asks again, and still gets one answer.
        site.wait_millis(20);
        site.ask(port(PHONE, 2000), OWN, options);
        site.answer(PHONE, PHONE_MAC);
        let first = site.hear();
        assert_eq!(first.way, Way::Frame(first.from.unwrap(), PHONE_MAC));
        assert!(site.hears_nothing() && first.bytes[1] != 5);
        site.ack(&first, u16::from(first.bytes[1] == 3));
        assert_eq!(site.asked.len(), 1, "one question for one file");
    }
}

#[test]
fn a_device_that_answers_while_the_disk_is_slow_costs_no_time() {
    let mut site = silent_site();
    site.slow_disk = true;
    site.ask(port(PHONE, 2000), OWN, &[]);
    site.answer(PHONE, PHONE_MAC);
    assert!(site.hears_nothing());
    site.finish_work();
    assert_eq!(site.hear().bytes[..4], [0, 3, 0, 1]);
}

#[test]
fn nothing_of_an_own_file_leaves_while_its_device_is_silent() {
    // The file, its OACK, and each ERROR: the mode is wrong, the file is gone, the transfer gives way, the server stops.
    for case in 0..5 {
        let mut site = silent_site();
        let netascii = rrq("SEP0004F2000002.bin", TransferMode::Netascii, &[]);
        match case {
            1 => site.ask(port(PHONE, 2000), OWN, &[("blksize", "1024")]),
            2 => {
                let page: Page =
                    ("SEP0004F2000002.bin".to_owned(), Scope::Device(PHONE_MAC), Class::Firmware, pattern(9));
                site.endpoint.serve(Arc::new(catalog_of(8, SiteSettings::default(), vec![page], &[PHONE_MAC])));
                site.request(port(PHONE, 2000), &netascii);
            }
            3 => {
                site.shelf.files.clear();
                site.ask(port(PHONE, 2000), OWN, &[]);
            }
            _ => site.ask(port(PHONE, 2000), OWN, &[]),
        }
        assert_eq!(site.endpoint.transfers(), 1, "{case}");
        // Whoever answers in its place, for its address or from its hardware address, is not it.
        site.answer(PHONE, OTHER_MAC);
        site.answer(OTHER, PHONE_MAC);
        if case == 4 {
            site.endpoint.stop(site.now);
            site.drain();
        }
        site.wait_millis(1000);
        assert!(site.hears_nothing() && site.is_idle(), "{case}");
        assert_eq!(site.count("tftp.not-there"), 1, "{case}");
        // An answer that is late is for nobody.
        site.answer(PHONE, PHONE_MAC);
        site.wait_millis(60_000);
        assert!(site.hears_nothing(), "{case}");
        // The device asks again, and is there now: it gets its answer.
        if case < 2 {
            site.ask(port(PHONE, 2000), OWN, &[]);
            site.answer(PHONE, PHONE_MAC);
            assert_eq!(site.hear().bytes[..4], [0, 3, 0, 1]);
        }
    }
}

#[test]
fn errors_before_the_first_block_come_with_the_devices_answer() {
    let mut site = silent_site();
    site.shelf.files.clear();
    site.ask(port(PHONE, 2000), OWN, &[]);
    site.wait_millis(30);
    assert!(site.hears_nothing());
    site.answer(PHONE, PHONE_MAC);
    let error = site.hear();
    assert_eq!((&error.bytes[..], site.hears_nothing()), (ErrorReply::TemporaryFailure.packet(), true));
    assert!(matches!(error.way, Way::Frame(_, PHONE_MAC)) && site.is_idle());
}

#[test]
fn an_answer_from_before_the_request_says_nothing() {
    // The phone was there a moment ago. It is unplugged, and somebody asks under its address.
    let mut site = silent_site();
    site.ask(port(PHONE, 2000), OWN, &[]);
    site.answer(PHONE, PHONE_MAC);
    let first = site.hear();
    site.ack(&first, 1);
    assert!(site.is_idle());
    site.wait_millis(1);
    for number in 0..100 {
        site.ask(port(PHONE, 3000 + number), OWN, &[]);
        site.wait_millis(20);
    }
    site.wait_millis(60_000);
    assert!(site.hears_nothing() && site.is_idle());
    assert_eq!(site.devices.read().unwrap().resolve(PHONE), Resolution::Device(PHONE_MAC), "as the table has it");
}

#[test]
fn a_lost_answer_is_asked_for_again_and_everyone_is_asked_then() {
    let mut site = silent_site();
    site.ask(port(PHONE, 2000), OWN, &[]);
    let mut times = Vec::new();
    for millis in 1..1000 {
        site.wait_millis(1);
        if site.asked.len() > times.len() + 1 {
            times.push(millis);
        }
    }
    assert_eq!((times, site.asked.len()), (vec![50, 200, 500], 4));
    assert!(site.asked[1..].iter().all(|asked| *asked == (PHONE, None)));
    // The last of them is heard.
    site.answer(PHONE, PHONE_MAC);
    assert_eq!(site.hear().bytes[..4], [0, 3, 0, 1]);
}

#[test]
fn a_transfer_asks_once_a_second_and_does_not_wait_for_the_answer() {
    let mut site = long_site();
    site.answers = false;
    site.ask(port(PHONE, 2000), LONG, &[]);
    site.answer(PHONE, PHONE_MAC);
    let mut last = site.hear();
    // A block every 250 ms; the device answers 3 ms after each question.
    let mut answered = site.asked.len();
    for block in 1..=20 {
        site.wait_millis(247);
        if site.asked.len() > answered {
            answered = site.asked.len();
            site.answer(PHONE, PHONE_MAC);
        }
        site.wait_millis(3);
        site.ack(&last, block);
        match site.left.pop_front() {
            Some(next) => last = next,
            None => assert_eq!(block, 20, "a block was late"),
        }
        assert!(site.hears_nothing(), "once");
    }
    assert_eq!(site.records.last().unwrap().outcome, TransferEnd::Delivered.into());
    assert!((4..=6).contains(&site.asked.len()), "5 s: {:?}", site.asked);
}

#[test]
fn a_phone_that_is_unplugged_in_the_middle_gets_no_block_more_once_its_answer_is_not_fresh() {
    // Whoever hears its blocks now also forges its ACKs.
    let mut site = long_site();
    site.ask(port(PHONE, 2000), LONG, &[]);
    site.answers = false;
    let mut last = site.hear();
    let mut late = 0;
    for block in 1..20 {
        site.wait_millis(200);
        site.ack(&last, block);
        match site.left.pop_front() {
            Some(next) => {
                (late, last) = (block * 200, next);
            }
            None => break,
        }
    }
    assert!(Duration::from_millis(late.into()) < FRESH, "{late} ms");
    // What is sent again without an ACK needs an answer, too.
    let mut site = long_site();
    site.ask(port(PHONE, 2000), LONG, &[]);
    site.answers = false;
    let first = site.hear();
    site.wait_millis(9000);
    assert!(site.hears_nothing());
    // The phone is back: what waited leaves once, and all goes on.
    site.answer(PHONE, PHONE_MAC);
    assert_eq!(site.hear().bytes[..4], [0, 3, 0, 1]);
    assert!(site.hears_nothing());
    site.answers = true;
    site.ack(&first, 1);
    assert_eq!(site.hear().bytes[..4], [0, 3, 0, 2]);
}

#[test]
fn a_phone_that_stays_away_in_the_middle_ends_its_transfer_in_silence() {
    let mut site = long_site();
    site.ask(port(PHONE, 2000), LONG, &[]);
    site.answers = false;
    site.left.clear();
    site.wait(FRESH + ABSENCE_PATIENCE);
    let sent = site.left.len();
    site.wait_millis(60_000);
    assert!(site.is_idle() && site.left.len() == sent && sent == 0);
    assert_eq!((site.count("tftp.not-there"), site.records.len()), (1, 1));
    assert_eq!(site.records[0].outcome, TransferEnd::Failed.into());
}

#[test]
fn an_address_that_another_device_takes_while_the_phone_is_asked_gets_nothing() {
    let mut site = silent_site();
    site.ask(port(PHONE, 2000), OWN, &[]);
    site.knows(PHONE, OTHER_MAC);
    site.answer(PHONE, OTHER_MAC);
    site.answer(PHONE, PHONE_MAC);
    site.wait_millis(60_000);
    assert!(site.hears_nothing() && site.is_idle());
    assert_eq!(site.count("tftp.binding-lost"), 1);
}

#[test]
fn requests_for_a_phone_that_is_away_keep_to_their_bounds_and_keep_nobody_out() {
    let mut site = silent_site();
    let mut most = 0;
    for number in 0..2000 {
        site.ask(port(PHONE, 2000 + number), OWN, &[("tsize", "0")]);
        site.wait_millis(5);
        most = most.max(site.ports.len());
    }
    assert!(most <= config().max_transfers_per_address, "{most}");
    assert!(site.hears_nothing());
    assert!(site.asked.len() <= 10_000 / 40 + 1, "{} questions in 10 s", site.asked.len());
    // The phone is back, among the forged requests.
    site.wait_millis(1100);
    site.answers = true;
    site.ask(port(PHONE, 9000), OWN, &[]);
    assert!(site.left.iter().any(|left| left.to == port(PHONE, 9000)));
}

#[test]
fn shared_files_ask_nobody() {
    let mut site = silent_site();
    for (number, name) in (0..).zip(["ringlist.xml", "model.bin"]) {
        site.ask(port(PHONE, 2000 + number), name, &[]);
        assert!(matches!(site.hear().way, Way::Socket(_)));
    }
    let mut without = site_with(|config| config.frames = false);
    without.ask(port(PHONE, 2000), OWN, &[]);
    assert!(!without.hears_nothing());
    assert!(site.asked.is_empty() && without.asked.is_empty());
}

#[test]
fn last_words_that_wait_for_their_device_take_no_port_from_others() {
    let page = |name: &str, scope| -> Page { (name.to_owned(), scope, Class::Config, pattern(10_000)) };
    let pages = vec![page(LONG, Scope::Device(PHONE_MAC)), page("jar.sbn", Scope::Everyone)];
    let catalog = catalog_of(7, SiteSettings::default(), pages.clone(), &[PHONE_MAC, OTHER_MAC]);
    let mut site = Bench::new(EndpointConfig { max_transfers: 2, ..config() }, catalog, shelf_of(pages));
    site.knows(PHONE, PHONE_MAC);
    site.knows(OTHER, OTHER_MAC);
    let own = [2000, 2001].map(|number| begin(&mut site, port(PHONE, number), LONG));
    site.answers = false;
    site.wait_millis(5000);
    site.left.clear();
    for number in 0..2 {
        site.ask(port(OTHER, 3000 + number), "jar.sbn", &[]);
        assert_eq!((&site.hear().bytes[..4], site.hears_nothing()), (&[0, 3, 0, 1][..], true));
        assert_eq!((site.endpoint.transfers(), site.ports.len()), (2, 2));
    }
    assert_eq!(site.count("tftp.made-room"), 2);
    // Their device is back: it is nobody's any more.
    site.answer(PHONE, PHONE_MAC);
    assert!(site.hears_nothing());
    own.iter().for_each(|own| assert!(!site.ports.contains_key(&own.from.unwrap())));
}
