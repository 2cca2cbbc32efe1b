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
use std::io::ErrorKind;
use std::time::SystemTime;

use anyhow::{Context as _, anyhow, bail};

use super::enrol::{self, SiteFault};
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
use make::{Maker, SiteDone};
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

/// Publishes sites. Refuses with a [`NotClean`] if `check` finds problems. A site that has a fault of its own keeps its
/// release, and the summary names it.
pub fn publish(layout: &Layout, options: &PublishOptions, progress: &mut dyn Progress) -> anyhow::Result<Summary> {
    let enrol::Standing { recipients, faults } = taken_over(layout)?;
    publish_around(layout, &recipients, faults, (options, false), progress)
}

/// The same, with a new release of each named site, also if its content is the same: for a site whose people went back from
/// it, and that does not try the same generation again.
pub fn publish_again(
    layout: &Layout,
    options: &PublishOptions,
    progress: &mut dyn Progress,
) -> anyhow::Result<Summary> {
    let enrol::Standing { recipients, faults } = taken_over(layout)?;
    publish_around(layout, &recipients, faults, (options, true), progress)
}

fn taken_over(layout: &Layout) -> anyhow::Result<enrol::Standing> {
    enrol::take_over_new(layout)?;
    enrol::standing(layout)
}

/// The same, with the given sealing keys of each site's appliances.
#[cfg(test)]
pub(crate) fn publish_to(
    layout: &Layout,
    enrolled: &Enrolled,
    options: &PublishOptions,
    progress: &mut dyn Progress,
) -> anyhow::Result<Summary> {
    publish_around(layout, enrolled, Vec::new(), (options, false), progress)
}

/// Publishes all sites but those that have a fault; with new releases of the named ones, if they are asked for again.
fn publish_around(
    layout: &Layout,
    enrolled: &Enrolled,
    faults: Vec<SiteFault>,
    (options, again): (&PublishOptions, bool),
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
    let ReadFleet { mut ledger, draft, told, .. } = found;
    let fleet = checked(draft, &needs)?;

    let signers = Signers::read(layout, host)?;
    let mut sites = chosen(&fleet, names.as_deref())?;
    let mut faults = of_these(faults, &fleet, names.as_deref());
    sites.retain(|site| !faults.iter().any(|fault| fault.site.as_ref() == Some(&site.id)));
    let tree = Tree::new(layout);
    let numbers = |site: &&InventorySite| (site.id.clone(), read::numbers(&ledger, &told, &site.id));
    let numbers = sites.iter().map(numbers).collect();
    let maker = Maker::new(layout, &fleet, enrolled, &signers, &tree, numbers, *now)?.again(again && names.is_some());
    let made = maker.sites(&sites, &needs, progress)?;
    let done = done(sites, made, &mut faults)?;

    let switcher = Switcher { layout, host, signers: &signers, maker: &maker, tree: &tree, now: *now };
    let mut summary = switcher.switch(&mut ledger, done, progress)?;
    summary.faults = faults;
    if names.is_none() {
        let present: HashSet<&SiteId> = fleet.inventory.sites.values().map(|site| &site.id).collect();
        summary.collected = collect::collect(layout, &mut ledger, &present, (*now, system_time()))
            .context("published, but old releases could not be deleted")?;
    }
    ledger.write(layout)?;
    Ok(summary)
}

/// The faults that concern the named sites, or all faults, under the names that people gave the sites.
pub(super) fn of_these(faults: Vec<SiteFault>, fleet: &FleetDir, names: Option<&[String]>) -> Vec<SiteFault> {
    let name = |site: &SiteId| fleet.inventory.name_of(site);
    let named = faults.into_iter().map(|fault| fault.named(&name));
    named.filter(|fault| names.is_none_or(|names| names.contains(&fault.whose))).collect()
}

/// The sites whose release was made. What failed is a fault of that site, unless it would fail for every site.
fn done<'f>(
    sites: Vec<&'f InventorySite>,
    made: Vec<anyhow::Result<SiteDone>>,
    faults: &mut Vec<SiteFault>,
) -> anyhow::Result<Vec<(&'f InventorySite, SiteDone)>> {
    let mut done = Vec::new();
    let mut failed = Vec::new();
    for (site, made) in sites.into_iter().zip(made) {
        match made {
            Ok(made) => done.push((site, made)),
            Err(error) => failed.push((site, error)),
        }
    }
    let is_everybodys = |error: &anyhow::Error| {
        let io = error.chain().find_map(|cause| cause.downcast_ref::<std::io::Error>());
        io.is_some_and(|io| matches!(io.kind(), ErrorKind::StorageFull | ErrorKind::ReadOnlyFilesystem))
    };
    for (site, error) in failed {
        if done.is_empty() || is_everybodys(&error) {
            return Err(error);
        }
        let hint = "mend it and publish this site; until then it keeps the release that it has";
        let fault = SiteFault::of(&site.id, format!("{error:#}"), hint);
        faults.push(SiteFault { whose: site.name.clone(), ..fault });
    }
    Ok(done)
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
