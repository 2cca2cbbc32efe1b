//! The keys of a state and what their values say. A key or a field that a reader does not know is kept and passed over.

use std::collections::BTreeMap;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::StateMap;
use crate::{Alert, CheckIn, DhcpServerSeen, ImageSeen, PhoneSeen, SiteState};
use ids::{Digest, Generation, MacAddr, UnixTime};

/// The most alerts of a state. With all else that a box says of itself they fit into one page.
pub const MAX_ALERTS: usize = 32;
/// The longest value that a site writes for one phone. Its oldest files make room.
pub const MAX_PHONE_BYTES: usize = 3 * 1024;
/// The most counters of a state that grew; the names that come last are left out.
pub const MAX_GROWN: usize = 64;
/// The most DHCP servers of a state.
pub const MAX_DHCP_SERVERS: usize = 8;

const BOX: &str = "box";
const NOW: &str = "now";
const PULLS: &str = "pulls";
const DHCP: &str = "dhcp";
const COUNTERS: &str = "counters";
const ALERT: &str = "alert/";
const PHONE: &str = "phone/";

/// A state in words.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SiteReport {
    /// `box`: what changes seldom.
    pub appliance: Appliance,
    /// `now`: what changes all the time.
    pub now: Now,
    /// `pulls`: the record of the releases that the site took.
    pub pulls: Option<Pulls>,
    /// `dhcp`: the other DHCP servers on the LAN.
    pub dhcp_servers: Vec<DhcpServerSeen>,
    /// `counters`: what grew lately.
    pub counters: Grown,
    /// `alert/…`: what people should look at.
    pub alerts: Vec<Alert>,
    /// `phone/MAC`: the devices that asked for files.
    pub phones: BTreeMap<MacAddr, PhoneReport>,
}

/// The appliance: what changes seldom.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub struct Appliance {
    /// The appliance's version.
    pub version: String,
    /// The code of a [`SiteState`], or one of a newer appliance.
    pub state: String,
    /// Why the site is in that state, in a sentence for people.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// The DHCP mode that is in force; empty if DHCP is off.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub dhcp_mode: String,
    /// The image that it runs; `None` if it is no image of ours.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image: Option<ImageSeen>,
    /// Whether the site's keys are encrypted on its card, for its board alone.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub keys_encrypted: bool,
}

/// The appliance: what changes all the time.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub struct Now {
    /// Seconds since the process started.
    pub uptime_seconds: u64,
    /// Bytes free on the file system of the store.
    pub disk_free_bytes: u64,
    /// Whether the kernel says that the clock is synchronised.
    pub clock_synchronised: bool,
    /// Bytes written to the card since the process started, if the kernel tells.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub card_written_bytes: Option<u64>,
}

/// The record of pulls: a hash chain over the generations that the site began to serve.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Pulls {
    /// How many entries the chain has.
    pub entries: u64,
    /// Its head ([`Pulls::then`]).
    pub head: Digest,
    /// The generation of the last entry.
    pub generation: Generation,
    /// When that was, by the box's clock.
    pub at: UnixTime,
}

impl Pulls {
    /// The chain with one more entry: its head is SHA-256 over `HEAD SP GENERATION SP TIME LF`, where the head of an empty
    /// chain is 64 zeros.
    pub fn then(before: Option<&Self>, generation: Generation, at: UnixTime) -> Self {
        let head = before.map_or(Digest::from_bytes([0; 32]), |pulls| pulls.head);
        let head = Digest::of(format!("{head} {generation} {at}\n").as_bytes());
        Self { entries: before.map_or(0, |pulls| pulls.entries).saturating_add(1), head, generation, at }
    }
}

/// The counters that grew lately.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub struct Grown {
    /// Since when they are counted; `None` for the start of the appliance's life.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub since: Option<UnixTime>,
    /// By how much each grew.
    pub by: BTreeMap<String, u64>,
}

/// One device that asked for files.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub struct PhoneReport {
    /// Whether it is a phone of the inventory.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub known: bool,
    /// The firmware that it fetched last, by its file's name; empty if none is known of.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub load: String,
    /// What it calls itself, where it says so (`User-Agent`, DHCP's vendor class); empty if it does not.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub agent: String,
    /// The files that it asked for, the most recent first.
    pub files: Vec<FileReport>,
}

impl PhoneReport {
    /// When it last asked for a file.
    pub fn last(&self) -> Option<&FileReport> {
        self.files.iter().max_by_key(|file| file.at)
    }
}

/// One file that a phone asked for. In JSON it is an array of its fields in this order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "FileFields", into = "FileFields")]
pub struct FileReport {
    /// The name as it was asked for.
    pub name: String,
    /// How the last request ended: the code of a [`FileOutcome`](crate::FileOutcome), or one of a newer appliance.
    pub outcome: String,
    /// When that was.
    pub at: UnixTime,
    /// How often the phone got it whole.
    pub deliveries: u64,
    /// How often a request for it ended otherwise.
    pub failures: u64,
    /// The generation that it was last delivered from; 0 if it never was.
    pub generation: Generation,
    /// The first 12 hex digits of SHA-256 of what was last delivered; empty if it never was, or is not known any more.
    pub fetched: String,
    /// The same of what the site serves under this name now; empty if there is no such file.
    pub wanted: String,
}

type FileFields = (String, String, i64, u64, u64, Generation, String, Option<String>);

impl From<FileReport> for FileFields {
    fn from(file: FileReport) -> Self {
        // What is wanted is left out where it was fetched.
        let wanted = (file.wanted != file.fetched).then_some(file.wanted);
        let FileReport { name, outcome, at, deliveries, failures, generation, fetched, .. } = file;
        (name, outcome, at.0, deliveries, failures, generation, fetched, wanted)
    }
}

impl From<FileFields> for FileReport {
    fn from((name, outcome, at, deliveries, failures, generation, fetched, wanted): FileFields) -> Self {
        let wanted = wanted.unwrap_or_else(|| fetched.clone());
        Self { name, outcome, at: UnixTime(at), deliveries, failures, generation, fetched, wanted }
    }
}

/// The digits of a digest by which a state names a file's content.
pub fn content_digits(digest: &Digest) -> String {
    digest.to_string().chars().take(12).collect()
}

impl SiteReport {
    /// The state that says this.
    pub fn state(&self) -> StateMap {
        let mut state = StateMap::new();
        put(&mut state, BOX.to_owned(), &self.appliance);
        put(&mut state, NOW.to_owned(), &self.now);
        if let Some(pulls) = &self.pulls {
            put(&mut state, PULLS.to_owned(), pulls);
        }
        if !self.dhcp_servers.is_empty() {
            let servers: Vec<_> = self.dhcp_servers.iter().take(MAX_DHCP_SERVERS).collect();
            put(&mut state, DHCP.to_owned(), &servers);
        }
        if !self.counters.by.is_empty() {
            let by = self.counters.by.iter().take(MAX_GROWN).map(|(name, by)| (name.clone(), *by)).collect();
            put(&mut state, COUNTERS.to_owned(), &Grown { since: self.counters.since, by });
        }
        for alert in self.alerts.iter().take(MAX_ALERTS) {
            let name = Digest::of(format!("{} {}", alert.code, alert.text).as_bytes()).to_string();
            put(&mut state, format!("{ALERT}{}", name.get(..16).unwrap_or_default()), alert);
        }
        for (mac, phone) in &self.phones {
            let mut phone = phone.clone();
            let value = loop {
                let Ok(value) = serde_json::to_string(&phone) else { break String::new() };
                if value.len() <= MAX_PHONE_BYTES || phone.files.pop().is_none() {
                    break value;
                }
            };
            state.insert(phone_key(*mac), value);
        }
        state
    }

    /// What a state says. A value that cannot be read counts as not there.
    pub fn read<'a>(state: impl IntoIterator<Item = (&'a str, &'a str)>) -> Self {
        let mut report = Self::default();
        for (key, value) in state {
            match key {
                BOX => {
                    let unreadable =
                        || Appliance { state: SiteState::Unreadable.code().to_owned(), ..Appliance::default() };
                    report.appliance = value_of(value).unwrap_or_else(unreadable);
                }
                NOW => report.now = value_of(value).unwrap_or_default(),
                PULLS => report.pulls = value_of(value),
                DHCP => report.dhcp_servers = value_of(value).unwrap_or_default(),
                COUNTERS => report.counters = value_of(value).unwrap_or_default(),
                _ if key.starts_with(ALERT) => report.alerts.extend(value_of::<Alert>(value)),
                _ => {
                    if let (Some(mac), Some(phone)) = (phone_of(key), value_of(value)) {
                        report.phones.insert(mac, phone);
                    }
                }
            }
        }
        report
    }
}

/// The device that a key is about; `None` if it is about no device.
pub fn phone_of(key: &str) -> Option<MacAddr> {
    let digits = key.strip_prefix(PHONE)?;
    digits.parse().ok().filter(|mac: &MacAddr| mac.lower() == digits)
}

/// The key of a device.
pub fn phone_key(mac: MacAddr) -> String {
    format!("{PHONE}{}", mac.lower())
}

/// What a check-in of format 1 says.
impl From<&CheckIn> for SiteReport {
    fn from(told: &CheckIn) -> Self {
        let mut files: BTreeMap<MacAddr, Vec<FileReport>> = BTreeMap::new();
        for (mac, file) in &told.files {
            files.entry(*mac).or_default().push(file.clone());
        }
        Self {
            appliance: Appliance {
                version: told.version.clone(),
                state: told.state.clone(),
                reason: told.reason.clone(),
                dhcp_mode: told.dhcp_mode.clone(),
                image: told.image.clone(),
                keys_encrypted: told.keys_encrypted,
            },
            now: Now {
                uptime_seconds: told.uptime_seconds,
                disk_free_bytes: told.disk_free_bytes,
                clock_synchronised: told.clock_synchronised,
                card_written_bytes: told.card_written_bytes,
            },
            pulls: None,
            dhcp_servers: told.dhcp_servers.clone(),
            counters: Grown { since: told.grown_since, by: told.grown.clone() },
            alerts: told.alerts.clone(),
            phones: told
                .phones
                .iter()
                .map(|phone| (phone.mac, phone_report(phone, files.remove(&phone.mac).unwrap_or_default())))
                .collect(),
        }
    }
}

fn phone_report(phone: &PhoneSeen, mut files: Vec<FileReport>) -> PhoneReport {
    if !files.iter().any(|file| file.name == phone.file) {
        let delivered = phone.outcome == crate::TransferEnd::Delivered.code();
        files.push(FileReport {
            name: phone.file.clone(),
            outcome: phone.outcome.clone(),
            at: phone.last_seen,
            deliveries: 0,
            failures: 0,
            generation: if delivered { phone.generation } else { Generation(0) },
            fetched: String::new(),
            wanted: String::new(),
        });
    }
    files.sort_by(|a, b| b.at.cmp(&a.at).then_with(|| a.name.cmp(&b.name)));
    PhoneReport { known: phone.known, files, ..PhoneReport::default() }
}

fn put<T: Serialize>(state: &mut StateMap, key: String, value: &T) {
    if let Ok(value) = serde_json::to_string(value) {
        state.insert(key, value);
    }
}

fn value_of<T: DeserializeOwned>(value: &str) -> Option<T> {
    serde_json::from_str(value).ok()
}
