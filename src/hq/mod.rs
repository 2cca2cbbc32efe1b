//! HQ: inventory and templates in; rendered, sealed, signed site repositories out; enrolment and a fleet view.
//!
//! The fleet directory ([`layout`]) is the user interface: plain files in git. The offline half reads it and
//! publishes; the small online half ([`service`]) runs from `online/` alone.
//!
//! Read in this order: [`layout`], [`inventory`] and [`templates`] (what people write), [`render`] (what phones
//! get), [`lint`] (what is wrong with it), [`publish`] (what sites download), then [`plan`] and [`preview`], which
//! read the published state back by the code that sites run.

pub mod ca;
pub mod cli;
pub mod db;
pub mod enrol;
pub mod expiry;
pub mod fleet;
pub mod images;
pub mod init;
pub mod inventory;
pub mod keyring;
pub mod keys;
pub mod layout;
pub mod lint;
pub mod lock;
mod parallel;
pub mod plan;
pub mod preview;
pub mod problem;
pub mod progress;
pub mod publish;
pub mod render;
pub mod secrets;
pub mod service;
pub mod source;
pub mod templates;
#[cfg(test)]
mod testing;
pub mod trust;
