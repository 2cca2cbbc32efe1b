use std::time::{Duration, Instant};

/// A limit: how often something may happen in the long run, and how many times at once after a pause.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    /// The time between two events in the long run; never zero.
    interval: Duration,
    /// The number of events that may happen at once after a pause; at least 1.
    burst: u32,
}

impl Rate {
    /// Allows `count` events a second, evenly spaced. 0 counts as 1, and the most is 1,000,000,000.
    pub const fn per_second(count: u32) -> Self {
        let count = if count == 0 { 1 } else { count };
        Self::one_in(Duration::from_nanos(1_000_000_000 / count as u64))
    }

    /// Allows one event in each `interval`. Zero counts as a nanosecond.
    pub const fn one_in(interval: Duration) -> Self {
        let least = Duration::from_nanos(1);
        Self { interval: if interval.is_zero() { least } else { interval }, burst: 1 }
    }

    /// Allows `burst` events at once after a pause. 0 counts as 1.
    #[must_use]
    pub const fn with_burst(self, burst: u32) -> Self {
        Self { burst: if burst == 0 { 1 } else { burst }, ..self }
    }

    /// The time in which an empty bucket becomes full.
    const fn fills_in(self) -> Duration {
        self.interval.saturating_mul(self.burst)
    }
}

/// A token bucket. Tokens flow in at a [`Rate`], up to its burst, and each event takes one. A new bucket is full.
///
/// The caller passes the time. The bucket keeps only the time at which it will be full again (the generic cell rate
/// algorithm, ITU-T I.371). So nothing is rounded, and it does not matter how often it is asked. The time comes from a
/// monotonic clock, so that setting the system clock changes nothing. If `now` is earlier than in a previous call,
/// tokens that flowed in after it are not there yet, and no token is given twice.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TokenBucket {
    full_at: Option<Instant>,
}

impl TokenBucket {
    /// Takes a token. Without a token nothing changes.
    ///
    /// # Errors
    ///
    /// If there is no token: the time until there is one.
    pub fn take(&mut self, rate: Rate, now: Instant) -> Result<(), Duration> {
        // A token that would come after the end of the clock's range never comes.
        let full_at =
            self.full_at.map_or(now, |full_at| full_at.max(now)).checked_add(rate.interval).ok_or(Duration::MAX)?;
        match full_at.saturating_duration_since(now).checked_sub(rate.fills_in()) {
            None | Some(Duration::ZERO) => {
                self.full_at = Some(full_at);
                Ok(())
            }
            Some(wait) => Err(wait),
        }
    }

    /// Whether the bucket is as full as a new one. Then the caller may forget it.
    pub fn is_full(&self, now: Instant) -> bool {
        self.full_at.is_none_or(|full_at| full_at <= now)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn taken(bucket: &mut TokenBucket, rate: Rate, now: Instant, tries: usize) -> usize {
        (0..tries).filter(|_| bucket.take(rate, now).is_ok()).count()
    }

    #[test]
    fn after_the_burst_there_is_the_rate_and_after_a_pause_the_burst_again() {
        let (mut bucket, rate, start) = (TokenBucket::default(), Rate::per_second(50).with_burst(200), Instant::now());
        assert_eq!(taken(&mut bucket, rate, start, 1000), 200);
        assert_eq!(taken(&mut bucket, rate, start + Duration::from_secs(1), 1000), 50);
        assert_eq!(taken(&mut bucket, rate, start + Duration::from_millis(1019), 1000), 0);
        assert_eq!(taken(&mut bucket, rate, start + Duration::from_millis(1020), 1000), 1);
        assert_eq!(taken(&mut bucket, rate, start + Duration::from_secs(100), 1000), 200);
    }

    #[test]
    fn who_comes_too_early_is_told_how_long_to_wait() {
        let (mut bucket, start) = (TokenBucket::default(), Instant::now());
        let rate = Rate::one_in(Duration::from_secs(2)).with_burst(3);
        assert_eq!(taken(&mut bucket, rate, start, 10), 3);
        assert_eq!(bucket.take(rate, start), Err(Duration::from_secs(2)));
        assert_eq!(bucket.take(rate, start + Duration::from_millis(500)), Err(Duration::from_millis(1500)));
        assert_eq!(bucket.take(rate, start + Duration::from_secs(2)), Ok(()));
    }

    #[test]
    fn asking_often_costs_no_part_of_a_token() {
        let (mut bucket, rate, start) = (TokenBucket::default(), Rate::per_second(3), Instant::now());
        let asked = (0..10_000_u64).map(|millis| start + Duration::from_millis(millis));
        // The first at once, then one every 333.3 ms.
        assert_eq!(asked.filter(|now| bucket.take(rate, *now).is_ok()).count(), 30);
    }

    #[test]
    fn it_may_be_forgotten_once_it_is_full() {
        let (mut bucket, rate, start) = (TokenBucket::default(), Rate::per_second(10).with_burst(5), Instant::now());
        assert!(bucket.is_full(start));
        assert_eq!(taken(&mut bucket, rate, start, 2), 2);
        assert!(!bucket.is_full(start + Duration::from_millis(199)));
        assert!(bucket.is_full(start + Duration::from_millis(200)));
    }

    #[test]
    fn a_time_before_the_last_one_gives_nothing_twice() {
        let (mut bucket, rate, start) = (TokenBucket::default(), Rate::per_second(1).with_burst(2), Instant::now());
        let later = start + Duration::from_secs(10);
        assert_eq!(taken(&mut bucket, rate, later, 10), 2);
        assert_eq!(bucket.take(rate, start), Err(Duration::from_secs(11)));
        assert_eq!(bucket.take(rate, later), Err(Duration::from_secs(1)));
        assert_eq!(taken(&mut bucket, rate, later + Duration::from_secs(1), 10), 1);
    }

    #[test]
    fn the_ends_of_the_numbers_neither_panic_nor_open_it() {
        let now = Instant::now();
        assert_eq!(Rate::per_second(0).with_burst(0), Rate::one_in(Duration::from_secs(1)));
        for rate in [Rate::per_second(u32::MAX), Rate::one_in(Duration::ZERO)] {
            assert_eq!(taken(&mut TokenBucket::default(), rate.with_burst(7), now, 10), 7);
        }
        let never = Rate::one_in(Duration::MAX).with_burst(u32::MAX);
        assert_eq!(TokenBucket::default().take(never, now), Err(Duration::MAX));
    }

    proptest! {
        #[test]
        fn in_no_span_of_time_there_is_more_than_the_burst_and_the_rate(
            per_second in 1u32..2000,
            burst in 1u32..100,
            steps in proptest::collection::vec(0u64..50_000_000, 1..300),
        ) {
            let (mut bucket, rate) = (TokenBucket::default(), Rate::per_second(per_second).with_burst(burst));
            let mut now = Instant::now();
            let mut granted = Vec::new();
            for step in steps {
                now += Duration::from_nanos(step);
                match bucket.take(rate, now) {
                    Ok(()) => granted.push(now),
                    // After exactly that wait there is a token, and a nanosecond earlier there is none.
                    Err(wait) => {
                        let (mut early, mut due) = (bucket, bucket);
                        prop_assert!(early.take(rate, now + wait - Duration::from_nanos(1)).is_err());
                        prop_assert!(due.take(rate, now + wait).is_ok());
                    }
                }
            }
            for (index, first) in granted.iter().enumerate() {
                for (further, last) in granted.iter().skip(index).enumerate() {
                    let flowed = last.duration_since(*first).as_nanos() / rate.interval.as_nanos();
                    prop_assert!((further as u128) < u128::from(burst) + flowed);
                }
            }
        }

        #[test]
        fn it_gives_what_counted_tokens_would(
            millis in 1u64..500,
            burst in 1u32..20,
            steps in proptest::collection::vec(0u64..1000, 1..300),
        ) {
            let (interval, start) = (Duration::from_millis(millis), Instant::now());
            let (mut bucket, rate) = (TokenBucket::default(), Rate::one_in(interval).with_burst(burst));
            // A token has as many parts as its interval has milliseconds. Each millisecond adds one part.
            let most = u64::from(burst) * millis;
            let (mut left, mut now) = (most, 0);
            for step in steps {
                now += step;
                left = (left + step).min(most);
                let expected = left >= millis;
                left -= if expected { millis } else { 0 };
                prop_assert_eq!(bucket.take(rate, start + Duration::from_millis(now)).is_ok(), expected);
            }
        }
    }
}
