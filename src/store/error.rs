//! What can go wrong with the disk, and what was repaired without anybody's help.

use std::io;
use std::path::{Path, PathBuf};

use api::{DiskFailure, DiskRepair};
use ids::{Digest, Generation};

/// Why an operation of the store failed.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The operating system returned an error.
    #[error("{action} {path}: {source}")]
    Io {
        /// The operation, as a verb: `open`, `write`, `sync`, …
        action: &'static str,
        /// The file or directory that it was tried on.
        path: PathBuf,
        /// The error of the operating system.
        source: io::Error,
    },
    /// Downloaded or stored bytes are not the object. They were moved away or deleted.
    #[error("the object {0} is corrupt")]
    Corrupt(Digest),
    /// The object is not here.
    #[error("the object {0} is not here")]
    Missing(Digest),
    /// The download is longer than the object may be. The bytes before the excess stay on disk.
    #[error("the object {digest} is over the {limit} bytes allowed")]
    TooLong {
        /// The name of the object.
        digest: Digest,
        /// The most bytes that it may have, sealed.
        limit: u64,
    },
    /// The download has not arrived in full. What is here stays, for resuming.
    #[error("{have} of the {need} bytes of object {digest} are here")]
    Incomplete {
        /// The name of the object.
        digest: Digest,
        /// The bytes that are on disk.
        have: u64,
        /// The exact length of the object in bytes.
        need: u64,
    },
    /// The object is being downloaded already.
    #[error("the object {0} is being downloaded already")]
    Busy(Digest),
    /// The file system has too little room. Nothing was written.
    #[error("the release needs {needed} bytes, {free} are free")]
    Full {
        /// The bytes that are missing of the release, and the reserve that must stay free.
        needed: u64,
        /// The bytes that are free on the file system of the state directory.
        free: u64,
    },
    /// No release was active before this one.
    #[error("there is no release to go back to")]
    NoPrevious,
    /// The release was not staged, or is damaged.
    #[error("release {0} is not staged")]
    NotStaged(Generation),
    /// Another release of this generation is in use.
    #[error("release {0} is in use with another content")]
    Conflict(Generation),
    /// The release has more or larger parts than a limit allows.
    #[error("the release's {what} is over the {limit} allowed")]
    TooLarge {
        /// The part that is over its limit, in words for people.
        what: &'static str,
        /// The most that it may be: bytes, or a number of files or objects.
        limit: u64,
    },
    /// There was trust state, both copies are damaged, and there is no release to rebuild it from. The pinned root
    /// in the identity has to be verified anew; nothing may be accepted without it.
    #[error("both copies of the trust state are damaged and there is no release to rebuild it from")]
    TrustLost,
    /// A name that no file of ours can have.
    #[error("`{0}` is not a name for a file here")]
    Name(PathBuf),
    /// Another process has the store open.
    #[error("the state directory is in use by another process")]
    Locked,
}

impl StoreError {
    /// Says what was tried on what, for `map_err`.
    pub(super) fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { action, path: path.to_owned(), source }
    }

    /// Which failure this is, as a code says it.
    pub fn failure(&self) -> DiskFailure {
        match self {
            Self::Io { source, .. } if source.kind() == io::ErrorKind::StorageFull => DiskFailure::DiskFull,
            Self::Io { .. } => DiskFailure::Io,
            Self::Corrupt(_) => DiskFailure::CorruptObject,
            Self::Missing(_) => DiskFailure::MissingObject,
            Self::TooLong { .. } => DiskFailure::TooLong,
            Self::Incomplete { .. } => DiskFailure::Incomplete,
            Self::Busy(_) => DiskFailure::Busy,
            Self::Full { .. } => DiskFailure::DiskFull,
            Self::NoPrevious => DiskFailure::NoPrevious,
            Self::NotStaged(_) => DiskFailure::NotStaged,
            Self::Conflict(_) => DiskFailure::Conflict,
            Self::TooLarge { .. } => DiskFailure::TooLarge,
            Self::TrustLost => DiskFailure::TrustLost,
            Self::Name(_) => DiskFailure::BadName,
            Self::Locked => DiskFailure::Locked,
        }
    }
}

/// Damage that the store found on its disk, and how it went on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Recovery {
    /// One copy of the trust state is damaged; the other one was used.
    #[error("copy {0} of the trust state is damaged, the other one was used")]
    TrustCopyDamaged(u8),
    /// Both copies were damaged; the state was rebuilt from the active release's metadata.
    #[error("both copies of the trust state are damaged, it was rebuilt from release {0}")]
    TrustRebuilt(Generation),
    /// The pointer was damaged; the newest whole release that had been active was chosen.
    #[error("the pointer to the active release is damaged, release {0} was chosen")]
    PointerRebuilt(Generation),
    /// The pointer was damaged and no whole release was found.
    #[error("the pointer to the active release is damaged and no whole release was found")]
    PointerLost,
    /// The active release is damaged; another one took its place.
    #[error("release {damaged} is damaged on disk, release {instead} took its place")]
    ReleaseReplaced {
        /// The generation that was active.
        damaged: Generation,
        /// The generation that is active now.
        instead: Generation,
    },
    /// The active release is damaged and nothing can take its place.
    #[error("release {0} is damaged on disk and there is no other")]
    ReleaseLost(Generation),
    /// The disk takes no writes: it is full, or has gone read-only. What is there is served.
    #[error("the disk takes no writes: {0}")]
    NotWritable(String),
    /// A journal ended in bytes that are no record; they were cut off.
    #[error("{bytes} bytes that are no record were cut off the journal `{name}`")]
    JournalCut {
        /// The name that [`Store::journal`](crate::Store::journal) was given.
        name: String,
        /// The number of bytes that were cut off.
        bytes: u64,
    },
}

impl Recovery {
    /// Which repair this is, as a code says it.
    pub const fn repair(&self) -> DiskRepair {
        match self {
            Self::TrustCopyDamaged(_) => DiskRepair::TrustCopyDamaged,
            Self::TrustRebuilt(_) => DiskRepair::TrustRebuilt,
            Self::PointerRebuilt(_) => DiskRepair::PointerRebuilt,
            Self::PointerLost => DiskRepair::PointerLost,
            Self::ReleaseReplaced { .. } => DiskRepair::ReleaseReplaced,
            Self::ReleaseLost(_) => DiskRepair::ReleaseLost,
            Self::NotWritable(_) => DiskRepair::NotWritable,
            Self::JournalCut { .. } => DiskRepair::JournalCut,
        }
    }
}
