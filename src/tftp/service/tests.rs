//! Over loopback, on free ports, with the real policy. Phones are addresses of 127/8.

#![allow(clippy::indexing_slicing, clippy::unwrap_used)]

mod requests;
mod site;
mod uploads;

use tokio::time::timeout;

use self::site::TestSite;
use super::*;
use crate::endpoint::tests::shelf::{OTHER_MAC, PHONE_MAC, Shelf, pattern, shelf};
use crate::packet::{ErrorReply, TransferMode};
use ids::{Lan, MacAddr};

const SERVER: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 1);
const PHONE: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);
const OTHER: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 3);
const STRANGER: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 9);

const NOT_FOUND: &[u8] = b"\0\x05\0\x01File not found\0";

#[tokio::test]
async fn a_phone_gets_its_own_file_from_another_port() {
    let site = TestSite::start();
    let phone = site.client(PHONE).await;
    phone.ask("/sep0004f2000002.CNF.XML", TransferMode::Octet, &[]).await;
    let (data, from) = phone.hear().await;
    assert_eq!(data, b"\0\x03\0\x01<device>\n</device>\n");
    // RFC 1350 §4: a transfer has a port of its own.
    assert_ne!(from.port(), site.server.port());
    assert!(PORTS.contains(&from.port()), "of the range that firewalls admit");
    phone.ack(1, from).await;
    assert!(phone.hears_nothing().await);
}

#[tokio::test]
async fn files_arrive_whole_whatever_was_agreed() {
    let site = TestSite::start();
    let phone = site.client(PHONE).await;
    let agreements: [&[(&str, &str)]; 5] = [
        &[],
        &[("blksize", "1468"), ("tsize", "0")],
        &[("blksize", "1468"), ("windowsize", "64")],
        &[("blksize", "1000"), ("windowsize", "7")],
        &[("blksize", "65464"), ("windowsize", "64")],
    ];
    for options in agreements {
        for (name, len) in [("jar.sbn", 700_001), ("exact.bin", 131_072), ("empty.tlv", 0)] {
            assert!(phone.get(name, options).await == pattern(len), "{name} {options:?}");
        }
    }
}

#[tokio::test]
async fn files_arrive_whole_without_segmentation_by_the_kernel() {
    let site = TestSite::start_with(shelf(), |service| service.gso = false);
    let phone = site.client(PHONE).await;
    for options in [&[("blksize", "1468"), ("windowsize", "64")], &[("blksize", "1000"), ("windowsize", "7")]] {
        assert!(phone.get("jar.sbn", options).await == pattern(700_001), "{options:?}");
    }
}

#[tokio::test]
async fn a_slow_disk_loses_nothing() {
    let slow = Shelf { delay: Duration::from_millis(40), ..shelf() };
    let site = TestSite::start_with(slow, |_| {});
    let phone = site.client(PHONE).await;
    assert!(phone.get("exact.bin", &[("blksize", "1468"), ("windowsize", "64")]).await == pattern(131_072));
}

#[tokio::test]
async fn an_oack_holds_what_was_asked_and_nothing_else() {
    let site = TestSite::start();
    let phone = site.client(PHONE).await;
    let options = [("tsize", "0"), ("grandstream_ID", "000b82aabbcc"), ("blksize", "1024"), ("windowsize", "0")];
    phone.ask("jar.sbn", TransferMode::Octet, &options).await;
    let (oack, from) = phone.hear().await;
    assert_eq!(oack, b"\0\x06tsize\x00700001\0blksize\x001024\0");
    // A tsize probe ends like this, and then nothing more may come.
    phone.send(b"\0\x05\0\x08no\0", from).await;
    assert!(phone.hears_nothing().await);
}

#[tokio::test]
async fn netascii_is_translated_for_text_and_refused_for_what_it_would_destroy() {
    let site = TestSite::start();
    let phone = site.client(PHONE).await;
    let config = phone.fetch("SEP0004F2000002.cnf.xml", TransferMode::Netascii, &[("tsize", "0")]).await;
    assert_eq!(config.as_deref(), Ok(&b"<device>\r\n</device>\r\n"[..]));
    for name in ["jar.sbn", "empty.tlv", "tones.raw"] {
        let refused = phone.fetch(name, TransferMode::Netascii, &[]).await;
        assert_eq!(refused.unwrap_err(), ErrorReply::OctetOnly.packet(), "{name}");
    }
    phone.ask("SEP0004F2000002.cnf.xml", TransferMode::Netascii, &[("tsize", "0")]).await;
    assert_eq!(phone.hear().await.0, b"\0\x06tsize\x0021\0", "the size of what is sent");
}

#[tokio::test]
async fn what_is_no_request_is_never_answered() {
    let site = TestSite::start();
    let phone = site.client(PHONE).await;
    for datagram in [&b"\0\x05\0\0loop\0"[..], b"\0\x04\0\x01", b"\0\x03\0\x01x", b"\0\x06", b"", b"\0\x01cut", b"\xff"]
    {
        phone.send(datagram, site.server).await;
    }
    phone.send(&[0; 3000], site.server).await;
    assert!(phone.hears_nothing().await);
    assert_eq!(phone.get("ringlist.xml", &[]).await, b"<rings/>\r\n");
}

#[tokio::test]
async fn an_address_that_nobody_knows_yet_is_resolved_and_then_answered() {
    let mut site = TestSite::start();
    let phone = site.client(STRANGER).await;
    phone.ask("SEP0004F2000002.cnf.xml", TransferMode::Octet, &[]).await;
    assert_eq!(site.asked.recv().await, Some(STRANGER));
    // The phone's patience is short; it still gets one answer.
    phone.ask("SEP0004F2000002.cnf.xml", TransferMode::Octet, &[]).await;
    assert!(phone.hears_nothing().await);
    site.devices.write().unwrap().neighbour(STRANGER, PHONE_MAC);
    let (data, from) = phone.hear().await;
    assert_eq!(data.get(..4), Some(&b"\0\x03\0\x01"[..]));
    phone.ack(1, from).await;
    assert!(phone.hears_nothing().await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_site_that_gets_its_power_back_is_served_at_once() {
    let site = TestSite::start();
    let mut phones = tokio::task::JoinSet::new();
    // Every second phone is not in the neighbour table yet.
    for last in 20..220u8 {
        let address = Ipv4Addr::new(127, 0, 0, last);
        if last % 2 == 0 {
            site.devices.write().unwrap().neighbour(address, MacAddr::new([0, 4, 0xf2, 1, 0, last]));
        }
        let client = site.client(address).await;
        let options = [("blksize", "1024"), ("windowsize", "4")];
        phones.spawn(async move { client.get("exact.bin", &options).await });
    }
    while let Some(file) = phones.join_next().await {
        assert!(file.unwrap() == pattern(131_072));
    }
}

#[tokio::test]
async fn a_damaged_file_is_an_error_and_never_a_short_file() {
    let site = TestSite::start();
    let phone = site.client(PHONE).await;
    assert_eq!(phone.answer("damaged.bin").await, ErrorReply::TemporaryFailure.packet());
    let half = phone.fetch("half.bin", TransferMode::Octet, &[("blksize", "1468")]).await;
    assert_eq!(half.unwrap_err(), ErrorReply::TemporaryFailure.packet());
}

#[tokio::test]
async fn a_transfer_that_breaks_off_takes_no_other_with_it() {
    let breaking = Shelf { breaks: Some("jar.sbn".parse().unwrap()), ..shelf() };
    let site = TestSite::start_with(breaking, |_| {});
    let (phone, other) = (site.client(PHONE).await, site.client(OTHER).await);
    let options = [("blksize", "1468"), ("windowsize", "64")];
    other.ask("exact.bin", TransferMode::Octet, &options).await;
    let (_, from) = other.hear().await;
    phone.ask("jar.sbn", TransferMode::Octet, &options).await;
    let (_, broken) = phone.hear().await;
    // The window needs a second chunk.
    phone.ack(0, broken).await;
    assert!(phone.hears_nothing().await);
    other.ack(0, from).await;
    assert_eq!(other.hear().await.0.get(..4), Some(&b"\0\x03\0\x01"[..]));
    assert_eq!(phone.get("ringlist.xml", &[]).await, b"<rings/>\r\n");
}

#[tokio::test]
async fn a_service_that_is_dropped_frees_its_port() {
    let site = TestSite::start();
    let phone = site.client(PHONE).await;
    phone.ask("jar.sbn", TransferMode::Octet, &[]).await;
    phone.hear().await;
    site.running.abort();
    assert!(site.running.await.unwrap_err().is_cancelled());
    let config = Config::new(site.server, Lan::new(SERVER, 24));
    let freed = async {
        while Service::bind(config.clone()).is_err() {
            tokio::task::yield_now().await;
        }
    };
    timeout(Duration::from_secs(5), freed).await.expect("the thread has ended");
}

#[tokio::test]
async fn a_transfer_ends_on_the_release_that_it_began_with() {
    let site = TestSite::start();
    let phone = site.client(PHONE).await;
    phone.ask("jar.sbn", TransferMode::Octet, &[]).await;
    let (_, from) = phone.hear().await;
    site.catalog.send(Arc::new(Catalog::empty("site".parse().unwrap()))).unwrap();
    phone.ack(1, from).await;
    assert_eq!(phone.hear().await.0.get(..4), Some(&b"\0\x03\0\x02"[..]));
    assert_eq!(site.client(PHONE).await.answer("jar.sbn").await, NOT_FOUND);
}

#[tokio::test]
async fn after_a_stop_running_transfers_end_and_no_new_ones_begin() {
    let site = TestSite::start();
    let phone = site.client(PHONE).await;
    phone.ask("exact.bin", TransferMode::Octet, &[("blksize", "1468"), ("windowsize", "64")]).await;
    let (_, from) = phone.hear().await;
    site.stop.cancel();
    tokio::task::yield_now().await;
    let late = site.client(OTHER).await;
    late.ask("ringlist.xml", TransferMode::Octet, &[]).await;
    assert!(late.hears_nothing().await);
    for (number, blocks) in [(0, 64), (64, 26)] {
        phone.ack(number, from).await;
        for _ in 0..blocks {
            phone.hear().await;
        }
    }
    phone.ack(90, from).await;
    timeout(Duration::from_secs(2), site.running).await.expect("drained").unwrap().unwrap();
}

#[tokio::test]
async fn a_transfer_that_outlasts_the_drain_is_told() {
    let site = TestSite::start_with(shelf(), |service| service.config.drain = Duration::from_millis(50));
    let phone = site.client(PHONE).await;
    phone.answer("jar.sbn").await;
    site.stop.cancel();
    assert_eq!(phone.hear().await.0, ErrorReply::TemporaryFailure.packet());
    timeout(Duration::from_secs(2), site.running).await.expect("stopped").unwrap().unwrap();
}

#[tokio::test]
async fn a_transfers_port_is_one_of_many_that_nobody_can_foresee() {
    let site = TestSite::start();
    let mut ports = std::collections::BTreeSet::new();
    let mut phones = Vec::new();
    for _ in 0..8 {
        let phone = site.client(PHONE).await;
        phone.ask("jar.sbn", TransferMode::Octet, &[]).await;
        ports.insert(phone.hear().await.1.port());
        phones.push(phone);
    }
    assert_eq!(ports.len(), 8);
    let ordered = ports.iter().zip(ports.iter().skip(1)).filter(|(a, b)| **b - **a == 1).count();
    assert!(ordered < 4, "{ports:?}");
}

#[test]
fn where_there_can_be_no_frames_files_leave_by_sockets() {
    let config = Config::new(SocketAddrV4::new(SERVER, 0), Lan::new(SERVER, 8));
    let service = Service::bind(config).unwrap().with_frames(PacketSockets::default()).unwrap();
    assert!(service.frames.is_none(), "loopback has no Ethernet address");
}

#[test]
fn only_private_addresses_are_served() {
    // F1, S7
    for address in ["0.0.0.0", "8.8.8.8", "172.32.0.1", "100.128.0.1", "255.255.255.255", "224.0.0.1", "192.0.2.1"] {
        let bind = SocketAddrV4::new(address.parse().unwrap(), 0);
        let refused = Service::bind(Config::new(bind, Lan::new(SERVER, 8)));
        assert!(matches!(refused, Err(BindError::NotPrivate(_))), "{address}");
    }
    for address in
        ["10.1.2.3", "172.31.255.1", "192.168.1.2", "169.254.9.9", "100.64.0.1", "100.127.255.1", "127.0.0.1"]
    {
        assert!(is_private_or_loopback(address.parse().unwrap()), "{address}");
    }
}

#[test]
fn what_stops_the_service_from_listening_is_said_with_what_to_do() {
    let first = Service::bind(Config::new(SocketAddrV4::new(SERVER, 0), Lan::new(SERVER, 8))).unwrap();
    let busy = Service::bind(Config::new(first.local_addr(), Lan::new(SERVER, 8))).unwrap_err();
    assert!(matches!(busy, BindError::InUse { .. }), "{busy}");
    let absent = Service::bind(Config::new("10.255.254.253:0".parse().unwrap(), Lan::new(SERVER, 8))).unwrap_err();
    assert!(matches!(absent, BindError::NoSuchAddress { .. }), "{absent}");
    let mut config = Config::new(SocketAddrV4::new(SERVER, 0), Lan::new(SERVER, 8));
    config.interface = Some("nosuch0".to_owned());
    let named = Service::bind(config).unwrap_err();
    assert!(matches!(named, BindError::NoSuchInterface(_)), "{named}");
}

#[test]
fn the_loopback_interface_tells_its_mtu() {
    assert_eq!(mtu_of(&Config::new(SocketAddrV4::new(PHONE, 0), Lan::new(SERVER, 8))), Some(65_536));
}
