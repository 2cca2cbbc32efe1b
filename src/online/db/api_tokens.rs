//! The operators' API tokens, and what desks pushed.
//!
//! The tables are made when they are first needed, in whatever format the rest of the file has.

use rusqlite::params;

use super::{Db, GenerationColumn, TextColumn, TimeColumn, parsed};
use anyhow::ensure;
use ids::{Digest, Generation, SiteId, UnixTime};

/// How many API tokens are kept; each request is compared with all of them.
pub const MAX_API_TOKENS: u32 = 100;
/// How exactly it is kept when a token was used last, in seconds.
const USED_STEP: i64 = 3600;

const TABLES: &str = "
CREATE TABLE IF NOT EXISTS api_tokens (
    name TEXT PRIMARY KEY, sha256 TEXT NOT NULL UNIQUE, made_at INTEGER NOT NULL, until INTEGER NOT NULL,
    used_at INTEGER, revoked_at INTEGER
) STRICT;
CREATE TABLE IF NOT EXISTS pushed (
    site TEXT PRIMARY KEY, generation INTEGER NOT NULL, source TEXT NOT NULL, operator TEXT NOT NULL, at INTEGER NOT NULL
) STRICT;
";

/// An API token, without its secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApiToken {
    /// Whose it is, for people.
    pub name: String,
    /// When it was made.
    pub made_at: UnixTime,
    /// From this time on it is refused.
    pub until: UnixTime,
    /// When it was used last, to the hour.
    pub used_at: Option<UnixTime>,
    /// When it was revoked; `None` if it is not.
    pub revoked_at: Option<UnixTime>,
}

/// What a site's newest release was made from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pushed {
    /// The site.
    pub site: SiteId,
    /// The number of the release.
    pub generation: Generation,
    /// The commit of the fleet directory; empty if it was made without git.
    pub commit: String,
    /// The name of the API token, or empty if it was published on this machine.
    pub operator: String,
    /// When that was.
    pub at: UnixTime,
}

impl Db {
    /// Makes the tables of this file.
    pub fn prepare_api(&self) -> anyhow::Result<()> {
        self.write(|db| Ok(db.execute_batch(TABLES)?))
    }

    /// Whether the tables are there; who only reads makes none.
    fn has_api(&self) -> anyhow::Result<bool> {
        let count = "SELECT count(*) = 2 FROM sqlite_schema WHERE name IN ('api_tokens', 'pushed')";
        Ok(self.read().query_row(count, [], |row| row.get(0))?)
    }

    /// Keeps a new API token by the SHA-256 of its text. One that has ended may be replaced under its name.
    pub fn add_api_token(&self, name: &str, sha256: &Digest, now: UnixTime, until: UnixTime) -> anyhow::Result<()> {
        self.prepare_api()?;
        self.write(|db| {
            db.execute(
                "DELETE FROM api_tokens WHERE until <= ?1 OR (name = ?2 AND revoked_at IS NOT NULL)",
                params![TimeColumn(now), name],
            )?;
            let (there, all): (bool, u32) =
                db.query_row("SELECT coalesce(max(name = ?1), 0), count(*) FROM api_tokens", [name], |row| {
                    Ok((row.get(0)?, row.get(1)?))
                })?;
            ensure!(!there, "there is an API token `{name}`; revoke it first, or take another name");
            ensure!(all < MAX_API_TOKENS, "there are {MAX_API_TOKENS} API tokens already; revoke some");
            db.execute(
                "INSERT INTO api_tokens (name, sha256, made_at, until) VALUES (?1, ?2, ?3, ?4)",
                params![name, TextColumn(sha256), TimeColumn(now), TimeColumn(until)],
            )?;
            Ok(())
        })
    }

    /// Every API token that has not ended, by name.
    pub fn api_tokens(&self) -> anyhow::Result<Vec<ApiToken>> {
        if !self.has_api()? {
            return Ok(Vec::new());
        }
        let db = self.read();
        let mut statement =
            db.prepare("SELECT name, made_at, until, used_at, revoked_at FROM api_tokens ORDER BY name")?;
        let rows = statement.query_map([], |row| {
            Ok(ApiToken {
                name: row.get(0)?,
                made_at: row.get::<_, TimeColumn>(1)?.0,
                until: row.get::<_, TimeColumn>(2)?.0,
                used_at: row.get::<_, Option<TimeColumn>>(3)?.map(|time| time.0),
                revoked_at: row.get::<_, Option<TimeColumn>>(4)?.map(|time| time.0),
            })
        })?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    /// Revokes an API token. Returns whether there was one that worked.
    pub fn revoke_api_token(&self, name: &str, now: UnixTime) -> anyhow::Result<bool> {
        self.prepare_api()?;
        self.write(|db| {
            let revoked = db.execute(
                "UPDATE api_tokens SET revoked_at = ?2 WHERE name = ?1 AND revoked_at IS NULL",
                params![name, TimeColumn(now)],
            )?;
            Ok(revoked == 1)
        })
    }

    /// The name of the API token whose text has this SHA-256, if it is good now. The tables must be there.
    ///
    /// Each token is compared, and each as a whole, so that the time taken tells nothing of any.
    pub fn api_token(&self, presented: &Digest, now: UnixTime) -> anyhow::Result<Option<String>> {
        let (mut found, mut stale) = (None, false);
        {
            let db = self.read();
            let mut statement = db.prepare_cached(
                "SELECT name, sha256, until, coalesce(used_at, 0) FROM api_tokens WHERE revoked_at IS NULL",
            )?;
            let mut rows = statement.query([])?;
            while let Some(row) = rows.next()? {
                let sha256: Digest = parsed(row, 1)?;
                if same(&sha256, presented) && row.get::<_, TimeColumn>(2)?.0 > now {
                    found = Some(row.get::<_, String>(0)?);
                    stale = row.get::<_, i64>(3)?.saturating_add(USED_STEP) <= now.0;
                }
            }
        }
        if let Some(name) = found.as_ref().filter(|_| stale) {
            let used = params![name, TimeColumn(now)];
            self.write(|db| Ok(db.execute("UPDATE api_tokens SET used_at = ?2 WHERE name = ?1", used).map(drop)?))?;
        }
        Ok(found)
    }

    /// Notes what the newest releases were made from.
    pub fn note_pushed(&self, pushed: &[Pushed]) -> anyhow::Result<()> {
        self.prepare_api()?;
        self.write(|db| {
            for one in pushed {
                db.execute(
                    "INSERT OR REPLACE INTO pushed (site, generation, source, operator, at) VALUES (?1, ?2, ?3, ?4, ?5)",
                    params![
                        TextColumn(&one.site),
                        GenerationColumn(one.generation),
                        one.commit,
                        one.operator,
                        TimeColumn(one.at)
                    ],
                )?;
            }
            Ok(())
        })
    }

    /// What the newest release of each site was made from, as far as it is known.
    pub fn pushed(&self) -> anyhow::Result<Vec<Pushed>> {
        if !self.has_api()? {
            return Ok(Vec::new());
        }
        let db = self.read();
        let mut statement = db.prepare("SELECT site, generation, source, operator, at FROM pushed ORDER BY site")?;
        let rows = statement.query_map([], |row| {
            Ok(Pushed {
                site: parsed(row, 0)?,
                generation: row.get::<_, GenerationColumn>(1)?.0,
                commit: row.get(2)?,
                operator: row.get(3)?,
                at: row.get::<_, TimeColumn>(4)?.0,
            })
        })?;
        Ok(rows.collect::<Result<_, _>>()?)
    }
}

/// Whether two digests are the same, in a time that does not depend on where they differ.
fn same(a: &Digest, b: &Digest) -> bool {
    let differ = a.as_bytes().iter().zip(b.as_bytes()).fold(0u8, |all, (a, b)| std::hint::black_box(all | (a ^ b)));
    differ == 0
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    const NOW: UnixTime = UnixTime(1_800_000_000);

    fn db() -> (tempfile::TempDir, Db) {
        let dir = tempfile::tempdir().unwrap();
        let db = Db::open(&dir.path().join("hq.sqlite")).unwrap();
        (dir, db)
    }

    #[test]
    fn a_token_is_good_until_its_end_or_until_it_is_revoked_and_no_other_text_is() {
        let (_dir, db) = db();
        let (good, until) = (Digest::of(b"lsh_1"), UnixTime(NOW.0 + 100));
        db.add_api_token("desk", &good, NOW, until).unwrap();
        assert_eq!(db.api_token(&good, NOW).unwrap().as_deref(), Some("desk"));
        assert_eq!(db.api_token(&Digest::of(b"lsh_2"), NOW).unwrap(), None);
        assert_eq!(db.api_token(&good, until).unwrap(), None);
        assert_eq!(db.api_tokens().unwrap().first().unwrap().used_at, Some(NOW));
        assert!(db.add_api_token("desk", &Digest::of(b"lsh_3"), NOW, until).is_err());
        assert!(db.revoke_api_token("desk", NOW).unwrap());
        assert!(!db.revoke_api_token("desk", NOW).unwrap());
        assert_eq!(db.api_token(&good, NOW).unwrap(), None);
        db.add_api_token("desk", &Digest::of(b"lsh_3"), NOW, until).unwrap();
        assert_eq!(db.api_token(&good, NOW).unwrap(), None, "the old one stays revoked");
    }

    #[test]
    fn the_newest_release_of_a_site_says_what_it_was_made_from() {
        let (_dir, db) = db();
        let one = |generation, commit: &str| Pushed {
            site: "s-1".parse().unwrap(),
            generation: Generation(generation),
            commit: commit.to_owned(),
            operator: "desk".to_owned(),
            at: NOW,
        };
        db.note_pushed(&[one(1, "a")]).unwrap();
        db.note_pushed(&[one(2, "b")]).unwrap();
        assert_eq!(db.pushed().unwrap(), [one(2, "b")]);
    }
}
