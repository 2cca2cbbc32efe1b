//! The lock on the published tree: one process writes it at a time.
//!
//! `publish` and the upkeep of `serve` both read a site's newest metadata and write the next. Without a lock the
//! slower of the two would put an older release back under a newer version.

use std::fs::{File, TryLockError};
use std::path::Path;
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, anyhow};

use telemetry::Hint as _;

/// How long [`TreeLock::wait`] waits. Whoever holds the lock does so for seconds, but a host that was broken into could hold it
/// for ever, and a desk would wait without a word.
pub const MAX_WAIT: Duration = Duration::from_secs(60);
/// How often it looks meanwhile: `flock` itself has no time limit.
const STEP: Duration = Duration::from_millis(50);

/// The right to write the published tree. It ends when this value is dropped or the process ends, even by a crash.
#[derive(Debug)]
#[must_use = "the tree is only held while this lives"]
pub struct TreeLock {
    _file: File,
}

impl TreeLock {
    /// Waits until no other process holds the lock of this `online/` directory, at most [`MAX_WAIT`], then takes it.
    ///
    /// # Errors
    ///
    /// If the file cannot be made, or another process holds the lock all that time.
    pub fn wait(online: &Path) -> anyhow::Result<Self> {
        Self::wait_at_most(online, MAX_WAIT)
    }

    fn wait_at_most(online: &Path, most: Duration) -> anyhow::Result<Self> {
        for _ in 0..=most.as_millis() / STEP.as_millis() {
            match Self::try_now(online)? {
                Some(lock) => return Ok(lock),
                None => thread::sleep(STEP),
            }
        }
        let path = online.join("public.lock");
        Err(anyhow!("another process has held {} for {} s", path.display(), most.as_secs())
            .hint("`serve` and `publish` hold it for seconds: see what runs (`fuser` names who has the file open)"))
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
        let error = TreeLock::wait_at_most(dir.path(), Duration::from_millis(100)).unwrap_err().to_string();
        assert!(error.starts_with("another process has held ") && error.contains("public.lock"), "{error}");
        drop(first);
        assert!(TreeLock::try_now(dir.path()).unwrap().is_some());
    }
}
