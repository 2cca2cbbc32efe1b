//! From verified metadata to a release that is complete on disk; and back from disk at start-up.

use futures_util::stream::{self, TryStreamExt as _};

use super::client::{Client, FetchError, PARALLEL, blocking, crashed};
use super::identity::Identity;
use super::plan;
use access::{Opened, OpenedManifest, ReleaseError};
use bundle::ObjectRef;
use bundle::limits::MAX_FILE_BYTES;
use ids::Digest;
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

/// The release on disk, verified again from its bytes, before there is a network; `None` if there never was one.
///
/// If the active one is damaged, the one before it is returned (and a warning logged) rather than nothing: the next
/// poll fetches what is missing. Blocks on the disk.
pub fn load_active(store: &Store, identity: &Identity) -> Result<Option<Opened>, LoadError> {
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
pub(super) fn load_previous(store: &Store, identity: &Identity) -> Option<Opened> {
    let stored = store.previous().ok()??;
    reopen(store, identity, stored).ok()
}

fn reopen(store: &Store, identity: &Identity, stored: StoredRelease) -> Result<Opened, LoadError> {
    let trusted = Trusted::reopen(&stored.metadata)?;
    let (key, fleet, site) = (identity.recipient(), identity.fleet(), identity.site());
    let manifest = OpenedManifest::open(&trusted, &stored.sealed_manifest, key, fleet, site)?;
    Ok(complete(store, manifest, &trusted)?)
}

/// Opens the parts of a manifest from the store, which puts a damaged part aside, to be fetched again.
pub(super) fn complete(store: &Store, manifest: OpenedManifest, trusted: &Trusted) -> Result<Opened, ReleaseError> {
    manifest.complete(trusted, &mut |part| store.read(&part.digest, part.bytes).map_err(|error| error.to_string()))
}

/// Fetches the objects that are not here, after making sure that they fit. Returns how many bytes that were.
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
