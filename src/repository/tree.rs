//! The published tree: files appear whole or not at all, sealed objects are written once.

use std::collections::{BTreeSet, HashSet};
use std::fs::{self, File};
use std::io::{ErrorKind, Write as _};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, anyhow, bail};

use crate::layout::Layout;
use bundle::ObjectRef;
use ids::Digest;

/// A prepared file, and where [`switch`] puts it.
pub type Switch = (PathBuf, PathBuf);

/// Where sealed objects go.
pub trait Objects: Sync {
    /// Keeps an object that is not there yet. Sites are sealed in parallel, so this is called from several threads.
    fn put(&self, reference: &ObjectRef, sealed: &[u8]) -> anyhow::Result<()>;
}

/// Objects that nobody keeps: for `plan` and `preview`.
#[derive(Debug, Default, Clone, Copy)]
pub struct Discard;

impl Objects for Discard {
    fn put(&self, _reference: &ObjectRef, _sealed: &[u8]) -> anyhow::Result<()> {
        Ok(())
    }
}

/// Objects below `public/objects`.
#[derive(Debug)]
pub struct Tree {
    layout: Layout,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    seen: HashSet<Digest>,
    unsynced: Vec<PathBuf>,
    new_objects: u64,
    new_bytes: u64,
}

impl Tree {
    /// The tree of this fleet directory.
    pub fn new(layout: &Layout) -> Self {
        Self { layout: layout.clone(), state: Mutex::default() }
    }

    /// Writes a file that nothing names yet, durable after [`Tree::sync`]. Missing folders are made.
    pub fn write(&self, path: &Path, bytes: &[u8]) -> anyhow::Result<()> {
        write_unsynced(path, bytes)?;
        self.state().unsynced.push(path.to_owned());
        Ok(())
    }

    /// The same, unless it is there already.
    pub fn write_if_new(&self, path: &Path, bytes: &[u8]) -> anyhow::Result<()> {
        if fs::read(path).is_ok_and(|there| there == bytes) { Ok(()) } else { self.write(path, bytes) }
    }

    /// Writes `path` under another name, durable after [`Tree::sync`]; then [`Tree::switch`] may put it in place.
    pub fn prepare(&self, path: &Path, bytes: &[u8]) -> anyhow::Result<PathBuf> {
        let aside = write_aside(path, bytes)?;
        self.state().unsynced.push(aside.clone());
        Ok(aside)
    }

    /// Makes everything durable that was written since the last time. Before any `timestamp.json` is switched.
    pub fn sync(&self) -> anyhow::Result<()> {
        let paths = std::mem::take(&mut self.state().unsynced);
        self.sync_paths(&paths)
    }

    /// Puts prepared files in place, and makes that durable.
    pub fn switch(&self, switches: &[Switch]) -> anyhow::Result<()> {
        let mut switched = Vec::with_capacity(switches.len());
        for (aside, path) in switches {
            put_in_place(aside, path)?;
            switched.push(path.clone());
        }
        self.sync_paths(&switched)
    }

    /// Many files are synced at the cost of one; for few of them nobody shall wait for what others write.
    fn sync_paths(&self, paths: &[PathBuf]) -> anyhow::Result<()> {
        if paths.len() > MAX_SINGLE_SYNCS {
            let public = self.layout.public();
            let file = File::open(&public);
            return file
                .and_then(|file| nix::unistd::syncfs(file).map_err(std::io::Error::from))
                .with_context(|| format!("cannot sync {}", public.display()));
        }
        sync_all(paths)?;
        // With the folders above them, which may be new.
        let public = self.layout.public();
        let above = |path: &PathBuf| {
            let within = path.ancestors().skip(1).take_while(|folder| folder.starts_with(&public));
            within.map(Path::to_owned).collect::<Vec<_>>()
        };
        let folders: BTreeSet<PathBuf> = paths.iter().flat_map(above).collect();
        folders.iter().try_for_each(|folder| sync(folder))
    }

    /// How many objects were new, and their bytes.
    pub fn new_objects(&self) -> (u64, u64) {
        let state = self.state();
        (state.new_objects, state.new_bytes)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// More files than that are synced with their whole file system.
const MAX_SINGLE_SYNCS: usize = 128;
/// So many files are synced at once: the file system commits them together, which is many times faster.
const SYNCS: usize = 16;

fn sync_all(paths: &[PathBuf]) -> anyhow::Result<()> {
    let share = paths.len().div_ceil(SYNCS).max(1);
    std::thread::scope(|scope| {
        let threads: Vec<_> = paths
            .chunks(share)
            .map(|paths| scope.spawn(move || paths.iter().try_for_each(|path| sync(path))))
            .collect();
        threads.into_iter().try_for_each(|thread| thread.join().unwrap_or_else(|_| bail!("a thread ended early")))
    })
}

impl Objects for Tree {
    fn put(&self, reference: &ObjectRef, sealed: &[u8]) -> anyhow::Result<()> {
        if !self.state().seen.insert(reference.digest) {
            return Ok(());
        }
        let path = self.layout.object(&reference.digest);
        // A power cut can leave a file without its content; one of the right length has it.
        if fs::metadata(&path).is_ok_and(|metadata| metadata.len() == reference.bytes) {
            return Ok(());
        }
        write_unsynced(&path, sealed)?;
        let mut state = self.state();
        state.unsynced.push(path);
        state.new_objects += 1;
        state.new_bytes += reference.bytes;
        Ok(())
    }
}

/// Writes a file aside, syncs and renames it, and syncs its folder. Missing folders are made.
pub fn write_file(path: &Path, bytes: &[u8]) -> anyhow::Result<()> {
    let aside = write_aside(path, bytes)?;
    sync(&aside)?;
    switch(&aside, path)
}

/// Writes `path` with another name and syncs it; [`switch`] puts it in place.
pub fn prepare(path: &Path, bytes: &[u8]) -> anyhow::Result<PathBuf> {
    let aside = write_aside(path, bytes)?;
    sync(&aside)?;
    Ok(aside)
}

/// Puts a prepared file in place, and makes that durable.
pub fn switch(aside: &Path, path: &Path) -> anyhow::Result<()> {
    put_in_place(aside, path)?;
    path.parent().map_or(Ok(()), sync)
}

/// Puts a prepared file in place: before this readers see the old one, after it the new one.
///
/// Web servers tell versions of a file apart by size and time in whole seconds (nginx's and Apache's entity tags).
/// Two releases within one second would look like one to a site that asks conditionally, so the new file's time is
/// at least a second later than the old one's.
fn put_in_place(aside: &Path, path: &Path) -> anyhow::Result<()> {
    if let Some(old) = fs::metadata(path).ok().and_then(|old| old.modified().ok()) {
        let next = old + Duration::from_secs(1);
        let file = File::options().append(true).open(aside);
        let set =
            file.and_then(|file| if file.metadata()?.modified()? < next { file.set_modified(next) } else { Ok(()) });
        set.with_context(|| format!("cannot set the time of {}", aside.display()))?;
    }
    fs::rename(aside, path).with_context(|| format!("cannot replace {}", path.display()))
}

fn write_unsynced(path: &Path, bytes: &[u8]) -> anyhow::Result<()> {
    let aside = write_aside(path, bytes)?;
    fs::rename(&aside, path).with_context(|| format!("cannot write {}", path.display()))
}

fn write_aside(path: &Path, bytes: &[u8]) -> anyhow::Result<PathBuf> {
    let name =
        path.file_name().and_then(|name| name.to_str()).ok_or_else(|| anyhow!("{} has no name", path.display()))?;
    let aside = path.with_file_name(format!(".{name}.new"));
    let create = || File::create(&aside);
    let mut file = match create() {
        Err(error) if error.kind() == ErrorKind::NotFound => {
            path.parent().map_or(Ok(()), fs::create_dir_all).and_then(|()| create())
        }
        other => other,
    }
    .with_context(|| format!("cannot write {}", aside.display()))?;
    file.write_all(bytes).with_context(|| format!("cannot write {}", aside.display()))?;
    Ok(aside)
}

/// Makes what happened in a folder durable.
pub fn sync_folder(path: &Path) -> anyhow::Result<()> {
    sync(path)
}

fn sync(path: &Path) -> anyhow::Result<()> {
    File::open(path).and_then(|file| file.sync_all()).with_context(|| format!("cannot sync {}", path.display()))
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
}
