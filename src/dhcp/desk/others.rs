//! What others do here and what it means for us: the mode in force, reports, the proof for `phones-only`.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tracing::{debug, info, warn};

use super::{Desk, FETCH_WITHIN, MAX_FETCHES, Now, Orders, Outbox, PROOF_XID};
use crate::augment::{Event, Kept};
use crate::choose::Seen;
use crate::heard::{Answers, Overheard, ServerMessage};
use crate::lan::{Points, Use};
use crate::leases::Range;
use crate::proof::Proof;
use crate::scope::Mode;
use crate::walk::{Step, Walk};
use api::AlertCode;

impl Desk {
    /// Decides what is in force.
    pub(super) fn settle(&mut self, now: Now) {
        let mut scope = self.wanted.clone();
        let points: Vec<Points> = self.lan.known().map(|server| server.points(&scope.tftp)).collect();
        let before = |until: Option<Instant>| until.is_some_and(|until| now.tick < until);
        scope.choose(&Seen {
            link: self.own.is_some(),
            listening: before(self.listen_until),
            alone: !before(self.alone_at),
            servers: &points,
            leasing: self.leases.live(now.wall).next().is_some(),
            raw: self.senses.raw,
            proof: self.proof.as_ref(),
        });
        if matches!(scope.mode, Mode::Augment | Mode::PhonesOnly)
            && let Some(terms) = self.lan.known().next().map(|server| &server.terms)
        {
            scope.learn(terms);
        }
        if scope.mode == Mode::All && !points.is_empty() {
            self.stats.alert(AlertCode::DhcpSecondServer, "another DHCP server has appeared beside ours".to_owned());
        } else {
            self.stats.clear_alert(AlertCode::DhcpSecondServer);
        }
        match &scope.problem {
            Some(problem) if self.scope.problem.as_ref() != Some(problem) || !self.settled => {
                self.stats.clear_alert(AlertCode::DhcpMode);
                self.stats.alert(AlertCode::DhcpMode, problem.clone());
            }
            Some(_) => {}
            None => self.stats.clear_alert(AlertCode::DhcpMode),
        }
        if scope.label != self.scope.label || scope.problem != self.scope.problem || !self.settled {
            info!(mode = scope.label, problem = scope.problem.as_deref().unwrap_or_default(), "DHCP mode");
        }
        self.settled = true;
        self.stats.dhcp_mode(scope.label);
        // The range that was ever wanted stays: leases of it may be running.
        self.leases.set_range(self.wanted.range.clone());
        self.ahead.hurry(now.tick);
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
    pub fn recalled(&mut self, completed: Vec<(Kept, Duration)>) {
        if !completed.is_empty() {
            debug!(leases = completed.len(), "leases that were completed before are remembered");
            self.recalled = Arc::new(completed);
            self.give_orders();
        }
    }

    /// What the line is to do.
    pub const fn orders(&self) -> &Arc<Orders> {
        &self.orders
    }

    /// What the line has to tell.
    pub fn event(&mut self, event: Event, now: Now, out: &mut Outbox) {
        match event {
            Event::Heard(overheard) => self.overheard(&overheard, now),
            Event::Late(address, made_from) => out.remember.push((made_from.kept(address), now.wall)),
            Event::Completed(mac, address, made_from) => {
                out.remember.extend(made_from.map(|made_from| (made_from.kept(address), now.wall)));
                self.stats.count("dhcp.augment.ack");
                debug!(device = %mac, %address, "the router's lease was completed");
                if self.fetches.len() < MAX_FETCHES || self.fetches.contains_key(&mac) {
                    self.fetches.entry(mac).or_insert(now.wall);
                }
            }
            Event::Rebound(mac, address) => {
                self.stats.count("dhcp.augment.ack");
                debug!(device = %mac, %address, "the router's lease was completed at a rebind");
            }
            Event::Offered(mac) => {
                self.stats.count("dhcp.augment.offer");
                debug!(device = %mac, "the router's offer was completed");
            }
            Event::Nak(mac, server) => {
                warn!(device = %mac, %server, "the router refused a lease that was completed; left alone for a day");
                let text = format!("{server} refused {mac} after its lease was completed; it is left alone for a day");
                self.stats.alert(AlertCode::DhcpAugmentNak, text);
            }
            Event::Points(mac, server, tftp) => {
                self.stats.count("dhcp.augment.pointed");
                let here = tftp.iter().any(|name| self.scope.tftp.iter().any(|our| our.to_string() == *name));
                if !here {
                    debug!(device = %mac, %server, ?tftp, "the router points this phone elsewhere");
                    let text = format!("{server} points {mac} to {}; it is left as it is", tftp.join(", "));
                    self.stats.alert(AlertCode::DhcpPointsElsewhere, text);
                }
            }
            Event::Silent(counter) => self.stats.count(counter),
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
                stats.alert(AlertCode::DhcpNeverCame, text);
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
        if self.wanted.mode != Mode::PhonesOnly || self.listen_until.is_some() || self.proof.is_some() {
            return;
        }
        let (Some(own), Some(range)) = (self.own, self.wanted.range.clone()) else { return };
        if !self.walked(&range, now, out) {
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
        (self.proving, self.walk) = (None, None);
        self.settle(now);
    }

    /// Whether all of the range was asked for and nobody answered who does not have the address from us.
    fn walked(&mut self, range: &Range, now: Now, out: &mut Outbox) -> bool {
        if self.proving.is_some() {
            return true;
        }
        let walk = self.walk.get_or_insert_with(|| Walk::over(range.usable()));
        match walk.step(now.tick) {
            Step::Wait => false,
            Step::Done => {
                self.walk = None;
                true
            }
            Step::Go { answered, ask } => {
                ask.into_iter().for_each(|address| self.ask(address, now, out));
                let mine = |desk: &Self, address, mac| desk.leases.at(address).is_some_and(|lease| lease.mac == mac);
                for address in answered {
                    if let Use::By(mac) = self.lan.usage(address, now.wall)
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
        matches!(self.scope.mode, Mode::All | Mode::PhonesOnly)
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
            self.stats.alert(AlertCode::DhcpNewServer, text);
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
            self.stats.alert(AlertCode::DhcpRangeShared, reason.clone());
            if self.wanted.mode == Mode::PhonesOnly && self.proof == Some(Ok(())) {
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
                self.stats.alert(AlertCode::DhcpNewServer, format!("{server} has begun to answer DHCP on this LAN"));
            }
            debug!(%server, tftp = ?overheard.tftp, "another DHCP server is on this LAN");
            self.stats.dhcp_servers(self.lan.servers());
            self.settle(now);
        }
    }
}
