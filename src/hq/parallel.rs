//! Working on many items, for example sites, on all processors.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;

use anyhow::bail;

/// The largest number of threads.
const MAX_WORKERS: usize = 16;
/// How many results may wait for the caller. An item takes about a millisecond, so no thread waits long.
const QUEUE: usize = 256;

/// Calls `one` for each item, on all processors, and returns the results in the order of the items. The first error
/// ends it. `done` is called after each item, in any order, on the caller's thread.
pub(super) fn in_parallel<I: Sync, T: Send>(
    items: &[I],
    one: impl Fn(&I) -> anyhow::Result<T> + Sync,
    mut done: impl FnMut(&I),
) -> anyhow::Result<Vec<T>> {
    let workers = std::thread::available_parallelism().map_or(1, std::num::NonZero::get).min(MAX_WORKERS);
    let next = AtomicUsize::new(0);
    let (sender, results) = mpsc::sync_channel(QUEUE);
    std::thread::scope(|scope| {
        for _ in 0..workers.min(items.len()) {
            let (sender, next, one) = (sender.clone(), &next, &one);
            scope.spawn(move || {
                loop {
                    let index = next.fetch_add(1, Ordering::Relaxed);
                    let Some(item) = items.get(index) else { break };
                    // The receiver is gone because another item failed.
                    if sender.send((index, item, one(item))).is_err() {
                        break;
                    }
                }
            });
        }
        drop(sender);
        let mut all = BTreeMap::new();
        for (index, item, result) in results {
            done(item);
            all.insert(index, result?);
        }
        if all.len() != items.len() {
            bail!("a thread ended early");
        }
        Ok(all.into_values().collect())
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn results_are_in_the_order_of_the_items_and_an_error_ends_it() {
        let items: Vec<usize> = (0..1000).collect();
        let mut seen = 0;
        let doubled = in_parallel(&items, |item| Ok(item * 2), |_| seen += 1).unwrap();
        assert_eq!(doubled, items.iter().map(|item| item * 2).collect::<Vec<_>>());
        assert_eq!(seen, 1000);
        let failing = |item: &usize| if *item == 7 { bail!("seven") } else { Ok(()) };
        assert_eq!(in_parallel(&items, failing, |_| {}).unwrap_err().to_string(), "seven");
        assert!(in_parallel(&[], |_: &u8| Ok(()), |_| {}).unwrap().is_empty());
    }
}
