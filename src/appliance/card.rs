//! How many bytes were written to the card. Writing wears an SD card out. The kernel counts the writes of the disk that
//! the state directory is on.

use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use nix::sys::stat::{major, minor};

/// The unit of `/sys/block/*/stat`, whatever the size of the disk's own sectors (`Documentation/block/stat.rst`).
const SECTOR_BYTES: u64 = 512;
/// The index of the sectors written among the numbers of that file: the seventh.
const WRITTEN: usize = 6;

/// The write counter of one disk, and what it stood at when this process first read it.
#[derive(Debug)]
pub struct Card {
    stat: PathBuf,
    before: u64,
}

impl Card {
    /// The disk that `path` is on. `None` if there is no such disk or the kernel counts none, as in a container.
    pub fn of(path: &Path) -> Option<Self> {
        Self::under(Path::new("/sys/dev/block"), std::fs::metadata(path).ok()?.dev())
    }

    fn under(devices: &Path, device: u64) -> Option<Self> {
        let device = devices.join(format!("{}:{}", major(device), minor(device)));
        // The whole disk is counted, because writes to its other partitions wear it out as well.
        let is_partition = device.join("partition").exists();
        let stat = if is_partition { device.canonicalize().ok()?.parent()?.join("stat") } else { device.join("stat") };
        let before = read(&stat)?;
        Some(Self { stat, before })
    }

    /// Bytes written to the disk since [`Card::of`]; `None` if the counter can no longer be read.
    pub fn written(&self) -> Option<u64> {
        read(&self.stat).map(|now| now.saturating_sub(self.before).saturating_mul(SECTOR_BYTES))
    }
}

fn read(stat: &Path) -> Option<u64> {
    std::fs::read_to_string(stat).ok()?.split_whitespace().nth(WRITTEN)?.parse().ok()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::fs;

    use super::*;

    #[test]
    fn a_partitions_writes_are_those_of_its_disk_since_the_start() {
        let dir = tempfile::tempdir().unwrap();
        let disk = dir.path().join("mmcblk0");
        let part = disk.join("mmcblk0p4");
        fs::create_dir_all(&part).unwrap();
        fs::write(part.join("partition"), "4\n").unwrap();
        fs::write(part.join("stat"), "1 2 3 4 5 6 7 8 9 10 11\n").unwrap();
        fs::write(disk.join("stat"), "   1  2  3  4  5  6   1000  8 9 10 11\n").unwrap();
        std::os::unix::fs::symlink(&part, dir.path().join("179:4")).unwrap();
        let card = Card::under(dir.path(), nix::sys::stat::makedev(179, 4)).unwrap();
        assert_eq!(card.written(), Some(0));
        fs::write(disk.join("stat"), "1 2 3 4 5 6 1040 8 9 10 11\n").unwrap();
        assert_eq!(card.written(), Some(40 * 512));
        assert!(Card::under(dir.path(), nix::sys::stat::makedev(0, 40)).is_none());
    }
}
