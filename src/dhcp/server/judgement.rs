//! What the server makes of what it has measured: words for people, for as long as they are true.

use std::net::Ipv4Addr;

use super::behind_device::BehindDevice;
use super::completion_watch::CompletionWatch;
use super::lease_trouble;
use super::other_networks::OtherNetworks;
use super::pointed_phones::PointedPhones;
use super::standing_alert::StandingAlert;
use super::{DhcpServer, Now};
use crate::lan::{OtherServer, Points, Relays, unreadable_in_words};
use crate::scope::ActiveMode;
use api::AlertCode;
use status::Stats;

/// What is watched, and the alerts that stand.
#[derive(Debug)]
pub(super) struct Judgement {
    pub(super) networks: OtherNetworks,
    pub(super) completions: CompletionWatch,
    pub(super) behind: BehindDevice,
    pub(super) pointed: PointedPhones,
    behind_device: StandingAlert,
    relay_refused: StandingAlert,
    unreadable: StandingAlert,
    not_completed: StandingAlert,
    other_network: StandingAlert,
    same_client_id: StandingAlert,
    declining: StandingAlert,
    points_elsewhere: StandingAlert,
    /// Whether a server is known to lead phones elsewhere.
    misled: bool,
}

impl Judgement {
    pub(super) fn new(stats: &Stats) -> Self {
        let alert = |code| StandingAlert::new(code, stats);
        Self {
            networks: OtherNetworks::default(),
            completions: CompletionWatch::default(),
            behind: BehindDevice::default(),
            pointed: PointedPhones::default(),
            behind_device: StandingAlert::shared(AlertCode::BehindOneDevice),
            relay_refused: alert(AlertCode::DhcpRelayRefused),
            unreadable: alert(AlertCode::DhcpUnreadableServer),
            not_completed: alert(AlertCode::DhcpNotCompleted),
            other_network: alert(AlertCode::DhcpOtherNetwork),
            same_client_id: alert(AlertCode::DhcpSameClientId),
            declining: alert(AlertCode::DhcpDeclining),
            points_elsewhere: alert(AlertCode::DhcpPointsElsewhere),
            misled: false,
        }
    }

    /// Whether a server is known to lead phones elsewhere.
    pub(super) const fn is_misled(&self) -> bool {
        self.misled
    }

    /// The system clock was set, by so many seconds.
    pub(super) fn shift(&mut self, seconds: i64) {
        self.networks.shift(seconds);
        self.completions.shift(seconds);
        self.behind.shift(seconds);
        self.pointed.shift(seconds);
    }
}

impl DhcpServer {
    /// Judges anew, and tells what has changed.
    pub(super) fn judge(&mut self, now: Now) {
        let Self { judgement, lan, leases, choice, stats, .. } = self;
        let (scope, wall, stats) = (choice.in_force(), now.wall, &*stats);
        let augments = scope.mode == ActiveMode::Augment;
        let ours = &choice.wanted().tftp;

        let refuse = |server: &&OtherServer| server.relays == Relays::Refused && server.points(ours) == Points::Nowhere;
        let servers = lan.known_to(ours);
        let refused =
            servers.iter().filter(refuse).filter(|_| augments).map(|server| relay_refused_in_words(server.server));
        judgement.relay_refused.set(refused, stats);

        let unreadable = lan.unreadable().map(|address| {
            let at = leases.device_at(address).map(|mac| format!(" ({mac})")).unwrap_or_default();
            format!(
                "{}{at}; nothing is leased beside it, and its leases are not completed",
                unreadable_in_words(address)
            )
        });
        judgement.unreadable.set(unreadable, stats);

        let elsewhere = servers.iter().flat_map(|server| {
            let texts = server.vendors_elsewhere(ours);
            texts
                .into_iter()
                .map(|text| format!("{}: {text}, before they ask 66 or 150; correct it there", server.server))
        });
        let misleads = |server: &OtherServer| {
            matches!(server.points(ours), Points::Partly | Points::Elsewhere)
                || !server.vendors_elsewhere(ours).is_empty()
        };
        let misled = servers.iter().any(misleads);
        // What single phones were told goes with it.
        if judgement.misled && !misled {
            judgement.pointed.clear();
        }
        judgement.misled = misled;
        let phones = judgement.pointed.texts(ours, |pointers| lan.meaning(pointers, ours), wall);
        judgement.points_elsewhere.set(elsewhere.chain(phones), stats);

        let refuses_all = refuses_relays(lan.known());
        let not_completed = judgement.completions.texts(lan.has_other_server(), wall);
        judgement.not_completed.set(not_completed.into_iter().filter(|_| augments && !refuses_all), stats);

        judgement.behind_device.set(judgement.behind.texts(wall), stats);
        judgement.other_network.set(judgement.networks.texts(scope, wall), stats);
        judgement.same_client_id.set(lease_trouble::shared_identifiers(leases.table(), wall), stats);
        judgement.declining.set(lease_trouble::declining(leases.table(), wall), stats);
    }
}

/// Whether there are servers, and none of them answers relay agents.
pub(super) fn refuses_relays<'a>(servers: impl Iterator<Item = &'a OtherServer>) -> bool {
    let mut servers = servers.peekable();
    servers.peek().is_some() && servers.all(|server| server.relays == Relays::Refused)
}

fn relay_refused_in_words(server: Ipv4Addr) -> String {
    format!(
        "{server} does not answer relay agents (RouterOS: `relay=0.0.0.0`), so `augment` cannot learn what a \
         phone is about to get, and helps none; enter 66/150 there: `lineside doctor` prints the line"
    )
}
