//! What holds after this database was put back from a backup, or made anew.
//!
//! First the desk says what git knows ([`Db::apply_git`]): which sites are enrolled, and whose appliances were locked out
//! since the backup. Until then nobody enrols and nothing is renewed. Then, for [`READMIT_DAYS`], a certificate that our CA
//! issued after the backup may be renewed once for each site that git says is enrolled, and may do nothing else.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use anyhow::Context as _;
use rusqlite::{Connection, OptionalExtension as _, params};
use tracing::warn;

use super::columns::{TextColumn, TimeColumn, parsed};
use super::{CertificateStanding, Db, standing};
use crate::admit::Refused;
use crate::ca::Identity;
use ids::{Digest, FleetId, SiteId, UnixTime};

/// For so many days after a restore, certificates that the backup does not know may be renewed.
pub const READMIT_DAYS: u32 = 30;

const TABLES: &str = "
CREATE TABLE IF NOT EXISTS restored (
    one INTEGER PRIMARY KEY CHECK (one = 1), backup INTEGER NOT NULL, at INTEGER NOT NULL, applied INTEGER NOT NULL DEFAULT 0
) STRICT;
CREATE TABLE IF NOT EXISTS git_sites (
    site TEXT PRIMARY KEY, enrolled INTEGER NOT NULL, revoked_at INTEGER
) STRICT;
CREATE TABLE IF NOT EXISTS git_revoked (fingerprint TEXT PRIMARY KEY) STRICT;
CREATE TABLE IF NOT EXISTS readmitted (site TEXT PRIMARY KEY, fingerprint TEXT NOT NULL, at INTEGER NOT NULL) STRICT;
";

/// What git says of one site.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GitSite {
    /// The site.
    pub site: SiteId,
    /// Its fleet.
    pub fleet: FleetId,
    /// Its name, or its id.
    pub name: String,
    /// Whether an appliance is enrolled, and was not revoked.
    pub enrolled: bool,
    /// When it was last revoked. An appliance may have been enrolled since.
    pub revoked_at: Option<UnixTime>,
    /// The fingerprints of certificates that were revoked.
    pub revoked: BTreeSet<Digest>,
    /// The certificates that were issued: fingerprint, when, and until when.
    pub certificates: Vec<(Digest, UnixTime, UnixTime)>,
}

/// A restore, and whether the desk has said since what git knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Restored {
    /// When the backup was made; 1970 if there was none.
    pub backup: UnixTime,
    /// When it was put back.
    pub at: UnixTime,
    /// Whether the revocations of git are applied.
    pub applied: bool,
}

impl Db {
    /// Writes a copy of the database, as it is at one moment, to a file that must not exist.
    pub fn copy_to(&self, path: &Path) -> anyhow::Result<()> {
        let name = path.to_str().context("the path is not text")?;
        // SQLite would make it with the umask's mode.
        durable::create_new(path, &[], durable::PRIVATE)
            .with_context(|| format!("cannot create {}", path.display()))?;
        self.read().execute("VACUUM INTO ?1", [name]).with_context(|| format!("cannot write {}", path.display()))?;
        Ok(())
    }

    /// Notes that this database is from a backup of that time.
    pub fn restored_from(&self, backup: UnixTime, now: UnixTime) -> anyhow::Result<()> {
        self.write(|db| {
            db.execute_batch(TABLES)?;
            db.execute_batch("DELETE FROM restored; DELETE FROM readmitted;")?;
            db.execute(
                "INSERT INTO restored (one, backup, at) VALUES (1, ?1, ?2)",
                params![TimeColumn(backup), TimeColumn(now)],
            )?;
            Ok(())
        })
    }

    /// The last restore; `None` if there was none.
    pub fn last_restore(&self) -> anyhow::Result<Option<Restored>> {
        restored(&self.read())
    }

    /// Takes over what git knows of all sites. Certificates that were revoked stay out, whatever the backup says.
    pub fn apply_git(&self, sites: &[GitSite], now: UnixTime) -> anyhow::Result<()> {
        self.write(|db| {
            db.execute_batch(TABLES)?;
            db.execute_batch("DELETE FROM git_sites; DELETE FROM git_revoked;")?;
            for site in sites {
                apply(db, site, now)?;
            }
            db.execute("UPDATE restored SET applied = 1", [])?;
            Ok(())
        })
    }

    /// The same as [`Db::standing`] for a renewal. After a restore it readmits a certificate that the backup does not know.
    pub fn standing_to_renew(&self, identity: &Identity, now: UnixTime) -> anyhow::Result<CertificateStanding> {
        match self.standing(&identity.site, &identity.fingerprint)? {
            CertificateStanding::Unknown if self.may_readmit(identity, now)? => {
                self.write(|db| readmit(db, identity, now))?;
                self.read_readmitted(identity)
            }
            standing => Ok(standing),
        }
    }

    /// The same as [`Db::standing`], and whether the certificate, if it is unknown, could be renewed.
    pub fn standing_after_restore(
        &self,
        identity: &Identity,
        now: UnixTime,
    ) -> anyhow::Result<(CertificateStanding, bool)> {
        let standing = self.standing(&identity.site, &identity.fingerprint)?;
        Ok((standing, standing == CertificateStanding::Unknown && self.may_readmit(identity, now)?))
    }

    fn may_readmit(&self, identity: &Identity, now: UnixTime) -> anyhow::Result<bool> {
        may_readmit(&self.read(), identity, now)
    }

    fn read_readmitted(&self, identity: &Identity) -> anyhow::Result<CertificateStanding> {
        let readmitted = is_readmitted(&self.read(), &identity.site, &identity.fingerprint)?;
        Ok(if readmitted { CertificateStanding::Good } else { CertificateStanding::Unknown })
    }

    /// The sites that renewed a certificate that the backup did not know, and when.
    pub fn readmitted(&self) -> anyhow::Result<Vec<(SiteId, UnixTime)>> {
        let db = self.read();
        if !has_tables(&db)? {
            return Ok(Vec::new());
        }
        let mut statement = db.prepare("SELECT site, at FROM readmitted ORDER BY at, site")?;
        let rows = statement.query_map([], |row| Ok((parsed(row, 0)?, row.get::<_, TimeColumn>(1)?.0)))?;
        Ok(rows.collect::<Result<_, _>>()?)
    }
}

fn has_tables(db: &Connection) -> anyhow::Result<bool> {
    Ok(db.query_row("SELECT EXISTS (SELECT 1 FROM sqlite_schema WHERE name = 'restored')", [], |row| row.get(0))?)
}

fn restored(db: &Connection) -> anyhow::Result<Option<Restored>> {
    if !has_tables(db)? {
        return Ok(None);
    }
    let row = db.query_row("SELECT backup, at, applied FROM restored", [], |row| {
        let time = |column| row.get::<_, TimeColumn>(column).map(|time| time.0);
        Ok(Restored { backup: time(0)?, at: time(1)?, applied: row.get(2)? })
    });
    Ok(row.optional()?)
}

fn apply(db: &Connection, git: &GitSite, now: UnixTime) -> anyhow::Result<()> {
    let site = TextColumn(&git.site);
    db.execute(
        "INSERT INTO git_sites (site, enrolled, revoked_at) VALUES (?1, ?2, ?3)",
        params![site, git.enrolled, git.revoked_at.map(TimeColumn)],
    )?;
    db.execute(
        "INSERT INTO sites (id, name, fleet) VALUES (?1, ?2, ?3) ON CONFLICT (id) DO NOTHING",
        params![site, git.name, TextColumn(&git.fleet)],
    )?;
    for (fingerprint, issued, until) in &git.certificates {
        // The serial number is not known; a fingerprint is as unique.
        db.execute(
            "INSERT INTO certificates (serial, site, issued_at, not_after, fingerprint) VALUES (?5, ?1, ?2, ?3, ?4)
             ON CONFLICT DO NOTHING",
            params![site, TimeColumn(*issued), TimeColumn(*until), TextColumn(fingerprint), TextColumn(fingerprint)],
        )?;
    }
    for fingerprint in &git.revoked {
        db.execute("INSERT OR IGNORE INTO git_revoked (fingerprint) VALUES (?1)", [TextColumn(fingerprint)])?;
        db.execute("UPDATE certificates SET revoked = 1 WHERE fingerprint = ?1", [TextColumn(fingerprint)])?;
    }
    let Some(revoked_at) = git.revoked_at else { return Ok(()) };
    db.execute(
        "UPDATE certificates SET revoked = 1 WHERE site = ?1 AND issued_at <= ?2",
        params![site, TimeColumn(revoked_at)],
    )?;
    if git.enrolled {
        return Ok(());
    }
    // A token that was issued after the revocation lets an appliance in, which no publish has taken over yet.
    let readmitting: bool = db.query_row(
        "SELECT EXISTS (SELECT 1 FROM tokens WHERE site = ?1 AND NOT revoked AND expires > ?2)",
        params![site, TimeColumn(revoked_at.plus(Duration::from_secs(u64::from(api::TOKEN_HOURS) * 3600)))],
        |row| row.get(0),
    )?;
    if !readmitting {
        db.execute(
            "UPDATE sites SET revoked_at = coalesce(revoked_at, ?2) WHERE id = ?1",
            params![site, TimeColumn(now.min(revoked_at))],
        )?;
        db.execute("UPDATE tokens SET revoked = 1 WHERE site = ?1", [site])?;
        db.execute("UPDATE enrolments SET accepted = 1 WHERE site = ?1", [TextColumn(&git.site)])?;
        db.execute("UPDATE certificates SET revoked = 1 WHERE site = ?1", [TextColumn(&git.site)])?;
    }
    Ok(())
}

/// Whether a certificate that is unknown here may be renewed, and nothing else.
fn may_readmit(db: &Connection, identity: &Identity, now: UnixTime) -> anyhow::Result<bool> {
    let Some(restored) = restored(db)?.filter(|restored| restored.applied) else { return Ok(false) };
    let days = |days: u32| Duration::from_secs(u64::from(days) * 86_400);
    if now.since(restored.at) > days(READMIT_DAYS) {
        return Ok(false);
    }
    let life = i64::from(api::CERTIFICATE_DAYS) * 86_400;
    let issued = UnixTime(identity.not_after.0.saturating_sub(life));
    let site = TextColumn(&identity.site);
    let said = db
        .query_row("SELECT enrolled, revoked_at FROM git_sites WHERE site = ?1", [site], |row| {
            Ok((row.get::<_, bool>(0)?, row.get::<_, Option<TimeColumn>>(1)?.map(|time| time.0)))
        })
        .optional()?;
    let Some((true, revoked_at)) = said else { return Ok(false) };
    let newest_known: Option<i64> = db.query_row(
        "SELECT max(issued_at) FROM certificates WHERE site = ?1 AND revoked = 0",
        [TextColumn(&identity.site)],
        |row| row.get(0),
    )?;
    let out: bool = db.query_row(
        "SELECT EXISTS (SELECT 1 FROM git_revoked WHERE fingerprint = ?1)
             OR EXISTS (SELECT 1 FROM sites WHERE id = ?2 AND revoked_at IS NOT NULL)
             OR EXISTS (SELECT 1 FROM readmitted WHERE site = ?2 AND fingerprint <> ?1)",
        params![TextColumn(&identity.fingerprint), TextColumn(&identity.site)],
        |row| row.get(0),
    )?;
    let after = |time: UnixTime| issued > time;
    Ok(!out
        && after(restored.backup)
        && revoked_at.is_none_or(after)
        && newest_known.is_none_or(|known| issued.0 > known))
}

fn readmit(db: &Connection, identity: &Identity, now: UnixTime) -> anyhow::Result<()> {
    let added = db.execute(
        "INSERT OR IGNORE INTO readmitted (site, fingerprint, at) VALUES (?1, ?2, ?3)",
        params![TextColumn(&identity.site), TextColumn(&identity.fingerprint), TimeColumn(now)],
    )?;
    if added > 0 {
        let site = &identity.site;
        warn!(%site, "a certificate that was issued after the backup may be renewed once; see who has this site's appliance");
    }
    Ok(())
}

fn is_readmitted(db: &Connection, site: &SiteId, fingerprint: &Digest) -> anyhow::Result<bool> {
    Ok(has_tables(db)?
        && db.query_row(
            "SELECT EXISTS (SELECT 1 FROM readmitted WHERE site = ?1 AND fingerprint = ?2)",
            params![TextColumn(site), TextColumn(fingerprint)],
            |row| row.get(0),
        )?)
}

/// Why nothing is issued for now; `None` unless this database waits for what git knows.
pub(super) fn waits(db: &Connection) -> anyhow::Result<Option<Refused>> {
    Ok(restored(db)?.filter(|restored| !restored.applied).map(|_| Refused::Restoring))
}

/// Why this certificate is not renewed; `None` if it is.
pub(super) fn before_renewal(db: &Connection, site: &SiteId, old: &Digest) -> anyhow::Result<Option<Refused>> {
    if let Some(refused) = waits(db)? {
        return Ok(Some(refused));
    }
    Ok(match standing(db, site, old)? {
        CertificateStanding::Good => None,
        CertificateStanding::Unknown if is_readmitted(db, site, old)? => None,
        CertificateStanding::Revoked | CertificateStanding::Unknown => Some(Refused::Revoked),
    })
}
