//! Every write, sync and rename of what must survive a power cut.
//!
//! One place, so that "durable" means one thing: a file appears whole (written aside, synced, renamed, directory
//! synced) or not at all; and so that tests can fail any single step, or record all of them and replay a power cut
//! after each.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, FileExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// One change of the disk, about to happen.
#[derive(Debug)]
pub enum Op<'a> {
    /// A directory is made.
    CreateDir(&'a Path),
    /// An empty file is made, or an existing one emptied.
    CreateFile(&'a Path),
    /// Bytes are written.
    Write {
        /// Into which file.
        path: &'a Path,
        /// From which byte on.
        offset: u64,
        /// What.
        bytes: &'a [u8],
    },
    /// A file is cut.
    Truncate {
        /// Which.
        path: &'a Path,
        /// To so many bytes.
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
        /// Old name.
        from: &'a Path,
        /// New name.
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

    /// Makes a directory (0700) unless it is there. Its parent must be there.
    pub fn create_dir(&self, path: &Path) -> io::Result<()> {
        if path.is_dir() {
            return Ok(());
        }
        self.about_to(&Op::CreateDir(path))?;
        match DirBuilder::new().mode(0o700).create(path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => Ok(()),
            other => other,
        }
    }

    /// Makes an empty file (0600), or empties one.
    pub fn create(&self, path: &Path) -> io::Result<DiskFile> {
        self.about_to(&Op::CreateFile(path))?;
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(true).mode(0o600).open(path)?;
        Ok(DiskFile { disk: self.clone(), path: path.to_owned(), file, end: 0 })
    }

    /// Opens a file for appending, made (0600) if it is not there.
    pub fn open_end(&self, path: &Path) -> io::Result<DiskFile> {
        let file = match OpenOptions::new().read(true).write(true).open(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return self.create(path),
            other => other?,
        };
        let end = file.metadata()?.len();
        Ok(DiskFile { disk: self.clone(), path: path.to_owned(), file, end })
    }

    /// Renames.
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

    /// Makes the names in a directory durable.
    pub fn sync_dir(&self, path: &Path) -> io::Result<()> {
        self.about_to(&Op::SyncDir(path))?;
        File::open(path)?.sync_all()
    }

    /// Makes everything on the file system that holds `path` durable: one call in place of thousands of `fsync`.
    pub fn sync_all(&self, path: &Path) -> io::Result<()> {
        self.about_to(&Op::SyncAll)?;
        nix::unistd::syncfs(File::open(path)?).map_err(io::Error::from)
    }

    /// Writes a new file and syncs it, not its name. A failure leaves no file.
    pub fn write_new(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        let mut file = self.create(path)?;
        file.append(bytes).and_then(|()| file.sync()).inspect_err(|_| {
            let _ = self.remove_file(path);
        })
    }

    /// Makes `target` hold `bytes` durably, or leaves it as it was: written to `aside`, synced, renamed, directory
    /// synced. Both must lie on one file system.
    pub fn replace(&self, aside: &Path, target: &Path, bytes: &[u8]) -> io::Result<()> {
        self.write_new(aside, bytes)?;
        self.rename(aside, target).inspect_err(|_| {
            let _ = self.remove_file(aside);
        })?;
        self.sync_dir(parent(target))
    }
}

/// A file that is written at its end.
#[derive(Debug)]
pub struct DiskFile {
    disk: Disk,
    path: PathBuf,
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

/// The directory of a path that has one.
pub fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

/// Makes sure that nobody else may look into a directory.
pub fn keep_private(path: &Path) -> io::Result<()> {
    let mode = fs::metadata(path)?.permissions().mode();
    if mode & 0o077 == 0 { Ok(()) } else { fs::set_permissions(path, fs::Permissions::from_mode(0o700)) }
}

/// Reads a file of at most `limit` bytes; `None` if it is not there.
pub fn read_limited(path: &Path, limit: u64) -> io::Result<Option<Vec<u8>>> {
    use std::io::Read as _;
    let file = match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        other => other?,
    };
    let mut bytes = Vec::new();
    file.take(limit.saturating_add(1)).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > limit {
        return Err(io::Error::new(io::ErrorKind::InvalidData, format!("it is over {limit} bytes")));
    }
    Ok(Some(bytes))
}

fn absent_is_fine(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}
