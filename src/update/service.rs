//! The updater's task: polls, reports, waits.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;

use super::backoff;
use super::poll_error::PollError;
use super::roll_back::{RollBackError, RolledBack};
use super::updater::Updater;
use access::{Catalog, Opened};
use api::{AlertCode, SiteState};
use ids::Generation;
use status::PollState;

/// Asks for a roll-back. The answer is what was done, or why the site stays on its release.
pub type RollBackRequest = oneshot::Sender<Result<RolledBack, RollBackError>>;

/// What one poll came to.
#[derive(Debug, Clone)]
pub struct PollOutcome {
    /// [`PollError::state`], or [`SiteState::Ok`].
    pub state: SiteState,
    /// The error's text for people; empty if there was none.
    pub reason: String,
    /// The new release, if one was activated.
    pub activated: Option<Arc<Catalog>>,
    /// How long the server asked to be left alone.
    pub retry_after: Option<Duration>,
    /// Whether the next poll backs off.
    pub backs_off: bool,
}

impl From<Result<Option<Arc<Catalog>>, PollError>> for PollOutcome {
    fn from(result: Result<Option<Arc<Catalog>>, PollError>) -> Self {
        match result {
            Ok(activated) => {
                Self { state: SiteState::Ok, reason: String::new(), activated, retry_after: None, backs_off: false }
            }
            Err(error) => Self {
                state: error.state(),
                reason: error.to_string(),
                activated: None,
                retry_after: error.retry_after(),
                backs_off: error.backs_off(),
            },
        }
    }
}

impl Updater {
    /// One poll, and a check-in if there is something to tell or it is time. Tells the statistics. What is served
    /// changes only if a release was activated.
    pub async fn poll_once(&mut self) -> PollOutcome {
        self.poll_and_tell(None).await
    }

    /// [`Updater::poll_once`]; a new release goes to `releases`.
    async fn poll_and_tell(&mut self, releases: Option<&watch::Sender<Arc<Catalog>>>) -> PollOutcome {
        let result = self.poll().await;
        // Before anything is said: the check-in may take as long as HQ likes.
        if let Some(releases) = releases {
            self.hand_over(releases);
        }
        self.line.poll_ended(result.as_ref().err());
        let mut outcome = PollOutcome::from(result);
        self.record(&outcome);
        // Asking the same host again at once would only take as long to fail.
        if outcome.state == SiteState::Unreachable && self.line.is_to_one_host() {
            return outcome;
        }
        if let Err(error) = self.check_in().await {
            tracing::debug!(%error, "check-in failed");
            self.stats.count("update.check-in-failed");
            outcome.retry_after = outcome.retry_after.max(error.retry_after());
        }
        self.tend_sealing_key().await;
        outcome
    }

    /// Hands the active release to whoever serves phones, unless it is served already.
    fn hand_over(&self, releases: &watch::Sender<Arc<Catalog>>) {
        if let Some(active) = self.trust.active()
            && !Arc::ptr_eq(&releases.borrow(), active.catalog())
        {
            releases.send_replace(active.catalog().clone());
        }
    }

    /// Tells the log, the counters, the alerts and the status what a poll came to.
    fn record(&self, outcome: &PollOutcome) {
        match outcome.state {
            SiteState::Ok => tracing::debug!("poll done"),
            SiteState::NoRelease | SiteState::Waiting => tracing::debug!(reason = outcome.reason, "poll done"),
            state => {
                let (state, reason) = (state.code(), &outcome.reason);
                tracing::warn!(state, reason, "poll failed; the site serves what it has");
            }
        }
        self.stats.count(if outcome.state == SiteState::Ok { "update.poll-ok" } else { "update.poll-failed" });
        match outcome.state {
            SiteState::Refused => self.stats.alert(AlertCode::ReleaseRefused, outcome.reason.clone()),
            SiteState::Ok => {
                self.stats.clear_alert(AlertCode::ReleaseRefused);
                self.stats.clear_alert(AlertCode::ReleaseDamaged);
            }
            _ => {}
        }
        self.stats.poll(PollState {
            state: outcome.state,
            reason: outcome.reason.clone(),
            generation: self.trust.active().map_or(Generation(0), Opened::generation),
            clock_synchronised: self.time.synchronised(),
            disk_free_bytes: self.store.free_bytes(),
        });
    }

    /// Polls and tells HQ, again and again, until `stop`. New releases go to `catalog`.
    ///
    /// Between two polls the loop waits for whatever comes first:
    ///
    /// - `stop`: the process ends, and so does the loop.
    /// - `poll_now`: someone asks for a poll (`lineside status --poll`, SIGHUP), or the store has put a damaged object
    ///   aside, which the poll fetches again.
    /// - `roll_backs`: someone at the site goes back by one release. The loop answers and then polls, so that HQ
    ///   hears of it. Once every sender is gone, this arm never comes again.
    /// - the timer: at the start within [`super::UpdaterSettings::start_spread`], or at once if nothing is served;
    ///   then at the site's own moment of each interval, or after a back-off ([`backoff`]).
    ///
    /// A poll waits for HQ, for whoever serves the published tree and for the disk. `stop` ends it at any point; the
    /// disk then holds the old release or the new one. A roll-back is not interrupted. No error ends the loop: what
    /// went wrong is in the statistics, and the next poll tries again.
    pub async fn run(
        mut self,
        catalog: watch::Sender<Arc<Catalog>>,
        poll_now: Arc<Notify>,
        mut roll_backs: mpsc::Receiver<RollBackRequest>,
        stop: CancellationToken,
    ) {
        let mut wait = match self.trust.active() {
            Some(_) => self.settings.start_spread.mul_f64(random()),
            None => Duration::ZERO,
        };
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = poll_now.notified() => {}
                Some(tell) = roll_backs.recv() => {
                    let outcome = self.roll_back().await;
                    self.hand_over(&catalog);
                    // Whoever asked may have gone; the roll-back holds all the same.
                    let _ = tell.send(outcome);
                }
                () = tokio::time::sleep(wait) => {}
            }
            let outcome = tokio::select! {
                () = stop.cancelled() => return,
                outcome = self.poll_and_tell(Some(&catalog)) => outcome,
            };
            self.attempts.polled(outcome.backs_off);
            wait = self.until_next_poll(outcome.retry_after);
        }
    }

    fn until_next_poll(&self, retry_after: Option<Duration>) -> Duration {
        let signed = self.trust.active().and_then(|active| active.manifest().settings.poll_seconds);
        let interval = backoff::interval(signed, self.settings.poll);
        self.attempts.next_poll(interval, self.line.identity().site(), self.time.now(), retry_after, random())
    }
}

/// A random number from 0 up to 1. It is 0.5 if the system has no randomness; sites then spread less.
fn random() -> f64 {
    let mut bytes = [0; 4];
    match getrandom::fill(&mut bytes) {
        Ok(()) => f64::from(u32::from_le_bytes(bytes)) / (f64::from(u32::MAX) + 1.0),
        Err(_) => 0.5,
    }
}
