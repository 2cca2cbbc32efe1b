//! Phones that were never there, beside a router that pings before it leases to them.

use std::net::Ipv4Addr;
use std::time::Duration;

use crate::lan::{Lan, Router};
use crate::{BOX, BOX_MAC, Boot, boot, capture, messages, show};

/// So many addresses does the router have to spare.
const PHONES: u8 = 40;

pub fn beside_dhcpd(boots: usize) {
    let mut lan = Lan::free(Router::Dhcpd, 600);
    lan.serve("mode = \"augment\"", "\"augment\"");
    // Until the router is known, and that it pings.
    std::thread::sleep(Duration::from_secs(4));
    let phones = u8::try_from(boots).unwrap_or(PHONES).min(PHONES);
    let work = move || -> Vec<Boot> {
        let socket = messages::socket(Some("eth0"), Ipv4Addr::UNSPECIFIED, 68);
        // A REQUEST that follows its OFFER at once favours the router.
        let one = |number| {
            boot(&socket, [0x00, 0x04, 0xf2, 0x20, 0, number], BOX, 0x7000 + u32::from(number), Duration::ZERO)
        };
        (1..=phones).filter_map(one).map(|(boot, _)| boot).collect()
    };
    let outcomes = lan.phone.inside(work).join().unwrap();
    // What was just sent is written within its buffer time.
    std::thread::sleep(Duration::from_millis(300));
    let ours = capture::answers(&lan.dir.join("lan.pcap"), BOX_MAC);
    show("Dhcpd, first boot of new phones", &outcomes, &ours[0]);
}
