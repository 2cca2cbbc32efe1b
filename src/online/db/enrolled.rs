//! What the desk asks about enrolments.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Mutex;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use rusqlite::{Connection, OpenFlags, params};

use super::columns::{TextColumn, TimeColumn, parsed};
use super::schema::SCHEMA;
use super::{Db, Enrolment};
use crate::ca::Csr;
use crate::issued;
use ids::{Generation, SiteId, UnixTime};

impl Db {
    /// Opens the database for reading alone: no file is made or written. For commands that promise to change nothing.
    pub fn look(path: &Path) -> anyhow::Result<Self> {
        let open = || -> anyhow::Result<Connection> {
            let path = durable::parent(path).canonicalize()?.join(path.file_name().context("a file has a name")?);
            durable::regular_file(&path)?;
            // A database that somebody has open has its log beside it; then that must be read, too. One that nobody has
            // open is complete in itself, and `immutable` keeps SQLite from making a log.
            let log = path.with_file_name(format!("{}-wal", path.file_name().unwrap_or_default().to_string_lossy()));
            let quiet = if log.exists() { "mode=ro" } else { "mode=ro&immutable=1" };
            let mut name = String::new();
            for byte in path.as_os_str().as_encoded_bytes() {
                match byte {
                    b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'/' | b'.' | b'-' | b'_' => name.push(char::from(*byte)),
                    other => name.push_str(&format!("%{other:02x}")),
                }
            }
            let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX | OpenFlags::SQLITE_OPEN_URI;
            let connection = Connection::open_with_flags(format!("file:{name}?{quiet}"), flags)?;
            connection.set_db_config(rusqlite::config::DbConfig::SQLITE_DBCONFIG_DEFENSIVE, true)?;
            connection.set_db_config(rusqlite::config::DbConfig::SQLITE_DBCONFIG_TRUSTED_SCHEMA, false)?;
            connection.busy_timeout(Duration::from_secs(10))?;
            let version: u32 = connection.pragma_query_value(None, "user_version", |row| row.get(0))?;
            ensure!(version > 0, "it is empty");
            ensure!(version <= SCHEMA, "it has format {version}, newer than this version knows ({SCHEMA})");
            ensure!(
                version == SCHEMA,
                "it has format {version}; `lineside-hq serve` or `publish` brings it to {SCHEMA}"
            );
            Ok(connection)
        };
        let both = || -> anyhow::Result<Self> { Ok(Self { writer: Mutex::new(open()?), reader: Mutex::new(open()?) }) };
        both().with_context(|| format!("cannot use database {}", path.display()))
    }

    /// The highest generation of each site that HQ has heard of: what was published, and what the site said that it serves.
    pub fn told_generations(&self) -> anyhow::Result<BTreeMap<SiteId, Generation>> {
        let db = self.read();
        let mut statement = db.prepare(
            "SELECT id, max(published, coalesce((SELECT generation FROM site_state WHERE site = sites.id), 0)) FROM sites",
        )?;
        let mut told = BTreeMap::new();
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            // What a site says is no number that HQ must believe.
            let generation = row.get::<_, i64>(1).ok().and_then(|generation| u64::try_from(generation).ok());
            told.insert(parsed(row, 0)?, Generation(generation.unwrap_or_default()));
        }
        Ok(told)
    }

    /// When the oldest certificate was issued that is kept; `None` if there is none.
    pub fn oldest_certificate(&self) -> anyhow::Result<Option<UnixTime>> {
        let oldest: Option<TimeColumn> =
            self.read().query_row("SELECT min(issued_at) FROM certificates", [], |row| row.get(0))?;
        Ok(oldest.map(|time| time.0))
    }

    /// The newest enrolment of each site that a publisher took over and that was not revoked: the site, the token, and when.
    pub fn taken_over(&self) -> anyhow::Result<Vec<(SiteId, String, UnixTime)>> {
        let db = self.read();
        let mut statement = db.prepare(
            "SELECT enrolments.site, enrolments.token, enrolments.at FROM enrolments
             JOIN tokens ON tokens.id = enrolments.token JOIN sites ON sites.id = enrolments.site
             WHERE accepted = 1 AND NOT tokens.revoked AND sites.revoked_at IS NULL
             ORDER BY enrolments.site, enrolments.at, enrolments.token",
        )?;
        let rows = statement
            .query_map([], |row| Ok((parsed(row, 0)?, (row.get::<_, String>(1)?, row.get::<_, TimeColumn>(2)?.0))))?;
        // Of each site the last one stays.
        let newest = rows.collect::<Result<BTreeMap<SiteId, (String, UnixTime)>, _>>()?;
        Ok(newest.into_iter().map(|(site, (token, at))| (site, token, at)).collect())
    }

    /// Notes that the publisher has taken over the enrolment with this token.
    pub fn accepted(&self, token: &str) -> anyhow::Result<()> {
        self.write(|db| Ok(db.execute("UPDATE enrolments SET accepted = 1 WHERE token = ?1", [token]).map(drop)?))
    }

    /// Revokes a site as [`Db::revoke`] does, also one that these records do not know: they may have been lost.
    pub fn revoke_anyway(&self, site: &SiteId, now: UnixTime) -> anyhow::Result<usize> {
        self.write(|db| {
            db.execute("INSERT INTO sites (id, name) VALUES (?1, ?1) ON CONFLICT (id) DO NOTHING", [TextColumn(site)])?;
            Ok(())
        })?;
        self.revoke(site, now)
    }

    /// Puts an enrolment aside that the publisher does not believe. Its token and the certificates of its key are refused
    /// from now on; the site's other certificates stay. Returns how many certificates that were.
    pub fn discard_enrolment(&self, enrolment: &Enrolment, online: &Path) -> anyhow::Result<usize> {
        let key = Csr::parse(&enrolment.csr).ok().map(|csr| csr.key_digest);
        let kept = issued::of_site(online, &enrolment.site)?;
        let of_key = kept.into_iter().filter(|one| key.is_some() && issued::key_digest(&one.key) == key);
        let fingerprints: Vec<_> = of_key.map(|one| one.fingerprint).collect();
        self.write(|db| {
            db.execute("UPDATE tokens SET revoked = 1 WHERE id = ?1", [&enrolment.token])?;
            db.execute("UPDATE enrolments SET accepted = 1 WHERE token = ?1", [&enrolment.token])?;
            let mut revoked = db.execute(
                "UPDATE certificates SET revoked = 1 WHERE site = ?1 AND issued_at = ?2 AND revoked = 0",
                params![TextColumn(&enrolment.site), TimeColumn(enrolment.at)],
            )?;
            for fingerprint in &fingerprints {
                revoked += db.execute(
                    "UPDATE certificates SET revoked = 1 WHERE site = ?1 AND fingerprint = ?2 AND revoked = 0",
                    params![TextColumn(&enrolment.site), TextColumn(fingerprint)],
                )?;
            }
            Ok(revoked)
        })
    }
}
