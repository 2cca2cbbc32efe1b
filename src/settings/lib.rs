//! Reads the files that people write, and reports in one run everything that is wrong with them.
//!
//! Both programs read their settings here: the appliance `lineside.toml`, HQ `fleet.toml`, `sites/*.toml` and
//! `model.toml`. A [`Problem`] says file, line, what is wrong and what to try. Read in this order: `problem`, `source`
//! (a file's text, of bounded size), `table` (TOML whose keys have lines), `dhcp` (`[dhcp]`, the one table that means
//! the same on both sides).
//!
//! # How far serde goes
//!
//! `#[derive(Deserialize)]` with `deny_unknown_fields` over the whole file would be shorter, but it stops at the first
//! problem. Somebody who sets up an appliance at a site over the telephone needs all problems at once. So a [`Table`]
//! is read key by key. serde reads each value, and `serde_path_to_error` says which item of a list is wrong. The table
//! does what `deny_unknown_fields` does: a key that nobody asked for is an unknown key. Reading a key also makes it
//! known, so the guess at a misspelt key cannot come from an outdated list.

#![cfg_attr(test, allow(clippy::disallowed_methods, reason = "tests make and break files as they like"))]

mod dhcp;
mod problem;
pub mod sample;
mod source;
mod table;

pub use dhcp::read_dhcp;
pub use problem::{Problem, count};
pub use source::{MAX_TEXT_BYTES, Source, unreadable};
pub use table::{Table, Wrong, nearest};
