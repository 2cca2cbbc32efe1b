//! Downloads of objects: resumed at a chunk boundary, bounded, checked before they count.

use std::fs::File;
use std::sync::Arc;

use sha2::{Digest as _, Sha256};

use super::durable::DiskFile;
use super::error::StoreError;
use super::objects::{hash_into, list};
use super::{Inner, Store, lock};
use crate::bundle::limits::{CHUNK_BYTES, MAX_FILE_BYTES, TAG_BYTES};
use crate::ids::Digest;

/// Bytes of one sealed chunk: downloads resume at multiples of it.
pub(super) const SEALED_CHUNK_BYTES: u64 = (CHUNK_BYTES + TAG_BYTES) as u64;

/// The largest sealed object.
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
        // From here on dropping `download` gives the digest free again.
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
    /// How many bytes are here already. Right after [`Store::download`] at a chunk boundary or the end, whatever a power
    /// cut left; later exactly what was written, so that a broken connection is resumed from here too.
    pub const fn offset(&self) -> u64 {
        self.offset
    }

    /// Throws away what is here: the server did not honour the range.
    pub fn restart(&mut self) -> Result<(), StoreError> {
        let path = self.store.inner.partial_path(&self.digest);
        if let Some(file) = &mut self.file {
            file.truncate(0).map_err(StoreError::io("cut", &path))?;
            self.hasher = Sha256::new();
            self.offset = 0;
        }
        Ok(())
    }

    /// Appends; more than the object's length is an error and appends nothing.
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

    /// Checks length and digest and makes it an object. A corrupt one is deleted; an incomplete one stays for
    /// resuming ([`StoreError::Incomplete`]).
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
        let mut file = inner.disk.open_end(&path).map_err(StoreError::io("open", &path))?;
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

impl Inner {
    pub(super) fn partial_path(&self, digest: &Digest) -> std::path::PathBuf {
        self.dir.join("partial").join(digest.to_string())
    }

    /// Bounds what interrupted downloads may hold. The appliance has no clock to trust, so it is by number and size.
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
