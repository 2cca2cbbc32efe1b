//! What one server has answered us, by the kind of the answer, and whether two servers answer alike. Pure.
//!
//! An OFFER holds the terms of a lease. The ACK to a DHCPINFORM holds none (RFC 2131 §4.3.5), and of a pair in failover one
//! server may give us nothing else. So only answers of one kind are compared, and each is replaced by the next of its kind:
//! both answer questions that ask for all options, so that what an answer lacks is no longer handed out.

use super::other_server::seconds_in_words;
use crate::heard::{LeaseTerms, Overheard, TftpPointer};

/// So many OFFERs without an answer to the DHCPINFORMs that were sent with their questions, and the server does not answer
/// DHCPINFORM any more.
const OFFERS_WITHOUT_INFORM: u8 = 3;

/// The last answer of each kind.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Answers {
    /// An OFFER.
    offer: Option<Said>,
    /// The answer to a DHCPINFORM.
    inform: Option<Said>,
    /// The OFFERs since that answer.
    offers: u8,
}

/// What an answer hands out.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Said {
    pub(super) tftp: Vec<String>,
    pub(super) pointers: Vec<TftpPointer>,
    pub(super) terms: LeaseTerms,
}

/// A term, and what each of two servers says of it.
type Difference = (&'static str, String, String);

impl Answers {
    /// Another answer. A NAK says nothing.
    pub(super) fn learn(&mut self, overheard: &Overheard) {
        let Some(terms) = overheard.terms.clone().or_else(|| (!overheard.nak).then(LeaseTerms::default)) else {
            return;
        };
        let mut said = Said { tftp: overheard.tftp.clone(), pointers: overheard.pointers.clone(), terms };
        if overheard.informed {
            (said.terms.lease_seconds, said.terms.renew_seconds, said.terms.rebind_seconds) = (None, None, None);
            (self.inform, self.offers) = (Some(said), 0);
            return;
        }
        self.offer = Some(said);
        // As a relay agent nobody asks with DHCPINFORM.
        self.offers = self.offers.saturating_add(u8::from(!overheard.relayed));
        self.inform = self.inform.take().filter(|_| self.offers < OFFERS_WITHOUT_INFORM);
    }

    /// All that is handed out. What a lease has goes before what is told to whom has an address.
    pub(super) fn all(&self) -> Said {
        let Some(inform) = &self.inform else { return self.offer.clone().unwrap_or_default() };
        let Some(offer) = &self.offer else { return inform.clone() };
        let mut all = inform.clone();
        all.terms.learn(&offer.terms);
        if !offer.pointers.is_empty() || !offer.tftp.is_empty() {
            (all.tftp, all.pointers) = (offer.tftp.clone(), offer.pointers.clone());
        }
        all
    }

    /// The answers of one kind that both have given.
    fn like<'a>(&'a self, other: &'a Self) -> Option<(&'a Said, &'a Said)> {
        let both = |mine: &'a Option<Said>, theirs: &'a Option<Said>| mine.as_ref().zip(theirs.as_ref());
        both(&self.offer, &other.offer).or_else(|| both(&self.inform, &other.inform))
    }

    /// Whether both have given answers of one kind that say something.
    pub(super) fn has_like(&self, other: &Self) -> bool {
        self.like(other).is_some_and(|(mine, _)| *mine != Said::default())
    }

    /// What the two servers do not agree in. Of answers of different kinds only what both hold can be compared.
    pub(super) fn differences(&self, other: &Self) -> Vec<Difference> {
        match self.like(other) {
            Some((mine, theirs)) => mine.differences(theirs),
            None => {
                let mut differences = self.all().differences(&other.all());
                differences.retain(|(_, mine, theirs)| mine != NONE && theirs != NONE);
                differences
            }
        }
    }
}

/// The words for a term that an answer lacks.
const NONE: &str = "none";

impl Said {
    fn differences(&self, other: &Self) -> Vec<Difference> {
        let list = |addresses: &[std::net::Ipv4Addr]| sorted(addresses.iter().map(ToString::to_string).collect());
        let tftp =
            |said: &Self| sorted(said.pointers.iter().map(|it| format!("{}={}", it.option, it.server)).collect());
        let text = |text: &str| if text.is_empty() { NONE.to_owned() } else { text.to_owned() };
        let mask = |said: &Self| said.terms.mask.map_or_else(|| NONE.to_owned(), |mask| mask.to_string());
        let (a, b) = (&self.terms, &other.terms);
        let mut differences = vec![
            ("router", list(&a.routers), list(&b.routers)),
            ("TFTP server", tftp(self), tftp(other)),
            ("mask", mask(self), mask(other)),
            ("DNS", list(&a.dns), list(&b.dns)),
            ("domain", text(&a.domain), text(&b.domain)),
            ("NTP", list(&a.ntp), list(&b.ntp)),
        ];
        if !have_like_times(a.lease_seconds, b.lease_seconds) {
            differences.push(("lease time", seconds_in_words(a.lease_seconds), seconds_in_words(b.lease_seconds)));
        }
        differences.retain(|(_, mine, theirs)| mine != theirs);
        differences
    }
}

/// Whether two lease times can be of servers that agree. One of a pair may know of less time: a lease that runs is offered
/// for what is left of it, and a partner in failover gives a short one first. Who says none does not contradict.
fn have_like_times(a: Option<u32>, b: Option<u32>) -> bool {
    let (shorter, longer) = (a.min(b), a.max(b));
    match (shorter, longer) {
        (Some(shorter), Some(longer)) => shorter >= longer / 2,
        (None, _) | (_, None) => true,
    }
}

fn sorted(mut texts: Vec<String>) -> String {
    texts.sort();
    if texts.is_empty() { NONE.to_owned() } else { texts.join(", ") }
}
