//! What a site says to HQ besides fetching: renewal and check-in. Neither changes what is served.

use super::attempts::PublishedTree;
use super::check_in::{self, AnswerError, Told};
use super::client::{blocking, crashed};
use super::identity::Identity;
use super::plan;
use super::poll_error::PollError;
use super::service::Updater;
use super::state::UpdateAlert;
use crate::api::{CHECK_IN_PATH, Certificate, RENEW_PATH, RenewRequest};
use crate::ids::{Generation, UnixTime};

impl Updater {
    /// Asks for a new certificate if it is time. The old one stays in use until the new one is checked and on disk.
    pub(super) async fn renew(&mut self) -> Result<(), PollError> {
        let (now, since) = (self.time.now(), self.renewal_tried.map(|at| self.time.monotonic().saturating_sub(at)));
        if !plan::renewal_due(self.identity.valid(), now, self.refused, since) {
            return Ok(());
        }
        self.renewal_tried = Some(self.time.monotonic());
        let client = self.client()?;
        let malformed = |error: serde_json::Error| AnswerError::Malformed(error.to_string());
        let csr = self.identity.signing_request()?;
        let body = serde_json::to_vec(&RenewRequest { csr }).map_err(malformed)?;
        let body = client.post(&format!("{}{RENEW_PATH}", self.identity.settled().hq), body).await?;
        let issued: Certificate = serde_json::from_slice(&body).map_err(malformed)?;
        let (store, identity) = (self.store.clone(), self.identity.clone());
        let renewed: Result<Identity, _> =
            blocking(move || identity.renewed(&store, issued.certificate)).await.ok_or_else(crashed)?;
        self.identity = renewed?;
        self.stats.clear_alert(UpdateAlert::Certificate.code());
        tracing::info!(until = %self.identity.valid().1, "client certificate renewed");
        Ok(())
    }

    /// Tells HQ what happened here, if anything did or it is time. Its answer can raise the time floor and prove
    /// freshness, nothing else.
    pub(super) async fn check_in(&mut self) -> Result<(), PollError> {
        let mut report = (self.report)();
        let (news, now) = (check_in::news(&report), self.time.monotonic());
        // Whether somebody holds a release back is asked until it is clear.
        if !self.attempts.is_behind() && !check_in::due(self.told.as_ref(), &news, now) {
            return Ok(());
        }
        let client = self.client()?;
        let nonce = check_in::nonce().ok_or(AnswerError::NoRandomness)?;
        report.nonce.clone_from(&nonce);
        let alerts = report.alerts.clone();
        let url = format!("{}{CHECK_IN_PATH}", self.identity.settled().hq);
        let answer = client.post(&url, check_in::body(report)).await?;
        let trusted = self.trusted()?;
        let root = trusted.root();
        let signed = check_in::verify(&answer, root, self.identity.site(), &nonce)?;
        self.stats.told(&alerts);
        self.time.raise(signed.time, root.expires);
        let known = Generation(trusted.targets().map_or(0, |targets| targets.version));
        self.told = Some(Told { news, at: now });
        match self.attempts.compare(signed.newest, known) {
            PublishedTree::Current => {
                self.fresh_at = Some(self.time.now());
                self.stats.clear_alert(UpdateAlert::Withheld.code());
            }
            // Whoever serves the tree is late, or holds it back: the next poll asks without an entity tag.
            PublishedTree::Behind => self.etag = None,
            PublishedTree::Withheld => {
                self.etag = None;
                let text = format!("HQ has published generation {}, the published tree shows {known}", signed.newest);
                self.stats.alert(UpdateAlert::Withheld.code(), text);
            }
        }
        let stored = self.state.time_floor.unwrap_or(UnixTime(0));
        if self.time.floor().since(stored) >= plan::FLOOR_STEP {
            self.save_state().await?;
        }
        Ok(())
    }
}
