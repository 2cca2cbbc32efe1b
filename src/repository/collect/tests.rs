#![allow(clippy::unwrap_used, clippy::indexing_slicing)]
use std::fs::File;

use super::*;
use crate::ledger::KeptRelease;
use ids::Generation;

const NOW: UnixTime = UnixTime(1_795_132_800);
const DAY: Duration = Duration::from_secs(86_400);

/// A tree written by hand: a site with two releases.
struct Tree {
    layout: Layout,
    ledger: Ledger,
    site: SiteId,
    _dir: tempfile::TempDir,
}

fn tree() -> Tree {
    let dir = tempfile::tempdir().unwrap();
    let mut tree =
        Tree { layout: Layout::new(dir.path()), ledger: Ledger::default(), site: "s-1".parse().unwrap(), _dir: dir };
    for (generation, objects) in [(1, ["shared", "old"]), (2, ["shared", "new"])] {
        let objects = objects.iter().map(|object| tree.object(object)).collect();
        let release = KeptRelease { generation: Generation(generation), until: None, objects };
        tree.ledger.note(&tree.site, None, release, NOW, NOW);
        for name in ["targets", "snapshot"] {
            tree.metadata(&format!("{generation}.{name}.json"));
        }
    }
    for name in ["1.root.json", "2.root.json", "1.firmware.json", "timestamp.json"] {
        tree.metadata(name);
    }
    tree
}

impl Tree {
    fn object(&self, content: &str) -> Digest {
        let digest = Digest::of(content.as_bytes());
        write(&self.layout.object(&digest), 100 * DAY);
        digest
    }

    fn metadata(&self, name: &str) {
        write(&self.layout.site_metadata(&self.site).join(name), 100 * DAY);
    }

    fn has(&self, content: &str) -> bool {
        self.layout.object(&Digest::of(content.as_bytes())).exists()
    }

    fn collect(&mut self, present: bool, now: UnixTime) -> Collected {
        let site = self.site.clone();
        let present = if present { HashSet::from([&site]) } else { HashSet::new() };
        collect(&self.layout, &mut self.ledger, &present, (now, SystemTime::now())).unwrap()
    }

    fn names(&self) -> Vec<String> {
        let mut names: Vec<String> =
            files(&self.layout.site_metadata(&self.site)).unwrap().into_iter().map(|file| file.name).collect();
        names.sort();
        names
    }
}

/// Writes a file that is so old.
fn write(path: &Path, age: Duration) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    let file = File::create(path).unwrap();
    file.set_modified(SystemTime::now() - age).unwrap();
}

#[test]
fn a_replaced_release_stays_a_month_and_then_goes() {
    let mut tree = tree();
    assert!(tree.collect(true, NOW.plus(29 * DAY)).bytes == 0 && tree.has("old"));
    tree.collect(true, NOW.plus(31 * DAY));
    assert!(!tree.has("old") && tree.has("shared") && tree.has("new"));
    let left = ["1.firmware.json", "1.root.json", "2.root.json", "2.snapshot.json", "2.targets.json", "timestamp.json"];
    assert_eq!(tree.names(), left);
}

#[test]
fn metadata_whose_successor_is_new_stays() {
    let mut tree = tree();
    write(&tree.layout.site_metadata(&tree.site).join("2.targets.json"), DAY);
    tree.collect(true, NOW.plus(31 * DAY));
    assert!(tree.names().contains(&"1.targets.json".to_owned()));
    assert!(!tree.names().contains(&"1.snapshot.json".to_owned()));
}

#[test]
fn a_new_object_that_nothing_names_yet_stays() {
    let mut tree = tree();
    let digest = Digest::of(b"just written");
    write(&tree.layout.object(&digest), DAY);
    tree.object("left behind by a crash");
    tree.collect(true, NOW);
    assert!(tree.has("just written") && !tree.has("left behind by a crash"));
}

#[test]
fn while_one_sites_objects_are_unknown_none_is_deleted() {
    let mut tree = tree();
    write(&tree.layout.site_metadata(&"s-2".parse().unwrap()).join("timestamp.json"), DAY);
    tree.collect(true, NOW.plus(31 * DAY));
    assert!(tree.has("old"));
}

#[test]
fn a_site_that_left_goes_after_a_month_and_comes_back_unharmed_before() {
    let mut tree = tree();
    tree.collect(false, NOW);
    tree.collect(false, NOW.plus(29 * DAY));
    assert!(tree.names().contains(&"timestamp.json".to_owned()));
    tree.collect(true, NOW.plus(30 * DAY));
    tree.collect(false, NOW.plus(31 * DAY));
    assert_eq!(tree.collect(false, NOW.plus(60 * DAY)).sites, 0, "the month begins anew");
    assert_eq!(tree.collect(false, NOW.plus(62 * DAY)).sites, 1);
    assert!(tree.names().is_empty() && tree.ledger.sites.is_empty());
    assert!(!tree.has("shared") && !tree.has("new"));
}

#[test]
fn it_is_looked_for_once_a_day() {
    let mut tree = tree();
    tree.collect(true, NOW.plus(29 * DAY));
    tree.object("left behind by a crash");
    tree.collect(true, NOW.plus(29 * DAY + DAY / 2));
    assert!(tree.has("left behind by a crash"));
    tree.collect(true, NOW.plus(30 * DAY));
    assert!(!tree.has("left behind by a crash"));
}
