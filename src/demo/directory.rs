//! Reads a directory that others can write to: regular files only, and nothing outside it.

use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, ensure};

use durable::{Entry, Folder, Links};
use ids::FileName;

/// The most files that are taken from a directory.
const MAX_FILES: usize = 20_000;

/// The most directories below one another, and the most problems that are named one by one.
const MAX_DEPTH: usize = 32;
const MAX_PROBLEMS: usize = 100;

/// A directory whose files are to be read.
#[derive(Debug)]
pub(super) struct Directory {
    /// As it was named.
    named: PathBuf,
    folder: Folder,
}

/// What is in a directory and everything below it.
#[derive(Debug, Default)]
pub(super) struct Listing {
    /// Its regular files, by their path in it.
    pub(super) names: Vec<FileName>,
    /// What else there is, and why it cannot be served.
    pub(super) problems: Vec<String>,
}

impl Directory {
    pub(super) fn open(dir: &Path) -> anyhow::Result<Self> {
        let folder = Folder::open(dir).with_context(|| format!("cannot read {}", dir.display()))?;
        Ok(Self { named: dir.to_owned(), folder })
    }

    /// Finds all files. A link that stays inside is followed. What leads out, is no regular file, cannot be read or has a name
    /// that TFTP cannot carry is a problem, and everything else is still found.
    pub(super) fn list(&self) -> anyhow::Result<Listing> {
        let mut listing = Listing::default();
        match self.entry(Path::new("")).with_context(|| format!("cannot read {}", self.named.display()))? {
            Entry::Folder(folder) => self.walk(Path::new(""), &folder, &mut Vec::new(), &mut listing)?,
            Entry::File(_) => anyhow::bail!("{} is a file, no directory", self.named.display()),
        }
        listing.names.sort();
        Ok(listing)
    }

    /// Opens a file of the directory, by its path in it.
    pub(super) fn file(&self, path: &str) -> io::Result<File> {
        self.folder.file(Path::new(path), Links::Within(Path::new("")))
    }

    fn walk(
        &self,
        below: &Path,
        folder: &File,
        parents: &mut Vec<(u64, u64)>,
        listing: &mut Listing,
    ) -> anyhow::Result<()> {
        let metadata = folder.metadata()?;
        let id = (metadata.dev(), metadata.ino());
        if parents.contains(&id) || parents.len() >= MAX_DEPTH {
            listing.problem(below, &"the directory is inside itself, or too deep");
            return Ok(());
        }
        let entries = match durable::names(folder) {
            Ok(entries) => entries,
            Err(error) if below.as_os_str().is_empty() => return Err(error.into()),
            Err(error) => {
                listing.problem(below, &error);
                return Ok(());
            }
        };
        parents.push(id);
        for entry in entries {
            let path = match entry {
                Ok(entry) => below.join(entry.file_name()),
                Err(error) => {
                    listing.problem(below, &error);
                    continue;
                }
            };
            match self.entry(&path) {
                Ok(Entry::Folder(folder)) => self.walk(&path, &folder, parents, listing)?,
                Ok(Entry::File(_)) => match path.to_str().map(str::parse::<FileName>) {
                    Some(Ok(name)) if Path::new(name.as_str()) == path => listing.names.push(name),
                    Some(Err(error)) => listing.problem(&path, &format!("no name for TFTP: {error}")),
                    _ => listing.problem(&path, &"no name for TFTP"),
                },
                Err(error) => listing.problem(&path, &error),
            }
            let found = listing.names.len() + listing.problems.len();
            ensure!(found <= MAX_FILES, "{} has over {MAX_FILES} files", self.named.display());
        }
        parents.pop();
        Ok(())
    }

    fn entry(&self, path: &Path) -> io::Result<Entry> {
        self.folder.entry(path, Links::Within(Path::new("")))
    }
}

impl Listing {
    fn problem(&mut self, path: &Path, what: &dyn std::fmt::Display) {
        if self.problems.len() < MAX_PROBLEMS {
            let text = format!("{}: {what}", path.display());
            // A name may hold what a terminal obeys.
            self.problems.push(text.chars().map(|one| if one.is_control() { '?' } else { one }).collect());
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::fs;
    use std::os::unix::fs::symlink;
    use std::os::unix::net::UnixListener;

    use nix::sys::stat::Mode;

    use super::*;

    #[test]
    fn regular_files_are_found_and_everything_else_is_named() {
        let outside = tempfile::tempdir().unwrap();
        fs::write(outside.path().join("shadow"), "secret").unwrap();
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        fs::create_dir(at("tones")).unwrap();
        fs::write(at("tones/ring.raw"), "ring").unwrap();
        fs::write(at("a.cfg"), "a").unwrap();
        symlink("a.cfg", at("b.cfg")).unwrap();
        symlink("tones", at("sounds")).unwrap();
        symlink(outside.path().join("shadow"), at("out.cfg")).unwrap();
        symlink(outside.path(), at("folder-out")).unwrap();
        symlink("../..", at("tones/up")).unwrap();
        symlink("..", at("tones/loop")).unwrap();
        symlink("nowhere", at("broken.cfg")).unwrap();
        symlink("circle", at("circle")).unwrap();
        nix::unistd::mkfifo(&at("fifo.cfg"), Mode::S_IRWXU).unwrap();
        symlink("fifo.cfg", at("to-fifo.cfg")).unwrap();
        symlink("/dev/zero", at("zero.cfg")).unwrap();
        let _socket = UnixListener::bind(at("socket.cfg")).unwrap();

        let directory = Directory::open(dir.path()).unwrap();
        let Listing { names, problems } = directory.list().unwrap();
        let names: Vec<_> = names.iter().map(FileName::as_str).collect();
        assert_eq!(names, ["a.cfg", "b.cfg", "sounds/ring.raw", "tones/ring.raw"]);
        for (name, what) in [
            ("out.cfg", "leads out"),
            ("folder-out", "leads out"),
            ("tones/up", "leads out"),
            ("sounds/up", "leads out"),
            ("tones/loop", "inside itself"),
            ("broken.cfg", "leads nowhere"),
            ("circle", "symbolic link"),
            ("fifo.cfg", "a FIFO"),
            ("to-fifo.cfg", "a FIFO"),
            ("zero.cfg", "leads out"),
            ("socket.cfg", "a socket"),
        ] {
            let named =
                problems.iter().any(|problem| problem.starts_with(&format!("{name}: ")) && problem.contains(what));
            assert!(named, "{name}: {problems:#?}");
        }
        assert_eq!(problems.len(), 12, "{problems:#?}");
        assert_eq!(io::read_to_string(directory.file("b.cfg").unwrap()).unwrap(), "a");
        for name in ["out.cfg", "fifo.cfg", "tones", "../x"] {
            assert!(directory.file(name).is_err(), "{name}");
        }
    }

    #[test]
    fn names_of_files_do_not_reach_the_terminal_as_commands() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("a\u{1b}[2J\n\u{9b}b.cfg"), "a").unwrap();
        let listing = Directory::open(dir.path()).unwrap().list().unwrap();
        let [problem] = &listing.problems[..] else { panic!("{:?}", listing.problems) };
        assert!(problem.starts_with("a?[2J??b.cfg: ") && !problem.chars().any(char::is_control), "{problem:?}");
    }

    #[test]
    fn a_link_as_the_directory_itself_is_followed() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("real")).unwrap();
        fs::write(dir.path().join("real/a.cfg"), "a").unwrap();
        symlink("real", dir.path().join("link")).unwrap();
        let listing = Directory::open(&dir.path().join("link")).unwrap().list().unwrap();
        assert_eq!((listing.names.len(), listing.problems.len()), (1, 0));
    }
}
