//! One byte of one published file is wrong.

use std::fs;
use std::path::{Path, PathBuf};

use lineside::store::Store;

use crate::fleet::{Clock, Fleet, content, serving, updater};

/// How many bytes of each file are tried: the first, the last and some between. `LINESIDE_FLIPS` asks for more.
fn positions(length: usize) -> Vec<usize> {
    let more = std::env::var("LINESIDE_FLIPS").ok().and_then(|number| number.parse().ok()).unwrap_or(3);
    // Always the same ones, spread over the file.
    let mut all: Vec<usize> = (0..more).map(|step| step * (length - 1) / (more - 1).max(1)).collect();
    all.dedup();
    all
}

fn copy_tree(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let copy = to.join(path.file_name().unwrap());
        if path.is_dir() {
            copy_tree(&path, &copy);
        } else {
            fs::copy(&path, copy).unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_byte_anywhere_in_the_published_tree_is_refused_and_the_old_release_goes_on() {
    let mut fleet = Fleet::new().await;
    let mut site = fleet.site("sample-office").await;
    fleet.publish();
    site.takes(1).await;
    let (first, before) = (fleet.published(), site.content());
    fleet.edit("second");
    // Several chunks.
    let tone: Vec<u8> = (0..150_000u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    fs::write(fleet.layout.files().join("tone.wav"), &tone).unwrap();
    fleet.publish();
    let second = fleet.published();
    let state = site.state.clone();
    drop((site.updater, site.store));

    let (mut refused, mut harmless) = (0, 0);
    for (name, good) in &second {
        // What the site needs for the second release and has not got.
        let fresh = first.get(name) != Some(good);
        for position in positions(good.len()) {
            let mut bad = good.clone();
            bad[position] ^= 1 << (position % 8);
            let path = fleet.layout.public().join(name);
            fs::write(&path, bad).unwrap();
            let copy = tempfile::tempdir().unwrap();
            copy_tree(&state, copy.path());
            let store = Store::open(copy.path()).unwrap();
            let outcome = updater(&store, &site.identity, &Clock::new()).poll_once().await;
            let place = format!("{} at {position}: {} {}", name.display(), outcome.state, outcome.reason);
            if fresh {
                assert!(outcome.activated.is_none() && outcome.state.code() != "ok", "{place}");
                assert_eq!(serving(&store, &site.identity), 1, "{place}");
                assert!(content(&store, &site.identity) == before, "{place}");
                refused += 1;
            } else {
                // The site does not ask for it, so it cannot be hurt by it.
                assert_eq!((outcome.state.code(), serving(&store, &site.identity)), ("ok", 2), "{place}");
                harmless += 1;
            }
            fs::write(&path, good).unwrap();
        }
    }
    let fresh: Vec<&PathBuf> = second.keys().filter(|name| first.get(*name) != second.get(*name)).collect();
    // timestamp, snapshot, targets, manifest, a shard and two files.
    assert!(fresh.len() >= 7 && refused >= 3 * fresh.len() - 3, "{fresh:?}: {refused}");
    assert!(harmless > 0);
    // Undamaged, it is taken.
    let store = Store::open(&state).unwrap();
    assert_eq!(updater(&store, &site.identity, &Clock::new()).poll_once().await.state.code(), "ok");
    assert!(content(&store, &site.identity).values().any(|bytes| *bytes == tone));
    fleet.stop().await;
}
