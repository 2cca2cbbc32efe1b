//! The only room that writes disk: sealed objects, releases, trust state, identity, and what may be lost.
//!
//! At any power cut the site serves the old or the new release, never a mix, and keeps its rollback floor.

// Contract for the rooms above (bodies and further modules are this room's).

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use crate::access::{Content, ContentError, Files, Opened};
use crate::bundle::FileEntry;
use crate::ids::{Digest, Generation, UnixTime};

/// The disk of one appliance. Clones are the same store.
#[derive(Debug, Clone)]
pub struct Store {
    _private: (),
}

/// Trust state: what must survive any power cut. Two checksummed copies, written in turn.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TrustState {
    /// [`crate::tuf::Trusted::files`].
    pub metadata: BTreeMap<String, Vec<u8>>,
    /// The time floor.
    pub time_floor: Option<UnixTime>,
    /// Generations whose self-check failed and that are not tried again.
    pub rejected: Vec<Generation>,
}

/// A release that is on disk and was re-verified or verified when it was staged.
#[derive(Debug, Clone)]
pub struct ActiveRelease {
    /// The release.
    pub opened: Opened,
    /// The metadata that it was verified with.
    pub metadata: BTreeMap<String, Vec<u8>>,
}

/// Why the disk refused.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The operating system refused.
    #[error("{action} {path}: {source}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: std::path::PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// Downloaded bytes are not the object.
    #[error("the downloaded object {0} is corrupt")]
    Corrupt(Digest),
    /// Not enough room, found before anything was touched.
    #[error("the release needs {needed} bytes, {free} are free")]
    Full {
        /// Bytes needed.
        needed: u64,
        /// Bytes free.
        free: u64,
    },
    /// There is no such release.
    #[error("there is no release to go back to")]
    NoPrevious,
    /// Another process has the store open.
    #[error("the state directory is in use by another process")]
    Locked,
}

impl Store {
    /// Opens the store under `dir` (created 0700 if absent), cleans up what a power cut left, takes a lock.
    pub fn open(_dir: &Path) -> Result<Self, StoreError> {
        todo!()
    }

    /// The directory that identity files (keys, certificate, settings of enrolment) live in; 0700.
    pub fn identity_dir(&self) -> std::path::PathBuf {
        todo!()
    }

    /// Writes a small file durably: aside, fsync, rename, fsync of the directory; mode 0600.
    pub fn write_file(&self, _relative: &Path, _bytes: &[u8]) -> Result<(), StoreError> {
        todo!()
    }

    /// Whether the whole object is here.
    pub fn has(&self, _digest: &Digest, _bytes: u64) -> bool {
        todo!()
    }

    /// Reads a whole sealed object of at most `limit` bytes and checks its digest.
    pub fn read(&self, _digest: &Digest, _limit: u64) -> Result<Vec<u8>, StoreError> {
        todo!()
    }

    /// Starts or resumes the download of an object.
    pub fn download(&self, _digest: &Digest, _bytes: u64) -> Result<Download, StoreError> {
        todo!()
    }

    /// The trust state; `None` only if there never was one. Both copies bad: rebuilt from the active release.
    pub fn trust(&self) -> Result<Option<TrustState>, StoreError> {
        todo!()
    }

    /// Replaces the trust state durably.
    pub fn save_trust(&self, _state: &TrustState) -> Result<(), StoreError> {
        todo!()
    }

    /// The sealed release that the pointer names: (generation, metadata files, sealed manifest). Whoever calls
    /// re-verifies it with [`crate::access::OpenedManifest`].
    pub fn active(&self) -> Result<Option<StoredRelease>, StoreError> {
        todo!()
    }

    /// The one before.
    pub fn previous(&self) -> Result<Option<StoredRelease>, StoreError> {
        todo!()
    }

    /// Refuses with [`StoreError::Full`] unless the missing objects fit with a reserve, before anything is touched.
    pub fn preflight(&self, _missing_bytes: u64) -> Result<(), StoreError> {
        todo!()
    }

    /// Makes a complete, verified release durable beside the active one. All its objects must be here.
    pub fn stage(&self, _opened: &Opened, _metadata: &BTreeMap<String, Vec<u8>>) -> Result<(), StoreError> {
        todo!()
    }

    /// Switches the pointer to a staged generation; the active one becomes the previous.
    pub fn activate(&self, _generation: Generation) -> Result<(), StoreError> {
        todo!()
    }

    /// Switches back to the previous release and returns its generation.
    pub fn roll_back(&self) -> Result<Generation, StoreError> {
        todo!()
    }

    /// Deletes objects and releases that neither the active nor the previous release needs. Returns bytes freed.
    pub fn collect(&self, _keep: &[&Opened]) -> Result<u64, StoreError> {
        todo!()
    }

    /// Bytes free on the store's file system.
    pub fn free_bytes(&self) -> u64 {
        todo!()
    }

    /// An object was found damaged: moves it away, so that the next poll fetches it again.
    pub fn quarantine(&self, _digest: &Digest) {
        todo!()
    }
}

/// A release as it lies on disk.
#[derive(Debug, Clone)]
pub struct StoredRelease {
    /// Its number.
    pub generation: Generation,
    /// The metadata it was verified with, under unversioned names.
    pub metadata: BTreeMap<String, Vec<u8>>,
    /// The sealed manifest.
    pub sealed_manifest: Vec<u8>,
}

/// A download in progress. Dropping it keeps what was written, for resuming.
#[derive(Debug)]
pub struct Download {
    _private: (),
}

impl Download {
    /// How many bytes are here already; always at a chunk boundary or the end.
    pub fn offset(&self) -> u64 {
        todo!()
    }

    /// Throws away what is here: the server did not honour the range.
    pub fn restart(&mut self) -> Result<(), StoreError> {
        todo!()
    }

    /// Appends; more than the object's length is an error.
    pub fn write(&mut self, _bytes: &[u8]) -> Result<(), StoreError> {
        todo!()
    }

    /// Checks length and digest and makes it an object. A corrupt one is deleted.
    pub fn finish(self) -> Result<(), StoreError> {
        todo!()
    }
}

impl Files for Store {
    fn open(&self, _entry: &Arc<FileEntry>) -> Result<Arc<dyn Content>, ContentError> {
        todo!()
    }
}
