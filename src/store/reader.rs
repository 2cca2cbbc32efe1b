//! Files for the services: sealed chunks are read, authenticated and opened one at a time.
//!
//! An opened file keeps its handle, so that a transfer ends on the release that it began with, even when that release
//! is collected or the object quarantined meanwhile.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::sync::{Arc, Weak};

use sha2::{Digest as _, Sha256};

use super::clear_cache::ClearCache;
use super::download::SEALED_CHUNK_BYTES;
use super::{OpenStore, Store};
use access::{Content, ContentError, Files};
use bundle::limits::{CHUNK_BYTES, MAX_COMPRESSED_FILE_BYTES, TAG_BYTES};
use bundle::object::{self, ObjectError};
use bundle::{FileEntry, ObjectRef, Packing};
use ids::Digest;

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
    store: Weak<OpenStore>,
}

impl Content for StoredFile {
    fn len(&self) -> u64 {
        self.entry.blob.clear_bytes
    }

    fn chunk(&self, index: u64) -> Result<Arc<[u8]>, ContentError> {
        let blob = &self.entry.blob;
        if index.checked_mul(CHUNK).is_none_or(|start| start >= blob.clear_bytes) {
            // Behind the end there are no bytes. An empty file is authenticated nonetheless.
            if index > 0 || blob.clear_bytes > 0 {
                return Ok(Arc::new([]));
            }
        }
        if let Some(chunk) = self.clear.find(&blob.digest, index) {
            return Ok(chunk);
        }
        let opened = match blob.packing {
            Packing::Plain => self.keep_chunk(index),
            Packing::Zstd => self.keep_whole(index),
        };
        opened.map_err(|failure| self.failed(failure))
    }

    fn digest(&self) -> Result<(u64, Digest), ContentError> {
        let hashed = match self.entry.blob.packing {
            Packing::Plain => self.hash_chunks(),
            Packing::Zstd => self.open_whole().map(|clear| (clear.len() as u64, Digest::of(&clear))),
        };
        hashed.map_err(|failure| self.failed(failure))
    }

    fn cached(&self, index: u64) -> Option<Arc<[u8]>> {
        self.clear.find(&self.entry.blob.digest, index)
    }
}

/// Why a chunk could not be read: the object is damaged, or the disk failed.
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
    /// The error for whoever reads. A damaged object is quarantined first.
    fn failed(&self, failure: Failure) -> ContentError {
        match failure {
            Failure::Damaged(why) => {
                if let Some(store) = self.store.upgrade() {
                    store.damaged_file(&self.entry.blob.digest, &self.file);
                }
                ContentError::Damaged(why)
            }
            Failure::Io(error) => ContentError::Io(error.to_string()),
        }
    }

    /// Reads and opens one chunk into `buffer`.
    fn open_chunk(&self, index: u64, buffer: &mut Vec<u8>) -> Result<(), Failure> {
        let blob = &self.entry.blob;
        let number = u32::try_from(index).map_err(|_| Failure::Damaged("it has too many chunks".to_owned()))?;
        // `check_lengths` made sure that these neither overflow nor pass the end.
        let start = index * SEALED_CHUNK_BYTES;
        let left = blob.bytes.saturating_sub(start);
        let last = left <= SEALED_CHUNK_BYTES;
        buffer.resize(usize::try_from(left.min(SEALED_CHUNK_BYTES)).unwrap_or(0), 0);
        self.file.read_exact_at(buffer, start)?;
        object::open_chunk(&blob.key, number, last, buffer)?;
        if buffer.len() as u64 != (blob.clear_bytes - index * CHUNK).min(CHUNK) {
            return Err(Failure::Damaged("a chunk has a wrong length".to_owned()));
        }
        Ok(())
    }

    fn keep_chunk(&self, index: u64) -> Result<Arc<[u8]>, Failure> {
        let mut clear = Vec::new();
        self.open_chunk(index, &mut clear)?;
        let chunk: Arc<[u8]> = clear.into();
        self.clear.insert(&self.entry.blob.digest, index, &chunk);
        Ok(chunk)
    }

    fn hash_chunks(&self) -> Result<(u64, Digest), Failure> {
        let (mut hasher, mut bytes, mut buffer) = (Sha256::new(), 0, Vec::new());
        for index in 0..object::chunks(self.entry.blob.clear_bytes) {
            self.open_chunk(index, &mut buffer)?;
            bytes += buffer.len() as u64;
            hasher.update(&buffer);
        }
        Ok((bytes, Digest::from_bytes(hasher.finalize().into())))
    }

    fn open_whole(&self) -> Result<Vec<u8>, Failure> {
        let blob = &self.entry.blob;
        let mut sealed = vec![0; usize::try_from(blob.bytes).unwrap_or(0)];
        self.file.read_exact_at(&mut sealed, 0)?;
        let clear = object::open(blob, &sealed, MAX_COMPRESSED_FILE_BYTES)?;
        if clear.len() as u64 != blob.clear_bytes {
            return Err(Failure::Damaged("it has a wrong length".to_owned()));
        }
        Ok(clear)
    }

    /// A compressed file is small: it is opened whole and all its chunks are kept.
    fn keep_whole(&self, wanted: u64) -> Result<Arc<[u8]>, Failure> {
        let clear = self.open_whole()?;
        let mut found: Arc<[u8]> = Arc::new([]);
        for (index, chunk) in (0u64..).zip(clear.chunks(CHUNK_BYTES)) {
            let chunk: Arc<[u8]> = chunk.into();
            self.clear.insert(&self.entry.blob.digest, index, &chunk);
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
impl OpenStore {
    /// For tests: how much clear text of an object is in memory.
    pub(super) fn cached(&self, digest: &ids::Digest, chunks: u64) -> usize {
        (0..chunks).filter(|index| self.clear.find(digest, *index).is_some()).count()
    }
}

// HQ's half seals what is read here.
#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]
    use std::fs;
    use std::os::unix::fs::FileExt as _;
    use std::sync::Mutex;

    use super::*;
    use crate::fixtures::{Made, put};
    use bundle::{Class, Scope};
    use ids::Generation;
    use seal::PublisherSecret;

    fn content(bytes: usize) -> Vec<u8> {
        (0..bytes).map(|index| u8::try_from(index * 7 / 3 % 253).unwrap()).collect()
    }

    fn file(store: &Store, clear: &[u8], packing: Packing) -> Arc<FileEntry> {
        let (blob, sealed) = seal::object::seal(&PublisherSecret::from_bytes([7; 32]), "test", clear, packing);
        put(store, &sealed).unwrap();
        let name = "phone.cfg".parse().unwrap();
        Arc::new(FileEntry { name, scope: Scope::Everyone, class: Class::Config, sha256: Digest::of(clear), blob })
    }

    fn read(content: &dyn Content) -> Result<Vec<u8>, ContentError> {
        let chunks = content.len().div_ceil(CHUNK).max(1);
        (0..chunks).try_fold(Vec::new(), |mut all, index| {
            all.extend_from_slice(&content.chunk(index)?);
            Ok(all)
        })
    }

    fn bad_file(store: &Store, blob: &ObjectRef) -> File {
        File::open(store.inner.dir.join("bad").join(blob.digest.to_string())).unwrap()
    }

    fn store() -> (tempfile::TempDir, Store) {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        (dir, store)
    }

    #[test]
    fn files_of_every_length_and_packing_read_as_they_were() {
        let (_dir, store) = store();
        for packing in [Packing::Plain, Packing::Zstd] {
            for length in [0, 1, CHUNK_BYTES - 1, CHUNK_BYTES, CHUNK_BYTES + 1, 2 * CHUNK_BYTES, 5 * CHUNK_BYTES + 77] {
                let clear = content(length);
                let opened = store.open(&file(&store, &clear, packing)).unwrap();
                assert_eq!(opened.len(), length as u64);
                assert_eq!(opened.is_empty(), length == 0);
                assert_eq!(read(&*opened).unwrap(), clear, "{packing:?} {length}");
                for behind in [length.div_ceil(CHUNK_BYTES).max(1) as u64, 1 << 40, u64::MAX] {
                    assert!(opened.chunk(behind).unwrap().is_empty());
                }
            }
        }
    }

    #[test]
    fn hashing_a_file_keeps_none_of_it_and_looks_at_the_disk() {
        let (_dir, store) = store();
        for (packing, bytes) in [(Packing::Plain, 3 * CHUNK_BYTES + 7), (Packing::Zstd, 100_000), (Packing::Plain, 0)] {
            let clear = content(bytes);
            let entry = file(&store, &clear, packing);
            let open = store.open(&entry).unwrap();
            assert_eq!(open.digest().unwrap(), (bytes as u64, Digest::of(&clear)));
            assert_eq!(store.inner.cached(&entry.blob.digest, 4), 0);
            // Even what is in memory is read anew.
            open.chunk(0).unwrap();
            let path = store.inner.object_path(&entry.blob.digest);
            let handle = fs::OpenOptions::new().write(true).open(&path).unwrap();
            handle.write_all_at(&[0; 10], entry.blob.bytes - 10).unwrap();
            assert!(matches!(open.digest(), Err(ContentError::Damaged(_))));
        }
    }

    #[test]
    fn a_chunk_is_opened_once_for_all_who_read_it() {
        let (dir, store) = store();
        for packing in [Packing::Plain, Packing::Zstd] {
            let clear = content(3 * CHUNK_BYTES);
            let entry = file(&store, &clear, packing);
            let first = store.open(&entry).unwrap();
            read(&*first).unwrap();
            assert_eq!(store.inner.cached(&entry.blob.digest, 3), 3);
            let second = store.open(&entry).unwrap();
            assert!(Arc::ptr_eq(&first.chunk(1).unwrap(), &second.chunk(1).unwrap()));
            assert!(Arc::ptr_eq(&first.chunk(2).unwrap(), &second.cached(2).unwrap()));
            assert!(second.cached(3).is_none());
            // Not even the disk is needed.
            let path = store.inner.object_path(&entry.blob.digest);
            let handle = fs::OpenOptions::new().write(true).open(&path).unwrap();
            handle.write_all_at(&[0; 1000], 0).unwrap();
            assert_eq!(read(&*second).unwrap(), clear);
        }
        drop(dir);
    }

    #[test]
    fn a_transfer_ends_on_the_release_that_it_began_with() {
        let (_dir, store) = store();
        let clear = content(4 * CHUNK_BYTES + 9);
        let entry = file(&store, &clear, Packing::Plain);
        let opened = store.open(&entry).unwrap();
        assert_eq!(&*opened.chunk(0).unwrap(), &clear[..CHUNK_BYTES]);
        Made::number(1).install(&store).unwrap();
        Made::number(2).install(&store).unwrap();
        assert!(store.collect(&[]).unwrap() > 0);
        assert!(!store.has(&entry.blob.digest, entry.blob.bytes));
        assert!(store.open(&entry).is_err());
        assert_eq!(read(&*opened).unwrap(), clear);
        assert_eq!(store.active_generation(), Some(Generation(2)));
    }

    #[test]
    fn an_open_file_does_not_keep_the_store_open() {
        let (dir, store) = store();
        let clear = content(2 * CHUNK_BYTES);
        let opened = store.open(&file(&store, &clear, Packing::Plain)).unwrap();
        drop(store);
        let _again = Store::open(dir.path()).unwrap();
        assert_eq!(read(&*opened).unwrap(), clear);
    }

    #[test]
    fn a_damaged_chunk_never_leaves_and_is_reported() {
        for packing in [Packing::Plain, Packing::Zstd] {
            let (_dir, store) = store();
            let heard = Arc::new(Mutex::new(Vec::new()));
            let listener = Arc::clone(&heard);
            store.on_damage(Box::new(move |digest| listener.lock().unwrap().push(digest)));
            let clear: Vec<u8> =
                (0..3 * CHUNK_BYTES as u64 / 32).flat_map(|n| *Digest::of(&n.to_be_bytes()).as_bytes()).collect();
            let entry = file(&store, &clear, packing);
            let path = store.inner.object_path(&entry.blob.digest);
            let handle = fs::OpenOptions::new().write(true).open(&path).unwrap();
            handle.write_all_at(b"damaged", SEALED_CHUNK_BYTES + 100).unwrap();
            let opened = store.open(&entry).unwrap();
            if packing == Packing::Plain {
                assert!(opened.chunk(0).is_ok());
            }
            assert!(matches!(opened.chunk(1), Err(ContentError::Damaged(_))));
            assert_eq!(*heard.lock().unwrap(), [entry.blob.digest]);
            assert!(!store.has(&entry.blob.digest, entry.blob.bytes));
            // Fetched again, it is served again, not from the old handle.
            file(&store, &clear, packing);
            assert_eq!(read(&*store.open(&entry).unwrap()).unwrap(), clear);
            // A transfer that still has the damaged file does not condemn the good one.
            let fresh = ClearCache::new(0);
            let blob = &entry.blob;
            let old = StoredFile {
                file: Arc::new(bad_file(&store, blob)),
                entry: Arc::clone(&entry),
                clear: fresh.into(),
                store: Arc::downgrade(&store.inner),
            };
            assert!(old.chunk(1).is_err());
            assert!(store.has(&blob.digest, blob.bytes));
            assert_eq!(heard.lock().unwrap().len(), 1);
        }
    }

    #[test]
    fn a_missing_or_short_object_is_damage_and_said_at_once() {
        let (_dir, store) = store();
        let heard = Arc::new(Mutex::new(0));
        let listener = Arc::clone(&heard);
        store.on_damage(Box::new(move |_| *listener.lock().unwrap() += 1));
        let entry = file(&store, &content(100_000), Packing::Plain);
        let path = store.inner.object_path(&entry.blob.digest);
        fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(50_000).unwrap();
        assert!(matches!(store.open(&entry), Err(ContentError::Damaged(_))));
        assert!(!path.exists());
        assert!(matches!(store.open(&entry), Err(ContentError::Damaged(_))));
        // Once, however often phones ask; and again once it was there again.
        assert_eq!(*heard.lock().unwrap(), 1);
        file(&store, &content(100_000), Packing::Plain);
        fs::remove_file(&path).unwrap();
        assert!(matches!(store.open(&entry), Err(ContentError::Damaged(_))));
        assert_eq!(*heard.lock().unwrap(), 2);
    }

    #[test]
    fn lengths_that_cannot_be_true_are_refused_before_anything_is_read() {
        let (_dir, store) = store();
        let entry = file(&store, &content(1000), Packing::Plain);
        for (packing, bytes, clear_bytes) in [
            (Packing::Plain, entry.blob.bytes, 1001),
            (Packing::Plain, entry.blob.bytes, u64::MAX),
            (Packing::Plain, u64::MAX, 1000),
            (Packing::Zstd, u64::MAX, 1000),
            (Packing::Zstd, entry.blob.bytes, MAX_COMPRESSED_FILE_BYTES + 1),
            (Packing::Zstd, 3, 1000),
        ] {
            let blob = ObjectRef { packing, bytes, clear_bytes, ..entry.blob.clone() };
            let entry = Arc::new(FileEntry { blob, ..(*entry).clone() });
            assert!(matches!(store.open(&entry), Err(ContentError::Damaged(_))), "{packing:?} {bytes} {clear_bytes}");
        }
        // A contradiction in the manifest is not the object's fault.
        assert!(store.has(&entry.blob.digest, entry.blob.bytes));
    }
}
