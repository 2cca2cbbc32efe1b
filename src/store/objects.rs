//! Sealed objects: ciphertext in files named by its SHA-256.
//!
//! An object gets its name only after its digest was checked, but it is made durable together with all others, by the
//! one `syncfs` of staging. So after a power cut a name alone proves nothing: objects that a staged release lists are
//! known to be durable, all others are hashed once before they count.

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};

use sha2::{Digest as _, Sha256};

use super::error::StoreError;
use super::{OpenStore, Store, lock};
use durable::{PRIVATE_DIR, parent};
use ids::Digest;

/// The most damaged objects that are kept in `bad/`, for whoever looks for the cause.
const MAX_BAD: usize = 4;

/// Damaged objects of more bytes are deleted at once.
const MAX_BAD_BYTES: u64 = 4 * 1024 * 1024;

/// How many open files are remembered before the closed ones are forgotten.
const HANDLES_BEFORE_SWEEP: usize = 256;

impl Store {
    /// Whether the whole object is here. May hash the object, once, if a power cut could have spoiled it.
    pub fn has(&self, digest: &Digest, bytes: u64) -> bool {
        self.inner.has(digest, bytes)
    }

    /// Reads a whole sealed object of at most `limit` bytes and checks its digest. A corrupt one is quarantined.
    pub fn read(&self, digest: &Digest, limit: u64) -> Result<Vec<u8>, StoreError> {
        let path = self.inner.object_path(digest);
        let length = match fs::metadata(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(StoreError::Missing(*digest)),
            other => other.map_err(StoreError::io("read", &path))?.len(),
        };
        if length > limit {
            return Err(StoreError::TooLong { digest: *digest, limit });
        }
        let bytes = durable::read_limited(&path, limit).map_err(StoreError::io("read", &path))?;
        let bytes = bytes.ok_or(StoreError::Missing(*digest))?;
        if Digest::of(&bytes) != *digest {
            self.inner.damaged(digest);
            return Err(StoreError::Corrupt(*digest));
        }
        lock(&self.inner.seen).insert(*digest);
        Ok(bytes)
    }

    /// Moves a damaged object away, so that the next poll fetches it again. Transfers that have it open go on.
    pub fn quarantine(&self, digest: &Digest) {
        self.inner.quarantine(digest);
    }
}

impl OpenStore {
    pub(super) fn object_path(&self, digest: &Digest) -> PathBuf {
        let hex = digest.to_string();
        self.dir.join("objects").join(hex.get(..2).unwrap_or_default()).join(&hex)
    }

    pub(super) fn has(&self, digest: &Digest, bytes: u64) -> bool {
        let path = self.object_path(digest);
        if fs::metadata(&path).map_or(true, |metadata| !metadata.is_file() || metadata.len() != bytes) {
            return false;
        }
        if lock(&self.listed).contains(digest) || lock(&self.seen).contains(digest) {
            return true;
        }
        match File::open(&path).and_then(|file| digest_of(file, bytes)) {
            Ok((found, length)) if found == *digest && length == bytes => {
                lock(&self.seen).insert(*digest);
                true
            }
            Ok(_) => {
                tracing::debug!(object = %digest, "an object that a power cut spoiled is fetched again");
                let _ = self.disk.remove_file(&path);
                false
            }
            Err(_) => false,
        }
    }

    /// Gives a checked file the object's name. Durable at once only where a staged release already counts on it;
    /// otherwise staging makes it so.
    pub(super) fn adopt(&self, digest: &Digest, from: &Path) -> Result<(), StoreError> {
        let path = self.object_path(digest);
        let directory = parent(&path);
        self.disk.create_dir(directory, PRIVATE_DIR).map_err(StoreError::io("create", directory))?;
        self.disk.rename(from, &path).map_err(StoreError::io("rename", from))?;
        if lock(&self.listed).contains(digest) {
            self.disk.sync_dir(directory).map_err(StoreError::io("sync", directory))?;
            self.disk.sync_dir(parent(directory)).map_err(StoreError::io("sync", directory))?;
        }
        lock(&self.seen).insert(*digest);
        lock(&self.reported).remove(digest);
        Ok(())
    }

    /// Opens an object's file, or finds it open already.
    pub(super) fn object_file(&self, digest: &Digest) -> io::Result<Arc<File>> {
        let mut handles = lock(&self.handles);
        if let Some(file) = handles.get(digest).and_then(Weak::upgrade) {
            return Ok(file);
        }
        let file = Arc::new(File::open(self.object_path(digest))?);
        if handles.len() >= HANDLES_BEFORE_SWEEP {
            handles.retain(|_, file| file.strong_count() > 0);
        }
        handles.insert(*digest, Arc::downgrade(&file));
        Ok(file)
    }

    /// Quarantines the object of a file that turned out to be damaged, unless a good file has replaced it since.
    pub(super) fn damaged_file(&self, digest: &Digest, file: &File) {
        let identity = |metadata: fs::Metadata| (metadata.dev(), metadata.ino());
        let read = file.metadata().map(identity);
        let there = fs::metadata(self.object_path(digest)).map(identity);
        match (read, there) {
            (Ok(read), Ok(there)) if read != there => {}
            _ => self.damaged(digest),
        }
    }

    /// Quarantines an object and calls the damage callbacks.
    pub(super) fn damaged(&self, digest: &Digest) {
        self.quarantine(digest);
        if !lock(&self.reported).insert(*digest) {
            return;
        }
        tracing::warn!(object = %digest, "a stored object is damaged or gone and has to be fetched again");
        let callbacks = lock(&self.damage_callbacks).clone();
        for callback in callbacks {
            callback(*digest);
        }
    }

    pub(super) fn quarantine(&self, digest: &Digest) {
        lock(&self.seen).remove(digest);
        lock(&self.handles).remove(digest);
        let path = self.object_path(digest);
        let Ok(metadata) = fs::symlink_metadata(&path) else { return };
        let kept = metadata.len() <= MAX_BAD_BYTES && {
            self.trim_bad();
            self.disk.rename(&path, &self.dir.join("bad").join(digest.to_string())).is_ok()
        };
        // A damaged object must not stay under its name, whatever fails.
        if !kept && let Err(error) = self.disk.remove_file(&path) {
            tracing::warn!(object = %digest, %error, "a damaged object cannot be moved away");
        }
    }

    fn trim_bad(&self) {
        let mut files: Vec<_> = list(&self.dir.join("bad"));
        files.sort_by_key(|file| file.modified);
        let over = (files.len() + 1).saturating_sub(MAX_BAD);
        for file in files.iter().take(over) {
            let _ = self.disk.remove_file(&file.path);
        }
    }
}

/// One file of a directory, as [`list`] finds it.
pub(super) struct Listed {
    pub(super) path: PathBuf,
    /// The digest in its name; `None` if the name is no digest.
    pub(super) digest: Option<Digest>,
    pub(super) bytes: u64,
    pub(super) modified: Option<std::time::SystemTime>,
}

/// The files of a directory; none if it cannot be read.
pub(super) fn list(directory: &Path) -> Vec<Listed> {
    let Ok(entries) = fs::read_dir(directory) else { return Vec::new() };
    let listed = |entry: io::Result<fs::DirEntry>| {
        let entry = entry.ok()?;
        let metadata = entry.metadata().ok()?;
        let digest = entry.file_name().to_str().and_then(|name| name.parse().ok());
        metadata.is_file().then(|| Listed {
            path: entry.path(),
            digest,
            bytes: metadata.len(),
            modified: metadata.modified().ok(),
        })
    };
    entries.filter_map(listed).collect()
}

/// The digest of at most `limit` bytes, and how many there were.
pub(super) fn digest_of(reader: impl Read, limit: u64) -> io::Result<(Digest, u64)> {
    let mut hasher = Sha256::new();
    let length = hash_into(&mut hasher, reader, limit)?;
    Ok((Digest::from_bytes(hasher.finalize().into()), length))
}

/// Feeds at most `limit` bytes to a hasher and returns how many there were.
pub(super) fn hash_into(hasher: &mut Sha256, reader: impl Read, limit: u64) -> io::Result<u64> {
    let mut reader = reader.take(limit);
    let mut buffer = vec![0; 64 * 1024];
    let mut length = 0u64;
    loop {
        let count = match reader.read(&mut buffer) {
            Ok(0) => return Ok(length),
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        hasher.update(buffer.get(..count).unwrap_or_default());
        length = length.saturating_add(count as u64);
    }
}
