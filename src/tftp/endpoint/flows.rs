//! All transfers that run, files to phones and logs from them, and their deadlines: which of them a packet belongs to, which
//! has something to send, and which ends when there are too many.

use std::cmp::Reverse;
use std::collections::{BTreeSet, HashMap, VecDeque};
use std::net::SocketAddrV4;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use tracing::error;

use super::places::{Holder, Places};
use super::work::Loaded;
use super::{Event, Payload, SiteState, Ticket, Waits, Way};
use crate::packet::ErrorReply;
use crate::transfer::{Input, Run};
use access::ContentError;

/// For how long nobody who has just got on is ended to make room for another, nor one whom nothing could be sent to yet.
pub const ANSWER_GRACE: Duration = Duration::from_secs(1);

/// For how long an answer that nobody has acknowledged yet is kept from making room for the next request of its address: a
/// round trip to any phone. Requests under a forged source never get further, so a longer time would be theirs.
pub const UNPROVEN_GRACE: Duration = Duration::from_millis(250);

/// The same when more requests of the address wait than may: a round trip on a LAN. Eight places are free again soon enough
/// then for all requests that one address may make (`RequestRates::own`).
pub const PRESSED_GRACE: Duration = Duration::from_millis(30);

/// One transfer, in whichever direction. It acts when it is called and never waits.
pub(super) trait Flow: Send {
    /// Its client sent this.
    fn datagram(&mut self, site: &mut SiteState, datagram: &[u8], now: Instant);

    /// Somebody else sent this to its port. The ERROR that answers, if any, goes there.
    fn stranger(&mut self, datagram: &[u8]) -> Option<ErrorReply>;

    /// Work that it asked for is done.
    fn loaded(&mut self, site: &mut SiteState, loaded: Result<Loaded, ContentError>, now: Instant);

    /// There is room to send again what [`Flow::blocked`] gave back, or somebody answered by ARP.
    fn writable(&mut self, site: &mut SiteState, now: Instant);

    /// These blocks could not be sent yet.
    fn blocked(&mut self, rest: Run);

    /// Something else concerns this transfer: a repeated request, another request, an eviction, or a stop.
    fn tell(&mut self, site: &mut SiteState, input: Input, now: Instant);

    /// The time of [`Flow::due`] has come.
    fn time(&mut self, site: &mut SiteState, now: Instant);

    /// When to call [`Flow::time`].
    fn due(&self) -> Option<Instant>;

    /// The next thing to send, if any. Call it until there is none.
    fn next(&mut self, site: &mut SiteState, now: Instant) -> Option<Piece>;

    /// The bytes of what [`Flow::next`] gave.
    fn payload(&self, piece: Piece) -> Payload<'_>;

    /// By which way it sends.
    fn way(&self) -> Way;

    /// Which event this transfer waits for.
    fn waits(&self) -> Waits;

    /// Whether the same request, coming again now, belongs to this transfer.
    fn owns_repeated_request(&self, datagram: &[u8], now: Instant) -> bool;

    /// The client's address and TID (RFC 1350 §4: its UDP port).
    fn peer(&self) -> SocketAddrV4;

    /// Whether this transfer may end to make room for another, and since when; `None` for one whose client goes on.
    fn idleness(&self) -> Option<(Idleness, Instant)>;

    /// Whether the transfer has ended; what [`Flow::next`] still gives is its last word.
    fn is_over(&self) -> bool;

    /// What the transfer waits for is of no use any more.
    fn leave(&mut self, site: &mut SiteState);

    /// Tells how the transfer ended.
    fn record(&self, site: &mut SiteState, now: Instant);
}

/// Why a transfer may end to make room for another. The least ends first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Idleness {
    /// Its client has acknowledged nothing yet.
    Unproven,
    /// Its file is still being opened.
    Opening,
    /// Its client has stopped in the middle.
    Stalled,
}

/// Whether one more transfer may start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Room {
    /// There is room.
    Free,
    /// Somebody holds a place who has not proved yet that there is anybody. The place is free soon, or somebody's.
    Soon,
    /// Every place is held by a transfer that goes on.
    None,
}

/// One thing to send.
pub(super) enum Piece {
    Oack,
    Ack,
    Error(ErrorReply),
    Data(Run),
}

/// The running transfers. A ticket names one of them: the index of its slot and how often the slot was taken.
#[derive(Default)]
pub(super) struct Flows {
    slots: Vec<Slot>,
    free: Vec<u32>,
    /// The newest transfer of each client port.
    newest: HashMap<SocketAddrV4, Ticket>,
    places: Places,
    /// When to look at which slot: at most one entry for each, never later than its transfer is due.
    deadlines: BTreeSet<(Instant, u32)>,
    /// The transfers that may have something to send.
    ready: VecDeque<Ticket>,
    /// How many have begun since the endpoint is there.
    begun: u64,
}

/// Room for one transfer; reused when that has ended.
#[derive(Default)]
struct Slot {
    /// How often the slot was taken. A ticket with another serial belongs to a transfer that has ended.
    serial: u32,
    flow: Option<Box<dyn Flow>>,
    armed: Option<Instant>,
    listens: Waits,
    /// Whether it is in [`Flows::ready`].
    ready: bool,
    /// Who holds its place, and which of all transfers that began it is; until it has ended.
    place: Option<(Holder, u64)>,
}

impl Flows {
    /// The number of transfers that have not sent their last word, both directions.
    pub(super) fn len(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    /// The earliest deadline of all transfers; `None` if none has one.
    pub(super) fn due(&self) -> Option<Instant> {
        self.deadlines.first().map(|(due, _)| *due)
    }

    /// Tells the transfer of this port that its own request came again. False if no transfer owns the request.
    pub(super) fn repeated(&mut self, site: &mut SiteState, peer: SocketAddrV4, datagram: &[u8], now: Instant) -> bool {
        let Some(ticket) = self.newest.get(&peer).copied() else { return false };
        let owns = self.flow(ticket).is_some_and(|flow| flow.owns_repeated_request(datagram, now));
        if owns {
            self.with(ticket, site, |flow, site| flow.tell(site, Input::Repeated, now));
        }
        owns
    }

    /// Ends the transfer of this client port, whose owner wants another file now. The Cisco 7921 has but one port, so an
    /// ERROR would look like the end of the new transfer.
    pub(super) fn replace(&mut self, site: &mut SiteState, peer: SocketAddrV4, now: Instant) {
        if let Some(old) = self.newest.remove(&peer) {
            self.tell(site, old, Input::Replaced, now);
        }
    }

    /// Passes something on to one transfer.
    pub(super) fn tell(&mut self, site: &mut SiteState, ticket: Ticket, input: Input, now: Instant) {
        self.with(ticket, site, |flow, site| flow.tell(site, input, now));
    }

    /// Whether the transfer with this ticket still runs.
    pub(super) fn runs(&self, ticket: Ticket) -> bool {
        self.flow(ticket).is_some()
    }

    /// Whether one more transfer may start. At a bound, the transfer ends whose client never answered and was answered longest
    /// ago; if there is none, the one whose client has stopped reading for the longest time. So neither requests under a
    /// forged address nor phones that leave without an ERROR keep others out. Nobody is ended within [`ANSWER_GRACE`] of
    /// getting on, nor within `unproven` of its first answer for another of its address.
    ///
    /// Devices that the inventory does not have end none of its phones' transfers but those that nobody answered. For a
    /// phone of the inventory, an unknown device is ended in any case: of the one that holds the most places, the transfer
    /// that began last.
    pub(super) fn make_room(&mut self, site: &mut SiteState, holder: Holder, unproven: Duration, now: Instant) -> Room {
        let full = self.places.full(&site.config, holder);
        if !full.any() {
            return Room::Free;
        }
        let mut room = Room::None;
        let (mut idle, mut unknown) = (None, None);
        for ticket in self.newest.values() {
            let Some((other, begun)) = self.place(*ticket).filter(|(other, _)| full.is_relieved_by(other)) else {
                continue;
            };
            if other.yields_to(&holder) {
                let one = (Reverse(self.places.held_by(&other)), Reverse(begun), *ticket);
                unknown = Some(unknown.map_or(one, |before| one.min(before)));
            }
            let Some((idleness, since)) = self.flow(*ticket).and_then(Flow::idleness) else { continue };
            if holder.yields_to(&other) && idleness != Idleness::Unproven {
                continue;
            }
            let grace = if full.address && idleness == Idleness::Unproven { unproven } else { ANSWER_GRACE };
            if now >= since + grace {
                let one = (idleness, since, *ticket);
                idle = Some(idle.map_or(one, |before| one.min(before)));
            } else if idleness != Idleness::Stalled {
                room = Room::Soon;
            }
        }
        let idle = idle.map(|(_, _, ticket)| ticket);
        let Some(ticket) = idle.or(unknown.map(|(_, _, ticket)| ticket)) else {
            if room == Room::None && (full.device || full.unknown) && !full.address {
                site.count(if full.device { "tftp.device-full" } else { "tftp.unknown-full" });
            }
            return room;
        };
        site.count("tftp.made-room");
        self.tell(site, ticket, Input::Evicted, now);
        Room::Free
    }

    /// Starts what `begin` makes for a ticket, by which it is called later. If ports are short, a last word that waits for its
    /// device is dropped for it.
    pub(super) fn start(
        &mut self,
        site: &mut SiteState,
        (holder, now): (Holder, Instant),
        begin: impl FnOnce(&mut SiteState, Ticket) -> Box<dyn Flow>,
    ) {
        if self.len() >= site.config.max_transfers
            && let Some(ticket) = self.oldest_farewell()
        {
            self.forget(ticket, site, |flow, site| flow.record(site, now));
        }
        let index = match self.free.pop() {
            Some(index) => index,
            None => {
                self.slots.push(Slot::default());
                u32::try_from(self.slots.len() - 1).unwrap_or(u32::MAX)
            }
        };
        let Some(slot) = at(&mut self.slots, index) else { return };
        slot.serial = slot.serial.wrapping_add(1);
        let ticket = Ticket::new(index, slot.serial);
        let flow = begin(site, ticket);
        let peer = flow.peer();
        self.begun += 1;
        (slot.listens, slot.place, slot.ready) = (flow.waits(), Some((holder, self.begun)), false);
        site.events.push_back(Event::Opened { ticket, peer, waits: slot.listens });
        slot.flow = Some(flow);
        self.places.take(&holder);
        self.newest.insert(peer, ticket);
        self.acted(ticket);
    }

    /// A datagram came to the port of this transfer. Returns the answer to a stranger.
    pub(super) fn datagram(
        &mut self,
        site: &mut SiteState,
        ticket: Ticket,
        from: SocketAddrV4,
        datagram: &[u8],
        now: Instant,
    ) -> Option<ErrorReply> {
        let mut answer = None;
        self.with(ticket, site, |flow, site| {
            if from == flow.peer() {
                flow.datagram(site, datagram, now);
            } else {
                site.count("tftp.stranger");
                answer = flow.stranger(datagram);
            }
        });
        answer
    }

    /// Work for this transfer is done.
    pub(super) fn loaded(
        &mut self,
        site: &mut SiteState,
        ticket: Ticket,
        loaded: Result<Loaded, ContentError>,
        now: Instant,
    ) {
        self.with(ticket, site, |flow, site| flow.loaded(site, loaded, now));
    }

    /// There is room to send again.
    pub(super) fn writable(&mut self, site: &mut SiteState, ticket: Ticket, now: Instant) {
        self.with(ticket, site, |flow, site| flow.writable(site, now));
    }

    /// What was given to be sent could not be.
    pub(super) fn blocked(&mut self, ticket: Ticket, rest: Run) {
        if let Some(flow) = self.slot(ticket).and_then(|slot| slot.flow.as_deref_mut()) {
            flow.blocked(rest);
        }
    }

    /// The transfer got no port: it never was.
    pub(super) fn no_port(&mut self, site: &mut SiteState, ticket: Ticket, now: Instant) -> Option<SocketAddrV4> {
        let peer = self.flow(ticket)?.peer();
        self.forget(ticket, site, |flow, site| flow.record(site, now));
        Some(peer)
    }

    /// Lets every transfer act whose deadline has come.
    pub(super) fn time(&mut self, site: &mut SiteState, now: Instant) {
        while let Some((due, index)) = self.deadlines.first().copied().filter(|(due, _)| *due <= now) {
            self.deadlines.remove(&(due, index));
            let Some(slot) = at(&mut self.slots, index) else { continue };
            slot.armed = None;
            let ticket = Ticket::new(index, slot.serial);
            self.with(ticket, site, |flow, site| {
                // Deadlines move with every ACK; the entry stays where it was.
                if flow.due().is_some_and(|due| due <= now) {
                    flow.time(site, now);
                }
            });
        }
    }

    /// Tells all transfers that the service stops.
    pub(super) fn stop_all(&mut self, site: &mut SiteState, now: Instant) {
        for index in 0..self.slots.len() {
            let Some(slot) = self.slots.get(index) else { continue };
            let ticket = Ticket::new(u32::try_from(index).unwrap_or(u32::MAX), slot.serial);
            self.tell(site, ticket, Input::Stopped, now);
        }
    }

    /// The next thing that any transfer sends. A transfer that has nothing more and has ended is forgotten here.
    pub(super) fn next(&mut self, site: &mut SiteState, now: Instant) -> Option<(Ticket, Piece)> {
        while let Some(ticket) = self.ready.front().copied() {
            let flow = self.slot(ticket).and_then(|slot| slot.flow.as_deref_mut());
            let next = flow.map(|flow| catch_unwind(AssertUnwindSafe(|| flow.next(site, now))));
            match next {
                Some(Ok(Some(piece))) => return Some((ticket, piece)),
                Some(Ok(None)) => {
                    self.ready.pop_front();
                    self.settle(ticket, site, now);
                }
                Some(Err(_)) => {
                    self.ready.pop_front();
                    self.broke(ticket, site);
                }
                None => {
                    self.ready.pop_front();
                }
            }
        }
        None
    }

    pub(super) fn flow(&self, ticket: Ticket) -> Option<&dyn Flow> {
        let (index, serial) = ticket.parts();
        let slot = self.slots.get(index).filter(|slot| slot.serial == serial)?;
        slot.flow.as_deref()
    }

    /// Who holds the place of this transfer, unless it has ended, and which of all that began it is.
    fn place(&self, ticket: Ticket) -> Option<(Holder, u64)> {
        let (index, serial) = ticket.parts();
        self.slots.get(index).filter(|slot| slot.serial == serial)?.place
    }

    /// Of the transfers whose last word waits for its device, the one that waits no longer first.
    fn oldest_farewell(&self) -> Option<Ticket> {
        let waits = |slot: &Slot| {
            let flow = slot.flow.as_deref()?;
            (flow.is_over() && flow.waits() == Waits::Device).then(|| flow.due()).flatten()
        };
        let all = self.slots.iter().zip(0..).filter_map(|(slot, index)| Some((waits(slot)?, index, slot.serial)));
        all.min().map(|(_, index, serial)| Ticket::new(index, serial))
    }

    fn slot(&mut self, ticket: Ticket) -> Option<&mut Slot> {
        let (index, serial) = ticket.parts();
        self.slots.get_mut(index).filter(|slot| slot.serial == serial)
    }

    /// Lets one transfer act. A panic ends that one and no other.
    fn with(&mut self, ticket: Ticket, site: &mut SiteState, act: impl FnOnce(&mut dyn Flow, &mut SiteState)) {
        let Some(flow) = self.slot(ticket).and_then(|slot| slot.flow.as_deref_mut()) else { return };
        if catch_unwind(AssertUnwindSafe(|| act(flow, site))).is_ok() {
            self.acted(ticket);
        } else {
            self.broke(ticket, site);
        }
    }

    fn broke(&mut self, ticket: Ticket, site: &mut SiteState) {
        error!("a transfer broke off");
        site.count("tftp.broken");
        self.forget(ticket, site, |_, _| {});
    }

    /// After a transfer acted: it may have something to send, or have ended. One that has ended takes no room any more, even
    /// before its last word has left.
    fn acted(&mut self, ticket: Ticket) {
        let Some(slot) = self.slot(ticket) else { return };
        let Some(flow) = slot.flow.as_deref() else { return };
        let (over, peer) = (flow.is_over(), flow.peer());
        let queue = !std::mem::replace(&mut slot.ready, true);
        let gone = if over { slot.place.take() } else { None };
        if queue {
            self.ready.push_back(ticket);
        }
        if let Some((holder, _)) = gone {
            self.count_out(ticket, peer, &holder);
        }
    }

    /// After a transfer has sent what it had: forgets it if it has ended, else says what it waits for.
    fn settle(&mut self, ticket: Ticket, site: &mut SiteState, now: Instant) {
        let crowded = self.len() > site.config.max_transfers;
        let Some(slot) = self.slot(ticket) else { return };
        slot.ready = false;
        let Some(flow) = slot.flow.as_deref() else { return };
        let (waits, due) = (flow.waits(), flow.due());
        // A last word may wait for its device while there are ports for those that take its place.
        if flow.is_over() && (waits != Waits::Device || crowded) {
            return self.forget(ticket, site, |flow, site| flow.record(site, now));
        }
        if slot.listens != waits {
            slot.listens = waits;
            site.events.push_back(Event::Waits(ticket, waits));
        }
        if let Some(due) = due
            && slot.armed.is_none_or(|armed| due < armed)
        {
            let before = slot.armed.replace(due);
            let index = ticket.index();
            if let Some(armed) = before {
                self.deadlines.remove(&(armed, index));
            }
            self.deadlines.insert((due, index));
        }
    }

    /// Frees the slot of a transfer that has ended, and gives the transfer to `last`.
    fn forget(&mut self, ticket: Ticket, site: &mut SiteState, last: impl FnOnce(&dyn Flow, &mut SiteState)) {
        let Some(slot) = self.slot(ticket) else { return };
        let Some(mut flow) = slot.flow.take() else { return };
        let (peer, armed, place) = (flow.peer(), slot.armed.take(), slot.place.take());
        if let Some(armed) = armed {
            self.deadlines.remove(&(armed, ticket.index()));
        }
        self.free.push(ticket.index());
        if let Some((holder, _)) = place {
            self.count_out(ticket, peer, &holder);
        }
        flow.leave(site);
        site.events.push_back(Event::Closed(ticket));
        last(&*flow, site);
    }

    fn count_out(&mut self, ticket: Ticket, peer: SocketAddrV4, holder: &Holder) {
        self.places.free(holder);
        if self.newest.get(&peer) == Some(&ticket) {
            self.newest.remove(&peer);
        }
    }
}

fn at(slots: &mut [Slot], index: u32) -> Option<&mut Slot> {
    slots.get_mut(usize::try_from(index).ok()?)
}

#[cfg(test)]
impl Flows {
    /// Whether nothing is left of any transfer.
    pub(super) fn is_empty(&self) -> bool {
        self.places.taken() == [0; 4]
            && self.newest.is_empty()
            && self.deadlines.is_empty()
            && self.ready.is_empty()
            && self.len() == 0
    }

    /// How many run: all, those of unknown devices, and of one address and one device at most.
    pub(super) fn running(&self) -> [usize; 4] {
        self.places.taken()
    }
}
