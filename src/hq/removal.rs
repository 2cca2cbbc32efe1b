//! Mass removal: what a bad export, a sort or a full disk makes of the inventory must not reach the sites by itself.
//!
//! `publish` of the whole fleet stops where a site would lose over half of its phones and over two, where the fleet
//! would, and where a site's file is gone. It goes on after a yes, with `--yes`, or for sites that are named.

use anyhow::ensure;

use crate::ask;
use crate::inventory::FleetInventory;
use crate::orphans;
use repository::layout::Layout;
use repository::ledger::Ledger;
use telemetry::Hint as _;

/// Whether so many phones of `before` are gone that somebody must say that this is right.
const fn is_mass(before: usize, after: usize) -> bool {
    let gone = before.saturating_sub(after);
    gone > 2 && gone * 2 > before
}

/// What publishing the whole fleet would take away on a large scale, a line each.
pub(crate) fn losses(layout: &Layout, inventory: &FleetInventory) -> anyhow::Result<Vec<String>> {
    let ledger = Ledger::read(layout);
    let mut losses = Vec::new();
    for orphan in orphans::of(layout, inventory)? {
        // A run that went on without the site has noted since when it is gone.
        if ledger.sites.get(&orphan.site).is_some_and(|entry| entry.gone.is_none()) {
            losses.push(format!("- site {} ({}): sites/{}.toml is gone", orphan.name, orphan.site, orphan.name));
        }
    }
    let by_site = inventory.phones_by_site();
    let (mut all_before, mut all_after) = (0usize, 0usize);
    for site in inventory.sites.values() {
        let Some(before) = ledger.sites.get(&site.id).and_then(|entry| entry.phones) else { continue };
        let after = by_site.get(site.name.as_str()).map_or(0, Vec::len);
        (all_before, all_after) = (all_before + before, all_after + after);
        if is_mass(before, after) {
            losses.push(format!("- {}: {} of its {before} phones", site.name, before - after));
        }
    }
    if losses.is_empty() && is_mass(all_before, all_after) {
        losses.push(format!("- {} of the fleet's {all_before} phones", all_before - all_after));
    }
    Ok(losses)
}

/// Before a publish of the whole fleet: asks about mass removal, unless `yes`.
pub(crate) fn ask_about(layout: &Layout, yes: bool) -> anyhow::Result<()> {
    let mut problems = Vec::new();
    let inventory = FleetInventory::read(layout, &mut problems);
    // With problems, nothing is published anyway, and lines that cannot be read are no phones that were removed.
    let Some(inventory) = inventory.filter(|_| problems.is_empty() && !yes) else { return Ok(()) };
    let losses = losses(layout, &inventory)?;
    if losses.is_empty() {
        return Ok(());
    }
    let question = format!("this takes much away:\n  {}\nPublish all the same?", losses.join("\n  "));
    agreed(&question).hint(
        "see what happened to sites/ and phones.csv (`git diff`, `lineside-hq plan`); if that is right, answer y, say \
         --yes, or name the sites; `site revoke` locks out the appliance of a site that is gone",
    )
}

fn agreed(question: &str) -> anyhow::Result<()> {
    ensure!(ask::is_yes(question)?, "nothing was published, because nobody agreed to the removal");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn over_half_and_over_two_are_a_mass() {
        let mass = [(3, 0), (4, 1), (5, 2), (100, 49)];
        let none = [(0, 0), (1, 0), (2, 0), (4, 2), (6, 3), (100, 50), (3, 9)];
        assert!(mass.into_iter().all(|(before, after)| is_mass(before, after)));
        assert!(!none.into_iter().any(|(before, after)| is_mass(before, after)));
    }
}
