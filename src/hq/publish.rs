//! `publish`: from the fleet directory and the previous release to what sites download.
//!
//! The same directory, previous release and time give the same bytes. Everything is written aside; the one thing
//! that readers notice is the rename of each site's `timestamp.json`, last. A site whose content did not change gets
//! no new generation, only fresh `timestamp` and `snapshot` metadata when theirs are half through their life.

pub mod collect;
mod fingerprint;
mod firmware;
pub mod pack;
mod shown;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::PathBuf;
use std::sync::{Mutex, OnceLock, PoisonError};

use anyhow::{Context as _, anyhow, bail};

use super::inventory::{PhoneLine, Site};
use super::lint::Draft;
use super::parallel::in_parallel;
use super::problem::NotClean;
use super::progress::Progress;
use super::render::{Findings, FleetDir};
use super::secrets::Secrets;
use super::{enrol, lint};
use bundle::RecipientPublic;
use ids::{Digest, Generation, SiteId, UnixTime};
use online::{db, freshen};
use repository::keyring;
use repository::layout::Layout;
use repository::lock::TreeLock;
use repository::roles::{self, FirmwareKeys, Whose};
use seal::{PublisherSecret, manifest};
use telemetry::Hint as _;
use tuf::schema::Root;
use tuf::{SigningKey, Trusted, sign};

use collect::Collected;
use fingerprint::Fingerprints;
use firmware::Catalogue;
use pack::{Packed, Sealer};
use repository::ledger::{self, Ledger, Release};
use repository::published::{self, Previous};
use repository::tree::{self, Switch, Tree};

pub(super) use firmware::pending_path;

/// What to publish.
#[derive(Debug, Clone)]
pub struct PublishOptions {
    /// These sites only, by name, each looked at thoroughly; all if `None`, and then those for which nothing changed in
    /// the fleet directory since the last time are taken to be as they were left.
    pub sites: Option<Vec<String>>,
    /// The time that goes into the metadata.
    pub now: UnixTime,
}

/// What came of it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Summary {
    /// Each site that was looked at, in the order of the names.
    pub sites: Vec<SiteSummary>,
    /// How many sealed objects were new.
    pub new_objects: u64,
    /// Their bytes.
    pub new_bytes: u64,
    /// What nobody needs any more.
    pub collected: Collected,
}

/// What came of one site.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SiteSummary {
    /// Its id.
    pub site: SiteId,
    /// What people call it.
    pub name: String,
    /// What was done.
    pub outcome: Outcome,
}

/// What was done for a site.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// A new release.
    Published {
        /// Its number.
        generation: Generation,
        /// How many files phones can ask for.
        files: u32,
    },
    /// The same release with fresh metadata.
    Refreshed(Generation),
    /// Nothing.
    Unchanged(Generation),
    /// Nobody could open it yet.
    WaitingForEnrolment,
}

impl Outcome {
    /// The release that the site gets now; 0 for none.
    pub const fn generation(self) -> Generation {
        match self {
            Self::Published { generation, .. } | Self::Refreshed(generation) | Self::Unchanged(generation) => {
                generation
            }
            Self::WaitingForEnrolment => Generation(0),
        }
    }
}

/// The keys that publishing needs. Root, firmware and recovery keys are not among them.
pub(super) struct Keys {
    publisher: PublisherSecret,
    release: SigningKey,
    online: SigningKey,
    recovery: RecipientPublic,
    firmware: FirmwareKeys,
}

impl Keys {
    fn load(layout: &Layout, root: &Root) -> anyhow::Result<Self> {
        let role = |role: &str, path: PathBuf| -> anyhow::Result<SigningKey> {
            let key = keyring::load_signing(&path)?;
            if !root.roles.get(role).is_some_and(|keys| keys.keyids.contains(&key.public().id())) {
                let (path, version) = (path.display(), root.version);
                return Err(anyhow!("{path} is not the key that root version {version} names for {role}")
                    .hint("`lineside-hq keys show` says which keys are trusted"));
            }
            Ok(key)
        };
        Ok(Self {
            publisher: publisher_secret(layout)?,
            release: role("targets", layout.key("release"))?,
            online: role("timestamp", layout.online_key())?,
            recovery: recovery_public(layout)?,
            firmware: FirmwareKeys::of(root),
        })
    }
}

pub(super) fn publisher_secret(layout: &Layout) -> anyhow::Result<PublisherSecret> {
    let secret = keyring::load(&layout.key("publisher"), keyring::Kind::Publisher)?;
    Ok(PublisherSecret::from_bytes(*secret))
}

fn recovery_public(layout: &Layout) -> anyhow::Result<RecipientPublic> {
    let path = layout.recovery_public();
    let keys = keyring::load_public(&path)?;
    match keys.as_slice() {
        [key] => Ok(RecipientPublic::from_bytes(*key)),
        _ => bail!("{} must hold one key", path.display()),
    }
}

/// Publishes. Refuses, with a [`NotClean`], when `check` finds problems.
pub fn publish(layout: &Layout, options: &PublishOptions, progress: &mut dyn Progress) -> anyhow::Result<Summary> {
    let recipients = enrol::recipients(layout)?;
    publish_to(layout, &recipients, options, progress)
}

/// [`publish`], sealed to these keys.
pub(super) fn publish_to(
    layout: &Layout,
    enrolled: &BTreeMap<SiteId, Vec<RecipientPublic>>,
    options: &PublishOptions,
    progress: &mut dyn Progress,
) -> anyhow::Result<Summary> {
    // Before the previous release is read; `serve` holds it for moments, another publisher for as long as it takes.
    let _held = TreeLock::wait(&layout.online())?;
    let mut ledger = Ledger::read(layout);
    let fingerprints = keyring::load(&layout.key("publisher"), keyring::Kind::Publisher)
        .and_then(|secret| Fingerprints::of_fleet(layout, &secret));
    let draft = Draft::read(layout).map_err(NotClean)?;
    let known = Known {
        layout,
        ledger: &ledger,
        enrolled,
        options,
        fingerprints: fingerprints.ok().and_then(|all| {
            let sets = draft.fleet.templates.sets.values().map(|set| &set.variables);
            let mut variables = std::iter::once(&draft.fleet.inventory.fleet.variables).chain(sets);
            variables.try_fold(all, |all, variables| all.with_secrets(variables, &draft.fleet.secrets))
        }),
    };
    // What is found out here is not found out again for each site below.
    let unchanged = Mutex::new(HashMap::new());
    let (fleet, report) = draft.check(|fleet, site, phones| {
        if options.sites.as_ref().is_some_and(|names| !names.contains(&site.name)) {
            return false;
        }
        let Some(generation) = known.unchanged(site, phones, &fleet.secrets) else { return true };
        unchanged.lock().unwrap_or_else(PoisonError::into_inner).insert(site.id.clone(), generation);
        false
    });
    let unchanged = unchanged.into_inner().unwrap_or_else(PoisonError::into_inner);
    if !report.is_clean() {
        return Err(NotClean(report).into());
    }
    if !fleet.secrets.is_unlocked() {
        bail!("keys/secrets.key is not here, so the secrets that configurations need cannot be had");
    }
    let roots = roots(layout)?;
    let root = newest_root(&roots)?;
    let keys = Keys::load(layout, root.root())?;
    let sites = chosen(&fleet, options.sites.as_deref())?;
    let tree = Tree::new(layout);
    let catalogue = firmware::catalogue(layout, &fleet, &keys.firmware, options.now)?;
    let publishing = Publishing {
        layout,
        fleet: &fleet,
        keys: &keys,
        now: options.now,
        catalogue: &catalogue,
        roots: &roots,
        tree: &tree,
        generations: OnceLock::new(),
    };

    let by_site = fleet.inventory.phones_by_site();
    let nobody = Vec::new();
    let sealer = Sealer::new(&keys.publisher, &tree);
    let one = |site: &&Site| -> anyhow::Result<Done> {
        let phones = by_site.get(site.name.as_str()).unwrap_or(&nobody);
        if let Some(generation) = unchanged.get(&site.id) {
            return Ok(Done::Nothing(Outcome::Unchanged(*generation)));
        }
        let Some(recipients) = enrolled.get(&site.id).filter(|keys| !keys.is_empty()) else {
            return Ok(Done::Nothing(Outcome::WaitingForEnrolment));
        };
        let fingerprint = known.fingerprint(site, phones, &fleet.secrets);
        let files = fleet.site_files(site, phones, &mut Findings::default());
        let packed = sealer.pack(&fleet, site, phones, files)?;
        let made = publishing.site(site, &packed, recipients);
        made.map(|made| Done::Made { made, objects: packed.objects(), fingerprint })
            .with_context(|| format!("cannot publish site {}", site.name))
    };
    progress.stage("publish", u64::try_from(sites.len()).unwrap_or(u64::MAX));
    let results = in_parallel(&sites, one, |site| progress.step(&site.name))?;
    progress.done();

    let mut summary = Summary::default();
    let (mut switches, mut looked_at) = (Vec::new(), Vec::new());
    for (site, done) in sites.iter().zip(results) {
        let outcome = match done {
            Done::Nothing(outcome) => outcome,
            Done::Made { made, objects, fingerprint } => {
                let release = Release { generation: made.outcome.generation(), until: None, objects };
                ledger.note(&site.id, fingerprint, release, made.due, options.now);
                switches.extend(made.switches);
                looked_at.push((site.id.clone(), site.name.clone(), made.outcome.generation()));
                made.outcome
            }
        };
        summary.sites.push(SiteSummary { site: site.id.clone(), name: site.name.clone(), outcome });
    }
    // A power cut before this leaves the old releases, one after it the new ones, during the switching some of each.
    tree.sync()?;
    if !switches.is_empty() {
        publish_root(layout)?;
    }
    tree.switch(&switches)?;
    for (site, _, _) in &looked_at {
        ledger.stamp(layout, site);
    }
    (summary.new_objects, summary.new_bytes) = tree.new_objects();
    if !looked_at.is_empty() {
        db::note_published(layout, &looked_at).context("published, but the fleet view could not be told")?;
    }
    if options.sites.is_none() {
        let present: HashSet<&SiteId> = fleet.inventory.sites.values().map(|site| &site.id).collect();
        summary.collected = collect::collect(layout, &mut ledger, &present, options.now)
            .context("published, but old releases could not be deleted")?;
    }
    ledger.write(layout)?;
    Ok(summary)
}

/// What is known of sites before they are looked at.
struct Known<'a> {
    layout: &'a Layout,
    ledger: &'a Ledger,
    enrolled: &'a BTreeMap<SiteId, Vec<RecipientPublic>>,
    options: &'a PublishOptions,
    /// `None` if a key or a file that everything is made of cannot be read; then nothing counts as unchanged.
    fingerprints: Option<Fingerprints>,
}

impl Known<'_> {
    fn fingerprint(&self, site: &Site, phones: &[&PhoneLine], secrets: &Secrets) -> Option<Digest> {
        let recipients = self.enrolled.get(&site.id).map(Vec::as_slice).unwrap_or_default();
        self.fingerprints.as_ref()?.of_site(site, phones, secrets, recipients)
    }

    /// The site's release, if there is no need to look at it.
    fn unchanged(&self, site: &Site, phones: &[&PhoneLine], secrets: &Secrets) -> Option<Generation> {
        // Whoever names a site wants it looked at.
        if self.options.sites.is_some() || !self.ledger.sites.contains_key(&site.id) {
            return None;
        }
        let fingerprint = self.fingerprint(site, phones, secrets)?;
        self.ledger.unchanged(self.layout, &site.id, &fingerprint, self.options.now)
    }
}

/// What came of one site, and what is left to do for it.
enum Done {
    Nothing(Outcome),
    Made { made: Made, objects: std::collections::BTreeSet<Digest>, fingerprint: Option<Digest> },
}

/// A release that is written but for the switch.
struct Made {
    outcome: Outcome,
    /// In this order: new roots, then the timestamp that may be signed under them.
    switches: Vec<Switch>,
    due: UnixTime,
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
pub(super) fn chosen<'f>(fleet: &'f FleetDir, names: Option<&[String]>) -> anyhow::Result<Vec<&'f Site>> {
    let Some(names) = names else { return Ok(fleet.inventory.sites.values().collect()) };
    let mut sites = BTreeMap::new();
    for name in names {
        let site = fleet.inventory.sites.get(name).ok_or_else(|| anyhow!("there is no site `{name}`"))?;
        sites.insert(name, site);
    }
    Ok(sites.into_values().collect())
}

/// The signed roots, newest last, by version.
pub(super) fn roots(layout: &Layout) -> anyhow::Result<BTreeMap<u64, Vec<u8>>> {
    let roots = published::numbered(&layout.signed(), "root")?;
    if roots.is_empty() {
        bail!("there is no signed root in {}", layout.signed().display());
    }
    Ok(roots)
}

/// The newest of these roots, which holds by its own keys.
pub(super) fn newest_root(roots: &BTreeMap<u64, Vec<u8>>) -> anyhow::Result<Trusted> {
    let Some((version, bytes)) = roots.last_key_value() else { bail!("there is no signed root") };
    let root = Trusted::pin(bytes).with_context(|| format!("{version}.root.json does not hold"))?;
    Ok(root)
}

/// The newest root where `serve` finds it for enrolment.
pub(super) fn publish_root(layout: &Layout) -> anyhow::Result<()> {
    match roots(layout)?.last_key_value() {
        Some((_, newest)) => write_if_new(&layout.public().join("root.json"), newest),
        None => Ok(()),
    }
}

fn write_if_new(path: &std::path::Path, bytes: &[u8]) -> anyhow::Result<()> {
    if std::fs::read(path).is_ok_and(|there| there == bytes) { Ok(()) } else { tree::write_file(path, bytes) }
}

/// What is the same for all sites of one run.
struct Publishing<'a> {
    layout: &'a Layout,
    fleet: &'a FleetDir,
    keys: &'a Keys,
    now: UnixTime,
    catalogue: &'a Catalogue,
    /// By version.
    roots: &'a BTreeMap<u64, Vec<u8>>,
    tree: &'a Tree,
    /// What the database says was published, read when the first site without a tree needs it.
    generations: OnceLock<BTreeMap<SiteId, Generation>>,
}

impl Publishing<'_> {
    /// Writes all of a site but the timestamp, which is prepared aside.
    fn site(&self, site: &Site, packed: &Packed, enrolled: &[RecipientPublic]) -> anyhow::Result<Made> {
        let mut recipients: Vec<RecipientPublic> = enrolled.to_vec();
        recipients.push(self.keys.recovery);
        recipients.sort();
        recipients.dedup();
        let fleet = &self.fleet.inventory.fleet.id;
        let content = packed.content(fleet, site, &recipients)?;
        let previous = published::read(self.layout, &site.id)?;

        if let Some(previous) = &previous
            && previous.content() == Some(content)
            // After a change of keys everything is signed anew.
            && self.roots.last_key_value().is_some_and(|(_, root)| previous.holds_under(root))
            && previous.firmware_keys() == self.keys.firmware
            && !roles::is_near(previous.targets.expires, roles::TARGETS_LIFE, 4, self.now)
            && !roles::is_near(previous.firmware_expires(), roles::TARGETS_LIFE, 4, self.now)
            && packed.firmware().all(|(digest, bytes)| previous.lists_firmware(&digest, bytes))
        {
            let generation = previous.generation();
            let (mut switches, due) = (self.site_roots(site)?, ledger::due(previous));
            let fresh = freshen::freshen(self.layout, previous, &self.keys.online, self.now)?;
            let refreshed = fresh.is_some() || !switches.is_empty();
            let outcome = if refreshed { Outcome::Refreshed(generation) } else { Outcome::Unchanged(generation) };
            switches.extend(fresh);
            return Ok(Made { outcome, switches, due });
        }
        let generation = match &previous {
            Some(previous) => previous.generation().next(),
            None => self.last_generation(&site.id)?.next(),
        };
        let mut switches = self.site_roots(site)?;
        switches.push(self.release(site, packed, &recipients, generation, &content, previous.as_ref())?);
        let outcome = Outcome::Published { generation, files: packed.files() };
        let due = self.now.plus(roles::TIMESTAMP_LIFE / 2).min(ledger::near(self.catalogue.expires));
        Ok(Made { outcome, switches, due })
    }

    fn release(
        &self,
        site: &Site,
        packed: &Packed,
        recipients: &[RecipientPublic],
        generation: Generation,
        content: &Digest,
        previous: Option<&Previous>,
    ) -> anyhow::Result<Switch> {
        let fleet = &self.fleet.inventory.fleet.id;
        let whose = Whose { fleet, site: &site.id };
        let metadata = self.layout.site_metadata(&site.id);

        let manifest = packed.manifest(fleet, site, generation, self.now, self.catalogue.version);
        let sealed = manifest::seal(&self.keys.publisher, &manifest, recipients)?;
        let manifest = self.layout.site_targets(&site.id).join(format!("{}.manifest", Digest::of(&sealed)));
        self.tree.write(&manifest, &sealed)?;
        let targets = roles::targets(whose, generation, self.now, &sealed, content, &self.keys.firmware);
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
    fn site_roots(&self, site: &Site) -> anyhow::Result<Vec<Switch>> {
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

#[cfg(test)]
mod tests;
