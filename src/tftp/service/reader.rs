//! The threads that may block on the disk, to read files and to write logs. So the `tftp` thread never blocks.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Instant;

use super::wake::Waker;
use crate::endpoint::{Chunk, Loaded, NetasciiText, Ticket, Work, checked};
use crate::netascii;
use access::content::CHUNK_BYTES;
use access::{Content, ContentError, Files, LogError, Logs};
use status::Stats;

/// The number of threads, and so of files that are read at one time. SD cards do not get faster with more.
const THREADS: usize = 2;

/// The stack of each thread. Reading and opening one chunk needs far less than the usual two megabytes.
const STACK_BYTES: usize = 256 * 1024;

/// One result, and the ticket of the transfer that waits for it.
pub(super) struct FinishedWork {
    pub(super) ticket: Ticket,
    pub(super) loaded: Result<Loaded, ContentError>,
}

/// The queue to the threads that may wait for the disk. They end when this is dropped.
pub(super) struct Reader {
    /// `None` only while it is dropped.
    work: Option<Sender<(Ticket, Work)>>,
    done: Arc<Mutex<Vec<FinishedWork>>>,
}

/// What the threads read from and write to.
#[derive(Clone)]
pub(super) struct Disk {
    pub(super) files: Arc<dyn Files>,
    /// Where devices' logs go, at a site that takes them.
    pub(super) logs: Option<Arc<dyn Logs>>,
    /// It knows what time it is.
    pub(super) stats: Stats,
}

impl Reader {
    /// Starts the threads. They ring `waker` when there is something to take.
    pub(super) fn start(disk: &Disk, waker: &Arc<Waker>) -> std::io::Result<Self> {
        let (work, queue) = channel();
        let queue = Arc::new(Mutex::new(queue));
        let done = Arc::new(Mutex::new(Vec::new()));
        for _ in 0..THREADS {
            let (disk, queue, done, waker) = (disk.clone(), Arc::clone(&queue), Arc::clone(&done), Arc::clone(waker));
            let thread = thread::Builder::new().name("tftp-read".to_owned()).stack_size(STACK_BYTES);
            thread.spawn(move || work_through(&disk, &queue, &done, &waker))?;
        }
        Ok(Self { work: Some(work), done })
    }

    /// Queues work. Every transfer has at most one piece under way, so the queue is bounded by the transfers.
    pub(super) fn submit(&self, ticket: Ticket, work: Work) {
        if let Some(queue) = &self.work {
            // The threads end only after the queue.
            let _ = queue.send((ticket, work));
        }
    }

    /// The results since the last call.
    pub(super) fn take(&self) -> Vec<FinishedWork> {
        std::mem::take(&mut *self.done.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

fn work_through(disk: &Disk, queue: &Mutex<Receiver<(Ticket, Work)>>, done: &Mutex<Vec<FinishedWork>>, waker: &Waker) {
    loop {
        let next = queue.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok((ticket, work)) = next else { return };
        let loaded = catch_unwind(AssertUnwindSafe(|| perform(disk, work)))
            .unwrap_or_else(|_| Err(ContentError::Io("reading broke off".to_owned())));
        let mut done = done.lock().unwrap_or_else(PoisonError::into_inner);
        done.push(FinishedWork { ticket, loaded });
        if done.len() == 1 {
            waker.wake();
        }
    }
}

#[expect(clippy::disallowed_methods, reason = "a service has a clock")]
fn perform(disk: &Disk, work: Work) -> Result<Loaded, ContentError> {
    match work {
        Work::Open(entry) => {
            let content = disk.files.open(&entry)?;
            let first = read_chunk(&*content, 0)?;
            Ok(Loaded::Opened(content, first))
        }
        Work::Translate(entry) => {
            let content = disk.files.open(&entry)?;
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
        Work::Keep { log, text } => {
            let kept = disk.logs.as_ref().map(|logs| logs.keep(log, &text, disk.stats.now(), Instant::now()));
            Ok(Loaded::Kept(kept.unwrap_or(Err(LogError::TooOften))))
        }
    }
}

fn read_chunk(content: &dyn Content, index: u64) -> Result<Chunk, ContentError> {
    checked(content, index, content.chunk(index)?)
}
