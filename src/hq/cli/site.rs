//! `site revoke`, `site rename` and `site remove`.

use std::io::Write;

use crate::inventory::FleetInventory;
use crate::site::{self, KnownSite};
use crate::{enrol, secrets};
use repository::layout::Layout;
use settings::count;

/// Revokes a site and lists the accounts that the thief of its appliance may know.
pub(super) fn revoke(layout: &Layout, fleet: &FleetInventory, which: &str, out: &mut dyn Write) -> anyhow::Result<()> {
    let KnownSite { id, name } = site::find(layout, fleet, which)?;
    let revoked = enrol::revoke(layout, &id)?;
    writeln!(
        out,
        "revoked {name}: {} refused from now on, {} left out of the next publish",
        count(revoked.certificates, "certificate"),
        count(revoked.recipients, "sealing key")
    )?;
    let phones = fleet.phones_of(&name);
    if !phones.is_empty() {
        writeln!(out, "it held the accounts of {}; change their passwords:", count(phones.len(), "phone"))?;
    }
    for phone in phones {
        let secrets: Vec<&str> = phone
            .variables
            .values()
            .filter_map(|variable| variable.value.as_str()?.strip_prefix(secrets::PREFIX))
            .collect();
        writeln!(out, "  {}  {}  {}", phone.mac, phone.label, secrets.join(" "))?;
    }
    Ok(())
}

/// Gives a site another name.
pub(super) fn rename(
    layout: &Layout,
    fleet: &FleetInventory,
    (old, new): (&str, &str),
    out: &mut dyn Write,
) -> anyhow::Result<()> {
    let lines = site::rename(layout, fleet, old, new)?;
    writeln!(out, "{old} is {new} now, with {}; its id and its appliance stay", count(lines, "phone"))?;
    Ok(writeln!(out, "`lineside-hq publish {new}` brings the name to HQ")?)
}

/// Takes a site out of the fleet directory.
pub(super) fn remove(
    layout: &Layout,
    fleet: &FleetInventory,
    which: &str,
    phones: bool,
    out: &mut dyn Write,
) -> anyhow::Result<()> {
    let lines = site::remove(layout, fleet, which, phones)?;
    writeln!(out, "removed {which} and {}", count(lines, "line of phones.csv"))?;
    Ok(writeln!(out, "`lineside-hq publish` deletes what was published for it, a month later")?)
}
