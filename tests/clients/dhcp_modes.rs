//! Beside routers that others wrote, phones that others wrote: the router leases, we complete, PCs see nothing of us.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use super::lan::{BOX, BOX_MAC, Lan, PC, PHONE, Router};
use super::net::{can_run, text, wait_for};

/// A phone's lease once it holds `part`, within three boots: a router that pings first drops what a relay asks meanwhile,
/// and an unoptimised build on a busy machine loses a race now and then. How many are lost is the benchmark's to say.
fn boots(boot: impl Fn() -> String, part: &str, lan: &Lan) -> String {
    let mut lease = String::new();
    for number in 1..=3 {
        lease = boot();
        if lease.contains(part) {
            println!("learned at boot {number}");
            return lease;
        }
        std::thread::sleep(Duration::from_millis(300));
    }
    panic!("no `{part}` in:\n{lease}\n{}\n{}", lan.status(), lan.log());
}

fn beside(router: Router, test: &str) {
    if !can_run(test, &["ip", "tcpdump", "dhclient", "busybox", "dhcpcd", router.program()]) {
        return;
    }
    let mut lan = Lan::new(Some(router), 600);
    lan.serve("mode = \"auto\"", "augment (auto)");
    let phone = lan.phone.clone();
    let box150 = format!("tftp150 {BOX}");
    let lease = boots(|| lan.udhcpc(&phone, "Polycom-SPIP670"), "opt150=0a4e0002", &lan);
    println!("{router:?}: udhcpc {lease}");
    // dhcpd goes on with a lease that has just begun: a second less.
    let seconds = lease.lines().find_map(|line| line.strip_prefix("lease=")?.parse::<u32>().ok());
    assert!(seconds.is_some_and(|seconds| (580..=600).contains(&seconds)), "{lease}");
    for part in ["ip=10.78.0.", "serverid=10.78.0.1", &format!("tftp={BOX}"), "router=10.78.0.1"] {
        assert!(lease.contains(part), "no `{part}` in:\n{lease}\n{}\n{}", lan.status(), lan.log());
    }
    let lease = boots(|| lan.dhclient(&phone, "Polycom-SPIP670"), &box150, &lan);
    println!("{router:?}: dhclient {lease}");
    for part in [&format!("tftp-server-name \"{BOX}\""), "dhcp-server-identifier 10.78.0.1"] {
        assert!(lease.contains(part), "no `{part}` in:\n{lease}\n{}", lan.log());
    }
    let lease = boots(|| lan.dhcpcd(&phone, "Polycom-SPIP670", ""), &format!("new_tftp_server_name={BOX}"), &lan);
    println!("{router:?}: dhcpcd {}", lease.lines().filter(|line| line.contains("new_")).collect::<Vec<_>>().join(" "));
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
    assert!(lan.status().contains("dhcp.augment.ack"), "{}", lan.log());
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
    let inform = || lan.dhcpcd(&lan.phone, "Polycom-SPIP670", "--inform 10.78.0.120/24");
    boots(inform, &format!("new_tftp_server_name={BOX}"), &lan);
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
    let router = || fs::read_to_string(lan.dir.join("router.log")).unwrap();
    wait_for(Duration::from_secs(5), || router().contains("DHCPRELEASE of 10.78.0.").then_some(()))
        .unwrap_or_else(|| panic!("{}", router()));
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
