//! Who owns what lies in `online/`. `serve` runs as a user of its own there, and root may publish beside it. What root
//! writes is given to that user, so that `serve` can renew it.

use std::fs::{self, File};
use std::io::ErrorKind;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::{MetadataExt as _, chown};
use std::path::{Path, PathBuf};

use anyhow::Context as _;

use durable::{Entry, Folder, Links};

/// How deep `online/` is: `public/sites/SITE/metadata/FILE`.
const MAX_DEPTH: usize = 6;

/// Gives what root owns in `online/` to the directory's owner. Without root's rights, or if root owns the directory, it
/// does nothing.
///
/// # Errors
///
/// If something cannot be looked at or given away.
pub fn follow(online: &Path) -> anyhow::Result<()> {
    let Some((owner, group)) = owner(online) else { return Ok(()) };
    if owner == 0 || us() != Some(0) {
        return Ok(());
    }
    let dir = Folder::open(online).with_context(|| format!("cannot open {}", online.display()))?;
    walk(&dir, Path::new(""), &mut |path, found| {
        let metadata = found.metadata()?;
        // A second name of a file may be anywhere, so only what has one is given away.
        if metadata.uid() == 0 && (metadata.is_dir() || metadata.nlink() == 1) {
            // The descriptor is what was looked at, whatever is at the path by now.
            chown(format!("/proc/self/fd/{}", found.as_raw_fd()), Some(owner), Some(group))
                .with_context(|| format!("cannot give {} to the owner of {}", path.display(), online.display()))?;
        }
        Ok(true)
    })
}

/// Gives an `online/` that root has just made to the owner of the directory above; [`follow`] does the rest.
///
/// # Errors
///
/// If it cannot be given away.
pub fn begin(online: &Path) -> anyhow::Result<()> {
    match owner(durable::parent(online)) {
        Some((above, group)) if above != 0 && us() == Some(0) => chown(online, Some(above), Some(group))
            .with_context(|| format!("cannot give {} to the owner of the directory above", online.display())),
        _ => Ok(()),
    }
}

/// A folder of the published tree that is not its owner's, so that `serve` cannot renew what is in it; `None` if all are.
pub fn foreign(online: &Path) -> Option<PathBuf> {
    let (owner, _) = owner(online)?;
    let dir = Folder::open(online).ok()?;
    let mut foreign = None;
    let looked = walk(&dir, Path::new("public/sites"), &mut |path, found| {
        let metadata = found.metadata()?;
        if metadata.is_dir() && metadata.uid() != owner {
            foreign = Some(online.join(path));
        }
        Ok(foreign.is_none() && path.components().count() < 4)
    });
    looked.ok().and(foreign)
}

fn owner(online: &Path) -> Option<(u32, u32)> {
    fs::metadata(online).ok().map(|found| (found.uid(), found.gid()))
}

/// The user that this process runs as.
fn us() -> Option<u32> {
    fs::metadata("/proc/self").ok().map(|found| found.uid())
}

/// Calls `act` for the folder and all that is below it, as far as `act` says that it goes deeper. Links are left out.
fn walk(dir: &Folder, path: &Path, act: &mut dyn FnMut(&Path, &File) -> anyhow::Result<bool>) -> anyhow::Result<()> {
    let found = match dir.entry(path, Links::Refused) {
        Ok(found) => found,
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::Other) => return Ok(()),
        Err(error) => return Err(error).with_context(|| format!("cannot look at {}", path.display())),
    };
    match found {
        Entry::File(file) => act(path, &file).map(drop),
        Entry::Folder(folder) => {
            if !act(path, &folder)? || path.components().count() >= MAX_DEPTH {
                return Ok(());
            }
            let names = durable::names(&folder).with_context(|| format!("cannot list {}", path.display()))?;
            for name in names {
                let name = name.with_context(|| format!("cannot list {}", path.display()))?.file_name();
                walk(dir, &path.join(name), act)?;
            }
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn what_root_wrote_is_given_to_the_owner_of_the_tree_and_nothing_through_a_link() {
        if us() != Some(0) {
            eprintln!("skipped: this test needs root");
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let online = dir.path().join("online");
        let metadata = online.join("public/sites/s-1/metadata");
        fs::create_dir_all(&metadata).unwrap();
        for name in ["timestamp.json", "other"] {
            fs::write(metadata.join(name), "x").unwrap();
        }
        let outside = dir.path().join("outside");
        fs::write(&outside, "x").unwrap();
        std::os::unix::fs::symlink(&outside, online.join("link")).unwrap();
        fs::hard_link(&outside, online.join("second-name")).unwrap();
        chown(&online, Some(4711), Some(4712)).unwrap();
        assert!(foreign(&online).is_some());
        follow(&online).unwrap();
        let of = |path: &Path| fs::metadata(path).unwrap().uid();
        assert_eq!((of(&metadata), of(&metadata.join("timestamp.json"))), (4711, 4711));
        assert_eq!(fs::metadata(&metadata).unwrap().gid(), 4712);
        assert_eq!(of(&outside), 0, "neither through a link nor by a second name");
        assert_eq!(foreign(&online), None);
    }
}
