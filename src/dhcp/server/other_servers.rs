//! What other servers say, and what follows from it for the mode in force.

use std::net::Ipv4Addr;
use std::sync::Arc;

use tracing::debug;

use super::{DhcpServer, Now, Outbox};
use crate::heard::{Answers, Overheard, ServerMessage};
use crate::lan::{Relays, ServerPath};
use crate::message::{MessageKind, Request};
use crate::options::OptionCode;
use crate::proof::device_asked_for;
use crate::scope::ActiveMode;
use api::AlertCode;
use ids::MacAddr;

impl DhcpServer {
    /// Whether other servers are to be asked soon: somebody speaks as a server who is not known as one, or one that is
    /// known did not answer while another did.
    pub fn is_unsure(&self) -> bool {
        self.lan.is_unsure()
    }

    /// Whether people are told of something that they may correct in another server, which its next answer then shows.
    pub fn awaits_correction(&self) -> bool {
        let in_force = self.choice.in_force();
        let is_there = self.lan.has_other_server() || self.lan.unknown_server().is_some();
        is_there && (in_force.problem.is_some() || self.judgement.is_misled())
    }

    /// Another server's message came to the client port.
    pub fn heard(&mut self, message: &ServerMessage, answers: Answers, now: Now) {
        self.phones_only.heard(message, now.tick);
        self.overheard(&message.overheard(answers), now);
    }

    /// Another server has sent this to anybody.
    pub fn overheard(&mut self, overheard: &Overheard, now: Now) {
        let server = overheard.server;
        let own = self.choice.wanted().server();
        if server == own || server.is_broadcast() || server.is_multicast() {
            return;
        }
        // A server without an address cannot be asked, but somebody who cannot be read is there, whatever his address.
        if server.is_unspecified() && overheard.readable {
            return;
        }
        if overheard.nak {
            self.stats.count("dhcp.others.nak");
        }
        if let Some(address) = overheard.address.filter(|address| self.leases_from(*address)) {
            let reason = format!("the server {server} leases addresses of the range itself, such as {address}");
            self.stats.alert(AlertCode::DhcpRangeShared, reason.clone());
            if self.choice.wanted().mode == ActiveMode::PhonesOnly && self.phones_only.outcome() == Some(&Ok(())) {
                self.phones_only.finish(Err(reason));
                self.settle(now);
            }
        }
        let before = (self.lan.known().count(), self.lan.routers(), self.lan.unknown_server());
        let is_news = self.lan.heard(overheard, now.wall);
        if overheard.asked && overheard.relayed {
            self.relay_check.answered(server, now.tick);
        } else if overheard.asked && overheard.address.is_some() && self.link_access.own.is_some() {
            self.relay_check.offered(server, now.tick);
        }
        let after = (self.lan.known().count(), self.lan.routers(), self.lan.unknown_server());
        // What was proven beside the router that was there says nothing about another one at its address.
        if after.0 > before.0 || after.1 != before.1 {
            self.phones_only.begin_anew();
        }
        // At the start servers are found; one that comes later is news for people, unless it is the partner of one that is
        // known: of a pair in failover each answers only some clients.
        if after.0 > before.0 && !self.choice.is_listening() && !self.lan.has_partner(server) {
            self.stats.alert(AlertCode::DhcpNewServer, format!("{server} has begun to answer DHCP on this LAN"));
        }
        if is_news || after.2 != before.2 {
            debug!(%server, readable = overheard.readable, tftp = ?overheard.tftp, "another DHCP server is on this LAN");
            self.stats.dhcp_servers(self.lan.servers());
            self.settle(now);
        }
    }

    /// The server whose offer a client of this LAN takes with this request, if that is not us (RFC 2131 §4.3.2, SELECTING).
    /// Whoever checks or extends a lease may remember a server that is gone.
    pub(super) fn other_server_chosen(&self, request: &Request) -> Option<Ipv4Addr> {
        let scope = self.choice.wanted();
        let own = self.link_access.own?;
        let selects = request.kind == MessageKind::Request
            && request.ciaddr.is_unspecified()
            && request.giaddr.is_unspecified()
            && request.chaddr != device_asked_for(own);
        let server = request.options.address(OptionCode::ServerIdentifier).filter(|_| selects)?;
        (server != scope.server() && is_of_a_machine(server)).then_some(server)
    }

    /// A client took an offer of this server.
    pub(super) fn chose(&mut self, server: Ipv4Addr, now: Now) {
        if self.lan.chose(server, now.wall) {
            debug!(%server, "a device takes the offer of another DHCP server, which has not answered us");
            self.settle(now);
        }
    }

    /// A message of a server has come to the server port: it answers us as a relay agent, or a relay agent that is none.
    pub(super) fn answered_as_relay(&mut self, bytes: &[u8], source: Ipv4Addr, now: Now) {
        if let Some(message) = ServerMessage::parse(bytes) {
            let ours = message.giaddr == self.choice.wanted().server() && self.relay_check.is_ours(message.xid);
            let answers = if ours { Answers::Us(None) } else { Answers::Others };
            return self.overheard(&message.overheard(answers), now);
        }
        if let Some(overheard) = Overheard::unreadable(bytes, source, |xid| self.relay_check.is_ours(xid)) {
            self.overheard(&overheard, now);
        }
    }

    /// A server has answered a question of ours from this address and hardware address. Where it names an address of another
    /// network, it is asked there from now on.
    pub fn answered_from(&mut self, server: Ipv4Addr, source: (Ipv4Addr, MacAddr), now: Now) {
        let path = ServerPath::of(server, source, self.choice.wanted().lan);
        if path.is_some_and(|path| self.lan.answered_from(server, path, now.wall)) {
            debug!(%server, ?path, "this server names an address of another network, and is asked where it answers from");
            self.give_orders(Arc::clone(&self.orders.recalled));
        }
    }

    /// A name to look up, if one is due: a server points phones to it.
    pub fn name_to_resolve(&self, now: Now) -> Option<String> {
        self.lan.name_to_resolve(now.wall)
    }

    /// A name was looked up, and means these machines; none if it was not found.
    pub fn resolved(&mut self, name: &str, addresses: Vec<Ipv4Addr>, now: Now) {
        debug!(name, ?addresses, "a name that a DHCP server points phones to was looked up");
        if self.lan.resolved(name, addresses, now.wall) {
            self.settle(now);
        }
    }

    /// How to reach a server.
    pub fn path_to(&self, server: Ipv4Addr) -> ServerPath {
        self.lan.path_to(server).unwrap_or(ServerPath::Address(server))
    }

    /// A question as a relay agent went to this server in this transaction.
    pub fn asked_as_relay(&mut self, server: Ipv4Addr, xid: u32) {
        self.relay_check.sent(server, xid);
    }

    /// Asks servers as a relay agent, when that is due.
    pub(super) fn ask_as_relay(&mut self, now: Now, out: &mut Outbox) {
        let mut refused = Vec::new();
        out.relay_questions.extend(self.relay_check.step(now.tick, &mut refused));
        for server in refused {
            debug!(%server, "this server answers clients and no relay agents");
            if self.lan.relays(server, Relays::Refused) {
                self.settle(now);
            }
        }
    }

    /// Whether we lease this address, or others of its range.
    fn leases_from(&self, address: Ipv4Addr) -> bool {
        let scope = self.choice.in_force();
        scope.leases() && scope.range.as_ref().is_some_and(|range| range.contains(address))
    }

    /// Other servers have been asked. `carries` says whether the link had a carrier: without one nobody can answer.
    ///
    /// A server that keeps us from leasing is gone sooner than others, because phones get no address meanwhile.
    pub fn asked(&mut self, carries: bool, now: Now) {
        if !carries {
            return self.lan.unplugged(now.wall);
        }
        if self.choice.is_listening() {
            return;
        }
        let is_replaced = self.lan.asked(now.wall);
        let is_silent = self.waits_for_silence() && self.lan.forget_silent(now.wall);
        if is_replaced || is_silent {
            self.server_is_gone(now);
        }
    }

    /// Whether we would lease, were it not for another server.
    fn waits_for_silence(&self) -> bool {
        self.choice.wanted().mode == ActiveMode::All && !self.choice.in_force().leases()
    }

    /// A server that was there is gone. What spoke against `phones-only` may have gone with it.
    pub(super) fn server_is_gone(&mut self, now: Now) {
        if self.phones_only.outcome().is_some_and(Result::is_err) {
            self.phones_only.begin_anew();
        }
        let known: Vec<Ipv4Addr> = self.lan.known().map(|server| server.server).collect();
        self.judgement.pointed.keep(&known);
        self.stats.dhcp_servers(self.lan.servers());
        self.settle(now);
    }

    /// Takes over at which hardware addresses the link shows the other servers. Says whether that is news.
    pub(super) fn see_servers(&mut self) -> bool {
        let Self { lan, leases, .. } = self;
        lan.seen_at(|address| leases.device_at(address))
    }
}

/// Whether a machine can have this address.
const fn is_of_a_machine(address: Ipv4Addr) -> bool {
    !address.is_unspecified() && !address.is_broadcast() && !address.is_multicast() && !address.is_loopback()
}
