//! The line to HQ: the HTTPS client with this site's certificate, and what HQ was told last.
//!
//! Nothing here changes what is served.

use std::sync::Arc;
use std::time::Duration;

use super::anchors;
use super::check_in::{self, AnswerError, LastCheckIn};
use super::client::{Client, ClientLimits, blocking, crashed};
use super::clock::Timekeeper;
use super::identity::SiteIdentity;
use super::plan;
use super::poll_error::PollError;
use super::tls::Anchors;
use api::{AlertCode, CHECK_IN_PATH, Certificate, CheckIn, RENEW_PATH, RenewRequest, SignedTime, SiteState};
use bundle::HqAddress;
use ids::{Digest, UnixTime};
use status::Stats;
use store::Store;
use tuf::schema::Root;

/// Where a check-in's report comes from. The nonce is filled in here.
pub type CheckInSource = Arc<dyn Fn() -> CheckIn + Send + Sync>;

/// One site's side of the line to HQ, and to whoever serves the published tree.
pub(super) struct HqLine {
    identity: SiteIdentity,
    store: Store,
    stats: Stats,
    time: Timekeeper,
    limits: ClientLimits,
    /// Where the active release says that HQ is, if that is elsewhere than the token said.
    signed: Option<HqAddress>,
    /// Whether what the token said is in use all the same, as HQ was not reached where the release says.
    as_enrolled: bool,
    client: Option<MadeClient>,
    /// The timestamp's entity tag, once all that it stands for is done.
    etag: Option<String>,
    renewal: Renewal,
    report: CheckInSource,
    /// What HQ was told last.
    last_check_in: Option<LastCheckIn>,
}

/// A client, and the digests of the certificates that it was made of.
struct MadeClient {
    client: Client,
    of: Vec<Digest>,
}

/// What is known about renewing the client certificate.
#[derive(Default)]
struct Renewal {
    /// When it was last tried, in monotonic time.
    tried_at: Option<Duration>,
    /// Whether the last poll was refused in a way that a new certificate may mend.
    may_help: bool,
}

impl HqLine {
    /// A line that nothing was sent over yet.
    pub(super) fn new(
        identity: SiteIdentity,
        (store, stats, time): (Store, Stats, Timekeeper),
        limits: ClientLimits,
        report: CheckInSource,
    ) -> Self {
        let (client, etag, renewal, last_check_in) = (None, None, Renewal::default(), None);
        let (signed, as_enrolled) = (None, false);
        Self { identity, store, stats, time, limits, signed, as_enrolled, client, etag, renewal, report, last_check_in }
    }

    /// The active release says where HQ is.
    pub(super) fn follow(&mut self, told: Option<&HqAddress>) {
        let settled = self.identity.settled();
        let elsewhere = told.filter(|told| told.url != settled.hq || repository(told) != settled.repository);
        if self.signed.as_ref() != elsewhere {
            self.signed = elsewhere.cloned();
            self.as_enrolled = false;
            self.etag = None;
        }
    }

    /// Where HQ's service is.
    fn hq(&self) -> &str {
        match &self.signed {
            Some(signed) if !self.as_enrolled => &signed.url,
            _ => &self.identity.settled().hq,
        }
    }

    /// Where the published tree is.
    pub(super) fn repository(&self) -> &str {
        match &self.signed {
            Some(signed) if !self.as_enrolled => repository(signed),
            _ => &self.identity.settled().repository,
        }
    }

    /// Who this site is, with the certificate that is in use.
    pub(super) const fn identity(&self) -> &SiteIdentity {
        &self.identity
    }

    /// Whether HQ itself serves the published tree.
    pub(super) fn is_to_one_host(&self) -> bool {
        self.hq() == self.repository()
    }

    /// The entity tag to ask for the timestamp with.
    pub(super) fn etag(&self) -> Option<&str> {
        self.etag.as_deref()
    }

    /// All that follows from the timestamp of this entity tag is done.
    pub(super) fn keep_etag(&mut self, etag: Option<String>) {
        self.etag = etag;
    }

    /// The next poll must look at everything again.
    pub(super) fn forget_etag(&mut self) {
        self.etag = None;
    }

    /// A release was activated: sealing keys that no release on the card needs any more are deleted. If the disk refuses,
    /// the next activation tries again.
    pub(super) async fn drop_unneeded_keys(&mut self) {
        let (store, identity) = (self.store.clone(), self.identity.clone());
        match blocking(move || identity.without_unneeded(&store)).await {
            Some(Ok(identity)) => self.identity = identity,
            Some(Err(error)) => tracing::warn!(%error, "an older sealing key stays on the card"),
            None => {}
        }
    }

    /// The client for the CAs of the trusted root and our certificate, kept until either changes.
    pub(super) fn client(&mut self, root: &Root) -> Result<Client, PollError> {
        let authorities = anchors::authorities(root, self.identity.fleet())?;
        let auth = self.identity.client_auth()?;
        let of: Vec<Digest> = authorities.iter().chain(auth.chain.first()).map(|der| Digest::of(der)).collect();
        if let Some(made) = self.client.as_ref().filter(|made| made.of == of) {
            return Ok(made.client.clone());
        }
        let client = Client::new(Anchors::Pinned(authorities), Some(auth), self.time.clone(), self.limits)?;
        self.client = Some(MadeClient { client: client.clone(), of });
        Ok(client)
    }

    /// A poll has ended. A refusal by HQ may call for a new certificate.
    pub(super) fn poll_ended(&mut self, error: Option<&PollError>) {
        self.renewal.may_help = match error {
            Some(PollError::Fetch(error)) => error.calls_for_renewal(self.time.synchronised()),
            _ => false,
        };
        // A name that HQ does not have, or does not have yet, must not cut a site off.
        let lost = error.is_some_and(|error| matches!(error.state(), SiteState::Unreachable | SiteState::Certificate));
        if self.signed.is_some() && lost {
            self.as_enrolled = !self.as_enrolled;
            self.etag = None;
            tracing::debug!(hq = self.hq(), "the next poll asks here");
        }
    }

    /// Asks for a new certificate if it is time. The old one stays in use until the new one is checked and on disk.
    /// A failure is an alert and stops nothing.
    pub(super) async fn renew_if_due(&mut self, root: &Root) {
        let now = self.time.monotonic();
        let since = self.renewal.tried_at.map(|at| now.saturating_sub(at));
        if !plan::renewal_due(self.identity.valid(), self.time.now(), self.renewal.may_help, since) {
            return;
        }
        self.renewal.tried_at = Some(now);
        match self.renew(root).await {
            Ok(until) => {
                tracing::info!(%until, "client certificate renewed");
                self.stats.clear_alert(AlertCode::Certificate);
            }
            Err(error) => {
                tracing::warn!(%error, "the client certificate was not renewed");
                let text = format!("the client certificate was not renewed: {error}");
                self.stats.alert(AlertCode::Certificate, text);
            }
        }
    }

    /// Asks for a certificate for a new key, and returns when it ends.
    async fn renew(&mut self, root: &Root) -> Result<UnixTime, PollError> {
        let malformed = |error: serde_json::Error| AnswerError::Malformed(error.to_string());
        let client = self.client(root)?;
        let (store, identity) = (self.store.clone(), self.identity.clone());
        let (key, csr) = blocking(move || identity.next_tls_key(&store)).await.ok_or_else(crashed)??;
        let request = RenewRequest { csr };
        let answer = client.post(&self.url(RENEW_PATH), serde_json::to_vec(&request).map_err(malformed)?).await?;
        let issued: Certificate = serde_json::from_slice(&answer).map_err(malformed)?;
        let (store, identity) = (self.store.clone(), self.identity.clone());
        let renewed = blocking(move || identity.renewed(&store, key, issued.certificate)).await.ok_or_else(crashed)?;
        self.identity = renewed?;
        Ok(self.identity.valid().1)
    }

    /// Tells HQ what happened here, if anything did, if it is time, or if `asks` wants to hear what HQ has published.
    /// Returns what HQ vouches for; `None` if there was nothing to tell.
    pub(super) async fn check_in(&mut self, root: &Root, asks: bool) -> Result<Option<SignedTime>, PollError> {
        let mut report = (self.report)();
        let (news, now) = (check_in::news(&report), self.time.monotonic());
        if !asks && !check_in::due(self.last_check_in.as_ref(), &news, now) {
            return Ok(None);
        }
        let client = self.client(root)?;
        let nonce = check_in::nonce().ok_or(AnswerError::NoRandomness)?;
        report.nonce.clone_from(&nonce);
        report.time = self.time.of_time_server();
        let alerts = report.alerts.clone();
        let answer = client.post(&self.url(CHECK_IN_PATH), check_in::body(report)).await?;
        let signed = check_in::verify(&answer, root, self.identity.site(), &nonce)?;
        self.stats.told(&alerts);
        self.last_check_in = Some(LastCheckIn { news, at: now });
        Ok(Some(signed))
    }

    fn url(&self, path: &str) -> String {
        format!("{}{path}", self.hq())
    }
}

fn repository(address: &HqAddress) -> &str {
    address.repository.as_ref().unwrap_or(&address.url)
}
