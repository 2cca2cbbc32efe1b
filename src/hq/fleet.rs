//! The fleet at a glance.

use std::path::Path;

use crate::ids::UnixTime;

/// One line.
#[derive(Debug, Clone)]
pub struct Row;

/// All lines.
pub fn rows(_database: &Path, _now: UnixTime) -> anyhow::Result<Vec<Row>> {
    todo!()
}

/// Prints them.
pub fn print(_rows: &[Row]) {}
