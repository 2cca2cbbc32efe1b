//! The same change with programs that others use to keep directories alike.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::Table;
use crate::content::config;
use crate::world::{done, has};

/// All configurations of the large site and its images, as plain files.
pub fn write_files(dir: &Path, csv: &str, images: &[PathBuf]) {
    fs::create_dir_all(dir).unwrap();
    for line in csv.lines().skip(1).filter(|line| line.contains(",large,")) {
        let (name, content) = config(line);
        let path = dir.join(name);
        if fs::read(&path).is_ok_and(|there| there == content.as_bytes()) {
            continue;
        }
        fs::write(path, content).unwrap();
    }
    for image in images {
        let path = dir.join(image.file_name().unwrap());
        if !path.exists() {
            fs::copy(image, path).unwrap();
        }
    }
}

/// Bytes that each peer needs for the change from `before` to `after`.
pub fn same_change(dir: &Path, before: &str, after: &str, images: &[PathBuf], table: &mut Table) {
    let work = dir.join("peers");
    let files = work.join("files");
    fs::create_dir_all(&work).unwrap();
    let sh = |script: &str| done(Command::new("bash").args(["-ec", script]).current_dir(&work));
    write_files(&files, before, images);
    if has("rsync") {
        sh("rsync -a files/ rsync/");
    }
    if has("casync") {
        sh("casync make --store=casync.store one.caidx files >/dev/null 2>&1");
    }
    if has("ostree") {
        sh("ostree --repo=repo init --mode=archive && ostree --repo=repo commit -b site --tree=dir=files >/dev/null");
    }
    write_files(&files, after, images);

    if has("rsync") {
        let stats = sh("rsync -az --no-whole-file --stats files/ rsync/");
        let number = |what: &str| -> f64 {
            let line = stats.lines().find(|line| line.starts_with(what)).unwrap();
            line.rsplit(' ').next().unwrap().replace(',', "").parse().unwrap()
        };
        let both = number("Total bytes sent") + number("Total bytes received");
        table.row("  rsync -az, both ways, no encryption", both, "bytes", None);
    } else {
        println!("  rsync is not installed");
    }
    if has("casync") {
        let store = sizes(&work.join("casync.store"));
        sh("casync make --store=casync.store two.caidx files >/dev/null 2>&1");
        let index = fs::metadata(work.join("two.caidx")).unwrap().len();
        let new = grown(&store, &sizes(&work.join("casync.store")));
        table.row("  casync, index and new chunks, no HTTP", (index + new) as f64, "bytes", None);
    } else {
        println!("  casync is not installed");
    }
    if has("ostree") {
        let objects = sizes(&work.join("repo/objects"));
        sh("ostree --repo=repo commit -b site --tree=dir=files >/dev/null");
        let new = grown(&objects, &sizes(&work.join("repo/objects")));
        table.row("  ostree, new objects, no HTTP", new as f64, "bytes", None);
    } else {
        println!("  ostree is not installed");
    }
}

fn sizes(dir: &Path) -> BTreeMap<PathBuf, u64> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(dir).unwrap() {
        let entry = entry.unwrap();
        if entry.file_type().unwrap().is_dir() {
            found.extend(sizes(&entry.path()));
        } else {
            found.insert(entry.path(), entry.metadata().unwrap().len());
        }
    }
    found
}

fn grown(before: &BTreeMap<PathBuf, u64>, after: &BTreeMap<PathBuf, u64>) -> u64 {
    after.iter().filter(|(path, _)| !before.contains_key(*path)).map(|(_, bytes)| bytes).sum()
}
