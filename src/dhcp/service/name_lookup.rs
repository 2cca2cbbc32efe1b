//! Looks up names by this machine's resolver, beside everything else.

use std::net::{IpAddr, Ipv4Addr};
use std::pin::Pin;
use std::time::{Duration, Instant};

/// How long the resolver has for a name until it counts as not found.
const RESOLVE_WITHIN: Duration = Duration::from_secs(2);
/// The shortest time between two lookups, whoever hands out names.
const BETWEEN: Duration = Duration::from_secs(1);

/// A name, and the addresses that it means.
type Found = (String, Vec<Ipv4Addr>);

/// The lookup that is under way.
///
/// There is one at a time, also where the resolver takes longer than it should: it waits on a thread that others need, and
/// cannot be stopped.
#[derive(Debug, Default)]
pub(super) struct NameLookup {
    running: Option<Running>,
    next: Option<Instant>,
}

struct Running {
    name: String,
    addresses: Pin<Box<dyn Future<Output = Vec<Ipv4Addr>> + Send>>,
    /// When the name counts as not found; `None` once it does.
    until: Option<Instant>,
}

impl std::fmt::Debug for Running {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Running").field("name", &self.name).field("until", &self.until).finish_non_exhaustive()
    }
}

impl NameLookup {
    /// Looks up the name that is due, unless a lookup is under way or was just made.
    #[expect(clippy::disallowed_methods, reason = "a service has a clock")]
    pub(super) fn begin(&mut self, due: impl FnOnce() -> Option<String>) {
        let now = Instant::now();
        if self.running.is_some() || self.next.is_some_and(|next| now < next) {
            return;
        }
        let Some(name) = due() else { return };
        let addresses = Box::pin(lookup(name.clone()));
        self.running = Some(Running { name, addresses, until: Some(now + RESOLVE_WITHIN) });
        self.next = Some(now + BETWEEN);
    }

    /// What was found: nothing if the resolver takes too long, and once more what it then finds. Cancel safe.
    pub(super) async fn found(&mut self) -> Found {
        let Some(running) = &mut self.running else { return std::future::pending().await };
        let late = async {
            match running.until {
                Some(until) => tokio::time::sleep_until(until.into()).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            addresses = &mut running.addresses => {
                let name = std::mem::take(&mut running.name);
                self.running = None;
                (name, addresses)
            }
            () = late => {
                running.until = None;
                (running.name.clone(), Vec::new())
            }
        }
    }
}

/// The IPv4 addresses that a name means; none if it is not found in time.
pub async fn addresses_of(name: &str) -> Vec<Ipv4Addr> {
    tokio::time::timeout(RESOLVE_WITHIN, lookup(name.to_owned())).await.unwrap_or_default()
}

async fn lookup(name: String) -> Vec<Ipv4Addr> {
    // The port is of no importance.
    let found = tokio::net::lookup_host((name.as_str(), 69)).await.into_iter().flatten();
    let addresses = found.filter_map(|address| match address.ip() {
        IpAddr::V4(address) => Some(address),
        IpAddr::V6(_) => None,
    });
    addresses.collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[tokio::test]
    async fn a_name_is_found_and_the_next_one_waits_its_time() {
        let mut names = NameLookup::default();
        names.begin(|| Some("localhost".to_owned()));
        names.begin(|| panic!("one at a time"));
        assert_eq!(names.found().await, ("localhost".to_owned(), vec![Ipv4Addr::LOCALHOST]));
        names.begin(|| panic!("not so soon"));
        assert!(names.running.is_none());
    }

    #[tokio::test]
    async fn a_resolver_that_hangs_finds_nothing_and_is_asked_nothing_more() {
        let mut names = NameLookup::default();
        let (answer, hangs) = tokio::sync::oneshot::channel();
        let until = Some(Instant::now());
        let addresses = Box::pin(async { hangs.await.unwrap_or_default() });
        names.running = Some(Running { name: "pbx.lan".to_owned(), addresses, until });
        assert_eq!(names.found().await, ("pbx.lan".to_owned(), vec![]));
        names.begin(|| panic!("it still has the thread"));
        assert!(tokio::time::timeout(Duration::from_millis(20), names.found()).await.is_err(), "once is enough");
        answer.send(vec![Ipv4Addr::LOCALHOST]).unwrap();
        assert_eq!(names.found().await, ("pbx.lan".to_owned(), vec![Ipv4Addr::LOCALHOST]));
        assert!(names.running.is_none());
    }
}
