//! The last stage of `publish` makes the new releases visible to sites.

use anyhow::Context as _;

use crate::inventory::InventorySite;
use ids::{Generation, SiteId, UnixTime};
use online::db;
use repository::layout::Layout;
use repository::ledger::{KeptRelease, Ledger};
use repository::tree::{Switch, Tree};

use super::make::{MadeRelease, SiteDone};
use super::summary::{SiteSummary, Summary};
use super::trust;

/// The files to switch, and the sites to which they belong.
#[derive(Default)]
struct Switchover {
    /// The files in their order: each site's new roots come before its timestamp.
    switches: Vec<Switch>,
    /// The sites that were made or compared, with the release that they get.
    sites: Vec<(SiteId, String, Generation)>,
}

/// Makes everything durable, then switches the files site by site, and notes the releases in `ledger` and the database.
/// The caller writes the ledger.
pub(super) fn switch(
    layout: &Layout,
    tree: &Tree,
    ledger: &mut Ledger,
    done: Vec<(&InventorySite, SiteDone)>,
    now: UnixTime,
) -> anyhow::Result<Summary> {
    let mut summary = Summary::default();
    let mut over = Switchover::default();
    for (site, SiteDone { outcome, made }) in done {
        if let Some(made) = made {
            over.add(site, outcome.generation(), made, ledger, now);
        }
        summary.sites.push(SiteSummary { site: site.id.clone(), name: site.name.clone(), outcome });
    }
    // After a power cut before the switch sites have their old releases, after one behind it the new ones; during the
    // switch some sites have the old and some the new.
    tree.sync()?;
    if !over.switches.is_empty() {
        trust::publish_root(layout)?;
    }
    tree.switch(&over.switches)?;
    for (site, _, _) in &over.sites {
        ledger.stamp(layout, site);
    }
    (summary.new_objects, summary.new_bytes) = tree.new_objects();
    if !over.sites.is_empty() {
        db::note_published(layout, &over.sites).context("published, but the fleet view could not be told")?;
    }
    Ok(summary)
}

impl Switchover {
    fn add(
        &mut self,
        site: &InventorySite,
        generation: Generation,
        made: MadeRelease,
        ledger: &mut Ledger,
        now: UnixTime,
    ) {
        let MadeRelease { switches, due, objects, fingerprint, phones } = made;
        ledger.note(&site.id, fingerprint, KeptRelease { generation, until: None, objects }, due, now);
        ledger.count_phones(&site.id, phones);
        self.switches.extend(switches);
        self.sites.push((site.id.clone(), site.name.clone(), generation));
    }
}
