//! A snapshot of the record: as text for people, as JSON for programs, and shortened for a check-in.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde::{Deserialize, Serialize};

use super::carried_over::FileSeen;
use super::stats::{Stats, TransferShown};
use api::{Alert, CheckIn, DhcpServerSeen, ImageSeen, PhoneSeen, SiteState, keys_text};
use ids::{Generation, UnixTime};

/// The most phones that a check-in names. All transfers are in the counters.
const CHECK_IN_PHONES: usize = 64;
/// The most alerts that a check-in names.
const CHECK_IN_ALERTS: usize = 16;
/// The most transfers that the text shows; `--json` shows all that are remembered.
const TEXT_TRANSFERS: usize = 12;

/// All that `lineside status` shows. With `--json` it is the output.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct StatusReport {
    /// The appliance's version.
    pub version: String,
    /// The time of this snapshot.
    pub now: UnixTime,
    /// The time at which the process started.
    pub started: UnixTime,
    /// The code of the [`SiteState`] that the last poll came to.
    pub state: String,
    /// Why the site is in that state, in a sentence for people; empty if there is nothing to explain.
    pub reason: String,
    /// The time at which the last poll ended; `None` before the first.
    pub polled: Option<UnixTime>,
    /// The time at which signed metadata was last found current; `None` if it never was.
    pub fresh: Option<UnixTime>,
    /// The generation that is served; 0 for none.
    pub generation: Generation,
    /// Whether the kernel says that the clock is synchronised.
    pub clock_synchronised: bool,
    /// Bytes free on the file system of the store.
    pub disk_free_bytes: u64,
    /// The image that the appliance runs; `None` where it runs as a package.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<ImageSeen>,
    /// Bytes written to the card since the process started; `None` if the kernel does not count them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub card_written_bytes: Option<u64>,
    /// Whether the identity's keys are encrypted on the card for this board; `None` without an identity.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keys_encrypted: Option<bool>,
    /// The DHCP mode that is in force, for example `inform`; empty if DHCP is off.
    pub dhcp_mode: String,
    /// Other DHCP servers on the LAN.
    pub dhcp_servers: Vec<DhcpServerSeen>,
    /// The devices that asked for files, the most recent first.
    pub phones: Vec<PhoneSeen>,
    /// The last outcome of each file that a phone of the inventory asked for, also before a restart.
    #[serde(default)]
    pub files: Vec<FileSeen>,
    /// The last transfers, the most recent first.
    pub transfers: Vec<TransferShown>,
    /// What people should look at. Alerts that HQ has not heard yet come first.
    pub alerts: Vec<Alert>,
    /// Counters by name, for example `tftp.delivered`. They go on over restarts.
    pub counters: BTreeMap<String, u64>,
}

impl StatusReport {
    /// A snapshot of the record as it is now.
    pub fn of(stats: &Stats) -> Self {
        let now = stats.now();
        let inner = stats.lock();
        let mut phones: Vec<PhoneSeen> = inner.devices.values().cloned().collect();
        phones.sort_by_key(|phone| (std::cmp::Reverse(phone.last_seen), phone.mac));
        let poll = inner.poll.as_ref();
        let mut alerts: Vec<_> = inner.alerts.iter().collect();
        alerts.sort_by_key(|(key, _)| !inner.carried_over.untold.contains(*key));
        Self {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            now,
            started: inner.started.unwrap_or(now),
            state: poll.map_or(SiteState::Starting, |poll| poll.state).code().to_owned(),
            reason: poll.map(|poll| poll.reason.clone()).unwrap_or_default(),
            polled: poll.map(|poll| poll.at),
            fresh: poll.and_then(|poll| poll.fresh_at),
            generation: poll.map(|poll| poll.generation).unwrap_or_default(),
            clock_synchronised: poll.is_some_and(|poll| poll.clock_synchronised),
            disk_free_bytes: poll.map_or(0, |poll| poll.disk_free_bytes),
            image: inner.image.clone(),
            card_written_bytes: inner.card_written_bytes,
            keys_encrypted: inner.keys_encrypted,
            dhcp_mode: inner.dhcp_mode.clone(),
            dhcp_servers: inner.dhcp_servers.clone(),
            phones,
            files: inner.carried_over.files.values().cloned().collect(),
            transfers: inner.transfers.iter().rev().cloned().collect(),
            alerts: alerts.into_iter().map(|(_, alert)| alert.clone()).collect(),
            counters: inner.counters.clone(),
        }
    }

    /// The part that HQ hears. The caller fills in the nonce.
    pub fn check_in(&self) -> CheckIn {
        CheckIn {
            version: self.version.clone(),
            generation: self.generation,
            state: self.state.clone(),
            reason: self.reason.clone(),
            clock_synchronised: self.clock_synchronised,
            uptime_seconds: self.now.since(self.started).as_secs(),
            disk_free_bytes: self.disk_free_bytes,
            image: self.image.clone(),
            card_written_bytes: self.card_written_bytes,
            keys_encrypted: self.keys_encrypted == Some(true),
            dhcp_mode: self.dhcp_mode.clone(),
            dhcp_servers: self.dhcp_servers.clone(),
            phones: self.phones.iter().take(CHECK_IN_PHONES).cloned().collect(),
            alerts: self.alerts.iter().take(CHECK_IN_ALERTS).cloned().collect(),
            counters: self.counters.clone(),
            nonce: String::new(),
        }
    }

    /// The report as text for a terminal.
    pub fn text(&self) -> String {
        let mut out = String::new();
        let ago = |time: Option<UnixTime>| time.map_or_else(|| "never".to_owned(), |time| self.ago(time));
        let mut line = |name: &str, value: String| {
            // Writing to a String cannot fail.
            let _ = writeln!(out, "{name:<12} {value}");
        };
        let state =
            if self.reason.is_empty() { self.state.clone() } else { format!("{}: {}", self.state, self.reason) };
        line("state", state);
        line(
            "serving",
            if self.generation.0 == 0 { "nothing yet".into() } else { format!("generation {}", self.generation) },
        );
        line("polled", format!("{} (signed metadata current: {})", ago(self.polled), ago(self.fresh)));
        line("dhcp", if self.dhcp_mode.is_empty() { "off".into() } else { self.dhcp_mode.clone() });
        for server in &self.dhcp_servers {
            let tftp = if server.tftp.is_empty() { "no TFTP server".to_owned() } else { server.tftp.join(", ") };
            line("", format!("another DHCP server {} hands out {tftp}", server.server));
        }
        line("clock", if self.clock_synchronised { "synchronised".into() } else { "not synchronised".into() });
        line("disk", format!("{} MB free", self.disk_free_bytes / 1_000_000));
        line("version", format!("{}, up for {}", self.version, span(self.now.since(self.started).as_secs())));
        if let Some(image) = &self.image {
            line("image", image.to_string());
        }
        if let Some(encrypted) = self.keys_encrypted {
            line("keys", keys_text(encrypted).to_owned());
        }
        if let Some(bytes) = self.card_written_bytes {
            line("card", format!("{:.1} MB written in that time", bytes as f64 / 1e6));
        }
        for alert in &self.alerts {
            let times = if alert.count > 1 { format!(" ({} times)", alert.count) } else { String::new() };
            line("ALERT", format!("{}: {}{times}", alert.code, alert.text));
        }
        if !self.phones.is_empty() {
            let _ = writeln!(out, "\n{:<18} {:<9} {:<15} {:<14} last file", "device", "inventory", "seen", "outcome");
            for phone in &self.phones {
                let known = if phone.known { "yes" } else { "NO" };
                let seen = self.ago(phone.last_seen);
                let mac = phone.mac.to_string();
                let _ =
                    writeln!(out, "{mac:<18} {known:<9} {seen:<15} {:<14} {}", phone.outcome, printable(&phone.file));
            }
        }
        if !self.transfers.is_empty() {
            let _ = writeln!(
                out,
                "\n{:<18} {:<15} {:<14} {:>10} {:>7} {:>8} {:>5}  last transfers",
                "device", "ended", "outcome", "bytes", "resent", "ms", "gen"
            );
            for one in self.transfers.iter().take(TEXT_TRANSFERS) {
                let who = one.device.map_or_else(|| one.address.to_string(), |mac| mac.to_string());
                let (ended, generation) = (self.ago(one.at), one.generation.to_string());
                let _ = writeln!(
                    out,
                    "{who:<18} {ended:<15} {:<14} {:>10} {:>7} {:>8} {generation:>5}  {}",
                    one.outcome,
                    one.bytes,
                    one.retransmissions,
                    one.milliseconds,
                    printable(&one.file)
                );
            }
        }
        out
    }

    fn ago(&self, time: UnixTime) -> String {
        format!("{} ago", span(self.now.since(time).as_secs()))
    }
}

/// Replaces control characters. File names come from the LAN, and a terminal must not obey what is in them.
fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '?' } else { c }).collect()
}

fn span(seconds: u64) -> String {
    match seconds {
        0..=119 => format!("{seconds} s"),
        120..=7_199 => format!("{} min", seconds / 60),
        7_200..=172_799 => format!("{} h", seconds / 3_600),
        _ => format!("{} days", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicI64, Ordering};

    use super::*;
    use crate::PollState;
    use api::{AlertCode, TransferEnd};

    #[test]
    fn the_text_says_state_release_and_alerts() {
        let clock = Arc::new(AtomicI64::new(1_000));
        let reading = Arc::clone(&clock);
        let stats = Stats::with_clock(Arc::new(move || UnixTime(reading.load(Ordering::Relaxed))));
        stats.poll(PollState {
            at: UnixTime(1_000),
            state: SiteState::Unreachable,
            reason: "HQ does not answer".to_owned(),
            generation: Generation(7),
            fresh_at: Some(UnixTime(1_000)),
            clock_synchronised: true,
            disk_free_bytes: 5_000_000,
        });
        stats.alert(AlertCode::GuessingDevice, "00:00:5e:00:53:01 guesses names".to_owned());
        clock.store(1_300, Ordering::Relaxed);
        let text = StatusReport::of(&stats).text();
        for part in
            ["unreachable: HQ does not answer", "generation 7", "5 min ago", "ALERT        guessing-device: 00:00:5e"]
        {
            assert!(text.contains(part), "{part} is missing in:\n{text}");
        }
    }

    #[test]
    fn the_text_shows_the_last_transfers_with_all_that_is_known_of_them() {
        let stats = Stats::new();
        for number in 0..20u16 {
            stats.transfer(crate::TransferRecord {
                device: (number == 19).then(|| ids::MacAddr::new([2, 0, 0, 0, 0, 1])),
                known: true,
                address: std::net::Ipv4Addr::new(192, 168, 1, 7),
                file: format!("file-{number}\u{1b}[2J.cfg"),
                bytes: 70_000,
                retransmissions: 3,
                duration: std::time::Duration::from_millis(421),
                generation: Generation(8),
                outcome: TransferEnd::Unconfirmed.into(),
            });
        }
        let text = StatusReport::of(&stats).text();
        let rows: Vec<Vec<&str>> = text
            .lines()
            .skip_while(|line| !line.contains("last transfers"))
            .skip(1)
            .map(|line| line.split_whitespace().collect())
            .collect();
        assert_eq!(rows.len(), TEXT_TRANSFERS);
        let expected =
            ["02:00:00:00:00:01", "0", "s", "ago", "unconfirmed", "70000", "3", "421", "8", "file-19?[2J.cfg"];
        assert_eq!(rows.first().map(Vec::as_slice), Some(&expected[..]), "the newest first, and no escapes");
        assert_eq!(rows.get(1).and_then(|row| row.first()), Some(&"192.168.1.7"));
    }

    #[test]
    fn how_the_keys_lie_on_the_card_is_told_as_it_is() -> Result<(), serde_json::Error> {
        let stats = Stats::new();
        assert!(!StatusReport::of(&stats).text().contains("\nkeys"), "there are none yet");
        for encrypted in [false, true] {
            stats.keys_encrypted(encrypted);
            let report = StatusReport::of(&stats);
            assert!(report.text().contains(&format!("\nkeys         {}\n", keys_text(encrypted))), "{}", report.text());
            let sent = serde_json::to_string(&report.check_in())?;
            // What every board without a TPM says costs no bytes at every poll.
            assert_eq!(sent.contains("\"keys-encrypted\":true"), encrypted, "{sent}");
            assert_eq!(serde_json::from_str::<CheckIn>(&sent)?.keys_encrypted, encrypted);
        }
        Ok(())
    }

    #[test]
    fn a_check_in_of_a_busy_site_stays_bounded() {
        let stats = Stats::new();
        for number in 0..500u16 {
            let [high, low] = number.to_be_bytes();
            stats.transfer(crate::TransferRecord {
                device: Some(ids::MacAddr::new([2, 0, 0, 0, high, low])),
                known: true,
                address: std::net::Ipv4Addr::LOCALHOST,
                file: "f".repeat(100),
                bytes: 1,
                retransmissions: 0,
                duration: std::time::Duration::ZERO,
                generation: Generation(1),
                outcome: TransferEnd::Delivered.into(),
            });
        }
        let check_in = StatusReport::of(&stats).check_in();
        assert_eq!(check_in.phones.len(), CHECK_IN_PHONES);
        assert_eq!(check_in.counters.get("tftp.delivered"), Some(&500));
    }
}
