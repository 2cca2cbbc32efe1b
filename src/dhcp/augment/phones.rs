//! The phones that `augment` remembers, within a limit. Pure.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use super::phone::AugmentedPhone;
use ids::MacAddr;

/// The most phones that are remembered.
const MAX_PHONES: usize = 4096;
/// The most of them that the inventory does not list: anybody can call himself a phone.
pub(super) const MAX_UNLISTED: usize = 256;
/// How long a phone that is not listed is remembered without a lease, once there are too many.
const UNLISTED_KEPT: Duration = Duration::from_secs(600);

/// All phones by their hardware address.
#[derive(Debug, Default)]
pub(super) struct Phones(HashMap<MacAddr, AugmentedPhone>);

impl Phones {
    pub(super) fn get(&self, mac: MacAddr) -> Option<&AugmentedPhone> {
        self.0.get(&mac)
    }

    pub(super) fn get_mut(&mut self, mac: MacAddr) -> Option<&mut AugmentedPhone> {
        self.0.get_mut(&mac)
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = &mut AugmentedPhone> {
        self.0.values_mut()
    }

    /// Remembers a phone. `None` if there is no room for it.
    pub(super) fn admit(&mut self, mac: MacAddr, listed: bool, now: Instant) -> Option<&mut AugmentedPhone> {
        if !self.has_room(mac, listed, now) {
            return None;
        }
        let phone = self.0.entry(mac).or_insert_with(AugmentedPhone::new);
        phone.listed = listed;
        Some(phone)
    }

    fn has_room(&mut self, mac: MacAddr, listed: bool, now: Instant) -> bool {
        if self.0.contains_key(&mac) {
            return true;
        }
        if !listed && self.unlisted() >= MAX_UNLISTED {
            self.0.retain(|_, phone| {
                let recent = phone.last_seen.is_some_and(|last| now.saturating_duration_since(last) < UNLISTED_KEPT);
                phone.listed || (recent && (phone.lease.is_some() || !phone.has_offers()))
            });
            return self.unlisted() < MAX_UNLISTED;
        }
        self.0.len() < MAX_PHONES
    }

    fn unlisted(&self) -> usize {
        self.0.values().filter(|phone| !phone.listed).count()
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}
