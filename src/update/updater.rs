//! The updater of one site: its settings and its three parts.

use std::sync::Arc;
use std::time::Duration;

use super::attempts::Attempts;
use super::backoff::DEFAULT_POLL;
use super::client::ClientLimits;
use super::clock::{SystemClock, Timekeeper};
use super::hq_line::{CheckInSource, HqLine};
use super::identity::SiteIdentity;
use super::trust::SiteTrust;
use access::Opened;
use status::Stats;
use store::Store;

/// How to poll.
#[derive(Debug, Clone, Copy)]
pub struct UpdaterSettings {
    /// The interval between polls, unless the release says otherwise.
    pub poll: Duration,
    /// The first poll comes within this time after the start if there is a release to serve: when power returns to a
    /// town, its sites do not all ask in the same second.
    pub start_spread: Duration,
    /// What one poll may take in all.
    pub budget: Duration,
    /// Bounds on each exchange.
    pub client: ClientLimits,
}

impl Default for UpdaterSettings {
    fn default() -> Self {
        Self {
            poll: DEFAULT_POLL,
            start_spread: Duration::from_secs(20),
            budget: Duration::from_secs(30 * 60),
            client: ClientLimits::default(),
        }
    }
}

/// Keeps one site up to date.
pub struct Updater {
    pub(super) settings: UpdaterSettings,
    pub(super) store: Store,
    pub(super) stats: Stats,
    pub(super) time: Timekeeper,
    pub(super) trust: SiteTrust,
    pub(super) line: HqLine,
    pub(super) attempts: Attempts,
}

impl Updater {
    /// An updater for an enrolled site. `clock` is [`super::HostClock`] outside tests. Nothing is read or sent yet.
    pub fn new(
        store: Store,
        identity: SiteIdentity,
        settings: UpdaterSettings,
        stats: Stats,
        clock: Box<dyn SystemClock>,
        report: CheckInSource,
    ) -> Self {
        let time = Timekeeper::new(Arc::from(clock), None);
        let shared = (store.clone(), stats.clone(), time.clone());
        Self {
            trust: SiteTrust::new(store.clone(), stats.clone(), time.clone()),
            line: HqLine::new(identity, shared, settings.client, report),
            attempts: Attempts::default(),
            settings,
            store,
            stats,
            time,
        }
    }

    /// What [`super::load_active`] found, so that it is not verified a second time.
    #[must_use]
    pub fn with_active(mut self, active: Option<Opened>) -> Self {
        self.trust.serve(active);
        self
    }

    /// The trusted time, for whoever else needs it.
    pub fn time(&self) -> &Timekeeper {
        &self.time
    }
}
