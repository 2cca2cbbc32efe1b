//! The line to HQ: the HTTPS client with this site's certificate, and what HQ was told last.
//!
//! Nothing here changes what is served.

use std::sync::Arc;
use std::time::Duration;

use super::anchors;
use super::check_in::box_record::BoxRecord;
use super::check_in::told::{Next, ToldState};
use super::check_in::{self, AnswerError, LastCheckIn};
use super::client::{Client, ClientLimits, FetchError, blocking, crashed};
use super::clock::Timekeeper;
use super::identity::SiteIdentity;
use super::plan;
use super::poll_error::PollError;
use super::sealing_key::{self, SealingKeyTerms, SealingKeyWatch};
use super::tls::Anchors;
use access::Catalog;
use api::check_in::report::Grown;
use api::check_in::{PAGE_TYPE, PURPOSE, Page, PageHeader, PageKey, SIGNED_CHECK_IN_PATH, StateMap};
use api::{
    AlertCode, CHECK_IN_PATH, Certificate, CheckIn, MAX_BODY_BYTES, RENEW_PATH, RenewRequest, SEALING_KEY_PATH,
    SignedTime, SiteState,
};
use bundle::HqAddress;
use ids::{Digest, Generation, UnixTime};
use status::Stats;
use store::Store;
use tuf::schema::Root;

/// The most pages of one check-in. A site with more to tell goes on after its next poll.
const MAX_PAGES: u32 = 16;
/// So often HQ may turn a page away in one check-in: it lost its database, this box was copied, and once more.
const MAX_TURNED_AWAY: u32 = 3;
/// A box takes another name so often at most.
const RENAME_EVERY: Duration = Duration::from_secs(3600);
/// The bytes of a page that its header and signature may take.
const HEADER_ROOM: usize = 1024;
/// How long an HQ that does not know signed check-ins is told the others before it is asked again.
const OLD_HQ: Duration = Duration::from_secs(6 * 3600);
/// Counters are told so often at most. They change with every packet, and people look at days.
const COUNTERS_EVERY: Duration = Duration::from_secs(3600);

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
    told_hq: Option<HqAddress>,
    /// Whether what the token said is in use all the same, as HQ was not reached where the release says.
    as_enrolled: bool,
    client: Option<MadeClient>,
    /// The timestamp's entity tag, once all that it stands for is done.
    etag: Option<String>,
    renewal: Renewal,
    /// What is done about the sealing key.
    pub(super) sealing_key: SealingKeyWatch,
    report: CheckInSource,
    /// What HQ was told last.
    last_check_in: Option<LastCheckIn>,
    signed: SignedLine,
}

/// What signed check-ins need to know.
#[derive(Default)]
struct SignedLine {
    /// `None` until it is needed.
    record: Option<BoxRecord>,
    told: ToldState,
    /// Whether HQ has not heard everything yet.
    more: bool,
    /// Until when HQ counts as one that does not know them, in monotonic time.
    old_hq_until: Option<Duration>,
    /// When this box last took another name, in monotonic time.
    renamed_at: Option<Duration>,
    /// The counters as they were told last, and when.
    counters: Option<(Duration, Grown)>,
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
        let (told_hq, as_enrolled, signed) = (None, false, SignedLine::default());
        let sealing_key = SealingKeyWatch::default();
        Self {
            identity,
            store,
            stats,
            time,
            limits,
            told_hq,
            as_enrolled,
            client,
            etag,
            renewal,
            sealing_key,
            report,
            last_check_in,
            signed,
        }
    }

    /// The active release says where HQ is.
    pub(super) fn follow(&mut self, told: Option<&HqAddress>) {
        let settled = self.identity.settled();
        let elsewhere = told.filter(|told| told.url != settled.hq || repository(told) != settled.repository);
        if self.told_hq.as_ref() != elsewhere {
            self.told_hq = elsewhere.cloned();
            self.as_enrolled = false;
            self.etag = None;
        }
    }

    /// Where HQ's service is.
    fn hq(&self) -> &str {
        match &self.told_hq {
            Some(told) if !self.as_enrolled => &told.url,
            _ => &self.identity.settled().hq,
        }
    }

    /// Where the published tree is.
    pub(super) fn repository(&self) -> &str {
        match &self.told_hq {
            Some(told) if !self.as_enrolled => repository(told),
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

    /// A release was activated: a sealing key that waited for it counts now, and keys that no release on the card needs any
    /// more are deleted. If the disk refuses, the next activation tries again, or [`Self::tend_sealing_key`].
    pub(super) async fn settle_sealing_keys(&mut self) {
        let (store, identity) = (self.store.clone(), self.identity.clone());
        match blocking(move || identity.promoted(&store)?.without_unneeded(&store)).await {
            Some(Ok(identity)) => self.identity = identity,
            Some(Err(error)) => tracing::warn!(%error, "an older sealing key stays on the card"),
            None => {}
        }
    }

    /// Does what is due about the sealing key. A failure stops nothing.
    pub(super) async fn tend_sealing_key(&mut self, root: &Root, terms: SealingKeyTerms) {
        if !self.sealing_key.look(terms.generation, self.time.monotonic()) {
            return;
        }
        if let Err(error) = self.state_sealing_key(root, terms).await {
            tracing::warn!(%error, "HQ could not be told of the sealing key");
            self.stats.count("update.sealing-key-failed");
        }
    }

    /// Brings the keys on the card in order, and tells HQ what there is to tell of them.
    async fn state_sealing_key(&mut self, root: &Root, terms: SealingKeyTerms) -> Result<(), PollError> {
        let (store, identity, now) = (self.store.clone(), self.identity.clone(), self.time.now());
        let unopened = self.sealing_key.unopened();
        let work = move || sealing_key::prepare(&store, identity, &terms, now, unopened);
        let (identity, statement) = blocking(work).await.ok_or_else(crashed)??;
        self.identity = identity;
        let Some(statement) = statement else { return Ok(()) };
        let body = serde_json::to_vec(&statement).map_err(|error| AnswerError::Malformed(error.to_string()))?;
        self.client(root)?.post(&self.url(SEALING_KEY_PATH), body).await?;
        tracing::debug!(from = ?statement.from, to = ?statement.to, "HQ was told of the sealing key");
        self.stats.count("update.sealing-key-stated");
        Ok(())
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
        if self.told_hq.is_some() && lost {
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
    /// `served` is the release that phones get. Returns what HQ vouches for; `None` if there was nothing to tell.
    pub(super) async fn check_in(
        &mut self,
        root: &Root,
        served: Option<Arc<Catalog>>,
        asks: bool,
    ) -> Result<Option<SignedTime>, PollError> {
        let report = (self.report)();
        let (news, now) = (check_in::news(&report), self.time.monotonic());
        if !asks && !self.signed.more && !check_in::due(self.last_check_in.as_ref(), &news, now) {
            return Ok(None);
        }
        let mut alerts = report.alerts.clone();
        let signed = match self.tell_signed(root, &report, served, now).await? {
            Some(signed) => signed,
            None => {
                alerts.truncate(check_in::BODY_ALERTS);
                self.tell_unsigned(root, report).await?
            }
        };
        self.stats.told(&alerts);
        self.last_check_in = Some(LastCheckIn { news, at: now });
        Ok(Some(signed))
    }

    /// A check-in of format 1, as each HQ takes it.
    async fn tell_unsigned(&mut self, root: &Root, mut report: CheckIn) -> Result<SignedTime, PollError> {
        let client = self.client(root)?;
        let nonce = check_in::nonce().ok_or(AnswerError::NoRandomness)?;
        report.nonce.clone_from(&nonce);
        report.time = self.time.of_time_server();
        let answer = client.post(&self.url(CHECK_IN_PATH), check_in::body(report)).await?;
        Ok(check_in::verify(&answer, root, self.identity.site(), &nonce)?)
    }

    /// Tells what changed in signed pages. `None` if HQ does not know them, or if this box cannot sign: it tells in the other
    /// format then.
    async fn tell_signed(
        &mut self,
        root: &Root,
        report: &CheckIn,
        served: Option<Arc<Catalog>>,
        now: Duration,
    ) -> Result<Option<SignedTime>, PollError> {
        if self.signed.old_hq_until.is_some_and(|until| now < until) {
            return Ok(None);
        }
        let Some(key) = self.identity.page_key() else { return Ok(None) };
        let time = self.time.of_time_server();
        let generation = served.as_ref().map_or(Generation(0), |catalog| catalog.generation());
        let at = time.unwrap_or_else(|| self.time.now());
        let pulls = self.with_record(move |record| {
            record.pulled(generation, at);
            record.pulls().cloned()
        });
        let Some(pulls) = pulls.await else { return Ok(None) };
        let counters = self.signed.counters(report, now);
        let report = CheckIn { clock_synchronised: time.is_some(), ..report.clone() };
        let state = check_in::state(&report, served.as_deref(), pulls.as_ref(), &counters);
        match self.tell_pages(root, &key, &state, (generation, at)).await {
            Err(PollError::Fetch(FetchError::Status { status: 404 | 405 | 415 | 501, .. })) => {
                self.signed.old_hq_until = Some(now + OLD_HQ);
                self.signed.told.forget();
                self.signed.more = false;
                Ok(None)
            }
            told => told.map(Some),
        }
    }

    /// Sends pages until HQ has the state, or enough was sent for this time.
    async fn tell_pages(
        &mut self,
        root: &Root,
        key: &PageKey,
        state: &StateMap,
        (generation, time): (Generation, UnixTime),
    ) -> Result<SignedTime, PollError> {
        let client = self.client(root)?;
        let (mut pages, mut turned_away) = (0, 0);
        loop {
            pages += 1;
            let draft = self.signed.told.draft(state, MAX_BODY_BYTES - HEADER_ROOM);
            let nonce = check_in::nonce().ok_or(AnswerError::NoRandomness)?;
            let numbered = self.with_record(|record| {
                // The counter first: with it the name may change.
                let counter = record.counter()?;
                Some((record.name().to_owned(), counter))
            });
            let (box_id, counter) = numbered.await.flatten().ok_or(AnswerError::NoRandomness)?;
            let header = PageHeader {
                purpose: PURPOSE.to_owned(),
                fleet: self.identity.fleet().clone(),
                site: self.identity.site().clone(),
                box_id,
                counter,
                base: draft.base,
                generation,
                time,
                nonce: nonce.clone(),
                state: draft.state,
                more: draft.more,
            };
            let more = draft.more;
            let page = Page::sign(header, draft.changes.clone(), key).ok_or(AnswerError::NoRandomness)?;
            self.signed.told.sent(draft, counter);
            // Until HQ has answered there is something to tell.
            self.signed.more = true;
            let answer = client.post_as(PAGE_TYPE, &self.url(SIGNED_CHECK_IN_PATH), page.emit()).await?;
            let answer = check_in::verify_page(&answer, root, self.identity.site(), &nonce)?;
            let next = self.signed.told.answered(&answer);
            match next {
                Next::Taken => self.signed.more = more,
                Next::Again => turned_away += 1,
                Next::Rename => {
                    turned_away += 1;
                    self.rename().await?;
                }
            }
            if turned_away == MAX_TURNED_AWAY {
                return Err(AnswerError::TurnedAway.into());
            }
            if next == Next::Taken && (pages >= MAX_PAGES || !more) {
                let api::check_in::Acknowledgement { purpose, site, nonce, time, newest, .. } = answer;
                return Ok(SignedTime { purpose, site, nonce, time, newest });
            }
        }
    }

    /// Takes another name, which writes to the card: not at every poll, whatever HQ says.
    async fn rename(&mut self) -> Result<(), PollError> {
        let now = self.time.monotonic();
        if self.signed.renamed_at.is_some_and(|at| now.saturating_sub(at) < RENAME_EVERY) {
            return Err(AnswerError::TurnedAway.into());
        }
        self.signed.renamed_at = Some(now);
        self.with_record(BoxRecord::rename).await;
        Ok(())
    }

    /// Does something with the record of this box, which is read at the first call, where it may wait for the disk. `None` if
    /// there is none.
    async fn with_record<T: Send + 'static>(
        &mut self,
        act: impl FnOnce(&mut BoxRecord) -> T + Send + 'static,
    ) -> Option<T> {
        let (record, store) = (self.signed.record.take(), self.store.clone());
        let done = blocking(move || {
            let mut record = record.or_else(|| BoxRecord::load(&store))?;
            let value = act(&mut record);
            Some((record, value))
        });
        let (record, value) = done.await.flatten()?;
        self.signed.record = Some(record);
        Some(value)
    }

    fn url(&self, path: &str) -> String {
        format!("{}{path}", self.hq())
    }
}

impl SignedLine {
    /// The counters to tell: those of the report, or for a time those that were told.
    fn counters(&mut self, report: &CheckIn, now: Duration) -> Grown {
        if let Some((at, counters)) = &self.counters
            && now.saturating_sub(*at) < COUNTERS_EVERY
        {
            return counters.clone();
        }
        let counters = Grown { since: report.grown_since, by: report.grown.clone() };
        self.counters = Some((now, counters.clone()));
        counters
    }
}

fn repository(address: &HqAddress) -> &str {
    address.repository.as_ref().unwrap_or(&address.url)
}
