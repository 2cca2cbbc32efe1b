//! What this box keeps for its check-ins: its name, its counter and the record of its pulls, in `identity/check-in.toml`.

use data_encoding::HEXLOWER;
use serde::{Deserialize, Serialize};

use crate::identity::{self, IdentityError};
use api::check_in::report::Pulls;
use ids::{Generation, UnixTime};
use store::Store;

const FILE: &str = "check-in.toml";
/// So many counters are taken from the disk at a time. A restart skips those of them that were not used, and the card is
/// written once in this many pages.
const BLOCK: u64 = 256;

/// The name, the counter and the pulls of this box.
pub(crate) struct BoxRecord {
    store: Store,
    kept: Kept,
    /// The next counter. It may be used once `kept.reserved` on the disk is not below it.
    next: u64,
}

/// The file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Kept {
    #[serde(rename = "box")]
    box_id: String,
    /// No counter up to this one may be used again.
    reserved: u64,
    #[serde(default)]
    pulls: Option<Pulls>,
}

impl BoxRecord {
    /// Reads the record. A box without one, or with a damaged one, takes a new name. `None` if the system has no randomness
    /// for it.
    pub(crate) fn load(store: &Store) -> Option<Self> {
        let text = identity::read(&store.identity_dir(), FILE).ok().flatten();
        let kept = text.and_then(|text| toml::from_str::<Kept>(&text).ok());
        let kept = match kept.filter(|kept| HEXLOWER.decode(kept.box_id.as_bytes()).is_ok_and(|id| id.len() == 8)) {
            Some(kept) => kept,
            None => Kept { box_id: new_name()?, reserved: 0, pulls: None },
        };
        let next = kept.reserved.saturating_add(1);
        Some(Self { store: store.clone(), kept, next })
    }

    /// The name of this box.
    pub(crate) fn name(&self) -> &str {
        &self.kept.box_id
    }

    /// A counter that this box never used under its name and never will again. A disk that takes nothing gives the box
    /// another name until the next start: under that one no power cut can bring a counter back.
    pub(crate) fn counter(&mut self) -> Option<u64> {
        if self.next > self.kept.reserved {
            let reserved = self.next.saturating_add(BLOCK - 1);
            if self.save(Kept { reserved, ..self.kept.clone() }).is_err() {
                self.kept = Kept { box_id: new_name()?, reserved: u64::MAX, ..self.kept.clone() };
                self.next = 1;
            }
        }
        let counter = self.next;
        self.next = self.next.saturating_add(1);
        Some(counter)
    }

    /// Takes a new name: HQ has heard from another box under this one, or from this one before its card was put back.
    pub(crate) fn rename(&mut self) {
        let Some(box_id) = new_name() else { return };
        self.kept = Kept { box_id, reserved: 0, pulls: self.kept.pulls.clone() };
        self.next = 1;
    }

    /// The site serves this generation. Another one than the last is an entry of the record, on disk before HQ hears of it.
    pub(crate) fn pulled(&mut self, generation: Generation, at: UnixTime) {
        let before = self.kept.pulls.as_ref();
        if generation == Generation(0) || before.is_some_and(|pulls| pulls.generation == generation) {
            return;
        }
        let pulls = Some(Pulls::then(before, generation, at));
        if let Err(error) = self.save(Kept { pulls: pulls.clone(), ..self.kept.clone() }) {
            tracing::warn!(%error, "the record of pulls was not stored");
            self.kept.pulls = pulls;
        }
    }

    /// The record of pulls.
    pub(crate) fn pulls(&self) -> Option<&Pulls> {
        self.kept.pulls.as_ref()
    }

    fn save(&mut self, kept: Kept) -> Result<(), IdentityError> {
        // A name of this run alone stays one.
        if kept.reserved == u64::MAX {
            self.kept = kept;
            return Ok(());
        }
        let text = toml::to_string(&kept).map_err(|error| identity::damaged(FILE, error))?;
        let text = format!("# What this box counts its check-ins by. It is no secret.\n{text}");
        identity::write(&self.store, FILE, text.as_bytes())?;
        self.kept = kept;
        Ok(())
    }
}

fn new_name() -> Option<String> {
    let mut bytes = [0; 8];
    getrandom::fill(&mut bytes).ok()?;
    Some(HEXLOWER.encode(&bytes))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn no_start_and_no_power_cut_brings_a_counter_back() {
        let dir = tempfile::tempdir().unwrap();
        let (mut names, mut last) = (std::collections::BTreeSet::new(), 0);
        for used in [1, 3, 0, BLOCK + 5, 2 * BLOCK, 1] {
            // The process dies without a word: what it used is on the disk, or it was not used.
            let store = Store::open(dir.path()).unwrap();
            let mut record = BoxRecord::load(&store).unwrap();
            for _ in 0..used {
                let counter = record.counter().unwrap();
                assert!(counter > last, "{counter} after {last}");
                last = counter;
            }
            if used > 0 {
                names.insert(record.name().to_owned());
            }
        }
        assert_eq!(names.len(), 1);
        assert!(last < 6 * BLOCK + 2 * BLOCK + 16, "{last}");
    }

    #[test]
    fn a_disk_that_takes_nothing_gives_the_box_another_name_for_this_run() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let mut record = BoxRecord::load(&store).unwrap();
        assert_eq!(record.counter(), Some(1));
        let name = record.name().to_owned();
        record.next = record.kept.reserved + 1;
        let at = store.identity_dir();
        std::fs::rename(&at, dir.path().join("away")).unwrap();
        std::fs::write(&at, b"no directory").unwrap();
        assert_eq!((record.counter(), record.counter()), (Some(1), Some(2)));
        assert_ne!(record.name(), name);
        std::fs::remove_file(&at).unwrap();
        std::fs::rename(dir.path().join("away"), &at).unwrap();
        assert_eq!((BoxRecord::load(&store).unwrap().name(), record.counter()), (name.as_str(), Some(3)));
    }

    #[test]
    fn a_damaged_record_is_a_new_box_and_a_renamed_one_stays_renamed() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let mut record = BoxRecord::load(&store).unwrap();
        record.counter();
        let first = record.name().to_owned();
        record.rename();
        assert_eq!(record.counter(), Some(1));
        let second = BoxRecord::load(&store).unwrap();
        assert_eq!((second.name(), second.next), (record.name(), BLOCK + 1));
        assert_ne!(second.name(), first);
        std::fs::write(store.identity_dir().join(FILE), "box = \"x\"").unwrap();
        assert_ne!(BoxRecord::load(&store).unwrap().name(), second.name());
    }

    #[test]
    fn each_change_of_generation_is_an_entry_that_outlasts_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let mut record = BoxRecord::load(&store).unwrap();
        for (generation, at) in [(0, 1), (1, 10), (1, 20), (2, 30), (1, 40)] {
            record.pulled(Generation(generation), UnixTime(at));
        }
        let pulls = BoxRecord::load(&store).unwrap().pulls().cloned().unwrap();
        assert_eq!((pulls.entries, pulls.generation, pulls.at), (3, Generation(1), UnixTime(40)));
        let chain = [(1, 10), (2, 30), (1, 40)].into_iter().fold(None, |before: Option<Pulls>, (generation, at)| {
            Some(Pulls::then(before.as_ref(), Generation(generation), UnixTime(at)))
        });
        assert_eq!(Some(pulls), chain);
    }
}
