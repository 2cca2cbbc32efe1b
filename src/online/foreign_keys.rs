//! Keys that are not this host's own and that this process can read. HQ's host can neither read nor forge releases as long
//! as there are none.

use std::fs::{self, File};
use std::io::Read as _;
use std::path::{Path, PathBuf};

use anyhow::Context as _;

use durable::PUBLIC;

/// The keys that `serve` has to have, in `online/`.
const OWN: [&str; 3] = ["online.key", "ca.key", "server.key"];
/// What `init` puts into `keys/`.
const KNOWN: [&str; 10] = [
    "root-1.key",
    "root-2.key",
    "root-3.key",
    "firmware-1.key",
    "firmware-2.key",
    "firmware-3.key",
    "release.key",
    "publisher.key",
    "recovery.key",
    "secrets.key",
];
/// The file in `online/` by which a set-up is known that was made with its keys apart in mind.
const MARK: &str = "keys-apart.toml";
const MARK_TEXT: &str =
    "# `lineside-hq serve` does not start while it can read the fleet's own keys, unless --keys-here is said.\n";
/// How a file encrypted with a passphrase begins. Who reads it has no key yet.
const ENCRYPTED: &[u8] = b"-----BEGIN AGE ENCRYPTED FILE-----";

/// What was found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ForeignKeys {
    /// The keys beside `online/`, and those that do not belong in it.
    pub beside: Vec<PathBuf>,
    /// Keys that `keys move` took elsewhere, and that this user can read there.
    pub moved: Vec<PathBuf>,
}

/// Looks for keys that this process can read: in `keys/` beside this `online/` directory, where its link leads, and in the
/// directory itself.
pub fn readable(online: &Path) -> ForeignKeys {
    let online = online.canonicalize().unwrap_or_else(|_| online.to_owned());
    let keys = durable::parent(&online).join("keys");
    let moved = fs::symlink_metadata(&keys).is_ok_and(|found| found.is_symlink());
    // A folder that cannot be listed may still be entered, and `init` gives every fleet's keys the same names.
    let known = KNOWN.iter().map(|name| keys.join(name));
    let mut found: Vec<PathBuf> = names(&keys, "key").chain(names(&keys.join("tokens"), "toml")).chain(known).collect();
    found.sort();
    found.dedup();
    found.retain(|path| is_clear(path));
    let strays = names(&online, "key")
        .filter(|path| !path.file_name().is_some_and(|name| OWN.iter().any(|own| name == *own)))
        .filter(|path| is_clear(path));
    let mut all = ForeignKeys { beside: strays.collect(), moved: Vec::new() };
    if moved {
        all.moved = found
    } else {
        all.beside.splice(0..0, found);
    }
    all
}

/// Whether this `online/` directory was made by a version whose `serve` refuses to start beside keys.
pub fn is_kept_apart(online: &Path) -> bool {
    online.join(MARK).exists()
}

/// Marks a new `online/` directory so.
pub fn keep_apart(online: &Path) -> anyhow::Result<()> {
    let path = online.join(MARK);
    durable::replace(&path, MARK_TEXT.as_bytes(), PUBLIC).with_context(|| format!("cannot write {}", path.display()))
}

/// The files of a folder with this extension, in the order of their names; none if it cannot be listed.
fn names(folder: &Path, extension: &'static str) -> impl Iterator<Item = PathBuf> + use<> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
    let mut found: Vec<PathBuf> =
        entries.filter(|path| path.extension().is_some_and(|found| found == extension)).collect();
    found.sort();
    found.into_iter()
}

/// Whether this process can read the file, and it is not encrypted.
fn is_clear(path: &Path) -> bool {
    let Ok(file) = File::open(path) else { return false };
    let mut begin = Vec::new();
    let read = file.take(ENCRYPTED.len() as u64).read_to_end(&mut begin);
    read.is_ok() && begin != ENCRYPTED
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn fleet() -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let online = dir.path().canonicalize().unwrap().join("online");
        fs::create_dir(&online).unwrap();
        for own in OWN {
            fs::write(online.join(own), "own").unwrap();
        }
        (dir, online)
    }

    #[test]
    fn a_host_that_has_its_own_keys_alone_finds_none() {
        let (_dir, online) = fleet();
        assert_eq!(readable(&online), ForeignKeys::default());
    }

    #[test]
    fn each_key_beside_it_is_found_but_an_encrypted_one() {
        let (_dir, online) = fleet();
        let keys = online.with_file_name("keys");
        fs::create_dir_all(keys.join("tokens")).unwrap();
        for name in ["release.key", "tokens/0011.toml"] {
            fs::write(keys.join(name), "secret").unwrap();
        }
        fs::write(keys.join("root-1.key"), [ENCRYPTED, b"\n..."].concat()).unwrap();
        fs::write(online.join("publisher.key"), "secret").unwrap();
        let beside = ["../keys/release.key", "../keys/tokens/0011.toml", "publisher.key"];
        let beside: Vec<PathBuf> = beside
            .iter()
            .map(|name| name.strip_prefix("../").map_or_else(|| online.join(name), |name| online.with_file_name(name)))
            .collect();
        assert_eq!(readable(&online), ForeignKeys { beside, moved: Vec::new() });
    }

    #[test]
    fn keys_that_were_moved_are_found_where_they_are() {
        let (dir, online) = fleet();
        let away = dir.path().join("away");
        fs::create_dir(&away).unwrap();
        fs::write(away.join("release.key"), "secret").unwrap();
        std::os::unix::fs::symlink(&away, online.with_file_name("keys")).unwrap();
        let found = readable(&online);
        assert_eq!((found.beside.len(), found.moved.len()), (0, 1));
    }
}
