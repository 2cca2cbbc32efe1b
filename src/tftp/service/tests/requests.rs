//! Odd requests and large files, over sockets.

use super::site::TestSite;
use super::*;

#[tokio::test]
async fn more_than_65535_blocks_arrive_whole() {
    // RFC 1350 has no word on it; after 65,535 comes 0. 87,501 blocks.
    let site = TestSite::start();
    let phone = site.client(PHONE).await;
    // In windows of blocks that are smaller than the OACK, which must not be cut into blocks (RFC 2348 begins at 8).
    assert!(phone.get("jar.sbn", &[("blksize", "8"), ("windowsize", "64"), ("tsize", "0")]).await == pattern(700_001));
}

#[tokio::test]
async fn a_name_is_found_with_slashes_backslashes_a_drive_and_in_any_case() {
    let site = TestSite::start();
    let phone = site.client(PHONE).await;
    for name in [
        // Cisco SPA and 78xx with an empty locale, CIPC, Cisco's upper case, a path from a configuration.
        "/ringlist.xml",
        "\\ringlist.xml",
        "//\\RINGLIST.XML",
        "C:\\RingList.xml",
        "c:/ringlist.XML",
    ] {
        assert_eq!(phone.get(name, &[]).await, b"<rings/>\r\n", "{name}");
    }
}

#[tokio::test]
async fn five_hundred_bytes_of_options_are_answered_by_those_that_count() {
    // RFC 2347: a request of 512 octets at most, here full of what nobody knows.
    let site = TestSite::start();
    let phone = site.client(PHONE).await;
    let filler: Vec<(String, String)> = (0..20).map(|n| (format!("grandstream_x{n}"), "y".repeat(8))).collect();
    let mut options: Vec<(&str, &str)> = filler.iter().map(|(name, value)| (&**name, &**value)).collect();
    options.push(("blksize", "1024"));
    phone.ask("ringlist.xml", TransferMode::Octet, &options).await;
    assert_eq!(phone.hear().await.0, b"\0\x06blksize\x001024\0");
}

#[tokio::test]
async fn a_request_of_516_bytes_of_junk_is_not_found_or_nothing_and_the_next_is_served() {
    let site = TestSite::start();
    let phone = site.client(PHONE).await;
    for fill in [0u8, 1, b'/', b'a', 0x80, 0xff] {
        for end in [&b"\0octet\0"[..], b""] {
            let mut datagram = vec![0, 1];
            datagram.resize(516 - end.len(), fill);
            datagram.extend_from_slice(end);
            phone.send(&datagram, site.server).await;
        }
    }
    phone.ask("ringlist.xml", TransferMode::Octet, &[]).await;
    loop {
        let (packet, _) = phone.hear().await;
        if packet.starts_with(b"\0\x03") {
            break;
        }
        // A name of NULs has a mode of NULs: no request. The others are names that cannot be, or modes that are none.
        assert!([NOT_FOUND, ErrorReply::IllegalOperation.packet()].contains(&&packet[..]), "{packet:?}");
    }
}
