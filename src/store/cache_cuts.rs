//! The database of what may be lost, under power cuts and `kill -9`.
//!
//! sled's writes do not go through `durable`, so they cannot be recorded one by one. Instead the directory is copied
//! after every step. What changed since the last flush that the guard made durable may be on disk or not: any subset
//! of the changed sectors of 512 bytes, new files torn or absent, removed ones still there.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};

use super::StateCache;
use super::fixtures::in_memory;

const SECTOR: usize = 512;

/// Every file below a directory, with its bytes.
type Disk = BTreeMap<String, Vec<u8>>;

fn copy_of(dir: &Path) -> Disk {
    let mut disk = Disk::new();
    let mut below = vec![dir.join("cache.sled")];
    while let Some(path) = below.pop() {
        if path.is_dir() {
            below.extend(fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path()));
        } else {
            disk.insert(path.strip_prefix(dir).unwrap().to_str().unwrap().to_owned(), fs::read(path).unwrap());
        }
    }
    disk
}

fn write_under(disk: &Disk, dir: &Path) {
    for (name, bytes) in disk {
        let path = dir.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }
}

/// Reproducible chance (xorshift64).
struct Chance(u64);

impl Chance {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 >> 33).unwrap() % bound.max(1)
    }

    fn coin(&mut self) -> bool {
        self.below(2) == 1
    }
}

/// What a power cut leaves: all of `durable`, and what chance has of the way from there to `live`.
fn cut(durable: &Disk, live: &Disk, chance: &mut Chance) -> Disk {
    let names: BTreeSet<&String> = durable.keys().chain(live.keys()).collect();
    let mut left = Disk::new();
    for name in names {
        let bytes = match (durable.get(name), live.get(name)) {
            (Some(old), None) => chance.coin().then(|| old.clone()),
            (None, Some(new)) => chance.coin().then(|| torn(&[], new, chance)),
            (Some(old), Some(new)) => Some(torn(old, new, chance)),
            (None, None) => None,
        };
        left.extend(bytes.map(|bytes| (name.clone(), bytes)));
    }
    left
}

/// Sectors of the old or of the new content, in the old or the new length; zeros where there was no old one.
fn torn(old: &[u8], new: &[u8], chance: &mut Chance) -> Vec<u8> {
    let length = if chance.coin() { new.len() } else { old.len() };
    let mut bytes = old.to_vec();
    bytes.resize(length, 0);
    for (index, sector) in new.chunks(SECTOR).enumerate() {
        let start = index * SECTOR;
        if chance.coin() && start < length {
            let end = (start + sector.len()).min(length);
            bytes[start..end].copy_from_slice(&sector[..end - start]);
        }
    }
    bytes
}

#[derive(Debug, Default)]
struct Tally {
    cuts: u32,
    /// Nothing that was flushed is lost.
    kept: u32,
    /// Opened empty, moved the damage aside, and counted it.
    emptied: u32,
    /// Opened, and something flushed is gone.
    lost: u32,
}

impl Tally {
    /// Whatever is left, it opens, says whether it started anew, and works.
    fn take(&mut self, disk: &Disk, flushed: u32, name: &str) {
        let dir = in_memory();
        write_under(disk, dir.path());
        let cache = StateCache::open(dir.path());
        let missing = (0..flushed).find(|number| cache.get("numbers", &number.to_be_bytes()) != Some(value(*number)));
        let whole = missing.is_none();
        if !whole && cache.resets() == 0 {
            eprintln!(
                "{name}: {missing:?} is lost; {:?}",
                disk.iter().map(|(name, bytes)| (name, bytes.len())).collect::<Vec<_>>()
            );
        }
        self.cuts += 1;
        match (whole, cache.resets()) {
            (true, 0) => self.kept += 1,
            (false, 0) => self.lost += 1,
            _ => self.emptied += 1,
        }
        cache.put("after", b"cut", b"works");
        cache.flush();
        drop(cache);
        let cache = StateCache::open(dir.path());
        assert_eq!(cache.get("after", b"cut").as_deref(), Some(b"works".as_slice()), "{name}");
        assert_eq!(cache.resets(), 0, "{name}: what was just flushed does not open");
    }
}

fn value(number: u32) -> Vec<u8> {
    number.to_be_bytes().repeat(100 + usize::try_from(number % 7).unwrap() * 50)
}

/// `LINESIDE_SLED_CUTS` sets how many cuts there are about, 240 without it.
#[test]
fn after_a_power_cut_the_database_opens_and_has_what_was_flushed() {
    let wanted: u64 = std::env::var("LINESIDE_SLED_CUTS").ok().and_then(|cuts| cuts.parse().ok()).unwrap_or(240);
    let dir = in_memory();
    let (mut tally, mut durable, mut flushed) = (Tally::default(), Disk::new(), 0);
    const RUNS: u32 = 6;
    const FLUSHES: u32 = 10;
    let ways = wanted / u64::from(RUNS * (2 * FLUSHES + 1)) + 1;
    let mut try_cuts = |durable: &Disk, live: &Disk, flushed: u32, step: &str| {
        for seed in 0..ways {
            let name = format!("{step}, {flushed} flushed, seed {seed}");
            let mut chance = Chance((seed + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ u64::from(flushed + 1) << 20);
            tally.take(&cut(durable, live, &mut chance), flushed, &name);
        }
    };
    silence_sled();
    for _ in 0..RUNS {
        let cache = StateCache::open(dir.path());
        // The guard syncs after opening; what it found there was on disk before.
        try_cuts(&durable, &copy_of(dir.path()), flushed, "opened");
        for _ in 0..FLUSHES {
            cache.put("numbers", &flushed.to_be_bytes(), &value(flushed));
            try_cuts(&durable, &copy_of(dir.path()), flushed, "put");
            cache.flush();
            let live = copy_of(dir.path());
            try_cuts(&durable, &live, flushed, "flushing");
            (durable, flushed) = (live, flushed + 1);
        }
        drop(cache);
    }
    println!("{tally:?}");
    assert!(u64::from(tally.cuts) >= wanted && tally.lost == 0, "{tally:?}");
}

/// sled's own panics are caught and expected here, and not worth a page each; others are shown as ever.
fn silence_sled() {
    let shown = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        if !panic.location().is_some_and(|location| location.file().contains("/sled-")) {
            shown(panic);
        }
    }));
}

const CHILD: &str = "LINESIDE_SLED_CHILD";

/// Not a test: the process that is killed. Counts up, saying each number that is flushed.
#[test]
#[ignore = "started by the test below it"]
fn a_process_that_writes_until_it_is_killed() {
    let Some(dir) = std::env::var_os(CHILD) else { return };
    loop {
        let cache = StateCache::open(Path::new(&dir));
        let first = u32::try_from(cache.count("numbers")).unwrap();
        println!("resets {}", cache.resets());
        for number in first..first + 5 {
            cache.put("numbers", &number.to_be_bytes(), &value(number));
            cache.flush();
            println!("flushed {number}");
        }
    }
}

/// `LINESIDE_SLED_KILLS` sets how often, 10 without it.
#[test]
fn kill_9_at_any_moment_loses_nothing_that_was_flushed() {
    let kills: u32 = std::env::var("LINESIDE_SLED_KILLS").ok().and_then(|kills| kills.parse().ok()).unwrap_or(10);
    let dir = in_memory();
    let (mut flushed, mut chance) = (0u32, Chance(0x5eed));
    for kill in 0..kills {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "cache_cuts::a_process_that_writes_until_it_is_killed", "--ignored", "--nocapture"])
            .env(CHILD, dir.path())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        // It dies some lines later, in the middle of something.
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut left = 2 + chance.below(12);
        for line in lines.map_while(Result::ok) {
            if let Some(number) = line.strip_prefix("flushed ") {
                flushed = flushed.max(number.parse::<u32>().unwrap() + 1);
            }
            assert!(!line.starts_with("resets ") || line == "resets 0", "kill {kill}: {line}");
            left = left.saturating_sub(1);
            if left == 0 {
                std::thread::sleep(std::time::Duration::from_micros(chance.below(3_000) as u64));
                let _ = child.kill();
            }
        }
        child.wait().unwrap();
    }
    let cache = StateCache::open(dir.path());
    let whole = (0..flushed).all(|number| cache.get("numbers", &number.to_be_bytes()) == Some(value(number)));
    println!("{kills} kills, {flushed} flushed, {} resets", cache.resets());
    assert!(whole && cache.resets() == 0 && flushed >= kills, "{flushed} flushed, {} resets", cache.resets());
}
