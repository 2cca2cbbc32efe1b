//! The sealed manifest: HPKE (RFC 9180) of a file key to each recipient, STREAM for the body.

use hpke::aead::ChaCha20Poly1305;
use hpke::kdf::HkdfSha256;
use hpke::kem::X25519HkdfSha256;
use hpke::{Deserializable as _, Kem as _, OpModeR, Serializable as _};
use serde::Deserialize;
use zeroize::Zeroizing;

use super::limits::{MAX_MANIFEST_BYTES, MAX_RECIPIENTS, MAX_UNPACKED_BYTES};
use super::manifest::MANIFEST_FORMAT;
use super::{Manifest, RecipientPublic, RecipientSecret, packing, stream};
use ids::{Digest, FleetId, Generation, SiteId};

#[cfg(test)]
pub(crate) mod tests;

/// How file keys are encapsulated to recipients.
pub type Kem = X25519HkdfSha256;

/// The first four bytes of a sealed manifest: "LSM" and the version of the container.
pub const MAGIC: &[u8; 4] = b"LSM1";
/// DHKEM(X25519, HKDF-SHA256), HKDF-SHA256, ChaCha20-Poly1305. Another number is another set of all three.
pub const SUITE_X25519: u8 = 1;
/// The length of the header: magic, suite (1 byte), number of recipients (1 byte).
pub const HEADER_BYTES: usize = 6;
/// The length of the id by which the table names a recipient: see [`RecipientPublic::id`].
pub const ID_BYTES: usize = 8;
/// The length of the encapsulated key of HPKE (RFC 9180 §4).
pub const ENC_BYTES: usize = 32;
const WRAPPED_BYTES: usize = 32 + 16;
/// The length of one line of the recipients' table: id, encapsulated key, wrapped file key.
pub const RECIPIENT_BYTES: usize = ID_BYTES + ENC_BYTES + WRAPPED_BYTES;

/// The release that a sealed manifest is bound to. All of it is in the HPKE `info` (RFC 9180 §8.1), so a manifest that was
/// sealed for another one does not open.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Binding {
    /// The fleet whose HQ sealed the manifest.
    pub fleet: FleetId,
    /// The only site that the manifest is for.
    pub site: SiteId,
    /// The generation of the release; the version of the signed `targets`.
    pub generation: Generation,
}

impl Binding {
    /// The binding that a manifest itself gives, in clear.
    pub fn of(manifest: &Manifest) -> Self {
        Self { fleet: manifest.fleet.clone(), site: manifest.site.clone(), generation: manifest.generation }
    }

    /// RFC 9180 §8.1: application data that both sides must agree on goes into `info`. Ids have no newline.
    pub fn info(&self) -> Vec<u8> {
        format!("lineside manifest 1\n{}\n{}\n{}", self.fleet, self.site, self.generation).into_bytes()
    }
}

/// Why a sealed manifest was rejected.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ManifestError {
    /// The manifest is sealed for another key, site or generation, or is damaged: these cannot be told apart.
    #[error("the manifest is not sealed to this site's key for this release, or is damaged")]
    NotForUs,
    /// The manifest breaks the format (`FORMAT.md`). The text says how.
    #[error("the sealed manifest is malformed: {0}")]
    Malformed(String),
    /// The manifest has a newer format than this build knows.
    #[error("the manifest has format {0}, newer than this version knows; update the appliance first")]
    TooNew(u32),
    /// The manifest is sealed with a suite of algorithms that this build does not know.
    #[error("the manifest is sealed with suite {0}, which this version does not know; update the appliance first")]
    UnknownSuite(u8),
    /// A count or a size in the manifest is over its limit.
    #[error("the manifest's {what} is {value}, over the {limit} allowed")]
    TooLarge {
        /// The name of the count or size, for people.
        what: &'static str,
        /// The value that the manifest gives.
        value: u64,
        /// The largest value that is allowed.
        limit: u64,
    },
}

impl RecipientSecret {
    /// A new key from the system's random source.
    ///
    /// # Panics
    ///
    /// If the system has no randomness to give: no key is better than a guessable one.
    pub fn generate() -> Self {
        Self::from_bytes(*super::key::random())
    }

    /// The public key, to which HQ seals.
    pub fn public(&self) -> RecipientPublic {
        RecipientPublic::from_bytes(Kem::sk_to_pk(&self.for_hpke()).to_bytes().into())
    }

    fn for_hpke(&self) -> <Kem as hpke::Kem>::PrivateKey {
        <Kem as hpke::Kem>::PrivateKey::from_bytes(self.as_bytes()).expect("any 32 bytes are an X25519 private key")
    }
}

impl RecipientPublic {
    /// How a sealed manifest names this recipient: the first bytes of SHA-256 of the key.
    pub fn id(&self) -> [u8; ID_BYTES] {
        let [a, b, c, d, e, f, g, h, ..] = *Digest::of(self.as_bytes()).as_bytes();
        [a, b, c, d, e, f, g, h]
    }
}

/// Whether a sealed manifest names this key among its recipients; `None` if its form is not that of one. It opens nothing.
pub fn is_named(sealed: &[u8], key: &RecipientPublic) -> Option<bool> {
    let (head, _) = split(sealed).ok()?;
    let (_, table) = head.split_at_checked(HEADER_BYTES)?;
    Some(table.chunks_exact(RECIPIENT_BYTES).any(|line| line.starts_with(&key.id())))
}

/// Opens a sealed manifest with one recipient's key and checks that it says what it is bound to.
///
/// # Errors
///
/// [`ManifestError::NotForUs`] if it is for another key, fleet, site or generation or was changed, else what is wrong
/// with its form, format or bounds.
pub fn open(sealed: &[u8], key: &RecipientSecret, expected: &Binding) -> Result<Manifest, ManifestError> {
    let packed = open_packed(sealed, key, expected)?;
    let json = packing::unpack(&packed, MAX_UNPACKED_BYTES)
        .map(Zeroizing::new)
        .ok_or_else(|| ManifestError::Malformed(format!("does not unpack to at most {MAX_UNPACKED_BYTES} bytes")))?;
    let manifest = parse(&json)?;
    // What was sealed for one release must also say so itself.
    if Binding::of(&manifest) != *expected {
        return Err(ManifestError::NotForUs);
    }
    Ok(manifest)
}

/// The content of a sealed manifest, decrypted but still packed and not parsed.
pub fn open_packed(sealed: &[u8], key: &RecipientSecret, expected: &Binding) -> Result<Vec<u8>, ManifestError> {
    if sealed.len() as u64 > MAX_MANIFEST_BYTES {
        let value = sealed.len() as u64;
        return Err(ManifestError::TooLarge { what: "sealed size", value, limit: MAX_MANIFEST_BYTES });
    }
    let (head, body) = split(sealed)?;
    let file_key = unwrap_key(head, key, expected).ok_or(ManifestError::NotForUs)?;
    // The whole head is associated data of the body: no byte before it can change unnoticed either.
    stream::open(&file_key, head, body).map_err(|_| ManifestError::NotForUs)
}

/// The head (header and recipients' table) and the body.
pub fn split(sealed: &[u8]) -> Result<(&[u8], &[u8]), ManifestError> {
    let [m0, m1, m2, m3, suite, count, ..] = *sealed else {
        return Err(cut_short());
    };
    if [m0, m1, m2, m3] != *MAGIC {
        return Err(ManifestError::Malformed("it does not begin with LSM1".to_owned()));
    }
    if suite != SUITE_X25519 {
        return Err(ManifestError::UnknownSuite(suite));
    }
    let count = usize::from(count);
    if !(1..=MAX_RECIPIENTS).contains(&count) {
        let (value, limit) = (count as u64, MAX_RECIPIENTS as u64);
        return Err(ManifestError::TooLarge { what: "number of recipients", value, limit });
    }
    sealed.split_at_checked(HEADER_BYTES + count * RECIPIENT_BYTES).ok_or_else(cut_short)
}

fn cut_short() -> ManifestError {
    ManifestError::Malformed("it is cut short".to_owned())
}

/// The file key, from whichever line of the table is for `key`.
fn unwrap_key(head: &[u8], key: &RecipientSecret, binding: &Binding) -> Option<Zeroizing<[u8; 32]>> {
    let (header, table) = head.split_at_checked(HEADER_BYTES)?;
    let (id, private, info) = (key.public().id(), key.for_hpke(), binding.info());
    table.chunks_exact(RECIPIENT_BYTES).find_map(|line| {
        let (line_id, rest) = line.split_at_checked(ID_BYTES)?;
        let (enc, wrapped) = rest.split_at_checked(ENC_BYTES)?;
        if *line_id != id {
            return None;
        }
        let enc = <Kem as hpke::Kem>::EncappedKey::from_bytes(enc).ok()?;
        let opened = hpke::single_shot_open::<ChaCha20Poly1305, HkdfSha256, Kem>(
            &OpModeR::Base,
            &private,
            &enc,
            &info,
            wrapped,
            header,
        );
        let bytes = Zeroizing::new(opened.ok()?);
        <[u8; 32]>::try_from(bytes.as_slice()).ok().map(Zeroizing::new)
    })
}

fn parse(json: &[u8]) -> Result<Manifest, ManifestError> {
    /// What every format has, so that a newer one is recognised before its fields are not.
    #[derive(Deserialize)]
    struct Any {
        format: u32,
    }
    let malformed = |error: serde_json::Error| ManifestError::Malformed(error.to_string());
    let Any { format } = serde_json::from_slice(json).map_err(malformed)?;
    if format > MANIFEST_FORMAT {
        return Err(ManifestError::TooNew(format));
    }
    let manifest: Manifest = serde_json::from_slice(json).map_err(malformed)?;
    manifest.validate()?;
    Ok(manifest)
}
