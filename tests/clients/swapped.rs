//! A phone that is replaced: its successor gets the same address from the router, and is pointed here at its first boot.

use super::lan::{BOX, Lan, PC, PHONE};
use super::net::can_run;

/// The phone that takes the place of the first.
const SUCCESSOR: &str = "00:04:f2:aa:bb:02";

/// A router with one address for everybody.
const ONE_ADDRESS: &str = "10.78.0.60";

fn router(lan: &Lan) -> super::net::Running {
    let leases = format!("--dhcp-leasefile={}", lan.dir.join("one.leases").display());
    let _ = std::fs::remove_file(lan.dir.join("one.leases"));
    let range = format!("--dhcp-range={ONE_ADDRESS},{ONE_ADDRESS},600s");
    let words =
        ["dnsmasq", "--keep-in-foreground", "--conf-file=/dev/null", "--port=0", "--pid-file", "--interface=eth0"];
    let more = ["--user=root", "--log-dhcp", "--log-facility=-", "--no-ping", &range, &leases];
    lan.start_router_with(&[&words[..], &more].concat())
}

#[test]
fn a_phone_that_takes_another_ones_place_and_address_is_pointed_here_at_its_first_boot() {
    if !can_run("a_phone_that_takes_another_ones_place", &["ip", "dnsmasq", "tcpdump", "busybox"]) {
        return;
    }
    let mut lan = Lan::new(None, 600);
    let mut running = Some(router(&lan));
    lan.serve("mode = \"augment\"", "\"augment\"");
    lan.becomes("10.78.0.1");
    let phone = lan.phone.clone();
    let mut failed = Vec::new();
    for swap in 0..6 {
        let [old, new] = if swap % 2 == 0 { [PHONE, SUCCESSOR] } else { [SUCCESSOR, PHONE] };
        // The old phone has the address, and the box has just spoken to it.
        phone.sh(&format!("ip link set eth0 down; ip link set eth0 address {old}; ip link set eth0 up"));
        phone.sh(&format!("ip addr add {ONE_ADDRESS}/24 dev eth0 && busybox ping -c 1 -W 2 {BOX}"));
        let knows = lan.site.sh(&format!("ip neigh show {ONE_ADDRESS} dev eth0"));
        assert!(knows.contains(old), "{knows}");
        phone.sh(&format!(
            "ip addr flush dev eth0; ip link set eth0 down; ip link set eth0 address {new}; ip link set eth0 up"
        ));
        // The router has its lease no more.
        drop(running.take());
        running = Some(router(&lan));
        std::thread::sleep(std::time::Duration::from_millis(500));
        lan.site.sh(&format!("ip neigh replace {ONE_ADDRESS} lladdr {old} nud stale dev eth0"));
        std::thread::sleep(std::time::Duration::from_millis(200));
        let lease = lan.udhcpc(&phone, "Polycom-SPIP670");
        assert!(lease.contains(&format!("ip={ONE_ADDRESS}")), "{lease}\n{}", lan.log());
        if !lease.contains(&format!("tftp={BOX}")) {
            failed.push(format!("{new}: {lease}"));
        }
    }
    // The router may be faster once, as anywhere.
    assert!(failed.len() <= 1, "{failed:#?}\n{}\n{}", lan.status(), lan.log());
}

#[test]
fn an_address_that_a_device_has_and_says_so_is_nobody_elses() {
    if !can_run("an_address_that_a_device_has_and_says_so", &["ip", "dnsmasq", "tcpdump", "busybox"]) {
        return;
    }
    let mut lan = Lan::new(None, 600);
    let _router = router(&lan);
    lan.serve("mode = \"augment\"", "\"augment\"");
    lan.becomes("10.78.0.1");
    // A PC with a fixed address that is the router's to lease; the box has just heard of it.
    lan.pc.sh(&format!("ip addr add {ONE_ADDRESS}/24 dev eth0 && busybox ping -c 1 -W 2 {BOX}"));
    lan.site.sh(&format!("ip neigh replace {ONE_ADDRESS} lladdr {PC} nud reachable dev eth0"));
    std::thread::sleep(std::time::Duration::from_millis(200));
    let lease = lan.udhcpc(&lan.phone, "Polycom-SPIP670");
    assert!(!lease.contains(&format!("tftp={BOX}")), "{lease}\n{}", lan.log());
    assert!(lan.status().contains("dhcp.augment.address"), "{}\n{}", lan.status(), lan.log());
}
