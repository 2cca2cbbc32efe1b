//! Whether each server answers relay agents. `augment` learns as one what a server is about to lease, so beside a server
//! that does not it completes nothing. RouterOS does not, unless told otherwise. Pure.
//!
//! A server is asked right after it has offered an address to us as to a client: then it is there, it has an address for
//! us, and it has pinged the address if it does that. Three questions without an answer are no accident.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

/// How many questions in a row a server may leave unanswered.
const QUESTIONS: u8 = 3;
/// How long a server may take to answer one.
const ANSWER_WITHIN: Duration = Duration::from_millis(1500);
/// How long what was found out counts. Then the next offer makes us ask again: somebody may have changed the router.
const ASK_AGAIN: Duration = Duration::from_secs(60);
/// The most servers that are asked.
const MAX_SERVERS: usize = 4;

/// What is known of one server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Relays {
    /// It was not asked yet, or has time to answer.
    #[default]
    Unknown,
    /// It answers relay agents.
    Answered,
    /// It answers clients and no relay agents.
    Refused,
}

/// The questions that were asked, by server.
#[derive(Debug, Default)]
pub struct RelayCheck(BTreeMap<Ipv4Addr, Asked>);

#[derive(Debug)]
struct Asked {
    /// How many questions were sent since it was last known how the server behaves.
    questions: u8,
    /// The transactions of these questions.
    xids: Vec<u32>,
    /// When the next question is due, or the wait for the last answer is over.
    due: Option<Instant>,
    settled: Option<Instant>,
}

impl RelayCheck {
    /// A server has offered us an address as to a client.
    pub fn offered(&mut self, server: Ipv4Addr, now: Instant) {
        if self.0.len() >= MAX_SERVERS && !self.0.contains_key(&server) {
            return;
        }
        let asked = self.0.entry(server).or_insert(Asked { questions: 0, xids: Vec::new(), due: None, settled: None });
        let is_known = asked.settled.is_some_and(|at| now.saturating_duration_since(at) < ASK_AGAIN);
        if asked.due.is_none() && !is_known {
            (asked.questions, asked.due) = (0, Some(now));
            asked.xids.clear();
        }
    }

    /// The servers to ask now; [`Self::sent`] follows for each. Those that have left all questions unanswered go to
    /// `refused`.
    pub fn step(&mut self, now: Instant, refused: &mut Vec<Ipv4Addr>) -> Vec<Ipv4Addr> {
        let mut ask = Vec::new();
        for (server, asked) in self.0.iter_mut().filter(|(_, asked)| asked.due.is_some_and(|due| due <= now)) {
            if asked.questions < QUESTIONS {
                (asked.questions, asked.due) = (asked.questions.saturating_add(1), Some(now + ANSWER_WITHIN));
                ask.push(*server);
            } else {
                (asked.due, asked.settled) = (None, Some(now));
                refused.push(*server);
            }
        }
        ask
    }

    /// A question went to this server in this transaction.
    pub fn sent(&mut self, server: Ipv4Addr, xid: u32) {
        if let Some(asked) = self.0.get_mut(&server) {
            asked.xids.push(xid);
        }
    }

    /// Whether this is the transaction of a question.
    pub fn is_ours(&self, xid: u32) -> bool {
        self.0.values().any(|asked| asked.xids.contains(&xid))
    }

    /// The server has answered us as a relay agent.
    pub fn answered(&mut self, server: Ipv4Addr, now: Instant) {
        if let Some(asked) = self.0.get_mut(&server) {
            (asked.due, asked.settled) = (None, Some(now));
        }
    }

    /// Forgets the servers that are not among these any more.
    pub fn keep(&mut self, servers: &[Ipv4Addr]) {
        self.0.retain(|server, _| servers.contains(server));
    }

    /// When [`Self::step`] has something to do.
    pub fn deadline(&self) -> Option<Instant> {
        self.0.values().filter_map(|asked| asked.due).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROUTER: Ipv4Addr = Ipv4Addr::new(192, 168, 88, 1);

    #[test]
    fn three_questions_without_an_answer_are_a_refusal_and_it_is_asked_again_later() {
        let mut check = RelayCheck::default();
        let start = Instant::now();
        check.offered(ROUTER, start);
        for number in 0..QUESTIONS {
            let at = start + ANSWER_WITHIN * number.into();
            assert_eq!(step(&mut check, at), (vec![ROUTER], vec![]), "{number}");
            check.offered(ROUTER, at);
            assert_eq!(step(&mut check, at), (vec![], vec![]), "an answer has its time");
        }
        let end = start + ANSWER_WITHIN * QUESTIONS.into();
        assert_eq!(step(&mut check, end), (vec![], vec![ROUTER]));
        assert_eq!(check.deadline(), None);
        check.offered(ROUTER, end);
        assert_eq!(step(&mut check, end), (vec![], vec![]));
        check.offered(ROUTER, end + ASK_AGAIN);
        assert_eq!(step(&mut check, end + ASK_AGAIN), (vec![ROUTER], vec![]));
    }

    #[test]
    fn an_answer_ends_the_questions_and_only_a_question_of_ours_is_answered() {
        let mut check = RelayCheck::default();
        let start = Instant::now();
        check.offered(ROUTER, start);
        step(&mut check, start);
        check.sent(ROUTER, 7);
        assert!(check.is_ours(7) && !check.is_ours(8));
        check.answered(ROUTER, start);
        assert_eq!(check.deadline(), None);
        for number in 0..1000_u32 {
            check.offered(Ipv4Addr::from(number), start);
        }
        assert!(check.0.len() <= MAX_SERVERS);
    }

    fn step(check: &mut RelayCheck, now: Instant) -> (Vec<Ipv4Addr>, Vec<Ipv4Addr>) {
        let mut refused = Vec::new();
        let ask = check.step(now, &mut refused);
        (ask, refused)
    }
}
