//! What the record carries over a restart beyond what it shows: plain values and their limits.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::moment::{ClockReading, Kept};
use api::check_in::report::content_digits;
use api::{Alert, AlertCode, PhoneSeen, TransferEnd};
use ids::{Digest, Generation, MacAddr, UnixTime};

/// The most files of one phone whose outcome is remembered. The file that was not asked for longest makes room.
pub const MAX_FILES_PER_PHONE: usize = 16;
/// The most files of all phones together whose outcome is remembered.
pub const MAX_FILES: usize = 4_096;

/// How the last request of one phone for one file ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct FileSeen {
    /// The MAC address of the phone, which is one of the inventory.
    pub mac: MacAddr,
    /// The file name as the phone asked for it.
    pub file: String,
    /// The time at which the request ended.
    pub at: UnixTime,
    /// The bytes of the file that the phone acknowledged.
    pub bytes: u64,
    /// The generation of the release that the file was served from.
    pub generation: Generation,
    /// The code of the [`api::FileOutcome`].
    pub outcome: String,
    /// How often the phone fetched it, and what it got.
    #[serde(default)]
    pub fetches: FileFetches,
}

/// What one phone's requests for one file came to, all together.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub struct FileFetches {
    /// How often the phone got it whole.
    pub deliveries: u64,
    /// How often a request for it ended otherwise.
    pub failures: u64,
    /// The generation that it was last delivered from; 0 if it never was.
    pub generation: Generation,
    /// SHA-256 of what was last delivered, in the digits of a check-in; empty if it never was.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub content: String,
}

/// What of the record is kept over a restart, as plain values for whoever writes them to a disk.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StatsMemory {
    /// Each device that asked for a file, with its last request.
    pub phones: Vec<PhoneSeen>,
    /// The outcome of each file that a phone of the inventory asked for.
    pub files: Vec<FileSeen>,
    /// Counters by name. They go on from these values after a restart.
    pub counters: BTreeMap<String, u64>,
    /// The alerts that no check-in has carried to HQ yet.
    pub untold: Vec<Alert>,
}

/// The part of the record that outlasts a restart and that only `status::report` and `status::memory` read.
#[derive(Debug, Default)]
pub(super) struct CarriedOver {
    /// The last outcome of each file of each phone of the inventory.
    pub(super) files: BTreeMap<(MacAddr, String), Kept<FileSeen>>,
    /// Code and text of the alerts that no check-in has carried yet.
    pub(super) untold: BTreeSet<(String, String)>,
    /// Code and text of the alerts of an earlier run. They are shown until a check-in has carried them.
    pub(super) recalled: BTreeSet<(String, String)>,
}

impl CarriedOver {
    /// Remembers how a request that just ended, for a file of this content, adds to those before.
    pub(super) fn asked(&mut self, mut seen: FileSeen, content: Option<Digest>, now: ClockReading) {
        let before = self.files.get(&(seen.mac, seen.file.clone()));
        seen.fetches = before.map(|before| before.value.fetches.clone()).unwrap_or_default();
        let fetches = &mut seen.fetches;
        if seen.outcome == TransferEnd::Delivered.code() {
            fetches.deliveries = fetches.deliveries.saturating_add(1);
            fetches.generation = seen.generation;
            fetches.content = content.as_ref().map(content_digits).unwrap_or_default();
        } else {
            fetches.failures = fetches.failures.saturating_add(1);
        }
        self.file(Kept::now(seen, now));
    }

    /// Remembers how a request of a phone of the inventory ended, and drops the oldest outcome where a limit is
    /// reached.
    pub(super) fn file(&mut self, seen: Kept<FileSeen>) {
        let (mac, age) = (seen.value.mac, |seen: &Kept<FileSeen>| (seen.up, seen.value.at));
        let key = (mac, seen.value.file.clone());
        if !self.files.contains_key(&key) {
            let of_phone = self.files.range((mac, String::new())..).take_while(|((of, _), _)| *of == mac);
            let oldest = if of_phone.clone().count() >= MAX_FILES_PER_PHONE {
                of_phone.min_by_key(|(_, seen)| age(seen)).map(|(key, _)| key.clone())
            } else if self.files.len() >= MAX_FILES {
                self.files.iter().min_by_key(|(_, seen)| age(seen)).map(|(key, _)| key.clone())
            } else {
                None
            };
            if let Some(oldest) = oldest {
                self.files.remove(&oldest);
            }
        }
        self.files.insert(key, seen);
    }

    /// Notes that an alert was raised. If it is `new`, HQ has to hear of it.
    pub(super) fn raised(&mut self, key: &(String, String), new: bool) {
        self.recalled.remove(key);
        if new {
            self.untold.insert(key.clone());
        }
    }

    /// Forgets the alerts of this code, because their cause has gone.
    pub(super) fn cleared(&mut self, code: AlertCode) {
        self.untold.retain(|(known, _)| known != code.code());
        self.recalled.retain(|(known, _)| known != code.code());
    }

    /// Forgets one alert, because its cause has gone.
    pub(super) fn cleared_one(&mut self, key: &(String, String)) {
        self.untold.remove(key);
        self.recalled.remove(key);
    }
}
