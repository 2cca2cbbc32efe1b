//! Reads a folder that others can write to, too: regular files only, and nothing outside it.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _};
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::{FileTypeExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use nix::fcntl::OFlag;

/// A folder whose content others chose: somebody's commit, an upload, a host that was broken into. A link in it that leads
/// elsewhere, a FIFO or a device is an error and is never read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Folder {
    /// Where it really is, after all links.
    real: PathBuf,
}

/// What a symbolic link in a [`Folder`] may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Links<'a> {
    /// Nothing: no part of a path may be a link.
    Refused,
    /// It may lead to anything inside this part of the folder, of which no part may be a link.
    Within(&'a Path),
}

/// Something in a [`Folder`], opened.
#[derive(Debug)]
pub enum Entry {
    /// A regular file, open for reading.
    File(File),
    /// A folder, which [`names`] lists.
    Folder(File),
}

impl Folder {
    /// A folder by its path, which may itself be or lead through links.
    ///
    /// # Errors
    ///
    /// If there is nothing at the path.
    pub fn open(path: &Path) -> io::Result<Self> {
        let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
        fs::canonicalize(path).map(|real| Self { real })
    }

    /// Opens what is at this path in the folder. `O_PATH` opens without doing anything: a FIFO does not wait and a device does
    /// not act. Only what was found to be a regular file inside is opened for reading, by its descriptor, so nobody can put
    /// something else in its place meanwhile.
    ///
    /// # Errors
    ///
    /// If nothing is there ([`io::ErrorKind::NotFound`]), or what is there is no regular file and no folder, or is reached
    /// through a link that `links` does not allow.
    pub fn entry(&self, path: &Path, links: Links<'_>) -> io::Result<Entry> {
        let place =
            OpenOptions::new().read(true).custom_flags((OFlag::O_PATH | OFlag::O_CLOEXEC).bits()).open(self.at(path));
        let place = match place {
            Err(error) if error.kind() == io::ErrorKind::NotFound && self.is_link(path) => {
                return Err(io::Error::other("the link leads nowhere"));
            }
            other => other?,
        };
        let kind = place.metadata()?.file_type();
        let real = fs::read_link(path_of(&place))?;
        let what = match links {
            Links::Refused if real != self.at(path) => "a link, no regular file",
            Links::Within(part) if !real.starts_with(self.at(part)) => "a link that leads out of the directory",
            _ if kind.is_dir() => return Ok(Entry::Folder(place)),
            _ if kind.is_file() => {
                let options = (OFlag::O_NONBLOCK | OFlag::O_CLOEXEC).bits();
                return OpenOptions::new().read(true).custom_flags(options).open(path_of(&place)).map(Entry::File);
            }
            _ if kind.is_fifo() => "a FIFO, no regular file",
            _ if kind.is_socket() => "a socket, no regular file",
            _ => "a device, no regular file",
        };
        Err(io::Error::other(what))
    }

    /// Opens a regular file.
    ///
    /// # Errors
    ///
    /// As [`Folder::entry`], and if it is a folder.
    pub fn file(&self, path: &Path, links: Links<'_>) -> io::Result<File> {
        match self.entry(path, links)? {
            Entry::File(file) => Ok(file),
            Entry::Folder(_) => Err(io::Error::other("it is a directory")),
        }
    }

    /// Reads a regular file of at most `limit` bytes.
    ///
    /// # Errors
    ///
    /// As [`Folder::file`], and if it cannot be read or is longer ([`io::ErrorKind::InvalidData`]).
    pub fn read(&self, path: &Path, links: Links<'_>, limit: u64) -> io::Result<Vec<u8>> {
        bytes_of(self.file(path, links)?, limit)
    }

    fn at(&self, path: &Path) -> PathBuf {
        // Without a part, `join` would add a slash.
        if path.as_os_str().is_empty() { self.real.clone() } else { self.real.join(path) }
    }

    fn is_link(&self, path: &Path) -> bool {
        fs::symlink_metadata(self.at(path)).is_ok_and(|found| found.is_symlink())
    }
}

/// The names in a folder that [`Folder::entry`] opened, in no order, and `.` and `..` not among them.
///
/// # Errors
///
/// If the folder cannot be read.
pub fn names(folder: &File) -> io::Result<fs::ReadDir> {
    fs::read_dir(path_of(folder))
}

/// Opens a regular file for reading. The path's last part may not be a link, a FIFO or a device.
///
/// # Errors
///
/// If the file is not there ([`io::ErrorKind::NotFound`]) or is no regular file.
pub fn regular_file(path: &Path) -> io::Result<File> {
    let options = (OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC).bits();
    let file = OpenOptions::new().read(true).custom_flags(options).open(path).map_err(|error| {
        let link = fs::symlink_metadata(path).is_ok_and(|found| found.is_symlink());
        if link { io::Error::other("a link, no regular file") } else { error }
    })?;
    if file.metadata()?.is_file() { Ok(file) } else { Err(io::Error::other("no regular file")) }
}

/// Reads a regular file of at most `limit` bytes, by [`regular_file`].
///
/// # Errors
///
/// As [`regular_file`], and if it cannot be read or is longer ([`io::ErrorKind::InvalidData`]).
pub fn read_regular(path: &Path, limit: u64) -> io::Result<Vec<u8>> {
    bytes_of(regular_file(path)?, limit)
}

/// Whether there is a regular file with exactly these bytes.
pub fn holds(path: &Path, bytes: &[u8]) -> bool {
    read_regular(path, bytes.len() as u64).is_ok_and(|there| there == bytes)
}

/// All bytes of a file, which may be at most `limit`.
pub(crate) fn bytes_of(file: File, limit: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    file.take(limit.saturating_add(1)).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > limit {
        return Err(io::Error::new(io::ErrorKind::InvalidData, format!("it is over {limit} bytes")));
    }
    Ok(bytes)
}

/// The path that leads to what a descriptor has open, wherever that has been moved.
fn path_of(file: &File) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::os::unix::fs::symlink;

    use nix::sys::stat::Mode;

    use super::*;

    const NONE: Links<'_> = Links::Refused;

    /// A folder `fleet` with `files/a.cfg`, a key beside `files`, and a secret outside.
    fn fleet() -> (tempfile::TempDir, Folder) {
        let dir = tempfile::tempdir().unwrap();
        let fleet = dir.path().join("fleet");
        for folder in ["files/tones", "keys"] {
            fs::create_dir_all(fleet.join(folder)).unwrap();
        }
        for (name, text) in [("files/a.cfg", "a"), ("files/tones/r.raw", "ring"), ("keys/root-1.key", "key")] {
            fs::write(fleet.join(name), text).unwrap();
        }
        fs::write(dir.path().join("shadow"), "secret").unwrap();
        let folder = Folder::open(&fleet).unwrap();
        (dir, folder)
    }

    fn told(folder: &Folder, path: &str, links: Links<'_>) -> String {
        match folder.read(Path::new(path), links, 100) {
            Ok(bytes) => String::from_utf8(bytes).unwrap(),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn a_link_leads_only_where_links_may_lead() {
        let (dir, folder) = fleet();
        let at = |name: &str| dir.path().join("fleet").join(name);
        symlink("a.cfg", at("files/b.cfg")).unwrap();
        symlink("tones", at("files/sounds")).unwrap();
        symlink("../keys/root-1.key", at("files/notes.cfg")).unwrap();
        symlink("../keys", at("files/all")).unwrap();
        symlink(dir.path().join("shadow"), at("files/s.txt")).unwrap();
        symlink("nowhere", at("files/dangling.xml")).unwrap();
        symlink("/proc/self/environ", at("files/environ")).unwrap();
        symlink("keys", at("sites")).unwrap();
        let files = Links::Within(Path::new("files"));
        let out = "a link that leads out of the directory";
        for (path, links, expected) in [
            ("files/a.cfg", NONE, "a"),
            ("files/b.cfg", NONE, "a link, no regular file"),
            ("files/b.cfg", files, "a"),
            ("files/sounds/r.raw", files, "ring"),
            ("files/sounds/r.raw", NONE, "a link, no regular file"),
            ("files/notes.cfg", files, out),
            ("files/all/root-1.key", files, out),
            ("files/s.txt", files, out),
            ("files/environ", files, out),
            ("files/../keys/root-1.key", files, out),
            ("files/dangling.xml", files, "the link leads nowhere"),
            ("sites/root-1.key", NONE, "a link, no regular file"),
            ("../shadow", NONE, "a link, no regular file"),
        ] {
            assert_eq!(told(&folder, path, links), expected, "{path}");
        }
        // The part in which links may lead around is no link itself.
        fs::rename(at("files"), at("old")).unwrap();
        symlink("keys", at("files")).unwrap();
        assert_eq!(told(&folder, "files/root-1.key", files), out);
    }

    #[test]
    fn what_is_no_regular_file_is_never_waited_for() {
        let (dir, folder) = fleet();
        let fifo = dir.path().join("fleet/files/fifo.cfg");
        nix::unistd::mkfifo(&fifo, Mode::S_IRWXU).unwrap();
        assert_eq!(told(&folder, "files/fifo.cfg", NONE), "a FIFO, no regular file");
        assert_eq!(told(&folder, "files", NONE), "it is a directory");
        assert_eq!(read_regular(&fifo, 10).unwrap_err().to_string(), "no regular file");
        assert_eq!(read_regular(dir.path(), 10).unwrap_err().to_string(), "no regular file");
        assert_eq!(folder.file(Path::new("files/none"), NONE).unwrap_err().kind(), io::ErrorKind::NotFound);
        assert_eq!(read_regular(&dir.path().join("none"), 10).unwrap_err().kind(), io::ErrorKind::NotFound);
        symlink("shadow", dir.path().join("link")).unwrap();
        assert_eq!(read_regular(&dir.path().join("link"), 10).unwrap_err().to_string(), "a link, no regular file");
        assert_eq!(read_regular(&dir.path().join("shadow"), 6).unwrap(), b"secret");
        assert!(holds(&dir.path().join("shadow"), b"secret") && !holds(&dir.path().join("link"), b"secret"));
        assert!(!holds(&dir.path().join("shadow"), b"secre") && !holds(&fifo, b""));
        assert_eq!(read_regular(&dir.path().join("shadow"), 5).unwrap_err().to_string(), "it is over 5 bytes");
    }
}
