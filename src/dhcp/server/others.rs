//! What others do here and what it means for us: the mode in force, reports, the proof for `phones-only`.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tracing::{debug, info, warn};

use super::{DhcpServer, FETCH_WITHIN, MAX_FETCHES, Now, Orders, Outbox, PROOF_XID};
use crate::dhcp::augment::Event;
use crate::dhcp::completed_lease::CompletedLease;
use crate::dhcp::heard::{Answers, Overheard, ServerMessage};
use crate::dhcp::lan::{AddressUse, Points};
use crate::dhcp::mode_choice::LanEvidence;
use crate::dhcp::proof::Proof;
use crate::dhcp::range::Range;
use crate::dhcp::range_probe::{ProbeStep, RangeProbe};
use crate::dhcp::scope::ActiveMode;

impl DhcpServer {
    /// Decides what is in force.
    pub(super) fn settle(&mut self, now: Now) {
        let mut scope = self.wanted.clone();
        let points: Vec<Points> = self.lan.known().map(|server| server.points(&scope.tftp)).collect();
        let before = |until: Option<Instant>| until.is_some_and(|until| now.tick < until);
        scope.choose(&LanEvidence {
            link: self.own.is_some(),
            listening: before(self.listen_until),
            alone: !before(self.alone_at),
            servers: &points,
            leasing: self.leases.live(now.wall).next().is_some(),
            raw: self.link_access.raw,
            proof: self.proof.as_ref(),
        });
        if matches!(scope.mode, ActiveMode::Augment | ActiveMode::PhonesOnly)
            && let Some(terms) = self.lan.known().next().map(|server| &server.terms)
        {
            scope.learn(terms);
        }
        if scope.mode == ActiveMode::All && !points.is_empty() {
            self.stats.alert("dhcp-second-server", "another DHCP server has appeared beside ours".to_owned());
        } else {
            self.stats.clear_alert("dhcp-second-server");
        }
        match &scope.problem {
            Some(problem) if self.scope.problem.as_ref() != Some(problem) || !self.settled => {
                self.stats.clear_alert("dhcp-mode");
                self.stats.alert("dhcp-mode", problem.clone());
            }
            Some(_) => {}
            None => self.stats.clear_alert("dhcp-mode"),
        }
        if scope.label != self.scope.label || scope.problem != self.scope.problem || !self.settled {
            info!(mode = scope.label, problem = scope.problem.as_deref().unwrap_or_default(), "DHCP mode");
        }
        self.settled = true;
        self.stats.dhcp_mode(scope.label);
        // The range that was ever wanted stays: leases of it may be running.
        self.leases.set_range(self.wanted.range.clone());
        self.arp_scan.hurry(now.tick);
        self.scope = scope;
        self.give_orders();
    }

    fn give_orders(&mut self) {
        let servers = self.lan.known().map(|server| server.server).collect();
        let slow = self.lan.known().filter_map(|server| Some((server.server, server.takes()?))).collect();
        let (scope, recalled) = (self.scope.clone(), Arc::clone(&self.recalled));
        self.orders = Arc::new(Orders { scope, servers, slow, recalled });
    }

    /// Leases that were completed before a restart, and how much of each is over.
    pub fn recalled(&mut self, completed: Vec<(CompletedLease, Duration)>) {
        if !completed.is_empty() {
            debug!(leases = completed.len(), "leases that were completed before are remembered");
            self.recalled = Arc::new(completed);
            self.give_orders();
        }
    }

    /// What the fast path is to do.
    pub const fn orders(&self) -> &Arc<Orders> {
        &self.orders
    }

    /// What the fast path has to tell.
    pub fn event(&mut self, event: Event, now: Now, out: &mut Outbox) {
        match event {
            Event::Heard(overheard) => self.overheard(&overheard, now),
            Event::LearntLate { address, exchange } => out.remember.push((exchange.to_keep(address), now.wall)),
            Event::Completed { phone, address, exchange } => {
                out.remember.extend(exchange.map(|exchange| (exchange.to_keep(address), now.wall)));
                self.stats.count("dhcp.augment.ack");
                debug!(device = %phone, %address, "the router's lease was completed");
                if self.fetches.len() < MAX_FETCHES || self.fetches.contains_key(&phone) {
                    self.fetches.entry(phone).or_insert(now.wall);
                }
            }
            Event::Rebound { phone, address } => {
                self.stats.count("dhcp.augment.ack");
                debug!(device = %phone, %address, "the router's lease was completed at a rebind");
            }
            Event::Offered(phone) => {
                self.stats.count("dhcp.augment.offer");
                debug!(device = %phone, "the router's offer was completed");
            }
            Event::Refused { phone, server } => {
                warn!(device = %phone, %server, "the router refused a lease that was completed; left alone for a day");
                let text =
                    format!("{server} refused {phone} after its lease was completed; it is left alone for a day");
                self.stats.alert("dhcp-augment-nak", text);
            }
            Event::Points { phone, server, tftp } => {
                self.stats.count("dhcp.augment.pointed");
                let here = tftp.iter().any(|name| self.scope.tftp.iter().any(|our| our.to_string() == *name));
                if !here {
                    debug!(device = %phone, %server, ?tftp, "the router points this phone elsewhere");
                    let text = format!("{server} points {phone} to {}; it is left as it is", tftp.join(", "));
                    self.stats.alert("dhcp-points-elsewhere", text);
                }
            }
            Event::NotCompleted(reason) => self.stats.count(reason.counter()),
            Event::Informed => self.stats.count("dhcp.ack"),
        }
    }

    /// Phones whose lease was completed and who never came: a switch may have dropped what we sent (DHCP snooping).
    pub(super) fn look_for_fetches(&mut self, now: Now) {
        let stats = &self.stats;
        self.fetches.retain(|mac, since| {
            let came = stats.last_seen(*mac).is_some_and(|seen| seen >= *since);
            let due = now.wall.since(*since) >= FETCH_WITHIN;
            if due && !came {
                let text = format!(
                    "{mac} got its lease completed and never asked for a file; does a switch filter DHCP (snooping)?"
                );
                stats.alert("dhcp-never-came", text);
            }
            !came && !due
        });
    }

    /// Another server's message was heard on the client port.
    pub fn heard(&mut self, message: &ServerMessage, answers: Answers, now: Now) {
        if let Some(proof) = &mut self.proving {
            proof.heard(message, now.tick);
        }
        self.overheard(&message.overheard(answers), now);
    }

    /// Goes on with finding out whether `phones-only` is safe; begins when the wait for other servers is over and again
    /// when there is a new one.
    pub(super) fn prove(&mut self, now: Now, out: &mut Outbox) {
        if self.wanted.mode != ActiveMode::PhonesOnly || self.listen_until.is_some() || self.proof.is_some() {
            return;
        }
        let (Some(own), Some(range)) = (self.own, self.wanted.range.clone()) else { return };
        if !self.range_is_probed(&range, now, out) {
            return;
        }
        let server = self.wanted.server;
        let proof = self.proving.get_or_insert_with(|| {
            let (first, last) = range.ends();
            Proof::new(server, own, (first, last), range.first_free().unwrap_or(first))
        });
        if let Some(question) = proof.poll(now.tick) {
            out.questions.push((question, proof.mac(), PROOF_XID));
        }
        if let Some(outcome) = proof.outcome().cloned() {
            self.proven(outcome, now);
        }
    }

    fn proven(&mut self, outcome: Result<(), String>, now: Now) {
        info!(safe = outcome.is_ok(), "whether phones-only is safe here has been found out");
        self.proof = Some(outcome);
        (self.proving, self.range_probe) = (None, None);
        self.settle(now);
    }

    /// Whether all of the range was asked for and nobody answered who does not have the address from us.
    fn range_is_probed(&mut self, range: &Range, now: Now, out: &mut Outbox) -> bool {
        if self.proving.is_some() {
            return true;
        }
        let range_probe = self.range_probe.get_or_insert_with(|| RangeProbe::over(range.usable()));
        match range_probe.step(now.tick) {
            ProbeStep::Wait => false,
            ProbeStep::Done => {
                self.range_probe = None;
                true
            }
            ProbeStep::Go { answered, ask } => {
                ask.into_iter().for_each(|address| self.ask(address, now, out));
                let mine =
                    |server: &Self, address, mac| server.leases.at(address).is_some_and(|lease| lease.mac == mac);
                for address in answered {
                    if let AddressUse::By(mac) = self.lan.usage(address, now.wall)
                        && !mine(self, address, mac)
                    {
                        self.proven(Err(format!("{address} of the range is in use by {mac}")), now);
                        return false;
                    }
                }
                false
            }
        }
    }

    /// Whether we lease this address, or others of its range.
    fn leases_from(&self, address: Ipv4Addr) -> bool {
        matches!(self.scope.mode, ActiveMode::All | ActiveMode::PhonesOnly)
            && self.scope.range.as_ref().is_some_and(|range| range.contains(address))
    }

    /// Other servers have been asked for.
    pub fn asked(&mut self, now: Now) {
        let listening = self.listen_until.is_some();
        if !listening && self.lan.asked(now.wall) {
            self.stats.dhcp_servers(self.lan.servers());
            self.settle(now);
        }
    }

    /// Whether they should be asked for soon: somebody speaks as a server who is not known as one, or a known one did not
    /// answer while another did.
    pub fn is_unsure(&self) -> bool {
        self.lan.is_unsure()
    }

    /// Who speaks as a server to others and does not answer us is reported, too.
    pub(super) fn look_for_strangers(&mut self, now: Now) {
        for server in self.lan.strangers(now.wall) {
            let text = format!("{server} speaks as a DHCP server to devices of this LAN, and does not answer us");
            self.stats.alert("dhcp-new-server", text);
        }
    }

    /// Another server spoke.
    pub fn overheard(&mut self, overheard: &Overheard, now: Now) {
        let server = overheard.server;
        if server == self.wanted.server || server.is_unspecified() || server.is_broadcast() || server.is_multicast() {
            return;
        }
        if overheard.nak {
            self.stats.count("dhcp.others.nak");
        }
        if let Some(address) = overheard.address.filter(|address| self.leases_from(*address)) {
            let reason = format!("the server {server} leases addresses of the range itself, such as {address}");
            self.stats.alert("dhcp-range-shared", reason.clone());
            if self.wanted.mode == ActiveMode::PhonesOnly && self.proof == Some(Ok(())) {
                self.proven(Err(reason), now);
            }
        }
        let before = self.lan.known().count();
        if self.lan.heard(overheard, now.wall) {
            if self.lan.known().count() > before {
                // What was proven of the others says nothing about this one.
                (self.proof, self.proving) = (None, None);
            }
            if self.lan.known().count() > before && self.listen_until.is_none() {
                // At the start servers are found; one that comes later is news for people.
                self.stats.alert("dhcp-new-server", format!("{server} has begun to answer DHCP on this LAN"));
            }
            debug!(%server, tftp = ?overheard.tftp, "another DHCP server is on this LAN");
            self.stats.dhcp_servers(self.lan.servers());
            self.settle(now);
        }
    }
}
