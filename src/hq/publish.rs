//! `publish`: from the fleet directory and the previous release to what sites download.
//!
//! The same directory, previous release and time give the same bytes. Everything is written aside; the one thing
//! that readers notice is the rename of each site's `timestamp.json`, last. A site whose content did not change gets
//! no new generation, only fresh `timestamp` and `snapshot` metadata when theirs are half through their life.

mod firmware;
mod online;
pub mod pack;
pub mod previous;
pub mod tree;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;

use anyhow::{Context as _, anyhow, bail};

use super::inventory::Site;
use super::layout::Layout;
use super::lock::TreeLock;
use super::problem::{NotClean, count};
use super::progress::Progress;
use super::render::{Findings, FleetDir};
use super::trust::{self, FirmwareKeys, Whose};
use super::{db, enrol, keyring, lint};
use crate::bundle::{PublisherSecret, RecipientPublic, recipients};
use crate::ids::{Digest, Generation, SiteId, UnixTime};
use crate::tuf::schema::Root;
use crate::tuf::{SigningKey, Trusted, sign};

use firmware::Catalogue;
use pack::{Packed, Sealer};
use previous::Previous;
use tree::Tree;

pub(super) use firmware::pending_path;
pub use online::refresh;

/// What to publish.
#[derive(Debug, Clone)]
pub struct PublishOptions {
    /// These sites only, by name; all if `None`.
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
                bail!(
                    "{} is not the key that root version {} names for {role}\n\
                     hint: `lineside-hq keys show` says which keys are trusted",
                    path.display(),
                    root.version
                );
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
    let fleet = clean(layout)?;
    if !fleet.secrets.is_unlocked() {
        bail!("keys/secrets.key is not here, so the secrets that configurations need cannot be had");
    }
    let roots = roots(layout)?;
    let root = newest_root(&roots)?;
    let keys = Keys::load(layout, root.root())?;
    let sites = chosen(&fleet, options.sites.as_deref())?;
    let tree = Tree::new(layout);
    let catalogue = firmware::catalogue(layout, &fleet, &keys.firmware, options.now)?;

    let publishing =
        Publishing { layout, fleet: &fleet, keys: &keys, now: options.now, catalogue: &catalogue, roots: &roots };
    let mut summary = Summary::default();
    let mut switches = Vec::new();
    let by_site = fleet.inventory.phones_by_site();
    let nobody = Vec::new();
    let sealer = Sealer::new(&keys.publisher, &tree);
    let one = |site: &Site| -> anyhow::Result<(Outcome, Option<Switch>)> {
        let Some(keys) = enrolled.get(&site.id).filter(|keys| !keys.is_empty()) else {
            return Ok((Outcome::WaitingForEnrolment, None));
        };
        let phones = by_site.get(site.name.as_str()).unwrap_or(&nobody);
        let files = fleet.site_files(site, phones, &mut Findings::default());
        let packed = sealer.pack(&fleet, site, phones, files)?;
        publishing.site(site, &packed, keys)
    };
    progress.stage("publish", u64::try_from(sites.len()).unwrap_or(u64::MAX));
    for (site, (outcome, switch)) in sites.iter().zip(in_parallel(&sites, one, progress)?) {
        switches.extend(switch);
        summary.sites.push(SiteSummary { site: site.id.clone(), name: site.name.clone(), outcome });
    }
    tree.sync()?;
    if !switches.is_empty() {
        publish_root(layout)?;
    }
    for (site, aside, path) in &switches {
        // A new root and what is signed under it, in one moment as far as a site can tell.
        publishing.site_roots(site)?;
        tree::switch(aside, path)?;
    }
    progress.done();
    (summary.new_objects, summary.new_bytes) = tree.new_objects();

    let published: Vec<(SiteId, String, Generation)> =
        summary.sites.iter().map(|site| (site.site.clone(), site.name.clone(), site.outcome.generation())).collect();
    db::note_published(layout, &published).context("published, but the fleet view could not be told")?;
    Ok(summary)
}

/// Does `one` for each site on all processors; results in the order of the sites, the first error ends it.
fn in_parallel<T: Send>(
    sites: &[&Site],
    one: impl Fn(&Site) -> anyhow::Result<T> + Sync,
    progress: &mut dyn Progress,
) -> anyhow::Result<Vec<T>> {
    let workers = std::thread::available_parallelism().map_or(1, std::num::NonZero::get).min(16);
    let next = AtomicUsize::new(0);
    let (sender, results) = mpsc::channel();
    std::thread::scope(|scope| {
        for _ in 0..workers.min(sites.len()) {
            let (sender, next, one) = (sender.clone(), &next, &one);
            scope.spawn(move || {
                while let Some(site) = sites.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let result = one(site).with_context(|| format!("cannot publish site {}", site.name));
                    // Nobody listens any more: another site failed.
                    if sender.send((site, result)).is_err() {
                        break;
                    }
                }
            });
        }
        drop(sender);
        let mut done = BTreeMap::new();
        for (site, result) in results {
            progress.step(&site.name);
            done.insert(&site.name, result?);
        }
        if done.len() != sites.len() {
            bail!("a thread ended early");
        }
        Ok(sites.iter().filter_map(|site| done.remove(&site.name)).collect())
    })
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
    let roots = previous::numbered(&layout.signed(), "root")?;
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
}

/// A site, its prepared `timestamp.json` and where that goes.
type Switch = (SiteId, PathBuf, PathBuf);

impl Publishing<'_> {
    /// Writes all of a site but the timestamp, which is prepared aside.
    fn site(
        &self,
        site: &Site,
        packed: &Packed,
        enrolled: &[RecipientPublic],
    ) -> anyhow::Result<(Outcome, Option<Switch>)> {
        let mut recipients: Vec<RecipientPublic> = enrolled.to_vec();
        recipients.push(self.keys.recovery);
        recipients.sort();
        recipients.dedup();
        let fleet = &self.fleet.inventory.fleet.id;
        let content = packed.content(fleet, site, &recipients)?;
        let previous = previous::read(self.layout, &site.id)?;
        if let Some(previous) = &previous
            && previous.content() == Some(content)
            // After a change of keys everything is signed anew.
            && self.roots.last_key_value().is_some_and(|(_, root)| previous.holds_under(root))
            && previous.firmware_keys() == self.keys.firmware
            && !trust::is_near(previous.targets.expires, trust::TARGETS_LIFE, 4, self.now)
            && !trust::is_near(previous.firmware_expires(), trust::TARGETS_LIFE, 4, self.now)
            && packed.firmware().all(|(digest, bytes)| previous.lists_firmware(&digest, bytes))
        {
            let generation = previous.generation();
            self.site_roots(&site.id)?;
            return match online::freshen(self.layout, previous, &self.keys.online, self.now)? {
                Some(switch) => Ok((Outcome::Refreshed(generation), Some(switch))),
                None => Ok((Outcome::Unchanged(generation), None)),
            };
        }
        let generation = match &previous {
            Some(previous) => previous.generation().next(),
            None => self.last_generation(&site.id)?.next(),
        };
        let switch = self.release(site, packed, &recipients, generation, &content, previous.as_ref())?;
        Ok((Outcome::Published { generation, files: packed.files() }, Some(switch)))
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
        let sealed = recipients::seal(&self.keys.publisher, &manifest, recipients)?;
        tree::write_file(
            &self.layout.site_targets(&site.id).join(format!("{}.manifest", Digest::of(&sealed))),
            &sealed,
        )?;

        let targets = trust::targets(whose, generation, self.now, &sealed, content, &self.keys.firmware);
        let targets = sign::sign(&targets, &[&self.keys.release]);
        tree::write_file(&metadata.join(format!("{generation}.targets.json")), &targets)?;
        let firmware = metadata.join(format!("{}.firmware.json", self.catalogue.version));
        write_if_new(&firmware, &self.catalogue.bytes)?;

        let (snapshot_version, timestamp_version) = match previous {
            Some(previous) => (after(previous.snapshot.version), after(previous.timestamp.version)),
            None if generation == Generation(1) => (1, 1),
            // The tree was lost. Its versions counted up from 1, so the time in seconds is above them.
            None => u64::try_from(self.now.0).map_or((1, 1), |now| (now, now)),
        };
        let snapshot = trust::snapshot(
            whose,
            snapshot_version,
            self.now,
            (generation.0, &targets),
            (self.catalogue.version, &self.catalogue.bytes),
        );
        let snapshot = sign::sign(&snapshot, &[&self.keys.online]);
        tree::write_file(&metadata.join(format!("{snapshot_version}.snapshot.json")), &snapshot)?;
        let timestamp = trust::timestamp(whose, timestamp_version, self.now, (snapshot_version, &snapshot));
        let path = metadata.join("timestamp.json");
        let aside = tree::prepare(&path, &sign::sign(&timestamp, &[&self.keys.online]))?;
        Ok((site.id.clone(), aside, path))
    }

    /// What the database says was published, for when the tree is gone: sites refuse what they have seen.
    fn last_generation(&self, site: &SiteId) -> anyhow::Result<Generation> {
        let database = self.layout.database();
        if database.is_file() { db::Db::open_existing(&database)?.published(site) } else { Ok(Generation(0)) }
    }

    fn site_roots(&self, site: &SiteId) -> anyhow::Result<()> {
        let metadata = self.layout.site_metadata(site);
        for (version, bytes) in self.roots {
            write_if_new(&metadata.join(format!("{version}.root.json")), bytes)?;
        }
        Ok(())
    }
}

/// The next version. A stolen online key can use all of them up; once it is replaced, sites count from anew (§5.3.11).
fn after(version: u64) -> u64 {
    version.checked_add(1).unwrap_or(1)
}

/// What `publish` prints.
impl std::fmt::Display for Summary {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let width = self.sites.iter().map(|site| site.name.len()).max().unwrap_or(0);
        let mut unchanged = 0usize;
        for site in &self.sites {
            let what = match site.outcome {
                Outcome::Published { generation, files } => {
                    format!(
                        "published   generation {generation}, {}",
                        count(usize::try_from(files).unwrap_or(0), "file")
                    )
                }
                Outcome::Refreshed(generation) => format!("refreshed   generation {generation}, metadata only"),
                Outcome::WaitingForEnrolment => {
                    format!("waiting     for enrolment; lineside-hq site enroll {}", site.name)
                }
                Outcome::Unchanged(generation) if self.sites.len() <= 20 => {
                    format!("unchanged   generation {generation}")
                }
                Outcome::Unchanged(_) => {
                    unchanged += 1;
                    continue;
                }
            };
            writeln!(f, "{:width$}  {what}", site.name)?;
        }
        if unchanged > 0 {
            writeln!(f, "{} unchanged", count(unchanged, "site"))?;
        }
        let objects = usize::try_from(self.new_objects).unwrap_or(usize::MAX);
        write!(f, "{}, {} bytes", count(objects, "new object"), self.new_bytes)
    }
}

#[cfg(test)]
mod tests;
