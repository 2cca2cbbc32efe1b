//! How often something may be done. Pure.

use std::time::Instant;

/// So many each second, so many at once.
#[derive(Debug)]
pub(super) struct TokenBucket {
    each_second: f64,
    most: f64,
    left: f64,
    at: Instant,
}

impl TokenBucket {
    pub(super) const fn new((each_second, most): (f64, f64), at: Instant) -> Self {
        Self { each_second, most, left: most, at }
    }

    pub(super) fn take(&mut self, now: Instant) -> bool {
        let passed = now.saturating_duration_since(self.at).as_secs_f64();
        self.at = now;
        self.left = (self.left + passed * self.each_second).min(self.most);
        let room = self.left >= 1.0;
        self.left -= if room { 1.0 } else { 0.0 };
        room
    }
}
