//! Deletes from the published tree what nobody needs: objects and metadata of releases that were replaced long ago, and
//! sites that left the fleet directory long ago.
//!
//! Nothing is deleted before [`KEEP`] has passed. Downloads under way, mirrors that lag behind and people who removed
//! the wrong file have that long.

use std::collections::{BTreeMap, HashSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use anyhow::Context as _;

use crate::layout::Layout;
use crate::ledger::{KEEP, Ledger};
use ids::{Digest, SiteId, UnixTime};

/// How often a run looks for what can be deleted.
const EVERY: Duration = Duration::from_secs(86_400);

/// How much was deleted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Collected {
    /// The number of sites that had left the fleet directory.
    pub sites: u64,
    /// The number of files of old releases, without those of the deleted sites.
    pub files: u64,
    /// The size of these files in bytes.
    pub bytes: u64,
}

/// Deletes what nobody needs, unless a run did so within a day. `present` are the sites of the fleet directory.
/// The time is given as releases count it and as the system's clock has it, which set the files' times.
///
/// The caller holds the tree's lock and has switched everything over.
pub fn collect(
    layout: &Layout,
    ledger: &mut Ledger,
    present: &HashSet<&SiteId>,
    (now, clock): (UnixTime, SystemTime),
) -> anyhow::Result<Collected> {
    mark_gone(ledger, present, now);
    collect_known(layout, ledger, (now, clock))
}

/// The same for HQ's host, which does not know what is in the fleet directory: no site leaves there.
///
/// The caller holds the tree's lock and has switched everything over.
pub fn collect_known(
    layout: &Layout,
    ledger: &mut Ledger,
    (now, clock): (UnixTime, SystemTime),
) -> anyhow::Result<Collected> {
    // A time in the future, from a clock that was wrong once, must not stop this for ever.
    if ledger.collected.is_some_and(|last| last <= now && now.since(last) < EVERY) {
        return Ok(Collected::default());
    }
    let mut collected = Collected { sites: forget(layout, ledger, now)?, ..Collected::default() };
    for entry in ledger.sites.values_mut() {
        entry.releases.retain(|release| release.until.is_none_or(|until| now.since(until) < KEEP));
    }
    let mut all_known = true;
    for site in published(layout)? {
        let known = ledger.sites.get(&site).is_some_and(|entry| !entry.releases.is_empty());
        all_known &= known;
        if known {
            replaced(&layout.site_metadata(&site), &role, clock, &mut collected)?;
            replaced(&layout.site_targets(&site), &manifest, clock, &mut collected)?;
        }
    }
    // A site whose objects the ledger does not know may need any object.
    if all_known {
        objects(layout, ledger, clock, &mut collected)?;
    }
    ledger.collected = Some(now);
    Ok(collected)
}

/// Notes in the ledger since when each site is missing from the fleet directory.
fn mark_gone(ledger: &mut Ledger, present: &HashSet<&SiteId>, now: UnixTime) {
    for (site, entry) in &mut ledger.sites {
        if present.contains(site) {
            entry.gone = None;
        } else {
            entry.gone.get_or_insert(now);
        }
    }
}

/// Deletes what was published for sites that are gone for [`KEEP`]. The timestamp goes first, so that no site finds
/// half of a release. Returns how many sites that were.
fn forget(layout: &Layout, ledger: &mut Ledger, now: UnixTime) -> anyhow::Result<u64> {
    let long_gone = |gone: Option<UnixTime>| gone.is_some_and(|gone| now.since(gone) >= KEEP);
    let gone: Vec<SiteId> =
        ledger.sites.values().filter(|entry| long_gone(entry.gone)).map(|entry| entry.site.clone()).collect();
    for site in &gone {
        remove(&layout.site_metadata(site).join("timestamp.json"))?;
        let folder = layout.public_sites().join(site.as_str());
        match fs::remove_dir_all(&folder) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(error).with_context(|| format!("cannot delete {}", folder.display()));
            }
            _ => drop(ledger.sites.remove(site)),
        }
    }
    Ok(u64::try_from(gone.len()).unwrap_or(u64::MAX))
}

fn remove(path: &Path) -> anyhow::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot delete {}", path.display()))
        }
        _ => Ok(()),
    }
}

/// The ids of the sites that have a folder in the published tree.
fn published(layout: &Layout) -> anyhow::Result<Vec<SiteId>> {
    let sites = files(&layout.public_sites())?.into_iter().filter_map(|file| file.name.parse().ok());
    Ok(sites.collect())
}

/// A file or folder of the published tree, with its size and the time when it was written.
struct TreeEntry {
    path: PathBuf,
    name: String,
    bytes: u64,
    written: SystemTime,
}

/// The entries of a folder; empty if there is no such folder.
fn files(folder: &Path) -> anyhow::Result<Vec<TreeEntry>> {
    let unreadable = || format!("cannot read {}", folder.display());
    let listing = match fs::read_dir(folder) {
        Ok(listing) => listing,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error).with_context(unreadable),
    };
    let mut found = Vec::new();
    for entry in listing {
        let entry = entry.with_context(unreadable)?;
        let metadata = entry.metadata().with_context(unreadable)?;
        let Ok(name) = entry.file_name().into_string() else { continue };
        let written = metadata.modified().with_context(unreadable)?;
        found.push(TreeEntry { path: entry.path(), name, bytes: metadata.len(), written });
    }
    Ok(found)
}

/// `clock` is the system's, which also set the files' times. If it was set back, files are deleted later.
fn is_old(written: SystemTime, clock: SystemTime) -> bool {
    clock.duration_since(written).is_ok_and(|age| age >= KEEP)
}

/// Role and version of a metadata file `N.<role>.json`. `None` for roots, which stay for ever because sites follow
/// their chain, and for other names.
fn role(name: &str) -> Option<(String, u64)> {
    let (version, role) = name.strip_suffix(".json")?.split_once('.')?;
    (role != "root").then_some((role.to_owned(), version.parse().ok()?))
}

/// The same for a sealed manifest. Manifests have no version, so all get 0 and their age decides which is the newest.
fn manifest(name: &str) -> Option<(String, u64)> {
    name.strip_suffix(".manifest")?.parse::<Digest>().ok().map(|_| ("manifest".to_owned(), 0))
}

/// Deletes versions of files that were replaced long ago. A version counts as replaced when the next one was written.
fn replaced(
    folder: &Path,
    version_of: &dyn Fn(&str) -> Option<(String, u64)>,
    clock: SystemTime,
    collected: &mut Collected,
) -> anyhow::Result<()> {
    let mut roles: BTreeMap<String, Vec<(u64, TreeEntry)>> = BTreeMap::new();
    for file in files(folder)? {
        if let Some((role, version)) = version_of(&file.name) {
            roles.entry(role).or_default().push((version, file));
        }
    }
    for mut versions in roles.into_values() {
        versions.sort_by_key(|(version, file)| (*version, file.written));
        let next = versions.iter().skip(1).map(|(_, file)| file.written).collect::<Vec<_>>();
        for ((_, file), next) in versions.iter().zip(next) {
            if is_old(next, clock) {
                remove(&file.path)?;
                collected.files += 1;
                collected.bytes = collected.bytes.saturating_add(file.bytes);
            }
        }
    }
    Ok(())
}

/// Deletes objects that no release in the ledger names, and unfinished files, if they are older than [`KEEP`].
fn objects(layout: &Layout, ledger: &Ledger, clock: SystemTime, collected: &mut Collected) -> anyhow::Result<()> {
    let releases = ledger.sites.values().flat_map(|entry| &entry.releases);
    let named: HashSet<&Digest> = releases.flat_map(|release| &release.objects).collect();
    for shelf in files(&layout.public_objects())? {
        for file in files(&shelf.path)? {
            let unfinished = file.name.starts_with('.');
            let unnamed = file.name.parse::<Digest>().is_ok_and(|digest| !named.contains(&digest));
            if (unfinished || unnamed) && is_old(file.written, clock) {
                remove(&file.path)?;
                collected.files += 1;
                collected.bytes = collected.bytes.saturating_add(file.bytes);
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
