//! The table of `lineside-hq fleet`: one line for each site, those in trouble first. Only [`rows`] and [`SiteTold::read`]
//! read the database.

mod site;

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::db::{CheckIns as _, Db, Heard, SiteRow};
use api::{Alert, ImageSeen, SiteState, keys_text};
use ids::{Generation, SiteId, UnixTime};

pub use site::{SiteDetails, SiteTold};

/// A site that did not check in for this long is in trouble. Sites poll every 5 minutes and back off to 30 at the most,
/// so more than one poll has failed.
pub const SILENT: Duration = Duration::from_secs(3600);
/// A certificate with less than this left should have been renewed long ago ([`api::RENEW_AFTER_DAYS`]).
pub const CERTIFICATE_LATE: Duration = Duration::from_secs(21 * 86_400);

/// The condition of a site, from its last check-in and HQ's own records. The worst comes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Condition {
    /// It reported a state other than `ok`: something is wrong with its release or its connection to HQ.
    Failing,
    /// It checked in before, but not within the last [`SILENT`].
    Silent,
    /// It reported alerts, or it did not renew its certificate in time.
    Alert,
    /// It serves an older release than the newest published one.
    Behind,
    /// It enrolled and has not checked in yet.
    NeverSeen,
    /// No appliance has enrolled for it yet.
    NotEnrolled,
    /// It serves the newest release and reported neither a problem nor an alert.
    Well,
    /// The publisher revoked it; HQ refuses its certificates.
    Revoked,
}

/// One line of the table: what HQ knows of a site and what the site last reported.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FleetRow {
    /// The site's id.
    pub site: SiteId,
    /// The site's name, for people.
    pub name: String,
    /// The site's condition, by which the table is sorted.
    pub condition: Condition,
    /// When it last checked in, and how long ago that is; `None` if it never did.
    pub last_seen: Option<(UnixTime, Duration)>,
    /// The newest generation published for it.
    pub published: Generation,
    /// The generation that it reported to serve; `None` before its first check-in.
    pub served: Option<Generation>,
    /// The version of the appliance's program; empty before its first check-in.
    pub version: String,
    /// The image that it runs; `None` if the appliance is not one of our images.
    pub image: Option<ImageSeen>,
    /// How many bytes it wrote to its card, and in how many seconds since its start; `None` if it does not know.
    pub card_written: Option<(u64, u64)>,
    /// Whether its keys are encrypted on its card; `None` before it first checked in.
    pub keys_encrypted: Option<bool>,
    /// How many phones it saw lately, and how many of them are not in its inventory.
    pub phones: (usize, usize),
    /// The code of the state that it reported, and the reason in words; both empty before its first check-in.
    pub state: (String, String),
    /// The alerts that it reported.
    pub alerts: Vec<Alert>,
    /// The latest end of its certificates; `None` if it has none.
    pub certificate_until: Option<UnixTime>,
    /// The box that signed what is shown; `None` if nobody did, or nothing is shown.
    pub signed_by: Option<String>,
}

/// All sites, the worst condition first, then by name.
///
/// Control characters are removed from what sites reported, because it is printed on an operator's terminal.
pub fn rows(database: &Path, now: UnixTime) -> anyhow::Result<Vec<FleetRow>> {
    let db = Db::open_existing(database)?;
    let (mut told, sites) = (db.latest()?, db.sites()?);
    let rows = sites.into_iter().map(|site| row(told.remove(&site.id), site, now)).collect();
    Ok(worst_first(rows))
}

/// These rows, and one for each site of the directory that HQ's host does not know: nobody has made it a token yet.
pub fn with_directory(mut rows: Vec<FleetRow>, directory: &[(SiteId, String)], now: UnixTime) -> Vec<FleetRow> {
    let known: BTreeSet<SiteId> = rows.iter().map(|row| row.site.clone()).collect();
    rows.extend(directory.iter().filter(|(id, _)| !known.contains(id)).map(|(id, name)| {
        let (id, name, published) = (id.clone(), name.clone(), Generation(0));
        row(None, SiteRow { id, name, published, revoked_at: None, enrolled: false, certificate_until: None }, now)
    }));
    worst_first(rows)
}

fn worst_first(mut rows: Vec<FleetRow>) -> Vec<FleetRow> {
    rows.sort_by(|a, b| (a.condition, &a.name, &a.site).cmp(&(b.condition, &b.name, &b.site)));
    rows
}

fn row(heard: Option<Heard>, site: SiteRow, now: UnixTime) -> FleetRow {
    let last_seen = heard.as_ref().map(|heard| (heard.at, now.since(heard.at)));
    let (served, signed_by) =
        (heard.as_ref().map(|heard| heard.generation), heard.as_ref().and_then(|it| it.signed_by.clone()));
    let (phones, told) = heard.map(|heard| (heard.phones, heard.report)).unwrap_or_default();
    let (appliance, at) = (told.appliance, last_seen);
    let certificate_late = site.certificate_until.is_some_and(|until| until.since(now) < CERTIFICATE_LATE);
    let condition = match last_seen {
        _ if site.revoked_at.is_some() => Condition::Revoked,
        None if site.enrolled => Condition::NeverSeen,
        None => Condition::NotEnrolled,
        Some((_, ago)) if ago >= SILENT => Condition::Silent,
        Some(_) if appliance.state != SiteState::Ok.code() => Condition::Failing,
        Some(_) if !told.alerts.is_empty() || certificate_late => Condition::Alert,
        Some(_) if served < Some(site.published) => Condition::Behind,
        Some(_) => Condition::Well,
    };
    let clean_alert = |alert: Alert| Alert { code: clean(&alert.code), text: clean(&alert.text), ..alert };
    FleetRow {
        site: site.id,
        name: clean(&site.name),
        condition,
        last_seen,
        published: site.published,
        served,
        version: clean(&appliance.version),
        image: appliance.image.map(|image| ImageSeen {
            version: clean(&image.version),
            slot: clean(&image.slot),
            good: image.good,
            outcome: clean(&image.outcome),
        }),
        keys_encrypted: at.map(|_| appliance.keys_encrypted),
        card_written: told.now.card_written_bytes.map(|bytes| (bytes, told.now.uptime_seconds)),
        phones,
        state: (clean(&appliance.state), clean(&appliance.reason)),
        alerts: told.alerts.into_iter().map(clean_alert).collect(),
        certificate_until: site.certificate_until,
        signed_by,
    }
}

/// Prints one site in full, one fact on a line.
pub fn print_site(row: &FleetRow) -> String {
    let [name, seen, release, version, phones, _] = cells(row);
    let mut lines = vec![("site", format!("{name} ({})", row.site)), ("seen", seen), ("release", release)];
    lines.extend([("version", version), ("phones", phones)]);
    if row.served.is_some() {
        let signed = row.signed_by.as_ref().map_or_else(|| "no".to_owned(), |by| format!("yes, by box {by}"));
        lines.push(("signed", signed));
    }
    if let Some(image) = &row.image {
        lines.push(("image", image.to_string()));
    }
    if let Some(encrypted) = row.keys_encrypted {
        lines.push(("keys", keys_text(encrypted).to_owned()));
    }
    if let Some((bytes, seconds)) = row.card_written {
        let written = format!("{:.1} MB written in {}", bytes as f64 / 1e6, span(Duration::from_secs(seconds)));
        lines.push(("card", written));
    }
    if let Some(until) = row.certificate_until {
        lines.push(("certificate", format!("until {until}")));
    }
    let (code, reason) = &row.state;
    if !code.is_empty() {
        lines.push(("state", if reason.is_empty() { code.clone() } else { format!("{code}: {reason}") }));
    }
    for alert in &row.alerts {
        let times = if alert.count > 1 { format!(" ({} times)", alert.count) } else { String::new() };
        lines.push(("ALERT", format!("{}: {}{times}", alert.code, alert.text)));
    }
    lines.iter().map(|(what, value)| format!("{what:<12} {value}\n")).collect()
}

/// Prints the rows as a table for a terminal of `width` columns; at least 60 are used.
pub fn print(rows: &[FleetRow], width: usize) -> String {
    if rows.is_empty() {
        return "no sites yet\n".to_owned();
    }
    let head = ["SITE", "SEEN", "RELEASE", "VERSION", "PHONES", "STATE"].map(str::to_owned);
    let table: Vec<[String; 6]> = std::iter::once(head).chain(rows.iter().map(cells)).collect();
    // Each column but the last has a largest width; the last takes what is left.
    let limits = [24, 14, 11, 12, 12];
    let mut widths = [0; 5];
    for line in &table {
        for ((column, limit), cell) in widths.iter_mut().zip(limits).zip(line) {
            *column = (*column).max(cell.chars().count().min(limit));
        }
    }
    let used: usize = widths.iter().map(|column| column + 2).sum();
    let rest = width.max(60).saturating_sub(used).max(20);
    let mut text = String::new();
    for line in &table {
        let [first @ .., last] = line;
        for (cell, column) in first.iter().zip(widths) {
            text.push_str(&format!("{:column$}  ", cut(cell, column)));
        }
        text.push_str(cut(last, rest).trim_end());
        text.truncate(text.trim_end().len());
        text.push('\n');
    }
    text.push_str(&summary(rows));
    text
}

fn cells(row: &FleetRow) -> [String; 6] {
    let seen = match (row.condition, row.last_seen) {
        (_, Some((_, ago))) => format!("{} ago", span(ago)),
        (Condition::NotEnrolled, None) => "not enrolled".to_owned(),
        (_, None) => "never".to_owned(),
    };
    let release = match row.served {
        Some(served) if served == row.published => served.to_string(),
        Some(served) => format!("{served} of {}", row.published),
        None => format!("- of {}", row.published),
    };
    let phones = match (row.served, row.phones) {
        (None, _) => "-".to_owned(),
        (Some(_), (all, 0)) => all.to_string(),
        (Some(_), (all, unknown)) => format!("{all} ({unknown} new)"),
    };
    let version = if row.version.is_empty() { "-".to_owned() } else { row.version.clone() };
    [row.name.clone(), seen, release, version, phones, state(row)]
}

/// The text of the last column, the most important part first.
fn state(row: &FleetRow) -> String {
    let mut parts = Vec::new();
    let (code, reason) = (&row.state.0, &row.state.1);
    match row.condition {
        Condition::Revoked => parts.push("revoked".to_owned()),
        Condition::NotEnrolled => parts.push("waits for its appliance".to_owned()),
        Condition::NeverSeen => parts.push("enrolled, has not checked in".to_owned()),
        Condition::Silent => parts.push("silent".to_owned()),
        Condition::Behind => parts.push("fetching".to_owned()),
        Condition::Well => parts.push("ok".to_owned()),
        Condition::Failing | Condition::Alert => {}
    }
    if row.served.is_some() && code != SiteState::Ok.code() && row.condition != Condition::Revoked {
        let code = if code.is_empty() { "no state" } else { code };
        parts.push(if reason.is_empty() { code.to_owned() } else { format!("{code}: {reason}") });
    }
    for alert in &row.alerts {
        let times = if alert.count > 1 { format!(" ({} times)", alert.count) } else { String::new() };
        parts.push(format!("{}: {}{times}", alert.code, alert.text));
    }
    if row.condition == Condition::Alert
        && row.alerts.is_empty()
        && let Some(until) = row.certificate_until
    {
        parts.push(format!("certificate not renewed, ends {until}"));
    }
    parts.join("; ")
}

fn summary(rows: &[FleetRow]) -> String {
    let count = |condition| rows.iter().filter(|row| row.condition == condition).count();
    let words = [
        (Condition::Failing, "failing"),
        (Condition::Silent, "silent"),
        (Condition::Alert, "with alerts"),
        (Condition::Behind, "fetching"),
        (Condition::NeverSeen, "not seen yet"),
        (Condition::NotEnrolled, "not enrolled"),
        (Condition::Well, "well"),
        (Condition::Revoked, "revoked"),
    ];
    let parts: Vec<String> = words
        .into_iter()
        .map(|(condition, word)| (count(condition), word))
        .filter(|(count, _)| *count > 0)
        .map(|(count, word)| format!("{count} {word}"))
        .collect();
    let noun = if rows.len() == 1 { "site" } else { "sites" };
    format!("\n{} {noun}: {}\n", rows.len(), parts.join(", "))
}

/// A time span in words, in its largest unit: seconds, minutes, hours or days.
fn span(span: Duration) -> String {
    match span.as_secs() {
        secs @ 0..60 => format!("{secs} s"),
        secs @ 60..3600 => format!("{} min", secs / 60),
        secs @ 3600..172_800 => format!("{} h", secs / 3600),
        secs => format!("{} days", secs / 86_400),
    }
}

/// Cuts a text to at most so many characters, with an ellipsis if something is missing.
fn cut(text: &str, limit: usize) -> String {
    if text.chars().count() <= limit {
        return text.to_owned();
    }
    let mut short: String = text.chars().take(limit.saturating_sub(1)).collect();
    short.push('…');
    short
}

/// Removes escape sequences, line ends and direction marks, so that a site cannot draw on the operator's terminal.
fn clean(text: &str) -> String {
    let hidden = |c: char| {
        c.is_control() || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    };
    text.chars().take(300).map(|c| if hidden(c) { '?' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use api::{AlertCode, CheckIn, PhoneSeen};

    const NOW: UnixTime = UnixTime(1_800_000_000);

    fn site(name: &str, published: u64) -> SiteRow {
        SiteRow {
            id: name.to_lowercase().parse().unwrap(),
            name: name.to_owned(),
            published: Generation(published),
            revoked_at: None,
            enrolled: true,
            certificate_until: Some(UnixTime(NOW.0 + 80 * 86_400)),
        }
    }

    fn told(seconds_ago: i64, generation: u64, state: &str) -> Option<(UnixTime, CheckIn)> {
        let phone = PhoneSeen {
            mac: "0004f2aabbcc".parse().unwrap(),
            known: false,
            last_seen: NOW,
            file: "a".to_owned(),
            outcome: "delivered".to_owned(),
            bytes: 4711,
            retransmissions: 0,
            milliseconds: 12,
            generation: Generation(3),
        };
        let check_in = CheckIn {
            version: "0.1.0".to_owned(),
            generation: Generation(generation),
            state: state.to_owned(),
            phones: vec![PhoneSeen { known: true, mac: "0004f2aabbcd".parse().unwrap(), ..phone.clone() }, phone],
            ..CheckIn::default()
        };
        Some((UnixTime(NOW.0 - seconds_ago), check_in))
    }

    fn heard(told: Option<(UnixTime, CheckIn)>) -> Option<Heard> {
        told.map(|(at, told)| Heard::unsigned(at, &told))
    }

    #[test]
    fn trouble_comes_first_and_every_site_has_its_line() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("hq.sqlite");
        let db = Db::open(&path).unwrap();
        let names = ["Bern", "Chur", "Davos", "Aarau"];
        let published: Vec<_> = names.iter().map(|n| (site(n, 7).id, (*n).to_owned(), Generation(7))).collect();
        db.published_now(&published).unwrap();
        for (name, check_in) in
            [("Bern", told(200, 7, "ok")), ("Chur", told(7200, 7, "ok")), ("Davos", told(9, 6, "refused"))]
        {
            let (at, check_in) = check_in.unwrap();
            db.note(&site(name, 7).id, at, &check_in).unwrap();
        }
        let rows = rows(&path, NOW).unwrap();
        assert_eq!(
            print(&rows, 80),
            "SITE   SEEN          RELEASE  VERSION  PHONES     STATE\n\
             Davos  9 s ago       6 of 7   0.1.0    2 (1 new)  refused\n\
             Chur   2 h ago       7        0.1.0    2 (1 new)  silent\n\
             Aarau  not enrolled  - of 7   -        -          waits for its appliance\n\
             Bern   3 min ago     7        0.1.0    2 (1 new)  ok\n\
             \n4 sites: 1 failing, 1 silent, 1 not enrolled, 1 well\n"
        );
    }

    #[test]
    fn conditions_follow_from_what_is_known() {
        let condition = |told, site| row(heard(told), site, NOW).condition;
        assert_eq!(condition(told(10, 7, "ok"), site("a", 7)), Condition::Well);
        assert_eq!(condition(told(10, 6, "ok"), site("a", 7)), Condition::Behind);
        assert_eq!(condition(None, site("a", 7)), Condition::NeverSeen);
        assert_eq!(condition(None, SiteRow { enrolled: false, ..site("a", 7) }), Condition::NotEnrolled);
        let revoked = SiteRow { revoked_at: Some(NOW), ..site("a", 7) };
        assert_eq!(condition(told(10, 7, "ok"), revoked), Condition::Revoked);
        let late = SiteRow { certificate_until: Some(UnixTime(NOW.0 + 86_400)), ..site("a", 7) };
        assert_eq!(condition(told(10, 7, "ok"), late), Condition::Alert);
    }

    #[test]
    fn a_state_and_an_alert_of_a_newer_site_are_shown_as_it_says_them() {
        let (state, alert) = ("paused-by-owner", "dhcp-relay-loop");
        assert_eq!((SiteState::from_code(state), AlertCode::from_code(alert)), (None, None));
        let body = format!(
            r#"{{"version": "9.0.0", "generation": 7, "state": "{state}",
                "alerts": [{{"code": "{alert}", "text": "two relays", "since": "2027-01-15T08:00:00Z", "count": 2}}]}}"#
        );
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("hq.sqlite");
        let db = Db::open(&path).unwrap();
        db.published_now(&[(site("Bern", 7).id, "Bern".to_owned(), Generation(7))]).unwrap();
        db.note(&site("Bern", 7).id, NOW, &serde_json::from_str(&body).unwrap()).unwrap();
        let rows = rows(&path, NOW).unwrap();
        let [bern] = rows.as_slice() else { panic!("{rows:?}") };
        assert_eq!(bern.condition, Condition::Failing);
        for text in [print(&rows, 100), print_site(bern)] {
            assert!(text.contains(state) && text.contains("dhcp-relay-loop: two relays (2 times)"), "{text}");
        }
    }

    #[test]
    fn a_site_cannot_draw_on_the_terminal() {
        let mut hostile = told(10, 7, "\u{1b}[2J\nok").unwrap();
        hostile.1.version = "1\u{202e}0".to_owned();
        hostile.1.reason = "x".repeat(5000);
        let text = print(&[row(heard(Some(hostile)), site("a", 7), NOW)], 80);
        assert!(!text.contains('\u{1b}') && !text.contains('\u{202e}'), "{text:?}");
        assert_eq!(text.lines().count(), 4);
        assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
    }
}
