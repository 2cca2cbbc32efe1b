//! Counters and recent history, in bounded memory. A clone is cheap, and no call waits for I/O.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::alerts::AlertKey;
pub use super::alerts::{MAX_ALERTS, MAX_TEXTS_PER_CODE};
use super::carried_over::{CarriedOver, FileFetches, FileSeen};
use super::growth::Marks;
use super::moment::{ClockReading, Kept};
use super::outside::{self, OutsideNetworks};
use super::vlans::TaggedVlans;
use api::{Alert, AlertCode, DhcpServerSeen, FileOutcome, ImageSeen, PhoneSeen, SiteState};
use ids::{Digest, Generation, Lan, MacAddr, UnixTime};

/// The most devices that are remembered. Strangers make room before phones of the inventory, and of these the one that
/// was not seen for longest.
pub const MAX_DEVICES: usize = 2_048;
/// The most transfers that are remembered; the oldest makes room.
pub const MAX_TRANSFERS: usize = 256;
/// The longest file name or alert text that is kept, in bytes.
pub const MAX_TEXT_BYTES: usize = 255;

/// One request for a file, as `tftp` reports it at its end.
#[derive(Debug, Clone)]
pub struct TransferRecord {
    /// The device that asked; `None` if neither a lease nor a neighbour tells whose the address is.
    pub device: Option<MacAddr>,
    /// Whether the device is a phone of the inventory.
    pub known: bool,
    /// The IP address that the request came from.
    pub address: std::net::Ipv4Addr,
    /// The file name as it was asked for; the record shortens it to [`MAX_TEXT_BYTES`].
    pub file: String,
    /// The bytes of the file that the client acknowledged, or that we took of its log.
    pub bytes: u64,
    /// The number of packets that were sent more than once.
    pub retransmissions: u32,
    /// The time from the request to the end.
    pub duration: Duration,
    /// The generation of the release that the file was served from; 0 if there was none.
    pub generation: Generation,
    /// SHA-256 of the file in that release; `None` if there was none.
    pub content: Option<Digest>,
    /// How the transfer ended, or why there was none.
    pub outcome: FileOutcome,
}

/// A [`TransferRecord`] as `lineside status` shows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct TransferShown {
    /// The time at which the request ended.
    pub at: UnixTime,
    /// The device that asked; `None` if it is not known.
    pub device: Option<MacAddr>,
    /// The IP address that the request came from.
    pub address: std::net::Ipv4Addr,
    /// The file name as it was asked for, at most [`MAX_TEXT_BYTES`] of it.
    pub file: String,
    /// The bytes that the client acknowledged, or that we took of its log.
    pub bytes: u64,
    /// The number of packets that were sent more than once.
    pub retransmissions: u32,
    /// The time from the request to the end, in milliseconds.
    pub milliseconds: u64,
    /// The generation of the release that the file was served from; 0 if there was none.
    pub generation: Generation,
    /// The code of the outcome: [`FileOutcome::code`].
    pub outcome: String,
}

/// How the last poll of HQ ended, as `update` reports it. Its time is that of the report.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PollState {
    /// The state that it left the site in.
    pub state: SiteState,
    /// Why the site is in that state, in a sentence for people; empty if it is [`SiteState::Ok`].
    pub reason: String,
    /// The generation that is served; 0 for none.
    pub generation: Generation,
    /// Whether the kernel says that the clock is synchronised.
    pub clock_synchronised: bool,
    /// Bytes free on the file system of the store.
    pub disk_free_bytes: u64,
}

/// What is known of the host, measured at the start and at each poll.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct HostState {
    /// The generation that is served; 0 for none.
    pub generation: Generation,
    /// Whether the kernel says that the clock is synchronised.
    pub clock_synchronised: bool,
    /// Bytes free on the file system of the store.
    pub disk_free_bytes: u64,
}

/// The LAN that is served, as `lineside status` shows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct LanSeen {
    /// The interface.
    pub interface: String,
    /// The appliance's address on it with the prefix length, for example `192.168.1.5/24`.
    pub address: String,
    /// Further addresses of the interface. Phones of their networks are not served.
    #[serde(default)]
    pub further: Vec<String>,
}

/// The clocks that give the record its times. The appliance passes the system's, a test what it likes.
pub type StatsClock = dyn Fn() -> ClockReading + Send + Sync;

/// The shared record of what happens at a site. Clones are the same record.
#[derive(Clone)]
pub struct Stats {
    inner: Arc<Mutex<Record>>,
    clock: Arc<StatsClock>,
}

/// The content of the record, behind the lock of [`Stats`].
#[derive(Debug, Default)]
pub(super) struct Record {
    /// The reading of the steady clock at the start.
    pub(super) started: Duration,
    pub(super) counters: BTreeMap<String, u64>,
    pub(super) marks: Marks,
    pub(super) devices: HashMap<MacAddr, Kept<PhoneSeen>>,
    pub(super) transfers: VecDeque<Kept<TransferShown>>,
    pub(super) alerts: BTreeMap<AlertKey, Kept<Alert>>,
    /// How long the process was up when each alert was last raised.
    pub(super) raised: BTreeMap<AlertKey, Duration>,
    pub(super) lan: Option<(Lan, LanSeen)>,
    pub(super) outside: OutsideNetworks,
    pub(super) vlans: TaggedVlans,
    pub(super) dhcp_mode: String,
    pub(super) dhcp_servers: Vec<DhcpServerSeen>,
    pub(super) host: HostState,
    /// The last poll, and how long the process was up at its end.
    pub(super) poll: Option<(PollState, Duration)>,
    /// How long the process was up when signed metadata was last found current.
    pub(super) fresh: Option<Duration>,
    pub(super) image: Option<ImageSeen>,
    pub(super) card_written_bytes: Option<u64>,
    pub(super) keys_encrypted: Option<bool>,
    pub(super) carried_over: CarriedOver,
}

impl Default for Stats {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Stats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stats").finish_non_exhaustive()
    }
}

impl Stats {
    /// An empty record whose clock stands at 1970, for tests.
    pub fn new() -> Self {
        Self::with_clock(Arc::new(|| ClockReading { wall: UnixTime(0), up: Duration::ZERO }))
    }

    /// An empty record that takes its times from these clocks.
    pub fn with_clock(clock: Arc<StatsClock>) -> Self {
        let inner = Record { started: clock().up, ..Record::default() };
        Self { inner: Arc::new(Mutex::new(inner)), clock }
    }

    /// Adds one to the counter of this name, for example `dhcp.ack`.
    pub fn count(&self, name: &'static str) {
        self.add(name, 1);
    }

    /// Adds `amount` to the counter of this name. It stays at the end of the range instead of wrapping.
    pub fn add(&self, name: &'static str, amount: u64) {
        add(&mut self.lock().counters, name, amount);
    }

    /// Records that a request for a file has ended: counters, the device's last request, and the list of transfers.
    pub fn transfer(&self, record: TransferRecord) {
        let now = (self.clock)();
        let at = now.wall;
        let file = shortened(record.file);
        let milliseconds = u64::try_from(record.duration.as_millis()).unwrap_or(u64::MAX);
        let mut inner = self.lock();
        match record.outcome {
            FileOutcome::Refused(reason) => add(&mut inner.counters, &format!("tftp.refused.{reason}"), 1),
            FileOutcome::Ended(end) => add(&mut inner.counters, &format!("tftp.{end}"), 1),
        }
        add(&mut inner.counters, "tftp.bytes", record.bytes);
        add(&mut inner.counters, "tftp.retransmissions", u64::from(record.retransmissions));
        if let Some(mac) = record.device {
            let phone = PhoneSeen {
                mac,
                known: record.known,
                last_seen: at,
                file: file.clone(),
                outcome: record.outcome.code().to_owned(),
                bytes: record.bytes,
                retransmissions: record.retransmissions,
                milliseconds,
                generation: record.generation,
            };
            inner.seen(Kept::now(phone, now));
            if record.known {
                let seen = FileSeen {
                    mac,
                    file: file.clone(),
                    at,
                    bytes: record.bytes,
                    generation: record.generation,
                    outcome: record.outcome.code().to_owned(),
                    fetches: FileFetches::default(),
                };
                inner.carried_over.asked(seen, record.content, now);
            }
        }
        if inner.transfers.len() >= MAX_TRANSFERS {
            inner.transfers.pop_front();
        }
        let shown = TransferShown {
            at,
            device: record.device,
            address: record.address,
            file,
            bytes: record.bytes,
            retransmissions: record.retransmissions,
            milliseconds,
            generation: record.generation,
            outcome: record.outcome.code().to_owned(),
        };
        inner.transfers.push_back(Kept::now(shown, now));
    }

    /// The time at which a device last asked for a file; `None` if it never did or was forgotten.
    pub fn last_seen(&self, mac: MacAddr) -> Option<UnixTime> {
        self.lock().devices.get(&mac).map(|seen| seen.value.last_seen)
    }

    /// Sets the DHCP mode that is in force, for example `inform`.
    pub fn dhcp_mode(&self, mode: &'static str) {
        mode.clone_into(&mut self.lock().dhcp_mode);
    }

    /// Sets the list of other DHCP servers on the LAN.
    pub fn dhcp_servers(&self, servers: Vec<DhcpServerSeen>) {
        self.lock().dhcp_servers = servers;
    }

    /// Sets the image that runs here. Without this call there is none.
    pub fn image(&self, image: ImageSeen) {
        self.lock().image = Some(image);
    }

    /// Sets how many bytes were written to the card since the process started.
    pub fn card_written(&self, bytes: u64) {
        self.lock().card_written_bytes = Some(bytes);
    }

    /// Sets whether the keys of the identity are encrypted on the card.
    pub fn keys_encrypted(&self, encrypted: bool) {
        self.lock().keys_encrypted = Some(encrypted);
    }

    /// Sets what was found at the start, before the first poll.
    pub fn host(&self, host: HostState) {
        self.lock().host = host;
    }

    /// Records how a poll ended, just now.
    pub fn poll(&self, state: PollState) {
        let up = (self.clock)().up;
        let mut inner = self.lock();
        add(&mut inner.counters, &format!("poll.{}", state.state), 1);
        let PollState { generation, clock_synchronised, disk_free_bytes, .. } = state;
        inner.host = HostState { generation, clock_synchronised, disk_free_bytes };
        inner.poll = Some((state, up));
    }

    /// Signed metadata was found current just now.
    pub fn found_current(&self) {
        let up = (self.clock)().up;
        self.lock().fresh = Some(up);
    }

    /// Sets the LAN that is served from now on. `further` are other addresses of its interface.
    pub fn lan(&self, interface: &str, lan: Lan, further: &[Lan]) {
        let further = further.iter().map(Lan::to_string).collect();
        let shown = LanSeen { interface: interface.to_owned(), address: lan.to_string(), further };
        let mut inner = self.lock();
        if inner.lan.as_ref().is_some_and(|(before, _)| *before != lan) {
            // What was outside may be inside now; who is not asks again.
            inner.outside = OutsideNetworks::default();
            inner.vlans = TaggedVlans::default();
            inner.clear(AlertCode::OtherNetwork);
        }
        inner.lan = Some((lan, shown));
    }

    /// No LAN is served any more.
    pub fn no_lan(&self) {
        let mut inner = self.lock();
        inner.lan = None;
        inner.outside = OutsideNetworks::default();
        inner.clear(AlertCode::OtherNetwork);
    }

    /// A device outside the LAN asked for a file and got no answer. People hear which network it is of.
    pub fn asked_from_outside(&self, source: std::net::Ipv4Addr) {
        let now = (self.clock)();
        let mut inner = self.lock();
        add(&mut inner.counters, "tftp.outside-lan", 1);
        let served = inner.lan.as_ref().map(|(lan, _)| *lan);
        if let Some(served) = served.filter(|lan| !lan.contains(source))
            && let Some(first) = inner.outside.asked(source, now.up)
        {
            inner.alert(AlertCode::OtherNetwork, outside::alert_text(first, served), now);
        }
    }

    /// A phone of another VLAN asked for an address, in a tagged frame that came to this port.
    pub fn asked_in_vlan(&self, vlan: u16, phone: MacAddr) {
        let now = (self.clock)();
        self.lock().vlans.asked(vlan, phone, now.up);
    }

    /// Forgets the networks outside the LAN that are quiet, and ends their alerts. To be called now and then.
    pub fn forget_quiet_networks(&self) {
        let now = (self.clock)();
        let mut inner = self.lock();
        let quiet = inner.outside.quiet(now.up);
        let served = inner.lan.as_ref().map(|(lan, _)| *lan);
        for (first, served) in quiet.into_iter().zip(served.into_iter().cycle()) {
            inner.clear_one(AlertCode::OtherNetwork, &outside::alert_text(first, served));
        }
    }

    /// The time by the wall clock of the record.
    pub fn now(&self) -> UnixTime {
        (self.clock)().wall
    }

    /// What the clocks of the record show.
    pub(super) fn reading(&self) -> ClockReading {
        (self.clock)()
    }

    /// The value of one counter; 0 if nothing was counted.
    pub fn counter(&self, name: &str) -> u64 {
        self.lock().counters.get(name).copied().unwrap_or(0)
    }

    /// Locks the record. A poisoned lock is taken all the same, because each single change leaves the record valid.
    pub(super) fn lock(&self) -> MutexGuard<'_, Record> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Record {
    fn seen(&mut self, phone: Kept<PhoneSeen>) {
        if self.devices.len() >= MAX_DEVICES
            && !self.devices.contains_key(&phone.value.mac)
            && let Some(oldest) = self
                .devices
                .values()
                .min_by_key(|seen| (seen.value.known, seen.up, seen.value.last_seen))
                .map(|seen| seen.value.mac)
        {
            self.devices.remove(&oldest);
        }
        self.devices.insert(phone.value.mac, phone);
    }
}

pub(super) fn add(counters: &mut BTreeMap<String, u64>, name: &str, amount: u64) {
    if amount == 0 {
        return;
    }
    if let Some(value) = counters.get_mut(name) {
        *value = value.saturating_add(amount);
    } else {
        counters.insert(name.to_owned(), amount);
    }
}

pub(super) fn shortened(mut text: String) -> String {
    if text.len() > MAX_TEXT_BYTES {
        let end = (0..=MAX_TEXT_BYTES).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
        text.truncate(end);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use api::{FileRefusal, TransferEnd};

    fn record(mac: [u8; 6], known: bool, outcome: impl Into<FileOutcome>) -> TransferRecord {
        TransferRecord {
            device: Some(MacAddr::new(mac)),
            known,
            address: std::net::Ipv4Addr::LOCALHOST,
            file: "a.cfg".to_owned(),
            bytes: 10,
            retransmissions: 0,
            duration: Duration::from_millis(3),
            generation: Generation(1),
            content: None,
            outcome: outcome.into(),
        }
    }

    #[test]
    fn refusals_are_counted_by_reason() {
        let stats = Stats::new();
        stats.transfer(record([2, 0, 0, 0, 0, 1], true, FileRefusal::OtherDevice));
        stats.transfer(record([2, 0, 0, 0, 0, 1], true, TransferEnd::Delivered));
        assert_eq!(stats.counter("tftp.refused.other-device"), 1);
        assert_eq!(stats.counter("tftp.delivered"), 1);
    }

    #[test]
    fn a_flood_of_strangers_does_not_push_out_the_sites_phones() {
        let stats = Stats::new();
        stats.transfer(record([2, 1, 0, 0, 0, 1], true, TransferEnd::Delivered));
        for number in 0..=u16::try_from(MAX_DEVICES).expect("the bound is small") {
            let [high, low] = number.to_be_bytes();
            stats.transfer(record([2, 2, 0, 0, high, low], false, FileRefusal::NotFound));
        }
        let inner = stats.lock();
        assert_eq!(inner.devices.len(), MAX_DEVICES);
        assert!(inner.devices.contains_key(&MacAddr::new([2, 1, 0, 0, 0, 1])));
        assert_eq!(inner.transfers.len(), MAX_TRANSFERS);
    }
}
