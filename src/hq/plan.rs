//! `plan`: shows what publishing would change, site by site and phone by phone. It writes nothing to the published
//! tree.
//!
//! It opens the published releases with the recovery key and the code that sites run, so it also proves that they can
//! be opened.

use std::collections::BTreeMap;
use std::fmt;

use super::enrol::{self, SiteFault};
use super::host::Host;
use super::inventory::{FleetInventory, InventorySite};
use super::orphans::{self, Orphan};
use super::progress::Progress;
use super::publish;
use super::publish::pack::{Packed, Sealer};
use super::render::{Findings, FleetDir};
use super::secrets::Masked;
use bundle::{FileEntry, Manifest, Phone, RecipientSecret, Scope, SiteSettings};
use ids::{FileName, Generation, MacAddr, SiteId};
use repository::layout::Layout;
use repository::tree::Discard;
use repository::{keyring, published};
use settings::count;

/// What publishing would change, for all planned sites.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    /// The sites in the order of their names, those without a change included.
    pub sites: Vec<SitePlan>,
    /// Sites that left the fleet directory and are served still.
    pub orphans: Vec<Orphan>,
    /// What is wrong with sites that publishing would skip.
    pub faults: Vec<SiteFault>,
}

/// What publishing would change at one site.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SitePlan {
    /// The site's name, for people.
    pub name: String,
    /// The site's id.
    pub site: SiteId,
    /// Whether an appliance has enrolled, so that the site would get a release.
    pub enrolled: bool,
    /// The generation that is published now; 0 if there is none.
    pub generation: Generation,
    /// The changes: settings and image first, then phones, then files; additions and changes before removals.
    pub changes: Vec<PlannedChange>,
}

/// One change that publishing would make at a site.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlannedChange {
    /// Whether the thing is added, changed or removed.
    pub kind: ChangeKind,
    /// What changes, for people: a file's name, a phone's address, a table of settings or an image.
    pub what: String,
    /// Who is concerned, for people: a phone's label, a model, or the appliance.
    pub whom: String,
}

/// How a thing differs between the published release and the next one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChangeKind {
    /// The published release does not have it.
    Added,
    /// The published release has another version of it.
    Changed,
    /// The next release would not have it any more.
    Removed,
}

/// Finds what `publish` would change at the sites of these names, or at all sites if `sites` is `None`.
pub fn plan(layout: &Layout, sites: Option<&[String]>, progress: &mut dyn Progress) -> anyhow::Result<Plan> {
    let enrol::Standing { recipients, faults } = enrol::standing(layout)?;
    let enrolled = |site: &SiteId| recipients.get(site).is_some_and(|keys| !keys.is_empty());
    let (mut plan, fleet) = plan_and_read(layout, &enrolled, sites, progress)?;
    plan.faults = publish::of_these(faults, &fleet, sites);
    plan.sites.retain(|site| !plan.faults.iter().any(|fault| fault.site.as_ref() == Some(&site.site)));
    if sites.is_none() {
        plan.orphans = orphans::of(layout, &fleet.inventory)?;
    }
    Ok(plan)
}

/// The changes alone, where `enrolled` says which sites have an appliance.
#[cfg(test)]
pub(super) fn plan_for(
    layout: &Layout,
    enrolled: &dyn Fn(&SiteId) -> bool,
    sites: Option<&[String]>,
    progress: &mut dyn Progress,
) -> anyhow::Result<Plan> {
    plan_and_read(layout, enrolled, sites, progress).map(|(plan, _)| plan)
}

fn plan_and_read(
    layout: &Layout,
    enrolled: &dyn Fn(&SiteId) -> bool,
    sites: Option<&[String]>,
    progress: &mut dyn Progress,
) -> anyhow::Result<(Plan, FleetDir)> {
    let host = Host::of(layout)?;
    let fleet = publish::clean(layout)?;
    let sites = publish::chosen(&fleet, sites)?;
    let secret = publish::publisher_secret(layout)?;
    let recovery = keyring::load(&layout.key("recovery"), keyring::KeyKind::X25519)?;
    let recovery = RecipientSecret::from_bytes(*recovery);
    let by_site = fleet.inventory.phones_by_site();
    let nobody = Vec::new();
    let sealer = Sealer::new(&secret, &Discard);
    let mut plan = Plan::default();
    progress.stage("plan", u64::try_from(sites.len()).unwrap_or(u64::MAX));
    for site in sites {
        let phones = by_site.get(site.name.as_str()).unwrap_or(&nobody);
        let files = fleet.site_files(site, phones, &mut Findings::default());
        let masked = Masked::of(&fleet.secrets, &files);
        let packed = sealer.pack(&fleet, site, phones, files)?;
        let before = before(layout, &host, &fleet, site, &recovery)?;
        let same = |name: &FileName, old: &FileEntry| masked.fits(layout, name, old);
        plan.sites.push(SitePlan {
            name: site.name.clone(),
            site: site.id.clone(),
            enrolled: enrolled(&site.id),
            generation: before.generation,
            changes: changes(&fleet.inventory, site, &before, &packed, &same),
        });
        progress.step(&site.name);
    }
    progress.done();
    Ok((plan, fleet))
}

/// The published release of a site, opened. Empty if there is none.
#[derive(Default)]
struct Before {
    generation: Generation,
    manifest: Option<Manifest>,
    files: BTreeMap<FileName, FileEntry>,
    phones: BTreeMap<MacAddr, Phone>,
}

fn before(
    layout: &Layout,
    host: &Host,
    fleet: &FleetDir,
    site: &InventorySite,
    recovery: &RecipientSecret,
) -> anyhow::Result<Before> {
    let Some(previous) = published::read(layout, &site.id)? else { return Ok(Before::default()) };
    if let Host::Remote(remote) = host {
        remote.pull_release(layout, &fleet.inventory.fleet.id, &previous, recovery)?;
    }
    let opened = previous.open(layout, &fleet.inventory.fleet.id, recovery)?;
    let catalog = opened.catalog();
    Ok(Before {
        generation: opened.generation(),
        manifest: Some(opened.manifest().clone()),
        files: catalog.files().map(|file| (file.name.clone(), (**file).clone())).collect(),
        phones: catalog.phones().map(|phone| (phone.mac, phone.clone())).collect(),
    })
}

/// `same` says of a file whose secrets are not known here that all else of it is as it was.
fn changes(
    inventory: &FleetInventory,
    site: &InventorySite,
    before: &Before,
    packed: &Packed,
    same: &dyn Fn(&FileName, &FileEntry) -> bool,
) -> Vec<PlannedChange> {
    let labels: BTreeMap<MacAddr, &str> = inventory
        .phones
        .iter()
        .filter(|phone| phone.site == site.name)
        .map(|phone| (phone.mac, phone.label.as_str()))
        .collect();
    let whom = |scope: &Scope| match scope {
        Scope::Everyone => "all phones".to_owned(),
        Scope::Model(model) => format!("all {model}"),
        Scope::Device(mac) => {
            let old = before.phones.get(mac).map(|phone| phone.label.as_str());
            phone_text(*mac, labels.get(mac).copied().or(old).unwrap_or_default())
        }
    };
    let mut changes = Vec::new();
    let mut push = |kind, what: String, whom: String| changes.push(PlannedChange { kind, what, whom });

    if let Some(manifest) = &before.manifest {
        if manifest.settings.dhcp != site.settings.site.dhcp {
            push(ChangeKind::Changed, "[dhcp]".to_owned(), "the appliance".to_owned());
        }
        if manifest.settings.tftp != site.settings.site.tftp {
            push(ChangeKind::Changed, "[tftp]".to_owned(), "the appliance".to_owned());
        }
        // What sites of before were not told is no change for people.
        if manifest.settings.hq.is_some() && manifest.settings.hq != site.settings.site.hq {
            let url = site.settings.site.hq.as_ref().map(|hq| hq.url.as_str()).unwrap_or_default();
            push(ChangeKind::Changed, "where HQ is".to_owned(), format!("the appliance: {url}"));
        }
        let update = |settings: &SiteSettings| (settings.poll_seconds, settings.sealing_key_days);
        if update(&manifest.settings) != update(&site.settings.site)
            || manifest.activation_window != site.settings.activation_window
        {
            push(ChangeKind::Changed, "[update]".to_owned(), "the appliance".to_owned());
        }
    }
    let before_image = before.manifest.as_ref().and_then(|manifest| manifest.image.as_ref());
    if before_image != packed.image.as_ref() {
        let kind = match (before_image, &packed.image) {
            (None, _) => ChangeKind::Added,
            (_, None) => ChangeKind::Removed,
            _ => ChangeKind::Changed,
        };
        let image = packed.image.as_ref().or(before_image);
        let name = image.map(|image| format!("image {} {}", image.compatible, image.version));
        push(kind, name.unwrap_or_default(), "the appliance".to_owned());
    }
    let now: BTreeMap<MacAddr, &Phone> = packed.inventory.phones.iter().map(|phone| (phone.mac, phone)).collect();
    for (mac, phone) in &now {
        match before.phones.get(mac) {
            None => push(ChangeKind::Added, format!("phone {mac}"), phone_what(phone)),
            Some(old) if old != *phone => push(ChangeKind::Changed, format!("phone {mac}"), phone_what(phone)),
            Some(_) => {}
        }
    }
    for (mac, phone) in before.phones.iter().filter(|(mac, _)| !now.contains_key(mac)) {
        push(ChangeKind::Removed, format!("phone {mac}"), phone_what(phone));
    }

    let files: BTreeMap<&FileName, &FileEntry> =
        packed.shards.iter().flat_map(|shard| &shard.files).map(|file| (&file.name, file)).collect();
    for (name, file) in &files {
        let kind = match before.files.get(*name) {
            None => ChangeKind::Added,
            Some(old) if old.scope != file.scope || old.class != file.class => ChangeKind::Changed,
            Some(old) if old.sha256 != file.sha256 && !same(name, old) => ChangeKind::Changed,
            Some(_) => continue,
        };
        push(kind, name.to_string(), whom(&file.scope));
    }
    for (name, file) in before.files.iter().filter(|(name, _)| !files.contains_key(name)) {
        push(ChangeKind::Removed, name.to_string(), whom(&file.scope));
    }
    changes
}

fn phone_what(phone: &Phone) -> String {
    if phone.label.is_empty() { phone.model.clone() } else { format!("{}, {}", phone.label, phone.model) }
}

fn phone_text(mac: MacAddr, label: &str) -> String {
    if label.is_empty() { mac.to_string() } else { label.to_owned() }
}

impl Plan {
    /// Whether publishing would change nothing that a site serves.
    pub fn is_empty(&self) -> bool {
        self.orphans.is_empty() && self.sites.iter().all(|site| site.changes.is_empty() || !site.enrolled)
    }

    /// Fails if publishing would skip a site, so that the command ends with status 1.
    pub fn complete(&self) -> anyhow::Result<()> {
        enrol::complete(&self.faults, "the others are planned")
    }
}

/// How many changes of a site are printed; the rest is only counted.
const MAX_LINES: usize = 40;

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut unchanged = 0usize;
        for site in &self.sites {
            if site.changes.is_empty() {
                unchanged += 1;
                continue;
            }
            let (number, next) = (count(site.changes.len(), "change"), site.generation.next());
            match site.enrolled {
                true => writeln!(f, "{}: {number}, generation {next}", site.name)?,
                false => writeln!(f, "{}: {number}, once it is enrolled", site.name)?,
            }
            let width = site.changes.iter().take(MAX_LINES).map(|change| change.what.len()).max().unwrap_or(0);
            for change in site.changes.iter().take(MAX_LINES) {
                let sign = match change.kind {
                    ChangeKind::Added => '+',
                    ChangeKind::Changed => '~',
                    ChangeKind::Removed => '-',
                };
                writeln!(f, "  {sign} {:width$}  {}", change.what, change.whom)?;
            }
            if let Some(more) = site.changes.len().checked_sub(MAX_LINES).filter(|more| *more > 0) {
                writeln!(f, "  and {more} more")?;
            }
        }
        for orphan in &self.orphans {
            writeln!(f, "- site {orphan}")?;
        }
        for fault in &self.faults {
            writeln!(f, "{}: skipped: {fault}", fault.whose)?;
        }
        match (unchanged, self.sites.len()) {
            (_, 0) if !self.orphans.is_empty() || !self.faults.is_empty() => write!(f, "no other site"),
            (_, 0) => write!(f, "no sites"),
            (unchanged, all) if unchanged == all => write!(f, "nothing to publish"),
            (0, all) => write!(f, "{} to change", count(all, "site")),
            (unchanged, all) => write!(f, "{} to change, {unchanged} unchanged", count(all - unchanged, "site")),
        }
    }
}
