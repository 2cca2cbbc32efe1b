//! The third stage of `publish` renders and seals a site's files and signs its release. It writes everything under
//! names that no site asks for yet.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::Context as _;
use tracing::debug;

use crate::inventory::{InventorySite, PhoneLine};
use crate::parallel::in_parallel;
use crate::progress::Progress;
use crate::render::{Findings, FleetDir};
use bundle::RecipientPublic;
use ids::{Digest, Generation, SiteId, UnixTime};
use online::push::FileRef;
use online::{freshen, push_release};
use repository::layout::Layout;
use repository::ledger;
use repository::published::{self, PublishedRelease};
use repository::roles::{self, SiteIds};
use repository::tree::{Switch, Tree};
use seal::manifest;
use tuf::sign;

use crate::push::Made;

use super::decide::{self, Compared, MOST_AHEAD, Need, Needs, Numbers};
use super::firmware::{self, Catalogue};
use super::pack::{Packed, Sealer};
use super::read::Enrolled;
use super::summary::Outcome;
use super::trust::{PublishKeys, Signers};

/// Makes releases. It holds what is the same for all sites of one run.
pub(super) struct Maker<'a> {
    layout: &'a Layout,
    fleet: &'a FleetDir,
    enrolled: &'a Enrolled,
    keys: &'a PublishKeys,
    /// Every signed root of the fleet directory, by version.
    roots: &'a BTreeMap<u64, Vec<u8>>,
    tree: &'a Tree,
    /// The commit that releases are made from.
    commit: Option<String>,
    now: UnixTime,
    sealer: Sealer<'a>,
    catalogue: Catalogue,
    /// Whether each site gets a new release, also if nothing changed.
    again: bool,
    /// What is known about the numbers of each site's releases, without the tree.
    numbers: BTreeMap<SiteId, Numbers>,
}

/// The result of this stage for one site.
pub(super) struct SiteDone {
    /// What was done, for the summary.
    pub(super) outcome: Outcome,
    /// The release that was made or confirmed; `None` if the site's files were not made.
    pub(super) made: Option<MadeRelease>,
}

/// A release that is written and only waits for the switch.
pub(super) struct MadeRelease {
    /// The files to switch, in this order: new roots first, then the timestamp, which may be signed under them.
    pub(super) switches: Vec<Switch>,
    /// When the first of its metadata files must be signed anew.
    pub(super) due: UnixTime,
    /// What is pushed to HQ's host, which then signs by itself; `None` if the switches are all.
    pub(super) pushed: Option<Made>,
    /// The digests of the sealed objects that it names.
    pub(super) objects: BTreeSet<Digest>,
    /// The keyed hash over all that it was made of; `None` if a part could not be read.
    pub(super) fingerprint: Option<Digest>,
    /// How many phones it has.
    pub(super) phones: usize,
}

/// A release that was written: with its timestamp, or for HQ's host to sign that.
enum Written {
    Here(Switch),
    ToPush(Made),
}

/// The content of a site's next release, to be compared with the published one.
struct Content<'p> {
    packed: &'p Packed,
    /// The site's own keys and the recovery key.
    recipients: Vec<RecipientPublic>,
    /// The hash over all of it. If the published release has the same hash, its content is the same.
    hash: Digest,
}

/// A release that was compared with the published one, with the switches that it needs.
struct Prepared {
    outcome: Outcome,
    switches: Vec<Switch>,
    pushed: Option<Made>,
    due: UnixTime,
}

impl<'a> Maker<'a> {
    /// The firmware catalogue of all releases: version and bytes.
    pub(super) fn catalogue(&self) -> (u64, &[u8]) {
        (self.catalogue.version, &self.catalogue.bytes)
    }

    /// The commit that releases are made from.
    pub(super) fn commit(&self) -> Option<String> {
        self.commit.clone()
    }

    /// Gets the firmware catalogue, which every release names, and signs a new one if need be.
    pub(super) fn new(
        layout: &'a Layout,
        fleet: &'a FleetDir,
        enrolled: &'a Enrolled,
        signers: &'a Signers,
        tree: &'a Tree,
        numbers: BTreeMap<SiteId, Numbers>,
        now: UnixTime,
    ) -> anyhow::Result<Self> {
        let Signers { keys, roots } = signers;
        let catalogue = firmware::catalogue(layout, fleet, &keys.firmware, now)?;
        let sealer = Sealer::new(&keys.publisher, tree);
        let commit = crate::commit::head(layout.dir());
        let again = false;
        Ok(Self { layout, fleet, enrolled, keys, roots, tree, commit, now, sealer, catalogue, again, numbers })
    }

    /// The same, but each site gets a new release if `again` says so.
    pub(super) fn again(self, again: bool) -> Self {
        Self { again, ..self }
    }

    /// Makes what these sites need, on all processors. The results are in the order of the sites, each its own, as what
    /// fails for one site stops that site alone.
    pub(super) fn sites(
        &self,
        sites: &[&InventorySite],
        needs: &Needs,
        progress: &mut dyn Progress,
    ) -> anyhow::Result<Vec<anyhow::Result<SiteDone>>> {
        let by_site = self.fleet.inventory.phones_by_site();
        let one = |site: &&InventorySite| {
            let phones = by_site.get(site.name.as_str()).map(Vec::as_slice).unwrap_or_default();
            Ok(self.site(site, phones, needs))
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
        let Prepared { outcome, switches, pushed, due } =
            self.compare(site, &packed).with_context(|| format!("cannot publish site {}", site.name))?;
        let made = MadeRelease { switches, due, pushed, objects: packed.objects(), fingerprint, phones: phones.len() };
        Ok(SiteDone { outcome, made: Some(made) })
    }

    /// Compares the content with the published release, then keeps that release or writes a new one.
    fn compare(&self, site: &InventorySite, packed: &Packed) -> anyhow::Result<Prepared> {
        let content = self.content(site, packed)?;
        let previous = published::read(self.layout, &site.id)?;
        let holds = || self.holds_under_newest_root(previous.as_ref());
        let compared = previous.as_ref().map(|previous| Compared {
            again: self.again,
            ahead: self.numbers(&site.id, Some(previous)).ahead(),
            same_content: previous.content() == Some(content.hash),
            holds_under_newest_root: &holds,
            same_firmware_keys: previous.firmware_keys() == self.keys.firmware,
            targets_expire: previous.targets.expires,
            firmware_expires: previous.firmware_expires(),
            lists_firmware: packed
                .firmware()
                .all(|(digest, bytes, approval)| previous.lists_firmware(&digest, bytes, approval)),
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

    /// Keeps the published release. Adds roots that the site's folder lacks, and fresh online signatures if they are
    /// due.
    fn keep(&self, site: &InventorySite, previous: &PublishedRelease) -> anyhow::Result<Prepared> {
        let generation = previous.generation();
        let (mut switches, due) = (self.site_roots(site)?, ledger::due(previous));
        if let Some(online) = &self.keys.online {
            switches.extend(freshen::freshen(self.layout, previous, online, self.now)?);
        }
        let outcome = if switches.is_empty() { Outcome::Unchanged(generation) } else { Outcome::Refreshed(generation) };
        Ok(Prepared { outcome, switches, pushed: None, due })
    }

    /// Writes the next release.
    fn renew(
        &self,
        site: &InventorySite,
        content: &Content<'_>,
        previous: Option<&PublishedRelease>,
    ) -> anyhow::Result<Prepared> {
        let numbers = self.numbers(&site.id, previous);
        let Numbers { own, told, .. } = numbers;
        let generation = numbers.next().with_context(|| {
            format!(
                "generation {told} is reported for it, over {MOST_AHEAD} above {own}, the newest that was published"
            )
        })?;
        let mut switches = self.site_roots(site)?;
        let pushed = match self.release(site, content, generation, previous)? {
            Written::Here(switch) => {
                switches.push(switch);
                None
            }
            Written::ToPush(made) => Some(made),
        };
        let outcome = Outcome::Published { generation, files: content.packed.files() };
        let due = self.now.plus(roles::TIMESTAMP_LIFE / 2).min(ledger::near(self.catalogue.expires));
        Ok(Prepared { outcome, switches, pushed, due })
    }

    /// Writes all files of a release. Where the online key is here, it signs and prepares the timestamp for the switch.
    fn release(
        &self,
        site: &InventorySite,
        content: &Content<'_>,
        generation: Generation,
        previous: Option<&PublishedRelease>,
    ) -> anyhow::Result<Written> {
        let Content { packed, recipients, hash } = content;
        let fleet = &self.fleet.inventory.fleet.id;
        let whose = SiteIds { fleet, site: &site.id };
        let metadata = self.layout.site_metadata(&site.id);

        let manifest = packed.manifest(fleet, site, generation, self.now, self.catalogue.version);
        let sealed = manifest::seal(&self.keys.publisher, &manifest, recipients)?;
        let manifest = self.layout.site_targets(&site.id).join(format!("{}.manifest", Digest::of(&sealed)));
        self.tree.write(&manifest, &sealed)?;
        let mut targets = roles::targets(whose, generation, self.now, &sealed, hash, &self.keys.firmware);
        if let Some(commit) = &self.commit {
            roles::made_from(&mut targets, commit);
        }
        let targets = sign::sign(&targets, &[&self.keys.release]);
        self.tree.write(&metadata.join(format!("{generation}.targets.json")), &targets)?;
        let firmware = metadata.join(format!("{}.firmware.json", self.catalogue.version));
        self.tree.write_if_new(&firmware, &self.catalogue.bytes)?;

        let Some(online) = &self.keys.online else {
            let (targets, manifest) = (FileRef::of(&targets), FileRef::of(&sealed));
            let (replaces, objects) = (previous.and_then(push_release::targets_of), packed.objects());
            return Ok(Written::ToPush(Made { generation, replaces, targets, manifest, objects }));
        };
        let catalogue = (self.catalogue.version, self.catalogue.bytes.as_slice());
        let of_targets = (generation, targets.as_slice());
        // A tree from a backup may have had more versions, as one that was lost.
        let previous = previous.filter(|_| !self.numbers(&site.id, None).restored);
        let new = push_release::pointer(whose, previous, of_targets, catalogue, online, self.now);
        let (version, snapshot) = new.snapshot;
        self.tree.write(&metadata.join(format!("{version}.snapshot.json")), &snapshot)?;
        let path = metadata.join("timestamp.json");
        let aside = self.tree.prepare(&path, &new.timestamp)?;
        Ok(Written::Here((aside, path)))
    }

    /// What is known about the numbers of a site's releases.
    fn numbers(&self, site: &SiteId, previous: Option<&PublishedRelease>) -> Numbers {
        let known = self.numbers.get(site).copied().unwrap_or_default();
        Numbers { own: known.own.max(previous.map(PublishedRelease::generation).unwrap_or_default()), ..known }
    }

    /// Prepares the roots that the site's folder lacks. They are switched together with the timestamp, so that a site
    /// finds a new root and what is signed under it at the same moment.
    fn site_roots(&self, site: &InventorySite) -> anyhow::Result<Vec<Switch>> {
        let metadata = self.layout.site_metadata(&site.id);
        let mut switches = Vec::new();
        for (version, bytes) in self.roots {
            let path = metadata.join(format!("{version}.root.json"));
            if !durable::holds(&path, bytes) {
                switches.push((self.tree.prepare(&path, bytes)?, path));
            }
        }
        Ok(switches)
    }
}
