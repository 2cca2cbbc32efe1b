//! What HQ's host knows: tokens, sites, enrolments, certificates and check-ins, in one SQLite file.
//!
//! The command line and the service open the same file side by side. It holds neither content nor a key that signs
//! content. Whoever reads the file learns which sites there are, and whoever writes it can lock sites out, but no more.

use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags, OptionalExtension as _, Transaction, TransactionBehavior, params};

use crate::admit::{self, Refused, TokenRow};
use crate::ca::{Csr, Issued};
use api::{self, EnrolRequest};
use ids::{Digest, FleetId, Generation, SiteId, UnixTime};
use repository::layout::Layout;

/// How many certificates one site may have issued in a day; a loop in an appliance must not fill the disk.
pub const MAX_CERTIFICATES_A_DAY: u32 = 20;

pub mod api_tokens;
mod changes;
mod check_ins;
mod columns;
mod enrolled;
pub mod restored;
mod schema;
pub mod sealing_keys;
mod site_time;

use columns::{GenerationColumn, TextColumn, TimeColumn, parsed};

pub use changes::{CHANGE_DAYS, Change, MAX_CHANGES};
pub use check_ins::{CheckIns, Heard, Taken};

/// The database. Every call blocks, so the service makes them on threads that may block.
pub struct Db {
    /// A write waits for the disk, so reads have their own connection. WAL lets both run at once.
    writer: Mutex<Connection>,
    reader: Mutex<Connection>,
}

/// What the database knows of a site.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SiteRow {
    /// The id in the site's file.
    pub id: SiteId,
    /// The site's name, for people, as the publisher last wrote it.
    pub name: String,
    /// The newest generation that was published for it.
    pub published: Generation,
    /// When it was revoked; `None` if it is not, or if a new token let it in again.
    pub revoked_at: Option<UnixTime>,
    /// Whether an appliance was enrolled.
    pub enrolled: bool,
    /// The latest end of its certificates that are not revoked; `None` if there is none.
    pub certificate_until: Option<UnixTime>,
}

/// What the database says of a presented certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CertificateStanding {
    /// HQ issued it to this site and it is not revoked.
    Good,
    /// The certificate or its site is revoked.
    Revoked,
    /// HQ has no record of issuing it to this site.
    Unknown,
}

/// An enrolment that the publisher has not taken over yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Enrolment {
    /// The id of the token that the appliance used.
    pub token: String,
    /// The site that the token is for.
    pub site: SiteId,
    /// The certificate signing request in PEM, which the publisher's proof covers.
    pub csr: String,
    /// The appliance's public sealing key, in hex. The publisher's proof covers it, too.
    pub recipient: String,
    /// The proof for the publisher, as the appliance sent it ([`EnrolRequest::publisher_proof`]).
    pub publisher_proof: String,
    /// When the service accepted it, by its clock.
    pub at: UnixTime,
}

impl Db {
    /// Opens the database, making it (mode 0600) if there is none.
    pub fn open(path: &Path) -> anyhow::Result<Self> {
        // SQLite would make the file with the umask's mode, and sync the folder only with the first transaction.
        durable::ensure(path, durable::PRIVATE).with_context(|| format!("cannot open database {}", path.display()))?;
        Self::connect(path).with_context(|| format!("cannot use database {}", path.display()))
    }

    /// Opens the database only if it exists.
    pub fn open_existing(path: &Path) -> anyhow::Result<Self> {
        ensure!(path.symlink_metadata().is_ok(), "there is no database {}", path.display());
        Self::connect(path).with_context(|| format!("cannot use database {}", path.display()))
    }

    /// Connects to a file that another host may have written: SQLite's advice for those (sqlite.org/security.html) is followed,
    /// and the file is no link.
    fn connect(path: &Path) -> anyhow::Result<Self> {
        // What is above it may be a link, which is the owner's.
        let path = durable::parent(path).canonicalize()?.join(path.file_name().context("a file has a name")?);
        durable::regular_file(&path)?;
        let connection = || -> rusqlite::Result<Connection> {
            let flags =
                OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX | OpenFlags::SQLITE_OPEN_NOFOLLOW;
            let connection = Connection::open_with_flags(&path, flags)?;
            connection.set_db_config(DbConfig::SQLITE_DBCONFIG_DEFENSIVE, true)?;
            connection.set_db_config(DbConfig::SQLITE_DBCONFIG_TRUSTED_SCHEMA, false)?;
            connection.pragma_update(None, "cell_size_check", true)?;
            connection.busy_timeout(Duration::from_secs(10))?;
            connection.pragma_update(None, "journal_mode", "WAL")?;
            connection.pragma_update(None, "synchronous", "FULL")?;
            connection.pragma_update(None, "foreign_keys", true)?;
            Ok(connection)
        };
        let mut writer = connection()?;
        let transaction = writer.transaction_with_behavior(TransactionBehavior::Immediate)?;
        schema::prepare(&transaction)?;
        sealing_keys::make_table(&transaction)?;
        transaction.commit()?;
        Ok(Self { writer: Mutex::new(writer), reader: Mutex::new(connection()?) })
    }

    fn read(&self) -> MutexGuard<'_, Connection> {
        self.reader.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn write<T>(&self, act: impl FnOnce(&Transaction<'_>) -> anyhow::Result<T>) -> anyhow::Result<T> {
        let mut connection = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let value = act(&transaction)?;
        transaction.commit()?;
        Ok(value)
    }

    /// Keeps what the service must know of a new token. A new token also ends the revocation of its site; nothing else
    /// does.
    pub fn add_token(&self, token: &TokenRow, site_name: &str) -> anyhow::Result<()> {
        self.write(|db| {
            upsert_site(db, &token.site, site_name)?;
            db.execute(
                "UPDATE sites SET fleet = ?2, revoked_at = NULL WHERE id = ?1",
                params![TextColumn(&token.site), TextColumn(&token.fleet)],
            )?;
            db.execute(
                "INSERT INTO tokens (id, site, fleet, service_key, expires) VALUES (?1, ?2, ?3, ?4, ?5)",
                params![
                    token.id,
                    TextColumn(&token.site),
                    TextColumn(&token.fleet),
                    token.service_key,
                    TimeColumn(token.expires)
                ],
            )?;
            Ok(())
        })
    }

    /// Decides on an enrolment ([`admit::admit`]), has `issue` make the certificate and marks the token as used, all in
    /// one transaction.
    pub fn enrol(
        &self,
        request: &EnrolRequest,
        now: UnixTime,
        issue: impl FnOnce(&Csr, &FleetId, &SiteId) -> anyhow::Result<Issued>,
    ) -> anyhow::Result<Result<(SiteId, Issued), Refused>> {
        // The first decision needs no write lock, so that callers without a valid token cannot hold it.
        if let Err(refused) = admit::admit(token(&self.read(), &request.token)?.as_ref(), request, now) {
            return Ok(Err(refused));
        }
        self.write(|db| {
            let row = token(db, &request.token)?;
            let admitted = match (restored::waits(db)?, admit::admit(row.as_ref(), request, now)) {
                (None, Ok(admitted)) => admitted,
                (Some(refused), _) | (None, Err(refused)) => return Ok(Err(refused)),
            };
            if issued_today(db, &admitted.site, now)? >= MAX_CERTIFICATES_A_DAY {
                return Ok(Err(Refused::TooMany));
            }
            let issued = issue(&admitted.csr, &admitted.fleet, &admitted.site)?;
            add_certificate(db, &admitted.site, &issued, now)?;
            if !admitted.retry {
                db.execute(
                    "UPDATE tokens SET used_at = ?2, used_by = ?3 WHERE id = ?1",
                    params![request.token, TimeColumn(now), admitted.applicant],
                )?;
                db.execute(
                    "INSERT INTO enrolments (token, site, csr, recipient, publisher_proof, version, at)
                     VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
                    params![
                        request.token,
                        TextColumn(&admitted.site),
                        request.csr,
                        format!("{:?}", request.recipient),
                        request.publisher_proof,
                        request.version,
                        TimeColumn(now)
                    ],
                )?;
            }
            Ok(Ok((admitted.site, issued)))
        })
    }

    /// Has `issue` renew a site's certificate and records it, unless the old one was revoked meanwhile.
    pub fn renew(
        &self,
        site: &SiteId,
        old: &Digest,
        now: UnixTime,
        issue: impl FnOnce() -> anyhow::Result<Issued>,
    ) -> anyhow::Result<Result<Issued, Refused>> {
        self.write(|db| {
            if let Some(refused) = restored::before_renewal(db, site, old)? {
                return Ok(Err(refused));
            }
            if issued_today(db, site, now)? >= MAX_CERTIFICATES_A_DAY {
                return Ok(Err(Refused::TooMany));
            }
            let issued = issue()?;
            add_certificate(db, site, &issued, now)?;
            Ok(Ok(issued))
        })
    }

    /// What is known of a certificate that was presented for this site.
    pub fn standing(&self, site: &SiteId, fingerprint: &Digest) -> anyhow::Result<CertificateStanding> {
        standing(&self.read(), site, fingerprint)
    }

    /// The newest generation that was published for a site; 0 if there was none.
    pub fn published(&self, site: &SiteId) -> anyhow::Result<Generation> {
        let db = self.read();
        let mut statement = db.prepare_cached("SELECT published FROM sites WHERE id = ?1")?;
        Ok(statement
            .query_row([TextColumn(site)], |row| row.get::<_, GenerationColumn>(0))
            .optional()?
            .map_or(Generation(0), |release| release.0))
    }

    /// Revokes a site's certificates and all its tokens. Returns how many certificates that were.
    pub fn revoke(&self, site: &SiteId, now: UnixTime) -> anyhow::Result<usize> {
        self.write(|db| {
            let known = db.execute(
                "UPDATE sites SET revoked_at = coalesce(revoked_at, ?2) WHERE id = ?1",
                params![TextColumn(site), TimeColumn(now)],
            )?;
            ensure!(known == 1, "site {site} was never published nor given a token");
            db.execute("UPDATE tokens SET revoked = 1 WHERE site = ?1", [TextColumn(site)])?;
            db.execute("UPDATE enrolments SET accepted = 1 WHERE site = ?1", [TextColumn(site)])?;
            Ok(db.execute("UPDATE certificates SET revoked = 1 WHERE site = ?1 AND revoked = 0", [TextColumn(site)])?)
        })
    }

    /// Enrolments that the publisher has not taken over, oldest first.
    pub fn new_enrolments(&self) -> anyhow::Result<Vec<Enrolment>> {
        let db = self.read();
        let mut statement = db.prepare(
            "SELECT token, site, csr, recipient, publisher_proof, at FROM enrolments WHERE accepted = 0 ORDER BY at, token",
        )?;
        let rows = statement.query_map([], |row| {
            Ok(Enrolment {
                token: row.get(0)?,
                site: parsed(row, 1)?,
                csr: row.get(2)?,
                recipient: row.get(3)?,
                publisher_proof: row.get(4)?,
                at: row.get::<_, TimeColumn>(5)?.0,
            })
        })?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    /// Notes the published generation of each site (id, name, generation). A lower one than before is ignored.
    pub fn published_now(&self, published: &[(SiteId, String, Generation)]) -> anyhow::Result<()> {
        self.write(|db| {
            for (site, name, generation) in published {
                upsert_site(db, site, name)?;
                db.execute(
                    "UPDATE sites SET published = max(published, ?2) WHERE id = ?1",
                    params![TextColumn(site), GenerationColumn(*generation)],
                )?;
            }
            Ok(())
        })
    }

    /// Every site that was published or given a token, by name.
    pub fn sites(&self) -> anyhow::Result<Vec<SiteRow>> {
        let db = self.read();
        let mut statement = db.prepare(
            "SELECT id, name, published, revoked_at,
                    EXISTS (SELECT 1 FROM enrolments WHERE site = sites.id),
                    (SELECT max(not_after) FROM certificates WHERE site = sites.id AND revoked = 0)
             FROM sites ORDER BY name, id",
        )?;
        let rows = statement.query_map([], |row| {
            Ok(SiteRow {
                id: parsed(row, 0)?,
                name: row.get(1)?,
                published: row.get::<_, GenerationColumn>(2)?.0,
                revoked_at: row.get::<_, Option<TimeColumn>>(3)?.map(|time| time.0),
                enrolled: row.get(4)?,
                certificate_until: row.get::<_, Option<TimeColumn>>(5)?.map(|time| time.0),
            })
        })?;
        Ok(rows.collect::<Result<_, _>>()?)
    }
}

/// Notes in the fleet's database what was published, for check-in answers and the fleet view.
pub fn note_published(layout: &Layout, published: &[(SiteId, String, Generation)]) -> anyhow::Result<()> {
    Db::open(&layout.database())?.published_now(published)
}

fn upsert_site(db: &Connection, site: &SiteId, name: &str) -> anyhow::Result<()> {
    db.execute(
        "INSERT INTO sites (id, name) VALUES (?1, ?2) ON CONFLICT (id) DO UPDATE SET name = excluded.name",
        params![TextColumn(site), name],
    )?;
    Ok(())
}

fn token(db: &Connection, id: &str) -> anyhow::Result<Option<TokenRow>> {
    let mut statement =
        db.prepare_cached("SELECT id, site, fleet, service_key, expires, revoked, used_by FROM tokens WHERE id = ?1")?;
    let row = statement.query_row([id], |row| {
        Ok(TokenRow {
            id: row.get(0)?,
            site: parsed(row, 1)?,
            fleet: parsed(row, 2)?,
            service_key: row.get(3)?,
            expires: row.get::<_, TimeColumn>(4)?.0,
            revoked: row.get(5)?,
            used_by: row.get(6)?,
        })
    });
    Ok(row.optional()?)
}

fn standing(db: &Connection, site: &SiteId, fingerprint: &Digest) -> anyhow::Result<CertificateStanding> {
    let mut statement = db.prepare_cached(
        "SELECT certificates.revoked OR sites.revoked_at IS NOT NULL FROM certificates JOIN sites ON sites.id = site
         WHERE fingerprint = ?1 AND site = ?2",
    )?;
    let revoked =
        statement.query_row(params![TextColumn(fingerprint), TextColumn(site)], |row| row.get(0)).optional()?;
    Ok(match revoked {
        Some(false) => CertificateStanding::Good,
        Some(true) => CertificateStanding::Revoked,
        None => CertificateStanding::Unknown,
    })
}

fn issued_today(db: &Connection, site: &SiteId, now: UnixTime) -> anyhow::Result<u32> {
    let since = UnixTime(now.0.saturating_sub(86_400));
    let mut statement = db.prepare_cached("SELECT count(*) FROM certificates WHERE site = ?1 AND issued_at > ?2")?;
    Ok(statement.query_row(params![TextColumn(site), TimeColumn(since)], |row| row.get(0))?)
}

fn add_certificate(db: &Connection, site: &SiteId, issued: &Issued, now: UnixTime) -> anyhow::Result<()> {
    db.execute(
        "INSERT INTO certificates (serial, site, issued_at, not_after, fingerprint) VALUES (?1, ?2, ?3, ?4, ?5)",
        params![
            issued.serial,
            TextColumn(site),
            TimeColumn(now),
            TimeColumn(issued.expires),
            TextColumn(&issued.fingerprint)
        ],
    )?;
    // A certificate that is too old to be renewed is of no use.
    let dead = UnixTime(now.0.saturating_sub(i64::from(api::RENEWABLE_DAYS) * 86_400));
    db.execute(
        "DELETE FROM certificates WHERE site = ?1 AND not_after < ?2",
        params![TextColumn(site), TimeColumn(dead)],
    )?;
    Ok(())
}

#[cfg(test)]
mod tests;
