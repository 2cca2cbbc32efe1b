//! When to poll next: a pure function, so that a hundred thousand sites do not come back in the same second.

use std::time::Duration;

use ids::{Digest, SiteId, UnixTime};

/// Failures never make the wait longer than this.
pub const MAX_BACKOFF: Duration = Duration::from_secs(30 * 60);
/// The first step after a failure.
const FIRST_BACKOFF: Duration = Duration::from_secs(15);
/// The shortest wait after a failure.
const MIN_BACKOFF: Duration = Duration::from_secs(1);
/// A `Retry-After` beyond this is not believed.
pub const MAX_RETRY_AFTER: Duration = Duration::from_secs(6 * 60 * 60);
/// Sites that hear the same `Retry-After` come back spread over so much time.
const RETRY_AFTER_SPREAD: Duration = Duration::from_secs(60);

/// The interval between polls if neither the settings nor the release name one.
pub const DEFAULT_POLL: Duration = Duration::from_secs(300);
/// The shortest and longest interval that settings may ask for.
pub const POLL_BOUNDS: (Duration, Duration) = (Duration::from_secs(60), Duration::from_secs(86_400));

/// The interval between polls: what the release asks for in seconds, within [`POLL_BOUNDS`], else the setting.
pub fn interval(signed: Option<u32>, setting: Duration) -> Duration {
    let (least, most) = POLL_BOUNDS;
    signed.map_or(setting, |seconds| Duration::from_secs(seconds.into()).clamp(least, most))
}

/// How long to wait for the next poll.
///
/// After `failures` failed polls in a row: exponential from 15 s, capped at [`MAX_BACKOFF`], then full jitter by
/// `random` (0 up to 1), so that the cap does not line sites up. After a good one (0 failures): until the next
/// moment of this site's phase. In both cases the wait is at least `retry_after`.
pub fn next_poll(
    interval: Duration,
    site: &SiteId,
    now: UnixTime,
    failures: u32,
    retry_after: Option<Duration>,
    random: f64,
) -> Duration {
    let random = if random.is_nan() { 0.5 } else { random.clamp(0.0, 1.0) };
    let wait = if failures == 0 {
        until_phase(interval, site, now)
    } else {
        let doubled = 2_u32.saturating_pow(failures.saturating_sub(1).min(16));
        FIRST_BACKOFF.saturating_mul(doubled).min(MAX_BACKOFF).mul_f64(random).max(MIN_BACKOFF)
    };
    match retry_after {
        Some(asked) => wait.max(asked.min(MAX_RETRY_AFTER) + RETRY_AFTER_SPREAD.mul_f64(random)),
        None => wait,
    }
}

/// The time until the next moment whose remainder by `interval` is this site's own: regular, and spread evenly over
/// sites whatever started them all at once. At least a second.
fn until_phase(interval: Duration, site: &SiteId, now: UnixTime) -> Duration {
    let seconds = i64::try_from(interval.as_secs()).unwrap_or(i64::MAX).max(1);
    let hash = Digest::of(site.as_str().as_bytes());
    let hash = hash.as_bytes().iter().take(7).fold(0_i64, |sum, byte| (sum << 8) | i64::from(*byte));
    let wait = (hash % seconds).saturating_sub(now.0.rem_euclid(seconds)).rem_euclid(seconds);
    Duration::from_secs(u64::try_from(if wait == 0 { seconds } else { wait }).unwrap_or(1))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]
    use super::*;

    fn site(name: &str) -> SiteId {
        name.parse().unwrap()
    }

    fn failed(failures: u32, random: f64) -> Duration {
        next_poll(DEFAULT_POLL, &site("s-1"), UnixTime(1_800_000_000), failures, None, random)
    }

    #[test]
    fn the_release_sets_the_interval_within_bounds() {
        let setting = Duration::from_secs(7);
        let seconds = |signed| interval(signed, setting).as_secs();
        assert_eq!([None, Some(1), Some(600), Some(u32::MAX)].map(seconds), [7, 60, 600, 86_400]);
    }

    #[test]
    fn failures_double_the_wait_up_to_the_cap() {
        let waits: Vec<u64> = (1..=10).map(|failures| failed(failures, 1.0).as_secs()).collect();
        assert_eq!(waits, [15, 30, 60, 120, 240, 480, 960, 1800, 1800, 1800]);
        assert_eq!(failed(u32::MAX, 1.0), MAX_BACKOFF);
    }

    #[test]
    fn jitter_is_applied_after_the_cap() {
        assert_eq!(failed(20, 0.5), MAX_BACKOFF / 2);
        assert_eq!(failed(20, 0.0), MIN_BACKOFF);
        assert_eq!(failed(20, f64::NAN), MAX_BACKOFF / 2);
    }

    #[test]
    fn retry_after_is_a_lower_bound_that_is_spread_and_bounded() {
        let wait = |asked: u64, random| {
            let asked = Some(Duration::from_secs(asked));
            next_poll(DEFAULT_POLL, &site("s-1"), UnixTime(0), 1, asked, random).as_secs()
        };
        assert_eq!(wait(120, 0.0), 120);
        assert_eq!(wait(120, 0.5), 150);
        assert_eq!(wait(u64::MAX, 0.0), MAX_RETRY_AFTER.as_secs());
    }

    #[test]
    fn a_site_polls_once_an_interval_at_its_own_phase() {
        let mut now = UnixTime(1_800_000_123);
        let mut moments = Vec::new();
        for _ in 0..4 {
            now = now.plus(next_poll(DEFAULT_POLL, &site("s-1"), now, 0, None, 0.3));
            moments.push(now.0.rem_euclid(300));
        }
        assert!(moments.iter().all(|phase| *phase == moments[0]), "{moments:?}");
    }

    #[test]
    fn sites_that_start_together_spread_over_the_interval() {
        let mut buckets = [0_u32; 10];
        for number in 0..1_000 {
            let wait = next_poll(DEFAULT_POLL, &site(&format!("s-{number}")), UnixTime(1_800_000_000), 0, None, 0.0);
            assert!(wait <= DEFAULT_POLL && wait >= Duration::from_secs(1));
            buckets[usize::try_from((wait.as_secs() - 1) / 30).unwrap()] += 1;
        }
        assert!(buckets.iter().all(|count| (60..=140).contains(count)), "{buckets:?}");
    }
}
