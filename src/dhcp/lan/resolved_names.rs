//! What the names that servers hand out mean, by this machine's resolver. Pure.
//!
//! A router may point phones to a name. Only the resolver knows whether that is this machine. Any device can answer as a
//! server and hand out names, so few are looked up, one after the other, and each answer counts for a while.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::time::Duration;

use crate::heard::{Host, TftpPointer};
use ids::UnixTime;

/// The most names that are looked up.
const MAX_NAMES: usize = 8;
/// The most addresses of a name that are remembered.
const MAX_ADDRESSES: usize = 8;
/// How long an answer counts. Then the name is looked up again: it may move to another machine.
const ANSWER_VALID: Duration = Duration::from_secs(600);
/// How soon a name that was not found is looked up again.
const NOT_FOUND_VALID: Duration = Duration::from_secs(60);

/// The names, and what is known of each.
#[derive(Debug, Default)]
pub(super) struct ResolvedNames(BTreeMap<String, Answer>);

#[derive(Debug)]
struct Answer {
    /// The addresses of the last lookup that found some.
    addresses: Vec<Ipv4Addr>,
    /// When the name was last looked up, and whether it was found then.
    asked: UnixTime,
    found: bool,
}

impl ResolvedNames {
    /// The next of these names to look up, if one is due.
    pub(super) fn due(&self, names: &BTreeSet<&str>, now: UnixTime) -> Option<String> {
        let is_due = |name: &&&str| match self.0.get(**name) {
            None => self.0.len() < MAX_NAMES,
            Some(answer) => now.since(answer.asked) >= if answer.found { ANSWER_VALID } else { NOT_FOUND_VALID },
        };
        names.iter().find(is_due).map(|name| (*name).to_owned())
    }

    /// A name was looked up. Says whether what it means has changed. A name that is not found for the moment, because the
    /// resolver is away, goes on to mean what it meant.
    pub(super) fn learn(&mut self, name: &str, mut addresses: Vec<Ipv4Addr>, now: UnixTime) -> bool {
        if self.0.len() >= MAX_NAMES && !self.0.contains_key(name) {
            return false;
        }
        addresses.truncate(MAX_ADDRESSES);
        let found = !addresses.is_empty();
        let answer = self.0.entry(name.to_owned());
        let answer = answer.or_insert(Answer { addresses: Vec::new(), asked: now, found });
        (answer.asked, answer.found) = (now, found);
        // Resolvers turn the order of the addresses round.
        let (before, after): (BTreeSet<_>, BTreeSet<_>) =
            (answer.addresses.iter().collect(), addresses.iter().collect());
        let is_new = found && before != after;
        if is_new {
            answer.addresses = addresses;
        }
        is_new
    }

    /// Forgets names that are not among these.
    pub(super) fn retain(&mut self, names: &BTreeSet<String>) {
        self.0.retain(|name, _| names.contains(name));
    }

    /// The pointers, with the address of each name that is known: that of a TFTP server of ours, if it has one.
    pub(super) fn resolve(&self, pointers: &mut [TftpPointer], ours: &[Ipv4Addr]) {
        for pointer in pointers {
            let Host::Name(name) = &pointer.server else { continue };
            let Some(answer) = self.0.get(name) else { continue };
            let own = answer.addresses.iter().find(|address| ours.contains(address));
            if let Some(address) = own.or(answer.addresses.first()) {
                pointer.server = Host::Resolved(name.clone(), *address);
            }
        }
    }

    /// The names that are known to be one of these machines.
    pub(super) fn of(&self, ours: &[Ipv4Addr]) -> Vec<String> {
        let is_ours = |answer: &Answer| answer.addresses.iter().any(|address| ours.contains(address));
        self.0.iter().filter(|(_, answer)| is_ours(answer)).map(|(name, _)| name.clone()).collect()
    }

    /// When each name was last looked up, to follow the system clock.
    pub(super) fn times(&mut self) -> impl Iterator<Item = &mut UnixTime> {
        self.0.values_mut().map(|answer| &mut answer.asked)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const OURS: Ipv4Addr = Ipv4Addr::new(192, 168, 1, 2);
    const OTHER: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 9);
    const NOW: UnixTime = UnixTime(1_000_000);

    #[test]
    fn a_name_is_looked_up_once_in_a_while_and_means_what_it_meant_while_the_resolver_is_away() {
        let mut names = ResolvedNames::default();
        let named = BTreeSet::from(["pbx.lan"]);
        assert_eq!(names.due(&named, NOW).as_deref(), Some("pbx.lan"));
        assert!(names.learn("pbx.lan", vec![OTHER, OURS], NOW));
        assert!(!names.learn("pbx.lan", vec![OURS, OTHER], NOW), "the order means nothing");
        assert_eq!(names.due(&named, NOW.plus(ANSWER_VALID - Duration::from_secs(1))), None);
        let later = NOW.plus(ANSWER_VALID);
        assert!(names.due(&named, later).is_some());
        assert!(!names.learn("pbx.lan", vec![], later));
        assert_eq!(meaning(&names), Host::Resolved("pbx.lan".to_owned(), OURS), "ours counts before others");
        assert_eq!(names.due(&named, later.plus(NOT_FOUND_VALID)).as_deref(), Some("pbx.lan"));
        assert!(names.learn("pbx.lan", vec![OTHER], later));
        assert_eq!((meaning(&names), names.of(&[OURS])), (Host::Resolved("pbx.lan".to_owned(), OTHER), vec![]));
        names.retain(&BTreeSet::new());
        assert_eq!(meaning(&names), Host::Name("pbx.lan".to_owned()));
    }

    #[test]
    fn whoever_hands_out_names_without_end_makes_few_lookups() {
        let mut names = ResolvedNames::default();
        let all: Vec<String> = (0..1000).map(|number| format!("h{number}.lan")).collect();
        let named: BTreeSet<&str> = all.iter().map(String::as_str).collect();
        let mut asked = 0;
        while let Some(name) = names.due(&named, NOW) {
            names.learn(&name, vec![OTHER; 1000], NOW);
            asked += 1;
        }
        assert_eq!(asked, MAX_NAMES);
        assert!(names.0.values().all(|answer| answer.addresses.len() <= MAX_ADDRESSES));
    }

    fn meaning(names: &ResolvedNames) -> Host {
        let mut pointers = TftpPointer::of_text(66, "pbx.lan");
        names.resolve(&mut pointers, &[OURS]);
        pointers.first().unwrap().server.clone()
    }
}
