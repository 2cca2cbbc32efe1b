//! Threads that may block on the disk, to read and to keep logs, so that the one that moves packets never does.

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

/// Files read from the disk at one time. SD cards do not get faster with more.
const THREADS: usize = 2;

/// Chunks that are read ahead at one time; what a transfer waits for comes on top.
const MAX_AHEAD: usize = 8;

/// Reading and opening one chunk takes little; two megabytes of address space each would be wasted.
const STACK_BYTES: usize = 256 * 1024;

/// One thing to read.
pub(super) enum Work {
    /// A file's first chunk.
    Open(Arc<FileEntry>),
    /// A whole text, translated for netascii.
    Translate(Arc<FileEntry>),
    /// A chunk of an open file.
    Chunk {
        /// The file.
        content: Arc<dyn Content>,
        /// Which chunk.
        index: u64,
    },
    /// A log that is to be kept.
    Keep {
        /// Where.
        logs: Arc<dyn Logs>,
        /// Whose.
        log: OwnLog,
        /// What it says.
        text: Vec<u8>,
        /// When it was written.
        at: UnixTime,
    },
}

/// A text as netascii.
pub(super) struct Text(pub(super) Vec<u8>);

/// What was read.
pub(super) enum Loaded {
    /// [`Work::Open`].
    Opened(Arc<dyn Content>, Chunk),
    /// [`Work::Translate`]; `None` if it is too long or no text.
    Translated(Option<Text>),
    /// [`Work::Chunk`].
    Chunk(Chunk),
    /// [`Work::Keep`].
    Kept(Result<(), LogError>),
}

/// What was read for whom.
pub(super) struct Done {
    pub(super) ticket: u64,
    pub(super) loaded: Result<Loaded, ContentError>,
}

/// The threads, for as long as this lives.
pub(super) struct Reader {
    /// `None` only while it is dropped.
    work: Option<Sender<(u64, Work)>>,
    done: Arc<Mutex<Vec<Done>>>,
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

    /// Hands over work; every transfer has at most one piece under way.
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

    /// What has been read since.
    pub(super) fn take(&mut self) -> Vec<Done> {
        let done = std::mem::take(&mut *self.done.lock().unwrap_or_else(PoisonError::into_inner));
        self.outstanding = self.outstanding.saturating_sub(done.len());
        done
    }
}

fn work_through(files: &dyn Files, queue: &Mutex<Receiver<(u64, Work)>>, done: &Mutex<Vec<Done>>, waker: &Waker) {
    loop {
        let next = queue.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok((ticket, work)) = next else { return };
        let loaded = catch_unwind(AssertUnwindSafe(|| perform(files, work)))
            .unwrap_or_else(|_| Err(ContentError::Io("reading broke off".to_owned())));
        let mut done = done.lock().unwrap_or_else(PoisonError::into_inner);
        done.push(Done { ticket, loaded });
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
            Ok(Loaded::Translated(netascii::translate(&text).map(Text)))
        }
        Work::Chunk { content, index } => Ok(Loaded::Chunk(read_chunk(&*content, index)?)),
        Work::Keep { logs, log, text, at } => Ok(Loaded::Kept(logs.keep(log, &text, at, Instant::now()))),
    }
}

fn read_chunk(content: &dyn Content, index: u64) -> Result<Chunk, ContentError> {
    checked(content, index, content.chunk(index)?)
}
