//! What a desk pushes to HQ's host: a list that the release key signed, and files that the list names.
//!
//! The host takes no byte that no such list names by its SHA-256, so that a stolen API token uploads nothing. Read this file
//! (the list, and what must hold of it), [`crate::push_incoming`] (where files wait), then [`crate::push_release`] (how they
//! become a site's release, under the online key of this host).

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use bundle::limits::MAX_FILE_BYTES;
use ids::{Digest, FleetId, Generation, SiteId, UnixTime};
use repository::published::MAX_METADATA_BYTES;
use tuf::schema::{EXTRA_FIELD, Envelope, Root};
use tuf::{MetadataLimits, Refresh, RefreshStep, Trusted, sign};

/// The `_type` of a list, so that it never passes as TUF metadata, nor metadata as a list.
pub const KIND: &str = "lineside-push";
/// The largest list, in bytes: that of one site with as many files as a site may have.
pub const MAX_LIST_BYTES: usize = 8 * 1024 * 1024;
/// The most sites in one list.
pub const MAX_LIST_SITES: usize = 2_000;
/// The most objects in one list: those of a site with [`bundle::limits::MAX_FILES`] files, and some more.
pub const MAX_LIST_OBJECTS: usize = 60_000;
/// A desk begins another list when one has so many objects.
pub const USUAL_LIST_OBJECTS: usize = 10_000;
/// A file is sent in pieces of at most this many bytes.
pub const PIECE_BYTES: usize = 4 * 1024 * 1024;
/// The largest object: the largest file, and what sealing adds to it.
pub const MAX_OBJECT_BYTES: u64 = MAX_FILE_BYTES + MAX_FILE_BYTES / 1024;
/// The longest name of a site, in bytes.
const MAX_NAME_BYTES: usize = 200;
/// The longest name of a commit: SHA-256 in hex.
const MAX_COMMIT_BYTES: usize = 64;

/// A file by its digest and size.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct FileRef {
    /// SHA-256 of its bytes, which names it.
    pub sha256: Digest,
    /// Its size.
    pub bytes: u64,
}

impl FileRef {
    /// What names these bytes.
    pub fn of(bytes: &[u8]) -> Self {
        Self { sha256: Digest::of(bytes), bytes: u64::try_from(bytes.len()).unwrap_or(u64::MAX) }
    }
}

/// The signed part of a list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PushList {
    /// [`KIND`].
    #[serde(rename = "_type")]
    pub kind: String,
    /// The fleet of all its sites.
    pub fleet: FleetId,
    /// When it was made, by the desk's clock.
    pub created: UnixTime,
    /// The commit of the fleet directory that it was made from; `None` without git.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub commit: Option<String>,
    /// SHA-256 of each root of the fleet, from the first to the newest.
    pub roots: Vec<Digest>,
    /// The firmware catalogue that all its releases name, with its version.
    pub firmware: (u64, FileRef),
    /// Every object that a release of the list names.
    pub objects: Vec<FileRef>,
    /// What each site gets.
    pub sites: BTreeMap<SiteId, PushedSite>,
}

/// What one site gets.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PushedSite {
    /// What people call it.
    pub name: String,
    /// Its next release; `None` if it only gets the roots.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub release: Option<PushedRelease>,
}

/// A site's next release.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PushedRelease {
    /// Its number.
    pub generation: Generation,
    /// SHA-256 of the `targets` that the desk found published; `None` if there was none. The host has the same, or somebody
    /// published meanwhile.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replaces: Option<Digest>,
    /// Its signed `targets` metadata.
    pub targets: FileRef,
    /// Its sealed manifest.
    pub manifest: FileRef,
    /// Its objects, as places in [`PushList::objects`].
    pub objects: Vec<u32>,
}

/// A list with its signature, and the roots that lead to the key which signed it, as a desk sends them.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct PushRequest {
    /// Each root of the fleet, from the first to the newest.
    pub roots: Vec<String>,
    /// The signed [`PushList`].
    pub list: String,
}

/// Why a list is turned away as a whole.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PushRefused {
    /// This host never had a root of the fleet, so it cannot know whose keys count.
    #[error("this host has no root of a fleet; it needs the `online/` that `init` made")]
    NoRoot,
    /// The roots do not follow from the one that this host has.
    #[error("the roots do not lead from or to the one that this host trusts: {0}")]
    Roots(String),
    /// The desk has older roots than the host.
    #[error("this host has root version {known} and the desk only {sent}: `git pull` first")]
    OldRoot {
        /// The version that the host has.
        known: u64,
        /// The newest that the desk sent.
        sent: u64,
    },
    /// Too few release keys signed it.
    #[error("the list is not signed by the release key that the newest root names")]
    Untrusted,
    /// It is signed and wrong, or over a limit.
    #[error("the list cannot be used: {0}")]
    Malformed(String),
    /// It is for another fleet.
    #[error("the list is for fleet {0}, which is not served here")]
    OtherFleet(FleetId),
}

/// A list whose signature and limits held.
#[derive(Debug, Clone)]
pub struct SignedPush {
    /// SHA-256 of the signed list, which names it in the next requests.
    pub id: Digest,
    /// What it says.
    pub list: PushList,
    /// The roots of the fleet by version.
    pub roots: BTreeMap<u64, Vec<u8>>,
    /// The newest of them.
    pub newest: Root,
}

impl SignedPush {
    /// Verifies a list. `known` is the newest root that this host has.
    ///
    /// # Errors
    ///
    /// Why it counts for nothing.
    pub fn verify(request: &PushRequest, known: Option<&[u8]>) -> Result<Self, PushRefused> {
        let (roots, newest) = follow(request, known.ok_or(PushRefused::NoRoot)?)?;
        let malformed = |why: &str| PushRefused::Malformed(why.to_owned());
        let bytes = request.list.as_bytes();
        if bytes.len() > MAX_LIST_BYTES {
            return Err(malformed("it is too long"));
        }
        let role = newest.roles.get("targets").ok_or(PushRefused::Untrusted)?;
        let signed = sign::signed_by(bytes, &newest.public_keys(role)).map_err(|_| PushRefused::Untrusted)?;
        if role.threshold == 0 || u32::try_from(signed.len()).unwrap_or(u32::MAX) < role.threshold {
            return Err(PushRefused::Untrusted);
        }
        let Envelope::<PushList> { signed: list, .. } =
            serde_json::from_slice(bytes).map_err(|error| PushRefused::Malformed(error.to_string()))?;
        if list.kind != KIND {
            return Err(malformed("it is no list of a push"));
        }
        let ours = newest.extra.get(EXTRA_FIELD).and_then(|extra| extra.get("fleet")).and_then(|fleet| fleet.as_str());
        if ours != Some(list.fleet.as_str()) {
            return Err(PushRefused::OtherFleet(list.fleet));
        }
        if list.roots != roots.values().map(|root| Digest::of(root)).collect::<Vec<_>>() {
            return Err(malformed("it was made with other roots"));
        }
        check_limits(&list).map_err(malformed)?;
        Ok(Self { id: Digest::of(bytes), list, roots, newest })
    }

    /// Every file that the list names but the roots, which came with it.
    pub fn files(&self) -> BTreeSet<FileRef> {
        let releases = self.list.sites.values().filter_map(|site| site.release.as_ref());
        let own = releases.flat_map(|release| [release.targets, release.manifest]);
        let firmware = self.list.firmware.1;
        self.list.objects.iter().copied().chain(own).chain([firmware]).collect()
    }
}

/// Follows the roots as a site does, and checks that the one which this host has is among them.
fn follow(request: &PushRequest, known: &[u8]) -> Result<(BTreeMap<u64, Vec<u8>>, Root), PushRefused> {
    let broken = |error: tuf::TrustError| PushRefused::Roots(error.to_string());
    let limits = MetadataLimits::default();
    let too_many = limits.root_rotations.saturating_add(1);
    if u32::try_from(request.roots.len()).unwrap_or(u32::MAX) > too_many {
        return Err(PushRefused::Roots("there are too many".to_owned()));
    }
    let mut all = BTreeMap::new();
    let mut sent = request.roots.iter().map(String::as_bytes);
    let first = sent.next().ok_or_else(|| PushRefused::Roots("there is none".to_owned()))?;
    let trusted = Trusted::pin(first).map_err(broken)?;
    all.insert(trusted.root().version, first.to_vec());
    let mut refresh = Refresh::start(trusted, limits, UnixTime(0));
    for root in sent {
        let fits = |ask: &tuf::Ask| ask.role == "root" && root.len() as u64 <= ask.max_bytes;
        if !matches!(refresh.step(), RefreshStep::Fetch(ask) if fits(&ask)) {
            return Err(PushRefused::Roots("one is too long".to_owned()));
        }
        refresh.received(root).map_err(broken)?;
        all.insert(refresh.trusted().root().version, root.to_vec());
    }
    let newest = refresh.trusted().root().clone();
    if !all.values().any(|root| root.as_slice() == known) {
        let known = Trusted::pin(known).map_err(broken)?.root().version;
        return Err(if known > newest.version {
            PushRefused::OldRoot { known, sent: newest.version }
        } else {
            PushRefused::Roots(format!("version {known} is another one here"))
        });
    }
    Ok((all, newest))
}

fn check_limits(list: &PushList) -> Result<(), &'static str> {
    let objects = list.objects.len();
    if objects > MAX_LIST_OBJECTS || list.sites.len() > MAX_LIST_SITES {
        return Err("it names too many objects or sites");
    }
    if list.objects.iter().any(|object| object.bytes == 0 || object.bytes > MAX_OBJECT_BYTES) {
        return Err("it names an object that is too large");
    }
    if list.objects.iter().map(|object| object.sha256).collect::<BTreeSet<_>>().len() != objects {
        return Err("it names an object twice");
    }
    let metadata = |file: &FileRef| (1..=MAX_METADATA_BYTES).contains(&file.bytes);
    if !metadata(&list.firmware.1) || list.firmware.0 == 0 {
        return Err("its firmware catalogue is too large");
    }
    let commit = list.commit.as_deref().unwrap_or_default();
    if commit.len() > MAX_COMMIT_BYTES || !commit.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Err("its commit is none");
    }
    for site in list.sites.values() {
        if site.name.len() > MAX_NAME_BYTES || site.name.chars().any(char::is_control) {
            return Err("a site's name is none");
        }
        let Some(release) = &site.release else { continue };
        if !metadata(&release.targets) || !metadata(&release.manifest) || release.generation.0 == 0 {
            return Err("a site's metadata or manifest is too large");
        }
        let there = |place: &u32| usize::try_from(*place).is_ok_and(|place| place < objects);
        if release.objects.len() > objects || !release.objects.iter().all(there) {
            return Err("a release names an object that is not in the list");
        }
    }
    Ok(())
}
