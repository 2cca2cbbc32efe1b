//! One upload, from the answer to its WRQ to its end, as a machine without socket, clock or disk.
//!
//! Only for the small logs that a site may take from its own phones: everything is held in memory up to a bound, and
//! the last block is acknowledged only after the whole has been kept. The doc of [`Receive`] says which methods it has
//! and in which order to call them.

use std::time::{Duration, Instant};

use super::options::NegotiatedOptions;
use super::packet::{ErrorReply, Packet};
use super::transfer::MAX_RESENDS;
use api::TransferEnd;

/// How long an acknowledgement waits for the next block before it is sent again, unless the client's `timeout` option
/// says otherwise.
pub const RESEND_AFTER: Duration = Duration::from_secs(2);

/// How long a client may send nothing.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// How long an upload may take, progress or not: 256 KB in blocks of 512 bytes at 75 ms each take 40 s.
pub const MAX_DURATION: Duration = Duration::from_secs(120);

/// How long the last acknowledgement is repeated to a client that did not get it (RFC 1350 §6).
pub const DALLY: Duration = Duration::from_secs(3);

/// What happens to an upload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Input<'a> {
    /// The client sent DATA.
    Data {
        /// The block's number on the wire; 0 follows 65,535.
        block: u16,
        /// The bytes of the block, at most `blksize`.
        bytes: &'a [u8],
    },
    /// The client sent ERROR. Ends the upload, silently.
    Error,
    /// The very same WRQ came again from the client's port.
    Repeated,
    /// Another request came from the client's port, or the address is no longer this device's. Ends it, silently.
    Over,
    /// Another transfer needs the room, and this client has never sent a block. Ends the upload with ERROR 0.
    Evicted,
    /// The server stops. Ends the upload with ERROR 0.
    Stopped,
}

impl<'a> Input<'a> {
    /// What a datagram from the client means to an upload: DATA and ERROR; everything else is to be ignored.
    pub fn from_datagram(datagram: &'a [u8]) -> Option<Self> {
        match Packet::parse(datagram).ok()? {
            Packet::Data { block, bytes } => Some(Self::Data { block, bytes }),
            Packet::Error { .. } => Some(Self::Error),
            _ => None,
        }
    }
}

/// What to send to the client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transmit {
    /// [`NegotiatedOptions::oack`].
    Oack,
    /// ACK of this block.
    Ack(u16),
    /// An ERROR; the last thing that is sent.
    Error(ErrorReply),
}

/// One upload: which blocks are taken and acknowledged, and how it ends.
///
/// It has four kinds of method, like [`Transfer`](super::transfer::Transfer):
///
/// 1. Handlers take what happens, with the time: [`handle`](Self::handle) an event, and
///    [`handle_timeout`](Self::handle_timeout) the deadline.
/// 2. [`kept`](Self::kept) tells it whether the caller could keep what came.
/// 3. Polls say what the caller does next: [`poll_transmit`](Self::poll_transmit) what to send,
///    [`complete`](Self::complete) what to keep, [`poll_timeout`](Self::poll_timeout) when to call `handle_timeout`.
/// 4. Getters change nothing: [`outcome`](Self::outcome) and [`retransmissions`](Self::retransmissions).
///
/// Call them in this order. After `new` and after each `handle`, `handle_timeout` and `kept`, ask `complete`: once, after
/// the last block, it gives all bytes. Keep them and call `kept`; until then the last block is not acknowledged and no
/// deadline runs. Then send what `poll_transmit` gives, which is one packet at the most, and look at `outcome`; once it
/// is known the upload is over. If it is not, wait for a datagram or for `poll_timeout`, whichever comes first, and
/// hand that in.
#[derive(Debug)]
pub struct Receive {
    blksize: usize,
    limit: usize,
    got: Vec<u8>,
    /// The last block that arrived, on the wire; 0 before the first.
    last: u16,
    stage: UploadState,
    /// Whether the answer to the WRQ is an OACK.
    oack: bool,
    transmit: Option<Transmit>,
    outcome: Option<TransferEnd>,
    started: Instant,
    progress: Instant,
    resend_after: Duration,
    resend: Option<Instant>,
    resends: u32,
    retransmissions: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum UploadState {
    /// The client sends blocks.
    Receiving,
    /// The last block has arrived, and the caller writes the whole to disk.
    Keeping,
    /// The last ACK has left. It may be lost, so it is sent again when the last block comes again.
    Dallying,
}

impl Receive {
    /// Answers a WRQ. `announced` is the client's `tsize` (RFC 2349 lets us refuse by it), `limit` the most bytes that
    /// are taken.
    pub fn new(announced: Option<u64>, limit: usize, options: &NegotiatedOptions, now: Instant) -> Self {
        let oack = options.oack.is_some();
        let resend_after = options.timeout.unwrap_or(RESEND_AFTER).min(PATIENCE);
        let mut receive = Self {
            blksize: usize::from(options.blksize),
            limit,
            got: Vec::new(),
            last: 0,
            stage: UploadState::Receiving,
            oack,
            transmit: None,
            outcome: None,
            started: now,
            progress: now,
            resend_after,
            resend: Some(now + resend_after),
            resends: 0,
            retransmissions: 0,
        };
        if announced.is_some_and(|bytes| usize::try_from(bytes).map_or(true, |bytes| bytes > limit)) {
            receive.refuse(ErrorReply::DiskFull);
        } else {
            receive.transmit = Some(receive.answer());
        }
        receive
    }

    /// Acts on one event. What follows is in [`Receive::poll_transmit`] and [`Receive::outcome`].
    pub fn handle(&mut self, input: Input<'_>, now: Instant) {
        if self.outcome.is_some() {
            return;
        }
        match input {
            Input::Data { block, bytes } => self.handle_data(block, bytes, now),
            // RFC 1350 §6: after the last ACK an upload is over for us; nothing that comes then can undo it.
            Input::Error | Input::Over if self.stage == UploadState::Dallying => {
                self.outcome = Some(TransferEnd::Received)
            }
            Input::Error => self.outcome = Some(TransferEnd::Aborted),
            Input::Over => self.outcome = Some(TransferEnd::Failed),
            Input::Repeated if self.stage == UploadState::Receiving && self.last == 0 => self.resend(now),
            Input::Repeated => {}
            Input::Stopped | Input::Evicted if self.stage == UploadState::Dallying => {
                self.outcome = Some(TransferEnd::Received);
            }
            Input::Stopped => self.refuse(ErrorReply::TemporaryFailure),
            Input::Evicted => self.refuse(ErrorReply::Busy),
        }
    }

    /// Time has come to [`Receive::poll_timeout`]. Earlier calls do nothing.
    pub fn handle_timeout(&mut self, now: Instant) {
        if self.outcome.is_some() || self.poll_timeout().is_none_or(|due| now < due) {
            return;
        }
        if now >= self.give_up() {
            let kept = self.stage == UploadState::Dallying;
            self.outcome = Some(if kept { TransferEnd::Received } else { TransferEnd::TimedOut });
        } else {
            self.resend(now);
        }
    }

    /// The next thing to send, if any.
    pub fn poll_transmit(&mut self) -> Option<Transmit> {
        self.transmit.take()
    }

    /// When to call [`Receive::handle_timeout`]; `None` once it is over, and while the bytes are being kept.
    pub fn poll_timeout(&self) -> Option<Instant> {
        if self.outcome.is_some() || self.stage == UploadState::Keeping {
            return None;
        }
        [self.resend, Some(self.give_up())].into_iter().flatten().min()
    }

    /// The whole upload, once, when its last block is here.
    pub fn complete(&mut self) -> Option<Vec<u8>> {
        let whole = self.stage == UploadState::Keeping && self.outcome.is_none() && self.last != 0;
        whole.then(|| std::mem::take(&mut self.got))
    }

    /// Whether what [`Receive::complete`] gave was kept: only then is the last block acknowledged.
    pub fn kept(&mut self, kept: bool, now: Instant) {
        if self.outcome.is_some() || self.stage != UploadState::Keeping {
            return;
        }
        if kept {
            self.stage = UploadState::Dallying;
            self.progress = now;
            self.resend = None;
            self.transmit = Some(Transmit::Ack(self.last));
        } else {
            self.refuse(ErrorReply::DiskFull);
        }
    }

    /// How the upload ended; `None` while it runs.
    pub fn outcome(&self) -> Option<TransferEnd> {
        self.outcome
    }

    /// ACKs and OACKs sent more than once.
    pub fn retransmissions(&self) -> u32 {
        self.retransmissions
    }

    fn handle_data(&mut self, block: u16, bytes: &[u8], now: Instant) {
        if block == self.last && block != 0 {
            // RFC 1123 §4.2.3.1: a block that comes again is acknowledged again; it is the sender of DATA who must not
            // answer duplicates. While the last block is being kept there is no ACK of it yet.
            if self.stage != UploadState::Keeping {
                self.retransmissions = self.retransmissions.saturating_add(1);
                self.transmit = Some(Transmit::Ack(block));
            }
            return;
        }
        // Anything else is old, or ahead of what was acknowledged: lock-step has one block under way.
        if self.stage != UploadState::Receiving || block != self.last.wrapping_add(1) {
            return;
        }
        if bytes.len() > self.blksize {
            return self.refuse(ErrorReply::IllegalOperation);
        }
        if self.got.len() + bytes.len() > self.limit {
            return self.refuse(ErrorReply::DiskFull);
        }
        self.got.extend_from_slice(bytes);
        self.last = block;
        self.progress = now;
        self.resends = 0;
        if bytes.len() < self.blksize {
            self.stage = UploadState::Keeping;
            self.resend = None;
        } else {
            self.resend = Some(now + self.resend_after);
            self.transmit = Some(Transmit::Ack(block));
        }
    }

    /// What says that the client may go on.
    fn answer(&self) -> Transmit {
        if self.oack && self.last == 0 { Transmit::Oack } else { Transmit::Ack(self.last) }
    }

    fn resend(&mut self, now: Instant) {
        if self.resends >= MAX_RESENDS {
            self.resend = None;
            return;
        }
        self.resends += 1;
        self.retransmissions = self.retransmissions.saturating_add(1);
        self.resend = Some(now + self.resend_after);
        self.transmit = Some(self.answer());
    }

    fn refuse(&mut self, refusal: ErrorReply) {
        self.transmit = Some(Transmit::Error(refusal));
        self.outcome = Some(TransferEnd::Failed);
    }

    fn give_up(&self) -> Instant {
        match self.stage {
            UploadState::Dallying => self.progress + DALLY,
            _ => (self.progress + PATIENCE).min(self.started + MAX_DURATION),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::options::{AskedOptions, OptionLimits};
    use crate::packet::RequestOption;
    use crate::service::epoch;

    const LIMIT: usize = 2000;

    struct Bench {
        receive: Receive,
        now: Instant,
    }

    impl Bench {
        fn with(options: &[(&str, &str)]) -> Self {
            let asked: Vec<_> = options
                .iter()
                .map(|(name, value)| RequestOption { name: name.as_bytes(), value: value.as_bytes() })
                .collect();
            let announced = AskedOptions::of(&asked).announced_size();
            let options = NegotiatedOptions::negotiate(
                &AskedOptions::of(&asked),
                announced.unwrap_or(0),
                &OptionLimits::new(1500, None, Some(1)),
            );
            let now = epoch();
            Self { receive: Receive::new(announced, LIMIT, &options, now), now }
        }

        fn data(&mut self, block: u16, length: usize) -> Vec<Transmit> {
            self.receive.handle(Input::Data { block, bytes: &vec![7; length] }, self.now);
            self.sent()
        }

        fn sent(&mut self) -> Vec<Transmit> {
            std::iter::from_fn(|| self.receive.poll_transmit()).collect()
        }

        fn expire(&mut self) -> Vec<Transmit> {
            self.now = self.receive.poll_timeout().expect("a deadline");
            self.receive.handle_timeout(self.now);
            self.sent()
        }

        fn run_out(&mut self) -> Vec<Transmit> {
            let mut all = Vec::new();
            while self.receive.outcome().is_none() {
                all.extend(self.expire());
            }
            all
        }
    }

    #[test]
    fn a_log_is_acknowledged_block_by_block_and_the_last_one_when_it_is_kept() {
        // RFC 1350 §4: ACK 0 answers a WRQ.
        let mut bench = Bench::with(&[]);
        assert_eq!(bench.sent(), [Transmit::Ack(0)]);
        assert_eq!(bench.data(1, 512), [Transmit::Ack(1)]);
        assert_eq!(bench.receive.complete(), None);
        assert_eq!(bench.data(2, 100), []);
        assert_eq!(bench.receive.complete().map(|log| log.len()), Some(612));
        bench.receive.kept(true, bench.now);
        assert_eq!(bench.sent(), [Transmit::Ack(2)]);
        // RFC 1350 §6: the last ACK may have got lost.
        assert_eq!(bench.data(2, 100), [Transmit::Ack(2)]);
        assert_eq!(bench.run_out(), []);
        assert_eq!(bench.receive.outcome(), Some(TransferEnd::Received));
        assert_eq!(bench.receive.retransmissions(), 1);
    }

    #[test]
    fn an_empty_log_and_one_of_whole_blocks_end_with_a_short_block() {
        let mut bench = Bench::with(&[]);
        bench.data(1, 0);
        assert_eq!(bench.receive.complete(), Some(Vec::new()));
        let mut bench = Bench::with(&[]);
        bench.data(1, 512);
        bench.data(2, 0);
        assert_eq!(bench.receive.complete().map(|log| log.len()), Some(512));
    }

    #[test]
    fn options_are_answered_by_an_oack_and_windows_are_not_taken() {
        // RFC 2347: DATA 1 follows an OACK at once. RFC 7440: the server may answer with a smaller window.
        let mut bench = Bench::with(&[("tsize", "700"), ("blksize", "1024"), ("windowsize", "8")]);
        assert_eq!(bench.sent(), [Transmit::Oack]);
        assert_eq!(bench.data(1, 700), []);
        assert_eq!(bench.receive.complete().map(|log| log.len()), Some(700));
    }

    #[test]
    fn a_duplicate_is_acknowledged_again_and_counted_once() {
        // RFC 1123 §4.2.3.1
        let mut bench = Bench::with(&[]);
        bench.sent();
        bench.data(1, 512);
        for _ in 0..3 {
            assert_eq!(bench.data(1, 512), [Transmit::Ack(1)]);
        }
        assert_eq!(bench.data(3, 512), [], "a block ahead");
        assert_eq!(bench.data(0, 512), [], "an old one");
        bench.data(2, 1);
        assert_eq!(bench.receive.complete().map(|log| log.len()), Some(513));
    }

    #[test]
    fn a_log_over_the_bound_ends_with_error_3_whether_it_was_announced_or_not() {
        // RFC 2349: the size lets the server refuse before anything is sent.
        let full = [Transmit::Error(ErrorReply::DiskFull)];
        assert_eq!(Bench::with(&[("tsize", "2001")]).sent(), full);
        assert_eq!(Bench::with(&[("tsize", "99999999999999999999")]).sent(), full);
        for announced in [&[][..], &[("tsize", "10")]] {
            let mut bench = Bench::with(announced);
            for block in 1..=3 {
                bench.data(block, 512);
            }
            assert_eq!(bench.data(4, 512), full);
            assert_eq!(bench.receive.outcome(), Some(TransferEnd::Failed));
            assert_eq!(bench.data(5, 1), []);
            assert_eq!(bench.receive.complete(), None);
        }
    }

    #[test]
    fn a_silent_client_costs_a_few_acks_and_a_bounded_time() {
        let mut bench = Bench::with(&[]);
        let start = bench.now;
        assert_eq!(bench.sent(), [Transmit::Ack(0)]);
        assert_eq!(bench.run_out(), [Transmit::Ack(0); 4]);
        assert_eq!((bench.receive.outcome(), bench.now - start), (Some(TransferEnd::TimedOut), PATIENCE));
        // One that crawls is ended too.
        let mut bench = Bench::with(&[("blksize", "8")]);
        let start = bench.now;
        for block in 1.. {
            bench.now += Duration::from_secs(10);
            bench.receive.handle_timeout(bench.now);
            if bench.receive.outcome().is_some() {
                break;
            }
            bench.data(block, 8);
        }
        assert_eq!(bench.now - start, MAX_DURATION);
    }

    #[test]
    fn the_clients_timeout_is_honoured() {
        // RFC 2349
        let mut bench = Bench::with(&[("timeout", "5")]);
        let start = bench.now;
        bench.sent();
        assert_eq!(bench.expire(), [Transmit::Oack]);
        assert_eq!(bench.now - start, Duration::from_secs(5));
    }

    #[test]
    fn a_repeated_request_gets_its_answer_again_a_few_times() {
        let mut bench = Bench::with(&[]);
        bench.sent();
        let mut answers = 0;
        for _ in 0..50 {
            bench.receive.handle(Input::Repeated, bench.now);
            answers += bench.sent().len();
        }
        assert_eq!(answers, 4);
        bench.data(1, 512);
        bench.receive.handle(Input::Repeated, bench.now);
        assert_eq!(bench.sent(), []);
    }

    #[test]
    fn an_error_or_a_lost_address_ends_it_silently_and_a_stop_with_error_0() {
        for (input, outcome, said) in [
            (Input::Error, TransferEnd::Aborted, vec![]),
            (Input::Over, TransferEnd::Failed, vec![]),
            (Input::Stopped, TransferEnd::Failed, vec![Transmit::Error(ErrorReply::TemporaryFailure)]),
        ] {
            let mut bench = Bench::with(&[]);
            bench.sent();
            bench.data(1, 512);
            bench.receive.handle(input, bench.now);
            assert_eq!((bench.receive.outcome(), bench.sent()), (Some(outcome), said));
            assert_eq!(bench.receive.poll_timeout(), None);
        }
    }

    #[test]
    fn what_could_not_be_kept_is_not_acknowledged() {
        let mut bench = Bench::with(&[]);
        bench.sent();
        bench.data(1, 10);
        bench.receive.complete();
        assert_eq!(bench.data(1, 10), [], "not while it is being kept");
        bench.receive.kept(false, bench.now);
        assert_eq!(bench.sent(), [Transmit::Error(ErrorReply::DiskFull)]);
        assert_eq!(bench.receive.outcome(), Some(TransferEnd::Failed));
    }

    #[test]
    fn a_block_longer_than_agreed_is_illegal() {
        let mut bench = Bench::with(&[]);
        bench.sent();
        assert_eq!(bench.data(1, 513), [Transmit::Error(ErrorReply::IllegalOperation)]);
    }
}
