//! Where things are in a fleet directory.

use std::path::{Path, PathBuf};

/// The paths of one fleet directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layout {
    dir: PathBuf,
}

impl Layout {
    /// The fleet directory `dir`. Nothing is read.
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self { dir: dir.into() }
    }

    /// The directory itself, which people keep in git.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Name, ids, HQ's URL and the defaults of all sites.
    pub fn fleet_toml(&self) -> PathBuf {
        self.dir.join("fleet.toml")
    }

    /// One TOML file a site, named as people call the site.
    pub fn sites(&self) -> PathBuf {
        self.dir.join("sites")
    }

    /// All phones of all sites, a line each.
    pub fn phones_csv(&self) -> PathBuf {
        self.dir.join("phones.csv")
    }

    /// One folder a model, with `model.toml` and the templates it names.
    pub fn templates(&self) -> PathBuf {
        self.dir.join("templates")
    }

    /// Firmware images, one folder a model.
    pub fn firmware(&self) -> PathBuf {
        self.dir.join("firmware")
    }

    /// Files served as they are: ring tones, dictionaries, dial plans.
    pub fn files(&self) -> PathBuf {
        self.dir.join("files")
    }

    /// The sealing keys of enrolled sites, one public file a site. In git: a change of key shows in review.
    pub fn enrolled(&self) -> PathBuf {
        self.dir.join("enrolled")
    }

    /// Offline keys. Never in git, never on the machine that runs `serve`.
    pub fn keys(&self) -> PathBuf {
        self.dir.join("keys")
    }

    /// All that `serve` needs; may live on another machine. Never in git.
    pub fn online(&self) -> PathBuf {
        self.dir.join("online")
    }

    /// Tokens, sites, certificates and check-ins.
    pub fn database(&self) -> PathBuf {
        self.online().join("hq.sqlite")
    }

    /// The published tree.
    pub fn public(&self) -> PathBuf {
        self.online().join("public")
    }

    /// The key that signs `snapshot` and `timestamp` metadata and check-in answers.
    pub fn online_key(&self) -> PathBuf {
        self.online().join("online.key")
    }
}
