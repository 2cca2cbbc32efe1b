//! Writing the published tree. Files appear whole or not at all, and each sealed object is written once.

use std::collections::HashSet;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::Context as _;

use crate::layout::Layout;
use bundle::ObjectRef;
use durable::{Batch, SHARED, SHARED_DIR};
use ids::Digest;

/// A prepared file, and the path to which [`switch`] renames it.
pub type Switch = (PathBuf, PathBuf);

/// A place that keeps sealed objects.
pub trait Objects: Sync {
    /// Keeps an object unless it is there already. Sites are sealed in parallel, so several threads call this at once.
    fn put(&self, reference: &ObjectRef, sealed: &[u8]) -> anyhow::Result<()>;
}

/// Keeps no object. For `plan` and `preview`, which seal without publishing.
#[derive(Debug, Default, Clone, Copy)]
pub struct Discard;

impl Objects for Discard {
    fn put(&self, _reference: &ObjectRef, _sealed: &[u8]) -> anyhow::Result<()> {
        Ok(())
    }
}

/// The published tree of one run of `publish`. It keeps objects below `public/objects` and counts the new ones.
#[derive(Debug)]
pub struct Tree {
    layout: Layout,
    files: Batch,
    tally: Mutex<ObjectTally>,
}

/// Which objects were put in this run, and how many of them were new, with the sum of their sealed bytes.
#[derive(Debug, Default)]
struct ObjectTally {
    seen: HashSet<Digest>,
    new_objects: u64,
    new_bytes: u64,
}

impl Tree {
    /// The published tree of this fleet directory. No object counts as new yet.
    pub fn new(layout: &Layout) -> Self {
        Self { layout: layout.clone(), files: Batch::below(&layout.public()), tally: Mutex::default() }
    }

    /// Writes a file that no metadata names yet. It is durable after [`Tree::sync`]. Missing folders are made.
    pub fn write(&self, path: &Path, bytes: &[u8]) -> anyhow::Result<()> {
        self.files.write(path, bytes, SHARED).with_context(|| format!("cannot write {}", path.display()))
    }

    /// The same, unless the file has this content already.
    pub fn write_if_new(&self, path: &Path, bytes: &[u8]) -> anyhow::Result<()> {
        if durable::holds(path, bytes) { Ok(()) } else { self.write(path, bytes) }
    }

    /// Writes the new content of `path` under another name and returns that. After [`Tree::sync`], [`Tree::switch`] may
    /// put it in place.
    pub fn prepare(&self, path: &Path, bytes: &[u8]) -> anyhow::Result<PathBuf> {
        self.files.prepare(path, bytes, SHARED).with_context(|| format!("cannot write {}", path.display()))
    }

    /// Makes durable what was written since the last call. It must be called before a `timestamp.json` is switched.
    pub fn sync(&self) -> anyhow::Result<()> {
        self.files.sync().context("cannot write the published tree")
    }

    /// Puts prepared files in place, in this order, and makes that durable.
    pub fn switch(&self, switches: &[Switch]) -> anyhow::Result<()> {
        for (aside, path) in switches {
            put_in_place(aside, path, |aside, path| self.files.put_in_place(aside, path))?;
        }
        self.sync()
    }

    /// How many objects were new in this run, and the sum of their sealed bytes.
    pub fn new_objects(&self) -> (u64, u64) {
        let tally = self.tally();
        (tally.new_objects, tally.new_bytes)
    }

    fn tally(&self) -> MutexGuard<'_, ObjectTally> {
        self.tally.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Objects for Tree {
    fn put(&self, reference: &ObjectRef, sealed: &[u8]) -> anyhow::Result<()> {
        if !self.tally().seen.insert(reference.digest) {
            return Ok(());
        }
        let path = self.layout.object(&reference.digest);
        // A power cut can leave a file without its content; one of the right length has it.
        if fs::symlink_metadata(&path).is_ok_and(|found| found.is_file() && found.len() == reference.bytes) {
            return Ok(());
        }
        self.write(&path, sealed)?;
        let mut tally = self.tally();
        tally.new_objects += 1;
        tally.new_bytes += reference.bytes;
        Ok(())
    }
}

/// Replaces one file durably, all at once. Missing folders are made.
pub fn write_file(path: &Path, bytes: &[u8]) -> anyhow::Result<()> {
    let aside = prepare(path, bytes)?;
    switch(&aside, path)
}

/// Writes the new content of `path` under another name, syncs it and returns that name. [`switch`] puts it in place.
/// Missing folders are made.
pub fn prepare(path: &Path, bytes: &[u8]) -> anyhow::Result<PathBuf> {
    durable::create_dirs(durable::parent(path), SHARED_DIR)
        .and_then(|()| durable::prepare(path, bytes, SHARED))
        .with_context(|| format!("cannot write {}", path.display()))
}

/// Puts one prepared file in place, and makes that durable.
pub fn switch(aside: &Path, path: &Path) -> anyhow::Result<()> {
    put_in_place(aside, path, durable::rename)
}

/// Renames a prepared file into place. Readers see the old file before this and the new one after it.
///
/// Web servers tell versions of a file apart by size and time in whole seconds (nginx's and Apache's entity tags).
/// Two releases within one second would look like one to a site that asks conditionally, so the new file's time is
/// at least a second later than the old one's.
fn put_in_place(aside: &Path, path: &Path, rename: impl Fn(&Path, &Path) -> std::io::Result<()>) -> anyhow::Result<()> {
    if let Some(old) = fs::symlink_metadata(path).ok().and_then(|old| old.modified().ok()) {
        let next = old + Duration::from_secs(1);
        let file = File::options().append(true).open(aside);
        let set =
            file.and_then(|file| if file.metadata()?.modified()? < next { file.set_modified(next) } else { Ok(()) });
        set.with_context(|| format!("cannot set the time of {}", aside.display()))?;
    }
    rename(aside, path).with_context(|| format!("cannot replace {}", path.display()))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt as _;

    use super::*;

    #[test]
    fn two_versions_within_a_second_differ_in_their_whole_seconds() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().join("timestamp.json");
        let mut seconds = Vec::new();
        for content in [b"one", b"two", b"six"] {
            let aside = prepare(&path, content).expect("prepared");
            switch(&aside, &path).expect("switched");
            seconds.push(fs::metadata(&path).expect("the file").mtime());
        }
        assert!(seconds.is_sorted_by(|a, b| a < b), "{seconds:?}");
        assert_eq!(fs::read(&path).expect("the file"), b"six");
    }

    #[test]
    fn nothing_is_written_through_a_link_that_somebody_planted() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let (layout, victim) = (Layout::new(dir.path()), dir.path().join("victim"));
        fs::write(&victim, "precious").expect("written");
        let folder = layout.public().join("sites");
        fs::create_dir_all(&folder).expect("made");
        let tree = Tree::new(&layout);
        for name in ["file", "object", "timestamp.json"] {
            std::os::unix::fs::symlink(&victim, folder.join(format!(".{name}.new"))).expect("planted");
        }
        write_file(&folder.join("file"), b"new").expect("written");
        tree.write(&folder.join("object"), b"new").expect("written");
        let path = folder.join("timestamp.json");
        let aside = tree.prepare(&path, b"new").expect("prepared");
        tree.sync().expect("synced");
        tree.switch(&[(aside, path)]).expect("switched");
        for name in ["file", "object", "timestamp.json"] {
            assert!(fs::symlink_metadata(folder.join(name)).expect("the file").is_file());
            assert_eq!(fs::read(folder.join(name)).expect("the file"), b"new");
        }
        assert_eq!(fs::read_dir(&folder).expect("the folder").count(), 3);
        assert_eq!(fs::read(&victim).expect("the file"), b"precious");
    }
}
