//! Whether `phones-only` is safe on this LAN: first the range is probed, then the other servers are asked. Pure.

use std::net::Ipv4Addr;
use std::time::Instant;

use tracing::info;

use crate::heard::ServerMessage;
use crate::proof::Proof;
use crate::question::Question;
use crate::range::Range;
use crate::range_probe::{ProbeStep, RangeProbe};
use ids::MacAddr;

/// How far the check has come.
#[derive(Debug)]
pub(super) enum PhonesOnlyCheck {
    /// Nothing was asked yet.
    NotBegun,
    /// All addresses of the range are asked for by ARP.
    ProbingRange(RangeProbe),
    /// Nobody uses an address of the range. Now the other servers are asked.
    AskingServers(Proof),
    /// `phones-only` is safe, or this speaks against it.
    Done(Result<(), String>),
}

/// What a step of the check wants done.
#[derive(Debug, Default)]
pub(super) struct CheckStep {
    /// Ask by ARP for these addresses.
    pub(super) addresses: Vec<Ipv4Addr>,
    /// Ask other servers this, in the name of this device.
    pub(super) question: Option<(Question, MacAddr)>,
}

impl PhonesOnlyCheck {
    /// What came of the check, once it is done.
    pub(super) const fn outcome(&self) -> Option<&Result<(), String>> {
        match self {
            Self::Done(outcome) => Some(outcome),
            Self::NotBegun | Self::ProbingRange(_) | Self::AskingServers(_) => None,
        }
    }

    /// When [`Self::step`] has something to do.
    pub(super) fn deadline(&self) -> Option<Instant> {
        match self {
            Self::ProbingRange(probe) => probe.deadline(),
            Self::AskingServers(proof) => proof.deadline(),
            Self::NotBegun | Self::Done(_) => None,
        }
    }

    /// A new server has shown itself. What was found out about the others says nothing about this one.
    pub(super) fn begin_anew(&mut self) {
        if !matches!(self, Self::ProbingRange(_)) {
            *self = Self::NotBegun;
        }
    }

    /// The range is another one.
    pub(super) fn start_over(&mut self) {
        *self = Self::NotBegun;
    }

    /// Another server's message was heard.
    pub(super) fn heard(&mut self, message: &ServerMessage, now: Instant) {
        if let Self::AskingServers(proof) = self {
            proof.heard(message, now);
        }
    }

    /// Goes on, for a server at `own` that would lease from this range. `in_use` says which other device uses an address,
    /// `server` is a server that is known to answer here.
    pub(super) fn step(
        &mut self,
        own: (Ipv4Addr, MacAddr),
        range: &Range,
        (in_use, server): (&dyn Fn(Ipv4Addr) -> Option<MacAddr>, Option<Ipv4Addr>),
        now: Instant,
    ) -> CheckStep {
        let mut wants = CheckStep::default();
        if matches!(self, Self::NotBegun) {
            *self = Self::ProbingRange(RangeProbe::over(range.usable()));
        }
        if let Self::ProbingRange(probe) = self {
            match probe.step(now) {
                ProbeStep::Wait => return wants,
                ProbeStep::Go { answered, ask } => {
                    wants.addresses = ask;
                    let used = answered.into_iter().find_map(|address| Some((address, in_use(address)?)));
                    if let Some((address, mac)) = used {
                        self.finish(Err(format!("{address} of the range is in use by {mac}")));
                    }
                    return wants;
                }
                ProbeStep::Done => {
                    let (address, mac) = own;
                    let (first, last) = range.ends();
                    let ours = range.first_free().unwrap_or(first);
                    *self = Self::AskingServers(Proof::new(address, mac, (first, last), ours, server));
                }
            }
        }
        if let Self::AskingServers(proof) = self {
            wants.question = proof.poll(now).map(|question| (question, proof.mac()));
            if let Some(outcome) = proof.outcome().cloned() {
                self.finish(outcome);
            }
        }
        wants
    }

    /// Ends the check.
    pub(super) fn finish(&mut self, outcome: Result<(), String>) {
        info!(safe = outcome.is_ok(), "whether phones-only is safe here has been found out");
        *self = Self::Done(outcome);
    }
}
