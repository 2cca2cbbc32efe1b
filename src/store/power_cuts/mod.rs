//! Power cuts, replayed: every change of the disk during an update is recorded, and after each of them the disk is
//! rebuilt as a power cut could have left it, with what was not synced dropped, torn or out of order. What opens then
//! must be the old or the new release, whole, with the rollback floor that was promised.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

mod model;
mod signed;

use std::cell::Cell;
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use super::fixtures::{Made, in_memory, installed, put};
use super::{Recovery, Store, TrustState};
use durable::Disk;
use ids::{Digest, Generation, UnixTime};
use model::{Chance, Cruelty, Model, Recorder, State, Step};

fn trust(number: i64) -> TrustState {
    // Longer than a few sectors, so that it can be torn.
    let metadata = BTreeMap::from([("root.json".to_owned(), vec![u8::try_from(number).unwrap(); 2000])]);
    TrustState { metadata, time_floor: Some(UnixTime(number)), ..TrustState::default() }
}

/// Releases 1 and 2 are there.
const INSTALLED: State = State { active: 2, trust: 1, journal: 0 };

/// How many ways each cut may go.
const SEEDS: u64 = 5;

/// Runs `act` on a store with the releases up to the active one, tries power cuts after each of its steps, and checks
/// what they leave. Returns how many there were.
fn replay(allowed: State, act: impl Fn(&Store, &dyn Fn(Step)), check: impl Fn(&Path, &[State], &str)) -> usize {
    let prepare = |root: &Path| {
        if allowed.active == 0 {
            fs::create_dir(root).unwrap();
        } else {
            installed(root, allowed.active).save_trust(&trust(allowed.trust)).unwrap();
        }
    };
    replay_from(prepare, SEEDS, allowed, act, check)
}

/// [`replay`] on a disk that `prepare` makes, each cut going `seeds` ways.
fn replay_from(
    prepare: impl Fn(&Path),
    seeds: u64,
    allowed: State,
    act: impl Fn(&Store, &dyn Fn(Step)),
    check: impl Fn(&Path, &[State], &str),
) -> usize {
    let dir = in_memory();
    let root = dir.path().join("state");
    prepare(&root);
    let before = Cruelty::BOTH.map(|cruelty| Model::load(&root, cruelty));

    let recorder = Recorder::of(&root);
    let store = Store::open_on(&root, Disk::hooked(recorder.clone())).unwrap();
    act(&store, &|step| recorder.say(step));
    drop(store);

    let mut cuts = 0;
    for mut model in before {
        let mut allowed = vec![allowed];
        for (cut, step) in recorder.steps().iter().enumerate() {
            model.run(step);
            match step {
                Step::Begins(state) => allowed.push(*state),
                Step::Promised(state) => allowed = vec![*state],
                _ => {
                    for seed in 0..seeds {
                        let left = in_memory();
                        model.clone().cut(&mut Chance::new(seed, cut)).write_under(left.path());
                        let name = format!("{:?}, cut {cut} after {step:.80?}, seed {seed}", model.cruelty);
                        check(left.path(), &allowed, &name);
                        cuts += 1;
                    }
                }
            }
        }
    }
    cuts
}

/// What opens after a cut is one of the allowed states, whole, and can go on to release 5.
fn check(root: &Path, allowed: &[State], name: &str) {
    let store = Store::open(root).unwrap_or_else(|error| panic!("{name}: {error}"));
    let active = store.active().unwrap().unwrap_or_else(|| panic!("{name}: no release")).generation.0;
    Made::number(active).assert_whole(&store);
    if let Some(previous) = store.previous().unwrap() {
        Made::number(previous.generation.0).assert_objects(&store);
    }
    let floor = store.trust().unwrap().unwrap();
    let (journal, records) = store.journal("leases").unwrap();
    let fits =
        |state: &State| active == state.active && floor == trust(state.trust) && records == record_list(state.journal);
    assert!(allowed.iter().any(fits), "{name}: release {active}, trust {floor:?}, {} records", records.len());
    let needless = |recovery: &Recovery| !matches!(recovery, Recovery::JournalCut { .. });
    assert!(!store.recoveries().iter().any(needless), "{name}: {:?}", store.recoveries());

    let next = Made::number(5);
    next.install(&store).unwrap_or_else(|error| panic!("{name}: {error}"));
    store.collect(&[]).unwrap();
    next.assert_whole(&store);
    drop(journal);
    drop(store);
    next.assert_whole(&Store::open(root).unwrap());
}

/// The campaign: two updates of a site whose releases are really signed and sealed, from the poll's first byte to the
/// deletion of old objects. `LINESIDE_POWER_CUT_SEEDS` sets how many ways each cut goes, 10 without it.
#[test]
fn after_a_power_cut_at_any_step_of_an_update_a_verified_release_is_served_and_nothing_older_is_accepted() {
    let seeds = std::env::var("LINESIDE_POWER_CUT_SEEDS").ok().and_then(|seeds| seeds.parse().ok()).unwrap_or(10);
    let prepare = |root: &Path| {
        let store = Store::open(root).unwrap();
        (1..=2).for_each(|number| signed::publish(number).install(&store));
    };
    let published: Vec<_> = (1..=4).map(signed::publish).collect();
    let act = |store: &Store, say: &dyn Fn(Step)| {
        let mut state = State { active: 2, trust: 2, journal: 0 };
        for (number, next) in (3..).zip(&published[2..]) {
            let trusted = next.refresh(signed::trusted(store)).unwrap();
            state.trust = number;
            say(Step::Begins(state));
            signed::save(store, &trusted);
            say(Step::Promised(state));
            let opened = next.fetch(store, &trusted);
            store.stage(&opened, &trusted.files()).unwrap();
            state.active = number.unsigned_abs();
            say(Step::Begins(state));
            store.activate(opened.generation()).unwrap();
            say(Step::Promised(state));
            store.collect(&[&opened]).unwrap();
        }
    };
    let served = Cell::new([0; 5]);
    let check = |root: &Path, allowed: &[State], name: &str| {
        let store = Store::open(root).unwrap_or_else(|error| panic!("{name}: the store does not open: {error}"));
        let active = store.active().unwrap().unwrap_or_else(|| panic!("{name}: no release"));
        signed::assert_served(&store, &active, name);
        let trusted = signed::trusted(&store);
        let floor = trusted.targets().unwrap().version;
        let fits = |state: &State| state.active == active.generation.0 && state.trust.unsigned_abs() == floor;
        assert!(allowed.iter().any(fits), "{name}: release {}, floor {floor}", active.generation);
        let below = usize::try_from(floor).unwrap() - 1;
        signed::assert_no_way_back(&trusted, &published[..below], name);
        let mut so_far = served.get();
        so_far[usize::try_from(active.generation.0).unwrap()] += 1;
        served.set(so_far);
        // And the update can be made after all; tried after one cut in ten, as it is what takes the time.
        if so_far.iter().sum::<usize>() % 10 == 0 {
            published[3].install(&store);
            signed::assert_served(&store, &store.active().unwrap().unwrap(), name);
        }
    };
    let cuts = replay_from(prepare, seeds, State { active: 2, trust: 2, journal: 0 }, act, check);
    let [_, _, second, third, fourth] = served.get();
    println!("{cuts} power cuts: release 2 is served after {second}, 3 after {third}, 4 after {fourth}; 0 bad");
    assert!(cuts >= 2_000 && second > 500 && third > 500 && fourth > 50, "{cuts} cuts: {:?}", served.get());
}

fn record_list(count: u8) -> Vec<Vec<u8>> {
    (0..count).map(|number| vec![number; 700]).collect()
}

#[test]
fn a_power_cut_during_an_update_leaves_the_old_release_or_the_new_one_and_its_floor() {
    let act = |store: &Store, say: &dyn Fn(Step)| {
        let mut state = State { active: 2, trust: 1, journal: 0 };
        state.trust = 2;
        say(Step::Begins(state));
        store.save_trust(&trust(2)).unwrap();
        say(Step::Promised(state));
        let next = Made::number(3);
        next.fetch(store).unwrap();
        next.stage(store).unwrap();
        state.active = 3;
        say(Step::Begins(state));
        store.activate(next.generation).unwrap();
        say(Step::Promised(state));
        store.collect(&[]).unwrap();
        state.trust = 3;
        say(Step::Begins(state));
        store.save_trust(&trust(3)).unwrap();
        say(Step::Promised(state));
    };
    let cuts = replay(INSTALLED, act, check);
    assert!(cuts > 500, "{cuts}");
}

#[test]
fn a_power_cut_during_a_roll_back_leaves_one_of_the_two_releases() {
    let act = |store: &Store, say: &dyn Fn(Step)| {
        let mut state = State { active: 1, trust: 1, journal: 0 };
        say(Step::Begins(state));
        assert_eq!(store.roll_back().unwrap(), Generation(1));
        say(Step::Promised(state));
        store.collect(&[]).unwrap();
        let again = Made::number(4);
        again.fetch(store).unwrap();
        again.stage(store).unwrap();
        state.active = 4;
        say(Step::Begins(state));
        store.activate(again.generation).unwrap();
        say(Step::Promised(state));
    };
    let cuts = replay(INSTALLED, act, check);
    assert!(cuts > 300, "{cuts}");
}

#[test]
fn a_power_cut_loses_no_record_that_a_journal_took() {
    let act = |store: &Store, say: &dyn Fn(Step)| {
        let (mut journal, _) = store.journal("leases").unwrap();
        let mut state = State { active: 2, trust: 1, journal: 0 };
        for number in 0..6u8 {
            state.journal = number + 1;
            say(Step::Begins(state));
            journal.append(&[number; 700]).unwrap();
            say(Step::Promised(state));
        }
        state.journal = 3;
        say(Step::Begins(state));
        journal.rewrite(&record_list(3)).unwrap();
        say(Step::Promised(state));
        state.journal = 4;
        say(Step::Begins(state));
        journal.append(&[3; 700]).unwrap();
        say(Step::Promised(state));
    };
    let cuts = replay(INSTALLED, act, check);
    assert!(cuts > 200, "{cuts}");
}

#[test]
fn a_power_cut_while_a_damaged_object_is_fetched_again_leaves_it_whole_or_missing() {
    let made = Made::number(2);
    let (lost, digest) = (&made.objects[2], Digest::of(&made.objects[2]));
    let fetched = State { active: 2, trust: 1, journal: 0 };
    let act = |store: &Store, say: &dyn Fn(Step)| {
        say(Step::Begins(State { journal: 1, ..fetched }));
        store.quarantine(&digest);
        put(store, lost).unwrap();
        say(Step::Promised(fetched));
        // Something else that a cut can interrupt.
        store.save_trust(&trust(2)).unwrap();
    };
    let cuts = replay(INSTALLED, act, |root, allowed, name| {
        let store = Store::open(root).unwrap();
        let here = store.has(&digest, lost.len() as u64);
        assert!(here || allowed.len() > 1, "{name}");
        if here {
            assert_eq!(&store.read(&digest, 1 << 20).unwrap(), lost, "{name}");
        }
    });
    assert!(cuts > 50, "{cuts}");
}

#[test]
fn a_power_cut_during_the_first_start_leaves_a_store_that_starts() {
    let nothing = State { active: 0, trust: 0, journal: 0 };
    let act = |store: &Store, say: &dyn Fn(Step)| {
        let mut state = State { trust: 1, ..nothing };
        say(Step::Begins(state));
        store.save_trust(&trust(1)).unwrap();
        say(Step::Promised(state));
        store.write_file(Path::new("identity/tls.key"), b"key").unwrap();
        let first = Made::number(1);
        first.fetch(store).unwrap();
        first.stage(store).unwrap();
        state.active = 1;
        say(Step::Begins(state));
        store.activate(first.generation).unwrap();
        say(Step::Promised(state));
    };
    let cuts = replay(nothing, act, |root, allowed, name| {
        let store = Store::open(root).unwrap_or_else(|error| panic!("{name}: {error}"));
        let active = store.active().unwrap().map_or(0, |release| release.generation.0);
        let floor = store.trust().unwrap();
        let fits = |state: &State| {
            active == state.active && floor == Some(state.trust).filter(|number| *number > 0).map(trust)
        };
        assert!(allowed.iter().any(fits), "{name}: release {active}");
        let key = fs::read(store.identity_dir().join("tls.key")).ok();
        assert!(key.is_none_or(|key| key == b"key"), "{name}");
        // What was resumed may turn out to be spoiled; it is deleted, and the second attempt starts over.
        let first = Made::number(1);
        let attempts = (0..=first.objects.len()).any(|_| first.install(&store).is_ok());
        assert!(attempts, "{name}");
        first.assert_whole(&store);
    });
    assert!(cuts > 300, "{cuts}");
}
