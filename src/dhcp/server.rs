//! The state of DHCP on one interface: what is in force, what waits, what is to be sent. Time is passed in. Pure but for
//! what it tells the device table and people.
//!
//! Read [`Outbox`] (what comes out), then [`DhcpServer`] and its parts: `scope_choice` (what the settings want and what is
//! in force), `other_servers` and `link` (what others say in DHCP and in ARP), `phones_only_check` (whether `phones-only` is
//! safe), `lease_book` (the leases), `waiting_requests` (requests that wait for ARP), `judgement` (what is made of what was
//! measured), `conflicts` and `fetch_watch` (what else is reported), `clock`, and [`Orders`] (what the fast path does).

mod behind_device;
mod clock;
mod completion_watch;
mod conflicts;
mod fast_path_report;
mod fetch_watch;
mod judgement;
mod lease_book;
mod lease_trouble;
mod link;
mod orders;
mod other_networks;
mod other_servers;
mod outbox;
mod phones_only_check;
mod pointed_phones;
mod scope_choice;
mod standing_alert;
mod waiting_requests;

use std::net::Ipv4Addr;
use std::sync::{Arc, RwLock};
use std::time::{Duration, Instant};

use dhcproto::v4::MessageType;
use tracing::{debug, info, trace};

use self::clock::ClockWatch;
pub use self::clock::Now;
use self::conflicts::Conflicts;
use self::fetch_watch::FetchWatch;
use self::judgement::{Judgement, refuses_relays};
use self::lease_book::LeaseBook;
use self::lease_trouble::MAX_DECLINED;
pub use self::orders::Orders;
pub use self::outbox::{Outbox, Outgoing};
use self::phones_only_check::PhonesOnlyCheck;
use self::scope_choice::ScopeChoice;
use self::waiting_requests::{WaitingRequest, WaitingRequests};
use super::arp_scan::{AT_A_TIME, ArpScan, BY_THE_KERNEL};
use super::augment::Event;
use super::completed_lease::CompletedLease;
use super::lan::{LanView, Points, RelayCheck};
use super::leases::{Lease, LeaseState};
use super::message::{ParseError, Request};
use super::mode_choice::LanEvidence;
use super::responder::{SilenceReason, Verdict, View, respond};
use super::scope::{ActiveMode, DhcpScope};
use access::DeviceTable;
use api::AlertCode;
use ids::MacAddr;
use status::Stats;

/// The transaction in which other servers are asked for the check of `phones-only`. Any will do.
const CHECK_XID: u32 = 0x6c69_6e65;
/// How often the server looks for leases that ended and for phones that never came.
const SWEEP_EVERY: Duration = Duration::from_secs(15);

/// DHCP on one interface.
///
/// Its methods, in the order in which they are used:
///
/// 1. *Settings*: [`Self::new`], then [`Self::set_scope`] for each release.
/// 2. *What has come*: [`Self::receive`] for a client's datagram, [`Self::tagged`] for one of another VLAN, [`Self::fast_path_event`] for what the fast path tells,
///    [`Self::heard`] and [`Self::overheard`] for another server's message, [`Self::claimed`] and [`Self::link_was_down`]
///    for ARP, [`Self::asked`] after other servers were asked, [`Self::recalled`] once for leases of before a restart.
/// 3. *Time*: [`Self::follow_clock`] before anything that depends on the time, [`Self::tick`] at [`Self::deadline`].
/// 4. *What comes out*: the [`Outbox`] that these fill, and [`Self::orders`]. When its leases are on the disk, or cannot
///    be, [`Self::kept`] or [`Self::not_kept`] follows.
#[derive(Debug)]
pub struct DhcpServer {
    link_access: LinkAccess,
    choice: ScopeChoice,
    phones_only: PhonesOnlyCheck,
    lan: LanView,
    relay_check: RelayCheck,
    arp_scan: ArpScan,
    leases: LeaseBook,
    waiting: WaitingRequests,
    conflicts: Conflicts,
    fetches: FetchWatch,
    judgement: Judgement,
    clock: ClockWatch,
    sweep_at: Instant,
    orders: Arc<Orders>,
    stats: Stats,
}

/// How this process can reach other devices on the link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LinkAccess {
    /// The interface's hardware address, if there is a link on which other servers can show.
    pub own: Option<MacAddr>,
    /// Whether there is a fast path: frames can be seen and sent.
    pub raw: bool,
    /// Whether ARP can be asked and heard. If not, the kernel asks and its neighbour table answers.
    pub arp: bool,
}

impl DhcpServer {
    /// A server with the leases of before a restart. If there is a link, it waits for other servers before it leases.
    pub fn new(
        wanted: DhcpScope,
        kept: Vec<Lease>,
        link_access: LinkAccess,
        devices: Arc<RwLock<DeviceTable>>,
        stats: Stats,
        now: Now,
    ) -> Self {
        let lan = LanView::new();
        let orders = Arc::new(Orders::new(wanted.clone(), &lan, Arc::default()));
        let mut server = Self {
            link_access,
            choice: ScopeChoice::new(wanted, link_access.own.is_some(), now.tick),
            phones_only: PhonesOnlyCheck::NotBegun,
            lan,
            relay_check: RelayCheck::default(),
            arp_scan: ArpScan::new(if link_access.arp { AT_A_TIME } else { BY_THE_KERNEL }),
            leases: LeaseBook::new(kept, devices, now.wall),
            waiting: WaitingRequests::default(),
            conflicts: Conflicts::default(),
            fetches: FetchWatch::default(),
            judgement: Judgement::new(&stats),
            clock: ClockWatch::new(now),
            sweep_at: now.tick + SWEEP_EVERY,
            orders,
            stats,
        };
        server.settle(now);
        server.leases.announce(now.wall);
        server
    }

    /// The settings have changed.
    pub fn set_scope(&mut self, wanted: DhcpScope, now: Now) {
        // What was proven of one range says nothing about another.
        if wanted.range != self.choice.wanted().range {
            self.phones_only.start_over();
        }
        self.choice.set_wanted(wanted);
        self.settle(now);
    }

    /// Chooses what is in force, after something that the choice depends on has changed.
    fn settle(&mut self, now: Now) {
        self.choice.end_waits(now.tick);
        self.see_servers();
        // The range that the settings name stays, whatever mode is in force: leases of it may be running.
        self.leases.set_range(self.choice.wanted().range.clone());
        let ours = &self.choice.wanted().tftp;
        let servers = self.lan.known_to(ours);
        let points: Vec<Points> = servers.iter().map(|server| server.points(ours)).collect();
        let (disagreement, unknown_server) = (self.lan.disagreement(), self.lan.unknown_server());
        let answering = self.lan.answering();
        let misled = servers.iter().find(|server| matches!(server.points(ours), Points::Partly | Points::Elsewhere));
        let pointed = misled.and_then(|server| server.points_in_words(ours));
        let evidence = LanEvidence {
            link: self.link_access.own.is_some(),
            listening: self.choice.is_listening(),
            alone: self.choice.expects_nobody(),
            servers: &points,
            answering: answering.as_deref(),
            disagreement: disagreement.as_deref(),
            unknown_server: unknown_server.as_deref(),
            pointed: pointed.as_deref(),
            refuses_relays: refuses_relays(self.lan.known()),
            leasing: self.leases.is_leasing(now.wall),
            raw: self.link_access.raw,
            proof: self.phones_only.outcome(),
        };
        let terms = self.lan.known().next().map(|server| &server.terms);
        self.choice.settle(&evidence, terms, &self.stats);
        self.arp_scan.hurry(now.tick);
        self.give_orders(Arc::clone(&self.orders.recalled));
        let known: Vec<Ipv4Addr> = self.lan.known().map(|server| server.server).collect();
        self.relay_check.keep(&known);
        self.judge(now);
    }

    fn give_orders(&mut self, recalled: Arc<Vec<(CompletedLease, Duration)>>) {
        self.orders = Arc::new(Orders::new(self.choice.in_force().clone(), &self.lan, recalled));
    }

    /// What the fast path is to do.
    pub const fn orders(&self) -> &Arc<Orders> {
        &self.orders
    }

    /// The mode in force, as people read it.
    pub fn label(&self) -> &'static str {
        self.choice.in_force().label
    }

    /// Whether other servers still have time to show, so that they are to be asked often.
    pub fn is_listening(&self) -> bool {
        self.choice.is_listening() || (self.choice.awaits_router() && !self.lan.has_other_server())
    }

    /// A datagram has come to the server port.
    pub fn receive(&mut self, bytes: &[u8], source: Ipv4Addr, now: Now, out: &mut Outbox) {
        match Request::parse(bytes) {
            // Our own question to other servers comes back to us.
            Ok(request) if Some(request.chaddr) == self.link_access.own => {}
            Ok(request) => {
                let chosen = self.other_server_chosen(&request);
                let answered_by_fast_path =
                    self.link_access.raw && self.choice.in_force().answers_first() && request.giaddr.is_unspecified();
                if !answered_by_fast_path {
                    trace!(device = %request.chaddr, kind = ?request.kind, "request");
                    self.decide(WaitingRequest { request, source }, now, out);
                }
                chosen.into_iter().for_each(|server| self.chose(server, now));
            }
            // A router answers us as a relay agent.
            Err(ParseError::NotRequest) => {
                self.stats.count("dhcp.replies");
                self.answered_as_relay(bytes, source, now);
            }
            Err(error) => {
                self.stats.count("dhcp.malformed");
                debug!(%source, %error, "not a request");
            }
        }
    }

    /// A request of another VLAN has come to this port with its tag. It is not answered: what we send has no tag.
    pub fn tagged(&mut self, vlan: u16, message: &[u8]) {
        self.stats.count("dhcp.tagged");
        let request = Request::parse(message).ok().filter(|request| self.choice.wanted().is_phone(request));
        if let Some(request) = request {
            self.stats.asked_in_vlan(vlan, request.chaddr);
        }
    }

    fn decide(&mut self, waiting: WaitingRequest, now: Now, out: &mut Outbox) {
        let WaitingRequest { request, source } = &waiting;
        if self.judgement.networks.heard(self.choice.in_force(), request, now.wall) {
            self.judge(now);
        }
        let view = View { lan: &self.lan, leases: self.leases.table(), source: *source };
        match respond(self.choice.in_force(), &view, request, now.wall) {
            Verdict::Silence(why, change) => {
                self.stats.count(why.counter());
                debug!(device = %request.chaddr, kind = ?request.kind, ?why, "no answer");
                if why == SilenceReason::RangeFull {
                    self.stats.alert(AlertCode::DhcpRangeFull, "all addresses of the range are taken".to_owned());
                }
                match change {
                    Some(lease) if lease.state == LeaseState::Declined => self.declined(lease, now, out),
                    Some(lease) => self.change(lease, out),
                    None => {}
                }
            }
            Verdict::Check(address) => self.wait(address, waiting, now, out),
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
                    let is_shared = lease.state == LeaseState::Bound && self.leases.table().is_shared(&lease);
                    self.change(lease, out);
                    if is_shared {
                        self.judge(now);
                    }
                }
                if reply.lacks_tftp() {
                    self.stats.count("dhcp.no-room");
                }
                let outgoing = Outgoing { bytes: reply.emit(), to, counter };
                if kept { out.acks.push(outgoing) } else { out.others.push(outgoing) }
            }
        }
    }

    /// A device found that somebody else uses an address. Of the addresses that one device declines only the last few are
    /// kept from others, so that it cannot take a whole range away from them.
    fn declined(&mut self, lease: Lease, now: Now, out: &mut Outbox) {
        let (address, mac) = (lease.address, lease.mac);
        self.change(lease, out);
        let declined: Vec<Ipv4Addr> =
            self.leases.table().declined_by(mac, now.wall).iter().map(|lease| lease.address).collect();
        let over = declined.len().saturating_sub(MAX_DECLINED);
        declined.iter().take(over).for_each(|address| self.leases.forget(*address));
        if declined.len() < MAX_DECLINED {
            self.report_in_use(address, mac);
        }
        self.judge(now);
    }

    fn change(&mut self, lease: Lease, out: &mut Outbox) {
        // An address that somebody has had, or has found in use, must be asked for anew.
        if lease.state != LeaseState::Offered {
            self.lan.unchecked(lease.address);
        }
        self.leases.put(lease.clone());
        if lease.is_kept() {
            out.keep.push(lease);
        }
    }

    /// Lets a request wait until it is known whether somebody uses the address.
    fn wait(&mut self, address: Ipv4Addr, waiting: WaitingRequest, now: Now, out: &mut Outbox) {
        if self.waiting.add(address, waiting, self.choice.in_force()) {
            self.ask(address, now, out);
        } else {
            self.stats.count("dhcp.silent.busy");
        }
    }

    /// These leases of an [`Outbox`] are durable.
    pub fn kept(&mut self, kept: &[Lease]) {
        self.leases.kept(kept);
    }

    /// These leases of an [`Outbox`] could not be made durable, and the next request tries again. Says whether this is news.
    pub fn not_kept(&mut self, lost: &[Lease], now: Now) -> bool {
        self.leases.not_kept(lost, now.wall.plus(self.choice.in_force().lease / 2))
    }

    /// The fast path tells something.
    pub fn fast_path_event(&mut self, event: Event, now: Now, out: &mut Outbox) {
        fast_path_report::report(&event, &self.stats);
        match &event {
            Event::Points { phone, server, pointers, .. } => {
                self.judgement.pointed.pointed(*phone, *server, pointers, now.wall);
                self.judge(now);
            }
            Event::Completed { phone, .. } | Event::Offered(phone) if self.judgement.pointed.completed(*phone) => {
                self.judge(now);
            }
            _ => {}
        }
        match &event {
            Event::NotCompleted(reason) => self.judgement.completions.failed(*reason, now.wall),
            Event::Completed { .. } | Event::Rebound { .. } | Event::Offered(_) => {
                self.judgement.completions.completed()
            }
            _ => {}
        }
        match event {
            Event::Heard(overheard) => self.overheard(&overheard, now),
            Event::SentBy { phone, sender } => self.sent_by(phone, sender, now),
            Event::LearntLate { address, exchange } => out.remember.push((exchange.to_keep(address), now.wall)),
            Event::Completed { phone, address, exchange } => {
                out.remember.extend(exchange.map(|exchange| (exchange.to_keep(address), now.wall)));
                self.fetches.expect(phone, now.wall);
            }
            Event::Short { phone, .. } => self.fetches.expect(phone, now.wall),
            Event::AnsweredFrom { .. }
            | Event::Rebound { .. }
            | Event::Offered(_)
            | Event::Refused { .. }
            | Event::Points { .. }
            | Event::NotCompleted(_)
            | Event::Informed => {}
        }
    }

    /// Leases that were completed before a restart, and how much of each has passed.
    pub fn recalled(&mut self, completed: Vec<(CompletedLease, Duration)>) {
        if !completed.is_empty() {
            debug!(leases = completed.len(), "leases that were completed before are remembered");
            self.give_orders(Arc::new(completed));
        }
    }

    /// When [`Self::tick`] has something to do.
    pub fn deadline(&self) -> Instant {
        let check = self.phones_only.deadline().filter(|_| self.choice.wanted().mode == ActiveMode::PhonesOnly);
        let scan = self.arp_scan.deadline(self.scans_ahead());
        let relay = self.relay_check.deadline();
        let all = scan.into_iter().chain(self.choice.deadline()).chain(check).chain(relay);
        all.fold(self.sweep_at, Instant::min)
    }

    /// Time has passed.
    pub fn tick(&mut self, now: Now, out: &mut Outbox) {
        if self.choice.end_waits(now.tick) {
            self.settle(now);
        }
        self.take_arp_answers(now, out);
        self.check_phones_only(now, out);
        self.ask_as_relay(now, out);
        self.scan_range(now, out);
        if self.sweep_at <= now.tick {
            self.sweep_at = now.tick + SWEEP_EVERY;
            self.sweep(now);
        }
    }

    fn sweep(&mut self, now: Now) {
        if self.lan.forget(now.wall) {
            self.server_is_gone(now);
        } else if self.see_servers() {
            self.settle(now);
        }
        self.stats.dhcp_servers(self.lan.servers());
        self.leases.announce(now.wall);
        self.fetches.report_missing(&self.stats, now.wall);
        self.judge(now);
        if !self.leases.table().is_full(now.wall) {
            self.stats.clear_alert(AlertCode::DhcpRangeFull);
        }
        for server in self.lan.strangers(now.wall) {
            let text = format!("{server} speaks as a DHCP server to devices of this LAN, and does not answer us");
            self.stats.alert(AlertCode::DhcpNewServer, text);
        }
    }

    /// Moves everything along when somebody sets the system clock, so that no lease ends for that, nor after a restart.
    pub fn follow_clock(&mut self, now: Now, out: &mut Outbox) {
        if let Some(set) = self.clock.was_set(now) {
            info!(seconds = set, "the clock was set; leases go with it");
            out.keep.extend(self.leases.shift(set, now.wall));
            self.lan.shift(set);
            self.fetches.shift(set);
            self.judgement.shift(set);
            self.settle(now);
            out.forget = true;
        }
    }
}

#[cfg(test)]
mod tests;
