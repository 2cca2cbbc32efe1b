//! What is done about a medium that damages what was written well.

use std::fs;
use std::path::Path;

use super::trust;
use crate::fixtures::{Made, installed};
use crate::{Recovery, Store, StoreError, TrustState};
use ids::Generation;

#[test]
fn one_damaged_copy_of_the_trust_state_costs_nothing() {
    for (copy, damage) in [(0u8, flip_middle as fn(&Path)), (1, flip_middle), (0, halve), (1, halve)] {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        (1..=2).for_each(|number| store.save_trust(&trust(number)).unwrap());
        drop(store);
        damage(&dir.path().join(format!("trust.{copy}")));
        let store = Store::open(dir.path()).unwrap();
        assert_eq!(store.trust().unwrap(), Some(trust(2)));
        assert_eq!(store.recoveries(), [Recovery::TrustCopyDamaged(copy)]);
        // The next save mends it, even of the same state.
        store.save_trust(&trust(2)).unwrap();
        drop(store);
        assert!(Store::open(dir.path()).unwrap().recoveries().is_empty());
    }
}

#[test]
fn two_damaged_copies_are_rebuilt_from_the_active_release() {
    for damage in [flip_middle as fn(&Path), halve, |path| fs::remove_file(path).unwrap()] {
        let dir = tempfile::tempdir().unwrap();
        let store = installed(dir.path(), 2);
        store.save_trust(&trust(5)).unwrap();
        drop(store);
        damage(&dir.path().join("trust.0"));
        damage(&dir.path().join("trust.1"));
        let store = Store::open(dir.path()).unwrap();
        let rebuilt = store.trust().unwrap().unwrap();
        assert_eq!(rebuilt.metadata, Made::number(2).metadata);
        assert_eq!(store.recoveries(), [Recovery::TrustRebuilt(Generation(2))]);
        drop(store);
        let store = Store::open(dir.path()).unwrap();
        assert_eq!(store.trust().unwrap(), Some(rebuilt));
        assert!(store.recoveries().is_empty());
    }
}

#[test]
fn lost_trust_without_a_release_is_an_error_and_not_a_fresh_start() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    store.save_trust(&trust(1)).unwrap();
    drop(store);
    flip_middle(&dir.path().join("trust.0"));
    flip_middle(&dir.path().join("trust.1"));
    let store = Store::open(dir.path()).unwrap();
    assert!(matches!(store.trust(), Err(StoreError::TrustLost)));
    // Whoever verified the pinned root anew may begin again.
    store.save_trust(&trust(2)).unwrap();
    assert_eq!(store.trust().unwrap(), Some(trust(2)));
}

#[test]
fn a_damaged_pointer_leads_to_the_newest_whole_release_that_was_active() {
    for damage in [
        flip_middle as fn(&Path),
        halve,
        |path| fs::write(path, b"").unwrap(),
        |path| {
            fs::write(path, vec![0; 100_000]).unwrap();
        },
    ] {
        let dir = tempfile::tempdir().unwrap();
        let store = installed(dir.path(), 3);
        let staged = Made::number(4);
        staged.fetch(&store).unwrap();
        staged.stage(&store).unwrap();
        drop(store);
        damage(&dir.path().join("active"));
        let store = Store::open(dir.path()).unwrap();
        Made::number(3).assert_whole(&store);
        assert_eq!(store.recoveries(), [Recovery::PointerRebuilt(Generation(3))]);
        drop(store);
        assert!(Store::open(dir.path()).unwrap().recoveries().is_empty());
    }
}

#[test]
fn a_damaged_pointer_never_leads_to_a_damaged_or_rejected_release() {
    let dir = tempfile::tempdir().unwrap();
    let store = installed(dir.path(), 4);
    store.save_trust(&TrustState { rejected: vec![Generation(3)], ..trust(1) }).unwrap();
    drop(store);
    flip_middle(&dir.path().join("active"));
    flip_middle(&dir.path().join("releases/4/manifest"));
    Made::number(2).assert_whole(&Store::open(dir.path()).unwrap());
}

#[test]
fn a_release_that_was_rolled_back_is_not_chosen_when_the_pointer_is_damaged() {
    let dir = tempfile::tempdir().unwrap();
    let store = installed(dir.path(), 2);
    store.roll_back().unwrap();
    drop(store);
    flip_middle(&dir.path().join("active"));
    Made::number(1).assert_whole(&Store::open(dir.path()).unwrap());
}

#[test]
fn a_pointer_with_nothing_behind_it_is_said_and_not_made_up() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    fs::write(dir.path().join("active"), b"garbage").unwrap();
    drop(store);
    let store = Store::open(dir.path()).unwrap();
    assert_eq!(store.active().unwrap(), None);
    assert_eq!(store.recoveries(), [Recovery::PointerLost]);
}

#[test]
fn a_damaged_active_release_is_replaced_by_the_previous_one_and_can_come_back() {
    for file in ["index", "manifest", "objects", "0.json", "2.json"] {
        for open in [true, false] {
            let dir = tempfile::tempdir().unwrap();
            let mut store = installed(dir.path(), 2);
            flip_middle(&dir.path().join("releases/2").join(file));
            if !open {
                drop(store);
                store = Store::open(dir.path()).unwrap();
            }
            if file == "objects" && open {
                // Only its list of objects is damaged, which nobody has read yet.
                assert_eq!(store.active_generation(), Some(Generation(2)));
            }
            Made::number(1).assert_whole(&store);
            let expected = Recovery::ReleaseReplaced { damaged: Generation(2), instead: Generation(1) };
            assert_eq!(store.recoveries(), [expected], "{file}");
            Made::number(2).install(&store).unwrap();
            Made::number(2).assert_whole(&store);
        }
    }
}

#[test]
fn a_damaged_only_release_is_reported_and_mended_by_staging_it_again() {
    let dir = tempfile::tempdir().unwrap();
    let store = installed(dir.path(), 1);
    flip_middle(&dir.path().join("releases/1/manifest"));
    assert_eq!(store.active().unwrap(), None);
    assert_eq!(store.recoveries(), [Recovery::ReleaseLost(Generation(1))]);
    assert_eq!(store.collect(&[]).unwrap(), 0);
    Made::number(1).install(&store).unwrap();
    Made::number(1).assert_whole(&store);
}

pub(super) fn flip_middle(path: &Path) {
    let mut bytes = fs::read(path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(path, bytes).unwrap();
}

fn halve(path: &Path) {
    let bytes = fs::read(path).unwrap();
    fs::write(path, &bytes[..bytes.len() / 2]).unwrap();
}
