//! Beside routers that others wrote, phones that others wrote: the router leases, we complete, PCs see nothing of us.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use super::lan::{self, BOX, BOX_MAC, Lan, PC, PHONE, Router};
use super::net::{Host, can_run, text, wait_for};

/// A phone's lease once it holds `part`, within six boots: a router that pings first drops what a relay asks meanwhile,
/// and a race may be lost on a busy machine. How many are lost is the benchmark's to say.
fn boots(boot: impl Fn() -> String, part: &str, lan: &Lan) -> String {
    let mut lease = String::new();
    for number in 1..=6 {
        lease = boot();
        if lease.contains(part) {
            println!("learned at boot {number}");
            return lease;
        }
        std::thread::sleep(Duration::from_millis(300));
    }
    panic!("no `{part}` in:\n{lease}\n{}\n{}", lan.status(), lan.log());
}

const RANGE: &str = "range = [\"10.78.0.200\", \"10.78.0.210\"]";

/// Every mode beside one router, one after the other.
fn beside(router: Router) {
    let mut lan = Lan::new(Some(router), 600);

    // First: a phone that the router knows gets the router's offer sooner.
    if router == Router::Dhcpd {
        lan.serve(&format!("mode = \"phones-only\"\n{RANGE}"), "\"phones-only\"");
        // What was leased to find out was given back.
        let router = || fs::read_to_string(lan.dir.join("router.log")).unwrap();
        wait_for(Duration::from_secs(5), || router().contains("DHCPRELEASE of 10.78.0.").then_some(()))
            .unwrap_or_else(|| panic!("{}", router()));
        let lease = lan.udhcpc(&lan.phone, "Polycom-SPIP670");
        assert!(lease.contains("ip=10.78.0.2") && lease.contains(&format!("tftp={BOX}")), "{lease}\n{}", lan.log());
    } else {
        lan.serve(&format!("mode = \"phones-only\"\n{RANGE}"), "\"inform (phones-only refused)\"");
        let status = lan.status();
        assert!(status.contains("sends a NAK") && status.contains("`augment` works beside any router"), "{status}");
    }
    the_router_alone_leases(&lan, &lan.pc, "MSFT");

    // Who has leased before is not silenced by another server.
    lan.forget();
    let said = |lan: &Lan| lan.frames(&format!("ether src {BOX_MAC} and udp dst port 68")).len();
    let before = said(&lan);
    // Two modes in which nobody hears anything of us; the second because the router is there.
    lan.serve("mode = \"shadow\"", "\"shadow\"");
    the_router_alone_leases(&lan, &lan.phone, "Polycom-SPIP670");
    lan.serve(&format!("mode = \"all\"\n{RANGE}"), "\"inform (all asked for)\"");
    // It says whom it waits for, at which hardware address.
    lan.becomes(&format!("10.78.0.1 ({}) answers DHCP on this LAN since 20", lan.router_mac()));
    assert!(lan.status().contains("10 minutes after its last answer leasing begins here"), "{}", lan.status());
    the_router_alone_leases(&lan, &lan.phone, "Polycom-SPIP670");
    assert_eq!(said(&lan), before);

    the_router_alone_leases(&lan, &lan.pc, "MSFT");
    let naks = |lan: &Lan| lan.frames(&format!("ether src {BOX_MAC} and udp[250:1] = 6")).len();
    assert_eq!(naks(&lan), 0, "{}", lan.log());

    lan.serve("mode = \"inform\"", "\"inform\"");
    lan.phone.sh("ip address add 10.78.0.120/24 dev eth0");
    let inform = || lan.dhcpcd(&lan.phone, "Polycom-SPIP670", "--inform 10.78.0.120/24");
    boots(inform, &format!("new_tftp_server_name={BOX}"), &lan);
    lan.phone.sh("ip address flush dev eth0");
    the_router_alone_leases(&lan, &lan.pc, "MSFT");

    augment_beside(router, &mut lan);
    assert_eq!(lan.frames(&format!("ether src {BOX_MAC} and ether dst {PC}")), Vec::<String>::new());
    let from_us = lan.frames(&format!("ether src {BOX_MAC} and udp dst port 68"));
    println!("{router:?}: {} frames from us to clients", from_us.len());
    assert!(from_us.iter().all(|line| line.contains(PHONE)), "{from_us:#?}");
    lan.is_well_formed();
}

fn the_router_alone_leases(lan: &Lan, host: &Host, class: &str) {
    let lease = lan.udhcpc(host, class);
    assert!(lease.contains("serverid=10.78.0.1") && !lease.contains("tftp="), "{lease}\n{}", lan.log());
}

fn augment_beside(router: Router, lan: &mut Lan) {
    let before = lan.naks();
    lan.serve("mode = \"auto\"", "augment (auto)");
    let phone = lan.phone.clone();
    let box150 = format!("tftp150 {BOX}");
    let lease = boots(|| lan.udhcpc(&phone, "Polycom-SPIP670"), "opt150=0a4e0002", lan);
    println!("{router:?}: udhcpc {lease}");
    // dhcpd goes on with a lease that has just begun: some seconds less.
    let seconds = lease.lines().find_map(|line| line.strip_prefix("lease=")?.parse::<u32>().ok());
    assert!(seconds.is_some_and(|seconds| (500..=600).contains(&seconds)), "{lease}");
    for part in ["ip=10.78.0.", "serverid=10.78.0.1", &format!("tftp={BOX}"), "router=10.78.0.1"] {
        assert!(lease.contains(part), "no `{part}` in:\n{lease}\n{}\n{}", lan.status(), lan.log());
    }
    let lease = boots(|| lan.dhclient(&phone, "Polycom-SPIP670"), &box150, lan);
    for part in [&format!("tftp-server-name \"{BOX}\""), "dhcp-server-identifier 10.78.0.1"] {
        assert!(lease.contains(part), "no `{part}` in:\n{lease}\n{}", lan.log());
    }
    let lease = boots(|| lan.dhcpcd(&phone, "Polycom-SPIP670", ""), &format!("new_tftp_server_name={BOX}"), lan);
    assert!(lease.contains("new_dhcp_server_identifier=10.78.0.1"), "{lease}");
    let acknowledged = || {
        let log = lan.networkd(&phone, "Polycom-SPIP670");
        assert!(log.contains("acquired from 10.78.0.1"), "{log}");
        let ack = log.split("DHCPv4 client: REQUEST").last().and_then(|rest| rest.split("DHCPv4 client: ACK").next());
        ack.unwrap_or_default().to_owned()
    };
    boots(acknowledged, "Ignoring DHCP option 150", lan);
    // A PC has the router's lease.
    let lease = lan.udhcpc(&lan.pc, "MSFT");
    assert!(lease.contains("serverid=10.78.0.1") && !lease.contains("tftp="), "{lease}");
    assert_eq!(lan.naks(), before, "{}", lan.log());
}

#[test]
fn every_mode_does_beside_every_router_what_it_says_and_no_pc_hears_of_us() {
    let clients = ["ip", "tcpdump", "dhclient", "busybox", "dhcpcd"];
    let routers = [Router::Dnsmasq, Router::DnsmasqAuthoritative, Router::Dhcpd, Router::Kea, Router::Udhcpd];
    let programs: Vec<&str> = clients.into_iter().chain(routers.map(Router::program)).collect();
    if !can_run("every_mode_beside_every_router", &programs) || !lan::has_networkd() {
        return;
    }
    // They wait for each other's answers most of the time.
    let threads = routers.map(|router| (router, std::thread::spawn(move || beside(router))));
    let failed: Vec<Router> =
        threads.into_iter().filter_map(|(router, thread)| thread.join().err().map(|_| router)).collect();
    assert!(failed.is_empty(), "beside {failed:?}");
}

#[test]
fn on_a_segment_of_its_own_every_client_learns_its_tftp_server_and_perfdhcp_loses_nothing() {
    let programs = ["ip", "tcpdump", "dhclient", "busybox", "dhcpcd", "perfdhcp"];
    if !can_run("on_a_segment_of_its_own", &programs) || !lan::has_networkd() {
        return;
    }
    let mut lan = Lan::new(None, 600);
    let settings = "range = [\"10.78.0.100\", \"10.78.0.199\"]\nrouters = [\"10.78.0.1\"]";
    lan.serve(&format!("mode = \"all\"\n{settings}"), "\"all\"");
    let lease = lan.udhcpc(&lan.phone, "Polycom-SPIP670");
    for part in ["ip=10.78.0.1", "opt150=0a4e0002", &format!("serverid={BOX}"), "router=10.78.0.1", "lease=43200"] {
        assert!(lease.contains(part), "no `{part}` in:\n{lease}\n{}", lan.log());
    }
    let lease = lan.dhclient(&lan.phone, "Polycom-SPIP670");
    assert!(lease.contains(&format!("tftp150 {BOX}")), "{lease}");
    let lease = lan.dhcpcd(&lan.phone, "Polycom-SPIP670", "");
    assert!(lease.contains(&format!("new_tftp_server_name={BOX}")), "{lease}");
    let log = lan.networkd(&lan.phone, "Polycom-SPIP670");
    assert!(log.contains("Ignoring DHCP option 150") && log.contains(&format!("acquired from {BOX}")), "{log}");
    let lease = lan.udhcpc(&lan.pc, "MSFT");
    assert!(lease.contains("ip=10.78.0.1"), "everybody is leased to: {lease}");
    // Forty devices that were never here and come back, through a relay agent.
    lan.pc.sh("ip address add 10.78.0.9/24 dev eth0");
    let output = text(&lan.pc.try_sh(&format!("perfdhcp -4 -l 10.78.0.9 -r 20 -R 40 -p 3 -W 1000000 {BOX} 2>&1")));
    let drops: Vec<&str> = output.lines().filter_map(|line| line.strip_prefix("drops: ")).collect();
    assert!(drops.len() >= 2 && drops.iter().all(|count| *count == "0"), "{output}\n{}", lan.log());
    lan.is_well_formed();
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
