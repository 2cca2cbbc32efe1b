//! Decisions of a poll as pure functions: where things are, what to fetch in which order, and when.

use std::collections::BTreeSet;
use std::time::Duration;

use api::{RENEW_AFTER_DAYS, RENEWABLE_DAYS};
use bundle::ObjectRef;
use ids::{Digest, SiteId, UnixTime};

/// A poll looks at the root chain and all metadata this often, even if the timestamp does not change.
pub const FULL_REFRESH_EVERY: Duration = Duration::from_secs(24 * 60 * 60);
/// A renewal that failed is tried again after so long.
pub const RENEW_RETRY: Duration = Duration::from_secs(60 * 60);
/// So many rejected generations are remembered, the newest ones.
pub const MAX_REJECTED: usize = 16;

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// The URL of a site's metadata, with a slash at the end.
pub fn metadata_url(repository: &str, site: &SiteId) -> String {
    format!("{repository}/sites/{site}/metadata/")
}

/// The URL of a site's sealed manifest.
pub fn manifest_url(repository: &str, site: &SiteId, sha256: &Digest) -> String {
    format!("{repository}/sites/{site}/targets/{sha256}.manifest")
}

/// The URL of an object.
pub fn object_url(repository: &str, digest: &Digest) -> String {
    let name = digest.to_string();
    format!("{repository}/objects/{}/{name}", name.get(..2).unwrap_or_default())
}

/// The objects that are not here, each once, small ones first: a release with one big image shows early whether
/// everything else can be had, and after a cut the small ones are not fetched again.
pub fn missing(objects: impl IntoIterator<Item = ObjectRef>, has: impl Fn(&Digest, u64) -> bool) -> Vec<(Digest, u64)> {
    let distinct: BTreeSet<(u64, Digest)> = objects.into_iter().map(|object| (object.bytes, object.digest)).collect();
    distinct.into_iter().filter(|(bytes, digest)| !has(digest, *bytes)).map(|(bytes, digest)| (digest, bytes)).collect()
}

/// The size of all these objects in bytes.
pub fn total(objects: &[(Digest, u64)]) -> u64 {
    objects.iter().fold(0, |sum, (_, bytes)| sum.saturating_add(*bytes))
}

/// Whether a release may be activated now: there is no window, or `now` is inside it. A window is from and until in
/// minutes of the day (UTC), and may lie across midnight.
pub fn may_activate(window: Option<(u16, u16)>, now: UnixTime) -> bool {
    let Some((from, until)) = window else { return true };
    let minute = now.0.rem_euclid(86_400) / 60;
    let (from, until) = (i64::from(from), i64::from(until));
    if from <= until { (from..until).contains(&minute) } else { minute >= from || minute < until }
}

/// Whether to ask for a new certificate now.
///
/// It is time from 60 days after the certificate began until 400 days after it ended. It is also time whenever HQ
/// `refused` us in a way that a new one may mend, because our clock may be behind. The next try comes at least
/// [`RENEW_RETRY`] after the last, which was `last` ago.
pub fn renewal_due(valid: (UnixTime, UnixTime), now: UnixTime, refused: bool, last: Option<Duration>) -> bool {
    let (begins, ends) = valid;
    let old = now >= begins.plus(DAY * RENEW_AFTER_DAYS) && now <= ends.plus(DAY * RENEWABLE_DAYS);
    (old || refused) && last.is_none_or(|since| since >= RENEW_RETRY)
}

/// Adds a generation to the rejected ones, of which the newest [`MAX_REJECTED`] stay.
pub fn reject(rejected: &mut Vec<ids::Generation>, generation: ids::Generation) {
    if !rejected.contains(&generation) {
        rejected.push(generation);
    }
    rejected.sort_unstable();
    let excess = rejected.len().saturating_sub(MAX_REJECTED);
    rejected.drain(..excess);
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use bundle::{ContentKey, Packing};
    use ids::Generation;

    fn object(name: &str, bytes: u64) -> ObjectRef {
        let key = ContentKey::from_bytes([0; 32]);
        ObjectRef { digest: Digest::of(name.as_bytes()), bytes, key, packing: Packing::Plain, clear_bytes: bytes }
    }

    #[test]
    fn addresses_are_those_of_the_published_tree() {
        let site: SiteId = "s-1".parse().unwrap();
        let digest = Digest::of(b"");
        assert_eq!(metadata_url("https://hq", &site), "https://hq/sites/s-1/metadata/");
        assert_eq!(
            manifest_url("https://hq", &site, &digest),
            format!("https://hq/sites/s-1/targets/{digest}.manifest")
        );
        assert_eq!(object_url("https://cdn/x", &digest), format!("https://cdn/x/objects/e3/{digest}"));
    }

    #[test]
    fn what_is_missing_is_fetched_once_and_small_first() {
        let (big, small, here) = (object("big", 900), object("small", 10), object("here", 5));
        let here_digest = here.digest;
        let wanted = missing([big.clone(), small.clone(), big.clone(), here], |digest, _| *digest == here_digest);
        assert_eq!(wanted, [(small.digest, 10), (big.digest, 900)]);
        assert_eq!(total(&wanted), 910);
        assert_eq!(total(&[(big.digest, u64::MAX), (small.digest, 9)]), u64::MAX);
    }

    #[test]
    fn a_window_may_lie_across_midnight() {
        let at = |hour: i64, minute: i64| UnixTime(1_800_000_000 / 86_400 * 86_400 + hour * 3600 + minute * 60);
        assert!(may_activate(None, at(12, 0)));
        let day = Some((8 * 60, 17 * 60));
        assert!(may_activate(day, at(8, 0)) && may_activate(day, at(16, 59)));
        assert!(!may_activate(day, at(17, 0)) && !may_activate(day, at(7, 59)));
        let night = Some((22 * 60, 5 * 60));
        assert!(may_activate(night, at(23, 30)) && may_activate(night, at(4, 59)));
        assert!(!may_activate(night, at(5, 0)) && !may_activate(night, at(21, 59)));
    }

    #[test]
    fn a_certificate_is_renewed_from_the_sixtieth_day_until_long_after_it_expired() {
        let day = |days: i64| UnixTime(1_800_000_000 + days * 86_400);
        let due = |now, refused, last| renewal_due((day(0), day(90)), now, refused, last);
        assert!(!due(day(59), false, None));
        assert!(due(day(60), false, None));
        assert!(due(day(90 + 400), false, None));
        assert!(!due(day(90 + 401), false, None));
        // Not at every poll.
        assert!(!due(day(61), false, Some(Duration::from_secs(300))));
        assert!(due(day(61), false, Some(RENEW_RETRY)));
        // HQ refuses us and our clock may be behind.
        assert!(due(day(1), true, None));
    }

    #[test]
    fn the_list_of_rejected_generations_stays_short_and_keeps_the_newest() {
        let mut rejected = Vec::new();
        for generation in (1..=40).chain([40, 3]) {
            reject(&mut rejected, Generation(generation));
        }
        assert_eq!(rejected.len(), MAX_REJECTED);
        assert_eq!(rejected.last(), Some(&Generation(40)));
    }
}
