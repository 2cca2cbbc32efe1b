//! The one way to write a file that survives a power cut.
//!
//! | what a caller has | what it calls | after a power cut there is |
//! |---|---|---|
//! | a file that must not exist yet: a key, a token | [`create_new`] | the file; or nothing anybody was told of |
//! | a file that is written again and again | [`replace`] | the old content or the new one, whole |
//! | the same in two steps | [`prepare`], then [`rename`] | the same |
//! | content that is too large for memory | [`aside`], then [`Aside::put_in_place`] | the same |
//! | many files at the price of one | [`Batch`] | after [`Batch::sync`] all of them |
//! | a test that fails or records single steps | [`Disk::hooked`] | |
//!
//! A file is synced before it gets its name, and the folder after that. A folder that is made is synced into the one
//! above it.
//!
//! **Files that are being written** are called `.NAME.new`, beside the file NAME. They are made with `O_EXCL`, never opened: a
//! link under that name is not followed. What lies there is removed first: it is what a crash left, or what somebody
//! planted who may write in the folder. If it cannot be removed (a directory; another user's file in a folder with the
//! sticky bit), the new file gets a name that nobody can guess. Two writers of one file need a lock between them; without
//! one the slower of the two fails and nothing of it is seen.
//!
//! **Modes** are an argument and, as for every new file, less the umask.
//!
//! Read `disk` (single steps), `aside`, `batch`.

#![cfg_attr(test, allow(clippy::disallowed_methods, reason = "tests make and break files as they like"))]

mod aside;
mod batch;
mod disk;

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

pub use aside::Aside;
pub use batch::Batch;
pub use disk::{Disk, DiskFile, Hook, Op};

/// For the owner alone: keys, tokens, state.
pub const PRIVATE: u32 = 0o600;
/// Everybody may read, the owner may write.
pub const PUBLIC: u32 = 0o644;
/// Whoever the umask lets: what people edit, alone or as a group.
pub const SHARED: u32 = 0o666;
/// A folder for the owner alone.
pub const PRIVATE_DIR: u32 = 0o700;
/// A folder for whoever the umask lets.
pub const SHARED_DIR: u32 = 0o777;

/// Writes a file that must not exist yet, not even as a link, and makes it and its name durable.
///
/// It is written under its own name, so that a secret is never under a name that nobody knows. A power cut in the middle
/// can leave it in part, which its reader reports; any other failure leaves no file.
///
/// # Errors
///
/// [`io::ErrorKind::AlreadyExists`] if something has that name.
pub fn create_new(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    Disk::default().create_new(path, bytes, mode)
}

/// Makes an empty file, durably, unless something has that name: for a database, which writes it itself.
///
/// # Errors
///
/// If it is not there and cannot be made.
pub fn ensure(path: &Path, mode: u32) -> io::Result<()> {
    match create_new(path, &[], mode) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        other => other,
    }
}

/// Makes `path` hold `bytes` durably, or leaves it as it was. A link of that name is replaced, not followed.
///
/// # Errors
///
/// If a step fails; then nothing has changed, unless only the last one failed, the sync of the folder.
pub fn replace(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    Disk::default().replace(path, bytes, mode)
}

/// The first half of [`replace`]: writes and syncs the new content under the name that is returned. The second is
/// [`rename`].
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

/// Begins to write what shall replace `path`.
///
/// # Errors
///
/// If no file can be made beside it.
pub fn aside(path: &Path, mode: u32) -> io::Result<Aside> {
    Disk::default().aside(path, mode)
}

/// Renames a file or folder, replacing a file of the new name, and makes that durable.
///
/// # Errors
///
/// If it cannot be renamed or a folder cannot be synced.
pub fn rename(from: &Path, to: &Path) -> io::Result<()> {
    rename_on(&Disk::default(), from, to)
}

fn rename_on(disk: &Disk, from: &Path, to: &Path) -> io::Result<()> {
    disk.rename(from, to)?;
    disk.sync_dir(parent(to))?;
    if parent(from) == parent(to) { Ok(()) } else { disk.sync_dir(parent(from)) }
}

/// Removes a file for good: it does not come back with a power cut. That it is not there is fine.
///
/// # Errors
///
/// If it cannot be removed or the folder cannot be synced.
pub fn remove(path: &Path) -> io::Result<()> {
    if fs::symlink_metadata(path).is_err_and(|error| error.kind() == io::ErrorKind::NotFound) {
        return Ok(());
    }
    let disk = Disk::default();
    disk.remove_file(path)?;
    disk.sync_dir(parent(path))
}

/// Overwrites a file and removes it for good. On flash the old bytes may live on.
///
/// # Errors
///
/// If it is not there, or a step fails.
pub fn wipe(path: &Path) -> io::Result<()> {
    Disk::default().wipe(path)
}

/// Makes a folder and those above it, as far as they are missing, and makes their names durable.
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
/// If it cannot be opened or synced.
pub fn sync_dir(path: &Path) -> io::Result<()> {
    Disk::default().sync_dir(path)
}

/// Opens a file that is there to be locked, made (0600) if it is absent. Nothing is synced: it has no content, and after a
/// power cut nobody holds a lock. It is not made anew either, as others may hold the one that is there.
///
/// # Errors
///
/// If it cannot be opened, or is a link.
pub fn lock_file(path: &Path) -> io::Result<File> {
    disk::open_or_make(path, PRIVATE)
}

/// The folder of a path that has one.
pub fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

/// Makes sure that nobody else may look into a directory.
///
/// # Errors
///
/// If it is not there, or its mode is wrong and cannot be changed.
pub fn keep_private(path: &Path) -> io::Result<()> {
    let mode = fs::metadata(path)?.permissions().mode();
    if mode & 0o077 == 0 { Ok(()) } else { fs::set_permissions(path, fs::Permissions::from_mode(PRIVATE_DIR)) }
}

/// Reads a file of at most `limit` bytes; `None` if it is not there.
///
/// # Errors
///
/// If it cannot be read, or is longer ([`io::ErrorKind::InvalidData`]).
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

#[cfg(test)]
mod tests;
