//! Downloads of objects: resumed at a chunk boundary, bounded, checked before they count.

use std::fs::File;
use std::sync::Arc;

use sha2::{Digest as _, Sha256};

use super::error::StoreError;
use super::objects::{hash_into, list};
use super::{OpenStore, Store, lock};
use bundle::limits::{CHUNK_BYTES, MAX_FILE_BYTES, TAG_BYTES};
use durable::{DiskFile, PRIVATE};
use ids::Digest;

/// Bytes of one sealed chunk: downloads resume at multiples of it.
pub(super) const SEALED_CHUNK_BYTES: u64 = (CHUNK_BYTES + TAG_BYTES) as u64;

/// The most bytes of one sealed object.
pub(super) const MAX_OBJECT_BYTES: u64 = MAX_FILE_BYTES / CHUNK_BYTES as u64 * SEALED_CHUNK_BYTES;

/// The most unfinished downloads that opening the store leaves.
const MAX_PARTIALS: usize = 64;

/// The most bytes in unfinished downloads that opening the store leaves; the newest ones stay.
const MAX_PARTIAL_BYTES: u64 = MAX_OBJECT_BYTES;

/// A download in progress. Dropping it keeps what was written, for resuming.
#[derive(Debug)]
pub struct Download {
    store: Store,
    digest: Digest,
    bytes: u64,
    /// `None` if the object was here already.
    file: Option<DiskFile>,
    hasher: Sha256,
    offset: u64,
}

impl Store {
    /// Starts or resumes the download of an object of exactly `bytes` bytes. One at a time per object: another is
    /// [`StoreError::Busy`]. For an object that is here, nothing is left to do but [`Download::finish`].
    pub fn download(&self, digest: &Digest, bytes: u64) -> Result<Download, StoreError> {
        if bytes > MAX_OBJECT_BYTES {
            return Err(StoreError::TooLong { digest: *digest, limit: MAX_OBJECT_BYTES });
        }
        if !lock(&self.inner.downloading).insert(*digest) {
            return Err(StoreError::Busy(*digest));
        }
        // From here on, dropping `download` removes the digest from the set.
        let mut download = Download {
            store: Self { inner: Arc::clone(&self.inner) },
            digest: *digest,
            bytes,
            file: None,
            hasher: Sha256::new(),
            offset: 0,
        };
        if self.has(digest, bytes) {
            download.offset = bytes;
        } else {
            download.resume()?;
        }
        Ok(download)
    }
}

impl Download {
    /// The number of bytes that are on disk; the download goes on from there. Right after [`Store::download`] it is at a chunk
    /// boundary or the end, whatever a power cut left. Later it is exactly what was written.
    pub const fn offset(&self) -> u64 {
        self.offset
    }

    /// Deletes the bytes on disk, because the server did not honour the range.
    pub fn restart(&mut self) -> Result<(), StoreError> {
        let path = self.store.inner.partial_path(&self.digest);
        if let Some(file) = &mut self.file {
            file.truncate(0).map_err(StoreError::io("cut", &path))?;
            self.hasher = Sha256::new();
            self.offset = 0;
        }
        Ok(())
    }

    /// Appends bytes. If the object became longer than it is, that is an error and nothing is appended.
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), StoreError> {
        let end = self.offset.saturating_add(bytes.len() as u64);
        if end > self.bytes {
            return Err(StoreError::TooLong { digest: self.digest, limit: self.bytes });
        }
        let path = self.store.inner.partial_path(&self.digest);
        if let Some(file) = &mut self.file {
            if let Err(error) = file.append(bytes) {
                // Part of it may be there, which the hasher has not seen.
                let _ = file.truncate(self.offset);
                return Err(StoreError::io("write", &path)(error));
            }
            self.hasher.update(bytes);
            self.offset = end;
        }
        Ok(())
    }

    /// Checks length and digest, and makes the download an object. A corrupt download is deleted. If it had been resumed, a
    /// power cut may have spoiled the first part, so try again from the start before you blame the server. An incomplete
    /// download stays, to be resumed ([`StoreError::Incomplete`]).
    pub fn finish(mut self) -> Result<(), StoreError> {
        let Some(mut file) = self.file.take() else { return Ok(()) };
        let inner = &self.store.inner;
        let path = inner.partial_path(&self.digest);
        if self.offset != self.bytes {
            return Err(StoreError::Incomplete { digest: self.digest, have: self.offset, need: self.bytes });
        }
        let found: [u8; 32] = std::mem::take(&mut self.hasher).finalize().into();
        if Digest::from_bytes(found) != self.digest {
            inner.disk.remove_file(&path).map_err(StoreError::io("delete", &path))?;
            return Err(StoreError::Corrupt(self.digest));
        }
        if lock(&inner.listed).contains(&self.digest) {
            file.sync().map_err(StoreError::io("sync", &path))?;
        }
        inner.adopt(&self.digest, &path)
    }

    fn resume(&mut self) -> Result<(), StoreError> {
        let inner = &self.store.inner;
        let path = inner.partial_path(&self.digest);
        let mut file = inner.disk.open_end(&path, PRIVATE).map_err(StoreError::io("open", &path))?;
        let there = file.end();
        let whole = if there == self.bytes { there } else { there - there % SEALED_CHUNK_BYTES };
        // A partial that is longer than the object is not of this object.
        let whole = if there > self.bytes { 0 } else { whole };
        if whole != there {
            file.truncate(whole).map_err(StoreError::io("cut", &path))?;
        }
        let reader = File::open(&path).map_err(StoreError::io("read", &path))?;
        self.offset = hash_into(&mut self.hasher, reader, whole).map_err(StoreError::io("read", &path))?;
        self.file = Some(file);
        Ok(())
    }
}

impl Drop for Download {
    fn drop(&mut self) {
        lock(&self.store.inner.downloading).remove(&self.digest);
    }
}

impl OpenStore {
    pub(super) fn partial_path(&self, digest: &Digest) -> std::path::PathBuf {
        self.dir.join("partial").join(digest.to_string())
    }

    /// Bounds interrupted downloads by number and size. Age cannot be used: the appliance has no clock that it can trust.
    pub(super) fn trim_partials(&self) -> Result<(), StoreError> {
        let mut files = list(&self.dir.join("partial"));
        files.sort_by_key(|file| std::cmp::Reverse(file.modified));
        let mut bytes = 0u64;
        for (index, file) in files.iter().enumerate() {
            bytes = bytes.saturating_add(file.bytes);
            let needless = file.digest.is_none_or(|digest| self.object_path(&digest).exists());
            if index >= MAX_PARTIALS || bytes > MAX_PARTIAL_BYTES || needless {
                self.disk.remove_file(&file.path).map_err(StoreError::io("delete", &file.path))?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]
    use std::fs;

    use super::*;
    use crate::fixtures::Faults;

    fn content(bytes: usize) -> Vec<u8> {
        (0..bytes).map(|index| u8::try_from(index % 251).unwrap()).collect()
    }

    const CHUNK: usize = SEALED_CHUNK_BYTES as usize;

    fn store() -> (tempfile::TempDir, Store) {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        (dir, store)
    }

    #[test]
    fn an_object_is_here_once_its_download_is_finished() {
        let (_dir, store) = store();
        let bytes = content(3 * CHUNK + 5);
        let (digest, length) = (Digest::of(&bytes), bytes.len() as u64);
        let mut download = store.download(&digest, length).unwrap();
        assert_eq!(download.offset(), 0);
        bytes.chunks(10_000).for_each(|part| download.write(part).unwrap());
        assert!(!store.has(&digest, length));
        download.finish().unwrap();
        assert!(store.has(&digest, length));
        assert!(!store.has(&digest, length + 1));
        assert_eq!(store.read(&digest, length).unwrap(), bytes);
        assert!(matches!(store.read(&digest, length - 1), Err(StoreError::TooLong { .. })));
    }

    #[test]
    fn an_interrupted_download_resumes_at_a_chunk_boundary() {
        for written in [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK + 7, 3 * CHUNK + 4, 3 * CHUNK + 5] {
            let (dir, mut store) = store();
            let bytes = content(3 * CHUNK + 5);
            let (digest, length) = (Digest::of(&bytes), bytes.len() as u64);
            let mut download = store.download(&digest, length).unwrap();
            download.write(&bytes[..written]).unwrap();
            assert_eq!(download.offset(), written as u64);
            drop(download);
            drop(store);
            store = Store::open(dir.path()).unwrap();
            let mut download = store.download(&digest, length).unwrap();
            let from = usize::try_from(download.offset()).unwrap();
            assert_eq!(from, if written == bytes.len() { written } else { written / CHUNK * CHUNK });
            download.write(&bytes[from..]).unwrap();
            download.finish().unwrap();
            assert!(store.has(&digest, length));
        }
    }

    #[test]
    fn more_than_the_object_is_refused_and_changes_nothing() {
        let (_dir, store) = store();
        let bytes = content(1000);
        let mut download = store.download(&Digest::of(&bytes), 1000).unwrap();
        download.write(&bytes[..600]).unwrap();
        assert!(matches!(download.write(&[0; 401]), Err(StoreError::TooLong { limit: 1000, .. })));
        assert_eq!(download.offset(), 600);
        download.write(&bytes[600..]).unwrap();
        download.finish().unwrap();
        let too_long = store.download(&Digest::of(b"x"), MAX_OBJECT_BYTES + 1);
        assert!(matches!(too_long, Err(StoreError::TooLong { .. })));
    }

    #[test]
    fn a_corrupt_download_is_deleted_and_starts_over() {
        let (_dir, store) = store();
        let bytes = content(CHUNK + 1);
        let (digest, length) = (Digest::of(&bytes), bytes.len() as u64);
        let mut download = store.download(&digest, length).unwrap();
        download.write(&vec![0; bytes.len()]).unwrap();
        assert!(matches!(download.finish(), Err(StoreError::Corrupt(found)) if found == digest));
        assert!(!store.has(&digest, length));
        assert_eq!(store.download(&digest, length).unwrap().offset(), 0);
    }

    #[test]
    fn an_incomplete_download_is_no_object_and_stays_for_resuming() {
        let (_dir, store) = store();
        let bytes = content(CHUNK + 1);
        let mut download = store.download(&Digest::of(&bytes), bytes.len() as u64).unwrap();
        download.write(&bytes[..CHUNK]).unwrap();
        assert!(matches!(download.finish(), Err(StoreError::Incomplete { .. })));
        assert_eq!(store.download(&Digest::of(&bytes), bytes.len() as u64).unwrap().offset(), SEALED_CHUNK_BYTES);
    }

    #[test]
    fn one_object_is_downloaded_once_at_a_time() {
        let (_dir, store) = store();
        let digest = Digest::of(b"x");
        let first = store.download(&digest, 1).unwrap();
        assert!(matches!(store.download(&digest, 1), Err(StoreError::Busy(_))));
        assert!(store.download(&Digest::of(b"y"), 1).is_ok());
        drop(first);
        assert!(store.download(&digest, 1).is_ok());
    }

    #[test]
    fn a_server_that_ignores_ranges_means_starting_over() {
        let (_dir, store) = store();
        let bytes = content(2 * CHUNK);
        let mut download = store.download(&Digest::of(&bytes), bytes.len() as u64).unwrap();
        download.write(&bytes[..CHUNK]).unwrap();
        download.restart().unwrap();
        assert_eq!(download.offset(), 0);
        download.write(&bytes).unwrap();
        download.finish().unwrap();
    }

    #[test]
    fn what_is_here_already_needs_no_byte() {
        let (_dir, store) = store();
        crate::fixtures::put(&store, b"object").unwrap();
        let mut download = store.download(&Digest::of(b"object"), 6).unwrap();
        assert_eq!(download.offset(), 6);
        assert!(download.write(b"!").is_err());
        download.finish().unwrap();
    }

    #[test]
    fn a_partial_that_is_longer_than_the_object_is_not_believed() {
        let (dir, store) = store();
        let digest = Digest::of(b"object");
        fs::write(dir.path().join("partial").join(digest.to_string()), [0; 100]).unwrap();
        assert_eq!(store.download(&digest, 6).unwrap().offset(), 0);
    }

    #[test]
    fn a_full_disk_stops_a_download_where_it_can_go_on() {
        let dir = tempfile::tempdir().unwrap();
        let faults = Faults::none();
        let store = Store::open_on(dir.path(), faults.disk()).unwrap();
        let bytes = content(1000);
        let mut download = store.download(&Digest::of(&bytes), 1000).unwrap();
        download.write(&bytes[..500]).unwrap();
        faults.fail_once_after(0);
        let error = download.write(&bytes[500..]).unwrap_err();
        assert_eq!(error.failure().code(), "disk-full");
        assert_eq!(download.offset(), 500);
        download.write(&bytes[500..]).unwrap();
        download.finish().unwrap();
    }

    #[test]
    fn an_object_that_a_power_cut_spoiled_does_not_count() {
        let (dir, mut store) = store();
        let digest = Digest::of(b"object");
        crate::fixtures::put(&store, b"object").unwrap();
        let path = store.inner.object_path(&digest);
        drop(store);
        // The name reached the disk, the content did not.
        fs::write(&path, [0; 6]).unwrap();
        store = Store::open(dir.path()).unwrap();
        assert!(!store.has(&digest, 6));
        crate::fixtures::put(&store, b"object").unwrap();
        assert!(store.has(&digest, 6));
    }

    #[test]
    fn abandoned_downloads_are_bounded_when_the_store_opens() {
        let (dir, store) = store();
        drop(store);
        for number in 0..MAX_PARTIALS + 20 {
            let name = Digest::of(&number.to_be_bytes()).to_string();
            fs::write(dir.path().join("partial").join(name), b"x").unwrap();
        }
        let _store = Store::open(dir.path()).unwrap();
        assert_eq!(fs::read_dir(dir.path().join("partial")).unwrap().count(), MAX_PARTIALS);
    }

    #[test]
    fn a_damaged_object_is_quarantined_and_fetched_again() {
        let (dir, store) = store();
        let heard = Arc::new(std::sync::Mutex::new(Vec::new()));
        let listener = Arc::clone(&heard);
        store.on_damage(Box::new(move |digest| listener.lock().unwrap().push(digest)));
        for number in 0..10u8 {
            let digest = Digest::of(&[number]);
            crate::fixtures::put(&store, &[number]).unwrap();
            fs::write(store.inner.object_path(&digest), b"!").unwrap();
            assert!(matches!(store.read(&digest, 10), Err(StoreError::Corrupt(_))));
            assert!(!store.has(&digest, 1));
            assert!(matches!(store.read(&digest, 10), Err(StoreError::Missing(_))));
            assert_eq!(heard.lock().unwrap().last(), Some(&digest));
        }
        assert!(fs::read_dir(dir.path().join("bad")).unwrap().count() <= 4);
        crate::fixtures::put(&store, &[1]).unwrap();
        assert_eq!(store.read(&Digest::of(&[1]), 10).unwrap(), [1]);
    }
}
