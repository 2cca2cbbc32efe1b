//! What a record knows beyond what it shows: plain values, and their bounds.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use api::{Alert, AlertCode, PhoneSeen};
use ids::{Generation, MacAddr, UnixTime};

/// The most files of one phone whose outcome is remembered; the one not asked for longest makes room.
pub const MAX_FILES_PER_PHONE: usize = 16;
/// The most files of all phones.
pub const MAX_FILES: usize = 4_096;

/// How the last request of one phone for one file ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct FileSeen {
    /// Which phone, one of the inventory.
    pub mac: MacAddr,
    /// Which file, as asked.
    pub file: String,
    /// When it ended.
    pub at: UnixTime,
    /// Bytes acknowledged.
    pub bytes: u64,
    /// The release that it was served from.
    pub generation: Generation,
    /// How it ended: the code of an [`api::FileOutcome`].
    pub outcome: String,
}

/// What is worth keeping over a restart.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StatsMemory {
    /// Devices seen.
    pub phones: Vec<PhoneSeen>,
    /// What became of each file that a phone of the inventory asked for.
    pub files: Vec<FileSeen>,
    /// Counters, which go on where they stood.
    pub counters: BTreeMap<String, u64>,
    /// The check-in's outbox: alerts that HQ has not heard of yet.
    pub untold: Vec<Alert>,
}

/// What one record knows beyond what it shows.
#[derive(Debug, Default)]
pub(super) struct CarriedOver {
    pub(super) files: BTreeMap<(MacAddr, String), FileSeen>,
    /// Alerts that no check-in has carried yet.
    pub(super) untold: BTreeSet<(String, String)>,
    /// Alerts of an earlier run, which stay until HQ has heard them.
    pub(super) recalled: BTreeSet<(String, String)>,
}

impl CarriedOver {
    /// A phone of the inventory was served, or not.
    pub(super) fn file(&mut self, seen: FileSeen) {
        let key = (seen.mac, seen.file.clone());
        if !self.files.contains_key(&key) {
            let of_phone = self.files.range((seen.mac, String::new())..).take_while(|((mac, _), _)| *mac == seen.mac);
            let oldest = if of_phone.clone().count() >= MAX_FILES_PER_PHONE {
                of_phone.min_by_key(|(_, seen)| seen.at).map(|(key, _)| key.clone())
            } else if self.files.len() >= MAX_FILES {
                self.files.iter().min_by_key(|(_, seen)| seen.at).map(|(key, _)| key.clone())
            } else {
                None
            };
            if let Some(oldest) = oldest {
                self.files.remove(&oldest);
            }
        }
        self.files.insert(key, seen);
    }

    /// An alert was raised; `new` if it was not up already.
    pub(super) fn raised(&mut self, key: &(String, String), new: bool) {
        self.recalled.remove(key);
        if new {
            self.untold.insert(key.clone());
        }
    }

    /// Alerts of this code are over.
    pub(super) fn cleared(&mut self, code: AlertCode) {
        self.untold.retain(|(known, _)| known != code.code());
        self.recalled.retain(|(known, _)| known != code.code());
    }
}
