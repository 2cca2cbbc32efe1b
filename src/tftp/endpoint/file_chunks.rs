//! The bytes of one file, chunk by chunk: the chunks that a transfer needs now, and one that it will need soon.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;

use super::chunk::{Chunk, checked};
use super::work::{NetasciiText, Work};
use access::content::CHUNK_BYTES;
use access::{Content, ContentError};

const CHUNK: u64 = CHUNK_BYTES as u64;

/// One open file and the chunks that a transfer still needs.
pub struct FileChunks {
    content: Arc<dyn Content>,
    len: u64,
    /// The index of the first chunk in `chunks`.
    first: u64,
    chunks: VecDeque<Chunk>,
    /// Whether the next chunk is being read.
    reading: bool,
    /// Why the next chunk could not be read ahead. Reported when it is needed, because the client may never get there.
    failed: Option<ContentError>,
}

impl FileChunks {
    /// The chunks of an open file whose first chunk was read.
    pub(super) fn new(content: Arc<dyn Content>, first: Chunk) -> Self {
        Self { len: content.len(), content, first: 0, chunks: VecDeque::from([first]), reading: false, failed: None }
    }

    /// The chunks of a text that was translated to netascii in memory.
    pub(super) fn from_text(NetasciiText(bytes): &NetasciiText) -> Self {
        let mut chunks: VecDeque<Chunk> = bytes.chunks(CHUNK_BYTES).map(Chunk::from).collect();
        if chunks.is_empty() {
            chunks.push_back(Chunk::from([]));
        }
        let len = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        Self { content: Arc::new(NoMore(len)), len, first: 0, chunks, reading: false, failed: None }
    }

    /// The size of the file in bytes, as it is sent.
    pub(super) fn len(&self) -> u64 {
        self.len
    }

    /// Whether [`FileChunks::slices`] can give these bytes now. Takes chunks that `content` has in memory.
    pub(super) fn has(&mut self, range: &Range<u64>) -> bool {
        while range.end > self.end() {
            let index = self.next();
            let cached = if self.reading { None } else { self.content.cached(index) };
            match cached.map(|chunk| checked(&*self.content, index, chunk)) {
                Some(Ok(chunk)) => self.chunks.push_back(chunk),
                _ => return false,
            }
        }
        true
    }

    /// The work that reads the next chunk, unless it is under way; an error if reading ahead has failed.
    pub(super) fn read_next(&mut self) -> Result<Option<Work>, ContentError> {
        if let Some(error) = self.failed.take() {
            return Err(error);
        }
        let idle = !std::mem::replace(&mut self.reading, true);
        Ok(idle.then(|| Work::Chunk { content: Arc::clone(&self.content), index: self.next() }))
    }

    /// Takes the chunk that was being read, or why it cannot be read.
    pub(super) fn arrived(&mut self, chunk: Result<Chunk, ContentError>) {
        self.reading = false;
        match chunk {
            Ok(chunk) => self.chunks.push_back(chunk),
            Err(error) => self.failed = Some(error),
        }
    }

    /// Whether the next chunk should be read now: the transfer has sent half of the last one, and the next is not in memory.
    pub(super) fn should_read_ahead(&mut self, position: u64) -> bool {
        let idle = !self.reading && self.failed.is_none();
        let wanted = idle && self.end() < self.len && position + CHUNK / 2 > self.end();
        wanted && !self.has(&(self.end()..self.end() + 1))
    }

    /// Drops the chunks that end before this byte of the file.
    pub(super) fn release_before(&mut self, position: u64) {
        while (self.first + 1) * CHUNK <= position && self.chunks.pop_front().is_some() {
            self.first += 1;
        }
    }

    /// At most [`CHUNK_BYTES`] bytes, in one piece or, across the end of a chunk, in two. They must be loaded.
    pub fn slices(&self, range: &Range<u64>) -> (&[u8], &[u8]) {
        let border = (range.start / CHUNK + 1) * CHUNK;
        if range.end <= border {
            (self.slice(range.start, range.end), &[])
        } else {
            (self.slice(range.start, border), self.slice(border, range.end))
        }
    }

    fn slice(&self, start: u64, end: u64) -> &[u8] {
        let index = (start / CHUNK).checked_sub(self.first).and_then(|index| usize::try_from(index).ok());
        let within = |byte: u64| usize::try_from(byte % CHUNK).unwrap_or(usize::MAX);
        let length = usize::try_from(end - start).unwrap_or(usize::MAX);
        let from = within(start);
        let chunk = index.and_then(|index| self.chunks.get(index));
        chunk.and_then(|chunk| chunk.get(from..from.saturating_add(length))).unwrap_or_default()
    }

    /// The first byte that is not loaded.
    fn end(&self) -> u64 {
        self.len.min(self.next() * CHUNK)
    }

    fn next(&self) -> u64 {
        self.first + u64::try_from(self.chunks.len()).unwrap_or(u64::MAX)
    }
}

/// A file of which all chunks are loaded: nothing can be read from it.
struct NoMore(u64);

impl Content for NoMore {
    fn len(&self) -> u64 {
        self.0
    }

    fn chunk(&self, index: u64) -> Result<Arc<[u8]>, ContentError> {
        Err(ContentError::Io(format!("there is no chunk {index}")))
    }
}
