//! The release that is published now, read back and verified by the code that sites run.

use std::collections::BTreeMap;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, anyhow, bail};

use crate::layout::Layout;
use crate::roles::{self, FirmwareKeys};
use access::{ImageApproval, Opened, OpenedManifest};
use bundle::RecipientSecret;
use bundle::limits::MAX_FILE_BYTES;
use ids::{Digest, FleetId, Generation, SiteId, UnixTime};
use tuf::schema::{FIRMWARE, Snapshot, Targets, Timestamp};
use tuf::{Ask, MetadataLimits, PublicKey, Refresh, RefreshStep, Search, SearchStep, Trusted};

/// The largest metadata file that is read, in bytes: above every limit of the sites' client.
pub const MAX_METADATA_BYTES: u64 = 4 * 1024 * 1024;

/// The published release of a site: the metadata that the site would accept if it polled now.
#[derive(Debug)]
pub struct PublishedRelease {
    /// The verified metadata, as the site's client holds it.
    pub trusted: Trusted,
    /// The id of the site.
    pub site: SiteId,
    /// The signed part of its `timestamp.json`.
    pub timestamp: Timestamp,
    /// The signed part of its newest `N.snapshot.json`.
    pub snapshot: Snapshot,
    /// The signed part of its newest `N.targets.json`; its version is the release's generation.
    pub targets: Targets,
}

/// Reads the published metadata of a site; `None` if nothing was published for it.
///
/// Expired metadata is accepted here, because nobody may have run HQ for longer than a timestamp is valid.
pub fn read(layout: &Layout, site: &SiteId) -> anyhow::Result<Option<PublishedRelease>> {
    let metadata = layout.site_metadata(site);
    if !metadata.join("timestamp.json").exists() {
        return Ok(None);
    }
    let first = metadata.join("1.root.json");
    let root = durable::read_regular(&first, MAX_METADATA_BYTES)
        .with_context(|| format!("cannot read {}", first.display()))?;
    let newest = numbered(&metadata, "root")?.last_key_value().map_or(1, |(version, _)| *version);
    let trusted = refresh(&metadata, &root, newest).or_else(|error| {
        // A publisher may have died after it wrote a new root and before it signed a release under it. Then the release
        // under the root before that one counts.
        (1..newest).rev().find_map(|last| refresh(&metadata, &root, last).ok()).ok_or(error)
    });
    let trusted = trusted.with_context(|| {
        format!("what is published for {site} does not verify; put {} back from a copy", metadata.display())
    })?;
    let (Some(timestamp), Some(snapshot), Some(targets)) =
        (trusted.timestamp().cloned(), trusted.snapshot().cloned(), trusted.targets().cloned())
    else {
        bail!("what is published for {site} is incomplete");
    };
    Ok(Some(PublishedRelease { trusted, site: site.clone(), timestamp, snapshot, targets }))
}

/// Runs the sites' client over the files of `metadata`, with roots up to version `last` only, and reads the whole firmware
/// list.
fn refresh(metadata: &Path, root: &[u8], last: u64) -> anyhow::Result<Trusted> {
    let limits = MetadataLimits { targets_bytes: MAX_METADATA_BYTES, ..MetadataLimits::default() };
    let mut refresh = Refresh::start(Trusted::pin(root)?, limits, UnixTime(0));
    while let RefreshStep::Fetch(ask) = refresh.step() {
        let beyond = ask.role == "root" && refresh.trusted().root().version >= last;
        match if beyond { None } else { answer(metadata, &ask)? } {
            Some(bytes) => refresh.received(&bytes)?,
            None => refresh.missing()?,
        }
    }
    // Nothing has this path, so the search ends when it has the list.
    let none = format!("{FIRMWARE}/");
    let mut search = Search::start(refresh.trusted().clone(), &none, limits, UnixTime(0))?;
    while let SearchStep::Fetch(ask) = search.step() {
        match answer(metadata, &ask)? {
            Some(bytes) => search.received(&bytes)?,
            None => search.missing()?,
        }
    }
    Ok(search.trusted().clone())
}

/// The file that the client asks for. `None` if it is not there.
fn answer(metadata: &Path, ask: &Ask) -> anyhow::Result<Option<Vec<u8>>> {
    let path = metadata.join(&ask.path);
    match durable::read_regular(&path, ask.max_bytes) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| format!("cannot read {}", path.display())),
    }
}

impl PublishedRelease {
    /// The release's number: the version of its `targets` metadata.
    pub const fn generation(&self) -> Generation {
        Generation(self.targets.version)
    }

    /// The content hash that its `targets` metadata carries ([`roles::content_of`]).
    pub fn content(&self) -> Option<Digest> {
        roles::content_of(&self.targets)
    }

    /// When its firmware catalogue expires; 1970 if it has none, so that it counts as expired.
    pub fn firmware_expires(&self) -> UnixTime {
        self.trusted.delegated(FIRMWARE).map_or(UnixTime(0), |firmware| firmware.expires)
    }

    /// Whether all of its metadata is signed by the keys that this root names.
    pub fn holds_under(&self, root: &[u8]) -> bool {
        let mut files = self.trusted.files();
        files.insert("root.json".to_owned(), root.to_vec());
        Trusted::reopen(&files).is_ok()
    }

    /// The keys to which its `targets` metadata delegates firmware.
    pub fn firmware_keys(&self) -> FirmwareKeys {
        let delegations = self.targets.delegations.as_ref();
        let role = delegations.and_then(|all| Some((all, all.roles.iter().find(|role| role.name == FIRMWARE)?)));
        let (keys, threshold) = match role {
            Some((all, role)) => {
                let known = role.keyids.iter().filter_map(|id| PublicKey::from_json(id, all.keys.get(id)?));
                (known.collect(), role.threshold)
            }
            None => (Vec::new(), 0),
        };
        FirmwareKeys { keys, threshold }
    }

    /// Whether its firmware catalogue lists a file of this digest and size; an image of the appliance as this one.
    pub fn lists_firmware(&self, digest: &Digest, bytes: u64, approval: Option<&ImageApproval>) -> bool {
        let listed = self.trusted.target(&access::firmware_path(digest));
        listed.is_some_and(|target| target.length == bytes && ImageApproval::of(target).as_ref() == approval)
    }

    /// Opens the whole release as the site would, with HQ's recovery key.
    pub fn open(&self, layout: &Layout, fleet: &FleetId, key: &RecipientSecret) -> anyhow::Result<Opened> {
        let target = self
            .trusted
            .target(access::MANIFEST_TARGET)
            .and_then(|target| target.hashes.sha256)
            .ok_or_else(|| anyhow!("the published release of {} names no manifest", self.site))?;
        let path = layout.site_targets(&self.site).join(format!("{target}.manifest"));
        let sealed =
            durable::read_regular(&path, MAX_FILE_BYTES).with_context(|| format!("cannot read {}", path.display()))?;
        let opened = OpenedManifest::open(&self.trusted, &sealed, key, fleet, &self.site)?;
        let release = opened.complete(&self.trusted, &mut |part| {
            let path = layout.object(&part.digest);
            durable::read_regular(&path, MAX_FILE_BYTES).map_err(|error| format!("{}: {error}", path.display()))
        })?;
        Ok(release)
    }
}

/// The content of the files `N.<role>.json` in a folder, by N. Empty if there is no folder.
pub fn numbered(folder: &Path, role: &str) -> anyhow::Result<BTreeMap<u64, Vec<u8>>> {
    let mut found = BTreeMap::new();
    let listing = match fs::read_dir(folder) {
        Ok(listing) => listing,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(found),
        Err(error) => return Err(error).with_context(|| format!("cannot read {}", folder.display())),
    };
    for entry in listing {
        let path = entry.with_context(|| format!("cannot read {}", folder.display()))?.path();
        let number = path
            .file_name()
            .and_then(|name| name.to_str()?.strip_suffix(&format!(".{role}.json"))?.parse::<u64>().ok());
        if let Some(number) = number {
            let bytes = durable::read_regular(&path, MAX_METADATA_BYTES);
            found.insert(number, bytes.with_context(|| format!("cannot read {}", path.display()))?);
        }
    }
    Ok(found)
}

/// The `N.root.json` with the highest N in a directory, if there is one.
pub fn newest_root_path(dir: &Path) -> anyhow::Result<Option<PathBuf>> {
    let entries = match fs::read_dir(dir) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        entries => entries.with_context(|| format!("cannot list {}", dir.display()))?,
    };
    let mut newest: Option<(u64, PathBuf)> = None;
    for entry in entries {
        let entry = entry.with_context(|| format!("cannot list {}", dir.display()))?;
        let name = entry.file_name();
        let version = name.to_str().and_then(|name| name.strip_suffix(".root.json")).and_then(|n| n.parse().ok());
        if let Some(version) = version
            && newest.as_ref().is_none_or(|(other, _)| version > *other)
        {
            newest = Some((version, entry.path()));
        }
    }
    Ok(newest.map(|(_, path)| path))
}
