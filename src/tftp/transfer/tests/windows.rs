//! RFC 7440.

use super::*;

#[test]
fn a_window_rolls_over_too() {
    let mut bench = Bench::in_window(512 * 70_000, 64);
    let mut last = 64u16;
    while bench.outcome().is_none() {
        bench.ack(last);
        let blocks = bench.blocks();
        if let Some(newest) = blocks.last() {
            assert_eq!(blocks[0], last.wrapping_add(1));
            last = *newest;
        }
    }
    assert_eq!((bench.outcome(), last), (Some(TransferEnd::Delivered), (70_001 % 65_536) as u16));
}

#[test]
fn a_window_leaves_as_one_run_of_bytes() {
    // RFC 7440 §4; one run is one segmented send
    let mut bench = Bench::with(512 * 10 + 7, &[("windowsize", "8")]);
    bench.sent();
    bench.ack(0);
    let first = Run { first: 1, blocks: 8, range: 0..4096, blksize: 512 };
    assert_eq!(bench.sent(), [Transmit::Data(first)]);
    bench.ack(8);
    let last = Run { first: 9, blocks: 3, range: 4096..5127, blksize: 512 };
    let ranges: Vec<_> = last.iter().collect();
    assert_eq!(ranges, [(9, 4096..4608), (10, 4608..5120), (11, 5120..5127)]);
    assert_eq!(last.skip(2), Some(Run { first: 11, blocks: 1, range: 5120..5127, blksize: 512 }));
    assert_eq!(last.skip(3), None);
    assert_eq!(bench.sent(), [Transmit::Data(last)]);
}

#[test]
fn an_ack_inside_the_window_resends_from_the_first_missing_block() {
    // RFC 7440 §4
    let mut bench = Bench::in_window(512 * 100, 8);
    bench.wait(10);
    bench.ack(3);
    assert_eq!(bench.blocks(), (9..=11).collect::<Vec<_>>(), "the window moves at once");
    bench.expire();
    assert_eq!(bench.blocks(), (4..=11).collect::<Vec<_>>());
    assert_eq!(bench.transfer.retransmissions(), 8);
}

#[test]
fn an_ack_inside_the_window_is_no_gap_if_the_rest_arrives() {
    // A client that got block 3 twice says ACK 3 and goes on.
    let mut bench = Bench::in_window(512 * 100, 8);
    bench.wait(10);
    bench.ack(3);
    assert_eq!(bench.blocks(), (9..=11).collect::<Vec<_>>());
    bench.ack(11);
    assert_eq!(bench.blocks(), (12..=19).collect::<Vec<_>>());
    assert_eq!(bench.transfer.retransmissions(), 0);
}

#[test]
fn a_window_is_resent_from_the_first_missing_block_after_a_timeout() {
    let mut bench = Bench::in_window(512 * 100, 8);
    bench.expire();
    assert_eq!(bench.blocks(), (1..=8).collect::<Vec<_>>());
}

#[test]
fn an_ack_of_the_window_before_says_that_the_first_block_is_missing() {
    // RFC 7440 §4: the client acknowledges the last block before the gap.
    let mut bench = Bench::in_window(512 * 100, 8);
    bench.wait(10);
    bench.ack(8);
    assert_eq!(bench.blocks().len(), 8);
    bench.wait(10);
    bench.ack(8);
    assert_eq!(bench.blocks(), (9..=16).collect::<Vec<_>>());
    for _ in 0..20 {
        bench.ack(8);
        assert!(bench.sends_nothing(), "once per flight, not once per ACK");
    }
}

#[test]
fn an_ack_that_the_network_doubled_does_not_double_a_window() {
    // The Sorcerer's Apprentice in windows: the copy comes before the client can have seen the new window.
    let mut bench = Bench::in_window(512 * 100, 8);
    bench.wait(10);
    bench.ack(8);
    assert_eq!(bench.blocks().len(), 8);
    bench.wait(1);
    bench.ack(8);
    assert!(bench.sends_nothing());
}

#[test]
fn echoes_of_blocks_that_were_sent_twice_do_not_double_the_next_window() {
    let mut bench = Bench::in_window(512 * 100, 8);
    bench.expire();
    assert_eq!(bench.blocks().len(), 8);
    bench.ack(8);
    assert_eq!(bench.blocks(), (9..=16).collect::<Vec<_>>());
    for _ in 0..8 {
        bench.wait(50);
        bench.ack(8);
        assert!(bench.sends_nothing());
    }
}
