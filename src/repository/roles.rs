//! What HQ writes into metadata: roles, thresholds, lifetimes and our own fields. Sections are those of the TUF
//! specification.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Value, json};

use access::{ImageApproval, MANIFEST_TARGET};
use ids::{Digest, FleetId, Generation, SiteId, UnixTime};
use tuf::PublicKey;
use tuf::schema::{
    DelegatedRole, Delegations, EXTRA_FIELD, FIRMWARE, Hashes, MetaFile, RoleKeys, Root, SPEC_VERSION, Snapshot,
    Target, Targets, Timestamp, key_json,
};

const DAY: u64 = 86_400;
/// In [`EXTRA_FIELD`] of `targets`: the commit of the fleet directory.
const COMMIT: &str = "commit";
/// How long `root` is valid: ten years, because the holders of offline keys meet rarely.
pub const ROOT_LIFE: Duration = Duration::from_secs(3650 * DAY);
/// How long `targets` and `firmware` are valid.
pub const TARGETS_LIFE: Duration = Duration::from_secs(365 * DAY);
/// How long `snapshot` is valid.
pub const SNAPSHOT_LIFE: Duration = Duration::from_secs(90 * DAY);
/// How long `timestamp` is valid. Somebody who withholds updates from a site is noticed after this time.
pub const TIMESTAMP_LIFE: Duration = Duration::from_secs(30 * DAY);

/// How many root keys `init` makes, and how many firmware keys.
pub const OFFLINE_KEYS: u32 = 3;
/// How many root keys must sign a root, and how many firmware keys a firmware catalogue.
pub const OFFLINE_THRESHOLD: u32 = 2;

/// The two ids that are in the metadata of a site, so that one site's repository cannot be given to another.
#[derive(Debug, Clone, Copy)]
pub struct SiteIds<'a> {
    /// The id in `fleet.toml`.
    pub fleet: &'a FleetId,
    /// The id in the site's file.
    pub site: &'a SiteId,
}

impl SiteIds<'_> {
    fn extra(self) -> BTreeMap<String, Value> {
        extra(json!({ "fleet": self.fleet, "site": self.site }))
    }
}

fn extra(value: Value) -> BTreeMap<String, Value> {
    BTreeMap::from([(EXTRA_FIELD.to_owned(), value)])
}

/// Whether metadata must be signed anew: less than `life / fraction` is left until `expires`.
pub fn is_near(expires: UnixTime, life: Duration, fraction: u32, now: UnixTime) -> bool {
    expires.since(now) < life / fraction.max(1)
}

/// The public keys that `root` names.
#[derive(Debug)]
pub struct RootKeys<'a> {
    /// The root keys, which are offline; two of three must sign.
    pub root: &'a [PublicKey],
    /// The release key, which signs `targets`.
    pub targets: PublicKey,
    /// The online key, for `snapshot` and `timestamp`.
    pub online: PublicKey,
    /// The firmware keys, which are offline; two of three must sign.
    pub firmware: &'a [PublicKey],
}

/// The `root` role (§4.3). `authorities` are the certificates of HQ's CA in PEM, which sites take from it.
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

/// The keys that approve firmware, as the root names them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FirmwareKeys {
    /// The public keys of all holders.
    pub keys: Vec<PublicKey>,
    /// How many of them must sign a firmware catalogue; 0 if no delegation was found.
    pub threshold: u32,
}

impl FirmwareKeys {
    /// The keys that this root names. If it names none, nobody can approve firmware.
    pub fn of(root: &Root) -> Self {
        match root.firmware() {
            Some(role) => Self { keys: root.public_keys(&role), threshold: role.threshold },
            None => Self { keys: Vec::new(), threshold: OFFLINE_THRESHOLD },
        }
    }
}

/// The `targets` role of a site (§4.5): it lists the sealed manifest and delegates firmware to the firmware keys.
///
/// `content` is the hash over the clear content, which the next run of `publish` compares.
pub fn targets(
    whose: SiteIds<'_>,
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

/// Names the commit of the fleet directory that a release was made from, beside fleet and site.
pub fn made_from(targets: &mut Targets, commit: &str) {
    if let Some(Value::Object(ours)) = targets.extra.get_mut(EXTRA_FIELD) {
        ours.insert(COMMIT.to_owned(), commit.into());
    }
}

/// The commit that [`made_from`] named; `None` if there is none.
pub fn commit_of(targets: &Targets) -> Option<&str> {
    targets.extra.get(EXTRA_FIELD)?.get(COMMIT)?.as_str()
}

/// The content hash that [`targets`] wrote; `None` if there is none. The next run of `publish` compares it to see
/// whether anything changed.
pub fn content_of(targets: &Targets) -> Option<Digest> {
    let custom = targets.targets.get(MANIFEST_TARGET)?.custom.as_ref()?;
    custom.get("content")?.as_str()?.parse().ok()
}

/// An entry of `targets` metadata for a file with these bytes.
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

/// The `firmware` role (§4.5): every image that may be served at all, as digest and size; those of the appliance itself with
/// the hardware and version that they are for.
pub fn firmware(
    version: u64,
    now: UnixTime,
    fleet: &FleetId,
    images: &BTreeMap<Digest, (u64, Option<ImageApproval>)>,
) -> Targets {
    let target = |digest: &Digest, bytes: u64, approval: &Option<ImageApproval>| Target {
        custom: approval.as_ref().map(ImageApproval::to_custom),
        ..sized_target(bytes, *digest)
    };
    Targets {
        kind: "targets".to_owned(),
        spec_version: SPEC_VERSION.to_owned(),
        version,
        expires: now.plus(TARGETS_LIFE),
        targets: images
            .iter()
            .map(|(digest, (bytes, approval))| (access::firmware_path(digest), target(digest, *bytes, approval)))
            .collect(),
        delegations: None,
        extra: extra(json!({ "fleet": fleet })),
    }
}

/// The `snapshot` role of a site (§4.4) over these files, each given as version and bytes.
pub fn snapshot(
    whose: SiteIds<'_>,
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

/// The `timestamp` role of a site (§4.6) over this snapshot, given as version and bytes.
pub fn timestamp(whose: SiteIds<'_>, version: u64, now: UnixTime, snapshot: (u64, &[u8])) -> Timestamp {
    Timestamp {
        kind: "timestamp".to_owned(),
        spec_version: SPEC_VERSION.to_owned(),
        version,
        expires: now.plus(TIMESTAMP_LIFE),
        meta: BTreeMap::from([("snapshot.json".to_owned(), meta(snapshot))]),
        extra: whose.extra(),
    }
}

/// How `snapshot` and `timestamp` list a metadata file of this version with these bytes.
pub fn meta((version, bytes): (u64, &[u8])) -> MetaFile {
    MetaFile {
        version,
        length: u64::try_from(bytes.len()).ok(),
        hashes: Some(Hashes { sha256: Some(Digest::of(bytes)), others: BTreeMap::new() }),
        extra: BTreeMap::new(),
    }
}
