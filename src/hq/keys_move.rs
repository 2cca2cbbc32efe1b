//! `keys move`: takes `keys/` away from `online/`. A link stays behind, so that every command finds the keys.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, anyhow, bail, ensure};

use durable::{PRIVATE, PRIVATE_DIR, SHARED};
use repository::layout::Layout;
use telemetry::Hint as _;
use zeroize::Zeroizing;

/// The largest file in `keys/` that is moved to another file system.
const MAX_KEY_BYTES: u64 = 1024 * 1024;
/// How deep `keys/` is: `keys/tokens/`.
const MAX_DEPTH: usize = 3;
/// What `keys/` is called while its copy takes its place.
const LEAVING: &str = ".keys-leaving";

/// Moves `keys/` to a directory that must not exist or be empty. Returns the directory.
pub(crate) fn move_keys(layout: &Layout, to: &Path) -> anyhow::Result<PathBuf> {
    let keys = layout.keys();
    let leaving = layout.dir().join(LEAVING);
    if leaving.exists() && fs::symlink_metadata(&keys).is_err() {
        // A run before this one was interrupted between the two names.
        durable::rename(&leaving, &keys).context("cannot go back to keys/")?;
    }
    let from = keys.canonicalize().with_context(|| format!("cannot find {}", keys.display()))?;
    ensure!(from.is_dir(), "{} is no directory", from.display());
    let parent = durable::parent(to);
    durable::create_dirs(parent, PRIVATE_DIR).with_context(|| format!("cannot make {}", parent.display()))?;
    let parent = parent.canonicalize().with_context(|| format!("cannot find {}", parent.display()))?;
    let to = parent.join(to.file_name().context("name the directory that the keys go to")?);
    let fleet = layout.dir().canonicalize().context("cannot find the fleet directory")?;
    if to.starts_with(&fleet) {
        return Err(anyhow!("{} is in the fleet directory, beside online/", to.display())
            .hint("name a directory elsewhere: on a medium of its own, or below one that only you may enter"));
    }
    match fs::read_dir(&to) {
        Ok(entries) => {
            ensure!(entries.count() == 0, "{} is not empty", to.display());
            fs::remove_dir(&to).with_context(|| format!("cannot use {}", to.display()))?;
        }
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        Err(error) => return Err(error).with_context(|| format!("cannot look into {}", to.display())),
    }
    ignore_link(layout)?;
    match durable::rename(&from, &to) {
        Ok(()) => {
            if keys != from {
                drop(fs::remove_file(&keys));
            }
        }
        Err(error) if error.kind() == ErrorKind::CrossesDevices => {
            copy(&from, &to, 0)?;
            let old = if fs::symlink_metadata(&keys).is_ok_and(|found| found.is_symlink()) {
                fs::remove_file(&keys).context("cannot replace the link to the keys")?;
                from
            } else {
                durable::rename(&keys, &leaving).context("cannot set keys/ aside")?;
                leaving
            };
            point(layout, &keys, &to)?;
            wipe(&old, 0)?;
            durable::keep_private(&to)?;
            return Ok(to);
        }
        Err(error) => return Err(error).with_context(|| format!("cannot move the keys to {}", to.display())),
    }
    point(layout, &keys, &to)?;
    durable::keep_private(&to)?;
    Ok(to)
}

/// Leaves the link to the keys.
fn point(layout: &Layout, keys: &Path, to: &Path) -> anyhow::Result<()> {
    symlink(to, keys)
        .and_then(|()| durable::sync_dir(layout.dir()))
        .with_context(|| format!("the keys are in {}, but {} cannot point to them", to.display(), keys.display()))
}

/// Git ignores `keys/`, which is no pattern for a link.
fn ignore_link(layout: &Layout) -> anyhow::Result<()> {
    let path = layout.dir().join(".gitignore");
    let mut text = match fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == ErrorKind::NotFound => String::new(),
        Err(error) => return Err(error).context("cannot read .gitignore"),
    };
    if text.lines().any(|line| line.trim() == "/keys") {
        return Ok(());
    }
    if !text.is_empty() && !text.ends_with('\n') {
        text.push('\n');
    }
    text.push_str("# Where the offline keys are.\n/keys\n");
    durable::replace(&path, text.as_bytes(), SHARED).context("cannot write .gitignore")
}

fn copy(from: &Path, to: &Path, depth: usize) -> anyhow::Result<()> {
    ensure!(depth < MAX_DEPTH, "{} is too deep for keys", from.display());
    durable::create_dirs(to, PRIVATE_DIR).with_context(|| format!("cannot make {}", to.display()))?;
    for entry in fs::read_dir(from).with_context(|| format!("cannot list {}", from.display()))? {
        let entry = entry.with_context(|| format!("cannot list {}", from.display()))?;
        let (path, copy_path) = (entry.path(), to.join(entry.file_name()));
        let kind = entry.file_type().with_context(|| format!("cannot look at {}", path.display()))?;
        if kind.is_dir() {
            copy(&path, &copy_path, depth + 1)?;
        } else if kind.is_file() {
            let bytes = durable::read_regular(&path, MAX_KEY_BYTES).map(Zeroizing::new);
            let bytes = bytes.with_context(|| format!("cannot read {}", path.display()))?;
            durable::create_new(&copy_path, &bytes, PRIVATE)
                .with_context(|| format!("cannot write {}", copy_path.display()))?;
            ensure!(durable::holds(&copy_path, &bytes), "{} is not what was written", copy_path.display());
        } else {
            bail!("{} is neither a file nor a directory", path.display());
        }
    }
    Ok(())
}

fn wipe(dir: &Path, depth: usize) -> anyhow::Result<()> {
    ensure!(depth < MAX_DEPTH, "{} is too deep for keys", dir.display());
    for entry in fs::read_dir(dir).with_context(|| format!("cannot list {}", dir.display()))? {
        let entry = entry.with_context(|| format!("cannot list {}", dir.display()))?;
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            wipe(&entry.path(), depth + 1)?;
        } else {
            durable::wipe(&entry.path()).with_context(|| format!("cannot wipe {}", entry.path().display()))?;
        }
    }
    fs::remove_dir(dir).with_context(|| format!("cannot remove {}", dir.display()))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::testing::sample;
    use online::foreign_keys;

    #[test]
    fn moved_keys_are_not_beside_online_any_more_and_every_command_finds_them() {
        let sample = sample();
        let away = tempfile::tempdir().unwrap();
        let before = foreign_keys::readable(&sample.layout.online());
        assert!(before.beside.len() > 5 && before.moved.is_empty(), "{before:?}");
        let to = move_keys(&sample.layout, &away.path().join("acme-keys")).unwrap();
        let after = foreign_keys::readable(&sample.layout.online());
        assert!(after.beside.is_empty() && after.moved.len() == before.beside.len(), "{after:?}");
        assert!(crate::publish::publisher_secret(&sample.layout).is_ok());
        assert!(to.join("release.key").is_file());
        assert!(sample.read(".gitignore").lines().any(|line| line == "/keys"));
        // And once more, to yet another place.
        let again = move_keys(&sample.layout, &away.path().join("other")).unwrap();
        assert!(again.join("release.key").is_file() && !to.exists());
        assert_eq!(sample.read(".gitignore").lines().filter(|line| *line == "/keys").count(), 1);
    }

    #[test]
    fn keys_go_neither_into_the_fleet_directory_nor_among_other_files() {
        let sample = sample();
        let inside = sample.layout.dir().join("elsewhere");
        assert!(move_keys(&sample.layout, &inside).unwrap_err().to_string().contains("in the fleet directory"));
        let full = tempfile::tempdir().unwrap();
        fs::write(full.path().join("letter"), "mine").unwrap();
        assert!(move_keys(&sample.layout, full.path()).unwrap_err().to_string().contains("is not empty"));
        assert!(sample.layout.key("release").is_file());
    }

    #[test]
    fn a_copy_to_another_file_system_has_every_byte_and_the_old_one_is_wiped() {
        let sample = sample();
        let away = tempfile::tempdir().unwrap();
        let key = fs::read(sample.layout.key("release")).unwrap();
        copy(&sample.layout.keys(), &away.path().join("keys"), 0).unwrap();
        assert_eq!(fs::read(away.path().join("keys/release.key")).unwrap(), key);
        wipe(&sample.layout.keys(), 0).unwrap();
        assert!(!sample.layout.keys().exists());
    }
}
