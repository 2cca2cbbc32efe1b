//! A new file that is written beside the file that it will replace.

use std::ffi::OsString;
use std::fs;
use std::hash::{BuildHasher as _, RandomState};
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use super::disk::{Disk, DiskFile};
use super::parent;

/// A file that is being written. If it is dropped before it is put in place, it is removed.
#[derive(Debug)]
pub struct Aside {
    file: DiskFile,
    target: PathBuf,
    pending: bool,
}

impl Aside {
    /// Makes the file `.NAME.new`. If something has that name and cannot be removed, the file gets a name that nobody
    /// can guess.
    pub(super) fn beside(disk: &Disk, target: &Path, mode: u32) -> io::Result<Self> {
        let name = target.file_name().ok_or_else(|| {
            io::Error::new(io::ErrorKind::InvalidInput, format!("{} does not end in a file's name", target.display()))
        })?;
        let named = |end: &str| {
            let mut aside = OsString::from(".");
            aside.push(name);
            aside.push(end);
            target.with_file_name(aside)
        };
        let usual = named(".new");
        match Self::at(disk, &usual, target, mode) {
            Err(_) if fs::symlink_metadata(&usual).is_ok() => {
                // The hash is keyed at random by the system, so nobody can put something under this name in advance.
                let unguessable = RandomState::new().hash_one(std::process::id());
                Self::at(disk, &named(&format!(".{unguessable:016x}.new")), target, mode)
            }
            other => other,
        }
    }

    pub(super) fn at(disk: &Disk, aside: &Path, target: &Path, mode: u32) -> io::Result<Self> {
        Ok(Self { file: disk.create(aside, mode)?, target: target.to_owned(), pending: true })
    }

    /// Appends all of `bytes`.
    pub fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file.append(bytes)
    }

    /// Makes the content durable. The name is not: see [`Aside::put_in_place`].
    pub fn sync(&mut self) -> io::Result<()> {
        self.file.sync()
    }

    /// Leaves the file under its temporary name, for a caller that renames it later, and returns its path.
    pub fn keep(mut self) -> PathBuf {
        self.pending = false;
        self.file.path.clone()
    }

    /// Makes the content durable, renames the file to the name that it was made for, and makes that durable. Until then
    /// readers see the old file, and from then on the new one.
    pub fn put_in_place(mut self) -> io::Result<()> {
        self.file.sync()?;
        self.rename()?;
        self.file.disk.sync_dir(parent(&self.target))
    }

    pub(super) fn rename(&mut self) -> io::Result<()> {
        // Another writer of the same file may have replaced ours under the temporary name with a file that is not
        // complete.
        let identity = |metadata: fs::Metadata| (metadata.dev(), metadata.ino());
        let ours = identity(self.file.file().metadata()?);
        if fs::symlink_metadata(&self.file.path).map(identity).ok() != Some(ours) {
            self.pending = false;
            return Err(io::Error::other(format!("somebody else writes {} at the same time", self.target.display())));
        }
        self.file.disk.rename(&self.file.path, &self.target)?;
        self.pending = false;
        Ok(())
    }
}

impl Write for Aside {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.append(bytes).map(|()| bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for Aside {
    fn drop(&mut self) {
        if self.pending {
            let _ = self.file.disk.remove_file(&self.file.path);
        }
    }
}
