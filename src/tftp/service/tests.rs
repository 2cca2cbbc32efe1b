//! Over loopback, on free ports, with the real policy. Phones are addresses of 127/8.

#![allow(clippy::indexing_slicing, clippy::unwrap_used)]

mod requests;
mod site;
mod uploads;

use tokio::time::timeout;

use self::site::{Shelf, TestSite, pattern, shelf};
use super::*;
use crate::packet::{ErrorReply, TransferMode};
use ids::{Lan, MacAddr};

const SERVER: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 1);
const PHONE: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);
const OTHER: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 3);
const STRANGER: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 9);
const PHONE_MAC: MacAddr = MacAddr::new([0x00, 0x04, 0xf2, 0, 0, 2]);
const OTHER_MAC: MacAddr = MacAddr::new([0x00, 0x04, 0xf2, 0, 0, 3]);

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
async fn not_yours_not_found_and_no_name_are_the_same_packet() {
    let site = TestSite::start();
    let phone = site.client(PHONE).await;
    for name in ["SEP0004F2000003.cnf.xml", "SEP0004F2000099.cnf.xml", "nothing", "../etc/passwd", "", "a\u{1}b"] {
        assert_eq!(phone.answer(name).await, NOT_FOUND, "{name:?}");
    }
    phone.send(b"\0\x01\xff\xfe\0octet\0", site.server).await;
    assert_eq!(phone.hear().await.0, NOT_FOUND);
}

#[tokio::test]
async fn writing_is_refused_alike_whether_the_file_exists_or_not() {
    let site = TestSite::start();
    let phone = site.client(PHONE).await;
    for name in ["SEP0004F2000002.cnf.xml", "SEP0004F2000003.cnf.xml", "0004f2000002-app.log"] {
        phone.send(format!("\0\u{2}{name}\0octet\0").as_bytes(), site.server).await;
        assert_eq!(phone.hear().await.0, b"\0\x05\0\x02Access violation\0");
    }
}

#[tokio::test]
async fn mail_is_an_illegal_operation() {
    let site = TestSite::start();
    let phone = site.client(PHONE).await;
    phone.ask("ringlist.xml", TransferMode::Mail, &[]).await;
    assert_eq!(phone.hear().await.0, ErrorReply::IllegalOperation.packet());
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
async fn outside_the_lan_there_is_silence() {
    let site = TestSite::start();
    let outside = site.client(Ipv4Addr::new(127, 0, 1, 2)).await;
    outside.ask("ringlist.xml", TransferMode::Octet, &[]).await;
    outside.ask("ringlist.xml", TransferMode::Mail, &[]).await;
    outside.send(b"\0\x02a\0octet\0", site.server).await;
    assert!(outside.hears_nothing().await);
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

#[tokio::test]
async fn an_address_that_stays_unknown_gets_what_everyone_gets_after_a_second() {
    let site = TestSite::start();
    let phone = site.client(STRANGER).await;
    let asked = tokio::time::Instant::now();
    assert_eq!(phone.answer("SEP0004F2000002.cnf.xml").await, NOT_FOUND);
    assert!(asked.elapsed() < Duration::from_secs(3));
    assert_eq!(phone.get("ringlist.xml", &[]).await, b"<rings/>\r\n");
}

#[tokio::test]
async fn an_address_that_another_device_takes_gets_nothing_more() {
    // The thief asked under an unplugged phone's address, then claims it by ARP and waits for the resends.
    for taken in [true, false] {
        let site = TestSite::start();
        let phone = site.client(PHONE).await;
        phone.ask("jar.sbn", TransferMode::Octet, &[]).await;
        let (_, from) = phone.hear().await;
        {
            let mut devices = site.devices.write().unwrap();
            if taken {
                devices.neighbour(PHONE, OTHER_MAC);
            } else {
                devices.neighbour_gone(PHONE);
            }
        }
        phone.ack(1, from).await;
        let mut buffer = [0; 600];
        let more = timeout(Duration::from_millis(1300), phone.socket.recv_from(&mut buffer)).await;
        assert!(more.is_err(), "no block, no resend, no ERROR");
    }
}

#[tokio::test]
async fn a_repeated_request_does_not_start_a_second_transfer() {
    let site = TestSite::start();
    let phone = site.client(PHONE).await;
    phone.ask("jar.sbn", TransferMode::Octet, &[]).await;
    let (first, from) = phone.hear().await;
    phone.ask("jar.sbn", TransferMode::Octet, &[]).await;
    assert_eq!(phone.hear().await, (first, from));
    phone.ack(1, from).await;
    let (second, same) = phone.hear().await;
    assert_eq!((second.get(..4), same), (Some(&b"\0\x03\0\x02"[..]), from));
    assert!(phone.hears_nothing().await);
}

#[tokio::test]
async fn a_new_request_from_a_busy_port_replaces_the_old_transfer() {
    // Cisco 7921 has one port for all its requests.
    let site = TestSite::start();
    let phone = site.client(PHONE).await;
    phone.ask("jar.sbn", TransferMode::Octet, &[]).await;
    let (_, old) = phone.hear().await;
    phone.ask("ringlist.xml", TransferMode::Octet, &[]).await;
    let (data, new) = phone.hear().await;
    assert_eq!(data, b"\0\x03\0\x01<rings/>\r\n");
    phone.ack(1, old).await;
    phone.ack(1, new).await;
    let mut buffer = [0; 600];
    let more = timeout(Duration::from_millis(1300), phone.socket.recv_from(&mut buffer)).await;
    assert!(more.is_err(), "the old transfer is over");
}

#[tokio::test]
async fn a_stranger_on_the_port_gets_error_5_and_the_transfer_goes_on() {
    // RFC 1350 §4
    let site = TestSite::start();
    let (phone, other) = (site.client(PHONE).await, site.client(OTHER).await);
    phone.ask("jar.sbn", TransferMode::Octet, &[]).await;
    let (_, from) = phone.hear().await;
    other.ack(1, from).await;
    assert_eq!(other.hear().await.0, ErrorReply::UnknownTransferId.packet());
    other.send(b"\0\x05\0\0die\0", from).await;
    assert!(other.hears_nothing().await);
    phone.ack(1, from).await;
    assert_eq!(phone.hear().await.0.get(..4), Some(&b"\0\x03\0\x02"[..]));
}

#[tokio::test]
async fn over_the_bound_one_address_is_refused_and_others_go_on() {
    let site = TestSite::start_with(shelf(), |service| service.config.max_transfers_per_address = 2);
    let reading = [site.client(PHONE).await, site.client(PHONE).await];
    for phone in &reading {
        phone.ask("jar.sbn", TransferMode::Octet, &[]).await;
        let (_, from) = phone.hear().await;
        phone.ack(1, from).await;
        phone.hear().await;
    }
    assert_eq!(site.client(PHONE).await.answer("jar.sbn").await, ErrorReply::Busy.packet());
    assert_eq!(site.client(OTHER).await.get("ringlist.xml", &[]).await, b"<rings/>\r\n");
}

#[tokio::test]
async fn requests_under_a_phones_address_do_not_keep_it_from_its_files() {
    let site = TestSite::start_with(shelf(), |service| service.config.max_transfers_per_address = 2);
    let mut forged = Vec::new();
    for _ in 0..5 {
        let client = site.client(PHONE).await;
        client.answer("jar.sbn").await;
        forged.push(client);
    }
    assert_eq!(site.client(PHONE).await.get("ringlist.xml", &[]).await, b"<rings/>\r\n");
}

#[tokio::test]
async fn files_that_a_phone_stopped_reading_make_room_for_its_next() {
    let site = TestSite::start_with(shelf(), |service| service.config.max_transfers_per_address = 1);
    let phone = site.client(PHONE).await;
    phone.ask("jar.sbn", TransferMode::Octet, &[]).await;
    let (_, from) = phone.hear().await;
    phone.ack(1, from).await;
    let (block, _) = phone.hear().await;
    assert_eq!(phone.hear().await.0, block, "the first resend");
    assert_eq!(site.client(PHONE).await.get("ringlist.xml", &[]).await, b"<rings/>\r\n");
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
    other.ask("exact.bin", TransferMode::Octet, &[("blksize", "65464")]).await;
    let (_, from) = other.hear().await;
    phone.ask("jar.sbn", TransferMode::Octet, &[("blksize", "65464")]).await;
    let (_, broken) = phone.hear().await;
    // The second block needs a second chunk.
    phone.ack(0, broken).await;
    phone.hear().await;
    phone.ack(1, broken).await;
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
    phone.ask("exact.bin", TransferMode::Octet, &[("blksize", "65464")]).await;
    let (_, from) = phone.hear().await;
    site.stop.cancel();
    tokio::task::yield_now().await;
    let late = site.client(OTHER).await;
    late.ask("ringlist.xml", TransferMode::Octet, &[]).await;
    assert!(late.hears_nothing().await);
    for number in 0..=2 {
        phone.ack(number, from).await;
        phone.hear().await;
    }
    phone.ack(3, from).await;
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
