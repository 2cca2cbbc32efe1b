//! What this site trusts: signed metadata with its floors, and the release that is served.
//!
//! [`SiteTrust::load`] comes before everything else. What a refresh brings is stored by [`SiteTrust::keep`] before
//! anything is made of it. A release goes through [`SiteTrust::stage`] and then [`SiteTrust::activate`].

use super::client::{blocking, crashed};
use super::clock::Timekeeper;
use super::identity::SiteIdentity;
use super::plan;
use super::poll_error::PollError;
use super::release::{self, LoadError, ManifestTarget, ReleaseStanding};
use super::self_check::{self, CheckError, CheckedContents};
use access::Opened;
use api::AlertCode;
use ids::{Digest, Generation, UnixTime};
use status::Stats;
use store::{Store, StoreError, TrustState};
use tuf::Trusted;

/// What one site trusts and serves.
pub(super) struct SiteTrust {
    store: Store,
    stats: Stats,
    time: Timekeeper,
    /// `None` until [`SiteTrust::load`] has read it.
    known: Option<LoadedTrust>,
    active: Option<Opened>,
    /// The contents of the active release that were found good.
    checked: CheckedContents,
}

/// Metadata that was verified, and the state on disk that it is part of.
struct LoadedTrust {
    metadata: Trusted,
    stored: TrustState,
}

impl SiteTrust {
    /// Trust that was not read yet.
    pub(super) fn new(store: Store, stats: Stats, time: Timekeeper) -> Self {
        Self { store, stats, time, known: None, active: None, checked: CheckedContents::new() }
    }

    /// The verified release that is served.
    pub(super) const fn active(&self) -> Option<&Opened> {
        self.active.as_ref()
    }

    /// A verified release is served from now on.
    pub(super) fn serve(&mut self, release: Option<Opened>) {
        self.active = release;
    }

    /// Signed metadata was found current just now.
    pub(super) fn found_current(&self) {
        self.stats.found_current();
    }

    /// The metadata that is trusted.
    pub(super) fn trusted(&self) -> Result<&Trusted, PollError> {
        self.known.as_ref().map(|known| &known.metadata).ok_or_else(nothing_stored)
    }

    /// Whether trusted metadata is current by the trusted time. If it is not, the site still serves its release.
    pub(super) fn current(&self, now: UnixTime) -> Result<(), PollError> {
        match self.trusted()?.expires() {
            expires if expires <= now => Err(PollError::Stale(expires)),
            _ => Ok(()),
        }
    }

    /// What the release that trusted metadata names is to this site.
    pub(super) fn standing(&self, target: &ManifestTarget) -> ReleaseStanding {
        let active = self.active.as_ref().map(|active| (active.generation(), Digest::of(active.sealed_manifest())));
        target.standing(active, self.rejected())
    }

    /// Whether the generation that trusted metadata names was not given up here.
    pub(super) fn not_rejected(&self) -> Result<(), PollError> {
        match self.trusted()?.targets().map(|targets| Generation(targets.version)) {
            Some(generation) if self.rejected().contains(&generation) => Err(self.given_up(generation)),
            _ => Ok(()),
        }
    }

    /// Why a rejected generation is not tried again.
    pub(super) fn given_up(&self, generation: Generation) -> PollError {
        let by_hand = self.known.as_ref().is_some_and(|known| known.stored.left_by_hand.contains(&generation));
        if by_hand { PollError::LeftByHand(generation) } else { PollError::Rejected(generation) }
    }

    fn rejected(&self) -> &[Generation] {
        self.known.as_ref().map_or(&[], |known| &known.stored.rejected)
    }

    /// Reads the trust state and the stored release, once.
    pub(super) async fn load(&mut self, identity: &SiteIdentity) -> Result<(), PollError> {
        if self.known.is_some() {
            return Ok(());
        }
        let (store, identity, load) = (self.store.clone(), identity.clone(), self.active.is_none());
        let loaded = blocking(move || {
            let state = store.trust()?;
            let active = if load { release::load_active(&store, &identity) } else { Ok(None) };
            Ok::<_, StoreError>((state, active))
        });
        let (stored, active) = loaded.await.ok_or_else(crashed)??;
        let stored = stored.ok_or_else(nothing_stored)?;
        // Without its floors nothing may be accepted: an old signed release would pass for a new one.
        let metadata = Trusted::reopen(&stored.metadata).map_err(|error| PollError::TrustLost(error.to_string()))?;
        if let Some(floor) = stored.time_floor {
            self.time.raise(floor, UnixTime(i64::MAX));
        }
        match active {
            Ok(None) => {}
            Ok(active) => self.active = active,
            Err(LoadError::Store(error @ StoreError::Io { .. })) => return Err(error.into()),
            Err(error) => {
                tracing::warn!(%error, "the stored release is not served");
                self.stats.alert(AlertCode::ReleaseDamaged, error.to_string());
            }
        }
        // A stored floor knows this release already, or the root has set it below.
        if let (Some(active), None) = (&self.active, stored.time_floor) {
            self.time.raise(active.manifest().created, metadata.root().expires);
        }
        self.known = Some(LoadedTrust { metadata, stored });
        Ok(())
    }

    /// Believes and stores what a refresh left (TUF §5.3.8, §5.4.5, §5.5.7).
    pub(super) async fn keep(&mut self, metadata: Trusted) -> Result<(), PollError> {
        let known = self.known.as_mut().ok_or_else(nothing_stored)?;
        let files = metadata.files();
        let changed = files != known.stored.metadata;
        known.stored.metadata = files;
        known.metadata = metadata;
        if changed { self.save().await } else { Ok(()) }
    }

    /// Gives a generation up for good.
    pub(super) async fn reject(&mut self, generation: Generation) -> Result<(), PollError> {
        let known = self.known.as_mut().ok_or_else(nothing_stored)?;
        plan::reject(&mut known.stored.rejected, generation);
        self.save().await
    }

    /// A person goes back from a generation: it is given up, too.
    pub(super) async fn leave(&mut self, generation: Generation) -> Result<(), PollError> {
        let known = self.known.as_mut().ok_or_else(nothing_stored)?;
        plan::reject(&mut known.stored.left_by_hand, generation);
        self.reject(generation).await
    }

    async fn save(&mut self) -> Result<(), PollError> {
        let known = self.known.as_mut().ok_or_else(nothing_stored)?;
        known.stored.time_floor = Some(self.time.floor());
        let (store, state) = (self.store.clone(), known.stored.clone());
        Ok(blocking(move || store.save_trust(&state)).await.ok_or_else(crashed)??)
    }

    /// Stages a release whose objects are all here, and checks its files. Whether they are good is the inner result.
    ///
    /// The check comes before the switch: it reads sealed objects by their digests, as serving does, so it needs no
    /// switch to be meaningful, and a power cut during it leaves the old release active.
    pub(super) async fn stage(&mut self, release: &Opened) -> Result<Result<(), CheckError>, PollError> {
        let files = self.trusted()?.files();
        let (store, release, checked) = (self.store.clone(), release.clone(), self.checked.clone());
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
        Ok(staged.await.ok_or_else(crashed)??.map(|good| self.checked = good))
    }

    /// Whether a staged release has to wait for its activation window. The first release does not wait, nor does one
    /// that is active already and was only damaged.
    pub(super) fn must_wait(&self, release: &Opened, now: UnixTime) -> bool {
        let replaces_another = self.active.is_some() && self.store.active_generation() != Some(release.generation());
        replaces_another && !plan::may_activate(release.manifest().activation_window, now)
    }

    /// Makes a staged release the active one. Objects that neither it nor the one before needs are deleted.
    pub(super) async fn activate(&mut self, release: Opened) -> Result<(), PollError> {
        let generation = release.generation();
        let (store, opened, before) = (self.store.clone(), release.clone(), self.active.clone());
        let activated = blocking(move || {
            store.activate(generation)?;
            let keep: Vec<&Opened> = std::iter::once(&opened).chain(&before).collect();
            match store.collect(&keep) {
                Ok(bytes) => tracing::debug!(bytes, "old objects deleted"),
                Err(error) => tracing::warn!(%error, "old objects stay"),
            }
            Ok::<_, StoreError>(())
        });
        activated.await.ok_or_else(crashed)??;
        tracing::info!(%generation, files = release.manifest().totals.files, "release activated");
        self.active = Some(release);
        self.stats.count("update.activated");
        self.stats.clear_alert(AlertCode::SelfCheck);
        if let Err(error) = self.save().await {
            // The switch is made; the floor is stored with the next change.
            tracing::warn!(%error, "the time floor was not stored");
        }
        Ok(())
    }
}

fn nothing_stored() -> PollError {
    PollError::TrustLost("there is none".to_owned())
}
