//! From verified metadata and sealed bytes to a release that may be served. Trust is a type here: nothing else
//! makes an [`Opened`], and the store stages nothing else. The site, its restart and HQ's preview run this same code.

use std::sync::Arc;

use super::catalog::{Catalog, CatalogError};
use crate::bundle::object::ObjectError;
use crate::bundle::recipients::ManifestError;
use crate::bundle::{Manifest, ObjectRef, RecipientSecret};
use crate::ids::{FileName, FleetId, Generation, SiteId};
use crate::tuf::Trusted;

/// The path of the sealed manifest among a site's targets. With consistent snapshots it is fetched as
/// `targets/<sha256>.manifest`.
pub const MANIFEST_TARGET: &str = "manifest";

/// A manifest whose signatures, site, generation and digest all held.
#[derive(Debug, Clone)]
pub struct OpenedManifest {
    _private: (),
}

/// A release whose parts all held: manifest, inventory, shards, firmware listing.
#[derive(Debug, Clone)]
pub struct Opened {
    _private: (),
}

/// Why a release was turned away. The active release stays as it was.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReleaseError {
    /// The signed metadata names no manifest.
    #[error("the signed metadata names no manifest")]
    NoManifest,
    /// The metadata is another site's or fleet's.
    #[error("the signed metadata is for {0}, not for this site")]
    OtherSite(String),
    /// The sealed bytes are not those that were signed for.
    #[error("the manifest is not the one that was signed for")]
    Mismatch,
    /// The manifest does not open.
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    /// A part does not open.
    #[error(transparent)]
    Object(#[from] ObjectError),
    /// A part cannot be had.
    #[error("a part of the release cannot be read: {0}")]
    Unreadable(String),
    /// The parts contradict each other.
    #[error(transparent)]
    Catalog(#[from] CatalogError),
    /// A firmware file that the firmware keys did not sign for.
    #[error("{0} is not in the signed firmware catalogue")]
    UnlistedFirmware(FileName),
}

impl ReleaseError {
    /// A stable code: `no-manifest`, `other-site`, `mismatch`, `not-sealed-to-us`, `malformed`, `too-new`, …
    pub fn code(&self) -> &'static str {
        todo!()
    }
}

impl OpenedManifest {
    /// Opens the sealed manifest that `trusted` names.
    pub fn open(
        _trusted: &Trusted,
        _sealed: &[u8],
        _key: &RecipientSecret,
        _fleet: &FleetId,
        _site: &SiteId,
    ) -> Result<Self, ReleaseError> {
        todo!()
    }

    /// What it says.
    pub fn manifest(&self) -> &Manifest {
        todo!()
    }

    /// The inventory and the shards, which [`OpenedManifest::complete`] will read.
    pub fn parts(&self) -> impl Iterator<Item = &ObjectRef> {
        std::iter::empty()
    }

    /// Opens the parts. `read` gives the ciphertext of a part.
    pub fn complete(
        self,
        _trusted: &Trusted,
        _read: &mut dyn FnMut(&ObjectRef) -> Result<Vec<u8>, String>,
    ) -> Result<Opened, ReleaseError> {
        todo!()
    }
}

impl Opened {
    /// The release, indexed.
    pub fn catalog(&self) -> &Arc<Catalog> {
        todo!()
    }

    /// Its number.
    pub fn generation(&self) -> Generation {
        todo!()
    }

    /// What its manifest says.
    pub fn manifest(&self) -> &Manifest {
        todo!()
    }

    /// The sealed manifest, as it was signed.
    pub fn sealed_manifest(&self) -> &[u8] {
        todo!()
    }

    /// Every object that the release needs on disk, each once: parts and blobs.
    pub fn objects(&self) -> Vec<ObjectRef> {
        todo!()
    }
}
