//! Where sites find HQ: what `url` of `fleet.toml` means for the service's certificate.

use crate::init::host_of;
use crate::inventory::FleetInventory;
use online::ca;
use repository::layout::Layout;

/// Why sites could not reach HQ under the name in `fleet.toml`.
pub(crate) fn warnings(layout: &Layout, inventory: &FleetInventory) -> Vec<String> {
    let Some(host) = host_of(&inventory.fleet.url) else { return Vec::new() };
    match ca::names_host(&layout.online(), &host) {
        Some(false) => vec![format!(
            "`url` names {host}, and the certificate of HQ's service does not\n  \
             hint: `lineside-hq publish` makes a new one; then start `serve` again"
        )],
        _ => Vec::new(),
    }
}

/// Makes a certificate of the service for the host that `url` names, if it has one for another host. The old name stays in
/// it, because enrolled sites know it. Returns whether it did.
pub(crate) fn follow_url(layout: &Layout, inventory: &FleetInventory) -> anyhow::Result<bool> {
    let Some(host) = host_of(&inventory.fleet.url) else { return Ok(false) };
    if ca::names_host(&layout.online(), &host) != Some(false) || !layout.online().join("ca.key").exists() {
        return Ok(false);
    }
    ca::also_name(&layout.online(), &host)?;
    Ok(true)
}
