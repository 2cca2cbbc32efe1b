//! Routers with habits of their own, and what `augment` makes of them, on the wire.

use std::net::{Ipv4Addr, UdpSocket};
use std::time::{Duration, Instant};

use super::dhcp_wire::{bootp, socket};
use super::lan::{BOX, Lan, Router};
use super::net::{Running, can_run};

const OFFER: u8 = 2;
const ACK: u8 = 5;
const NAK: u8 = 6;

/// A phone's message with these options; it wants broadcasts.
fn message(kind: u8, xid: u32, mac: [u8; 6], options: &[u8]) -> Vec<u8> {
    let asked = [55, 6, 1, 3, 6, 15, 66, 150];
    bootp(kind, xid.to_be_bytes(), mac, [0; 4], &[b"\x3c\x0fPolycom-SPIP670", &asked, options])
}

fn options(message: &[u8]) -> Vec<(u8, Vec<u8>)> {
    let mut rest = message.get(240..).unwrap_or_default();
    let mut all = Vec::new();
    loop {
        match *rest {
            [0, ref more @ ..] => rest = more,
            [code, length, ref more @ ..] if code != 255 && more.len() >= usize::from(length) => {
                all.push((code, more[..usize::from(length)].to_vec()));
                rest = &more[usize::from(length)..];
            }
            _ => return all,
        }
    }
}

fn option(message: &[u8], wanted: u8) -> Option<Vec<u8>> {
    options(message).into_iter().find(|(code, _)| *code == wanted).map(|(_, value)| value)
}

/// The first message for a device in a transaction of one of these types.
fn hears(socket: &UdpSocket, xid: u32, kinds: &[u8], within: Duration) -> Option<Vec<u8>> {
    let begin = Instant::now();
    let mut bytes = [0; 1500];
    while let Some(left) = within.checked_sub(begin.elapsed()).filter(|left| !left.is_zero()) {
        socket.set_read_timeout(Some(left)).unwrap();
        let Ok(length) = socket.recv(&mut bytes) else { continue };
        let heard = &bytes[..length];
        let kind = option(heard, 53).and_then(|kind| kind.first().copied());
        if heard[4..8] == xid.to_be_bytes() && kind.is_some_and(|kind| kinds.contains(&kind)) {
            return Some(heard.to_vec());
        }
    }
    None
}

/// What a phone that takes the first OFFER, at once, makes of a boot: OFFER and first answer to its REQUEST.
struct Boot {
    server: Vec<u8>,
    address: [u8; 4],
    answer: Vec<u8>,
}

impl Boot {
    fn run(socket: &UdpSocket, mac: [u8; 6], xid: u32, more: &[u8]) -> Option<Self> {
        // A client that hears nothing repeats itself after 4 s (RFC 2131 §4.1).
        let offer = (0..2).find_map(|_| {
            socket.send_to(&message(1, xid, mac, more), (Ipv4Addr::BROADCAST, 67)).unwrap();
            hears(socket, xid, &[OFFER], Duration::from_secs(4))
        })?;
        let (server, address): (_, [u8; 4]) = (option(&offer, 54)?, offer[16..20].try_into().unwrap());
        let chosen = [&[54, 4][..], &server, &[50, 4], &address, more].concat();
        socket.send_to(&message(3, xid, mac, &chosen), (Ipv4Addr::BROADCAST, 67)).unwrap();
        let answer = hears(socket, xid, &[ACK, NAK], Duration::from_secs(3))?;
        Some(Self { server, address, answer })
    }

    /// What a phone makes of a start with the address that it remembers.
    fn again(&self, socket: &UdpSocket, mac: [u8; 6], xid: u32, more: &[u8]) -> Option<Vec<u8>> {
        let remembered = [&[50, 4][..], &self.address, more].concat();
        socket.send_to(&message(3, xid, mac, &remembered), (Ipv4Addr::BROADCAST, 67)).unwrap();
        hears(socket, xid, &[ACK, NAK], Duration::from_secs(3))
    }
}

fn learns(answer: &[u8]) -> bool {
    let box_: Ipv4Addr = BOX.parse().unwrap();
    let named = option(answer, 66) == Some(BOX.as_bytes().to_vec());
    named && option(answer, 150) == Some(box_.octets().to_vec())
}

fn counted(lan: &Lan, counter: &str) -> u64 {
    let status: serde_json::Value = serde_json::from_str(&lan.status()).unwrap();
    status["counters"][counter].as_u64().unwrap_or(0)
}

/// Waits until the box has measured how long the router takes.
fn is_measured(lan: &Lan, counter: impl Fn(&serde_json::Value) -> bool) {
    super::net::wait_for(Duration::from_secs(20), || {
        let status: serde_json::Value = serde_json::from_str(&lan.status()).ok()?;
        counter(&status).then_some(())
    })
    .unwrap_or_else(|| panic!("{}\n{}", lan.status(), lan.log()));
}

#[test]
fn twenty_new_phones_learn_their_tftp_server_at_their_first_boot_beside_a_router_that_pings() {
    if !can_run("twenty_new_phones_beside_dhcpd", &["ip", "tcpdump", "dhcpd"]) {
        return;
    }
    let mut lan = Lan::new(Some(Router::Dhcpd), 600);
    lan.serve("mode = \"augment\"", "\"augment\"");
    is_measured(&lan, |status| status["dhcp-servers"][0]["offer-millis"].is_u64());
    std::thread::sleep(Duration::from_secs(1));
    let socket = socket(&lan.phone, 68);
    let mut outcomes = Vec::new();
    let mut complete = 0;
    for number in 1..=20_u8 {
        let mac = [0x00, 0x04, 0xf2, 0x20, 0, number];
        let boot = Boot::run(&socket, mac, u32::from(number) * 16, &[]);
        let boot = boot.unwrap_or_else(|| panic!("phone {number} has no lease\n{}\n{}", lan.status(), lan.log()));
        assert_eq!(boot.server, [10, 78, 0, 1]);
        assert_eq!(option(&boot.answer, 53), Some(vec![ACK]));
        let seconds = u32::from_be_bytes(option(&boot.answer, 51).unwrap().try_into().unwrap());
        assert_eq!(option(&boot.answer, 1), Some(vec![255, 255, 255, 0]));
        assert_eq!(option(&boot.answer, 3), Some(vec![10, 78, 0, 1]));
        // On a busy machine the router's OFFER may be here before the REQUEST, with the phone's own terms.
        let own = learns(&boot.answer) && seconds > 300;
        if learns(&boot.answer) && !own {
            assert!(option(&boot.answer, 58).is_none() && option(&boot.answer, 59).is_none(), "{seconds}");
        }
        complete += u64::from(own);
        outcomes.push((mac, boot));
    }
    let learnt = outcomes.iter().filter(|(_, boot)| learns(&boot.answer)).count();
    let short = counted(&lan, "dhcp.augment.short");
    println!("{learnt} of 20 learnt TFTP at their first boot, {short} on the pool's terms, {complete} on their own");
    assert!(learnt >= 19 && short + complete >= 19, "{learnt} of 20\n{}\n{}", lan.status(), lan.log());
    // The router has leased every one of these addresses, and nobody heard a NAK.
    let router = std::fs::read_to_string(lan.dir.join("router.log")).unwrap();
    for (mac, boot) in &outcomes {
        let mac = mac.map(|octet| format!("{octet:02x}")).join(":");
        let acked = format!("DHCPACK on {} to {mac}", Ipv4Addr::from(boot.address));
        assert!(router.contains(&acked), "no `{acked}` in:\n{router}");
    }
    assert!(!router.contains("DHCPNAK"), "{router}");
    assert_eq!(lan.naks(), 0);
    // From then on each has its own terms.
    let (mac, boot) = outcomes.last().unwrap();
    let ack = boot.again(&socket, *mac, 9999, &[]).expect("an answer");
    let seconds = u32::from_be_bytes(option(&ack, 51).unwrap().try_into().unwrap());
    assert!(learns(&ack) && seconds > 300, "{seconds}");
    lan.is_well_formed();
}

const PHONE: [u8; 6] = [0x00, 0x04, 0xf2, 0xaa, 0xbb, 1];
const SECOND: Ipv4Addr = Ipv4Addr::new(10, 78, 0, 253);

/// A router of its own at [`SECOND`]: dnsmasq with these options more.
fn dnsmasq(lan: &Lan, more: &str) -> Running {
    let _ = lan.pc.try_sh(&format!("ip address add {SECOND}/24 dev eth0"));
    let leases = lan.script("second.leases", "");
    let words = format!(
        "dnsmasq --keep-in-foreground --conf-file=/dev/null --port=0 --pid-file --interface=eth0 --user=root --no-ping \
         --log-dhcp --log-facility=- --dhcp-leasefile={leases} {more}"
    );
    let running = lan.start_at(&lan.pc, &words.split_whitespace().collect::<Vec<_>>(), "second.log");
    running.says("DHCP, IP range");
    running
}

fn knows(lan: &Lan, servers: usize) {
    is_measured(lan, |status| status["dhcp-servers"].as_array().is_some_and(|all| all.len() == servers));
    std::thread::sleep(Duration::from_millis(500));
}

/// The boot at which the phone learns its TFTP server. A race may be lost on a busy machine; how many are lost is the
/// benchmark's to say.
fn learns_soon(lan: &Lan, socket: &UdpSocket, more: &[u8]) -> Boot {
    for number in 0..6_u32 {
        let boot = Boot::run(socket, PHONE, 0x1000 + number * 2, more);
        if let Some(boot) = boot.filter(|boot| learns(&boot.answer)) {
            return boot;
        }
        std::thread::sleep(Duration::from_millis(300));
    }
    panic!("never learnt:\n{}\n{}", lan.status(), lan.log());
}

fn can_run_dnsmasq(test: &str) -> bool {
    can_run(test, &["ip", "tcpdump", "dnsmasq"])
}

const RANGE: &str = "range = [\"10.78.0.200\", \"10.78.0.210\"]";

// dnsmasq writes an option that is forced a second time.
#[test]
fn a_router_that_says_its_server_identifier_twice_is_a_router() {
    if !can_run_dnsmasq("a_router_that_says_its_server_identifier_twice") {
        return;
    }
    let mut lan = Lan::new(None, 600);
    let forced = format!("--dhcp-option-force=54,{SECOND} --dhcp-option-force=1,255.255.255.0");
    let _router = dnsmasq(&lan, &format!("--dhcp-range=10.78.0.50,10.78.0.99,600s {forced}"));
    lan.serve(&format!("mode = \"auto\"\n{RANGE}"), "augment (auto)");
    let socket = socket(&lan.phone, 68);
    let boot = learns_soon(&lan, &socket, &[]);
    assert_eq!(boot.server, SECOND.octets());
    assert_eq!(option(&boot.answer, 54), Some(SECOND.octets().to_vec()));
    assert_eq!(option(&boot.answer, 1), Some(vec![255, 255, 255, 0]));
    assert_eq!(options(&boot.answer).iter().filter(|(code, _)| *code == 54).count(), 1);
}

// A reply without a server identifier: no phone can take it from us completed, but somebody serves here.
#[test]
fn whoever_answers_at_all_is_somebody_else_and_all_does_not_begin_beside_it() {
    if !can_run_dnsmasq("whoever_answers_at_all_is_somebody_else") {
        return;
    }
    let mut lan = Lan::new(None, 600);
    lan.pc.sh(&format!("ip address add {SECOND}/24 dev eth0"));
    let server = socket(&lan.pc, 67);
    server.set_read_timeout(None).unwrap();
    std::thread::spawn(move || {
        let mut bytes = [0; 1500];
        while let Ok(length) = server.recv(&mut bytes) {
            let mut reply = bytes[..length.min(240)].to_vec();
            if reply.len() < 240 || reply[0] != 1 {
                continue;
            }
            reply[0] = 2;
            reply[16..20].copy_from_slice(&[10, 78, 0, 60]);
            reply.extend([53, 1, 2, 51, 4, 0, 0, 14, 16, 1, 4, 255, 255, 255, 0, 255]);
            let _ = server.send_to(&reply, (Ipv4Addr::BROADCAST, 68));
        }
    });
    lan.start(&format!("mode = \"all\"\n{RANGE}"));
    std::thread::sleep(Duration::from_secs(12));
    let status = lan.status();
    assert!(!status.contains("\"all\"") && status.contains("inform (all asked for)"), "{status}\n{}", lan.log());
}

// RFC 3046 §2.2: the switch lets only those replies through that carry what it put in.
#[test]
fn what_a_switch_put_into_the_request_ends_the_completed_answer() {
    if !can_run_dnsmasq("what_a_switch_put_into_the_request") {
        return;
    }
    let mut lan = Lan::new(None, 600);
    let _router = dnsmasq(&lan, "--dhcp-authoritative --dhcp-range=10.78.0.50,10.78.0.99,600s");
    lan.serve("mode = \"augment\"", "\"augment\"");
    knows(&lan, 1);
    let socket = socket(&lan.phone, 68);
    let more = [61, 3, 1, 2, 3, 82, 6, 1, 4, b'p', b'o', b'r', b't'];
    let boot = learns_soon(&lan, &socket, &more);
    let again = boot.again(&socket, PHONE, 77, &more).expect("an answer");
    assert!(learns(&again));
    for answer in [&boot.answer, &again] {
        assert_eq!(options(answer).last(), Some(&(82, vec![1, 4, b'p', b'o', b'r', b't'])));
        assert_eq!(option(answer, 61), Some(vec![1, 2, 3]));
    }
}

// RFC 4039.
#[test]
fn a_phone_that_the_router_leases_to_at_once_is_completed_at_its_next_start() {
    if !can_run_dnsmasq("a_phone_that_the_router_leases_to_at_once") {
        return;
    }
    let mut lan = Lan::new(None, 600);
    let router = dnsmasq(&lan, "--dhcp-rapid-commit --dhcp-authoritative --dhcp-range=10.78.0.50,10.78.0.99,600s");
    lan.serve("mode = \"augment\"", "\"augment\"");
    knows(&lan, 1);
    let socket = socket(&lan.phone, 68);
    socket.send_to(&message(1, 500, PHONE, &[80, 0]), (Ipv4Addr::BROADCAST, 67)).unwrap();
    let ack = hears(&socket, 500, &[OFFER, ACK], Duration::from_secs(3)).expect("an ACK");
    assert_eq!((option(&ack, 53), option(&ack, 80)), (Some(vec![ACK]), Some(Vec::new())), "{}", router.log());
    std::thread::sleep(Duration::from_secs(1));
    let boot = Boot { server: SECOND.octets().to_vec(), address: ack[16..20].try_into().unwrap(), answer: Vec::new() };
    let again = (0..5).find_map(|number| boot.again(&socket, PHONE, 501 + number, &[]).filter(|ack| learns(ack)));
    let again = again.unwrap_or_else(|| panic!("{}\n{}\n{}", lan.status(), router.log(), lan.log()));
    let seconds = u32::from_be_bytes(option(&again, 51).unwrap().try_into().unwrap());
    assert!((580..600).contains(&seconds), "{seconds}");
    assert_eq!(counted(&lan, "dhcp.augment.rapid-commit"), 1);
}

#[test]
fn a_lease_for_ever_stays_one_at_every_start() {
    if !can_run_dnsmasq("a_lease_for_ever_stays_one") {
        return;
    }
    let mut lan = Lan::new(None, 600);
    let _router = dnsmasq(&lan, "--dhcp-authoritative --dhcp-range=10.78.0.50,10.78.0.99,infinite");
    lan.serve("mode = \"augment\"", "\"augment\"");
    knows(&lan, 1);
    let socket = socket(&lan.phone, 68);
    let boot = learns_soon(&lan, &socket, &[]);
    std::thread::sleep(Duration::from_secs(2));
    let again = boot.again(&socket, PHONE, 77, &[]).expect("an answer");
    assert!(learns(&again));
    assert_eq!([&boot.answer, &again].map(|ack| option(ack, 51)), [Some(vec![255; 4]), Some(vec![255; 4])]);
}

// Two servers with one pool and the same terms, as a pair that shares its leases shows itself.
#[test]
fn a_phone_of_an_agreeing_pair_is_completed_for_whichever_router_it_takes() {
    if !can_run_dnsmasq("a_phone_of_an_agreeing_pair") {
        return;
    }
    let mut lan = Lan::new(None, 600);
    let pool = "--dhcp-range=10.78.0.50,10.78.0.99,600s --dhcp-option=3,10.78.0.1";
    let second = dnsmasq(&lan, pool);
    let leases = lan.script("first.leases", "");
    let words = format!(
        "dnsmasq --keep-in-foreground --conf-file=/dev/null --port=0 --pid-file --interface=eth0 --user=root --no-ping \
         --log-dhcp --log-facility=- --dhcp-leasefile={leases} {pool}"
    );
    let first = lan.start_router_with(&words.split_whitespace().collect::<Vec<_>>());
    first.says("DHCP, IP range");
    lan.serve("mode = \"augment\"", "\"augment\"");
    knows(&lan, 2);
    let socket = socket(&lan.phone, 68);
    let servers = [[10, 78, 0, 1], SECOND.octets()];
    for number in 1..=5_u32 {
        // A phone that takes the OFFER of the one or of the other.
        let xid = 0x2000 + number * 4;
        for (place, wanted) in (0..).zip(servers) {
            let mac = [0x00, 0x04, 0xf2, 0x30, place, u8::try_from(number).unwrap()];
            let mut ack = None;
            for round in 0..6 {
                let xid = xid + u32::from(place) + round * 0x100;
                socket.send_to(&message(1, xid, mac, &[]), (Ipv4Addr::BROADCAST, 67)).unwrap();
                let offer = (0..4).find_map(|_| {
                    hears(&socket, xid, &[OFFER], Duration::from_secs(2))
                        .filter(|it| option(it, 54) == Some(wanted.to_vec()))
                });
                let Some(offer) = offer else { continue };
                let chosen = [&[54, 4][..], &wanted, &[50, 4], &offer[16..20]].concat();
                std::thread::sleep(Duration::from_millis(20));
                socket.send_to(&message(3, xid, mac, &chosen), (Ipv4Addr::BROADCAST, 67)).unwrap();
                ack = hears(&socket, xid, &[ACK, NAK], Duration::from_secs(2)).filter(|ack| learns(ack));
                if ack.is_some() {
                    break;
                }
            }
            let ack = ack.unwrap_or_else(|| panic!("{wanted:?}\n{}\n{}\n{}", first.log(), second.log(), lan.log()));
            assert_eq!(option(&ack, 54), Some(wanted.to_vec()));
            assert_eq!(option(&ack, 3), Some(vec![10, 78, 0, 1]));
        }
    }
    assert_eq!(lan.naks(), 0, "{}\n{}", first.log(), second.log());
    // One of the two is gone.
    drop(first);
    let boot = learns_soon(&lan, &socket, &[]);
    assert_eq!(boot.server, SECOND.octets());
}

// A second server that we ask as well hears its own transaction only: what it says in the router's name is not believed.
#[test]
fn a_rogue_that_answers_us_cannot_speak_in_the_routers_name() {
    if !can_run_dnsmasq("a_rogue_that_answers_us") {
        return;
    }
    let mut lan = Lan::new(Some(Router::DnsmasqAuthoritative), 600);
    lan.pc.sh(&format!("ip address add {SECOND}/24 dev eth0"));
    let rogue = socket(&lan.pc, 67);
    rogue.set_read_timeout(None).unwrap();
    // It offers in its own name to whoever broadcasts, so that it is asked as a server, and replays what it is then asked
    // as an OFFER of the router's with a gateway of its own.
    std::thread::spawn(move || {
        let mut bytes = [0; 1500];
        while let Ok((length, from)) = rogue.recv_from(&mut bytes) {
            let mut reply = bytes[..length.min(240)].to_vec();
            if reply.len() < 240 || reply[0] != 1 || option(&bytes[..length], 53) != Some(vec![1]) {
                continue;
            }
            let relayed = reply[24..28] != [0; 4];
            let server = if relayed { [10, 78, 0, 1] } else { SECOND.octets() };
            reply[0] = 2;
            reply[16..20].copy_from_slice(&[10, 78, 0, 66]);
            reply.extend([53, 1, 2, 54, 4]);
            reply.extend(server);
            reply.extend([51, 4, 0, 0, 14, 16, 1, 4, 255, 255, 255, 0, 3, 4]);
            reply.extend(SECOND.octets());
            reply.push(255);
            let to = if relayed { from } else { (Ipv4Addr::BROADCAST, 68).into() };
            // Late, so that the phone takes the router's OFFER, and again, so that it comes after the router's, too.
            for wait in [0, 30] {
                std::thread::sleep(Duration::from_millis(wait));
                let _ = rogue.send_to(&reply, to);
            }
        }
    });
    lan.serve("mode = \"augment\"", "\"augment\"");
    knows(&lan, 2);
    let socket = socket(&lan.phone, 68);
    let mut completed = 0;
    for number in 0..10_u32 {
        let xid = 0x3000 + number;
        socket.send_to(&message(1, xid, PHONE, &[]), (Ipv4Addr::BROADCAST, 67)).unwrap();
        let router = [10, 78, 0, 1];
        let offer = (0..4).find_map(|_| {
            hears(&socket, xid, &[OFFER], Duration::from_secs(2)).filter(|it| option(it, 54) == Some(router.to_vec()))
        });
        let Some(offer) = offer else { continue };
        std::thread::sleep(Duration::from_millis(80));
        let chosen = [&[54, 4][..], &router, &[50, 4], &offer[16..20]].concat();
        socket.send_to(&message(3, xid, PHONE, &chosen), (Ipv4Addr::BROADCAST, 67)).unwrap();
        let Some(ack) = hears(&socket, xid, &[ACK], Duration::from_secs(2)) else { continue };
        assert_eq!(option(&ack, 3), Some(router.to_vec()), "the rogue's gateway in the router's name");
        completed += usize::from(learns(&ack));
        std::thread::sleep(Duration::from_millis(250));
    }
    assert!(completed >= 5, "{completed} of 10\n{}\n{}", lan.status(), lan.log());
    assert!(counted(&lan, "dhcp.augment.forged") >= 5, "{}", lan.status());
}
