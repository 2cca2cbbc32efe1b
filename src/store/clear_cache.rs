//! Clear text of chunks that phones are reading now, bounded in bytes, the least recently used going first.
//!
//! Fifty phones that boot together read the same image; each chunk is read and opened once.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex};

use super::lock;
use ids::Digest;

/// The most bytes of clear text that are kept, bookkeeping included.
pub(super) const DEFAULT_BYTES: usize = 32 * 1024 * 1024;

/// The number of parts, each with a lock of its own. Chunks of one object spread over all of them.
const PARTS: usize = 8;

/// The bytes that bookkeeping of one chunk counts for, so that a million empty chunks are bounded too.
const ENTRY_BYTES: usize = 160;

/// An object and the number of a chunk in it.
type Key = (Digest, u64);

#[derive(Debug)]
pub(super) struct ClearCache {
    parts: [Mutex<CachePart>; PARTS],
    bytes_per_part: usize,
}

#[derive(Debug, Default)]
struct CachePart {
    chunks: HashMap<Key, (Arc<[u8]>, u64)>,
    /// The chunks by the time of their last use, the oldest first; times are readings of `clock`.
    order: BTreeMap<u64, Key>,
    /// Counts uses.
    clock: u64,
    bytes: usize,
}

impl ClearCache {
    pub(super) fn new(bytes: usize) -> Self {
        Self { parts: std::array::from_fn(|_| Mutex::default()), bytes_per_part: bytes / PARTS }
    }

    pub(super) fn find(&self, digest: &Digest, index: u64) -> Option<Arc<[u8]>> {
        let mut part = lock(self.part(digest, index)?);
        let CachePart { chunks, order, clock, .. } = &mut *part;
        let (chunk, used) = chunks.get_mut(&(*digest, index))?;
        *clock += 1;
        order.remove(used);
        order.insert(*clock, (*digest, index));
        *used = *clock;
        Some(Arc::clone(chunk))
    }

    pub(super) fn insert(&self, digest: &Digest, index: u64, chunk: &Arc<[u8]>) {
        let Some(part) = self.part(digest, index) else { return };
        let mut part = lock(part);
        part.forget(&(*digest, index));
        part.clock += 1;
        let clock = part.clock;
        part.order.insert(clock, (*digest, index));
        part.chunks.insert((*digest, index), (Arc::clone(chunk), clock));
        part.bytes += chunk.len() + ENTRY_BYTES;
        while part.bytes > self.bytes_per_part {
            let Some((_, oldest)) = part.order.first_key_value() else { break };
            let oldest = *oldest;
            part.forget(&oldest);
        }
    }

    fn part(&self, digest: &Digest, index: u64) -> Option<&Mutex<CachePart>> {
        let first = digest.as_bytes().first().map_or(0, |byte| u64::from(*byte));
        let number = usize::try_from(first.wrapping_add(index) % PARTS as u64).ok()?;
        self.parts.get(number)
    }
}

impl CachePart {
    fn forget(&mut self, key: &Key) {
        if let Some((chunk, used)) = self.chunks.remove(key) {
            self.order.remove(&used);
            self.bytes = self.bytes.saturating_sub(chunk.len() + ENTRY_BYTES);
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]
    use super::*;

    fn chunk(bytes: usize) -> Arc<[u8]> {
        vec![0; bytes].into()
    }

    fn held(cache: &ClearCache) -> usize {
        cache.parts.iter().map(|part| lock(part).chunks.values().map(|(chunk, _)| chunk.len()).sum::<usize>()).sum()
    }

    #[test]
    fn it_never_holds_more_than_it_may() {
        let cache = ClearCache::new(1024 * 1024);
        for index in 0..1000 {
            cache.insert(&Digest::of(&[7]), index, &chunk(64 * 1024));
            assert!(held(&cache) <= 1024 * 1024);
        }
        assert!(held(&cache) >= 512 * 1024);
    }

    #[test]
    fn empty_chunks_are_bounded_too() {
        let cache = ClearCache::new(PARTS * ENTRY_BYTES * 4);
        (0..1000).for_each(|index| cache.insert(&Digest::of(&[7]), index, &chunk(0)));
        let entries: usize = cache.parts.iter().map(|part| lock(part).chunks.len()).sum();
        assert_eq!(entries, PARTS * 4);
    }

    #[test]
    fn what_was_used_last_stays_longest() {
        let cache = ClearCache::new(PARTS * (100 + ENTRY_BYTES) * 2);
        let digest = Digest::of(b"x");
        let step = PARTS as u64;
        cache.insert(&digest, 0, &chunk(100));
        cache.insert(&digest, step, &chunk(100));
        assert!(cache.find(&digest, 0).is_some());
        cache.insert(&digest, 2 * step, &chunk(100));
        assert!(cache.find(&digest, 0).is_some());
        assert!(cache.find(&digest, step).is_none());
    }

    #[test]
    fn one_chunk_put_in_twice_counts_once() {
        let cache = ClearCache::new(1024 * 1024);
        let digest = Digest::of(b"x");
        (0..10).for_each(|_| cache.insert(&digest, 3, &chunk(1000)));
        assert_eq!(held(&cache), 1000);
        assert_eq!(cache.parts.iter().map(|part| lock(part).order.len()).sum::<usize>(), 1);
    }
}
