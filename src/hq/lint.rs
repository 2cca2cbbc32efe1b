//! `check`: finds every problem of a fleet directory in one run. It writes nothing and needs no network.

use std::collections::BTreeMap;

use super::inventory::{InventorySite, PhoneLine};
use super::loads;
use super::parallel::in_parallel;
use super::render::{Body, Findings, FleetDir, SiteFile};
use access::owner::{self, NameOwner};
use bundle::Scope;
use bundle::limits::{MAX_COMPRESSED_FILE_BYTES, MAX_FILES};
use ids::{FileName, MacAddr};
use repository::layout::Layout;
use settings::Problem;

pub use super::problem::CheckReport;

/// The largest rendered file, in bytes. Phones of the 7900 series refuse configurations over 550,001 bytes.
pub const MAX_RENDERED_BYTES: u64 = 550_000;
const _: () = assert!(MAX_RENDERED_BYTES <= MAX_COMPRESSED_FILE_BYTES);

/// Checks a whole fleet directory.
pub fn check(layout: &Layout) -> CheckReport {
    read(layout).1
}

/// The same, and returns what was read, `None` if that is unusable. A caller that publishes must look at the report
/// first.
pub fn read(layout: &Layout) -> (Option<FleetDir>, CheckReport) {
    match Draft::read(layout) {
        Ok(draft) => {
            let (fleet, report) = draft.check(|_, _, _| true);
            (Some(fleet), report)
        }
        Err(report) => (None, report),
    }
}

/// A fleet directory that was read but whose sites were not checked yet, with the problems found so far.
#[derive(Debug)]
pub struct Draft {
    /// The fleet directory as it was read, with its templates compiled.
    pub fleet: FleetDir,
    findings: Findings,
}

impl Draft {
    /// Reads a fleet directory. The report says why it cannot be used at all.
    pub fn read(layout: &Layout) -> Result<Self, CheckReport> {
        let mut findings = Findings::default();
        match FleetDir::read(layout, &mut findings) {
            Some(fleet) => Ok(Self { fleet, findings }),
            None => Err(CheckReport { problems: findings.finish(), ..CheckReport::default() }),
        }
    }

    /// Renders and checks the files of each site for which `wanted` holds, on all processors.
    pub fn check(
        self,
        wanted: impl Fn(&FleetDir, &InventorySite, &[&PhoneLine]) -> bool + Sync,
    ) -> (FleetDir, CheckReport) {
        let Self { fleet, mut findings } = self;
        let mut report = CheckReport::default();
        let nobody = Vec::new();
        let by_site = fleet.inventory.phones_by_site();
        let sites: Vec<&InventorySite> = fleet.inventory.sites.values().collect();
        let one = |site: &&InventorySite| {
            let phones = by_site.get(site.name.as_str()).unwrap_or(&nobody);
            let mut findings = Findings::default();
            if !wanted(&fleet, site, phones) {
                return Ok(None);
            }
            let files = fleet.site_files(site, phones, &mut findings);
            site_problems(&fleet, site, phones, &files, &mut findings);
            Ok(Some((phones.len(), files.len(), findings)))
        };
        match in_parallel(&sites, one, |_| {}) {
            Ok(all) => {
                for (phones, files, found) in all.into_iter().flatten() {
                    report.sites += 1;
                    report.phones += phones;
                    report.files += files;
                    findings.take(found);
                }
            }
            Err(error) => findings.once(Problem::at_file("sites", format!("cannot be checked: {error:#}"))),
        }
        if !fleet.secrets.is_unlocked() && !fleet.secrets.are_withheld() {
            report.notes.push("keys/secrets.key is not here, so no one looked whether each secret exists".to_owned());
        }
        if fleet.secrets.are_withheld() {
            let note = "`secrets-command` was not run, so no one looked whether each secret exists; `publish` runs it";
            report.notes.push(note.to_owned());
        }
        report.notes.extend(clear_secrets(&fleet));
        report.problems = findings.finish();
        (fleet, report)
    }
}

/// Notes on passwords in clear in files that are kept in git. They are allowed, for laboratories, but people are told.
fn clear_secrets(fleet: &FleetDir) -> Vec<String> {
    let sites = fleet.inventory.sites.values().map(|site| &site.variables);
    let phones = fleet.inventory.phones.iter().map(|phone| &phone.variables);
    let mut places: BTreeMap<(&str, &str), (usize, usize)> = BTreeMap::new();
    for (name, variable) in std::iter::once(&fleet.inventory.fleet.variables).chain(sites).chain(phones).flatten() {
        let folded = name.to_ascii_lowercase();
        let telling = ["password", "passwd", "secret"].iter().any(|word| folded.contains(word));
        let hidden = variable.value.as_str().is_none_or(|text| text.starts_with(super::secrets::PREFIX));
        if telling && !hidden {
            let place = places.entry((&variable.file, name)).or_insert((variable.line, 0));
            place.1 += 1;
        }
    }
    places
        .into_iter()
        .map(|((file, name), (line, number))| {
            let values = settings::count(number, "value");
            format!("{file}:{line}: `{name}` holds {values} in clear; `secret:NAME` keeps them out of git")
        })
        .collect()
}

/// Adds the problems of a site's files to `findings`.
fn site_problems(
    fleet: &FleetDir,
    site: &InventorySite,
    phones: &[&PhoneLine],
    files: &[SiteFile],
    findings: &mut Findings,
) {
    let mut names: BTreeMap<&FileName, &SiteFile> = BTreeMap::new();
    for file in files {
        if let Some(other) = names.insert(&file.name, file) {
            findings.once(twice(site, file, other));
        }
        if let Some(problem) = owner_problem(fleet, file) {
            findings.once(problem);
        }
        if let Body::Rendered(_) = file.body
            && file.bytes() > MAX_RENDERED_BYTES
        {
            findings.once(at(
                file,
                format!("{} is {} bytes, over the {MAX_RENDERED_BYTES} that phones take", file.name, file.bytes()),
            ));
        }
    }
    if files.len() > MAX_FILES {
        let message = format!("the site has {} files, over the {MAX_FILES} allowed", files.len());
        findings.once(Problem::at_file(format!("sites/{}.toml", site.name), message));
    }
    let models: BTreeMap<MacAddr, &str> = phones
        .iter()
        .filter_map(|phone| Some((phone.mac, fleet.templates.of_model(&phone.model)?.name.as_str())))
        .collect();
    for file in files {
        if let Some(problem) = load_problem(file, &names, &models) {
            findings.once(problem);
        }
    }
}

fn at(file: &SiteFile, message: String) -> Problem {
    Problem::at_file(&file.origin.file, message).line(file.origin.line)
}

fn twice(site: &InventorySite, file: &SiteFile, other: &SiteFile) -> Problem {
    let place = match other.origin.line {
        Some(line) => format!("{}:{line}", other.origin.file),
        None => other.origin.file.clone(),
    };
    let problem = at(file, format!("site {} gets a second {}, besides that of {place}", site.name, file.name));
    if file.origin == other.origin {
        return problem.hint("the name must differ from phone to phone; use phone.mac_upper or phone.mac in it");
    }
    problem.hint("phones ask by name alone, in any case, so a name can stand for one file only")
}

/// The problem of a file whose name carries a device's address but which other devices could fetch.
fn owner_problem(fleet: &FleetDir, file: &SiteFile) -> Option<Problem> {
    let is_its_own = |mac: &MacAddr| owner::carries(&file.name, *mac);
    let carried = match fleet.owner_of(&file.name) {
        NameOwner::Device(mac) => mac,
        NameOwner::Several(mac, _) if !matches!(&file.scope, Scope::Device(own) if is_its_own(own)) => mac,
        NameOwner::Several(..) | NameOwner::NoDevice | NameOwner::Shared => return None,
    };
    match &file.scope {
        Scope::Device(mac) if *mac == carried => None,
        Scope::Device(mac) => Some(
            at(file, format!("{} carries the address {carried}, but is made for {mac}", file.name))
                .hint("use the phone's own address in `name`"),
        ),
        Scope::Model(_) | Scope::Everyone => Some(
            at(file, format!("{} carries the address {carried}, but other phones could fetch it", file.name))
                .hint("give it scope = \"device\""),
        ),
    }
}

/// The problem of a configuration that names a load which its phone cannot fetch. Such a phone tries for ever.
fn load_problem(
    file: &SiteFile,
    names: &BTreeMap<&FileName, &SiteFile>,
    models: &BTreeMap<MacAddr, &str>,
) -> Option<Problem> {
    let Body::Rendered(bytes) = &file.body else { return None };
    let load = loads::named_in(bytes)?;
    let model = match &file.scope {
        Scope::Device(mac) => models.get(mac).copied(),
        Scope::Model(model) => Some(model.as_str()),
        Scope::Everyone => None,
    };
    let served = [".loads", "", ".bin", ".sbn"].iter().any(|suffix| {
        let found = format!("{load}{suffix}").parse::<FileName>().ok().and_then(|name| names.get(&name));
        found.is_some_and(|found| match &found.scope {
            Scope::Everyone => true,
            Scope::Model(of) => Some(of.as_str()) == model,
            Scope::Device(_) => found.scope == file.scope,
        })
    });
    if served {
        return None;
    }
    let folder = model.unwrap_or("MODEL");
    Some(at(file, format!("a configuration names the load {load}, but no {load}.loads is served to it")).hint(format!(
        "put the firmware into firmware/{folder}/ and \"{load}.loads\" into `firmware` of \
             templates/{folder}/model.toml"
    )))
}

#[cfg(test)]
mod tests;
