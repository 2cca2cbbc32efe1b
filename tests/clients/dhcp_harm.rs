//! What others may do on a LAN, by mistake or for harm, and what phones must not notice of it.

use std::net::{Ipv4Addr, UdpSocket};
use std::time::{Duration, Instant};

use super::dhcp::leasing;
use super::dhcp_wire::{bootp, socket};
use super::lan::{BOX, Lan, PHONE, Router};
use super::net::{Host, can_run, text, wait_for};
use super::site::{CISCO, Deployment, POLYCOM};

/// A socket on a client's port of a host.
fn client(host: &Host) -> UdpSocket {
    socket(host, 68)
}

/// A client's message in the name of a device; `kind` is option 53.
fn message(kind: u8, mac: [u8; 6], ciaddr: [u8; 4], options: &[u8]) -> Vec<u8> {
    bootp(kind, [7, 7, 7, mac[5]], mac, ciaddr, &[options, &[55, 4, 1, 3, 66, 150]])
}

/// DISCOVERs of devices that do not exist. Half of them say that they are phones.
fn flood(host: &Host, count: u16) {
    let socket = client(host);
    for number in 0..count {
        let [high, low] = number.to_be_bytes();
        let class: &[u8] = if number % 2 == 0 { b"<\x0fPolycom-SPIP670" } else { b"" };
        let bytes = message(1, [2, 0, 0, 1, high, low], [0; 4], class);
        // A full queue of our own is no failure of theirs.
        let _ = socket.send_to(&bytes, (Ipv4Addr::BROADCAST, 67));
        if number % 50 == 0 {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

/// The next message of this type, 5 for an ACK, that a device hears within a time, with how long it took.
fn hears(socket: &UdpSocket, mac: [u8; 6], kind: u8, within: Duration) -> Option<(Vec<u8>, Duration)> {
    let begin = Instant::now();
    let mut bytes = [0; 1500];
    while let Some(left) = within.checked_sub(begin.elapsed()).filter(|left| !left.is_zero()) {
        socket.set_read_timeout(Some(left)).unwrap();
        let Ok(length) = socket.recv(&mut bytes) else { continue };
        if length > 242 && bytes[28..34] == mac && bytes[240..243] == [53, 1, kind] {
            return Some((bytes[..length].to_vec(), begin.elapsed()));
        }
    }
    None
}

/// The ACK for a request, asked for as a client does: again if a full queue lost it.
fn asks(socket: &UdpSocket, request: &[u8], to: &str) -> Option<Vec<u8>> {
    let mac = request[28..34].try_into().unwrap();
    (0..3).find_map(|_| {
        socket.send_to(request, to).unwrap();
        hears(socket, mac, 5, Duration::from_secs(1)).map(|(ack, _)| ack)
    })
}

fn tail(log: &str) -> String {
    log.lines().rev().take(40).collect::<Vec<_>>().join("\n")
}

fn resident_kib(process: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

fn octets(address: &str) -> [u8; 4] {
    address.parse::<Ipv4Addr>().unwrap().octets()
}

const CISCO_OCTETS: [u8; 6] = [0x00, 0x1b, 0x54, 0, 0, 1];
const POLYCOM_OCTETS: [u8; 6] = [0x00, 0x04, 0xf2, 0, 0, 2];

#[test]
fn three_thousand_invented_devices_cost_no_phone_its_lease_its_renewal_or_its_reboot() {
    if !can_run("three_thousand_invented_devices", &["ip", "busybox"]) {
        return;
    }
    let mut site = leasing();
    let phone = site.phone(CISCO);
    let said = text(&phone.try_sh("busybox udhcpc -i eth0 -n -q -f -t 8 -T 2 -s /bin/true"));
    let (_, rest) = said.split_once("lease of ").unwrap_or_else(|| panic!("{said}\n{}", site.appliance_log()));
    let address = rest.split_whitespace().next().unwrap().to_owned();
    let process = site.appliance.as_ref().unwrap().id();
    let before = resident_kib(process);

    // The range has eleven addresses; all that are free are on offer to nobody now, again and again.
    let enemy = site.phone("02:00:00:00:00:66");
    flood(&enemy, 3000);
    let new = site.phone(POLYCOM);
    let socket = client(&new);
    let begin = Instant::now();
    let offer = loop {
        flood(&enemy, 200);
        socket.send_to(&message(1, POLYCOM_OCTETS, [0; 4], &[]), (Ipv4Addr::BROADCAST, 67)).unwrap();
        if let Some((offer, _)) = hears(&socket, POLYCOM_OCTETS, 2, Duration::from_secs(2)) {
            break offer;
        }
        assert!(begin.elapsed() < Duration::from_secs(10), "no offer for a new phone\n{}", site.appliance_log());
    };
    flood(&enemy, 1000);
    let offered: [u8; 4] = offer[16..20].try_into().unwrap();
    let chosen = [&[50, 4][..], &offered, &[54, 4, 192, 168, 77, 1]].concat();
    let everyone = "255.255.255.255:67";
    let ack = asks(&socket, &message(3, POLYCOM_OCTETS, [0; 4], &chosen), everyone)
        .unwrap_or_else(|| panic!("{:#}\n{}", site.status(), tail(&site.appliance_log())));
    assert_eq!(ack[16..20], offered);

    // The phone that has a lease starts again, then renews.
    let socket = client(&phone);
    flood(&enemy, 1000);
    let remembered = [&[50, 4][..], &octets(&address)].concat();
    let ack = asks(&socket, &message(3, CISCO_OCTETS, [0; 4], &remembered), everyone).expect("INIT-REBOOT is answered");
    assert_eq!(ack[16..20], octets(&address));
    phone.sh(&format!("ip address add {address}/24 dev eth0"));
    flood(&enemy, 1000);
    let renewal = message(3, CISCO_OCTETS, octets(&address), &[]);
    let ack = asks(&socket, &renewal, "192.168.77.1:67").expect("a renewal is answered");
    assert_eq!(ack[16..20], octets(&address));

    let grown = resident_kib(process).saturating_sub(before);
    println!("memory grew by {grown} KiB over 6,200 devices that do not exist");
    assert!(grown < 4096, "{grown} KiB");
}

/// A site beside a router that completes leases for its inventory, and the router's host.
fn completing() -> (Deployment, Host, super::net::Running) {
    let site = Deployment::new();
    let path = site.fleet.join("sites/sample-office.toml");
    let settings = std::fs::read_to_string(&path).unwrap();
    let settings = super::dhcp::without_table(&settings, "dhcp") + "\n[dhcp]\nmode = \"augment\"\n";
    std::fs::write(&path, settings).unwrap();
    let mut site = site;
    site.enroll();
    site.hq(&["publish"]);
    let router = site.phone_at("02:00:00:00:00:01", "192.168.77.254");
    let words = "dnsmasq --keep-in-foreground --conf-file=/dev/null --port=0 --pid-file --interface=eth0 --user=root --log-facility=- \
                 --leasefile-ro --dhcp-authoritative --dhcp-range=192.168.77.50,192.168.77.249,600s";
    let running = router.start(&words.split_whitespace().collect::<Vec<_>>(), &site.net.dir().join("router.log"));
    running.says("DHCP, IP range");
    site.start();
    site.serves(1);
    wait_for(Duration::from_secs(20), || {
        let status = site.status();
        (status["dhcp-mode"] == "augment" && status["dhcp-servers"].as_array().is_some_and(|all| all.len() == 1))
            .then_some(())
    })
    .unwrap_or_else(|| panic!("{:#}\n{}", site.status(), site.appliance_log()));
    (site, router, running)
}

/// Whether a phone's lease is completed: an ACK has our address in option 150. Who is first is for the benchmark to say,
/// of a build that is meant to be fast.
fn completed(phone: &UdpSocket) -> bool {
    phone.send_to(&message(1, POLYCOM_OCTETS, [0; 4], &[]), (Ipv4Addr::BROADCAST, 67)).unwrap();
    let offer = loop {
        let Some((offer, _)) = hears(phone, POLYCOM_OCTETS, 2, Duration::from_secs(5)) else { return false };
        if offer[4..8] == [7, 7, 7, POLYCOM_OCTETS[5]] {
            break offer;
        }
    };
    std::thread::sleep(Duration::from_millis(10));
    let chosen = [&[50, 4][..], &offer[16..20], &[54, 4, 192, 168, 77, 254]].concat();
    phone.send_to(&message(3, POLYCOM_OCTETS, [0; 4], &chosen), (Ipv4Addr::BROADCAST, 67)).unwrap();
    let acks = std::iter::from_fn(|| hears(phone, POLYCOM_OCTETS, 5, Duration::from_millis(700)));
    acks.take(2).any(|(ack, _)| ack.windows(6).any(|part| part == [150, 4, 192, 168, 77, 1]))
}

#[test]
fn beside_a_router_neither_a_flood_nor_hostile_routers_and_clients_keep_phones_from_their_files() {
    if !can_run("beside_a_router_neither_a_flood", &["ip", "dnsmasq"]) {
        return;
    }
    let (mut site, router, _running) = completing();
    let process = site.appliance.as_ref().unwrap().id();
    let (phone, enemy) = (site.phone(POLYCOM), site.phone("02:00:00:00:00:66"));
    let socket = client(&phone);
    let again = |what: &str| {
        let came = (0..12).any(|_| {
            let came = completed(&socket);
            std::thread::sleep(Duration::from_millis(300));
            came
        });
        assert!(came, "not completed {what}\n{:#}\n{}", site.status(), site.appliance_log());
    };
    again("to begin with");
    let before = resident_kib(process);
    flood(&enemy, 3000);
    let relayed = &site.status()["counters"]["dhcp.augment.not-relayed"];
    println!("not relayed, of 3,000 of which none is a phone of the site: {relayed}");
    again("after a flood");

    // Every field and length wrong, from the router's own address and from anybody's, to both ports.
    let hostile = |host: &Host| {
        let socket = client(host);
        host.inside(move || {
            let mut seed = 42_u64;
            let mut next = || {
                seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                (seed >> 33) as usize
            };
            for round in 0..6000 {
                let mut bytes = message(
                    if round % 2 == 0 { 2 } else { 1 },
                    POLYCOM_OCTETS,
                    [0; 4],
                    b"\x36\x04\xc0\xa8\x4d\xfe\x33\x04\0\0\x02\x58",
                );
                bytes[0] = if round % 2 == 0 { 2 } else { 1 };
                // Not the phone's own transaction: a NAK in it would rightly end the completion of its leases.
                bytes[4] = 9;
                for _ in 0..1 + round % 6 {
                    let place = next() % bytes.len();
                    bytes[place] = next() as u8;
                }
                bytes.truncate(bytes.len() - next() % 80);
                let port = if round % 3 == 0 { 68 } else { 67 };
                let _ = socket.send_to(&bytes, (Ipv4Addr::BROADCAST, port));
                if round % 50 == 0 {
                    std::thread::sleep(Duration::from_millis(1));
                }
            }
        })
        .join()
        .unwrap();
    };
    hostile(&router);
    hostile(&enemy);
    again("after hostile packets");
    let grown = resident_kib(process).saturating_sub(before);
    println!("memory grew by {grown} KiB");
    assert!(grown < 4096, "{grown} KiB");
    assert_eq!(site.appliance_log().matches(" starting").count(), 1);
}

#[test]
fn a_second_server_that_appears_later_and_a_device_that_takes_a_leased_address_are_reported() {
    if !can_run("a_second_server_that_appears_later", &["ip", "tcpdump", "dnsmasq", "busybox"]) {
        return;
    }
    let mut lan = Lan::new(None, 600);
    lan.serve("mode = \"all\"\nrange = [\"10.78.0.200\", \"10.78.0.210\"]", "\"all\"");
    let lease = lan.udhcpc(&lan.phone, "Polycom-SPIP670");
    let address = lease.lines().find_map(|line| line.strip_prefix("ip=")).unwrap_or_else(|| panic!("{lease}"));
    // RFC 5227: another device announces the phone's address.
    lan.pc.sh(&format!("ip address add {address}/24 dev eth0 && busybox arping -U -c 2 -I eth0 {address}"));
    let alerted = |code: &str| {
        wait_for(Duration::from_secs(25), || lan.status().contains(code).then_some(()))
            .unwrap_or_else(|| panic!("no {code}:\n{}\n{}", lan.status(), lan.log()));
    };
    alerted("dhcp-address-conflict");
    lan.pc.sh("ip address flush dev eth0");
    // Somebody plugs a router in. Its offers are broadcasts to a client that asks for that.
    let _rogue = lan.start_router(Router::DnsmasqAuthoritative, 600);
    lan.pc.try_sh("busybox udhcpc -B -i eth0 -f -q -n -t 3 -T 1 -s /bin/true");
    alerted("dhcp-new-server");
    alerted("dhcp-second-server");
    // Who leases already goes on: phones hold its leases.
    assert!(lan.status().contains("\"dhcp-mode\": \"all\""), "{}", lan.status());
    lan.is_well_formed();
}

#[test]
fn an_address_that_somebody_took_by_hand_is_leased_to_nobody_and_a_new_phone_waits_for_no_probe() {
    if !can_run("an_address_that_somebody_took_by_hand", &["ip", "tcpdump"]) {
        return;
    }
    let mut lan = Lan::new(None, 600);
    // All but three of the range, before and after the appliance starts, without a word of it.
    let took = |lan: &Lan, addresses: std::ops::RangeInclusive<u8>| {
        for last in addresses {
            lan.pc.sh(&format!("ip address add 10.78.0.{last}/24 dev eth0"));
        }
    };
    took(&lan, 200..=203);
    lan.serve("mode = \"all\"\nrange = [\"10.78.0.200\", \"10.78.0.209\"]", "\"all\"");
    took(&lan, 204..=206);
    lan.pc.sh("for i in 4 5 6; do busybox arping -U -c 1 -w 1 -I eth0 10.78.0.20$i; done; true");
    std::thread::sleep(Duration::from_millis(500));
    let phones = client(&lan.phone);
    let mut offered = Vec::new();
    for last in 1..=3 {
        let mac = [0, 4, 0xf2, 0xaa, 0xbb, last];
        phones.send_to(&message(1, mac, [0; 4], &[]), (Ipv4Addr::BROADCAST, 67)).unwrap();
        let (offer, after) = hears(&phones, mac, 2, Duration::from_secs(5)).unwrap_or_else(|| panic!("{}", lan.log()));
        println!("an offer after {after:?}");
        // A probe takes half a second; the benchmark says how much less this is.
        assert!(after < Duration::from_millis(250), "{after:?}\n{}", lan.log());
        offered.push(offer[19]);
    }
    offered.sort();
    assert_eq!(offered, [207, 208, 209], "{}", lan.log());
    // The kernel was not made to ask: its table is for devices that are there.
    let table = lan.site.sh("ip -4 neigh show dev eth0");
    assert!(!table.contains("FAILED") && !table.contains("INCOMPLETE"), "{table}");
    lan.is_well_formed();
}

#[test]
fn a_vlan_that_appears_late_and_a_router_of_another_kind_are_followed_without_a_restart() {
    if !can_run("a_vlan_that_appears_late", &["ip", "tcpdump", "dnsmasq", "udhcpd", "busybox"]) {
        return;
    }
    let mut lan = Lan::new(Some(Router::Udhcpd), 600);
    // The interface is there under another name, as a VLAN is not there at all.
    lan.site.sh("ip link set eth0 down && ip link set eth0 name later");
    lan.start("mode = \"auto\"");
    let waits = wait_for(Duration::from_secs(10), || lan.status().contains("no-lan").then_some(()));
    assert!(waits.is_some(), "{}", lan.log());
    lan.site.sh("ip link set later name eth0 && ip link set eth0 up");
    lan.site.sh(&format!("ip address replace {BOX}/24 dev eth0"));
    lan.becomes("augment (auto)");
    let learned = |lan: &Lan| {
        let told = (0..12).any(|_| lan.udhcpc(&lan.phone, "Polycom-SPIP670").contains("opt150=0a4e0002"));
        assert!(told, "{}\n{}", lan.status(), lan.log());
    };
    learned(&lan);
    lan.replace_router(Router::DnsmasqAuthoritative, 600);
    learned(&lan);
    // A cable is pulled and plugged in again.
    lan.site.sh("ip link set eth0 down && sleep 1 && ip link set eth0 up");
    lan.site.sh(&format!("ip address replace {BOX}/24 dev eth0"));
    lan.becomes("augment (auto)");
    learned(&lan);
    assert_eq!(lan.log().matches(" starting").count(), 1, "{}", lan.log());
}

#[test]
fn a_changed_address_is_served_well_within_a_second_and_one_that_was_away_for_a_moment_ends_nothing() {
    if !can_run("a_changed_address_is_served", &["ip", "tcpdump"]) {
        return;
    }
    let mut lan = Lan::new(None, 600);
    lan.serve("mode = \"inform\"", "\"inform\"");
    lan.phone.sh("ip address add 10.78.0.20/24 dev eth0");
    // From the moment at which the kernel has the address to the first answer that there is no such file.
    let served = |own: String| {
        let begin = Instant::now();
        let ask = move || loop {
            let socket = UdpSocket::bind("10.78.0.20:0").unwrap();
            socket.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
            let _ = socket.send_to(b"\0\x01nothing\0octet\0", (own.as_str(), 69));
            if socket.recv(&mut [0; 600]).is_ok() || begin.elapsed() > Duration::from_secs(15) {
                return begin.elapsed();
            }
            std::thread::sleep(Duration::from_millis(5));
        };
        lan.phone.inside(ask).join().unwrap()
    };
    assert!(served(BOX.to_owned()) < Duration::from_secs(5), "{}", lan.log());
    let mut times: Vec<Duration> = (3..8)
        .map(|last| {
            // Wherever in its slow look the appliance is.
            std::thread::sleep(Duration::from_millis(300 * last));
            lan.site.sh(&format!("ip address flush dev eth0 && ip address add 10.78.0.{last}/24 dev eth0"));
            served(format!("10.78.0.{last}"))
        })
        .collect();
    times.sort();
    println!("a changed address is served within {times:?}");
    assert!(times[2] < Duration::from_millis(800), "{times:?}\n{}", lan.log());
    let changes = lan.log().matches("serving the LAN again").count();
    assert_eq!(changes, 5, "{}", lan.log());
    lan.site.sh("ip address flush dev eth0 && ip address add 10.78.0.7/24 dev eth0");
    std::thread::sleep(Duration::from_secs(1));
    assert!(served("10.78.0.7".to_owned()) < Duration::from_secs(5), "{}", lan.log());
    assert_eq!(lan.log().matches("serving the LAN again").count(), changes, "{}", lan.log());
}

#[test]
fn a_phone_that_starts_again_after_our_restart_is_told_its_tftp_server_at_once() {
    if !can_run("a_phone_that_starts_again_after_our_restart", &["ip", "tcpdump", "dnsmasq", "dhclient"]) {
        return;
    }
    let mut lan = Lan::new(Some(Router::DnsmasqAuthoritative), 600);
    lan.serve("mode = \"auto\"", "augment (auto)");
    let box150 = format!("tftp150 {BOX}");
    let told = (0..12).any(|_| lan.dhclient(&lan.phone, "Polycom-SPIP670").contains(&box150));
    assert!(told, "{}", lan.log());
    lan.stop();
    lan.serve("mode = \"auto\"", "augment (auto)");
    let count = |what: &str| lan.log().matches(what).count();
    let before = count("lease was completed");
    // dhclient remembers its lease and asks for it again (INIT-REBOOT), without a DISCOVER that could be relayed. Whose ACK
    // is the first on a busy machine is the benchmark's to say.
    let discovers = || lan.frames(&format!("ether src {PHONE} and udp[250:1] = 1")).len();
    let discovered = discovers();
    let lease = lan.dhclient(&lan.phone, "Polycom-SPIP670");
    assert_eq!((count("are remembered"), discovers()), (1, discovered), "{lease}\n{}", lan.log());
    assert!(count("lease was completed") > before, "{lease}\n{}", lan.log());
    lan.is_well_formed();
}
