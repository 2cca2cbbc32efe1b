//! The image's packet filter, and network cards that carry more than phones do.

use super::net::{can_run, text};
use super::site::{BOX_LAN, CISCO, CISCO_FILE, Deployment};

/// What the image loads at its start.
const RULES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/image/rootfs/etc/nftables.conf");

#[test]
fn a_phone_gets_its_own_file_block_by_block_through_the_firewall_of_the_image() {
    if !can_run("a_phone_gets_its_own_file_through_the_firewall", &["ip", "curl", "nft"]) {
        return;
    }
    let mut site = Deployment::new();
    // A network card with jumbo frames for storage; the phones' end of the cable takes 1500 octets.
    site.site.sh("ip link set lan0 mtu 9000");
    site.enroll();
    site.hq(&["publish"]);
    site.start();
    site.serves(1);
    site.site.sh(&format!("nft -f {RULES}"));
    let phone = site.phone_at(CISCO, "192.168.77.20");
    let expected = site.preview(CISCO, CISCO_FILE);
    let fetch = |options: &str| phone.try_sh(&format!("curl -s -m 20 {options} tftp://{BOX_LAN}/{CISCO_FILE}"));
    // Connection tracking sees no frame of this transfer: each ACK is news to it. Blocks of 8 octets make many of them.
    assert!(expected.len() > 100 * 8, "{}", expected.len());
    for options in ["--tftp-no-options", "--tftp-blksize 8", "--tftp-blksize 1468", "--tftp-blksize 4096"] {
        let got = fetch(options);
        assert!(got.stdout == expected, "{options}: {}\n{}", text(&got), site.appliance_log());
    }
    let status = site.status();
    assert_eq!(status["counters"]["tftp.delivered"], 4, "{status:#}");
    assert!(!site.appliance_log().contains("sent without frames"), "{}", site.appliance_log());

    // The rule that it needs: without it the first ACK is dropped.
    let without = std::fs::read_to_string(RULES).unwrap().replace("69, 61000-65535", "69");
    let path = site.net.dir().join("without.conf");
    std::fs::write(&path, without).unwrap();
    site.site.sh(&format!("nft -f {}", path.display()));
    let got = phone.try_sh(&format!("curl -s -m 3 --tftp-blksize 8 tftp://{BOX_LAN}/{CISCO_FILE}"));
    assert!(got.stdout.len() < expected.len(), "this test cannot fail: {}", text(&got));
}

#[test]
fn an_interface_that_goes_down_and_comes_up_again_is_sent_on_again() {
    if !can_run("an_interface_that_goes_down_and_comes_up_again", &["ip", "curl"]) {
        return;
    }
    let mut site = Deployment::ready();
    let phone = site.phone_at(CISCO, "192.168.77.20");
    let expected = site.preview(CISCO, CISCO_FILE);
    let fetch = || phone.try_sh(&format!("curl -s -m 10 tftp://{BOX_LAN}/{CISCO_FILE}")).stdout;
    assert_eq!(fetch(), expected);
    // The same interface, down so shortly that the address stays.
    site.site.sh("ip link set lan0 down && ip link set lan0 up");
    let served = super::net::wait_for(std::time::Duration::from_secs(20), || (fetch() == expected).then_some(()));
    assert!(served.is_some(), "{}", site.appliance_log());
    assert!(!site.appliance_log().contains("sent without frames"), "{}", site.appliance_log());
}
