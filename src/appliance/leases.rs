//! Keeps leases on disk: our own in a journal of the store, and the router's leases that we completed in its cache. The
//! cache may be lost.

use std::collections::BTreeMap;
use std::io;
use std::net::Ipv4Addr;
use std::time::Duration;

use super::clock;
use dhcp::completed_lease::CompletedLease;
use dhcp::leases::{Lease, LeaseLog};
use ids::UnixTime;
use store::{Journal, Store, StoreError};

/// At this length the journal is rewritten with the current leases alone. It is room for some 7,000 leases.
const REWRITE_BYTES: u64 = 1024 * 1024;
/// The most bytes in one record, well under what a journal takes.
const RECORD_BYTES: usize = 32 * 1024;

/// The tree of the cache that maps a MAC address to a [`CompletedLease`]. Under [`BOOT`] it has the boot id of the
/// kernel whose clock stamped them.
const COMPLETED: &str = "dhcp-completed";
/// The key of the boot id. It is not six octets long, so it is no MAC address.
const BOOT: &[u8] = b"boot";
/// The most completed leases that are kept in the cache.
const MAX_COMPLETED: usize = 1024;
/// The age at which a completed lease is forgotten.
const MAX_AGE: Duration = Duration::from_secs(7 * 86_400);

/// The journal `leases`. A record has one or more leases, a line each; the last lease of an address counts.
#[derive(Debug)]
pub struct StoredLeases {
    store: Store,
    journal: Journal,
    current: BTreeMap<Ipv4Addr, Lease>,
}

impl StoredLeases {
    /// Opens the journal in this store. Lines that are no lease are ignored.
    ///
    /// # Errors
    /// If the disk fails, or another process has the journal open.
    pub fn open(store: &Store) -> Result<Self, StoreError> {
        let (journal, records) = store.journal("leases")?;
        let lines = records.iter().flat_map(|record| record.split(|byte| *byte == b'\n'));
        let current = lines.filter_map(|line| Lease::parse(line).ok()).map(|lease| (lease.address, lease)).collect();
        Ok(Self { store: store.clone(), journal, current })
    }

    fn append(&mut self, leases: &[Lease]) -> io::Result<()> {
        let mut record = Vec::new();
        for lease in leases {
            let line = lease.emit();
            if !record.is_empty() && record.len() + line.len() >= RECORD_BYTES {
                self.journal.append(&record).map_err(io::Error::other)?;
                record.clear();
            }
            if !record.is_empty() {
                record.push(b'\n');
            }
            record.extend_from_slice(&line);
        }
        if record.is_empty() { Ok(()) } else { self.journal.append(&record).map_err(io::Error::other) }
    }
}

impl LeaseLog for StoredLeases {
    fn load(&mut self) -> Vec<Lease> {
        self.current.values().cloned().collect()
    }

    fn commit(&mut self, lease: &Lease) -> io::Result<()> {
        self.commit_all(std::slice::from_ref(lease))
    }

    fn commit_all(&mut self, leases: &[Lease]) -> io::Result<()> {
        self.append(leases)?;
        self.current.extend(leases.iter().map(|lease| (lease.address, lease.clone())));
        if self.journal.bytes() > REWRITE_BYTES {
            let lines: Vec<Vec<u8>> = self.current.values().map(Lease::emit).collect();
            self.journal.rewrite(&lines).map_err(io::Error::other)?;
        }
        Ok(())
    }

    fn remember(&mut self, completed: &[(CompletedLease, UnixTime)]) {
        let cache = self.store.cache();
        let boot = boot();
        if cache.get(COMPLETED, BOOT).as_deref() != Some(boot.as_bytes()) {
            cache.put(COMPLETED, BOOT, boot.as_bytes());
        }
        let room = MAX_COMPLETED.saturating_sub(cache.count(COMPLETED));
        for (at, (kept, since)) in completed.iter().enumerate() {
            let mac = kept.mac().octets();
            if at < room || cache.get(COMPLETED, &mac).is_some() {
                cache.put(COMPLETED, &mac, &kept.emit(*since));
            }
        }
    }

    fn recall(&mut self) -> Option<Vec<(CompletedLease, Duration)>> {
        let cache = self.store.cache();
        // The age of a lease is known if the clock is right now, or if the machine has not restarted since.
        let same_run = cache.get(COMPLETED, BOOT).as_deref() == Some(boot().as_bytes());
        if !same_run && !clock::synchronised() && cache.count(COMPLETED) > 0 {
            return None;
        }
        let now = clock::now();
        let mut live = Vec::new();
        for (key, value) in cache.entries(COMPLETED, &[], MAX_COMPLETED + 1) {
            let kept = CompletedLease::parse(&value).filter(|(_, since)| *since <= now && now.since(*since) < MAX_AGE);
            match kept {
                Some((kept, since)) => live.push((kept, now.since(since))),
                None if key == BOOT => {}
                None => cache.remove(COMPLETED, &key),
            }
        }
        Some(live)
    }

    fn forget(&mut self) {
        self.store.cache().clear(COMPLETED);
    }
}

/// The kernel's id of this boot; empty if it has none to read.
fn boot() -> String {
    std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use dhcp::leases::{ClientId, LeaseState};
    use ids::MacAddr;

    fn lease(last: u8, until: i64) -> Lease {
        let mac = MacAddr::new([2, 0, 0, 0, 0, last]);
        let address = Ipv4Addr::new(192, 168, 1, last);
        Lease { address, mac, client: ClientId::hardware(1, mac), state: LeaseState::Bound, until: UnixTime(until) }
    }

    #[test]
    fn leases_are_there_after_a_restart_and_the_last_word_counts() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let store = Store::open(dir.path()).expect("a store");
        let mut leases = StoredLeases::open(&store).expect("a journal");
        leases.commit_all(&[lease(10, 100), lease(11, 100)]).expect("two at once");
        leases.commit(&lease(10, 200)).expect("a renewal");
        drop(leases);
        let kept = StoredLeases::open(&store).expect("the journal again").load();
        assert_eq!(kept, [lease(10, 200), lease(11, 100)]);
    }

    #[test]
    fn completed_leases_are_recalled_with_their_age_until_the_clock_proves_wrong() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let store = Store::open(dir.path()).expect("a store");
        let mut leases = StoredLeases::open(&store).expect("a journal");
        assert_eq!(leases.recall(), Some(Vec::new()));
        let kept =
            |last: u8| CompletedLease { discover: [&[0; 33][..], &[last], &[0; 266]].concat(), offer: vec![2; 300] };
        let now = clock::now();
        let before = |seconds: i64| UnixTime(now.0 - seconds);
        leases.remember(&[(kept(1), before(100)), (kept(2), before(8 * 86_400)), (kept(3), before(-5000))]);
        drop(leases);
        let mut leases = StoredLeases::open(&store).expect("the journal again");
        let recalled = leases.recall().expect("the machine has run all the while");
        let [(found, gone)] = recalled.as_slice() else { panic!("{recalled:?}") };
        assert_eq!(*found, kept(1), "neither what is over nor what is of the future");
        assert!((100..110).contains(&gone.as_secs()), "{gone:?}");
        leases.forget();
        assert_eq!(leases.recall(), Some(Vec::new()));
    }

    #[test]
    fn no_more_completed_leases_are_remembered_than_there_is_room_for() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let store = Store::open(dir.path()).expect("a store");
        let mut leases = StoredLeases::open(&store).expect("a journal");
        let now = clock::now();
        let many: Vec<(CompletedLease, UnixTime)> = (0..2000_u32)
            .map(|number| {
                let mut discover = vec![0; 300];
                discover.splice(30..34, number.to_be_bytes());
                (CompletedLease { discover, offer: vec![2; 300] }, now)
            })
            .collect();
        many.chunks(100).for_each(|some| leases.remember(some));
        let recalled = leases.recall().map(|all| all.len());
        assert!(recalled.is_some_and(|count| (1000..=MAX_COMPLETED).contains(&count)), "{recalled:?}");
    }

    #[test]
    fn the_journal_does_not_grow_for_ever() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let store = Store::open(dir.path()).expect("a store");
        let mut leases = StoredLeases::open(&store).expect("a journal");
        let batch: Vec<Lease> = (1..=250).map(|last| lease(last, 100)).collect();
        for _ in 0..80 {
            leases.commit_all(&batch).expect("a batch");
        }
        assert!(leases.journal.bytes() < REWRITE_BYTES + 200_000, "{} bytes", leases.journal.bytes());
        assert_eq!(leases.load().len(), 250);
    }
}
