//! `lineside-hq fleet`.

use std::io::Write;

use anyhow::Context as _;

use crate::host::Host;
use crate::inventory::FleetInventory;
use crate::warnings;
use ids::{SiteId, UnixTime};
use online::fleet;
use repository::layout::Layout;
use telemetry::Hint as _;

/// Shows all sites, or one with all that it told.
pub(super) fn show(layout: &Layout, site: Option<&str>, now: UnixTime, out: &mut dyn Write) -> anyhow::Result<()> {
    // What is wrong with the directory is `check`'s to say.
    let directory = FleetInventory::read(layout, &mut Vec::new());
    let sites = directory.iter().flat_map(|fleet| fleet.sites.values());
    let sites: Vec<(SiteId, String)> = sites.map(|site| (site.id.clone(), site.name.clone())).collect();
    let host = Host::of(layout)?;
    let rows = host.rows(&sites, now)?;
    let Some(name) = site else {
        out.write_all(fleet::print(&rows, terminal_width()).as_bytes())?;
        for warning in warnings::of(layout, now) {
            writeln!(out, "warning: {warning}")?;
        }
        return Ok(());
    };
    let row = rows.iter().find(|row| row.name == *name || row.site.as_str() == name);
    let row = row.with_context(|| format!("no site `{name}` is known to HQ")).hint("`lineside-hq fleet` lists all")?;
    let phones = directory.iter().flat_map(|fleet| fleet.phones_of(&row.name));
    let labels = phones.map(|phone| (phone.mac, phone.label.clone())).collect();
    let details = fleet::SiteDetails::new(host.told(&row.site)?, labels, now);
    Ok(write!(out, "{}{details}", fleet::print_site(row))?)
}

/// The width of a table in columns: `COLUMNS` if it is set, else 100.
fn terminal_width() -> usize {
    let columns = std::env::var("COLUMNS").ok().and_then(|columns| columns.parse().ok());
    columns.filter(|columns| (40..=400).contains(columns)).unwrap_or(100)
}
