//! How often a site may check in: each check-in is a write that waits for the disk, and all sites share one.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use ids::SiteId;

/// One check-in in so long, on average. Sites poll every 5 minutes; a test set-up may be quicker.
const INTERVAL: Duration = Duration::from_secs(2);
/// So many may come at once after a quiet time.
const BURST: u32 = 30;

/// Remembers each site's pace (the generic cell rate algorithm, ITU-T I.371). Sites are those that enrolled, so it is
/// bounded; what is in order again is forgotten.
#[derive(Debug, Default)]
pub(super) struct Pace {
    due: HashMap<SiteId, Instant>,
}

impl Pace {
    /// Takes one, or says after how long the next is welcome.
    pub(super) fn take(&mut self, site: &SiteId, now: Instant) -> Result<(), Duration> {
        let ahead = INTERVAL.saturating_mul(BURST.saturating_sub(1));
        let due = self.due.get(site).copied().filter(|due| *due > now).unwrap_or(now);
        let early = due.duration_since(now);
        if early > ahead {
            return Err(early - ahead);
        }
        if self.due.len() > 4096 {
            self.due.retain(|_, due| *due > now);
        }
        self.due.insert(site.clone(), due + INTERVAL);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_passes_then_the_pace_holds_and_others_are_not_touched() {
        let (site, other): (SiteId, SiteId) = ("s-1".parse().expect("an id"), "s-2".parse().expect("an id"));
        let (mut pace, start) = (Pace::default(), Instant::now());
        for _ in 0..BURST {
            assert_eq!(pace.take(&site, start), Ok(()));
        }
        assert_eq!(pace.take(&site, start), Err(INTERVAL));
        assert_eq!(pace.take(&other, start), Ok(()));
        assert_eq!(pace.take(&site, start + INTERVAL), Ok(()));
        assert!(pace.take(&site, start + INTERVAL).is_err());
        let later = start + INTERVAL * (BURST * 2);
        assert!((0..BURST).all(|_| pace.take(&site, later).is_ok()));
    }
}
