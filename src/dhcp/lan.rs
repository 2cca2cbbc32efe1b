//! What the LAN shows: its other DHCP servers, and which addresses are in use. Pure.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::time::Duration;

use super::heard::{LeaseTerms, Overheard};
use super::range::MAX_RANGE;
use api::DhcpServerSeen;
use ids::{MacAddr, UnixTime};

/// A router that takes this long for an OFFER does something before it, such as a ping.
pub const SLOW_OFFER: Duration = Duration::from_millis(300);

/// A server that was not heard for so long is gone. It has missed three questions by then.
pub const SERVER_GONE: Duration = Duration::from_secs(35 * 60);

/// The most other servers that are remembered.
const MAX_SERVERS: usize = 16;

/// How long a server may take to answer. Some ping for 3 s first.
const ANSWER_WITHIN: Duration = Duration::from_secs(8);

/// A server that missed so many questions is gone, if another server answers.
const MAX_MISSED: u8 = 3;

/// A device that speaks as a server for longer than this does so on purpose.
const LASTING: Duration = Duration::from_secs(5);

/// How long an answer to ARP is good for. A device that takes an address announces it (RFC 5227 §2.3), or asks for the
/// addresses of others, and we hear that at once. A device that was cut off from us when it took the address, behind a switch
/// without a cable, is found only by the next question.
const CHECK_VALID: Duration = Duration::from_secs(15 * 60);

/// How old an answer is when we ask for the address again.
const CHECK_AGAIN: Duration = Duration::from_secs(10 * 60);

/// The most addresses whose answer is remembered: a range.
const MAX_CHECKED: usize = MAX_RANGE as usize;

/// What has been learnt of the LAN.
///
/// Its methods are of two kinds. *Other servers*: [`Self::heard`] and [`Self::asked`] for what happens,
/// [`Self::forget`] as time goes by, [`Self::known`], [`Self::servers`], [`Self::strangers`] and [`Self::is_unsure`] for
/// what follows from it. *Addresses*: [`Self::checked`] for an answer to ARP, [`Self::unchecked`] and
/// [`Self::forget_checks`] when answers no longer count, [`Self::usage`], [`Self::silent`] and [`Self::is_due`] for what
/// follows.
#[derive(Debug, Default)]
pub struct LanView {
    servers: BTreeMap<Ipv4Addr, OtherServer>,
    /// The devices that speak as servers to others and have never answered us.
    strangers: BTreeMap<Ipv4Addr, UnconfirmedServer>,
    /// When all servers were last asked.
    asked: Option<UnixTime>,
    checked: BTreeMap<Ipv4Addr, ArpAnswer>,
}

/// What ARP said of an address.
#[derive(Debug, Clone, Copy)]
struct ArpAnswer {
    /// The device that answered.
    by: Option<MacAddr>,
    at: UnixTime,
}

impl ArpAnswer {
    fn is_valid(self, now: UnixTime) -> bool {
        now.since(self.at) < CHECK_VALID
    }
}

/// A device that speaks as a server to others. Any device can do that.
#[derive(Debug)]
struct UnconfirmedServer {
    first: UnixTime,
    last: UnixTime,
    told: bool,
}

/// Another DHCP server, and what it has shown of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OtherServer {
    /// The server identifier.
    pub server: Ipv4Addr,
    /// The TFTP servers that the server hands out.
    pub tftp: Vec<String>,
    /// What else the server hands out.
    pub terms: LeaseTerms,
    /// The address that the server last offered to us.
    pub offered: Option<Ipv4Addr>,
    /// The shortest and the longest time that the server took to answer our DISCOVERs.
    pub offer_after: Option<(Duration, Duration)>,
    /// Whether the server answers DHCPINFORM.
    pub informs: bool,
    /// Whether the server answers us as a relay agent.
    pub relays: bool,
    heard: UnixTime,
    /// How many questions in a row the server did not answer.
    missed: u8,
}

impl OtherServer {
    fn new(server: Ipv4Addr, now: UnixTime) -> Self {
        let (tftp, terms) = (Vec::new(), LeaseTerms::default());
        Self {
            server,
            tftp,
            terms,
            offered: None,
            offer_after: None,
            informs: false,
            relays: false,
            heard: now,
            missed: 0,
        }
    }

    /// Says whether anything that people or decisions look at is new.
    fn learn(&mut self, overheard: &Overheard, now: UnixTime) -> bool {
        let matters = |server: &Self| (server.tftp.clone(), server.terms.routers.clone(), server.takes());
        let before = matters(self);
        self.heard = now;
        // A NAK, or an answer to a client that asked for less, holds less. What was seen once stays.
        if !overheard.tftp.is_empty() {
            self.tftp.clone_from(&overheard.tftp);
        }
        if let Some(terms) = &overheard.terms {
            self.terms.learn(terms);
        }
        self.offered = overheard.address.or(self.offered);
        if let Some(after) = overheard.after {
            let (shortest, longest) = self.offer_after.unwrap_or((after, after));
            self.offer_after = Some((shortest.min(after), longest.max(after)));
        }
        self.informs |= overheard.informed;
        self.relays |= overheard.relayed;
        before != matters(self)
    }

    /// How long the server takes to offer an address to a new client, if it is slow.
    pub fn takes(&self) -> Option<Duration> {
        self.offer_after.map(|(_, longest)| longest).filter(|longest| *longest >= SLOW_OFFER)
    }

    /// Where the server points phones, for a site with these TFTP servers.
    pub fn points(&self, ours: &[Ipv4Addr]) -> Points {
        match self.tftp.first() {
            None => Points::Nowhere,
            Some(_) if self.tftp.iter().any(|name| ours.iter().any(|our| our.to_string() == *name)) => Points::Here,
            Some(_) => Points::Elsewhere,
        }
    }

    fn seen(&self) -> DhcpServerSeen {
        DhcpServerSeen {
            server: self.server,
            tftp: self.tftp.clone(),
            router: self.terms.routers.first().copied(),
            lease_seconds: self.terms.lease_seconds,
            offer_millis: self.offer_after.and_then(|(shortest, _)| u32::try_from(shortest.as_millis()).ok()),
        }
    }
}

/// Where a server points phones.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Points {
    /// The server hands out neither option 66 nor 150.
    Nowhere,
    /// It points phones to a TFTP server of this site.
    Here,
    /// It points phones to another TFTP server.
    Elsewhere,
}

/// Whether a device uses an address, according to ARP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AddressUse {
    /// Nobody has asked for the address lately.
    Unknown,
    /// Nobody answers for the address.
    Silent,
    /// This device answers for the address.
    By(MacAddr),
}

impl LanView {
    /// A LAN of which nothing is known.
    pub fn new() -> Self {
        Self::default()
    }

    /// Another server spoke. Says whether anything about it is new.
    ///
    /// A server is known only once it answers us, and only its answers to us are learnt: on a LAN anybody can say anything to
    /// others. A device that speaks as a server to others is asked.
    pub fn heard(&mut self, overheard: &Overheard, now: UnixTime) -> bool {
        let address = overheard.server;
        if let Some(server) = self.servers.get_mut(&address) {
            server.heard = now;
            if overheard.asked {
                server.missed = 0;
                return server.learn(overheard, now);
            }
            return false;
        }
        if !overheard.asked {
            if self.strangers.len() < MAX_SERVERS || self.strangers.contains_key(&address) {
                let stranger = self.strangers.entry(address);
                stranger.or_insert(UnconfirmedServer { first: now, last: now, told: false }).last = now;
            }
            return false;
        }
        if self.servers.len() >= MAX_SERVERS {
            return false;
        }
        self.strangers.remove(&address);
        let mut server = OtherServer::new(address, now);
        server.learn(overheard, now);
        self.servers.insert(address, server);
        true
    }

    /// All servers have been asked. A server that has not answered the last questions is gone, if another server answers: it
    /// is a router that was replaced. Says whether a server is gone.
    pub fn asked(&mut self, now: UnixTime) -> bool {
        let before = self.asked.replace(now).unwrap_or(now);
        if now.since(before) < ANSWER_WITHIN {
            return false;
        }
        for server in self.servers.values_mut() {
            server.missed = if server.heard < before { server.missed.saturating_add(1) } else { 0 };
        }
        let count = self.servers.len();
        if self.servers.values().any(|server| server.missed == 0) {
            self.servers.retain(|_, server| server.missed < MAX_MISSED);
        }
        self.servers.len() != count
    }

    /// Whether other servers are to be asked soon.
    pub fn is_unsure(&self) -> bool {
        let missing = |server: &OtherServer| server.missed > 0;
        let some_answer = self.servers.values().any(|server| !missing(server));
        (some_answer && self.servers.values().any(missing))
            || self.strangers.values().any(|stranger| self.asked.is_none_or(|asked| stranger.last >= asked))
    }

    /// The devices that have spoken as servers for a while and never answered us. Each is named once.
    pub fn strangers(&mut self, now: UnixTime) -> Vec<Ipv4Addr> {
        self.strangers.retain(|_, stranger| now.since(stranger.last) < SERVER_GONE);
        let lasting = self.strangers.iter_mut().filter(|(_, stranger)| {
            !stranger.told
                && stranger.last.since(stranger.first) >= LASTING
                && now.since(stranger.last) >= ANSWER_WITHIN
        });
        lasting
            .map(|(address, stranger)| {
                stranger.told = true;
                *address
            })
            .collect()
    }

    /// Forgets servers that have been silent for too long, and old answers to ARP. Says whether a server is gone.
    pub fn forget(&mut self, now: UnixTime) -> bool {
        let before = self.servers.len();
        self.servers.retain(|_, server| now.since(server.heard) < SERVER_GONE);
        self.checked.retain(|_, answer| answer.is_valid(now));
        self.servers.len() != before
    }

    /// The other servers, for reports.
    pub fn servers(&self) -> Vec<DhcpServerSeen> {
        self.servers.values().map(OtherServer::seen).collect()
    }

    /// The other servers, with all that is known of them.
    pub fn known(&self) -> impl Iterator<Item = &OtherServer> {
        self.servers.values()
    }

    /// Whether there is another server.
    pub fn has_other_server(&self) -> bool {
        !self.servers.is_empty()
    }

    /// An address was asked for by ARP, and this device answered, or nobody.
    pub fn checked(&mut self, address: Ipv4Addr, by: Option<MacAddr>, now: UnixTime) {
        if self.checked.len() >= MAX_CHECKED && !self.checked.contains_key(&address) {
            let oldest = self.checked.iter().min_by_key(|(_, answer)| answer.at).map(|(&address, _)| address);
            oldest.and_then(|address| self.checked.remove(&address));
        }
        self.checked.insert(address, ArpAnswer { by, at: now });
    }

    /// Whether a device uses an address.
    pub fn usage(&self, address: Ipv4Addr, now: UnixTime) -> AddressUse {
        match self.checked.get(&address) {
            Some(answer) if answer.is_valid(now) => answer.by.map_or(AddressUse::Silent, AddressUse::By),
            _ => AddressUse::Unknown,
        }
    }

    /// Whether an address is to be asked for, so that the answer is there when a client wants the address.
    pub fn is_due(&self, address: Ipv4Addr, now: UnixTime) -> bool {
        self.checked.get(&address).is_none_or(|answer| now.since(answer.at) >= CHECK_AGAIN)
    }

    /// The answer for this address no longer counts: a client has got the address.
    pub fn unchecked(&mut self, address: Ipv4Addr) {
        self.checked.remove(&address);
    }

    /// No answer counts any more: the link was down, and may lead elsewhere now.
    pub fn forget_checks(&mut self) {
        self.checked.clear();
    }

    /// The addresses that nobody answers for.
    pub fn silent(&self, now: UnixTime) -> impl Iterator<Item = Ipv4Addr> {
        let silent = self.checked.iter().filter(move |(_, answer)| answer.by.is_none() && answer.is_valid(now));
        silent.map(|(address, _)| *address)
    }

    /// The system clock was set, by so many seconds.
    pub fn shift(&mut self, seconds: i64) {
        let moved = |time: &mut UnixTime| time.0 = time.0.saturating_add(seconds);
        self.servers.values_mut().for_each(|server| moved(&mut server.heard));
        self.checked.values_mut().for_each(|answer| moved(&mut answer.at));
        self.strangers.values_mut().for_each(|stranger| {
            moved(&mut stranger.first);
            moved(&mut stranger.last);
        });
        self.asked.iter_mut().for_each(moved);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: UnixTime = UnixTime(1_700_000_000);
    const ROUTER: Ipv4Addr = Ipv4Addr::new(192, 168, 1, 1);

    #[test]
    fn a_server_is_news_once_and_again_when_it_names_other_tftp_servers() {
        let mut lan = LanView::new();
        assert!(lan.heard(&spoke(&[]), NOW));
        assert!(!lan.heard(&spoke(&[]), NOW));
        assert!(lan.heard(&spoke(&["192.168.1.9"]), NOW));
        assert!(!lan.heard(&spoke(&[]), NOW));
        let servers = lan.servers();
        let first = servers.first().expect("one was heard");
        assert_eq!((servers.len(), first.server, first.tftp.as_slice()), (1, ROUTER, &["192.168.1.9".to_owned()][..]));
    }

    #[test]
    fn what_a_server_hands_out_and_how_fast_it_answers_is_learnt_bit_by_bit() {
        let mut lan = LanView::new();
        let millis = Duration::from_millis;
        let terms = LeaseTerms { lease_seconds: Some(3600), routers: vec![ROUTER], ..LeaseTerms::default() };
        lan.heard(&Overheard { terms: Some(terms), after: Some(millis(3000)), ..spoke(&[]) }, NOW);
        lan.heard(&Overheard { terms: Some(LeaseTerms::default()), after: Some(millis(2)), ..spoke(&[]) }, NOW);
        lan.heard(&Overheard { informed: true, ..spoke(&[]) }, NOW);
        lan.heard(&Overheard { relayed: true, ..spoke(&[]) }, NOW);
        let server = lan.known().next().expect("one was heard");
        assert_eq!((server.terms.lease_seconds, server.terms.routers.as_slice()), (Some(3600), &[ROUTER][..]));
        assert_eq!(server.offer_after, Some((millis(2), millis(3000))));
        assert!(server.informs && server.relays);
        assert_eq!(lan.servers().first().and_then(|seen| seen.offer_millis), Some(2));
    }

    #[test]
    fn a_server_points_here_elsewhere_or_nowhere() {
        for (tftp, points) in
            [(&[][..], Points::Nowhere), (&["192.168.1.2"], Points::Here), (&["192.168.1.9"], Points::Elsewhere)]
        {
            let mut lan = LanView::new();
            lan.heard(&spoke(tftp), NOW);
            let server = lan.known().next().expect("one was heard");
            assert_eq!(server.points(&[Ipv4Addr::new(192, 168, 1, 2)]), points, "{tftp:?}");
        }
    }

    #[test]
    fn a_server_that_fell_silent_is_forgotten() {
        let mut lan = LanView::new();
        lan.heard(&spoke(&[]), NOW);
        assert!(!lan.forget(NOW.plus(SERVER_GONE - Duration::from_secs(1))));
        assert!(lan.forget(NOW.plus(SERVER_GONE)));
        assert!(!lan.has_other_server());
    }

    #[test]
    fn invented_servers_fill_no_memory() {
        let mut lan = LanView::new();
        for number in 0..1000 {
            lan.heard(&Overheard { server: Ipv4Addr::from(number), ..spoke(&[]) }, NOW);
        }
        assert_eq!(lan.servers().len(), MAX_SERVERS);
    }

    #[test]
    fn who_speaks_to_others_only_is_no_server_but_reason_to_ask_and_in_the_end_to_tell() {
        let mut lan = LanView::new();
        lan.asked(NOW);
        let said = Overheard { asked: false, ..spoke(&["10.0.0.9"]) };
        let later = |seconds| NOW.plus(Duration::from_secs(seconds));
        assert!(!lan.is_unsure());
        assert!(!lan.heard(&said, later(1)));
        assert!(lan.is_unsure() && !lan.has_other_server());
        lan.asked(later(10));
        assert!(!lan.is_unsure() && lan.strangers(later(20)).is_empty(), "once may be an accident");
        lan.heard(&said, later(30));
        lan.asked(later(31));
        assert_eq!((lan.strangers(later(40)), lan.strangers(later(55))), (vec![ROUTER], vec![]));
        // It answers after all: a server, and what it told others is not what it told us.
        assert!(lan.heard(&spoke(&[]), later(60)));
        assert!(!lan.heard(&said, later(61)));
        assert_eq!(lan.known().next().map(|server| server.tftp.len()), Some(0));
        for number in 0..1000 {
            lan.heard(&Overheard { server: Ipv4Addr::from(number), ..said.clone() }, later(62));
        }
        assert!(lan.servers().len() == 1 && lan.strangers.len() <= MAX_SERVERS);
    }

    #[test]
    fn a_router_that_another_has_replaced_is_gone_within_half_a_minute() {
        let mut lan = LanView::new();
        let later = |seconds| NOW.plus(Duration::from_secs(seconds));
        let new = Overheard { server: Ipv4Addr::new(192, 168, 1, 254), ..spoke(&[]) };
        lan.heard(&spoke(&[]), NOW);
        // Alone, it may be away for a while.
        for seconds in [10, 20, 30, 40, 50] {
            assert!(!lan.asked(later(seconds)));
        }
        lan.heard(&spoke(&[]), later(51));
        assert!(!lan.asked(later(60)));
        let gone: Vec<bool> = (7..12)
            .map(|round| {
                lan.heard(&new, later(round * 10 - 5));
                lan.asked(later(round * 10))
            })
            .collect();
        assert_eq!(gone.iter().filter(|gone| **gone).count(), 1, "{gone:?}");
        assert_eq!(lan.servers().len(), 1);
        assert!(!lan.is_unsure());
    }

    #[test]
    fn what_the_link_said_is_good_for_a_while_and_asked_for_again_before_that_is_over() {
        let mut lan = LanView::new();
        assert_eq!(lan.usage(ROUTER, NOW), AddressUse::Unknown);
        assert!(lan.is_due(ROUTER, NOW));
        lan.checked(ROUTER, None, NOW);
        assert_eq!(lan.usage(ROUTER, NOW), AddressUse::Silent);
        assert!(!lan.is_due(ROUTER, NOW) && lan.is_due(ROUTER, NOW.plus(CHECK_AGAIN)));
        assert_eq!(lan.usage(ROUTER, NOW.plus(CHECK_AGAIN)), AddressUse::Silent);
        assert_eq!(lan.usage(ROUTER, NOW.plus(CHECK_VALID)), AddressUse::Unknown);
    }

    fn spoke(tftp: &[&str]) -> Overheard {
        Overheard::answer(ROUTER, MacAddr::new([2, 0, 0, 0, 0, 1]), tftp)
    }
}
