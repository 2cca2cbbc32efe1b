//! What changed at a site, as events. They tell when something began and ended; the state tells what is.

use std::collections::BTreeSet;

use rusqlite::{Connection, params};
use serde::{Deserialize, Serialize};

use super::Db;
use super::check_ins::Heard;
use super::columns::{TextColumn, TimeColumn};
use ids::{SiteId, UnixTime};

/// The most changes of a site that are kept; the oldest go first.
pub const MAX_CHANGES: u32 = 200;
/// Changes are kept for so many days.
pub const CHANGE_DAYS: i64 = 400;
/// The longest text of a change, in characters.
const MAX_TEXT: usize = 300;

/// Something that changed at a site.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// When HQ heard of it, by its clock.
    pub at: UnixTime,
    /// `generation`, `state`, `version`, `dhcp-mode`, `box`, or `alert`.
    pub kind: String,
    /// What it was before; empty if an alert begins.
    pub was: String,
    /// What it is from then on; empty if an alert ends.
    pub now: String,
}

impl Db {
    /// The newest changes of a site, the newest first.
    pub fn changes(&self, site: &SiteId, limit: u32) -> anyhow::Result<Vec<Change>> {
        let db = self.read();
        let mut statement =
            db.prepare("SELECT at, kind, was, now FROM site_change WHERE site = ?1 ORDER BY n DESC LIMIT ?2")?;
        let rows = statement.query_map(params![TextColumn(site), limit], |row| {
            Ok(Change { at: row.get::<_, TimeColumn>(0)?.0, kind: row.get(1)?, was: row.get(2)?, now: row.get(3)? })
        })?;
        Ok(rows.collect::<Result<_, _>>()?)
    }
}

/// Keeps what is different between what a site said and what it says.
pub(super) fn note_changes(
    db: &Connection,
    site: &SiteId,
    at: UnixTime,
    was: &Heard,
    now: &Heard,
) -> anyhow::Result<()> {
    let changes = between(was, now);
    if changes.is_empty() {
        return Ok(());
    }
    let mut n: i64 = db
        .prepare_cached("SELECT coalesce(max(n), 0) FROM site_change WHERE site = ?1")?
        .query_row([TextColumn(site)], |row| row.get(0))?;
    for (kind, was, now) in changes {
        n += 1;
        let short = |text: String| text.chars().take(MAX_TEXT).collect::<String>();
        db.prepare_cached("INSERT INTO site_change (site, n, at, kind, was, now) VALUES (?1, ?2, ?3, ?4, ?5, ?6)")?
            .execute(params![TextColumn(site), n, TimeColumn(at), kind, short(was), short(now)])?;
    }
    let oldest = UnixTime(at.0.saturating_sub(CHANGE_DAYS * 86_400));
    db.prepare_cached("DELETE FROM site_change WHERE site = ?1 AND (n <= ?2 OR at < ?3)")?.execute(params![
        TextColumn(site),
        n.saturating_sub(i64::from(MAX_CHANGES)),
        TimeColumn(oldest)
    ])?;
    Ok(())
}

fn between(was: &Heard, now: &Heard) -> Vec<(&'static str, String, String)> {
    let facts = |heard: &Heard| {
        let appliance = &heard.report.appliance;
        [
            ("generation", heard.generation.to_string()),
            ("state", appliance.state.clone()),
            ("version", appliance.version.clone()),
            ("dhcp-mode", appliance.dhcp_mode.clone()),
            ("box", heard.signed_by.clone().unwrap_or_default()),
        ]
    };
    let alerts = |heard: &Heard| -> BTreeSet<String> {
        heard.report.alerts.iter().map(|alert| format!("{}: {}", alert.code, alert.text)).collect()
    };
    let (facts_before, facts_now) = (facts(was), facts(now));
    let mut changes: Vec<_> = facts_before
        .into_iter()
        .zip(facts_now)
        .filter(|((_, was), (_, now))| was != now)
        .map(|((kind, was), (_, now))| (kind, was, now))
        .collect();
    let (before, after) = (alerts(was), alerts(now));
    let ended = before.difference(&after);
    let began = after.difference(&before);
    changes.extend(ended.map(|alert| ("alert", alert.clone(), String::new())));
    changes.extend(began.map(|alert| ("alert", String::new(), alert.clone())));
    changes
}
