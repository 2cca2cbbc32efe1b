//! What the publisher remembers of its last runs: what each site's release was made of, and which objects it names.
//!
//! It saves work and says what can be deleted; it is no part of trust. If it is lost or damaged the next run looks at
//! every site again, and nothing is deleted whose use is unknown. It tells whoever reads `online/` no more than a web
//! server's log does: fingerprints are keyed, objects are named by the digests of ciphertext.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::time::Duration;

use anyhow::Context as _;
use serde::{Deserialize, Serialize};

use crate::layout::Layout;
use crate::published::Previous;
use crate::{roles, tree};
use ids::{Digest, Generation, SiteId, UnixTime};

/// Old releases, and sites that left the fleet directory, stay so long: appliances, mirrors and people are slow.
pub const KEEP: Duration = Duration::from_secs(30 * 86_400);

/// Changes when an old ledger must not be believed any more.
const FORMAT: u32 = 1;

/// The ledger in memory.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Ledger {
    /// Every site that was ever published and is not forgotten.
    pub sites: BTreeMap<SiteId, Entry>,
    /// When old releases were last looked for.
    pub collected: Option<UnixTime>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Header {
    format: u32,
    collected: Option<UnixTime>,
}

/// One site.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Its id.
    pub site: SiteId,
    /// Over all that its release was made of.
    pub fingerprint: Option<Digest>,
    /// Its `timestamp.json` as it was left.
    pub stamp: Option<Stamp>,
    /// From then on its metadata must be signed anew.
    pub due: UnixTime,
    /// The newest release first.
    pub releases: Vec<Release>,
    /// Since when the fleet directory does not have it any more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gone: Option<UnixTime>,
}

/// What one release of a site names.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Release {
    /// Its number.
    pub generation: Generation,
    /// When a newer one took its place.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<UnixTime>,
    /// Its sealed objects.
    pub objects: BTreeSet<Digest>,
}

/// Enough of a file to notice that somebody else wrote it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stamp {
    bytes: u64,
    seconds: i64,
    nanoseconds: i64,
}

impl Stamp {
    /// Of the file that is there; `None` if there is none.
    pub fn of(path: &Path) -> Option<Self> {
        let metadata = fs::metadata(path).ok()?;
        Some(Self { bytes: metadata.len(), seconds: metadata.mtime(), nanoseconds: metadata.mtime_nsec() })
    }
}

impl Ledger {
    /// Reads it; empty if there is none, or if it cannot be understood.
    pub fn read(layout: &Layout) -> Self {
        let path = layout.ledger();
        let Ok(text) = fs::read_to_string(&path) else { return Self::default() };
        Self::parse(&text).unwrap_or_else(|| {
            tracing::warn!(ledger = %path.display(), "it cannot be understood; every site is looked at again");
            Self::default()
        })
    }

    fn parse(text: &str) -> Option<Self> {
        // A cut file ends without the last line's end.
        let mut lines = text.strip_suffix('\n')?.split('\n');
        let header: Header =
            serde_json::from_str(lines.next()?).ok().filter(|header: &Header| header.format == FORMAT)?;
        let entries = lines.map(|line| serde_json::from_str::<Entry>(line).ok());
        let sites = entries.map(|entry| entry.map(|entry| (entry.site.clone(), entry))).collect::<Option<_>>()?;
        Some(Self { sites, collected: header.collected })
    }

    /// Replaces the file.
    pub fn write(&self, layout: &Layout) -> anyhow::Result<()> {
        let mut text = serde_json::to_string(&Header { format: FORMAT, collected: self.collected })?;
        for entry in self.sites.values() {
            text.push('\n');
            text.push_str(&serde_json::to_string(entry)?);
        }
        text.push('\n');
        tree::write_file(&layout.ledger(), text.as_bytes()).context("cannot keep the publisher's ledger")
    }

    /// The release of a site that needs nothing: made of the same, as it was left, and not due.
    pub fn unchanged(&self, layout: &Layout, site: &SiteId, fingerprint: &Digest, now: UnixTime) -> Option<Generation> {
        let entry = self.sites.get(site)?;
        let same = entry.fingerprint.as_ref() == Some(fingerprint) && entry.gone.is_none() && now < entry.due;
        let stamp = Stamp::of(&layout.site_metadata(site).join("timestamp.json"));
        let left = stamp.is_some() && stamp == entry.stamp;
        entry.releases.first().filter(|_| same && left).map(|release| release.generation)
    }

    /// Takes down what a site's release was made of and names.
    pub fn note(&mut self, site: &SiteId, fingerprint: Option<Digest>, release: Release, due: UnixTime, now: UnixTime) {
        let entry = self.sites.entry(site.clone()).or_insert_with(|| Entry {
            site: site.clone(),
            fingerprint: None,
            stamp: None,
            due,
            releases: Vec::new(),
            gone: None,
        });
        (entry.fingerprint, entry.due, entry.stamp, entry.gone) = (fingerprint, due, None, None);
        entry.releases.retain(|old| old.generation != release.generation);
        for old in &mut entry.releases {
            old.until.get_or_insert(now);
        }
        entry.releases.insert(0, release);
    }

    /// Takes down how the site's `timestamp.json` was left, after the switch.
    pub fn stamp(&mut self, layout: &Layout, site: &SiteId) {
        if let Some(entry) = self.sites.get_mut(site) {
            entry.stamp = Stamp::of(&layout.site_metadata(site).join("timestamp.json"));
        }
    }
}

/// When anything of a site's metadata must be signed anew: the moment at which [`roles::is_near`] begins to hold.
pub fn due(previous: &Previous) -> UnixTime {
    let targets = near(previous.targets.expires).min(near(previous.firmware_expires()));
    let snapshot = before(previous.snapshot.expires, roles::SNAPSHOT_LIFE / 2);
    targets.min(snapshot).min(before(previous.timestamp.expires, roles::TIMESTAMP_LIFE / 2))
}

/// The same for `targets` and `firmware` metadata that expires then.
pub fn near(expires: UnixTime) -> UnixTime {
    before(expires, roles::TARGETS_LIFE / 4)
}

fn before(time: UnixTime, by: Duration) -> UnixTime {
    UnixTime(time.0.saturating_sub(i64::try_from(by.as_secs()).unwrap_or(i64::MAX)))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn ledger() -> Ledger {
        let mut ledger = Ledger { collected: Some(UnixTime(5)), ..Ledger::default() };
        let objects = BTreeSet::from([Digest::of(b"a"), Digest::of(b"b")]);
        for (generation, now) in [(1, 100), (2, 200)] {
            let release = Release { generation: Generation(generation), until: None, objects: objects.clone() };
            let site = "s-1".parse().unwrap();
            ledger.note(&site, Some(Digest::of(b"x")), release, UnixTime(900), UnixTime(now));
        }
        ledger
    }

    fn text(ledger: &Ledger) -> String {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout::new(dir.path());
        fs::create_dir(layout.online()).unwrap();
        ledger.write(&layout).unwrap();
        assert_eq!(&Ledger::read(&layout), ledger);
        fs::read_to_string(layout.ledger()).unwrap()
    }

    #[test]
    fn a_newer_release_ends_the_one_before() {
        let ledger = ledger();
        let releases = &ledger.sites.values().next().unwrap().releases;
        let ends: Vec<_> = releases.iter().map(|release| (release.generation.0, release.until)).collect();
        assert_eq!(ends, [(2, None), (1, Some(UnixTime(200)))]);
    }

    #[test]
    fn a_cut_or_foreign_ledger_is_no_ledger() {
        let text = text(&ledger());
        assert_eq!(Ledger::parse(&text), Some(ledger()));
        for end in 0..text.len() {
            let part = text.get(..end).unwrap();
            let whole_lines = part.ends_with('\n');
            assert!(whole_lines || Ledger::parse(part).is_none(), "{part}");
        }
        assert_eq!(Ledger::parse(&text.replace("\"format\":1", "\"format\":2")), None);
        assert_eq!(Ledger::parse(&text.replace("\"s-1\"", "\"../x\"")), None);
    }
}
