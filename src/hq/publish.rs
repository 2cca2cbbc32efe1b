//! `publish`: from the fleet directory and the previous release to what sites download.
//!
//! The same directory, previous release and time give the same bytes. Everything is written aside; the one thing
//! that readers notice is the rename of each site's `timestamp.json`, last. A site whose content did not change gets
//! no new generation, only fresh `timestamp` and `snapshot` metadata when theirs are half through their life.
//!
//! A run has four stages, a file each: [`read`], [`decide`], [`make`], [`switch`]. Read them in this order.

pub mod collect;
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

use anyhow::{Context as _, anyhow, bail};

use super::enrol;
use super::inventory::InventorySite;
use super::lint::{self, Draft};
use super::problem::NotClean;
use super::progress::Progress;
use super::render::FleetDir;
use ids::{SiteId, UnixTime};
use repository::layout::Layout;
use repository::lock::TreeLock;
use repository::tree::Tree;

use decide::Needs;
use make::Maker;
use read::{Enrolled, ReadFleet};
use trust::Signers;

pub(super) use firmware::pending_path;
pub use summary::{Outcome, SiteSummary, Summary};
pub(super) use trust::{newest_root, publish_root, publisher_secret, roots};

/// What to publish.
#[derive(Debug, Clone)]
pub struct PublishOptions {
    /// These sites only, by name, each looked at thoroughly; all if `None`, and then those for which nothing changed in
    /// the fleet directory since the last time are taken to be as they were left.
    pub sites: Option<Vec<String>>,
    /// The time that goes into the metadata.
    pub now: UnixTime,
}

/// Publishes. Refuses, with a [`NotClean`], when `check` finds problems.
pub fn publish(layout: &Layout, options: &PublishOptions, progress: &mut dyn Progress) -> anyhow::Result<Summary> {
    let recipients = enrol::recipients(layout)?;
    publish_to(layout, &recipients, options, progress)
}

/// [`publish`], sealed to these keys.
pub(super) fn publish_to(
    layout: &Layout,
    enrolled: &Enrolled,
    options: &PublishOptions,
    progress: &mut dyn Progress,
) -> anyhow::Result<Summary> {
    let PublishOptions { sites: names, now } = options;
    // Before the previous release is read; `serve` holds it for moments, another publisher for as long as it takes.
    let _held = TreeLock::wait(&layout.online())?;

    let found = ReadFleet::read(layout)?;
    let found_sites = found.sites(layout, enrolled, names.as_deref(), *now)?;

    let needs = Needs::of(found_sites);
    let ReadFleet { mut ledger, draft, .. } = found;
    let fleet = checked(draft, &needs)?;

    let signers = Signers::read(layout)?;
    let sites = chosen(&fleet, names.as_deref())?;
    let tree = Tree::new(layout);
    let made = Maker::new(layout, &fleet, enrolled, &signers, &tree, *now)?.sites(&sites, &needs, progress)?;

    let mut summary = switch::switch(layout, &tree, &mut ledger, sites.into_iter().zip(made).collect(), *now)?;
    if names.is_none() {
        let present: HashSet<&SiteId> = fleet.inventory.sites.values().map(|site| &site.id).collect();
        summary.collected = collect::collect(layout, &mut ledger, &present, *now)
            .context("published, but old releases could not be deleted")?;
    }
    ledger.write(layout)?;
    Ok(summary)
}

/// The fleet directory, if nothing is wrong with it nor with the files of any site that needs something.
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

/// The fleet directory if nothing is wrong with it.
pub(super) fn clean(layout: &Layout) -> anyhow::Result<FleetDir> {
    let (fleet, report) = lint::read(layout);
    match fleet {
        Some(fleet) if report.is_clean() => Ok(fleet),
        _ => Err(anyhow::Error::new(NotClean(report))),
    }
}

/// The sites of these names, or all.
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
