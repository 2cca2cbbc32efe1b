//! Bytes of the appliance's program.

use crate::Table;
use crate::world::lineside;

pub fn chapter(table: &mut Table) {
    println!("\nthe program");
    let bytes = std::fs::metadata(lineside()).unwrap().len();
    table.row("lineside as this benchmark built it (with HQ's features on)", bytes as f64 / 1e6, "MB", None);
}
