//! The updater's task: polls, reports, waits.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;

use super::attempts::Attempts;
use super::backoff::{self, DEFAULT_POLL};
use super::check_in::Told;
use super::client::{Client, ClientLimits};
use super::clock::{SystemClock, Timekeeper};
use super::identity::Identity;
use super::poll_error::PollError;
use super::roll_back::{RollBackError, RolledBack};
use super::self_check::Checked;
use super::state::{SiteState, UpdateAlert};
use crate::access::{Catalog, Opened};
use crate::api::CheckIn;
use crate::ids::{Digest, Generation, UnixTime};
use crate::status::{PollState, Stats};
use crate::store::{Store, TrustState};
use crate::tuf::Trusted;

/// Where a check-in's report comes from; the nonce is filled in here.
pub type Report = Arc<dyn Fn() -> CheckIn + Send + Sync>;

/// Asks for a roll-back. The answer is what was done, or why the site stays on its release.
pub type RollBackRequest = oneshot::Sender<Result<RolledBack, RollBackError>>;

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

/// What one poll came to.
#[derive(Debug, Clone)]
pub struct PollOutcome {
    /// [`PollError::state`], or [`SiteState::Ok`].
    pub state: SiteState,
    /// Why, for people; empty if ok.
    pub reason: String,
    /// The new release, if one was activated.
    pub activated: Option<Arc<Catalog>>,
    /// How long HQ asked to be left alone.
    pub retry_after: Option<Duration>,
    /// Whether the next poll backs off.
    pub backs_off: bool,
}

/// Keeps one site up to date.
pub struct Updater {
    pub(super) store: Store,
    pub(super) identity: Identity,
    pub(super) settings: UpdaterSettings,
    pub(super) stats: Stats,
    pub(super) report: Report,
    /// Where new releases go while the task runs.
    pub(super) releases: Option<watch::Sender<Arc<Catalog>>>,
    pub(super) time: Timekeeper,
    /// The client, and the digests of the certificates that it was made of.
    pub(super) client: Option<(Client, Vec<Digest>)>,
    /// What is trusted; `None` until the first poll has read it.
    pub(super) trusted: Option<Trusted>,
    pub(super) state: TrustState,
    pub(super) active: Option<Opened>,
    /// The timestamp's entity tag, once all that it stands for is done.
    pub(super) etag: Option<String>,
    pub(super) fresh_at: Option<UnixTime>,
    pub(super) checked: Checked,
    pub(super) attempts: Attempts,
    /// What HQ was told last.
    pub(super) told: Option<Told>,
    /// When a renewal was last tried, in monotonic time.
    pub(super) renewal_tried: Option<Duration>,
    /// Whether the last poll was refused in a way that a new certificate may mend.
    pub(super) refused: bool,
}

impl Updater {
    /// An updater for an enrolled site. `clock` is [`super::HostClock`] outside tests. Nothing is read or sent yet.
    pub fn new(
        store: Store,
        identity: Identity,
        settings: UpdaterSettings,
        stats: Stats,
        clock: Box<dyn SystemClock>,
        report: Report,
    ) -> Self {
        Self {
            store,
            identity,
            settings,
            stats,
            report,
            releases: None,
            time: Timekeeper::new(Arc::from(clock), None),
            client: None,
            trusted: None,
            state: TrustState::default(),
            active: None,
            etag: None,
            fresh_at: None,
            checked: Checked::new(),
            attempts: Attempts::default(),
            told: None,
            renewal_tried: None,
            refused: false,
        }
    }

    /// What [`super::load_active`] found, so that it is not verified a second time.
    #[must_use]
    pub fn with_active(mut self, active: Option<Opened>) -> Self {
        self.active = active;
        self
    }

    /// The trusted time, for whoever else needs it.
    pub fn time(&self) -> &Timekeeper {
        &self.time
    }

    /// One poll, and a check-in if there is something to tell or it is time. Tells the statistics; changes nothing that is served unless a release was activated.
    pub async fn poll_once(&mut self) -> PollOutcome {
        let result = self.poll().await;
        // Before anything is said: the check-in may take as long as HQ likes.
        self.hand_over();
        let (activated, error) = match result {
            Ok(activated) => (activated, None),
            Err(error) => (None, Some(error)),
        };
        self.refused = match &error {
            Some(PollError::Fetch(error)) => error.calls_for_renewal(self.time.synchronised()),
            _ => false,
        };
        let mut outcome = PollOutcome {
            state: error.as_ref().map_or(SiteState::Ok, PollError::state),
            reason: error.as_ref().map(ToString::to_string).unwrap_or_default(),
            activated,
            retry_after: error.as_ref().and_then(PollError::retry_after),
            backs_off: error.as_ref().is_some_and(|error| error.backs_off()),
        };
        self.record(&outcome);
        // Asking the same host again at once would only take as long to fail.
        let settled = self.identity.settled();
        if outcome.state == SiteState::Unreachable && settled.hq == settled.repository {
            return outcome;
        }
        if let Err(error) = self.check_in().await {
            tracing::debug!(%error, "check-in failed");
            self.stats.count("update.check-in-failed");
            outcome.retry_after = outcome.retry_after.max(error.retry_after());
        }
        outcome
    }

    /// What is active is what is served.
    fn hand_over(&self) {
        if let (Some(releases), Some(active)) = (&self.releases, &self.active)
            && !Arc::ptr_eq(&releases.borrow(), active.catalog())
        {
            releases.send_replace(active.catalog().clone());
        }
    }

    fn record(&self, outcome: &PollOutcome) {
        match outcome.state {
            SiteState::Ok => tracing::debug!("poll done"),
            SiteState::NoRelease | SiteState::Waiting => tracing::debug!(reason = outcome.reason, "poll done"),
            state => tracing::warn!(
                state = state.code(),
                reason = outcome.reason,
                "poll failed; the site serves what it has"
            ),
        }
        self.stats.count(if outcome.state == SiteState::Ok { "update.poll-ok" } else { "update.poll-failed" });
        match outcome.state {
            SiteState::Refused => self.stats.alert(UpdateAlert::ReleaseRefused.code(), outcome.reason.clone()),
            SiteState::Ok => {
                self.stats.clear_alert(UpdateAlert::ReleaseRefused.code());
                self.stats.clear_alert(UpdateAlert::ReleaseDamaged.code());
            }
            _ => {}
        }
        self.stats.poll(PollState {
            at: self.time.now(),
            state: outcome.state.code(),
            reason: outcome.reason.clone(),
            generation: self.active.as_ref().map_or(Generation(0), Opened::generation),
            fresh_at: self.fresh_at,
            clock_synchronised: self.time.synchronised(),
            disk_free_bytes: self.store.free_bytes(),
        });
    }

    /// Polls until `stop`: at once, then regularly, and whenever `poll_now` says so. New releases go to `catalog`.
    /// Whoever sends to `roll_backs` has the site go back by one release and hears what came of it.
    pub async fn run(
        mut self,
        catalog: watch::Sender<Arc<Catalog>>,
        poll_now: Arc<Notify>,
        mut roll_backs: mpsc::Receiver<RollBackRequest>,
        stop: CancellationToken,
    ) {
        self.releases = Some(catalog);
        let mut wait = match self.active {
            Some(_) => self.settings.start_spread.mul_f64(random()),
            None => Duration::ZERO,
        };
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = poll_now.notified() => {}
                Some(tell) = roll_backs.recv() => {
                    let outcome = self.roll_back().await;
                    self.hand_over();
                    // Whoever asked may have gone; the roll-back holds all the same. The poll tells HQ.
                    let _ = tell.send(outcome);
                }
                () = tokio::time::sleep(wait) => {}
            }
            let outcome = tokio::select! {
                () = stop.cancelled() => return,
                outcome = self.poll_once() => outcome,
            };
            self.attempts.polled(outcome.backs_off);
            wait = self.until_next_poll(outcome.retry_after);
        }
    }

    fn until_next_poll(&self, retry_after: Option<Duration>) -> Duration {
        let signed = self.active.as_ref().and_then(|active| active.manifest().settings.poll_seconds);
        let interval = backoff::interval(signed, self.settings.poll);
        self.attempts.next_poll(interval, self.identity.site(), self.time.now(), retry_after, random())
    }
}

/// A number from 0 up to 1. Without randomness 0.5, which only means less spread.
fn random() -> f64 {
    let mut bytes = [0; 4];
    match getrandom::fill(&mut bytes) {
        Ok(()) => f64::from(u32::from_le_bytes(bytes)) / (f64::from(u32::MAX) + 1.0),
        Err(_) => 0.5,
    }
}
