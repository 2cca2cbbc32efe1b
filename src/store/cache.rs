//! What may be lost: devices seen, counters, the check-in outbox. The only file that names sled.
//!
//! sled 0.34.7 keeps its promises only with help. Its `flush` calls `sync_file_range`, which neither writes metadata nor
//! empties a drive's cache; dying while it opens can leave a partial `snap.*.generating` that it takes for a snapshot,
//! and then it never opens again; and it panics on some damage. So here:
//!
//! 1. before opening, a `snap.*.generating` whose checksum is wrong is deleted (a whole one may be the only good one);
//! 2. after opening, `conf` and the directories are synced, and after each flush the `db` file is;
//! 3. there is no flusher thread, which would sync an idle SD card 172,800 times a day;
//! 4. at any error or panic the directory is moved aside and an empty one takes its place, and that is counted.
//!
//! It is opened once, when it is first needed, and stays open. An empty one takes half a megabyte of memory, 4,000 entries
//! of 150 bytes five, whatever the segment size and the cache's capacity (32 KiB and 64 KiB, 512 KiB and 8 MiB), and
//! closing gives none of it back: opening again takes as much anew.
//!
//! Deleting the directory while the appliance is stopped changes nothing that a phone can see.

use std::fs::{self, File, TryLockError};
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use super::lock;
use durable::{parent, read_limited};

/// Memory for sled's pages; its own default is 1 GiB.
const MEMORY_BYTES: u64 = 8 * 1024 * 1024;

/// The longest key in bytes; a longer one is not kept.
pub const MAX_KEY_BYTES: usize = 1024;

/// The longest value. sled writes larger ones into files of their own, which the guard does not sync.
pub const MAX_VALUE_BYTES: usize = 16 * 1024;

/// A directory larger than this when it is opened is given up: sled does not always reclaim space.
const MAX_DIR_BYTES: u64 = 64 * 1024 * 1024;

/// A snapshot larger than this is not read for its checksum but deleted.
const MAX_SNAPSHOT_BYTES: u64 = MAX_DIR_BYTES;

/// How often, and how long apart, to look whether a database that was dropped is closed: ten seconds in all.
const CLOSING_TRIES: u32 = 500;
const CLOSING_PAUSE: Duration = Duration::from_millis(20);

/// How often one process moves a damaged database aside. After that it goes on without one.
const MAX_RESETS: u64 = 5;

/// A small database of what may be lost. No operation fails: what cannot be kept is forgotten, and
/// [`StateCache::resets`] counts. Operations may block on the disk.
#[derive(Debug)]
pub struct StateCache {
    dir: PathBuf,
    db: Mutex<Option<sled::Db>>,
    resets: AtomicU64,
}

impl StateCache {
    /// Opens `cache.sled` under `state_dir`, empty if it is absent or damaged.
    pub fn open(state_dir: &Path) -> Self {
        let cache = Self { dir: state_dir.join("cache.sled"), db: Mutex::new(None), resets: AtomicU64::new(0) };
        {
            let mut db = lock(&cache.db);
            if dir_bytes(&cache.dir) > MAX_DIR_BYTES {
                cache.start_anew(&mut db, "it is too large");
            } else {
                match guarded(|| open_guarded(&cache.dir)) {
                    Ok(opened) => *db = Some(opened),
                    Err(why) => cache.start_anew(&mut db, &why),
                }
            }
        }
        cache
    }

    /// How often this process moved the directory aside and started with an empty one.
    pub fn resets(&self) -> u64 {
        self.resets.load(Ordering::Relaxed)
    }

    /// The value of a key; `None` if it was never set, or was lost.
    pub fn get(&self, tree: &str, key: &[u8]) -> Option<Vec<u8>> {
        self.with(|db| Ok(db.open_tree(tree)?.get(key)?.map(|value| value.to_vec()))).flatten()
    }

    /// Sets a value, durable after the next [`StateCache::flush`]. A key over [`MAX_KEY_BYTES`] or a value over
    /// [`MAX_VALUE_BYTES`] is not kept.
    pub fn put(&self, tree: &str, key: &[u8], value: &[u8]) {
        self.put_all(tree, &[(key, Some(value))]);
    }

    /// Removes a key and its value, durably after the next [`StateCache::flush`].
    pub fn remove(&self, tree: &str, key: &[u8]) {
        self.put_all(tree, &[(key, None)]);
    }

    /// Sets (`Some`) and removes (`None`) keys of one tree, all or none of them.
    pub fn put_all(&self, tree: &str, changes: &[(&[u8], Option<&[u8]>)]) {
        let mut batch = sled::Batch::default();
        for (key, value) in changes {
            match value {
                _ if key.len() > MAX_KEY_BYTES => tracing::debug!(tree, "a key is too long to be kept"),
                Some(value) if value.len() > MAX_VALUE_BYTES => {
                    tracing::debug!(tree, "a value is too long to be kept");
                }
                Some(value) => batch.insert(*key, *value),
                None => batch.remove(*key),
            }
        }
        self.with(|db| db.open_tree(tree)?.apply_batch(batch.clone()));
    }

    /// The first `limit` entries of a tree in the order of their keys, from `from` on.
    pub fn entries(&self, tree: &str, from: &[u8], limit: usize) -> Vec<(Vec<u8>, Vec<u8>)> {
        self.with(|db| {
            let entry = |(key, value): (sled::IVec, sled::IVec)| (key.to_vec(), value.to_vec());
            db.open_tree(tree)?.range(from..).take(limit).map(|found| found.map(entry)).collect()
        })
        .unwrap_or_default()
    }

    /// How many entries a tree has. Walks all of it.
    pub fn count(&self, tree: &str) -> usize {
        self.with(|db| Ok(db.open_tree(tree)?.len())).unwrap_or(0)
    }

    /// Removes a whole tree.
    pub fn clear(&self, tree: &str) {
        self.with(|db| db.open_tree(tree)?.clear());
    }

    /// Makes everything durable. Costs a sync of the disk: per event worth it, not per packet.
    pub fn flush(&self) {
        let file = self.dir.join("db");
        self.with(|db| {
            db.flush()?;
            Ok(File::open(&file)?.sync_all()?)
        });
    }

    /// Runs one operation behind the guard; once more on an empty database if it fails.
    fn with<T>(&self, operation: impl Fn(&sled::Db) -> sled::Result<T>) -> Option<T> {
        let mut db = lock(&self.db);
        for _ in 0..2 {
            let open = db.as_ref()?;
            match guarded(|| operation(open)) {
                Ok(value) => return Some(value),
                Err(why) => self.start_anew(&mut db, &why),
            }
        }
        None
    }

    #[expect(clippy::disallowed_methods, reason = "what may be lost may also come back after a power cut")]
    fn start_anew(&self, db: &mut Option<sled::Db>, why: &str) {
        if let Some(damaged) = db.take() {
            // Closing writes and may panic too.
            let _ = catch_unwind(AssertUnwindSafe(|| drop(damaged)));
        }
        let resets = self.resets.fetch_add(1, Ordering::Relaxed) + 1;
        tracing::warn!(why, resets, "the database of what may be lost is damaged and starts empty");
        let bad = self.dir.with_extension("sled.bad");
        let moved = remove(&bad).and_then(|()| match fs::rename(&self.dir, &bad) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            other => other,
        });
        if moved.is_err() && remove(&self.dir).is_err() {
            return;
        }
        if resets <= MAX_RESETS {
            *db = guarded(|| open_guarded(&self.dir)).ok();
        }
    }
}

impl Drop for StateCache {
    fn drop(&mut self) {
        let db = lock(&self.db).take();
        let _ = catch_unwind(AssertUnwindSafe(|| drop(db)));
    }
}

/// Turns panics and errors of sled into a reason.
fn guarded<T>(operation: impl FnOnce() -> sled::Result<T>) -> Result<T, String> {
    match catch_unwind(AssertUnwindSafe(operation)) {
        Ok(result) => result.map_err(|error| error.to_string()),
        Err(_) => Err("it panicked".to_owned()),
    }
}

fn open_guarded(dir: &Path) -> sled::Result<sled::Db> {
    let mut tries = 0;
    let db = loop {
        wait_until_closed(dir)?;
        delete_torn_snapshots(dir)?;
        match sled::Config::new().path(dir).cache_capacity(MEMORY_BYTES).flush_every_ms(None).open() {
            // A process that is being started holds copies of all our files for a moment, their locks with them.
            Err(error) if tries < CLOSING_TRIES && error.to_string().contains("could not acquire lock") => {
                tries += 1;
                thread::sleep(CLOSING_PAUSE);
            }
            other => break other?,
        }
    };
    File::open(dir.join("conf"))?.sync_all()?;
    File::open(dir.join("db"))?.sync_all()?;
    File::open(dir)?.sync_all()?;
    File::open(parent(dir))?.sync_all()?;
    Ok(db)
}

/// Dropping a database returns before sled's own threads have let go of its file, and then opening it again at once
/// would fail, which must not be taken for damage. Another process cannot have it: the store is locked.
fn wait_until_closed(dir: &Path) -> io::Result<()> {
    let file = match File::open(dir.join("db")) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        other => other?,
    };
    for _ in 0..CLOSING_TRIES {
        match file.try_lock() {
            Ok(()) => return Ok(()),
            Err(TryLockError::WouldBlock) => thread::sleep(CLOSING_PAUSE),
            Err(TryLockError::Error(error)) => return Err(error),
        }
    }
    Err(io::Error::new(io::ErrorKind::WouldBlock, "it is still being closed"))
}

/// Deletes each `snap.*.generating` that a death tore. What is whole stays: its rename may not have reached the disk,
/// and then it is the only good snapshot.
fn delete_torn_snapshots(dir: &Path) -> io::Result<()> {
    let entries = match fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        other => other?,
    };
    for entry in entries {
        let entry = entry?;
        let name = entry.file_name();
        let generating = name.to_str().is_some_and(|name| name.starts_with("snap.") && name.ends_with(".generating"));
        if generating && !is_whole_snapshot(&entry.path()) {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

/// sled's own layout: the snapshot, its unpacked length (u64), the CRC-32 of the snapshot (u32), little-endian.
fn is_whole_snapshot(path: &Path) -> bool {
    let Ok(Some(bytes)) = read_limited(path, MAX_SNAPSHOT_BYTES) else { return false };
    let Some((rest, sum)) = bytes.split_last_chunk::<4>() else { return false };
    let Some((snapshot, _length)) = rest.split_last_chunk::<8>() else { return false };
    !snapshot.is_empty() && crc32(snapshot) == u32::from_le_bytes(*sum)
}

/// CRC-32 of IEEE 802.3, bit by bit: it runs once per start over a few kilobytes.
fn crc32(bytes: &[u8]) -> u32 {
    let step = |crc: u32, _| if crc & 1 == 1 { (crc >> 1) ^ 0xedb8_8320 } else { crc >> 1 };
    !bytes.iter().fold(u32::MAX, |crc, byte| (0..8).fold(crc ^ u32::from(*byte), step))
}

fn remove(dir: &Path) -> io::Result<()> {
    match fs::remove_dir_all(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

fn dir_bytes(dir: &Path) -> u64 {
    let Ok(entries) = fs::read_dir(dir) else { return 0 };
    entries.filter_map(|entry| Some(entry.ok()?.metadata().ok()?.len())).sum()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]
    use super::*;

    fn snapshots(dir: &Path) -> Vec<PathBuf> {
        let names = fs::read_dir(dir.join("cache.sled")).unwrap().map(|entry| entry.unwrap().path());
        names.filter(|path| path.file_name().unwrap().to_str().unwrap().starts_with("snap.")).collect()
    }

    /// A directory with one flushed entry, closed.
    fn filled() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        let cache = StateCache::open(dir.path());
        cache.put("outbox", b"1", b"report");
        cache.flush();
        drop(cache);
        // A second opening writes a snapshot.
        drop(StateCache::open(dir.path()));
        assert_eq!(snapshots(dir.path()).len(), 1);
        dir
    }

    fn assert_intact(dir: &Path) {
        let cache = StateCache::open(dir);
        assert_eq!(cache.get("outbox", b"1").as_deref(), Some(b"report".as_slice()));
        assert_eq!(cache.resets(), 0);
    }

    fn assert_started_anew(dir: &Path) {
        let cache = StateCache::open(dir);
        assert_eq!(cache.get("outbox", b"1"), None);
        assert_eq!(cache.resets(), 1);
        cache.put("outbox", b"2", b"new");
        cache.flush();
        assert_eq!(cache.get("outbox", b"2").as_deref(), Some(b"new".as_slice()));
        assert!(dir.join("cache.sled.bad").is_dir());
    }

    #[test]
    fn the_checksum_is_the_one_that_sled_uses() {
        assert_eq!(crc32(b"123456789"), 0xcbf4_3926);
        let dir = filled();
        assert!(is_whole_snapshot(&snapshots(dir.path())[0]));
    }

    #[test]
    fn trees_keep_their_entries_apart_and_in_order() {
        let dir = tempfile::tempdir().unwrap();
        let cache = StateCache::open(dir.path());
        cache.put_all("devices", &[(b"b", Some(b"2")), (b"a", Some(b"1")), (b"c", Some(b"3"))]);
        cache.put("counters", b"a", b"9");
        cache.remove("devices", b"b");
        assert_eq!(cache.entries("devices", b"", 10), [(b"a".to_vec(), b"1".to_vec()), (b"c".to_vec(), b"3".to_vec())]);
        assert_eq!(cache.entries("devices", b"b", 1), [(b"c".to_vec(), b"3".to_vec())]);
        assert_eq!((cache.count("devices"), cache.count("counters")), (2, 1));
        cache.clear("devices");
        assert_eq!((cache.count("devices"), cache.count("counters")), (0, 1));
    }

    #[test]
    fn what_was_flushed_is_there_after_reopening() {
        assert_intact(filled().path());
    }

    #[test]
    fn closing_and_opening_in_turn_loses_nothing() {
        let dir = filled();
        for number in 0..50u8 {
            let cache = StateCache::open(dir.path());
            cache.put("outbox", &[number, 0], b"more");
            cache.flush();
            assert_eq!((cache.resets(), cache.count("outbox")), (0, usize::from(number) + 2));
        }
    }

    #[test]
    fn a_torn_new_snapshot_is_deleted_at_every_cut() {
        let dir = filled();
        let snapshot = snapshots(dir.path())[0].clone();
        let whole = fs::read(&snapshot).unwrap();
        for length in [0, 1, 11, 12, 13, whole.len() / 2, whole.len() - 1] {
            let torn = dir.path().join("cache.sled/snap.FFFFFFFFFFFFFFFF.generating");
            fs::write(&torn, &whole[..length]).unwrap();
            assert_intact(dir.path());
            assert!(!torn.exists(), "cut at {length}");
        }
    }

    #[test]
    fn a_whole_new_snapshot_whose_rename_was_lost_is_used() {
        let dir = filled();
        let snapshot = snapshots(dir.path())[0].clone();
        let generating = PathBuf::from(format!("{}.generating", snapshot.display()));
        fs::rename(&snapshot, &generating).unwrap();
        delete_torn_snapshots(&dir.path().join("cache.sled")).unwrap();
        assert!(generating.exists());
        assert_intact(dir.path());
    }

    #[test]
    fn a_damaged_snapshot_means_starting_empty_and_counting_it() {
        let dir = filled();
        let snapshot = snapshots(dir.path())[0].clone();
        let mut bytes = fs::read(&snapshot).unwrap();
        bytes[0] ^= 1;
        fs::write(&snapshot, bytes).unwrap();
        assert_started_anew(dir.path());
    }

    #[test]
    fn whatever_is_in_its_files_it_opens_and_works() {
        for name in ["conf", "db"] {
            for damage in [b"".as_slice(), b"garbage", &[0; 5000], &[0xff; 5000]] {
                let dir = filled();
                fs::write(dir.path().join("cache.sled").join(name), damage).unwrap();
                let cache = StateCache::open(dir.path());
                cache.put("outbox", b"2", b"new");
                cache.flush();
                assert_eq!(cache.get("outbox", b"2").as_deref(), Some(b"new".as_slice()), "{name}");
                drop(cache);
                let cache = StateCache::open(dir.path());
                assert_eq!(cache.get("outbox", b"2").as_deref(), Some(b"new".as_slice()), "{name}");
            }
        }
    }

    #[test]
    fn a_file_in_place_of_the_directory_means_starting_empty() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("cache.sled"), b"garbage").unwrap();
        let cache = StateCache::open(dir.path());
        cache.put("outbox", b"2", b"new");
        assert_eq!((cache.get("outbox", b"2").as_deref(), cache.resets()), (Some(b"new".as_slice()), 1));
    }

    #[test]
    fn a_panic_inside_means_starting_empty() {
        let dir = filled();
        let cache = StateCache::open(dir.path());
        let hook = std::panic::take_hook();
        std::panic::set_hook(Box::new(|_| {}));
        assert_eq!(cache.with(|_| -> sled::Result<()> { panic!("as sled does") }), None);
        std::panic::set_hook(hook);
        assert_eq!((cache.get("outbox", b"1"), cache.resets()), (None, 2));
        cache.put("outbox", b"1", b"again");
        assert_eq!(cache.get("outbox", b"1").as_deref(), Some(b"again".as_slice()));
    }

    #[test]
    fn after_too_many_starts_it_goes_on_without() {
        let dir = tempfile::tempdir().unwrap();
        let cache = StateCache::open(dir.path());
        for _ in 0..20 {
            cache.with(|_| -> sled::Result<()> { Err(sled::Error::Unsupported("a test".to_owned())) });
        }
        assert_eq!(cache.resets(), MAX_RESETS + 1);
        cache.put("outbox", b"1", b"lost");
        cache.flush();
        assert_eq!(cache.get("outbox", b"1"), None);
    }

    #[test]
    fn what_is_too_long_is_not_kept() {
        let dir = tempfile::tempdir().unwrap();
        let cache = StateCache::open(dir.path());
        cache.put("outbox", b"1", &vec![0; MAX_VALUE_BYTES + 1]);
        cache.put("outbox", &vec![0; MAX_KEY_BYTES + 1], b"x");
        assert_eq!((cache.count("outbox"), cache.resets()), (0, 0));
    }
}
