//! The proof that `phones-only` is safe beside the LAN's other servers: we ask them. Pure.
//!
//! We ask in the name of a device that does not exist: our own hardware address with the local bit set. Does a server offer
//! an address of our range? Is it silent when the device selects our offer? Is it silent when the device has a lease from it
//! and then starts with an address of ours? Most servers send a NAK, which would throw phones back to the start. At the end
//! the device gives its lease back.
//!
//! Silence proves nothing where a server is known: it must have answered the device as a client, or it may have missed the
//! questions, or serve only some devices.

use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use dhcproto::v4::MessageType;

use super::heard::ServerMessage;
use super::question::Question;
use ids::MacAddr;

/// How long we wait for an OFFER or ACK: dnsmasq pings for 3 s before its first offer.
const OFFER_WAIT: Duration = Duration::from_millis(4500);
/// How long we wait for a NAK. A server sends it at once.
const NAK_WAIT: Duration = Duration::from_millis(1500);

/// How often the device asks for an address of the other server.
const DISCOVERS: u8 = 3;

/// The questions, one after the other.
///
/// Call [`Self::poll`] at [`Self::deadline`] and send what it asks, in the name of [`Self::mac`]. [`Self::heard`] takes the
/// servers' answers, and at the end there is an [`Self::outcome`].
#[derive(Debug)]
pub struct Proof {
    own: Ipv4Addr,
    mac: MacAddr,
    ours: Ipv4Addr,
    range: (Ipv4Addr, Ipv4Addr),
    /// A server that answers here.
    known: Option<Ipv4Addr>,
    /// How often the device has asked which address there is.
    discovers: u8,
    step: ProofStep,
    until: Option<Instant>,
    offered: Option<TheirLease>,
    bound: Option<TheirLease>,
    /// Whether the other server has leased an address to the device, so that it knows the device.
    was_leased_to: bool,
    outcome: Option<Result<(), String>>,
}

/// An address that another server offered to us or leased to us.
#[derive(Debug, Clone, Copy)]
struct TheirLease {
    address: Ipv4Addr,
    server: Ipv4Addr,
}

/// The question that was asked last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ProofStep {
    /// Which address do you offer?
    Discover,
    /// The device takes our offer.
    SelectUs,
    /// The device takes the other server's offer.
    SelectThem,
    /// The device starts with our address.
    Reboot,
    /// The device gives the other server's lease back.
    GiveBack,
    Done,
}

/// The device in whose name a machine with this hardware address asks.
pub fn device_asked_for(own: MacAddr) -> MacAddr {
    let [first, b, c, d, e, f] = own.octets();
    // A MAC that is local already (virtual machines) gets another last octet instead.
    MacAddr::new(if first & 2 == 0 { [first | 2, b, c, d, e, f] } else { [first, b, c, d, e, f ^ 0x80] })
}

impl Proof {
    /// A proof for a site at `own`, with hardware address `mac` and this range. `ours` is a free address of the range, and
    /// `known` a server that has answered here.
    pub fn new(
        own: Ipv4Addr,
        mac: MacAddr,
        range: (Ipv4Addr, Ipv4Addr),
        ours: Ipv4Addr,
        known: Option<Ipv4Addr>,
    ) -> Self {
        Self {
            own,
            mac: device_asked_for(mac),
            ours,
            range,
            known,
            discovers: 0,
            step: ProofStep::Discover,
            until: None,
            offered: None,
            bound: None,
            was_leased_to: false,
            outcome: None,
        }
    }

    /// The device in whose name we ask.
    pub const fn mac(&self) -> MacAddr {
        self.mac
    }

    /// The next question, if it is due.
    pub fn poll(&mut self, now: Instant) -> Option<Question> {
        if self.until.is_some_and(|until| now < until) {
            return None;
        }
        if self.until.is_some() {
            self.step = match self.step {
                ProofStep::Discover if self.offered.is_none() && self.known.is_some() && self.discovers < DISCOVERS => {
                    ProofStep::Discover
                }
                ProofStep::Discover => ProofStep::SelectUs,
                // Without an offer there is nothing to take.
                ProofStep::SelectUs if self.offered.is_none() => ProofStep::Done,
                ProofStep::SelectUs => ProofStep::SelectThem,
                ProofStep::SelectThem if self.bound.is_none() => ProofStep::Done,
                ProofStep::SelectThem => ProofStep::Reboot,
                ProofStep::Reboot => ProofStep::GiveBack,
                ProofStep::GiveBack | ProofStep::Done => ProofStep::Done,
            };
            if self.outcome.is_some() && self.step != ProofStep::Done {
                self.step = if self.bound.is_some() { ProofStep::GiveBack } else { ProofStep::Done };
            }
        }
        let (question, wait) = match self.step {
            ProofStep::Discover => {
                self.discovers = self.discovers.saturating_add(1);
                (Question::Discover(Some(self.ours)), OFFER_WAIT)
            }
            ProofStep::SelectUs => (Question::Select(self.ours, self.own), NAK_WAIT),
            ProofStep::SelectThem => {
                let TheirLease { address, server } = self.offered?;
                (Question::Select(address, server), NAK_WAIT)
            }
            ProofStep::Reboot => (Question::Reboot(self.ours), NAK_WAIT),
            ProofStep::GiveBack => {
                let TheirLease { address, server } = self.bound.take()?;
                (Question::Release(address, server), Duration::ZERO)
            }
            ProofStep::Done => {
                let outcome = self.outcome_of_silence();
                self.outcome.get_or_insert(outcome);
                return None;
            }
        };
        self.until = Some(now + wait);
        Some(question)
    }

    /// Another server's message was heard.
    pub fn heard(&mut self, message: &ServerMessage, now: Instant) {
        if message.chaddr != self.mac || message.server == self.own {
            return;
        }
        let server = message.server;
        match message.kind {
            MessageType::Offer if self.step == ProofStep::Discover => {
                if (self.range.0..=self.range.1).contains(&message.yiaddr) {
                    self.refuse(format!("the server {server} leases addresses of the range itself"), now);
                }
                self.offered.get_or_insert(TheirLease { address: message.yiaddr, server });
            }
            MessageType::Ack if self.step == ProofStep::SelectThem => {
                self.bound = self.offered;
                self.was_leased_to = true;
                self.until = Some(now);
            }
            MessageType::Nak if self.step == ProofStep::SelectUs => {
                self.refuse(format!("the server {server} sends a NAK to phones that take our lease"), now);
            }
            MessageType::Nak if self.step == ProofStep::Reboot => {
                self.refuse(format!("the server {server} sends a NAK to phones that start again with our lease"), now);
            }
            _ => {}
        }
    }

    /// What it means that no server has objected.
    fn outcome_of_silence(&self) -> Result<(), String> {
        let silent = self.offered.map(|offer| offer.server).or(self.known).filter(|_| !self.was_leased_to);
        silent.map_or(Ok(()), |server| {
            Err(format!("the server {server} did not answer when it was asked whether it objects"))
        })
    }

    fn refuse(&mut self, reason: String, now: Instant) {
        self.outcome.get_or_insert(Err(reason));
        self.until = Some(now);
    }

    /// When [`Self::poll`] has something to do; `None` before the first and after the last question.
    pub fn deadline(&self) -> Option<Instant> {
        self.until.filter(|_| self.step != ProofStep::Done)
    }

    /// Whether `phones-only` is safe, or what speaks against it. `None` until all is asked and given back.
    pub fn outcome(&self) -> Option<&Result<(), String>> {
        self.outcome.as_ref().filter(|_| self.step == ProofStep::Done)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::question;

    const OWN: Ipv4Addr = Ipv4Addr::new(192, 168, 1, 2);
    const ROUTER: Ipv4Addr = Ipv4Addr::new(192, 168, 1, 1);
    const FREE: Ipv4Addr = Ipv4Addr::new(192, 168, 1, 100);
    const THEIRS: Ipv4Addr = Ipv4Addr::new(192, 168, 1, 50);

    #[test]
    fn a_router_that_is_silent_where_it_must_be_passes_and_gets_its_lease_back() {
        let (outcome, asked) = run(|question| match question {
            Question::Discover(_) => Some((MessageType::Offer, THEIRS)),
            Question::Select(THEIRS, ROUTER) => Some((MessageType::Ack, THEIRS)),
            _ => None,
        });
        assert_eq!(outcome, Ok(()));
        assert_eq!(asked.last(), Some(&Question::Release(THEIRS, ROUTER)));
        assert!(asked.contains(&Question::Select(FREE, OWN)) && asked.contains(&Question::Reboot(FREE)));
    }

    #[test]
    fn a_nak_at_the_choice_or_at_the_next_start_refuses() {
        let (outcome, asked) = run(|question| match question {
            Question::Discover(_) => Some((MessageType::Offer, THEIRS)),
            Question::Select(FREE, OWN) => Some((MessageType::Nak, Ipv4Addr::UNSPECIFIED)),
            _ => None,
        });
        assert!(outcome.unwrap_err().contains("take our lease"));
        assert_eq!(asked.len(), 2, "nothing was leased, so nothing is given back");
        let (outcome, asked) = run(|question| match question {
            Question::Discover(_) => Some((MessageType::Offer, THEIRS)),
            Question::Select(THEIRS, ROUTER) => Some((MessageType::Ack, THEIRS)),
            Question::Reboot(_) => Some((MessageType::Nak, Ipv4Addr::UNSPECIFIED)),
            _ => None,
        });
        assert!(outcome.unwrap_err().contains("start again"));
        assert_eq!(asked.last(), Some(&Question::Release(THEIRS, ROUTER)));
    }

    #[test]
    fn a_server_that_leases_from_the_same_range_refuses() {
        let (outcome, _) = run(|question| match question {
            Question::Discover(Some(address)) => Some((MessageType::Offer, address)),
            _ => None,
        });
        assert!(outcome.unwrap_err().contains("of the range itself"));
    }

    #[test]
    fn where_nobody_answers_nothing_disturbs() {
        assert_eq!(run(|_| None).0, Ok(()));
    }

    #[test]
    fn the_silence_of_a_server_that_is_there_proves_nothing() {
        let (outcome, asked) = run_beside(Some(ROUTER), |_| None);
        assert!(outcome.unwrap_err().contains("192.168.1.1 did not answer"));
        assert_eq!(asked.iter().filter(|question| matches!(question, Question::Discover(_))).count(), 3);
        let (outcome, _) = run(|question| match question {
            Question::Discover(_) => Some((MessageType::Offer, THEIRS)),
            _ => None,
        });
        assert!(outcome.unwrap_err().contains("did not answer"), "it offered and then kept quiet");
    }

    fn run(router: impl Fn(Question) -> Option<(MessageType, Ipv4Addr)>) -> (Result<(), String>, Vec<Question>) {
        run_beside(None, router)
    }

    fn run_beside(
        known: Option<Ipv4Addr>,
        router: impl Fn(Question) -> Option<(MessageType, Ipv4Addr)>,
    ) -> (Result<(), String>, Vec<Question>) {
        let mut now = Instant::now();
        let mac = MacAddr::new([0, 4, 0xf2, 0, 0, 1]);
        let mut proof = Proof::new(OWN, mac, (FREE, Ipv4Addr::new(192, 168, 1, 110)), FREE, known);
        assert_ne!(proof.mac(), mac);
        let mut asked = Vec::new();
        for _ in 0..20 {
            if let Some(question) = proof.poll(now) {
                asked.push(question);
                if let Some((kind, yiaddr)) = router(question) {
                    proof.heard(&said(proof.mac(), kind, yiaddr), now);
                }
            }
            if let Some(outcome) = proof.outcome() {
                return (outcome.clone(), asked);
            }
            now = proof.deadline().unwrap_or(now).max(now);
        }
        panic!("no end: {proof:?}");
    }

    fn said(mac: MacAddr, kind: MessageType, yiaddr: Ipv4Addr) -> ServerMessage {
        let mut bytes = question::emit(Question::Release(yiaddr, ROUTER), mac, 1);
        *bytes.get_mut(0).unwrap() = 2;
        *bytes.get_mut(242).unwrap() = kind.into();
        bytes.copy_within(12..16, 16);
        ServerMessage::parse(&bytes).unwrap()
    }
}
