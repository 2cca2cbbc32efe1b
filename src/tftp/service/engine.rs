//! The `tftp` thread. It waits for packets, deadlines and results of the disk, and hands each to its transfer.

use std::io;
use std::net::UdpSocket;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;
use tracing::debug;

use super::Shared;
use super::listener::RequestListener;
use super::transfers::{RequestContext, Transfers};
use super::wake::Waker;

/// How long transfers that were told to stop may take to send their ERROR.
const FAREWELL: Duration = Duration::from_secs(1);

/// The most events that one call of `epoll_wait` returns.
const EVENTS: usize = 256;

/// How many packets are handled before the clock is read again.
const MOMENT: usize = 16;

/// The frames of this thread are small; the largest holds a list of a window's pieces.
const STACK_BYTES: usize = 512 * 1024;

// Tickets of what is no transfer. Slots are counted from 0, far below these.
const LISTENER: u64 = u64::MAX;
const WAKER: u64 = u64::MAX - 1;

const RUN: u8 = 0;
const DRAIN: u8 = 1;
const ABORT: u8 = 2;

/// Serves in a thread of its own until `stop`, then for at most as long as running transfers may take.
pub(super) async fn run(
    socket: UdpSocket,
    shared: Shared,
    waker: Arc<Waker>,
    stop: CancellationToken,
) -> io::Result<()> {
    let order = Order { phase: Arc::new(AtomicU8::new(RUN)), waker: Arc::clone(&waker) };
    let (tell, ended) = oneshot::channel();
    let phase = Arc::clone(&order.phase);
    thread::Builder::new().name("tftp".to_owned()).stack_size(STACK_BYTES).spawn(move || {
        // The task that waits for the end may be gone.
        let _ = tell.send(serve(socket, shared, &waker, &phase));
    })?;
    let mut ended = std::pin::pin!(ended);
    let outcome = tokio::select! {
        outcome = &mut ended => outcome,
        () = stop.cancelled() => {
            order.give(DRAIN);
            ended.await
        }
    };
    outcome.unwrap_or_else(|_| Err(io::Error::other("the thread that serves TFTP broke off")))
}

/// Tells the thread what to do. Dropping it ends the thread at once.
struct Order {
    phase: Arc<AtomicU8>,
    waker: Arc<Waker>,
}

impl Order {
    fn give(&self, phase: u8) {
        self.phase.store(phase, Ordering::Release);
        self.waker.wake();
    }
}

impl Drop for Order {
    fn drop(&mut self) {
        self.give(ABORT);
    }
}

/// The service loop. Each turn waits on one `epoll`, for whichever of these comes first:
///
/// - **The listener's socket** (port 69): a phone asks for a file or wants to write its log. At most a batch of requests
///   is read, so that transfers get their turn.
/// - **The bell** ([`Waker`]): a reader thread has a chunk or has kept a log, or the task that owns this thread gives an
///   order: finish what runs, or end at once.
/// - **A transfer's socket**: its client sent an ACK, DATA or ERROR, or the kernel's full queue has room again. A transfer
///   that waits for the disk listens to neither; what its client sends stays in the socket.
/// - **The earliest deadline**: a transfer resends or gives up, a request has waited long enough for its address to be
///   resolved, or the time to finish is over.
///
/// No error opens a socket again here. A receive that fails on port 69 is the ICMP error of an earlier answer, or memory
/// ran short: it is counted, and the socket stays. On a transfer's socket both directions are like that: what cannot be
/// sent counts as lost, and the transfer resends or gives up. Only `epoll` that fails ends the loop, with that error; then
/// the process ends, and systemd starts it with new sockets. When the address of the LAN changes, the appliance stops this
/// service and binds another one.
fn serve(socket: UdpSocket, mut shared: Shared, waker: &Waker, phase: &AtomicU8) -> io::Result<()> {
    let epoll = Rc::new(Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?);
    epoll.add(&socket, EpollEvent::new(EpollFlags::EPOLLIN, LISTENER))?;
    epoll.add(waker, EpollEvent::new(EpollFlags::EPOLLIN, WAKER))?;
    let mut transfers = Transfers::new(Rc::clone(&epoll));
    let mut listener = Some(RequestListener::new(socket));
    let mut stopping: Option<Stopping> = None;
    let mut events = [EpollEvent::empty(); EVENTS];
    let mut now = Instant::now();
    loop {
        let due = [
            transfers.due(),
            listener.as_ref().and_then(RequestListener::due),
            stopping.as_ref().map(|stopping| stopping.until),
        ];
        let ready = match epoll.wait(&mut events, until(due.into_iter().flatten().min(), now)) {
            Ok(ready) => ready,
            Err(Errno::EINTR) => 0,
            Err(error) => return Err(error.into()),
        };
        let events = events.get(..ready).unwrap_or_default();
        now = Instant::now();
        for (index, event) in events.iter().enumerate() {
            if index % MOMENT == MOMENT - 1 {
                now = Instant::now();
            }
            match event.data() {
                LISTENER => {
                    if let Some(listener) = &mut listener {
                        let mut context = RequestContext { shared: &mut shared, transfers: &mut transfers };
                        listener.read_batch(&mut context, now, || phase.load(Ordering::Acquire) != RUN);
                    }
                }
                WAKER => {
                    waker.quiet();
                    for done in shared.reader.take() {
                        transfers.loaded(done, &mut shared, now);
                    }
                }
                ticket => transfers.ready(ticket, event.events(), &mut shared, now),
            }
        }
        transfers.time(&mut shared, now);
        if let Some(listener) = &mut listener {
            listener.look_at_held(&mut RequestContext { shared: &mut shared, transfers: &mut transfers }, now);
        }
        match phase.load(Ordering::Acquire) {
            RUN => continue,
            DRAIN => {}
            _ => return Ok(()),
        }
        // No new request is read; running transfers may end.
        listener = None;
        let stopping = stopping.get_or_insert(Stopping { until: now + shared.config.drain, told: false });
        if now >= stopping.until && !stopping.told {
            *stopping = Stopping { until: now + FAREWELL, told: true };
            transfers.stop_all(&mut shared, now);
        }
        if transfers.len() == 0 {
            return Ok(());
        }
        if now >= stopping.until {
            debug!(transfers = transfers.len(), "cut off");
            return Ok(());
        }
    }
}

/// How far the end of the service is.
struct Stopping {
    until: Instant,
    /// Whether the running transfers were told to stop.
    told: bool,
}

/// The time from `now` to `due`, rounded up to whole milliseconds, so that the thread never wakes before something is due.
fn until(due: Option<Instant>, now: Instant) -> EpollTimeout {
    let Some(due) = due else { return EpollTimeout::NONE };
    let millis = due.saturating_duration_since(now).as_micros().div_ceil(1000);
    EpollTimeout::from(u16::try_from(millis).unwrap_or(u16::MAX))
}
