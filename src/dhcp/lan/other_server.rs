//! Another DHCP server, and what it has shown of itself. Pure.

use std::net::Ipv4Addr;
use std::time::Duration;

use super::answers::Answers;
use super::points::{self, Points};
use super::relay_check::Relays;
use crate::heard::{LeaseTerms, Overheard, TftpPointer};
use crate::options::{OptionCode, TFTP_SERVER_NAME, TFTP_SERVERS};
use api::DhcpServerSeen;
use ids::{MacAddr, UnixTime};

/// A router that takes this long for an OFFER does something before it, such as a ping.
pub const SLOW_OFFER: Duration = Duration::from_millis(300);

/// The most differences that words name.
const MAX_DIFFERENCES: usize = 3;

/// Another DHCP server, and what it has shown of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OtherServer {
    /// The server identifier.
    pub server: Ipv4Addr,
    /// The TFTP servers that the server hands out, as its options say them.
    pub tftp: Vec<String>,
    /// The servers that its options mean.
    pub pointers: Vec<TftpPointer>,
    /// What else the server hands out.
    pub terms: LeaseTerms,
    /// The answers that this was learnt from.
    answers: Answers,
    /// The address that the server last offered to us.
    pub offered: Option<Ipv4Addr>,
    /// The shortest and the longest time that the server took to answer our DISCOVERs.
    pub offer_after: Option<(Duration, Duration)>,
    /// Whether the server answers DHCPINFORM.
    pub informs: bool,
    /// Whether the server answers us as a relay agent.
    pub relays: Relays,
    /// Its hardware address, as far as the link has shown it.
    pub mac: Option<MacAddr>,
    /// When it first answered us.
    pub(super) first: UnixTime,
    pub(super) heard: UnixTime,
    /// How many questions in a row the server did not answer.
    pub(super) missed: u8,
}

impl OtherServer {
    pub(super) fn new(server: Ipv4Addr, now: UnixTime) -> Self {
        Self {
            server,
            tftp: Vec::new(),
            pointers: Vec::new(),
            terms: LeaseTerms::default(),
            answers: Answers::default(),
            offered: None,
            offer_after: None,
            informs: false,
            relays: Relays::Unknown,
            mac: None,
            first: now,
            heard: now,
            missed: 0,
        }
    }

    /// Says whether anything that people or decisions look at is new.
    pub(super) fn learn(&mut self, overheard: &Overheard, now: UnixTime) -> bool {
        let matters = |server: &Self| {
            let Self { tftp, pointers, terms, relays, .. } = server;
            // Times count down in some offers.
            let terms = LeaseTerms { lease_seconds: None, renew_seconds: None, rebind_seconds: None, ..terms.clone() };
            (tftp.clone(), pointers.clone(), terms, server.takes(), *relays)
        };
        let before = matters(self);
        self.heard = now;
        self.answers.learn(overheard);
        let said = self.answers.all();
        (self.tftp, self.pointers, self.terms) = (said.tftp, said.pointers, said.terms);
        self.offered = overheard.address.or(self.offered);
        if let Some(after) = overheard.after {
            let (shortest, longest) = self.offer_after.unwrap_or((after, after));
            self.offer_after = Some((shortest.min(after), longest.max(after)));
        }
        self.informs |= overheard.informed;
        if overheard.relayed {
            self.relays = Relays::Answered;
        }
        before != matters(self)
    }

    /// How long the server takes to offer an address to a new client, if it is slow.
    pub fn takes(&self) -> Option<Duration> {
        self.offer_after.map(|(_, longest)| longest).filter(|longest| *longest >= SLOW_OFFER)
    }

    /// Where the server points phones, for a site with these TFTP servers.
    pub fn points(&self, ours: &[Ipv4Addr]) -> Points {
        Points::of(&self.pointers, ours)
    }

    /// The same in words that follow "points phones".
    pub fn points_in_words(&self, ours: &[Ipv4Addr]) -> Option<String> {
        points::words(&self.pointers, ours)
    }

    /// Which phones cannot read where it points them: option 66 holds a URL, and there is no option 150.
    pub fn misread(&self) -> Option<String> {
        let general = |code: OptionCode| self.pointers.iter().any(|pointer| pointer.option == u8::from(code));
        let text = self.tftp.first().filter(|_| general(TFTP_SERVER_NAME) && !general(TFTP_SERVERS))?;
        text.contains(['/', ':']).then(|| {
            format!(
                "option 66 says {text}: Cisco phones read a name or an address there, and no URL; add option 150, or write the \
                 address alone"
            )
        })
    }

    /// Where it sends one vendor's phones before they ask 66 or 150, if that is elsewhere.
    pub fn vendors_elsewhere(&self, ours: &[Ipv4Addr]) -> Vec<String> {
        points::vendors_elsewhere(&self.pointers, ours)
    }

    /// What the two servers do not agree in. A pair that agrees in all but the identifier is one server on two machines, as
    /// people set it up on purpose (failover): whichever answers, a client gets the same.
    pub fn differs_from(&self, other: &Self) -> Option<String> {
        let differences = self.answers.differences(&other.answers);
        let named: Vec<String> = differences
            .iter()
            .take(MAX_DIFFERENCES)
            .map(|(name, mine, theirs)| format!("{name} {mine} or {theirs}"))
            .collect();
        (!named.is_empty()).then(|| format!("{} and {} differ: {}", self.server, other.server, named.join("; ")))
    }

    /// Whether the other server has been seen to answer as this one does.
    pub(super) fn is_partner_of(&self, other: &Self) -> bool {
        self.answers.has_like(&other.answers) && self.differs_from(other).is_none()
    }

    /// Which server it is, where, and since when it answers, for people.
    pub(super) fn answers_in_words(&self) -> String {
        let at = self.mac.map(|mac| format!(" ({mac})")).unwrap_or_default();
        let first = self.first.to_string();
        let since = first.get(..16).map_or_else(|| first.clone(), |minute| format!("{} UTC", minute.replace('T', " ")));
        format!("{}{at} answers DHCP on this LAN since {since}", self.server)
    }

    pub(super) fn seen(&self) -> DhcpServerSeen {
        DhcpServerSeen {
            server: self.server,
            tftp: self.tftp.clone(),
            router: self.terms.routers.first().copied(),
            lease_seconds: self.terms.lease_seconds,
            offer_millis: self.offer_after.and_then(|(shortest, _)| u32::try_from(shortest.as_millis()).ok()),
        }
    }
}

/// A time of a lease as people read it.
pub fn seconds_in_words(seconds: Option<u32>) -> String {
    match seconds {
        None => "none".to_owned(),
        // RFC 2132 §9.2 with RFC 2131 §3.3: all ones are infinity.
        Some(u32::MAX) => "for ever".to_owned(),
        Some(seconds) => format!("{seconds} seconds"),
    }
}
