//! The release that is published now, read back and verified by the code that sites run.

use std::collections::BTreeMap;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, anyhow, bail};

use crate::layout::Layout;
use crate::roles::{self, FirmwareKeys};
use access::{Opened, OpenedManifest};
use bundle::RecipientSecret;
use ids::{Digest, FleetId, Generation, SiteId, UnixTime};
use tuf::schema::{FIRMWARE, Snapshot, Targets, Timestamp};
use tuf::{MetadataLimits, PublicKey, Refresh, RefreshStep, Trusted};

/// Larger than any limit of the client.
const MAX_METADATA_BYTES: u64 = 4 * 1024 * 1024;

/// What a site finds when it polls now.
#[derive(Debug)]
pub struct Previous {
    /// As the site trusts it.
    pub trusted: Trusted,
    /// Whose it is.
    pub site: SiteId,
    /// Its timestamp.
    pub timestamp: Timestamp,
    /// Its snapshot.
    pub snapshot: Snapshot,
    /// Its targets.
    pub targets: Targets,
}

/// Reads the published metadata of a site; `None` if nothing was published for it.
///
/// Expiry does not matter here: HQ may have slept longer than a timestamp lives.
pub fn read(layout: &Layout, site: &SiteId) -> anyhow::Result<Option<Previous>> {
    let metadata = layout.site_metadata(site);
    if !metadata.join("timestamp.json").exists() {
        return Ok(None);
    }
    let first = metadata.join("1.root.json");
    let root = fs::read(&first).with_context(|| format!("cannot read {}", first.display()))?;
    let newest = numbered(&metadata, "root")?.last_key_value().map_or(1, |(version, _)| *version);
    let trusted = refresh(&metadata, &root, newest).or_else(|error| {
        // A publisher that died between a new root and what is signed under it: the release before that is the one.
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
    Ok(Some(Previous { trusted, site: site.clone(), timestamp, snapshot, targets }))
}

/// By the roots up to version `last`.
fn refresh(metadata: &Path, root: &[u8], last: u64) -> anyhow::Result<Trusted> {
    let limits = MetadataLimits { targets_bytes: MAX_METADATA_BYTES, ..MetadataLimits::default() };
    let mut refresh = Refresh::start(Trusted::pin(root)?, limits, UnixTime(0));
    loop {
        let ask = match refresh.step() {
            RefreshStep::Done => return Ok(refresh.trusted().clone()),
            RefreshStep::Fetch(ask) => ask,
        };
        let path = metadata.join(&ask.path);
        if ask.role == "root" && refresh.trusted().root().version >= last {
            refresh.missing()?;
            continue;
        }
        match fs::metadata(&path).and_then(|found| Ok((found.len(), fs::read(&path)?))) {
            Ok((bytes, _)) if bytes > ask.max_bytes => bail!("{} is {bytes} bytes", path.display()),
            Ok((_, bytes)) => refresh.received(&bytes)?,
            Err(error) if error.kind() == ErrorKind::NotFound => refresh.missing()?,
            Err(error) => return Err(error).with_context(|| format!("cannot read {}", path.display())),
        }
    }
}

impl Previous {
    /// The number of the release.
    pub const fn generation(&self) -> Generation {
        Generation(self.targets.version)
    }

    /// The hash over its content.
    pub fn content(&self) -> Option<Digest> {
        roles::content_of(&self.targets)
    }

    /// When its firmware catalogue expires; long ago if it has none.
    pub fn firmware_expires(&self) -> UnixTime {
        self.trusted.delegated(FIRMWARE).map_or(UnixTime(0), |firmware| firmware.expires)
    }

    /// Whether all of it is signed by the keys of this root.
    pub fn holds_under(&self, root: &[u8]) -> bool {
        let mut files = self.trusted.files();
        files.insert("root.json".to_owned(), root.to_vec());
        Trusted::reopen(&files).is_ok()
    }

    /// Whom its targets delegate firmware to.
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

    /// Whether its firmware catalogue has this image.
    pub fn lists_firmware(&self, digest: &Digest, bytes: u64) -> bool {
        self.trusted.target(&roles::firmware_path(digest)).is_some_and(|target| target.length == bytes)
    }

    /// Opens the whole release as the site would, with HQ's recovery key.
    pub fn open(&self, layout: &Layout, fleet: &FleetId, key: &RecipientSecret) -> anyhow::Result<Opened> {
        let target = self
            .trusted
            .target(access::MANIFEST_TARGET)
            .and_then(|target| target.hashes.sha256)
            .ok_or_else(|| anyhow!("the published release of {} names no manifest", self.site))?;
        let path = layout.site_targets(&self.site).join(format!("{target}.manifest"));
        let sealed = fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
        let opened = OpenedManifest::open(&self.trusted, &sealed, key, fleet, &self.site)?;
        let release = opened.complete(&self.trusted, &mut |part| {
            let path = layout.object(&part.digest);
            fs::read(&path).map_err(|error| format!("{}: {error}", path.display()))
        })?;
        Ok(release)
    }
}

/// The files `N.<role>.json` of a folder by N. None if there is no folder.
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
            found.insert(number, fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?);
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
