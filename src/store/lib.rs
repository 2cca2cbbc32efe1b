//! The state directory of an appliance: sealed objects, releases, trust state, identity, and what may be lost.
//!
//! At any power cut the site serves the old or the new release, never a mix, and keeps its rollback floor.
//!
//! What lies in the state directory (0700, files 0600):
//!
//! ```text
//! lock                       held while the store is open
//! identity/                  keys, certificate, settings of enrolment
//! trust.0 trust.1            trust state, twice, checksummed, written one after the other
//! active                     which release is active and which was before it, checksummed
//! releases/<generation>/     index (checksums of the rest), manifest (sealed), objects (digests), 0.json, 1.json, …
//! objects/<2 hex>/<sha256>   ciphertext named by its digest
//! partial/<sha256>           downloads that are not complete
//! journal/<name>.log         append-only records: DHCP leases
//! logs/<mac>-app.log          what phones wrote, if the site takes logs; a ring of a bounded size
//! bad/                       the last few damaged objects, for whoever wants to know why
//! cache.sled/                what may be lost
//! tmp/                       files that are being written; emptied at every opening
//! ```
//!
//! Read [`durable`] first (what "durable" means here), then `checked`, `objects`, `download`, `releases`,
//! `pointer` (activation and what happens if it is damaged), `trust`, `reader`. Names from outside never become
//! paths, except a [`Digest`] in hex.

#![cfg_attr(test, allow(clippy::disallowed_methods, reason = "tests make and break files as they like"))]

mod cache;
mod checked;
mod clear_cache;
mod collect;
mod download;
mod error;
mod journal;
pub mod logs;
mod objects;
mod pointer;
mod reader;
mod releases;
mod space;
mod trust;

#[cfg(test)]
mod cache_cuts;
#[cfg(test)]
mod fixtures;
#[cfg(test)]
mod power_cuts;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs::{File, TryLockError};
use std::io::ErrorKind;
use std::path::{Component, Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};

use access::Opened;
use ids::{Digest, Generation};

pub use cache::{MAX_KEY_BYTES, MAX_VALUE_BYTES, StateCache};
pub use download::Download;
pub use error::{Recovery, StoreError};
pub use journal::{Journal, MAX_JOURNAL_BYTES, MAX_RECORD_BYTES};
pub use releases::StoredRelease;
pub use trust::TrustState;

use clear_cache::ClearCache;
use durable::{Disk, PRIVATE, PRIVATE_DIR, SHARED_DIR};

/// The most recoveries that are remembered; later ones are only logged.
const MAX_RECOVERIES: usize = 32;

/// The disk of one appliance. Clones are the same store.
#[derive(Clone)]
pub struct Store {
    inner: Arc<OpenStore>,
}

/// A release that is on disk and was re-verified or verified when it was staged.
#[derive(Debug, Clone)]
pub struct ActiveRelease {
    /// The verified manifest and its catalog.
    pub opened: Opened,
    /// The TUF metadata that it was verified with, under unversioned file names.
    pub metadata: BTreeMap<String, Vec<u8>>,
}

/// Called with the digest of an object that was found damaged.
type DamageCallback = Arc<dyn Fn(Digest) + Send + Sync>;

/// The open state directory, shared by all clones of a [`Store`] and by nobody else.
struct OpenStore {
    dir: PathBuf,
    disk: Disk,
    /// Holds the `flock`; the kernel lets go of it when the process dies.
    _lock: File,
    asides: AtomicU64,
    /// Objects that a whole release on disk lists: durable since it was staged.
    listed: Mutex<HashSet<Digest>>,
    /// Objects whose digest this process has checked.
    seen: Mutex<HashSet<Digest>>,
    /// Objects whose damage was reported and that were not fetched again yet.
    reported: Mutex<HashSet<Digest>>,
    downloading: Mutex<HashSet<Digest>>,
    /// Object files that transfers hold open.
    handles: Mutex<HashMap<Digest, Weak<File>>>,
    pointer: Mutex<pointer::Pointer>,
    trust: Mutex<trust::Copies>,
    clear: Arc<ClearCache>,
    damage_callbacks: Mutex<Vec<DamageCallback>>,
    recoveries: Mutex<Vec<Recovery>>,
    cache: OnceLock<StateCache>,
    logs: Mutex<logs::LogBudget>,
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Store").field(&self.inner.dir).finish()
    }
}

impl Store {
    /// Opens the store under `dir` (created 0700 if absent), cleans up what a power cut left, takes a lock.
    ///
    /// A disk that is full or has gone read-only is no reason not to serve: what is there can be read, writes fail, and
    /// [`Store::recoveries`] says so.
    pub fn open(dir: &Path) -> Result<Self, StoreError> {
        Self::open_on(dir, Disk::default())
    }

    fn open_on(dir: &Path, disk: Disk) -> Result<Self, StoreError> {
        if !dir.is_dir() {
            disk.create_dirs(durable::parent(dir), SHARED_DIR).map_err(StoreError::io("create", dir))?;
            disk.create_dir(dir, PRIVATE_DIR).map_err(StoreError::io("create", dir))?;
            disk.sync_dir(durable::parent(dir)).map_err(StoreError::io("sync", dir))?;
        }
        durable::keep_private(dir).map_err(StoreError::io("protect", dir))?;
        let lock = take_lock(&dir.join("lock"))?;

        for name in ["tmp", "identity", "objects", "partial", "releases", "journal", "bad"] {
            let path = dir.join(name);
            disk.create_dir(&path, PRIVATE_DIR).map_err(StoreError::io("create", &path))?;
        }
        disk.sync_dir(dir).unwrap_or_else(|error| tracing::warn!(%error, "the state directory cannot be synced"));

        let inner = OpenStore {
            dir: dir.to_owned(),
            disk,
            _lock: lock,
            asides: AtomicU64::new(0),
            listed: Mutex::default(),
            seen: Mutex::default(),
            reported: Mutex::default(),
            downloading: Mutex::default(),
            handles: Mutex::default(),
            pointer: Mutex::default(),
            trust: Mutex::default(),
            clear: Arc::new(ClearCache::new(clear_cache::DEFAULT_BYTES)),
            damage_callbacks: Mutex::default(),
            recoveries: Mutex::default(),
            cache: OnceLock::new(),
            logs: Mutex::default(),
        };
        if let Err(error) = inner.clean().and_then(|()| inner.try_writing()) {
            inner.recovered(Recovery::NotWritable(error.to_string()));
        }
        inner.load_trust();
        inner.load_pointer();
        inner.load_listed();
        Ok(Self { inner: Arc::new(inner) })
    }

    /// The directory that identity files (keys, certificate, settings of enrolment) live in; 0700.
    pub fn identity_dir(&self) -> PathBuf {
        self.inner.dir.join("identity")
    }

    /// Writes a small file durably: aside, fsync, rename, fsync of the directory; mode 0600.
    ///
    /// `relative` is below the state directory, for example `identity/tls.key`; it is the program's own word, never
    /// one from outside. What the store itself keeps there cannot be written so.
    pub fn write_file(&self, relative: &Path, bytes: &[u8]) -> Result<(), StoreError> {
        let inner = &self.inner;
        let mut names = Vec::new();
        for component in relative.components() {
            match component {
                Component::Normal(name) => names.push(name),
                _ => return Err(StoreError::Name(relative.to_owned())),
            }
        }
        const OWN: [&str; 12] = [
            "lock",
            "trust.0",
            "trust.1",
            "active",
            "releases",
            "objects",
            "partial",
            "journal",
            "logs",
            "bad",
            "cache.sled",
            "tmp",
        ];
        let Some((_, directories)) = names.split_last() else { return Err(StoreError::Name(relative.to_owned())) };
        if names.first().is_some_and(|first| OWN.iter().any(|own| first == own)) {
            return Err(StoreError::Name(relative.to_owned()));
        }
        let mut directory = inner.dir.clone();
        for name in directories {
            let above = directory.clone();
            directory.push(name);
            if !directory.is_dir() {
                inner.disk.create_dir(&directory, PRIVATE_DIR).map_err(StoreError::io("create", &directory))?;
                inner.disk.sync_dir(&above).map_err(StoreError::io("sync", &above))?;
            }
        }
        inner.replace(&inner.dir.join(relative), bytes)
    }

    /// An append-only log of records that survives power cuts, and the records that are in it. `name` is of lower-case
    /// letters and hyphens. One handle at a time: a second is [`StoreError::Locked`].
    pub fn journal(&self, name: &str) -> Result<(Journal, Vec<Vec<u8>>), StoreError> {
        let plain = |c: char| c.is_ascii_lowercase() || c == '-';
        if name.is_empty() || name.len() > 32 || !name.chars().all(plain) {
            return Err(StoreError::Name(name.into()));
        }
        let path = self.inner.dir.join("journal").join(format!("{name}.log"));
        let (journal, records) = Journal::open_on(self.inner.disk.clone(), &path)?;
        if journal.cut_bytes() > 0 {
            self.inner.recovered(Recovery::JournalCut { name: name.to_owned(), bytes: journal.cut_bytes() });
        }
        Ok((journal, records))
    }

    /// What may be lost: devices seen, counters, the check-in outbox. Opened at the first call.
    pub fn cache(&self) -> &StateCache {
        self.inner.cache.get_or_init(|| StateCache::open(&self.inner.dir))
    }

    /// What this process had to repair or do without since it opened the store, oldest first; for the check-in.
    pub fn recoveries(&self) -> Vec<Recovery> {
        lock(&self.inner.recoveries).clone()
    }

    /// Calls `callback` when an object turns out to be damaged or gone, on the thread that found it; once until it is
    /// fetched again, however often phones ask for it. It must not block.
    pub fn on_damage(&self, callback: Box<dyn Fn(Digest) + Send + Sync>) {
        lock(&self.inner.damage_callbacks).push(callback.into());
    }

    /// Bytes written to the disk since opening, sled's not included.
    pub fn bytes_written(&self) -> u64 {
        self.inner.disk.written()
    }

    /// Makes a complete, verified release durable beside the active one. All its objects must be here, else
    /// [`StoreError::Missing`]. Staging a release again is harmless; another one of a generation that is active or
    /// was active just before is [`StoreError::Conflict`].
    pub fn stage(&self, opened: &Opened, metadata: &BTreeMap<String, Vec<u8>>) -> Result<(), StoreError> {
        let objects: Vec<_> = opened.objects().iter().map(|object| (object.digest, object.bytes)).collect();
        self.inner.stage(opened.generation(), opened.sealed_manifest(), metadata, &objects)
    }

    /// Deletes objects, releases and abandoned downloads that neither the active nor the previous release nor any of
    /// `keep` needs. Returns bytes freed. Not to be called while a download that belongs to none of them runs.
    pub fn collect(&self, keep: &[&Opened]) -> Result<u64, StoreError> {
        let generations: HashSet<Generation> = keep.iter().map(|opened| opened.generation()).collect();
        let objects: HashSet<Digest> =
            keep.iter().flat_map(|opened| opened.objects()).map(|object| object.digest).collect();
        self.inner.collect(&generations, &objects)
    }
}

impl OpenStore {
    /// Where the next file is written before it gets its name.
    fn aside(&self) -> PathBuf {
        self.dir.join("tmp").join(self.asides.fetch_add(1, Ordering::Relaxed).to_string())
    }

    /// Makes `target` hold `bytes` durably, or leaves it as it was.
    fn replace(&self, target: &Path, bytes: &[u8]) -> Result<(), StoreError> {
        self.disk.replace_through(&self.aside(), target, bytes, PRIVATE).map_err(StoreError::io("write", target))
    }

    /// Deletes what was being written when the power went, and bounds what interrupted downloads hold.
    fn clean(&self) -> Result<(), StoreError> {
        let tmp = self.dir.join("tmp");
        let entries = std::fs::read_dir(&tmp).map_err(StoreError::io("read", &tmp))?;
        for entry in entries.flatten() {
            let path = entry.path();
            let removed = if path.is_dir() { self.disk.remove_dir(&path) } else { self.disk.remove_file(&path) };
            removed.map_err(StoreError::io("delete", &path))?;
        }
        self.trim_partials()
    }

    fn try_writing(&self) -> Result<(), StoreError> {
        let path = self.aside();
        let written = self.disk.create(&path, PRIVATE).and_then(|mut file| file.append(&[0; 512]));
        let removed = self.disk.remove_file(&path);
        written.and(removed).map_err(StoreError::io("write", &path))
    }

    fn recovered(&self, recovery: Recovery) {
        tracing::warn!(code = recovery.repair().code(), "{recovery}");
        let mut recoveries = lock(&self.recoveries);
        if recoveries.len() < MAX_RECOVERIES && !recoveries.contains(&recovery) {
            recoveries.push(recovery);
        }
    }
}

fn take_lock(path: &Path) -> Result<File, StoreError> {
    let file = match durable::lock_file(path) {
        Err(error) if error.kind() == ErrorKind::ReadOnlyFilesystem => File::open(path),
        other => other,
    };
    let file = file.map_err(StoreError::io("open", path))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(StoreError::Locked),
        Err(TryLockError::Error(source)) => Err(StoreError::io("lock", path)(source)),
    }
}

/// Data behind these locks is whole after every statement, so a panic elsewhere does not spoil it.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
