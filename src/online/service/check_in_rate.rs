//! How often a site may check in. Each check-in is a write that waits for the disk, and all sites share one disk.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use ids::{Rate, SiteId, TokenBucket};

/// The average time between two check-ins of a site. Sites poll every 5 minutes; a test set-up may be quicker.
const INTERVAL: Duration = Duration::from_secs(2);
/// How many check-ins may come at once after a quiet time.
const BURST: u32 = 30;
/// The token bucket of each site.
const RATE: Rate = Rate::one_in(INTERVAL).with_burst(BURST);

/// The token buckets of all sites that checked in lately. Only enrolled sites get here, so their number is bounded, and
/// full buckets are dropped.
#[derive(Debug, Default)]
pub(super) struct CheckInRate {
    sites: HashMap<SiteId, TokenBucket>,
}

impl CheckInRate {
    /// Counts a check-in of this site. `Err` refuses it and says after how long the next one is allowed.
    pub(super) fn take(&mut self, site: &SiteId, now: Instant) -> Result<(), Duration> {
        let mut bucket = self.sites.get(site).copied().unwrap_or_default();
        bucket.take(RATE, now)?;
        if self.sites.len() > 4096 {
            self.sites.retain(|_, bucket| !bucket.is_full(now));
        }
        self.sites.insert(site.clone(), bucket);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_passes_then_the_rate_holds_and_others_are_not_touched() {
        let (site, other): (SiteId, SiteId) = ("s-1".parse().expect("an id"), "s-2".parse().expect("an id"));
        let (mut rate, start) = (CheckInRate::default(), Instant::now());
        for _ in 0..BURST {
            assert_eq!(rate.take(&site, start), Ok(()));
        }
        assert_eq!(rate.take(&site, start), Err(INTERVAL));
        assert_eq!(rate.take(&other, start), Ok(()));
        assert_eq!(rate.take(&site, start + INTERVAL), Ok(()));
        assert!(rate.take(&site, start + INTERVAL).is_err());
        let later = start + INTERVAL * (BURST * 2);
        assert!((0..BURST).all(|_| rate.take(&site, later).is_ok()));
    }
}
