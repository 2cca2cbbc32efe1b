//! Taking 100 MB over: fetch, verify, open, store and check, against minisign, age and tar with the same bytes.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::Table;
use crate::world::{Hq, Site, done, has};

pub fn take_over(hq: &Hq, site: &Site, dir: &Path, csv: &str, images: &[&str], table: &mut Table) {
    let (cpu, at) = (site.cpu(), Instant::now());
    let resting = site.peak_bytes();
    site.poll();
    site.serves(1);
    let (wall, cpu) = (at.elapsed(), site.cpu() - cpu);
    hq.proxy.settled();
    table.row("peak memory of the appliance while it took the release over", mb(site.peak_bytes()), "MB", Some(12.0));
    table.row("  and before that", mb(resting), "MB", None);

    let peer = Peer::prepare(dir, csv, &hq.fleet.join("firmware/bench"), images);
    let peer = peer.map(|peer| (0..3).map(|_| peer.run()).min().unwrap());
    let target = peer.map(|(wall, _)| wall.as_secs_f64());
    table.row("fetch over TLS, verify, open, store, check: time", wall.as_secs_f64(), "s", target);
    table.row("  processor time of it", cpu.as_secs_f64(), "s", peer.map(|(_, cpu)| cpu.as_secs_f64()));
    if let Some((wall, cpu)) = peer {
        table.row("  minisign -V, then age -d | tar x, then sync: time", wall.as_secs_f64(), "s", None);
        table.row("  processor time of it", cpu.as_secs_f64(), "s", None);
    }
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

    fn run(&self) -> (Duration, Duration) {
        let out = self.dir.join("peer-out");
        let _ = fs::remove_dir_all(&out);
        fs::create_dir(&out).unwrap();
        let at = Instant::now();
        let script = "TIMEFORMAT='%U %S'; time (minisign -V -q -p m.pub -m all.age && \
                      age -d -i age.key all.age | tar x -C peer-out && sync -f peer-out)";
        let output = Command::new("bash").args(["-ec", script]).current_dir(self.dir).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        let times = String::from_utf8(output.stderr).unwrap();
        let cpu: f64 = times.split_whitespace().map(|seconds| seconds.parse::<f64>().unwrap()).sum();
        (at.elapsed(), Duration::from_secs_f64(cpu))
    }
}
