//! Whether a device uses an address of a range already: all addresses are asked for by ARP, some at a time. Pure.

use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

/// How many addresses are asked for at a time. The kernel's neighbour table holds a thousand.
const BATCH: usize = 64;
/// How long devices have to answer. On a LAN it takes milliseconds.
const WAIT: Duration = Duration::from_millis(500);

/// The addresses that are not asked for yet, and those that have time to answer.
#[derive(Debug)]
pub(crate) struct RangeProbe {
    left: Vec<Ipv4Addr>,
    asked: Vec<Ipv4Addr>,
    until: Option<Instant>,
}

/// What is to be done next.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum ProbeStep {
    /// Nothing, before the deadline.
    Wait,
    /// Look up who answered, and ask for the next addresses.
    Go {
        /// The addresses whose time to answer is over.
        answered: Vec<Ipv4Addr>,
        /// The addresses to ask for now; none at the end.
        ask: Vec<Ipv4Addr>,
    },
    /// Nothing: all addresses were asked for.
    Done,
}

impl RangeProbe {
    /// A probe of these addresses.
    pub(crate) fn over(addresses: impl IntoIterator<Item = Ipv4Addr>) -> Self {
        let mut left: Vec<Ipv4Addr> = addresses.into_iter().collect();
        left.reverse();
        Self { left, asked: Vec::new(), until: None }
    }

    /// Says what is to be done now.
    pub(crate) fn step(&mut self, now: Instant) -> ProbeStep {
        if self.until.is_some_and(|until| now < until) {
            return ProbeStep::Wait;
        }
        let ask = self.left.split_off(self.left.len().saturating_sub(BATCH));
        let answered = std::mem::replace(&mut self.asked, ask.clone());
        self.until = (!ask.is_empty()).then(|| now + WAIT);
        if answered.is_empty() && ask.is_empty() { ProbeStep::Done } else { ProbeStep::Go { answered, ask } }
    }

    /// When the next step is due.
    pub(crate) const fn deadline(&self) -> Option<Instant> {
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
