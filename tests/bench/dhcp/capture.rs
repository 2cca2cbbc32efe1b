//! What a capture says: how long after each REQUEST our ACK was on the wire.

use std::collections::HashMap;
use std::path::Path;
use std::time::Duration;

use crate::messages::{self, ACK, REQUEST};

/// From REQUEST to the ACK of the machine with this hardware address, sorted: for requests that name a server, and for
/// those that do not (INIT-REBOOT). Says of each race that the router won how close it was. The file is classic pcap with
/// microseconds, in this machine's byte order.
pub fn answers(capture: &Path, mac: [u8; 6]) -> [Vec<Duration>; 2] {
    let bytes = std::fs::read(capture).unwrap_or_default();
    let number = |at: usize| bytes.get(at..at + 4).map(|four| u32::from_ne_bytes(four.try_into().unwrap()));
    let mut asked: HashMap<u32, (Duration, usize)> = HashMap::new();
    let mut theirs: HashMap<u32, Duration> = HashMap::new();
    let mut found = [Vec::new(), Vec::new()];
    let mut at = 24;
    while let (Some(seconds), Some(micros), Some(length)) = (number(at), number(at + 4), number(at + 8)) {
        let time = Duration::from_secs(seconds.into()) + Duration::from_micros(micros.into());
        let frame = bytes.get(at + 16..at + 16 + length as usize).unwrap_or_default();
        at += 16 + length as usize;
        // Ethernet, IPv4 without options, UDP.
        let Some(message) = frame.get(42..).filter(|message| message.len() > 240) else { continue };
        let Some(xid) = messages::xid(message) else { continue };
        match messages::kind(message) {
            Some(REQUEST) if message[0] == 1 => {
                let which = usize::from(messages::option(message, 54).is_none());
                asked.entry(xid).or_insert((time, which));
            }
            Some(ACK) if frame.get(6..12) == Some(&mac) => {
                if let Some((begin, which)) = asked.remove(&xid) {
                    let ours = time.saturating_sub(begin);
                    if let Some(theirs) = theirs.get(&xid) {
                        println!("  lost: the router's ACK came after {theirs:?}, ours after {ours:?}");
                    }
                    found[which].push(ours);
                }
            }
            Some(ACK) => {
                if let Some((begin, _)) = asked.get(&xid) {
                    theirs.entry(xid).or_insert(time.saturating_sub(*begin));
                }
            }
            _ => {}
        }
    }
    for (xid, _) in asked {
        if let Some(theirs) = theirs.get(&xid) {
            println!("  lost: the router's ACK came after {theirs:?}, ours not at all");
        }
    }
    found.iter_mut().for_each(|times| times.sort());
    found
}
