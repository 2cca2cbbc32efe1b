//! The paths of files and folders in a fleet directory.

use std::path::{Path, PathBuf};

use ids::{Digest, SiteId};

/// The paths of one fleet directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layout {
    dir: PathBuf,
    online: PathBuf,
}

impl Layout {
    /// The paths below the fleet directory `dir`. Nothing is read from the disk.
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        let dir = dir.into();
        Self { online: dir.join("online"), dir }
    }

    /// The paths below an `online/` directory alone, for a machine that only runs `serve`. The other paths make no
    /// sense then.
    pub fn of_online(online: impl Into<PathBuf>) -> Self {
        let online = online.into();
        Self { dir: online.clone(), online }
    }

    /// The directory itself, which people keep in git.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The file with the fleet's name, its id, HQ's URL and the defaults of all sites.
    pub fn fleet_toml(&self) -> PathBuf {
        self.dir.join("fleet.toml")
    }

    /// The folder with one TOML file for each site, named as people call the site.
    pub fn sites(&self) -> PathBuf {
        self.dir.join("sites")
    }

    /// The file with all phones of all sites, one on a line.
    pub fn phones_csv(&self) -> PathBuf {
        self.dir.join("phones.csv")
    }

    /// The folder with one folder for each model, which holds `model.toml` and the templates that it names.
    pub fn templates(&self) -> PathBuf {
        self.dir.join("templates")
    }

    /// The folder with the phones' firmware, in one folder for each model.
    pub fn firmware(&self) -> PathBuf {
        self.dir.join("firmware")
    }

    /// The folder with images of the appliance itself (RAUC bundles).
    pub fn images(&self) -> PathBuf {
        self.dir.join("images")
    }

    /// Files served as they are: ring tones, dictionaries, dial plans.
    pub fn files(&self) -> PathBuf {
        self.dir.join("files")
    }

    /// The folder with one file for each enrolled site: the public keys that its releases are sealed to. It is kept in
    /// git, so that a change of key shows in review.
    pub fn enrolled(&self) -> PathBuf {
        self.dir.join("enrolled")
    }

    /// Offline keys. Never in git; only `serve` alone runs without them.
    pub fn keys(&self) -> PathBuf {
        self.dir.join("keys")
    }

    /// The folder with all that `serve` needs. It may be on another machine. Never in git.
    pub fn online(&self) -> PathBuf {
        self.online.clone()
    }

    /// The database of tokens, sites, certificates and check-ins.
    pub fn database(&self) -> PathBuf {
        self.online().join("hq.sqlite")
    }

    /// What the clocks of this fleet's signers showed ([`crate::witness`]).
    pub fn clock_record(&self) -> PathBuf {
        self.online().join("clock.toml")
    }

    /// The published tree: all files that sites download.
    pub fn public(&self) -> PathBuf {
        self.online().join("public")
    }

    /// What the publisher remembers of its last runs ([`crate::ledger`]). If it is lost, the next run looks at every
    /// site.
    pub fn ledger(&self) -> PathBuf {
        self.online().join("ledger.jsonl")
    }

    /// The folder with one folder for each published site.
    pub fn public_sites(&self) -> PathBuf {
        self.public().join("sites")
    }

    /// The folder of all sealed objects, in subfolders named with the first two digits of the digest.
    pub fn public_objects(&self) -> PathBuf {
        self.public().join("objects")
    }

    /// The key that signs `snapshot` and `timestamp` metadata and check-in answers.
    pub fn online_key(&self) -> PathBuf {
        self.online().join("online.key")
    }

    /// The folder with signed metadata of the whole fleet: `<N>.root.json` and `<N>.firmware.json`. Public, kept in
    /// git.
    pub fn signed(&self) -> PathBuf {
        self.dir.join("root")
    }

    /// The public half of the recovery key, kept in git. Every release is sealed to it, too.
    pub fn recovery_public(&self) -> PathBuf {
        self.signed().join("recovery.pub")
    }

    /// The file with SIP passwords and other secrets, encrypted with age. Kept in git.
    pub fn secrets(&self) -> PathBuf {
        self.dir.join("secrets.age")
    }

    /// The file of one offline key, by its stem: `release`, `root-1`, `recovery`, …
    pub fn key(&self, stem: &str) -> PathBuf {
        self.keys().join(format!("{stem}.key"))
    }

    /// The folder with the published metadata of a site.
    pub fn site_metadata(&self, site: &SiteId) -> PathBuf {
        self.public().join("sites").join(site.as_str()).join("metadata")
    }

    /// The folder with the sealed manifests of a site.
    pub fn site_targets(&self, site: &SiteId) -> PathBuf {
        self.public().join("sites").join(site.as_str()).join("targets")
    }

    /// The file of the sealed object with this digest (of the ciphertext).
    pub fn object(&self, digest: &Digest) -> PathBuf {
        let name = digest.to_string();
        let shelf = name.get(..2).unwrap_or_default().to_owned();
        self.public().join("objects").join(shelf).join(name)
    }
}
