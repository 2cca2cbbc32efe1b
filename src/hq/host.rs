//! Where HQ's host is: in this directory, or on another machine that `login` named. Every command takes this one way to it.

pub(crate) mod client;

use std::collections::BTreeMap;
use std::sync::OnceLock;

use anyhow::{Context as _, anyhow};

use crate::login::Session;
use ids::{Generation, SiteId, UnixTime};
use online::admit::TokenRow;
use online::db::api_tokens::Pushed;
use online::db::sealing_keys::StoredStatement;
use online::db::{self, Db, Enrolment};
use online::desk::{HostEnrolment, HostRevoked, HostSite, HostState, NewToken, PushedBy};
use online::fleet::{self, FleetRow, SiteTold};
use repository::layout::Layout;

use client::Client;

/// The way to HQ's host.
pub(crate) enum Host {
    /// `online/` of this fleet directory is it.
    Local(Layout),
    /// It is another machine, and `online/` is a copy of what that one publishes.
    Remote(Box<Remote>),
}

/// HQ's host on another machine.
pub(crate) struct Remote {
    pub(crate) client: Client,
    pub(crate) session: Session,
    state: OnceLock<(HostState, Vec<HostSite>)>,
}

impl Remote {
    /// The host that a session names. Nothing is asked yet.
    pub(crate) fn new(session: Session) -> anyhow::Result<Self> {
        let token = zeroize::Zeroizing::new(session.token.clone());
        let client = Client::new(&session.url, &session.name, session.ca_sha256, token)?;
        Ok(Self { client, session, state: OnceLock::new() })
    }

    /// What the host knows, asked once in a run: its first page without sites, and all sites.
    pub(crate) fn state(&self) -> anyhow::Result<&(HostState, Vec<HostSite>)> {
        if let Some(known) = self.state.get() {
            return Ok(known);
        }
        let mut first: HostState = self.client.get("/state")?;
        if first.fleet != self.session.fleet {
            return Err(anyhow!(
                "HQ's host serves fleet {} now, and this directory is fleet {}",
                first.fleet,
                self.session.fleet
            ));
        }
        let (mut sites, mut more) = (std::mem::take(&mut first.sites), first.more);
        while let Some(last) = sites.last().filter(|_| more).map(|site| site.id.clone()) {
            let next: HostState = self.client.get(&format!("/state?after={last}"))?;
            if next.sites.first().is_none_or(|site| site.id <= last) {
                return Err(anyhow!("HQ's host tells its sites in no order"));
            }
            more = next.more;
            sites.extend(next.sites);
        }
        Ok(self.state.get_or_init(|| (first, sites)))
    }
}

impl Remote {
    /// What sites have told the host, which may be printed.
    fn told<T: serde::de::DeserializeOwned>(&self, path: &str) -> anyhow::Result<T> {
        let mut told = self.client.get(path)?;
        client::make_printable(&mut told);
        serde_json::from_value(told).context("HQ's host tells of its sites in a way that is not understood here")
    }
}

impl Host {
    /// The host of this fleet directory.
    pub(crate) fn of(layout: &Layout) -> anyhow::Result<Self> {
        match Session::read(layout)? {
            Some(session) => Ok(Self::Remote(Box::new(Remote::new(session)?))),
            None => Ok(Self::Local(layout.clone())),
        }
    }

    /// Brings the copy of what the host publishes up to date; here there is nothing to bring.
    pub(crate) fn pull(&self, layout: &Layout) -> anyhow::Result<()> {
        match self {
            Self::Local(_) => Ok(()),
            Self::Remote(remote) => remote.pull(layout),
        }
    }

    /// Gives the host its half of a new token.
    pub(crate) fn add_token(&self, row: &TokenRow, site_name: &str) -> anyhow::Result<()> {
        match self {
            Self::Local(layout) => Db::open(&layout.database())?.add_token(row, site_name),
            Self::Remote(remote) => remote.client.post("/tokens", &NewToken::of(row, site_name)),
        }
    }

    /// Enrolments that the publisher has not taken over.
    pub(crate) fn new_enrolments(&self) -> anyhow::Result<Vec<Enrolment>> {
        match self {
            Self::Local(layout) => existing(layout)?.map_or_else(|| Ok(Vec::new()), |db| db.new_enrolments()),
            Self::Remote(remote) => {
                let new: Vec<HostEnrolment> = remote.client.get("/enrolments")?;
                Ok(new.into_iter().map(Enrolment::from).collect())
            }
        }
    }

    /// The publisher has taken the enrolment with this token over.
    pub(crate) fn accepted(&self, token: &str) -> anyhow::Result<()> {
        match self {
            Self::Local(layout) => Db::open_existing(&layout.database())?.accepted(token),
            Self::Remote(remote) => remote.client.post(&format!("/enrolments/{token}/accepted"), &()),
        }
    }

    /// Revokes a site's certificates and tokens. Returns how many certificates that were.
    pub(crate) fn revoke(&self, site: &SiteId, now: UnixTime) -> anyhow::Result<usize> {
        match self {
            Self::Local(layout) => Db::open_existing(&layout.database())?.revoke(site, now),
            Self::Remote(remote) => {
                let revoked: HostRevoked = remote.client.post(&format!("/sites/{site}/revoke"), &())?;
                Ok(revoked.certificates)
            }
        }
    }

    /// The same, also for a site that the host's records do not know: they may have been lost.
    pub(crate) fn revoke_anyway(&self, site: &SiteId, now: UnixTime) -> anyhow::Result<usize> {
        match self {
            Self::Local(layout) if layout.database().is_file() => {
                Db::open_existing(&layout.database())?.revoke_anyway(site, now)
            }
            Self::Local(_) => Ok(0),
            Self::Remote(_) => self.revoke(site, now),
        }
    }

    /// Puts an enrolment aside. Returns how many certificates of that appliance are refused from now on.
    pub(crate) fn discard(&self, enrolment: &Enrolment) -> anyhow::Result<usize> {
        match self {
            Self::Local(layout) => {
                Db::open_existing(&layout.database())?.discard_enrolment(enrolment, &layout.online())
            }
            Self::Remote(remote) => {
                let revoked: HostRevoked =
                    remote.client.post(&format!("/enrolments/{}/discard", enrolment.token), &())?;
                Ok(revoked.certificates)
            }
        }
    }

    /// The newest enrolment of each site that a publisher took over: the site, the token, and when.
    pub(crate) fn taken_over(&self) -> anyhow::Result<Vec<(SiteId, String, UnixTime)>> {
        match self {
            Self::Local(layout) => existing(layout)?.map_or_else(|| Ok(Vec::new()), |db| db.taken_over()),
            Self::Remote(remote) => remote.client.get("/enrolments/taken-over"),
        }
    }

    /// The highest generation of each site that the host has heard of: what was published, and what the site serves.
    pub(crate) fn told_generations(&self) -> anyhow::Result<BTreeMap<SiteId, Generation>> {
        match self {
            Self::Local(layout) => existing(layout)?.map_or_else(|| Ok(BTreeMap::new()), |db| db.told_generations()),
            Self::Remote(remote) => {
                let rows: Vec<FleetRow> = remote.told("/fleet")?;
                Ok(rows.into_iter().map(|row| (row.site, row.published.max(row.served.unwrap_or_default()))).collect())
            }
        }
    }

    /// The table of sites, with those of the directory that the host does not know.
    pub(crate) fn rows(&self, directory: &[(SiteId, String)], now: UnixTime) -> anyhow::Result<Vec<FleetRow>> {
        let rows = match self {
            Self::Local(layout) => fleet::rows(&layout.database(), now)?,
            Self::Remote(remote) => remote.told("/fleet")?,
        };
        Ok(fleet::with_directory(rows, directory, now))
    }

    /// What the host knows of one site beyond its row.
    pub(crate) fn told(&self, site: &SiteId) -> anyhow::Result<SiteTold> {
        match self {
            Self::Local(layout) => SiteTold::read(&layout.database(), site),
            Self::Remote(remote) => remote.told(&format!("/fleet/{site}")),
        }
    }

    /// What sites state about their sealing keys.
    pub(crate) fn sealing_keys(&self) -> anyhow::Result<BTreeMap<SiteId, Vec<StoredStatement>>> {
        match self {
            Self::Local(layout) => existing(layout)?.map_or_else(|| Ok(BTreeMap::new()), |db| db.sealing_keys()),
            Self::Remote(remote) => remote.client.get("/sealing-keys"),
        }
    }

    /// The publisher has dealt with such a statement.
    pub(crate) fn sealing_key_handled(&self, site: &SiteId, stored: &StoredStatement) -> anyhow::Result<()> {
        match self {
            Self::Local(layout) => Db::open_existing(&layout.database())?.drop_sealing_key(site, stored),
            Self::Remote(remote) => remote.client.post(&format!("/sites/{site}/sealing-key/handled"), stored),
        }
    }

    /// Every site that the host knows.
    pub(crate) fn sites(&self) -> anyhow::Result<Vec<db::SiteRow>> {
        match self {
            Self::Local(layout) => existing(layout)?.map_or_else(|| Ok(Vec::new()), |db| db.sites()),
            Self::Remote(remote) => Ok(remote.state()?.1.iter().cloned().map(db::SiteRow::from).collect()),
        }
    }

    /// What each site's newest release was made from, as far as the host knows.
    pub(crate) fn pushed(&self) -> anyhow::Result<BTreeMap<SiteId, PushedBy>> {
        match self {
            Self::Local(layout) => {
                let all = existing(layout)?.map_or_else(|| Ok(Vec::new()), |db| db.pushed())?;
                let by = |one: Pushed| PushedBy { commit: one.commit, operator: one.operator, at: one.at };
                Ok(all.into_iter().map(|one| (one.site.clone(), by(one))).collect())
            }
            Self::Remote(remote) => {
                let sites = remote.state()?.1.iter();
                Ok(sites.filter_map(|site| Some((site.id.clone(), site.pushed.clone()?))).collect())
            }
        }
    }
}

fn existing(layout: &Layout) -> anyhow::Result<Option<Db>> {
    let path = layout.database();
    if !path.is_file() {
        return Ok(None);
    }
    Db::look(&path).map(Some).context("HQ's records cannot be read")
}
