//! Slots for connections without a client certificate, so that they cannot crowd sites out.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::{MAX_STRANGERS, MAX_STRANGERS_OF_ADDRESS};

/// All slots: how many are free, and how many each address holds.
pub(super) struct Strangers {
    free: Arc<Semaphore>,
    of_address: Mutex<HashMap<IpAddr, usize>>,
}

/// One slot, taken by a connection and given back on drop.
pub(super) struct StrangerSlot {
    strangers: Arc<Strangers>,
    from: IpAddr,
    _permit: OwnedSemaphorePermit,
}

impl Strangers {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self { free: Arc::new(Semaphore::new(MAX_STRANGERS)), of_address: Mutex::default() })
    }

    /// Waits until a slot is free. `None` only if the semaphore was closed, which nobody does.
    pub(super) async fn free(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.free).acquire_owned().await.ok()
    }

    /// Gives the free slot to this address; `None` if the address holds [`MAX_STRANGERS_OF_ADDRESS`] already.
    pub(super) fn take(self: &Arc<Self>, permit: OwnedSemaphorePermit, address: IpAddr) -> Option<StrangerSlot> {
        let from = source(address);
        let mut taken = self.of_address.lock().unwrap_or_else(PoisonError::into_inner);
        let count = taken.entry(from).or_default();
        if *count >= MAX_STRANGERS_OF_ADDRESS {
            return None;
        }
        *count += 1;
        Some(StrangerSlot { strangers: Arc::clone(self), from, _permit: permit })
    }
}

impl Drop for StrangerSlot {
    fn drop(&mut self) {
        let mut taken = self.strangers.of_address.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = taken.get_mut(&self.from) {
            *count -= 1;
            if *count == 0 {
                taken.remove(&self.from);
            }
        }
    }
}

/// The address under which a caller is counted: an IPv4 address, or the /64 of an IPv6 address, because one network has
/// that to itself.
fn source(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() & !u128::from(u64::MAX))),
        v4 => v4,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[tokio::test]
    async fn one_address_has_its_share_and_others_theirs() {
        let strangers = Strangers::new();
        let (one, other) = ("2001:db8::1".parse().unwrap(), "192.0.2.1".parse().unwrap());
        let mut held = Vec::new();
        for n in 0..MAX_STRANGERS_OF_ADDRESS {
            // Another address of the same network each time.
            let address = format!("2001:db8::{:x}", n + 1).parse().unwrap();
            held.push(strangers.take(strangers.free().await.unwrap(), address).unwrap());
        }
        assert!(strangers.take(strangers.free().await.unwrap(), one).is_none());
        assert!(strangers.take(strangers.free().await.unwrap(), other).is_some());
        held.pop();
        assert!(strangers.take(strangers.free().await.unwrap(), one).is_some());
        held.clear();
        assert_eq!(strangers.of_address.lock().unwrap().len(), 0);
        assert_eq!(strangers.free.available_permits(), MAX_STRANGERS);
    }

    #[test]
    fn mapped_addresses_are_what_they_map() {
        assert_eq!(source("::ffff:192.0.2.1".parse().unwrap()), "192.0.2.1".parse::<IpAddr>().unwrap());
    }
}
