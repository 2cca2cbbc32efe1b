//! `online/` of a desk is a copy of what HQ's host publishes. It is brought up to date before the desk decides anything, and
//! read by the code that sites run, so the host can hold back and not forge.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context as _, anyhow};

use crate::host::Remote;
use access::OpenedManifest;
use bundle::limits::MAX_FILE_BYTES;
use bundle::{ObjectRef, RecipientSecret};
use ids::{Digest, FleetId, SiteId, UnixTime};
use online::push::MAX_OBJECT_BYTES;
use repository::layout::Layout;
use repository::lock::TreeLock;
use repository::published::{MAX_METADATA_BYTES, PublishedRelease, numbered};
use repository::tree::{Switch, Tree};
use repository::witness::ClockRecord;
use telemetry::Hint as _;
use tuf::schema::{Envelope, MetaFile, Snapshot, Timestamp};

/// The most roots that are looked for in a site's folder.
const MAX_ROOTS: u64 = 256;

impl Remote {
    /// Brings metadata of all sites that changed at the host, and notes what time it is there.
    pub(crate) fn pull(&self, layout: &Layout) -> anyhow::Result<()> {
        let (told, sites) = self.state()?;
        let here = numbered(&layout.signed(), "root")?;
        if !here.values().any(|root| Digest::of(root) == told.root) {
            return Err(anyhow!("HQ's host has a root that is not in root/ here, so this checkout is outdated")
                .hint("`git pull` first; if nobody made a new root, somebody changed the host's: do not publish"));
        }
        let _held = TreeLock::wait(&layout.online())?;
        if let Some(time) = told.time {
            ClockRecord::change(layout, |record| record.host = Some(time))?;
        }
        let changed = sites.iter().filter_map(|site| {
            let theirs = site.timestamp?;
            let path = layout.site_metadata(&site.id).join("timestamp.json");
            let ours = durable::read_regular(&path, MAX_METADATA_BYTES).ok().map(|bytes| Digest::of(&bytes));
            (ours != Some(theirs)).then_some(&site.id)
        });
        self.pull_sites(layout, changed)
    }

    /// Brings the metadata of these sites. The caller holds the lock.
    pub(crate) fn pull_sites<'s>(
        &self,
        layout: &Layout,
        sites: impl Iterator<Item = &'s SiteId>,
    ) -> anyhow::Result<()> {
        let tree = Tree::new(layout);
        let mut switches = Vec::new();
        for site in sites {
            // What one site's folder lacks stops that site alone: the release that is read back there does not hold.
            match self.pull_site(layout, &tree, site) {
                Ok(switch) => switches.extend(switch),
                Err(error) => {
                    tracing::warn!(%site, error = format!("{error:#}"), "its metadata cannot be brought here")
                }
            }
        }
        tree.sync()?;
        tree.switch(&switches)
    }

    fn pull_site(&self, layout: &Layout, tree: &Tree, site: &SiteId) -> anyhow::Result<Option<Switch>> {
        let folder = layout.site_metadata(site);
        let fetch = |name: &str| self.client.file(&format!("sites/{site}/metadata/{name}"), MAX_METADATA_BYTES);
        let Some(timestamp) = fetch("timestamp.json")? else { return Ok(None) };
        let bring = |name: &str, named: &MetaFile| -> anyhow::Result<Vec<u8>> {
            let path = folder.join(name);
            if let Ok(bytes) = durable::read_regular(&path, MAX_METADATA_BYTES)
                && named.match_bytes(&bytes)
            {
                return Ok(bytes);
            }
            let bytes = fetch(name)?.with_context(|| format!("the host lacks {name}"))?;
            tree.write(&path, &bytes)?;
            Ok(bytes)
        };
        let role = |meta: &BTreeMap<String, MetaFile>, role: &str| {
            meta.get(&format!("{role}.json")).cloned().with_context(|| format!("it names no {role}"))
        };
        // None of it is verified yet; it is when the release is read.
        let pointed: Envelope<Timestamp> = serde_json::from_slice(&timestamp).context("its timestamp is damaged")?;
        let named = role(&pointed.signed.meta, "snapshot")?;
        let snapshot = bring(&format!("{}.snapshot.json", named.version), &named)?;
        let snapshot: Envelope<Snapshot> = serde_json::from_slice(&snapshot).context("its snapshot is damaged")?;
        for name in ["targets", tuf::schema::FIRMWARE] {
            let named = role(&snapshot.signed.meta, name)?;
            bring(&format!("{}.{name}.json", named.version), &named)?;
        }
        for version in 1..=MAX_ROOTS {
            let name = format!("{version}.root.json");
            if folder.join(&name).exists() {
                continue;
            }
            let Some(root) = fetch(&name)? else { break };
            tree.write(&folder.join(&name), &root)?;
        }
        let path = folder.join("timestamp.json");
        Ok(Some((tree.prepare(&path, &timestamp)?, path)))
    }

    /// Brings what reading a release with the recovery key takes: its manifest, the inventory and the shards.
    pub(crate) fn pull_release(
        &self,
        layout: &Layout,
        fleet: &FleetId,
        release: &PublishedRelease,
        key: &RecipientSecret,
    ) -> anyhow::Result<()> {
        let Some(target) = release.trusted.target(access::MANIFEST_TARGET) else { return Ok(()) };
        let Some(digest) = target.hashes.sha256 else { return Ok(()) };
        let site = &release.site;
        let path = layout.site_targets(site).join(format!("{digest}.manifest"));
        let tree = Tree::new(layout);
        let manifest = format!("sites/{site}/targets/{digest}.manifest");
        let sealed = self.bring(&tree, &path, &manifest, &digest, MAX_FILE_BYTES)?;
        let opened = OpenedManifest::open(&release.trusted, &sealed, key, fleet, site)?;
        for ObjectRef { digest, .. } in opened.parts() {
            let name = digest.to_string();
            let object = format!("objects/{}/{name}", name.get(..2).unwrap_or_default());
            self.bring(&tree, &layout.object(digest), &object, digest, MAX_OBJECT_BYTES)?;
        }
        tree.sync()
    }

    fn bring(&self, tree: &Tree, path: &Path, name: &str, digest: &Digest, limit: u64) -> anyhow::Result<Vec<u8>> {
        if let Ok(bytes) = durable::read_regular(path, limit)
            && Digest::of(&bytes) == *digest
        {
            return Ok(bytes);
        }
        let bytes = self.client.file(name, limit)?.with_context(|| format!("HQ's host lacks {name}"))?;
        anyhow::ensure!(Digest::of(&bytes) == *digest, "HQ's host gives another {name} than was signed");
        tree.write(path, &bytes)?;
        Ok(bytes)
    }
}

/// When the host signed for a site last, for a desk that did not.
pub(crate) fn due_of(layout: &Layout, site: &SiteId, otherwise: UnixTime) -> UnixTime {
    repository::published::read(layout, site)
        .ok()
        .flatten()
        .map_or(otherwise, |release| repository::ledger::due(&release))
}
