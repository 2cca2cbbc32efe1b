//! `publish`: makes what sites download from the fleet directory and each site's previous release.
//!
//! The same directory, previous release and time give the same bytes. All files are written under names that no site
//! asks for yet; at the end each site's `timestamp.json` is renamed into place, and only that makes the release
//! visible. A site whose content did not change gets no new generation, only fresh `timestamp` and `snapshot` metadata
//! after half of their life.
//!
//! A run has four stages, each in its own file: `read`, `decide`, `make`, `switch`. Read them in this order.

mod decide;
mod fingerprint;
mod firmware;
mod make;
pub mod pack;
mod read;
mod summary;
mod switch;
mod trust;

use std::collections::{BTreeMap, HashSet};
use std::time::SystemTime;

use anyhow::{Context as _, anyhow, bail};

use super::enrol;
use super::host::Host;
use super::inventory::InventorySite;
use super::lint::{self, Draft};
use super::problem::NotClean;
use super::progress::Progress;
use super::render::FleetDir;
use ids::{SiteId, UnixTime};
use repository::collect;
use repository::layout::Layout;
use repository::lock::TreeLock;
use repository::tree::Tree;

use decide::Needs;
use make::Maker;
use read::{Enrolled, ReadFleet};
use switch::Switcher;
use trust::Signers;

pub(super) use firmware::pending_path;
pub use summary::{Outcome, SiteSummary, Summary};
pub(super) use trust::{newest_root, publish_root, publisher_secret, recovery_public, roots};

/// The options of [`publish`].
#[derive(Debug, Clone)]
pub struct PublishOptions {
    /// The names of the sites to publish; `None` publishes all. The files of a named site are always made and compared.
    /// With `None`, a site for which nothing changed since the last run is skipped.
    pub sites: Option<Vec<String>>,
    /// The time from which the metadata's expiry counts.
    pub now: UnixTime,
}

/// Publishes sites. Refuses with a [`NotClean`] if `check` finds problems.
pub fn publish(layout: &Layout, options: &PublishOptions, progress: &mut dyn Progress) -> anyhow::Result<Summary> {
    let recipients = enrol::recipients(layout)?;
    publish_to(layout, &recipients, options, progress)
}

/// The same, with the given sealing keys of each site's appliances.
pub(crate) fn publish_to(
    layout: &Layout,
    enrolled: &Enrolled,
    options: &PublishOptions,
    progress: &mut dyn Progress,
) -> anyhow::Result<Summary> {
    let PublishOptions { sites: names, now } = options;
    let host = &Host::of(layout)?;
    // Taken before the previous release is read. `serve` holds the lock for moments, another publisher until it is
    // done.
    let _held = TreeLock::wait(&layout.online())?;

    let found = ReadFleet::read(layout)?;
    let found_sites = found.sites(layout, enrolled, names.as_deref(), *now)?;

    let needs = Needs::of(found_sites);
    let ReadFleet { mut ledger, draft, .. } = found;
    let fleet = checked(draft, &needs)?;

    let signers = Signers::read(layout, host)?;
    let sites = chosen(&fleet, names.as_deref())?;
    let tree = Tree::new(layout);
    let maker = Maker::new(layout, &fleet, enrolled, &signers, &tree, host, *now)?;
    let made = maker.sites(&sites, &needs, progress)?;

    let switcher = Switcher { layout, host, signers: &signers, maker: &maker, tree: &tree, now: *now };
    let mut summary = switcher.switch(&mut ledger, sites.into_iter().zip(made).collect(), progress)?;
    if names.is_none() {
        let present: HashSet<&SiteId> = fleet.inventory.sites.values().map(|site| &site.id).collect();
        summary.collected = collect::collect(layout, &mut ledger, &present, (*now, system_time()))
            .context("published, but old releases could not be deleted")?;
    }
    ledger.write(layout)?;
    Ok(summary)
}

#[expect(clippy::disallowed_methods, reason = "a command runs now")]
fn system_time() -> SystemTime {
    SystemTime::now()
}

/// The fleet directory, if it has no problem and the files of the sites that need something have none.
fn checked(draft: Draft, needs: &Needs) -> anyhow::Result<FleetDir> {
    let (fleet, report) = draft.check(|_, site, _| needs.check(&site.id));
    if !report.is_clean() {
        return Err(NotClean(report).into());
    }
    if !fleet.secrets.is_unlocked() {
        bail!("keys/secrets.key is not here, so the secrets that configurations need cannot be had");
    }
    Ok(fleet)
}

/// The fleet directory, if `check` finds no problem in all of it.
pub(super) fn clean(layout: &Layout) -> anyhow::Result<FleetDir> {
    let (fleet, report) = lint::read(layout);
    match fleet {
        Some(fleet) if report.is_clean() => Ok(fleet),
        _ => Err(anyhow::Error::new(NotClean(report))),
    }
}

/// The sites of these names, or all sites if `names` is `None`. Fails if a name is unknown.
pub(super) fn chosen<'f>(fleet: &'f FleetDir, names: Option<&[String]>) -> anyhow::Result<Vec<&'f InventorySite>> {
    let Some(names) = names else { return Ok(fleet.inventory.sites.values().collect()) };
    let mut sites = BTreeMap::new();
    for name in names {
        let site = fleet.inventory.sites.get(name).ok_or_else(|| anyhow!("there is no site `{name}`"))?;
        sites.insert(name, site);
    }
    Ok(sites.into_values().collect())
}

#[cfg(test)]
mod tests;
