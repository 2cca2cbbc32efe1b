//! What a site says to HQ besides fetching: renewal and check-in. Neither changes what is served.

use super::check_in::{self, AnswerError, Told};
use super::client::{blocking, crashed};
use super::enrol;
use super::identity::{Identity, IdentityError};
use super::plan;
use super::poll::PollError;
use super::service::Updater;
use api::{CHECK_IN_PATH, Certificate, RENEW_PATH, RenewRequest};
use ids::{Generation, UnixTime};

/// After so many check-ins in a row that tell of a release which the published tree does not show, someone should look.
const BEHIND_ALERT: u32 = 3;

impl Updater {
    /// Asks for a new certificate if it is time. The old one stays in use until the new one is checked and on disk.
    pub(super) async fn renew(&mut self) -> Result<(), PollError> {
        let (now, since) = (self.time.now(), self.renewal_tried.map(|at| self.time.monotonic().saturating_sub(at)));
        if !plan::renewal_due(self.identity.valid(), now, self.refused, since) {
            return Ok(());
        }
        self.renewal_tried = Some(self.time.monotonic());
        let client = self.client()?;
        let unusable = |error: rcgen::Error| IdentityError::Damaged { file: "tls.key", why: error.to_string() };
        let malformed = |error: serde_json::Error| AnswerError::Malformed(error.to_string());
        let key = rcgen::KeyPair::from_pem(self.identity.tls_key()).map_err(unusable)?;
        let csr = enrol::signing_request(&key, self.identity.settled()).map_err(unusable)?;
        let body = serde_json::to_vec(&RenewRequest { csr }).map_err(malformed)?;
        let body = client.post(&format!("{}{RENEW_PATH}", self.identity.settled().hq), body).await?;
        let issued: Certificate = serde_json::from_slice(&body).map_err(malformed)?;
        let (store, identity) = (self.store.clone(), self.identity.clone());
        let renewed: Result<Identity, _> =
            blocking(move || identity.renewed(&store, issued.certificate)).await.ok_or_else(crashed)?;
        self.identity = renewed?;
        self.stats.clear_alert("certificate");
        tracing::info!(until = %self.identity.valid().1, "client certificate renewed");
        Ok(())
    }

    /// Tells HQ what happened here, if anything did or it is time. Its answer can raise the time floor and prove
    /// freshness, nothing else.
    pub(super) async fn check_in(&mut self) -> Result<(), PollError> {
        let mut report = (self.report)();
        let (news, now) = (check_in::news(&report), self.time.monotonic());
        // Whether somebody holds a release back is asked until it is clear.
        if self.behind == 0 && !check_in::due(self.told.as_ref(), &news, now) {
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
        if signed.newest > known {
            // Whoever serves the tree holds it back, or is late: the next poll asks without an entity tag.
            self.etag = None;
            self.behind = self.behind.saturating_add(1);
            if self.behind >= BEHIND_ALERT {
                let text = format!("HQ has published generation {}, the published tree shows {known}", signed.newest);
                self.stats.alert("withheld", text);
            }
        } else {
            self.behind = 0;
            self.fresh_at = Some(self.time.now());
            self.stats.clear_alert("withheld");
        }
        let stored = self.state.time_floor.unwrap_or(UnixTime(0));
        if self.time.floor().since(stored) >= plan::FLOOR_STEP {
            self.save_state().await?;
        }
        Ok(())
    }
}
