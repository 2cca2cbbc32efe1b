//! Single changes of the disk, each of which a test can fail or record.
//!
//! This is the one file that makes and renames what has to last; `.clippy.toml` keeps all others from it.
#![allow(clippy::disallowed_methods, reason = "everybody else comes here")]

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use nix::errno::Errno;
use nix::fcntl::OFlag;

use super::{Aside, parent};

/// One change of the disk, about to happen.
#[derive(Debug)]
pub enum Op<'a> {
    /// A directory is made.
    CreateDir(&'a Path),
    /// An empty file is made.
    CreateFile(&'a Path),
    /// Bytes are written.
    Write {
        /// The file that gets them.
        path: &'a Path,
        /// The first byte's place in it.
        offset: u64,
        /// All of them.
        bytes: &'a [u8],
    },
    /// A file is cut.
    Truncate {
        /// The file.
        path: &'a Path,
        /// Its length afterwards.
        bytes: u64,
    },
    /// `fsync` or `fdatasync` of a file.
    SyncFile(&'a Path),
    /// `fsync` of a directory.
    SyncDir(&'a Path),
    /// `syncfs`.
    SyncAll,
    /// A file or directory is renamed, replacing a file of the new name.
    Rename {
        /// The name that goes.
        from: &'a Path,
        /// The name that comes.
        to: &'a Path,
    },
    /// A file is removed.
    RemoveFile(&'a Path),
    /// A directory is removed with all that is in it.
    RemoveDir(&'a Path),
}

/// What tests put between a room and the disk, to fail any single step or to record all of them.
pub trait Hook: Send + Sync + std::fmt::Debug {
    /// Called before each change; an error is returned in its place, and a write then stops half-way.
    fn before(&self, op: &Op<'_>) -> io::Result<()>;
}

/// The way to the disk.
#[derive(Debug, Clone, Default)]
pub struct Disk {
    written: Arc<AtomicU64>,
    hook: Option<Arc<dyn Hook>>,
}

impl Disk {
    /// A disk that asks `hook` first.
    pub fn hooked(hook: Arc<dyn Hook>) -> Self {
        Self { written: Arc::default(), hook: Some(hook) }
    }

    fn about_to(&self, op: &Op<'_>) -> io::Result<()> {
        self.hook.as_ref().map_or(Ok(()), |hook| hook.before(op))
    }

    /// Bytes written so far, for watching the wear of an SD card.
    pub fn written(&self) -> u64 {
        self.written.load(Ordering::Relaxed)
    }

    /// Makes a directory unless it is there. Its parent must be there.
    pub fn create_dir(&self, path: &Path, mode: u32) -> io::Result<()> {
        if path.is_dir() {
            return Ok(());
        }
        self.about_to(&Op::CreateDir(path))?;
        match DirBuilder::new().mode(mode).create(path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => Ok(()),
            other => other,
        }
    }

    /// Makes a directory and those above it, as far as they are missing, and makes their names durable.
    pub fn create_dirs(&self, path: &Path, mode: u32) -> io::Result<()> {
        self.create_dirs_unsynced(path, mode)?.iter().try_for_each(|made| self.sync_dir(parent(made)))
    }

    /// The same for somebody who syncs the directories above later. Returns those that were missing.
    pub(super) fn create_dirs_unsynced(&self, path: &Path, mode: u32) -> io::Result<Vec<PathBuf>> {
        let mut missing = Vec::new();
        let mut at = path;
        while !at.is_dir() {
            missing.push(at.to_owned());
            let above = parent(at);
            if above == at {
                break;
            }
            at = above;
        }
        missing.reverse();
        missing.iter().try_for_each(|path| self.create_dir(path, mode))?;
        Ok(missing)
    }

    /// Makes an empty file in place of what has that name: what a crash left, or a link, which is not followed.
    pub fn create(&self, path: &Path, mode: u32) -> io::Result<DiskFile> {
        if fs::symlink_metadata(path).is_ok() {
            self.remove_file(path)?;
        }
        self.create_only(path, mode)
    }

    /// Makes an empty file where nothing is.
    fn create_only(&self, path: &Path, mode: u32) -> io::Result<DiskFile> {
        self.about_to(&Op::CreateFile(path))?;
        let mut options = OpenOptions::new();
        options.read(true).write(true).create_new(true).mode(mode).custom_flags(OFlag::O_NOFOLLOW.bits());
        Ok(DiskFile { disk: self.clone(), path: path.to_owned(), file: options.open(path)?, end: 0 })
    }

    /// Opens a file for appending, made if it is not there.
    pub fn open_end(&self, path: &Path, mode: u32) -> io::Result<DiskFile> {
        let file = match OpenOptions::new().read(true).write(true).open(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return self.create(path, mode),
            other => other?,
        };
        let end = file.metadata()?.len();
        Ok(DiskFile { disk: self.clone(), path: path.to_owned(), file, end })
    }

    /// Renames. Durable when the directories are synced.
    pub fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.about_to(&Op::Rename { from, to })?;
        fs::rename(from, to)
    }

    /// Removes a file; that it is not there is fine.
    pub fn remove_file(&self, path: &Path) -> io::Result<()> {
        self.about_to(&Op::RemoveFile(path))?;
        absent_is_fine(fs::remove_file(path))
    }

    /// Removes a directory and what is in it; that it is not there is fine.
    pub fn remove_dir(&self, path: &Path) -> io::Result<()> {
        self.about_to(&Op::RemoveDir(path))?;
        absent_is_fine(fs::remove_dir_all(path))
    }

    /// Makes the content of a file durable.
    pub(super) fn sync_file(&self, path: &Path) -> io::Result<()> {
        self.about_to(&Op::SyncFile(path))?;
        File::open(path)?.sync_all()
    }

    /// Makes the names in a directory durable.
    pub fn sync_dir(&self, path: &Path) -> io::Result<()> {
        self.about_to(&Op::SyncDir(path))?;
        match File::open(path)?.sync_all() {
            // Network and guest file systems that know no sync of a directory (cifs, 9p) say so like this.
            Err(error) if error.raw_os_error() == Some(Errno::EINVAL as i32) => Ok(()),
            other => other,
        }
    }

    /// Makes everything on the file system that holds `path` durable: one call in place of thousands of `fsync`.
    pub fn sync_all(&self, path: &Path) -> io::Result<()> {
        self.about_to(&Op::SyncAll)?;
        nix::unistd::syncfs(File::open(path)?).map_err(io::Error::from)
    }

    /// Writes a file and syncs it, not its name. A failure leaves no file.
    pub fn write_new(&self, path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
        let mut file = self.create(path, mode)?;
        self.fill(&mut file, bytes)
    }

    /// What [`crate::create_new`] promises.
    pub fn create_new(&self, path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
        let mut file = self.create_only(path, mode)?;
        self.fill(&mut file, bytes)?;
        self.sync_dir(parent(path)).inspect_err(|_| {
            let _ = self.remove_file(path);
        })
    }

    fn fill(&self, file: &mut DiskFile, bytes: &[u8]) -> io::Result<()> {
        file.append(bytes).and_then(|()| file.sync()).inspect_err(|_| {
            let _ = self.remove_file(&file.path);
        })
    }

    /// What [`crate::replace`] promises.
    pub fn replace(&self, path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
        let mut new = self.aside(path, mode)?;
        new.append(bytes)?;
        new.put_in_place()
    }

    /// The same by way of a file of this name: see [`Disk::aside_named`].
    pub fn replace_through(&self, aside: &Path, path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
        let mut new = self.aside_named(aside, path, mode)?;
        new.append(bytes)?;
        new.put_in_place()
    }

    /// Begins to write what shall replace `path`.
    pub fn aside(&self, path: &Path, mode: u32) -> io::Result<Aside> {
        Aside::beside(self, path, mode)
    }

    /// The same under a name of the caller's, who cleans up what a crash left and lets nobody else write there. Both must
    /// lie on one file system.
    pub fn aside_named(&self, aside: &Path, path: &Path, mode: u32) -> io::Result<Aside> {
        Aside::at(self, aside, path, mode)
    }

    /// What [`crate::wipe`] promises.
    pub fn wipe(&self, path: &Path) -> io::Result<()> {
        let file = OpenOptions::new().read(true).write(true).open(path)?;
        let length = usize::try_from(file.metadata()?.len()).unwrap_or(0);
        let mut file = DiskFile { disk: self.clone(), path: path.to_owned(), file, end: 0 };
        file.append(&vec![b'#'; length])?;
        file.sync()?;
        self.remove_file(path)?;
        self.sync_dir(parent(path))
    }
}

/// A file that is written at its end.
#[derive(Debug)]
pub struct DiskFile {
    pub(super) disk: Disk,
    pub(super) path: PathBuf,
    file: File,
    end: u64,
}

impl DiskFile {
    /// Appends all of `bytes`. After an error part of them may be there; [`DiskFile::truncate`] takes it back.
    pub fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        if let Err(error) = self.disk.about_to(&Op::Write { path: &self.path, offset: self.end, bytes }) {
            let half = bytes.get(..bytes.len() / 2).unwrap_or_default();
            let _ = self.file.write_all_at(half, self.end);
            return Err(error);
        }
        self.file.write_all_at(bytes, self.end)?;
        self.end = self.end.saturating_add(bytes.len() as u64);
        self.disk.written.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        Ok(())
    }

    /// Cuts the file to `bytes`, which becomes its end.
    pub fn truncate(&mut self, bytes: u64) -> io::Result<()> {
        self.disk.about_to(&Op::Truncate { path: &self.path, bytes })?;
        self.file.set_len(bytes)?;
        self.end = bytes;
        Ok(())
    }

    /// Makes the content durable, with all metadata.
    pub fn sync(&mut self) -> io::Result<()> {
        self.disk.about_to(&Op::SyncFile(&self.path))?;
        self.file.flush()?;
        self.file.sync_all()
    }

    /// Makes the content durable.
    pub fn sync_data(&self) -> io::Result<()> {
        self.disk.about_to(&Op::SyncFile(&self.path))?;
        self.file.sync_data()
    }

    /// The file itself, for reading and locking.
    pub const fn file(&self) -> &File {
        &self.file
    }

    /// Where the next byte goes.
    pub const fn end(&self) -> u64 {
        self.end
    }

    /// Tells the handle that its file was renamed.
    pub fn renamed(&mut self, path: &Path) {
        self.path = path.to_owned();
    }
}

/// What [`crate::lock_file`] opens.
pub(super) fn open_or_make(path: &Path, mode: u32) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(false).mode(mode).custom_flags(OFlag::O_NOFOLLOW.bits());
    options.open(path)
}

fn absent_is_fine(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}
