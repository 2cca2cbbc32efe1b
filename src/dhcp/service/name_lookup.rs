//! Looks up names by this machine's resolver, beside everything else.

use std::net::{IpAddr, Ipv4Addr};
use std::pin::Pin;
use std::time::{Duration, Instant};

/// How long the resolver has for a name.
const RESOLVE_WITHIN: Duration = Duration::from_secs(2);
/// The shortest time between two lookups, whoever hands out names.
const BETWEEN: Duration = Duration::from_secs(1);

/// A name, and the addresses that it means.
type Found = (String, Vec<Ipv4Addr>);

/// The lookup that is under way. There is one at a time.
#[derive(Default)]
pub(super) struct NameLookup {
    running: Option<Pin<Box<dyn Future<Output = Found> + Send>>>,
    next: Option<Instant>,
}

impl std::fmt::Debug for NameLookup {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NameLookup").field("next", &self.next).finish_non_exhaustive()
    }
}

impl NameLookup {
    /// Looks up the name that is due, unless a lookup is under way or was just made.
    #[expect(clippy::disallowed_methods, reason = "a service has a clock")]
    pub(super) fn begin(&mut self, due: impl FnOnce() -> Option<String>) {
        let now = Instant::now();
        if self.running.is_none() && self.next.is_none_or(|next| next <= now) {
            self.running = due().map(|name| -> Pin<Box<dyn Future<Output = Found> + Send>> { Box::pin(lookup(name)) });
            self.next = self.running.is_some().then(|| now + BETWEEN).or(self.next);
        }
    }

    /// What was found. Cancel safe.
    pub(super) async fn found(&mut self) -> Found {
        let Some(running) = &mut self.running else { return std::future::pending().await };
        let found = running.await;
        self.running = None;
        found
    }
}

/// The IPv4 addresses that a name means; none if it is not found in time.
pub async fn addresses_of(name: &str) -> Vec<Ipv4Addr> {
    // The port is of no importance.
    let found = tokio::time::timeout(RESOLVE_WITHIN, tokio::net::lookup_host((name, 69))).await;
    let addresses = found.ok().and_then(Result::ok).into_iter().flatten();
    let addresses = addresses.filter_map(|address| match address.ip() {
        IpAddr::V4(address) => Some(address),
        IpAddr::V6(_) => None,
    });
    addresses.collect()
}

async fn lookup(name: String) -> Found {
    let addresses = addresses_of(&name).await;
    (name, addresses)
}
