//! Taking 100 MB over: fetch, verify, open, store and check, against minisign, age and tar with the same bytes.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use lineside::store::Store;
use lineside::update::{SiteIdentity, load_active, self_check};

use crate::Table;
use crate::world::{Hq, Site, done, has};

/// The word that makes this program do the appliance's work without a network.
pub const CHILD: &str = "verify-and-store";

pub fn take_over(hq: &Hq, site: &mut Site, dir: &Path, csv: &str, images: &[&str], table: &mut Table) {
    let (cpu, at) = (site.cpu(), Instant::now());
    let resting = site.memory();
    site.poll();
    site.serves(1);
    let (wall, cpu, memory) = (at.elapsed(), site.cpu() - cpu, site.memory());
    hq.proxy.settled();
    table.row("peak memory of the appliance while it took the release over", mb(memory.peak), "MB", Some(12.0));
    table.row("  of which its own, without what is mapped of its program", mb(memory.own), "MB", None);
    table.row("  peak before that, idle", mb(resting.peak), "MB", None);
    table.row("  of which its own", mb(resting.own), "MB", None);
    table.row("fetch over TLS from HQ beside it, verify, store, open, check: time", wall.as_secs_f64(), "s", None);
    table.row("  processor time of it", cpu.as_secs_f64(), "s", None);

    let Some(peer) = Peer::prepare(dir, csv, &hq.fleet.join("firmware/bench"), images) else { return };
    site.stop();
    // In turn, so that a noisy moment hits both; the best of each.
    let rounds: Vec<(Times, Times)> = (0..5).map(|_| (ours(hq, site, dir), peer.run())).collect();
    site.start();
    let (ours, theirs) = (best(rounds.iter().map(|round| round.0)), best(rounds.iter().map(|round| round.1)));
    table.row("verify, store, open, check, sync, from files: time", ours.wall, "s", Some(theirs.wall));
    table.row("  processor time of it", ours.cpu, "s", Some(theirs.cpu));
    table.row("  peak memory of it", ours.peak, "MB", Some(12.0));
    table.row("  minisign -V, then age -d | tar x, then sync: time", theirs.wall, "s", None);
    table.row("  processor time of it", theirs.cpu, "s", None);
}

/// What a run took, in seconds and MB.
#[derive(Debug, Clone, Copy)]
struct Times {
    wall: f64,
    cpu: f64,
    peak: f64,
}

fn best(runs: impl Iterator<Item = Times> + Clone) -> Times {
    let least = |of: fn(Times) -> f64| runs.clone().map(of).fold(f64::INFINITY, f64::min);
    Times { wall: least(|run| run.wall), cpu: least(|run| run.cpu), peak: least(|run| run.peak) }
}

/// The appliance's work in a process of its own: what is at HQ into an empty store.
fn ours(hq: &Hq, site: &Site, dir: &Path) -> Times {
    let new = dir.join("new-state");
    let _ = fs::remove_dir_all(&new);
    let program = std::env::current_exe().unwrap();
    let public = hq.fleet.join("online/public/objects");
    let told = done(Command::new(program).arg(CHILD).arg(site.state()).arg(&new).arg(public));
    let numbers: Vec<f64> = told.split_whitespace().map(|number| number.parse().unwrap()).collect();
    Times { wall: numbers[0], cpu: numbers[1], peak: numbers[2] }
}

/// Takes the release of the state `old` over into `new`, objects coming from files as they would from the network.
/// Prints seconds, seconds of processor time and megabytes.
pub fn child(old: &Path, new: &Path, objects: &Path) {
    let old = Store::open(old).unwrap();
    let identity = SiteIdentity::load(&old).unwrap().unwrap();
    let metadata = old.active().unwrap().unwrap().metadata;
    let cpu = crate::world::cpu(std::process::id());
    let at = Instant::now();
    // Signatures, the sealed manifest, shards: verified and opened.
    let opened = load_active(&old, &identity).unwrap().unwrap();
    let store = Store::open(new).unwrap();
    let next = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while let Some(object) = opened.objects().get(next.fetch_add(1, Ordering::Relaxed)) {
                    take(&store, objects, object);
                }
            });
        }
    });
    // As the updater does it: the check while the disk takes what was written.
    std::thread::scope(|scope| {
        scope.spawn(|| store.stage(&opened, &metadata).unwrap());
        self_check::run(&store, opened.catalog(), &self_check::CheckedContents::new()).unwrap();
    });
    store.activate(opened.generation()).unwrap();
    let wall = at.elapsed().as_secs_f64();
    let cpu = (crate::world::cpu(std::process::id()) - cpu).as_secs_f64();
    println!("{wall} {cpu} {}", mb(crate::world::memory(std::process::id()).peak));
}

fn take(store: &Store, objects: &Path, object: &lineside::bundle::ObjectRef) {
    use std::io::Read as _;
    let name = object.digest.to_string();
    let mut file = fs::File::open(objects.join(&name[..2]).join(&name)).unwrap();
    let mut download = store.download(&object.digest, object.bytes).unwrap();
    let mut buffer = vec![0; 64 * 1024];
    loop {
        match file.read(&mut buffer).unwrap() {
            0 => break,
            bytes => download.write(&buffer[..bytes]).unwrap(),
        }
    }
    download.finish().unwrap();
}

fn mb(bytes: u64) -> f64 {
    bytes as f64 / 1e6
}

/// One signed and encrypted archive with the same files.
struct Peer<'a> {
    dir: &'a Path,
}

impl<'a> Peer<'a> {
    fn prepare(dir: &'a Path, csv: &str, firmware: &Path, images: &[&str]) -> Option<Self> {
        if !["minisign", "age", "age-keygen", "tar"].into_iter().all(has) {
            println!("minisign and age are not installed: nothing to compare with");
            return None;
        }
        let files = dir.join("peer-files");
        crate::peers::write_files(&files, csv, &images.iter().map(|image| firmware.join(image)).collect::<Vec<_>>());
        let peer = Self { dir };
        peer.sh("minisign -G -W -p m.pub -s m.key -f >/dev/null && age-keygen -o age.key 2>/dev/null");
        peer.sh("tar c -C peer-files . | age -r $(age-keygen -y age.key) -o all.age");
        peer.sh("minisign -S -s m.key -m all.age >/dev/null && sync -f .");
        Some(peer)
    }

    fn sh(&self, script: &str) {
        done(Command::new("bash").args(["-ec", script]).current_dir(self.dir));
    }

    fn run(&self) -> Times {
        let out = self.dir.join("peer-out");
        let _ = fs::remove_dir_all(&out);
        fs::create_dir(&out).unwrap();
        let at = Instant::now();
        let script = "TIMEFORMAT='%U %S'; time (minisign -V -q -p m.pub -m all.age && \
                      age -d -i age.key all.age | tar x -C peer-out && sync -f peer-out)";
        let output = Command::new("bash").args(["-ec", script]).current_dir(self.dir).output().unwrap();
        let wall: Duration = at.elapsed();
        assert!(output.status.success(), "{output:?}");
        let times = String::from_utf8(output.stderr).unwrap();
        let cpu: f64 = times.split_whitespace().map(|seconds| seconds.parse::<f64>().unwrap()).sum();
        Times { wall: wall.as_secs_f64(), cpu, peak: 0.0 }
    }
}
