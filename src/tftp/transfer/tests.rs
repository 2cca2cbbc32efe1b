#![allow(clippy::indexing_slicing, clippy::unwrap_used)]

use super::*;
use crate::options::{AskedOptions, OptionLimits};
use crate::packet::RequestOption;
use crate::service::epoch;

mod properties;
mod windows;

/// A transfer in simulated time.
struct Bench {
    transfer: Transfer,
    now: Instant,
}

impl Bench {
    fn plain(len: u64) -> Self {
        Self::with(len, &[])
    }

    fn with(len: u64, options: &[(&str, &str)]) -> Self {
        let asked: Vec<_> = options
            .iter()
            .map(|(name, value)| RequestOption { name: name.as_bytes(), value: value.as_bytes() })
            .collect();
        let terms = NegotiatedOptions::negotiate(&AskedOptions::of(&asked), len, &OptionLimits::new(1500, None, None));
        let now = epoch();
        Self { transfer: Transfer::new(len, &terms, now), now }
    }

    /// Past the OACK, with the first window taken.
    fn in_window(len: u64, size: u16) -> Self {
        let mut bench = Self::with(len, &[("windowsize", &size.to_string())]);
        assert_eq!(bench.sent(), [Transmit::Oack]);
        bench.wait(10);
        bench.ack(0);
        assert_eq!(bench.blocks(), (1..=size).collect::<Vec<_>>());
        bench
    }

    fn wait(&mut self, millis: u64) {
        self.now += Duration::from_millis(millis);
    }

    fn input(&mut self, input: Input) {
        self.transfer.handle(input, self.now);
    }

    fn ack(&mut self, number: u16) {
        self.input(Input::Ack(number));
    }

    fn sent(&mut self) -> Vec<Transmit> {
        std::iter::from_fn(|| self.transfer.poll_transmit()).collect()
    }

    /// The numbers of the blocks that leave now.
    fn blocks(&mut self) -> Vec<u16> {
        let numbers = |transmit| match transmit {
            Transmit::Data(run) => run.iter().map(|(number, _)| number).collect::<Vec<_>>(),
            other => panic!("{other:?} instead of DATA"),
        };
        self.sent().into_iter().flat_map(numbers).collect()
    }

    fn sends_nothing(&mut self) -> bool {
        self.sent().is_empty()
    }

    /// Goes to the next deadline.
    fn expire(&mut self) {
        self.now = self.transfer.poll_timeout().expect("a deadline");
        self.transfer.handle_timeout(self.now);
    }

    /// The client never answers again: everything that still leaves.
    fn run_out(&mut self) -> Vec<Transmit> {
        let mut all = Vec::new();
        while self.transfer.outcome().is_none() {
            self.expire();
            all.extend(self.sent());
        }
        all
    }

    fn outcome(&self) -> Option<TransferEnd> {
        self.transfer.outcome()
    }
}

#[test]
fn a_short_file_is_one_block_and_one_ack() {
    // RFC 1350 §2
    let mut bench = Bench::plain(100);
    let run = Run { first: 1, blocks: 1, range: 0..100, blksize: 512 };
    assert_eq!(bench.sent(), [Transmit::Data(run)]);
    bench.ack(1);
    assert_eq!(bench.outcome(), Some(TransferEnd::Delivered));
    assert_eq!((bench.transfer.bytes_acked(), bench.transfer.poll_timeout()), (100, None));
}

#[test]
fn an_empty_file_is_one_empty_block() {
    // RFC 1350 §6. Empty CTLSEP files end the upgrade loops of old Cisco 7940s.
    let mut bench = Bench::plain(0);
    let run = Run { first: 1, blocks: 1, range: 0..0, blksize: 512 };
    assert_eq!(bench.sent(), [Transmit::Data(run)]);
    bench.ack(1);
    assert_eq!(bench.outcome(), Some(TransferEnd::Delivered));
}

#[test]
fn a_file_of_whole_blocks_ends_with_an_empty_one() {
    // RFC 1350 §6
    let mut bench = Bench::plain(1024);
    assert_eq!(bench.blocks(), [1]);
    bench.ack(1);
    assert_eq!(bench.blocks(), [2]);
    bench.ack(2);
    let last = Run { first: 3, blocks: 1, range: 1024..1024, blksize: 512 };
    assert_eq!(bench.sent(), [Transmit::Data(last)]);
    bench.ack(3);
    assert_eq!(bench.outcome(), Some(TransferEnd::Delivered));
}

#[test]
fn options_are_answered_before_the_first_block() {
    // RFC 2347
    let mut bench = Bench::with(100, &[("tsize", "0")]);
    assert_eq!(bench.sent(), [Transmit::Oack]);
    bench.ack(1);
    assert!(bench.sends_nothing(), "only ACK 0 accepts an OACK");
    bench.ack(0);
    assert_eq!(bench.blocks(), [1]);
}

#[test]
fn a_duplicate_ack_never_doubles_the_data() {
    // RFC 1123 §4.2.3.1, the Sorcerer's Apprentice
    let mut bench = Bench::plain(5000);
    bench.sent();
    bench.ack(1);
    assert_eq!(bench.blocks(), [2]);
    for _ in 0..100 {
        bench.wait(5);
        bench.ack(1);
        assert!(bench.sends_nothing());
    }
    bench.ack(2);
    assert_eq!(bench.blocks(), [3]);
}

#[test]
fn old_and_future_acks_are_ignored() {
    let mut bench = Bench::plain(5000);
    bench.sent();
    for number in 1..=4 {
        bench.ack(number);
        bench.sent();
    }
    for number in [0, 1, 2, 3, 6, 7, 1000, 65535] {
        bench.ack(number);
        assert!(bench.sends_nothing(), "ACK {number}");
    }
    assert_eq!(bench.transfer.bytes_acked(), 4 * 512);
}

#[test]
fn an_ack_of_what_never_left_delivers_nothing() {
    let mut bench = Bench::plain(100);
    bench.ack(1);
    assert_eq!(bench.outcome(), None);
}

#[test]
fn block_numbers_roll_over_to_zero() {
    let blocks = 65_535 * 2 + 10;
    let now = epoch();
    let terms = NegotiatedOptions { blksize: 8, ..NegotiatedOptions::default() };
    let mut bench = Bench { transfer: Transfer::new(blocks * 8, &terms, now), now };
    let mut offset = 0;
    for block in 1..=blocks + 1 {
        let [Transmit::Data(run)] = &bench.sent()[..] else { panic!("no block {block}") };
        assert_eq!((u64::from(run.first), run.range.start), (block % 65_536, offset));
        offset = run.range.end;
        bench.ack(run.first);
    }
    assert_eq!((bench.outcome(), offset), (Some(TransferEnd::Delivered), blocks * 8));
}

#[test]
fn an_error_ends_the_transfer_at_once_and_silently() {
    // Polycom compares the header of sip.ld and sends ERROR; a tsize probe ends with ERROR 8.
    let mut bench = Bench::plain(5000);
    bench.sent();
    bench.ack(1);
    bench.input(Input::Error);
    assert_eq!(bench.outcome(), Some(TransferEnd::Aborted));
    assert!(bench.sends_nothing());
    assert_eq!(bench.transfer.poll_timeout(), None);
}

#[test]
fn an_error_instead_of_ack_0_is_a_probe() {
    let mut bench = Bench::with(5000, &[("tsize", "0")]);
    bench.sent();
    bench.input(Input::Error);
    assert_eq!(bench.outcome(), Some(TransferEnd::Aborted));
    assert!(bench.sends_nothing());
}

#[test]
fn a_lost_block_is_sent_again_after_a_second_then_two_then_four() {
    // RFC 6298 §2.1 and §5.5
    let mut bench = Bench::plain(5000);
    bench.sent();
    let mut waits = Vec::new();
    for _ in 0..MAX_UNPROVEN_RESENDS {
        let before = bench.now;
        bench.expire();
        waits.push((bench.now - before).as_secs());
        assert_eq!(bench.blocks(), [1]);
    }
    assert_eq!(waits, [1, 2, 4]);
    assert_eq!(bench.transfer.retransmissions(), 3);
}

#[test]
fn resends_follow_the_measured_round_trip() {
    let mut bench = Bench::plain(512 * 100);
    bench.sent();
    for number in 1..20 {
        bench.wait(300);
        bench.ack(number);
        bench.sent();
    }
    let wait = bench.transfer.poll_timeout().unwrap() - bench.now;
    assert!((300..600).contains(&wait.as_millis()), "{wait:?}");
}

#[test]
fn after_four_resends_without_progress_only_patience_is_left() {
    let mut bench = Bench::plain(5000);
    bench.sent();
    bench.wait(5);
    bench.ack(1);
    bench.sent();
    let start = bench.now;
    assert_eq!(bench.run_out().len(), 4);
    assert_eq!(bench.now - start, PATIENCE);
    assert_eq!(bench.outcome(), Some(TransferEnd::TimedOut));
}

#[test]
fn a_phone_that_erases_its_flash_for_twenty_seconds_gets_its_file() {
    let mut bench = Bench::plain(1000);
    bench.sent();
    bench.wait(5);
    bench.ack(1);
    bench.sent();
    let wakes = bench.now + Duration::from_secs(20);
    while bench.transfer.poll_timeout().unwrap() < wakes {
        bench.expire();
        bench.sent();
    }
    bench.now = wakes;
    bench.ack(2);
    assert_eq!(bench.outcome(), Some(TransferEnd::Delivered));
}

#[test]
fn a_forged_source_never_gets_three_kilobytes() {
    for options in [&[][..], &[("blksize", "1468"), ("windowsize", "64"), ("tsize", "0"), ("timeout", "1")]] {
        let mut bench = Bench::with(1 << 20, options);
        let mut all = bench.sent();
        for _ in 0..100 {
            // Its victim cannot stop it, and the forger repeats the request.
            bench.input(Input::Repeated);
            all.extend(bench.sent());
        }
        all.extend(bench.run_out());
        let bytes = |transmit: &Transmit| match transmit {
            Transmit::Data(run) => run.range.end - run.range.start + 4,
            _ => 100,
        };
        let total: u64 = all.iter().map(bytes).sum();
        assert!(total < 3000, "{total} bytes for {options:?}");
        assert!(all.len() <= 4, "{} packets", all.len());
        assert_eq!(bench.outcome(), Some(TransferEnd::TimedOut));
    }
}

#[test]
fn a_repeated_request_is_answered_again_until_the_first_ack() {
    let mut bench = Bench::plain(5000);
    bench.sent();
    bench.wait(500);
    bench.input(Input::Repeated);
    assert_eq!(bench.blocks(), [1]);
    bench.ack(1);
    assert_eq!(bench.blocks(), [2]);
    bench.input(Input::Repeated);
    assert!(bench.sends_nothing());
}

#[test]
fn a_request_that_overtook_the_first_ack_is_a_straggler_and_a_later_one_is_a_new_start() {
    let mut bench = Bench::plain(5000);
    assert!(is_straggler(bench.transfer.proven_at(), bench.now));
    bench.sent();
    bench.ack(1);
    assert!(is_straggler(bench.transfer.proven_at(), bench.now));
    bench.wait(1000);
    assert!(!is_straggler(bench.transfer.proven_at(), bench.now));
}

#[test]
fn the_clients_timeout_is_honoured() {
    // RFC 2349
    let mut bench = Bench::with(5000, &[("timeout", "4")]);
    bench.sent();
    bench.ack(0);
    bench.sent();
    for _ in 0..MAX_RESENDS {
        let before = bench.now;
        bench.expire();
        assert_eq!(bench.now - before, Duration::from_secs(4));
        assert_eq!(bench.blocks(), [1]);
    }
}

#[test]
fn the_longest_timeout_option_cannot_hold_a_transfer_for_ever() {
    let mut bench = Bench::with(5000, &[("timeout", "255")]);
    let start = bench.now;
    bench.sent();
    bench.ack(0);
    bench.sent();
    bench.run_out();
    assert!(bench.now - start <= Duration::from_secs(510));
}

#[test]
fn a_client_that_crawls_for_ever_is_ended() {
    let mut bench = Bench::plain(1 << 30);
    let start = bench.now;
    let mut number = 0u16;
    while bench.outcome().is_none() {
        bench.sent();
        if bench.transfer.poll_timeout().is_some_and(|due| due < bench.now + Duration::from_secs(25)) {
            bench.wait(25_000);
        }
        bench.transfer.handle_timeout(bench.now);
        number = number.wrapping_add(1);
        bench.ack(number);
    }
    assert_eq!(bench.outcome(), Some(TransferEnd::TimedOut));
    assert!(bench.now - start <= MAX_DURATION + Duration::from_secs(25));
}

#[test]
fn without_the_final_ack_nothing_counts_as_delivered() {
    // I10: only a final ACK is a delivery.
    let mut bench = Bench::plain(600);
    bench.sent();
    bench.ack(1);
    bench.sent();
    bench.run_out();
    assert_eq!((bench.outcome(), bench.transfer.bytes_acked()), (Some(TransferEnd::Unconfirmed), 512));
}

#[test]
fn an_address_that_changed_hands_gets_nothing_more() {
    let mut bench = Bench::plain(5000);
    bench.sent();
    bench.input(Input::Revoked);
    assert!(bench.sends_nothing());
    assert_eq!(bench.outcome(), Some(TransferEnd::Failed));
}

#[test]
fn a_damaged_file_ends_with_error_0() {
    let mut bench = Bench::plain(5000);
    bench.sent();
    bench.ack(1);
    bench.input(Input::Unreadable);
    assert_eq!(bench.sent(), [Transmit::Error(ErrorReply::TemporaryFailure)]);
    assert_eq!(bench.outcome(), Some(TransferEnd::Failed));
}

#[test]
fn a_new_request_from_the_port_ends_the_old_transfer_silently() {
    // Cisco 7921: one port for everything, and the last ACK may be lost.
    let mut bench = Bench::plain(100);
    bench.sent();
    bench.input(Input::Replaced);
    assert!(bench.sends_nothing());
    assert_eq!(bench.outcome(), Some(TransferEnd::Unconfirmed));
}

#[test]
fn a_stranger_gets_error_5_a_few_times_and_the_transfer_goes_on() {
    // RFC 1350 §4
    let mut bench = Bench::plain(5000);
    bench.sent();
    let answers = (0..100).filter_map(|_| bench.transfer.handle_stranger(b"\0\x04\0\x01")).count();
    assert_eq!(answers, 8);
    assert_eq!(bench.transfer.handle_stranger(b"\0\x05\0\0no\0"), None, "an ERROR is never answered");
    bench.ack(1);
    assert_eq!(bench.blocks(), [2]);
}

#[test]
fn only_acks_and_errors_mean_anything_to_a_transfer() {
    assert_eq!(Input::from_datagram(b"\0\x04\0\x07\0\0\0"), Some(Input::Ack(7)));
    assert_eq!(Input::from_datagram(b"\0\x05\0\x08"), Some(Input::Error));
    for datagram in [&b""[..], b"\0\x04\0", b"\0\x03\0\x01x", b"\0\x01a\0octet\0", b"\0\x06"] {
        assert_eq!(Input::from_datagram(datagram), None, "{datagram:?}");
    }
}

#[test]
fn time_spent_on_the_disk_is_not_taken_for_a_lost_packet() {
    let mut bench = Bench::plain(5000);
    bench.sent();
    bench.wait(1);
    bench.ack(1);
    bench.sent();
    bench.wait(700);
    let now = bench.now;
    bench.transfer.transmitted(now);
    bench.transfer.handle_timeout(now);
    assert!(bench.sends_nothing());
}
