//! Where things are in a fleet directory.

use std::path::{Path, PathBuf};

use ids::{Digest, SiteId};

/// The paths of one fleet directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layout {
    dir: PathBuf,
    online: PathBuf,
}

impl Layout {
    /// The fleet directory `dir`. Nothing is read.
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        let dir = dir.into();
        Self { online: dir.join("online"), dir }
    }

    /// The online directory alone, as it is on a machine that only runs `serve`.
    pub fn of_online(online: impl Into<PathBuf>) -> Self {
        let online = online.into();
        Self { dir: online.clone(), online }
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

    /// Images of the appliance itself.
    pub fn images(&self) -> PathBuf {
        self.dir.join("images")
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
        self.online.clone()
    }

    /// Tokens, sites, certificates and check-ins.
    pub fn database(&self) -> PathBuf {
        self.online().join("hq.sqlite")
    }

    /// The published tree.
    pub fn public(&self) -> PathBuf {
        self.online().join("public")
    }

    /// What the publisher remembers of its last runs. May be lost: then the next run looks at everything.
    pub fn ledger(&self) -> PathBuf {
        self.online().join("ledger.jsonl")
    }

    /// The folders of all published sites.
    pub fn public_sites(&self) -> PathBuf {
        self.public().join("sites")
    }

    /// The shelves of all sealed objects.
    pub fn public_objects(&self) -> PathBuf {
        self.public().join("objects")
    }

    /// The key that signs `snapshot` and `timestamp` metadata and check-in answers.
    pub fn online_key(&self) -> PathBuf {
        self.online().join("online.key")
    }

    /// Signed metadata that belongs to the whole fleet: `<N>.root.json` and `<N>.firmware.json`. Public, in git.
    pub fn signed(&self) -> PathBuf {
        self.dir.join("root")
    }

    /// The public half of the recovery key. In git: publishing seals to it and never opens with it.
    pub fn recovery_public(&self) -> PathBuf {
        self.signed().join("recovery.pub")
    }

    /// SIP passwords and the like, encrypted with age. In git.
    pub fn secrets(&self) -> PathBuf {
        self.dir.join("secrets.age")
    }

    /// One of the offline keys, by the stem of its file: `release`, `root-1`, `recovery`, …
    pub fn key(&self, stem: &str) -> PathBuf {
        self.keys().join(format!("{stem}.key"))
    }

    /// The published metadata of a site.
    pub fn site_metadata(&self, site: &SiteId) -> PathBuf {
        self.public().join("sites").join(site.as_str()).join("metadata")
    }

    /// The sealed manifests of a site.
    pub fn site_targets(&self, site: &SiteId) -> PathBuf {
        self.public().join("sites").join(site.as_str()).join("targets")
    }

    /// Where a sealed object of this digest is.
    pub fn object(&self, digest: &Digest) -> PathBuf {
        let name = digest.to_string();
        let shelf = name.get(..2).unwrap_or_default().to_owned();
        self.public().join("objects").join(shelf).join(name)
    }
}
