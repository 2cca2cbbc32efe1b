//! Files for the services: sealed chunks are read, authenticated and opened one at a time.
//!
//! An opened file keeps its handle, so that a transfer ends on the release that it began with, even when that release
//! is collected or the object quarantined meanwhile.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::sync::{Arc, Weak};

use super::clear_cache::ClearCache;
use super::download::SEALED_CHUNK_BYTES;
use super::{Inner, Store};
use crate::access::{Content, ContentError, Files};
use crate::bundle::limits::{CHUNK_BYTES, MAX_COMPRESSED_FILE_BYTES, TAG_BYTES};
use crate::bundle::object::{self, ObjectError};
use crate::bundle::{FileEntry, ObjectRef, Packing};

const CHUNK: u64 = CHUNK_BYTES as u64;
const TAG: u64 = TAG_BYTES as u64;

/// A sealed object that is compressed may be a little longer than its content, never much.
const MAX_SEALED_COMPRESSED_BYTES: u64 = 2 * MAX_COMPRESSED_FILE_BYTES;

impl Files for Store {
    fn open(&self, entry: &Arc<FileEntry>) -> Result<Arc<dyn Content>, ContentError> {
        let blob = &entry.blob;
        check_lengths(blob)?;
        let found = self.inner.object_file(&blob.digest).and_then(|file| Ok((file.metadata()?.len(), file)));
        let file = match found {
            Ok((length, file)) if length == blob.bytes => file,
            Ok((length, _)) => {
                self.inner.damaged(&blob.digest);
                return Err(ContentError::Damaged(format!("{length} of {} bytes are there", blob.bytes)));
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                self.inner.damaged(&blob.digest);
                return Err(ContentError::Damaged("its object is not there".to_owned()));
            }
            Err(error) => return Err(ContentError::Io(error.to_string())),
        };
        Ok(Arc::new(StoredFile {
            file,
            entry: Arc::clone(entry),
            clear: Arc::clone(&self.inner.clear),
            store: Arc::downgrade(&self.inner),
        }))
    }
}

/// One file of a release. It does not keep the store open, only the object's file.
struct StoredFile {
    file: Arc<File>,
    entry: Arc<FileEntry>,
    clear: Arc<ClearCache>,
    store: Weak<Inner>,
}

impl Content for StoredFile {
    fn len(&self) -> u64 {
        self.entry.blob.clear_bytes
    }

    fn chunk(&self, index: u64) -> Result<Arc<[u8]>, ContentError> {
        let blob = &self.entry.blob;
        if index.checked_mul(CHUNK).is_none_or(|start| start >= blob.clear_bytes) {
            // Behind the end there is nothing left; an empty file is authenticated none the less.
            if index > 0 || blob.clear_bytes > 0 {
                return Ok(Arc::new([]));
            }
        }
        if let Some(chunk) = self.clear.find(&blob.digest, index) {
            return Ok(chunk);
        }
        let opened = match blob.packing {
            Packing::Plain => self.open_chunk(index),
            Packing::Zstd => self.open_whole(index),
        };
        opened.map_err(|failure| match failure {
            Failure::Damaged(why) => {
                if let Some(store) = self.store.upgrade() {
                    store.damaged(&blob.digest);
                }
                ContentError::Damaged(why)
            }
            Failure::Io(error) => ContentError::Io(error.to_string()),
        })
    }
}

enum Failure {
    Damaged(String),
    Io(io::Error),
}

impl From<ObjectError> for Failure {
    fn from(error: ObjectError) -> Self {
        Self::Damaged(error.to_string())
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::UnexpectedEof => Self::Damaged("its object is too short".to_owned()),
            _ => Self::Io(error),
        }
    }
}

impl StoredFile {
    fn open_chunk(&self, index: u64) -> Result<Arc<[u8]>, Failure> {
        let blob = &self.entry.blob;
        let number = u32::try_from(index).map_err(|_| Failure::Damaged("it has too many chunks".to_owned()))?;
        // `check_lengths` made sure that these neither overflow nor pass the end.
        let start = index * SEALED_CHUNK_BYTES;
        let left = blob.bytes.saturating_sub(start);
        let last = left <= SEALED_CHUNK_BYTES;
        let mut sealed = vec![0; usize::try_from(left.min(SEALED_CHUNK_BYTES)).unwrap_or(0)];
        self.file.read_exact_at(&mut sealed, start)?;
        object::open_chunk(&blob.key, number, last, &mut sealed)?;
        if sealed.len() as u64 != (blob.clear_bytes - index * CHUNK).min(CHUNK) {
            return Err(Failure::Damaged("a chunk has a wrong length".to_owned()));
        }
        let chunk: Arc<[u8]> = sealed.into();
        self.clear.insert(&blob.digest, index, &chunk);
        Ok(chunk)
    }

    /// A compressed file is small: it is opened whole and all its chunks are kept.
    fn open_whole(&self, wanted: u64) -> Result<Arc<[u8]>, Failure> {
        let blob = &self.entry.blob;
        let mut sealed = vec![0; usize::try_from(blob.bytes).unwrap_or(0)];
        self.file.read_exact_at(&mut sealed, 0)?;
        let clear = object::open(blob, &sealed, MAX_COMPRESSED_FILE_BYTES)?;
        if clear.len() as u64 != blob.clear_bytes {
            return Err(Failure::Damaged("it has a wrong length".to_owned()));
        }
        let mut found: Arc<[u8]> = Arc::new([]);
        for (index, chunk) in (0u64..).zip(clear.chunks(CHUNK_BYTES)) {
            let chunk: Arc<[u8]> = chunk.into();
            self.clear.insert(&blob.digest, index, &chunk);
            if index == wanted {
                found = chunk;
            }
        }
        Ok(found)
    }
}

/// Whether the lengths that a reference claims can be true; nothing is allocated or read before that.
fn check_lengths(blob: &ObjectRef) -> Result<(), ContentError> {
    let fits = match blob.packing {
        Packing::Plain => sealed_bytes(blob.clear_bytes) == Some(blob.bytes),
        Packing::Zstd => {
            blob.clear_bytes <= MAX_COMPRESSED_FILE_BYTES && (TAG..=MAX_SEALED_COMPRESSED_BYTES).contains(&blob.bytes)
        }
    };
    if fits { Ok(()) } else { Err(ContentError::Damaged("its lengths contradict each other".to_owned())) }
}

/// Bytes that so many become when they are sealed plain.
fn sealed_bytes(clear_bytes: u64) -> Option<u64> {
    object::chunks(clear_bytes).checked_mul(TAG)?.checked_add(clear_bytes)
}

#[cfg(test)]
impl Inner {
    /// For tests: how much clear text of an object is in memory.
    pub(super) fn cached(&self, digest: &crate::ids::Digest, chunks: u64) -> usize {
        (0..chunks).filter(|index| self.clear.find(digest, *index).is_some()).count()
    }
}
