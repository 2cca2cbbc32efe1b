//! The client workflow (specification §5), as a machine without I/O.

use std::collections::BTreeMap;
use std::sync::Arc;

pub use super::error::TrustError;
use super::schema::{MetaFile, Snapshot, Targets, Timestamp};
pub use super::trusted::{MAX_ROLES, Trusted};
use super::trusted::{file_name, missing};
use super::verify::{Authority, VerifiedMetadata};
use ids::UnixTime;

/// How much of each metadata file is read at the most, in bytes. A signed length can be lower, never higher: not even
/// a stolen online key may fill a site's memory.
#[derive(Debug, Clone, Copy)]
pub struct MetadataLimits {
    /// For each version of `root`.
    pub root_bytes: u64,
    /// For `timestamp`, whose length nobody signs.
    pub timestamp_bytes: u64,
    /// For `snapshot`.
    pub snapshot_bytes: u64,
    /// For `targets` and for each delegated role.
    pub targets_bytes: u64,
    /// How many new roots one refresh follows; 0 counts as 1.
    pub root_rotations: u32,
}

impl Default for MetadataLimits {
    fn default() -> Self {
        Self {
            root_bytes: 64 * 1024,
            timestamp_bytes: 16 * 1024,
            snapshot_bytes: 64 * 1024,
            targets_bytes: 2 * 1024 * 1024,
            root_rotations: 256,
        }
    }
}

/// What to fetch next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ask {
    /// The role, for messages: `root`, `timestamp`, …
    pub role: String,
    /// Relative to the metadata URL: `2.root.json`, `timestamp.json`, `7.snapshot.json`. Percent-encoded already.
    pub path: String,
    /// The most bytes to read; a longer file is an error.
    pub max_bytes: u64,
    /// Whether its absence is normal (the next root).
    pub may_be_missing: bool,
}

/// What the caller of a refresh does next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RefreshStep {
    /// Fetch this and say [`Refresh::received`] or [`Refresh::missing`].
    Fetch(Ask),
    /// The refresh is complete: all top-level metadata is trusted and none has expired.
    Done,
}

/// One refresh: specification §5.2 to §5.6, the top-level roles. Delegated roles are fetched by the [`Search`] that needs
/// them (§5.6.7), so one that lapsed blocks nothing that it does not sign.
///
/// ```text
/// loop { match refresh.step() { Fetch(ask) => refresh.received(&get(ask)?)?, Done => break } }
/// ```
///
/// A file that is trusted already is not asked for again if it is the one that the timestamp or snapshot names; its
/// signatures and its expiry are checked as if it had just come.
///
/// [`Search`]: super::Search
#[derive(Debug)]
pub struct Refresh {
    trusted: Trusted,
    limits: MetadataLimits,
    now: UnixTime,
    stage: RefreshStage,
    /// Roots that this refresh followed.
    rotations: u32,
    /// Delegated roles that were trusted before this refresh. They count again once targets of now vouch for them.
    before: BTreeMap<String, Arc<VerifiedMetadata<Targets>>>,
    failed: Option<TrustError>,
}

/// Which file the refresh waits for.
#[derive(Debug)]
enum RefreshStage {
    Root,
    Timestamp,
    Snapshot(MetaFile),
    Targets(MetaFile),
    Done,
}

impl Refresh {
    /// Starts from what is trusted. `now` is fixed for the whole refresh (§5.1).
    pub fn start(trusted: Trusted, limits: MetadataLimits, now: UnixTime) -> Self {
        let before = trusted.delegated.clone();
        Self {
            trusted,
            limits,
            now,
            // §5.2: the trusted root is loaded; whether it has expired matters after §5.3.
            stage: RefreshStage::Root,
            rotations: 0,
            before,
            failed: None,
        }
    }

    /// The time from now on: a new root may say what time it is, and its own expiry is judged after that (§5.3.10).
    pub const fn set_now(&mut self, now: UnixTime) {
        self.now = now;
    }

    /// What the caller does next. After an error it stays the step that failed, and is never [`RefreshStep::Done`].
    pub fn step(&self) -> RefreshStep {
        let ask = |role: &str, path: String, max_bytes: u64| {
            RefreshStep::Fetch(Ask {
                role: role.into(),
                path,
                max_bytes,
                may_be_missing: matches!(self.stage, RefreshStage::Root),
            })
        };
        match &self.stage {
            // §5.3.3: N+1. In 128 bits as N may be anything.
            RefreshStage::Root => {
                let next = u128::from(self.trusted.root.version()) + 1;
                ask("root", format!("{next}.root.json"), self.limits.root_bytes)
            }
            // §5.4.1: the one file without a version in its name.
            RefreshStage::Timestamp => ask("timestamp", file_name("timestamp"), self.limits.timestamp_bytes),
            // §5.5.1, §5.6.1.
            RefreshStage::Snapshot(meta) => {
                ask("snapshot", self.path("snapshot", meta), cap(meta, self.limits.snapshot_bytes))
            }
            RefreshStage::Targets(meta) => {
                ask("targets", self.path("targets", meta), cap(meta, self.limits.targets_bytes))
            }
            RefreshStage::Done => RefreshStep::Done,
        }
    }

    /// Takes the bytes that were asked for. An error ends the refresh; [`Refresh::trusted`] then has what was verified before.
    pub fn received(&mut self, bytes: &[u8]) -> Result<(), TrustError> {
        self.settle(|refresh| {
            if let RefreshStep::Fetch(Ask { role, max_bytes, .. }) = refresh.step()
                && u64::try_from(bytes.len()).unwrap_or(u64::MAX) > max_bytes
            {
                return Err(TrustError::TooLarge { role, limit: max_bytes });
            }
            match &refresh.stage {
                RefreshStage::Root => refresh.root(bytes),
                RefreshStage::Timestamp => refresh.timestamp(bytes),
                RefreshStage::Snapshot(meta) => {
                    let meta = meta.clone();
                    refresh.snapshot(bytes, &meta)
                }
                RefreshStage::Targets(meta) => {
                    let meta = meta.clone();
                    refresh.targets(bytes, &meta)
                }
                RefreshStage::Done => Ok(()),
            }
        })
    }

    /// The repository does not have the file that was asked for (HTTP 404 or 403).
    pub fn missing(&mut self) -> Result<(), TrustError> {
        self.settle(|refresh| match refresh.step() {
            // §5.3.3: no newer root.
            RefreshStep::Fetch(Ask { may_be_missing: true, .. }) => refresh.after_root(),
            RefreshStep::Fetch(ask) => Err(missing(&ask.role)),
            RefreshStep::Done => Ok(()),
        })
    }

    /// The timestamp asked for is byte for byte the trusted one (HTTP 304), so that one is used again. Its expiry and
    /// everything after it are checked as ever.
    ///
    /// Ask conditionally only if [`Refresh::trusted`] has a timestamp when [`Refresh::step`] asks for it: a new root
    /// may have made an end to it. Where there is none, or something else was asked for, this is an error.
    pub fn unchanged(&mut self) -> Result<(), TrustError> {
        self.settle(|refresh| match refresh.step() {
            RefreshStep::Fetch(ask) if !matches!(refresh.stage, RefreshStage::Timestamp) => Err(missing(&ask.role)),
            RefreshStep::Fetch(_) => refresh.after_timestamp(),
            RefreshStep::Done => Ok(()),
        })
    }

    /// What is trusted now: all of the refresh if [`RefreshStep::Done`] was reached; else what may be kept of it (§5.3.8,
    /// §5.4.5, §5.5.7, §5.6.6: new roots, a new timestamp and so on are kept even when a later step fails).
    pub fn trusted(&self) -> &Trusted {
        &self.trusted
    }

    /// Takes one step, unless one failed before.
    fn settle(&mut self, step: impl FnOnce(&mut Self) -> Result<(), TrustError>) -> Result<(), TrustError> {
        if let Some(error) = &self.failed {
            return Err(error.clone());
        }
        step(self).inspect_err(|error| self.failed = Some(error.clone()))
    }

    /// §5.3: the next root.
    fn root(&mut self, bytes: &[u8]) -> Result<(), TrustError> {
        // §5.3.4: a threshold of the trusted root's keys and one of its own.
        let root = VerifiedMetadata::open_root(bytes, Some(&self.trusted.authority("root")))?;
        // §5.3.5: precisely N+1.
        let (offered, trusted) = (root.version(), self.trusted.root.version());
        if offered <= trusted {
            return Err(TrustError::Rollback { role: "root".into(), offered, trusted });
        }
        if Some(offered) != trusted.checked_add(1) {
            return Err(TrustError::WrongVersion { role: "root".into(), offered, expected: trusted.saturating_add(1) });
        }
        // §5.3.6: an intermediate root may have expired. §5.3.7, §5.3.8, §5.3.11: from now on it is the trusted one.
        self.trusted.set_root(Arc::new(root));
        // §5.3.9 and §5.3.3: again, up to so many.
        self.rotations = self.rotations.saturating_add(1);
        if self.rotations >= self.limits.root_rotations { self.after_root() } else { Ok(()) }
    }

    fn after_root(&mut self) -> Result<(), TrustError> {
        // §5.3.10: the last root must be current.
        self.trusted.root.check_expiry("root", self.now)?;
        self.stage = RefreshStage::Timestamp;
        Ok(())
    }

    /// §5.4: the timestamp.
    fn timestamp(&mut self, bytes: &[u8]) -> Result<(), TrustError> {
        // §5.4.2.
        let timestamp: VerifiedMetadata<Timestamp> =
            VerifiedMetadata::open("timestamp", bytes, &self.trusted.authority("timestamp"))?;
        if let Some(held) = &self.trusted.timestamp {
            // §5.4.3.1. The same version says nothing new: the file that is trusted stays.
            let (offered, trusted) = (timestamp.version(), held.version());
            if offered < trusted {
                return Err(TrustError::Rollback { role: "timestamp".into(), offered, trusted });
            }
            if offered == trusted {
                return self.after_timestamp();
            }
            // §5.4.3.2.
            let version = |held: &VerifiedMetadata<Timestamp>| held.doc.meta.get("snapshot.json").map(|of| of.version);
            if let (Some(offered), Some(trusted)) = (version(&timestamp), version(held))
                && offered < trusted
            {
                return Err(TrustError::Rollback { role: "snapshot".into(), offered, trusted });
            }
        }
        // §5.4.4, §5.4.5.
        timestamp.check_expiry("timestamp", self.now)?;
        self.trusted.timestamp = Some(Arc::new(timestamp));
        self.after_timestamp()
    }

    fn after_timestamp(&mut self) -> Result<(), TrustError> {
        let held = self.trusted.timestamp.as_ref().ok_or_else(|| missing("timestamp"))?;
        // §5.4.4, also for one that was trusted before.
        held.check_expiry("timestamp", self.now)?;
        let meta = self.trusted.snapshot_meta().ok_or_else(|| missing("snapshot"))?.clone();
        match &self.trusted.snapshot {
            // The one that is trusted: it holds under this root, as `set_root` drops what does not. §5.5.6 remains.
            Some(held) if held.is(&meta) => {
                held.check_expiry("snapshot", self.now)?;
                self.after_snapshot()
            }
            _ => {
                check_cap("snapshot", &meta, self.limits.snapshot_bytes)?;
                self.stage = RefreshStage::Snapshot(meta);
                Ok(())
            }
        }
    }

    /// §5.5: the snapshot.
    fn snapshot(&mut self, bytes: &[u8], meta: &MetaFile) -> Result<(), TrustError> {
        // §5.5.2.
        if !meta.match_bytes(bytes) {
            return Err(TrustError::Mismatch { role: "snapshot".into() });
        }
        // §5.5.3.
        let snapshot: VerifiedMetadata<Snapshot> =
            VerifiedMetadata::open("snapshot", bytes, &self.trusted.authority("snapshot"))?;
        // §5.5.4.
        check_version("snapshot", snapshot.version(), meta)?;
        // §5.5.5: no listed file goes down or disappears.
        for (name, trusted) in self.trusted.snapshot().into_iter().flat_map(|held| &held.meta) {
            let offered = snapshot.doc.meta.get(name).map_or(0, |file| file.version);
            if offered < trusted.version {
                let role = name.strip_suffix(".json").unwrap_or(name).into();
                return Err(TrustError::Rollback { role, offered, trusted: trusted.version });
            }
        }
        // §5.5.6, §5.5.7.
        snapshot.check_expiry("snapshot", self.now)?;
        self.trusted.snapshot = Some(Arc::new(snapshot));
        self.after_snapshot()
    }

    fn after_snapshot(&mut self) -> Result<(), TrustError> {
        let listed = self.trusted.snapshot().and_then(|snapshot| snapshot.meta.get("targets.json"));
        let meta = listed.cloned().ok_or_else(|| missing("targets"))?;
        match &self.trusted.targets {
            // The one that is trusted: it holds under this root, as `set_root` drops what does not. §5.6.5 remains.
            Some(held) if held.is(&meta) => {
                held.check_expiry("targets", self.now)?;
                self.stage = RefreshStage::Done;
            }
            _ => {
                check_cap("targets", &meta, self.limits.targets_bytes)?;
                self.stage = RefreshStage::Targets(meta);
            }
        }
        Ok(())
    }

    /// §5.6: the top-level targets.
    fn targets(&mut self, bytes: &[u8], meta: &MetaFile) -> Result<(), TrustError> {
        let held = open_targets("targets", bytes, meta, &self.trusted.authority("targets"), self.now)?;
        self.trusted.delegated = std::mem::take(&mut self.before);
        self.trusted.set_targets("targets", Arc::new(held));
        self.stage = RefreshStage::Done;
        Ok(())
    }

    /// §5.3.12: the version is in a file's name if the trusted root says so.
    fn path(&self, role: &str, meta: &MetaFile) -> String {
        versioned(&self.trusted, role, meta)
    }
}

/// §5.6.2 to §5.6.5 for `targets` or a delegated role: the file that the snapshot names, signed by `authority`, current.
pub(super) fn open_targets(
    role: &str,
    bytes: &[u8],
    meta: &MetaFile,
    authority: &Authority,
    now: UnixTime,
) -> Result<VerifiedMetadata<Targets>, TrustError> {
    if !meta.match_bytes(bytes) {
        return Err(TrustError::Mismatch { role: role.into() });
    }
    let held = VerifiedMetadata::open(role, bytes, authority)?;
    check_version(role, held.version(), meta)?;
    held.check_expiry(role, now)?;
    Ok(held)
}

/// The name of a role's file, with its version if the trusted root says so (§5.3.12).
pub(super) fn versioned(trusted: &Trusted, role: &str, meta: &MetaFile) -> String {
    let name = file_name(role);
    if trusted.root().consistent_snapshot { format!("{}.{name}", meta.version) } else { name }
}

/// The most bytes to read of a file: its signed length, but never over the limit.
pub(super) fn cap(meta: &MetaFile, limit: u64) -> u64 {
    meta.length.map_or(limit, |length| length.min(limit))
}

/// An error if the signed length is over the limit: such a file is not fetched at all.
pub(super) fn check_cap(role: &str, meta: &MetaFile, limit: u64) -> Result<(), TrustError> {
    if meta.length.is_some_and(|length| length > limit) {
        return Err(TrustError::TooLarge { role: role.into(), limit });
    }
    Ok(())
}

fn check_version(role: &str, offered: u64, meta: &MetaFile) -> Result<(), TrustError> {
    if offered == meta.version {
        Ok(())
    } else {
        Err(TrustError::WrongVersion { role: role.into(), offered, expected: meta.version })
    }
}
