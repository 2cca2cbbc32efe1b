//! The bytes of one file, chunk by chunk, read on threads that may block and a little ahead of need.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::{JoinHandle, spawn_blocking};

use crate::access::content::CHUNK_BYTES;
use crate::access::{Content, ContentError, Files};
use crate::bundle::FileEntry;

const CHUNK: u64 = CHUNK_BYTES as u64;

type Chunk = Arc<[u8]>;

/// One open file and the chunks that a transfer still needs.
pub(super) struct Source {
    content: Arc<dyn Content>,
    len: u64,
    /// The index of the first chunk in `chunks`.
    first: u64,
    chunks: VecDeque<Chunk>,
    /// The chunk after those.
    ahead: Option<JoinHandle<Result<Chunk, ContentError>>>,
    reads: Arc<Semaphore>,
}

impl Source {
    /// Opens the file and reads its first chunk.
    pub(super) async fn open(
        files: Arc<dyn Files>,
        entry: Arc<FileEntry>,
        reads: Arc<Semaphore>,
    ) -> Result<Self, ContentError> {
        let permit = permit(&reads).await?;
        let opened = spawn_blocking(move || {
            let _permit = permit;
            let content = files.open(&entry)?;
            let first = read_chunk(&*content, 0)?;
            Ok((content, first))
        });
        let (content, first) = joined(opened.await)?;
        Ok(Self { len: content.len(), content, first: 0, chunks: VecDeque::from([first]), ahead: None, reads })
    }

    /// Bytes in memory as if they were a file: the translated text of netascii.
    pub(super) fn from_bytes(bytes: &[u8], reads: Arc<Semaphore>) -> Self {
        let mut chunks: VecDeque<Chunk> = bytes.chunks(CHUNK_BYTES).map(Chunk::from).collect();
        if chunks.is_empty() {
            chunks.push_back(Chunk::from([]));
        }
        let len = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        Self { content: Arc::new(NoMore(len)), len, first: 0, chunks, ahead: None, reads }
    }

    /// The size of the file.
    pub(super) fn len(&self) -> u64 {
        self.len
    }

    /// The whole file, which must not be longer than `limit`; `None` if it is.
    pub(super) async fn read_all(&mut self, limit: u64) -> Result<Option<Vec<u8>>, ContentError> {
        if self.len > limit {
            return Ok(None);
        }
        self.load(0..self.len).await?;
        Ok(Some(self.chunks.iter().flat_map(|chunk| chunk.iter().copied()).collect()))
    }

    /// Whether [`Source::slices`] can give these bytes now.
    pub(super) fn has(&self, range: &Range<u64>) -> bool {
        range.end <= self.end()
    }

    /// Waits until it can.
    pub(super) async fn load(&mut self, range: Range<u64>) -> Result<(), ContentError> {
        while range.end > self.end() {
            let reading = match self.ahead.take() {
                Some(reading) => reading,
                None => self.start(permit(&self.reads).await?),
            };
            let chunk = joined(reading.await)?;
            self.chunks.push_back(chunk);
        }
        Ok(())
    }

    /// Starts to read the next chunk once half of the last one is used, unless the disk is busy.
    pub(super) fn read_ahead(&mut self, position: u64) {
        let wanted = self.ahead.is_none() && self.end() < self.len && position + CHUNK / 2 > self.end();
        if wanted && let Ok(permit) = Arc::clone(&self.reads).try_acquire_owned() {
            self.ahead = Some(self.start(permit));
        }
    }

    /// Forgets whole chunks before this byte.
    pub(super) fn release_before(&mut self, position: u64) {
        while (self.first + 1) * CHUNK <= position && self.chunks.pop_front().is_some() {
            self.first += 1;
        }
    }

    /// At most [`CHUNK_BYTES`] bytes, in one piece or, across the end of a chunk, in two. They must be loaded.
    pub(super) fn slices(&self, range: &Range<u64>) -> (&[u8], &[u8]) {
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
        self.len.min((self.first + self.loaded()) * CHUNK)
    }

    fn loaded(&self) -> u64 {
        u64::try_from(self.chunks.len()).unwrap_or(u64::MAX)
    }

    fn start(&self, permit: OwnedSemaphorePermit) -> JoinHandle<Result<Chunk, ContentError>> {
        let content = Arc::clone(&self.content);
        let index = self.first + self.loaded();
        spawn_blocking(move || {
            let _permit = permit;
            read_chunk(&*content, index)
        })
    }
}

/// A chunk of exactly the length that it must have: a short one would end the file early on the phone.
fn read_chunk(content: &dyn Content, index: u64) -> Result<Chunk, ContentError> {
    let chunk = content.chunk(index)?;
    let expected = content.len().saturating_sub(index * CHUNK).min(CHUNK);
    if usize::try_from(expected).is_ok_and(|expected| expected == chunk.len()) {
        Ok(chunk)
    } else {
        Err(ContentError::Damaged(format!("chunk {index} has {} bytes instead of {expected}", chunk.len())))
    }
}

async fn permit(reads: &Arc<Semaphore>) -> Result<OwnedSemaphorePermit, ContentError> {
    Arc::clone(reads).acquire_owned().await.map_err(|_| ContentError::Io("the service is stopping".to_owned()))
}

fn joined<T>(result: Result<Result<T, ContentError>, tokio::task::JoinError>) -> Result<T, ContentError> {
    result.unwrap_or_else(|error| Err(ContentError::Io(format!("reading broke off: {error}"))))
}

/// Everything is loaded already.
struct NoMore(u64);

impl Content for NoMore {
    fn len(&self) -> u64 {
        self.0
    }

    fn chunk(&self, index: u64) -> Result<Arc<[u8]>, ContentError> {
        Err(ContentError::Io(format!("there is no chunk {index}")))
    }
}
