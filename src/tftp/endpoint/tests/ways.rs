//! By which way packets leave, and whom they can reach.

use super::*;
use crate::transfer::PATIENCE;

/// By which ways everything left that is caught, in order and without repeats.
fn ways(site: &mut Bench) -> Vec<Way> {
    let mut ways: Vec<Way> = site.left.drain(..).map(|left| left.way).collect();
    ways.dedup();
    ways
}

#[test]
fn everything_of_a_devices_own_transfer_leaves_as_frames_to_the_address_that_was_judged() {
    for options in [&[][..], &[("tsize", "0"), ("windowsize", "4"), ("blksize", "8")]] {
        // The first answer, what is sent again, and the ERROR at the end.
        let mut site = site();
        site.ask(port(PHONE, 2000), OWN, options);
        site.wait_millis(5000);
        assert!(site.left.len() > 1, "it was sent again");
        site.endpoint.stop(site.now);
        site.drain();
        assert_eq!(site.left.back().unwrap().bytes, ErrorReply::TemporaryFailure.packet());
        let ticket = *site.ports.keys().next().unwrap_or(&Ticket::new(0, 1));
        assert_eq!(ways(&mut site), [Way::Frame(ticket, PHONE_MAC)], "{options:?}");
    }
    // An ERROR before the first block.
    let mut site = site();
    site.shelf.files.clear();
    site.ask(port(PHONE, 2000), OWN, &[]);
    assert_eq!(site.left[0].bytes, ErrorReply::TemporaryFailure.packet());
    assert!(matches!(ways(&mut site)[..], [Way::Frame(_, PHONE_MAC)]));
    // The ERROR of one that gives way.
    let mut site = site_with(|config| config.max_transfers_per_address = 1);
    site.ask(port(PHONE, 2000), OWN, &[]);
    site.wait_millis(1500);
    site.ask(port(PHONE, 2001), "ringlist.xml", &[]);
    let error = site.left.iter().find(|left| left.bytes == ErrorReply::Busy.packet()).unwrap();
    assert!(matches!(error.way, Way::Frame(_, PHONE_MAC)));
}

#[test]
fn what_everyone_or_a_model_may_have_leaves_by_the_socket() {
    for name in ["ringlist.xml", "jar.sbn", "model.bin"] {
        let mut site = site();
        site.ask(port(PHONE, 2000), name, &[("windowsize", "4")]);
        site.wait_millis(3000);
        assert!(matches!(ways(&mut site)[..], [Way::Socket(_)]), "{name}");
    }
}

#[test]
fn without_frames_everything_leaves_by_the_socket() {
    let mut site = site_with(|config| config.frames = false);
    site.ask(port(PHONE, 2000), OWN, &[]);
    assert!(matches!(ways(&mut site)[..], [Way::Socket(_)]));
}

#[test]
fn an_address_that_another_device_takes_gets_nothing_more() {
    // The thief asked under an unplugged phone's address, then claims it by ARP and waits for the resends.
    for taken in [true, false] {
        for by_ack in [true, false] {
            let mut site = site();
            let second = begin(&mut site, port(PHONE, 2000), "jar.sbn");
            if taken {
                site.knows(PHONE, OTHER_MAC);
            } else {
                site.devices.write().unwrap().neighbour_gone(PHONE);
            }
            if by_ack {
                site.ack(&second, 2);
            }
            site.wait(PATIENCE * 2);
            assert!(site.hears_nothing() && site.is_idle(), "no block, no resend, no ERROR");
            assert_eq!(site.records.last().unwrap().outcome, TransferEnd::Failed.into());
        }
    }
}

#[test]
fn an_address_that_is_taken_while_the_disk_is_slow_gets_nothing() {
    let mut site = site();
    site.slow_disk = true;
    site.ask(port(PHONE, 2000), OWN, &[]);
    site.knows(PHONE, OTHER_MAC);
    site.finish_work();
    site.wait_millis(60_000);
    assert!(site.hears_nothing() && site.is_idle());
}

#[test]
fn blocks_that_found_the_queue_full_leave_once_and_in_order() {
    let mut site = site();
    let options = [("windowsize", "8"), ("blksize", "8")];
    site.ask(port(PHONE, 2000), OWN, &options);
    let oack = site.hear();
    let ticket = oack.from.unwrap();
    site.endpoint.handle_datagram(ticket, b"\0\x04\0\0", oack.to, site.now);
    let Some(Transmit { payload: Payload::Blocks(run, _), .. }) = site.endpoint.poll_transmit(site.now) else {
        panic!("no blocks");
    };
    assert_eq!((run.first, run.blocks), (1, 3));
    site.endpoint.handle_blocked(ticket, run.skip(1).unwrap());
    site.drain();
    assert!(site.hears_nothing());
    assert_eq!(site.ports[&ticket], Waits::Queue);
    site.wait_millis(700);
    assert!(site.hears_nothing(), "a full queue is no lost packet");
    site.endpoint.handle_writable(ticket, site.now);
    site.drain();
    assert_eq!([site.hear().bytes[3], site.hear().bytes[3]], [2, 3]);
    assert!(site.hears_nothing());
    assert_eq!(site.ports[&ticket], Waits::Client);
    site.ack(&oack, 3);
    assert!(site.is_idle());
}
