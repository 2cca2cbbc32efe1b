//! Many files that are written one by one and become durable together.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::disk::Disk;
use super::{Aside, SHARED_DIR, parent};

/// A batch with more files than this is synced with its whole file system. That also waits for what others write, so it
/// does not pay for fewer.
pub(super) const MAX_SINGLE_SYNCS: usize = 128;
/// The number of threads that sync files at once. The file system commits them together, which is many times faster.
const SYNCS: usize = 16;

/// Files below one folder. They are written one by one, from several threads if need be, and synced together.
///
/// A file can be read before it is durable, and a power cut before [`Batch::sync`] may leave any file without its
/// content. So a batch is for files that nothing refers to yet.
#[derive(Debug)]
pub struct Batch {
    disk: Disk,
    root: PathBuf,
    unsynced: Mutex<Vec<PathBuf>>,
}

impl Batch {
    /// A batch of files below `root`. Folders below it that are missing are made with the files.
    pub fn below(root: &Path) -> Self {
        Self::on(Disk::default(), root)
    }

    /// As [`Batch::below`], on a disk that tests can watch.
    pub fn on(disk: Disk, root: &Path) -> Self {
        Self { disk, root: root.to_owned(), unsynced: Mutex::default() }
    }

    /// Writes a file, which appears with all of its content. Missing folders are made.
    ///
    /// # Errors
    ///
    /// If a step fails; then `path` is as it was.
    pub fn write(&self, path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
        self.aside(path, bytes, mode)?.rename()?;
        self.unsynced().push(path.to_owned());
        Ok(())
    }

    /// Writes the file that shall replace `path` under a temporary name, which is returned. Missing folders are made.
    /// After [`Batch::sync`] the file can be put in place.
    ///
    /// # Errors
    ///
    /// If a step fails; then `path` is as it was.
    pub fn prepare(&self, path: &Path, bytes: &[u8], mode: u32) -> io::Result<PathBuf> {
        let aside = self.aside(path, bytes, mode)?.keep();
        self.unsynced().push(aside.clone());
        Ok(aside)
    }

    /// Renames a file that was prepared and synced to `path`. The new name is durable after the next [`Batch::sync`].
    ///
    /// # Errors
    ///
    /// If it cannot be renamed.
    pub fn put_in_place(&self, aside: &Path, path: &Path) -> io::Result<()> {
        self.disk.rename(aside, path)?;
        self.unsynced().push(path.to_owned());
        Ok(())
    }

    fn aside(&self, path: &Path, bytes: &[u8], mode: u32) -> io::Result<Aside> {
        for made in self.disk.create_dirs_unsynced(parent(path), SHARED_DIR)? {
            // `sync` does not make the names of the root and of the folders above it durable.
            if !parent(&made).starts_with(&self.root) {
                self.disk.sync_dir(parent(&made))?;
            }
        }
        let mut aside = self.disk.aside(path, mode)?;
        aside.append(bytes)?;
        Ok(aside)
    }

    /// Makes all files durable that were written or put in place since the last call.
    ///
    /// # Errors
    ///
    /// If any file or folder cannot be synced; then none of these files counts as durable.
    pub fn sync(&self) -> io::Result<()> {
        let paths = std::mem::take(&mut *self.unsynced());
        if paths.len() > MAX_SINGLE_SYNCS {
            return self.disk.sync_all(&self.root).map_err(|error| unsyncable(&self.root, &error));
        }
        self.sync_files(&paths)?;
        // The folders above the files may be new as well, and those of an earlier process may not be durable yet.
        let above = |path: &PathBuf| {
            let within = path.ancestors().skip(1).take_while(|folder| folder.starts_with(&self.root));
            within.map(Path::to_owned).collect::<Vec<_>>()
        };
        let folders: BTreeSet<PathBuf> = paths.iter().flat_map(above).collect();
        folders.iter().try_for_each(|folder| self.disk.sync_dir(folder).map_err(|error| unsyncable(folder, &error)))
    }

    fn sync_files(&self, paths: &[PathBuf]) -> io::Result<()> {
        let one = |path: &PathBuf| self.disk.sync_file(path).map_err(|error| unsyncable(path, &error));
        let share = paths.len().div_ceil(SYNCS).max(1);
        std::thread::scope(|scope| {
            let threads: Vec<_> =
                paths.chunks(share).map(|paths| scope.spawn(move || paths.iter().try_for_each(one))).collect();
            let ended_early = |_| Err(io::Error::other("a thread ended early"));
            threads.into_iter().try_for_each(|thread| thread.join().unwrap_or_else(ended_early))
        })
    }

    fn unsynced(&self) -> MutexGuard<'_, Vec<PathBuf>> {
        self.unsynced.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn unsyncable(path: &Path, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("cannot sync {}: {error}", path.display()))
}
