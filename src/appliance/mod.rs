//! TODO room

pub mod interface;
pub mod neighbours;
