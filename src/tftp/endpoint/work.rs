//! What the endpoint wants to have done where waiting for the disk is allowed.

use std::sync::Arc;

use super::chunk::Chunk;
use access::{Content, LogError, OwnLog};
use bundle::FileEntry;

/// One piece of work for threads that may wait for the disk.
pub enum Work {
    /// Opens a file and reads its first chunk.
    Open(Arc<FileEntry>),
    /// Reads a whole text file and translates it to netascii.
    Translate(Arc<FileEntry>),
    /// Reads one chunk of an open file.
    Chunk {
        /// The file, open since [`Work::Open`].
        content: Arc<dyn Content>,
        /// The chunk's number, from 0, in steps of [`access::content::CHUNK_BYTES`].
        index: u64,
    },
    /// Writes a device's log to the site's ring of logs.
    Keep {
        /// The device and the kind of its log.
        log: OwnLog,
        /// The whole upload, at most [`access::logs::MAX_LOG_BYTES`].
        text: Vec<u8>,
    },
}

/// A text file as netascii: every line ends with CR LF (RFC 764).
pub struct NetasciiText(pub Vec<u8>);

/// The result of one piece of work.
pub enum Loaded {
    /// [`Work::Open`].
    Opened(Arc<dyn Content>, Chunk),
    /// [`Work::Translate`]; `None` if it is too long or no text.
    Translated(Option<NetasciiText>),
    /// [`Work::Chunk`].
    Chunk(Chunk),
    /// [`Work::Keep`].
    Kept(Result<(), LogError>),
}
