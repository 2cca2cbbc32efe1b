//! Sites that left the fleet directory but not HQ: their appliances go on being served what was published last.

use std::collections::BTreeMap;
use std::fmt;

use crate::host::Host;
use crate::inventory::FleetInventory;
use crate::revoked::Revocations;
use ids::SiteId;
use repository::layout::Layout;
use repository::ledger::Ledger;

/// A site that HQ serves and the fleet directory does not have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Orphan {
    /// The site's id.
    pub site: SiteId,
    /// The name that it was last published under, or its id.
    pub name: String,
}

impl fmt::Display for Orphan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { site, name } = self;
        write!(
            f,
            "{name} ({site})  orphaned: it left the fleet directory, and its appliance goes on with what was published last\n  \
             hint: `lineside-hq site revoke {name}` locks the appliance out; or put sites/{name}.toml back"
        )
    }
}

/// The orphaned sites, by name. A site that was revoked is none.
pub fn of(layout: &Layout, inventory: &FleetInventory) -> anyhow::Result<Vec<Orphan>> {
    let revocations = Revocations::read(layout)?;
    let mut served: BTreeMap<SiteId, (String, bool)> = BTreeMap::new();
    for site in Ledger::read(layout).sites.into_keys() {
        let revoked = revocations.locks_out(layout, &site);
        served.insert(site.clone(), (site.to_string(), revoked));
    }
    for row in Host::of(layout)?.sites()? {
        if row.enrolled || row.published.0 > 0 {
            served.insert(row.id, (row.name, row.revoked_at.is_some()));
        }
    }
    for site in inventory.sites.values() {
        served.remove(&site.id);
    }
    let mut orphans: Vec<Orphan> = served
        .into_iter()
        .filter(|(_, (_, revoked))| !revoked)
        .map(|(site, (name, _))| Orphan { site, name })
        .collect();
    orphans.sort_by(|a, b| (&a.name, &a.site).cmp(&(&b.name, &b.site)));
    Ok(orphans)
}
