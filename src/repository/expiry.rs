//! What will expire soon, and what to do about it. A site whose metadata expired goes on serving its phones, but it
//! takes no new release, so people are warned in time.
//!
//! `serve` signs `timestamp` and `snapshot` anew by itself. Every `publish` signs `targets` and `firmware` anew in the
//! last quarter of their year. Each limit here begins later than that, so a warning means that neither of them ran.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::path::Path;

use serde::de::DeserializeOwned;

use crate::layout::Layout;
use crate::published::{MAX_METADATA_BYTES, numbered};
use ids::UnixTime;
use tuf::schema::{self, Envelope, Root, Snapshot, Targets, Timestamp};

const DAY: u64 = 86_400;

/// Each role with the number of days before its expiry at which people are warned, and the command that helps.
const ROOT: (&str, u64, &str) = ("root", 180, "lineside-hq keys root new-version, signed by enough root keys");
const FIRMWARE: (&str, u64, &str) = ("firmware", 60, "lineside-hq publish, with the firmware keys");
const TARGETS: (&str, u64, &str) = ("targets", 60, "lineside-hq publish");
const SNAPSHOT: (&str, u64, &str) =
    ("snapshot", 30, "lineside-hq serve, which does it by itself, or publish --refresh");
const TIMESTAMP: (&str, u64, &str) =
    ("timestamp", 7, "lineside-hq serve, which does it by itself, or publish --refresh");

/// Signed metadata of one role that expires soon or has expired.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Warning {
    /// The role as people know it: `root`, `firmware`, `targets`, `snapshot` or `timestamp`.
    pub role: &'static str,
    /// The number of sites whose metadata is meant; 0 for `root` and `firmware`, which the whole fleet shares.
    pub sites: usize,
    /// The earliest expiry among these sites.
    pub expires: UnixTime,
    /// Whether that time has passed.
    pub expired: bool,
    hint: &'static str,
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let verb = if self.expired { "expired" } else { "expires" };
        write!(f, "{} metadata {verb} at {}", self.role, self.expires)?;
        match self.sites {
            0 => {}
            1 => f.write_str(" at 1 site")?,
            sites => write!(f, " or later at {sites} sites")?,
        }
        write!(f, "\n  hint: {}", self.hint)
    }
}

/// Warns about the newest root of the fleet directory and about all published metadata, the earliest expiry first.
pub fn of_fleet(layout: &Layout, now: UnixTime) -> Vec<Warning> {
    let mut ends = Ends::new(now);
    if let Some((_, bytes)) = numbered(&layout.signed(), "root").ok().and_then(|mut roots| roots.pop_last()) {
        ends.root(&bytes);
    }
    ends.published(layout);
    ends.warnings()
}

/// The same for a host that has only `online/`: about the root there and all published metadata.
pub fn of_published(layout: &Layout, now: UnixTime) -> Vec<Warning> {
    let mut ends = Ends::new(now);
    if let Ok(bytes) = durable::read_regular(&layout.public().join("root.json"), MAX_METADATA_BYTES) {
        ends.root(&bytes);
    }
    ends.published(layout);
    ends.warnings()
}

/// Gathers the expiries that are near, by role.
struct Ends {
    now: UnixTime,
    near: BTreeMap<&'static str, Warning>,
}

impl Ends {
    const fn new(now: UnixTime) -> Self {
        Self { now, near: BTreeMap::new() }
    }

    fn note(&mut self, (role, days, hint): (&'static str, u64, &'static str), sites: usize, expires: UnixTime) {
        if expires.since(self.now).as_secs() >= days.saturating_mul(DAY) {
            return;
        }
        let warning = self.near.entry(role).or_insert(Warning { role, sites: 0, expires, expired: false, hint });
        warning.sites = warning.sites.saturating_add(sites);
        warning.expires = warning.expires.min(expires);
        warning.expired |= expires <= self.now;
    }

    fn root(&mut self, bytes: &[u8]) {
        if let Ok(root) = serde_json::from_slice::<Envelope<Root>>(bytes) {
            self.note(ROOT, 0, root.signed.expires);
        }
    }

    /// Does not verify signatures, so that a fleet of any size takes moments. Sites verify them.
    fn published(&mut self, layout: &Layout) {
        let Ok(sites) = fs::read_dir(layout.public().join("sites")) else { return };
        // Sites share catalogues, so each version is read once.
        let mut firmware = BTreeMap::new();
        for entry in sites.flatten() {
            // `publish` reports what cannot be read.
            let metadata = entry.path().join("metadata");
            let Some(timestamp) = read::<Timestamp>(&metadata.join("timestamp.json")) else { continue };
            self.note(TIMESTAMP, 1, timestamp.expires);
            let Some(version) = timestamp.meta.get("snapshot.json").map(|file| file.version) else { continue };
            let Some(snapshot) = read::<Snapshot>(&metadata.join(format!("{version}.snapshot.json"))) else { continue };
            self.note(SNAPSHOT, 1, snapshot.expires);
            let version = |role: &str| snapshot.meta.get(&format!("{role}.json")).map(|file| file.version);
            let targets = version("targets").and_then(|n| read::<Targets>(&metadata.join(format!("{n}.targets.json"))));
            if let Some(targets) = targets {
                self.note(TARGETS, 1, targets.expires);
            }
            if let Some(version) = version(schema::FIRMWARE) {
                firmware.entry(version).or_insert_with(|| metadata.join(format!("{version}.firmware.json")));
            }
        }
        for catalogue in firmware.values().filter_map(|path| read::<Targets>(path)) {
            self.note(FIRMWARE, 0, catalogue.expires);
        }
    }

    fn warnings(self) -> Vec<Warning> {
        let mut all: Vec<Warning> = self.near.into_values().collect();
        all.sort_by_key(|warning| warning.expires);
        all
    }
}

/// The signed part of a metadata file; `None` if the file is missing or damaged.
fn read<T: DeserializeOwned>(path: &Path) -> Option<T> {
    Some(serde_json::from_slice::<Envelope<T>>(&durable::read_regular(path, MAX_METADATA_BYTES).ok()?).ok()?.signed)
}
