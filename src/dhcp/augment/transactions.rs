//! Transactions (xid) that a stranger cannot guess. Pure but for a key that the system makes.
//!
//! Each DISCOVER that we relay has a transaction of its own for each router. A transaction is the only thing that tells a
//! router's answer from one that another device forges in the router's name: whatever else is in it, the address that it
//! comes from included, anybody can write.

use std::hash::{BuildHasher as _, RandomState};
use std::net::Ipv4Addr;

/// Makes transactions: SipHash of a counter under a key. Who sees some of them, as each router sees its own, cannot tell
/// the others.
#[derive(Debug)]
pub(super) struct Transactions {
    key: RandomState,
    seed: u64,
    count: u64,
}

impl Transactions {
    pub(super) fn new(seed: u64) -> Self {
        Self { key: RandomState::new(), seed, count: 0 }
    }

    pub(super) fn next(&mut self) -> u32 {
        self.count = self.count.wrapping_add(1);
        u32::try_from(self.key.hash_one((self.seed, self.count)) >> 32).unwrap_or(0)
    }
}

/// The transactions of one DISCOVER, one for each router that it was relayed to.
#[derive(Debug, Default)]
pub(super) struct Asked(Vec<(Ipv4Addr, u32)>);

impl Asked {
    /// A DISCOVER goes to each of these routers.
    pub(super) fn new(servers: &[Ipv4Addr], transactions: &mut Transactions) -> Self {
        Self(servers.iter().map(|&server| (server, transactions.next())).collect())
    }

    /// A DISCOVER goes to this router in this transaction, instead of an earlier one.
    pub(super) fn put(&mut self, server: Ipv4Addr, xid: u32) {
        self.0.retain(|(asked, _)| *asked != server);
        self.0.push((server, xid));
    }

    /// Forgets the routers that are not among these.
    pub(super) fn retain(&mut self, servers: &[Ipv4Addr]) {
        self.0.retain(|(asked, _)| servers.contains(asked));
    }

    /// The routers and their transactions.
    pub(super) fn iter(&self) -> impl Iterator<Item = (Ipv4Addr, u32)> {
        self.0.iter().copied()
    }

    /// The transaction that only this router knows.
    pub(super) fn xid_of(&self, server: Ipv4Addr) -> Option<u32> {
        self.iter().find(|(asked, _)| *asked == server).map(|(_, xid)| xid)
    }

    /// Whether a message that names this router is in the transaction of another: its sender forges it.
    pub(super) fn is_forged(&self, server: Ipv4Addr, xid: u32) -> bool {
        self.xid_of(server) != Some(xid) && self.iter().any(|(_, known)| known == xid)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_router_has_its_own_transaction_and_none_follows_from_another() {
        let servers = [1, 2, 3, 4].map(|last| Ipv4Addr::new(192, 168, 1, last));
        let (mut one, mut other) = (Transactions::new(7), Transactions::new(7));
        let (one, other) = (Asked::new(&servers, &mut one), Asked::new(&servers, &mut other));
        let all: std::collections::BTreeSet<u32> = one.iter().chain(other.iter()).map(|(_, xid)| xid).collect();
        assert_eq!(all.len(), 8, "the same seed makes other transactions: the key is secret");
        for (server, xid) in one.iter() {
            assert_eq!(one.xid_of(server), Some(xid));
            assert!(!one.is_forged(server, xid));
            assert!(servers.iter().filter(|named| **named != server).all(|named| one.is_forged(*named, xid)));
        }
    }
}
