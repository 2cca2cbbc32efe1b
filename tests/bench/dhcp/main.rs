//! `augment` against routers that others wrote: whose ACK comes first, and how long after the REQUEST.
//!
//! ```sh
//! cargo bench --bench dhcp                 # 100 boots beside each router; needs root and the programs of tests/run
//! BOOTS=20 cargo bench --bench dhcp        # fewer
//! LOAD=4 cargo bench --bench dhcp          # while so many processes keep the processors busy
//! ```
//!
//! Namespaces on this machine: router, box and phone share its processors, which favours the router. Times are taken in
//! the phone, so that they hold both ways over the virtual switch.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, missing_docs)]

#[path = "../../clients/lan.rs"]
mod lan;
#[allow(dead_code)]
#[path = "../../clients/net.rs"]
mod net;

use std::net::{Ipv4Addr, UdpSocket};
use std::process::Command;
use std::time::{Duration, Instant};

use lan::{Lan, Router};
use socket2::{Domain, Protocol, Socket, Type};

const BOX: [u8; 4] = [10, 78, 0, 2];

fn main() {
    // `cargo test --benches` runs this, too; nothing is measured then.
    if !std::env::args().any(|argument| argument == "--bench") {
        return;
    }
    let number =
        |name: &str, usual: usize| std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(usual);
    let (boots, load) = (number("BOOTS", 100), number("LOAD", 0));
    let busy: Vec<_> =
        (0..load).map(|_| Command::new("sh").args(["-c", "while :; do :; done"]).spawn().unwrap()).collect();
    println!("augment, {boots} boots of one phone beside each router, {load} busy processes");
    println!("{:<22} {:>5} {:>8} {:>8} {:>8} {:>12}", "router", "won", "median", "p99", "worst", "router's own");
    for router in [Router::Dnsmasq, Router::DnsmasqAuthoritative, Router::Dhcpd, Router::Kea, Router::Udhcpd] {
        if !net::can_run("the benchmark", &["ip", "tcpdump", router.program()]) {
            continue;
        }
        race(router, boots);
    }
    for mut process in busy {
        let _ = process.kill();
        let _ = process.wait();
    }
}

/// What came of one boot.
struct Boot {
    won: bool,
    first: Duration,
    routers: Option<Duration>,
}

fn race(router: Router, boots: usize) {
    let mut lan = Lan::new(Some(router), 600);
    lan.serve("mode = \"augment\"", "\"augment\"");
    // Until the router is known; dnsmasq and dhcpd ping first.
    std::thread::sleep(Duration::from_secs(4));
    let phone = std::fs::File::open(format!("/run/netns/{}", lan.phone.namespace)).unwrap();
    let outcomes: Vec<Boot> = std::thread::spawn(move || {
        nix::sched::setns(phone, nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
        let socket = Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP)).unwrap();
        socket.bind_device(Some(b"eth0")).unwrap();
        socket.set_broadcast(true).unwrap();
        socket.bind(&std::net::SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 68).into()).unwrap();
        let socket: UdpSocket = socket.into();
        // The first one is the router's ping and our learning.
        boot(&socket, 0);
        let again = |xid| {
            // No faster than one phone's DISCOVERs are relayed.
            std::thread::sleep(Duration::from_millis(200));
            boot(&socket, u32::try_from(xid).unwrap())
        };
        (1..=boots).filter_map(again).collect()
    })
    .join()
    .unwrap();
    let won = outcomes.iter().filter(|boot| boot.won).count();
    let times = |mut all: Vec<Duration>| {
        all.sort();
        all
    };
    let ours = times(outcomes.iter().filter(|boot| boot.won).map(|boot| boot.first).collect());
    let theirs = times(outcomes.iter().filter_map(|boot| boot.routers).collect());
    let at = |all: &[Duration], share: usize| {
        all.get((all.len() * share / 100).min(all.len().saturating_sub(1)))
            .map_or("-".to_owned(), |time| format!("{} us", time.as_micros()))
    };
    println!(
        "{:<22} {:>5} {:>8} {:>8} {:>8} {:>12}",
        format!("{router:?}"),
        format!("{won}/{}", outcomes.len()),
        at(&ours, 50),
        at(&ours, 99),
        at(&ours, 100),
        at(&theirs, 50)
    );
}

/// A phone's boot: the first OFFER, then a REQUEST, then every ACK of the next moments.
fn boot(socket: &UdpSocket, xid: u32) -> Option<Boot> {
    let mut bytes = [0; 1500];
    socket.set_read_timeout(Some(Duration::from_millis(1))).unwrap();
    while socket.recv(&mut bytes).is_ok() {}
    socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    socket.send_to(&message(xid, &[53, 1, 1]), (Ipv4Addr::BROADCAST, 67)).ok()?;
    let (address, server) = loop {
        let length = socket.recv(&mut bytes).ok()?;
        let offer = &bytes[..length];
        if offer[4..8] == xid.to_be_bytes() && option(offer, 53) == Some(&[2]) {
            break (<[u8; 4]>::try_from(&offer[16..20]).unwrap(), option(offer, 54)?.to_vec());
        }
    };
    // Phones take some milliseconds from OFFER to REQUEST; none at all favours the router.
    std::thread::sleep(Duration::from_millis(10));
    let mut options = vec![53, 1, 3, 50, 4];
    options.extend(address);
    options.extend([54, 4]);
    options.extend(server);
    let request = message(xid, &options);
    let begin = Instant::now();
    socket.send_to(&request, (Ipv4Addr::BROADCAST, 67)).ok()?;
    let mut first: Option<(bool, Duration)> = None;
    let mut routers = None;
    socket.set_read_timeout(Some(Duration::from_millis(120))).unwrap();
    while let Ok(length) = socket.recv(&mut bytes) {
        let ack = &bytes[..length];
        if ack[4..8] != xid.to_be_bytes() || option(ack, 53) != Some(&[5]) {
            continue;
        }
        let ours = option(ack, 150) == Some(&BOX);
        first.get_or_insert((ours, begin.elapsed()));
        if !ours {
            routers = Some(begin.elapsed());
            break;
        }
    }
    first.map(|(won, first)| Boot { won, first, routers })
}

fn message(xid: u32, options: &[u8]) -> Vec<u8> {
    let mut bytes = vec![1, 1, 6, 0];
    bytes.extend(xid.to_be_bytes());
    bytes.extend([0, 0, 0x80, 0]);
    bytes.resize(28, 0);
    bytes.extend([0x00, 0x04, 0xf2, 0xaa, 0xbb, 0x01]);
    bytes.resize(236, 0);
    bytes.extend([99, 130, 83, 99]);
    bytes.extend(options);
    bytes.extend([60, 15]);
    bytes.extend(b"Polycom-SPIP670");
    bytes.extend([55, 4, 1, 3, 66, 150, 255]);
    bytes.resize(bytes.len().max(300), 0);
    bytes
}

fn option(message: &[u8], wanted: u8) -> Option<&[u8]> {
    let mut rest = message.get(240..)?;
    loop {
        match *rest {
            [0, ref more @ ..] => rest = more,
            [255, ..] | [] => return None,
            [code, length, ref more @ ..] => {
                let (value, more) = more.split_at_checked(usize::from(length))?;
                if code == wanted {
                    return Some(value);
                }
                rest = more;
            }
            [_] => return None,
        }
    }
}
