//! The tables, and how an older database becomes one of today.

use anyhow::bail;
use rusqlite::Transaction;

use super::check_ins;
use super::columns::{TimeColumn, parsed};
use api::{CheckIn, SiteState};
use ids::{SiteId, UnixTime};

/// The format that this version writes, kept in `user_version`.
pub(super) const SCHEMA: u32 = 2;
/// The tables of format 1. `check_ins` holds whole bodies, of which only the newest of a site was ever read.
const SCHEMA_1: &str = "
CREATE TABLE sites (
    id TEXT PRIMARY KEY, name TEXT NOT NULL, fleet TEXT, published INTEGER NOT NULL DEFAULT 0, revoked_at INTEGER
) STRICT;
CREATE TABLE tokens (
    id TEXT PRIMARY KEY, site TEXT NOT NULL REFERENCES sites(id), fleet TEXT NOT NULL, service_key BLOB NOT NULL,
    expires INTEGER NOT NULL, revoked INTEGER NOT NULL DEFAULT 0, used_at INTEGER, used_by TEXT
) STRICT;
CREATE TABLE enrolments (
    token TEXT PRIMARY KEY REFERENCES tokens(id), site TEXT NOT NULL REFERENCES sites(id), csr TEXT NOT NULL,
    recipient TEXT NOT NULL, publisher_proof TEXT NOT NULL, version TEXT NOT NULL, at INTEGER NOT NULL,
    accepted INTEGER NOT NULL DEFAULT 0
) STRICT;
CREATE TABLE certificates (
    serial TEXT PRIMARY KEY, site TEXT NOT NULL REFERENCES sites(id), issued_at INTEGER NOT NULL,
    not_after INTEGER NOT NULL, fingerprint TEXT NOT NULL UNIQUE, revoked INTEGER NOT NULL DEFAULT 0
) STRICT;
CREATE INDEX certificates_of_site ON certificates(site, issued_at);
CREATE TABLE check_ins (
    n INTEGER PRIMARY KEY, site TEXT NOT NULL REFERENCES sites(id), at INTEGER NOT NULL, body TEXT NOT NULL
) STRICT;
CREATE INDEX check_ins_of_site ON check_ins(site, n);
";

/// What format 2 has instead of `check_ins`: a row for what each site says of itself, one for each of its phones, and one for
/// each change. `own` is lines `KEY SP VALUE`.
const SCHEMA_2: &str = "
CREATE TABLE site_state (
    site TEXT PRIMARY KEY REFERENCES sites(id), at INTEGER NOT NULL, site_time INTEGER, box TEXT,
    counter INTEGER NOT NULL DEFAULT 0, header TEXT, signature TEXT, certificate BLOB, whole INTEGER NOT NULL,
    generation INTEGER NOT NULL, phones INTEGER NOT NULL, unknown INTEGER NOT NULL, own TEXT NOT NULL
) STRICT, WITHOUT ROWID;
CREATE TABLE phone_state (
    site TEXT NOT NULL REFERENCES sites(id), mac TEXT NOT NULL, value TEXT NOT NULL, PRIMARY KEY (site, mac)
) STRICT, WITHOUT ROWID;
CREATE TABLE site_change (
    site TEXT NOT NULL REFERENCES sites(id), n INTEGER NOT NULL, at INTEGER NOT NULL, kind TEXT NOT NULL,
    was TEXT NOT NULL, now TEXT NOT NULL, PRIMARY KEY (site, n)
) STRICT, WITHOUT ROWID;
";

/// Makes the tables in a new database, and those of today in an older one. A database of a newer version is left alone.
pub(super) fn prepare(transaction: &Transaction<'_>) -> anyhow::Result<()> {
    let version: u32 = transaction.pragma_query_value(None, "user_version", |row| row.get(0))?;
    match version {
        0 => {
            transaction.execute_batch(SCHEMA_1)?;
            second(transaction)?;
        }
        1 => second(transaction)?,
        SCHEMA => return Ok(()),
        newer => bail!("it has format {newer}, newer than this version knows ({SCHEMA}); update lineside-hq"),
    }
    Ok(transaction.pragma_update(None, "user_version", SCHEMA)?)
}

/// From format 1 to 2: the newest check-in of each site becomes its state.
fn second(transaction: &Transaction<'_>) -> anyhow::Result<()> {
    transaction.execute_batch(SCHEMA_2)?;
    let newest: Vec<(SiteId, UnixTime, String)> = transaction
        .prepare("SELECT site, at, body FROM check_ins WHERE n IN (SELECT max(n) FROM check_ins GROUP BY site)")?
        .query_map([], |row| Ok((parsed(row, 0)?, row.get::<_, TimeColumn>(1)?.0, row.get(2)?)))?
        .collect::<Result<_, _>>()?;
    for (site, at, body) in newest {
        // One that cannot be read must not hide those of all other sites.
        let unreadable = |_| CheckIn { state: SiteState::Unreadable.code().to_owned(), ..CheckIn::default() };
        let told: CheckIn = serde_json::from_str(&body).unwrap_or_else(unreadable);
        check_ins::keep_unsigned(transaction, &site, at, &told)?;
    }
    Ok(transaction.execute_batch("DROP TABLE check_ins")?)
}

#[cfg(test)]
pub(super) const FORMAT_1: &str = SCHEMA_1;
