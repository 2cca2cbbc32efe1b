//! Changes of the keys that a root names, and what must hold of the root after them.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use anyhow::{Context as _, anyhow, bail, ensure};
use clap::ValueEnum;
use serde_json::{Map, Value, json};

use ids::UnixTime;
use telemetry::Hint as _;
use tuf::schema::{EXTRA_FIELD, FIRMWARE, RoleKeys, Root, TIME, key_json};
use tuf::{KeyId, PublicKey};

/// A role as people know it: what its keys may sign.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Role {
    /// Its keys sign the root, which names the keys of all roles.
    Root,
    /// Its key signs what sites get: TUF's `targets`.
    Release,
    /// Its key signs that a release is fresh: TUF's `snapshot` and `timestamp`.
    Online,
    /// Its keys sign the catalogue of firmware that may be served.
    Firmware,
}

impl Role {
    /// All roles, in the order in which they are listed.
    pub const ALL: [Self; 4] = [Self::Root, Self::Release, Self::Online, Self::Firmware];

    /// The role's name on the command line and in the names of key files.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Root => "root",
            Self::Release => "release",
            Self::Online => "online",
            Self::Firmware => "firmware",
        }
    }

    /// The TUF roles that it stands for; none for `Firmware`, which is in our own field of the root.
    const fn roles(self) -> &'static [&'static str] {
        match self {
            Self::Root => &["root"],
            Self::Release => &["targets"],
            Self::Online => &["snapshot", "timestamp"],
            Self::Firmware => &[],
        }
    }

    /// The role's keys and threshold in a root; no keys and 0 if the root does not name the role.
    pub fn keys(self, root: &Root) -> RoleKeys {
        let nobody = RoleKeys { keyids: Vec::new(), threshold: 0, extra: BTreeMap::new() };
        match self.roles().first() {
            Some(role) => root.roles.get(*role).cloned().unwrap_or(nobody),
            None => root.firmware().unwrap_or(nobody),
        }
    }

    fn set(self, root: &mut Root, keys: &RoleKeys) -> anyhow::Result<()> {
        for role in self.roles() {
            root.roles.insert((*role).to_owned(), keys.clone());
        }
        if self == Self::Firmware {
            extra(root)?.insert(FIRMWARE.to_owned(), json!(keys));
        }
        Ok(())
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

/// One change of a root.
#[derive(Debug, Clone)]
pub enum RoleChange {
    /// The role gets this further key.
    Add(Role, PublicKey),
    /// The role loses the key with this id.
    Remove(Role, KeyId),
    /// So many of the role's keys must sign.
    Threshold(Role, u32),
    /// Sites accept servers of these CAs, given in PEM.
    Authorities(Vec<String>),
    /// Sites set the time that they remember to this, also if it is earlier.
    Time(UnixTime),
}

impl RoleChange {
    /// Makes the change in `root`. [`tidy`] checks the result after the last change.
    pub(super) fn apply(&self, root: &mut Root) -> anyhow::Result<()> {
        match self {
            Self::Add(role, key) => {
                let (id, mut keys) = (key.id(), role.keys(root));
                ensure!(!keys.keyids.contains(&id), "{role} has the key {} already", id.0);
                keys.keyids.push(id.clone());
                root.keys.insert(id, key_json(key));
                role.set(root, &keys)
            }
            Self::Remove(role, id) => {
                let mut keys = role.keys(root);
                let before = keys.keyids.len();
                keys.keyids.retain(|one| one != id);
                ensure!(keys.keyids.len() < before, "{role} has no key {}", id.0);
                role.set(root, &keys)
            }
            Self::Threshold(role, threshold) => {
                let keys = RoleKeys { threshold: *threshold, ..role.keys(root) };
                role.set(root, &keys)
            }
            Self::Authorities(all) => {
                extra(root)?.insert("ca".to_owned(), json!(all));
                Ok(())
            }
            Self::Time(time) => {
                extra(root)?.insert(TIME.to_owned(), json!(time));
                Ok(())
            }
        }
    }
}

/// Our own field of a root.
pub(super) fn extra(root: &mut Root) -> anyhow::Result<&mut Map<String, Value>> {
    let extra = root.extra.get_mut(EXTRA_FIELD).and_then(Value::as_object_mut);
    extra.with_context(|| format!("the root has no {EXTRA_FIELD}"))
}

/// Drops keys that no role names. Refuses a root that needs no signature, needs more signatures than it has keys, or
/// uses one key for two roles.
pub(super) fn tidy(root: &mut Root) -> anyhow::Result<()> {
    let mut owners: BTreeMap<KeyId, Role> = BTreeMap::new();
    for role in Role::ALL {
        let keys = role.keys(root);
        let have = keys.keyids.len();
        let need = usize::try_from(keys.threshold).unwrap_or(usize::MAX);
        if need == 0 {
            bail!("{role} would need no signature");
        }
        if need > have {
            return Err(anyhow!("{role} would have {have} keys and need {need} signatures")
                .hint(format!("add a key in the same step, or lower the threshold with --threshold {role}=N")));
        }
        for id in keys.keyids {
            if let Some(other) = owners.insert(id.clone(), role) {
                bail!("the key {} cannot be for {other} and for {role}: whoever steals one would have both", id.0);
            }
        }
    }
    let used: BTreeSet<KeyId> = owners.into_keys().collect();
    root.keys.retain(|id, _| used.contains(id));
    ensure!(used.iter().all(|id| root.keys.contains_key(id)), "a role names a key that is not there");
    Ok(())
}
