//! What the box makes of routers, relay agents and phones that do not do as the RFCs say, or do so in another way: what
//! `lineside status` and `lineside doctor` tell people.

use std::net::{Ipv4Addr, UdpSocket};
use std::time::{Duration, Instant};

use super::dhcp_wire::{ScriptedRouter, bootp, socket};
use super::lan::{BOX, BOX_MAC, Lan, PC, PHONE};
use super::net::{Host, can_run, text, wait_for};
use super::wire::mac;

/// Where the scripted router is.
const ROUTER: [u8; 4] = [10, 78, 0, 9];
const RANGE: &str = "range = [\"10.78.0.200\", \"10.78.0.210\"]";

#[test]
fn a_router_that_ignores_relay_agents_is_named_and_doctor_does_not_say_augment() {
    if !can_run("a_router_that_ignores_relay_agents", &["ip", "tcpdump"]) {
        return;
    }
    let mut lan = Lan::new(None, 600);
    let router = ScriptedRouter::start(&lan.pc, |request| match request.giaddr() {
        [0, 0, 0, 0] => vec![request.reply(ROUTER, &[])],
        _ => vec![],
    });
    let output = doctor(&lan);
    for part in
        ["10.78.0.9 does not answer relay agents", "Take mode `inform`", "relay agents   not answered", "relay=0.0.0.0"]
    {
        assert!(output.contains(part), "no `{part}` in:\n{output}");
    }
    lan.serve("mode = \"auto\"", "\"dhcp-relay-refused\"");
    let status = lan.status();
    assert!(status.contains("10.78.0.9 does not answer relay agents"), "{status}");
    assert!(status.contains("augment (auto: the router does not answer relay agents)"), "{status}");
    // With the box running, which has the server's port, doctor finds out the same.
    let output = doctor(&lan);
    assert!(output.contains("Take mode `inform`: 10.78.0.9 does not answer relay agents"), "{output}");
    drop(router);
}

#[test]
fn a_router_that_answers_relay_agents_is_said_to_do_so_and_augment_is_right() {
    if !can_run("a_router_that_answers_relay_agents", &["ip", "tcpdump"]) {
        return;
    }
    let mut lan = Lan::new(None, 600);
    let router = ScriptedRouter::start(&lan.pc, |request| vec![request.reply(ROUTER, &[])]);
    let output = doctor(&lan);
    for part in ["relay agents   answered", "Take mode `augment`", "options        1, 3, 51, 53, 54"] {
        assert!(output.contains(part), "no `{part}` in:\n{output}");
    }
    lan.serve("mode = \"auto\"", "augment (auto)");
    std::thread::sleep(Duration::from_secs(8));
    assert!(!lan.status().contains("dhcp-relay-refused"), "{}", lan.status());
    drop(router);
}

/// A router that names an address of another interface of its own, which ARP finds nobody for on this LAN. The kernel's
/// route to it leads to another router.
#[test]
fn a_router_that_names_an_address_of_another_network_is_asked_where_it_answers_from() {
    if !can_run("a_router_that_names_an_address_of_another_network", &["ip", "tcpdump", "busybox"]) {
        return;
    }
    const NAMED: [u8; 4] = [172, 31, 0, 1];
    // It has an address of the LAN; or the one that it names only, for which it answers no ARP.
    for (address, asked_at) in [("10.78.0.9/24", "10.78.0.9"), ("172.31.0.1/32", "172.31.0.1")] {
        let mut lan = Lan::new(None, 600);
        lan.pc.sh(&format!(
            "sysctl -qw net.ipv4.conf.all.arp_ignore={}; ip address add {address} dev eth0; \
             ip route replace 10.78.0.0/24 dev eth0",
            if asked_at == "10.78.0.9" { 1 } else { 8 }
        ));
        lan.site.sh("ip route add default via 10.78.0.1");
        let router = ScriptedRouter::start_without_address(&lan.pc, |request| {
            // The race is not what this is about.
            if request.kind() != 1 {
                std::thread::sleep(Duration::from_millis(50));
            }
            vec![request.reply(NAMED, &[])]
        });
        let output = doctor(&lan);
        assert!(output.contains("DHCP server 172.31.0.1\n"), "{asked_at}: {output}");
        assert!(output.contains("relay agents   answered") && output.contains("Take mode `augment`"), "{output}");
        lan.serve("mode = \"augment\"", "\"augment\"");
        let learned = (1..=4).any(|_| lan.udhcpc(&lan.phone, "Polycom-SPIP670").contains(&format!("tftp={BOX}")));
        assert!(learned, "{asked_at}: {}\n{}", lan.status(), lan.log());
        // To nobody else than the router goes what is relayed for the phone.
        let for_phone = "udp dst port 67 and udp[32:4] != 0 and udp[36:4] = 0x0004f2aa and udp[40:2] = 0xbb01";
        let relayed = lan.frames(&format!("ether src {BOX_MAC} and {for_phone}"));
        let astray =
            lan.frames(&format!("ether src {BOX_MAC} and {for_phone} and not (ether dst {PC} and dst {asked_at})"));
        assert!(!relayed.is_empty() && astray.is_empty(), "{asked_at}: {astray:#?} of {relayed:#?}");
        std::thread::sleep(Duration::from_secs(6));
        assert!(!lan.status().contains("dhcp-relay-refused"), "{asked_at}: {}", lan.status());
        drop(router);
    }
}

#[test]
fn beside_a_server_that_cannot_be_read_auto_never_leases_and_doctor_says_who_it_is() {
    if !can_run("beside_a_server_that_cannot_be_read", &["ip", "tcpdump"]) {
        return;
    }
    let mut lan = Lan::new(None, 600);
    // Neither a message type nor a server identifier.
    let router = ScriptedRouter::start(&lan.pc, |request| vec![request.unreadable()]);
    lan.start(&format!("mode = \"auto\"\n{RANGE}"));
    let began = Instant::now();
    let output = doctor(&lan);
    let named = format!("a DHCP server at 10.78.0.9 answers in a way that cannot be read ({PC})");
    assert!(output.contains(&named) && output.contains("Take mode `inform`"), "{output}");
    // A LAN without a server is taken after 90 seconds.
    while began.elapsed() < Duration::from_secs(96) {
        std::thread::sleep(Duration::from_secs(3));
        assert!(!lan.status().contains("\"all"), "{}", lan.status());
    }
    let status = lan.status();
    assert!(status.contains("\"dhcp-unreadable-server\"") && status.contains("10.78.0.9 answers in a way"), "{status}");
    assert!(status.contains("\"inform (auto)\""), "{status}");
    drop(router);
}

#[test]
fn an_option_66_that_is_a_url_of_ours_points_here_and_a_first_server_of_others_does_not() {
    if !can_run("an_option_66_that_is_a_url", &["ip", "tcpdump"]) {
        return;
    }
    for (options, label, said) in [
        (
            [&[66, 16][..], b"tftp://10.78.0.2"].concat(),
            "inform (auto: the router points here)",
            "points phones here (10.78.0.2)",
        ),
        (
            [&[66, 18][..], b"tftp://10.78.0.2/\0"].concat(),
            "inform (auto: the router points here)",
            "points phones here (10.78.0.2)",
        ),
        (vec![150, 8, 10, 0, 0, 9, 10, 78, 0, 2], "\"inform (auto)\"", "to 10.0.0.9 first, then here (10.78.0.2)"),
        ([&[66, 16][..], b"tftp.example.lan"].concat(), "points phones to a name", "may or may not be this machine"),
    ] {
        let mut lan = Lan::new(None, 600);
        let extra = options.clone();
        let router = ScriptedRouter::start(&lan.pc, move |request| vec![request.reply(ROUTER, &extra)]);
        lan.serve("mode = \"auto\"", label);
        let status = lan.status();
        assert_eq!(status.contains("\"code\": \"dhcp-mode\""), label == "\"inform (auto)\"", "{options:?}\n{status}");
        assert!(!status.contains("dhcp-points-elsewhere"), "{status}");
        let output = doctor(&lan);
        assert!(output.contains(said), "no `{said}` in:\n{output}");
        drop(router);
    }
}

#[test]
fn a_name_that_the_router_points_phones_to_is_looked_up_and_status_says_what_doctor_says() {
    if !can_run("a_name_that_the_router_points_phones_to", &["ip", "tcpdump"]) {
        return;
    }
    for (means, label, said) in [
        (BOX, "inform (auto: the router points here)", "points phones here (10.78.0.2)"),
        ("10.0.0.9", "\"inform (auto)\"", "to tftp.example.lan (10.0.0.9), which is not this machine"),
    ] {
        let mut lan = Lan::new(None, 600);
        let _hosts = lan.site.hosts(&format!("127.0.0.1 localhost\n{means} tftp.example.lan\n"));
        let option = [&[66, 16][..], b"tftp.example.lan"].concat();
        let router = ScriptedRouter::start(&lan.pc, move |request| vec![request.reply(ROUTER, &option)]);
        lan.serve("mode = \"auto\"", label);
        let (status, output) = (lan.status(), doctor(&lan));
        assert!(output.contains(said), "no `{said}` in:\n{output}");
        let is_alert = status.contains("\"code\": \"dhcp-mode\"");
        assert_eq!((is_alert, status.contains(said)), (means != BOX, means != BOX), "{status}");
        drop(router);
    }
}

#[test]
fn phones_of_a_routed_network_that_ask_through_a_relay_are_named() {
    if !can_run("phones_of_a_routed_network", &["ip", "tcpdump"]) {
        return;
    }
    let mut lan = Lan::new(None, 600);
    lan.pc.sh("ip address add 10.78.0.9/24 dev eth0");
    lan.serve(&format!("mode = \"all\"\n{RANGE}"), "\"all\"");
    let relay = socket(&lan.pc, 67);
    let mut discover = message(1, mac(PHONE), b"", [0; 4], &[]);
    discover[24..28].copy_from_slice(&[10, 20, 0, 1]);
    relay.send_to(&discover, format!("{BOX}:67")).unwrap();
    let named = "phones near the relay agent 10.20.0.1 ask";
    wait_for(Duration::from_secs(5), || lan.status().contains(named).then_some(()))
        .unwrap_or_else(|| panic!("{}", lan.status()));
    let status = lan.status();
    assert!(status.contains("\"dhcp-other-network\"") && status.contains("only 10.78.0.0/24 is served"), "{status}");
}

#[test]
fn a_pair_that_agrees_is_one_router_and_one_that_differs_is_named_with_what_differs() {
    if !can_run("a_pair_that_agrees", &["ip", "tcpdump"]) {
        return;
    }
    for (second, label) in [([9, 9, 9, 9], "augment (auto)"), ([8, 8, 8, 8], "\"inform (auto)\"")] {
        let mut lan = Lan::new(None, 600);
        lan.pc.sh("ip address add 10.78.0.8/24 dev eth0");
        let dns = |address: [u8; 4]| [&[6, 4][..], &address].concat();
        let router = ScriptedRouter::start(&lan.pc, move |request| {
            vec![request.reply(ROUTER, &dns([9, 9, 9, 9])), request.reply([10, 78, 0, 8], &dns(second))]
        });
        lan.serve("mode = \"auto\"", label);
        std::thread::sleep(Duration::from_secs(3));
        let (status, output) = (lan.status(), doctor(&lan));
        assert!(status.contains(label), "{status}");
        let differ = "10.78.0.8 and 10.78.0.9 differ: DNS";
        if second == [9, 9, 9, 9] {
            assert!(!status.contains("\"code\": \"dhcp-mode\""), "{status}");
            assert!(
                output.contains("agree in all but their address") && output.contains("Take mode `augment`"),
                "{output}"
            );
        } else {
            assert!(status.contains(differ) && output.contains(differ), "{status}\n{output}");
        }
        drop(router);
    }
}

#[test]
fn two_phones_with_one_client_identifier_keep_their_addresses_over_renewals() {
    if !can_run("two_phones_with_one_client_identifier", &["ip", "tcpdump"]) {
        return;
    }
    let mut lan = Lan::new(None, 600);
    lan.serve(&format!("mode = \"all\"\n{RANGE}"), "\"all\"");
    let phones = [(lan.phone.clone(), mac(PHONE)), (lan.pc.clone(), mac(PC))].map(|(host, mac)| {
        let socket = socket(&host, 68);
        let address = lease(&socket, mac, b"clone");
        host.sh(&format!("ip address add {}/24 dev eth0", Ipv4Addr::from(address)));
        (host, socket, mac, address)
    });
    assert_ne!(phones[0].3, phones[1].3);
    for round in 0..3 {
        for (_, socket, mac, address) in &phones {
            let renewal = message(3, *mac, b"clone", *address, &[]);
            socket.send_to(&renewal, format!("{BOX}:67")).unwrap();
            let (kind, yiaddr) =
                heard(socket, *mac).unwrap_or_else(|| panic!("no answer in round {round}\n{}", lan.log()));
            assert_eq!((kind, yiaddr), (5, *address), "round {round}\n{}", lan.log());
        }
        // Each starts anew, too, and nobody is moved. Its address stays on it, so that it answers ARP.
        let again = phones.each_ref().map(|(_, socket, mac, _)| lease(socket, *mac, b"clone"));
        assert_eq!(again, [phones[0].3, phones[1].3], "round {round}\n{}", lan.log());
    }
    let status = lan.status();
    assert!(status.contains("\"dhcp-same-client-id\"") && status.contains(PHONE) && status.contains(PC), "{status}");
    assert!(!status.contains("dhcp-address-in-use") && !status.contains("\"dhcp.nak\""), "{status}");
    assert_eq!(lan.naks(), 0);
}

#[test]
fn a_phone_that_declines_what_it_is_offered_leaves_addresses_for_others() {
    if !can_run("a_phone_that_declines", &["ip", "tcpdump"]) {
        return;
    }
    let mut lan = Lan::new(None, 600);
    lan.serve("mode = \"all\"\nrange = [\"10.78.0.200\", \"10.78.0.205\"]", "\"all\"");
    let socket_of = |host: &Host| socket(host, 68);
    let declining = socket_of(&lan.phone);
    for _ in 0..9 {
        let address = lease(&declining, mac(PHONE), b"");
        let options = [&[50, 4][..], &address, &[54, 4, 10, 78, 0, 2]].concat();
        declining.send_to(&message(4, mac(PHONE), b"", [0; 4], &options), "255.255.255.255:67").unwrap();
        std::thread::sleep(Duration::from_millis(100));
    }
    let other = socket_of(&lan.pc);
    assert_ne!(lease(&other, mac(PC), b""), [0; 4]);
    let status = lan.status();
    assert!(status.contains("\"dhcp-declining\"") && status.contains(PHONE), "{status}");
    assert!(!status.contains("dhcp-range-full"), "{status}");
}

fn doctor(lan: &Lan) -> String {
    text(&lan.site.command(&[env!("CARGO_BIN_EXE_lineside"), "doctor", "--interface", "eth0"]).output().unwrap())
}

/// A phone's message with this client identifier.
fn message(kind: u8, mac: [u8; 6], client: &[u8], ciaddr: [u8; 4], options: &[u8]) -> Vec<u8> {
    let id = if client.is_empty() { Vec::new() } else { [&[61, client.len() as u8 + 1, 0], client].concat() };
    bootp(kind, [9, 9, kind, mac[5]], mac, ciaddr, &[b"\x3c\x0fPolycom-SPIP670", &id, options])
}

/// The type and the address of the next reply to a device.
fn heard(socket: &UdpSocket, mac: [u8; 6]) -> Option<(u8, [u8; 4])> {
    wait_for(Duration::from_secs(3), || {
        let mut bytes = [0; 1500];
        let length = socket.recv(&mut bytes).ok()?;
        (length > 242 && bytes[0] == 2 && bytes[28..34] == mac).then(|| (bytes[242], bytes[16..20].try_into().unwrap()))
    })
}

/// From DISCOVER to ACK.
fn lease(socket: &UdpSocket, mac: [u8; 6], client: &[u8]) -> [u8; 4] {
    let ask = |request: &[u8], kind: u8| {
        (0..3).find_map(|_| {
            socket.send_to(request, "255.255.255.255:67").unwrap();
            heard(socket, mac).filter(|(heard, _)| *heard == kind)
        })
    };
    let (_, address) = ask(&message(1, mac, client, [0; 4], &[]), 2).expect("an offer");
    let options = [&[50, 4][..], &address, &[54, 4, 10, 78, 0, 2]].concat();
    ask(&message(3, mac, client, [0; 4], &options), 5).expect("an ACK").1
}
