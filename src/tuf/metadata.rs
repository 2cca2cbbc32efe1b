//! What every role's metadata has in common, and what must hold of its content beyond its JSON shape (§4).

use std::collections::{BTreeMap, BTreeSet};

use serde::de::DeserializeOwned;
use serde_json::Value;

use super::key::KeyId;
use super::schema::{Delegations, MetaFile, Root, Snapshot, Targets, Timestamp};
use ids::UnixTime;

/// The top-level roles (§2.1).
pub(super) const TOP_LEVEL: [&str; 4] = ["root", "timestamp", "snapshot", "targets"];

/// The longest name of a delegated role, in bytes: percent-encoded it must still be a file name.
pub(super) const MAX_ROLE_NAME_BYTES: usize = 80;

/// The most keys of one role. No role has so many; each may cost a signature check.
const MAX_KEYS_PER_ROLE: usize = 32;

/// The signed part of a metadata file.
pub(super) trait Metadata: DeserializeOwned {
    /// The only value that `_type` may have.
    const KIND: &'static str;
    /// The members that every signed part has: `_type`, `spec_version`, `version` and `expires`.
    fn head(&self) -> Head<'_>;
    /// Checks what §4 says of this role beyond the JSON shape; an error says what is wrong, for people.
    fn check(&self) -> Result<(), String>;
}

/// What every signed part begins with.
pub(super) struct Head<'a> {
    pub(super) kind: &'a str,
    pub(super) spec_version: &'a str,
    pub(super) version: u64,
    pub(super) expires: UnixTime,
}

/// Parses the signed part and checks its content.
pub(super) fn read<T: Metadata>(signed: Value) -> Result<T, String> {
    let metadata: T = serde_json::from_value(signed).map_err(|error| super::json::short(&error))?;
    let Head { kind, spec_version, version, .. } = metadata.head();
    if kind != T::KIND {
        return Err(format!("its type is not `{}`", T::KIND));
    }
    if !is_ours(spec_version) {
        return Err("it is written for another specification than 1.x".into());
    }
    if version == 0 {
        return Err("its version is 0".into());
    }
    metadata.check()?;
    Ok(metadata)
}

/// §4.3: what counts as a match is for the adopter to say; any 1.x does.
fn is_ours(spec_version: &str) -> bool {
    let mut parts = spec_version.split('.');
    let major = parts.next();
    let rest: Vec<&str> = parts.collect();
    let number = |part: &&str| (1..=5).contains(&part.len()) && part.bytes().all(|byte| byte.is_ascii_digit());
    major == Some("1") && (1..=2).contains(&rest.len()) && rest.iter().all(number)
}

macro_rules! head {
    () => {
        fn head(&self) -> Head<'_> {
            Head { kind: &self.kind, spec_version: &self.spec_version, version: self.version, expires: self.expires }
        }
    };
}

impl Metadata for Root {
    const KIND: &'static str = "root";
    head!();

    fn check(&self) -> Result<(), String> {
        for role in TOP_LEVEL {
            let keys = self.roles.get(role).ok_or_else(|| format!("it does not say who signs {role}"))?;
            signers(role, &keys.keyids, keys.threshold)?;
        }
        Ok(())
    }
}

impl Metadata for Timestamp {
    const KIND: &'static str = "timestamp";
    head!();

    fn check(&self) -> Result<(), String> {
        // §4.6: it describes snapshot.json and nothing else.
        if self.meta.len() != 1 || !self.meta.contains_key("snapshot.json") {
            return Err("it must list snapshot.json and nothing else".into());
        }
        versions(&self.meta)
    }
}

impl Metadata for Snapshot {
    const KIND: &'static str = "snapshot";
    head!();

    fn check(&self) -> Result<(), String> {
        if !self.meta.contains_key("targets.json") {
            return Err("it does not list targets.json".into());
        }
        versions(&self.meta)
    }
}

impl Metadata for Targets {
    const KIND: &'static str = "targets";
    head!();

    fn check(&self) -> Result<(), String> {
        self.delegations.as_ref().map_or(Ok(()), delegations)
    }
}

fn signers(role: &str, keyids: &[KeyId], threshold: u32) -> Result<(), String> {
    if threshold == 0 {
        return Err(format!("{role} needs no signature"));
    }
    if keyids.len() > MAX_KEYS_PER_ROLE {
        return Err(format!("{role} has over {MAX_KEYS_PER_ROLE} keys"));
    }
    Ok(())
}

fn versions(meta: &BTreeMap<String, MetaFile>) -> Result<(), String> {
    if meta.values().any(|file| file.version == 0) {
        return Err("it lists a version 0".into());
    }
    Ok(())
}

fn delegations(delegations: &Delegations) -> Result<(), String> {
    let mut names = BTreeSet::new();
    for role in &delegations.roles {
        let name = role.name.as_str();
        if name.is_empty() || name.len() > MAX_ROLE_NAME_BYTES || name.chars().any(char::is_control) {
            return Err(format!("it delegates to a role without a name of 1 to {MAX_ROLE_NAME_BYTES} bytes"));
        }
        // Its file would be taken for that of the top-level role.
        if TOP_LEVEL.contains(&name) {
            return Err(format!("it delegates to {name}"));
        }
        // §4.5: the name is unique among the delegations.
        if !names.insert(name) {
            return Err(format!("it delegates to {name} twice"));
        }
        signers(name, &role.keyids, role.threshold)?;
        // §4.5: exactly one of the two.
        if role.extra.contains_key("path_hash_prefixes") {
            if role.paths.is_some() {
                return Err(format!("it gives {name} both paths and path_hash_prefixes"));
            }
            if role.path_hash_prefixes().is_none() {
                return Err(format!("the path_hash_prefixes of {name} are no list of strings"));
            }
        }
    }
    Ok(())
}
