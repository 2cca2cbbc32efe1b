//! A token bucket: a rate, and how much may come at once. Pure.

use std::time::Instant;

/// Tokens flow in at a rate and do not rise over a limit; whatever is done takes one.
#[derive(Debug)]
pub(super) struct TokenBucket {
    each_second: f64,
    most: f64,
    left: f64,
    at: Instant,
}

impl TokenBucket {
    /// A full bucket: so many tokens each second, and so many at most.
    pub(super) const fn new((each_second, most): (f64, f64), at: Instant) -> Self {
        Self { each_second, most, left: most, at }
    }

    /// Takes a token. Says whether there was one.
    pub(super) fn take(&mut self, now: Instant) -> bool {
        let passed = now.saturating_duration_since(self.at).as_secs_f64();
        self.at = now;
        self.left = (self.left + passed * self.each_second).min(self.most);
        let room = self.left >= 1.0;
        self.left -= if room { 1.0 } else { 0.0 };
        room
    }
}
