//! Phones whose lease we completed and who have not fetched a file yet. Pure but for what it reports.

use std::collections::BTreeMap;
use std::time::Duration;

use api::AlertCode;
use ids::{MacAddr, UnixTime};
use status::Stats;

/// How long a phone has to ask for its first file. Phones take up to four minutes to boot.
pub(super) const FETCH_WITHIN: Duration = Duration::from_secs(600);
/// The most phones that are expected at a time.
const MAX_EXPECTED: usize = 1024;

/// The phones that are expected, and since when each is.
#[derive(Debug, Default)]
pub(super) struct FetchWatch(BTreeMap<MacAddr, UnixTime>);

impl FetchWatch {
    /// A phone is about to boot.
    pub(super) fn expect(&mut self, phone: MacAddr, now: UnixTime) {
        if self.0.len() < MAX_EXPECTED || self.0.contains_key(&phone) {
            self.0.entry(phone).or_insert(now);
        }
    }

    /// Reports phones that never came: a switch may have dropped what we sent (DHCP snooping).
    pub(super) fn report_missing(&mut self, stats: &Stats, now: UnixTime) {
        self.0.retain(|mac, since| {
            let came = stats.last_seen(*mac).is_some_and(|seen| seen >= *since);
            let due = now.since(*since) >= FETCH_WITHIN;
            if due && !came {
                let text = format!(
                    "{mac} got its lease completed and never asked for a file; does a switch filter DHCP (snooping)?"
                );
                stats.alert(AlertCode::DhcpNeverCame, text);
            }
            !came && !due
        });
    }

    /// The system clock was set, by so many seconds.
    pub(super) fn shift(&mut self, seconds: i64) {
        self.0.values_mut().for_each(|since| since.0 = since.0.saturating_add(seconds));
    }
}
