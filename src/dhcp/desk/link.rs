//! What the link is asked and says: requests that wait for it, and addresses that are asked for before they are wanted.

use std::net::Ipv4Addr;
use std::sync::PoisonError;

use tracing::debug;

use super::{Desk, Now, Outbox, Waiting};
use crate::arp::Claim;
use crate::leases::State;
use crate::message::Request;
use crate::scope::Mode;
use access::Resolution;
use api::AlertCode;
use bundle::DhcpMode;
use ids::MacAddr;

/// The most requests that wait for the check of an address; further ones are dropped, and their clients repeat them.
pub(super) const MAX_WAITING: usize = 256;
/// The most conflicts that are remembered, not to be reported again.
pub(super) const MAX_CONFLICTS: usize = 64;

impl Desk {
    /// A request waits for what the link says of an address.
    pub(super) fn wait(&mut self, address: Ipv4Addr, request: Request, source: Ipv4Addr, now: Now, out: &mut Outbox) {
        let all: usize = self.waiting.values().map(Vec::len).sum();
        if all >= MAX_WAITING && !self.make_room_for(&request) {
            self.stats.count("dhcp.silent.busy");
            return;
        }
        self.ask(address, now, out);
        let waiting = self.waiting.entry(address).or_default();
        // A client that repeats itself while we wait gets one answer, to what it said last.
        waiting.retain(|(earlier, _)| earlier.chaddr != request.chaddr);
        waiting.push((request, source));
    }

    /// Phones go before whoever else asks, so that a flood does not keep them waiting.
    fn make_room_for(&mut self, request: &Request) -> bool {
        if !self.scope.knows(request.chaddr) {
            return false;
        }
        let scope = &self.scope;
        self.waiting.values_mut().any(|waiting: &mut Waiting| {
            let other = waiting.iter().position(|(waiting, _)| !scope.knows(waiting.chaddr));
            other.map(|place| waiting.swap_remove(place)).is_some()
        })
    }

    pub(super) fn ask(&mut self, address: Ipv4Addr, now: Now, out: &mut Outbox) {
        if self.ahead.ask(address, now.tick) {
            out.checks.push(address);
        }
    }

    /// What the link has said by now, and those who waited for that.
    pub(super) fn hear_link(&mut self, now: Now, out: &mut Outbox) {
        for (address, by) in self.ahead.answered(now.tick) {
            let by = by.or_else(|| self.neighbour(address));
            self.lan.checked(address, by, now.wall);
            for (request, source) in self.waiting.remove(&address).unwrap_or_default() {
                if let Some(mac) = by.filter(|mac| *mac != request.chaddr) {
                    self.report_in_use(address, mac);
                }
                self.decide(request, source, now, out);
            }
        }
    }

    /// Who has an address as the kernel has it, where ARP itself cannot be heard. Otherwise that is no answer: the kernel
    /// goes on naming a device that is gone as long as nobody speaks to it.
    fn neighbour(&self, address: Ipv4Addr) -> Option<MacAddr> {
        if self.senses.arp {
            return None;
        }
        match self.devices.read().unwrap_or_else(PoisonError::into_inner).resolve(address) {
            Resolution::Device(mac) | Resolution::Conflict { seen: mac, .. } => Some(mac),
            Resolution::Unknown => None,
        }
    }

    /// Keeps free addresses known to be silent, so that phones that were never here get their offers at once.
    pub(super) fn look_ahead(&mut self, now: Now, out: &mut Outbox) {
        if !self.looks_ahead() {
            return;
        }
        let Some(range) = self.leases.range() else { return };
        let (lan, leases) = (&self.lan, &self.leases);
        let wants = |address: Ipv4Addr| {
            leases.at(address).is_none_or(|record| !record.holds(now.wall)) && lan.is_due(address, now.wall)
        };
        out.checks.extend(self.ahead.step(range, &wants, now.tick));
    }

    /// Whether addresses are leased here, or will be unless another server shows.
    pub(super) fn looks_ahead(&self) -> bool {
        let may_lease =
            || self.wanted.mode == Mode::All || (self.wanted.wanted == DhcpMode::Auto && self.wanted.range.is_some());
        self.wanted.check_addresses
            && (matches!(self.scope.mode, Mode::All | Mode::PhonesOnly)
                || (self.own.is_some() && may_lease() && !self.lan.has_other_server()))
    }

    /// The link was down. What it said before may be of another LAN.
    pub fn link_was_down(&mut self, now: Now) {
        self.lan.forget_checks();
        self.ahead.hurry(now.tick);
    }

    /// A device claims an address: one that nobody has from us is none to offer, and what two claim (RFC 5227 §2.4) works
    /// for neither.
    pub fn claimed(&mut self, claim: Claim, now: Now) {
        let Claim { mac, address } = claim;
        self.ahead.claimed(address, mac);
        let record = self.leases.at(address).filter(|lease| lease.holds(now.wall));
        if self.leases.range().is_some_and(|range| range.contains(address))
            && record.is_none_or(|lease| lease.mac != mac)
        {
            self.lan.checked(address, Some(mac), now.wall);
        }
        let own = self.own.filter(|_| address == self.wanted.server);
        let text = match (own, record.filter(|lease| lease.state == State::Bound)) {
            (Some(own), _) if own != mac => format!("{mac} claims {address}, which is this appliance's own"),
            (None, Some(lease)) if lease.mac != mac => {
                format!("{mac} claims {address}, which is leased to {}", lease.mac)
            }
            _ => return,
        };
        // Whoever claims an address does so again and again.
        if self.conflicts.insert(claim) {
            debug!("{text}");
            self.stats.alert(AlertCode::DhcpAddressConflict, text);
        }
        while self.conflicts.len() > MAX_CONFLICTS {
            self.conflicts.pop_first();
        }
    }

    pub(super) fn report_in_use(&self, address: Ipv4Addr, mac: MacAddr) {
        debug!(%address, %mac, "an address of the range is in use by a device that does not have it from us");
        self.stats.alert(
            AlertCode::DhcpAddressInUse,
            format!("{address} is in the range but in use, reported by or at {mac}"),
        );
    }
}
