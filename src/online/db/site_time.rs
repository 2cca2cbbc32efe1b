//! What sites say about the time.

use super::Db;
use ids::UnixTime;

impl Db {
    /// The latest time that a site whose clock follows a time server gave, among the last thousand check-ins.
    pub fn newest_site_time(&self) -> anyhow::Result<Option<UnixTime>> {
        let db = self.read();
        let newest: Option<String> = db.query_row(
            "SELECT max(json_extract(body, '$.time')) FROM (SELECT body FROM check_ins ORDER BY n DESC LIMIT 1000)
             WHERE json_extract(body, '$.\"clock-synchronised\"')",
            [],
            |row| row.get(0),
        )?;
        Ok(newest.and_then(|time| time.parse().ok()))
    }
}
