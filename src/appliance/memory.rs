//! Keeps what `status` knows over restarts, in the cache of the store, which may be lost.
//!
//! It is read once at the start, and written every quarter of an hour and at the end. Only what changed is written,
//! because writing wears an SD card out. To delete `cache.sled` while the appliance is stopped changes nothing that a
//! phone sees.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio_util::sync::CancellationToken;

use status::stats::{MAX_ALERTS, MAX_DEVICES};
use status::{Stats, StatsMemory, memory};
use store::Store;

/// The time between two writes.
pub const KEEP_EVERY: Duration = Duration::from_secs(15 * 60);

/// The tree of devices seen. It maps a MAC address to an [`api::PhoneSeen`] in JSON.
const PHONES: &str = "phones";
/// The tree of outcomes. It maps MAC address, NUL and file name to a [`status::FileSeen`] in JSON.
const FILES: &str = "files";
/// The tree of counters. It maps a name to a `u64`, little-endian.
const COUNTERS: &str = "counters";
/// The tree of alerts that no check-in has carried yet. It maps code, NUL and text to an [`api::Alert`] in JSON.
const OUTBOX: &str = "outbox";
const TREES: [(&str, usize); 4] =
    [(PHONES, MAX_DEVICES), (FILES, memory::MAX_FILES), (COUNTERS, memory::MAX_COUNTERS), (OUTBOX, MAX_ALERTS)];

type Entries = BTreeMap<Vec<u8>, Vec<u8>>;

/// What the record of `status` keeps on disk. Clones are the same memory. Every operation may block on the disk.
#[derive(Debug, Clone)]
pub struct StoredMemory {
    inner: Arc<Mutex<MemoryOnDisk>>,
}

/// The record, and what of it is on disk.
#[derive(Debug)]
struct MemoryOnDisk {
    store: Store,
    stats: Stats,
    /// What is on disk, by tree. `None` until [`MemoryOnDisk::recall`] has read it.
    kept: Option<BTreeMap<&'static str, Entries>>,
}

impl StoredMemory {
    /// A memory for the record `stats` in this store. Nothing is read yet.
    pub fn new(store: Store, stats: Stats) -> Self {
        Self { inner: Arc::new(Mutex::new(MemoryOnDisk { store, stats, kept: None })) }
    }

    /// Reads what an earlier run kept into the record. Only the first call does. Entries that cannot be read are
    /// dropped.
    pub fn recall(&self) {
        self.lock().recall();
    }

    /// Writes the entries that changed since the last call, and returns how many there were.
    pub fn keep(&self) -> usize {
        let mut inner = self.lock();
        inner.recall();
        inner.keep()
    }

    /// Recalls, then writes what changed every [`KEEP_EVERY`] until `stop`. It does not write at the end: the caller
    /// does, once nothing changes any more.
    ///
    /// # Errors
    /// If a read or a write panicked.
    pub async fn run(self, stop: CancellationToken) -> Result<(), tokio::task::JoinError> {
        let memory = self.clone();
        tokio::task::spawn_blocking(move || memory.recall()).await?;
        loop {
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                () = tokio::time::sleep(KEEP_EVERY) => {}
            }
            let memory = self.clone();
            tokio::task::spawn_blocking(move || memory.keep()).await?;
        }
    }

    /// A lock that a panic has poisoned is taken all the same: what it protects is a copy and can be written again.
    fn lock(&self) -> MutexGuard<'_, MemoryOnDisk> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl MemoryOnDisk {
    fn recall(&mut self) {
        if self.kept.is_some() {
            return;
        }
        let cache = self.store.cache();
        let kept: BTreeMap<_, Entries> =
            TREES.map(|(tree, limit)| (tree, cache.entries(tree, &[], limit).into_iter().collect())).into();
        let counter = |(name, value): (&Vec<u8>, &Vec<u8>)| {
            let value = u64::from_le_bytes(value.as_slice().try_into().ok()?);
            Some((String::from_utf8(name.clone()).ok()?, value))
        };
        self.stats.recall(StatsMemory {
            phones: values(kept.get(PHONES)),
            files: values(kept.get(FILES)),
            counters: kept.get(COUNTERS).into_iter().flatten().filter_map(counter).collect(),
            untold: values(kept.get(OUTBOX)),
        });
        self.kept = Some(kept);
    }

    fn keep(&mut self) -> usize {
        let cache = self.store.cache();
        let resets = cache.resets();
        let kept = self.kept.get_or_insert_default();
        let mut now = trees(&self.stats.memory());
        let mut changed = 0;
        for (tree, limit) in TREES {
            let old = kept.entry(tree).or_default();
            let new: Entries = now.remove(tree).unwrap_or_default().into_iter().take(limit).collect();
            let keys: BTreeSet<&Vec<u8>> = old.keys().chain(new.keys()).collect();
            let changes: Vec<(&[u8], Option<&[u8]>)> = keys
                .into_iter()
                .filter(|key| old.get(*key) != new.get(*key))
                .map(|key| (key.as_slice(), new.get(key).map(Vec::as_slice)))
                .collect();
            if !changes.is_empty() {
                changed += changes.len();
                cache.put_all(tree, &changes);
            }
            *old = new;
        }
        if changed > 0 {
            cache.flush();
        }
        if cache.resets() != resets {
            // The cache was emptied meanwhile. The next call writes everything again.
            kept.clear();
        }
        changed
    }
}

fn values<T: DeserializeOwned>(entries: Option<&Entries>) -> Vec<T> {
    entries.into_iter().flatten().filter_map(|(_, value)| serde_json::from_slice(value).ok()).collect()
}

fn trees(memory: &StatsMemory) -> BTreeMap<&'static str, Entries> {
    fn entry<T: Serialize>(key: Vec<u8>, value: &T) -> Option<(Vec<u8>, Vec<u8>)> {
        Some((key, serde_json::to_vec(value).ok()?))
    }
    let key = |parts: [&[u8]; 2]| parts.join(&0);
    let phones = memory.phones.iter().filter_map(|phone| entry(phone.mac.octets().to_vec(), phone)).collect();
    let files = memory.files.iter();
    let files = files.filter_map(|seen| entry(key([&seen.mac.octets(), seen.file.as_bytes()]), seen)).collect();
    let counters = memory.counters.iter();
    let counters = counters.map(|(name, value)| (name.clone().into_bytes(), value.to_le_bytes().to_vec())).collect();
    let untold = memory.untold.iter();
    let untold = untold.filter_map(|alert| entry(key([alert.code.as_bytes(), alert.text.as_bytes()]), alert)).collect();
    [(PHONES, phones), (FILES, files), (COUNTERS, counters), (OUTBOX, untold)].into()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::path::Path;

    use super::*;
    use api::{AlertCode, TransferEnd};
    use ids::{Generation, MacAddr};
    use status::{StatusReport, TransferRecord};

    fn asked(stats: &Stats, last: u8, file: &str) {
        stats.transfer(TransferRecord {
            device: Some(MacAddr::new([2, 0, 0, 0, 0, last])),
            known: true,
            address: std::net::Ipv4Addr::LOCALHOST,
            file: file.to_owned(),
            bytes: 10,
            retransmissions: 0,
            duration: Duration::from_millis(3),
            generation: Generation(4),
            content: None,
            outcome: TransferEnd::Delivered.into(),
        });
    }

    /// One run of an appliance: what it knew at its start, and what it kept at its end.
    fn run(dir: &Path, act: impl FnOnce(&Stats, &StoredMemory)) -> StatusReport {
        let stats = Stats::new();
        let memory = StoredMemory::new(Store::open(dir).unwrap(), stats.clone());
        memory.recall();
        let report = StatusReport::of(&stats);
        act(&stats, &memory);
        memory.keep();
        report
    }

    #[test]
    fn a_restart_remembers_phones_files_counters_and_what_hq_has_not_heard() {
        let dir = tempfile::tempdir().unwrap();
        let empty = run(dir.path(), |stats, _| {
            asked(stats, 1, "a.cfg");
            asked(stats, 2, "b.cfg");
            stats.alert(AlertCode::AddressConflict, "two at one".to_owned());
        });
        assert!(empty.phones.is_empty() && empty.counters.is_empty());
        let before = run(dir.path(), |stats, _| asked(stats, 1, "c.cfg"));
        assert_eq!((before.phones.len(), before.files.len(), before.alerts.len()), (2, 2, 1));
        let after = run(dir.path(), |stats, _| stats.told(&StatusReport::of(stats).alerts));
        assert_eq!((after.files.len(), after.alerts.len()), (3, 1));
        assert_eq!(after.counters.get("tftp.delivered"), Some(&3));
        let told = run(dir.path(), |_, _| ());
        assert_eq!((told.files.len(), told.alerts.len()), (3, 0));
    }

    #[test]
    fn only_what_changed_is_written() {
        let dir = tempfile::tempdir().unwrap();
        run(dir.path(), |stats, memory| {
            (0..200).for_each(|last| asked(stats, last, "a.cfg"));
            assert!(memory.keep() > 400);
            assert_eq!(memory.keep(), 0);
            asked(stats, 7, "b.cfg");
            // The phone, the file, and three counters.
            let changed = memory.keep();
            assert!((2..=5).contains(&changed), "{changed}");
        });
    }

    #[test]
    fn a_year_of_keeping_stays_small_on_the_card() {
        let dir = tempfile::tempdir().unwrap();
        let size = || -> u64 {
            let files = std::fs::read_dir(dir.path().join("cache.sled")).unwrap();
            files.map(|file| file.unwrap().metadata().unwrap().len()).sum()
        };
        run(dir.path(), |stats, memory| {
            for round in 0..2_000u32 {
                (0..20u8).for_each(|last| asked(stats, last, &format!("{}.cfg", round % 10)));
                memory.keep();
            }
        });
        println!("2,000 rounds of 20 phones: {} bytes on disk", size());
        assert!(size() < 16 * 1024 * 1024, "{}", size());
        let report = run(dir.path(), |_, _| ());
        assert_eq!(report.phones.len(), 20);
    }

    #[test]
    fn whatever_the_database_holds_the_start_succeeds() {
        let dir = tempfile::tempdir().unwrap();
        {
            let store = Store::open(dir.path()).unwrap();
            for (tree, _) in TREES {
                store.cache().put(tree, b"\xff\xfe", b"\x00garbage");
                store.cache().put(tree, b"", b"{}");
            }
            store.cache().flush();
        }
        let report = run(dir.path(), |stats, _| asked(stats, 1, "a.cfg"));
        assert!(report.phones.is_empty() && report.counters.is_empty());
        assert_eq!(run(dir.path(), |_, _| ()).phones.len(), 1);
    }
}
