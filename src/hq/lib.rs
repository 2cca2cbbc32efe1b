//! The publisher's desk: inventory and templates in; rendered, sealed, signed site repositories out; the command line.
//!
//! The fleet directory ([`repository::layout`]) is the user interface: plain files in git. What is published goes to
//! [`online`], which serves it and knows nothing of this room.
//!
//! Read in this order: [`inventory`], [`templates`], [`assets`] and [`images`] (what people write and put there),
//! [`render`] (what phones get), [`lint`] (what is wrong with it), [`publish`] (what sites download), then [`plan`] and
//! [`preview`], which read the published state back by the code that sites run.

#![cfg_attr(test, allow(clippy::disallowed_methods, reason = "tests make and break files as they like"))]

pub mod assets;
pub mod cli;
pub mod enrol;
pub mod images;
pub mod init;
pub mod inventory;
pub mod keys;
pub mod lint;
pub mod loads;
mod parallel;
pub mod plan;
pub mod preview;
pub mod problem;
pub mod progress;
pub mod publish;
pub mod render;
pub mod secrets;
pub mod templates;
#[cfg(test)]
mod testing;
