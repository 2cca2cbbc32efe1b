//! The files and phones of one release, indexed for lookup.

use std::sync::Arc;

use crate::bundle::{FileEntry, Inventory, Manifest, Phone, Shard, SiteSettings};
use crate::ids::{FileName, Generation, MacAddr, SiteId};

/// One release as the services see it. A transfer keeps the one that it began with.
#[derive(Debug, Clone)]
pub struct Catalog {
    _private: (),
}

/// Why a release cannot be served.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CatalogError {
    /// Two entries with one name.
    #[error("the release lists {0} twice")]
    DuplicateFile(FileName),
    /// Two phones with one address.
    #[error("the release lists phone {0} twice")]
    DuplicatePhone(MacAddr),
    /// More than [`crate::bundle::limits`] allow.
    #[error("the release has {value} {what}, over the {limit} allowed")]
    TooMany {
        /// Of what.
        what: &'static str,
        /// How many.
        value: usize,
        /// How many there may be.
        limit: usize,
    },
}

impl Catalog {
    /// Indexes a release.
    pub fn new(_manifest: &Manifest, _inventory: Inventory, _shards: Vec<Shard>) -> Result<Self, CatalogError> {
        todo!()
    }

    /// Nothing to serve: the state before the first release.
    pub fn empty(_site: SiteId) -> Self {
        todo!()
    }

    /// The site.
    pub fn site(&self) -> &SiteId {
        todo!()
    }

    /// The release; 0 for none.
    pub fn generation(&self) -> Generation {
        todo!()
    }

    /// How the appliance behaves here.
    pub fn settings(&self) -> &SiteSettings {
        todo!()
    }

    /// The file of this name, in any case.
    pub fn file(&self, _name: &FileName) -> Option<&Arc<FileEntry>> {
        todo!()
    }

    /// All files.
    pub fn files(&self) -> impl Iterator<Item = &Arc<FileEntry>> {
        std::iter::empty()
    }

    /// The phone of this address.
    pub fn phone(&self, _mac: MacAddr) -> Option<&Phone> {
        todo!()
    }

    /// All phones.
    pub fn phones(&self) -> impl Iterator<Item = &Phone> {
        std::iter::empty()
    }
}
