//! One read transfer, from the answer to its RRQ to its end, as a machine without socket, clock or disk.
//!
//! The doc of [`Transfer`] says which methods it has and in which order to call them.

use std::ops::Range;
use std::time::{Duration, Instant};

use super::options::NegotiatedOptions;
use super::packet::{ErrorReply, Packet};
use super::rto::Rto;
use api::TransferEnd;

/// Resends in a row without any progress.
pub const MAX_RESENDS: u32 = 4;

/// Resends before the client has proved that it receives: with the first answer under 3 KB in all, so that whoever
/// forges a source address gains nothing.
pub const MAX_UNPROVEN_RESENDS: u32 = 3;

/// How long an answer waits for its first ACK.
pub const UNPROVEN_PATIENCE: Duration = Duration::from_secs(15);

/// How long a client may be silent in the middle: phones erase flash for many seconds.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// How long a transfer may take, progress or not. 40 MB in blocks of 512 bytes at 75 ms each take 98 minutes.
pub const MAX_DURATION: Duration = Duration::from_secs(2 * 60 * 60);

/// A repeated request is taken for a straggler of the first for so long after the first ACK: requests and ACKs arrive on
/// two sockets, so their order is not kept.
const STRAGGLER: Duration = Duration::from_millis(250);

/// How long an ACK inside the window waits for a better one, at least.
const MIN_GAP_DELAY: Duration = Duration::from_millis(1);

/// ERROR 5 to strangers, per transfer.
const MAX_STRANGERS: u32 = 8;

/// What happens to a transfer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Input {
    /// The client sent ACK.
    Ack(u16),
    /// The client sent ERROR. Ends the transfer, silently.
    Error,
    /// The very same RRQ came again from the client's port.
    Repeated,
    /// Another RRQ came from the client's port: that is the transfer which it wants now. Ends this one, silently.
    Replaced,
    /// Another transfer needs the room, and this client has stopped. Ends this one with ERROR 0, so that the client knows.
    Evicted,
    /// The address belongs to another device now, or to nobody. Ends the transfer, silently.
    Revoked,
    /// The file cannot be read on. Ends the transfer with ERROR 0.
    Unreadable,
    /// The server stops. Ends the transfer with ERROR 0, so that the client need not wait.
    Stopped,
}

impl Input {
    /// What a datagram from the client means to a transfer: ACK and ERROR; everything else is to be ignored.
    pub fn from_datagram(datagram: &[u8]) -> Option<Self> {
        match Packet::parse(datagram).ok()? {
            Packet::Ack(block) => Some(Self::Ack(block)),
            Packet::Error { .. } => Some(Self::Error),
            _ => None,
        }
    }
}

/// What to send to the client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Transmit {
    /// [`NegotiatedOptions::oack`].
    Oack,
    /// DATA packets of consecutive blocks.
    Data(Run),
    /// An ERROR; the last thing that is sent.
    Error(ErrorReply),
}

/// Consecutive blocks of the file, all of `blksize` bytes but perhaps the last.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Run {
    /// The number of the first block on the wire; the others follow, over 65,535 to 0.
    pub first: u16,
    /// How many blocks, 1 to [`super::options::MAX_WINDOWSIZE`].
    pub blocks: u16,
    /// The blocks' bytes, counted from the start of the file.
    pub range: Range<u64>,
    /// The agreed block size (RFC 2348) in bytes; only the last block of the file is shorter.
    pub blksize: u16,
}

impl Run {
    /// Each block: its number and its bytes in the file.
    pub fn iter(&self) -> impl Iterator<Item = (u16, Range<u64>)> + use<> {
        let (first, range, blksize) = (self.first, self.range.clone(), u64::from(self.blksize));
        (0..self.blocks).map(move |index| {
            let start = range.start + u64::from(index) * blksize;
            (first.wrapping_add(index), start..range.end.min(start + blksize))
        })
    }

    /// The run without its first `blocks`; `None` when nothing is left.
    pub fn skip(&self, blocks: u16) -> Option<Self> {
        let left = self.blocks.checked_sub(blocks).filter(|left| *left > 0)?;
        let start = self.range.start + u64::from(blocks) * u64::from(self.blksize);
        Some(Self { first: self.first.wrapping_add(blocks), blocks: left, range: start..self.range.end, ..*self })
    }
}

/// One read transfer: which blocks leave, when they leave again, and how it ends.
///
/// It has four kinds of method:
///
/// 1. Handlers take what happens, with the time: [`handle`](Self::handle) an event,
///    [`handle_stranger`](Self::handle_stranger) a datagram from elsewhere, [`handle_timeout`](Self::handle_timeout) the
///    deadline.
/// 2. [`transmitted`](Self::transmitted) tells it that blocks left later than they were asked for, because the file had
///    to be read first.
/// 3. Polls say what the caller does next: [`poll_transmit`](Self::poll_transmit) what to send,
///    [`poll_timeout`](Self::poll_timeout) when to call `handle_timeout`.
/// 4. Getters change nothing: [`outcome`](Self::outcome), [`bytes_acked`](Self::bytes_acked) and the others.
///
/// Call them in this order. After `new` and after each `handle` and `handle_timeout`, send what `poll_transmit` gives
/// until it gives `None`: all windows and, at the end, an ERROR come this way. Then look at `outcome`; once it is known
/// the transfer is over. If it is not, wait for a datagram or for `poll_timeout`, whichever comes first, and hand that in.
/// If the bytes of a [`Transmit::Data`] are not there yet, stop there, and poll no further: once they are, call
/// `transmitted`, send them, and go on with `poll_transmit`. `handle_stranger` needs no poll after it: the ERROR that it
/// returns goes to the stranger.
#[derive(Debug)]
pub struct Transfer {
    len: u64,
    blksize: u16,
    window: u64,
    /// All blocks, the short or empty last one included (RFC 1350 §6). Blocks count from 1, without roll-over.
    total: u64,
    /// Every block up to this one has arrived.
    acked: u64,
    /// Every block up to this one has left in the current flight.
    sent: u64,
    /// The highest block that ever left.
    high: u64,
    /// An OACK waits for ACK 0 (RFC 2347).
    awaiting_oack: bool,
    oack_due: bool,
    farewell: Option<ErrorReply>,
    outcome: Option<TransferEnd>,

    started: Instant,
    /// When the first ACK came.
    proven: Option<Instant>,
    progress: Instant,
    flight: Flight,
    /// Whether the flight before was sent once and without a gap.
    clean_before: bool,
    rto: Rto,
    patience: Duration,
    resend: Option<Instant>,
    /// When an ACK inside the window is taken for a gap.
    gap: Option<Instant>,
    resends: u32,
    retransmissions: u32,
    strangers: u32,
}

/// The blocks that left together and wait for their ACK.
#[derive(Debug, Clone, Copy)]
struct Flight {
    left: Instant,
    /// Nothing in it has been sent before.
    clean: bool,
}

impl Transfer {
    /// Answers a request for a file of `len` bytes, as they are sent.
    pub fn new(len: u64, options: &NegotiatedOptions, now: Instant) -> Self {
        let rto = Rto::new(options.timeout);
        let awaiting_oack = options.oack.is_some();
        Self {
            len,
            blksize: options.blksize,
            window: u64::from(options.windowsize),
            total: len / u64::from(options.blksize) + 1,
            acked: 0,
            sent: 0,
            high: 0,
            awaiting_oack,
            oack_due: awaiting_oack,
            farewell: None,
            outcome: None,
            started: now,
            proven: None,
            progress: now,
            flight: Flight { left: now, clean: true },
            clean_before: true,
            patience: PATIENCE.max(options.timeout.unwrap_or_default() * 2),
            resend: Some(now + rto.current()),
            rto,
            gap: None,
            resends: 0,
            retransmissions: 0,
            strangers: 0,
        }
    }

    /// Acts on one event. What follows is in [`Transfer::poll_transmit`] and [`Transfer::outcome`].
    pub fn handle(&mut self, input: Input, now: Instant) {
        if self.outcome.is_some() {
            return;
        }
        match input {
            Input::Ack(number) if self.awaiting_oack => self.handle_oack_ack(number, now),
            Input::Ack(number) => self.handle_ack(number, now),
            Input::Error => self.finish(TransferEnd::Aborted),
            Input::Repeated => self.handle_repeated(now),
            Input::Replaced => self.finish(self.unfinished()),
            Input::Evicted => {
                self.farewell = Some(ErrorReply::Busy);
                self.finish(self.unfinished());
            }
            Input::Revoked => self.finish(TransferEnd::Failed),
            Input::Unreadable | Input::Stopped => {
                self.farewell = Some(ErrorReply::TemporaryFailure);
                self.finish(TransferEnd::Failed);
            }
        }
    }

    /// Something came from another port or address (RFC 1350 §4). The transfer goes on; the answer, if any, goes there.
    pub fn handle_stranger(&mut self, datagram: &[u8]) -> Option<ErrorReply> {
        let answer = matches!(Packet::parse(datagram), Ok(Packet::Ack(_) | Packet::Data { .. } | Packet::Oack(_)));
        if !answer || self.strangers >= MAX_STRANGERS {
            return None;
        }
        self.strangers += 1;
        Some(ErrorReply::UnknownTransferId)
    }

    /// What [`Transfer::poll_transmit`] gave had to wait for the disk and has left only now.
    pub fn transmitted(&mut self, now: Instant) {
        self.flight.left = now;
        if self.resend.is_some() {
            self.resend = Some(now + self.rto.current());
        }
        if self.gap.is_some() {
            self.gap = Some(now + self.gap_delay());
        }
    }

    /// Time has come to [`Transfer::poll_timeout`]. Earlier calls do nothing.
    pub fn handle_timeout(&mut self, now: Instant) {
        if self.outcome.is_some() {
            return;
        }
        if now >= self.give_up() {
            self.finish(if self.all_sent() { TransferEnd::Unconfirmed } else { TransferEnd::TimedOut });
        } else if self.gap.is_some_and(|due| now >= due) {
            // No count: each of these had progress before it.
            self.rewind(now);
        } else if self.resend.is_some_and(|due| now >= due) {
            self.rto.back_off();
            self.resend_flight(now);
        }
    }

    /// The next thing to send, if any.
    pub fn poll_transmit(&mut self) -> Option<Transmit> {
        if let Some(refusal) = self.farewell.take() {
            return Some(Transmit::Error(refusal));
        }
        if self.outcome.is_some() {
            return None;
        }
        if self.awaiting_oack {
            return std::mem::take(&mut self.oack_due).then_some(Transmit::Oack);
        }
        let last = self.total.min(self.acked + self.window);
        let blocks = u16::try_from(last.saturating_sub(self.sent)).ok().filter(|blocks| *blocks > 0)?;
        let blksize = u64::from(self.blksize);
        let run = Run {
            first: wire_number(self.sent + 1),
            blocks,
            range: self.sent * blksize..self.len.min(last * blksize),
            blksize: self.blksize,
        };
        let again = self.high.min(last).saturating_sub(self.sent);
        self.retransmissions = self.retransmissions.saturating_add(u32::try_from(again).unwrap_or(u32::MAX));
        self.flight.clean &= again == 0;
        self.sent = last;
        self.high = self.high.max(last);
        Some(Transmit::Data(run))
    }

    /// When to call [`Transfer::handle_timeout`]; `None` once it is over.
    pub fn poll_timeout(&self) -> Option<Instant> {
        if self.outcome.is_some() {
            return None;
        }
        [self.resend, self.gap, Some(self.give_up())].into_iter().flatten().min()
    }

    /// Whether the client lets us wait: something was sent again since it last got on.
    pub fn is_stalled(&self) -> bool {
        self.resends > 0
    }

    /// When the client last got on, or was answered first.
    pub fn progress_at(&self) -> Instant {
        self.progress
    }

    /// How the transfer ended; `None` while it runs.
    pub fn outcome(&self) -> Option<TransferEnd> {
        self.outcome
    }

    /// Bytes that the client has acknowledged.
    pub fn bytes_acked(&self) -> u64 {
        self.len.min(self.acked.saturating_mul(u64::from(self.blksize)))
    }

    /// The lowest byte that may still be sent; what lies before it is done with.
    pub fn lowest_needed(&self) -> u64 {
        self.bytes_acked()
    }

    /// Blocks (and OACKs) sent more than once.
    pub fn retransmissions(&self) -> u32 {
        self.retransmissions
    }

    /// When the first ACK came: the client receives what we send.
    pub fn proven_at(&self) -> Option<Instant> {
        self.proven
    }

    /// RFC 2347: ACK 0 accepts the OACK.
    fn handle_oack_ack(&mut self, number: u16, now: Instant) {
        if number != 0 {
            return;
        }
        if self.flight.clean {
            self.rto.sample(now.saturating_duration_since(self.flight.left));
        }
        self.awaiting_oack = false;
        self.start_flight(now, true);
    }

    fn handle_ack(&mut self, number: u16, now: Instant) {
        // The window is far smaller than the range of numbers, so the distance from the last ACK tells old from new
        // across the roll-over.
        let ahead = u64::from(number.wrapping_sub(wire_number(self.acked)));
        if ahead == 0 {
            self.handle_duplicate(now);
        } else if ahead <= self.high - self.acked {
            self.acked += ahead;
            if self.acked == self.total {
                self.finish(TransferEnd::Delivered);
            } else if self.acked >= self.sent {
                if self.flight.clean {
                    self.rto.sample(now.saturating_duration_since(self.flight.left));
                }
                self.sent = self.acked;
                self.start_flight(now, self.flight.clean);
            } else {
                self.handle_partial(now);
            }
        }
        // Anything else is old, or acknowledges what was never sent.
    }

    /// RFC 7440 §4: an ACK inside the window moves it to just past that block, and the rest is sent again. But a client
    /// that gets a block twice says the same while the rest is still on its way to it, and resending to that breeds
    /// further doubles. So the window moves at once and the rest waits a moment for an ACK that makes it needless.
    fn handle_partial(&mut self, now: Instant) {
        self.progressed(now);
        self.flight.clean = false;
        self.gap = Some(now + self.gap_delay());
    }

    /// In lock-step, a duplicate ACK is never answered: that is the Sorcerer's Apprentice (RFC 1123 §4.2.3.1). In a
    /// window it may say that the first block got lost (RFC 7440 §4); it is believed once per flight, when it can be
    /// about this flight at all and cannot be an echo of blocks that were sent twice.
    fn handle_duplicate(&mut self, now: Instant) {
        let age = now.saturating_duration_since(self.flight.left);
        let about_this_flight = self.sent > self.acked + 1 && age * 2 >= self.rto.smoothed();
        if self.window > 1 && self.flight.clean && self.clean_before && about_this_flight {
            self.resend_flight(now);
        }
    }

    /// RFC 1350 has no word on it, phones do it: the request again means that our answer is late or lost.
    fn handle_repeated(&mut self, now: Instant) {
        if self.proven.is_none() {
            self.resend_flight(now);
        }
    }

    fn start_flight(&mut self, now: Instant, clean_before: bool) {
        self.progressed(now);
        self.clean_before = clean_before;
        self.flight = Flight { left: now, clean: true };
    }

    fn progressed(&mut self, now: Instant) {
        self.proven.get_or_insert(now);
        self.progress = now;
        self.resends = 0;
        self.resend = Some(now + self.rto.current());
        self.gap = None;
    }

    /// By then a client that goes on has acknowledged what the moved window brought it.
    fn gap_delay(&self) -> Duration {
        MIN_GAP_DELAY.max(self.rto.smoothed() * 5 / 4)
    }

    /// Sends everything that is not acknowledged once more, unless that was done often enough.
    fn resend_flight(&mut self, now: Instant) {
        let limit = if self.proven.is_some() { MAX_RESENDS } else { MAX_UNPROVEN_RESENDS };
        if self.resends >= limit {
            self.resend = None;
            return;
        }
        self.resends += 1;
        if self.awaiting_oack {
            self.oack_due = true;
            self.retransmissions = self.retransmissions.saturating_add(1);
        }
        self.rewind(now);
    }

    /// Everything that is not acknowledged leaves again.
    fn rewind(&mut self, now: Instant) {
        self.flight = Flight { left: now, clean: false };
        self.resend = Some(now + self.rto.current());
        self.gap = None;
        self.sent = self.acked;
    }

    fn give_up(&self) -> Instant {
        match self.proven {
            None => self.started + UNPROVEN_PATIENCE,
            Some(_) => (self.progress + self.patience).min(self.started + MAX_DURATION),
        }
    }

    fn all_sent(&self) -> bool {
        self.high == self.total
    }

    /// How it ends if the client is not heard any more.
    fn unfinished(&self) -> TransferEnd {
        if self.all_sent() { TransferEnd::Unconfirmed } else { TransferEnd::Aborted }
    }

    fn finish(&mut self, outcome: TransferEnd) {
        self.outcome = Some(outcome);
    }
}

/// Whether the same request, coming again now, belongs to the transfer whose client proved itself at `proven`. Later it
/// is a client that starts over.
pub fn is_straggler(proven: Option<Instant>, now: Instant) -> bool {
    proven.is_none_or(|proven| now < proven + STRAGGLER)
}

/// The number of a block on the wire: after 65,535 comes 0.
fn wire_number(block: u64) -> u16 {
    let [.., high, low] = block.to_be_bytes();
    u16::from_be_bytes([high, low])
}

#[cfg(test)]
mod lossy;
#[cfg(test)]
mod tests;
