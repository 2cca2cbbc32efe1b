//! Whether anybody uses an address of a range already: all of it is asked for by ARP, some at a time. Pure.

use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

/// How many are asked for at a time; the kernel's neighbour table holds a thousand.
const BATCH: usize = 64;
/// How long devices have to answer. On a LAN that takes milliseconds.
const WAIT: Duration = Duration::from_millis(500);

/// A probe of a range.
#[derive(Debug)]
pub struct RangeProbe {
    left: Vec<Ipv4Addr>,
    asked: Vec<Ipv4Addr>,
    until: Option<Instant>,
}

/// What a probe needs next.
#[derive(Debug, PartialEq, Eq)]
pub enum ProbeStep {
    /// Time.
    Wait,
    /// That these have been looked up, if any, and that these are asked for.
    Go {
        /// Whose time to answer is over.
        answered: Vec<Ipv4Addr>,
        /// Who comes next; nobody at the end.
        ask: Vec<Ipv4Addr>,
    },
    /// Nothing more.
    Done,
}

impl RangeProbe {
    /// Over these addresses.
    pub fn over(addresses: impl IntoIterator<Item = Ipv4Addr>) -> Self {
        let mut left: Vec<Ipv4Addr> = addresses.into_iter().collect();
        left.reverse();
        Self { left, asked: Vec::new(), until: None }
    }

    /// The next step.
    pub fn step(&mut self, now: Instant) -> ProbeStep {
        if self.until.is_some_and(|until| now < until) {
            return ProbeStep::Wait;
        }
        let ask = self.left.split_off(self.left.len().saturating_sub(BATCH));
        let answered = std::mem::replace(&mut self.asked, ask.clone());
        self.until = (!ask.is_empty()).then(|| now + WAIT);
        if answered.is_empty() && ask.is_empty() { ProbeStep::Done } else { ProbeStep::Go { answered, ask } }
    }

    /// When the next step is due.
    pub const fn deadline(&self) -> Option<Instant> {
        self.until
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_address_is_asked_for_and_has_its_time_to_answer() {
        let all: Vec<Ipv4Addr> = (0..150_u32).map(Ipv4Addr::from).collect();
        let mut range_probe = RangeProbe::over(all.clone());
        let mut now = Instant::now();
        let (mut asked, mut looked_up) = (Vec::new(), Vec::new());
        loop {
            match range_probe.step(now) {
                ProbeStep::Done => break,
                ProbeStep::Wait => panic!("its time is over"),
                ProbeStep::Go { answered, ask } => {
                    assert!(ask.len() <= BATCH);
                    looked_up.extend(answered);
                    asked.extend(ask);
                    if range_probe.deadline().is_some() {
                        assert_eq!(range_probe.step(now), ProbeStep::Wait);
                    }
                }
            }
            now = range_probe.deadline().unwrap_or(now);
        }
        asked.sort();
        looked_up.sort();
        assert_eq!((&asked, &looked_up), (&all, &all));
        assert_eq!(range_probe.step(now), ProbeStep::Done);
    }
}
