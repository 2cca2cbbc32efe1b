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
use super::reader::{Done, Loaded};
use crate::transfer::Input;
use access::ContentError;

/// One transfer with its socket, in whichever direction. It acts when it is called and never waits.
pub(super) trait Flow {
    /// Its socket has something: read one datagram, or go on sending.
    fn ready(&mut self, flags: EpollFlags, shared: &mut Shared, now: Instant);

    /// The disk has done what it was asked.
    fn loaded(&mut self, shared: &mut Shared, loaded: Result<Loaded, ContentError>, now: Instant);

    /// The listener has something to say.
    fn tell(&mut self, shared: &mut Shared, input: Input, now: Instant);

    /// Time has come to [`Flow::due`].
    fn time(&mut self, shared: &mut Shared, now: Instant);

    /// When to call [`Flow::time`].
    fn due(&self) -> Option<Instant>;

    /// What it waits for.
    fn waits(&self) -> Waits;

    /// Whether the same request, coming again now, belongs to this transfer.
    fn owns_repeated_request(&self, datagram: &[u8], now: Instant) -> bool;

    /// Where its client is.
    fn peer(&self) -> SocketAddrV4;

    /// Whether its place may be given away, and then how it compares with others whose may: those whose client never
    /// answered go first, then the oldest. `None` for one whose client goes on.
    fn idleness(&self) -> Option<(bool, Instant)>;

    /// Whether it is over.
    fn is_over(&self) -> bool;

    /// Keeps the record of what is over.
    fn record(&self, shared: &Shared);

    /// Its socket.
    fn as_fd(&self) -> BorrowedFd<'_>;
}

/// What a transfer waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Waits {
    /// A datagram, or its time.
    Client,
    /// The disk. Datagrams wait in the socket.
    Disk,
    /// Room in the kernel's queue. Datagrams wait in the socket.
    Queue,
}

/// Whether a transfer may start.
pub(super) enum Room {
    /// It may.
    Free,
    /// All places are taken by clients that go on.
    None,
}

pub(super) struct Transfers {
    epoll: Rc<Epoll>,
    places: Vec<Place>,
    free: Vec<u32>,
    /// The newest transfer of each client port.
    newest: HashMap<SocketAddrV4, u64>,
    per_address: HashMap<Ipv4Addr, usize>,
    /// When to look at which place; never later than it is due, and at most one entry for each.
    deadlines: BTreeSet<(Instant, u32)>,
    running: usize,
}

/// What a new request is answered with: what every transfer shares, and all that run.
pub(super) struct Site<'a> {
    pub(super) shared: &'a mut Shared,
    pub(super) transfers: &'a mut Transfers,
}

#[derive(Default)]
struct Place {
    /// How often the place was taken, so that what comes late for a former owner is known as such.
    serial: u32,
    flow: Option<Box<dyn Flow>>,
    armed: Option<Instant>,
    listens: Option<Waits>,
}

impl Transfers {
    pub(super) fn new(epoll: Rc<Epoll>) -> Self {
        Self {
            epoll,
            places: Vec::new(),
            free: Vec::new(),
            newest: HashMap::new(),
            per_address: HashMap::new(),
            deadlines: BTreeSet::new(),
            running: 0,
        }
    }

    /// How many run.
    pub(super) fn len(&self) -> usize {
        self.running
    }

    /// The first deadline.
    pub(super) fn due(&self) -> Option<Instant> {
        self.deadlines.first().map(|(due, _)| *due)
    }

    /// Tells the transfer that this very request began, if it is still about it.
    pub(super) fn repeated(&mut self, shared: &mut Shared, peer: SocketAddrV4, datagram: &[u8], now: Instant) -> bool {
        let Some(ticket) = self.newest.get(&peer).copied() else { return false };
        let owns = self.flow(ticket).is_some_and(|flow| flow.owns_repeated_request(datagram, now));
        if owns {
            self.with(ticket, shared, |flow, shared| flow.tell(shared, Input::Repeated, now));
        }
        owns
    }

    /// Ends what this port was doing: there is something else that its owner wants now (the Cisco 7921 has but one port).
    pub(super) fn replace(&mut self, shared: &mut Shared, peer: SocketAddrV4, now: Instant) {
        if let Some(old) = self.newest.remove(&peer) {
            self.replace_one(shared, old, now);
        }
    }

    /// Ends this one: its owner has begun it anew.
    pub(super) fn replace_one(&mut self, shared: &mut Shared, ticket: u64, now: Instant) {
        self.with(ticket, shared, |flow, shared| flow.tell(shared, Input::Replaced, now));
    }

    /// Whether it has not ended.
    pub(super) fn runs(&self, ticket: u64) -> bool {
        self.flow(ticket).is_some()
    }

    /// Whether one more transfer may start. At a bound, the oldest whose client never answered makes room, else one that
    /// its client lets wait: neither requests under a forged address nor files that a phone stopped reading without an
    /// ERROR keep the next one out.
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
        let place = match self.free.pop() {
            Some(place) => place,
            None => {
                self.places.push(Place::default());
                u32::try_from(self.places.len() - 1).unwrap_or(u32::MAX)
            }
        };
        let Some(slot) = at(&mut self.places, place) else { return };
        slot.serial = slot.serial.wrapping_add(1);
        let ticket = ticket(place, slot.serial);
        let Some(flow) = begin(shared, ticket) else {
            self.free.push(place);
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

    /// A socket has something for us.
    pub(super) fn ready(&mut self, ticket: u64, flags: EpollFlags, shared: &mut Shared, now: Instant) {
        self.with(ticket, shared, |flow, shared| flow.ready(flags, shared, now));
    }

    /// The disk has something for us.
    pub(super) fn loaded(&mut self, done: Done, shared: &mut Shared, now: Instant) {
        self.with(done.ticket, shared, |flow, shared| flow.loaded(shared, done.loaded, now));
    }

    /// Looks at those that are due.
    pub(super) fn time(&mut self, shared: &mut Shared, now: Instant) {
        while let Some((due, place)) = self.deadlines.first().copied().filter(|(due, _)| *due <= now) {
            self.deadlines.remove(&(due, place));
            let Some(slot) = at(&mut self.places, place) else { continue };
            slot.armed = None;
            let ticket = ticket(place, slot.serial);
            self.with(ticket, shared, |flow, shared| {
                // Deadlines move with every ACK; the entry stays where it was.
                if flow.due().is_some_and(|due| due <= now) {
                    flow.time(shared, now);
                }
            });
        }
    }

    /// Tells all that the service stops.
    pub(super) fn stop_all(&mut self, shared: &mut Shared, now: Instant) {
        for place in 0..self.places.len() {
            let Some(slot) = self.places.get(place) else { continue };
            let ticket = ticket(u32::try_from(place).unwrap_or(u32::MAX), slot.serial);
            self.with(ticket, shared, |flow, shared| flow.tell(shared, Input::Stopped, now));
        }
    }

    fn flow(&self, ticket: u64) -> Option<&dyn Flow> {
        let (place, serial) = owner(ticket);
        let slot = self.places.get(place).filter(|slot| slot.serial == serial)?;
        slot.flow.as_deref()
    }

    /// Lets one transfer act. A panic ends that one and no other.
    fn with(&mut self, ticket: u64, shared: &mut Shared, act: impl FnOnce(&mut dyn Flow, &mut Shared)) {
        let (place, serial) = owner(ticket);
        let slot = self.places.get_mut(place).filter(|slot| slot.serial == serial);
        let Some(flow) = slot.and_then(|slot| slot.flow.as_deref_mut()) else { return };
        if catch_unwind(AssertUnwindSafe(|| act(flow, shared))).is_ok() {
            return self.settle(ticket, shared);
        }
        error!("a transfer broke off");
        shared.stats.count("tftp.broken");
        self.forget(ticket, |_| {});
    }

    /// After one acted: it may be over, wait for something else, or have an earlier deadline.
    fn settle(&mut self, ticket: u64, shared: &Shared) {
        let (place, _) = owner(ticket);
        let Some(slot) = self.places.get_mut(place) else { return };
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
            && let Ok(place) = u32::try_from(place)
        {
            if let Some(armed) = slot.armed.replace(due) {
                self.deadlines.remove(&(armed, place));
            }
            self.deadlines.insert((due, place));
        }
    }

    /// A transfer is over.
    fn forget(&mut self, ticket: u64, last: impl FnOnce(&dyn Flow)) {
        let (place, _) = owner(ticket);
        let Some(slot) = self.places.get_mut(place) else { return };
        let Some(flow) = slot.flow.take() else { return };
        let (peer, armed) = (flow.peer(), slot.armed.take());
        slot.listens = None;
        if let Ok(place) = u32::try_from(place) {
            if let Some(armed) = armed {
                self.deadlines.remove(&(armed, place));
            }
            self.free.push(place);
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

fn ticket(place: u32, serial: u32) -> u64 {
    u64::from(serial) << 32 | u64::from(place)
}

fn owner(ticket: u64) -> (usize, u32) {
    let place = usize::try_from(ticket & u64::from(u32::MAX)).unwrap_or(usize::MAX);
    (place, u32::try_from(ticket >> 32).unwrap_or(u32::MAX))
}

fn at(places: &mut [Place], place: u32) -> Option<&mut Place> {
    places.get_mut(usize::try_from(place).ok()?)
}
