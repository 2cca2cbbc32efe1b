//! What the publisher remembers of its last runs: what each site's release was made of, and which objects it names.
//!
//! The ledger saves work and says what can be deleted. No trust depends on it: if it is lost or damaged, the next run
//! looks at every site again and deletes nothing whose use is unknown. Whoever reads it in `online/` learns no more
//! than from a web server's log, because fingerprints are keyed hashes and objects are named by the digests of
//! ciphertext.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::time::Duration;

use anyhow::Context as _;
use serde::{Deserialize, Serialize};

use crate::layout::Layout;
use crate::published::PublishedRelease;
use crate::{roles, tree};
use ids::{Digest, Generation, SiteId, UnixTime};

/// How long replaced releases, and sites that left the fleet directory, stay published. Appliances, mirrors and people
/// need time to follow.
pub const KEEP: Duration = Duration::from_secs(30 * 86_400);

/// The largest ledger that is read, in bytes: 100,000 sites with 1 KB each, and room.
const MAX_BYTES: u64 = 1024 * 1024 * 1024;

/// The version of the file's format. A ledger of another version is ignored.
const FORMAT: u32 = 1;

/// The ledger, as read from its file or about to be written to it.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Ledger {
    /// Every site that was published and not deleted since.
    pub sites: BTreeMap<SiteId, SiteEntry>,
    /// When a run last looked for releases to delete; `None` if none ever did.
    pub collected: Option<UnixTime>,
    /// When this ledger was put back from a backup; `None` if it never was. A site that it does not know may have releases.
    pub restored: Option<UnixTime>,
}

/// The first line of the file. Each further line is a [`SiteEntry`].
#[derive(Debug, Serialize, Deserialize)]
struct Header {
    format: u32,
    collected: Option<UnixTime>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    restored: Option<UnixTime>,
}

/// What the ledger knows of one site.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SiteEntry {
    /// The site's id, which is also the key of the entry.
    pub site: SiteId,
    /// A keyed hash over all that its newest release was made of; `None` if a part could not be read, so that the next
    /// run makes its files again.
    pub fingerprint: Option<Digest>,
    /// The size and time of its `timestamp.json` after the last run; `None` before the switch.
    pub stamp: Option<Stamp>,
    /// When its metadata must be signed anew ([`due`]).
    pub due: UnixTime,
    /// Its releases that are not deleted yet, the newest first.
    pub releases: Vec<KeptRelease>,
    /// Whether this entry is from a backup: newer releases may have been made since, and sites may have them.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub restored: bool,
    /// How many phones its newest release has; `None` in a ledger of a version that did not count them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub phones: Option<usize>,
    /// When a run first missed the site in the fleet directory; `None` while it is there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gone: Option<UnixTime>,
}

/// One release of a site, and the objects that must stay as long as it does.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeptRelease {
    /// The release's number.
    pub generation: Generation,
    /// When a newer release replaced it; `None` for the newest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<UnixTime>,
    /// The digests of the sealed objects that the release names: files, shards, inventory and image.
    pub objects: BTreeSet<Digest>,
}

/// Size and modification time of a file. If somebody else wrote the file, one of them differs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stamp {
    bytes: u64,
    seconds: i64,
    nanoseconds: i64,
}

impl Stamp {
    /// The stamp of this file; `None` if it is not there.
    pub fn of(path: &Path) -> Option<Self> {
        let metadata = fs::metadata(path).ok()?;
        Some(Self { bytes: metadata.len(), seconds: metadata.mtime(), nanoseconds: metadata.mtime_nsec() })
    }
}

impl Ledger {
    /// Reads the ledger of a fleet directory. It is empty if there is none, or if the file cannot be understood.
    pub fn read(layout: &Layout) -> Self {
        let path = layout.ledger();
        let Ok(bytes) = durable::read_regular(&path, MAX_BYTES) else { return Self::default() };
        str::from_utf8(&bytes).ok().and_then(Self::parse).unwrap_or_else(|| {
            tracing::warn!(ledger = %path.display(), "it cannot be understood; every site is looked at again");
            Self::default()
        })
    }

    fn parse(text: &str) -> Option<Self> {
        // A file that was cut off does not end with a line's end.
        let mut lines = text.strip_suffix('\n')?.split('\n');
        let header: Header =
            serde_json::from_str(lines.next()?).ok().filter(|header: &Header| header.format == FORMAT)?;
        let entries = lines.map(|line| serde_json::from_str::<SiteEntry>(line).ok());
        let sites = entries.map(|entry| entry.map(|entry| (entry.site.clone(), entry))).collect::<Option<_>>()?;
        Some(Self { sites, collected: header.collected, restored: header.restored })
    }

    /// Writes the ledger to its file, durably and all at once.
    pub fn write(&self, layout: &Layout) -> anyhow::Result<()> {
        let mut text =
            serde_json::to_string(&Header { format: FORMAT, collected: self.collected, restored: self.restored })?;
        for entry in self.sites.values() {
            text.push('\n');
            text.push_str(&serde_json::to_string(entry)?);
        }
        text.push('\n');
        tree::write_file(&layout.ledger(), text.as_bytes()).context("cannot keep the publisher's ledger")
    }

    /// The site's newest release, if it needs nothing: it was made of the same (`fingerprint`), its `timestamp.json` is
    /// as the last run left it, and its metadata is not due. `None` if the site must be looked at.
    pub fn unchanged(&self, layout: &Layout, site: &SiteId, fingerprint: &Digest, now: UnixTime) -> Option<Generation> {
        let entry = self.sites.get(site)?;
        let same = entry.fingerprint.as_ref() == Some(fingerprint) && entry.gone.is_none() && now < entry.due;
        let stamp = Stamp::of(&layout.site_metadata(site).join("timestamp.json"));
        let left = stamp.is_some() && stamp == entry.stamp;
        entry.releases.first().filter(|_| same && left).map(|release| release.generation)
    }

    /// Notes a site's new or confirmed release and what it was made of. Releases before it count as replaced at `now`.
    pub fn note(
        &mut self,
        site: &SiteId,
        fingerprint: Option<Digest>,
        release: KeptRelease,
        due: UnixTime,
        now: UnixTime,
    ) {
        let entry = self.sites.entry(site.clone()).or_insert_with(|| SiteEntry {
            site: site.clone(),
            fingerprint: None,
            stamp: None,
            due,
            releases: Vec::new(),
            restored: false,
            phones: None,
            gone: None,
        });
        (entry.fingerprint, entry.due, entry.stamp, entry.gone) = (fingerprint, due, None, None);
        entry.restored = false;
        entry.releases.retain(|old| old.generation != release.generation);
        for old in &mut entry.releases {
            old.until.get_or_insert(now);
        }
        entry.releases.insert(0, release);
    }

    /// This ledger is from a backup: the next run makes every release anew.
    pub fn was_restored(&mut self, now: UnixTime) {
        (self.collected, self.restored) = (None, Some(now));
        for entry in self.sites.values_mut() {
            (entry.fingerprint, entry.stamp, entry.restored) = (None, None, true);
        }
    }

    /// Notes how many phones the site's newest release has.
    pub fn count_phones(&mut self, site: &SiteId, phones: usize) {
        if let Some(entry) = self.sites.get_mut(site) {
            entry.phones = Some(phones);
        }
    }

    /// Notes size and time of the site's `timestamp.json`. Called after the switch.
    pub fn stamp(&mut self, layout: &Layout, site: &SiteId) {
        if let Some(entry) = self.sites.get_mut(site) {
            entry.stamp = Stamp::of(&layout.site_metadata(site).join("timestamp.json"));
        }
    }
}

/// When the first of a site's metadata files must be signed anew: the moment at which [`roles::is_near`] begins to
/// hold.
pub fn due(previous: &PublishedRelease) -> UnixTime {
    let targets = near(previous.targets.expires).min(near(previous.firmware_expires()));
    let snapshot = before(previous.snapshot.expires, roles::SNAPSHOT_LIFE / 2);
    targets.min(snapshot).min(before(previous.timestamp.expires, roles::TIMESTAMP_LIFE / 2))
}

/// When `targets` or `firmware` metadata with this expiry must be signed anew.
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
            let release = KeptRelease { generation: Generation(generation), until: None, objects: objects.clone() };
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
