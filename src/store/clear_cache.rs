//! Clear text of chunks that phones are reading now, bounded in bytes, the least recently used going first.
//!
//! Fifty phones that boot together read the same image; each chunk is read and opened once. Phones read from the beginning
//! to the end, so an object that is larger than all of this would push out each chunk just before the next phone wants it.
//! Of such an object the beginning stays, and what goes is a chunk that the phone has just left behind.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use super::lock;
use ids::Digest;

/// The most bytes of clear text that are kept, bookkeeping included.
pub(super) const DEFAULT_BYTES: usize = 32 * 1024 * 1024;

/// The number of parts, each with a lock of its own. Chunks of one object spread over all of them.
const PARTS: usize = 8;

/// How many chunks behind the one that came last stay for phones that are a little later, of an object that fills all of
/// this: 4 MB.
const BEHIND: u64 = 64;

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
    chunks: BTreeMap<Key, (Arc<[u8]>, u64)>,
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
            let Some(gone) = part.next_to_go(&(*digest, index)) else { break };
            part.forget(&gone);
        }
    }

    fn part(&self, digest: &Digest, index: u64) -> Option<&Mutex<CachePart>> {
        let first = digest.as_bytes().first().map_or(0, |byte| u64::from(*byte));
        let number = usize::try_from(first.wrapping_add(index) % PARTS as u64).ok()?;
        self.parts.get(number)
    }
}

impl CachePart {
    /// What makes room for a chunk that came: the least recently used, unless that is a chunk of the same object and before
    /// it, which the next phone will want first.
    fn next_to_go(&self, (digest, index): &Key) -> Option<Key> {
        let (_, oldest) = self.order.first_key_value()?;
        if oldest.0 != *digest || oldest.1 >= *index {
            return Some(*oldest);
        }
        let left_behind = index.checked_sub(BEHIND).map(|end| (*digest, 0)..=(*digest, end));
        let last = left_behind.and_then(|chunks| self.chunks.range(chunks).next_back());
        Some(last.map_or(*oldest, |(key, _)| *key))
    }

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
    fn of_an_object_that_is_larger_than_all_of_it_the_next_phone_finds_the_beginning() {
        const CHUNK: usize = 1000;
        let cache = ClearCache::new(PARTS * (CHUNK + ENTRY_BYTES) * 50);
        let digest = Digest::of(b"x");
        let read = |index| {
            let found = cache.find(&digest, index).is_some();
            if !found {
                cache.insert(&digest, index, &chunk(CHUNK));
            }
            found
        };
        // Room for 400 chunks, and 700 to read. A phone that is 60 behind finds all of them.
        for round in 0..3 {
            let mut found = 0;
            for index in 0..760 {
                found += u64::from(index < 700 && read(index));
                assert!(index < 60 || read(index - 60), "{round}: {index}");
            }
            let least = if round == 0 { 0 } else { 400 - BEHIND - PARTS as u64 };
            assert!(found >= least, "{round}: {found}");
        }
        // Another object that is used more takes its room.
        let other = Digest::of(b"y");
        (0..400).for_each(|index| cache.insert(&other, index, &chunk(CHUNK)));
        assert!((0..400).all(|index| cache.find(&other, index).is_some()));
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
