//! The keys that the root names, and the ceremonies that change them. Ceremonies work on files.
//!
//! A ceremony has three steps, each of which may happen on another machine. A new root is prepared
//! (`root/N.root.json.pending`). Holders add their signatures. The root is put in place once enough keys of the old and
//! of the new root have signed (TUF specification §5.3.4, §6.1). [`FleetKeys::describe`] says what would be trusted.

mod authority;
mod change;
mod describe;
mod review;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, anyhow, bail, ensure};
use serde_json::Value;
use zeroize::Zeroizing;

use super::publish;
use ids::UnixTime;
use repository::keyring::{self, Passphrase};
use repository::layout::Layout;
use repository::roles::{self, FirmwareKeys};
use repository::tree;
use telemetry::Hint as _;
use tuf::schema::{EXTRA_FIELD, Envelope, Root, TIME};
use tuf::{KeyId, MetadataLimits, PublicKey, Refresh, SigningKey, Trusted, sign};

pub(crate) use authority::replace_online_key;
pub use authority::{retire, standby, use_standby};
pub use change::{Role, RoleChange};
pub use review::{Review, names};

/// The largest file that is read here, in bytes. No metadata that people sign is larger.
const MAX_BYTES: u64 = 2 * 1024 * 1024;
/// What people have to do after a change of keys.
const PUBLISH: &str = "lineside-hq publish    signs every site's metadata under the new root";

/// The keys of a fleet: the root that is trusted now, and the root that is prepared, if there is one.
#[derive(Debug)]
pub struct FleetKeys {
    layout: Layout,
    trusted: Trusted,
    pending: Option<PendingRoot>,
}

/// A prepared root that waits for signatures: its file, the bytes with the signatures so far, and the signed part.
#[derive(Debug)]
pub struct PendingRoot {
    path: PathBuf,
    bytes: Vec<u8>,
    root: Root,
}

/// How many of the asked signatures a file has, and how many it needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Signatures {
    have: u32,
    need: u32,
}

impl Signatures {
    fn of(bytes: &[u8], keys: &[PublicKey], need: u32) -> anyhow::Result<Self> {
        let have = u32::try_from(sign::signed_by(bytes, keys)?.len()).unwrap_or(u32::MAX);
        Ok(Self { have, need })
    }

    const fn are_enough(self) -> bool {
        self.have >= self.need
    }
}

impl FleetKeys {
    /// Reads the newest root in `root/`, and the prepared one if there is one.
    pub fn read(layout: &Layout) -> anyhow::Result<Self> {
        let trusted = publish::newest_root(&publish::roots(layout)?)?;
        let mut keys = Self { layout: layout.clone(), trusted, pending: None };
        let path = keys.pending_path();
        if path.exists() {
            let bytes = read_bounded(&path)?;
            let root = parse_root(&bytes).with_context(|| format!("{} is no root", path.display()))?;
            keys.pending = Some(PendingRoot { path, bytes, root });
        }
        Ok(keys)
    }

    /// The newest root in place. Sites trust it after the next publish and poll.
    pub fn trusted(&self) -> &Root {
        self.trusted.root()
    }

    /// The root that is prepared; `None` if there is none.
    pub fn pending(&self) -> Option<&Root> {
        self.pending.as_ref().map(|pending| &pending.root)
    }

    fn next_version(&self) -> u64 {
        self.trusted().version.saturating_add(1)
    }

    fn pending_path(&self) -> PathBuf {
        publish::pending_path(&self.layout.signed().join(format!("{}.root.json", self.next_version())))
    }

    /// Prepares the next root with these changes, in addition to what is prepared already. Signatures on the earlier
    /// draft are dropped, because they do not cover the changes. Nothing is written before [`FleetKeys::save`].
    pub fn prepare(&mut self, changes: &[RoleChange], now: UnixTime) -> anyhow::Result<()> {
        let base = self.pending().unwrap_or_else(|| self.trusted());
        let mut root = base.clone();
        // What time it is was said once. A draft keeps what it says.
        if self.pending.is_none() && root.time().is_some() {
            change::extra(&mut root)?.remove(TIME);
        }
        for change in changes {
            change.apply(&mut root)?;
        }
        change::tidy(&mut root)?;
        root.version = self.next_version();
        root.expires = now.plus(roles::ROOT_LIFE);
        let bytes = sign::sign(&root, &[]);
        self.pending = Some(PendingRoot { path: self.pending_path(), bytes, root });
        Ok(())
    }

    /// Writes the prepared root and returns its path.
    pub fn save(&self) -> anyhow::Result<&Path> {
        let pending = self.needs_pending()?;
        tree::write_file(&pending.path, &pending.bytes)?;
        Ok(&pending.path)
    }

    /// Deletes the prepared root. Returns whether there was one.
    pub fn discard(&mut self) -> anyhow::Result<bool> {
        let Some(pending) = self.pending.take() else { return Ok(false) };
        durable::remove(&pending.path).with_context(|| format!("cannot remove {}", pending.path.display()))?;
        Ok(true)
    }

    fn needs_pending(&self) -> anyhow::Result<&PendingRoot> {
        self.pending
            .as_ref()
            .ok_or_else(|| anyhow!("no new root is prepared"))
            .hint("`lineside-hq keys root new-version` prepares one")
    }

    /// The signatures on the prepared root: by the keys trusted now, and by those that it names.
    fn progress(&self) -> anyhow::Result<(Signatures, Signatures)> {
        let pending = self.needs_pending()?;
        let of = |root: &Root| -> anyhow::Result<Signatures> {
            let role = Role::Root.keys(root);
            Signatures::of(&pending.bytes, &root.public_keys(&role), role.threshold)
        };
        Ok((of(self.trusted())?, of(&pending.root)?))
    }

    /// Checks that the prepared root can be put in place. The error says what it lacks.
    pub fn check(&self) -> anyhow::Result<()> {
        let pending = self.needs_pending()?;
        let (old, new) = self.progress()?;
        for (signatures, whose) in [(old, "the keys trusted now"), (new, "the keys that it names")] {
            if !signatures.are_enough() {
                let (path, Signatures { have, need }) = (pending.path.display(), signatures);
                return Err(anyhow!("{path} has {have} of {need} signatures by {whose}")
                    .hint(format!("each holder runs `lineside-hq keys sign {path} --key FILE`")));
            }
        }
        let fleet = |root: &Root| root.extra.get(EXTRA_FIELD).and_then(|extra| extra.get("fleet")).cloned();
        ensure!(fleet(&pending.root) == fleet(self.trusted()), "{} is for another fleet", pending.path.display());
        // The code that sites run decides last.
        let mut refresh = Refresh::start(self.trusted.clone(), MetadataLimits::default(), UnixTime(0));
        refresh.received(&pending.bytes).context("sites would refuse the new root")?;
        ensure!(refresh.trusted().root() == &pending.root, "sites would understand the new root differently");
        Ok(())
    }

    /// Puts the prepared root in place, and new release and online keys where `publish` and `serve` look for them.
    /// Returns what people have to do next. If it was interrupted, the next call finishes the work.
    pub fn finish(&mut self) -> anyhow::Result<Vec<String>> {
        if self.pending.is_none() {
            let next = self.install_keys(self.trusted())?;
            if !next.is_empty() {
                return Ok(next);
            }
        }
        self.check()?;
        let pending = self.needs_pending()?;
        let place = self.layout.signed().join(format!("{}.root.json", pending.root.version));
        tree::write_file(&place, &pending.bytes)?;
        durable::remove(&pending.path).with_context(|| format!("cannot remove {}", pending.path.display()))?;
        let mut next = self.install_keys(&pending.root)?;
        self.pending = None;
        if next.is_empty() {
            next.push(PUBLISH.to_owned());
        }
        Ok(next)
    }

    /// Moves the keys that waited for this root to where they are used. Returns what people have to do then; empty if
    /// no key waited.
    fn install_keys(&self, root: &Root) -> anyhow::Result<Vec<String>> {
        let mut next = Vec::new();
        for role in [Role::Release, Role::Online] {
            let (fresh, used) = (self.next_key(role), self.used_key(role));
            let named = root.public_keys(&role.keys(root));
            if !fresh.exists() || !named.contains(&keyring::load_signing(&fresh)?.public()) {
                continue;
            }
            durable::rename(&fresh, &used).with_context(|| format!("cannot replace {}", used.display()))?;
            if next.is_empty() {
                next.push(PUBLISH.to_owned());
            }
            if role == Role::Online {
                next.push("start `lineside-hq serve` again: it signs with the key that it started with".to_owned());
            }
        }
        Ok(next)
    }

    /// The file in which a new key of a role waits for its root.
    fn next_key(&self, role: Role) -> PathBuf {
        self.layout.key(&format!("{role}.next"))
    }

    /// The file from which `publish` or `serve` reads a role's key.
    fn used_key(&self, role: Role) -> PathBuf {
        if role == Role::Online { self.layout.online_key() } else { self.layout.key(role.word()) }
    }

    /// Makes a new key of a role in `keys/` and returns its file and the key.
    pub fn create_for(&self, role: Role, passphrase: Option<&Passphrase>) -> anyhow::Result<(PathBuf, SigningKey)> {
        let (path, comment) = match role {
            Role::Release => (self.next_key(role), "Signs what sites get. Offline.".to_owned()),
            Role::Online => (self.next_key(role), keyring::ONLINE.to_owned()),
            Role::Root | Role::Firmware => {
                let free = |number: &u32| !self.layout.key(&format!("{role}-{number}")).exists();
                let used = u32::try_from(role.keys(self.trusted()).keyids.len()).unwrap_or(0);
                // Keys that were handed to their holders are not here, so counting begins above the number of all keys.
                let number = (used.saturating_add(1)..).find(free).unwrap_or(u32::MAX);
                (self.layout.key(&format!("{role}-{number}")), format!("A {role} key. Offline."))
            }
        };
        // The online key is never encrypted, because `serve` starts without a person.
        let passphrase = passphrase.filter(|_| role != Role::Online);
        let key = keyring::create(&path, &comment, passphrase)?;
        Ok((path, key))
    }

    /// Finds the key of a role by its id or the beginning of it. Without `meant`, the role must have only one key.
    pub fn find(&self, role: Role, meant: Option<&str>) -> anyhow::Result<KeyId> {
        let root = self.pending().unwrap_or_else(|| self.trusted());
        let ids = role.keys(root).keyids;
        let fits = |id: &&KeyId| meant.is_none_or(|meant| id.0.starts_with(&meant.to_ascii_lowercase()));
        let found: Vec<&KeyId> = ids.iter().filter(fits).collect();
        match (found.as_slice(), meant) {
            ([one], _) => Ok((*one).clone()),
            ([], Some(meant)) => bail!("no {role} key has an id that begins with {meant}"),
            _ => Err(anyhow!("{role} has {} keys; say which one by its id", ids.len())).hint("`lineside-hq keys show`"),
        }
    }
}

/// Adds a holder's signature to a root or firmware catalogue. Refuses a key whose signature would not count on it.
///
/// `keys` are those of the fleet directory here. It is `None` on a holder's machine that has only this one file.
pub fn add_signature(path: &Path, key: &SigningKey, keys: Option<&FleetKeys>) -> anyhow::Result<()> {
    sign_bytes(path, &read_bounded(path)?, key, keys)
}

/// The same for the bytes of the file as the holder saw them.
fn sign_bytes(path: &Path, bytes: &[u8], key: &SigningKey, keys: Option<&FleetKeys>) -> anyhow::Result<()> {
    let counting = counting(bytes, keys).with_context(|| format!("cannot sign {}", path.display()))?;
    if let Some(counting) = counting
        && !counting.contains(&key.public())
    {
        bail!("this key's signature would not count on {}: nobody names the key for it", path.display());
    }
    tree::write_file(path, &sign::add_signature(bytes, key)?)
}

/// The keys whose signatures count on this file; `None` if that cannot be known here.
fn counting(bytes: &[u8], keys: Option<&FleetKeys>) -> anyhow::Result<Option<Vec<PublicKey>>> {
    let envelope: Envelope<Value> = serde_json::from_slice(bytes).context("it is no metadata")?;
    match envelope.signed.get("_type").and_then(Value::as_str) {
        Some("root") => {
            let root = parse_root(bytes)?;
            let Some(keys) = keys else { return Ok(None) };
            let mut all = root.public_keys(&Role::Root.keys(&root));
            all.extend(keys.trusted().public_keys(&Role::Root.keys(keys.trusted())));
            Ok(Some(all))
        }
        Some("targets") => Ok(keys.map(|keys| FirmwareKeys::of(keys.trusted()).keys)),
        _ => bail!("it is neither a root nor a firmware catalogue"),
    }
}

/// Moves a key file out of `keys/` to its holder's medium: copies it, reads the copy back, then removes the original.
pub fn hand_over(layout: &Layout, name: &str, to: &Path, passphrase: Option<&Passphrase>) -> anyhow::Result<PathBuf> {
    let from = layout.key(name);
    ensure!(!name.contains('/') && from.exists(), "there is no key {}", from.display());
    ensure!(to.is_dir(), "{} is no directory", to.display());
    let text = keyring::read(&from)?;
    let copy = to.join(format!("{name}.key"));
    match passphrase {
        Some(_) => keyring::write(&copy, &text, passphrase)?,
        // The file is copied as it is, so an encrypted key stays encrypted.
        None => keyring::write(&copy, &Zeroizing::new(fs::read_to_string(&from)?), None)?,
    }
    ensure!(*keyring::read(&copy)? == *text, "{} does not read back; nothing was removed", copy.display());
    durable::remove(&from).with_context(|| format!("cannot remove {}", from.display()))?;
    Ok(copy)
}

fn parse_root(bytes: &[u8]) -> anyhow::Result<Root> {
    let envelope: Envelope<Root> = serde_json::from_slice(bytes).context("it is no root metadata")?;
    let roles: BTreeMap<_, _> = Role::ALL.iter().map(|role| (role.word(), role.keys(&envelope.signed))).collect();
    for (role, keys) in roles {
        ensure!(keys.threshold > 0 && !keys.keyids.is_empty(), "it does not say who signs for {role}");
    }
    Ok(envelope.signed)
}

fn read_bounded(path: &Path) -> anyhow::Result<Vec<u8>> {
    let read = || -> std::io::Result<(u64, Vec<u8>)> {
        let bytes = fs::metadata(path)?.len();
        if bytes > MAX_BYTES { Ok((bytes, Vec::new())) } else { Ok((bytes, fs::read(path)?)) }
    };
    let (length, bytes) = read().with_context(|| format!("cannot read {}", path.display()))?;
    ensure!(length <= MAX_BYTES, "{} is {length} bytes; nothing that is signed here is so large", path.display());
    Ok(bytes)
}

#[cfg(test)]
mod tests;
