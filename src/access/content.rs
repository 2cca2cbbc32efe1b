//! How services get at the clear text of a file, without knowing where it is kept.

use std::sync::Arc;

use sha2::{Digest as _, Sha256};

use bundle::FileEntry;
use ids::Digest;

pub use bundle::limits::CHUNK_BYTES;

/// A place that files come from. The store implements it; tests use a map.
pub trait Files: Send + Sync + 'static {
    /// Opens a file for one transfer. May read the disk, so call it where blocking is allowed or short.
    fn open(&self, entry: &Arc<FileEntry>) -> Result<Arc<dyn Content>, ContentError>;
}

/// The clear text of one file in chunks of [`CHUNK_BYTES`].
pub trait Content: Send + Sync {
    /// The size of the file in bytes.
    fn len(&self) -> u64;

    /// Whether the file is empty.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Chunk `index`: [`CHUNK_BYTES`] bytes, the last one as many as are left (none for an empty file). Checked
    /// before it is returned: bytes that fail authentication never leave here. May block on the disk.
    fn chunk(&self, index: u64) -> Result<Arc<[u8]>, ContentError>;

    /// Length and SHA-256 of the whole file as it is where it is kept, for whoever reads it once and not again: no room
    /// is taken from what phones read. May block on the disk for long.
    fn digest(&self) -> Result<(u64, Digest), ContentError> {
        let (mut hasher, mut bytes) = (Sha256::new(), 0);
        for index in 0..self.len().div_ceil(CHUNK_BYTES as u64) {
            let chunk = self.chunk(index)?;
            bytes += chunk.len() as u64;
            hasher.update(&chunk);
        }
        Ok((bytes, Digest::from_bytes(hasher.finalize().into())))
    }

    /// A chunk if it is in memory, checked already. Never blocks on the disk.
    fn cached(&self, _index: u64) -> Option<Arc<[u8]>> {
        None
    }
}

/// Why a file cannot be read now.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ContentError {
    /// The sealed bytes are damaged or gone.
    #[error("the stored file is damaged: {0}")]
    Damaged(String),
    /// The system could not read the file. The bytes may be whole.
    #[error("the file cannot be read: {0}")]
    Io(String),
}
