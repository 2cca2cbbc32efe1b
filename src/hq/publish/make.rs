//! The third stage of `publish`: a site's files are rendered and sealed, and its release is signed. All of it is written
//! under names that nobody asks for yet.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::OnceLock;

use anyhow::Context as _;
use tracing::debug;

use crate::inventory::{InventorySite, PhoneLine};
use crate::parallel::in_parallel;
use crate::progress::Progress;
use crate::render::{Findings, FleetDir};
use bundle::RecipientPublic;
use ids::{Digest, Generation, SiteId, UnixTime};
use online::{db, freshen};
use repository::layout::Layout;
use repository::ledger;
use repository::published::{self, PublishedRelease};
use repository::roles::{self, SiteIds};
use repository::tree::{Switch, Tree};
use seal::manifest;
use tuf::sign;

use super::decide::{self, Compared, Need, Needs};
use super::firmware::{self, Catalogue};
use super::pack::{Packed, Sealer};
use super::read::Enrolled;
use super::summary::Outcome;
use super::trust::{PublishKeys, Signers};

/// What is the same for all sites of one run.
pub(super) struct Maker<'a> {
    layout: &'a Layout,
    fleet: &'a FleetDir,
    enrolled: &'a Enrolled,
    keys: &'a PublishKeys,
    /// Every signed root, by version.
    roots: &'a BTreeMap<u64, Vec<u8>>,
    tree: &'a Tree,
    now: UnixTime,
    sealer: Sealer<'a>,
    catalogue: Catalogue,
    /// What the database says was published, read when the first site without a tree needs it.
    generations: OnceLock<BTreeMap<SiteId, Generation>>,
}

/// What came of one site.
pub(super) struct SiteDone {
    /// For people and for the ledger.
    pub(super) outcome: Outcome,
    /// What was written for it; `None` if its files were not made.
    pub(super) made: Option<MadeRelease>,
}

/// A release that is complete but for the switch.
pub(super) struct MadeRelease {
    /// In this order: new roots, then the timestamp that may be signed under them.
    pub(super) switches: Vec<Switch>,
    /// When its metadata must be signed anew.
    pub(super) due: UnixTime,
    /// The sealed objects that it names.
    pub(super) objects: BTreeSet<Digest>,
    /// Over all that it was made of.
    pub(super) fingerprint: Option<Digest>,
}

/// What a site's release would hold.
struct Content<'p> {
    packed: &'p Packed,
    /// The site's own keys and the recovery key.
    recipients: Vec<RecipientPublic>,
    /// Over all of it. Equal hash, nothing to publish.
    hash: Digest,
}

/// What becomes of a site's release.
struct Prepared {
    outcome: Outcome,
    switches: Vec<Switch>,
    due: UnixTime,
}

impl<'a> Maker<'a> {
    /// Gets the firmware catalogue ready, which every release names: as it is, or signed anew.
    pub(super) fn new(
        layout: &'a Layout,
        fleet: &'a FleetDir,
        enrolled: &'a Enrolled,
        signers: &'a Signers,
        tree: &'a Tree,
        now: UnixTime,
    ) -> anyhow::Result<Self> {
        let Signers { keys, roots } = signers;
        let catalogue = firmware::catalogue(layout, fleet, &keys.firmware, now)?;
        let sealer = Sealer::new(&keys.publisher, tree);
        let generations = OnceLock::new();
        Ok(Self { layout, fleet, enrolled, keys, roots, tree, now, sealer, catalogue, generations })
    }

    /// Makes what these sites need, on all processors. Results in the order of the sites.
    pub(super) fn sites(
        &self,
        sites: &[&InventorySite],
        needs: &Needs,
        progress: &mut dyn Progress,
    ) -> anyhow::Result<Vec<SiteDone>> {
        let by_site = self.fleet.inventory.phones_by_site();
        let one = |site: &&InventorySite| {
            let phones = by_site.get(site.name.as_str()).map(Vec::as_slice).unwrap_or_default();
            self.site(site, phones, needs)
        };
        progress.stage("publish", u64::try_from(sites.len()).unwrap_or(u64::MAX));
        let done = in_parallel(sites, one, |site| progress.step(&site.name))?;
        progress.done();
        Ok(done)
    }

    fn site(&self, site: &InventorySite, phones: &[&PhoneLine], needs: &Needs) -> anyhow::Result<SiteDone> {
        let decided = needs.site(&site.id).with_context(|| format!("nothing was decided about site {}", site.name))?;
        let (doubt, fingerprint) = match decided {
            (Need::Nothing(generation), _) => {
                return Ok(SiteDone { outcome: Outcome::Unchanged(generation), made: None });
            }
            (Need::Appliance, _) => return Ok(SiteDone { outcome: Outcome::WaitingForEnrolment, made: None }),
            (Need::Comparison(doubt), fingerprint) => (doubt, fingerprint),
        };
        debug!(site = site.name, why = doubt.text(), "its files are made");
        let files = self.fleet.site_files(site, phones, &mut Findings::default());
        let packed = self.sealer.pack(self.fleet, site, phones, files)?;
        let Prepared { outcome, switches, due } =
            self.compare(site, &packed).with_context(|| format!("cannot publish site {}", site.name))?;
        let made = MadeRelease { switches, due, objects: packed.objects(), fingerprint };
        Ok(SiteDone { outcome, made: Some(made) })
    }

    /// Keeps the published release if it may stay, and writes a new one if not.
    fn compare(&self, site: &InventorySite, packed: &Packed) -> anyhow::Result<Prepared> {
        let content = self.content(site, packed)?;
        let previous = published::read(self.layout, &site.id)?;
        let holds = || self.holds_under_newest_root(previous.as_ref());
        let compared = previous.as_ref().map(|previous| Compared {
            same_content: previous.content() == Some(content.hash),
            holds_under_newest_root: &holds,
            same_firmware_keys: previous.firmware_keys() == self.keys.firmware,
            targets_expire: previous.targets.expires,
            firmware_expires: previous.firmware_expires(),
            lists_firmware: packed.firmware().all(|(digest, bytes)| previous.lists_firmware(&digest, bytes)),
        });
        match (decide::new_release(compared.as_ref(), self.now), &previous) {
            (None, Some(previous)) => self.keep(site, previous),
            (cause, previous) => {
                debug!(site = site.name, why = cause.map(decide::Cause::text), "it gets a new release");
                self.renew(site, &content, previous.as_ref())
            }
        }
    }

    fn content<'p>(&self, site: &InventorySite, packed: &'p Packed) -> anyhow::Result<Content<'p>> {
        let mut recipients = self.enrolled.get(&site.id).cloned().unwrap_or_default();
        recipients.push(self.keys.recovery);
        recipients.sort();
        recipients.dedup();
        let hash = packed.content(&self.fleet.inventory.fleet.id, site, &recipients)?;
        Ok(Content { packed, recipients, hash })
    }

    fn holds_under_newest_root(&self, previous: Option<&PublishedRelease>) -> bool {
        let newest = self.roots.last_key_value();
        newest.zip(previous).is_some_and(|((_, root), previous)| previous.holds_under(root))
    }

    /// The same release, with roots that its folder lacks and fresh online signatures where they are due.
    fn keep(&self, site: &InventorySite, previous: &PublishedRelease) -> anyhow::Result<Prepared> {
        let generation = previous.generation();
        let (mut switches, due) = (self.site_roots(site)?, ledger::due(previous));
        let fresh = freshen::freshen(self.layout, previous, &self.keys.online, self.now)?;
        switches.extend(fresh);
        let outcome = if switches.is_empty() { Outcome::Unchanged(generation) } else { Outcome::Refreshed(generation) };
        Ok(Prepared { outcome, switches, due })
    }

    /// The next release.
    fn renew(
        &self,
        site: &InventorySite,
        content: &Content<'_>,
        previous: Option<&PublishedRelease>,
    ) -> anyhow::Result<Prepared> {
        let generation = match previous {
            Some(previous) => previous.generation().next(),
            None => self.last_generation(&site.id)?.next(),
        };
        let mut switches = self.site_roots(site)?;
        switches.push(self.release(site, content, generation, previous)?);
        let outcome = Outcome::Published { generation, files: content.packed.files() };
        let due = self.now.plus(roles::TIMESTAMP_LIFE / 2).min(ledger::near(self.catalogue.expires));
        Ok(Prepared { outcome, switches, due })
    }

    /// Writes all of a release but its timestamp, which is prepared for the switch.
    fn release(
        &self,
        site: &InventorySite,
        content: &Content<'_>,
        generation: Generation,
        previous: Option<&PublishedRelease>,
    ) -> anyhow::Result<Switch> {
        let Content { packed, recipients, hash } = content;
        let fleet = &self.fleet.inventory.fleet.id;
        let whose = SiteIds { fleet, site: &site.id };
        let metadata = self.layout.site_metadata(&site.id);

        let manifest = packed.manifest(fleet, site, generation, self.now, self.catalogue.version);
        let sealed = manifest::seal(&self.keys.publisher, &manifest, recipients)?;
        let manifest = self.layout.site_targets(&site.id).join(format!("{}.manifest", Digest::of(&sealed)));
        self.tree.write(&manifest, &sealed)?;
        let targets = roles::targets(whose, generation, self.now, &sealed, hash, &self.keys.firmware);
        let targets = sign::sign(&targets, &[&self.keys.release]);
        self.tree.write(&metadata.join(format!("{generation}.targets.json")), &targets)?;
        let firmware = metadata.join(format!("{}.firmware.json", self.catalogue.version));
        self.tree.write_if_new(&firmware, &self.catalogue.bytes)?;

        let (snapshot_version, timestamp_version) = match previous {
            Some(previous) => (after(previous.snapshot.version), after(previous.timestamp.version)),
            None if generation == Generation(1) => (1, 1),
            // The tree was lost. Its versions counted up from 1, so the time in seconds is above them.
            None => u64::try_from(self.now.0).map_or((1, 1), |now| (now, now)),
        };
        let snapshot = roles::snapshot(
            whose,
            snapshot_version,
            self.now,
            (generation.0, &targets),
            (self.catalogue.version, &self.catalogue.bytes),
        );
        let snapshot = sign::sign(&snapshot, &[&self.keys.online]);
        self.tree.write(&metadata.join(format!("{snapshot_version}.snapshot.json")), &snapshot)?;
        let timestamp = roles::timestamp(whose, timestamp_version, self.now, (snapshot_version, &snapshot));
        let path = metadata.join("timestamp.json");
        let aside = self.tree.prepare(&path, &sign::sign(&timestamp, &[&self.keys.online]))?;
        Ok((aside, path))
    }

    /// What the database says was published, for when the tree is gone: sites refuse what they have seen.
    fn last_generation(&self, site: &SiteId) -> anyhow::Result<Generation> {
        let generations = match self.generations.get() {
            Some(generations) => generations,
            None => {
                let database = self.layout.database();
                let sites = if database.is_file() { db::Db::open_existing(&database)?.sites()? } else { Vec::new() };
                let generations = sites.into_iter().map(|site| (site.id, site.published)).collect();
                self.generations.get_or_init(|| generations)
            }
        };
        Ok(generations.get(site).copied().unwrap_or_default())
    }

    /// Prepares the roots that the site's folder does not have. They appear in one moment, as far as a site can tell,
    /// with what is signed under them.
    fn site_roots(&self, site: &InventorySite) -> anyhow::Result<Vec<Switch>> {
        let metadata = self.layout.site_metadata(&site.id);
        let mut switches = Vec::new();
        for (version, bytes) in self.roots {
            let path = metadata.join(format!("{version}.root.json"));
            if !std::fs::read(&path).is_ok_and(|there| there == *bytes) {
                switches.push((self.tree.prepare(&path, bytes)?, path));
            }
        }
        Ok(switches)
    }
}

/// The next version. A stolen online key can use all of them up; once it is replaced, sites count from anew (§5.3.11).
fn after(version: u64) -> u64 {
    version.checked_add(1).unwrap_or(1)
}
