//! The lock on the published tree: one process writes it at a time.
//!
//! `publish` and the upkeep of `serve` both read a site's newest metadata and write the next. Without a lock the
//! slower of the two would put an older release back under a newer version.

use std::fs::{File, TryLockError};
use std::path::Path;

use anyhow::Context as _;

/// The right to write the published tree. It ends when this value is dropped or the process ends, even by a crash.
#[derive(Debug)]
#[must_use = "the tree is only held while this lives"]
pub struct TreeLock {
    _file: File,
}

impl TreeLock {
    /// Waits until no other process holds the lock of this `online/` directory, then takes it.
    pub fn wait(online: &Path) -> anyhow::Result<Self> {
        let (file, path) = Self::open(online)?;
        file.lock().with_context(|| format!("cannot lock {path}"))?;
        Ok(Self { _file: file })
    }

    /// Takes the lock if it is free; `None` if another process holds it.
    pub fn try_now(online: &Path) -> anyhow::Result<Option<Self>> {
        let (file, path) = Self::open(online)?;
        match file.try_lock() {
            Ok(()) => Ok(Some(Self { _file: file })),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(error)) => Err(error).with_context(|| format!("cannot lock {path}")),
        }
    }

    fn open(online: &Path) -> anyhow::Result<(File, String)> {
        let path = online.join("public.lock");
        let file = durable::lock_file(&path).with_context(|| format!("cannot open {}", path.display()))?;
        Ok((file, path.display().to_string()))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn while_one_writes_no_other_does() {
        let dir = tempfile::tempdir().unwrap();
        let first = TreeLock::wait(dir.path()).unwrap();
        assert!(TreeLock::try_now(dir.path()).unwrap().is_none());
        drop(first);
        assert!(TreeLock::try_now(dir.path()).unwrap().is_some());
    }
}
