//! Routers with habits of their own, and what `augment` makes of them, on the wire.

use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::time::{Duration, Instant};

use socket2::{Domain, Protocol, Socket, Type};

use super::lan::{BOX, Lan, Router};
use super::net::{Host, can_run};

const OFFER: u8 = 2;
const ACK: u8 = 5;
const NAK: u8 = 6;

/// A socket on a port of a host, also of one without an address.
fn socket(host: &Host, port: u16) -> UdpSocket {
    let work = move || {
        let socket = Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP)).unwrap();
        socket.bind_device(Some(b"eth0")).unwrap();
        socket.set_broadcast(true).unwrap();
        socket.set_reuse_address(true).unwrap();
        socket.bind(&SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, port).into()).unwrap();
        UdpSocket::from(socket)
    };
    host.inside(work).join().unwrap()
}

/// A phone's message with these options; it wants broadcasts.
fn message(kind: u8, xid: u32, mac: [u8; 6], options: &[u8]) -> Vec<u8> {
    let mut bytes = vec![1, 1, 6, 0];
    bytes.extend(xid.to_be_bytes());
    bytes.extend([0, 0, 0x80, 0]);
    bytes.resize(28, 0);
    bytes.extend(mac);
    bytes.resize(236, 0);
    bytes.extend([99, 130, 83, 99, 53, 1, kind, 60, 15]);
    bytes.extend(b"Polycom-SPIP670");
    bytes.extend([55, 6, 1, 3, 6, 15, 66, 150]);
    bytes.extend(options);
    bytes.push(255);
    bytes.resize(bytes.len().max(300), 0);
    bytes
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
        socket.send_to(&message(1, xid, mac, more), (Ipv4Addr::BROADCAST, 67)).unwrap();
        let offer = hears(socket, xid, &[OFFER], Duration::from_secs(6))?;
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
    for number in 1..=20_u8 {
        let mac = [0x00, 0x04, 0xf2, 0x20, 0, number];
        let boot = Boot::run(&socket, mac, u32::from(number) * 16, &[]);
        let boot = boot.unwrap_or_else(|| panic!("phone {number} has no lease\n{}\n{}", lan.status(), lan.log()));
        assert_eq!(boot.server, [10, 78, 0, 1]);
        assert_eq!(option(&boot.answer, 53), Some(vec![ACK]));
        let seconds = u32::from_be_bytes(option(&boot.answer, 51).unwrap().try_into().unwrap());
        assert_eq!(option(&boot.answer, 1), Some(vec![255, 255, 255, 0]));
        assert_eq!(option(&boot.answer, 3), Some(vec![10, 78, 0, 1]));
        if learns(&boot.answer) {
            assert!(seconds <= 300 && option(&boot.answer, 58).is_none(), "{seconds}");
        }
        outcomes.push((mac, boot));
    }
    let learnt = outcomes.iter().filter(|(_, boot)| learns(&boot.answer)).count();
    let short = counted(&lan, "dhcp.augment.short");
    println!("{learnt} of 20 learnt TFTP at their first boot, {short} of them on the pool's terms");
    assert!(learnt >= 19 && short >= 19, "{learnt} of 20\n{}\n{}", lan.status(), lan.log());
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
