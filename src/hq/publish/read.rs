//! The first stage of `publish` reads what the decisions depend on.

use std::collections::BTreeMap;

use crate::host::Host;
use crate::inventory::{InventorySite, PhoneLine};
use crate::lint::Draft;
use crate::parallel::in_parallel;
use crate::problem::NotClean;
use crate::render::FleetDir;
use crate::secrets::Secrets;
use bundle::RecipientPublic;
use ids::{Digest, Generation, SiteId, UnixTime};
use repository::keyring;
use repository::layout::Layout;
use repository::ledger::Ledger;

use super::decide::Numbers;
use super::fingerprint::Fingerprints;

/// The public sealing keys of each site's appliances.
pub(super) type Enrolled = BTreeMap<SiteId, Vec<RecipientPublic>>;

/// The fleet directory, and what the last run noted about it.
pub(super) struct ReadFleet {
    /// The highest generation of each site that HQ has heard of.
    pub(super) told: BTreeMap<SiteId, Generation>,
    /// The ledger that the last run wrote.
    pub(super) ledger: Ledger,
    /// The fleet directory. Its sites were not checked for problems yet.
    pub(super) draft: Draft,
    /// `None` if a key or a file that all releases depend on cannot be read. Then no site counts as unchanged.
    fingerprints: Option<Fingerprints>,
}

/// What was read about one site, before its files are made.
pub(super) struct SiteFound {
    /// The site's id.
    pub(super) site: SiteId,
    /// The facts that the first decision depends on.
    pub(super) facts: Facts,
    /// The keyed hash over all that its release is made of, for the ledger; `None` if a part could not be read.
    pub(super) fingerprint: Option<Digest>,
}

/// What is known of a site before its files are made.
#[derive(Debug, Clone, Copy)]
pub(super) struct Facts {
    /// Whether the publisher named this site on the command line.
    pub(super) named: bool,
    /// Whether the ledger has a release of it.
    pub(super) noted: bool,
    /// Whether everything that its release is made of could be read.
    pub(super) fingerprinted: bool,
    /// Whether HQ or the site knows of a newer release than the ledger and the tree do.
    pub(super) ahead: bool,
    /// Its release, if that is made of the same, is published as the last run left it, and needs no new signature yet.
    pub(super) as_left: Option<Generation>,
    /// Whether an appliance has enrolled, which could open a release.
    pub(super) enrolled: bool,
}

impl ReadFleet {
    /// Reads the ledger and the fleet directory.
    pub(super) fn read(layout: &Layout) -> anyhow::Result<Self> {
        let ledger = Ledger::read(layout);
        let fingerprints = keyring::load(&layout.key("publisher"), keyring::KeyKind::Publisher)
            .and_then(|secret| Fingerprints::of_fleet(layout, &secret));
        let mut draft = Draft::read(layout).map_err(NotClean)?;
        let secrets = std::mem::replace(&mut draft.fleet.secrets, Secrets::locked());
        draft.fleet.secrets = secrets.for_use(layout, &draft.fleet.inventory.fleet)?;
        let fingerprints = fingerprints.ok().and_then(|all| with_secrets(all, &draft.fleet));
        let told = Host::of(layout)?.told_generations()?;
        Ok(Self { told, ledger, draft, fingerprints })
    }

    /// What is known about the numbers of a site's releases, without the tree.
    pub(super) fn numbers(&self, site: &SiteId) -> Numbers {
        numbers(&self.ledger, &self.told, site)
    }

    /// What is known of the sites of these names, or of all sites if `names` is `None`.
    pub(super) fn sites(
        &self,
        layout: &Layout,
        enrolled: &Enrolled,
        names: Option<&[String]>,
        now: UnixTime,
    ) -> anyhow::Result<Vec<SiteFound>> {
        let inventory = &self.draft.fleet.inventory;
        let asked = |site: &&InventorySite| names.is_none_or(|names| names.contains(&site.name));
        let sites: Vec<&InventorySite> = inventory.sites.values().filter(asked).collect();
        let by_site = inventory.phones_by_site();
        let one = |site: &&InventorySite| {
            let phones = by_site.get(site.name.as_str()).map(Vec::as_slice).unwrap_or_default();
            let recipients = enrolled.get(&site.id).map(Vec::as_slice).unwrap_or_default();
            let fingerprint = self.fingerprint(site, phones, recipients);
            let as_left = fingerprint.and_then(|made_of| self.ledger.unchanged(layout, &site.id, &made_of, now));
            let facts = Facts {
                named: names.is_some(),
                noted: self.ledger.sites.contains_key(&site.id),
                fingerprinted: fingerprint.is_some(),
                ahead: self.numbers(&site.id).ahead(),
                as_left,
                enrolled: !recipients.is_empty(),
            };
            Ok(SiteFound { site: site.id.clone(), facts, fingerprint })
        };
        in_parallel(&sites, one, |_| {})
    }

    fn fingerprint(
        &self,
        site: &InventorySite,
        phones: &[&PhoneLine],
        recipients: &[RecipientPublic],
    ) -> Option<Digest> {
        self.fingerprints.as_ref()?.of_site(site, phones, &self.draft.fleet.secrets, recipients)
    }
}

/// What is known about the numbers of a site's releases, without the tree.
pub(super) fn numbers(ledger: &Ledger, told: &BTreeMap<SiteId, Generation>, site: &SiteId) -> Numbers {
    let entry = ledger.sites.get(site);
    let own = entry.and_then(|entry| entry.releases.iter().map(|release| release.generation).max());
    Numbers {
        own: own.unwrap_or_default(),
        told: told.get(site).copied().unwrap_or_default(),
        // Of a site that a backup does not know, releases may have been made after it.
        restored: entry.map_or(ledger.restored.is_some(), |entry| entry.restored),
    }
}

/// Adds the secrets that variables of the fleet and of the models name. `None` if one cannot be had.
fn with_secrets(fingerprints: Fingerprints, fleet: &FleetDir) -> Option<Fingerprints> {
    let sets = fleet.templates.sets.values().map(|set| &set.variables);
    let mut variables = std::iter::once(&fleet.inventory.fleet.variables).chain(sets);
    variables.try_fold(fingerprints, |all, variables| all.with_secrets(variables, &fleet.secrets))
}
