//! The last stage of `publish` makes the new releases visible to sites.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::Context as _;

use crate::commit;
use crate::host::{Host, Remote};
use crate::inventory::InventorySite;
use crate::progress::Progress;
use crate::pull;
use crate::push::{ForSite, Pusher};
use ids::{Digest, Generation, SiteId, UnixTime};
use online::db::api_tokens::Pushed;
use online::db::{self, Db};
use repository::layout::Layout;
use repository::ledger::{KeptRelease, Ledger};
use repository::tree::{Switch, Tree};

use super::make::{MadeRelease, Maker, SiteDone};
use super::summary::{Outcome, SiteSummary, Summary};
use super::trust::{self, Signers};

/// What the switch of one run is made with.
pub(super) struct Switcher<'a> {
    pub(super) layout: &'a Layout,
    pub(super) host: &'a Host,
    pub(super) signers: &'a Signers,
    pub(super) maker: &'a Maker<'a>,
    pub(super) tree: &'a Tree,
    pub(super) now: UnixTime,
}

/// The files to switch, and the sites to which they belong.
#[derive(Default)]
struct Switchover {
    /// The files in their order: each site's new roots come before its timestamp.
    switches: Vec<Switch>,
    /// The sites that were made or compared, with the release that they get.
    sites: Vec<(SiteId, String, Generation)>,
    /// Those of them whose release is a new one.
    new: BTreeSet<SiteId>,
}

impl Switcher<'_> {
    /// Makes everything durable, then switches the files site by site, here or at HQ's host, and notes the releases in
    /// `ledger` and the database. The caller writes the ledger.
    pub(super) fn switch(
        &self,
        ledger: &mut Ledger,
        done: Vec<(&InventorySite, SiteDone)>,
        progress: &mut dyn Progress,
    ) -> anyhow::Result<Summary> {
        // After a power cut before the switch sites have their old releases, after one behind it the new ones; during the
        // switch some sites have the old and some the new.
        self.tree.sync()?;
        let refused = match self.host {
            Host::Local(_) => BTreeMap::new(),
            Host::Remote(remote) => self.push(remote, &done, progress)?,
        };
        let (mut summary, mut over) = (Summary::default(), Switchover::default());
        for (site, SiteDone { outcome, made }) in done {
            let why = refused.get(&site.id);
            if let Some(made) = made.filter(|_| why.is_none()) {
                over.add(site, outcome, made, ledger, self.now);
            }
            match why {
                Some(why) => summary.refused.push((site.name.clone(), why.clone())),
                None => summary.sites.push(SiteSummary { site: site.id.clone(), name: site.name.clone(), outcome }),
            }
        }
        if !over.switches.is_empty() || !over.new.is_empty() {
            trust::publish_root(self.layout)?;
        }
        self.tree.switch(&over.switches)?;
        if let Host::Remote(remote) = self.host {
            // The host has signed; what it signed is part of the copy from now on.
            remote.pull_sites(self.layout, over.new.iter())?;
            for entry in ledger.sites.values_mut().filter(|entry| over.new.contains(&entry.site)) {
                entry.due = pull::due_of(self.layout, &entry.site, entry.due);
            }
        }
        for (site, _, _) in &over.sites {
            ledger.stamp(self.layout, site);
        }
        (summary.new_objects, summary.new_bytes) = self.tree.new_objects();
        if matches!(self.host, Host::Local(_)) && !over.sites.is_empty() {
            db::note_published(self.layout, &over.sites).context("published, but the fleet view could not be told")?;
            self.note_commit(&over).context("published, but the commit could not be noted")?;
        }
        Ok(summary)
    }

    /// Notes for the next desk from which commit the new releases were made.
    fn note_commit(&self, over: &Switchover) -> anyhow::Result<()> {
        let by = commit::by_this_machine(self.maker.commit(), self.now);
        if by.commit.is_empty() {
            return Ok(());
        }
        let new = over.sites.iter().filter(|(site, _, _)| over.new.contains(site));
        let pushed = new.map(|(site, _, generation)| Pushed {
            site: site.clone(),
            generation: *generation,
            commit: by.commit.clone(),
            operator: by.operator.clone(),
            at: by.at,
        });
        Db::open(&self.layout.database())?.note_pushed(&pushed.collect::<Vec<_>>())
    }

    fn push(
        &self,
        remote: &Remote,
        done: &[(&InventorySite, SiteDone)],
        progress: &mut dyn Progress,
    ) -> anyhow::Result<BTreeMap<SiteId, String>> {
        let for_site = |(site, done): &(&InventorySite, SiteDone)| {
            let made = done.made.as_ref().filter(|made| made.pushed.is_some() || !made.switches.is_empty())?;
            Some(ForSite { site: site.id.clone(), name: site.name.clone(), made: made.pushed.clone() })
        };
        let pusher = Pusher {
            remote,
            layout: self.layout,
            fleet: &remote.session.fleet,
            release: &self.signers.keys.release,
            roots: &self.signers.roots,
            firmware: self.maker.catalogue(),
            commit: self.maker.commit(),
            now: self.now,
        };
        pusher.push(done.iter().filter_map(for_site).collect(), progress)
    }
}

impl Switchover {
    fn add(&mut self, site: &InventorySite, outcome: Outcome, made: MadeRelease, ledger: &mut Ledger, now: UnixTime) {
        let MadeRelease { switches, due, objects, fingerprint, phones, .. } = made;
        let generation = outcome.generation();
        let objects: BTreeSet<Digest> = objects;
        ledger.note(&site.id, fingerprint, KeptRelease { generation, until: None, objects }, due, now);
        ledger.count_phones(&site.id, phones);
        if matches!(outcome, Outcome::Published { .. }) {
            self.new.insert(site.id.clone());
        }
        self.switches.extend(switches);
        self.sites.push((site.id.clone(), site.name.clone(), generation));
    }
}
