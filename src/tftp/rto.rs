//! The time before a resend: measured as in RFC 6298, or as the client wished (RFC 2349).

use std::time::Duration;

/// The wait before a round trip was measured (RFC 6298 §2.1).
const INITIAL: Duration = Duration::from_secs(1);

/// The shortest wait. With a shorter one, a phone that stops for a moment to write its flash would get every block twice.
const MIN: Duration = Duration::from_millis(250);

/// The longest wait, however often it was doubled.
const MAX: Duration = Duration::from_secs(8);

/// The estimate for one transfer.
#[derive(Debug, Clone)]
pub(super) struct Rto {
    /// The client's `timeout` option; it is neither measured nor doubled.
    agreed: Option<Duration>,
    smoothed: Option<Duration>,
    variation: Duration,
    current: Duration,
}

impl Rto {
    /// Nothing measured yet; `agreed` is the `timeout` option.
    pub(super) fn new(agreed: Option<Duration>) -> Self {
        Self { agreed, smoothed: None, variation: Duration::ZERO, current: INITIAL }
    }

    /// How long to wait now.
    pub(super) fn current(&self) -> Duration {
        self.agreed.unwrap_or(self.current)
    }

    /// The smoothed round trip, zero before the first sample.
    pub(super) fn smoothed(&self) -> Duration {
        self.smoothed.unwrap_or(Duration::ZERO)
    }

    /// Takes a round trip of something that was sent once (Karn's rule).
    pub(super) fn sample(&mut self, round_trip: Duration) {
        let smoothed = match self.smoothed {
            // RFC 6298 §2.2
            None => {
                self.variation = round_trip / 2;
                round_trip
            }
            // RFC 6298 §2.3, with beta = 1/4 and alpha = 1/8
            Some(smoothed) => {
                self.variation = self.variation * 3 / 4 + smoothed.abs_diff(round_trip) / 4;
                smoothed * 7 / 8 + round_trip / 8
            }
        };
        self.smoothed = Some(smoothed);
        self.current = (smoothed + self.variation * 4).clamp(MIN, MAX);
    }

    /// The wait was in vain (RFC 6298 §5.5).
    pub(super) fn back_off(&mut self) {
        self.current = (self.current * 2).min(MAX);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_follows_the_round_trip_within_its_bounds() {
        let mut rto = Rto::new(None);
        assert_eq!(rto.current(), INITIAL);
        rto.sample(Duration::from_millis(1));
        assert_eq!(rto.current(), MIN);
        for _ in 0..50 {
            rto.sample(Duration::from_millis(600));
        }
        assert!(rto.current() >= Duration::from_millis(600), "{:?}", rto.current());
        rto.sample(Duration::from_secs(60));
        assert_eq!(rto.current(), MAX);
    }

    #[test]
    fn it_doubles_in_vain_and_recovers_with_a_sample() {
        let mut rto = Rto::new(None);
        rto.back_off();
        assert_eq!(rto.current(), INITIAL * 2);
        for _ in 0..10 {
            rto.back_off();
        }
        assert_eq!(rto.current(), MAX);
        rto.sample(Duration::from_millis(1));
        assert_eq!(rto.current(), MIN);
    }

    #[test]
    fn the_clients_timeout_is_kept_to_the_letter() {
        let mut rto = Rto::new(Some(Duration::from_secs(4)));
        rto.sample(Duration::from_millis(1));
        rto.back_off();
        assert_eq!(rto.current(), Duration::from_secs(4));
    }
}
