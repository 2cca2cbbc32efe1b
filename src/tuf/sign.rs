//! Signing metadata, at HQ: what goes into the files, and the signatures on them.

use std::collections::{BTreeMap, BTreeSet};

use data_encoding::HEXLOWER;
use serde::Serialize;
use serde_json::Value;

use super::error::TrustError;
use super::key::{KeyId, PublicKey, SigningKey};
pub use super::schema::key_json;
use super::schema::{
    DelegatedRole, Delegations, EXTRA_FIELD, Envelope, Hashes, MetaFile, RoleKeys, Root, SPEC_VERSION, Signature,
    Snapshot, Target, Targets, Timestamp,
};
use super::verify::{malformed, signers};
use super::{canonical, json};
use ids::{Digest, UnixTime};

/// The bytes of a metadata file: `signed` in the specification's wire format, signed by each key once, in the
/// order of the key ids. The same arguments give the same bytes.
///
/// # Panics
///
/// If `signed` holds a number that is no integer, which only a `custom` or extra field of our own could.
pub fn sign<T: Serialize>(signed: &T, keys: &[&SigningKey]) -> Vec<u8> {
    let signed = serde_json::to_value(signed).expect("metadata is JSON");
    let message = canonical::bytes(&signed).expect("metadata that we write holds integers only");
    let mut signatures: Vec<Signature> = keys.iter().map(|key| signature(key, &message)).collect();
    signatures.sort_by(|a, b| a.keyid.cmp(&b.keyid));
    signatures.dedup_by(|a, b| a.keyid == b.keyid);
    emit(Envelope { signatures, signed })
}

/// A metadata file with one more signature, for roles whose keys are in several hands. What is signed stays as it is;
/// the key's own earlier signature, if any, is replaced. Whether the key belongs to the role is not asked.
///
/// [`TrustError::Malformed`] (with `metadata` as the role) if `file` is no metadata file.
pub fn add_signature(file: &[u8], key: &SigningKey) -> Result<Vec<u8>, TrustError> {
    let wrong = |what| malformed("metadata", what);
    let value = json::parse(file).map_err(wrong)?;
    let mut envelope: Envelope<Value> = serde_json::from_value(value).map_err(|error| wrong(json::short(&error)))?;
    let message = canonical::bytes(&envelope.signed).map_err(|error| wrong(error.to_string()))?;
    let signature = signature(key, &message);
    envelope.signatures.retain(|earlier| earlier.keyid != signature.keyid);
    envelope.signatures.push(signature);
    envelope.signatures.sort_by(|a, b| a.keyid.cmp(&b.keyid));
    Ok(emit(envelope))
}

/// Which of these keys signed a metadata file; what the file says is not looked at.
///
/// [`TrustError::Malformed`] (with `metadata` as the role) if `file` is no metadata file.
pub fn signed_by(file: &[u8], keys: &[PublicKey]) -> Result<BTreeSet<KeyId>, TrustError> {
    signers(file, keys)
}

fn signature(key: &SigningKey, message: &[u8]) -> Signature {
    Signature { keyid: key.public().id(), sig: HEXLOWER.encode(&key.sign(message)), extra: BTreeMap::new() }
}

fn emit(mut file: Envelope<Value>) -> Vec<u8> {
    // The order of members must not depend on how serde_json was built.
    file.signed.sort_all_objects();
    let mut bytes = serde_json::to_vec(&file).expect("metadata is JSON");
    bytes.push(b'\n');
    bytes
}

/// A role's keys and how many of them must sign.
#[derive(Debug, Clone, Copy)]
pub struct Signers<'a> {
    /// The public keys that may sign; a key counts once.
    pub keys: &'a [PublicKey],
    /// How many of them, at least 1.
    pub threshold: u32,
}

impl Signers<'_> {
    fn role_keys(&self) -> RoleKeys {
        let ids: BTreeSet<_> = self.keys.iter().map(PublicKey::id).collect();
        RoleKeys { keyids: ids.into_iter().collect(), threshold: self.threshold, extra: BTreeMap::new() }
    }
}

/// Who signs each top-level role.
#[derive(Debug, Clone, Copy)]
pub struct TopLevel<'a> {
    /// Who signs the next `root`: offline keys.
    pub root: Signers<'a>,
    /// Who signs `targets`: the publisher's release key.
    pub targets: Signers<'a>,
    /// Who signs `snapshot`: the key that HQ has online.
    pub snapshot: Signers<'a>,
    /// Who signs `timestamp`: the key that HQ has online.
    pub timestamp: Signers<'a>,
}

/// A `root` with consistent snapshots. `lineside` goes into [`EXTRA_FIELD`]: the fleet and its authorities.
pub fn root(version: u64, expires: UnixTime, signers: TopLevel<'_>, lineside: Option<Value>) -> Root {
    let TopLevel { root, targets, snapshot, timestamp } = signers;
    let roles = [("root", root), ("targets", targets), ("snapshot", snapshot), ("timestamp", timestamp)];
    let keys = roles.iter().flat_map(|(_, signers)| signers.keys);
    Root {
        kind: "root".into(),
        spec_version: SPEC_VERSION.into(),
        version,
        expires,
        consistent_snapshot: true,
        keys: keys.map(|key| (key.id(), key_json(key))).collect(),
        roles: roles.iter().map(|(role, signers)| ((*role).to_owned(), signers.role_keys())).collect(),
        extra: extra(lineside),
    }
}

/// A `targets`, or a delegated role. `lineside` goes into [`EXTRA_FIELD`]: fleet and site.
pub fn targets(
    version: u64,
    expires: UnixTime,
    targets: BTreeMap<String, Target>,
    delegations: Option<Delegations>,
    lineside: Option<Value>,
) -> Targets {
    Targets {
        kind: "targets".into(),
        spec_version: SPEC_VERSION.into(),
        version,
        expires,
        targets,
        delegations,
        extra: extra(lineside),
    }
}

/// One delegation, to a role for target paths that match `paths`. It is terminating: for these paths no other
/// delegated role is asked.
pub fn delegation(role: &str, signers: Signers<'_>, paths: &[&str]) -> Delegations {
    let RoleKeys { keyids, threshold, .. } = signers.role_keys();
    let role = DelegatedRole {
        name: role.into(),
        keyids,
        threshold,
        terminating: true,
        paths: Some(paths.iter().map(|path| (*path).to_owned()).collect()),
        extra: BTreeMap::new(),
    };
    Delegations {
        keys: signers.keys.iter().map(|key| (key.id(), key_json(key))).collect(),
        roles: vec![role],
        extra: BTreeMap::new(),
    }
}

/// A `snapshot` of these files, `targets.json` among them. `lineside` goes into [`EXTRA_FIELD`]: fleet and site.
pub fn snapshot(
    version: u64,
    expires: UnixTime,
    meta: BTreeMap<String, MetaFile>,
    lineside: Option<Value>,
) -> Snapshot {
    Snapshot {
        kind: "snapshot".into(),
        spec_version: SPEC_VERSION.into(),
        version,
        expires,
        meta,
        extra: extra(lineside),
    }
}

/// A `timestamp` for this snapshot. `lineside` goes into [`EXTRA_FIELD`]: fleet and site.
pub fn timestamp(version: u64, expires: UnixTime, snapshot: MetaFile, lineside: Option<Value>) -> Timestamp {
    Timestamp {
        kind: "timestamp".into(),
        spec_version: SPEC_VERSION.into(),
        version,
        expires,
        meta: BTreeMap::from([("snapshot.json".to_owned(), snapshot)]),
        extra: extra(lineside),
    }
}

/// What a snapshot or timestamp says of a metadata file: version, length and SHA-256.
pub fn meta_file(version: u64, bytes: &[u8]) -> MetaFile {
    let length = u64::try_from(bytes.len()).ok();
    MetaFile { version, length, hashes: Some(Hashes::of(bytes)), extra: BTreeMap::new() }
}

/// A target file of `length` bytes.
pub fn target(length: u64, sha256: Digest) -> Target {
    let hashes = Hashes { sha256: Some(sha256), others: BTreeMap::new() };
    Target { length, hashes, custom: None, extra: BTreeMap::new() }
}

fn extra(lineside: Option<Value>) -> BTreeMap<String, Value> {
    lineside.into_iter().map(|value| (EXTRA_FIELD.to_owned(), value)).collect()
}
