//! Sealed objects: blobs, shards and inventories. STREAM over 64 KiB chunks under a content key.

use serde::de::DeserializeOwned;
use zeroize::Zeroizing;

use super::limits::{CHUNK_BYTES, MAX_FILES, MAX_PHONES, MAX_UNPACKED_BYTES, TAG_BYTES};
use super::{ContentKey, Inventory, ObjectRef, Packing, Shard, packing, stream};
use ids::Digest;

/// Why a sealed object was rejected.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ObjectError {
    /// The ciphertext's digest or length is not what the reference says.
    #[error("the object is not the one that was asked for")]
    WrongObject,
    /// The chunk of this number, from 0, failed authentication.
    #[error("chunk {0} of the object fails its authentication")]
    Corrupt(u64),
    /// It unpacks to another length than the reference says, or not at all.
    #[error("the object does not unpack to the size it claims")]
    Unpack,
    /// The content breaks the format (`FORMAT.md`). The text says how, and holds no key.
    #[error("the object's content is malformed: {0}")]
    Malformed(String),
    /// The content in clear is longer than allowed. Nothing was decrypted.
    #[error("the object is {bytes} bytes, over the {limit} allowed")]
    TooLarge {
        /// The length in clear that the reference gives.
        bytes: u64,
        /// The most bytes that it may have in clear.
        limit: u64,
    },
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

/// The number of chunks of an object whose packed content has so many bytes: at least one.
pub const fn chunks(packed_bytes: u64) -> u64 {
    let chunks = packed_bytes.div_ceil(CHUNK_BYTES as u64);
    if chunks == 0 { 1 } else { chunks }
}

/// The sealed length in bytes of an object whose packed content has so many bytes.
pub const fn sealed_bytes(packed_bytes: u64) -> u64 {
    packed_bytes.saturating_add(chunks(packed_bytes).saturating_mul(TAG_BYTES as u64))
}
