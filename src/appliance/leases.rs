//! DHCP's own leases, kept in a journal of the store.

use std::collections::BTreeMap;
use std::io;
use std::net::Ipv4Addr;

use crate::dhcp::leases::{Lease, LeaseLog};
use crate::store::{Journal, Store, StoreError};

/// A journal of this length is rewritten with what is current: some 7,000 leases.
const REWRITE_BYTES: u64 = 1024 * 1024;
/// Room in one record, well under what a journal takes.
const RECORD_BYTES: usize = 32 * 1024;

/// The journal `leases`: records of one or more leases, a line each; the last one of an address counts.
#[derive(Debug)]
pub struct StoredLeases {
    journal: Journal,
    current: BTreeMap<Ipv4Addr, Lease>,
}

impl StoredLeases {
    /// Opens the journal of a store. Lines that are no lease are left out.
    ///
    /// # Errors
    /// If the disk refuses, or another process has the journal.
    pub fn open(store: &Store) -> Result<Self, StoreError> {
        let (journal, records) = store.journal("leases")?;
        let lines = records.iter().flat_map(|record| record.split(|byte| *byte == b'\n'));
        let current = lines.filter_map(|line| Lease::parse(line).ok()).map(|lease| (lease.address, lease)).collect();
        Ok(Self { journal, current })
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
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dhcp::leases::{ClientId, State};
    use crate::ids::{MacAddr, UnixTime};

    fn lease(last: u8, until: i64) -> Lease {
        let mac = MacAddr::new([2, 0, 0, 0, 0, last]);
        let address = Ipv4Addr::new(192, 168, 1, last);
        Lease { address, mac, client: ClientId::hardware(1, mac), state: State::Bound, until: UnixTime(until) }
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
