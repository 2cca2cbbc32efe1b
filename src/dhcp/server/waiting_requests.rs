//! Requests that wait until it is known whether somebody uses an address. Pure.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use crate::message::Request;
use crate::scope::DhcpScope;

/// The most requests that wait. Further ones are dropped, and their clients repeat them.
pub(super) const MAX_WAITING: usize = 256;

/// The requests that wait, by the address that each waits for.
#[derive(Debug, Default)]
pub(super) struct WaitingRequests(BTreeMap<Ipv4Addr, Vec<WaitingRequest>>);

/// A request and the address that it came from.
#[derive(Debug)]
pub(super) struct WaitingRequest {
    pub(super) request: Request,
    pub(super) source: Ipv4Addr,
}

impl WaitingRequests {
    /// Lets a request wait. Says whether there was room for it.
    pub(super) fn add(&mut self, address: Ipv4Addr, new: WaitingRequest, scope: &DhcpScope) -> bool {
        if self.count() >= MAX_WAITING && !self.make_room_for(&new.request, scope) {
            return false;
        }
        let waiting = self.0.entry(address).or_default();
        // A client that repeats itself meanwhile gets one answer, to what it said last.
        waiting.retain(|earlier| earlier.request.chaddr != new.request.chaddr);
        waiting.push(new);
        true
    }

    /// Takes out the requests that wait for this address.
    pub(super) fn take(&mut self, address: Ipv4Addr) -> Vec<WaitingRequest> {
        self.0.remove(&address).unwrap_or_default()
    }

    pub(super) fn count(&self) -> usize {
        self.0.values().map(Vec::len).sum()
    }

    /// A listed phone takes the place of a device that is not listed, so that a flood does not keep phones waiting.
    fn make_room_for(&mut self, request: &Request, scope: &DhcpScope) -> bool {
        scope.knows(request.chaddr)
            && self.0.values_mut().any(|waiting| {
                let other = waiting.iter().position(|waiting| !scope.knows(waiting.request.chaddr));
                other.map(|place| waiting.swap_remove(place)).is_some()
            })
    }

    #[cfg(test)]
    pub(super) fn addresses(&self) -> Vec<Ipv4Addr> {
        self.0.keys().copied().collect()
    }
}
