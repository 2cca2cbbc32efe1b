//! Whole transfers in simulated time over a link that loses, delays, reorders and doubles. Every run has a seed, and a
//! failure names it.

#![allow(clippy::cast_possible_truncation, clippy::indexing_slicing, clippy::unwrap_used)]

use std::collections::BTreeMap;

use super::*;
use crate::options::{AskedOptions, OptionLimits};
use crate::packet::{RequestOption, data_header};
use crate::service::epoch;

/// SplitMix64: small, seeded, good enough to lose packets.
struct Dice(u64);

impl Dice {
    fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn percent(&mut self, chance: u64) -> bool {
        self.roll() % 100 < chance
    }
}

#[derive(Debug, Clone, Copy)]
struct Weather {
    loss: u64,
    doubled: u64,
    late: u64,
}

/// A careful client: RFC 1350 with the windows of RFC 7440. It repeats its last packet after a second, and acknowledges
/// every block that it had already.
struct Client {
    window: u64,
    expected: u64,
    since_ack: u64,
    gap_told: bool,
    got: Vec<u8>,
    blksize: usize,
    last_word: Vec<u8>,
    done: bool,
}

impl Client {
    fn hear(&mut self, datagram: &[u8]) -> Option<Vec<u8>> {
        let answer = match Packet::parse(datagram).expect("the server sends packets") {
            Packet::Oack(_) if self.expected == 1 && self.got.is_empty() => 0,
            Packet::Oack(_) => return None,
            Packet::Data { block, bytes } if block == wire_number(self.expected) && !self.done => {
                self.got.extend_from_slice(bytes);
                self.expected += 1;
                self.since_ack += 1;
                self.gap_told = false;
                self.done = bytes.len() < self.blksize;
                if !self.done && self.since_ack < self.window {
                    return None;
                }
                self.expected - 1
            }
            // RFC 7440 §4: a gap is told once; what was had before is acknowledged again.
            Packet::Data { block, .. } => {
                let ahead = block.wrapping_sub(wire_number(self.expected)) < 1000;
                if ahead && self.gap_told {
                    return None;
                }
                self.gap_told = ahead;
                self.expected - 1
            }
            other => panic!("{other:?}"),
        };
        self.since_ack = 0;
        let mut ack = Vec::new();
        Packet::Ack(wire_number(answer)).emit(&mut ack);
        self.last_word.clone_from(&ack);
        Some(ack)
    }
}

struct World {
    dice: Dice,
    weather: Weather,
    now: Instant,
    /// What is on the way: by arrival, then in order of sending. `true` is towards the client.
    air: BTreeMap<(Instant, u64), (bool, Vec<u8>)>,
    count: u64,
    data_sent: u64,
}

impl World {
    fn send(&mut self, to_client: bool, datagram: Vec<u8>) {
        self.data_sent += u64::from(to_client);
        let copies = 1 + u64::from(self.dice.percent(self.weather.doubled));
        for _ in 0..copies {
            if self.dice.percent(self.weather.loss) {
                continue;
            }
            let late = if self.dice.percent(self.weather.late) { self.dice.roll() % 60 } else { 0 };
            let arrives = self.now + Duration::from_millis(1 + late);
            self.count += 1;
            self.air.insert((arrives, self.count), (to_client, datagram.clone()));
        }
    }
}

struct Report {
    outcome: TransferEnd,
    client_done: bool,
    intact: bool,
    /// DATA and OACK sent for each that was needed.
    waste: f64,
}

fn play(seed: u64, len: usize, options: &[(&str, &str)], weather: Weather) -> Report {
    let mut dice = Dice(seed);
    let file: Vec<u8> = (0..len).map(|_| dice.roll().to_be_bytes()[0]).collect();
    let asked: Vec<_> =
        options.iter().map(|(name, value)| RequestOption { name: name.as_bytes(), value: value.as_bytes() }).collect();
    let terms =
        NegotiatedOptions::negotiate(&AskedOptions::of(&asked), len as u64, &OptionLimits::new(1500, None, None));
    let now = epoch();
    let mut transfer = Transfer::new(len as u64, &terms, now);
    let mut world = World { dice, weather, now, air: BTreeMap::new(), count: 0, data_sent: 0 };
    let mut client = Client {
        window: u64::from(terms.windowsize),
        expected: 1,
        since_ack: 0,
        gap_told: false,
        got: Vec::new(),
        blksize: usize::from(terms.blksize),
        last_word: Vec::new(),
        done: false,
    };
    let mut client_alarm = now + Duration::from_secs(1);
    let outcome = loop {
        while let Some(transmit) = transfer.poll_transmit() {
            match transmit {
                Transmit::Oack => world.send(true, terms.oack.as_deref().unwrap().to_vec()),
                Transmit::Data(run) => {
                    for (number, range) in run.iter() {
                        let mut datagram = data_header(number).to_vec();
                        datagram.extend_from_slice(&file[range.start as usize..range.end as usize]);
                        world.send(true, datagram);
                    }
                }
                Transmit::Error(refusal) => panic!("seed {seed}: {refusal:?}"),
            }
        }
        if let Some(outcome) = transfer.outcome() {
            break outcome;
        }
        let deadline = transfer.poll_timeout().expect("a running transfer has a deadline");
        let arrival = world.air.first_key_value().map(|(key, _)| *key);
        // A client that has everything dallies: it answers, but asks for nothing.
        let alarm = if client.done { deadline } else { client_alarm };
        match arrival.filter(|(when, _)| *when <= deadline && *when <= alarm) {
            Some(key) => {
                world.now = key.0;
                let (to_client, datagram) = world.air.remove(&key).unwrap();
                if !to_client {
                    let input = Input::from_datagram(&datagram).expect("the client sends ACKs");
                    transfer.handle(input, world.now);
                } else if let Some(answer) = client.hear(&datagram) {
                    client_alarm = world.now + Duration::from_secs(1);
                    world.send(false, answer);
                }
            }
            None if alarm < deadline => {
                world.now = alarm;
                client_alarm = alarm + Duration::from_secs(1);
                if client.last_word.is_empty() {
                    transfer.handle(Input::Repeated, world.now);
                } else {
                    let word = client.last_word.clone();
                    world.send(false, word);
                }
            }
            None => {
                world.now = deadline;
                transfer.handle_timeout(deadline);
            }
        }
    };
    let needed = len as u64 / u64::from(terms.blksize) + 1;
    Report {
        outcome,
        client_done: client.done,
        intact: client.got == file,
        waste: world.data_sent as f64 / needed as f64,
    }
}

const LOCK_STEP: &[(&str, &str)] = &[];
const BLOCKS: &[(&str, &str)] = &[("blksize", "1024"), ("tsize", "0")];
const WINDOWS: &[(&str, &str)] = &[("blksize", "512"), ("windowsize", "16")];

#[test]
fn on_a_clean_link_every_block_is_sent_once() {
    let clean = Weather { loss: 0, doubled: 0, late: 0 };
    for options in [LOCK_STEP, BLOCKS, WINDOWS] {
        let report = play(1, 100_000, options, clean);
        assert_eq!(report.outcome, TransferEnd::Delivered);
        assert!(report.intact && report.client_done);
        assert!(report.waste < 1.02, "{}", report.waste);
    }
}

#[test]
fn files_arrive_whole_over_a_bad_link() {
    let bad = Weather { loss: 5, doubled: 5, late: 10 };
    for seed in 0..200 {
        for options in [LOCK_STEP, BLOCKS, WINDOWS] {
            let report = play(seed, 40_000 + usize::try_from(seed).unwrap() * 7, options, bad);
            assert_ne!(report.outcome, TransferEnd::Aborted, "seed {seed}");
            // Whatever is lost: what the client took for whole is whole.
            assert!(!report.client_done || report.intact, "seed {seed} {options:?}");
            assert!(report.outcome != TransferEnd::Delivered || report.client_done, "seed {seed} {options:?}");
            assert!(report.client_done, "seed {seed} {options:?}: {:?}", report.outcome);
        }
    }
}

#[test]
fn doubled_packets_do_not_breed() {
    // A quarter of all packets comes twice; nothing is lost, so nothing need be sent again.
    let doubling = Weather { loss: 0, doubled: 25, late: 0 };
    for seed in 0..50 {
        for options in [LOCK_STEP, BLOCKS, WINDOWS] {
            let report = play(seed, 100_000, options, doubling);
            assert_eq!(report.outcome, TransferEnd::Delivered, "seed {seed}");
            assert!(report.intact);
            assert!(report.waste < 1.3, "seed {seed} {options:?}: {}", report.waste);
        }
    }
}

#[test]
fn a_lost_block_costs_about_one_window() {
    let lossy = Weather { loss: 1, doubled: 0, late: 0 };
    for seed in 0..50 {
        for options in [LOCK_STEP, BLOCKS, WINDOWS] {
            let report = play(seed, 200_000, options, lossy);
            assert!(report.client_done && report.intact, "seed {seed}");
            assert!(report.waste < 1.6, "seed {seed} {options:?}: {}", report.waste);
        }
    }
}

#[test]
fn a_storm_ends_in_bounded_time_and_never_in_a_wrong_file() {
    let storm = Weather { loss: 45, doubled: 20, late: 40 };
    for seed in 0..200 {
        for options in [LOCK_STEP, BLOCKS, WINDOWS] {
            let report = play(seed, 20_000, options, storm);
            assert!(!report.client_done || report.intact, "seed {seed} {options:?}");
            assert!(report.outcome != TransferEnd::Delivered || report.client_done, "seed {seed} {options:?}");
        }
    }
}
