//! What goes wrong in the box itself: two interfaces on one LAN, labels, VPNs and bridges beside the LAN, frames of
//! another VLAN, phones of another network; and what `status` tells of it.

use std::fs;
use std::time::Duration;

use super::lan::{BOX, BOX_MAC, Lan, PHONE, Router};
use super::net::{Host, Net, Running, can_run, text, wait_for};
use super::site::{BOX_LAN, CISCO, CISCO_FILE, Deployment, lineside_program};

const PHONE_ADDRESS: &str = "192.168.77.20";
/// The second interface of the box.
const SECOND: &str = "192.168.77.2";

fn alerts(status: &serde_json::Value, code: &str) -> Vec<String> {
    let alerts = status["alerts"].as_array().unwrap().iter().filter(|alert| alert["code"] == code);
    alerts.map(|alert| alert["text"].as_str().unwrap().to_owned()).collect()
}

/// Waits until the alerts of a code are as many as that.
fn has_alerts(site: &Deployment, code: &str, count: usize) -> Vec<String> {
    let found = wait_for(Duration::from_secs(30), || {
        let found = alerts(&site.status(), code);
        (found.len() == count).then_some(found)
    });
    found.unwrap_or_else(|| panic!("never {count} of {code}:\n{:#}\n{}", site.status(), site.appliance_log()))
}

#[test]
fn a_second_interface_on_the_lan_is_kept_apart_by_the_packages_settings_and_told_without_them() {
    if !can_run("a_second_interface_on_the_lan", &["ip", "curl"]) {
        return;
    }
    let mut site = Deployment::ready();
    site.net.plug(&site.site, "lan1", &site.lan, None);
    site.site.sh(&format!("ip addr add {SECOND}/24 dev lan1"));
    let told = has_alerts(&site, "two-interfaces", 1);
    assert!(told[0].contains("lan0 (192.168.77.1) and lan1 (192.168.77.2)"), "{told:?}");
    let (_, doctor) = site.try_lineside(&["doctor", "--interface", "lan0"]);
    assert!(doctor.contains("WARNING: lan0 (192.168.77.1) and lan1"), "{doctor}");

    site.site.sh(&format!("/lib/systemd/systemd-sysctl {}/systemd/lineside.sysctl", env!("CARGO_MANIFEST_DIR")));
    has_alerts(&site, "two-interfaces", 0);
    let phone = site.phone_at(CISCO, PHONE_ADDRESS);
    let (own, other) = (site.preview(CISCO, CISCO_FILE), site.site.sh("cat /sys/class/net/lan1/address"));
    for number in 1..=12 {
        phone.sh("ip neigh flush dev eth0");
        let fetched = phone.try_sh(&format!("curl -s -m 5 tftp://{BOX_LAN}/{CISCO_FILE}"));
        assert_eq!(fetched.stdout, own, "try {number}: {}\n{}", phone.sh("ip neigh"), site.appliance_log());
        // And from then on the phone does not learn the other hardware address by what the box asks it.
        assert!(!phone.sh(&format!("ip neigh show {BOX_LAN}")).contains(other.trim()), "try {number}");
    }

    // A kernel that drops what does not come by its own route is told as well, and all ends with the second interface.
    site.site.sh("sysctl -qw net.ipv4.conf.all.rp_filter=1");
    let told = has_alerts(&site, "two-interfaces", 1);
    assert!(told[0].contains("rp_filter=2"), "{told:?}");
    site.site.sh("ip link del lan1");
    has_alerts(&site, "two-interfaces", 0);
}

#[test]
fn an_interface_without_an_address_of_the_lan_that_hears_it_is_told_and_one_of_another_network_is_not() {
    if !can_run("an_interface_without_an_address_of_the_lan", &["ip"]) {
        return;
    }
    let mut site = Deployment::ready();
    let elsewhere = site.net.switch("elsewhere");
    site.net.plug(&site.site, "lan2", &elsewhere, None);
    site.site.sh("ip addr add 10.20.0.2/24 dev lan2");
    let told_of = "lan1 has no address of the LAN and hears what lan0 sends";
    for address in ["", "ip addr add 10.99.0.2/24 dev lan1"] {
        site.net.plug(&site.site, "lan1", &site.lan, None);
        site.site.sh(address);
        let told = has_alerts(&site, "two-interfaces", 1);
        assert!(told[0].starts_with(told_of) && told[0].contains("unplug lan1"), "{told:?}");
        let (_, said) = site.try_lineside(&["status"]);
        assert!(said.contains(told_of), "{said}");
        let (_, doctor) = site.try_lineside(&["doctor", "--interface", "lan0"]);
        assert!(doctor.contains(&format!("WARNING: {told_of}")) && !doctor.contains("lan2"), "{doctor}");
        site.site.sh("ip link del lan1");
        has_alerts(&site, "two-interfaces", 0);
    }

    // With the package's settings it does no harm, which doctor says.
    site.site.sh(&format!("/lib/systemd/systemd-sysctl {}/systemd/lineside.sysctl", env!("CARGO_MANIFEST_DIR")));
    site.net.plug(&site.site, "lan1", &site.lan, None);
    let (_, doctor) = site.try_lineside(&["doctor", "--interface", "lan0"]);
    assert!(doctor.contains("NOTE: lan1 is on this LAN, too") && !doctor.contains("WARNING"), "{doctor}");
    std::thread::sleep(Duration::from_secs(3));
    has_alerts(&site, "two-interfaces", 0);
}

/// The switch's port that the box is plugged into.
fn port_of_box(site: &Deployment) -> String {
    let index = site.site.sh("cat /sys/class/net/lan0/iflink");
    let ports = site.lan.sh("ip -o link");
    let port = ports.lines().find_map(|line| line.strip_prefix(&format!("{}: ", index.trim())));
    port.and_then(|rest| rest.split(['@', ':']).next()).unwrap_or_else(|| panic!("{index}: {ports}")).to_owned()
}

#[test]
fn after_the_carrier_was_gone_for_a_moment_own_files_and_dhcp_go_on() {
    if !can_run("after_the_carrier_was_gone_for_a_moment", &["ip", "curl", "busybox"]) {
        return;
    }
    let mut site = super::dhcp::leasing();
    let phone = site.phone(CISCO);
    let port = port_of_box(&site);
    let goes_on = |what: &str| {
        let said = text(&phone.try_sh("busybox udhcpc -i eth0 -n -q -f -t 8 -T 1 -s /bin/true"));
        let leased = said.split_once("lease of ").and_then(|(_, rest)| rest.split_whitespace().next());
        let address = leased.unwrap_or_else(|| panic!("no lease {what}: {said}\n{}", site.appliance_log())).to_owned();
        phone.sh(&format!("ip addr flush dev eth0; ip addr add {address}/24 dev eth0"));
        let fetched = phone.try_sh(&format!("curl -s -m 10 tftp://{BOX_LAN}/{CISCO_FILE}")).stdout;
        assert_eq!(fetched, site.preview(CISCO, CISCO_FILE), "{what}\n{:#}\n{}", site.status(), site.appliance_log());
        address
    };
    let address = goes_on("to begin with");
    let carriers =
        |site: &Deployment| site.site.sh("cat /sys/class/net/lan0/carrier_down_count").trim().parse::<u32>().unwrap();
    let bounce =
        |down: &str, up: &str| format!("ip link set {port} down; sleep {down}; ip link set {port} up; sleep {up}; ");
    for (what, bounces) in [
        ("after 20 ms without a carrier", bounce("0.02", "0")),
        ("after 200 ms without a carrier", bounce("0.2", "0")),
        // A bad plug, or a switch that restarts.
        ("after the carrier came and went", bounce("0.02", "0.03").repeat(10)),
        ("after the carrier came and went slowly", bounce("0.3", "0.3").repeat(4)),
    ] {
        let before = carriers(&site);
        site.lan.sh(&bounces);
        assert!(carriers(&site) > before, "{what}: the box did not notice");
        assert_eq!(goes_on(what), address, "{what}\n{}", site.appliance_log());
        assert!(alerts(&site.status(), "no-lan").is_empty(), "{what}: {:#}", site.status());
    }
}

#[test]
fn a_label_means_its_interface_and_what_is_served_is_named() {
    if !can_run("a_label_means_its_interface", &["ip", "curl"]) {
        return;
    }
    let mut site = Deployment::new();
    site.site
        .sh("ip addr add 169.254.7.7/16 dev lan0 label lan0:avahi && ip addr add 10.20.0.1/24 dev lan0 label lan0:1");
    site.interface = "lan0:avahi".to_owned();
    site.enroll();
    site.hq(&["publish"]);
    site.start();
    site.serves(1);
    let phone = site.phone_at(CISCO, PHONE_ADDRESS);
    let fetch = |from: &str| phone.try_sh(&format!("curl -s -m 5 tftp://{from}/{CISCO_FILE}")).stdout;
    assert_eq!(fetch(BOX_LAN), site.preview(CISCO, CISCO_FILE), "{}", site.appliance_log());
    let (_, said) = site.try_lineside(&["status"]);
    assert!(said.contains("lan          192.168.77.1/24 on lan0\n             not 10.20.0.1/24"), "{said}");

    // An address chooses among those of one interface.
    site.appliance = None;
    site.interface = "10.20.0.1".to_owned();
    site.start_anew();
    phone.sh("ip addr add 10.20.0.20/24 dev eth0");
    let served = wait_for(Duration::from_secs(20), || (!fetch("10.20.0.1").is_empty()).then_some(()));
    assert!(served.is_some(), "{}", site.appliance_log());
    assert_eq!(site.status()["lan"]["address"], "10.20.0.1/24");
}

/// Runs the appliance of a host without a name for its LAN: what its status says, or what it said as it ended.
fn without_a_name(net: &Net, host: &Host) -> String {
    let dir = net.dir();
    let socket = dir.join("status.sock");
    let _ = fs::remove_file(&socket);
    let config = dir.join("lineside.toml");
    let settings = format!(
        "[storage]\nstate = {:?}\n[status]\nsocket = {:?}\n",
        dir.join("state").to_str().unwrap(),
        socket.to_str().unwrap()
    );
    fs::write(&config, settings).unwrap();
    let words = [lineside_program(), "--config", config.to_str().unwrap()];
    let mut running = host.start(&[&words[..], &["run"]].concat(), &dir.join("appliance.log"));
    let status = wait_for(Duration::from_secs(15), || {
        let output = host.command(&[&words[..], &["status"]].concat()).output().unwrap();
        text(&output).contains("\nlan   ").then(|| text(&output))
    });
    if status.is_some() {
        running.signal("TERM");
    }
    running.ends_within(Duration::from_secs(15));
    status.unwrap_or_else(|| running.log())
}

#[test]
fn vpns_bridges_of_containers_and_labels_are_no_lan() {
    if !can_run("vpns_bridges_of_containers_and_labels", &["ip"]) {
        return;
    }
    let mut net = Net::new();
    let (switch, host, other) = (net.switch("switch"), net.host("box"), net.host("other"));
    net.plug(&host, "eth0", &switch, None);
    net.cable((&host, "eth1"), (&other, "eth0"));
    other.sh("ip link set eth0 down");
    host.sh("ip addr add 192.168.1.2/24 dev eth0 && ip addr add 169.254.3.3/16 dev eth0 label eth0:avahi
         ip link add docker0 type bridge && ip addr add 172.17.0.1/16 dev docker0 && ip link set docker0 up
         ip link add veth0 type veth peer name veth1 && ip link set veth0 master docker0 up && ip link set veth1 up
         ip link add dv0 type veth peer name dv1 && ip link set dv0 master docker0 up && ip link set dv1 up
         ip addr add 172.17.0.9/16 dev dv1
         ip tuntap add tun0 mode tun && ip addr add 100.101.102.103/32 dev tun0 && ip link set tun0 up
         ip addr add 10.1.0.2/24 dev eth1");
    let said = without_a_name(&net, &host);
    assert!(said.contains("192.168.1.2/24 on eth0\n"), "{said}");

    // Two networks are for a person to choose from, and the message has what that takes.
    other.sh("ip link set eth0 up");
    wait_for(Duration::from_secs(10), || host.sh("ip link show eth1").contains("LOWER_UP").then_some(())).unwrap();
    let said = without_a_name(&net, &host);
    let expected = "several network interfaces could be the LAN: eth0 (192.168.1.2/24), eth1 (10.1.0.2/24)";
    assert!(said.contains(expected) && said.contains("[lan] interface = \"eth0\""), "{said}");

    // One network on two interfaces is one LAN; a bridge with a card is a LAN.
    host.sh("ip addr flush dev eth1 && ip addr add 192.168.1.3/24 dev eth1 && ip addr flush dev eth0
         ip link add br0 type bridge && ip link set eth0 master br0 && ip addr add 192.168.1.2/24 dev br0
         ip link set br0 up && ip link set eth1 down");
    wait_for(Duration::from_secs(10), || host.sh("ip link show br0").contains("LOWER_UP").then_some(())).unwrap();
    let said = without_a_name(&net, &host);
    assert!(said.contains("192.168.1.2/24 on br0\n"), "{said}");
}

#[test]
fn phones_of_another_network_are_named_in_an_alert() {
    if !can_run("phones_of_another_network_are_named", &["ip", "curl"]) {
        return;
    }
    let mut site = Deployment::ready();
    let phone = site.phone(CISCO);
    phone.sh("ip addr add 10.20.0.5/24 dev eth0 && ip route add 192.168.77.0/24 dev eth0");
    site.site.sh("ip route add 10.20.0.0/24 dev lan0");
    let fetched = phone.try_sh(&format!("curl -s -m 3 tftp://{BOX_LAN}/{CISCO_FILE}"));
    assert!(fetched.stdout.is_empty());
    let told = has_alerts(&site, "other-network", 1);
    assert!(
        told[0].contains(
            "phones of another network, such as 10.20.0.5, ask for files here, only 192.168.77.0/24 is served"
        )
    );
    let (_, said) = site.try_lineside(&["status"]);
    assert!(said.contains("devices of another network, such as 10.20.0.5, asked"), "{said}");
    assert!(said.contains("requests for files from outside this LAN, not answered (tftp.outside-lan)"), "{said}");
}

#[test]
fn after_a_restart_status_says_what_is_served_and_a_poll_was_just_now() {
    if !can_run("after_a_restart_status_says", &["ip", "curl"]) {
        return;
    }
    let mut site = Deployment::ready();
    let (_, said) = site.try_lineside(&["status"]);
    let polled = said.lines().find(|line| line.starts_with("polled")).unwrap();
    assert!(polled.contains(" s ago (signed metadata is current)"), "{said}");

    // HQ is away, so the first poll takes its time to fail.
    site.serve = None;
    site.appliance = None;
    site.start_anew();
    let (_, said) = site.try_lineside(&["status"]);
    for part in [
        "serving      generation 1\n",
        "polled       not yet since the start\n",
        "lan          192.168.77.1/24 on lan0\n",
    ] {
        assert!(said.contains(part), "no `{part}` in:\n{said}");
    }
    assert!(said.starts_with("state        starting: ") && !said.contains("disk         0 MB"), "{said}");
}

/// A lease that busybox udhcpc got on an interface, as its script saw it.
fn leased(lan: &Lan, host: &Host, interface: &str) -> String {
    let seen = lan.dir.join(format!("seen-{interface}"));
    let _ = fs::remove_file(&seen);
    let script =
        format!("#!/bin/sh\n[ \"$1\" = bound ] && env | grep -E '^(ip|tftp|opt150)=' > {}\nexit 0\n", seen.display());
    let script = lan.script(&format!("udhcpc-{interface}.sh"), &script);
    let words =
        format!("busybox udhcpc -i {interface} -f -q -n -t 8 -T 2 -s {script} -O tftp -O 150 -V Polycom-SPIP670");
    let output = host.try_sh(&words);
    fs::read_to_string(&seen).unwrap_or_else(|_| format!("no lease: {}", text(&output)))
}

/// Gives a host's `eth0` a VLAN interface of this number, which its name ends with: the kernel's, or a stand-in where the
/// kernel has none. It lives as long as what is returned.
fn in_vlan(lan: &Lan, host: &Host, vid: u16, address: Option<&str>) -> Option<Running> {
    let name = format!("eth0.{vid}");
    // A frame for VLAN 0 comes back without a tag, so that the kernel's own interface would not hear it.
    let of_kernel = format!("ip link add link eth0 name {name} type vlan id {vid}");
    let stand_in = (vid == 0 || !host.try_sh(&of_kernel).status.success()).then(|| {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/clients/vlan.py");
        let log = lan.dir.join(format!("{}-{name}.log", host.namespace));
        let running = host.start(&["python3", script, "eth0", &vid.to_string(), &name], &log);
        running.says("ready");
        host.sh(&format!("ip link set {name} address $(cat /sys/class/net/eth0/address)"));
        running
    });
    host.sh(&format!("ip link set {name} up"));
    if let Some(address) = address {
        host.sh(&format!("ip addr add {address}/24 dev {name}"));
    }
    stand_in
}

/// A DHCP server of VLAN 20 at 10.20.0.1.
fn server_of_vlan_20(lan: &Lan) -> [Option<Running>; 2] {
    let interface = in_vlan(lan, &lan.pc, 20, Some("10.20.0.1"));
    let words =
        ["dnsmasq", "--keep-in-foreground", "--conf-file=/dev/null", "--port=0", "--pid-file", "--interface=eth0.20"];
    let more = ["--user=root", "--log-dhcp", "--log-facility=-", "--dhcp-range=10.20.0.50,10.20.0.99,600s"];
    let leases = format!("--dhcp-leasefile={}", lan.dir.join("vlan20.leases").display());
    let words = [&words[..], &more[..], &["--dhcp-authoritative", &leases]].concat();
    [Some(lan.pc.start(&words, &lan.dir.join("vlan20.log"))), interface]
}

fn shown(lan: &Lan) -> serde_json::Value {
    serde_json::from_str(&lan.status()).unwrap_or_else(|error| panic!("{error}:\n{}\n{}", lan.status(), lan.log()))
}

/// What `augment` counted, and what people are told of the LAN.
fn counted(lan: &Lan) -> serde_json::Value {
    let status = shown(lan);
    let counters = status["counters"].as_object().unwrap().iter().filter(|(name, _)| name.starts_with("dhcp.augment"));
    serde_json::json!({
        "counters": counters.map(|(name, value)| (name.clone(), value.clone())).collect::<serde_json::Map<_, _>>(),
        "servers": status["dhcp-servers"].as_array().unwrap().iter().map(|one| one["server"].clone()).collect::<Vec<_>>(),
        "alerts": status["alerts"],
    })
}

#[test]
fn at_a_trunk_port_another_vlans_phones_and_servers_are_nobody() {
    if !can_run("at_a_trunk_port_another_vlans_phones", &["ip", "dnsmasq", "tcpdump", "busybox", "python3"]) {
        return;
    }
    let mut lan = Lan::new(Some(Router::Dnsmasq), 600);
    lan.serve("mode = \"augment\"", "\"augment\"");
    lan.becomes("10.78.0.1");
    let _server = server_of_vlan_20(&lan);
    let _phone = in_vlan(&lan, &lan.phone, 20, None);
    // It keeps its networks apart, so that nothing of this one gets into the other without a tag.
    for host in [&lan.phone, &lan.pc] {
        host.sh("sysctl -qw net.ipv4.conf.all.arp_ignore=1 net.ipv4.conf.all.arp_announce=2");
    }
    let before = counted(&lan);
    // What is relayed for the phone has its hardware address in it. The box's own questions to its router, as a relay agent,
    // come whenever they are due.
    let of_phone = "udp[36:4] = 0x0004f2aa and udp[40:2] = 0xbb01";
    let relayed =
        |lan: &Lan| lan.frames(&format!("ether src {BOX_MAC} and udp dst port 67 and udp[32:4] != 0 and {of_phone}"));
    for _ in 0..3 {
        let lease = leased(&lan, &lan.phone, "eth0.20");
        assert!(lease.contains("ip=10.20.0.") && !lease.contains(BOX), "{lease}\n{}", lan.log());
    }
    // A claim of the box's own address in that VLAN, which an ARP probe of RFC 5227 makes.
    lan.phone.sh(&format!(
        "ip addr add {BOX}/24 dev eth0.20 && busybox arping -U -c 2 -I eth0.20 {BOX}; ip addr flush dev eth0.20"
    ));
    std::thread::sleep(Duration::from_secs(1));
    let heard = lan.frames("vlan 20 and udp port 67").len();
    assert!(heard >= 12, "only {heard} frames of VLAN 20 passed by");
    assert_eq!(counted(&lan), before, "{}", lan.log());
    assert_eq!(relayed(&lan), Vec::<String>::new(), "{}", lan.log());
    assert!(alerts(&shown(&lan), "dhcp-new-server").is_empty());
    // But status says that they ask, and what to do.
    let vlans = shown(&lan)["vlans"].clone();
    assert!(vlans[0]["vlan"] == 20 && vlans[0]["first"] == PHONE && vlans[0]["count"].as_u64() >= Some(3), "{vlans}");
    let said = lan.status_text();
    assert!(said.contains(&format!("phones of VLAN 20, such as {PHONE}, asked")), "{said}");
    assert!(said.contains("set the switch's port to VLAN 20 untagged (access)"), "{said}");
    let doctor = lan.site.start(&[lineside_program(), "doctor", "--interface", "eth0"], &lan.dir.join("doctor.log"));
    for _ in 0..3 {
        leased(&lan, &lan.phone, "eth0.20");
    }
    doctor.says("NOTE: devices of VLAN 20, such as");
    drop(doctor);

    // Who sends no tag, or one that only gives a priority, is served as ever.
    let learned = |lan: &Lan| (1..=6).any(|_| leased(lan, &lan.phone, "eth0").contains(&format!("tftp={BOX}")));
    assert!(learned(&lan), "{}\n{}", lan.status(), lan.log());
    let acks = |lan: &Lan| shown(lan)["counters"]["dhcp.augment.ack"].as_u64().unwrap_or(0);
    let before = acks(&lan);
    lan.phone.sh("ip addr flush dev eth0");
    let _phone = in_vlan(&lan, &lan.phone, 0, None);
    let learned = (1..=6).any(|_| leased(&lan, &lan.phone, "eth0.0").contains(&format!("tftp={BOX}")));
    assert!(learned && acks(&lan) > before, "{}\n{}", lan.status(), lan.log());
}

#[test]
fn a_vlan_interface_is_a_lan_like_any_other() {
    if !can_run("a_vlan_interface_is_a_lan", &["ip", "dnsmasq", "tcpdump", "busybox", "python3"]) {
        return;
    }
    let mut lan = Lan::new(Some(Router::Dnsmasq), 600);
    let _server = server_of_vlan_20(&lan);
    let _site = in_vlan(&lan, &lan.site, 20, Some("10.20.0.2"));
    let _phone = in_vlan(&lan, &lan.phone, 20, None);
    lan.interface = "eth0.20";
    lan.serve("mode = \"augment\"", "\"augment\"");
    lan.becomes("10.20.0.1");
    let learned = (1..=6).any(|_| leased(&lan, &lan.phone, "eth0.20").contains("tftp=10.20.0.2"));
    assert!(learned, "{}\n{}", lan.status(), lan.log());
    // The LAN without a tag is another one now: its router is none of ours, and its phones are not pointed here.
    let status = shown(&lan);
    let servers = status["dhcp-servers"].as_array().unwrap();
    assert!(servers.iter().all(|server| server["server"] == "10.20.0.1"), "{servers:?}");
    let lease = leased(&lan, &lan.phone, "eth0");
    assert!(lease.contains("ip=10.78.0.") && !lease.contains("tftp="), "{PHONE}: {lease}\n{}", lan.log());
}
