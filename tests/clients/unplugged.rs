//! A phone that was just unplugged, and a host on its LAN that asks in its name: the box still knows the phone's hardware
//! address, and the switch does not, so that it sends whatever goes there to everybody.

use std::net::SocketAddrV4;
use std::time::{Duration, Instant};

use socket2::Socket;

use super::net::{Host, can_run};
use super::site::{BOX_LAN, CISCO, CISCO_FILE, Deployment, STRANGER};
use super::wire::{datagram, frame, get, hear, mac, raw, request, rrq, socket, udp_frame};

const PHONE: &str = "192.168.77.20";
const THIEF: &str = "192.168.77.66";

fn address(text: &str) -> [u8; 4] {
    text.parse::<std::net::Ipv4Addr>().unwrap().octets()
}

/// A host that hears every frame which the switch brings it, and sends all its own from its own hardware address.
struct Thief {
    ears: Socket,
    own: [u8; 6],
    of_box: [u8; 6],
    of_phone: [u8; 6],
    /// Whether it answers questions for the phone: its payload says that it is the phone.
    answers: bool,
    /// Questions of the box for a phone, which it heard because the switch did not know the phone.
    questions: usize,
    /// TFTP that was for the phone's hardware address.
    heard: Vec<Vec<u8>>,
}

impl Thief {
    fn new(site: &mut Deployment) -> Self {
        let host = site.phone_at(STRANGER, THIEF);
        host.sh("ip link set eth0 promisc on");
        let of_box = mac(&site.site.sh("cat /sys/class/net/lan0/address"));
        let (own, of_phone) = (mac(STRANGER), mac(CISCO));
        let ears = raw(&host, "eth0");
        Self { ears, own, of_box, of_phone, answers: false, questions: 0, heard: Vec::new() }
    }

    /// An answer to ARP whose payload names the phone, for this address.
    fn lie(&self, about: &str) {
        let box_ip = address(BOX_LAN);
        let arp = [&[0, 1, 8, 0, 6, 4, 0, 2][..], &self.of_phone, &address(about), &self.of_box, &box_ip].concat();
        self.ears.send(&[&self.of_box[..], &self.own, &[8, 6], &arp].concat()).unwrap();
    }

    fn send(&self, from: SocketAddrV4, to: SocketAddrV4, payload: &[u8]) {
        self.ears.send(&udp_frame((self.own, self.of_box), from, to, payload)).unwrap();
    }

    /// Asks for the phone's file from this address.
    fn ask(&self, from: &str, port: u16, payload: &[u8]) {
        self.send(SocketAddrV4::new(from.parse().unwrap(), port), format!("{BOX_LAN}:69").parse().unwrap(), payload);
    }

    fn listen(&mut self, time: Duration) {
        let end = Instant::now() + time;
        while Instant::now() < end {
            let Some(heard) = frame(&self.ears) else { continue };
            if heard[6..12] != self.of_box {
                continue;
            }
            if heard[12..14] == [8, 6]
                && heard[21] == 1
                && [address(PHONE), address(THIEF)].iter().any(|at| heard[38..42] == *at)
            {
                self.questions += usize::from(heard[..6] == self.of_phone);
                if self.answers {
                    self.lie(if heard[38..42] == address(PHONE) { PHONE } else { THIEF });
                }
            }
            // Whatever comes from a transfer's port is of the phone's own file. Refusals are the same for everybody.
            if let Some((from, _, [0, 3 | 6, ..])) = datagram(&heard)
                && from.port() >= 61_000
            {
                self.heard.push(heard);
            }
        }
    }
}

/// Fetches the phone's own file once, so that the box knows it, and returns the file.
fn fetched(site: &Deployment, phone: &Host) -> Vec<u8> {
    let own = site.preview(CISCO, CISCO_FILE);
    assert_eq!(get(&socket(phone, &format!("{PHONE}:0")), BOX_LAN, CISCO_FILE), Ok(own.clone()));
    own
}

fn state(site: &Deployment) -> String {
    site.site.sh(&format!("ip neigh show {PHONE} dev lan0"))
}

#[test]
fn a_host_that_hears_what_the_switch_floods_gets_no_byte_of_an_unplugged_phones_file() {
    if !can_run("a_host_that_hears_what_the_switch_floods", &["ip", "curl"]) {
        return;
    }
    let mut site = Deployment::ready();
    let phone = site.phone_at(CISCO, PHONE);
    let mut thief = Thief::new(&mut site);
    fetched(&site, &phone);
    let mut port = 20_000;
    // The entry of the phone as it was a moment ago; as it is a minute later; and with answers that lie.
    for (nud, answers) in [("reachable", false), ("stale", false), ("reachable", true), ("stale", true)] {
        fetched(&site, &phone);
        phone.sh("ip link set eth0 down");
        site.site.sh(&format!("ip neigh replace {PHONE} lladdr {CISCO} nud {nud} dev lan0"));
        thief.answers = answers;
        let before = thief.questions;
        for number in 0..25 {
            port += 1;
            if answers {
                thief.lie(PHONE);
            }
            thief.ask(PHONE, port, &request(1, CISCO_FILE, if number % 2 == 0 { &[] } else { &[("blksize", "8")] }));
            thief.listen(Duration::from_millis(60));
            assert!(state(&site).contains(CISCO), "the box knows the phone: {}", state(&site));
        }
        thief.listen(Duration::from_millis(1500));
        let questions = thief.questions - before;
        println!("{nud}, lies {answers}: {questions} questions for the phone came to everybody");
        // One is enough to show that what is sent to the phone's MAC comes to everybody.
        assert!(questions > 0, "the switch knows the phone, or nobody was asked");
        assert!(thief.heard.is_empty(), "{nud}: {} packets came: {:?}", thief.heard.len(), thief.heard.first());
        phone.sh("ip link set eth0 up");
        let asked = Instant::now();
        fetched(&site, &phone);
        assert!(asked.elapsed() < Duration::from_secs(1), "the phone is back: {:?}", asked.elapsed());
    }
    let counters = &site.status()["counters"];
    assert!(counters["tftp.not-there"].as_u64() > Some(0), "{counters:#}");
}

#[test]
fn an_answer_that_names_the_phone_in_its_payload_only_brings_no_byte_under_any_address() {
    if !can_run("an_answer_that_names_the_phone_in_its_payload_only", &["ip", "curl"]) {
        return;
    }
    let mut site = Deployment::ready();
    let phone = site.phone_at(CISCO, PHONE);
    let mut thief = Thief::new(&mut site);
    fetched(&site, &phone);
    thief.answers = true;
    // Under its own address, which its answers say is the phone's; once while the phone is there, then while it is not.
    for number in 0..60 {
        if number == 30 {
            phone.sh("ip link set eth0 down");
        }
        for _ in 0..3 {
            thief.lie(THIEF);
        }
        thief.ask(THIEF, 30_000 + number, &rrq(CISCO_FILE));
        thief.listen(Duration::from_millis(60));
    }
    thief.listen(Duration::from_secs(2));
    assert!(thief.heard.is_empty(), "{} packets came\n{}", thief.heard.len(), site.appliance_log());
    assert!(thief.questions > 0, "the lies were not believed by anybody");
}

#[test]
fn a_transfer_whose_phone_was_unplugged_gives_nothing_to_whoever_goes_on_with_it() {
    if !can_run("a_transfer_whose_phone_was_unplugged", &["ip", "curl"]) {
        return;
    }
    let mut site = Deployment::ready();
    let phone = site.phone_at(CISCO, PHONE);
    let mut thief = Thief::new(&mut site);
    let own = socket(&phone, &format!("{PHONE}:4000"));
    own.send_to(&request(1, CISCO_FILE, &[("blksize", "8")]), format!("{BOX_LAN}:69")).unwrap();
    let (oack, transfer) = hear(&own).unwrap();
    assert_eq!(oack[..2], [0, 6]);
    let ack = |block: u16| [&[0, 4][..], &block.to_be_bytes()].concat();
    for block in 0..5 {
        own.send_to(&ack(block), transfer).unwrap();
        assert_eq!(hear(&own).unwrap().0[..4], [&[0, 3][..], &(block + 1).to_be_bytes()].concat());
    }
    phone.sh("ip link set eth0 down");
    // The first answer is no longer fresh; before that, what is sent reaches everybody.
    std::thread::sleep(Duration::from_millis(1600));
    let std::net::SocketAddr::V4(transfer) = transfer else { panic!() };
    thief.listen(Duration::from_millis(50));
    thief.heard.clear();
    for block in 5..40 {
        thief.send(format!("{PHONE}:4000").parse().unwrap(), transfer, &ack(block));
        thief.listen(Duration::from_millis(30));
    }
    assert!(thief.heard.is_empty(), "{} packets came", thief.heard.len());
    assert!(thief.questions > 0, "the phone was not asked");
}

#[test]
fn a_phone_that_was_silent_for_long_is_served_at_once_and_so_is_one_whose_answer_got_lost() {
    if !can_run("a_phone_that_was_silent_for_long_is_served_at_once", &["ip", "curl", "bridge"]) {
        return;
    }
    let mut site = Deployment::ready();
    let phone = site.phone_at(CISCO, PHONE);
    let own = fetched(&site, &phone);
    let box_mac = site.site.sh("cat /sys/class/net/lan0/address");
    phone.sh(&format!("ip neigh replace {BOX_LAN} lladdr {} nud permanent dev eth0", box_mac.trim()));
    let asks = socket(&phone, &format!("{PHONE}:0"));
    let mut times = Vec::new();
    for number in 0..20 {
        site.site.sh(&format!("ip neigh replace {PHONE} lladdr {CISCO} nud stale dev lan0"));
        // The switch has forgotten it, too.
        site.lan.sh("ip link set br0 type bridge fdb_flush");
        let lost = number % 4 == 3;
        if lost {
            phone.sh("echo 8 >/proc/sys/net/ipv4/conf/all/arp_ignore");
        }
        let asked = Instant::now();
        let answer = lost.then(|| {
            let phone = phone.clone();
            std::thread::spawn(move || {
                std::thread::sleep(Duration::from_millis(100));
                phone.sh("echo 0 >/proc/sys/net/ipv4/conf/all/arp_ignore");
            })
        });
        assert_eq!(get(&asks, BOX_LAN, CISCO_FILE), Ok(own.clone()), "try {number}\n{}", site.appliance_log());
        times.push((lost, asked.elapsed()));
        answer.into_iter().for_each(|answer| answer.join().unwrap());
    }
    println!("{times:?}");
    assert!(times.iter().all(|(_, took)| *took < Duration::from_secs(1)), "{times:?}");
    assert_eq!(site.status()["counters"]["tftp.not-there"], serde_json::Value::Null);
}
