//! The fingerprint of a site: a keyed hash over all that its release is made of. If two are equal, the release would be
//! the same.
//!
//! The hash is keyed with the publisher's secret, because passwords go into it and the result is kept in `online/`.

use std::fs;
use std::io::Read as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use anyhow::Context as _;
use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;

use crate::inventory::{InventorySite, PhoneLine, Variables};
use crate::secrets::{PREFIX, Secrets};
use bundle::RecipientPublic;
use durable::{Entry, Folder, Links};
use ids::Digest;
use repository::layout::Layout;
use repository::published;
use settings::MAX_TEXT_BYTES;

/// How deep folders are followed. Nothing deeper is served.
const MAX_DEPTH: usize = 10;

/// Makes the fingerprints of all sites in one run. It has hashed what all sites share.
pub(super) struct Fingerprints(Hmac<Sha256>);

/// A hash over parts, each with its length before it, so that parts cannot run into each other.
struct Parts(Hmac<Sha256>);

impl Parts {
    fn add(&mut self, part: impl AsRef<[u8]>) {
        let part = part.as_ref();
        self.0.update(&u64::try_from(part.len()).unwrap_or(u64::MAX).to_be_bytes());
        self.0.update(part);
    }

    fn finish(self) -> Digest {
        Digest::from_bytes(self.0.finalize().into_bytes().into())
    }
}

impl Fingerprints {
    /// Hashes what all sites share.
    ///
    /// It must be called before the fleet directory is read. If a file changes between the two, the next run sees
    /// another fingerprint and makes the files again; in the other order the change would be missed.
    pub(super) fn of_fleet(layout: &Layout, key: &[u8; 32]) -> anyhow::Result<Self> {
        let mut parts = Parts(Hmac::new_from_slice(key).expect("HMAC takes a key of any length"));
        parts.add("lineside publisher's fingerprint 2");
        parts.add(env!("CARGO_PKG_VERSION"));
        let dir = Folder::open(layout.dir()).context("cannot read the fleet directory")?;
        let fleet = dir.read(Path::new("fleet.toml"), Links::Refused, MAX_TEXT_BYTES);
        parts.add(fleet.context("cannot read fleet.toml")?);
        walk(&dir, Path::new("templates"), Links::Refused, &mut parts, true);
        // The firmware catalogue is left out: publishing makes it from `files` and `firmware`, and the root, which is
        // hashed here, names who signs it.
        for (version, root) in published::numbered(&layout.signed(), "root")? {
            parts.add(version.to_be_bytes());
            parts.add(root);
        }
        let recovery = dir.read(Path::new("root/recovery.pub"), Links::Refused, MAX_TEXT_BYTES);
        parts.add(recovery.context("cannot read recovery.pub")?);
        for folder in ["files", "firmware", "images"].map(Path::new) {
            walk(&dir, folder, Links::Within(folder), &mut parts, false);
        }
        let public = layout.key("release");
        parts.add(fs::read(&public).with_context(|| format!("cannot read {}", public.display()))?);
        // A desk has no online key; the root names it.
        parts.add(fs::read(layout.online_key()).unwrap_or_default());
        Ok(Self(parts.0))
    }

    /// The fingerprint of a site; `None` if one of its secrets cannot be had.
    pub(super) fn of_site(
        &self,
        site: &InventorySite,
        phones: &[&PhoneLine],
        secrets: &Secrets,
        recipients: &[RecipientPublic],
    ) -> Option<Digest> {
        let mut parts = Parts(self.0.clone());
        parts.add(&site.name);
        parts.add(site.source.to_string());
        secret_values(&site.variables, secrets, &mut parts)?;
        parts.add(phones.len().to_be_bytes());
        for phone in phones {
            parts.add(phone.mac.to_string());
            parts.add(&phone.model);
            parts.add(&phone.label);
            parts.add(phone.variables.len().to_be_bytes());
            for (name, variable) in &phone.variables {
                parts.add(name);
                parts.add(variable.value.to_string());
            }
            secret_values(&phone.variables, secrets, &mut parts)?;
        }
        let mut recipients = recipients.to_vec();
        recipients.sort();
        for recipient in recipients {
            parts.add(format!("{recipient:?}"));
        }
        Some(parts.finish())
    }

    /// Adds the secrets that variables of the whole fleet name, because a secret may change without `fleet.toml`.
    /// `None` if one cannot be had.
    pub(super) fn with_secrets(self, variables: &Variables, secrets: &Secrets) -> Option<Self> {
        let mut parts = Parts(self.0);
        secret_values(variables, secrets, &mut parts)?;
        Some(Self(parts.0))
    }
}

fn secret_values(variables: &Variables, secrets: &Secrets, parts: &mut Parts) -> Option<()> {
    for variable in variables.values() {
        if let Some(name) = variable.value.as_str().and_then(|text| text.strip_prefix(PREFIX)) {
            parts.add(secrets.resolve(name).ok()?.as_bytes());
        }
    }
    Some(())
}

/// Adds every file below a folder: its bytes if `content` is set, else its times, size and inode, which change with it. Of what
/// cannot be read only the name counts, as it is reported where the folder is read to be published.
fn walk(dir: &Folder, folder: &Path, links: Links<'_>, parts: &mut Parts, content: bool) {
    let listing = match dir.entry(folder, links) {
        Ok(Entry::Folder(opened)) => durable::names(&opened),
        _ => return,
    };
    let mut names: Vec<_> = listing.into_iter().flatten().flatten().map(|entry| entry.file_name()).collect();
    names.sort();
    parts.add(names.len().to_be_bytes());
    for name in names {
        let path = folder.join(&name);
        parts.add(name.as_encoded_bytes());
        match dir.entry(&path, links) {
            Ok(Entry::Folder(_)) if path.components().count() <= MAX_DEPTH => walk(dir, &path, links, parts, content),
            Ok(Entry::File(mut file)) if content => {
                let mut bytes = Vec::new();
                if file.by_ref().take(MAX_TEXT_BYTES).read_to_end(&mut bytes).is_ok() {
                    parts.add(bytes);
                }
            }
            Ok(Entry::File(file) | Entry::Folder(file)) => {
                let Ok(found) = file.metadata() else { continue };
                for number in [found.mtime(), found.mtime_nsec(), found.ctime(), found.ctime_nsec()] {
                    parts.add(number.to_be_bytes());
                }
                for number in [found.len(), found.ino()] {
                    parts.add(number.to_be_bytes());
                }
            }
            Err(_) => {}
        }
    }
}
