//! The packet filter of the image and of the package, and network cards that carry more than phones do.

use super::net::{Host, Net, can_run, text};
use super::site::{BOX_LAN, CISCO, CISCO_FILE, Deployment};

/// What the image loads at its start.
const RULES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/systemd/firewall.nft");
/// What loads it.
const LOADER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/systemd/firewall");
/// The users of these tests: the appliance, the resolver, timesyncd, networkd.
const USERS: &str =
    "LINESIDE_UID=61184-65519 LINESIDE_RESOLVE_UID=991 LINESIDE_TIMESYNC_UID=992 LINESIDE_NETWORK_UID=993";

/// Loads these rules; `users` says who is who.
fn load(host: &Host, rules: &str, users: &str) {
    host.sh(&format!("{users} LINESIDE_RULES={rules} {LOADER}"));
}

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
    // In these tests the appliance runs as root.
    load(&site.site, RULES, "LINESIDE_UID=0");
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

    // HQ is reached, and phones' addresses are asked for.
    let polls = |status: &serde_json::Value| status["counters"]["poll.ok"].as_u64().unwrap_or_default();
    let before = polls(&site.status());
    site.polls_until("a poll through the firewall", |status| polls(status) > before);
    let dropped = site.site.sh("nft list chain inet lineside appliance");
    assert!(dropped.contains("counter packets 0 "), "the appliance sends what it may not: {dropped}");

    // The rule that it needs: without it the first ACK is dropped.
    let without = std::fs::read_to_string(RULES).unwrap().replace("69, 61000-65535", "69");
    let path = site.net.dir().join("without.conf");
    std::fs::write(&path, without).unwrap();
    load(&site.site, &path.display().to_string(), "LINESIDE_UID=0");
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

/// Whether a user's datagram from `sport` to `to` leaves: the kernel says at once where a rule drops it.
fn leaves(host: &Host, uid: u32, sport: u16, to: &str, dport: u16, bytes: usize) -> bool {
    let code = format!(
        "import socket\ns=socket.socket(socket.AF_INET,socket.SOCK_DGRAM)\n\
         s.setsockopt(socket.SOL_SOCKET,socket.SO_BROADCAST,1)\ns.setsockopt(socket.SOL_SOCKET,socket.SO_REUSEADDR,1)\n\
         s.bind((\"\",{sport}))\ntry: s.sendto(bytes({bytes}),(\"{to}\",{dport})); print(\"sent\")\n\
         except PermissionError: print(\"dropped\")"
    );
    let answer = host.sh(&format!("setpriv --reuid {uid} --clear-groups /usr/bin/python3 -c '{code}'"));
    match answer.trim() {
        "sent" => true,
        "dropped" => false,
        other => panic!("{uid} {sport} {to}:{dport}: {other}"),
    }
}

/// Whether a user's connection is answered, be it by a refusal.
fn connects(host: &Host, uid: u32, to: &str, port: u16) -> bool {
    let code = format!(
        "import socket\ns=socket.socket()\ns.settimeout(1)\ntry: s.connect((\"{to}\",{port}))\n\
         except ConnectionRefusedError: print(\"refused\")\nexcept OSError: print(\"nothing\")"
    );
    host.sh(&format!("setpriv --reuid {uid} --clear-groups /usr/bin/python3 -c '{code}'")).trim() == "refused"
}

const BOX: &str = "192.168.77.2";
const ROUTER: &str = "192.168.77.1";
/// An address on the far side of the router.
const FAR: &str = "198.51.100.7";

/// A box, and the router that it has all else behind.
fn behind_a_router() -> (Net, Host, Host) {
    let mut net = Net::new();
    let (host, router) = (net.host("box"), net.host("router"));
    net.cable((&host, "lan0"), (&router, "eth0"));
    host.sh(&format!("ip addr add {BOX}/24 dev lan0 && ip link set lan0 up"));
    router.sh(&format!("ip addr add {ROUTER}/24 dev eth0 && ip addr add {FAR}/32 dev lo && ip link set eth0 up"));
    host.sh(&format!("ip route add default via {ROUTER}"));
    (net, host, router)
}

#[test]
fn each_user_sends_what_it_is_for_and_the_rest_is_dropped_and_counted() {
    if !can_run("each_user_sends_what_it_is_for", &["ip", "nft", "setpriv", "python3"]) {
        return;
    }
    let (_net, host, _router) = behind_a_router();
    // The kernel's own IPv6 would be counted, too.
    host.sh("sysctl -qw net.ipv4.ip_unprivileged_port_start=0 net.ipv6.conf.all.disable_ipv6=1");
    load(&host, RULES, USERS);
    let (lan, wan, all) = (ROUTER, FAR, "255.255.255.255");
    let (appliance, resolver, timesync, network) = (61_900, 991, 992, 993);
    // Each from, to, and how many bytes.
    let may = [
        (appliance, 69, lan, 40_000, 4),
        (appliance, 61_000, lan, 2000, 512),
        (appliance, 65_535, lan, 2000, 512),
        (appliance, 67, lan, 67, 300),
        (appliance, 67, all, 68, 300),
        (appliance, 68, all, 67, 300),
        (appliance, 40_000, lan, 9, 0),
        // What systemd opens for it stays root's.
        (0, 69, lan, 40_000, 4),
        (0, 67, lan, 67, 300),
        (0, 67, all, 68, 300),
        (0, 68, all, 67, 300),
        (resolver, 40_001, wan, 53, 30),
        (timesync, 40_002, wan, 123, 48),
        (network, 68, lan, 67, 300),
    ];
    for (uid, from, to, port, bytes) in may {
        assert!(leaves(&host, uid, from, to, port, bytes), "{uid} {from} -> {to}:{port}");
    }
    let before = host.sh("nft list chain inet lineside appliance; nft list chain inet lineside output");
    assert_eq!(before.matches("counter packets 0 bytes 0").count(), 2, "{before}");
    let may_not = [
        (appliance, 69, wan, 40_000, 4),
        (appliance, 61_000, wan, 2000, 512),
        (appliance, 60_999, lan, 2000, 512),
        (appliance, 40_000, lan, 9, 1),
        (appliance, 40_000, wan, 9, 0),
        (appliance, 40_000, wan, 53, 30),
        (appliance, 40_000, lan, 53, 30),
        (appliance, 40_000, wan, 123, 48),
        (appliance, 40_000, lan, 514, 10),
        (appliance, 40_000, wan, 443, 10),
        (appliance, 67, wan, 67, 300),
        (resolver, 40_000, wan, 123, 30),
        (resolver, 40_000, wan, 443, 30),
        (timesync, 40_000, wan, 53, 48),
        (network, 68, wan, 53, 300),
        (network, 40_000, lan, 67, 300),
        (0, 40_000, wan, 53, 30),
        (0, 69, wan, 40_000, 4),
        (0, 61_000, lan, 2000, 512),
        (0, 67, lan, 53, 300),
        (1000, 40_000, lan, 9, 0),
        (61_183, 69, lan, 40_000, 4),
        (65_520, 69, lan, 40_000, 4),
    ];
    for (uid, from, to, port, bytes) in may_not {
        assert!(!leaves(&host, uid, from, to, port, bytes), "{uid} {from} -> {to}:{port}");
    }
    let of_appliance = may_not.iter().filter(|case| case.0 == appliance).count();
    let counted = host.sh("nft list chain inet lineside appliance");
    assert!(counted.contains(&format!("counter packets {of_appliance} ")), "{counted}");
    let counted = host.sh("nft list chain inet lineside output");
    assert!(counted.contains(&format!("counter packets {} ", may_not.len() - of_appliance)), "{counted}");

    for to in [lan, wan] {
        assert!(connects(&host, appliance, to, 443) && connects(&host, appliance, to, 8443), "{to}");
        assert!(connects(&host, resolver, to, 853) && !connects(&host, resolver, to, 443), "{to}");
        for uid in [0, 1000, timesync, network] {
            assert!(!connects(&host, uid, to, 443), "{uid} {to}");
        }
    }
    // Without the rules all of it leaves: this test can fail.
    host.sh("nft delete table inet lineside");
    for (uid, from, to, port, bytes) in may_not {
        assert!(leaves(&host, uid, from, to, port, bytes), "{uid} {from} -> {to}:{port}");
    }
}

#[test]
fn on_a_machine_that_does_more_the_package_lets_the_rest_through_and_the_appliance_ask_for_names() {
    if !can_run("on_a_machine_that_does_more", &["ip", "nft", "setpriv", "python3"]) {
        return;
    }
    let (net, host, router) = behind_a_router();
    let beside = concat!(env!("CARGO_MANIFEST_DIR"), "/systemd/firewall.d");
    let rules = std::fs::read_to_string(RULES).unwrap().replace("/etc/lineside/firewall.d", beside);
    let path = net.dir().join("machine.nft");
    std::fs::write(&path, rules).unwrap();
    load(&host, &path.display().to_string(), USERS);
    assert!(leaves(&host, 61_900, 40_000, ROUTER, 53, 30), "there may be no systemd-resolved");
    assert!(!leaves(&host, 61_900, 40_000, ROUTER, 514, 30));
    for uid in [0, 1000] {
        assert!(leaves(&host, uid, 40_000, ROUTER, 514, 30) && connects(&host, uid, ROUTER, 443), "{uid}");
    }
    // In: SSH, and nothing else that the appliance does not have.
    assert!(connects(&router, 0, BOX, 22) && !connects(&router, 0, BOX, 80));
}
