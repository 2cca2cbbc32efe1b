//! The one way to write a file that survives a power cut.
//!
//! | what a caller has | what it calls | after a power cut there is |
//! |---|---|---|
//! | a file that must not exist yet: a key, a token | [`create_new`] | the file, if the call had returned |
//! | a file that is written again and again | [`replace`] | the old content or the new one, whole |
//! | the same in two steps | [`prepare`], then [`rename`] | the same |
//! | content that is too large for memory | [`aside`], then [`Aside::put_in_place`] | the same |
//! | many files at the price of one | [`Batch`] | after [`Batch::sync`] all of them |
//! | a test that fails or records single steps | [`Disk::hooked`] | |
//!
//! A file is synced before it gets its name, and its folder after that. When a folder is made, the folder above it is
//! synced.
//!
//! **Files that are being written** are called `.NAME.new`, beside the file NAME. They are made with `O_EXCL`, never
//! opened: a link under that name is not followed. What lies there is removed first. A crash has left it, or somebody
//! who may write in the folder has put it there. If it cannot be removed (a directory; another user's file in a folder
//! with the sticky bit), the new file gets a name that nobody can guess. Two writers of one file need a lock between
//! them. Without a lock the slower one fails, and readers see nothing of its file.
//!
//! **Modes** are an argument. As for every new file, the umask takes bits away.
//!
//! **Reading what others may have put there** is the other half: [`Folder`] and [`read_regular`] take regular files only, and
//! no link that leads elsewhere.
//!
//! Read `disk` (single steps), `aside`, `batch`, `folder`.

#![cfg_attr(test, allow(clippy::disallowed_methods, reason = "tests make and break files as they like"))]

mod aside;
mod batch;
mod disk;
mod folder;

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

pub use aside::Aside;
pub use batch::Batch;
pub use disk::{Disk, DiskFile, Hook, Op};
pub use folder::{Entry, Folder, Links, holds, names, read_regular, regular_file};

/// The mode of a file that only its owner may read or write: keys, tokens, state.
pub const PRIVATE: u32 = 0o600;
/// The mode of a file that everybody may read and only its owner may write.
pub const PUBLIC: u32 = 0o644;
/// The mode of a file that people edit, alone or as a group: the umask decides who may read and write it.
pub const SHARED: u32 = 0o666;
/// The mode of a folder that only its owner may use.
pub const PRIVATE_DIR: u32 = 0o700;
/// The mode of a folder where the umask decides who may use it.
pub const SHARED_DIR: u32 = 0o777;

/// Writes a file that must not exist yet, not even as a link, and makes its content and its name durable.
///
/// The file is written under its own name, so that a secret is never left under a temporary one. A power cut in the
/// middle can leave a part of the file, which its reader reports. Any other failure leaves no file.
///
/// # Errors
///
/// [`io::ErrorKind::AlreadyExists`] if something has that name.
pub fn create_new(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    Disk::default().create_new(path, bytes, mode)
}

/// Makes an empty file, durably, unless something has that name. It is for a database, which writes the file itself.
///
/// # Errors
///
/// If the file is not there and cannot be made.
pub fn ensure(path: &Path, mode: u32) -> io::Result<()> {
    match create_new(path, &[], mode) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        other => other,
    }
}

/// Gives `path` the content `bytes`, durably, or leaves it as it was. A link of that name is replaced, not followed.
///
/// # Errors
///
/// If a step fails. Then nothing has changed, unless it was the last step, the sync of the folder: then the new content
/// is there but may not be durable.
pub fn replace(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    Disk::default().replace(path, bytes, mode)
}

/// Does the first half of [`replace`]: writes and syncs the new content under a temporary name, which is returned. The
/// second half is [`rename`].
///
/// # Errors
///
/// If a step fails; then nothing has changed.
pub fn prepare(path: &Path, bytes: &[u8], mode: u32) -> io::Result<PathBuf> {
    let mut new = aside(path, mode)?;
    new.append(bytes)?;
    new.sync()?;
    Ok(new.keep())
}

/// Begins to write the file that shall replace `path`.
///
/// # Errors
///
/// If no file can be made beside it.
pub fn aside(path: &Path, mode: u32) -> io::Result<Aside> {
    Disk::default().aside(path, mode)
}

/// Renames a file or folder, and makes that durable. A file of the new name is replaced.
///
/// # Errors
///
/// If it cannot be renamed, or one of the two folders cannot be synced.
pub fn rename(from: &Path, to: &Path) -> io::Result<()> {
    rename_on(&Disk::default(), from, to)
}

fn rename_on(disk: &Disk, from: &Path, to: &Path) -> io::Result<()> {
    disk.rename(from, to)?;
    disk.sync_dir(parent(to))?;
    if parent(from) == parent(to) { Ok(()) } else { disk.sync_dir(parent(from)) }
}

/// Removes a file durably, so that it does not come back after a power cut. It is no error if the file is not there.
///
/// # Errors
///
/// If the file cannot be removed, or its folder cannot be synced.
pub fn remove(path: &Path) -> io::Result<()> {
    if fs::symlink_metadata(path).is_err_and(|error| error.kind() == io::ErrorKind::NotFound) {
        return Ok(());
    }
    let disk = Disk::default();
    disk.remove_file(path)?;
    disk.sync_dir(parent(path))
}

/// Overwrites a file and removes it durably. On flash memory the old bytes may still be there.
///
/// # Errors
///
/// If the file is not there, or a step fails.
pub fn wipe(path: &Path) -> io::Result<()> {
    Disk::default().wipe(path)
}

/// Makes a folder and the missing ones above it, and makes their names durable.
///
/// # Errors
///
/// If one cannot be made, or the folder above it cannot be synced.
pub fn create_dirs(path: &Path, mode: u32) -> io::Result<()> {
    Disk::default().create_dirs(path, mode)
}

/// Makes the names in a folder durable.
///
/// # Errors
///
/// If the folder cannot be opened or synced.
pub fn sync_dir(path: &Path) -> io::Result<()> {
    Disk::default().sync_dir(path)
}

/// Opens a file that serves only as a lock; a missing one is made with mode 0600. Nothing is synced, because the file
/// has no content and nobody holds a lock after a power cut. A file that is there is never replaced, as another process
/// may hold its lock.
///
/// # Errors
///
/// If the file cannot be opened, or is a link.
pub fn lock_file(path: &Path) -> io::Result<File> {
    disk::open_or_make(path, PRIVATE)
}

/// The folder that a path is in; `.` for a path that names none.
pub fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

/// Gives a directory the mode 0700 if anybody but its owner may use it.
///
/// # Errors
///
/// If the directory is not there, or its mode must change and cannot.
pub fn keep_private(path: &Path) -> io::Result<()> {
    let mode = fs::metadata(path)?.permissions().mode();
    if mode & 0o077 == 0 { Ok(()) } else { fs::set_permissions(path, fs::Permissions::from_mode(PRIVATE_DIR)) }
}

/// Reads a file of at most `limit` bytes. `None` if it is not there.
///
/// # Errors
///
/// If the file cannot be read, or is longer than `limit` ([`io::ErrorKind::InvalidData`]).
pub fn read_limited(path: &Path, limit: u64) -> io::Result<Option<Vec<u8>>> {
    match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        other => folder::bytes_of(other?, limit).map(Some),
    }
}

#[cfg(test)]
mod tests;
