//! The sealed manifest: HPKE (RFC 9180) of a file key to each recipient, STREAM for the body.

use super::{Manifest, PublisherSecret, RecipientPublic, RecipientSecret};
use crate::ids::{FleetId, Generation, SiteId};

/// What a sealed manifest is bound to; all of it is in the HPKE info.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Binding {
    /// The fleet.
    pub fleet: FleetId,
    /// The site.
    pub site: SiteId,
    /// The release.
    pub generation: Generation,
}

/// Why a manifest was turned away.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ManifestError {
    /// Not sealed for this key, this site or this generation, or damaged.
    #[error("the manifest is not sealed to this site's key for this release, or is damaged")]
    NotForUs,
    /// Not our format.
    #[error("the sealed manifest is malformed: {0}")]
    Malformed(String),
    /// A newer format than this build knows.
    #[error("the manifest has format {0}, newer than this version knows; update the appliance first")]
    TooNew(u32),
    /// Over a limit.
    #[error("the manifest's {what} is {value}, over the {limit} allowed")]
    TooLarge {
        /// Of what.
        what: &'static str,
        /// What it has.
        value: u64,
        /// What it may have.
        limit: u64,
    },
}

impl RecipientSecret {
    /// A new key from the system's random source.
    pub fn generate() -> Self {
        todo!()
    }

    /// The public half.
    pub fn public(&self) -> RecipientPublic {
        todo!()
    }
}

/// Seals a manifest to all recipients. The same arguments give the same bytes.
pub fn seal(
    _secret: &PublisherSecret,
    _manifest: &Manifest,
    _recipients: &[RecipientPublic],
) -> Result<Vec<u8>, ManifestError> {
    todo!()
}

/// Opens a sealed manifest with one recipient's key and checks that it says what it is bound to.
pub fn open(_sealed: &[u8], _key: &RecipientSecret, _expected: &Binding) -> Result<Manifest, ManifestError> {
    todo!()
}
