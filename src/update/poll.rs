//! One poll and the check-in after it, step after step. Whatever fails, phones notice nothing: what is served changes
//! only at the very end.
//!
//! The functions here are the way through: fetch, refresh, fetch, open, stage, activate. What each step decides is a
//! question to [`super::trust`], [`super::attempts`] or [`super::release`].

use std::sync::Arc;
use std::time::Duration;

use super::attempts::{AfterFailedCheck, PublishedTree};
use super::client::{Client, FetchError, GetOutcome, blocking, crashed, within};
use super::plan;
use super::poll_error::PollError;
use super::refresh::{RefreshError, TIMESTAMP, refresh, search};
use super::release::{self, ManifestTarget, ReleaseStanding};
use super::sealing_key::SealingKeyTerms;
use super::self_check::CheckError;
use super::updater::Updater;
use access::{Catalog, Opened, ReleaseError};
use api::AlertCode;
use bundle::ObjectRef;
use bundle::limits::MAX_MANIFEST_BYTES;
use ids::{Generation, UnixTime};
use tuf::{MetadataLimits, TrustError};

impl Updater {
    /// One poll without its report. Returns the new release's catalog if one was activated.
    pub(super) async fn poll(&mut self) -> Result<Option<Arc<Catalog>>, PollError> {
        let deadline = self.time.monotonic() + self.settings.budget;
        self.trust.load(self.line.identity()).await?;
        self.line.follow(self.trust.active().and_then(|active| active.manifest().settings.hq.as_ref()));
        self.line.renew_if_due(self.trust.trusted()?.root()).await;
        let client = self.line.client(self.trust.trusted()?.root())?;
        let now = self.time.now();
        let base = plan::metadata_url(self.line.repository(), self.line.identity().site());
        let etag = self.line.etag().filter(|_| !self.full_refresh_due(now));
        let limit = MetadataLimits::default().timestamp_bytes;
        let (timestamp, etag) = match client.get(&format!("{base}{TIMESTAMP}"), limit, etag).await? {
            GetOutcome::NotModified => {
                self.heal(&client, deadline).await?;
                self.trust.not_rejected()?;
                self.trust.current(now)?;
                self.trust.found_current();
                return Ok(None);
            }
            GetOutcome::Missing => return Err(PollError::NoRelease),
            GetOutcome::Body(bytes, etag) => (bytes, etag),
        };
        self.line.forget_etag();

        let whose = (self.line.identity().fleet(), self.line.identity().site());
        let trusted = self.trust.trusted()?.clone();
        let refreshed = refresh(&client, &base, trusted, &self.time, whose, Some(timestamp));
        let refreshed = within(self.left(deadline), refreshed).await.ok_or(PollError::Budget)?;
        self.trust.keep(refreshed.trusted).await?;
        refreshed.result?;
        self.attempts.refreshed(self.time.monotonic());
        // A new root may have set the clock.
        let now = self.time.now();
        self.trust.found_current();

        let activated = self.release(&client, now, deadline).await;
        // The entity tag stands for all that follows from the timestamp: kept only if there is nothing left to do.
        if matches!(activated, Ok(_) | Err(PollError::Rejected(_) | PollError::LeftByHand(_))) {
            self.line.keep_etag(etag);
        }
        let activated = activated?;
        self.trust.current(now).map(|()| activated)
    }

    /// Whether a 304 would not be enough: nothing is served yet, what we trust has expired, or a day has passed.
    fn full_refresh_due(&self, now: UnixTime) -> bool {
        self.trust.active().is_none()
            || self.trust.current(now).is_err()
            || self.attempts.full_refresh_due(self.time.monotonic())
    }

    /// Brings the release that trusted metadata names to disk and makes it the active one.
    async fn release(
        &mut self,
        client: &Client,
        now: UnixTime,
        deadline: Duration,
    ) -> Result<Option<Arc<Catalog>>, PollError> {
        let target = ManifestTarget::of(self.trust.trusted()?)?;
        match self.trust.standing(&target) {
            ReleaseStanding::Active => self.heal(client, deadline).await.map(|()| None),
            ReleaseStanding::Rejected => {
                self.heal(client, deadline).await?;
                Err(self.trust.given_up(target.generation))
            }
            ReleaseStanding::New
                if self.trust.active().is_some_and(|active| active.generation() == target.generation) =>
            {
                Err(PollError::SameNumber(target.generation))
            }
            ReleaseStanding::New => {
                let release = self.download(&target, client, now, deadline).await?;
                self.activate(release, now).await.map(Some)
            }
        }
    }

    /// Fetches the sealed manifest and everything that it names, and opens all that is not a file's content.
    async fn download(
        &mut self,
        target: &ManifestTarget,
        client: &Client,
        now: UnixTime,
        deadline: Duration,
    ) -> Result<Opened, PollError> {
        let (trusted, identity) = (self.trust.trusted()?, self.line.identity());
        let url = plan::manifest_url(self.line.repository(), identity.site(), &target.sha256);
        let manifest = client.get(&url, target.bytes.min(MAX_MANIFEST_BYTES), None);
        let fetched = within(self.left(deadline), manifest).await.ok_or(PollError::Budget)??;
        let GetOutcome::Body(sealed, _) = fetched else { return Err(FetchError::Missing(url).into()) };
        let manifest = release::open_manifest(trusted, &sealed, identity);
        self.line.sealing_key.opened(manifest.is_ok());
        let manifest = manifest?;
        self.time.raise(manifest.manifest().created, trusted.root().expires);

        self.fetch(client, manifest.parts().cloned().collect(), deadline).await?;
        let (store, of) = (self.store.clone(), trusted.clone());
        let parts = blocking(move || release::read_parts(&store, manifest, &of)).await.ok_or_else(crashed)??;
        let lapsed = self.fetch_firmware_list(client, parts.firmware_path(), now, deadline).await?;
        let served = lapsed.as_ref().and_then(|_| self.trust.active());
        let opened = match (parts.approve(self.trust.trusted()?, served), lapsed) {
            (Ok(opened), _) => opened,
            (Err(ReleaseError::UnlistedFirmware(_)), Some(lapsed)) => return Err(lapsed.into()),
            (Err(error), _) => return Err(error.into()),
        };
        self.fetch(client, opened.objects(), deadline).await?;
        Ok(opened)
    }

    /// Brings the firmware list that is current, if the release needs one. Returns that it has lapsed: then the images that
    /// are served may stay, so that a list that nobody renewed does not hold configurations up, and no new image comes.
    async fn fetch_firmware_list(
        &mut self,
        client: &Client,
        image: Option<String>,
        now: UnixTime,
        deadline: Duration,
    ) -> Result<Option<RefreshError>, PollError> {
        let Some(image) = image else {
            self.stats.clear_alert(AlertCode::FirmwareListLapsed);
            return Ok(None);
        };
        let base = plan::metadata_url(self.line.repository(), self.line.identity().site());
        let trusted = self.trust.trusted()?.clone();
        let found = within(self.left(deadline), search(client, &base, trusted, now, &image));
        let found = found.await.ok_or(PollError::Budget)?;
        self.trust.keep(found.trusted).await?;
        match found.result {
            Ok(()) => {
                self.stats.clear_alert(AlertCode::FirmwareListLapsed);
                Ok(None)
            }
            Err(lapsed @ RefreshError::Trust(TrustError::Expired { .. })) => {
                self.stats.count("update.firmware-list-lapsed");
                let text = "the firmware list has lapsed: images that are served stay, no new one is taken";
                self.stats.alert(AlertCode::FirmwareListLapsed, text.to_owned());
                Ok(Some(lapsed))
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Stages, checks and activates a release whose objects are all here.
    async fn activate(&mut self, release: Opened, now: UnixTime) -> Result<Arc<Catalog>, PollError> {
        let generation = release.generation();
        if let Err(fault) = self.trust.stage(&release).await? {
            return Err(self.failed_check(generation, fault).await?);
        }
        if self.trust.must_wait(&release, now) {
            return Err(PollError::Waiting(generation));
        }
        let catalog = release.catalog().clone();
        self.trust.activate(release).await?;
        self.line.settle_sealing_keys().await;
        Ok(catalog)
    }

    /// A release has failed its check. Returns the error that the poll ends with.
    async fn failed_check(&mut self, generation: Generation, source: CheckError) -> Result<PollError, PollError> {
        match self.attempts.check_failed(generation, &source) {
            // The store has put an object that it could not read aside, so the next poll fetches it again.
            AfterFailedCheck::FetchAgain => {}
            AfterFailedCheck::Reject => self.trust.reject(generation).await?,
        }
        let text = format!("generation {generation} failed its check: {source}");
        self.stats.alert(AlertCode::SelfCheck, text);
        Ok(PollError::SelfCheck { generation, source })
    }

    /// Does what is due about the sealing key, if the release says to whom a new one is proven.
    pub(super) async fn tend_sealing_key(&mut self) {
        let Some(terms) = self.trust.active().and_then(SealingKeyTerms::of) else { return };
        if let Ok(trusted) = self.trust.trusted() {
            self.line.tend_sealing_key(trusted.root(), terms).await;
        }
    }

    /// Fetches what the active release has lost: objects found damaged were put aside by the store.
    async fn heal(&self, client: &Client, deadline: Duration) -> Result<(), PollError> {
        match self.trust.active() {
            Some(active) => self.fetch(client, active.objects(), deadline).await,
            None => Ok(()),
        }
    }

    async fn fetch(&self, client: &Client, objects: Vec<ObjectRef>, deadline: Duration) -> Result<(), PollError> {
        let repository = self.line.repository();
        let fetch = release::fetch_missing(client, &self.store, repository, objects);
        let bytes = within(self.left(deadline), fetch).await.ok_or(PollError::Budget)??;
        self.stats.add("update.fetched-bytes", bytes);
        Ok(())
    }

    fn left(&self, deadline: Duration) -> Duration {
        deadline.saturating_sub(self.time.monotonic())
    }

    /// Tells HQ what happened here, if anything did or it is time. HQ's answer can set the running clock and show
    /// whether the published tree is the newest, nothing else.
    pub(super) async fn check_in(&mut self) -> Result<(), PollError> {
        let trusted = self.trust.trusted()?;
        let served = self.trust.active().map(|active| Arc::clone(active.catalog()));
        let Some(signed) = self.line.check_in(trusted.root(), served, self.attempts.is_behind()).await? else {
            return Ok(());
        };
        self.time.tell(signed.time, trusted.root().expires);
        let shown = Generation(trusted.targets().map_or(0, |targets| targets.version));
        match self.attempts.compare(signed.newest, shown) {
            PublishedTree::Current => {
                self.trust.found_current();
                self.stats.clear_alert(AlertCode::Withheld);
            }
            // The next poll asks for the timestamp without an entity tag.
            PublishedTree::Behind => self.line.forget_etag(),
            PublishedTree::Withheld => {
                self.line.forget_etag();
                let text = format!("HQ has published generation {}, the published tree shows {shown}", signed.newest);
                self.stats.alert(AlertCode::Withheld, text);
            }
        }
        Ok(())
    }
}
