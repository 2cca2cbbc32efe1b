//! Sealed objects: blobs, shards and inventories. STREAM over 64 KiB chunks under a content key.

use super::limits::CHUNK_BYTES;
use super::{ContentKey, ObjectRef, Packing, PublisherSecret};

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
pub fn seal(_secret: &PublisherSecret, _scope: &str, _clear: &[u8], _packing: Packing) -> (ObjectRef, Vec<u8>) {
    todo!()
}

/// Checks and opens a whole object of at most `limit` clear bytes.
pub fn open(_reference: &ObjectRef, _sealed: &[u8], _limit: u64) -> Result<Vec<u8>, ObjectError> {
    todo!()
}

/// Opens chunk `index` of a [`Packing::Plain`] (or the packed stream of a [`Packing::Zstd`]) object in place.
///
/// `sealed` is exactly that chunk's ciphertext and tag. `last` says whether it is the object's last.
pub fn open_chunk(_key: &ContentKey, _index: u32, _last: bool, _sealed: &mut Vec<u8>) -> Result<(), ObjectError> {
    todo!()
}

/// How many chunks an object of so many clear (packed) bytes has: at least one.
pub const fn chunks(packed_bytes: u64) -> u64 {
    let chunks = packed_bytes.div_ceil(CHUNK_BYTES as u64);
    if chunks == 0 { 1 } else { chunks }
}
