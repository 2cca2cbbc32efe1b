//! How what a desk pushed becomes sites' releases: the host signs `snapshot` and `timestamp`, which point to the new `targets`.
//!
//! Each site's files are judged by the code that sites run, before anything is written that a site can ask for. What is
//! wrong with one site stops that site alone.

use std::collections::{BTreeMap, BTreeSet};
use std::time::SystemTime;

use anyhow::{Context as _, anyhow, bail, ensure};
use serde::{Deserialize, Serialize};

use crate::db::Db;
use crate::db::api_tokens::Pushed;
use crate::push::{PushedRelease, SignedPush};
use crate::push_incoming::Incoming;
use access::MANIFEST_TARGET;
use ids::{Digest, FleetId, Generation, SiteId, UnixTime};
use repository::collect;
use repository::layout::Layout;
use repository::ledger::{KeptRelease, Ledger, due};
use repository::lock::TreeLock;
use repository::published::{self, MAX_METADATA_BYTES, PublishedRelease};
use repository::roles::{self, FirmwareKeys, SiteIds};
use repository::tree::{self, Switch, Tree};
use tuf::schema::{EXTRA_FIELD, FIRMWARE};
use tuf::{MetadataLimits, Refresh, RefreshStep, Search, SearchStep, SigningKey, Trusted, sign};

/// What came of a site.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SitePushed {
    /// Its release is what sites find from now on, or was already.
    Released,
    /// It stays as it was, for this reason.
    Refused(String),
}

/// The signed files that make a release visible.
#[derive(Debug)]
pub struct Pointer {
    /// Version and bytes of `snapshot`.
    pub snapshot: (u64, Vec<u8>),
    /// The bytes of `timestamp`.
    pub timestamp: Vec<u8>,
}

/// Signs `snapshot` and `timestamp` over `targets` of this generation and a firmware catalogue (version, bytes).
pub fn pointer(
    whose: SiteIds<'_>,
    previous: Option<&PublishedRelease>,
    (generation, targets): (Generation, &[u8]),
    firmware: (u64, &[u8]),
    key: &SigningKey,
    now: UnixTime,
) -> Pointer {
    let (snapshot_version, timestamp_version) = match previous {
        Some(previous) => (after(previous.snapshot.version), after(previous.timestamp.version)),
        None if generation == Generation(1) => (1, 1),
        // The published tree was lost. Its versions counted up from 1, so the time in seconds is higher than all of them.
        None => u64::try_from(now.0).map_or((1, 1), |now| (now, now)),
    };
    let snapshot = roles::snapshot(whose, snapshot_version, now, (generation.0, targets), firmware);
    let snapshot = sign::sign(&snapshot, &[key]);
    let timestamp = roles::timestamp(whose, timestamp_version, now, (snapshot_version, &snapshot));
    Pointer { snapshot: (snapshot_version, snapshot), timestamp: sign::sign(&timestamp, &[key]) }
}

/// The next version of `snapshot` or `timestamp`. A thief of the online key can use up all versions; when the key is
/// replaced, sites forget the old versions (TUF specification §5.3.11).
fn after(version: u64) -> u64 {
    version.checked_add(1).unwrap_or(1)
}

/// Why a release is not above what the site has, if it is not. `true` says that it is the very one that is published.
pub fn is_published(
    release: &PushedRelease,
    previous: Option<&PublishedRelease>,
    noted: Generation,
) -> Result<bool, String> {
    let there = previous.map(PublishedRelease::generation);
    let published = previous.and_then(targets_of);
    if published == Some(release.targets.sha256) {
        return Ok(true);
    }
    let newest = there.unwrap_or_default().max(noted);
    if release.generation > newest {
        if published == release.replaces {
            return Ok(false);
        }
        return Err("it has another release than the desk knew; somebody published meanwhile: publish again".to_owned());
    }
    let wanted = release.generation;
    Err(format!("generation {wanted} is not above {newest}, which it has; somebody published meanwhile: publish again"))
}

/// SHA-256 of the `targets` of a release.
pub fn targets_of(release: &PublishedRelease) -> Option<Digest> {
    release.trusted.files().get("targets.json").map(|bytes| Digest::of(bytes))
}

/// Which sites of a list cannot be released, known before anything is uploaded.
pub fn refused_at_once(layout: &Layout, db: &Db, push: &SignedPush) -> BTreeMap<SiteId, String> {
    let refuse = |(site, pushed): (&SiteId, &crate::push::PushedSite)| {
        let release = pushed.release.as_ref()?;
        let judged = published::read(layout, site)
            .and_then(|previous| Ok((previous, db.published(site)?)))
            .map_err(|error| format!("{error:#}"))
            .and_then(|(previous, noted)| is_published(release, previous.as_ref(), noted));
        judged.err().map(|why| (site.clone(), why))
    };
    push.list.sites.iter().filter_map(refuse).collect()
}

/// Releases what a list names, once all of it has arrived. `operator` is the name of the API token.
///
/// # Errors
///
/// If a file is missing, or the tree cannot be written. Then no site got anything, and the same call may be made again.
pub fn release(
    layout: &Layout,
    db: &Db,
    key: &SigningKey,
    push: &SignedPush,
    operator: &str,
    now: UnixTime,
) -> anyhow::Result<BTreeMap<SiteId, SitePushed>> {
    let incoming = Incoming::new(layout);
    let lacking = incoming.lacks(push).len();
    ensure!(lacking == 0, "{lacking} files have not arrived yet");
    let _held = TreeLock::wait(&layout.online())?;
    push.list.objects.iter().try_for_each(|object| incoming.publish(object))?;
    let tree = Tree::new(layout);
    let releasing = Releasing { layout, db, key, push, incoming: &incoming, tree: &tree, now };
    let mut outcomes = BTreeMap::new();
    let mut switches: Vec<Switch> = Vec::new();
    let mut released = Vec::new();
    for (site, pushed) in &push.list.sites {
        let outcome = match releasing.site(site, pushed.release.as_ref()) {
            Ok(new) => {
                switches.extend(new);
                released.extend(pushed.release.as_ref().map(|release| (site, pushed.name.as_str(), release)));
                SitePushed::Released
            }
            Err(error) => SitePushed::Refused(format!("{error:#}")),
        };
        outcomes.insert(site.clone(), outcome);
    }
    // As at a desk: what is named is durable before the name is.
    tree.sync()?;
    if let Some((_, newest)) = push.roots.last_key_value() {
        let path = layout.public().join("root.json");
        if !durable::holds(&path, newest) {
            tree::write_file(&path, newest)?;
        }
    }
    tree.switch(&switches)?;
    note(layout, db, push, &released, operator, now)?;
    incoming.forget(&push.id)?;
    for file in push.files() {
        incoming.remove(&file)?;
    }
    Ok(outcomes)
}

/// Notes in the database and in the ledger what was released.
fn note(
    layout: &Layout,
    db: &Db,
    push: &SignedPush,
    released: &[(&SiteId, &str, &PushedRelease)],
    operator: &str,
    now: UnixTime,
) -> anyhow::Result<()> {
    let published: Vec<(SiteId, String, Generation)> = released
        .iter()
        .map(|(site, name, release)| ((*site).clone(), (*name).to_owned(), release.generation))
        .collect();
    db.published_now(&published)?;
    let commit = push.list.commit.clone().unwrap_or_default();
    let pushed = released.iter().map(|(site, _, release)| Pushed {
        site: (*site).clone(),
        generation: release.generation,
        commit: commit.clone(),
        operator: operator.to_owned(),
        at: now,
    });
    db.note_pushed(&pushed.collect::<Vec<_>>())?;
    let mut ledger = Ledger::read(layout);
    for (site, _, release) in released {
        let places = release.objects.iter().filter_map(|place| usize::try_from(*place).ok());
        let objects = places.filter_map(|place| push.list.objects.get(place)).map(|object| object.sha256).collect();
        let Some(previous) = published::read(layout, site)? else { continue };
        let kept = KeptRelease { generation: release.generation, until: None, objects };
        ledger.note(site, None, kept, due(&previous), now);
    }
    collect::collect_known(layout, &mut ledger, (now, system_time()))
        .context("released, but old releases could not be deleted")?;
    ledger.write(layout)
}

#[expect(clippy::disallowed_methods, reason = "a service has a clock")]
fn system_time() -> SystemTime {
    SystemTime::now()
}

/// One release of a list under way.
struct Releasing<'a> {
    layout: &'a Layout,
    db: &'a Db,
    key: &'a SigningKey,
    push: &'a SignedPush,
    incoming: &'a Incoming,
    tree: &'a Tree,
    now: UnixTime,
}

impl Releasing<'_> {
    /// Judges one site's release and writes its files under names that nobody asks for yet.
    fn site(&self, site: &SiteId, release: Option<&PushedRelease>) -> anyhow::Result<Vec<Switch>> {
        let previous = published::read(self.layout, site)?;
        let mut switches = self.roots(site)?;
        let Some(release) = release else { return Ok(switches) };
        if is_published(release, previous.as_ref(), self.db.published(site)?).map_err(|why| anyhow!(why))? {
            return Ok(switches);
        }
        let (version, firmware) = self.push.list.firmware;
        let (targets, firmware) = (self.incoming.read(&release.targets)?, self.incoming.read(&firmware)?);
        let manifest = self.incoming.read(&release.manifest)?;
        let whose = SiteIds { fleet: &self.push.list.fleet, site };
        let online = self.push.newest.roles.get("timestamp");
        ensure!(
            online.is_some_and(|keys| keys.keyids.contains(&self.key.public().id())),
            "this host's online key is not the one that the newest root names"
        );
        let of_targets = (release.generation, targets.as_slice());
        let new = pointer(whose, previous.as_ref(), of_targets, (version, &firmware), self.key, self.now);
        let (snapshot_version, snapshot) = &new.snapshot;
        let mut files = self.root_files();
        files.insert(format!("{}.targets.json", release.generation), targets.clone());
        files.insert(format!("{version}.{FIRMWARE}.json"), firmware.clone());
        files.insert(format!("{snapshot_version}.snapshot.json"), snapshot.clone());
        files.insert("timestamp.json".to_owned(), new.timestamp.clone());
        self.judge(site, release, previous.as_ref(), &files)?;

        let metadata = self.layout.site_metadata(site);
        let sealed = self.layout.site_targets(site).join(format!("{}.manifest", release.manifest.sha256));
        self.tree.write_if_new(&sealed, &manifest)?;
        for (name, bytes) in &files {
            if name != "timestamp.json" && !name.ends_with(".root.json") {
                self.tree.write_if_new(&metadata.join(name), bytes)?;
            }
        }
        let path = metadata.join("timestamp.json");
        switches.push((self.tree.prepare(&path, &new.timestamp)?, path));
        Ok(switches)
    }

    /// Has the code that sites run take the release, beginning at what the site has now.
    fn judge(
        &self,
        site: &SiteId,
        release: &PushedRelease,
        previous: Option<&PublishedRelease>,
        files: &BTreeMap<String, Vec<u8>>,
    ) -> anyhow::Result<()> {
        let start = match previous {
            Some(previous) => previous.trusted.clone(),
            None => Trusted::pin(self.push.roots.values().next().context("there is no root")?)?,
        };
        let limits = MetadataLimits { targets_bytes: MAX_METADATA_BYTES, ..MetadataLimits::default() };
        let mut refresh = Refresh::start(start, limits, self.now);
        while let RefreshStep::Fetch(ask) = refresh.step() {
            match files.get(&ask.path) {
                Some(bytes) => refresh.received(bytes)?,
                None => refresh.missing()?,
            }
        }
        let none = format!("{FIRMWARE}/");
        let mut search = Search::start(refresh.trusted().clone(), &none, limits, self.now)?;
        while let SearchStep::Fetch(ask) = search.step() {
            match files.get(&ask.path) {
                Some(bytes) => search.received(bytes)?,
                None => search.missing()?,
            }
        }
        let trusted = search.trusted().clone();
        let (Some(timestamp), Some(snapshot), Some(targets)) =
            (trusted.timestamp().cloned(), trusted.snapshot().cloned(), trusted.targets().cloned())
        else {
            bail!("its metadata is incomplete");
        };
        check_whose(targets.extra.get(EXTRA_FIELD), &self.push.list.fleet, site)?;
        let manifest = targets.targets.get(MANIFEST_TARGET).context("its targets name no manifest")?;
        let named = manifest.hashes.sha256 == Some(release.manifest.sha256);
        ensure!(named && manifest.length == release.manifest.bytes, "its targets name another manifest");
        ensure!(targets.targets.len() == 1, "its targets name more than a manifest");
        let made = PublishedRelease { trusted, site: site.clone(), timestamp, snapshot, targets };
        ensure!(made.generation() == release.generation, "its targets have another version");
        let keys = made.firmware_keys() == FirmwareKeys::of(&self.push.newest);
        ensure!(keys, "it delegates firmware to other keys than the root names");
        Ok(())
    }

    fn root_files(&self) -> BTreeMap<String, Vec<u8>> {
        self.push.roots.iter().map(|(version, bytes)| (format!("{version}.root.json"), bytes.clone())).collect()
    }

    /// Prepares the roots that the site's folder lacks.
    fn roots(&self, site: &SiteId) -> anyhow::Result<Vec<Switch>> {
        let metadata = self.layout.site_metadata(site);
        let mut switches = Vec::new();
        for (name, bytes) in self.root_files() {
            let path = metadata.join(name);
            if !durable::holds(&path, &bytes) {
                switches.push((self.tree.prepare(&path, &bytes)?, path));
            }
        }
        Ok(switches)
    }
}

fn check_whose(extra: Option<&serde_json::Value>, fleet: &FleetId, site: &SiteId) -> anyhow::Result<()> {
    let named: BTreeSet<(&str, &str)> =
        ["fleet", "site"].into_iter().filter_map(|field| Some((field, extra?.get(field)?.as_str()?))).collect();
    let ours = BTreeSet::from([("fleet", fleet.as_str()), ("site", site.as_str())]);
    ensure!(named == ours, "its targets are signed for another site or fleet");
    Ok(())
}
