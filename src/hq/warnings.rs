//! What people should look at, besides problems of the fleet directory: `check` and `fleet` print it. Nothing here writes.

use crate::inventory::FleetInventory;
use crate::{backup, orphans};
use ids::UnixTime;
use online::db::Db;
use repository::expiry;
use repository::layout::Layout;
use repository::ownership;

/// All warnings, as text.
pub(crate) fn of(layout: &Layout, now: UnixTime) -> Vec<String> {
    let mut warnings: Vec<String> = expiry::of_fleet(layout, now).iter().map(ToString::to_string).collect();
    let inventory = FleetInventory::read(layout, &mut Vec::new());
    if let Some(inventory) = &inventory {
        let orphans = orphans::of(layout, inventory).unwrap_or_default();
        warnings.extend(orphans.iter().map(|orphan| format!("site {orphan}")));
        warnings.extend(crate::address::warnings(layout, inventory));
    }
    warnings.extend(ownership::foreign(&layout.online()).map(|path| {
        format!(
            "`serve` cannot renew what is in {}: it is not its owner's\n  hint: chown -R to the owner of {}",
            path.display(),
            layout.online().display()
        )
    }));
    warnings.extend(backup::warning(layout, now));
    warnings.extend(restored(layout, inventory.as_ref()));
    warnings
}

/// What is left to do or to see after HQ was put back from a backup.
fn restored(layout: &Layout, inventory: Option<&FleetInventory>) -> Vec<String> {
    let Ok(db) = Db::look(&layout.database()) else { return Vec::new() };
    let mut warnings = Vec::new();
    if let Ok(Some(restored)) = db.last_restore()
        && !restored.applied
    {
        warnings.push(
            "HQ was put back from a backup, and nothing is renewed until it hears whom the desk locked out since\n  \
             hint: lineside-hq publish"
                .to_owned(),
        );
    }
    for (site, at) in db.readmitted().unwrap_or_default() {
        let name = inventory.and_then(|inventory| inventory.name_of(&site)).unwrap_or_else(|| site.to_string());
        warnings.push(format!(
            "{name} renewed a certificate at {at} that the backup of HQ does not know\n  \
             hint: if that was not its own appliance, `lineside-hq site revoke {name}`"
        ));
    }
    warnings
}
