//! The addresses of phones that the kernel has just given up or forgotten: until when they count as theirs, and when to ask
//! for them again.

use std::collections::HashMap;
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

/// How long a phone keeps its address once the kernel could ask for it. A phone that is still there answers within
/// milliseconds, and if the question was lost, the kernel repeats it after a second. A transfer that runs goes on: own files
/// leave as frames to the phone's MAC address, and only while the phone answers `tftp`, so nobody else can get them meanwhile.
pub(super) const GRACE: Duration = Duration::from_millis(1500);
/// How often it is tried to ask while that cannot be done.
pub(super) const ASK_AGAIN: Duration = Duration::from_millis(50);
/// How long a phone keeps its address while nobody can be asked, because the link is down. A switch that is restarted, or
/// a cable that is put in again, takes seconds.
const MAX_DOUBT: Duration = Duration::from_secs(10);
/// The most questions within [`TURN`]. A kernel that runs out of room for neighbours forgets one for each that is asked for.
const MAX_TURN: usize = 16;
/// How often [`MAX_TURN`] questions may be put.
const TURN: Duration = Duration::from_millis(250);
/// The most addresses in doubt at one time.
const MAX_DOUBTS: usize = 1024;

/// Addresses in doubt.
#[derive(Debug, Default)]
pub(super) struct Doubts {
    open: HashMap<Ipv4Addr, Doubt>,
    /// When the turn began.
    turn: Option<Instant>,
    /// The questions of the turn.
    asked: usize,
    /// When the link was looked at last.
    looked: Option<Instant>,
}

#[derive(Debug, Clone, Copy)]
struct Doubt {
    /// When the last possible moment is.
    last: Instant,
    /// When it ends, if nobody has answered.
    until: Instant,
    /// When to ask; `None` once that was done.
    ask: Option<Instant>,
}

impl Doubts {
    /// The address is in doubt from now on, and is to be asked for. False if there are too many.
    pub(super) fn open(&mut self, address: Ipv4Addr, now: Instant) -> bool {
        let room = self.open.len() < MAX_DOUBTS || self.open.contains_key(&address);
        if room {
            self.open.insert(address, Doubt { last: now + MAX_DOUBT, until: now + GRACE, ask: Some(now) });
        }
        room
    }

    /// Somebody answers for the address.
    pub(super) fn close(&mut self, address: Ipv4Addr) {
        self.open.remove(&address);
    }

    /// Whether the address is in doubt. The kernel has given it up once more, so it is asked for again.
    pub(super) fn lost_again(&mut self, address: Ipv4Addr, now: Instant) -> bool {
        let Some(doubt) = self.open.get_mut(&address) else { return false };
        doubt.ask.get_or_insert(now + ASK_AGAIN);
        true
    }

    /// Whether it is time to look whether the link is down.
    pub(super) fn should_look(&mut self, now: Instant) -> bool {
        let due = !self.is_empty() && self.looked.is_none_or(|looked| now >= looked + ASK_AGAIN);
        if due {
            self.looked = Some(now);
        }
        due
    }

    /// The link is down: nobody can answer, so that silence says nothing.
    pub(super) fn link_down(&mut self, now: Instant) {
        for doubt in self.open.values_mut() {
            doubt.until = doubt.last.min(now + GRACE);
        }
    }

    /// The addresses to ask for now.
    pub(super) fn take_due(&mut self, now: Instant) -> Vec<Ipv4Addr> {
        if self.turn.is_none_or(|turn| now >= turn + TURN) {
            (self.turn, self.asked) = (Some(now), 0);
        }
        let due = self.open.iter_mut().filter(|(_, doubt)| doubt.ask.is_some_and(|at| at <= now));
        let turn = due.take(MAX_TURN.saturating_sub(self.asked)).map(|(address, doubt)| {
            (doubt.ask, doubt.until) = (None, doubt.last.min(now + GRACE));
            *address
        });
        let turn: Vec<Ipv4Addr> = turn.collect();
        self.asked += turn.len();
        turn
    }

    /// The question could not be put: it is put again soon.
    pub(super) fn not_asked(&mut self, address: Ipv4Addr, now: Instant) {
        self.asked = self.asked.saturating_sub(1);
        if let Some(doubt) = self.open.get_mut(&address) {
            doubt.ask = Some(now + ASK_AGAIN);
        }
    }

    /// Removes the addresses for which nobody has answered in time. Silence counts only after the question.
    pub(super) fn ended(&mut self, now: Instant) -> Vec<Ipv4Addr> {
        let is_over = |doubt: &Doubt| doubt.last <= now || (doubt.ask.is_none() && doubt.until <= now);
        let ended: Vec<Ipv4Addr> =
            self.open.iter().filter(|(_, doubt)| is_over(doubt)).map(|(address, _)| *address).collect();
        for address in &ended {
            self.open.remove(address);
        }
        ended
    }

    /// Whether no address is in doubt.
    pub(super) fn is_empty(&self) -> bool {
        self.open.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ADDRESS: Ipv4Addr = Ipv4Addr::new(192, 168, 1, 20);

    /// A link that is down from the start for so long, where nobody answers. Returns when the first question could be put and
    /// when the doubt ended.
    fn bounce(down: Duration) -> (Option<Duration>, Duration) {
        let (mut doubts, start) = (Doubts::default(), Instant::now());
        assert!(doubts.open(ADDRESS, start));
        let (mut passed, mut asked) = (Duration::ZERO, None);
        loop {
            let now = start + passed;
            for address in doubts.take_due(now) {
                if passed < down {
                    doubts.not_asked(address, now);
                } else {
                    asked.get_or_insert(passed);
                }
            }
            if !doubts.ended(now).is_empty() {
                assert!(doubts.is_empty());
                return (asked, passed);
            }
            passed += Duration::from_millis(10);
        }
    }

    #[test]
    fn after_a_bounce_of_the_link_a_phone_is_asked_for_within_50_milliseconds() {
        assert_eq!(bounce(Duration::ZERO), (Some(Duration::ZERO), GRACE));
        for millis in [10, 20, 200, 600, 3000] {
            let down = Duration::from_millis(millis);
            let (asked, ended) = bounce(down);
            let asked = asked.unwrap_or(Duration::MAX);
            assert!(asked >= down && asked < down + ASK_AGAIN, "{millis}: {asked:?}");
            assert_eq!(ended, asked + GRACE, "{millis}");
        }
        let (asked, ended) = bounce(Duration::from_secs(60));
        assert_eq!((asked, ended), (None, MAX_DOUBT), "it is not for ever");
    }

    #[test]
    fn silence_on_a_link_without_a_carrier_says_nothing() {
        let (mut doubts, start) = (Doubts::default(), Instant::now());
        assert!(doubts.open(ADDRESS, start));
        assert_eq!(doubts.take_due(start), [ADDRESS], "the kernel takes the question, and it is lost");
        let up = start + Duration::from_secs(4);
        doubts.link_down(up);
        assert!(doubts.lost_again(ADDRESS, up) && doubts.take_due(up).is_empty());
        assert_eq!(doubts.take_due(up + ASK_AGAIN), [ADDRESS]);
        assert!(doubts.ended(up + GRACE).is_empty());
        assert_eq!(doubts.ended(up + ASK_AGAIN + GRACE), [ADDRESS]);
        assert!(!doubts.lost_again(ADDRESS, up));
    }

    #[test]
    fn doubts_and_questions_are_bounded() {
        let (mut doubts, start) = (Doubts::default(), Instant::now());
        let opened = (0..3000).filter(|&number| doubts.open(Ipv4Addr::from(number), start)).count();
        assert_eq!((opened, doubts.take_due(start).len(), doubts.take_due(start).len()), (MAX_DOUBTS, MAX_TURN, 0));
        assert_eq!(doubts.take_due(start + TURN).len(), MAX_TURN);
        assert_eq!(doubts.ended(start + GRACE).len(), MAX_TURN, "the others were not asked for yet");
        assert_eq!(doubts.ended(start + MAX_DOUBT).len(), MAX_DOUBTS - MAX_TURN);
    }
}
