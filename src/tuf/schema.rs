//! Metadata as it stands in JSON (specification §4).

use std::collections::BTreeMap;

use data_encoding::HEXLOWER;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest as _, Sha512};

use super::key::{KeyId, PublicKey};
use ids::{Digest, UnixTime};

/// The specification version that is written; any `1.x` is read (§4.3).
pub const SPEC_VERSION: &str = "1.0.34";

/// The name of the delegated role that lists every firmware image which may be served.
pub const FIRMWARE: &str = "firmware";

/// Fields that Lineside adds to `signed`. They are covered by the signatures; other clients ignore them.
///
/// In `root`: the fleet, HQ's certificate authorities, and whom `targets` may delegate [`FIRMWARE`] to. In `timestamp`, `snapshot` and `targets`: fleet and site.
pub const EXTRA_FIELD: &str = "x-lineside";

/// In [`EXTRA_FIELD`] of `root`: what time it is, as the offline threshold says.
pub const TIME: &str = "time";

/// The signed part of `root` (§4.3).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Root {
    /// `root`.
    #[serde(rename = "_type")]
    pub kind: String,
    /// Version of the specification: [`SPEC_VERSION`] where we write it.
    pub spec_version: String,
    /// Version of this metadata, from 1; it never goes down.
    pub version: u64,
    /// From this time on no client trusts the file (§5).
    pub expires: UnixTime,
    /// Always true here; a foreign root that does not say is without (§4.3).
    #[serde(default)]
    pub consistent_snapshot: bool,
    /// All keys by their ids. Keys of unknown types are kept as they are and never used.
    pub keys: BTreeMap<KeyId, Value>,
    /// `root`, `timestamp`, `snapshot`, `targets`.
    pub roles: BTreeMap<String, RoleKeys>,
    /// Other members of `signed`. They are kept, because the signatures cover them (§4).
    #[serde(flatten)]
    pub extra: BTreeMap<String, Value>,
}

/// Who may sign a role.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RoleKeys {
    /// The ids of the keys that may sign the role; an id counts once.
    pub keyids: Vec<KeyId>,
    /// How many of these keys must have signed, at least 1.
    pub threshold: u32,
    /// Other members of the object. They are kept, because the signatures cover them (§4).
    #[serde(flatten)]
    pub extra: BTreeMap<String, Value>,
}

/// The signed part of `timestamp` (§4.6).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Timestamp {
    /// `timestamp`.
    #[serde(rename = "_type")]
    pub kind: String,
    /// Version of the specification: [`SPEC_VERSION`] where we write it.
    pub spec_version: String,
    /// Version of this metadata, from 1; it never goes down.
    pub version: u64,
    /// From this time on no client trusts the file (§5).
    pub expires: UnixTime,
    /// `snapshot.json` and nothing else.
    pub meta: BTreeMap<String, MetaFile>,
    /// Other members of `signed`. They are kept, because the signatures cover them (§4).
    #[serde(flatten)]
    pub extra: BTreeMap<String, Value>,
}

/// The signed part of `snapshot` (§4.4).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Snapshot {
    /// `snapshot`.
    #[serde(rename = "_type")]
    pub kind: String,
    /// Version of the specification: [`SPEC_VERSION`] where we write it.
    pub spec_version: String,
    /// Version of this metadata, from 1; it never goes down.
    pub version: u64,
    /// From this time on no client trusts the file (§5).
    pub expires: UnixTime,
    /// `targets.json`, `firmware.json`.
    pub meta: BTreeMap<String, MetaFile>,
    /// Other members of `signed`. They are kept, because the signatures cover them (§4).
    #[serde(flatten)]
    pub extra: BTreeMap<String, Value>,
}

/// What a timestamp or snapshot says of another metadata file (§4.4).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MetaFile {
    /// The version that the file must have, from 1.
    pub version: u64,
    /// The exact length of the file in bytes; `None` if the signer does not give it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub length: Option<u64>,
    /// Hashes of the file; `None` if the signer does not give them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hashes: Option<Hashes>,
    /// Other members of the object. They are kept, because the signatures cover them (§4).
    #[serde(flatten)]
    pub extra: BTreeMap<String, Value>,
}

/// Hashes by algorithm. SHA-256 and SHA-512 are checked; one of them must be there.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Hashes {
    /// SHA-256 of the file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sha256: Option<Digest>,
    /// Hashes by other algorithms, under their names; of these `sha512` is checked.
    #[serde(flatten)]
    pub others: BTreeMap<String, Value>,
}

/// The signed part of `targets` and of delegated roles (§4.5).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Targets {
    /// `targets`.
    #[serde(rename = "_type")]
    pub kind: String,
    /// Version of the specification: [`SPEC_VERSION`] where we write it.
    pub spec_version: String,
    /// Version of this metadata; a site's generation.
    pub version: u64,
    /// From this time on no client trusts the file (§5).
    pub expires: UnixTime,
    /// Target files by path.
    pub targets: BTreeMap<String, Target>,
    /// The roles to which this one delegates; `None` if it delegates to nobody.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub delegations: Option<Delegations>,
    /// Other members of `signed`. They are kept, because the signatures cover them (§4).
    #[serde(flatten)]
    pub extra: BTreeMap<String, Value>,
}

/// What the signer says of a target file (§4.5).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Target {
    /// Its length in bytes.
    pub length: u64,
    /// Hashes of the whole file, at least one of which can be checked.
    pub hashes: Hashes,
    /// What the signer adds about the file; opaque to TUF (§4.5).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub custom: Option<Value>,
    /// Other members of the object. They are kept, because the signatures cover them (§4).
    #[serde(flatten)]
    pub extra: BTreeMap<String, Value>,
}

/// The roles to which this one delegates, and their keys (§4.5).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Delegations {
    /// The public keys of all delegated roles in `roles`, by their ids.
    pub keys: BTreeMap<KeyId, Value>,
    /// The delegated roles; a search asks earlier ones first (§5.6.7).
    #[serde(default)]
    pub roles: Vec<DelegatedRole>,
    /// Other members of the object. They are kept, because the signatures cover them (§4).
    #[serde(flatten)]
    pub extra: BTreeMap<String, Value>,
}

/// One role to which a targets role delegates (§4.5).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DelegatedRole {
    /// The name of the role, and of its file: 1 to 80 bytes.
    pub name: String,
    /// The ids of the keys that may sign the role; an id counts once.
    pub keyids: Vec<KeyId>,
    /// How many of these keys must have signed, at least 1.
    pub threshold: u32,
    /// Whether no other role may answer for these paths. The specification's own example does not say, so foreign
    /// metadata need not.
    #[serde(default)]
    pub terminating: bool,
    /// Glob patterns of target paths.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub paths: Option<Vec<String>>,
    /// Everything else, `path_hash_prefixes` among it.
    #[serde(flatten)]
    pub extra: BTreeMap<String, Value>,
}

/// A metadata file: the signed part and its signatures.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Envelope<T> {
    /// One signature for each key (§4.2.1), of the canonical form of `signed`.
    pub signatures: Vec<Signature>,
    /// The metadata of the role.
    pub signed: T,
}

/// The signature of one key (§4.2.1).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Signature {
    /// The id of the key that signed.
    pub keyid: KeyId,
    /// The Ed25519 signature: 64 bytes in hex.
    pub sig: String,
    /// Other members of the object. They are kept, because the signatures cover them (§4).
    #[serde(flatten)]
    pub extra: BTreeMap<String, Value>,
}

/// The JSON object of an Ed25519 public key (§4.2.2).
pub fn key_json(key: &PublicKey) -> Value {
    key.to_json()
}

impl Hashes {
    /// The SHA-256 of these bytes.
    pub fn of(bytes: &[u8]) -> Self {
        Self { sha256: Some(Digest::of(bytes)), others: BTreeMap::new() }
    }

    /// Whether every hash that we can calculate is that of `bytes`, and there is at least one such.
    pub fn match_bytes(&self, bytes: &[u8]) -> bool {
        let sha256 = self.sha256.map(|expected| Digest::of(bytes) == expected);
        let sha512 = self.others.get("sha512").map(|expected| {
            let actual = HEXLOWER.encode(&Sha512::digest(bytes));
            expected.as_str().is_some_and(|expected| expected.eq_ignore_ascii_case(&actual))
        });
        sha256.or(sha512) == Some(true) && sha512 != Some(false)
    }
}

impl Root {
    /// Who approves firmware: `{"keyids": […], "threshold": N}` under [`FIRMWARE`] in [`EXTRA_FIELD`], the keys among
    /// those of the root. It stands here because `targets`, which delegates the role, is signed by one release key: a
    /// thief of that one could delegate to anybody.
    pub fn firmware(&self) -> Option<RoleKeys> {
        let keys = RoleKeys::deserialize(self.extra.get(EXTRA_FIELD)?.get(FIRMWARE)?).ok()?;
        (keys.threshold > 0).then_some(keys)
    }

    /// What time it is, if the root says so. A client whose clock a wrong signer has set ahead takes it, also backwards,
    /// before it judges what has expired.
    pub fn time(&self) -> Option<UnixTime> {
        UnixTime::deserialize(self.extra.get(EXTRA_FIELD)?.get(TIME)?).ok()
    }

    /// The usable keys of a role.
    pub fn public_keys(&self, role: &RoleKeys) -> Vec<PublicKey> {
        role.keyids.iter().filter_map(|id| PublicKey::from_json(id, self.keys.get(id)?)).collect()
    }
}

impl MetaFile {
    /// Whether `bytes` have the length and the hashes that are said of the file, as far as any are.
    pub fn match_bytes(&self, bytes: &[u8]) -> bool {
        self.length.is_none_or(|length| u64::try_from(bytes.len()) == Ok(length))
            && self.hashes.as_ref().is_none_or(|hashes| hashes.match_bytes(bytes))
    }
}

impl Target {
    /// Whether `bytes` are this file (§5.7.1).
    pub fn match_bytes(&self, bytes: &[u8]) -> bool {
        u64::try_from(bytes.len()) == Ok(self.length) && self.hashes.match_bytes(bytes)
    }
}

impl DelegatedRole {
    /// The prefixes of the SHA-256 of target paths that the role is trusted for, instead of patterns (§4.5).
    pub fn path_hash_prefixes(&self) -> Option<Vec<&str>> {
        let prefixes = self.extra.get("path_hash_prefixes")?.as_array()?;
        prefixes.iter().map(Value::as_str).collect()
    }
}
