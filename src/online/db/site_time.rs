//! What sites say about the time.

use super::Db;
use super::columns::TimeColumn;
use ids::UnixTime;

impl Db {
    /// The latest time that a site whose clock follows a time server gave, among the thousand sites that were heard of last.
    pub fn newest_site_time(&self) -> anyhow::Result<Option<UnixTime>> {
        let newest: Option<TimeColumn> = self.read().query_row(
            "SELECT max(site_time) FROM (SELECT site_time FROM site_state ORDER BY at DESC LIMIT 1000)",
            [],
            |row| row.get(0),
        )?;
        Ok(newest.map(|time| time.0))
    }
}
