//! What the store promises, seen from outside: releases, activation, trust, a full disk.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

mod damage;

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use super::fixtures::{Faults, Made, in_memory, installed, put};
use super::*;
use damage::flip_middle;
use ids::UnixTime;

fn trust(number: i64) -> TrustState {
    TrustState {
        metadata: BTreeMap::from([("root.json".to_owned(), format!("root {number}").into_bytes())]),
        time_floor: Some(UnixTime(number)),
        rejected: vec![Generation(99)],
        left_by_hand: vec![Generation(98)],
    }
}

#[test]
fn a_new_store_is_private_and_empty() {
    let dir = tempfile::tempdir().unwrap();
    let state = dir.path().join("a/b");
    let store = Store::open(&state).unwrap();
    assert_eq!(fs::metadata(&state).unwrap().permissions().mode() & 0o777, 0o700);
    assert_eq!(fs::metadata(store.identity_dir()).unwrap().permissions().mode() & 0o777, 0o700);
    assert_eq!(store.active().unwrap(), None);
    assert_eq!(store.previous().unwrap(), None);
    assert_eq!(store.trust().unwrap(), None);
    assert!(matches!(store.roll_back(), Err(StoreError::NoPrevious)));
    assert!(store.free_bytes() > 0);
    assert!(store.recoveries().is_empty());
}

#[test]
fn a_directory_that_others_could_read_is_closed_to_them() {
    let dir = tempfile::tempdir().unwrap();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let _store = Store::open(dir.path()).unwrap();
    assert_eq!(fs::metadata(dir.path()).unwrap().permissions().mode() & 0o777, 0o700);
}

#[test]
fn a_second_opening_is_refused_until_the_first_ends() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let clone = store.clone();
    assert!(matches!(Store::open(dir.path()), Err(StoreError::Locked)));
    drop(store);
    assert!(matches!(Store::open(dir.path()), Err(StoreError::Locked)));
    drop(clone);
    assert!(Store::open(dir.path()).is_ok());
}

#[test]
fn small_files_are_written_privately_and_only_where_they_may_be() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    store.write_file(Path::new("identity/tls.key"), b"old").unwrap();
    store.write_file(Path::new("identity/tls.key"), b"key").unwrap();
    let path = store.identity_dir().join("tls.key");
    assert_eq!(fs::read(&path).unwrap(), b"key");
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    store.write_file(Path::new("notes/of/today"), b"note").unwrap();
    for name in ["", "../x", "/etc/x", "identity/../../x", "trust.0", "active", "objects/00/x", "lock", "logs/x"] {
        assert!(matches!(store.write_file(Path::new(name), b"x"), Err(StoreError::Name(_))), "{name}");
    }
}

#[test]
fn a_staged_release_is_active_only_once_it_was_activated() {
    let dir = tempfile::tempdir().unwrap();
    let store = installed(dir.path(), 1);
    let next = Made::number(2);
    next.fetch(&store).unwrap();
    next.stage(&store).unwrap();
    Made::number(1).assert_whole(&store);
    store.activate(next.generation).unwrap();
    next.assert_whole(&store);
    assert_eq!(store.previous().unwrap().map(|release| release.generation), Some(Generation(1)));
    drop(store);
    next.assert_whole(&Store::open(dir.path()).unwrap());
}

#[test]
fn a_release_without_all_its_objects_cannot_be_staged() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let made = Made::number(1);
    put(&store, &made.objects[0]).unwrap();
    assert!(matches!(made.stage(&store), Err(StoreError::Missing(_))));
    assert!(matches!(store.activate(made.generation), Err(StoreError::NotStaged(_))));
    assert_eq!(store.active().unwrap(), None);
}

#[test]
fn staging_again_is_harmless_but_another_content_of_a_used_generation_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let store = installed(dir.path(), 2);
    Made::number(2).stage(&store).unwrap();
    for number in [1, 2] {
        let mut other = Made::number(number);
        other.manifest.push(b'!');
        assert!(matches!(other.stage(&store), Err(StoreError::Conflict(_))));
    }
    // One that nobody uses may be replaced: it was never served.
    let mut third = Made::number(3);
    third.fetch(&store).unwrap();
    third.stage(&store).unwrap();
    third.manifest.push(b'!');
    third.stage(&store).unwrap();
    store.activate(third.generation).unwrap();
    third.assert_whole(&store);
}

#[test]
fn rolling_back_serves_the_previous_release_and_works_once() {
    let dir = tempfile::tempdir().unwrap();
    let store = installed(dir.path(), 3);
    assert_eq!(store.roll_back().unwrap(), Generation(2));
    Made::number(2).assert_whole(&store);
    assert!(matches!(store.roll_back(), Err(StoreError::NoPrevious)));
    drop(store);
    let store = Store::open(dir.path()).unwrap();
    Made::number(2).assert_whole(&store);
    Made::number(4).install(&store).unwrap();
    assert_eq!(store.roll_back().unwrap(), Generation(2));
}

#[test]
fn a_release_with_too_many_parts_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let mut made = Made::number(1);
    made.fetch(&store).unwrap();
    made.manifest = vec![0; 300 * 1024];
    assert!(matches!(made.stage(&store), Err(StoreError::TooLarge { what: "sealed manifest", .. })));
    made = Made::number(1);
    made.metadata.extend((0..100).map(|number| (format!("role{number}.json"), Vec::new())));
    assert!(matches!(made.stage(&store), Err(StoreError::TooLarge { .. })));
}

#[test]
fn trust_state_comes_back() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    (1..=3).for_each(|number| store.save_trust(&trust(number)).unwrap());
    assert_eq!(store.trust().unwrap(), Some(trust(3)));
    drop(store);
    assert_eq!(Store::open(dir.path()).unwrap().trust().unwrap(), Some(trust(3)));
}

#[test]
fn saving_the_same_trust_state_again_writes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    store.save_trust(&trust(1)).unwrap();
    let before = store.bytes_written();
    store.save_trust(&trust(1)).unwrap();
    assert_eq!(store.bytes_written(), before);
}

#[test]
fn collecting_keeps_the_active_and_the_previous_release() {
    let dir = tempfile::tempdir().unwrap();
    let store = installed(dir.path(), 4);
    put(&store, b"of no release").unwrap();
    assert!(store.collect(&[]).unwrap() > 6000);
    Made::number(4).assert_whole(&store);
    Made::number(3).assert_objects(&store);
    for gone in [1, 2] {
        assert!(store.inner.load_release(Generation(gone)).is_none());
        assert!(!store.has(&Digest::of(&Made::number(gone).objects[1]), Made::number(gone).objects[1].len() as u64));
    }
    assert!(!store.has(&Digest::of(b"of no release"), 13));
    assert_eq!(store.collect(&[]).unwrap(), 0);
    assert_eq!(store.roll_back().unwrap(), Generation(3));
    Made::number(3).assert_whole(&store);
}

#[test]
fn collecting_keeps_what_it_is_told_to_keep() {
    let dir = tempfile::tempdir().unwrap();
    let store = installed(dir.path(), 2);
    let (staged, other) = (Made::number(7), Made::number(8));
    for made in [&staged, &other] {
        made.fetch(&store).unwrap();
        made.stage(&store).unwrap();
    }
    let objects = staged.listed().into_iter().map(|(digest, _)| digest).collect();
    store.inner.collect(&HashSet::from([staged.generation]), &objects).unwrap();
    store.activate(staged.generation).unwrap();
    staged.assert_whole(&store);
    assert!(matches!(store.activate(other.generation), Err(StoreError::NotStaged(_))));
}

#[test]
fn a_failing_disk_at_any_step_of_an_update_leaves_the_old_release_or_the_new_one() {
    for step in 0.. {
        let dir = in_memory();
        drop(installed(dir.path(), 2));
        let faults = Faults::none();
        let store = Store::open_on(dir.path(), faults.disk()).unwrap();
        store.save_trust(&trust(1)).unwrap();
        faults.die_after(step);
        let next = Made::number(3);
        let saved = store.save_trust(&trust(2));
        let installed = saved.and_then(|()| next.install(&store)).and_then(|()| store.collect(&[]));
        let struck = faults.struck();
        // The running process first, then the next one.
        let before = store.active().unwrap().unwrap().generation;
        Made::number(before.0).assert_whole(&store);
        if installed.is_err() {
            faults.heal();
            next.install(&store).unwrap();
            next.assert_whole(&store);
            faults.die_after(0);
        }
        drop(store);
        let store = Store::open(dir.path()).unwrap();
        next.assert_whole(&store);
        assert!(store.recoveries().is_empty());
        assert_eq!(fs::read_dir(dir.path().join("tmp")).unwrap().count(), 0);
        if !struck {
            assert!(step > 30, "{step} steps");
            break;
        }
    }
}

#[test]
fn dying_at_any_step_of_an_update_leaves_a_store_that_opens() {
    for step in 0.. {
        let dir = in_memory();
        drop(installed(dir.path(), 2));
        let faults = Faults::none();
        let store = Store::open_on(dir.path(), faults.disk()).unwrap();
        store.save_trust(&trust(1)).unwrap();
        faults.die_after(step);
        let saved = store.save_trust(&trust(2)).is_ok();
        let activated = Made::number(3).install(&store).is_ok();
        let rolled_back = activated && store.roll_back().is_ok();
        let struck = faults.struck();
        drop(store);
        let store = Store::open(dir.path()).unwrap();
        let active = store.active().unwrap().unwrap().generation;
        Made::number(active.0).assert_whole(&store);
        let allowed: &[u64] = match (activated, rolled_back) {
            (false, _) | (true, false) => &[2, 3],
            (true, true) => &[2],
        };
        assert!(allowed.contains(&active.0), "step {step}: {active}");
        let floor = store.trust().unwrap().unwrap();
        assert!(floor == trust(2) || !saved && floor == trust(1), "step {step}");
        if !struck {
            break;
        }
    }
}

#[test]
fn a_second_trust_copy_that_cannot_be_written_is_mended_by_the_next_save() {
    let dir = tempfile::tempdir().unwrap();
    let faults = Faults::none();
    let store = Store::open_on(dir.path(), faults.disk()).unwrap();
    store.save_trust(&trust(1)).unwrap();
    faults.die_after(5);
    store.save_trust(&trust(2)).unwrap();
    assert!(faults.struck());
    faults.heal();
    store.save_trust(&trust(2)).unwrap();
    let copies = [0, 1].map(|copy| fs::read(dir.path().join(format!("trust.{copy}"))).unwrap());
    assert_eq!(copies[0], copies[1]);
}

#[test]
fn a_disk_that_takes_no_writes_is_no_reason_not_to_serve() {
    for damaged in [false, true] {
        let dir = tempfile::tempdir().unwrap();
        let store = installed(dir.path(), 2);
        store.save_trust(&trust(1)).unwrap();
        drop(store);
        fs::write(dir.path().join("tmp/5"), b"half").unwrap();
        if damaged {
            flip_middle(&dir.path().join("releases/2/manifest"));
        }
        let faults = Faults::none();
        faults.die_after(0);
        let store = Store::open_on(dir.path(), faults.disk()).unwrap();
        Made::number(if damaged { 1 } else { 2 }).assert_whole(&store);
        assert_eq!(store.trust().unwrap(), Some(trust(1)));
        assert_eq!(store.recoveries()[0].repair().code(), "not-writable");
        assert!(Made::number(3).install(&store).is_err());
        faults.heal();
        Made::number(3).install(&store).unwrap();
        Made::number(3).assert_whole(&store);
    }
}

#[test]
fn readers_updates_and_collections_do_not_disturb_each_other() {
    let dir = in_memory();
    let store = installed(dir.path(), 1);
    let done = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for number in 2..30 {
                Made::number(number).install(&store).unwrap();
                store.collect(&[]).unwrap();
            }
            done.store(true, Ordering::Relaxed);
        });
        for _ in 0..3 {
            scope.spawn(|| {
                let until_done = || !done.load(Ordering::Relaxed);
                for _ in (0..1_000_000).take_while(|_| until_done()) {
                    let active = store.active().unwrap().unwrap();
                    let made = Made::number(active.generation.0);
                    assert_eq!(active.sealed_manifest, made.manifest);
                    let read = store.read(&Digest::of(&made.objects[0]), 100).unwrap();
                    assert_eq!(read, made.objects[0]);
                }
            });
        }
    });
    Made::number(29).assert_whole(&store);
    assert!(store.recoveries().is_empty());
}

#[test]
fn opening_empties_what_a_power_cut_left_half_written() {
    let dir = tempfile::tempdir().unwrap();
    drop(installed(dir.path(), 2));
    fs::create_dir(dir.path().join("tmp/7")).unwrap();
    fs::write(dir.path().join("tmp/7/index"), b"half").unwrap();
    fs::write(dir.path().join("tmp/8"), b"half").unwrap();
    fs::write(dir.path().join("partial/no-digest"), b"junk").unwrap();
    let store = Store::open(dir.path()).unwrap();
    assert_eq!(fs::read_dir(dir.path().join("tmp")).unwrap().count(), 0);
    assert_eq!(fs::read_dir(dir.path().join("partial")).unwrap().count(), 0);
    Made::number(2).assert_whole(&store);
}

#[test]
fn journals_have_plain_names_and_one_owner() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let (mut leases, records) = store.journal("leases").unwrap();
    assert!(records.is_empty());
    leases.append(b"10.0.0.7").unwrap();
    assert!(matches!(store.journal("leases"), Err(StoreError::Locked)));
    for name in ["", "../x", "A", "a.b", &"a".repeat(33)] {
        assert!(matches!(store.journal(name), Err(StoreError::Name(_))), "{name}");
    }
    drop(leases);
    let path = dir.path().join("journal/leases.log");
    let mut bytes = fs::read(&path).unwrap();
    bytes.extend_from_slice(b"torn");
    fs::write(&path, bytes).unwrap();
    assert_eq!(store.journal("leases").unwrap().1, [b"10.0.0.7".to_vec()]);
    assert_eq!(store.recoveries(), [Recovery::JournalCut { name: "leases".to_owned(), bytes: 4 }]);
}

#[test]
fn deleting_the_cache_changes_no_release() {
    let dir = tempfile::tempdir().unwrap();
    let store = installed(dir.path(), 2);
    store.cache().put("devices", b"1", b"seen");
    store.cache().flush();
    drop(store);
    fs::remove_dir_all(dir.path().join("cache.sled")).unwrap();
    let store = Store::open(dir.path()).unwrap();
    Made::number(2).assert_whole(&store);
    assert_eq!(store.cache().get("devices", b"1"), None);
    assert_eq!(store.cache().resets(), 0);
}
