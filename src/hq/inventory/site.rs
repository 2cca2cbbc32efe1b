//! Reads `sites/NAME.toml`.

use super::{Fleet, InventorySite, read_variables, tables};
use ids::Digest;
use settings::{Problem, Source};

/// Reads one file. `None` if it has no usable id.
pub(super) fn read(source: &Source, name: &str, fleet: &Fleet, problems: &mut Vec<Problem>) -> Option<InventorySite> {
    let mut table = source.toml(problems);
    let id = table.required("id", problems);
    let mut own = fleet.settings.clone();
    tables::apply(&mut table, &mut own, problems);
    let vars = read_variables(table.table("variables", problems), problems);
    table.finish(problems);
    let (_, id) = id?;
    let source = Digest::of(source.text.as_bytes());
    Some(InventorySite { name: name.to_owned(), id, settings: own, variables: vars, source })
}
