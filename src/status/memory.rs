//! Takes out of the record what outlives the process, and puts it back. `appliance::memory` writes it to the disk.
//!
//! All of it may be lost. It informs people, and changes nothing that a phone can see.

use super::moment::Kept;
use super::stats::{MAX_ALERTS, MAX_DEVICES, MAX_TEXT_BYTES, Record, Stats};
use api::Alert;

pub use super::carried_over::{FileFetches, FileSeen, MAX_FILES, MAX_FILES_PER_PHONE, StatsMemory};

/// The most counters that are taken from an earlier run.
pub const MAX_COUNTERS: usize = 1_024;

impl Stats {
    /// A copy of what is kept over a restart, as it is now.
    pub fn memory(&self) -> StatsMemory {
        let now = self.reading();
        let mut inner = self.lock();
        inner.end_quiet_alerts(now);
        let untold = inner.carried_over.untold.iter().filter_map(|key| inner.alerts.get(key));
        StatsMemory {
            phones: inner.devices.values().map(|seen| seen.dated(now)).collect(),
            files: inner.carried_over.files.values().map(|seen| seen.dated(now)).collect(),
            counters: inner.counters.clone(),
            untold: untold.map(|alert| alert.dated(now)).collect(),
        }
    }

    /// Adds what an earlier run kept. Where this run knows newer values, those stay. The usual limits hold.
    pub fn recall(&self, memory: StatsMemory) {
        let mut inner = self.lock();
        for phone in memory.phones.into_iter().filter(|phone| short(&[&phone.file, &phone.outcome])) {
            if inner.devices.len() < MAX_DEVICES {
                inner.devices.entry(phone.mac).or_insert(Kept::earlier(phone));
            }
        }
        for seen in memory.files.into_iter().filter(|seen| short(&[&seen.file, &seen.outcome])) {
            if !inner.carried_over.files.contains_key(&(seen.mac, seen.file.clone())) {
                inner.carried_over.file(Kept::earlier(seen));
            }
        }
        for (name, value) in memory.counters.into_iter().filter(|(name, _)| short(&[name])).take(MAX_COUNTERS) {
            inner.marks.recall(&name, value);
            let counter = inner.counters.entry(name).or_default();
            *counter = counter.saturating_add(value);
        }
        for alert in memory.untold.into_iter().filter(|alert| short(&[&alert.code, &alert.text])) {
            let key = (alert.code.clone(), alert.text.clone());
            if inner.alerts.len() < MAX_ALERTS && !inner.alerts.contains_key(&key) {
                inner.alerts.insert(key.clone(), Kept::earlier(alert));
                inner.carried_over.untold.insert(key.clone());
                inner.carried_over.recalled.insert(key);
            }
        }
    }

    /// Notes that HQ has heard these alerts. Those that only an earlier run raised are removed.
    pub fn told(&self, alerts: &[Alert]) {
        let mut inner = self.lock();
        let Record { alerts: shown, carried_over, .. } = &mut *inner;
        for alert in alerts {
            let key = (alert.code.clone(), alert.text.clone());
            carried_over.untold.remove(&key);
            if carried_over.recalled.remove(&key) {
                shown.remove(&key);
            }
        }
    }
}

fn short(texts: &[&str]) -> bool {
    texts.iter().all(|text| text.len() <= MAX_TEXT_BYTES)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]
    use std::net::Ipv4Addr;
    use std::time::Duration;

    use api::{AlertCode, FileOutcome, FileRefusal, TransferEnd};
    use ids::{Generation, MacAddr, UnixTime};

    use super::*;

    use crate::{StatusReport, TransferRecord};

    fn asked(stats: &Stats, last: u16, known: bool, file: &str, outcome: impl Into<FileOutcome>) {
        let [high, low] = last.to_be_bytes();
        stats.transfer(TransferRecord {
            device: Some(MacAddr::new([2, 0, 0, 0, high, low])),
            known,
            address: Ipv4Addr::LOCALHOST,
            file: file.to_owned(),
            bytes: 10,
            retransmissions: 0,
            duration: Duration::from_millis(3),
            generation: Generation(4),
            content: None,
            outcome: outcome.into(),
        });
    }

    #[test]
    fn a_new_run_knows_what_the_last_one_saw() {
        let before = Stats::new();
        asked(&before, 1, true, "a.cfg", TransferEnd::Delivered);
        asked(&before, 1, true, "b.cfg", TransferEnd::TimedOut);
        asked(&before, 2, false, "c.cfg", FileRefusal::UnknownDevice);
        before.alert(AlertCode::AddressConflict, "two at one".to_owned());
        let after = Stats::new();
        after.count("tftp.delivered");
        after.recall(before.memory());
        let report = StatusReport::of(&after);
        assert_eq!(report.phones.len(), 2);
        let files: Vec<_> = report.files.iter().map(|seen| (seen.file.as_str(), seen.outcome.as_str())).collect();
        assert_eq!(files, [("a.cfg", "delivered"), ("b.cfg", "timed-out")]);
        assert_eq!((report.counters["tftp.delivered"], report.alerts.len()), (2, 1));
        assert!(report.transfers.is_empty());
    }

    #[test]
    fn an_alert_of_an_earlier_run_stays_until_hq_has_heard_it() {
        let before = Stats::new();
        before.alert(AlertCode::AddressConflict, "two at one".to_owned());
        before.alert(AlertCode::GuessingDevice, "told in time".to_owned());
        before.told(&StatusReport::of(&before).alerts[1..]);
        assert_eq!(StatusReport::of(&before).alerts.len(), 2, "what this run has seen stays in sight");
        let after = Stats::new();
        after.recall(before.memory());
        let alerts = StatusReport::of(&after).alerts;
        assert_eq!(alerts.iter().map(|alert| alert.text.as_str()).collect::<Vec<_>>(), ["two at one"]);
        after.told(&alerts);
        assert_eq!((StatusReport::of(&after).alerts.len(), after.memory().untold.len()), (0, 0));
    }

    #[test]
    fn an_alert_that_comes_back_or_is_over_is_not_of_an_earlier_run_any_more() {
        let before = Stats::new();
        before.alert(AlertCode::AddressConflict, "again".to_owned());
        before.alert(AlertCode::Certificate, "over".to_owned());
        let after = Stats::new();
        after.recall(before.memory());
        after.alert(AlertCode::AddressConflict, "again".to_owned());
        after.clear_alert(AlertCode::Certificate);
        let alerts = StatusReport::of(&after).alerts;
        assert_eq!((alerts.len(), alerts[0].count), (1, 2));
        after.told(&alerts);
        assert_eq!((StatusReport::of(&after).alerts.len(), after.memory().untold.len()), (1, 0));
    }

    #[test]
    fn what_is_remembered_is_bounded_whatever_comes_back() {
        let stats = Stats::new();
        for number in 0..1_000u16 {
            for file in 0..20 {
                asked(&stats, number, true, &format!("{file}.cfg"), TransferEnd::Delivered);
            }
        }
        let memory = stats.memory();
        assert_eq!(memory.files.len(), MAX_FILES);
        let mut too_much = memory.clone();
        too_much.counters = (0..5_000).map(|number| (number.to_string(), 1)).collect();
        too_much.phones.iter_mut().for_each(|phone| phone.file = "x".repeat(MAX_TEXT_BYTES + 1));
        let alert = |number| Alert { code: "x".into(), text: format!("{number}"), since: UnixTime(0), count: 1 };
        too_much.untold = (0..500).map(alert).collect();
        let after = Stats::new();
        after.recall(too_much);
        let after = after.memory();
        assert_eq!((after.files.len(), after.phones.len()), (MAX_FILES, 0));
        assert_eq!((after.counters.len(), after.untold.len()), (MAX_COUNTERS, MAX_ALERTS));
    }
}
