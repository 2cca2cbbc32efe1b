//! The inventory that people write: the fleet, its sites and its phones. Values that are checked later know the file
//! and line where they stand.

mod fleet;
mod phones;
mod site;
mod tables;

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::Value;

use super::parallel::in_parallel;
use bundle::HqAddress;
use durable::{Entry, Folder, Links};
use ids::{Digest, FleetId, MacAddr, SiteId};
use repository::layout::Layout;
use settings::{MAX_TEXT_BYTES, Problem, Source, Table};

pub use tables::ReleaseSettings;

/// The largest `phones.csv`, in bytes: the phones of 100,000 sites with some columns.
const MAX_CSV_BYTES: u64 = 256 * 1024 * 1024;

/// Names that templates define themselves, so that no variable may have them.
pub const RESERVED: [&str; 4] = ["phone", "site", "fleet", "loop"];

/// The whole inventory, as read from the fleet directory.
#[derive(Debug, Clone)]
pub struct FleetInventory {
    /// What `fleet.toml` says, for all sites.
    pub fleet: Fleet,
    /// What the files `sites/*.toml` say, by the site's name.
    pub sites: BTreeMap<String, InventorySite>,
    /// The lines of `phones.csv`, in its order. Lines with a problem, and repeated addresses, are left out.
    pub phones: Vec<PhoneLine>,
}

/// What `fleet.toml` says about the fleet as a whole.
#[derive(Debug, Clone)]
pub struct Fleet {
    /// The fleet's name, for people.
    pub name: String,
    /// The fleet's id. `init` makes it at random, so that it tells an outsider nothing.
    pub id: FleetId,
    /// The URL at which sites reach HQ: `https://host:port`.
    pub url: String,
    /// The URL from which sites download; `None` if they download from HQ.
    pub repository: Option<String>,
    /// Whether `files/` may hold files of one device, named with its address. For laboratories only.
    pub device_files: bool,
    /// The program that prints a secret, with its arguments. The secret's name is added as the last one. Empty if
    /// secrets are in `secrets.age`.
    pub secrets_command: Vec<String>,
    /// The settings in `[defaults]`, from which every site starts.
    pub settings: ReleaseSettings,
    /// The template variables in `[defaults.variables]`, for all sites.
    pub variables: Variables,
}

/// What one file `sites/NAME.toml` says.
#[derive(Debug, Clone)]
pub struct InventorySite {
    /// The site's name, for people: the stem of its file.
    pub name: String,
    /// The site's id. `site add` makes it at random, so that it tells an outsider nothing.
    pub id: SiteId,
    /// The fleet's settings with the site's own over them.
    pub settings: ReleaseSettings,
    /// The template variables in `[variables]`, for this site.
    pub variables: Variables,
    /// SHA-256 of the file's text, by which a later run sees that it changed.
    pub source: Digest,
}

/// What one line of `phones.csv` says: a phone, its site and its model.
#[derive(Debug, Clone)]
pub struct PhoneLine {
    /// The MAC address, as printed on the phone's label.
    pub mac: MacAddr,
    /// The name of its site, which is in [`FleetInventory::sites`].
    pub site: String,
    /// The phone's model. It should be one of the `models` of a template folder; `check` reports it if it is not.
    pub model: String,
    /// The phone's name, for people. May be empty.
    pub label: String,
    /// The template variables of the phone: all further columns that are not empty.
    pub variables: Variables,
    /// The number of its line in `phones.csv`, from 1.
    pub line: usize,
}

/// Template variables by name. A later layer (fleet, site, phone) replaces those of an earlier one.
pub type Variables = BTreeMap<String, Variable>;

/// The value of a template variable, and the file and line where it stands.
#[derive(Debug, Clone, PartialEq)]
pub struct Variable {
    /// Text, number, true or false, or a list of those. Text `secret:NAME` stands for a secret.
    pub value: Value,
    /// The file, relative to the fleet directory.
    pub file: String,
    /// The line of that file, from 1.
    pub line: usize,
}

impl Fleet {
    /// Where sites find HQ, as they are told in signed settings.
    pub fn address(&self) -> HqAddress {
        let plain = |url: &str| url.trim_end_matches('/').to_owned();
        HqAddress { url: plain(&self.url), repository: self.repository.as_deref().map(plain) }
    }
}

impl FleetInventory {
    /// Reads the inventory and adds everything that is wrong with it to `problems`. `None` if `fleet.toml` cannot
    /// be used at all; then nothing further can be said.
    pub fn read(layout: &Layout, problems: &mut Vec<Problem>) -> Option<Self> {
        let fleet = match source(layout, "fleet.toml", MAX_TEXT_BYTES) {
            Ok(source) => fleet::read(&source, problems),
            Err(problem) => {
                problems.push(
                    problem.hint("start a fleet directory with `lineside-hq init DIR`, or name one with --fleet DIR"),
                );
                None
            }
        }?;
        let mut sites = read_sites(layout, &fleet, problems);
        for site in sites.values_mut() {
            site.settings.site.hq = Some(fleet.address());
        }
        let phones = match source(layout, "phones.csv", MAX_CSV_BYTES) {
            Ok(source) => phones::read(&source, &sites, problems),
            Err(problem) => {
                problems.push(problem);
                Vec::new()
            }
        };
        Some(Self { fleet, sites, phones })
    }

    /// The phones of a site, in the order of their addresses.
    pub fn phones_of<'a>(&'a self, site: &'a str) -> Vec<&'a PhoneLine> {
        let mut phones: Vec<&PhoneLine> = self.phones.iter().filter(|phone| phone.site == site).collect();
        phones.sort_by_key(|phone| phone.mac);
        phones
    }

    /// The name of the site with this id.
    pub(crate) fn name_of(&self, site: &SiteId) -> Option<String> {
        self.sites.values().find(|one| one.id == *site).map(|one| one.name.clone())
    }

    /// The phones of every site, by the site's name, each in the order of their addresses. Sites without phones are
    /// left out.
    pub fn phones_by_site(&self) -> BTreeMap<&str, Vec<&PhoneLine>> {
        let mut by_site: BTreeMap<&str, Vec<&PhoneLine>> = BTreeMap::new();
        for phone in &self.phones {
            by_site.entry(&phone.site).or_default().push(phone);
        }
        for phones in by_site.values_mut() {
            phones.sort_by_key(|phone| phone.mac);
        }
        by_site
    }
}

/// Reads all files of `sites/`, on all processors. Sites with a problem that makes them useless are left out.
fn read_sites(layout: &Layout, fleet: &Fleet, problems: &mut Vec<Problem>) -> BTreeMap<String, InventorySite> {
    let mut files = Vec::new();
    let mut sites = BTreeMap::new();
    let mut ids: BTreeMap<SiteId, String> = BTreeMap::new();
    for (file, is_dir) in entries(layout, "sites", Links::Refused, problems) {
        let name = format!("sites/{file}");
        let stem = match file.strip_suffix(".toml") {
            Some(stem) if !is_dir => stem,
            _ if is_note(&file) && !is_dir => continue,
            _ => {
                problems
                    .push(Problem::at_file(name, "only site files belong here").hint("name it NAME.toml, or move it"));
                continue;
            }
        };
        if !is_site_name(stem) {
            problems.push(
                Problem::at_file(name, "a site's name has 1 to 60 letters, digits, hyphens, dots and underscores")
                    .hint("rename the file"),
            );
            continue;
        }
        files.push((name, stem.to_owned()));
    }
    let read = |(name, stem): &(String, String)| {
        let mut problems = Vec::new();
        let site = match source(layout, name, MAX_TEXT_BYTES) {
            Ok(source) => site::read(&source, stem, fleet, &mut problems),
            Err(problem) => {
                problems.push(problem);
                None
            }
        };
        Ok((site, problems))
    };
    let all = match in_parallel(&files, read, |_| {}) {
        Ok(all) => all,
        Err(error) => {
            problems.push(Problem::at_file("sites", format!("cannot be read: {error:#}")));
            Vec::new()
        }
    };
    for ((name, stem), (site, found)) in files.iter().zip(all) {
        problems.extend(found);
        let Some(site) = site else { continue };
        if let Some(other) = ids.insert(site.id.clone(), name.clone()) {
            problems.push(
                Problem::at_file(name, format!("the id {} is also in {other}", site.id))
                    .hint("each site has an id of its own; `lineside-hq site add` makes one"),
            );
            continue;
        }
        sites.insert(stem.clone(), site);
    }
    sites
}

/// Reads a text file of the fleet directory, by its path in it. It is a regular file, and no part of its path is a link: what
/// a merge request can put there may not make this machine read its keys.
pub(super) fn source(layout: &Layout, name: &str, max_bytes: u64) -> Result<Source, Problem> {
    let file = Folder::open(layout.dir()).and_then(|dir| dir.file(Path::new(name), Links::Refused));
    Source::of(file, name, max_bytes)
}

/// The entries of a folder of the fleet directory in the order of their names: name, and whether it is a folder. What is
/// neither a regular file nor a folder, or is a link that `links` does not allow, is a problem.
pub(super) fn entries(
    layout: &Layout,
    folder: &str,
    links: Links<'_>,
    problems: &mut Vec<Problem>,
) -> Vec<(String, bool)> {
    let listing = Folder::open(layout.dir()).and_then(|dir| match dir.entry(Path::new(folder), links)? {
        Entry::Folder(opened) => Ok((dir, durable::names(&opened)?)),
        Entry::File(_) => Err(std::io::Error::other("it is a file, no folder")),
    });
    let (dir, listing) = match listing {
        Ok(found) => found,
        // git does not keep empty folders.
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Vec::new(),
        Err(error) => {
            problems.push(settings::unreadable(folder, &error));
            return Vec::new();
        }
    };
    let mut found = Vec::new();
    for entry in listing {
        let name = match entry.map(|entry| entry.file_name().into_string()) {
            Ok(Ok(name)) if is_hidden(&name) => continue,
            Ok(Ok(name)) => name,
            Ok(Err(name)) => {
                let name = format!("{folder}/{}", name.to_string_lossy());
                problems.push(Problem::at_file(name, "the file's name is not UTF-8"));
                continue;
            }
            Err(error) => {
                problems.push(settings::unreadable(folder, &error));
                continue;
            }
        };
        let full = format!("{folder}/{name}");
        match dir.entry(Path::new(&full), links) {
            Ok(entry) => found.push((name, matches!(entry, Entry::Folder(_)))),
            Err(error) => problems.push(settings::unreadable(&full, &error).hint(match links {
                Links::Refused => "put the file itself there: links are not followed here",
                Links::Within(_) => "a link may lead to a file of the same folder; copy what is elsewhere",
            })),
        }
    }
    found.sort();
    found
}

/// Whether this is a file of git or of an editor: `.gitignore`, `.x.swp`, `x~`.
pub(super) fn is_hidden(name: &str) -> bool {
    name.starts_with('.') || name.ends_with('~')
}

/// Whether this is a note for people. Notes may be in any folder and are never served.
pub(super) fn is_note(name: &str) -> bool {
    name.starts_with("README") || name.ends_with(".md")
}

/// Whether a text can be a site's name: 1 to 60 letters, digits, `-`, `_` and `.`, but not `.` or `-` first.
pub fn is_site_name(name: &str) -> bool {
    (1..=60).contains(&name.len())
        && !name.starts_with(['.', '-'])
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.'))
}

/// Reads a `variables` table. Variables with a problem are left out.
pub(super) fn read_variables(table: Table<'_>, problems: &mut Vec<Problem>) -> Variables {
    let file = table.source().name.clone();
    let mut variables = Variables::new();
    for (name, line, value) in table.rest() {
        if let Some(problem) = variable_name_problem(&file, line, &name) {
            problems.push(problem);
            continue;
        }
        use serde::Deserialize as _;
        match Value::deserialize(toml::de::ValueDeserializer::from(value)) {
            Ok(value) if is_plain(&value) => {
                variables.insert(name, Variable { value, file: file.clone(), line });
            }
            _ => problems.push(
                Problem::at_line(&file, line, format!("variable `{name}` is of a kind that templates cannot use"))
                    .hint("use text, a number, true, false, or a list of those, without control characters"),
            ),
        }
    }
    variables
}

fn is_plain(value: &Value) -> bool {
    match value {
        Value::Null | Value::Object(_) => false,
        Value::Bool(_) | Value::Number(_) => true,
        Value::String(text) => !text.chars().any(|c| c.is_control() && c != '\n' && c != '\t'),
        Value::Array(items) => items.iter().all(|item| !item.is_array() && is_plain(item)),
    }
}

fn variable_name_problem(file: &str, line: usize, name: &str) -> Option<Problem> {
    if RESERVED.contains(&name) {
        return Some(
            Problem::at_line(file, line, format!("`{name}` is taken: templates know {}", RESERVED.join(", ")))
                .hint("choose another name"),
        );
    }
    let good = name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
    (!good).then(|| {
        Problem::at_line(file, line, format!("`{name}` cannot name a variable"))
            .hint("use letters, digits and underscores, for example auth_user")
    })
}

#[cfg(test)]
mod tests {
    use settings::sample;

    use super::*;

    const ID: &str = "f-0123456789abcdef";

    fn fleet_sample() -> String {
        let text = include_str!("samples/fleet.toml").replace("@NAME@", "Phones").replace("@ID@", ID);
        text.replace("@URL@", "https://hq.example.net:8443")
    }

    fn site_sample() -> String {
        include_str!("samples/site.toml").replace("@ID@", ID)
    }

    fn read_fleet(source: &Source) -> (Option<Fleet>, Vec<Problem>) {
        let mut problems = Vec::new();
        (fleet::read(source, &mut problems), problems)
    }

    fn read_site(source: &Source) -> (Option<InventorySite>, Vec<Problem>) {
        let (fleet, mut problems) = read_fleet(&Source::new("fleet.toml", &fleet_sample()));
        (site::read(source, "a", &fleet.expect("a good sample"), &mut problems), problems)
    }

    #[test]
    fn the_sample_fleet_documents_every_key_and_no_other() {
        let keys = sample::keys(&fleet_sample(), |source| read_fleet(source).1);
        assert_eq!(keys.documented, keys.known);
        for key in ["url", "defaults.dhcp.vendor-options.code", "defaults.tftp.max-windowsize", "defaults.update.image"]
        {
            assert!(keys.known.contains(key), "{key} is not among {:?}", keys.known);
        }
    }

    #[test]
    fn the_sample_site_and_the_fleets_defaults_document_every_key_of_a_site() {
        // A site's tables take what the fleet's defaults show.
        let defaults: String = fleet_sample()
            .lines()
            .skip_while(|line| !line.starts_with("[defaults"))
            .fold(String::new(), |text, line| text + &line.replace("[defaults.", "[") + "\n");
        let own: String = site_sample()
            .lines()
            .take_while(|line| !line.starts_with('['))
            .fold(String::new(), |text, line| text + line + "\n");
        let keys = sample::keys(&(own + &defaults), |source| read_site(source).1);
        assert_eq!(keys.documented, keys.known);
        assert!(keys.known.contains("id") && keys.known.contains("dhcp.range"), "{:?}", keys.known);
        let site = sample::keys(&site_sample(), |source| read_site(source).1);
        assert!(site.documented.is_subset(&keys.known), "{site:?}");
    }

    #[test]
    fn the_samples_examples_are_good_ones() {
        let (fleet, problems) = read_fleet(&Source::new("fleet.toml", &sample::uncommented(&fleet_sample())));
        assert_eq!(problems, Vec::new());
        assert_eq!(fleet.map(|fleet| fleet.settings.site.validate().is_ok()), Some(true));
        let (site, problems) = read_site(&Source::new("sites/a.toml", &sample::uncommented(&site_sample())));
        assert_eq!(problems, Vec::new());
        assert!(site.is_some());
    }
}
