//! What HQ has of this site's state, as far as this site knows, and what to tell next. Pure.
//!
//! Call [`ToldState::draft`], then [`ToldState::sent`] once the page has a counter and before it leaves, then
//! [`ToldState::answered`] if an answer came. If none came, HQ may have the page or not; its next answer tells which.

use std::collections::BTreeMap;

use api::check_in::{Acknowledgement, PageVerdict, StateChanges, StateMap, digest_of};
use ids::Digest;

/// A state by the digests of its values, and the counter of the page that led to it; 0 for the empty state.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct KnownState {
    counter: u64,
    values: BTreeMap<String, Digest>,
}

/// What HQ has. It is lost at a restart, which costs one telling of everything.
#[derive(Debug, Default)]
pub(crate) struct ToldState {
    /// What HQ said it has.
    known: KnownState,
    /// What it has if the page that was sent last reached it.
    sent: Option<KnownState>,
    /// What it has if the page before that reached it, whose answer was lost.
    lost: Option<KnownState>,
}

/// A page that nobody has signed yet.
#[derive(Debug)]
pub(crate) struct Draft {
    pub(crate) base: u64,
    pub(crate) changes: StateChanges,
    pub(crate) state: Digest,
    pub(crate) more: bool,
    after: BTreeMap<String, Digest>,
}

/// What to do after an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Next {
    /// HQ has the page.
    Taken,
    /// Draft again: HQ told what it has, or has nothing.
    Again,
    /// Take another name, then draft again.
    Rename,
}

impl ToldState {
    /// The page that brings HQ from what it has towards `state`, with at most `room` bytes of changes. What the box says of
    /// itself comes before phones.
    pub(crate) fn draft(&self, state: &StateMap, room: usize) -> Draft {
        let known = &self.known.values;
        let gone = known.keys().filter(|key| !state.contains_key(*key)).map(|key| (key, None));
        let new = state
            .iter()
            .filter(|(key, value)| known.get(*key) != Some(&Digest::of(value.as_bytes())))
            .map(|(key, value)| (key, Some(value)));
        let mut wanted: Vec<(&String, Option<&String>)> = gone.chain(new).collect();
        wanted.sort_by_key(|(key, _)| (api::check_in::report::phone_of(key).is_some(), *key));
        let (mut after, mut changes, mut left, mut more) = (known.clone(), StateChanges::new(), room, false);
        for (key, value) in wanted {
            let bytes = key.len() + value.map_or(0, |value| value.len() + 1) + 1;
            let Some(rest) = left.checked_sub(bytes) else {
                more = true;
                continue;
            };
            left = rest;
            after.remove(key);
            if let Some(value) = value {
                after.insert(key.clone(), Digest::of(value.as_bytes()));
            }
            changes.insert(key.clone(), value.cloned());
        }
        let state = digest_of(after.iter().map(|(key, value)| (key.as_str(), *value)));
        Draft { base: self.known.counter, changes, state, more, after }
    }

    /// The draft leaves under this counter.
    pub(crate) fn sent(&mut self, draft: Draft, counter: u64) {
        self.lost = self.sent.replace(KnownState { counter, values: draft.after }).or_else(|| self.lost.take());
    }

    /// HQ has answered the page that was sent last.
    pub(crate) fn answered(&mut self, answer: &Acknowledgement) -> Next {
        let (sent, lost) = (self.sent.take(), self.lost.take());
        let is_this = |known: &KnownState| known.counter == answer.counter && known.digest() == answer.state;
        match answer.verdict {
            PageVerdict::Taken => {
                // An HQ that took a page has the state that it promises, or it is forgotten what HQ has.
                self.known = sent.filter(is_this).unwrap_or_default();
                Next::Taken
            }
            PageVerdict::Resync => {
                let before = std::mem::take(&mut self.known);
                self.known = lost.into_iter().chain([before]).find(is_this).unwrap_or_default();
                Next::Again
            }
            PageVerdict::OldCounter => {
                self.known = KnownState::default();
                Next::Rename
            }
        }
    }

    /// Nothing is known of what HQ has.
    pub(crate) fn forget(&mut self) {
        *self = Self::default();
    }
}

impl KnownState {
    fn digest(&self) -> Digest {
        digest_of(self.values.iter().map(|(key, value)| (key.as_str(), *value)))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use api::check_in::{ACKNOWLEDGEMENT_PURPOSE, digest};
    use ids::{Generation, UnixTime};

    /// HQ, as far as it matters here.
    #[derive(Default)]
    struct Hq {
        counter: u64,
        state: StateMap,
    }

    impl Hq {
        fn take(&mut self, base: u64, counter: u64, changes: &StateChanges, promised: Digest) -> Acknowledgement {
            let mut verdict = PageVerdict::Resync;
            if counter <= self.counter {
                verdict = PageVerdict::OldCounter;
            } else if base == 0 || base == self.counter {
                let mut state = if base == 0 { StateMap::new() } else { self.state.clone() };
                for (key, value) in changes {
                    match value {
                        Some(value) => drop(state.insert(key.clone(), value.clone())),
                        None => drop(state.remove(key)),
                    }
                }
                if digest(&state) == promised {
                    (verdict, self.counter, self.state) = (PageVerdict::Taken, counter, state);
                }
            }
            Acknowledgement {
                purpose: ACKNOWLEDGEMENT_PURPOSE.to_owned(),
                site: "s-1".parse().unwrap(),
                nonce: String::new(),
                time: UnixTime(0),
                newest: Generation(0),
                verdict,
                counter: self.counter,
                state: digest(&self.state),
            }
        }
    }

    struct Site {
        told: ToldState,
        counter: u64,
        state: StateMap,
        bytes: usize,
    }

    impl Site {
        fn new(phones: usize) -> Self {
            let phones = (0..phones).map(|n| (format!("phone/0200{n:08x}"), format!("{{\"n\":{n}}}")));
            let state = phones.chain([("now".to_owned(), "{}".to_owned())]).collect();
            Self { told: ToldState::default(), counter: 0, state, bytes: 0 }
        }

        /// One page. `None` where its answer is lost.
        fn page(&mut self, hq: &mut Hq, reaches: bool, answers: bool) -> Option<(Next, bool)> {
            let draft = self.told.draft(&self.state, 4_000);
            self.counter += 1;
            let (base, changes, promised, more) = (draft.base, draft.changes.clone(), draft.state, draft.more);
            self.bytes = changes.iter().map(|(key, value)| key.len() + value.as_ref().map_or(0, String::len)).sum();
            self.told.sent(draft, self.counter);
            let answer = reaches.then(|| hq.take(base, self.counter, &changes, promised))?;
            let next = answers.then(|| self.told.answered(&answer))?;
            if next == Next::Rename {
                *hq = Hq { counter: 0, ..std::mem::take(hq) };
            }
            Some((next, more))
        }

        fn all(&mut self, hq: &mut Hq) -> usize {
            for pages in 1..200 {
                if self.page(hq, true, true) == Some((Next::Taken, false)) {
                    return pages;
                }
            }
            panic!("it never ends");
        }
    }

    #[test]
    fn a_large_site_is_told_in_pages_and_a_change_by_itself() {
        let (mut site, mut hq) = (Site::new(2_000), Hq::default());
        let pages = site.all(&mut hq);
        assert!((10..40).contains(&pages) && hq.state == site.state, "{pages}");
        site.state.insert("phone/020000000007".to_owned(), "{}".to_owned());
        site.state.remove("phone/020000000008");
        assert_eq!(site.all(&mut hq), 1);
        assert!(site.bytes < 64 && hq.state == site.state, "{}", site.bytes);
    }

    #[test]
    fn a_lost_answer_costs_one_page_and_a_lost_page_none() {
        let (mut site, mut hq) = (Site::new(300), Hq::default());
        site.all(&mut hq);
        site.state.insert("now".to_owned(), "1".to_owned());
        assert_eq!(site.page(&mut hq, true, false), None);
        site.state.insert("now".to_owned(), "2".to_owned());
        assert_eq!(site.page(&mut hq, true, true), Some((Next::Again, false)));
        assert_eq!((site.page(&mut hq, true, true), site.bytes), (Some((Next::Taken, false)), 4));
        assert_eq!(site.page(&mut hq, false, false), None);
        assert_eq!(site.page(&mut hq, true, true), Some((Next::Taken, false)));
        assert_eq!(hq.state, site.state);
    }

    #[test]
    fn a_restored_hq_and_a_site_that_forgot_are_told_everything_by_themselves() {
        let (mut site, mut hq) = (Site::new(300), Hq::default());
        site.all(&mut hq);
        let backup = Hq { counter: hq.counter, state: hq.state.clone() };
        site.state.insert("phone/020000000007".to_owned(), "{}".to_owned());
        site.all(&mut hq);
        hq = backup;
        assert!(site.all(&mut hq) < 6);
        assert_eq!(hq.state, site.state);
        site.told.forget();
        site.all(&mut hq);
        assert_eq!(hq.state, site.state);
        // The card of before is put back: the counter stands where it stood.
        site.counter = 1;
        site.told.forget();
        site.all(&mut hq);
        assert_eq!(hq.state, site.state);
    }

    #[test]
    fn whatever_is_lost_hq_ends_up_with_what_the_site_says() {
        let (mut site, mut hq, mut seed) = (Site::new(60), Hq::default(), 7_u64);
        let mut chance = |of: u64| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (seed >> 33) % of
        };
        for round in 0..2_000 {
            match chance(6) {
                0 => drop(site.state.remove(&format!("phone/0200{:08x}", chance(60)))),
                1 => site.told.forget(),
                2 if chance(20) == 0 => hq = Hq::default(),
                _ => drop(site.state.insert(format!("phone/0200{:08x}", chance(60)), round.to_string())),
            }
            site.page(&mut hq, chance(4) > 0, chance(4) > 0);
            if round % 50 == 0 {
                site.all(&mut hq);
                assert_eq!(hq.state, site.state, "round {round}");
            }
        }
    }
}
