//! What holds whatever a client does.

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

#[derive(Debug, Clone)]
enum Step {
    /// An ACK so far from the last block that was acknowledged.
    Ack(i32),
    Error,
    Repeated,
    Wait(u64),
    Expire,
    Late(u64),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => (-3..70i32).prop_map(Step::Ack),
        2 => any::<i16>().prop_map(|far| Step::Ack(far.into())),
        1 => Just(Step::Repeated),
        3 => (0..2000u64).prop_map(Step::Wait),
        3 => Just(Step::Expire),
        1 => (0..2000u64).prop_map(Step::Late),
        1 => prop::bool::weighted(0.05).prop_map(|ends| if ends { Step::Error } else { Step::Expire }),
    ]
}

proptest! {
    #[test]
    fn every_run_lies_in_the_window_and_every_wait_ends(
        len in 0..3_000_000u64, blksize in 8..1468u16, windowsize in 1..=64u16, seconds in 0..6u64,
        steps in vec(step(), 0..300),
    ) {
        let timeout = (seconds > 0).then(|| Duration::from_secs(seconds));
        let oack = (windowsize > 1 || timeout.is_some()).then(|| Box::from(&b"\0\x06"[..]));
        let terms = NegotiatedOptions { blksize, windowsize, timeout, oack };
        let mut now = epoch();
        let mut transfer = Transfer::new(len, &terms, now);
        let (mut acked, mut unproven, mut in_vain) = (0u64, 0, 0);
        for step in steps {
            match step {
                Step::Ack(offset) => {
                    let number = i64::try_from(acked).unwrap() + i64::from(offset);
                    transfer.handle(Input::Ack(number.rem_euclid(65_536) as u16), now);
                }
                Step::Error => transfer.handle(Input::Error, now),
                Step::Repeated => transfer.handle(Input::Repeated, now),
                Step::Wait(millis) => {
                    now += Duration::from_millis(millis);
                    transfer.handle_timeout(now);
                }
                Step::Expire => {
                    now = transfer.poll_timeout().unwrap_or(now).max(now);
                    transfer.handle_timeout(now);
                }
                Step::Late(millis) => {
                    now += Duration::from_millis(millis);
                    transfer.transmitted(now);
                }
            }
            let before = acked;
            acked = transfer.bytes_acked().div_ceil(u64::from(blksize));
            prop_assert!(acked >= before);
            if acked > before {
                in_vain = 0;
            }
            while let Some(transmit) = transfer.poll_transmit() {
                unproven += u32::from(transfer.proven_at().is_none());
                let Transmit::Data(run) = transmit else { continue };
                in_vain += 1;
                let first = run.range.start / u64::from(blksize) + 1;
                prop_assert_eq!(u64::from(run.first), first % 65_536);
                prop_assert!(run.blocks >= 1 && run.blocks <= windowsize);
                prop_assert!(run.range.start >= transfer.lowest_needed() && run.range.end <= len);
                let bytes: u64 = run.iter().map(|(_, range)| range.end - range.start).sum();
                prop_assert_eq!(bytes, run.range.end - run.range.start);
                // Only the very last block may be short.
                prop_assert!(run.range.end == len || bytes == u64::from(run.blocks) * u64::from(blksize));
            }
            prop_assert!(unproven <= 1 + MAX_UNPROVEN_RESENDS, "{} packets to who knows whom", unproven);
            // The first time, the new end of a moved window, one suspected gap, and the resends.
            prop_assert!(in_vain <= 3 + MAX_RESENDS, "{} runs without progress", in_vain);
            prop_assert_eq!(transfer.poll_timeout().is_none(), transfer.outcome().is_some());
            prop_assert!(transfer.outcome() != Some(TransferEnd::Delivered) || transfer.bytes_acked() == len);
        }
        let mut waits = 0;
        while let Some(due) = transfer.poll_timeout() {
            waits += 1;
            prop_assert!(waits < 10);
            transfer.handle_timeout(due);
            while transfer.poll_transmit().is_some() {}
        }
    }
}
