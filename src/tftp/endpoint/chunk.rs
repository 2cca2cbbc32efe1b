//! A piece of a file in clear, as the store gives it.

use std::sync::Arc;

use access::content::CHUNK_BYTES;
use access::{Content, ContentError};

/// The bytes of one chunk; several transfers may hold them.
pub type Chunk = Arc<[u8]>;

/// A chunk of exactly the length that it must have: a short one would end the file early on the phone.
pub(crate) fn checked(content: &dyn Content, index: u64, chunk: Chunk) -> Result<Chunk, ContentError> {
    let before = index.saturating_mul(CHUNK_BYTES as u64);
    let expected = content.len().saturating_sub(before).min(CHUNK_BYTES as u64);
    if usize::try_from(expected).is_ok_and(|expected| expected == chunk.len()) {
        Ok(chunk)
    } else {
        Err(ContentError::Damaged(format!("chunk {index} has {} bytes instead of {expected}", chunk.len())))
    }
}
