//! Sealed objects: blobs, shards and inventories. STREAM over 64 KiB chunks under a content key.

#[cfg(feature = "hq")]
use hkdf::Hkdf;
use serde::de::DeserializeOwned;
#[cfg(feature = "hq")]
use sha2::Sha256;
use zeroize::Zeroizing;

#[cfg(feature = "hq")]
use super::PublisherSecret;
#[cfg(feature = "hq")]
use super::limits::MAX_COMPRESSED_FILE_BYTES;
use super::limits::{CHUNK_BYTES, MAX_FILES, MAX_PHONES, MAX_UNPACKED_BYTES, TAG_BYTES};
use super::{ContentKey, Inventory, ObjectRef, Packing, Shard, packing, stream};
use crate::ids::Digest;

/// Why an object was turned away.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ObjectError {
    /// The ciphertext's digest or length is not what the reference says.
    #[error("the object is not the one that was asked for")]
    WrongObject,
    /// A chunk failed authentication.
    #[error("chunk {0} of the object fails its authentication")]
    Corrupt(u64),
    /// It unpacks to another length than the reference says, or not at all.
    #[error("the object does not unpack to the size it claims")]
    Unpack,
    /// Content is not what the format says.
    #[error("the object's content is malformed: {0}")]
    Malformed(String),
    /// Over a limit.
    #[error("the object is {bytes} bytes, over the {limit} allowed")]
    TooLarge {
        /// What it has.
        bytes: u64,
        /// What it may have.
        limit: u64,
    },
}

/// Seals `clear` so that equal content in the same `scope` gives equal bytes. Returns the reference and the ciphertext.
///
/// `scope` keeps apart what must not be recognised as equal, for example one site's files from another's; the reader
/// does not need it.
#[cfg(feature = "hq")]
pub fn seal(secret: &PublisherSecret, scope: &str, clear: &[u8], packing: Packing) -> (ObjectRef, Vec<u8>) {
    match packing {
        Packing::Plain => seal_packed(secret, scope, clear, clear.len(), packing),
        Packing::Zstd => seal_packed(secret, scope, &packing::pack(clear), clear.len(), packing),
    }
}

/// Seals a file compressed if that is allowed ([`MAX_COMPRESSED_FILE_BYTES`]) and saves at least 3 %, else plain.
#[cfg(feature = "hq")]
pub fn seal_smaller(secret: &PublisherSecret, scope: &str, clear: &[u8]) -> (ObjectRef, Vec<u8>) {
    if clear.len() as u64 <= MAX_COMPRESSED_FILE_BYTES {
        let packed = packing::pack(clear);
        if packed.len().saturating_mul(100) <= clear.len().saturating_mul(97) {
            return seal_packed(secret, scope, &packed, clear.len(), Packing::Zstd);
        }
    }
    seal(secret, scope, clear, Packing::Plain)
}

/// Seals some of a site's files. See [`open_shard`].
#[cfg(feature = "hq")]
pub fn seal_shard(secret: &PublisherSecret, scope: &str, shard: &Shard) -> (ObjectRef, Vec<u8>) {
    let json = Zeroizing::new(serde_json::to_vec(shard).expect("a shard has nothing that JSON cannot say"));
    seal_packed(secret, scope, &packing::pack_well(&json), json.len(), Packing::Zstd)
}

/// Seals the phones of a site. See [`open_inventory`].
#[cfg(feature = "hq")]
pub fn seal_inventory(secret: &PublisherSecret, scope: &str, inventory: &Inventory) -> (ObjectRef, Vec<u8>) {
    let json = serde_json::to_vec(inventory).expect("an inventory has nothing that JSON cannot say");
    seal(secret, scope, &json, Packing::Zstd)
}

/// Seals what is packed already; the same bytes from every version of the packer's library.
#[cfg(feature = "hq")]
pub(super) fn seal_packed(
    secret: &PublisherSecret,
    scope: &str,
    packed: &[u8],
    clear_bytes: usize,
    packing: Packing,
) -> (ObjectRef, Vec<u8>) {
    // The salt is the hash of exactly the bytes that are encrypted: a key meets one content only, so that the fixed
    // nonces of STREAM are safe, and publishing again gives the same object.
    let source = Hkdf::<Sha256>::new(Some(Digest::of(packed).as_bytes()), secret.as_bytes());
    let mut key = Zeroizing::new([0; 32]);
    source
        .expand_multi_info(&[b"lineside object ", scope.as_bytes()], key.as_mut())
        .expect("32 bytes are within what HKDF-SHA256 gives");
    let sealed = stream::seal(&key, b"", packed);
    let reference = ObjectRef {
        digest: Digest::of(&sealed),
        bytes: sealed.len() as u64,
        key: ContentKey::from_bytes(*key),
        packing,
        clear_bytes: clear_bytes as u64,
    };
    (reference, sealed)
}

/// Checks and opens a whole object of at most `limit` clear bytes.
pub fn open(reference: &ObjectRef, sealed: &[u8], limit: u64) -> Result<Vec<u8>, ObjectError> {
    if reference.clear_bytes > limit {
        return Err(ObjectError::TooLarge { bytes: reference.clear_bytes, limit });
    }
    if reference.bytes != sealed.len() as u64 || reference.digest != Digest::of(sealed) {
        return Err(ObjectError::WrongObject);
    }
    let packed = stream::open(reference.key.as_bytes(), b"", sealed).map_err(ObjectError::Corrupt)?;
    let clear = match reference.packing {
        Packing::Plain => packed,
        Packing::Zstd => packing::unpack(&packed, reference.clear_bytes).ok_or(ObjectError::Unpack)?,
    };
    if clear.len() as u64 == reference.clear_bytes { Ok(clear) } else { Err(ObjectError::Unpack) }
}

/// Opens chunk `index` of a [`Packing::Plain`] (or the packed stream of a [`Packing::Zstd`]) object in place.
///
/// `sealed` is exactly that chunk's ciphertext and tag. `last` says whether it is the object's last. After an error
/// `sealed` is empty: bytes that fail authentication never leave here.
pub fn open_chunk(key: &ContentKey, index: u32, last: bool, sealed: &mut Vec<u8>) -> Result<(), ObjectError> {
    stream::open_chunk(key.as_bytes(), b"", index, last, sealed).map_err(|_| {
        sealed.clear();
        ObjectError::Corrupt(index.into())
    })
}

/// Opens some of a site's files and checks every entry against the limits.
pub fn open_shard(reference: &ObjectRef, sealed: &[u8]) -> Result<Shard, ObjectError> {
    let shard: Shard = open_json(reference, sealed)?;
    at_most("files", shard.files.len(), MAX_FILES)?;
    shard.validate()?;
    Ok(shard)
}

/// Opens the phones of a site and checks every entry against the limits.
pub fn open_inventory(reference: &ObjectRef, sealed: &[u8]) -> Result<Inventory, ObjectError> {
    let inventory: Inventory = open_json(reference, sealed)?;
    at_most("phones", inventory.phones.len(), MAX_PHONES)?;
    inventory.validate()?;
    Ok(inventory)
}

fn open_json<T: DeserializeOwned>(reference: &ObjectRef, sealed: &[u8]) -> Result<T, ObjectError> {
    let json = Zeroizing::new(open(reference, sealed, MAX_UNPACKED_BYTES)?);
    // serde_json's message may quote a value, but never a key: keys are read by code that does not.
    serde_json::from_slice(&json).map_err(|error| ObjectError::Malformed(error.to_string()))
}

fn at_most(what: &str, value: usize, limit: usize) -> Result<(), ObjectError> {
    if value > limit {
        return Err(ObjectError::Malformed(format!("{value} {what}, over the {limit} allowed")));
    }
    Ok(())
}

/// How many chunks an object of so many clear (packed) bytes has: at least one.
pub const fn chunks(packed_bytes: u64) -> u64 {
    let chunks = packed_bytes.div_ceil(CHUNK_BYTES as u64);
    if chunks == 0 { 1 } else { chunks }
}

/// How many bytes an object of so many clear (packed) bytes has when it is sealed.
pub const fn sealed_bytes(packed_bytes: u64) -> u64 {
    packed_bytes.saturating_add(chunks(packed_bytes).saturating_mul(TAG_BYTES as u64))
}

#[cfg(all(test, feature = "hq"))]
mod tests;
