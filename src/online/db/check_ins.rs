//! What sites told, and when: a row for each site, one for each phone, and one for each change.
//!
//! A site of 10 phones with 4 files each takes 4.8 KB, 1.5 KB of it for the site with its certificate; 200 changes take 22 KB
//! at most (`cargo test -p online a_site_of_ten_phones -- --nocapture`). Format 1 kept 100 bodies of some 3 KB.

use std::collections::BTreeMap;

use anyhow::Context as _;
use rusqlite::{Connection, OptionalExtension as _, Row, params};
use serde::{Deserialize, Serialize};

use super::Db;
use super::changes::note_changes;
use super::columns::{GenerationColumn, TextColumn, TimeColumn, parsed};
use api::CheckIn;
use api::check_in::report::{PhoneReport, SiteReport, phone_key, phone_of};
use api::check_in::{Page, PageError, PageVerdict, StateMap, digest};
use ids::{Digest, Generation, MacAddr, SiteId, UnixTime};

/// A place that keeps check-ins. [`Db`] is one; a large fleet may use another.
pub trait CheckIns: Send + Sync {
    /// Keeps an unsigned check-in of format 1 as what the site says.
    fn note(&self, site: &SiteId, at: UnixTime, told: &CheckIn) -> anyhow::Result<()>;
    /// Takes a page of a signed check-in, if it belongs to the state that is kept. The caller has verified that
    /// `certificate` is the site's and that its key signed the page.
    fn take(
        &self,
        site: &SiteId,
        at: UnixTime,
        page: &Page,
        certificate: &[u8],
    ) -> anyhow::Result<Result<Taken, PageError>>;
    /// What each site says of itself, without its phones.
    fn latest(&self) -> anyhow::Result<BTreeMap<SiteId, Heard>>;
    /// All that one site says.
    fn heard(&self, site: &SiteId) -> anyhow::Result<Option<Heard>>;
}

/// What became of a page.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Taken {
    /// For the site.
    pub verdict: PageVerdict,
    /// The counter of the last page that was taken from this box; 0 if there is none.
    pub counter: u64,
    /// The digest of the state that is kept of this box.
    pub state: Digest,
    /// What the site's clock says, if it follows a time server and the page was taken.
    pub site_time: Option<UnixTime>,
}

/// What a site said last.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Heard {
    /// When that was, by HQ's clock.
    pub at: UnixTime,
    /// What its own clock said, if it said so.
    pub site_time: Option<UnixTime>,
    /// The box that signed it; `None` if nobody did.
    pub signed_by: Option<String>,
    /// Whether the site has told all that it has to tell.
    pub whole: bool,
    /// The generation that it serves.
    pub generation: Generation,
    /// How many devices asked for files, and how many of them are not in the inventory.
    pub phones: (usize, usize),
    /// What it said.
    pub report: SiteReport,
}

impl Heard {
    /// What a check-in of format 1 says.
    pub fn unsigned(at: UnixTime, told: &CheckIn) -> Self {
        let report = SiteReport::from(told);
        let unknown = report.phones.values().filter(|phone| !phone.known).count();
        Self {
            at,
            site_time: told.time.filter(|_| told.clock_synchronised),
            signed_by: None,
            whole: true,
            generation: told.generation,
            phones: (report.phones.len(), unknown),
            report,
        }
    }
}

impl CheckIns for Db {
    fn note(&self, site: &SiteId, at: UnixTime, told: &CheckIn) -> anyhow::Result<()> {
        self.write(|db| keep_unsigned(db, site, at, told))
    }

    fn take(
        &self,
        site: &SiteId,
        at: UnixTime,
        page: &Page,
        certificate: &[u8],
    ) -> anyhow::Result<Result<Taken, PageError>> {
        self.write(|db| {
            let (header, before) = (&page.header, Kept::read(db, site)?);
            let of_box = before.as_ref().filter(|kept| kept.signed_by.as_ref() == Some(&header.box_id));
            let known = of_box.map_or(0, |kept| kept.counter);
            let counter = match i64::try_from(header.counter) {
                Ok(counter) => counter,
                Err(_) => return Ok(Err(PageError::Malformed)),
            };
            let turned_away = |verdict| -> anyhow::Result<Result<Taken, PageError>> {
                let state = of_box.map(|_| state(db, site)).transpose()?.unwrap_or_default();
                let counter = u64::try_from(known).unwrap_or(0);
                Ok(Ok(Taken { verdict, counter, state: digest(&state), site_time: None }))
            };
            if counter <= known {
                return turned_away(PageVerdict::OldCounter);
            }
            let base = match header.base {
                0 => StateMap::new(),
                base if of_box.is_some() && i64::try_from(base) == Ok(known) => state(db, site)?,
                _ => return turned_away(PageVerdict::Resync),
            };
            let state = match page.apply(base) {
                Ok(Some(state)) => state,
                Ok(None) => return turned_away(PageVerdict::Resync),
                Err(error) => return Ok(Err(error)),
            };
            let proof = Proof { page, counter, certificate };
            let site_time = keep(db, site, at, &state, header.generation, before.as_ref(), Some(&proof))?;
            let (verdict, counter, state) = (PageVerdict::Taken, header.counter, header.state);
            Ok(Ok(Taken { verdict, counter, state, site_time }))
        })
    }

    fn latest(&self) -> anyhow::Result<BTreeMap<SiteId, Heard>> {
        let db = self.read();
        let mut statement = db.prepare(&format!("SELECT {COLUMNS}, site FROM site_state"))?;
        let rows = statement.query_map([], |row| Ok((parsed(row, 9)?, Kept::of(row)?)))?;
        rows.map(|row| row.map(|(site, kept)| (site, kept.heard(&BTreeMap::new()))).map_err(Into::into)).collect()
    }

    fn heard(&self, site: &SiteId) -> anyhow::Result<Option<Heard>> {
        let db = self.read();
        let Some(kept) = Kept::read(&db, site)? else { return Ok(None) };
        Ok(Some(kept.heard(&phones(&db, site)?)))
    }
}

/// Keeps a check-in that nobody signed.
pub(super) fn keep_unsigned(db: &Connection, site: &SiteId, at: UnixTime, told: &CheckIn) -> anyhow::Result<()> {
    let before = Kept::read(db, site)?;
    keep(db, site, at, &SiteReport::from(told).state(), told.generation, before.as_ref(), None)?;
    let said = told.time.filter(|_| told.clock_synchronised).map(TimeColumn);
    db.prepare_cached("UPDATE site_state SET site_time = ?2 WHERE site = ?1")?
        .execute(params![TextColumn(site), said])?;
    Ok(())
}

/// What proves a state to whoever reads it later.
struct Proof<'a> {
    page: &'a Page,
    counter: i64,
    certificate: &'a [u8],
}

/// Writes what changed. Returns what the site's clock says, if a signature proves it and it follows a time server.
fn keep(
    db: &Connection,
    site: &SiteId,
    at: UnixTime,
    state: &StateMap,
    generation: Generation,
    before: Option<&Kept>,
    proof: Option<&Proof<'_>>,
) -> anyhow::Result<Option<UnixTime>> {
    let old = phones(db, site)?;
    let new: BTreeMap<String, &String> =
        state.iter().filter_map(|(key, value)| Some((phone_of(key)?.lower(), value))).collect();
    for mac in old.keys().filter(|mac| !new.contains_key(*mac)) {
        db.prepare_cached("DELETE FROM phone_state WHERE site = ?1 AND mac = ?2")?
            .execute(params![TextColumn(site), mac])?;
    }
    for (mac, value) in new.iter().filter(|(mac, value)| old.get(*mac) != Some(**value)) {
        db.prepare_cached("INSERT OR REPLACE INTO phone_state (site, mac, value) VALUES (?1, ?2, ?3)")?
            .execute(params![TextColumn(site), mac, value])?;
    }
    // What a site says is no number that HQ must believe, and none that keeps it from being heard.
    let generation = Generation(generation.0.min(i64::MAX.unsigned_abs()));
    let report = SiteReport::read(state.iter().map(|(key, value)| (key.as_str(), value.as_str())));
    let unknown = report.phones.values().filter(|phone| !phone.known).count();
    let own = state.iter().filter(|(key, _)| phone_of(key).is_none());
    let own: Vec<String> = own.map(|(key, value)| format!("{key} {value}")).collect();
    let site_time = proof.map(|proof| proof.page.header.time).filter(|_| report.now.clock_synchronised);
    let now = Kept {
        at,
        site_time,
        signed_by: proof.map(|proof| proof.page.header.box_id.clone()),
        counter: proof.map_or(0, |proof| proof.counter),
        whole: proof.is_none_or(|proof| !proof.page.header.more),
        generation,
        phones: new.len().try_into().context("too many phones")?,
        unknown: unknown.try_into().context("too many phones")?,
        own: own.join("\n"),
    };
    db.prepare_cached(
        "INSERT OR REPLACE INTO site_state
            (site, at, site_time, box, counter, header, signature, certificate, whole, generation, phones, unknown, own)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13)",
    )?
    .execute(params![
        TextColumn(site),
        TimeColumn(at),
        now.site_time.map(TimeColumn),
        now.signed_by,
        now.counter,
        proof.map(|proof| &proof.page.signed),
        proof.map(|proof| &proof.page.signature),
        proof.map(|proof| proof.certificate),
        now.whole,
        GenerationColumn(generation),
        now.phones,
        now.unknown,
        now.own
    ])?;
    if let Some(before) = before.filter(|before| before.whole && now.whole) {
        let none = BTreeMap::new();
        note_changes(db, site, at, &before.heard(&none), &now.heard(&none))?;
    }
    Ok(site_time)
}

/// The row of a site.
struct Kept {
    at: UnixTime,
    site_time: Option<UnixTime>,
    signed_by: Option<String>,
    counter: i64,
    whole: bool,
    generation: Generation,
    phones: u32,
    unknown: u32,
    own: String,
}

const COLUMNS: &str = "at, site_time, box, counter, whole, generation, phones, unknown, own";

impl Kept {
    fn read(db: &Connection, site: &SiteId) -> anyhow::Result<Option<Self>> {
        let mut statement = db.prepare_cached(&format!("SELECT {COLUMNS} FROM site_state WHERE site = ?1"))?;
        Ok(statement.query_row([TextColumn(site)], Self::of).optional()?)
    }

    fn of(row: &Row<'_>) -> rusqlite::Result<Self> {
        Ok(Self {
            at: row.get::<_, TimeColumn>(0)?.0,
            site_time: row.get::<_, Option<TimeColumn>>(1)?.map(|time| time.0),
            signed_by: row.get(2)?,
            counter: row.get(3)?,
            whole: row.get(4)?,
            generation: row.get::<_, GenerationColumn>(5)?.0,
            phones: row.get(6)?,
            unknown: row.get(7)?,
            own: row.get(8)?,
        })
    }

    /// What the site says of itself.
    fn own(&self) -> impl Iterator<Item = (&str, &str)> {
        self.own.split('\n').filter_map(|line| line.split_once(' '))
    }

    fn heard(&self, phones: &BTreeMap<String, String>) -> Heard {
        let mut report = SiteReport::read(self.own());
        let read = |(mac, value): (&String, &String)| {
            let phone: PhoneReport = serde_json::from_str(value).ok()?;
            Some((mac.parse::<MacAddr>().ok()?, phone))
        };
        report.phones = phones.iter().filter_map(read).collect();
        let count = |number| usize::try_from(number).unwrap_or(usize::MAX);
        Heard {
            at: self.at,
            site_time: self.site_time,
            signed_by: self.signed_by.clone(),
            whole: self.whole,
            generation: self.generation,
            phones: (count(self.phones), count(self.unknown)),
            report,
        }
    }
}

/// The rows of a site's phones, by their addresses.
fn phones(db: &Connection, site: &SiteId) -> anyhow::Result<BTreeMap<String, String>> {
    let mut statement = db.prepare_cached("SELECT mac, value FROM phone_state WHERE site = ?1")?;
    let rows = statement.query_map([TextColumn(site)], |row| Ok((row.get(0)?, row.get(1)?)))?;
    Ok(rows.collect::<Result<_, _>>()?)
}

/// The whole state of a site.
fn state(db: &Connection, site: &SiteId) -> anyhow::Result<StateMap> {
    let own = Kept::read(db, site)?;
    let own = own.iter().flat_map(Kept::own).map(|(key, value)| (key.to_owned(), value.to_owned()));
    let mut state: StateMap = own.collect();
    for (mac, value) in phones(db, site)? {
        let mac: MacAddr = mac.parse().context("a phone's row has no address")?;
        state.insert(phone_key(mac), value);
    }
    Ok(state)
}

#[cfg(test)]
mod tests;
