//! DHCP: `augment` against routers that others wrote (whose ACK comes first, and how long after the REQUEST), and `all`
//! side by side with other servers.
//!
//! ```sh
//! cargo bench --bench dhcp                 # everything; needs root and the programs of tests/run
//! cargo bench --bench dhcp -- augment      # 100 boots beside each router, then while TFTP serves 50 phones
//! cargo bench --bench dhcp -- all          # DORA per second, CPU, latency, memory
//! cargo bench --bench dhcp -- augment Kea  # beside one router
//! BOOTS=20 cargo bench --bench dhcp        # fewer boots
//! LOAD=4 cargo bench --bench dhcp          # while so many processes keep the processors busy
//! ```
//!
//! Namespaces on this machine: router, box and phone share its processors, which favours the router. "at the box" is the
//! time from a REQUEST to our ACK as the switch saw them; the other times are taken in the phone, and hold the time that
//! an idle processor takes to wake up for it, in a virtual machine several hundred microseconds.

#![allow(
    unreachable_pub,
    clippy::cast_possible_truncation,
    clippy::disallowed_methods,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    missing_docs
)]

mod all;
mod capture;
mod first_boot;
#[path = "../../clients/fleet.rs"]
mod fleet;
#[path = "../../clients/lan.rs"]
mod lan;
mod messages;
#[allow(dead_code)]
#[path = "../../clients/net.rs"]
mod net;
#[allow(dead_code, unused_imports)]
#[path = "../../clients/site.rs"]
mod site;
mod tftp;
#[allow(dead_code)]
#[path = "../../clients/wire.rs"]
mod wire;

use std::net::{Ipv4Addr, UdpSocket};
use std::process::Command;
use std::time::{Duration, Instant};

use lan::{Lan, Router};
use messages::{ACK, OFFER};
use net::Host;

const BOX: Ipv4Addr = Ipv4Addr::new(10, 78, 0, 2);
const BOX_MAC: [u8; 6] = [0x02, 0, 0, 0, 0x02, 0x02];
const PHONE: [u8; 6] = [0x00, 0x04, 0xf2, 0xaa, 0xbb, 0x01];

/// Phones take some milliseconds from OFFER to REQUEST; none at all favours the router.
const PAUSE: Duration = Duration::from_millis(10);

fn main() {
    // `cargo test --benches` runs this, too; nothing is measured then.
    if !std::env::args().any(|argument| argument == "--bench") {
        return;
    }
    let wanted: Vec<String> = std::env::args().skip(1).filter(|argument| !argument.starts_with("--")).collect();
    let wants = |name: &str| wanted.is_empty() || wanted.iter().any(|word| word == name);
    let number =
        |name: &str, usual: usize| std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(usual);
    let (boots, load) = (number("BOOTS", 100), number("LOAD", 0));
    let busy: Vec<_> =
        (0..load).map(|_| Command::new("sh").args(["-c", "while :; do :; done"]).spawn().unwrap()).collect();
    if wants("augment") {
        println!("augment, {boots} boots of one phone beside each router, {load} busy processes");
        println!("{:<36} {:>7} {:>19} {:>18} {:>12}", "", "", "at the box", "at the phone", "at the phone");
        println!(
            "{:<36} {:>7} {:>10} {:>8} {:>9} {:>8} {:>12}",
            "router", "won", "median", "p99", "median", "p99", "router's own"
        );
        let all = [Router::Dnsmasq, Router::DnsmasqAuthoritative, Router::Dhcpd, Router::Kea, Router::Udhcpd];
        let named = |router: &Router| wanted.contains(&format!("{router:?}"));
        let some = all.iter().any(named);
        for router in all.into_iter().filter(|router| !some || named(router)) {
            if net::can_run("the benchmark", &["ip", "tcpdump", router.program()]) {
                beside(router, boots);
                if router == Router::Dhcpd {
                    first_boot::beside_dhcpd(boots);
                }
            }
        }
        if !some {
            tftp::while_serving(boots);
        }
    }
    if wants("all") {
        all::run();
    }
    for mut process in busy {
        let _ = process.kill();
        let _ = process.wait();
    }
}

fn beside(router: Router, boots: usize) {
    let mut lan = Lan::free(router, 600);
    lan.serve("mode = \"augment\"", "\"augment\"");
    // Until the router is known; dnsmasq and dhcpd ping first.
    std::thread::sleep(Duration::from_secs(4));
    let (boots, starts) = race(&lan.phone, PHONE, BOX, boots);
    // What was just sent is written within its buffer time.
    std::thread::sleep(Duration::from_millis(300));
    let ours = capture::answers(&lan.dir.join("lan.pcap"), BOX_MAC);
    show(&format!("{router:?}"), &boots, &ours[0]);
    show(&format!("{router:?}, starts again"), &starts, &ours[1]);
}

/// What came of one boot.
struct Boot {
    won: bool,
    first: Duration,
    routers: Option<Duration>,
}

/// Boots of a phone: from DISCOVER on, and each time again with the address that it then remembers (INIT-REBOOT).
fn race(phone: &Host, mac: [u8; 6], own: Ipv4Addr, boots: usize) -> (Vec<Boot>, Vec<Boot>) {
    let work = move || {
        let socket = messages::socket(Some("eth0"), Ipv4Addr::UNSPECIFIED, 68);
        // The first one is the router's ping and our learning.
        boot(&socket, mac, own, 0, PAUSE);
        let mut all = (Vec::new(), Vec::new());
        for number in 1..=boots {
            // No faster than one phone's DISCOVERs are relayed.
            std::thread::sleep(Duration::from_millis(200));
            let xid = u32::try_from(number).unwrap() * 2;
            let Some((first, address)) = boot(&socket, mac, own, xid, PAUSE) else { continue };
            all.0.push(first);
            let options = [&[53, 1, messages::REQUEST, 50, 4][..], &address].concat();
            all.1.extend(ask(&socket, &messages::message(xid + 1, mac, Ipv4Addr::UNSPECIFIED, &options), own));
        }
        all
    };
    phone.inside(work).join().unwrap()
}

fn show(name: &str, outcomes: &[Boot], ours_on_the_wire: &[Duration]) {
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
        "{name:<36} {:>7} {:>10} {:>8} {:>9} {:>8} {:>12}",
        format!("{won}/{}", outcomes.len()),
        at(ours_on_the_wire, 50),
        at(ours_on_the_wire, 99),
        at(&ours, 50),
        at(&ours, 99),
        at(&theirs, 50)
    );
}

/// A phone's boot: the first OFFER, then a REQUEST. What came of it, and the address.
fn boot(socket: &UdpSocket, mac: [u8; 6], own: Ipv4Addr, xid: u32, pause: Duration) -> Option<(Boot, [u8; 4])> {
    let mut bytes = [0; 1500];
    socket.set_read_timeout(Some(Duration::from_millis(1))).unwrap();
    while socket.recv(&mut bytes).is_ok() {}
    socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    socket.send_to(&messages::discover(xid, mac, Ipv4Addr::UNSPECIFIED), (Ipv4Addr::BROADCAST, 67)).ok()?;
    let offer = loop {
        let length = socket.recv(&mut bytes).ok()?;
        let offer = &bytes[..length];
        if messages::xid(offer) == Some(xid) && messages::kind(offer) == Some(OFFER) {
            break offer;
        }
    };
    let (request, address) = (messages::select(offer, mac, Ipv4Addr::UNSPECIFIED)?, offer[16..20].try_into().unwrap());
    std::thread::sleep(pause);
    Some((ask(socket, &request, own)?, address))
}

/// A REQUEST, then every ACK of the next moments.
fn ask(socket: &UdpSocket, request: &[u8], own: Ipv4Addr) -> Option<Boot> {
    let mut bytes = [0; 1500];
    let begin = Instant::now();
    socket.send_to(request, (Ipv4Addr::BROADCAST, 67)).ok()?;
    let mut first: Option<(bool, Duration)> = None;
    let mut routers = None;
    socket.set_read_timeout(Some(Duration::from_millis(120))).unwrap();
    while let Ok(length) = socket.recv(&mut bytes) {
        let ack = &bytes[..length];
        if messages::xid(ack) != messages::xid(request) || messages::kind(ack) != Some(ACK) {
            continue;
        }
        let ours = messages::option(ack, 150) == Some(&own.octets());
        first.get_or_insert((ours, begin.elapsed()));
        if !ours {
            routers = Some(begin.elapsed());
            break;
        }
    }
    first.map(|(won, first)| Boot { won, first, routers })
}
