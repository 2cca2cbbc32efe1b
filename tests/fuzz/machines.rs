//! A sequence of events through the machines of one transfer and one upload.
#![no_main]

use std::time::{Duration, Instant};

use libfuzzer_sys::fuzz_target;
use tftp::options::{AskedOptions, NegotiatedOptions, OptionLimits};
use tftp::packet::RequestOption;
use tftp::{receive, transfer};

fuzz_target!(|input: &[u8]| {
    let Some((head, events)) = input.split_first_chunk::<8>() else { return };
    let [blksize_high, blksize_low, window, timeout, a, b, c, which] = *head;
    let blksize = u16::from_be_bytes([blksize_high, blksize_low]).to_string();
    let (window, timeout) = (window.to_string(), timeout.to_string());
    let asked: Vec<RequestOption<'_>> = [("blksize", &blksize), ("windowsize", &window), ("timeout", &timeout)]
        .into_iter()
        .enumerate()
        .filter(|(index, _)| which & 1 << index != 0)
        .map(|(_, (name, value))| RequestOption { name: name.as_bytes(), value: value.as_bytes() })
        .collect();
    let length = u64::from(u32::from_be_bytes([0, a, b, c]));
    read(length, &NegotiatedOptions::negotiate(&AskedOptions::of(&asked), length, &OptionLimits::new(1500, None, None)), events);
    write(&NegotiatedOptions::negotiate(&AskedOptions::of(&asked), 0, &OptionLimits::new(1500, None, Some(1))), events);
});

fn read(length: u64, options: &NegotiatedOptions, events: &[u8]) {
    let mut now = Instant::now();
    let start = now;
    let mut machine = transfer::Transfer::new(length, options, now);
    let mut events = events.chunks_exact(4);
    let mut silent = 0;
    while machine.outcome().is_none() {
        while let Some(transmit) = machine.poll_transmit() {
            let transfer::Transmit::Data(run) = transmit else { continue };
            assert!(run.blocks >= 1 && run.blocks <= options.windowsize && run.range.end <= length);
            assert!(run.range.end - machine.lowest_needed() <= u64::from(options.windowsize) * u64::from(options.blksize));
        }
        match events.next() {
            Some(&[kind, wait, high, low]) => {
                now += Duration::from_millis(u64::from(wait) * 7);
                let block = u16::from_be_bytes([high, low]);
                match kind % 8 {
                    0..=4 => machine.handle(transfer::Input::Ack(block), now),
                    5 => machine.handle(transfer::Input::Repeated, now),
                    6 => drop(machine.handle_stranger(&[0, 4, high, low])),
                    _ => machine.handle_timeout(now),
                }
            }
            _ => {
                now = now.max(machine.poll_timeout().expect("a deadline"));
                machine.handle_timeout(now);
                silent += 1;
                assert!(silent <= 16, "it does not end");
            }
        }
    }
    assert!(machine.bytes_acked() <= length);
    assert!(now - start <= transfer::MAX_DURATION + Duration::from_secs(600));
    while machine.poll_transmit().is_some() {}
}

fn write(options: &NegotiatedOptions, events: &[u8]) {
    const LIMIT: usize = 5000;
    let mut now = Instant::now();
    let mut machine = receive::Receive::new(None, LIMIT, options, now);
    let mut events = events.chunks_exact(4);
    let mut silent = 0;
    while machine.outcome().is_none() {
        let mut said = 0;
        while machine.poll_transmit().is_some() {
            said += 1;
        }
        assert!(said <= 1);
        if let Some(text) = machine.complete() {
            assert!(text.len() <= LIMIT);
            machine.kept(text.len() % 3 != 0, now);
            continue;
        }
        match events.next() {
            Some(&[kind, wait, high, low]) => {
                now += Duration::from_millis(u64::from(wait) * 7);
                let bytes = vec![low; usize::from(options.blksize) - usize::from(kind & 8 != 0)];
                match kind % 8 {
                    0..=4 => machine
                        .handle(receive::Input::Data { block: u16::from_be_bytes([high, low]), bytes: &bytes }, now),
                    5 => machine.handle(receive::Input::Repeated, now),
                    _ => machine.handle_timeout(now),
                }
            }
            _ => {
                now = now.max(machine.poll_timeout().expect("a deadline"));
                machine.handle_timeout(now);
                silent += 1;
                assert!(silent <= 8, "it does not end");
            }
        }
    }
}
