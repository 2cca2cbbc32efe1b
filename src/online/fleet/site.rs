//! `lineside-hq fleet SITE`: all that a site told, each phone on a line.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{clean, span};
use crate::db::{Change, CheckIns as _, Db, Heard};
use api::check_in::report::PhoneReport;
use ids::{MacAddr, SiteId, UnixTime};

/// The most changes that are shown.
const CHANGES: u32 = 12;
/// How far a site's clock may be from HQ's without a word: a page is on its way for some seconds.
const CLOCK_SLACK: u64 = 30;

/// What HQ's host knows of one site beyond its [`super::FleetRow`].
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct SiteTold {
    heard: Option<Heard>,
    changes: Vec<Change>,
}

impl SiteTold {
    /// Reads it.
    pub fn read(database: &Path, site: &SiteId) -> anyhow::Result<Self> {
        let db = Db::open_existing(database)?;
        Ok(Self { heard: db.heard(site)?, changes: db.changes(site, CHANGES)? })
    }
}

/// What [`super::print_site`] does not show.
#[derive(Debug, Clone)]
pub struct SiteDetails {
    heard: Option<Heard>,
    changes: Vec<Change>,
    inventory: BTreeMap<MacAddr, String>,
    now: UnixTime,
}

impl SiteDetails {
    /// What a site told. `inventory` has the label of each of its phones, which HQ's host may not know.
    pub fn new(SiteTold { heard, changes }: SiteTold, inventory: BTreeMap<MacAddr, String>, now: UnixTime) -> Self {
        Self { heard, changes, inventory, now }
    }
}

impl std::fmt::Display for SiteDetails {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if let Some(heard) = &self.heard {
            self.appliance(heard, f)?;
        }
        self.phones(f)?;
        self.changed(f)
    }
}

impl SiteDetails {
    fn appliance(&self, heard: &Heard, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let report = &heard.report;
        let mut line = |name: &str, value: String| writeln!(f, "{name:<12} {value}");
        let now = &report.now;
        line("up", span(Duration::from_secs(now.uptime_seconds)))?;
        let clock = match (now.clock_synchronised, heard.site_time) {
            (false, _) => "not synchronised".to_owned(),
            (true, Some(time)) if time.0.abs_diff(heard.at.0) > CLOCK_SLACK => {
                let off = span(Duration::from_secs(time.0.abs_diff(heard.at.0)));
                let way = if time < heard.at { "behind" } else { "ahead of" };
                format!("synchronised, {off} {way} HQ's")
            }
            (true, _) => "synchronised".to_owned(),
        };
        line("clock", clock)?;
        line("disk", format!("{} MB free", now.disk_free_bytes / 1_000_000))?;
        let mode = &report.appliance.dhcp_mode;
        line("dhcp", if mode.is_empty() { "off".to_owned() } else { clean(mode) })?;
        for server in &report.dhcp_servers {
            let tftp =
                if server.tftp.is_empty() { "no TFTP server".to_owned() } else { clean(&server.tftp.join(", ")) };
            line("", format!("another DHCP server {} hands out {tftp}", server.server))?;
        }
        if let Some(pulls) = &report.pulls {
            let ago = span(self.now.since(pulls.at));
            let times = if pulls.entries == 1 { "1 release".to_owned() } else { format!("{} releases", pulls.entries) };
            line("pulls", format!("{times}, the last was generation {}, {ago} ago", pulls.generation))?;
        }
        if !heard.whole {
            line("more", "the site has not told all that it has to tell".to_owned())?;
        }
        for (name, by) in &report.counters.by {
            let since =
                report.counters.since.map(|since| format!(" in {}", span(heard.at.since(since)))).unwrap_or_default();
            line("grew", format!("{} by {by}{since}", clean(name)))?;
        }
        Ok(())
    }

    fn phones(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let none = BTreeMap::new();
        let seen = self.heard.as_ref().map_or(&none, |heard| &heard.report.phones);
        let mut rows = Vec::new();
        for (mac, phone) in seen {
            rows.push(self.phone(*mac, phone));
        }
        for (mac, label) in self.inventory.iter().filter(|(mac, _)| !seen.contains_key(*mac)) {
            rows.push([
                mac.to_string(),
                clean(label),
                "never".into(),
                "-".into(),
                "-".into(),
                "-".into(),
                String::new(),
            ]);
        }
        if rows.is_empty() {
            return Ok(());
        }
        let head = ["phone", "label", "seen", "outcome", "release", "content", "last file"].map(str::to_owned);
        let rows: Vec<[String; 7]> = std::iter::once(head).chain(rows).collect();
        let mut widths = [0; 7];
        for row in &rows {
            for (width, cell) in widths.iter_mut().zip(row) {
                *width = (*width).max(cell.chars().count());
            }
        }
        writeln!(f)?;
        for row in &rows {
            let mut line = String::new();
            for (width, cell) in widths.iter().zip(row) {
                // Writing to a String cannot fail.
                let _ = write!(line, "{cell:<width$}  ");
            }
            writeln!(f, "{}", line.trim_end())?;
        }
        Ok(())
    }

    fn phone(&self, mac: MacAddr, phone: &PhoneReport) -> [String; 7] {
        let label = match self.inventory.get(&mac) {
            Some(label) => clean(label),
            None if phone.known => String::new(),
            None => "not in the inventory".to_owned(),
        };
        let Some(last) = phone.last() else {
            return [mac.to_string(), label, "-".into(), "-".into(), "-".into(), "-".into(), String::new()];
        };
        let release = if last.generation.0 == 0 { "-".to_owned() } else { last.generation.to_string() };
        let files = || phone.files.iter().filter(|file| !file.wanted.is_empty());
        // A file whose content was fetched and is another one now. What was fetched and is not known counts for nothing.
        let behind = files().any(|file| !file.fetched.is_empty() && file.fetched != file.wanted);
        let content = match files().next() {
            None => "-",
            Some(_) if behind => "behind",
            Some(_) if files().any(|file| file.fetched.is_empty()) => "?",
            Some(_) => "current",
        };
        let seen = format!("{} ago", span(self.now.since(last.at)));
        [mac.to_string(), label, seen, clean(&last.outcome), release, content.to_owned(), clean(&last.name)]
    }

    fn changed(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (number, change) in self.changes.iter().enumerate() {
            let ago = span(self.now.since(change.at));
            let (kind, was, now) = (clean(&change.kind), clean(&change.was), clean(&change.now));
            let what = match (was.is_empty(), now.is_empty()) {
                (true, false) if kind == "alert" => format!("began: {now}"),
                (false, true) if kind == "alert" => format!("ended: {was}"),
                _ => format!(
                    "{kind}: {} -> {}",
                    if was.is_empty() { "-" } else { &was },
                    if now.is_empty() { "-" } else { &now }
                ),
            };
            let name = if number == 0 { "\nchanges     " } else { "            " };
            writeln!(f, "{name} {ago} ago, {what}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
