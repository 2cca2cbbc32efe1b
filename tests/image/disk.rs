//! A copy of an image on a card that is larger than it, and what people put on its FAT partition.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::net::text;

/// Where the FAT partition begins, in bytes (`image/build`).
const FAT: u64 = 4 << 20;
/// Where the data partition begins, in bytes.
const DATA: u64 = 804 << 20;
/// A card of this many bytes. QEMU's SD controller wants a power of two.
const CARD: u64 = 2 << 30;

pub struct Disk {
    pub path: PathBuf,
}

impl Disk {
    /// A flashed card.
    pub fn of(image: &Path, dir: &Path) -> Self {
        let path = dir.join("card.img");
        let copied = Command::new("cp").arg("--sparse=always").arg(image).arg(&path).status().unwrap();
        assert!(copied.success(), "{}", image.display());
        fs::File::options().write(true).open(&path).unwrap().set_len(CARD).unwrap();
        Self { path }
    }

    fn mtools(&self, tool: &str, words: &[&str]) -> std::process::Output {
        let image = format!("{}@@{FAT}", self.path.display());
        Command::new(tool).args(["-i", &image]).args(words).output().unwrap()
    }

    /// Puts a file on the FAT partition, as a person with a computer would.
    pub fn put(&self, file: &Path, name: &str) {
        let output = self.mtools("mcopy", &["-o", file.to_str().unwrap(), &format!("::{name}")]);
        assert!(output.status.success(), "{}", text(&output));
    }

    /// Puts a text on the FAT partition.
    pub fn write(&self, name: &str, content: &[u8]) {
        let file = self.path.with_extension("put");
        fs::write(&file, content).unwrap();
        self.put(&file, name);
    }

    /// A file of the FAT partition.
    pub fn read(&self, name: &str) -> Option<Vec<u8>> {
        let output = self.mtools("mtype", &[&format!("::{name}")]);
        output.status.success().then_some(output.stdout)
    }

    /// Whether this text lies anywhere on the data partition, as somebody who took the card would find it.
    pub fn data_has(&self, what: &str) -> bool {
        let line = format!("tail -c +{} '{}' | grep -qaFe '{what}'", DATA + 1, self.path.display());
        let status = Command::new("sh").args(["-c", &line]).status().unwrap();
        assert!(status.code().is_some_and(|code| code < 2), "{line}: {status}");
        status.success()
    }
}

/// A second disk, from which the probe hands updates to the system: `after-VERSION.raucb` once that version runs and is good.
pub struct Updates {
    pub path: PathBuf,
}

impl Updates {
    pub fn new(path: &Path) -> Self {
        fs::File::create(path).unwrap().set_len(400 << 20).unwrap();
        let made = Command::new("mkfs.vfat").args(["-n", "UPDATES"]).arg(path).output().unwrap();
        assert!(made.status.success(), "{}", text(&made));
        Self { path: path.to_owned() }
    }

    pub fn put(&self, from: &Path, name: &str) {
        let put = Command::new("mcopy").arg("-i").arg(&self.path).arg(from).arg(format!("::{name}")).output().unwrap();
        assert!(put.status.success(), "{}", text(&put));
    }
}
