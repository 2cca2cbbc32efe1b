//! The single steps that change the disk. A test can make each of them fail, or record it.
//!
//! Only this file makes and renames what has to last. `.clippy.toml` forbids all others the functions of `std` for
//! that.
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

/// One step that is about to change the disk.
#[derive(Debug)]
pub enum Op<'a> {
    /// A directory is made.
    CreateDir(&'a Path),
    /// An empty file is made.
    CreateFile(&'a Path),
    /// Bytes are written to a file.
    Write {
        /// The path of the file.
        path: &'a Path,
        /// The offset of the first byte in the file.
        offset: u64,
        /// The bytes that shall be written; a hook that fails lets half of them through.
        bytes: &'a [u8],
    },
    /// A file is cut to a length.
    Truncate {
        /// The path of the file.
        path: &'a Path,
        /// The length of the file afterwards, in bytes.
        bytes: u64,
    },
    /// `fsync` or `fdatasync` of a file.
    SyncFile(&'a Path),
    /// `fsync` of a directory.
    SyncDir(&'a Path),
    /// `syncfs(2)`: everything on a file system is synced.
    SyncAll,
    /// A file or directory is renamed, replacing a file of the new name.
    Rename {
        /// The old name.
        from: &'a Path,
        /// The new name.
        to: &'a Path,
    },
    /// A file is removed.
    RemoveFile(&'a Path),
    /// A directory is removed with all that is in it.
    RemoveDir(&'a Path),
}

/// What a test puts between a room and the disk, to make a single step fail or to record all steps.
pub trait Hook: Send + Sync + std::fmt::Debug {
    /// Is called before each step. If it returns an error, the step fails with it; a write then stops half-way.
    fn before(&self, op: &Op<'_>) -> io::Result<()>;
}

/// The way to the disk. Clones count their written bytes together and share the hook.
#[derive(Debug, Clone, Default)]
pub struct Disk {
    written: Arc<AtomicU64>,
    hook: Option<Arc<dyn Hook>>,
}

impl Disk {
    /// A disk that asks `hook` before each step.
    pub fn hooked(hook: Arc<dyn Hook>) -> Self {
        Self { written: Arc::default(), hook: Some(hook) }
    }

    fn about_to(&self, op: &Op<'_>) -> io::Result<()> {
        self.hook.as_ref().map_or(Ok(()), |hook| hook.before(op))
    }

    /// The bytes written so far through this disk and its clones, for watching the wear of an SD card.
    pub fn written(&self) -> u64 {
        self.written.load(Ordering::Relaxed)
    }

    /// Makes a directory unless it is there. Its parent must be there. Nothing is synced.
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

    /// Makes a directory and the missing ones above it, and makes their names durable.
    pub fn create_dirs(&self, path: &Path, mode: u32) -> io::Result<()> {
        self.create_dirs_unsynced(path, mode)?.iter().try_for_each(|made| self.sync_dir(parent(made)))
    }

    /// As [`Disk::create_dirs`], for a caller that syncs the parents later. Returns the directories that were made.
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

    /// Makes an empty file. A file that a crash left under that name is removed first, and so is a link.
    pub fn create(&self, path: &Path, mode: u32) -> io::Result<DiskFile> {
        if fs::symlink_metadata(path).is_ok() {
            self.remove_file(path)?;
        }
        self.create_only(path, mode)
    }

    /// Makes an empty file; fails if something has that name.
    fn create_only(&self, path: &Path, mode: u32) -> io::Result<DiskFile> {
        self.about_to(&Op::CreateFile(path))?;
        let mut options = OpenOptions::new();
        options.read(true).write(true).create_new(true).mode(mode).custom_flags(OFlag::O_NOFOLLOW.bits());
        Ok(DiskFile { disk: self.clone(), path: path.to_owned(), file: options.open(path)?, end: 0 })
    }

    /// Opens a file to append to it. A missing file is made.
    pub fn open_end(&self, path: &Path, mode: u32) -> io::Result<DiskFile> {
        let file = match OpenOptions::new().read(true).write(true).open(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return self.create(path, mode),
            other => other?,
        };
        let end = file.metadata()?.len();
        Ok(DiskFile { disk: self.clone(), path: path.to_owned(), file, end })
    }

    /// Renames a file or directory. That is durable once both directories are synced.
    pub fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.about_to(&Op::Rename { from, to })?;
        fs::rename(from, to)
    }

    /// Removes a file. It is no error if the file is not there.
    pub fn remove_file(&self, path: &Path) -> io::Result<()> {
        self.about_to(&Op::RemoveFile(path))?;
        absent_is_fine(fs::remove_file(path))
    }

    /// Removes a directory and what is in it. It is no error if the directory is not there.
    pub fn remove_dir(&self, path: &Path) -> io::Result<()> {
        self.about_to(&Op::RemoveDir(path))?;
        absent_is_fine(fs::remove_dir_all(path))
    }

    /// Makes the content of a file durable (`fsync(2)`).
    pub(super) fn sync_file(&self, path: &Path) -> io::Result<()> {
        self.about_to(&Op::SyncFile(path))?;
        File::open(path)?.sync_all()
    }

    /// Makes the names in a directory durable.
    pub fn sync_dir(&self, path: &Path) -> io::Result<()> {
        self.about_to(&Op::SyncDir(path))?;
        match File::open(path)?.sync_all() {
            // Network and guest file systems that cannot sync a directory (cifs, 9p) answer with EINVAL.
            Err(error) if error.raw_os_error() == Some(Errno::EINVAL as i32) => Ok(()),
            other => other,
        }
    }

    /// Makes everything on the file system of `path` durable. This one call replaces thousands of `fsync`.
    pub fn sync_all(&self, path: &Path) -> io::Result<()> {
        self.about_to(&Op::SyncAll)?;
        nix::unistd::syncfs(File::open(path)?).map_err(io::Error::from)
    }

    /// Writes a file and syncs its content, but not its name. A failure leaves no file.
    pub fn write_new(&self, path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
        let mut file = self.create(path, mode)?;
        self.fill(&mut file, bytes)
    }

    /// Does what [`crate::create_new`] promises, on this disk.
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

    /// Does what [`crate::replace`] promises, on this disk.
    pub fn replace(&self, path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
        let mut new = self.aside(path, mode)?;
        new.append(bytes)?;
        new.put_in_place()
    }

    /// As [`Disk::replace`], with a temporary file of the caller's name: see [`Disk::aside_named`].
    pub fn replace_through(&self, aside: &Path, path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
        let mut new = self.aside_named(aside, path, mode)?;
        new.append(bytes)?;
        new.put_in_place()
    }

    /// Begins to write the file that shall replace `path`.
    pub fn aside(&self, path: &Path, mode: u32) -> io::Result<Aside> {
        Aside::beside(self, path, mode)
    }

    /// As [`Disk::aside`], under the temporary name `aside`. The caller removes what a crash left there, and lets
    /// nobody else write there. Both names must be on one file system.
    pub fn aside_named(&self, aside: &Path, path: &Path, mode: u32) -> io::Result<Aside> {
        Aside::at(self, aside, path, mode)
    }

    /// Does what [`crate::wipe`] promises, on this disk.
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

/// An open file that is written only at its end.
#[derive(Debug)]
pub struct DiskFile {
    pub(super) disk: Disk,
    pub(super) path: PathBuf,
    file: File,
    end: u64,
}

impl DiskFile {
    /// Appends all of `bytes`. After an error a part of them may be in the file; [`DiskFile::truncate`] removes it.
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

    /// Cuts the file to a length of `bytes`. The next byte is appended there.
    pub fn truncate(&mut self, bytes: u64) -> io::Result<()> {
        self.disk.about_to(&Op::Truncate { path: &self.path, bytes })?;
        self.file.set_len(bytes)?;
        self.end = bytes;
        Ok(())
    }

    /// Makes the content and all metadata of the file durable (`fsync(2)`).
    pub fn sync(&mut self) -> io::Result<()> {
        self.disk.about_to(&Op::SyncFile(&self.path))?;
        self.file.flush()?;
        self.file.sync_all()
    }

    /// Makes the content durable, and of the metadata what reading it takes (`fdatasync(2)`).
    pub fn sync_data(&self) -> io::Result<()> {
        self.disk.about_to(&Op::SyncFile(&self.path))?;
        self.file.sync_data()
    }

    /// The file itself, for reading and locking.
    pub const fn file(&self) -> &File {
        &self.file
    }

    /// The offset at which the next byte is appended.
    pub const fn end(&self) -> u64 {
        self.end
    }

    /// Tells the handle the new name of its file, after somebody renamed it.
    pub fn renamed(&mut self, path: &Path) {
        self.path = path.to_owned();
    }
}

/// Opens a file for writing, or makes it empty, without following a link.
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
