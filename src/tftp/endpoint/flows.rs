//! All transfers that run, files to phones and logs from them, their sockets and their deadlines.

use std::collections::{BTreeSet, HashMap};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::BorrowedFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::time::Instant;

use nix::sys::epoll::{Epoll, EpollEvent, EpollFlags};
use tracing::error;

use super::Shared;
use super::reader::{FinishedWork, Loaded};
use crate::transfer::Input;
use access::ContentError;

/// One transfer with its socket, in whichever direction. It acts when it is called and never waits.
pub(super) trait Flow {
    /// `epoll` reports its socket: it reads one datagram, or goes on sending.
    fn ready(&mut self, flags: EpollFlags, shared: &mut Shared, now: Instant);

    /// The reader has finished the work that this transfer submitted.
    fn loaded(&mut self, shared: &mut Shared, loaded: Result<Loaded, ContentError>, now: Instant);

    /// The listener passes on what concerns this transfer: a repeated request, another request, or a stop.
    fn tell(&mut self, shared: &mut Shared, input: Input, now: Instant);

    /// The time of [`Flow::due`] has come.
    fn time(&mut self, shared: &mut Shared, now: Instant);

    /// When to call [`Flow::time`].
    fn due(&self) -> Option<Instant>;

    /// Which event this transfer waits for.
    fn waits(&self) -> Waits;

    /// Whether the same request, coming again now, belongs to this transfer.
    fn owns_repeated_request(&self, datagram: &[u8], now: Instant) -> bool;

    /// The client's address and TID (RFC 1350 §4: its UDP port).
    fn peer(&self) -> SocketAddrV4;

    /// Whether this transfer may end to make room for another. The least value ends first: `false` for a client that never
    /// answered, then the oldest start. `None` for a transfer whose client goes on.
    fn idleness(&self) -> Option<(bool, Instant)>;

    /// Whether the transfer has ended, so that its slot can be freed.
    fn is_over(&self) -> bool;

    /// Tells `status` how the transfer ended.
    fn record(&self, shared: &Shared);

    /// The socket that `epoll` watches for this transfer.
    fn as_fd(&self) -> BorrowedFd<'_>;
}

/// The event that a transfer waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Waits {
    /// A datagram of the client, or the transfer's deadline.
    Client,
    /// The reader's result. Datagrams wait in the socket.
    Disk,
    /// Room in the kernel's send queue. Datagrams wait in the socket.
    Queue,
}

/// Whether a transfer may start.
pub(super) enum Room {
    /// There is room, perhaps because an idle transfer was ended.
    Free,
    /// A bound is reached, and the clients of all transfers go on.
    None,
}

/// The running transfers. A ticket names one of them: the index of its slot and how often the slot was taken.
pub(super) struct Transfers {
    epoll: Rc<Epoll>,
    slots: Vec<Slot>,
    free: Vec<u32>,
    /// The newest transfer of each client port.
    newest: HashMap<SocketAddrV4, u64>,
    per_address: HashMap<Ipv4Addr, usize>,
    /// When to look at which slot: at most one entry for each, never later than its transfer is due.
    deadlines: BTreeSet<(Instant, u32)>,
    running: usize,
}

/// What a new request is answered with: what every transfer shares, and all that run.
pub(super) struct RequestContext<'a> {
    pub(super) shared: &'a mut Shared,
    pub(super) transfers: &'a mut Transfers,
}

/// Room for one transfer; reused when that has ended.
#[derive(Default)]
struct Slot {
    /// How often the slot was taken. A ticket with another serial belongs to a transfer that has ended.
    serial: u32,
    flow: Option<Box<dyn Flow>>,
    armed: Option<Instant>,
    listens: Option<Waits>,
}

impl Transfers {
    pub(super) fn new(epoll: Rc<Epoll>) -> Self {
        Self {
            epoll,
            slots: Vec::new(),
            free: Vec::new(),
            newest: HashMap::new(),
            per_address: HashMap::new(),
            deadlines: BTreeSet::new(),
            running: 0,
        }
    }

    /// The number of running transfers, both directions.
    pub(super) fn len(&self) -> usize {
        self.running
    }

    /// The earliest deadline of all transfers; `None` if none has one.
    pub(super) fn due(&self) -> Option<Instant> {
        self.deadlines.first().map(|(due, _)| *due)
    }

    /// Tells the transfer of this port that its own request came again. False if no transfer owns the request.
    pub(super) fn repeated(&mut self, shared: &mut Shared, peer: SocketAddrV4, datagram: &[u8], now: Instant) -> bool {
        let Some(ticket) = self.newest.get(&peer).copied() else { return false };
        let owns = self.flow(ticket).is_some_and(|flow| flow.owns_repeated_request(datagram, now));
        if owns {
            self.with(ticket, shared, |flow, shared| flow.tell(shared, Input::Repeated, now));
        }
        owns
    }

    /// Ends the transfer of this client port, whose owner wants another file now. The Cisco 7921 has but one port.
    pub(super) fn replace(&mut self, shared: &mut Shared, peer: SocketAddrV4, now: Instant) {
        if let Some(old) = self.newest.remove(&peer) {
            self.replace_one(shared, old, now);
        }
    }

    /// Ends the transfer with this ticket, because its client has begun it anew.
    pub(super) fn replace_one(&mut self, shared: &mut Shared, ticket: u64, now: Instant) {
        self.with(ticket, shared, |flow, shared| flow.tell(shared, Input::Replaced, now));
    }

    /// Whether the transfer with this ticket still runs.
    pub(super) fn runs(&self, ticket: u64) -> bool {
        self.flow(ticket).is_some()
    }

    /// Whether one more transfer may start. At a bound, the oldest transfer whose client never answered ends; if there is
    /// none, the oldest whose client has stopped reading. So neither requests under a forged address nor phones that leave
    /// without an ERROR keep others out.
    pub(super) fn make_room(&mut self, shared: &mut Shared, address: Ipv4Addr, now: Instant) -> Room {
        let full = self.running >= shared.config.max_transfers;
        let of_address = self.per_address.get(&address);
        let crowded = of_address.is_some_and(|count| *count >= shared.config.max_transfers_per_address);
        if !full && !crowded {
            return Room::Free;
        }
        let candidates = self.newest.iter().filter(|(peer, _)| !crowded || *peer.ip() == address);
        let idle = candidates.filter_map(|(peer, ticket)| Some((self.flow(*ticket)?.idleness()?, *peer)));
        let Some((_, peer)) = idle.min() else { return Room::None };
        shared.stats.count("tftp.made-room");
        self.replace(shared, peer, now);
        Room::Free
    }

    /// Starts what `begin` makes for a ticket, by which it is called later.
    pub(super) fn start(&mut self, shared: &mut Shared, begin: impl FnOnce(&mut Shared, u64) -> Option<Box<dyn Flow>>) {
        let index = match self.free.pop() {
            Some(index) => index,
            None => {
                self.slots.push(Slot::default());
                u32::try_from(self.slots.len() - 1).unwrap_or(u32::MAX)
            }
        };
        let Some(slot) = at(&mut self.slots, index) else { return };
        slot.serial = slot.serial.wrapping_add(1);
        let ticket = ticket(index, slot.serial);
        let Some(flow) = begin(shared, ticket) else {
            self.free.push(index);
            return;
        };
        let peer = flow.peer();
        let added = self.epoll.add(flow.as_fd(), EpollEvent::new(listening(flow.waits()), ticket));
        slot.listens = Some(flow.waits());
        slot.flow = Some(flow);
        self.running += 1;
        *self.per_address.entry(*peer.ip()).or_default() += 1;
        self.newest.insert(peer, ticket);
        if let Err(error) = added {
            error!(%error, "a transfer cannot be listened to");
            shared.stats.count("tftp.broken");
            return self.forget(ticket, |_| {});
        }
        self.settle(ticket, shared);
    }

    /// `epoll` reports the socket of this transfer.
    pub(super) fn ready(&mut self, ticket: u64, flags: EpollFlags, shared: &mut Shared, now: Instant) {
        self.with(ticket, shared, |flow, shared| flow.ready(flags, shared, now));
    }

    /// Hands a result of the reader to its transfer, if that still runs.
    pub(super) fn loaded(&mut self, done: FinishedWork, shared: &mut Shared, now: Instant) {
        self.with(done.ticket, shared, |flow, shared| flow.loaded(shared, done.loaded, now));
    }

    /// Lets every transfer act whose deadline has come.
    pub(super) fn time(&mut self, shared: &mut Shared, now: Instant) {
        while let Some((due, index)) = self.deadlines.first().copied().filter(|(due, _)| *due <= now) {
            self.deadlines.remove(&(due, index));
            let Some(slot) = at(&mut self.slots, index) else { continue };
            slot.armed = None;
            let ticket = ticket(index, slot.serial);
            self.with(ticket, shared, |flow, shared| {
                // Deadlines move with every ACK; the entry stays where it was.
                if flow.due().is_some_and(|due| due <= now) {
                    flow.time(shared, now);
                }
            });
        }
    }

    /// Tells all transfers that the service stops.
    pub(super) fn stop_all(&mut self, shared: &mut Shared, now: Instant) {
        for index in 0..self.slots.len() {
            let Some(slot) = self.slots.get(index) else { continue };
            let ticket = ticket(u32::try_from(index).unwrap_or(u32::MAX), slot.serial);
            self.with(ticket, shared, |flow, shared| flow.tell(shared, Input::Stopped, now));
        }
    }

    fn flow(&self, ticket: u64) -> Option<&dyn Flow> {
        let (index, serial) = owner(ticket);
        let slot = self.slots.get(index).filter(|slot| slot.serial == serial)?;
        slot.flow.as_deref()
    }

    /// Lets one transfer act. A panic ends that one and no other.
    fn with(&mut self, ticket: u64, shared: &mut Shared, act: impl FnOnce(&mut dyn Flow, &mut Shared)) {
        let (index, serial) = owner(ticket);
        let slot = self.slots.get_mut(index).filter(|slot| slot.serial == serial);
        let Some(flow) = slot.and_then(|slot| slot.flow.as_deref_mut()) else { return };
        if catch_unwind(AssertUnwindSafe(|| act(flow, shared))).is_ok() {
            return self.settle(ticket, shared);
        }
        error!("a transfer broke off");
        shared.stats.count("tftp.broken");
        self.forget(ticket, |_| {});
    }

    /// After a transfer acted: frees its slot if it has ended, else updates what `epoll` reports and its deadline.
    fn settle(&mut self, ticket: u64, shared: &Shared) {
        let (index, _) = owner(ticket);
        let Some(slot) = self.slots.get_mut(index) else { return };
        let Some(flow) = slot.flow.as_deref() else { return };
        if flow.is_over() {
            return self.forget(ticket, |flow| flow.record(shared));
        }
        let waits = flow.waits();
        if slot.listens != Some(waits) {
            match self.epoll.modify(flow.as_fd(), &mut EpollEvent::new(listening(waits), ticket)) {
                Ok(()) => slot.listens = Some(waits),
                // Its deadlines go on, so it ends.
                Err(error) => error!(%error, "a transfer cannot be listened to"),
            }
        }
        if let Some(due) = flow.due()
            && slot.armed.is_none_or(|armed| due < armed)
            && let Ok(index) = u32::try_from(index)
        {
            if let Some(armed) = slot.armed.replace(due) {
                self.deadlines.remove(&(armed, index));
            }
            self.deadlines.insert((due, index));
        }
    }

    /// Frees the slot of a transfer that has ended, and gives the transfer to `last`.
    fn forget(&mut self, ticket: u64, last: impl FnOnce(&dyn Flow)) {
        let (index, _) = owner(ticket);
        let Some(slot) = self.slots.get_mut(index) else { return };
        let Some(flow) = slot.flow.take() else { return };
        let (peer, armed) = (flow.peer(), slot.armed.take());
        slot.listens = None;
        if let Ok(index) = u32::try_from(index) {
            if let Some(armed) = armed {
                self.deadlines.remove(&(armed, index));
            }
            self.free.push(index);
        }
        self.running = self.running.saturating_sub(1);
        if self.newest.get(&peer) == Some(&ticket) {
            self.newest.remove(&peer);
        }
        if let Some(count) = self.per_address.get_mut(peer.ip()) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                self.per_address.remove(peer.ip());
            }
        }
        last(&*flow);
    }
}

fn listening(waits: Waits) -> EpollFlags {
    match waits {
        Waits::Client => EpollFlags::EPOLLIN,
        Waits::Disk => EpollFlags::empty(),
        Waits::Queue => EpollFlags::EPOLLOUT,
    }
}

fn ticket(index: u32, serial: u32) -> u64 {
    u64::from(serial) << 32 | u64::from(index)
}

fn owner(ticket: u64) -> (usize, u32) {
    let index = usize::try_from(ticket & u64::from(u32::MAX)).unwrap_or(usize::MAX);
    (index, u32::try_from(ticket >> 32).unwrap_or(u32::MAX))
}

fn at(slots: &mut [Slot], index: u32) -> Option<&mut Slot> {
    slots.get_mut(usize::try_from(index).ok()?)
}
