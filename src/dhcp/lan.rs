//! What this LAN shows: its other DHCP servers, and which addresses are in use. Pure.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::time::Duration;

use super::message::Overheard;
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

#[derive(Debug)]
struct Server {
    tftp: Vec<String>,
    heard: UnixTime,
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
            server.heard = now;
            // NAKs and answers to clients that asked for less carry less; what was seen once stays.
            if overheard.tftp.is_empty() || server.tftp == overheard.tftp {
                return false;
            }
            server.tftp.clone_from(&overheard.tftp);
            return true;
        }
        if self.servers.len() >= MAX_SERVERS {
            return false;
        }
        self.servers.insert(overheard.server, Server { tftp: overheard.tftp.clone(), heard: now });
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
        self.servers.iter().map(|(&server, seen)| DhcpServerSeen { server, tftp: seen.tftp.clone() }).collect()
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
        assert_eq!(lan.servers(), [DhcpServerSeen { server: ROUTER, tftp: vec!["192.168.1.9".to_owned()] }]);
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
        }
    }
}
