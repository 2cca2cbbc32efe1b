//! A snapshot of the record: as text for people, as JSON for programs, and shortened for a check-in.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde::{Deserialize, Serialize};

use super::carried_over::{FileFetches, FileSeen};
use super::moment::ROUNDING_SECONDS;
use super::outside::{self, OutsideNetwork};
use super::stats::{LanSeen, Record, Stats, TransferShown};
use super::vlans::{self, TaggedVlan};
use super::words;
use api::check_in::report::{FileReport, MAX_ALERTS};
use api::{Alert, CheckIn, DhcpServerSeen, ImageSeen, PhoneSeen, SiteState, keys_text};
use ids::{Generation, UnixTime};

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
    /// The time at which signed metadata was last found current; `None` if it was not since the start.
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
    /// The LAN that is served; `None` while there is none.
    #[serde(default)]
    pub lan: Option<LanSeen>,
    /// Other networks whose devices ask here for files and get no answer.
    #[serde(default)]
    pub outside: Vec<OutsideNetwork>,
    /// Other VLANs whose phones ask here for addresses, in tagged frames, and get no answer.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub vlans: Vec<TaggedVlan>,
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
    /// Since when `grown` counts: the start, or 12 to 24 hours ago.
    #[serde(default)]
    pub grown_since: Option<UnixTime>,
    /// The counters that grew since then, and by how much.
    #[serde(default)]
    pub grown: BTreeMap<String, u64>,
}

impl StatusReport {
    /// A snapshot of the record as it is now.
    pub fn of(stats: &Stats) -> Self {
        let now = stats.reading();
        let mut inner = stats.lock();
        inner.end_quiet_alerts(now);
        let mut phones: Vec<PhoneSeen> = inner.devices.values().map(|seen| seen.dated(now)).collect();
        phones.sort_by_key(|phone| (std::cmp::Reverse(phone.last_seen), phone.mac));
        let (since, grown) = {
            let Record { marks, counters, started, .. } = &mut *inner;
            let (since, grown) = marks.grown(counters, now.up.saturating_sub(*started));
            (since.saturating_add(*started), grown)
        };
        let poll = inner.poll.as_ref();
        let mut alerts: Vec<_> = inner.alerts.iter().collect();
        alerts.sort_by_key(|(key, _)| !inner.carried_over.untold.contains(*key));
        let outside = inner.outside.networks.iter().map(|(network, asked)| OutsideNetwork {
            network: outside::shown(*network),
            first: Some(asked.first),
            count: asked.count,
            last: now.date(asked.last),
        });
        Self {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            now: now.wall,
            started: now.date(inner.started),
            state: poll.map_or(SiteState::Starting, |(poll, _)| poll.state).code().to_owned(),
            reason: poll.map(|(poll, _)| poll.reason.clone()).unwrap_or_default(),
            polled: poll.map(|(_, up)| now.date(*up)),
            fresh: inner.fresh.map(|up| now.date(up)),
            generation: inner.host.generation,
            clock_synchronised: inner.host.clock_synchronised,
            disk_free_bytes: inner.host.disk_free_bytes,
            image: inner.image.clone(),
            card_written_bytes: inner.card_written_bytes,
            keys_encrypted: inner.keys_encrypted,
            lan: inner.lan.as_ref().map(|(_, shown)| shown.clone()),
            outside: outside.collect(),
            vlans: inner.vlans.shown(now.up, |up| now.date(up)),
            dhcp_mode: inner.dhcp_mode.clone(),
            dhcp_servers: inner.dhcp_servers.clone(),
            phones,
            files: inner.carried_over.files.values().map(|seen| seen.dated(now)).collect(),
            transfers: inner.transfers.iter().rev().map(|seen| seen.dated(now)).collect(),
            alerts: alerts.into_iter().map(|(_, alert)| alert.dated(now)).collect(),
            counters: inner.counters.clone(),
            grown_since: Some(now.date(since)),
            grown,
        }
    }

    /// The part that HQ hears. The caller fills in nonce and time, and leaves out what finds no room.
    pub fn check_in(&self) -> CheckIn {
        CheckIn {
            version: self.version.clone(),
            generation: self.generation,
            state: self.state.clone(),
            reason: self.reason.clone(),
            clock_synchronised: self.clock_synchronised,
            time: None,
            uptime_seconds: self.now.since(self.started).as_secs(),
            disk_free_bytes: self.disk_free_bytes,
            image: self.image.clone(),
            card_written_bytes: self.card_written_bytes,
            keys_encrypted: self.keys_encrypted == Some(true),
            dhcp_mode: self.dhcp_mode.clone(),
            dhcp_servers: self.dhcp_servers.clone(),
            phones: self.phones.clone(),
            alerts: self.alerts.iter().take(MAX_ALERTS).cloned().collect(),
            counters: self.counters.clone(),
            nonce: String::new(),
            files: self.files.iter().map(|seen| (seen.mac, file_report(seen))).collect(),
            grown_since: self.grown_since,
            grown: self.grown.clone(),
        }
    }

    /// The report as text for a terminal.
    pub fn text(&self) -> String {
        let mut out = String::new();
        let mut line = |name: &str, value: String| {
            // Writing to a String cannot fail.
            let _ = writeln!(out, "{name:<12} {value}");
        };
        line("state", self.state_text());
        line(
            "serving",
            if self.generation.0 == 0 { "nothing yet".into() } else { format!("generation {}", self.generation) },
        );
        line("polled", self.polled_text());
        match &self.lan {
            Some(lan) => {
                line("lan", format!("{} on {}", lan.address, lan.interface));
                for address in &lan.further {
                    let chosen = address.split('/').next().unwrap_or_default();
                    line(
                        "",
                        format!("not {address}, which is there, too; [lan] interface = \"{chosen}\" serves it instead"),
                    );
                }
            }
            None => line("lan", "none: phones are not served".into()),
        }
        for network in &self.outside {
            let times = if network.count == 1 { "once".to_owned() } else { format!("{} times", network.count) };
            let last = self.ago(network.last);
            let example = network.first.map_or_else(|| network.network.clone(), |first| first.to_string());
            let who = format!("devices of another network, such as {example},");
            line("", format!("{who} asked {times} and got no answer, last {last}"));
        }
        for TaggedVlan { vlan, first, count, last } in &self.vlans {
            let times = if *count == 1 { "once".to_owned() } else { format!("{count} times") };
            let last = self.ago(*last);
            line("", format!("phones of VLAN {vlan}, such as {first}, asked {times} in tagged frames, last {last}:"));
            line("", vlans::what_to_do(*vlan));
        }
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
        self.limits_text(&mut out);
        self.grown_text(&mut out);
        if !self.phones.is_empty() {
            let _ = writeln!(out, "\n{:<18} {:<9} {:<17} {:<14} last file", "device", "inventory", "seen", "outcome");
            for phone in &self.phones {
                let known = if phone.known { "yes" } else { "NO" };
                let seen = self.seen_text(phone.last_seen);
                let mac = phone.mac.to_string();
                let _ =
                    writeln!(out, "{mac:<18} {known:<9} {seen:<17} {:<14} {}", phone.outcome, printable(&phone.file));
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

    fn state_text(&self) -> String {
        match &self.reason {
            _ if self.polled.is_none() && self.state == SiteState::Starting.code() => {
                format!("{}: the first poll of HQ since the start has not ended yet", self.state)
            }
            reason if reason.is_empty() => self.state.clone(),
            reason => format!("{}: {reason}", self.state),
        }
    }

    fn polled_text(&self) -> String {
        let Some(polled) = self.polled else { return "not yet since the start".to_owned() };
        let polled_text = self.ago(polled);
        match self.fresh {
            Some(fresh) if fresh.0.saturating_add(60) >= polled.0 => {
                format!("{polled_text} (signed metadata is current)")
            }
            Some(fresh) => format!("{polled_text} (signed metadata was last found current {})", self.ago(fresh)),
            None => format!("{polled_text} (signed metadata not found current since the start)"),
        }
    }

    /// The age of what may be of an earlier run. That has the time which the clock showed then; where the clocks of two
    /// runs cannot be compared, no age can be told.
    fn seen_text(&self, time: UnixTime) -> String {
        let rounding = i64::try_from(ROUNDING_SECONDS).unwrap_or(0);
        let of_this_run = time.0.saturating_add(rounding) >= self.started.0;
        if time <= self.now && (of_this_run || self.clock_synchronised) {
            return self.ago(time);
        }
        let text = time.to_string();
        match (text.get(..10), text.get(11..16)) {
            (Some(day), Some(minute)) if text.starts_with(|first: char| first.is_ascii_digit()) => {
                format!("{day} {minute}")
            }
            _ => text,
        }
    }

    /// The bounds that were reached of late. What is over a bound gets no answer, or is not done.
    fn limits_text(&self, out: &mut String) {
        for name in words::LIMITS {
            if let (Some(by), words::Shown::Words(text)) = (self.grown.get(*name), words::of(name)) {
                let _ = writeln!(out, "{:<12} {text}: {by} ({name})", "LIMIT");
            }
        }
    }

    fn grown_text(&self, out: &mut String) {
        let (Some(since), false) = (self.grown_since, self.grown.is_empty()) else { return };
        let age = span(self.now.since(since).as_secs());
        let since_start = since.0.abs_diff(self.started.0) <= ROUNDING_SECONDS;
        let _ = match since_start {
            true => writeln!(out, "\ncounted since the start, {age} ago"),
            false => writeln!(out, "\ncounted in the last {age}"),
        };
        for (name, by) in &self.grown {
            match words::of(name) {
                words::Shown::Words(text) => drop(writeln!(out, "{by:>12} {text} ({name})")),
                words::Shown::Name => drop(writeln!(out, "{by:>12} {name}")),
                words::Shown::Elsewhere => {}
            }
        }
    }

    fn ago(&self, time: UnixTime) -> String {
        format!("{} ago", span(self.now.since(time).as_secs()))
    }
}

fn file_report(seen: &FileSeen) -> FileReport {
    let FileFetches { deliveries, failures, generation, content } = seen.fetches.clone();
    FileReport {
        name: seen.file.clone(),
        outcome: seen.outcome.clone(),
        at: seen.at,
        deliveries,
        failures,
        generation,
        fetched: content,
        wanted: String::new(),
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
mod tests;
