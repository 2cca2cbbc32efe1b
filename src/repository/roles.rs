//! What HQ writes into metadata: roles, thresholds, lifetimes and the fields of ours.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Value, json};

use access::MANIFEST_TARGET;
use ids::{Digest, FleetId, Generation, SiteId, UnixTime};
use tuf::PublicKey;
use tuf::schema::{
    DelegatedRole, Delegations, EXTRA_FIELD, FIRMWARE, Hashes, MetaFile, RoleKeys, Root, SPEC_VERSION, Snapshot,
    Target, Targets, Timestamp, key_json,
};

const DAY: u64 = 86_400;
/// How long `root` is valid: people with offline keys meet rarely.
pub const ROOT_LIFE: Duration = Duration::from_secs(3650 * DAY);
/// How long `targets` and `firmware` are valid.
pub const TARGETS_LIFE: Duration = Duration::from_secs(365 * DAY);
/// How long `snapshot` is valid.
pub const SNAPSHOT_LIFE: Duration = Duration::from_secs(90 * DAY);
/// How long `timestamp` is valid: so long a withheld update can go unnoticed.
pub const TIMESTAMP_LIFE: Duration = Duration::from_secs(30 * DAY);

/// How many root and firmware keys there are.
pub const OFFLINE_KEYS: u32 = 3;
/// How many of them must sign.
pub const OFFLINE_THRESHOLD: u32 = 2;

/// Whose metadata it is.
#[derive(Debug, Clone, Copy)]
pub struct Whose<'a> {
    /// The fleet.
    pub fleet: &'a FleetId,
    /// The site.
    pub site: &'a SiteId,
}

impl Whose<'_> {
    fn extra(self) -> BTreeMap<String, Value> {
        extra(json!({ "fleet": self.fleet, "site": self.site }))
    }
}

fn extra(value: Value) -> BTreeMap<String, Value> {
    BTreeMap::from([(EXTRA_FIELD.to_owned(), value)])
}

/// Whether metadata shall be signed anew: a part of its life, `1/fraction`, or less is left.
pub fn is_near(expires: UnixTime, life: Duration, fraction: u32, now: UnixTime) -> bool {
    expires.since(now) < life / fraction.max(1)
}

/// The public keys that `root` names.
#[derive(Debug)]
pub struct RootKeys<'a> {
    /// Offline, two of three.
    pub root: &'a [PublicKey],
    /// The release key.
    pub targets: PublicKey,
    /// The online key, for `snapshot` and `timestamp`.
    pub online: PublicKey,
    /// Offline, two of three.
    pub firmware: &'a [PublicKey],
}

/// `root` (§4.3).
pub fn root(version: u64, now: UnixTime, fleet: &FleetId, authorities: &[String], keys: &RootKeys<'_>) -> Root {
    let role = |keys: &[PublicKey], threshold| RoleKeys {
        keyids: keys.iter().map(PublicKey::id).collect(),
        threshold,
        extra: BTreeMap::new(),
    };
    let (targets, online) = (std::slice::from_ref(&keys.targets), std::slice::from_ref(&keys.online));
    Root {
        kind: "root".to_owned(),
        spec_version: SPEC_VERSION.to_owned(),
        version,
        expires: now.plus(ROOT_LIFE),
        consistent_snapshot: true,
        keys: keys
            .root
            .iter()
            .chain(targets)
            .chain(online)
            .chain(keys.firmware)
            .map(|key| (key.id(), key_json(key)))
            .collect(),
        roles: BTreeMap::from([
            ("root".to_owned(), role(keys.root, OFFLINE_THRESHOLD)),
            ("targets".to_owned(), role(targets, 1)),
            ("snapshot".to_owned(), role(online, 1)),
            ("timestamp".to_owned(), role(online, 1)),
        ]),
        extra: extra(json!({
            "fleet": fleet,
            "ca": authorities,
            FIRMWARE: role(keys.firmware, OFFLINE_THRESHOLD),
        })),
    }
}

/// Who approves firmware, as the root says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FirmwareKeys {
    /// The keys.
    pub keys: Vec<PublicKey>,
    /// How many of them must sign.
    pub threshold: u32,
}

impl FirmwareKeys {
    /// Those whom this root names; nobody can approve firmware if it names none.
    pub fn of(root: &Root) -> Self {
        match root.firmware() {
            Some(role) => Self { keys: root.public_keys(&role), threshold: role.threshold },
            None => Self { keys: Vec::new(), threshold: OFFLINE_THRESHOLD },
        }
    }
}

/// `targets` of a site (§4.5): the sealed manifest, and who signs for firmware.
pub fn targets(
    whose: Whose<'_>,
    generation: Generation,
    now: UnixTime,
    manifest: &[u8],
    content: &Digest,
    firmware: &FirmwareKeys,
) -> Targets {
    let manifest = Target { custom: Some(json!({ "content": content })), ..target(manifest) };
    Targets {
        kind: "targets".to_owned(),
        spec_version: SPEC_VERSION.to_owned(),
        version: generation.0,
        expires: now.plus(TARGETS_LIFE),
        targets: BTreeMap::from([(MANIFEST_TARGET.to_owned(), manifest)]),
        delegations: Some(Delegations {
            keys: firmware.keys.iter().map(|key| (key.id(), key_json(key))).collect(),
            roles: vec![DelegatedRole {
                name: FIRMWARE.to_owned(),
                keyids: firmware.keys.iter().map(PublicKey::id).collect(),
                threshold: firmware.threshold,
                terminating: true,
                paths: Some(vec![format!("{FIRMWARE}/*")]),
                extra: BTreeMap::new(),
            }],
            extra: BTreeMap::new(),
        }),
        extra: whose.extra(),
    }
}

/// The content hash that [`targets`] carries, by which the next run sees that nothing changed.
pub fn content_of(targets: &Targets) -> Option<Digest> {
    let custom = targets.targets.get(MANIFEST_TARGET)?.custom.as_ref()?;
    custom.get("content")?.as_str()?.parse().ok()
}

/// A target of these bytes.
pub fn target(bytes: &[u8]) -> Target {
    sized_target(u64::try_from(bytes.len()).unwrap_or(u64::MAX), Digest::of(bytes))
}

fn sized_target(length: u64, digest: Digest) -> Target {
    Target {
        length,
        hashes: Hashes { sha256: Some(digest), others: BTreeMap::new() },
        custom: None,
        extra: BTreeMap::new(),
    }
}

/// The path of a firmware file among targets. A digest, so that who reads the metadata learns no model (I21).
pub fn firmware_path(digest: &Digest) -> String {
    format!("{FIRMWARE}/{digest}")
}

/// The `firmware` role (§4.5): every image that may be served at all, as digest and size.
pub fn firmware(version: u64, now: UnixTime, fleet: &FleetId, images: &BTreeMap<Digest, u64>) -> Targets {
    Targets {
        kind: "targets".to_owned(),
        spec_version: SPEC_VERSION.to_owned(),
        version,
        expires: now.plus(TARGETS_LIFE),
        targets: images.iter().map(|(digest, bytes)| (firmware_path(digest), sized_target(*bytes, *digest))).collect(),
        delegations: None,
        extra: extra(json!({ "fleet": fleet })),
    }
}

/// `snapshot` of a site (§4.4) over these files, given as version and bytes.
pub fn snapshot(
    whose: Whose<'_>,
    version: u64,
    now: UnixTime,
    targets: (u64, &[u8]),
    firmware: (u64, &[u8]),
) -> Snapshot {
    Snapshot {
        kind: "snapshot".to_owned(),
        spec_version: SPEC_VERSION.to_owned(),
        version,
        expires: now.plus(SNAPSHOT_LIFE),
        meta: BTreeMap::from([
            ("targets.json".to_owned(), meta(targets)),
            (format!("{FIRMWARE}.json"), meta(firmware)),
        ]),
        extra: whose.extra(),
    }
}

/// `timestamp` of a site (§4.6) over this snapshot, given as version and bytes.
pub fn timestamp(whose: Whose<'_>, version: u64, now: UnixTime, snapshot: (u64, &[u8])) -> Timestamp {
    Timestamp {
        kind: "timestamp".to_owned(),
        spec_version: SPEC_VERSION.to_owned(),
        version,
        expires: now.plus(TIMESTAMP_LIFE),
        meta: BTreeMap::from([("snapshot.json".to_owned(), meta(snapshot))]),
        extra: whose.extra(),
    }
}

/// What is said of a metadata file of this version and these bytes.
pub fn meta((version, bytes): (u64, &[u8])) -> MetaFile {
    MetaFile {
        version,
        length: u64::try_from(bytes.len()).ok(),
        hashes: Some(Hashes { sha256: Some(Digest::of(bytes)), others: BTreeMap::new() }),
        extra: BTreeMap::new(),
    }
}
