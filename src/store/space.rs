//! The room on the file system of the state directory, and the reserve that a release must leave.

use super::Store;
use super::error::StoreError;

/// The least bytes that must stay free: logs, leases and trust state have to be written after a release has arrived.
const MIN_RESERVE_BYTES: u64 = 16 * 1024 * 1024;

/// The least part of the file system that must stay free, in percent.
const RESERVE_PERCENT: u64 = 2;

/// Bytes of a file system: in all, and free for us.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Space {
    total: u64,
    free: u64,
}

impl Space {
    fn check(self, missing_bytes: u64) -> Result<(), StoreError> {
        let reserve = MIN_RESERVE_BYTES.max(self.total / 100 * RESERVE_PERCENT);
        let needed = missing_bytes.saturating_add(reserve);
        if needed > self.free { Err(StoreError::Full { needed, free: self.free }) } else { Ok(()) }
    }
}

impl Store {
    /// Refuses with [`StoreError::Full`] unless the missing objects fit with a reserve (16 MB or 2 % of the file
    /// system, whichever is more), before anything is touched.
    pub fn preflight(&self, missing_bytes: u64) -> Result<(), StoreError> {
        self.space()?.check(missing_bytes)
    }

    /// Bytes free on the store's file system; 0 if the system does not say.
    pub fn free_bytes(&self) -> u64 {
        self.space().map_or(0, |space| space.free)
    }

    // The fields are 32 bits wide on 32-bit boards.
    #[allow(clippy::useless_conversion, clippy::unnecessary_fallible_conversions, reason = "needed on 32-bit boards")]
    fn space(&self) -> Result<Space, StoreError> {
        let dir = &self.inner.dir;
        let found =
            nix::sys::statvfs::statvfs(dir).map_err(std::io::Error::from).map_err(StoreError::io("stat", dir))?;
        let fragment = u64::from(found.fragment_size());
        let bytes = |blocks: u64| blocks.saturating_mul(fragment);
        Ok(Space { total: bytes(u64::from(found.blocks())), free: bytes(u64::from(found.blocks_available())) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MB: u64 = 1024 * 1024;

    #[test]
    fn a_release_must_leave_the_reserve_free() {
        let small = Space { total: 100 * MB, free: 26 * MB };
        assert!(small.check(10 * MB).is_ok());
        assert!(matches!(
            small.check(10 * MB + 1),
            Err(StoreError::Full { needed, free }) if needed == 26 * MB + 1 && free == 26 * MB
        ));
        let large = Space { total: 100_000 * MB, free: 2_010 * MB };
        assert!(large.check(10 * MB).is_ok());
        assert!(large.check(11 * MB).is_err());
    }

    #[test]
    fn no_claimed_size_overflows() {
        assert!(Space { total: u64::MAX, free: u64::MAX - 1 }.check(u64::MAX).is_err());
    }
}
