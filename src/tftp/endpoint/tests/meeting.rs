//! Meetings of many phones and a thief with one server, over a LAN that loses, delays, reorders and doubles, and on which
//! the thief leads astray whatever the kernel sends by its own table. Every meeting has a seed, and a failure names it.

#![allow(clippy::cast_possible_truncation)]

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::bench::perform;
use super::shelf::{Page, catalog_of, shelf_of};
use super::*;
use crate::packet::Packet;
use crate::receive;
use bundle::{Class, Scope, SiteSettings};

const THIEF: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 66);
const THIEF_MAC: MacAddr = MacAddr::new([2, 0, 0, 0, 0, 0x66]);
/// The options of a request.
type Options = &'static [(&'static str, &'static str)];

/// What everyone may have: name, length, and the options with which phones ask for it.
const SHARED: [(&str, usize, Options); 3] = [
    ("rings.xml", 700, &[]),
    ("locale.jar", 9000, &[("blksize", "1024"), ("tsize", "0")]),
    ("image.bin", 67_000, &[("blksize", "1468"), ("windowsize", "16")]),
];

/// SplitMix64: small, seeded, good enough to lose packets.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, below: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % below
    }

    fn percent(&mut self, chance: u64) -> bool {
        self.roll(100) < chance
    }
}

fn mac(index: usize) -> MacAddr {
    MacAddr::new([0, 4, 0xf2, 0, 0, index as u8])
}

fn address(index: usize) -> Ipv4Addr {
    Ipv4Addr::new(10, 0, 0, 10 + index as u8)
}

fn own_name(index: usize) -> String {
    format!("SEP0004F20000{index:02X}.cnf.xml")
}

/// Every 16 octets of a file name it, so that a stolen block is known.
fn bytes_of(name: &str, length: usize) -> Vec<u8> {
    let line = format!("{name:>16.16}");
    line.bytes().cycle().take(length).collect()
}

/// A careful phone: it takes one file after the other, and asks again when it hears nothing.
struct Phone {
    index: usize,
    wants: Vec<(String, usize, Options)>,
    port: u16,
    peer: Option<Ticket>,
    blksize: usize,
    window: u64,
    got: Vec<u8>,
    expected: u64,
    since_ack: u64,
    alarm: Instant,
    tries: u32,
    denied: u32,
}

enum Flight {
    /// To port 69.
    Request(SocketAddrV4, Vec<u8>),
    /// To a transfer's port.
    ToPort(Ticket, SocketAddrV4, Vec<u8>),
    /// To a device, by its hardware address.
    ToDevice(MacAddr, SocketAddrV4, Option<Ticket>, Vec<u8>),
    /// The disk is done.
    Loaded(Ticket, Result<Loaded, ContentError>),
    /// An answer to ARP, to the kernel.
    Resolved(Ipv4Addr, MacAddr),
    /// An answer to ARP, to the server itself.
    Answer(Ipv4Addr, MacAddr),
}

struct Meeting {
    seed: u64,
    dice: Dice,
    bench: Bench,
    phones: Vec<Phone>,
    air: BTreeMap<(Instant, u64), Flight>,
    count: u64,
    waiting: Vec<(Ticket, SocketAddrV4, Vec<u8>)>,
    thief_heard: Vec<Vec<u8>>,
}

impl Meeting {
    fn new(seed: u64) -> Self {
        let mut dice = Dice(seed);
        let count = 3 + dice.roll(7) as usize;
        let mut pages: Vec<Page> = Vec::new();
        let mut page = |name: &str, scope, length| {
            pages.push((name.to_owned(), scope, Class::Config, bytes_of(name, length)));
        };
        SHARED.iter().for_each(|(name, length, _)| page(name, Scope::Everyone, *length));
        let lengths: Vec<usize> = (0..count).map(|_| dice.roll(4000) as usize).collect();
        (0..count).for_each(|index| page(&own_name(index), Scope::Device(mac(index)), lengths[index]));
        let macs: Vec<MacAddr> = (0..count).map(mac).collect();
        let config =
            EndpointConfig { max_transfers: 4 + dice.roll(20) as usize, max_transfers_per_address: 3, ..config() };
        let shelf = shelf_of(pages.clone());
        let mut bench = Bench::new(config, catalog_of(7, SiteSettings::default(), pages, &macs), shelf);
        (bench.slow_disk, bench.answers) = (true, false);
        bench.knows(THIEF, THIEF_MAC);
        let phones = (0..count).map(|index| {
            if dice.percent(50) {
                bench.knows(address(index), mac(index));
            }
            let mut wants = vec![(own_name(index), lengths[index], [SHARED[0].2, SHARED[2].2][index % 2])];
            let (name, length, options) = SHARED[dice.roll(3) as usize];
            wants.push((name.to_owned(), length, options));
            let alarm = bench.now + Duration::from_millis(dice.roll(300));
            Phone {
                index,
                wants,
                port: 2000,
                peer: None,
                blksize: 512,
                window: 1,
                got: Vec::new(),
                expected: 1,
                since_ack: 0,
                alarm,
                tries: 0,
                denied: 0,
            }
        });
        let phones = phones.collect();
        let (air, waiting, thief_heard) = (BTreeMap::new(), Vec::new(), Vec::new());
        Self { seed, dice, bench, phones, air, count: 0, waiting, thief_heard }
    }

    fn fly(&mut self, delay: Duration, flight: Flight) {
        self.count += 1;
        self.air.insert((self.bench.now + delay, self.count), flight);
    }

    /// Sends something over the LAN: lost, late or doubled, as it happens.
    fn send(&mut self, make: impl Fn() -> Flight) {
        for _ in 0..1 + u64::from(self.dice.percent(4)) {
            if !self.dice.percent(5) {
                let late = if self.dice.percent(10) { self.dice.roll(80) } else { 0 };
                self.fly(Duration::from_millis(1 + late), make());
            }
        }
    }

    /// What the server did: packets fly, and so do the disk's results and the answers to ARP.
    fn collect(&mut self) {
        self.bench.drain();
        let [running, unknown, of_address, of_device] = self.bench.endpoint.flows.running();
        let config = &self.bench.endpoint.site.config;
        assert!(running <= config.max_transfers && of_address <= config.max_transfers_per_address, "{}", self.seed);
        assert!(unknown <= config.max_transfers.div_ceil(2) && of_device <= of_address * ADDRESSES_PER_DEVICE);
        assert!(self.bench.endpoint.held() <= MAX_HELD && self.bench.work.len() <= self.bench.ports.len());
        while let Some((ticket, work)) = self.bench.work.pop_front() {
            let loaded = perform(&self.bench.shelf, work);
            let delay = Duration::from_millis(self.dice.roll(60));
            self.fly(delay, Flight::Loaded(ticket, loaded));
        }
        for asked in std::mem::take(&mut self.bench.resolve) {
            let phone = (0..self.phones.len()).find(|index| address(*index) == asked);
            if let Some(index) = phone.filter(|_| !self.dice.percent(20)) {
                let delay = Duration::from_millis(self.dice.roll(40));
                self.fly(delay, Flight::Resolved(asked, mac(index)));
            }
        }
        for (asked, whom) in std::mem::take(&mut self.bench.asked) {
            let phone = (0..self.phones.len()).find(|index| address(*index) == asked);
            if let Some(index) = phone.filter(|index| whom.is_none_or(|whom| whom == mac(*index))) {
                self.send(|| Flight::Answer(asked, mac(index)));
            }
        }
        while let Some(left) = self.bench.left.pop_front() {
            let to = match left.way {
                Way::Frame(_, mac) => mac,
                // The thief's claims by ARP stand in the kernel's own table half of the time.
                Way::Socket(_) | Way::Refusal if self.dice.percent(50) => THIEF_MAC,
                Way::Socket(_) | Way::Refusal => {
                    let index = usize::from(left.to.ip().octets()[3].wrapping_sub(10));
                    if *left.to.ip() == THIEF { THIEF_MAC } else { mac(index) }
                }
            };
            // What the thief takes it also passes on, so that phones go on.
            if to == THIEF_MAC {
                self.thief_heard.push(left.bytes.clone());
            }
            let device =
                if *left.to.ip() == THIEF { THIEF_MAC } else { mac(usize::from(left.to.ip().octets()[3] - 10)) };
            let (peer, from, bytes) = (left.to, left.from, left.bytes);
            let target = if matches!(left.way, Way::Frame(..)) { to } else { device };
            self.send(|| Flight::ToDevice(target, peer, from, bytes.clone()));
        }
        // What came for ports that did not listen is read now.
        for (ticket, from, bytes) in std::mem::take(&mut self.waiting) {
            self.arrive(ticket, from, bytes);
        }
    }

    fn arrive(&mut self, ticket: Ticket, from: SocketAddrV4, bytes: Vec<u8>) {
        match self.bench.ports.get(&ticket) {
            Some(Waits::Client) => {
                self.bench.endpoint.handle_datagram(ticket, &bytes, from, self.bench.now);
                self.collect();
            }
            Some(_) => self.waiting.push((ticket, from, bytes)),
            None => {}
        }
    }

    fn land(&mut self, flight: Flight) {
        match flight {
            Flight::Request(peer, bytes) => self.bench.endpoint.handle_request(&bytes, peer, self.bench.now),
            Flight::ToPort(ticket, from, bytes) => return self.arrive(ticket, from, bytes),
            Flight::Loaded(ticket, loaded) => self.bench.endpoint.handle_loaded(ticket, loaded, self.bench.now),
            Flight::Resolved(address, mac) => self.bench.knows(address, mac),
            Flight::Answer(address, mac) => self.bench.endpoint.handle_answer(address, mac, self.bench.now),
            Flight::ToDevice(to, peer, from, bytes) => {
                let index = (0..self.phones.len()).find(|index| mac(*index) == to);
                if let Some(index) = index {
                    assert_eq!(*peer.ip(), address(index), "seed {}: to another's address", self.seed);
                    self.phone_hears(index, peer.port(), from, &bytes);
                }
            }
        }
        self.collect();
    }

    fn ask(&mut self, index: usize) {
        let phone = &mut self.phones[index];
        let Some((name, _, options)) = phone.wants.first() else { return };
        let datagram = rrq(name, TransferMode::Octet, options);
        phone.alarm = self.bench.now + Duration::from_secs(3);
        let peer = port(address(index), phone.port);
        self.send(|| Flight::Request(peer, datagram.clone()));
    }

    fn start_over(&mut self, index: usize, pause: u64) {
        let phone = &mut self.phones[index];
        (phone.peer, phone.blksize, phone.window, phone.expected, phone.since_ack) = (None, 512, 1, 1, 0);
        (phone.port, phone.tries) = (phone.port + 1, 0);
        phone.got.clear();
        phone.alarm = self.bench.now + Duration::from_millis(pause);
    }

    fn phone_hears(&mut self, index: usize, to: u16, from: Option<Ticket>, bytes: &[u8]) {
        let phone = &mut self.phones[index];
        if to != phone.port || phone.wants.is_empty() {
            return;
        }
        let block = match Packet::parse(bytes).unwrap() {
            Packet::Error { code: 1, .. } => panic!("seed {}: its own file is not found", self.seed),
            Packet::Error { .. } if phone.peer.is_none() || phone.peer == from => {
                phone.denied += 1;
                return self.start_over(index, 1000);
            }
            _ if from.is_none() || phone.peer.is_some_and(|peer| Some(peer) != from) => return,
            Packet::Oack(options) if phone.expected == 1 => {
                for option in options {
                    let value = std::str::from_utf8(option.value).unwrap().parse().unwrap();
                    match option.name {
                        b"blksize" => phone.blksize = value,
                        b"windowsize" => phone.window = value as u64,
                        _ => {}
                    }
                }
                0
            }
            Packet::Data { block, bytes } if block == phone.expected as u16 => {
                phone.got.extend_from_slice(bytes);
                phone.expected += 1;
                phone.since_ack += 1;
                if bytes.len() == phone.blksize && phone.since_ack < phone.window {
                    phone.peer = from;
                    return;
                }
                block
            }
            Packet::Data { .. } => (phone.expected - 1) as u16,
            _ => return,
        };
        (phone.peer, phone.since_ack, phone.alarm) = (from, 0, self.bench.now + Duration::from_secs(1));
        let done =
            phone.got.len() == phone.wants[0].1 && phone.expected > phone.got.len() as u64 / phone.blksize as u64 + 1;
        self.say(index, block);
        if done {
            let phone = &mut self.phones[index];
            let (name, length, _) = phone.wants.remove(0);
            assert!(phone.got == bytes_of(&name, length), "seed {}: {name} is not what it was", self.seed);
            self.start_over(index, 50);
        }
    }

    fn say(&mut self, index: usize, block: u16) {
        let phone = &self.phones[index];
        let (Some(ticket), from) = (phone.peer, port(address(index), phone.port)) else { return };
        let [high, low] = block.to_be_bytes();
        self.send(|| Flight::ToPort(ticket, from, vec![0, 4, high, low]));
    }

    fn alarm(&mut self, index: usize) {
        let phone = &mut self.phones[index];
        phone.tries += 1;
        match phone.peer {
            None => self.ask(index),
            Some(_) if phone.tries > 8 => self.start_over(index, 100),
            Some(_) => {
                phone.alarm = self.bench.now + Duration::from_secs(1);
                let block = (phone.expected - 1) as u16;
                // RFC 2347: ACK 0 only after an OACK; before it, and before block 1, there is nothing to acknowledge.
                self.say(index, block);
            }
        }
    }

    /// The thief guesses ports, forges sources, and asks for what is not its own.
    fn mischief(&mut self) {
        let victim = self.dice.roll(self.phones.len() as u64) as usize;
        let source = port(address(victim), 30_000 + self.dice.roll(4) as u16);
        let name = own_name(victim);
        let forged = rrq(&name, TransferMode::Octet, &[("windowsize", "4")]);
        match self.dice.roll(4) {
            0 => self.fly(Duration::ZERO, Flight::Request(port(THIEF, 3000), forged)),
            1 => self.fly(Duration::ZERO, Flight::Request(source, forged)),
            2 => {
                let junk: Vec<u8> = (0..self.dice.roll(40)).map(|_| self.dice.roll(7) as u8).collect();
                self.fly(Duration::ZERO, Flight::Request(port(THIEF, 3001), junk));
            }
            _ => {
                let ports: Vec<Ticket> = self.bench.ports.keys().copied().collect();
                let Some(ticket) = ports.get(self.dice.roll(8) as usize) else { return };
                let packets: [&[u8]; 3] = [b"\0\x05\0\0die\0", b"\0\x04\0\x01", b"\0\x03\0\x01data"];
                let packet = packets[self.dice.roll(3) as usize].to_vec();
                let from = [source, port(THIEF, 3002)][self.dice.roll(2) as usize];
                self.fly(Duration::ZERO, Flight::ToPort(*ticket, from, packet));
            }
        }
    }

    fn play(mut self) -> u32 {
        let end = self.bench.now + Duration::from_secs(600);
        let mut mischief = self.bench.now;
        while self.phones.iter().any(|phone| !phone.wants.is_empty()) {
            let phones = self.phones.iter().filter(|phone| !phone.wants.is_empty());
            let (alarm, index) = phones.map(|phone| (phone.alarm, phone.index)).min().unwrap();
            let air = self.air.first_key_value().map(|(key, _)| key.0);
            let due = self.bench.endpoint.poll_timeout();
            let next = [Some(alarm), air, due, Some(mischief)].into_iter().flatten().min().unwrap();
            self.bench.now = self.bench.now.max(next);
            assert!(self.bench.now < end, "seed {}: it does not end", self.seed);
            if air == Some(next) {
                let (_, flight) = self.air.pop_first().unwrap();
                self.land(flight);
            } else if due == Some(next) {
                self.bench.endpoint.handle_timeout(self.bench.now);
                self.collect();
            } else if alarm == next {
                self.alarm(index);
            } else {
                mischief += Duration::from_millis(40 + self.dice.roll(400));
                self.mischief();
            }
        }
        // Nobody says anything more.
        self.air.retain(|_, flight| matches!(flight, Flight::Loaded(..)));
        while let Some(next) =
            [self.air.keys().next().map(|key| key.0), self.bench.endpoint.poll_timeout()].into_iter().flatten().min()
        {
            self.bench.now = self.bench.now.max(next);
            let key = self.air.keys().next().copied();
            match key.filter(|key| key.0 <= self.bench.now).and_then(|key| self.air.remove(&key)) {
                Some(flight) => self.land(flight),
                None => {
                    self.bench.endpoint.handle_timeout(self.bench.now);
                    self.collect();
                }
            }
            self.air.retain(|_, flight| matches!(flight, Flight::Loaded(..)));
        }
        assert!(self.bench.is_idle(), "seed {}: {:?} is left over", self.seed, self.bench.ports);
        let secret = |bytes: &[u8]| {
            (0..self.phones.len()).any(|index| {
                let mark = own_name(index);
                bytes.windows(16).any(|part| part == &mark.as_bytes()[..16])
            })
        };
        assert!(!self.thief_heard.iter().any(|bytes| secret(bytes)), "seed {}: the thief has a secret", self.seed);
        assert!(!self.thief_heard.is_empty(), "the thief takes part");
        self.phones.iter().map(|phone| phone.denied).sum()
    }
}

#[test]
fn in_400_meetings_every_phone_ends_with_the_right_bytes_and_nobody_gets_anothers() {
    let denied: u32 = (0..400).map(|seed| Meeting::new(seed).play()).sum();
    println!("400 meetings; {denied} times a phone heard that the server is busy, and came again");
}

#[test]
fn an_upload_that_gives_way_hears_it() {
    let options = crate::options::NegotiatedOptions::default();
    let mut upload = receive::Receive::new(None, 1000, &options, crate::service::epoch());
    upload.poll_transmit();
    upload.handle(receive::Input::Evicted, crate::service::epoch());
    assert_eq!(upload.poll_transmit(), Some(receive::Transmit::Error(ErrorReply::Busy)));
}
