//! Beside routers that others wrote, phones that others wrote: the router leases, we complete, PCs see nothing of us.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use super::lan::{BOX, BOX_MAC, Lan, PC, PHONE, Router};
use super::net::{can_run, text, wait_for};

fn beside(router: Router, test: &str) {
    if !can_run(test, &["ip", "tcpdump", "dhclient", "busybox", "dhcpcd", router.program()]) {
        return;
    }
    let mut lan = Lan::new(Some(router), 600);
    lan.serve("mode = \"auto\"", "augment (auto)");
    if router == Router::Dhcpd {
        // It pings before a phone's first lease, and drops what a relay asks meanwhile: that boot may be its own.
        lan.udhcpc(&lan.phone, "Polycom-SPIP670");
    }
    let lease = lan.udhcpc(&lan.phone, "Polycom-SPIP670");
    println!("{router:?}: udhcpc {lease}");
    for part in ["ip=10.78.0.", "serverid=10.78.0.1", "lease=600", &format!("tftp={BOX}"), "router=10.78.0.1"] {
        // dnsmasq and udhcpd hand out themselves as router only if told so.
        let optional = part.starts_with("router") && !matches!(router, Router::Dhcpd | Router::Kea | Router::Udhcpd);
        assert!(optional || lease.contains(part), "no `{part}` in:\n{lease}\n{}\n{}", lan.status(), lan.log());
    }
    assert!(lease.contains("opt150=0a4e0002"), "{lease}");
    let lease = lan.dhclient(&lan.phone, "Polycom-SPIP670");
    println!("{router:?}: dhclient {lease}");
    for part in [&format!("tftp-server-name \"{BOX}\""), &format!("tftp150 {BOX}"), "dhcp-server-identifier 10.78.0.1"]
    {
        assert!(lease.contains(part), "no `{part}` in:\n{lease}\n{}", lan.log());
    }
    let lease = lan.dhcpcd(&lan.phone, "Polycom-SPIP670", "");
    println!("{router:?}: dhcpcd {}", lease.lines().filter(|line| line.contains("new_")).collect::<Vec<_>>().join(" "));
    assert!(lease.contains(&format!("new_tftp_server_name={BOX}")), "{lease}\n{}", lan.log());
    assert!(lease.contains("new_dhcp_server_identifier=10.78.0.1"), "{lease}");
    // A PC has the router's lease and not one frame of ours.
    let lease = lan.udhcpc(&lan.pc, "MSFT");
    assert!(lease.contains("serverid=10.78.0.1") && !lease.contains("tftp="), "{lease}");
    let towards_pc = lan.frames(&format!("ether src {BOX_MAC} and ether dst {PC}"));
    assert_eq!(towards_pc, Vec::<String>::new());
    let naks = lan.naks();
    assert_eq!(naks, 0, "{}", lan.log());
    let from_us = lan.frames(&format!("ether src {BOX_MAC} and udp dst port 68"));
    println!("{router:?}: {} frames from us to clients", from_us.len());
    assert!(from_us.iter().all(|line| line.contains(PHONE)), "{from_us:#?}");
}

#[test]
fn beside_dnsmasq_phones_have_its_lease_and_our_tftp_server() {
    beside(Router::Dnsmasq, "beside_dnsmasq");
}

#[test]
fn beside_an_authoritative_dnsmasq_phones_have_its_lease_and_our_tftp_server() {
    beside(Router::DnsmasqAuthoritative, "beside_an_authoritative_dnsmasq");
}

#[test]
fn beside_isc_dhcpd_phones_have_its_lease_and_our_tftp_server() {
    beside(Router::Dhcpd, "beside_isc_dhcpd");
}

#[test]
fn beside_kea_phones_have_its_lease_and_our_tftp_server() {
    beside(Router::Kea, "beside_kea");
}

#[test]
fn beside_udhcpd_phones_have_its_lease_and_our_tftp_server() {
    beside(Router::Udhcpd, "beside_udhcpd");
}

#[test]
fn a_completed_lease_is_renewed_at_t1_with_the_router_and_without_us() {
    if !can_run("a_completed_lease_is_renewed_at_t1", &["ip", "tcpdump", "dhclient", "dhcpd"]) {
        return;
    }
    let mut lan = Lan::new(Some(Router::Dhcpd), 20);
    lan.serve("mode = \"augment\"", "\"augment\"");
    // The router knows the phone from now on, and pings no more before it offers.
    lan.dhclient(&lan.phone, "Polycom-SPIP670");
    let config = lan.dir.join("dhclient.conf");
    let (leases, pid) = (lan.dir.join("renewed.leases"), lan.dir.join("renewed.pid"));
    let path = |path: &PathBuf| path.to_str().unwrap().to_owned();
    let script = lan.script(
        "configure",
        "#!/bin/sh\n[ -n \"$new_ip_address\" ] && ip address replace $new_ip_address/24 dev eth0\nexit 0\n",
    );
    let words = [
        "dhclient",
        "-4",
        "-d",
        "-sf",
        &script,
        "-cf",
        &path(&config),
        "-lf",
        &path(&leases),
        "-pf",
        &path(&pid),
        "eth0",
    ];
    let client = lan.phone.start(&words, &lan.dir.join("dhclient.log"));
    client.says("bound to");
    let first = fs::read_to_string(&leases).unwrap();
    assert!(first.contains(&format!("tftp150 {BOX}")), "{first}\n{}", lan.log());
    wait_for(Duration::from_secs(25), || (client.log().matches("bound to").count() > 1).then_some(()))
        .unwrap_or_else(|| panic!("never renewed:\n{}\n{}", client.log(), lan.log()));
    let router = fs::read_to_string(lan.dir.join("router.log")).unwrap();
    println!("{}", client.log());
    assert!(client.log().contains("DHCPREQUEST for 10.78.0.5") && client.log().contains("to 10.78.0.1 port 67"));
    assert!(!router.contains("DHCPNAK"), "{router}");
    assert_eq!(lan.naks(), 0);
}

#[test]
fn a_client_that_informs_itself_learns_our_tftp_server_before_the_routers_answer() {
    if !can_run("a_client_that_informs_itself", &["ip", "tcpdump", "dhcpcd", "kea-dhcp4"]) {
        return;
    }
    let mut lan = Lan::new(Some(Router::Kea), 600);
    lan.serve("mode = \"augment\"", "\"augment\"");
    lan.phone.sh("ip address add 10.78.0.120/24 dev eth0");
    let told = lan.dhcpcd(&lan.phone, "Polycom-SPIP670", "--inform 10.78.0.120/24");
    assert!(told.contains(&format!("new_tftp_server_name={BOX}")), "{told}\n{}", lan.log());
}

#[test]
fn phones_only_is_refused_beside_an_authoritative_dnsmasq_and_augment_is_named() {
    if !can_run("phones_only_is_refused", &["ip", "tcpdump", "dnsmasq"]) {
        return;
    }
    let mut lan = Lan::new(Some(Router::DnsmasqAuthoritative), 600);
    lan.serve("mode = \"phones-only\"\nrange = [\"10.78.0.200\", \"10.78.0.210\"]", "\"inform (phones-only refused)\"");
    let status = lan.status();
    assert!(status.contains("sends a NAK") && status.contains("`augment` works beside any router"), "{status}");
}

#[test]
fn phones_only_begins_beside_a_silent_router_and_leases_to_phones_alone() {
    if !can_run("phones_only_begins_beside_a_silent_router", &["ip", "tcpdump", "busybox", "dhcpd"]) {
        return;
    }
    let mut lan = Lan::new(Some(Router::Dhcpd), 600);
    lan.serve("mode = \"phones-only\"\nrange = [\"10.78.0.200\", \"10.78.0.210\"]", "\"phones-only\"");
    // What was leased to find out was given back.
    let router = fs::read_to_string(lan.dir.join("router.log")).unwrap();
    assert!(router.contains("DHCPRELEASE of 10.78.0."), "{router}");
    let lease = lan.udhcpc(&lan.phone, "Polycom-SPIP670");
    println!("{lease}");
    assert!(lease.contains("ip=10.78.0.2") && lease.contains(&format!("tftp={BOX}")), "{lease}\n{}", lan.log());
    let lease = lan.udhcpc(&lan.pc, "MSFT");
    assert!(lease.contains("serverid=10.78.0.1"), "{lease}");
    assert_eq!(lan.frames(&format!("ether src {BOX_MAC} and ether dst {PC}")), Vec::<String>::new());
    assert_eq!(lan.naks(), 0, "{}", lan.log());
}

#[test]
fn doctor_says_what_is_there_and_what_to_do_without_any_set_up() {
    if !can_run("doctor_says_what_is_there", &["ip", "tcpdump", "dnsmasq"]) {
        return;
    }
    let lan = Lan::new(Some(Router::DnsmasqAuthoritative), 600);
    let output = text(&lan.site.command(&[env!("CARGO_BIN_EXE_lineside"), "doctor"]).output().unwrap());
    println!("{output}");
    for part in
        ["DHCP server 10.78.0.1", "for            600 seconds", "Take mode `augment`", "dhcp-option-force=66,10.78.0.2"]
    {
        assert!(output.contains(part), "no `{part}` in:\n{output}");
    }
}
