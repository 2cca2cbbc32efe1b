//! One poll, step after step. Whatever fails, phones notice nothing: what is served changes only at the very end.

use std::sync::Arc;
use std::time::Duration;

use super::anchors::{self, AnchorError};
use super::check_in::AnswerError;
use super::client::{Client, FetchError, Fetched, blocking, crashed, within};
use super::fetch_error::store_code;
use super::identity::IdentityError;
use super::plan::{self, FULL_REFRESH_EVERY};
use super::refresh::{RefreshError, TIMESTAMP, refresh};
use super::release::{self, LoadError};
use super::self_check::{self, CheckError};
use super::service::Updater;
use super::tls::{Anchors, TlsError};
use access::{Catalog, MANIFEST_TARGET, Opened, OpenedManifest, ReleaseError};
use bundle::ObjectRef;
use bundle::limits::MAX_MANIFEST_BYTES;
use ids::{Digest, Generation, UnixTime};
use store::{StoreError, TrustState};
use tuf::{Limits, TrustError, Trusted};

/// How often a release may fail to open before its generation is given up.
const CHECK_TRIES: u32 = 3;

/// Why a poll did not end well.
#[derive(Debug, thiserror::Error)]
pub enum PollError {
    /// Something could not be fetched or stored.
    #[error(transparent)]
    Fetch(#[from] FetchError),
    /// Metadata was turned away.
    #[error("{code}: {0}", code = .0.code())]
    Trust(#[from] TrustError),
    /// Metadata is another site's, or does not say whose it is.
    #[error("other-site: {0}")]
    Other(#[from] AnchorError),
    /// The release was turned away.
    #[error("{code}: {0}", code = .0.code())]
    Release(#[from] ReleaseError),
    /// HQ has published nothing for this site.
    #[error("HQ has not published a release for this site yet")]
    NoRelease,
    /// The release in the signed metadata failed its self-check before.
    #[error("generation {0} failed its check here and is not tried again; publish a newer one")]
    Rejected(Generation),
    /// It failed just now.
    #[error("generation {generation} is not activated: {source}")]
    SelfCheck {
        /// Which.
        generation: Generation,
        /// Why.
        source: CheckError,
    },
    /// The activation window is shut.
    #[error("generation {0} is here and waits for the activation window")]
    Waiting(Generation),
    /// Signed metadata is past its expiry.
    #[error("the signed metadata expired at {0}; HQ must sign it again (`lineside-hq publish`)")]
    Stale(UnixTime),
    /// Trust state is gone.
    #[error("the trust state is lost ({0}); enrol this appliance again")]
    TrustLost(String),
    /// The total budget of a poll is used up.
    #[error("the poll took longer than allowed; it goes on where it stopped next time")]
    Budget,
    /// No TLS.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// HQ's answer to a check-in or a renewal cannot be used.
    #[error(transparent)]
    Answer(#[from] AnswerError),
    /// The identity cannot be used.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The disk refused.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl PollError {
    /// The state code for status and check-in: `unreachable`, `certificate`, `http`, `refused`, `stale`,
    /// `no-release`, `rolled-back`, `waiting`, `disk-full`, `disk`, `corrupt`, `missing-object`, `too-large`,
    /// `trust-lost`, `answer`, `identity`.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Fetch(error) => error.code(),
            Self::Trust(TrustError::Expired { .. }) | Self::Stale(_) => "stale",
            Self::Trust(_) | Self::Other(_) | Self::Release(_) => "refused",
            Self::NoRelease => "no-release",
            Self::Rejected(_) | Self::SelfCheck { source: CheckError::WrongContent(_), .. } => "rolled-back",
            Self::SelfCheck { .. } => "corrupt",
            Self::Waiting(_) => "waiting",
            Self::TrustLost(_) => "trust-lost",
            Self::Budget => "unreachable",
            Self::Tls(_) => "certificate",
            Self::Answer(_) => "answer",
            Self::Identity(_) => "identity",
            Self::Store(error) => store_code(error),
        }
    }

    /// How long the server asked to be left alone.
    pub const fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Fetch(error) => error.retry_after(),
            _ => None,
        }
    }

    /// Whether the next poll should come later than usual. Waiting for HQ to publish is not a failure.
    pub const fn backs_off(&self) -> bool {
        !matches!(self, Self::NoRelease | Self::Stale(_) | Self::Waiting(_) | Self::Rejected(_))
    }
}

impl From<RefreshError> for PollError {
    fn from(error: RefreshError) -> Self {
        match error {
            RefreshError::Fetch(error) => error.into(),
            RefreshError::Trust(error) => error.into(),
            RefreshError::Other(error) => error.into(),
        }
    }
}

impl Updater {
    /// One poll without its report. Returns the new release's catalog if one was activated.
    pub(super) async fn poll(&mut self) -> Result<Option<Arc<Catalog>>, PollError> {
        let deadline = self.time.monotonic() + self.settings.budget;
        self.load().await?;
        if let Err(error) = self.renew().await {
            tracing::warn!(%error, "the client certificate was not renewed");
            self.stats.alert("certificate", format!("the client certificate was not renewed: {error}"));
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
        self.full_at = Some(self.time.monotonic());
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
        let generation = Generation(trusted.targets().ok_or(ReleaseError::NoManifest)?.version);
        let target = trusted.target(MANIFEST_TARGET).ok_or(ReleaseError::NoManifest)?;
        let sha256 = target.hashes.sha256.ok_or(ReleaseError::NoManifest)?;
        let same =
            |active: &Opened| active.generation() == generation && Digest::of(active.sealed_manifest()) == sha256;
        if self.active.as_ref().is_some_and(same) {
            self.heal(client, deadline).await?;
            return Ok(None);
        }
        if let Err(rejected) = self.not_rejected(&trusted) {
            self.heal(client, deadline).await?;
            return Err(rejected);
        }

        let repository = self.identity.settled().repository.clone();
        let limit = target.length.min(MAX_MANIFEST_BYTES);
        let url = plan::manifest_url(&repository, self.identity.site(), &sha256);
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
        self.stats.clear_alert("self-check");
        if let Err(error) = self.save_state().await {
            // The switch is made; the floor is stored with the next change.
            tracing::warn!(%error, "the time floor was not stored");
        }
        Ok(catalog)
    }

    /// What a failed check means: wrong content is for good, damage is fetched again a few times.
    async fn failed_check(&mut self, generation: Generation, source: CheckError) -> Result<PollError, StoreError> {
        let tries = match self.failed_checks {
            Some((failed, tries)) if failed == generation => tries + 1,
            _ => 1,
        };
        self.failed_checks = Some((generation, tries));
        // The store has put an object that it could not read aside, so the next poll fetches it again.
        if matches!(source, CheckError::WrongContent(_)) || tries >= CHECK_TRIES {
            plan::reject(&mut self.state.rejected, generation);
            self.save_state().await?;
        }
        self.stats.alert("self-check", format!("generation {generation} failed its check: {source}"));
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

    /// Whether a 304 would not be enough: a day has passed, nothing is served yet, or what we trust has expired.
    fn full_refresh_due(&self, now: UnixTime) -> bool {
        let since = self.full_at.map(|at| self.time.monotonic().saturating_sub(at));
        self.active.is_none() || since.is_none_or(|since| since >= FULL_REFRESH_EVERY) || self.fresh(now).is_err()
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
                self.stats.alert("release-damaged", error.to_string());
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
