//! Who may ask, and how often. Wrong tokens are few for each address; good ones have a rate of their own.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use ids::{Rate, TokenBucket};

/// How often one address may show a wrong token.
const WRONG: Rate = Rate::one_in(Duration::from_secs(6)).with_burst(10);
/// How often one token may be used: a push sends thousands of small files.
const GOOD: Rate = Rate::per_second(500).with_burst(2_000);
/// How many addresses and tokens are remembered. Over it the full ones are forgotten, then all.
const MAX_KNOWN: usize = 4_096;

/// Buckets of addresses that showed a wrong token, and of tokens.
#[derive(Debug, Default)]
pub(super) struct Gate {
    wrong: Mutex<HashMap<IpAddr, TokenBucket>>,
    good: Mutex<HashMap<String, TokenBucket>>,
}

impl Gate {
    /// Whether this address may show a token now; else how long it has to wait.
    pub(super) fn may_try(&self, address: IpAddr, now: Instant) -> Result<(), Duration> {
        let wrong = self.wrong.lock().unwrap_or_else(PoisonError::into_inner);
        // On a copy: only a wrong token takes from the bucket.
        wrong.get(&address).copied().unwrap_or_default().take(WRONG, now)
    }

    /// This address showed a wrong token.
    pub(super) fn was_wrong(&self, address: IpAddr, now: Instant) {
        let _ = take(&self.wrong, address, WRONG, now);
    }

    /// This token is used once more; an error says how long it has to wait.
    pub(super) fn used(&self, token: &str, now: Instant) -> Result<(), Duration> {
        take(&self.good, token.to_owned(), GOOD, now)
    }
}

fn take<K: std::hash::Hash + Eq>(
    buckets: &Mutex<HashMap<K, TokenBucket>>,
    whose: K,
    rate: Rate,
    now: Instant,
) -> Result<(), Duration> {
    let mut buckets = buckets.lock().unwrap_or_else(PoisonError::into_inner);
    if buckets.len() >= MAX_KNOWN {
        buckets.retain(|_, bucket| !bucket.is_full(now));
        if buckets.len() >= MAX_KNOWN {
            buckets.clear();
        }
    }
    buckets.entry(whose).or_default().take(rate, now)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn after_ten_wrong_tokens_an_address_waits_and_another_does_not() {
        let (gate, now) = (Gate::default(), Instant::now());
        let (thief, desk) = (IpAddr::from([192, 0, 2, 1]), IpAddr::from([192, 0, 2, 2]));
        for _ in 0..10 {
            assert!(gate.may_try(thief, now).is_ok());
            gate.was_wrong(thief, now);
        }
        assert!(gate.may_try(thief, now).is_err());
        assert!(gate.may_try(desk, now).is_ok());
        assert!(gate.may_try(thief, now + Duration::from_secs(7)).is_ok());
    }

    #[test]
    fn the_buckets_do_not_grow_without_bound() {
        let (gate, now) = (Gate::default(), Instant::now());
        for n in 0..3 * u32::try_from(MAX_KNOWN).unwrap_or(0) {
            gate.was_wrong(IpAddr::from(n.to_be_bytes()), now);
        }
        assert!(gate.wrong.lock().unwrap_or_else(PoisonError::into_inner).len() <= MAX_KNOWN);
    }
}
