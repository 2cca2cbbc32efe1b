//! What ARP says, and what is asked by ARP and of other servers before an address is leased.

use std::net::Ipv4Addr;

use tracing::debug;

use super::{CHECK_XID, DhcpServer, Now, Outbox};
use crate::arp::Claim;
use crate::lan::AddressUse;
use crate::scope::ActiveMode;
use api::AlertCode;
use bundle::DhcpMode;
use ids::MacAddr;

impl DhcpServer {
    /// A device claims an address. If the device does not have it from us, we do not offer it.
    pub fn claimed(&mut self, claim: Claim, now: Now) {
        let Claim { mac, address } = claim;
        self.arp_scan.claimed(address, mac);
        let lease = self.leases.holding(address, now.wall);
        let in_range = self.leases.table().range().is_some_and(|range| range.contains(address));
        if in_range && lease.is_none_or(|lease| lease.mac != mac) {
            self.lan.checked(address, Some(mac), now.wall);
        }
        let own = self.link_access.own.map(|own| (self.choice.wanted().server(), own));
        self.conflicts.report(claim, own, lease, &self.stats);
    }

    /// A device spoke in a frame that came from this hardware address: its own, or that of a repeater between it and us.
    pub fn sent_by(&mut self, mac: MacAddr, sender: MacAddr, now: Now) {
        let own = self.link_access.own;
        if Some(mac) == own || Some(sender) == own || !self.choice.wanted().knows(mac) {
            return;
        }
        // People hear of it at the next sweep.
        self.judgement.behind.heard(mac, sender, now.wall);
    }

    /// The link was down. What ARP said before may be of another LAN.
    pub fn link_was_down(&mut self, now: Now) {
        self.lan.forget_checks();
        self.lan.forget_paths();
        self.phones_only.begin_anew();
        self.arp_scan.hurry(now.tick);
    }

    /// Takes what ARP has answered by now, and decides the requests that waited for it.
    pub(super) fn take_arp_answers(&mut self, now: Now, out: &mut Outbox) {
        for (address, by) in self.arp_scan.answered(now.tick) {
            // The kernel goes on naming a device that is gone as long as nobody speaks to it. So its table counts only where
            // ARP itself cannot be heard.
            let by = by.or_else(|| self.leases.device_at(address).filter(|_| !self.link_access.arp));
            self.lan.checked(address, by, now.wall);
            for waiting in self.waiting.take(address) {
                let has_it = |mac: &MacAddr| self.leases.holding(address, now.wall).is_some_and(|it| it.mac == *mac);
                // Who has the address from us may use it: the client that asks is another one with the same identifier.
                if let Some(mac) = by.filter(|mac| *mac != waiting.request.chaddr && !has_it(mac)) {
                    self.report_in_use(address, mac);
                }
                self.decide(waiting, now, out);
            }
        }
    }

    pub(super) fn report_in_use(&self, address: Ipv4Addr, mac: MacAddr) {
        debug!(%address, %mac, "an address of the range is in use by a device that does not have it from us");
        self.stats.alert(
            AlertCode::DhcpAddressInUse,
            format!("{address} is in the range but in use, reported by or at {mac}"),
        );
    }

    /// Goes on with the check of `phones-only`. It begins when the wait for other servers is over, and again when there is
    /// a new one.
    pub(super) fn check_phones_only(&mut self, now: Now, out: &mut Outbox) {
        let wanted = self.choice.wanted();
        let done = self.phones_only.outcome().is_some();
        if wanted.mode != ActiveMode::PhonesOnly || self.choice.is_listening() || done {
            return;
        }
        let (Some(own), Some(range)) = (self.link_access.own, &wanted.range) else { return };
        let (lan, leases) = (&self.lan, self.leases.table());
        let in_use = |address| match lan.usage(address, now.wall) {
            AddressUse::By(mac) if leases.at(address).is_none_or(|lease| lease.mac != mac) => Some(mac),
            _ => None,
        };
        let server = self.lan.known().next().map(|server| server.server);
        let wants = self.phones_only.step((wanted.server(), own), range, (&in_use, server), now.tick);
        wants.addresses.into_iter().for_each(|address| self.ask(address, now, out));
        out.questions.extend(wants.question.map(|(question, mac)| (question, mac, CHECK_XID)));
        if self.phones_only.outcome().is_some() {
            self.settle(now);
        }
    }

    /// Asks by ARP for free addresses before anybody wants them, so that a new phone gets its offer at once.
    pub(super) fn scan_range(&mut self, now: Now, out: &mut Outbox) {
        if !self.scans_ahead() {
            return;
        }
        let Some(range) = self.leases.table().range() else { return };
        let (lan, leases) = (&self.lan, &self.leases);
        let wants = |address: Ipv4Addr| leases.holding(address, now.wall).is_none() && lan.is_due(address, now.wall);
        out.checks.extend(self.arp_scan.step(range, &wants, now.tick));
    }

    /// Whether addresses are leased here, or will be unless another server shows.
    pub(super) fn scans_ahead(&self) -> bool {
        let wanted = self.choice.wanted();
        let may_lease =
            || wanted.mode == ActiveMode::All || (wanted.configured == DhcpMode::Auto && wanted.range.is_some());
        wanted.check_addresses
            && (self.choice.in_force().leases()
                || (self.link_access.own.is_some() && may_lease() && !self.lan.has_other_server()))
    }

    pub(super) fn ask(&mut self, address: Ipv4Addr, now: Now, out: &mut Outbox) {
        if self.arp_scan.ask(address, now.tick) {
            out.checks.push(address);
        }
    }
}
