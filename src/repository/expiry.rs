//! What will expire soon, and what to do about it. Expired metadata takes nothing from a phone, but it keeps new
//! releases from its site, so people hear of it in time.
//!
//! `timestamp` and `snapshot` are signed anew by `serve` itself, `targets` and `firmware` by any `publish` in the last
//! quarter of their year; each limit here lies behind those, so that a warning means that nobody did.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::path::Path;

use serde::de::DeserializeOwned;

use crate::layout::Layout;
use crate::published::numbered;
use ids::UnixTime;
use tuf::schema::{self, Envelope, Root, Snapshot, Targets, Timestamp};

const DAY: u64 = 86_400;

/// Roles, how many days before the end people hear of it, and what helps.
const ROOT: (&str, u64, &str) = ("root", 180, "lineside-hq keys root new-version, signed by enough root keys");
const FIRMWARE: (&str, u64, &str) = ("firmware", 60, "lineside-hq publish, with the firmware keys");
const TARGETS: (&str, u64, &str) = ("targets", 60, "lineside-hq publish");
const SNAPSHOT: (&str, u64, &str) =
    ("snapshot", 30, "lineside-hq serve, which does it by itself, or publish --refresh");
const TIMESTAMP: (&str, u64, &str) =
    ("timestamp", 7, "lineside-hq serve, which does it by itself, or publish --refresh");

/// Something signed that ends soon, or has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Warning {
    /// What.
    pub role: &'static str,
    /// Of how many sites; 0 for what the whole fleet shares.
    pub sites: usize,
    /// The earliest end.
    pub expires: UnixTime,
    /// Whether that is over.
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

/// What the fleet directory signs for, and what is published.
pub fn of_fleet(layout: &Layout, now: UnixTime) -> Vec<Warning> {
    let mut ends = Ends::new(now);
    if let Some((_, bytes)) = numbered(&layout.signed(), "root").ok().and_then(|mut roots| roots.pop_last()) {
        ends.root(&bytes);
    }
    ends.published(layout);
    ends.warnings()
}

/// What is published, as far as `online/` alone shows.
pub fn of_published(layout: &Layout, now: UnixTime) -> Vec<Warning> {
    let mut ends = Ends::new(now);
    if let Ok(bytes) = fs::read(layout.public().join("root.json")) {
        ends.root(&bytes);
    }
    ends.published(layout);
    ends.warnings()
}

/// The earliest ends that are near, by role.
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

    /// Signatures are not looked at, so that fleets of any size are gone through in moments; sites look.
    fn published(&mut self, layout: &Layout) {
        let Ok(sites) = fs::read_dir(layout.public().join("sites")) else { return };
        // Sites share their catalogues.
        let mut firmware = BTreeMap::new();
        for entry in sites.flatten() {
            // What cannot be read is for `publish` to say.
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

/// The signed part of a file that we wrote, if it is there and whole.
fn read<T: DeserializeOwned>(path: &Path) -> Option<T> {
    Some(serde_json::from_slice::<Envelope<T>>(&fs::read(path).ok()?).ok()?.signed)
}
