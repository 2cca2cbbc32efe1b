//! Signing `timestamp` and `snapshot` metadata anew before it expires. The online key can do this alone; it cannot
//! change what a site gets.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};

use ids::{SiteId, UnixTime};
use repository::layout::Layout;
use repository::published::{self, PublishedRelease};
use repository::tree::{self, Switch};
use repository::{keyring, roles};
use tuf::SigningKey;
use tuf::sign;

/// Signs `timestamp` and, if need be, `snapshot` metadata anew for every published site of which half of its life is
/// over. Returns how many sites that were.
///
/// It needs the `online/` directory and nothing else. So `serve` can run it every day, and metadata does not expire
/// when nobody publishes.
///
/// The caller holds the [`repository::lock::TreeLock`].
pub fn refresh(online: &Path, now: UnixTime) -> anyhow::Result<usize> {
    let layout = Layout::of_online(online);
    let key = keyring::load_signing(&layout.online_key())?;
    let sites = layout.public().join("sites");
    let listing = match fs::read_dir(&sites) {
        Ok(listing) => listing,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(0),
        Err(error) => return Err(error).with_context(|| format!("cannot read {}", sites.display())),
    };
    let mut freshened = 0;
    for entry in listing {
        let entry = entry.with_context(|| format!("cannot read {}", sites.display()))?;
        let Some(site) = entry.file_name().to_str().and_then(|name| name.parse::<SiteId>().ok()) else { continue };
        // If the metadata of one site is damaged, that of the others must still be freshened.
        match freshen_site(&layout, &site, &key, now) {
            Ok(true) => freshened += 1,
            Ok(false) => {}
            Err(error) => tracing::error!(%site, error = format!("{error:#}"), "metadata cannot be freshened; publish"),
        }
    }
    Ok(freshened)
}

fn freshen_site(layout: &Layout, site: &SiteId, key: &SigningKey, now: UnixTime) -> anyhow::Result<bool> {
    let Some(previous) = published::read(layout, site)? else { return Ok(false) };
    let Some((aside, path)) = freshen(layout, &previous, key, now)? else { return Ok(false) };
    tree::switch(&aside, &path)?;
    Ok(true)
}

/// Prepares a fresh timestamp, and writes a fresh snapshot if that is due. `None` if both are fresh enough.
pub fn freshen(
    layout: &Layout,
    previous: &PublishedRelease,
    key: &SigningKey,
    now: UnixTime,
) -> anyhow::Result<Option<Switch>> {
    let old_snapshot = roles::is_near(previous.snapshot.expires, roles::SNAPSHOT_LIFE, 2, now);
    if !old_snapshot && !roles::is_near(previous.timestamp.expires, roles::TIMESTAMP_LIFE, 2, now) {
        return Ok(None);
    }
    let named =
        previous.trusted.root().roles.get("timestamp").is_some_and(|keys| keys.keyids.contains(&key.public().id()));
    if !named {
        bail!("the online key is not the one that the published root names; publish");
    }
    let metadata = layout.site_metadata(&previous.site);
    let mut timestamp = previous.timestamp.clone();
    if old_snapshot {
        let mut snapshot = previous.snapshot.clone();
        snapshot.version = snapshot.version.saturating_add(1);
        snapshot.expires = now.plus(roles::SNAPSHOT_LIFE);
        let bytes = sign::sign(&snapshot, &[key]);
        tree::write_file(&metadata.join(format!("{}.snapshot.json", snapshot.version)), &bytes)?;
        timestamp.meta.insert("snapshot.json".to_owned(), roles::meta((snapshot.version, &bytes)));
    }
    timestamp.version = timestamp.version.saturating_add(1);
    timestamp.expires = now.plus(roles::TIMESTAMP_LIFE);
    let path: PathBuf = metadata.join("timestamp.json");
    let aside = tree::prepare(&path, &sign::sign(&timestamp, &[key]))?;
    Ok(Some((aside, path)))
}
