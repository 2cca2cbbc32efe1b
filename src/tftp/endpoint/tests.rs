//! The whole server in simulated time: requests, bounds, ways out, and meetings of many phones.

#![allow(clippy::indexing_slicing, clippy::unwrap_used)]

mod bench;
mod bounds;
mod meeting;
mod places;
mod presence;
mod requests;
pub(crate) mod shelf;
mod ways;

use std::net::{Ipv4Addr, SocketAddrV4};

use self::bench::{Bench, Left, config, rrq};
use self::shelf::{OTHER_MAC, PHONE_MAC, catalog, shelf};
use super::*;
use crate::packet::TransferMode;
use api::{FileOutcome, FileRefusal, TransferEnd};

const PHONE: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 2);
const OTHER: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 3);
const STRANGER: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 9);
const OWN: &str = "SEP0004F2000002.cnf.xml";
const NOT_FOUND: &[u8] = b"\0\x05\0\x01File not found\0";

fn site() -> Bench {
    site_with(|_| {})
}

/// A site whose two phones the link knows.
fn site_with(change: impl FnOnce(&mut EndpointConfig)) -> Bench {
    let mut config = config();
    change(&mut config);
    let bench = Bench::new(config, catalog(7), shelf());
    bench.knows(PHONE, PHONE_MAC);
    bench.knows(OTHER, OTHER_MAC);
    bench
}

fn port(address: Ipv4Addr, port: u16) -> SocketAddrV4 {
    SocketAddrV4::new(address, port)
}

/// Block 1 of a file, acknowledged, and block 2.
fn begin(site: &mut Bench, peer: SocketAddrV4, name: &str) -> Left {
    site.ask(peer, name, &[]);
    let first = site.hear();
    assert_eq!(first.bytes[..4], [0, 3, 0, 1]);
    site.wait_millis(10);
    site.ack(&first, 1);
    let second = site.hear();
    assert_eq!(second.bytes[..4], [0, 3, 0, 2]);
    second
}
