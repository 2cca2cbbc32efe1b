//! The alerts of the record. Any device of a LAN can cause some of them as often as it likes, so each code has places of
//! its own, which no other code can take, and an end ([`AlertEnd`]).

use std::time::Duration;

use super::moment::{ClockReading, Kept};
use super::stats::{Record, Stats, add, shortened};
use api::{Alert, AlertCode, AlertEnd};

/// The most texts of one code at a time. Further ones are counted in one more alert that says so, and as `alert.dropped`.
pub const MAX_TEXTS_PER_CODE: usize = 7;
/// The most alerts at a time.
pub const MAX_ALERTS: usize = AlertCode::ALL.len() * (MAX_TEXTS_PER_CODE + 1);
/// How long an alert stays at least that HQ has not heard of.
const UNTOLD: Duration = Duration::from_secs(7 * 86_400);

/// The code and the text of an alert.
pub(super) type AlertKey = (String, String);

impl Stats {
    /// Raises an alert, which people should look at. An alert with the same code and text counts up instead.
    pub fn alert(&self, code: AlertCode, text: String) {
        let now = self.reading();
        self.lock().alert(code, text, now);
    }

    /// What this alert tells of goes on. It stays, and does not count up. False if there is no such alert any more.
    pub fn alert_stands(&self, code: AlertCode, text: &str) -> bool {
        let now = self.reading();
        let key = (code.code().to_owned(), shortened(text.to_owned()));
        let mut record = self.lock();
        let stands = record.alerts.contains_key(&key);
        if let Some(last) = record.raised.get_mut(&key).filter(|_| stands) {
            *last = now.up;
        }
        stands
    }

    /// Removes the alert of this code and text, because its cause has gone.
    pub fn end_alert(&self, code: AlertCode, text: &str) {
        self.lock().clear_one(code, text);
    }

    /// Removes the alerts of this code whose text names this device or address, because something else explains them.
    pub fn end_alerts(&self, code: AlertCode, naming: &str) {
        let mut record = self.lock();
        let named = |(_, text): &&AlertKey| text.contains(naming);
        let texts: Vec<String> = record.texts_of(code).filter(named).map(|(_, text)| text.clone()).collect();
        texts.iter().for_each(|text| record.clear_one(code, text));
    }

    /// Removes all alerts of this code, because their cause has gone.
    pub fn clear_alert(&self, code: AlertCode) {
        self.lock().clear(code);
    }
}

impl Record {
    pub(super) fn alert(&mut self, code: AlertCode, text: String, now: ClockReading) {
        self.end_quiet_alerts(now);
        add(&mut self.counters, &format!("alert.{code}"), 1);
        let more = (code.code().to_owned(), more_in_words(code));
        let mut key = (code.code().to_owned(), shortened(text));
        if !self.alerts.contains_key(&key)
            && self.texts_of(code).filter(|it| **it != more).count() >= MAX_TEXTS_PER_CODE
        {
            add(&mut self.counters, "alert.dropped", 1);
            key = more;
        }
        self.raised.insert(key.clone(), now.up);
        self.carried_over.raised(&key, !self.alerts.contains_key(&key));
        match self.alerts.entry(key) {
            std::collections::btree_map::Entry::Occupied(mut known) => {
                let alert = &mut known.get_mut().value;
                alert.count = alert.count.saturating_add(1);
            }
            std::collections::btree_map::Entry::Vacant(place) => {
                let (code, text) = place.key().clone();
                place.insert(Kept::now(Alert { code, text, since: now.wall, count: 1 }, now));
            }
        }
    }

    fn texts_of(&self, code: AlertCode) -> impl Iterator<Item = &AlertKey> {
        let from = (code.code().to_owned(), String::new());
        self.alerts.range(from..).map(|(key, _)| key).take_while(move |(known, _)| known == code.code())
    }

    pub(super) fn clear(&mut self, code: AlertCode) {
        self.alerts.retain(|(known, _), _| known != code.code());
        self.carried_over.cleared(code);
    }

    pub(super) fn clear_one(&mut self, code: AlertCode, text: &str) {
        let key = (code.code().to_owned(), shortened(text.to_owned()));
        self.alerts.remove(&key);
        self.carried_over.cleared_one(&key);
        let more = (code.code().to_owned(), more_in_words(code));
        if self.texts_of(code).all(|key| *key == more) {
            self.clear(code);
        }
    }

    /// Ends the alerts whose events are long over.
    pub(super) fn end_quiet_alerts(&mut self, now: ClockReading) {
        let Self { alerts, raised, carried_over, started, .. } = self;
        alerts.retain(|key, _| {
            let end = AlertCode::from_code(&key.0).map(AlertCode::end);
            let Some(AlertEnd::AfterQuiet(quiet)) = end else { return true };
            let quiet = if carried_over.untold.contains(key) { quiet.max(UNTOLD) } else { quiet };
            let last = raised.get(key).unwrap_or(started);
            let stays = now.up.saturating_sub(*last) < quiet;
            if !stays {
                carried_over.cleared_one(key);
            }
            stays
        });
        raised.retain(|key, _| alerts.contains_key(key));
    }
}

/// The text of the alert that stands for all of its code that find no room.
fn more_in_words(code: AlertCode) -> String {
    format!("there are more of these than are shown; the counter alert.{code} has their number")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;
    use crate::StatusReport;
    use crate::stats::MAX_TEXT_BYTES;
    use ids::UnixTime;

    const DAY: u64 = 86_400;

    #[test]
    fn the_same_alert_again_counts_up_and_can_be_cleared() {
        let stats = Stats::new();
        stats.alert(AlertCode::GuessingDevice, "x".to_owned());
        stats.alert(AlertCode::GuessingDevice, "x".to_owned());
        assert_eq!(stats.lock().alerts.values().map(|alert| alert.value.count).collect::<Vec<_>>(), [2]);
        stats.clear_alert(AlertCode::GuessingDevice);
        assert!(stats.lock().alerts.is_empty());
    }

    #[test]
    fn one_alert_ends_alone_and_those_that_name_a_device_together() {
        let stats = Stats::new();
        for text in ["02:00:00:00:00:01 took it", "02:00:00:00:00:02 took it", "it is 02:00:00:00:00:01's again"] {
            stats.alert(AlertCode::AddressConflict, text.to_owned());
        }
        stats.alert(AlertCode::GuessingDevice, "02:00:00:00:00:01 guesses".to_owned());
        stats.end_alerts(AlertCode::AddressConflict, "02:00:00:00:00:01");
        let left = |stats: &Stats| stats.lock().alerts.keys().map(|(_, text)| text.clone()).collect::<Vec<_>>();
        assert_eq!(left(&stats), ["02:00:00:00:00:02 took it", "02:00:00:00:00:01 guesses"]);
        assert!(stats.alert_stands(AlertCode::AddressConflict, "02:00:00:00:00:02 took it"));
        stats.end_alert(AlertCode::AddressConflict, "02:00:00:00:00:02 took it");
        assert!(!stats.alert_stands(AlertCode::AddressConflict, "02:00:00:00:00:02 took it"));
        assert_eq!(left(&stats), ["02:00:00:00:00:01 guesses"]);
    }

    #[test]
    fn a_flood_of_one_code_takes_no_other_codes_place_and_says_that_there_is_more() {
        let (_, stats) = at(0);
        for number in 0..200 {
            stats.alert(AlertCode::AddressConflict, format!("{number} {}", "ä".repeat(300)));
        }
        // Everything else that may be wrong is told all the same.
        for code in AlertCode::ALL {
            stats.alert(*code, "afterwards".to_owned());
        }
        let alerts = StatusReport::of(&stats).alerts;
        for code in AlertCode::ALL.iter().filter(|code| **code != AlertCode::AddressConflict) {
            assert!(alerts.iter().any(|alert| alert.code == code.code() && alert.text == "afterwards"), "{code}");
        }
        let flood: Vec<&Alert> = alerts.iter().filter(|alert| alert.code == "address-conflict").collect();
        assert_eq!(flood.len(), MAX_TEXTS_PER_CODE + 1);
        let more = flood.iter().find(|alert| alert.text.starts_with("there are more")).unwrap();
        assert_eq!(more.count, 201 - MAX_TEXTS_PER_CODE as u64);
        assert_eq!(stats.counter("alert.dropped"), more.count);
        assert!(alerts.len() <= MAX_ALERTS && alerts.iter().all(|alert| alert.text.len() <= MAX_TEXT_BYTES));
        stats.clear_alert(AlertCode::AddressConflict);
        assert!(StatusReport::of(&stats).alerts.iter().all(|alert| alert.code != "address-conflict"));
    }

    #[test]
    fn every_event_ends_after_its_quiet_time_and_what_stands_does_not() {
        for code in AlertCode::ALL {
            let (clock, stats) = at(0);
            let shown = || StatusReport::of(&stats).alerts;
            stats.alert(*code, "one".to_owned());
            stats.told(&shown());
            let AlertEnd::AfterQuiet(quiet) = code.end() else {
                clock.store(400 * DAY, Ordering::Relaxed);
                assert_eq!(shown().len(), 1, "{code} ends with its cause");
                continue;
            };
            let quiet = quiet.as_secs();
            clock.store(quiet - 1, Ordering::Relaxed);
            assert_eq!(shown().len(), 1, "{code}");
            stats.alert(*code, "one".to_owned());
            clock.store(2 * quiet - 2, Ordering::Relaxed);
            assert_eq!((shown().len(), shown()[0].since), (1, UnixTime(0)), "{code}: it came again");
            stats.alert_stands(*code, "one");
            clock.store(3 * quiet - 3, Ordering::Relaxed);
            assert_eq!((shown().len(), shown()[0].count), (1, 2), "{code}: it went on");
            clock.store(3 * quiet, Ordering::Relaxed);
            assert_eq!(shown(), []);
        }
    }

    #[test]
    fn what_hq_has_not_heard_of_waits_for_a_week_and_an_earlier_runs_alert_as_well() {
        let (clock, stats) = at(0);
        stats.alert(AlertCode::GuessingDevice, "seen".to_owned());
        clock.store(6 * DAY, Ordering::Relaxed);
        assert_eq!(stats.memory().untold.len(), 1);
        let (later, after) = at(50 * DAY);
        after.recall(stats.memory());
        later.store(56 * DAY, Ordering::Relaxed);
        assert_eq!(StatusReport::of(&after).alerts.len(), 1);
        later.store(57 * DAY, Ordering::Relaxed);
        assert_eq!((StatusReport::of(&after).alerts.len(), after.memory().untold.len()), (0, 0));
        clock.store(7 * DAY, Ordering::Relaxed);
        assert_eq!(stats.memory().untold.len(), 0);
    }

    #[test]
    fn the_hint_at_more_ends_with_the_last_of_its_code() {
        let (clock, stats) = at(0);
        for number in 0..20_u64 {
            clock.store(number, Ordering::Relaxed);
            stats.alert(AlertCode::AddressConflict, format!("{number}"));
        }
        stats.told(&StatusReport::of(&stats).alerts);
        clock.store(DAY + 6, Ordering::Relaxed);
        let alerts = StatusReport::of(&stats).alerts;
        assert!(alerts.len() == 1 && alerts[0].text.starts_with("there are more"), "{alerts:?}");
        stats.alert(AlertCode::AddressConflict, "a new one".to_owned());
        assert!(StatusReport::of(&stats).alerts.iter().any(|alert| alert.text == "a new one"), "there is room again");
        clock.store(DAY + 19, Ordering::Relaxed);
        assert_eq!(StatusReport::of(&stats).alerts.len(), 1, "the hint has its own quiet time");
    }

    /// A record whose clocks show what the caller sets, in seconds.
    fn at(second: u64) -> (Arc<AtomicU64>, Stats) {
        let clock = Arc::new(AtomicU64::new(second));
        let read = Arc::clone(&clock);
        let stats = Stats::with_clock(Arc::new(move || {
            let second = read.load(Ordering::Relaxed);
            ClockReading { wall: UnixTime(i64::try_from(second).unwrap()), up: Duration::from_secs(second) }
        }));
        (clock, stats)
    }
}
