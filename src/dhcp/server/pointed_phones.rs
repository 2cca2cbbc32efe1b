//! Phones that a router itself points to another TFTP server, as its offers to them said. What it tells us as a client may be
//! something else: routers tell by class and by reservation. Pure.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::time::Duration;

use crate::heard::TftpPointer;
use crate::lan::points::{self, Points};
use ids::{MacAddr, UnixTime};

/// What was not said again for so long is over. A phone that starts hears it again.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(86_400);
/// The most phones that are remembered.
const MAX_PHONES: usize = 256;

/// The phones, and what each was told last.
#[derive(Debug, Default)]
pub(super) struct PointedPhones(BTreeMap<MacAddr, Pointed>);

#[derive(Debug)]
struct Pointed {
    server: Ipv4Addr,
    pointers: Vec<TftpPointer>,
    last: UnixTime,
}

impl PointedPhones {
    /// A router's offer points this phone there.
    pub(super) fn pointed(&mut self, phone: MacAddr, server: Ipv4Addr, pointers: &[TftpPointer], now: UnixTime) {
        if self.0.len() < MAX_PHONES || self.0.contains_key(&phone) {
            self.0.insert(phone, Pointed { server, pointers: pointers.to_vec(), last: now });
        }
    }

    /// A router's offer points this phone nowhere, so that it was completed.
    pub(super) fn completed(&mut self, phone: MacAddr) -> bool {
        self.0.remove(&phone).is_some()
    }

    /// Forgets what other servers than these said.
    pub(super) fn keep(&mut self, servers: &[Ipv4Addr]) {
        self.0.retain(|_, pointed| servers.contains(&pointed.server));
    }

    /// Forgets what all servers said: they were corrected.
    pub(super) fn clear(&mut self) {
        self.0.clear();
    }

    /// What to tell people: one text for each server and place. `ours` are the site's TFTP servers, and `meaning` says what
    /// names are by now known to mean.
    pub(super) fn texts(
        &mut self,
        ours: &[Ipv4Addr],
        meaning: impl Fn(&[TftpPointer]) -> Vec<TftpPointer>,
        now: UnixTime,
    ) -> Vec<String> {
        self.0.retain(|_, pointed| now.since(pointed.last) < FORGOTTEN_AFTER);
        let mut phones: BTreeMap<(Ipv4Addr, bool, String), Vec<MacAddr>> = BTreeMap::new();
        for (phone, Pointed { server, pointers, .. }) in &self.0 {
            let pointers = meaning(pointers);
            let general = match Points::of(&pointers, ours) {
                Points::Partly | Points::Elsewhere => points::words(&pointers, ours),
                // A name may be ours: that is not to be held against the router.
                Points::Nowhere | Points::Here | Points::Unsure => None,
            };
            let vendor = || points::vendors_elsewhere(&pointers, ours).into_iter().next().map(|words| (false, words));
            if let Some((is_general, words)) = general.map(|words| (true, words)).or_else(vendor) {
                phones.entry((*server, is_general, words)).or_default().push(*phone);
            }
        }
        let text = |((server, is_general, words), phones): ((Ipv4Addr, bool, String), Vec<MacAddr>)| {
            let who = match phones.as_slice() {
                [first] => first.to_string(),
                [first, rest @ ..] => format!("{first} and {} more phones", rest.len()),
                [] => String::new(),
            };
            let said = if is_general {
                format!("{server} points {who} {words}")
            } else {
                format!("{server}: {words}, so also {who}")
            };
            format!("{said}; it is left as it is")
        };
        phones.into_iter().map(text).collect()
    }

    /// The system clock was set, by so many seconds.
    pub(super) fn shift(&mut self, seconds: i64) {
        self.0.values_mut().for_each(|pointed| pointed.last.0 = pointed.last.0.saturating_add(seconds));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: UnixTime = UnixTime(1_700_000_000);
    const ROUTER: Ipv4Addr = Ipv4Addr::new(192, 168, 1, 1);
    const OURS: [Ipv4Addr; 1] = [Ipv4Addr::new(192, 168, 1, 2)];

    const fn phone(last: u8) -> MacAddr {
        MacAddr::new([0, 4, 0xf2, 0, 0, last])
    }

    fn texts(pointed: &mut PointedPhones, now: UnixTime) -> Vec<String> {
        pointed.texts(&OURS, <[TftpPointer]>::to_vec, now)
    }

    #[test]
    fn what_a_router_told_phones_stands_until_it_tells_them_something_else_or_is_gone() {
        let mut pointed = PointedPhones::default();
        let said = |text: &str| TftpPointer::of_text(66, text);
        pointed.pointed(phone(1), ROUTER, &said("10.0.0.9"), NOW);
        let one = "192.168.1.1 points 00:04:f2:00:00:01 to 10.0.0.9, which is not this machine; it is left as it is";
        assert_eq!(texts(&mut pointed, NOW), [one]);
        pointed.pointed(phone(2), ROUTER, &said("10.0.0.9"), NOW);
        let both = texts(&mut pointed, NOW);
        assert!(both.iter().all(|text| text.contains("00:04:f2:00:00:01 and 1 more phones to 10.0.0.9")), "{both:?}");
        assert!(both.len() == 1 && pointed.completed(phone(2)) && !pointed.completed(phone(2)));
        pointed.pointed(phone(1), ROUTER, &said("192.168.1.2"), NOW);
        assert_eq!(texts(&mut pointed, NOW), [""; 0], "it was corrected");
        pointed.pointed(phone(1), ROUTER, &said("10.0.0.9"), NOW);
        assert_eq!(texts(&mut pointed, NOW.plus(FORGOTTEN_AFTER)), [""; 0]);
        pointed.pointed(phone(1), ROUTER, &said("10.0.0.9"), NOW);
        pointed.keep(&[]);
        assert_eq!(texts(&mut pointed, NOW), [""; 0], "the router is gone");
        for number in 0..2_000_u16 {
            let [high, low] = number.to_be_bytes();
            pointed.pointed(MacAddr::new([0, 4, 0xf2, 1, high, low]), ROUTER, &said("10.0.0.9"), NOW);
        }
        assert_eq!(pointed.0.len(), MAX_PHONES);
    }
}
