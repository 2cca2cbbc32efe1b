//! Between packets and decisions: what is in force now, what waits for an answer of the link, what is to be sent. Pure
//! but for what it tells others; time is passed in.

mod link;
mod others;

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

use dhcproto::v4::MessageType;
use tracing::{debug, info, trace};

use super::ahead::{AT_A_TIME, Ahead, BY_THE_KERNEL};
use super::arp::Claim;
use super::augment::Kept;
use super::lan::Lan;
use super::leases::{Lease, Leases, State};
use super::message::{ParseError, Request};
use super::probe::Question;
use super::proof::Proof;
use super::responder::{To, Verdict, View, Why, respond};
use super::scope::Scope;
use super::walk::Walk;
use access::DeviceTable;
use api::AlertCode;
use bundle::DhcpMode;
use ids::{MacAddr, UnixTime};
use status::Stats;

/// How long mode `all` waits for other servers at the start: dnsmasq pings for 3 s before it offers, and the first
/// question may be lost.
pub const ASK_WAIT: Duration = Duration::from_secs(8);
/// How long `auto` waits for a router before it takes a LAN for its own: one that boots with us, after a power cut.
pub const ALONE_AFTER: Duration = Duration::from_secs(90);
/// How long a phone whose lease was completed has to ask for its first file. Phones take up to four minutes to boot.
const FETCH_WITHIN: Duration = Duration::from_secs(600);
/// The transaction of the questions of [`Proof`]: any will do.
const PROOF_XID: u32 = 0x6c69_6e65;
/// The most phones that are waited for at a time.
const MAX_FETCHES: usize = 1024;
/// How often leases that ended are looked for.
const SWEEP_EVERY: Duration = Duration::from_secs(15);
/// A wall clock that goes this far from the monotonic one was set, in seconds.
const CLOCK_SET_SECONDS: i64 = 30;

/// What time it is: for leases, which outlive a restart, and for deadlines, which do not.
#[derive(Debug, Clone, Copy)]
pub struct Now {
    /// The system clock.
    pub wall: UnixTime,
    /// The monotonic clock.
    pub tick: Instant,
}

/// A reply that is to be sent once its change is durable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outgoing {
    /// The message.
    pub bytes: Vec<u8>,
    /// Where it goes.
    pub to: To,
    /// The name of its counter.
    pub counter: &'static str,
}

/// What came of some requests.
#[derive(Debug, Default)]
pub struct Outbox {
    /// What must be durable first.
    pub keep: Vec<Lease>,
    /// What may be sent then.
    pub acks: Vec<Outgoing>,
    /// What may be sent in any case.
    pub others: Vec<Outgoing>,
    /// Addresses to ask the link about.
    pub checks: Vec<Ipv4Addr>,
    /// What to ask other servers as a client: in whose name, in which transaction.
    pub questions: Vec<(Question, MacAddr, u32)>,
    /// What was remembered so far is stamped with a wrong time.
    pub forget: bool,
    /// Completed leases to remember, and since when.
    pub remember: Vec<(Kept, UnixTime)>,
}

/// The state of DHCP on one interface.
#[derive(Debug)]
pub struct Desk {
    /// As settings want it.
    wanted: Scope,
    /// As it is.
    scope: Scope,
    lan: Lan,
    leases: Leases,
    waiting: BTreeMap<Ipv4Addr, Waiting>,
    ahead: Ahead,
    /// Until when other servers have a chance to show before anything is leased.
    listen_until: Option<Instant>,
    /// What the device table was told.
    announced: BTreeMap<Ipv4Addr, MacAddr>,
    devices: Arc<RwLock<DeviceTable>>,
    stats: Stats,
    own: Option<MacAddr>,
    senses: Senses,
    clock: Now,
    sweep_at: Instant,
    /// From when on nobody else is expected any more.
    alone_at: Option<Instant>,
    /// Whether `phones-only` was proven safe.
    proof: Option<Result<(), String>>,
    proving: Option<Proof>,
    /// Whether anybody uses an address of the range is found out before that.
    walk: Option<Walk>,
    /// Since when a phone whose lease was completed is waited for.
    fetches: BTreeMap<MacAddr, UnixTime>,
    orders: Arc<Orders>,
    recalled: Arc<Vec<(Kept, Duration)>>,
    settled: bool,
    /// Whether the last lease could not be made durable.
    log_failed: bool,
    /// Conflicts that were reported.
    conflicts: BTreeSet<Claim>,
}

/// What the line is to do: made anew when anything changes.
#[derive(Debug)]
pub struct Orders {
    /// What is in force; the line acts in modes `inform` and `augment` only.
    pub scope: Scope,
    /// The other servers.
    pub servers: Vec<Ipv4Addr>,
    /// Those of them that take their time for an offer, and how much.
    pub slow: Vec<(Ipv4Addr, Duration)>,
    /// Leases that were completed before a restart, and how much of each was over when they were recalled.
    pub recalled: Arc<Vec<(Kept, Duration)>>,
}

/// Who waits for what the link says of an address, and where each asks from.
type Waiting = Vec<(Request, Ipv4Addr)>;

/// With what other devices can be seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Senses {
    /// The interface's hardware address, if there is a link on which other servers can show.
    pub own: Option<MacAddr>,
    /// Whether there is a line: raw frames can be seen and sent.
    pub raw: bool,
    /// Whether ARP can be asked and heard. Without it the kernel asks, and knows.
    pub arp: bool,
}

impl Desk {
    /// A desk that leases what `kept` says. With a hardware address of its own it waits for other servers first.
    pub fn new(
        wanted: Scope,
        kept: Vec<Lease>,
        senses: Senses,
        devices: Arc<RwLock<DeviceTable>>,
        stats: Stats,
        now: Now,
    ) -> Self {
        let own = senses.own;
        let mut leases = Leases::new();
        leases.load(kept, now.wall);
        let scope = wanted.clone();
        let mut desk = Self {
            scope: scope.clone(),
            wanted,
            lan: Lan::new(),
            leases,
            waiting: BTreeMap::new(),
            ahead: Ahead::new(if senses.arp { AT_A_TIME } else { BY_THE_KERNEL }),
            listen_until: own.map(|_| now.tick + ASK_WAIT),
            announced: BTreeMap::new(),
            devices,
            stats,
            own,
            senses,
            clock: now,
            sweep_at: now.tick + SWEEP_EVERY,
            alone_at: own.map(|_| now.tick + ALONE_AFTER),
            proof: None,
            proving: None,
            walk: None,
            fetches: BTreeMap::new(),
            orders: Arc::new(Orders { scope, servers: Vec::new(), slow: Vec::new(), recalled: Arc::default() }),
            recalled: Arc::default(),
            settled: false,
            log_failed: false,
            conflicts: BTreeSet::new(),
        };
        desk.settle(now);
        desk.announce(now);
        desk
    }

    /// Settings have changed.
    pub fn set_scope(&mut self, wanted: Scope, now: Now) {
        self.wanted = wanted;
        self.settle(now);
    }

    /// What is in force, for people.
    pub fn label(&self) -> &'static str {
        self.scope.label
    }

    /// Whether other servers still have their chance to show.
    pub fn is_listening(&self) -> bool {
        let may_be_alone = self.wanted.wanted == DhcpMode::Auto && self.alone_at.is_some();
        self.listen_until.is_some() || (may_be_alone && !self.lan.has_other_server())
    }

    /// One datagram has come.
    pub fn receive(&mut self, bytes: &[u8], source: Ipv4Addr, now: Now, out: &mut Outbox) {
        match Request::parse(bytes) {
            // Our own question for other servers comes back to us.
            Ok(request) if Some(request.chaddr) == self.own => {}
            // The line answers, and once is enough.
            Ok(request) if self.senses.raw && self.scope.answers_first() && request.giaddr.is_unspecified() => {}
            Ok(request) => {
                trace!(device = %request.chaddr, kind = ?request.kind, "request");
                self.decide(request, source, now, out);
            }
            // A router's answer to us as a relay agent; the line has it.
            Err(ParseError::NotRequest) => self.stats.count("dhcp.replies"),
            Err(error) => {
                self.stats.count("dhcp.malformed");
                debug!(%source, %error, "not a request");
            }
        }
    }

    fn decide(&mut self, request: Request, source: Ipv4Addr, now: Now, out: &mut Outbox) {
        let view = View { lan: &self.lan, leases: &self.leases, source };
        match respond(&self.scope, &view, &request, now.wall) {
            Verdict::Silence(why, change) => {
                self.stats.count(why.counter());
                debug!(device = %request.chaddr, kind = ?request.kind, ?why, "no answer");
                if why == Why::RangeFull {
                    self.stats.alert(AlertCode::DhcpRangeFull, "all addresses of the range are taken".to_owned());
                }
                if let Some(lease) = change {
                    if lease.state == State::Declined {
                        self.report_in_use(lease.address, lease.mac);
                    }
                    self.change(lease, out);
                }
            }
            Verdict::Check(address) => self.wait(address, request, source, now, out),
            Verdict::Reply(reply, to, change) => {
                // A repeated request changes nothing, and still waits for what the first one changed.
                let repeated = || out.keep.iter().any(|lease| lease.address == reply.yiaddr);
                let kept =
                    change.as_ref().is_some_and(Lease::is_kept) || (reply.kind == MessageType::Ack && repeated());
                let counter = match reply.kind {
                    MessageType::Offer => "dhcp.offer",
                    MessageType::Nak => "dhcp.nak",
                    _ => "dhcp.ack",
                };
                if let Some(lease) = change {
                    self.change(lease, out);
                }
                let outgoing = Outgoing { bytes: reply.emit(), to, counter };
                if kept { out.acks.push(outgoing) } else { out.others.push(outgoing) }
            }
        }
    }

    fn change(&mut self, lease: Lease, out: &mut Outbox) {
        // Whoever has had it, or found it in use, changes what the link would say.
        if lease.state != State::Offered {
            self.lan.unchecked(lease.address);
        }
        self.leases.put(lease.clone());
        if lease.is_kept() {
            out.keep.push(lease);
        }
    }

    /// The change in `out.keep` is durable.
    pub fn kept(&mut self, kept: &[Lease]) {
        self.log_failed = false;
        let mut devices = self.devices.write().unwrap_or_else(PoisonError::into_inner);
        for lease in kept {
            if lease.state == State::Bound {
                if self.announced.insert(lease.address, lease.mac) != Some(lease.mac) {
                    debug!(device = %lease.mac, address = %lease.address, "address leased");
                }
                devices.leased(lease.address, lease.mac);
            } else if self.announced.remove(&lease.address).is_some() {
                devices.lease_gone(lease.address);
            }
        }
    }

    /// The change could not be made durable: the next request tries again. Says whether this is news.
    pub fn not_kept(&mut self, lost: &[Lease], now: Now) -> bool {
        for lease in lost {
            if self.leases.at(lease.address) == Some(lease) {
                // What is held may have been held before, so it stays so; but not for as long as an ACK promises.
                let until = lease.until.min(now.wall.plus(self.scope.lease / 2));
                self.leases.put(Lease { until, ..lease.clone() });
            }
        }
        !std::mem::replace(&mut self.log_failed, true)
    }

    /// The next moment at which [`Self::tick`] has something to do.
    pub fn deadline(&self) -> Instant {
        let ahead = self.ahead.deadline(self.looks_ahead());
        ahead
            .into_iter()
            .chain(self.listen_until)
            .chain(self.alone_at)
            .chain(self.proving.as_ref().and_then(Proof::deadline))
            .chain(self.walk.as_ref().and_then(Walk::deadline))
            .fold(self.sweep_at, Instant::min)
    }

    /// Time has passed.
    pub fn tick(&mut self, now: Now, out: &mut Outbox) {
        if self.listen_until.is_some_and(|until| until <= now.tick) {
            self.listen_until = None;
            self.settle(now);
        }
        if self.alone_at.is_some_and(|at| at <= now.tick) {
            self.alone_at = None;
            self.settle(now);
        }
        self.hear_link(now, out);
        self.prove(now, out);
        self.look_ahead(now, out);
        if self.sweep_at <= now.tick {
            self.sweep_at = now.tick + SWEEP_EVERY;
            if self.lan.forget(now.wall) {
                self.settle(now);
            }
            self.stats.dhcp_servers(self.lan.servers());
            self.announce(now);
            self.look_for_fetches(now);
            self.look_for_strangers(now);
        }
    }

    /// Follows the wall clock when somebody sets it: a Pi starts in the past, and no lease may end for that, nor after
    /// a restart.
    pub fn follow_clock(&mut self, now: Now, out: &mut Outbox) {
        let ticked = i64::try_from(now.tick.saturating_duration_since(self.clock.tick).as_secs()).unwrap_or(i64::MAX);
        let shown = now.wall.0.saturating_sub(self.clock.wall.0);
        let set = shown.saturating_sub(ticked);
        if set.abs() >= CLOCK_SET_SECONDS {
            info!(seconds = set, "the clock was set; leases go with it");
            self.leases.shift(set);
            self.lan.shift(set);
            self.fetches.values_mut().for_each(|since| since.0 = since.0.saturating_add(set));
            out.keep.extend(self.leases.live(now.wall).cloned());
            out.forget = true;
            self.clock = now;
        }
    }

    /// Tells the device table which leases began and ended without a packet: at the start, and as time goes by.
    fn announce(&mut self, now: Now) {
        let live: BTreeMap<Ipv4Addr, MacAddr> =
            self.leases.live(now.wall).map(|lease| (lease.address, lease.mac)).collect();
        let mut devices = self.devices.write().unwrap_or_else(PoisonError::into_inner);
        for (&address, _) in self.announced.iter().filter(|(address, _)| !live.contains_key(address)) {
            devices.lease_gone(address);
        }
        for (&address, &mac) in live.iter().filter(|(address, mac)| self.announced.get(address) != Some(mac)) {
            devices.leased(address, mac);
        }
        self.announced = live;
    }
}

#[cfg(test)]
mod tests;
