//! How each site stands: the keys that its releases are sealed to, and what is wrong with it. Nothing here writes.
//!
//! What is wrong with one site stops that site alone. It is named with what to do, and keeps the release that it has.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use anyhow::Context as _;

use super::{Appliance, MAX_APPLIANCES, Pinned, prove};
use crate::host::Host;
use crate::parallel::in_parallel;
use bundle::RecipientPublic;
use ids::SiteId;
use repository::layout::Layout;
use settings::count;
use telemetry::Hint as _;

/// How all enrolled sites stand.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Standing {
    /// The keys that manifests are sealed to, by site, newest appliance first. A new enrolment that is proven counts.
    pub recipients: BTreeMap<SiteId, Vec<RecipientPublic>>,
    /// What is wrong, one site after the other.
    pub faults: Vec<SiteFault>,
}

impl Standing {
    /// A site's state in words.
    pub fn of(&self, site: &SiteId) -> &str {
        match self.faults.iter().find(|fault| fault.site.as_ref() == Some(site)) {
            Some(fault) => &fault.what,
            None if self.recipients.get(site).is_some_and(|keys| !keys.is_empty()) => "enrolled",
            None => "waiting for enrolment",
        }
    }
}

/// What is wrong with one site, so that it gets no release.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SiteFault {
    /// The site; `None` if a file in `enrolled/` does not even name one.
    pub site: Option<SiteId>,
    /// The site's name, its id, or the file's name.
    pub whose: String,
    /// What is wrong, in a sentence.
    pub what: String,
    /// What to do about it.
    pub hint: String,
}

impl SiteFault {
    pub(crate) fn of(site: &SiteId, what: String, hint: &str) -> Self {
        Self { site: Some(site.clone()), whose: site.to_string(), what, hint: hint.to_owned() }
    }

    /// The same with the name that people gave the site.
    pub(crate) fn named(mut self, name: &dyn Fn(&SiteId) -> Option<String>) -> Self {
        if let Some(name) = self.site.as_ref().and_then(name) {
            self.whose = name;
        }
        self
    }
}

impl std::fmt::Display for SiteFault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}\n  hint: {}", self.what, self.hint)
    }
}

/// Fails if a site was skipped, so that the command ends with status 1. `done` says what happened to the others.
pub(crate) fn complete(faults: &[SiteFault], done: &str) -> anyhow::Result<()> {
    if faults.is_empty() {
        return Ok(());
    }
    let mut names: Vec<&str> = faults.iter().map(|fault| fault.whose.as_str()).collect();
    names.dedup();
    let error = anyhow::anyhow!("{} skipped, and {done}: {}", count(names.len(), "site"), names.join(", "));
    Err(error.hint("what is wrong with each is said above"))
}

/// How all enrolled sites stand, by `enrolled/`, by the enrolments that HQ's database has, and by the keys of tokens
/// that are here.
pub fn standing(layout: &Layout) -> anyhow::Result<Standing> {
    let mut standing = Standing::default();
    let mut all: BTreeMap<SiteId, Pinned> = BTreeMap::new();
    for (path, pinned) in pinned_files(layout)? {
        match pinned {
            Ok(pinned) => drop(all.insert(pinned.site.clone(), pinned)),
            Err(error) => {
                let file = format!("enrolled/{}", path.file_name().unwrap_or_default().to_string_lossy());
                let site: Option<SiteId> = path.file_stem().and_then(|stem| stem.to_str()?.parse().ok());
                standing.faults.push(SiteFault {
                    whose: site.as_ref().map_or_else(|| file.clone(), SiteId::to_string),
                    site,
                    what: format!("{file} cannot be used: {error:#}"),
                    hint: format!("`git log {file}` says who changed it; put a version back that was reviewed"),
                });
            }
        }
    }
    let host = Host::of(layout)?;
    for enrolment in host.new_enrolments()? {
        match prove(layout, &enrolment) {
            Ok(proven) => {
                let site = all.entry(enrolment.site.clone());
                let pinned = site.or_insert_with(|| Pinned::new(enrolment.site.clone()));
                if let Some(appliance) = proven {
                    pinned.appliance.insert(0, appliance);
                    pinned.appliance.truncate(MAX_APPLIANCES);
                }
            }
            Err(error) => standing.faults.push(SiteFault::of(
                &enrolment.site,
                format!("{error:#}; nothing is sealed to its new enrolment"),
                "publish where the token was issued; if nobody issued it, an appliance that nobody knows or a service \
                 that was broken into is behind this: `lineside-hq enrolment discard SITE` puts the enrolment aside",
            )),
        }
    }
    for (site, token, at) in host.taken_over()? {
        let unreadable = standing.faults.iter().any(|fault| fault.site.as_ref() == Some(&site));
        // HQ may be put back from a backup and know less than git.
        let knows = |one: &Appliance| one.token == token || one.enrolled > at;
        let here = all.get(&site).is_some_and(|pinned| pinned.appliance.iter().any(knows));
        if !here && !unreadable {
            let what = match all.remove(&site) {
                None => format!("enrolled/{site}.toml is missing here (git pull): HQ knows of an enrolment"),
                Some(_) => {
                    format!("enrolled/{site}.toml is outdated here (git pull): HQ knows of a newer enrolment")
                }
            };
            let hint = "`git pull` brings it, once it is committed where that appliance was published to first; if \
                        it is lost, `site revoke` and enroll the appliance again";
            standing.faults.push(SiteFault::of(&site, what, hint));
        }
    }
    standing.recipients = all.into_values().map(|pinned| (pinned.site.clone(), pinned.keys())).collect();
    Ok(standing)
}

/// A file of `enrolled/`, and what it holds.
pub(super) type PinnedFile = (PathBuf, anyhow::Result<Pinned>);

pub(super) fn pinned_files(layout: &Layout) -> anyhow::Result<Vec<PinnedFile>> {
    let mut paths = Vec::new();
    if layout.enrolled().is_dir() {
        for entry in fs::read_dir(layout.enrolled()).context("cannot list enrolled/")? {
            let path = entry.context("cannot list enrolled/")?.path();
            if path.extension().is_some_and(|extension| extension == "toml") {
                paths.push(path);
            }
        }
    }
    paths.sort();
    in_parallel(&paths, |path: &PathBuf| Ok((path.clone(), Pinned::load(path))), |_| {})
}

#[cfg(test)]
mod tests;
