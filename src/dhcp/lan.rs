//! What this LAN shows: its other DHCP servers, and which addresses are in use. Pure.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::time::Duration;

use super::heard::{Overheard, Terms};
use crate::api::DhcpServerSeen;
use crate::ids::{MacAddr, UnixTime};

/// A server that was not heard for so long is gone: three rounds of asking, and some.
pub const SERVER_GONE: Duration = Duration::from_secs(35 * 60);

/// The most other servers that are remembered; a LAN with more has other worries.
const MAX_SERVERS: usize = 16;

/// How long the link's answer about an address is good for.
const CHECK_VALID: Duration = Duration::from_secs(60);

/// The most addresses whose check is remembered.
const MAX_CHECKED: usize = 1024;

/// What is known of the LAN, as the service has learnt it.
#[derive(Debug, Default)]
pub struct Lan {
    servers: BTreeMap<Ipv4Addr, Server>,
    checked: BTreeMap<Ipv4Addr, (Option<MacAddr>, UnixTime)>,
}

/// Another DHCP server, as far as it has shown itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Server {
    /// Its server identifier.
    pub server: Ipv4Addr,
    /// The TFTP servers that it hands out.
    pub tftp: Vec<String>,
    /// What else it hands out.
    pub terms: Terms,
    /// The address that it last offered to us.
    pub offered: Option<Ipv4Addr>,
    /// The shortest and the longest time in which it answered our DISCOVERs.
    pub offer_after: Option<(Duration, Duration)>,
    /// Whether it answers DHCPINFORM.
    pub informs: bool,
    /// Whether it answers us as a relay agent.
    pub relays: bool,
    heard: UnixTime,
}

impl Server {
    fn new(server: Ipv4Addr, now: UnixTime) -> Self {
        let (tftp, terms) = (Vec::new(), Terms::default());
        Self { server, tftp, terms, offered: None, offer_after: None, informs: false, relays: false, heard: now }
    }

    /// Says whether anything that people or decisions look at is new.
    fn learn(&mut self, overheard: &Overheard, now: UnixTime) -> bool {
        let matters = |server: &Self| (server.tftp.clone(), server.terms.routers.clone());
        let before = matters(self);
        self.heard = now;
        // NAKs and answers to clients that asked for less carry less; what was seen once stays.
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

    /// Where it points phones, seen from a site whose TFTP servers are `ours`.
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
    /// It hands out neither 66 nor 150.
    Nowhere,
    /// To a TFTP server of this site.
    Here,
    /// To another one.
    Elsewhere,
}

/// What the link says of an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Use {
    /// Nobody has asked lately.
    Unknown,
    /// Nobody answers for it.
    Silent,
    /// This device does.
    By(MacAddr),
}

impl Lan {
    /// Nothing known.
    pub fn new() -> Self {
        Self::default()
    }

    /// Another server spoke. Says whether anything about it is new.
    pub fn heard(&mut self, overheard: &Overheard, now: UnixTime) -> bool {
        if let Some(server) = self.servers.get_mut(&overheard.server) {
            return server.learn(overheard, now);
        }
        if self.servers.len() >= MAX_SERVERS {
            return false;
        }
        let mut server = Server::new(overheard.server, now);
        server.learn(overheard, now);
        self.servers.insert(overheard.server, server);
        true
    }

    /// Forgets servers that have been silent too long and checks that are old. Says whether a server went.
    pub fn forget(&mut self, now: UnixTime) -> bool {
        let before = self.servers.len();
        self.servers.retain(|_, server| now.since(server.heard) < SERVER_GONE);
        self.checked.retain(|_, (_, at)| now.since(*at) < CHECK_VALID);
        self.servers.len() != before
    }

    /// The other servers.
    pub fn servers(&self) -> Vec<DhcpServerSeen> {
        self.servers.values().map(Server::seen).collect()
    }

    /// The other servers with all that is known of them.
    pub fn known(&self) -> impl Iterator<Item = &Server> {
        self.servers.values()
    }

    /// Whether another server is there.
    pub fn has_other_server(&self) -> bool {
        !self.servers.is_empty()
    }

    /// The link was asked about an address.
    pub fn checked(&mut self, address: Ipv4Addr, by: Option<MacAddr>, now: UnixTime) {
        if self.checked.len() >= MAX_CHECKED && !self.checked.contains_key(&address) {
            let oldest = self.checked.iter().min_by_key(|(_, (_, at))| *at).map(|(&address, _)| address);
            oldest.and_then(|address| self.checked.remove(&address));
        }
        self.checked.insert(address, (by, now));
    }

    /// What the link says of an address.
    pub fn usage(&self, address: Ipv4Addr, now: UnixTime) -> Use {
        match self.checked.get(&address) {
            Some((by, at)) if now.since(*at) < CHECK_VALID => by.map_or(Use::Silent, Use::By),
            _ => Use::Unknown,
        }
    }

    /// The system clock was set, by so many seconds.
    pub fn shift(&mut self, seconds: i64) {
        let moved = |time: &mut UnixTime| time.0 = time.0.saturating_add(seconds);
        self.servers.values_mut().for_each(|server| moved(&mut server.heard));
        self.checked.values_mut().for_each(|(_, at)| moved(at));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: UnixTime = UnixTime(1_700_000_000);
    const ROUTER: Ipv4Addr = Ipv4Addr::new(192, 168, 1, 1);

    #[test]
    fn a_server_is_news_once_and_again_when_it_names_other_tftp_servers() {
        let mut lan = Lan::new();
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
        let mut lan = Lan::new();
        let millis = Duration::from_millis;
        let terms = Terms { lease_seconds: Some(3600), routers: vec![ROUTER], ..Terms::default() };
        lan.heard(&Overheard { terms: Some(terms), after: Some(millis(3000)), ..spoke(&[]) }, NOW);
        lan.heard(&Overheard { terms: Some(Terms::default()), after: Some(millis(2)), ..spoke(&[]) }, NOW);
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
            let mut lan = Lan::new();
            lan.heard(&spoke(tftp), NOW);
            let server = lan.known().next().expect("one was heard");
            assert_eq!(server.points(&[Ipv4Addr::new(192, 168, 1, 2)]), points, "{tftp:?}");
        }
    }

    #[test]
    fn a_server_that_fell_silent_is_forgotten() {
        let mut lan = Lan::new();
        lan.heard(&spoke(&[]), NOW);
        assert!(!lan.forget(NOW.plus(SERVER_GONE - Duration::from_secs(1))));
        assert!(lan.forget(NOW.plus(SERVER_GONE)));
        assert!(!lan.has_other_server());
    }

    #[test]
    fn invented_servers_fill_no_memory() {
        let mut lan = Lan::new();
        for number in 0..1000 {
            lan.heard(&Overheard { server: Ipv4Addr::from(number), ..spoke(&[]) }, NOW);
        }
        assert_eq!(lan.servers().len(), MAX_SERVERS);
    }

    #[test]
    fn what_the_link_said_is_good_for_a_minute() {
        let mut lan = Lan::new();
        assert_eq!(lan.usage(ROUTER, NOW), Use::Unknown);
        lan.checked(ROUTER, None, NOW);
        assert_eq!(lan.usage(ROUTER, NOW), Use::Silent);
        assert_eq!(lan.usage(ROUTER, NOW.plus(CHECK_VALID)), Use::Unknown);
    }

    fn spoke(tftp: &[&str]) -> Overheard {
        Overheard {
            server: ROUTER,
            chaddr: MacAddr::new([2, 0, 0, 0, 0, 1]),
            nak: false,
            tftp: tftp.iter().map(|&name| name.to_owned()).collect(),
            address: None,
            terms: None,
            after: None,
            informed: false,
            relayed: false,
        }
    }
}
