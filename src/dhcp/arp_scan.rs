//! Which addresses are asked for by ARP, and when. Pure.
//!
//! An address that a client is about to get is asked for at once. All other free addresses of the range are asked for
//! before anybody wants them, a few at a time, and again every ten minutes. So a new phone need not wait for an answer, nor
//! need three thousand of them.

use std::collections::{HashMap, VecDeque};
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use super::range::Range;
use ids::MacAddr;

/// How long a device has to answer. On a LAN it takes milliseconds, and phones wait at least 4 s for an offer (RFC 2131
/// §4.1).
pub const WAIT: Duration = Duration::from_millis(500);

/// How many addresses are asked for in each [`STEP`]: 400 questions a second, of 42 octets each. A range of 1,000 is known
/// 2.5 s after the start, within the 8 s in which other servers may show.
pub const AT_A_TIME: usize = 8;
/// The same where the kernel asks for us: 50 questions a second. The kernel repeats each three times, remembers each for
/// 3 s, and has room for a thousand neighbours, phones among them.
pub const BY_THE_KERNEL: usize = 1;
/// How long the next addresses wait.
pub const STEP: Duration = Duration::from_millis(20);

/// How many addresses are looked at in a step. No packet waits until a whole range was looked at.
const LOOK_AT: u32 = 512;

/// How long the scan rests when there was nothing to ask for in the whole range.
const REST: Duration = Duration::from_secs(5);

/// The questions that are open, and which comes next.
///
/// Its methods, in the order in which they are used: [`Self::hurry`] begins the scan, [`Self::step`] says what to ask for
/// next, and [`Self::ask`] adds an address that a client waits for. [`Self::claimed`] takes the answers, and
/// [`Self::answered`] says what came of the questions whose time is over. [`Self::deadline`] says when to call again.
///
/// It holds the questions of one [`WAIT`]: 200 of the scan, and those of [`Self::ask`], which the caller must limit.
#[derive(Debug)]
pub struct ArpScan {
    at_a_time: usize,
    /// The open questions, and who has answered.
    asked: HashMap<Ipv4Addr, Option<MacAddr>>,
    /// When the time for each answer is over, the earliest first.
    until: VecDeque<(Instant, Ipv4Addr)>,
    /// The place in the range where the next step begins.
    place: u32,
    /// How many addresses were looked at since the last question.
    idle: u32,
    /// When the next step is due.
    next: Option<Instant>,
}

impl ArpScan {
    /// A scan that asks for so many addresses in each [`STEP`], once it has begun.
    pub fn new(at_a_time: usize) -> Self {
        Self { at_a_time, asked: HashMap::new(), until: VecDeque::new(), place: 0, idle: 0, next: None }
    }

    /// Asks for an address. Says whether to send the question: it may be on its way already.
    pub fn ask(&mut self, address: Ipv4Addr, now: Instant) -> bool {
        if self.asked.contains_key(&address) {
            return false;
        }
        self.asked.insert(address, None);
        self.until.push_back((now + WAIT, address));
        true
    }

    /// A device claims an address.
    pub fn claimed(&mut self, address: Ipv4Addr, by: MacAddr) {
        if let Some(answer) = self.asked.get_mut(&address) {
            *answer = Some(by);
        }
    }

    /// The addresses whose time to answer is over, and who answered for each.
    pub fn answered(&mut self, now: Instant) -> Vec<(Ipv4Addr, Option<MacAddr>)> {
        let mut over = Vec::new();
        while let Some((_, address)) = self.until.pop_front_if(|(until, _)| *until <= now) {
            over.push((address, self.asked.remove(&address).flatten()));
        }
        over
    }

    /// The next addresses of the range to ask for, of those for which `wants` holds. None before the first [`Self::hurry`].
    pub fn step(&mut self, range: &Range, wants: &dyn Fn(Ipv4Addr) -> bool, now: Instant) -> Vec<Ipv4Addr> {
        if self.next.is_none_or(|next| now < next) {
            return Vec::new();
        }
        let mut questions = Vec::new();
        for _ in 0..LOOK_AT.min(range.count()) {
            if questions.len() >= self.at_a_time {
                break;
            }
            let address = range.at(self.place);
            self.place = self.place.wrapping_add(1).checked_rem(range.count()).unwrap_or(0);
            self.idle = self.idle.saturating_add(1);
            if let Some(address) = address.filter(|address| wants(*address))
                && self.ask(address, now)
            {
                questions.push(address);
                self.idle = 0;
            }
        }
        let rest = self.idle >= range.count();
        if rest {
            self.idle = 0;
        }
        self.next = Some(now + if rest { REST } else { STEP });
        questions
    }

    /// Begins the scan, or ends its rest: there are addresses to ask for that were known a moment ago.
    pub fn hurry(&mut self, now: Instant) {
        self.idle = 0;
        self.next = Some(self.next.map_or(now, |next| next.min(now + STEP)));
    }

    /// When the time for an answer is over or, if the caller takes `steps`, the next step is due.
    pub fn deadline(&self, steps: bool) -> Option<Instant> {
        let over = self.until.front().map(|(until, _)| *until);
        over.into_iter().chain(self.next.filter(|_| steps)).min()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::collections::{BTreeMap, BTreeSet};

    use super::*;

    const MAC: MacAddr = MacAddr::new([2, 0, 0, 0, 0, 1]);

    fn range(count: u32) -> Range {
        let first = Ipv4Addr::new(10, 0, 16, 0);
        Range::new(first, Ipv4Addr::from(u32::from(first) + count - 1), BTreeSet::new()).unwrap()
    }

    fn beginning(now: Instant) -> ArpScan {
        let mut arp_scan = ArpScan::new(AT_A_TIME);
        arp_scan.hurry(now);
        arp_scan
    }

    #[test]
    fn a_range_of_a_thousand_is_asked_for_within_three_seconds_and_never_more_than_400_a_second() {
        let (range, begin) = (range(1000), Instant::now());
        let mut arp_scan = beginning(begin);
        let (mut known, mut sent) = (BTreeMap::new(), Vec::new());
        let mut now = begin;
        loop {
            for (address, by) in arp_scan.answered(now) {
                assert_eq!(known.insert(address, by), None, "{address} was asked for twice");
            }
            if known.len() == 1000 {
                break;
            }
            let questions = arp_scan.step(&range, &|address| !known.contains_key(&address), now);
            sent.extend(questions.iter().map(|_| now));
            assert!(arp_scan.asked.len() <= 200 && arp_scan.until.len() <= 200, "memory");
            now = arp_scan.deadline(true).unwrap().max(now);
        }
        assert!(now - begin < Duration::from_secs(3), "{:?}", now - begin);
        for (place, &first) in sent.iter().enumerate() {
            let second = sent.iter().skip(place).take_while(|&&at| at < first + Duration::from_secs(1)).count();
            assert!(second <= 400, "{second}");
        }
    }

    #[test]
    fn where_all_is_known_it_rests_and_sees_within_seconds_what_is_missing_again() {
        let (range, mut now) = (range(4096), Instant::now());
        let mut arp_scan = beginning(now);
        let pauses: Vec<Duration> = (0..16)
            .map(|_| {
                assert!(arp_scan.step(&range, &|_| false, now).is_empty());
                let before = now;
                now = arp_scan.deadline(true).unwrap();
                now - before
            })
            .collect();
        assert_eq!(pauses, [[STEP; 7].as_slice(), &[REST], &[STEP; 7], &[REST]].concat(), "512 addresses at a time");
        let missing = range.at(4000).unwrap();
        let begin = now;
        let found = std::iter::from_fn(|| {
            let found = arp_scan.step(&range, &|address| address == missing, now);
            now = arp_scan.deadline(true).unwrap();
            Some((found, now))
        });
        let (_, at) = found.take(200).find(|(found, _)| *found == [missing]).unwrap();
        assert!(at - begin < REST * 2, "{:?}", at - begin);
        assert_eq!(arp_scan.deadline(false), Some(at - STEP + WAIT), "an answer is waited for in any case");
    }

    #[test]
    fn who_answers_in_time_is_told_with_the_address_and_who_answers_for_others_is_not() {
        let (mut arp_scan, now) = (ArpScan::new(AT_A_TIME), Instant::now());
        let [one, two] = [Ipv4Addr::new(10, 0, 0, 1), Ipv4Addr::new(10, 0, 0, 2)];
        assert!(arp_scan.ask(one, now) && arp_scan.ask(two, now));
        assert!(!arp_scan.ask(one, now), "the question is on its way");
        arp_scan.claimed(one, MAC);
        arp_scan.claimed(Ipv4Addr::new(10, 0, 0, 3), MAC);
        assert!(arp_scan.answered(now).is_empty());
        assert_eq!(arp_scan.answered(now + WAIT), [(one, Some(MAC)), (two, None)]);
        assert_eq!((arp_scan.deadline(true), arp_scan.asked.len()), (None, 0));
    }

    #[test]
    fn a_range_of_one_address_is_borne_and_a_range_that_shrank() {
        let now = Instant::now();
        let mut arp_scan = beginning(now);
        arp_scan.step(&range(4096), &|_| true, now);
        assert_eq!(arp_scan.step(&range(1), &|_| true, now + STEP).len(), 0, "its only address is asked for already");
        assert_eq!(arp_scan.step(&range(1), &|_| true, now + WAIT + REST).len(), 0);
        arp_scan.answered(now + WAIT + REST);
        assert_eq!(arp_scan.step(&range(1), &|_| true, now + WAIT + REST * 3).len(), 1);
    }
}
