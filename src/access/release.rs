//! Makes a release that may be served out of verified metadata and sealed bytes. Trust is a type: only this file makes an
//! [`Opened`], and the store stages nothing else. An update, a restart and HQ's preview run this same code.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use serde_json::Value;

use super::catalog::{Catalog, CatalogError};
use super::image::ImageApproval;
use api::ReleaseRefusal;
use bundle::limits::MAX_UNLISTED_FILE_BYTES;
use bundle::object::{self, ObjectError};
use bundle::recipients::{self, Binding, ManifestError};
use bundle::{Class, FileEntry, Manifest, ObjectRef, RecipientSecret};
use ids::{Digest, FileName, FleetId, Generation, SiteId};
use tuf::schema::{EXTRA_FIELD, FIRMWARE, Root, Target, Targets};
use tuf::{TrustError, Trusted};

/// The path of the sealed manifest among a site's targets. With consistent snapshots it is fetched as
/// `targets/<sha256>.manifest`.
pub const MANIFEST_TARGET: &str = "manifest";

/// A manifest whose signatures, site, generation and digest were all verified.
#[derive(Debug, Clone)]
pub struct OpenedManifest {
    manifest: Manifest,
    sealed: Arc<[u8]>,
}

/// A release whose parts were all verified: manifest, inventory, shards, firmware listing.
#[derive(Debug, Clone)]
pub struct Opened {
    manifest: Manifest,
    sealed: Arc<[u8]>,
    catalog: Arc<Catalog>,
    objects: Vec<ObjectRef>,
}

/// Why a release was rejected. The active release stays as it was.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReleaseError {
    /// The signed metadata names no manifest.
    #[error("the signed metadata names no manifest")]
    NoManifest,
    /// The metadata is another site's or fleet's.
    #[error("the signed metadata is for {0}, not for this site")]
    OtherSite(String),
    /// The sealed manifest has not the digest and length that the metadata signs.
    #[error("the manifest is not the one that was signed for")]
    Mismatch,
    /// The manifest does not open.
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    /// The inventory or a shard does not open, or an object is described in two ways.
    #[error(transparent)]
    Object(#[from] ObjectError),
    /// The inventory or a shard cannot be read from the disk or from HQ.
    #[error("a part of the release cannot be read: {0}")]
    Unreadable(String),
    /// The inventory and the shards contradict each other or the limits.
    #[error(transparent)]
    Catalog(#[from] CatalogError),
    /// A firmware file, or one as large as only firmware is, that the firmware keys did not sign.
    #[error("{0} is not in the signed firmware catalogue")]
    UnlistedFirmware(FileName),
}

impl ReleaseError {
    /// Which refusal this is, as a code says it.
    pub fn refusal(&self) -> ReleaseRefusal {
        match self {
            Self::NoManifest => ReleaseRefusal::NoManifest,
            Self::OtherSite(_) => ReleaseRefusal::OtherSite,
            Self::Mismatch => ReleaseRefusal::Mismatch,
            Self::Manifest(error) => match error {
                ManifestError::NotForUs => ReleaseRefusal::NotSealedToUs,
                ManifestError::Malformed(_) => ReleaseRefusal::Malformed,
                ManifestError::TooNew(_) | ManifestError::UnknownSuite(_) => ReleaseRefusal::TooNew,
                ManifestError::TooLarge { .. } => ReleaseRefusal::TooLarge,
            },
            Self::Object(error) => match error {
                ObjectError::WrongObject | ObjectError::Corrupt(_) => ReleaseRefusal::Corrupt,
                ObjectError::Unpack | ObjectError::Malformed(_) => ReleaseRefusal::Malformed,
                ObjectError::TooLarge { .. } => ReleaseRefusal::TooLarge,
            },
            Self::Unreadable(_) => ReleaseRefusal::Unreadable,
            Self::Catalog(error) => match error {
                CatalogError::DuplicateFile(_) | CatalogError::DuplicatePhone(_) => ReleaseRefusal::Duplicate,
                CatalogError::TooMany { .. } => ReleaseRefusal::TooLarge,
                CatalogError::Image => ReleaseRefusal::Malformed,
            },
            Self::UnlistedFirmware(_) => ReleaseRefusal::UnlistedFirmware,
        }
    }
}

/// Which refusal of a release it is that its metadata does not hold. `tuf` knows no codes of ours.
pub const fn metadata_refusal(error: &TrustError) -> ReleaseRefusal {
    match error {
        TrustError::Malformed { .. } => ReleaseRefusal::Malformed,
        TrustError::Untrusted { .. } => ReleaseRefusal::Untrusted,
        TrustError::Rollback { .. } => ReleaseRefusal::Rollback,
        TrustError::WrongVersion { .. } => ReleaseRefusal::WrongVersion,
        TrustError::Mismatch { .. } => ReleaseRefusal::Mismatch,
        TrustError::Expired { .. } => ReleaseRefusal::Expired,
        TrustError::Missing { .. } => ReleaseRefusal::Missing,
        TrustError::TooLarge { .. } => ReleaseRefusal::TooLarge,
    }
}

impl OpenedManifest {
    /// Opens the sealed manifest that `trusted` names.
    ///
    /// # Errors
    ///
    /// The metadata is another site's or names no manifest, or `sealed` is not the one it names or does not open with
    /// `key` for this fleet, site and generation.
    pub fn open(
        trusted: &Trusted,
        sealed: &[u8],
        key: &RecipientSecret,
        fleet: &FleetId,
        site: &SiteId,
    ) -> Result<Self, ReleaseError> {
        Self::open_signed(&Signed::of(trusted)?, sealed, key, fleet, site)
    }

    fn open_signed(
        signed: &Signed<'_>,
        sealed: &[u8],
        key: &RecipientSecret,
        fleet: &FleetId,
        site: &SiteId,
    ) -> Result<Self, ReleaseError> {
        for extra in &signed.extras {
            check_site(extra, fleet, site)?;
        }
        let target = signed.manifest()?;
        if !is_target(target, &Digest::of(sealed), sealed.len() as u64) {
            return Err(ReleaseError::Mismatch);
        }
        let (fleet, site, generation) = (fleet.clone(), site.clone(), Generation(signed.targets.version));
        let manifest = recipients::open(sealed, key, &Binding { fleet, site, generation })?;
        Ok(Self { manifest, sealed: sealed.into() })
    }

    /// The manifest's content, in clear.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// The inventory and the shards, which [`OpenedManifest::complete`] will read.
    pub fn parts(&self) -> impl Iterator<Item = &ObjectRef> {
        std::iter::once(&self.manifest.inventory).chain(&self.manifest.shards)
    }

    /// Opens the parts. `read` gives the ciphertext of a part.
    ///
    /// # Errors
    ///
    /// A part cannot be read or does not open, the parts contradict each other, a file is firmware (or as large as only
    /// firmware is) that the `firmware` role does not list, or `trusted` is no longer what this manifest was opened by.
    pub fn complete(
        self,
        trusted: &Trusted,
        read: &mut dyn FnMut(&ObjectRef) -> Result<Vec<u8>, String>,
    ) -> Result<Opened, ReleaseError> {
        self.read_parts(trusted, read)?.approve(trusted, None)
    }

    /// Opens the parts, and leaves open whether the firmware role approves what they list. `read` gives the ciphertext of a
    /// part.
    ///
    /// # Errors
    ///
    /// As [`OpenedManifest::complete`], but for firmware.
    pub fn read_parts(
        self,
        trusted: &Trusted,
        read: &mut dyn FnMut(&ObjectRef) -> Result<Vec<u8>, String>,
    ) -> Result<UnapprovedRelease, ReleaseError> {
        self.read_signed(&Signed::of(trusted)?, read)
    }

    fn read_signed(
        self,
        signed: &Signed<'_>,
        read: &mut dyn FnMut(&ObjectRef) -> Result<Vec<u8>, String>,
    ) -> Result<UnapprovedRelease, ReleaseError> {
        let same = is_target(signed.manifest()?, &Digest::of(&self.sealed), self.sealed.len() as u64);
        if !same || Generation(signed.targets.version) != self.manifest.generation {
            return Err(ReleaseError::Mismatch);
        }
        let mut read = |part: &ObjectRef| read(part).map_err(ReleaseError::Unreadable);
        let inventory = object::open_inventory(&self.manifest.inventory, &read(&self.manifest.inventory)?)?;
        let mut shards = Vec::with_capacity(self.manifest.shards.len());
        for part in &self.manifest.shards {
            shards.push(object::open_shard(part, &read(part)?)?);
        }
        let catalog = Catalog::new(&self.manifest, inventory, shards)?;
        let objects = distinct(self.parts().chain(catalog.contents().map(|entry| &entry.blob)))?;
        let Self { manifest, sealed } = self;
        Ok(UnapprovedRelease(Opened { manifest, sealed, catalog: Arc::new(catalog), objects }))
    }
}

/// A release whose parts were all verified, but for the firmware that it lists.
#[derive(Debug, Clone)]
pub struct UnapprovedRelease(Opened);

impl UnapprovedRelease {
    /// The TUF path of a firmware image that this release needs approved: who searches for it has the current list. `None`
    /// if the release holds no firmware.
    pub fn firmware_path(&self) -> Option<String> {
        self.0.catalog.contents().find(|entry| must_be_listed(entry)).map(|entry| firmware_path(&entry.sha256))
    }

    /// Checks that the `firmware` role lists every firmware image of the release. Where the list has lapsed, `served` is the
    /// release that is served now: its images may stay, and no new one comes.
    ///
    /// # Errors
    ///
    /// A file is firmware (or as large as only firmware is) and not listed.
    pub fn approve(self, trusted: &Trusted, served: Option<&Opened>) -> Result<Opened, ReleaseError> {
        self.approve_signed(&Signed::of(trusted)?, served)
    }

    fn approve_signed(mut self, signed: &Signed<'_>, served: Option<&Opened>) -> Result<Opened, ReleaseError> {
        let mut listed = signed.firmware_images();
        if let Some(served) = served {
            let stays: HashSet<_> = served.catalog.contents().map(|entry| image_of(entry)).collect();
            listed.retain(|image| stays.contains(image));
        }
        for entry in self.0.catalog.contents() {
            check_listed(entry, &listed)?;
        }
        let approval = self.0.catalog.image().and_then(|image| signed.image_approval(&image.bundle));
        Arc::make_mut(&mut self.0.catalog).approve_image(approval);
        Ok(self.0)
    }
}

/// The path of an image among the targets of the `firmware` role. It is a digest, so that a reader of the metadata learns
/// no model (I21).
pub fn firmware_path(sha256: &Digest) -> String {
    format!("{FIRMWARE}/{sha256}")
}

impl Opened {
    /// The files and phones of the release, indexed for lookup.
    pub fn catalog(&self) -> &Arc<Catalog> {
        &self.catalog
    }

    /// The number of the release, from 1.
    pub fn generation(&self) -> Generation {
        self.manifest.generation
    }

    /// The manifest's content, in clear.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// The sealed manifest, as it was signed.
    pub fn sealed_manifest(&self) -> &[u8] {
        &self.sealed
    }

    /// Every object that the release needs on disk, each once: parts and blobs, in the order of their digests.
    pub fn objects(&self) -> Vec<ObjectRef> {
        self.objects.clone()
    }
}

/// What verified metadata says about a release.
struct Signed<'a> {
    targets: &'a Targets,
    firmware: Option<&'a Targets>,
    /// The [`EXTRA_FIELD`] of each role that is signed for one site; `None` where a file has none.
    extras: Vec<Option<&'a Value>>,
}

impl<'a> Signed<'a> {
    fn of(trusted: &'a Trusted) -> Result<Self, ReleaseError> {
        let targets = trusted.targets().ok_or(ReleaseError::NoManifest)?;
        let others = [trusted.timestamp().map(|role| &role.extra), trusted.snapshot().map(|role| &role.extra)];
        let extras = others.into_iter().flatten().chain([&targets.extra]).map(|extra| extra.get(EXTRA_FIELD)).collect();
        let firmware = trusted.delegated(FIRMWARE).filter(|_| may_delegate_firmware(trusted.root(), targets));
        Ok(Self { targets, firmware, extras })
    }

    /// The manifest's target, by the release key alone: no delegated role may answer for it.
    fn manifest(&self) -> Result<&'a Target, ReleaseError> {
        self.targets.targets.get(MANIFEST_TARGET).ok_or(ReleaseError::NoManifest)
    }

    /// What the firmware keys bind an image of the appliance to.
    fn image_approval(&self, bundle: &FileEntry) -> Option<ImageApproval> {
        let (sha256, bytes) = image_of(bundle);
        let mut targets = self.firmware?.targets.values().filter(|target| is_target(target, &sha256, bytes));
        targets.find_map(ImageApproval::of)
    }

    fn firmware_images(&self) -> HashSet<(Digest, u64)> {
        let targets = self.firmware.map(|role| &role.targets).into_iter().flatten();
        targets.filter_map(|(_, target)| Some((target.hashes.sha256?, target.length))).collect()
    }
}

/// Whether `targets` delegates firmware to those whom the root names, and to nobody else: the release key alone cannot
/// put its own keys in their place.
fn may_delegate_firmware(root: &Root, targets: &Targets) -> bool {
    let roles = targets.delegations.iter().flat_map(|delegations| &delegations.roles);
    match (root.firmware(), roles.into_iter().find(|role| role.name == FIRMWARE)) {
        (Some(named), Some(role)) => {
            role.threshold >= named.threshold && role.keyids.iter().all(|id| named.keyids.contains(id))
        }
        _ => false,
    }
}

/// Checks that metadata was signed for this site: `{"fleet": …, "site": …}` must be there and name it.
fn check_site(extra: &Option<&Value>, fleet: &FleetId, site: &SiteId) -> Result<(), ReleaseError> {
    let text = |field: &str| extra.and_then(|extra| extra.get(field)).and_then(Value::as_str);
    match (text("fleet"), text("site")) {
        (Some(named_fleet), Some(named_site)) => {
            if named_fleet == fleet.as_str() && named_site == site.as_str() {
                return Ok(());
            }
            Err(ReleaseError::OtherSite(format!("site {named_site} of fleet {named_fleet}")))
        }
        _ => Err(ReleaseError::OtherSite("no site that it names".to_owned())),
    }
}

/// Whether the target has this SHA-256 and length. A target without a SHA-256 matches nothing.
fn is_target(target: &Target, sha256: &Digest, bytes: u64) -> bool {
    target.hashes.sha256 == Some(*sha256) && target.length == bytes
}

/// Checks that firmware is listed by the firmware keys. The release key alone signs the class of a file, so a file over the
/// limit counts as firmware whatever its class: an image cannot pass as a dictionary.
fn check_listed(entry: &FileEntry, listed: &HashSet<(Digest, u64)>) -> Result<(), ReleaseError> {
    if must_be_listed(entry) && !listed.contains(&image_of(entry)) {
        return Err(ReleaseError::UnlistedFirmware(entry.name.clone()));
    }
    Ok(())
}

/// An image as the `firmware` role lists it.
fn image_of(entry: &FileEntry) -> (Digest, u64) {
    (entry.sha256, entry.blob.clear_bytes)
}

fn must_be_listed(entry: &FileEntry) -> bool {
    entry.class == Class::Firmware || entry.blob.clear_bytes > MAX_UNLISTED_FILE_BYTES
}

/// The objects, each once. An error if one digest has two lengths or two keys.
fn distinct<'a>(references: impl Iterator<Item = &'a ObjectRef>) -> Result<Vec<ObjectRef>, ReleaseError> {
    let mut objects: BTreeMap<Digest, &ObjectRef> = BTreeMap::new();
    for reference in references {
        let first = objects.entry(reference.digest).or_insert(reference);
        if (first.bytes, &first.key) != (reference.bytes, &reference.key) {
            let what = format!("object {} is described in two ways", reference.digest);
            return Err(ObjectError::Malformed(what).into());
        }
    }
    Ok(objects.into_values().cloned().collect())
}

#[cfg(test)]
mod tests;
