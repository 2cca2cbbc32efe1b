//! How much counters grew lately. Counters go on over restarts, so their values alone do not tell what happens now.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

/// The time between two marks. The older of two marks is 12 to 24 hours old.
const MARK_EVERY: Duration = Duration::from_secs(12 * 3_600);
const MAX_MARKS: usize = 2;

/// The values that counters had at earlier moments of this run.
#[derive(Debug, Default)]
pub(super) struct Marks {
    /// How long the process was up, and the counters then; oldest first. Empty until half a day is over.
    marks: VecDeque<(Duration, BTreeMap<String, u64>)>,
    /// What an earlier run counted.
    recalled: BTreeMap<String, u64>,
}

impl Marks {
    /// An earlier run has counted this much, which is in the counters from now on.
    pub(super) fn recall(&mut self, name: &str, value: u64) {
        for counters in self.marks.iter_mut().map(|(_, counters)| counters).chain([&mut self.recalled]) {
            let counter = counters.entry(name.to_owned()).or_default();
            *counter = counter.saturating_add(value);
        }
    }

    /// Since when, as the time that the process was up (zero: since its start), which counters grew by how much.
    pub(super) fn grown(
        &mut self,
        counters: &BTreeMap<String, u64>,
        up: Duration,
    ) -> (Duration, BTreeMap<String, u64>) {
        let newest = self.marks.back().map_or(Duration::ZERO, |(at, _)| *at);
        if up.saturating_sub(newest) >= MARK_EVERY {
            self.marks.push_back((up, counters.clone()));
        }
        if self.marks.len() > MAX_MARKS {
            self.marks.pop_front();
        }
        let (since, before) = match self.marks.front() {
            // With one mark the start is not a day ago yet.
            Some((at, counters)) if self.marks.len() == MAX_MARKS => (*at, counters),
            _ => (Duration::ZERO, &self.recalled),
        };
        let grown = counters.iter().filter_map(|(name, value)| {
            let by = value.saturating_sub(before.get(name).copied().unwrap_or(0));
            (by > 0).then(|| (name.clone(), by))
        });
        (since, grown.collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: u64 = 3_600;

    #[test]
    fn what_an_earlier_run_counted_did_not_grow() {
        let mut marks = Marks::default();
        marks.recall("a", 100);
        assert_eq!(grown(&mut marks, &[("a", 103), ("b", 1)], 0), (0, counted(&[("a", 3), ("b", 1)])));
        assert_eq!(grown(&mut marks, &[("a", 100)], 1), (0, counted(&[])));
    }

    #[test]
    fn after_a_day_only_the_last_day_counts() {
        let mut marks = Marks::default();
        for hour in 0..=100 {
            let (since, by) = grown(&mut marks, &[("a", hour * 10), ("old", 5)], hour);
            let window = hour - since;
            assert!(since == 0 && hour < 24 || (12..=24).contains(&window), "hour {hour}: {since}");
            assert_eq!(by.get("a").copied().unwrap_or(0), window * 10, "hour {hour}");
            assert_eq!(by.contains_key("old"), since == 0, "hour {hour}");
            assert!(marks.marks.len() <= MAX_MARKS);
        }
    }

    #[test]
    fn what_is_recalled_late_counts_for_no_mark() {
        let mut marks = Marks::default();
        for hour in [12, 24] {
            grown(&mut marks, &[("a", 1)], hour);
        }
        marks.recall("a", 50);
        assert_eq!(grown(&mut marks, &[("a", 53)], 25), (12, counted(&[("a", 2)])));
    }

    fn grown(marks: &mut Marks, counters: &[(&str, u64)], hour: u64) -> (u64, BTreeMap<String, u64>) {
        let (since, by) = marks.grown(&counted(counters), Duration::from_secs(hour * HOUR));
        (since.as_secs() / HOUR, by)
    }

    fn counted(counters: &[(&str, u64)]) -> BTreeMap<String, u64> {
        counters.iter().map(|(name, value)| ((*name).to_owned(), *value)).collect()
    }
}
