//! What happens to a site as a whole: it is found by its name or id, gets another name, or leaves the fleet directory.

use std::collections::BTreeSet;

use anyhow::{Context as _, anyhow, bail};

use crate::host::Host;
use crate::inventory::{FleetInventory, is_site_name};
use crate::{enrol, orphans};
use ids::SiteId;
use repository::layout::Layout;
use repository::tree;
use settings::{MAX_TEXT_BYTES, count};
use telemetry::Hint as _;

/// A site that the fleet directory or HQ knows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KnownSite {
    /// Its id.
    pub id: SiteId,
    /// Its name, as far as one is known.
    pub name: String,
}

/// Finds a site by its name or id: in the fleet directory, in HQ's database, in `enrolled/`, or in what is published.
pub fn find(layout: &Layout, inventory: &FleetInventory, which: &str) -> anyhow::Result<KnownSite> {
    let here = inventory.sites.values().find(|site| site.name == which || site.id.as_str() == which);
    if let Some(site) = here {
        return Ok(KnownSite { id: site.id.clone(), name: site.name.clone() });
    }
    let rows = Host::of(layout)?.sites()?;
    let mut rows = rows.into_iter().filter(|row| row.name == which || row.id.as_str() == which);
    match (rows.next(), rows.next()) {
        (Some(row), None) => return Ok(KnownSite { id: row.id, name: row.name }),
        (Some(_), Some(_)) => bail!("HQ knows several sites that were called `{which}`; name one by its id"),
        (None, _) => {}
    }
    let orphan = orphans::of(layout, inventory)?.into_iter().find(|orphan| orphan.site.as_str() == which);
    if let Some(orphan) = orphan {
        return Ok(KnownSite { id: orphan.site, name: orphan.name });
    }
    if let Ok(id) = which.parse::<SiteId>()
        && layout.enrolled().join(format!("{id}.toml")).exists()
    {
        return Ok(KnownSite { id, name: which.to_owned() });
    }
    let known: Vec<&str> = inventory.sites.keys().map(String::as_str).collect();
    Err(anyhow!("there is no site `{which}`").hint(match settings::nearest(which, &known) {
        Some(near) => format!("did you mean `{near}`?"),
        None => "`lineside-hq site list` names them".to_owned(),
    }))
}

/// Takes a site out of the fleet directory. It must have no appliance any more; its phones go only if `phones` says so.
/// Returns how many lines of `phones.csv` went.
pub fn remove(layout: &Layout, inventory: &FleetInventory, which: &str, phones: bool) -> anyhow::Result<usize> {
    let KnownSite { id, name } = find(layout, inventory, which)?;
    let path = layout.sites().join(format!("{name}.toml"));
    if !inventory.sites.contains_key(&name) {
        return Err(anyhow!("site {name} left the fleet directory before"))
            .hint(format!("`lineside-hq site revoke {name}` locks its appliance out, if it has one still"));
    }
    let enrolled = enrol::standing(layout)?.recipients.get(&id).is_some_and(|keys| !keys.is_empty());
    if enrolled {
        return Err(anyhow!("site {name} has an appliance, which would go on with what was published last"))
            .hint(format!("`lineside-hq site revoke {name}` locks it out; then remove the site"));
    }
    let lines: BTreeSet<usize> = inventory.phones_of(&name).iter().map(|phone| phone.line).collect();
    if !lines.is_empty() && !phones {
        return Err(anyhow!("site {name} has {} in phones.csv", count(lines.len(), "phone")))
            .hint("give them to another site, or say --phones to remove their lines");
    }
    rewrite(layout, &lines, None)?;
    durable::remove(&path).with_context(|| format!("cannot remove {}", path.display()))?;
    Ok(lines.len())
}

/// Gives a site another name: its file and its phones' lines. The id stays, so its appliance notices nothing. Returns how
/// many lines of `phones.csv` changed.
pub fn rename(layout: &Layout, inventory: &FleetInventory, old: &str, new: &str) -> anyhow::Result<usize> {
    if !inventory.sites.contains_key(old) {
        find(layout, inventory, old)?;
        bail!("site {old} is not in the fleet directory under this name");
    }
    if !is_site_name(new) {
        bail!("`{new}` cannot name a site; use 1 to 60 letters, digits, hyphens, dots and underscores");
    }
    let (from, to) = (layout.sites().join(format!("{old}.toml")), layout.sites().join(format!("{new}.toml")));
    if to.symlink_metadata().is_ok() {
        bail!("there is a site `{new}` already: {}", to.display());
    }
    let lines: BTreeSet<usize> = inventory.phones_of(old).iter().map(|phone| phone.line).collect();
    rewrite(layout, &lines, Some(new))?;
    durable::rename(&from, &to).with_context(|| format!("cannot rename {}", from.display()))?;
    Ok(lines.len())
}

/// Changes the site in these lines of `phones.csv`, or removes the lines if `site` is `None`. All else stays as people
/// wrote it.
fn rewrite(layout: &Layout, lines: &BTreeSet<usize>, site: Option<&str>) -> anyhow::Result<()> {
    if lines.is_empty() {
        return Ok(());
    }
    let path = layout.phones_csv();
    let bytes =
        durable::read_regular(&path, MAX_TEXT_BYTES).with_context(|| format!("cannot read {}", path.display()))?;
    let text = String::from_utf8(bytes).with_context(|| format!("{} is not text", path.display()))?;
    tree::write_file(&path, rewritten(&text, lines, site)?.as_bytes())
}

fn rewritten(text: &str, lines: &BTreeSet<usize>, site: Option<&str>) -> anyhow::Result<String> {
    let is_header = |line: &&str| !line.trim().is_empty() && !line.starts_with('#');
    let header = text.lines().find(is_header).context("phones.csv has no header")?;
    let separator = [',', ';', '\t'].into_iter().max_by_key(|c| header.matches(*c).count()).unwrap_or(',');
    let name =
        |field: &str| field.trim_matches(|c: char| c.is_whitespace() || c == '"' || c == '\u{feff}').to_lowercase();
    let columns = fields(header, separator).context("the header of phones.csv spans several lines")?;
    let column = columns.iter().position(|range| header.get(range.clone()).is_some_and(|field| name(field) == "site"));
    let column = column.context("the header of phones.csv has no column `site`")?;
    let mut result = String::with_capacity(text.len());
    for (number, line) in (1..).zip(text.split_inclusive('\n')) {
        if !lines.contains(&number) {
            result.push_str(line);
            continue;
        }
        let fields = fields(line.trim_end_matches(['\r', '\n']), separator);
        let fields = fields.with_context(|| format!("phones.csv:{number} spans several lines; change it by hand"))?;
        let Some(site) = site else { continue };
        let range = fields.get(column).with_context(|| format!("phones.csv:{number} has no site"))?;
        let (before, after) = (line.get(..range.start), line.get(range.end..));
        result.push_str(before.unwrap_or_default());
        result.push_str(site);
        result.push_str(after.unwrap_or_default());
    }
    Ok(result)
}

/// Where the fields of a line of CSV are; `None` if the last one does not end on it.
fn fields(line: &str, separator: char) -> Option<Vec<std::ops::Range<usize>>> {
    let (mut fields, mut start, mut quoted) = (Vec::new(), 0, false);
    for (at, c) in line.char_indices() {
        match c {
            '"' => quoted = !quoted,
            c if c == separator && !quoted => {
                fields.push(start..at);
                start = at + c.len_utf8();
            }
            _ => {}
        }
    }
    fields.push(start..line.len());
    (!quoted).then_some(fields)
}

#[cfg(test)]
mod tests;
