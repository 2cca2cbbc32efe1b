//! Phones that `augment` did not help, and whether people can do something about it. Pure.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::augment::NotCompleted;
use ids::UnixTime;

/// What has not happened for so long is over.
pub(super) const FORGOTTEN_AFTER: Duration = Duration::from_secs(3600);
/// So many requests that were not completed, and none that was, are no accident.
const MANY: u32 = 5;
/// So many offers without a lease time are no accident. A router says it in each offer or in none.
const SOME: u32 = 3;

/// What came of the phones' requests of late.
#[derive(Debug, Default)]
pub(super) struct CompletionWatch {
    /// Since the last request that was completed: how often each thing went wrong, and when it did last.
    failed: BTreeMap<&'static str, Failed>,
}

#[derive(Debug)]
struct Failed {
    reason: NotCompleted,
    count: u32,
    last: UnixTime,
}

impl CompletionWatch {
    /// A phone was helped. What went wrong before it was an accident, but for messages without room: that is so for each
    /// phone of a family.
    pub(super) fn completed(&mut self) {
        self.failed.retain(|_, failed| failed.reason == NotCompleted::NoRoom);
    }

    /// A phone was not helped.
    pub(super) fn failed(&mut self, reason: NotCompleted, now: UnixTime) {
        let failed = self.failed.entry(reason.counter()).or_insert(Failed { reason, count: 0, last: now });
        (failed.count, failed.last) = (failed.count.saturating_add(1), now);
    }

    /// What to tell people. `has_server` says whether there is a router whose leases could be completed.
    pub(super) fn texts(&mut self, has_server: bool, now: UnixTime) -> Vec<String> {
        self.failed.retain(|_, failed| now.since(failed.last) < FORGOTTEN_AFTER);
        let texts = self.failed.values().filter_map(|failed| {
            let enough = match failed.reason {
                NotCompleted::NoRoom | NotCompleted::Forged => 1,
                NotCompleted::NoLeaseTime => SOME,
                _ => MANY,
            };
            words(failed.reason, has_server).filter(|_| failed.count >= enough)
        });
        texts.map(str::to_owned).collect()
    }

    /// The system clock was set, by so many seconds.
    pub(super) fn shift(&mut self, seconds: i64) {
        self.failed.values_mut().for_each(|failed| failed.last.0 = failed.last.0.saturating_add(seconds));
    }
}

/// The cause and what to do, unless another alert says it.
const fn words(reason: NotCompleted, has_server: bool) -> Option<&'static str> {
    match reason {
        NotCompleted::NoRoom => Some(
            "the router's answer leaves no room for options 66 and 150 within what a phone takes; let it hand out fewer \
             options, or enter 66/150 there (`lineside doctor` prints the line)",
        ),
        NotCompleted::NotRelayed if has_server => Some(
            "phones ask more often than their requests may be passed on to the router, and none was helped of late; look \
             for a device that floods the LAN with DHCPDISCOVER",
        ),
        NotCompleted::Unknown => Some(
            "phones start with leases that this box did not see being made, and none was helped of late; clear the lease \
             on the phone, or wait until it ends",
        ),
        NotCompleted::OtherServer => Some(
            "phones take leases that this box knows nothing of, and none was helped of late; does another DHCP server \
             answer them, or the router only some requests? `lineside doctor` says",
        ),
        NotCompleted::Address => Some(
            "phones are leased addresses that other devices have, or that are not of this LAN, and none was helped of \
             late; look at the router's range",
        ),
        NotCompleted::NoLeaseTime => Some(
            "the router's offers say no lease time (option 51), so its leases cannot be completed; correct that there, or \
             enter 66/150 there",
        ),
        NotCompleted::RapidCommit => Some(
            "phones ask for a lease at once (rapid commit, option 80) and the router grants it, so only their next start \
             is completed; switch rapid commit off in the router",
        ),
        NotCompleted::Late => Some(
            "the router answers this box later than phones take its leases, so only their next start is completed; if it pings \
             addresses first (`ping-check` of ISC dhcpd), switch that off, or enter 66/150 there",
        ),
        NotCompleted::Forged => Some(
            "offers came in the name of a router that was not asked for them: somebody forges them, and they are not used; \
             find the device",
        ),
        // Without a server `dhcp-mode` says so, and a router that refused a phone is named by `dhcp-augment-nak`.
        NotCompleted::NotRelayed | NotCompleted::Quiet | NotCompleted::Malformed => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: UnixTime = UnixTime(1_700_000_000);
    /// What `status` keeps of the text of an alert.
    const MAX_ALERT_BYTES: usize = 255;

    #[test]
    fn a_message_without_room_is_told_at_once_and_the_rest_when_nobody_is_helped() {
        let mut watch = CompletionWatch::default();
        watch.failed(NotCompleted::NoRoom, NOW);
        assert!(watch.texts(true, NOW).iter().any(|text| text.contains("no room")));
        for _ in 1..MANY {
            watch.failed(NotCompleted::Unknown, NOW);
        }
        assert_eq!(watch.texts(true, NOW).len(), 1);
        watch.failed(NotCompleted::Unknown, NOW);
        assert!(watch.texts(true, NOW).iter().any(|text| text.contains("did not see being made")));
        watch.completed();
        assert_eq!(watch.texts(true, NOW).len(), 1);
        assert_eq!(watch.texts(true, NOW.plus(FORGOTTEN_AFTER)), [""; 0], "an hour later it is over");
    }

    #[test]
    fn one_offer_without_a_lease_time_is_an_accident_and_several_are_not() {
        let mut watch = CompletionWatch::default();
        for number in 1..=SOME {
            watch.failed(NotCompleted::NoLeaseTime, NOW);
            assert_eq!(watch.texts(true, NOW).len(), usize::from(number == SOME), "{number}");
        }
        watch.completed();
        watch.failed(NotCompleted::NoLeaseTime, NOW);
        assert_eq!(watch.texts(true, NOW), [""; 0], "the router says it after all");
    }

    #[test]
    fn each_reason_that_costs_a_phone_its_files_has_words_here_or_an_alert_of_its_own() {
        for reason in NotCompleted::ALL {
            let elsewhere = matches!(reason, NotCompleted::Quiet | NotCompleted::Malformed);
            assert_eq!(words(reason, true).is_none(), elsewhere, "{reason:?}");
            assert!(words(reason, true).is_none_or(|text| text.len() < MAX_ALERT_BYTES), "{reason:?}");
        }
    }
}
