//! The publisher's desk: it renders, seals and signs each site's repository from inventory and templates. It also has
//! the command line.
//!
//! The fleet directory ([`repository::layout`]) is the user interface: plain files in git. [`online`] serves what is
//! published; it does not depend on this room.
//!
//! Read in this order: [`inventory`], [`templates`], [`assets`] and [`images`] (what people write and put there),
//! [`render`] (the files that phones get), [`lint`] (problems of the fleet directory), [`publish`] (what sites
//! download), then [`plan`], which reads the published state back by the code that sites run, and [`preview`]. `host` is the way to HQ's
//! host, in this directory or on another machine: `login`, `pull`, `push`.

#![cfg_attr(test, allow(clippy::disallowed_methods, reason = "tests make and break files as they like"))]

mod address;
mod ask;
pub mod assets;
pub mod backup;
pub mod cli;
mod clock;
mod commit;
pub mod enrol;
mod host;
pub mod images;
pub mod init;
pub mod inventory;
mod issued_tokens;
pub mod keys;
mod keys_move;
pub mod lint;
pub mod loads;
mod login;
pub mod orphans;
mod parallel;
pub mod plan;
pub mod preview;
pub mod problem;
pub mod progress;
pub mod publish;
mod pull;
mod push;
mod recipients;
mod removal;
pub mod render;
pub mod revoked;
pub mod secrets;
pub mod site;
pub mod templates;
#[cfg(test)]
mod testing;
mod warnings;
