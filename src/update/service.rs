//! The updater's task: polls, reports, waits. And the host's clocks.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;

use super::backoff::{self, DEFAULT_POLL, POLL_BOUNDS};
use super::check_in::Told;
use super::client::{Client, ClientLimits};
use super::clock::{Reading, SystemClock, Timekeeper};
use super::identity::Identity;
use super::poll::PollError;
use super::self_check::Checked;
use access::{Catalog, Opened};
use api::CheckIn;
use ids::{Digest, Generation, UnixTime};
use status::{PollState, Stats};
use store::{Store, TrustState};
use tuf::Trusted;

/// Where a check-in's report comes from; the nonce is filled in here.
pub type Report = Arc<dyn Fn() -> CheckIn + Send + Sync>;

/// Asks for a roll-back; answered with what was done, or why not, for people.
pub type RollBackRequest = oneshot::Sender<Result<String, String>>;

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
    /// `ok`, or [`PollError::code`].
    pub state: &'static str,
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
    /// When the last full refresh ended, in monotonic time.
    pub(super) full_at: Option<Duration>,
    pub(super) fresh_at: Option<UnixTime>,
    pub(super) checked: Checked,
    /// The generation that failed its check, and how often.
    pub(super) failed_checks: Option<(Generation, u32)>,
    /// How many check-ins in a row told of a release that the published tree does not show.
    pub(super) behind: u32,
    /// What HQ was told last.
    pub(super) told: Option<Told>,
    /// When a renewal was last tried, in monotonic time.
    pub(super) renewal_tried: Option<Duration>,
    /// Whether the last poll was refused in a way that a new certificate may mend.
    pub(super) refused: bool,
}

impl Updater {
    /// An updater for an enrolled site. `clock` is [`HostClock`] outside tests. Nothing is read or sent yet.
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
            full_at: None,
            fresh_at: None,
            checked: Checked::new(),
            failed_checks: None,
            behind: 0,
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
            state: error.as_ref().map_or("ok", |error| error.code()),
            reason: error.as_ref().map(ToString::to_string).unwrap_or_default(),
            activated,
            retry_after: error.as_ref().and_then(PollError::retry_after),
            backs_off: error.as_ref().is_some_and(|error| error.backs_off()),
        };
        self.record(&outcome);
        // Asking the same host again at once would only take as long to fail.
        let settled = self.identity.settled();
        if outcome.state == "unreachable" && settled.hq == settled.repository {
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
            "ok" => tracing::debug!("poll done"),
            "no-release" | "waiting" => tracing::debug!(reason = outcome.reason, "poll done"),
            state => tracing::warn!(state, reason = outcome.reason, "poll failed; the site serves what it has"),
        }
        self.stats.count(if outcome.state == "ok" { "update.poll-ok" } else { "update.poll-failed" });
        if outcome.state == "refused" {
            self.stats.alert("release-refused", outcome.reason.clone());
        } else if outcome.state == "ok" {
            self.stats.clear_alert("release-refused");
            self.stats.clear_alert("release-damaged");
        }
        self.stats.poll(PollState {
            at: self.time.now(),
            state: outcome.state,
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
        let mut failures: u32 = 0;
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
                    let _ = tell.send(outcome.map_err(|error| error.to_string()));
                }
                () = tokio::time::sleep(wait) => {}
            }
            let outcome = tokio::select! {
                () = stop.cancelled() => return,
                outcome = self.poll_once() => outcome,
            };
            failures = if outcome.backs_off { failures.saturating_add(1) } else { 0 };
            let site = self.identity.site();
            wait = backoff::next_poll(self.interval(), site, self.time.now(), failures, outcome.retry_after, random());
            tracing::debug!(?wait, failures, "next poll");
        }
    }

    /// The interval that the release asks for, else the setting, within bounds.
    fn interval(&self) -> Duration {
        let signed = self.active.as_ref().and_then(|active| active.manifest().settings.poll_seconds);
        let (least, most) = POLL_BOUNDS;
        match signed {
            Some(seconds) => Duration::from_secs(seconds.into()).clamp(least, most),
            None => self.settings.poll,
        }
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

/// The clocks of the machine that we run on.
#[derive(Debug)]
pub struct HostClock {
    start: Instant,
    synchronised: Synchronised,
}

#[derive(Debug)]
enum Synchronised {
    Assumed(bool),
    Asked(fn() -> bool),
}

impl HostClock {
    /// The host's clocks; `synchronised` tells whether the kernel trusts its own. It is asked at every reading.
    pub fn new(synchronised: fn() -> bool) -> Self {
        Self { start: Instant::now(), synchronised: Synchronised::Asked(synchronised) }
    }

    /// The host's clocks for callers that know better whether they are synchronised.
    pub fn assuming(synchronised: bool) -> Arc<Self> {
        Arc::new(Self { start: Instant::now(), synchronised: Synchronised::Assumed(synchronised) })
    }
}

impl SystemClock for HostClock {
    fn read(&self) -> Reading {
        Reading {
            system: UnixTime::of(SystemTime::now()),
            monotonic: self.start.elapsed(),
            synchronised: match self.synchronised {
                Synchronised::Assumed(assumed) => assumed,
                Synchronised::Asked(ask) => ask(),
            },
        }
    }
}
