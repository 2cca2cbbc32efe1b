//! The check-in's two ends: a report that fits, and an answer that is HQ's. Pure, but for `box_record`.
//!
//! An HQ that knows signed check-ins is told pages: `signed` makes the state of them, `told` knows which part of it HQ has,
//! `box_record` keeps name and counter over power cuts. Another one gets a [`body`] of format 1.

pub(crate) mod box_record;
mod signed;
pub(crate) mod told;

pub(crate) use signed::state;

use std::time::Duration;

use data_encoding::{HEXLOWER, HEXLOWER_PERMISSIVE};
use serde::de::DeserializeOwned;

use api::check_in::{ACKNOWLEDGEMENT_PURPOSE, Acknowledgement};
use api::{CheckIn, CheckInAnswer, MAX_BODY_BYTES, SignedTime};
use ids::{Digest, SiteId, UnixTime};
use tuf::PublicKey;
use tuf::schema::Root;

/// A site checks in at least this often, even when nothing has happened. HQ calls a site silent after an hour. A
/// check-in takes three times the bytes of an idle poll, and HQ keeps each.
pub const EVERY: Duration = Duration::from_secs(15 * 60);

/// The most phones of a body of format 1. All transfers are in the counters.
const BODY_PHONES: usize = 64;
/// The most alerts of a body of format 1.
pub(crate) const BODY_ALERTS: usize = 16;

/// What is new in a report, as a digest: that of 2,000 phones is not kept as a copy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct News(Digest);

/// The check-in that HQ answered last.
#[derive(Debug, Clone)]
pub struct LastCheckIn {
    /// [`news`] of its report.
    pub news: News,
    /// When it was sent, in monotonic time.
    pub at: Duration,
}

/// A report without what changes all the time: two with equal news tell people the same.
pub fn news(report: &CheckIn) -> News {
    let mut news = report.clone();
    (news.nonce, news.uptime_seconds, news.disk_free_bytes) = (String::new(), 0, 0);
    news.counters.clear();
    for phone in &mut news.phones {
        phone.last_seen = UnixTime(0);
    }
    news.phones.sort_by_key(|phone| phone.mac);
    for alert in &mut news.alerts {
        alert.count = 0;
    }
    let mut files: Vec<_> =
        report.files.iter().map(|(mac, file)| (mac, &file.name, &file.outcome, &file.fetched)).collect();
    files.sort();
    News(Digest::of(&serde_json::to_vec(&(news, files)).unwrap_or_default()))
}

/// Whether to check in after a poll: there is news, or HQ has not heard of us for [`EVERY`].
pub fn due(told: Option<&LastCheckIn>, news: &News, now: Duration) -> bool {
    told.is_none_or(|told| told.news != *news || now.saturating_sub(told.at) >= EVERY)
}

/// Why HQ's answer is not believed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AnswerError {
    /// Not what HQ sends.
    #[error("HQ's answer is malformed: {0}")]
    Malformed(String),
    /// No trusted `timestamp` key signed it.
    #[error("HQ's answer to the check-in is not signed by a trusted key")]
    Untrusted,
    /// It answers another site, or an older check-in.
    #[error("HQ's answer belongs to another check-in")]
    NotOurs,
    /// It takes no page of a check-in.
    #[error("HQ takes no page of the check-in")]
    TurnedAway,
    /// The system has no randomness for a nonce.
    #[error("the system has no randomness")]
    NoRandomness,
}

/// A random nonce: 16 bytes in hex. `None` if the system has no randomness to give.
pub fn nonce() -> Option<String> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).ok()?;
    Some(HEXLOWER.encode(&bytes))
}

/// The report as a body of format 1: JSON of at most [`MAX_BODY_BYTES`]. A report that is too long loses phones first, the least recent
/// before the others, then alerts, DHCP servers and counters.
pub fn body(mut report: CheckIn) -> Vec<u8> {
    report.reason = report.reason.chars().take(512).collect();
    report.phones.truncate(BODY_PHONES);
    report.alerts.truncate(BODY_ALERTS);
    loop {
        let json = serde_json::to_vec(&report).unwrap_or_default();
        if json.len() <= MAX_BODY_BYTES {
            return json;
        }
        let less = |length: usize| length - length.div_ceil(8);
        if !report.phones.is_empty() {
            report.phones.truncate(less(report.phones.len()));
        } else if !report.alerts.is_empty() {
            report.alerts.truncate(less(report.alerts.len()));
        } else if !report.dhcp_servers.is_empty() {
            report.dhcp_servers.truncate(less(report.dhcp_servers.len()));
        } else if !report.counters.is_empty() {
            let keep = less(report.counters.len());
            report.counters = report.counters.into_iter().take(keep).collect();
        } else {
            // Nothing else can grow beyond a kilobyte; a report without lists says at least who is alive.
            let CheckIn { generation, nonce, .. } = report;
            report = CheckIn { generation, nonce, ..CheckIn::default() };
        }
    }
}

/// What HQ vouches for, if a `timestamp` key of the trusted root signed exactly this answer to this nonce.
pub fn verify(answer: &[u8], root: &Root, site: &SiteId, nonce: &str) -> Result<SignedTime, AnswerError> {
    let time: SignedTime = signed_by_hq(answer, root)?;
    if time.purpose == "check-in" && time.site == *site && time.nonce == nonce {
        Ok(time)
    } else {
        Err(AnswerError::NotOurs)
    }
}

/// [`verify`] for the answer to a page.
pub(crate) fn verify_page(
    answer: &[u8],
    root: &Root,
    site: &SiteId,
    nonce: &str,
) -> Result<Acknowledgement, AnswerError> {
    let answer: Acknowledgement = signed_by_hq(answer, root)?;
    if answer.purpose == ACKNOWLEDGEMENT_PURPOSE && answer.site == *site && answer.nonce == nonce {
        Ok(answer)
    } else {
        Err(AnswerError::NotOurs)
    }
}

fn signed_by_hq<T: DeserializeOwned>(answer: &[u8], root: &Root) -> Result<T, AnswerError> {
    let malformed = |error: serde_json::Error| AnswerError::Malformed(error.to_string());
    let answer: CheckInAnswer = serde_json::from_slice(answer).map_err(malformed)?;
    let signature = HEXLOWER_PERMISSIVE
        .decode(answer.signature.as_bytes())
        .map_err(|_| AnswerError::Malformed("the signature is not hex".to_owned()))?;
    if !timestamp_keys(root).iter().any(|key| key.verifies(answer.signed.as_bytes(), &signature)) {
        return Err(AnswerError::Untrusted);
    }
    serde_json::from_str(&answer.signed).map_err(malformed)
}

fn timestamp_keys(root: &Root) -> Vec<PublicKey> {
    let ids = root.roles.get("timestamp").map(|role| role.keyids.as_slice()).unwrap_or_default();
    ids.iter().filter_map(|id| PublicKey::from_json(id, root.keys.get(id)?)).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use api::{Alert, PhoneSeen};
    use ids::{Generation, MacAddr};

    fn phone(number: u64) -> PhoneSeen {
        let mac: MacAddr = format!("0200{:08x}", number).parse().unwrap();
        PhoneSeen {
            mac,
            known: true,
            last_seen: UnixTime(1_800_000_000),
            file: "SEP001122334455.cnf.xml".to_owned(),
            outcome: "delivered".to_owned(),
            bytes: 4711,
            retransmissions: 0,
            milliseconds: 12,
            generation: Generation(3),
        }
    }

    #[test]
    fn a_report_of_many_phones_fits_and_keeps_the_most_recent() {
        let phones: Vec<PhoneSeen> = (0..5_000).map(phone).collect();
        let alert = Alert { code: "scan".into(), text: "x".into(), since: UnixTime(0), count: 1 };
        let report = CheckIn { phones, alerts: vec![alert], nonce: "ab".into(), ..CheckIn::default() };
        let json = body(report);
        assert!(json.len() <= MAX_BODY_BYTES && json.len() > MAX_BODY_BYTES * 3 / 4, "{}", json.len());
        let back: CheckIn = serde_json::from_slice(&json).unwrap();
        assert_eq!(back.phones.first(), Some(&phone(0)));
        assert_eq!((back.alerts.len(), back.nonce.as_str()), (1, "ab"));
    }

    #[test]
    fn a_report_of_nothing_but_long_text_still_fits() {
        let report = CheckIn { version: "v".repeat(40_000), generation: Generation(7), ..CheckIn::default() };
        let back: CheckIn = serde_json::from_slice(&body(report)).unwrap();
        assert_eq!(back.generation, Generation(7));
        let alert = Alert { code: "a".into(), text: "t".repeat(20_000), since: UnixTime(0), count: 1 };
        assert!(body(CheckIn { alerts: vec![alert; 3], ..CheckIn::default() }).len() <= MAX_BODY_BYTES);
    }

    #[test]
    fn only_news_or_time_call_for_a_check_in() {
        let report = CheckIn { phones: vec![phone(1), phone(2)], uptime_seconds: 5, ..CheckIn::default() };
        let minutes = |minutes: u64| Duration::from_secs(60 * minutes);
        let told = LastCheckIn { news: news(&report), at: minutes(10) };
        assert!(due(None, &told.news, minutes(10)));
        let mut later = report.clone();
        (later.uptime_seconds, later.disk_free_bytes, later.nonce) = (905, 7, "ab".into());
        later.counters.insert("update.poll-ok".into(), 3);
        later.phones = vec![PhoneSeen { last_seen: UnixTime(1_900_000_000), ..phone(2) }, phone(1)];
        assert!(!due(Some(&told), &news(&later), minutes(24)));
        assert!(due(Some(&told), &news(&later), minutes(25)));
        for changed in [
            CheckIn { generation: Generation(2), ..report.clone() },
            CheckIn { state: "stale".into(), ..report.clone() },
            CheckIn { phones: vec![phone(1), PhoneSeen { outcome: "timed-out".into(), ..phone(2) }], ..report.clone() },
            CheckIn { phones: vec![phone(1), phone(2), phone(3)], ..report.clone() },
        ] {
            assert!(due(Some(&told), &news(&changed), minutes(11)), "{changed:?}");
        }
    }

    #[test]
    fn nonces_differ() {
        let (one, two) = (nonce().unwrap(), nonce().unwrap());
        assert_eq!(one.len(), 32);
        assert_ne!(one, two);
    }
}
