//! The first stage of `publish`: what is read before anything is decided.

use std::collections::BTreeMap;

use crate::inventory::{InventorySite, PhoneLine};
use crate::lint::Draft;
use crate::parallel::in_parallel;
use crate::problem::NotClean;
use crate::render::FleetDir;
use bundle::RecipientPublic;
use ids::{Digest, Generation, SiteId, UnixTime};
use repository::keyring;
use repository::layout::Layout;
use repository::ledger::Ledger;

use super::fingerprint::Fingerprints;

/// The keys that each site's appliance can open a release with.
pub(super) type Enrolled = BTreeMap<SiteId, Vec<RecipientPublic>>;

/// The fleet directory, and what the last run noted about it.
pub(super) struct ReadFleet {
    /// What the last run noted.
    pub(super) ledger: Ledger,
    /// The fleet directory. Problems of single sites are not looked for yet.
    pub(super) draft: Draft,
    /// `None` if a key or a file that every release is made of cannot be read; then nothing counts as unchanged.
    fingerprints: Option<Fingerprints>,
}

/// One site, before its files are made.
pub(super) struct SiteFound {
    /// Its id.
    pub(super) site: SiteId,
    /// What the decision depends on.
    pub(super) facts: Facts,
    /// Over all that its release is made of; the next run compares it.
    pub(super) fingerprint: Option<Digest>,
}

/// What is known of a site before its files are made.
#[derive(Debug, Clone, Copy)]
pub(super) struct Facts {
    /// The publisher asked for this site by its name.
    pub(super) named: bool,
    /// The ledger has a release of it.
    pub(super) noted: bool,
    /// Everything that its release is made of could be read.
    pub(super) fingerprinted: bool,
    /// Its release, if that is made of the same, lies there as it was left, and needs no new signature yet.
    pub(super) as_left: Option<Generation>,
    /// An appliance could open a release.
    pub(super) enrolled: bool,
}

impl ReadFleet {
    /// Reads the ledger and the fleet directory.
    pub(super) fn read(layout: &Layout) -> anyhow::Result<Self> {
        let ledger = Ledger::read(layout);
        let fingerprints = keyring::load(&layout.key("publisher"), keyring::KeyKind::Publisher)
            .and_then(|secret| Fingerprints::of_fleet(layout, &secret));
        let draft = Draft::read(layout).map_err(NotClean)?;
        let fingerprints = fingerprints.ok().and_then(|all| with_secrets(all, &draft.fleet));
        Ok(Self { ledger, draft, fingerprints })
    }

    /// What is known of the sites of these names, or of all.
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

/// Adds the secrets that variables of the fleet and of the models name.
fn with_secrets(fingerprints: Fingerprints, fleet: &FleetDir) -> Option<Fingerprints> {
    let sets = fleet.templates.sets.values().map(|set| &set.variables);
    let mut variables = std::iter::once(&fleet.inventory.fleet.variables).chain(sets);
    variables.try_fold(fingerprints, |all, variables| all.with_secrets(variables, &fleet.secrets))
}
