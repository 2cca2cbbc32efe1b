//! Which shard a file is in: by the hash of its name, so that one changed config changes one shard.

use sha2::{Digest as _, Sha256};

use super::limits::MAX_SHARDS;
use ids::FileName;

/// How many shards a release of so many files has: a power of two from 1 to [`MAX_SHARDS`], the smallest `n` with
/// `5 n * n >= 4 files`.
///
/// One changed file costs a site the manifest, some 75 bytes for each shard, and the shard, some 115 bytes for each file
/// in it. Together that is least near `n * n = 1.5 files`, and flat around it; fewer shards are fewer files at HQ.
///
/// A power of two, because every other count would move nearly every file to another shard with each few files more;
/// so that happens only when a site has four times as many.
pub const fn shard_count(files: usize) -> usize {
    let mut shards = 1;
    while shards < MAX_SHARDS && 5 * shards * shards < files.saturating_mul(4) {
        shards *= 2;
    }
    shards
}

/// The index of the shard, from 0 to below `count`, that the file of this name is in. The same on every machine and
/// in every version; case does not matter. A `count` of 0 counts as 1.
pub fn shard_of(name: &FileName, count: usize) -> usize {
    let hash = Sha256::digest(name.folded().as_bytes());
    let [a, b, c, d, ..] = <[u8; 32]>::from(hash);
    // Widening on every machine that this runs on; the remainder is below `count`.
    u32::from_be_bytes([a, b, c, d]) as usize % count.max(1)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]

    use super::*;

    #[test]
    fn counts_grow_only_by_doubling_and_stay_in_bounds() {
        let cases = [(0, 1), (1, 1), (2, 2), (5, 2), (6, 4), (20, 4), (21, 8), (80, 8), (81, 16), (320, 16), (321, 32)];
        let large = [(1280, 32), (1281, 64), (50_000, 64), (usize::MAX, 64)];
        for (files, shards) in cases.into_iter().chain(large) {
            assert_eq!(shard_count(files), shards, "{files} files");
        }
    }

    #[test]
    fn a_files_shard_is_frozen_and_ignores_case() {
        let name: FileName = "SEP0004F2AABBCC.cnf.xml".parse().unwrap();
        let lower: FileName = "sep0004f2aabbcc.cnf.xml".parse().unwrap();
        // SHA-256("sep0004f2aabbcc.cnf.xml") begins with 684c2d69, by sha256sum.
        assert_eq!(shard_of(&name, 64), 41);
        assert_eq!(shard_of(&name, 64), shard_of(&lower, 64));
        assert_eq!(shard_of(&name, 1), 0);
        assert_eq!(shard_of(&name, 0), 0);
    }

    #[test]
    fn files_spread_over_all_shards() {
        let mut sizes = [0usize; 64];
        for phone in 0..2048 {
            let name: FileName = format!("SEP0004F2{phone:06X}.cnf.xml").parse().unwrap();
            sizes[shard_of(&name, 64)] += 1;
        }
        assert!(sizes.iter().all(|&files| (8..=64).contains(&files)), "{sizes:?}");
    }
}
