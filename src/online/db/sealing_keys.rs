//! What sites state about their sealing keys, until the publisher has looked at it. The service can neither make nor check
//! such a statement.

use std::collections::BTreeMap;

use rusqlite::{Transaction, params};
use serde::{Deserialize, Serialize};

use super::{Db, TextColumn, TimeColumn, parsed};
use api::SealingKeyStatement;
use ids::{SiteId, UnixTime};

/// How many statements of one site are kept, the newest: one for each of its appliances, of which the publisher knows two.
const KEPT: u32 = 2;
/// Within so many seconds a site may state as much as is kept.
const PACE: i64 = 3600;
/// The longest statement that is read, in bytes. The file may be another host's.
const MAX_BYTES: u32 = 2048;
/// The most statements that are read.
const MAX_READ: u32 = 100_000;

/// A statement that waits for the publisher.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredStatement {
    /// When it came, by the service's clock.
    pub at: UnixTime,
    /// The JSON of a [`SealingKeyStatement`]. It is not checked: the publisher does not trust this file.
    pub statement: String,
}

/// An older program leaves the table alone, so it needs no number of the format.
pub(super) fn make_table(db: &Transaction<'_>) -> rusqlite::Result<()> {
    db.execute_batch(
        "CREATE TABLE IF NOT EXISTS sealing_keys (
            n INTEGER PRIMARY KEY, site TEXT NOT NULL REFERENCES sites(id), sender TEXT NOT NULL,
            statement TEXT NOT NULL, at INTEGER NOT NULL, UNIQUE (site, sender)
        ) STRICT;",
    )
}

impl Db {
    /// Keeps a site's statement as the newest of its sender. Returns `false` if the site states too much at once.
    pub fn keep_sealing_key(
        &self,
        site: &SiteId,
        statement: &SealingKeyStatement,
        now: UnixTime,
    ) -> anyhow::Result<bool> {
        let (sender, text) = (format!("{:?}", statement.from), serde_json::to_string(statement)?);
        // An appliance repeats itself until a release says that it was heard. That costs no write.
        let known: bool = self.read().query_row(
            "SELECT EXISTS (SELECT 1 FROM sealing_keys WHERE site = ?1 AND sender = ?2 AND statement = ?3)",
            params![TextColumn(site), sender, text],
            |row| row.get(0),
        )?;
        if known {
            return Ok(true);
        }
        self.write(|db| {
            let recent: u32 = db.query_row(
                "SELECT count(*) FROM sealing_keys WHERE site = ?1 AND at BETWEEN ?2 AND ?3",
                params![TextColumn(site), TimeColumn(UnixTime(now.0.saturating_sub(PACE))), TimeColumn(now)],
                |row| row.get(0),
            )?;
            if recent >= KEPT {
                return Ok(false);
            }
            db.execute(
                "INSERT OR REPLACE INTO sealing_keys (site, sender, statement, at) VALUES (?1, ?2, ?3, ?4)",
                params![TextColumn(site), sender, text, TimeColumn(now)],
            )?;
            db.execute(
                "DELETE FROM sealing_keys WHERE site = ?1 AND n <=
                 (SELECT n FROM sealing_keys WHERE site = ?1 ORDER BY n DESC LIMIT 1 OFFSET ?2)",
                params![TextColumn(site), KEPT],
            )?;
            Ok(true)
        })
    }

    /// All statements that wait, by site, oldest first.
    pub fn sealing_keys(&self) -> anyhow::Result<BTreeMap<SiteId, Vec<StoredStatement>>> {
        let db = self.read();
        let mut statement = db.prepare(
            "SELECT site, at, statement FROM sealing_keys WHERE length(statement) <= ?1 ORDER BY n DESC LIMIT ?2",
        )?;
        let rows = statement.query_map([MAX_BYTES, MAX_READ], |row| {
            let at = row.get::<_, TimeColumn>(1)?.0;
            Ok((parsed::<SiteId>(row, 0)?, StoredStatement { at, statement: row.get(2)? }))
        })?;
        // A row that makes no sense is nobody's statement.
        let rows = rows.filter_map(Result::ok);
        let mut all: BTreeMap<SiteId, Vec<StoredStatement>> = BTreeMap::new();
        for (site, stored) in rows {
            let of_site = all.entry(site).or_default();
            // The newest count, also where another program wrote the file.
            if of_site.len() < usize::try_from(KEPT).unwrap_or(usize::MAX) {
                of_site.insert(0, stored);
            }
        }
        Ok(all)
    }

    /// Forgets a statement that the publisher has dealt with, unless another one has taken its place meanwhile.
    pub fn drop_sealing_key(&self, site: &SiteId, stored: &StoredStatement) -> anyhow::Result<()> {
        self.write(|db| {
            db.execute(
                "DELETE FROM sealing_keys WHERE site = ?1 AND statement = ?2",
                params![TextColumn(site), stored.statement],
            )?;
            Ok(())
        })
    }
}
