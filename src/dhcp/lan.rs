//! What the LAN shows: its other DHCP servers, and which addresses are in use. Pure.
//!
//! Read `other_server` (one server), `answers` (what it answers, and whether two agree), `points` (where it points phones),
//! `resolved_names` (what names in that mean), `relay_check` (whether it answers relay agents), `server_path` (how to reach
//! it), then [`LanView`].

mod answers;
mod other_server;
pub mod points;
mod relay_check;
mod resolved_names;
mod server_path;

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::time::Duration;

pub use self::other_server::{OtherServer, SLOW_OFFER, seconds_in_words};
pub use self::points::Points;
pub use self::relay_check::{RelayCheck, Relays};
use self::resolved_names::ResolvedNames;
pub use self::server_path::ServerPath;
use self::server_path::ServerPaths;
use super::heard::{Host, Overheard, TftpPointer};
use super::range::MAX_RANGE;
use api::DhcpServerSeen;
use ids::{MacAddr, UnixTime};

/// A server that was not heard for so long is gone. It has missed three questions by then.
pub const SERVER_GONE: Duration = Duration::from_secs(35 * 60);

/// The most other servers that are remembered.
const MAX_SERVERS: usize = 16;

/// A server that has left every question unanswered for so long is gone, where that decides on whether we lease. A router
/// that restarts is back by then.
pub const SILENT_FOR: Duration = Duration::from_secs(10 * 60);

/// So many questions it must have left unanswered meanwhile.
const SILENT_TO: u8 = 5;

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
/// Its methods are of two kinds. *Other servers*: [`Self::heard`], [`Self::chose`], [`Self::asked`] and
/// [`Self::unplugged`] for what happens, [`Self::forget`] and [`Self::forget_silent`] as time goes by, [`Self::known`], [`Self::servers`], [`Self::strangers`] and [`Self::is_unsure`] for
/// what follows from it. *Addresses*: [`Self::checked`] for an answer to ARP, [`Self::unchecked`] and
/// [`Self::forget_checks`] when answers no longer count, [`Self::usage`], [`Self::silent`] and [`Self::is_due`] for what
/// follows.
#[derive(Debug, Default)]
pub struct LanView {
    servers: BTreeMap<Ipv4Addr, OtherServer>,
    /// The devices that speak as servers to others and have never answered us.
    strangers: BTreeMap<Ipv4Addr, UnconfirmedServer>,
    /// Those whose messages cannot be read, by the address that they send from, and when each was last heard.
    unreadable: BTreeMap<Ipv4Addr, UnixTime>,
    /// Those whose offers clients take, and when one last did. A router that serves known devices alone, in frames of their
    /// own, shows in nothing else.
    chosen: BTreeMap<Ipv4Addr, UnixTime>,
    /// What the names mean that servers point phones to.
    names: ResolvedNames,
    /// How to reach servers that name an address of another network.
    paths: ServerPaths,
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
        if !overheard.readable {
            return self.heard_unreadable(address, now);
        }
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
        self.unreadable.remove(&address);
        self.chosen.remove(&address);
        let mut server = OtherServer::new(address, now);
        server.learn(overheard, now);
        self.servers.insert(address, server);
        true
    }

    /// A BOOTREPLY that cannot be read shows that somebody is there, and nothing else. A server that is known may say
    /// something now and then that we cannot read.
    fn heard_unreadable(&mut self, address: Ipv4Addr, now: UnixTime) -> bool {
        if let Some(server) = self.servers.get_mut(&address) {
            server.heard = now;
            return false;
        }
        let is_new = !self.unreadable.contains_key(&address);
        if is_new && self.unreadable.len() >= MAX_SERVERS {
            return false;
        }
        self.unreadable.insert(address, now);
        is_new
    }

    /// A client of this LAN took an offer of this server. Says whether that is new: a server that is known shows anyway.
    pub fn chose(&mut self, server: Ipv4Addr, now: UnixTime) -> bool {
        let is_new = !self.chosen.contains_key(&server);
        if self.servers.contains_key(&server) || (is_new && self.chosen.len() >= MAX_SERVERS) {
            return false;
        }
        self.chosen.insert(server, now);
        is_new
    }

    /// A server that names an address of another network has answered us this way. Says whether that is news.
    pub fn answered_from(&mut self, server: Ipv4Addr, path: ServerPath, now: UnixTime) -> bool {
        self.paths.answered(server, path, now)
    }

    /// How to reach such a server, if it has answered us.
    pub fn path_to(&self, server: Ipv4Addr) -> Option<ServerPath> {
        self.paths.to(server)
    }

    /// The link was down, and may lead to others now.
    pub fn forget_paths(&mut self) {
        self.paths.clear();
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

    /// The link has no carrier: that nobody answers says nothing.
    pub fn unplugged(&mut self, now: UnixTime) {
        for server in self.servers.values_mut() {
            (server.heard, server.missed) = (now, 0);
        }
        let strangers = self.strangers.values_mut().map(|stranger| &mut stranger.last);
        strangers.chain(self.unreadable.values_mut()).chain(self.chosen.values_mut()).for_each(|last| *last = now);
    }

    /// Forgets servers that have left every question unanswered for [`SILENT_FOR`], whether another one answers or not.
    /// Says whether a server is gone.
    pub fn forget_silent(&mut self, now: UnixTime) -> bool {
        let count = self.servers.len();
        self.servers.retain(|_, server| server.missed < SILENT_TO || now.since(server.heard) < SILENT_FOR);
        self.servers.len() != count
    }

    /// The link shows these hardware addresses at the servers' addresses. Says whether that is news.
    pub fn seen_at(&mut self, device_at: impl Fn(Ipv4Addr) -> Option<MacAddr>) -> bool {
        let mut news = false;
        for (address, server) in &mut self.servers {
            let way = match self.paths.to(*address) {
                Some(ServerPath::Frame(mac, _)) => Some(mac),
                Some(ServerPath::Address(address)) => device_at(address),
                None => device_at(*address),
            };
            news |= way.is_some() && server.mac != way;
            server.mac = way.or(server.mac);
        }
        news
    }

    /// Who answers DHCP here, where, and since when, for people.
    pub fn answering(&self) -> Option<String> {
        let first = self.servers.values().next()?.answers_in_words();
        Some(match self.servers.len() {
            1 => first,
            count => format!("{first}, and {} more", count - 1),
        })
    }

    /// Whether other servers are to be asked soon.
    pub fn is_unsure(&self) -> bool {
        let missing = |server: &OtherServer| server.missed > 0;
        let is_later = |heard| self.asked.is_none_or(|asked| heard >= asked);
        let some_answer = self.servers.values().any(|server| !missing(server));
        (some_answer && self.servers.values().any(missing))
            || self.strangers.values().map(|stranger| stranger.last).chain(self.chosen.values().copied()).any(is_later)
    }

    /// The devices that have spoken as servers for a while and never answered us. Each is named once.
    pub fn strangers(&mut self, now: UnixTime) -> Vec<Ipv4Addr> {
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
        let count = |lan: &Self| lan.servers.len() + lan.strangers.len() + lan.unreadable.len() + lan.chosen.len();
        let before = count(self);
        self.servers.retain(|_, server| now.since(server.heard) < SERVER_GONE);
        self.strangers.retain(|_, stranger| now.since(stranger.last) < SERVER_GONE);
        self.unreadable.retain(|_, last| now.since(*last) < SERVER_GONE);
        self.chosen.retain(|_, last| now.since(*last) < SERVER_GONE);
        self.checked.retain(|_, answer| answer.is_valid(now));
        self.paths.forget(now);
        let named: BTreeSet<String> = self.names().into_iter().map(str::to_owned).collect();
        self.names.retain(&named);
        count(self) != before
    }

    /// Whether this server answers us as a relay agent has been found out. Says whether that is new.
    pub fn relays(&mut self, server: Ipv4Addr, relays: Relays) -> bool {
        let server = self.servers.get_mut(&server).filter(|server| server.relays != relays);
        server.map(|server| server.relays = relays).is_some()
    }

    /// Those whose messages cannot be read, by the address that they send from.
    pub fn unreadable(&self) -> impl Iterator<Item = Ipv4Addr> {
        self.unreadable.keys().copied()
    }

    /// Who serves here beside the servers that are known: whose messages cannot be read, who answers others and not us, or
    /// whose offers clients take.
    /// That nobody is known is no proof that nobody is there.
    pub fn unknown_server(&self) -> Option<String> {
        let unreadable = self.unreadable().next().map(unreadable_in_words);
        let stranger = || {
            let address = self.strangers.keys().next()?;
            Some(format!("{address} speaks as a DHCP server to devices of this LAN, and does not answer us"))
        };
        let chosen = || {
            let address = self.chosen.keys().next()?;
            Some(format!("devices of this LAN take addresses from the DHCP server {address}, which does not answer us"))
        };
        unreadable.or_else(stranger).or_else(chosen)
    }

    /// Whether another server answers with the very terms of this one.
    pub fn has_partner(&self, server: Ipv4Addr) -> bool {
        let Some(this) = self.servers.get(&server) else { return false };
        self.servers.values().any(|other| other.server != server && this.is_partner_of(other))
    }

    /// Which servers there are, and which way each leads out of the LAN. Another router at the same address shows here.
    pub fn routers(&self) -> Vec<(Ipv4Addr, Option<Ipv4Addr>, Vec<Ipv4Addr>)> {
        self.servers.values().map(|it| (it.server, it.terms.mask, it.terms.routers.clone())).collect()
    }

    /// In what the servers disagree, if they do.
    pub fn disagreement(&self) -> Option<String> {
        let mut servers = self.servers.values();
        let first = servers.next()?;
        servers.find_map(|server| first.differs_from(server))
    }

    /// The other servers, for reports.
    pub fn servers(&self) -> Vec<DhcpServerSeen> {
        self.servers.values().map(OtherServer::seen).collect()
    }

    /// The names that servers point phones to.
    pub fn names(&self) -> BTreeSet<&str> {
        let pointers = self.servers.values().flat_map(|server| server.pointers.iter());
        let names = pointers.filter_map(|pointer| match &pointer.server {
            Host::Name(name) => Some(name.as_str()),
            Host::Address(_) | Host::Resolved(..) => None,
        });
        names.collect()
    }

    /// The next name to look up, if one is due. [`Self::resolved`] takes what was found.
    pub fn name_to_resolve(&self, now: UnixTime) -> Option<String> {
        self.names.due(&self.names(), now)
    }

    /// A name was looked up. Says whether what it means has changed.
    pub fn resolved(&mut self, name: &str, addresses: Vec<Ipv4Addr>, now: UnixTime) -> bool {
        self.names.learn(name, addresses, now)
    }

    /// What these pointers mean for a site with these TFTP servers.
    pub fn meaning(&self, pointers: &[TftpPointer], ours: &[Ipv4Addr]) -> Vec<TftpPointer> {
        let mut pointers = pointers.to_vec();
        self.names.resolve(&mut pointers, ours);
        pointers
    }

    /// The names that are known to be one of these machines.
    pub fn names_of(&self, ours: &[Ipv4Addr]) -> Vec<String> {
        self.names.of(ours)
    }

    /// The other servers, with what their names mean for a site with these TFTP servers.
    pub fn known_to(&self, ours: &[Ipv4Addr]) -> Vec<OtherServer> {
        let mut servers: Vec<OtherServer> = self.servers.values().cloned().collect();
        servers.iter_mut().for_each(|server| self.names.resolve(&mut server.pointers, ours));
        servers
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
        self.servers.values_mut().for_each(|server| {
            moved(&mut server.first);
            moved(&mut server.heard);
        });
        self.checked.values_mut().for_each(|answer| moved(&mut answer.at));
        self.strangers.values_mut().for_each(|stranger| {
            moved(&mut stranger.first);
            moved(&mut stranger.last);
        });
        let times = self.unreadable.values_mut().chain(self.chosen.values_mut());
        times.chain(self.asked.iter_mut()).chain(self.paths.times()).chain(self.names.times()).for_each(moved);
    }
}

/// Words for a server whose messages cannot be read.
pub fn unreadable_in_words(address: Ipv4Addr) -> String {
    format!("a DHCP server at {address} answers in a way that cannot be read")
}

#[cfg(test)]
mod tests;
