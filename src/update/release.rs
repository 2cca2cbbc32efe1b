//! From verified metadata to a release that is complete on disk; and back from disk at start-up.

use futures_util::stream::{self, TryStreamExt as _};

use super::client::{Client, FetchError, PARALLEL, blocking, crashed};
use super::identity::SiteIdentity;
use super::plan;
use access::{MANIFEST_TARGET, Opened, OpenedManifest, ReleaseError, UnapprovedRelease};
use bundle::limits::MAX_FILE_BYTES;
use bundle::recipients::{self, Binding, is_named};
use bundle::{ObjectRef, RecipientPublic, RecipientSecret};
use ids::{Digest, FleetId, Generation, SiteId};
use store::{Store, StoreError, StoredRelease};
use tuf::{TrustError, Trusted};

/// Why the stored release cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The disk refused.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Its metadata does not hold.
    #[error("the stored metadata does not hold: {0}")]
    Trust(#[from] TrustError),
    /// It does not open.
    #[error("the stored release does not open: {0}")]
    Release(#[from] ReleaseError),
}

/// The sealed manifest that trusted metadata names: which release a site should serve.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ManifestTarget {
    /// The version of the `targets` metadata.
    pub(super) generation: Generation,
    /// SHA-256 of the sealed bytes.
    pub(super) sha256: Digest,
    /// The signed length.
    pub(super) bytes: u64,
}

/// What a named release is to this site.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ReleaseStanding {
    /// It is served already; damaged objects of it may be missing.
    Active,
    /// It was given up here.
    Rejected,
    /// It is to be fetched and activated.
    New,
}

impl ManifestTarget {
    /// The manifest that `trusted` names.
    pub(super) fn of(trusted: &Trusted) -> Result<Self, ReleaseError> {
        let generation = Generation(trusted.targets().ok_or(ReleaseError::NoManifest)?.version);
        let target = trusted.target(MANIFEST_TARGET).ok_or(ReleaseError::NoManifest)?;
        let sha256 = target.hashes.sha256.ok_or(ReleaseError::NoManifest)?;
        Ok(Self { generation, sha256, bytes: target.length })
    }

    /// What the release is to a site that serves `active`: a generation and the SHA-256 of its sealed manifest.
    pub(super) fn standing(&self, active: Option<(Generation, Digest)>, rejected: &[Generation]) -> ReleaseStanding {
        if active == Some((self.generation, self.sha256)) {
            ReleaseStanding::Active
        } else if rejected.contains(&self.generation) {
            ReleaseStanding::Rejected
        } else {
            ReleaseStanding::New
        }
    }
}

/// The release on disk, verified again from its bytes; `None` if there never was one. It needs no network.
///
/// If the active one is damaged, the one before it is returned (and a warning logged) rather than nothing: the next
/// poll fetches what is missing. Blocks on the disk.
pub fn load_active(store: &Store, identity: &SiteIdentity) -> Result<Option<Opened>, LoadError> {
    let Some(active) = store.active()? else { return Ok(None) };
    let generation = active.generation;
    match reopen(store, identity, active) {
        Ok(opened) => Ok(Some(opened)),
        Err(error) => match load_previous(store, identity) {
            Some(previous) => {
                tracing::warn!(%generation, %error, previous = %previous.generation(), "serving the previous release");
                Ok(Some(previous))
            }
            None => Err(error),
        },
    }
}

/// The release before the active one, if it is whole.
pub(super) fn load_previous(store: &Store, identity: &SiteIdentity) -> Option<Opened> {
    let stored = store.previous().ok()??;
    reopen(store, identity, stored).ok()
}

/// Opens a sealed manifest with whichever key of this site it is sealed to.
pub(super) fn open_manifest(
    trusted: &Trusted,
    sealed: &[u8],
    identity: &SiteIdentity,
) -> Result<OpenedManifest, ReleaseError> {
    let open = |key| OpenedManifest::open(trusted, sealed, key, identity.fleet(), identity.site());
    let mut named = identity.recipients().filter(|key| is_named(sealed, &key.public()) == Some(true));
    // The key that counts is the one whose error is told if none opens the manifest.
    named.find_map(|key| open(key).ok()).map_or_else(|| open(identity.recipient()), Ok)
}

/// Whether the active release on the card opens under this key.
pub(super) fn active_opens(store: &Store, key: &RecipientSecret, fleet: &FleetId, site: &SiteId) -> bool {
    let Ok(Some(StoredRelease { generation, sealed_manifest, .. })) = store.active() else { return false };
    let binding = Binding { fleet: fleet.clone(), site: site.clone(), generation };
    is_named(&sealed_manifest, &key.public()) == Some(true) && recipients::open(&sealed_manifest, key, &binding).is_ok()
}

/// Whether the active release on the card is sealed to this key, as far as its table says.
pub(super) fn active_names(store: &Store, key: &RecipientPublic) -> bool {
    let Ok(Some(active)) = store.active() else { return false };
    is_named(&active.sealed_manifest, key) == Some(true)
}

/// Those of the `older` keys that a release on the card is sealed to while it is not sealed to `current`.
pub(super) fn needed_keys(
    store: &Store,
    current: &RecipientSecret,
    mut older: Vec<RecipientSecret>,
) -> Vec<RecipientSecret> {
    let (Ok(active), Ok(previous)) = (store.active(), store.previous()) else { return older };
    let current = current.public();
    let stored = [active, previous].into_iter().flatten().map(|stored| stored.sealed_manifest);
    let needing: Vec<Vec<u8>> = stored.filter(|sealed| is_named(sealed, &current) == Some(false)).collect();
    older.retain(|key| {
        key.public() != current && needing.iter().any(|sealed| is_named(sealed, &key.public()) == Some(true))
    });
    older
}

fn reopen(store: &Store, identity: &SiteIdentity, stored: StoredRelease) -> Result<Opened, LoadError> {
    let trusted = Trusted::reopen(&stored.metadata)?;
    let manifest = open_manifest(&trusted, &stored.sealed_manifest, identity)?;
    Ok(complete(store, manifest, &trusted)?)
}

/// Opens the parts of a manifest from the store, and leaves open whether their firmware is approved. The store puts a
/// damaged part aside, so that it is fetched again.
pub(super) fn read_parts(
    store: &Store,
    manifest: OpenedManifest,
    trusted: &Trusted,
) -> Result<UnapprovedRelease, ReleaseError> {
    manifest.read_parts(trusted, &mut |part| store.read(&part.digest, part.bytes).map_err(|error| error.to_string()))
}

/// Opens a manifest's parts from the store, firmware approved as the metadata says.
fn complete(store: &Store, manifest: OpenedManifest, trusted: &Trusted) -> Result<Opened, ReleaseError> {
    read_parts(store, manifest, trusted)?.approve(trusted, None)
}

/// Fetches the objects that are not here, if they fit on the disk. Returns how many bytes that were.
pub(super) async fn fetch_missing(
    client: &Client,
    store: &Store,
    repository: &str,
    objects: Vec<ObjectRef>,
) -> Result<u64, FetchError> {
    let disk = store.clone();
    let missing = blocking(move || {
        let missing = plan::missing(objects, |digest, bytes| disk.has(digest, bytes));
        let bytes = plan::total(&missing);
        if bytes > 0 { disk.preflight(bytes).map(|()| missing) } else { Ok(missing) }
    });
    let missing = missing.await.ok_or_else(crashed)??;
    let bytes = plan::total(&missing);
    stream::iter(missing.into_iter().map(Ok))
        .try_for_each_concurrent(PARALLEL, |(digest, bytes)| async move {
            fetch_object(client, store, repository, digest, bytes).await
        })
        .await?;
    Ok(bytes)
}

async fn fetch_object(
    client: &Client,
    store: &Store,
    repository: &str,
    digest: Digest,
    bytes: u64,
) -> Result<(), FetchError> {
    // Sealing adds a tag to each chunk, well below a hundredth.
    let limit = MAX_FILE_BYTES + MAX_FILE_BYTES / 100;
    if bytes > limit {
        return Err(FetchError::TooLarge { limit });
    }
    let disk = store.clone();
    let download = blocking(move || disk.download(&digest, bytes)).await.ok_or_else(crashed)??;
    let download = client.object(&plan::object_url(repository, &digest), bytes, download).await?;
    blocking(move || download.finish()).await.ok_or_else(crashed)??;
    tracing::debug!(%digest, bytes, "object fetched");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_release_is_active_rejected_or_new() {
        let (sha256, other) = (Digest::of(b"manifest"), Digest::of(b"another"));
        let target = ManifestTarget { generation: Generation(7), sha256, bytes: 9 };
        let same = Some((Generation(7), sha256));
        assert_eq!(target.standing(same, &[]), ReleaseStanding::Active);
        // What is served is never given up by its number alone.
        assert_eq!(target.standing(same, &[Generation(7)]), ReleaseStanding::Active);
        assert_eq!(target.standing(Some((Generation(6), other)), &[Generation(7)]), ReleaseStanding::Rejected);
        // HQ published this generation anew, with other content.
        assert_eq!(target.standing(Some((Generation(7), other)), &[]), ReleaseStanding::New);
        assert_eq!(target.standing(None, &[Generation(6)]), ReleaseStanding::New);
    }
}
