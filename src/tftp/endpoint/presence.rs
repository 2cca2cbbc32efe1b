//! Whether the device of an own file is there now. The neighbour table cannot say: it keeps the hardware address of a phone
//! that was unplugged, and believes what the payload of an answer says. What leaves for a hardware address that the switch
//! no longer knows, the switch sends to everybody.
//!
//! So each own file begins with a question by ARP, and leaves only while the device's own answer is fresh. An answer shows
//! the switch the port of the device again, so that frames go there and nowhere else. An answer to the kernel counts, too.

use std::collections::HashMap;
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use super::{Event, SiteState, Ticket};
use ids::MacAddr;

/// For how long an answer is fresh. It bounds what a phone that is unplugged in the middle of its own transfer leaves to
/// others; yet it is longer than [`RENEW`] by the time in which a lost answer comes twice again, so that a transfer does not
/// stop for that.
pub const FRESH: Duration = Duration::from_millis(1500);

/// The age of an answer from which on the next block asks again. So a transfer asks once a second, and does not wait for it.
pub const RENEW: Duration = Duration::from_secs(1);

/// How long the answer to a request waits for the device. Nobody answered it yet, so the device asks again.
pub const ARRIVAL_PATIENCE: Duration = Duration::from_secs(1);

/// How long a transfer that goes on waits for its device: a switch that is started again takes seconds.
pub const ABSENCE_PATIENCE: Duration = Duration::from_secs(10);

/// How long a transfer's last ERROR waits for its device.
pub const FAREWELL_PATIENCE: Duration = Duration::from_millis(250);

/// How long after a question the next one is put while nobody answers; the last of these again and again.
const ASK_AGAIN: [Duration; 4] =
    [Duration::from_millis(50), Duration::from_millis(150), Duration::from_millis(300), Duration::from_millis(500)];

/// How soon a question is not put again for another transfer of the same address, while nobody has answered it.
const ASKED_JUST_NOW: Duration = Duration::from_millis(40);

/// The most devices that are remembered. Those for which a transfer waits are fewer.
const MAX_DEVICES: usize = 1024;

/// How often a full table is searched for devices that may be forgotten.
const SWEEP_EVERY: Duration = Duration::from_millis(100);

/// The devices that are asked, each at its address; what they answer; and the transfers that wait for that. Answers that
/// nobody asked for leave nothing here.
#[derive(Debug, Default)]
pub(super) struct Presences {
    devices: HashMap<(Ipv4Addr, MacAddr), Presence>,
    swept: Option<Instant>,
}

#[derive(Debug, Default)]
struct Presence {
    /// When the device answered last.
    heard: Option<Instant>,
    /// When the question was put that it has not answered yet.
    asked: Option<Instant>,
    waiting: Vec<Ticket>,
}

impl Presences {
    /// A device said that it has this address. Returns the transfers that waited for it to.
    pub(super) fn heard(&mut self, address: Ipv4Addr, mac: MacAddr, now: Instant) -> Vec<Ticket> {
        let Some(presence) = self.devices.get_mut(&(address, mac)) else { return Vec::new() };
        (presence.heard, presence.asked) = (Some(now), None);
        std::mem::take(&mut presence.waiting)
    }

    /// Whether to put a question: not while one was put just now. If so it counts as put.
    fn may_ask(&mut self, device: (Ipv4Addr, MacAddr), now: Instant) -> bool {
        let Some(presence) = self.admit(device, now) else { return false };
        let just_now = presence.asked.is_some_and(|asked| now < asked + ASKED_JUST_NOW);
        if !just_now {
            presence.asked = Some(now);
        }
        !just_now
    }

    fn admit(&mut self, device: (Ipv4Addr, MacAddr), now: Instant) -> Option<&mut Presence> {
        let is_full = |devices: &HashMap<_, _>| devices.len() >= MAX_DEVICES && !devices.contains_key(&device);
        if is_full(&self.devices) && self.swept.is_none_or(|swept| now >= swept + SWEEP_EVERY) {
            self.swept = Some(now);
            let recent = |at: Option<Instant>| at.is_some_and(|at| now < at + FRESH);
            self.devices.retain(|_, it| recent(it.heard) || recent(it.asked) || !it.waiting.is_empty());
        }
        (!is_full(&self.devices)).then(|| self.devices.entry(device).or_default())
    }
}

/// The device that one transfer is for.
#[derive(Debug)]
pub(super) struct Recipient {
    device: (Ipv4Addr, MacAddr),
    /// Nothing that was heard before counts: the device may have been unplugged since.
    since: Instant,
    /// When the device was last heard, as far as this transfer knows.
    heard: Option<Instant>,
    /// Whether it was ever heard since its request came.
    met: bool,
    /// How often it was asked in vain.
    tries: usize,
    /// When to ask again, if it does not answer.
    ask: Option<Instant>,
    /// Until when the transfer waits for it.
    until: Option<Instant>,
}

impl Recipient {
    /// The device at an address, which must show that it is there after `since`, when its request came.
    pub(super) const fn new(device: (Ipv4Addr, MacAddr), since: Instant) -> Self {
        Self { device, since, heard: None, met: false, tries: 0, ask: None, until: None }
    }

    /// Whether it was ever heard since its request came.
    pub(super) const fn was_there(&self) -> bool {
        self.met
    }

    /// If what was sent got no answer until `due`, as from a device that was unplugged, what it said before counts no more, so
    /// that what is sent again is not sent to everybody.
    pub(super) fn doubt_after(&mut self, due: Option<Instant>, now: Instant) {
        if due.is_some_and(|due| now >= due) {
            (self.since, self.heard, self.tries, self.ask) = (now, None, 0, None);
        }
    }

    /// Whether something may leave for it now. It is asked if it was not heard lately.
    pub(super) fn is_there(&mut self, site: &mut SiteState, now: Instant) -> bool {
        if self.heard.is_some_and(|heard| now < heard + RENEW) {
            return true;
        }
        let last = site.presences.devices.get(&self.device).and_then(|it| it.heard).filter(|at| *at >= self.since);
        if last > self.heard {
            (self.heard, self.met, self.tries, self.ask) = (last, true, 0, None);
        }
        if self.heard.is_none_or(|heard| now >= heard + RENEW) {
            self.ask_if_due(site, now);
        }
        self.heard.is_some_and(|heard| now < heard + FRESH)
    }

    /// The transfer waits for it for so long at most.
    pub(super) fn wait(&mut self, site: &mut SiteState, ticket: Ticket, patience: Duration, now: Instant) {
        self.until = Some(now + patience);
        if let Some(presence) = site.presences.admit(self.device, now) {
            presence.waiting.push(ticket);
        }
    }

    /// The transfer waits no more.
    pub(super) fn leave(&mut self, site: &mut SiteState, ticket: Ticket) {
        self.until = None;
        if let Some(presence) = site.presences.devices.get_mut(&self.device) {
            presence.waiting.retain(|other| *other != ticket);
        }
    }

    /// Whether the transfer has waited long enough. If not, the device is asked again once it is time.
    pub(super) fn is_given_up(&mut self, site: &mut SiteState, now: Instant) -> bool {
        let over = self.until.is_none_or(|until| now >= until);
        if !over {
            self.ask_if_due(site, now);
        }
        over
    }

    /// When to call [`Recipient::is_given_up`].
    pub(super) fn due(&self) -> Option<Instant> {
        [self.ask, self.until].into_iter().flatten().min()
    }

    /// First only the device itself is asked; then everyone, should nothing reach it alone.
    fn ask_if_due(&mut self, site: &mut SiteState, now: Instant) {
        if self.ask.is_some_and(|ask| now < ask) {
            return;
        }
        let again = ASK_AGAIN.get(self.tries).or(ASK_AGAIN.last()).copied().unwrap_or(RENEW);
        if site.presences.may_ask(self.device, now) {
            let (address, mac) = self.device;
            site.events.push_back(Event::Ask { address, mac: (self.tries == 0).then_some(mac) });
        }
        (self.tries, self.ask) = (self.tries.saturating_add(1), Some(now + again));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::service::epoch;

    #[test]
    fn devices_are_bounded_and_answers_that_nobody_asked_for_leave_nothing() {
        let (mut presences, now) = (Presences::default(), epoch());
        let mac = MacAddr::new([0, 4, 0xf2, 0, 0, 1]);
        let phone = |number: u32| (Ipv4Addr::from(0x0a00_0000 + number), mac);
        assert!(presences.heard(phone(1).0, mac, now).is_empty() && presences.devices.is_empty());
        let asked = (0..3000).filter(|number| presences.may_ask(phone(*number), now)).count();
        assert_eq!((asked, presences.devices.len()), (MAX_DEVICES, MAX_DEVICES));
        presences.devices.get_mut(&phone(7)).into_iter().for_each(|it| it.waiting.push(Ticket::new(1, 1)));
        assert!(presences.may_ask(phone(3000), now + FRESH));
        assert_eq!(presences.devices.len(), 2, "one waits, and one was asked just now");
        assert!(presences.heard(phone(7).0, MacAddr::new([2; 6]), now + FRESH).is_empty(), "somebody else");
        assert_eq!(presences.heard(phone(7).0, mac, now + FRESH), [Ticket::new(1, 1)]);
        assert!(presences.heard(phone(7).0, mac, now + FRESH).is_empty());
    }
}
