//! The threads that may block on the disk, to read files and to write logs. So the `tftp` thread never blocks.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Instant;

use super::chunk::{Chunk, checked};
use super::wake::Waker;
use crate::netascii;
use access::content::CHUNK_BYTES;
use access::{Content, ContentError, Files, LogError, Logs, OwnLog};
use bundle::FileEntry;
use ids::UnixTime;

/// The number of threads, and so of files that are read at one time. SD cards do not get faster with more.
const THREADS: usize = 2;

/// The pieces of work under way at which nothing more is read ahead. Chunks that a transfer waits for are always read.
const MAX_AHEAD: usize = 8;

/// The stack of each thread. Reading and opening one chunk needs far less than the usual two megabytes.
const STACK_BYTES: usize = 256 * 1024;

/// One piece of work for the threads that may wait for the disk.
pub(super) enum Work {
    /// Opens a file and reads its first chunk.
    Open(Arc<FileEntry>),
    /// Reads a whole text file and translates it to netascii.
    Translate(Arc<FileEntry>),
    /// Reads one chunk of an open file.
    Chunk {
        /// The file, open since [`Work::Open`].
        content: Arc<dyn Content>,
        /// The chunk's number, from 0, in steps of [`CHUNK_BYTES`].
        index: u64,
    },
    /// Writes a device's log to the site's ring of logs.
    Keep {
        /// The ring that keeps it.
        logs: Arc<dyn Logs>,
        /// The device and the kind of its log.
        log: OwnLog,
        /// The whole upload, at most `MAX_LOG_BYTES`.
        text: Vec<u8>,
        /// When its last block arrived.
        at: UnixTime,
    },
}

/// A text file as netascii: every line ends with CR LF (RFC 764).
pub(super) struct NetasciiText(pub(super) Vec<u8>);

/// The result of one piece of work.
pub(super) enum Loaded {
    /// [`Work::Open`].
    Opened(Arc<dyn Content>, Chunk),
    /// [`Work::Translate`]; `None` if it is too long or no text.
    Translated(Option<NetasciiText>),
    /// [`Work::Chunk`].
    Chunk(Chunk),
    /// [`Work::Keep`].
    Kept(Result<(), LogError>),
}

/// One result, and the ticket of the transfer that waits for it.
pub(super) struct FinishedWork {
    pub(super) ticket: u64,
    pub(super) loaded: Result<Loaded, ContentError>,
}

/// The queue to the threads that may wait for the disk. They end when this is dropped.
pub(super) struct Reader {
    /// `None` only while it is dropped.
    work: Option<Sender<(u64, Work)>>,
    done: Arc<Mutex<Vec<FinishedWork>>>,
    outstanding: usize,
}

impl Reader {
    /// Starts the threads. They ring `waker` when there is something to take.
    pub(super) fn start(files: Arc<dyn Files>, waker: &Arc<Waker>) -> std::io::Result<Self> {
        let (work, queue) = channel();
        let queue = Arc::new(Mutex::new(queue));
        let done = Arc::new(Mutex::new(Vec::new()));
        for _ in 0..THREADS {
            let (files, queue, done, waker) =
                (Arc::clone(&files), Arc::clone(&queue), Arc::clone(&done), Arc::clone(waker));
            let thread = thread::Builder::new().name("tftp-read".to_owned()).stack_size(STACK_BYTES);
            thread.spawn(move || work_through(&*files, &queue, &done, &waker))?;
        }
        Ok(Self { work: Some(work), done, outstanding: 0 })
    }

    /// Queues work. Every transfer has at most one piece under way, so the queue is bounded by the transfers.
    pub(super) fn submit(&mut self, ticket: u64, work: Work) {
        self.outstanding += 1;
        if let Some(queue) = &self.work {
            // The threads end only after the queue.
            let _ = queue.send((ticket, work));
        }
    }

    /// Whether something may be read that nobody waits for yet.
    pub(super) fn has_time(&self) -> bool {
        self.outstanding < MAX_AHEAD
    }

    /// The results since the last call.
    pub(super) fn take(&mut self) -> Vec<FinishedWork> {
        let done = std::mem::take(&mut *self.done.lock().unwrap_or_else(PoisonError::into_inner));
        self.outstanding = self.outstanding.saturating_sub(done.len());
        done
    }
}

fn work_through(
    files: &dyn Files,
    queue: &Mutex<Receiver<(u64, Work)>>,
    done: &Mutex<Vec<FinishedWork>>,
    waker: &Waker,
) {
    loop {
        let next = queue.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok((ticket, work)) = next else { return };
        let loaded = catch_unwind(AssertUnwindSafe(|| perform(files, work)))
            .unwrap_or_else(|_| Err(ContentError::Io("reading broke off".to_owned())));
        let mut done = done.lock().unwrap_or_else(PoisonError::into_inner);
        done.push(FinishedWork { ticket, loaded });
        if done.len() == 1 {
            waker.wake();
        }
    }
}

fn perform(files: &dyn Files, work: Work) -> Result<Loaded, ContentError> {
    match work {
        Work::Open(entry) => {
            let content = files.open(&entry)?;
            let first = read_chunk(&*content, 0)?;
            Ok(Loaded::Opened(content, first))
        }
        Work::Translate(entry) => {
            let content = files.open(&entry)?;
            if content.len() > netascii::MAX_TEXT_BYTES {
                return Ok(Loaded::Translated(None));
            }
            let chunks = content.len().div_ceil(CHUNK_BYTES as u64).max(1);
            let mut text = Vec::new();
            for index in 0..chunks {
                text.extend_from_slice(&read_chunk(&*content, index)?);
            }
            Ok(Loaded::Translated(netascii::translate(&text).map(NetasciiText)))
        }
        Work::Chunk { content, index } => Ok(Loaded::Chunk(read_chunk(&*content, index)?)),
        Work::Keep { logs, log, text, at } => Ok(Loaded::Kept(logs.keep(log, &text, at, Instant::now()))),
    }
}

fn read_chunk(content: &dyn Content, index: u64) -> Result<Chunk, ContentError> {
    checked(content, index, content.chunk(index)?)
}
