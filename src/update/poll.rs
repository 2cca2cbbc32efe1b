//! One poll, step after step. Whatever fails, phones notice nothing: what is served changes only at the very end.

use std::sync::Arc;
use std::time::Duration;

use super::anchors;
use super::attempts::AfterFailedCheck;
use super::client::{Client, FetchError, Fetched, blocking, crashed, within};
use super::plan;
use super::poll_error::PollError;
use super::refresh::{TIMESTAMP, refresh};
use super::release::{self, LoadError, ManifestTarget, Offer};
use super::self_check::{self, CheckError};
use super::service::Updater;
use super::state::UpdateAlert;
use super::tls::Anchors;
use crate::access::{Catalog, Opened, OpenedManifest};
use crate::bundle::ObjectRef;
use crate::bundle::limits::MAX_MANIFEST_BYTES;
use crate::ids::{Digest, Generation, UnixTime};
use crate::store::{StoreError, TrustState};
use crate::tuf::{Limits, Trusted};

impl Updater {
    /// One poll without its report. Returns the new release's catalog if one was activated.
    pub(super) async fn poll(&mut self) -> Result<Option<Arc<Catalog>>, PollError> {
        let deadline = self.time.monotonic() + self.settings.budget;
        self.load().await?;
        if let Err(error) = self.renew().await {
            tracing::warn!(%error, "the client certificate was not renewed");
            let text = format!("the client certificate was not renewed: {error}");
            self.stats.alert(UpdateAlert::Certificate.code(), text);
        }
        let client = self.client()?;
        let now = self.time.now();
        let base = plan::metadata_url(&self.identity.settled().repository, self.identity.site());
        let etag = self.etag.as_deref().filter(|_| !self.full_refresh_due(now));
        let limit = Limits::default().timestamp_bytes;
        let (timestamp, etag) = match client.get(&format!("{base}{TIMESTAMP}"), limit, etag).await? {
            Fetched::NotModified => {
                self.heal(&client, deadline).await?;
                self.not_rejected(self.trusted()?)?;
                return self.fresh(now).map(|()| None);
            }
            Fetched::Missing => return Err(PollError::NoRelease),
            Fetched::Body(bytes, etag) => (bytes, etag),
        };
        self.etag = None;

        let whose = (self.identity.fleet(), self.identity.site());
        let trusted = self.trusted()?.clone();
        let refreshed = refresh(&client, &base, trusted, now, whose, Some(timestamp));
        let refreshed = within(self.left(deadline), refreshed).await.ok_or(PollError::Budget)?;
        self.keep(refreshed.trusted).await?;
        refreshed.result?;
        self.attempts.refreshed(self.time.monotonic());
        self.fresh_at = Some(now);

        let activated = self.release(&client, now, deadline).await;
        // The entity tag stands for all that follows from the timestamp: kept only if there is nothing left to do.
        if matches!(activated, Ok(_) | Err(PollError::Rejected(_))) {
            self.etag = etag;
        }
        let activated = activated?;
        self.fresh(now).map(|()| activated)
    }

    /// Brings the release that trusted metadata names to disk and makes it the active one.
    async fn release(
        &mut self,
        client: &Client,
        now: UnixTime,
        deadline: Duration,
    ) -> Result<Option<Arc<Catalog>>, PollError> {
        let trusted = self.trusted()?.clone();
        let target = ManifestTarget::of(&trusted)?;
        let active = self.active.as_ref().map(|active| (active.generation(), Digest::of(active.sealed_manifest())));
        match target.judge(active, &self.state.rejected) {
            Offer::Active => return self.heal(client, deadline).await.map(|()| None),
            Offer::Rejected => {
                self.heal(client, deadline).await?;
                return Err(PollError::Rejected(target.generation));
            }
            Offer::New => {}
        }

        let repository = self.identity.settled().repository.clone();
        let limit = target.bytes.min(MAX_MANIFEST_BYTES);
        let url = plan::manifest_url(&repository, self.identity.site(), &target.sha256);
        let fetched = within(self.left(deadline), client.get(&url, limit, None)).await.ok_or(PollError::Budget)??;
        let Fetched::Body(sealed, _) = fetched else { return Err(FetchError::Missing(url).into()) };
        let (key, fleet, site) = (self.identity.recipient(), self.identity.fleet(), self.identity.site());
        let manifest = OpenedManifest::open(&trusted, &sealed, key, fleet, site)?;
        self.time.raise(manifest.manifest().created, trusted.root().expires);

        self.fetch(client, manifest.parts().cloned().collect(), deadline).await?;
        let (store, of) = (self.store.clone(), trusted.clone());
        let opened = blocking(move || release::complete(&store, manifest, &of)).await.ok_or_else(crashed)??;
        self.fetch(client, opened.objects(), deadline).await?;
        self.activate(opened, &trusted, now).await.map(Some)
    }

    /// Stages, checks and activates a release whose objects are all here.
    ///
    /// The check comes before the switch: it reads sealed objects by their digests, as serving does, so it needs no
    /// switch to be meaningful, and a power cut during it leaves the old release active.
    async fn activate(&mut self, opened: Opened, trusted: &Trusted, now: UnixTime) -> Result<Arc<Catalog>, PollError> {
        let generation = opened.generation();
        let (store, release, checked, files) =
            (self.store.clone(), opened.clone(), self.checked.clone(), trusted.files());
        // While the disk takes what was written, the processor looks at it.
        let staged = blocking(move || -> Result<_, StoreError> {
            std::thread::scope(|scope| {
                let staging = scope.spawn(|| store.stage(&release, &files));
                let checked = self_check::run(&store, release.catalog(), &checked);
                let staged = staging.join().map_err(|_| crashed())?;
                // What does not open is put aside, and staging may miss it for that.
                if checked.is_ok() { staged.map(|()| checked) } else { Ok(checked) }
            })
        });
        match staged.await.ok_or_else(crashed)?? {
            Ok(good) => self.checked = good,
            Err(source) => return Err(self.failed_check(generation, source).await?),
        }
        // The first release does not wait, nor does one that is active already and was only damaged.
        let may_wait = self.active.is_some() && self.store.active_generation() != Some(generation);
        if may_wait && !plan::may_activate(opened.manifest().activation_window, now) {
            return Err(PollError::Waiting(generation));
        }

        let (store, release, before) = (self.store.clone(), opened.clone(), self.active.clone());
        let activated = blocking(move || {
            store.activate(generation)?;
            let keep: Vec<&Opened> = std::iter::once(&release).chain(&before).collect();
            match store.collect(&keep) {
                Ok(bytes) => tracing::debug!(bytes, "old objects deleted"),
                Err(error) => tracing::warn!(%error, "old objects stay"),
            }
            Ok::<_, StoreError>(())
        });
        activated.await.ok_or_else(crashed)??;
        tracing::info!(%generation, files = opened.manifest().totals.files, "release activated");
        let catalog = opened.catalog().clone();
        self.active = Some(opened);
        self.stats.count("update.activated");
        self.stats.clear_alert(UpdateAlert::SelfCheck.code());
        if let Err(error) = self.save_state().await {
            // The switch is made; the floor is stored with the next change.
            tracing::warn!(%error, "the time floor was not stored");
        }
        Ok(catalog)
    }

    /// What a failed check means: wrong content is for good, damage is fetched again a few times.
    async fn failed_check(&mut self, generation: Generation, source: CheckError) -> Result<PollError, StoreError> {
        match self.attempts.check_failed(generation, &source) {
            // The store has put an object that it could not read aside, so the next poll fetches it again.
            AfterFailedCheck::FetchAgain => {}
            AfterFailedCheck::Reject => {
                plan::reject(&mut self.state.rejected, generation);
                self.save_state().await?;
            }
        }
        let text = format!("generation {generation} failed its check: {source}");
        self.stats.alert(UpdateAlert::SelfCheck.code(), text);
        Ok(PollError::SelfCheck { generation, source })
    }

    /// Whether the generation that trusted metadata names was not given up here.
    fn not_rejected(&self, trusted: &Trusted) -> Result<(), PollError> {
        match trusted.targets().map(|targets| Generation(targets.version)) {
            Some(generation) if self.state.rejected.contains(&generation) => Err(PollError::Rejected(generation)),
            _ => Ok(()),
        }
    }

    /// Fetches what the active release has lost: objects found damaged were put aside by the store.
    async fn heal(&self, client: &Client, deadline: Duration) -> Result<(), PollError> {
        match &self.active {
            Some(active) => self.fetch(client, active.objects(), deadline).await,
            None => Ok(()),
        }
    }

    async fn fetch(&self, client: &Client, objects: Vec<ObjectRef>, deadline: Duration) -> Result<(), PollError> {
        let repository = &self.identity.settled().repository;
        let fetch = release::fetch_missing(client, &self.store, repository, objects);
        let bytes = within(self.left(deadline), fetch).await.ok_or(PollError::Budget)??;
        self.stats.add("update.fetched-bytes", bytes);
        Ok(())
    }

    /// Whether what we trust is current by the trusted time. If not, it is still served.
    fn fresh(&self, now: UnixTime) -> Result<(), PollError> {
        match self.trusted()?.expires() {
            expires if expires <= now => Err(PollError::Stale(expires)),
            _ => Ok(()),
        }
    }

    /// Whether a 304 would not be enough: nothing is served yet, what we trust has expired, or a day has passed.
    fn full_refresh_due(&self, now: UnixTime) -> bool {
        self.active.is_none() || self.fresh(now).is_err() || self.attempts.full_refresh_due(self.time.monotonic())
    }

    /// Reads trust state and the stored release, once.
    pub(super) async fn load(&mut self) -> Result<(), PollError> {
        if self.trusted.is_some() {
            return Ok(());
        }
        let (store, identity, load) = (self.store.clone(), self.identity.clone(), self.active.is_none());
        let loaded = blocking(move || {
            let state = store.trust()?;
            let active = if load { release::load_active(&store, &identity) } else { Ok(None) };
            Ok::<_, StoreError>((state, active))
        });
        let (state, active) = loaded.await.ok_or_else(crashed)??;
        let state = state.ok_or_else(|| PollError::TrustLost("there is none".to_owned()))?;
        // Without its floors nothing may be accepted: an old signed release would pass for a new one.
        let trusted = Trusted::reopen(&state.metadata).map_err(|error| PollError::TrustLost(error.to_string()))?;
        if let Some(floor) = state.time_floor {
            self.time.raise(floor, UnixTime(i64::MAX));
        }
        match active {
            Ok(None) => {}
            Ok(active) => self.active = active,
            Err(LoadError::Store(error @ StoreError::Io { .. })) => return Err(error.into()),
            Err(error) => {
                tracing::warn!(%error, "the stored release is not served");
                self.stats.alert(UpdateAlert::ReleaseDamaged.code(), error.to_string());
            }
        }
        if let Some(active) = &self.active {
            self.time.raise(active.manifest().created, trusted.root().expires);
        }
        (self.state, self.trusted) = (state, Some(trusted));
        Ok(())
    }

    pub(super) fn trusted(&self) -> Result<&Trusted, PollError> {
        self.trusted.as_ref().ok_or_else(|| PollError::TrustLost("there is none".to_owned()))
    }

    /// The client for the trusted root's CAs and our certificate, kept until either changes.
    pub(super) fn client(&mut self) -> Result<Client, PollError> {
        let authorities = anchors::authorities(self.trusted()?.root(), self.identity.fleet())?;
        let mut made_of: Vec<Digest> = authorities.iter().map(|ca| Digest::of(ca)).collect();
        let auth = self.identity.client_auth()?;
        made_of.extend(auth.chain.first().map(|own| Digest::of(own)));
        if let Some((client, _)) = self.client.as_ref().filter(|(_, of)| *of == made_of) {
            return Ok(client.clone());
        }
        let client = Client::new(Anchors::Pinned(authorities), Some(auth), self.time.clone(), self.settings.client)?;
        self.client = Some((client.clone(), made_of));
        Ok(client)
    }

    /// Believes and stores what a refresh left. Stored before anything is made of it (§5.3.8, §5.4.5, §5.5.7).
    async fn keep(&mut self, trusted: Trusted) -> Result<(), PollError> {
        let files = trusted.files();
        let changed = files != self.state.metadata;
        self.state.metadata = files;
        self.trusted = Some(trusted);
        if changed { self.save_state().await } else { Ok(()) }.map_err(PollError::from)
    }

    pub(super) async fn save_state(&mut self) -> Result<(), StoreError> {
        self.state.time_floor = Some(self.time.floor());
        let (store, state): (_, TrustState) = (self.store.clone(), self.state.clone());
        blocking(move || store.save_trust(&state)).await.ok_or_else(crashed)?
    }

    fn left(&self, deadline: Duration) -> Duration {
        deadline.saturating_sub(self.time.monotonic())
    }
}
