//! How often a site may check in: each check-in is a write that waits for the disk, and all sites share one.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use ids::{Rate, SiteId, TokenBucket};

/// One check-in in so long, on average. Sites poll every 5 minutes; a test set-up may be quicker.
const INTERVAL: Duration = Duration::from_secs(2);
/// So many may come at once after a quiet time.
const BURST: u32 = 30;
/// Both.
const RATE: Rate = Rate::one_in(INTERVAL).with_burst(BURST);

/// Remembers what each site may do yet. Sites are those that enrolled, so it is bounded; what is in order again is
/// forgotten.
#[derive(Debug, Default)]
pub(super) struct CheckInRate {
    sites: HashMap<SiteId, TokenBucket>,
}

impl CheckInRate {
    /// Takes one, or says after how long the next is welcome.
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
