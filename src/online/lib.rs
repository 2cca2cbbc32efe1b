//! HQ's host: the published tree by client certificate, enrolment, renewal, check-in, and the fleet as it reported.
//!
//! It runs from `online/` alone, so it can live on a machine that has never seen an offline key. It can neither read
//! nor forge what it serves: this crate does not reach what seals, templates or secrets.
//!
//! Read [`ca`] (who is who), [`db`] (what is remembered), [`admit`] (who is let in), [`freshen`] (what the online key
//! can do), [`service`] (what is answered to whom), then [`fleet`] (how the sites are).

#![cfg_attr(test, allow(clippy::disallowed_methods, reason = "tests make and break files as they like"))]

pub mod admit;
pub mod ca;
pub mod db;
pub mod fleet;
pub mod freshen;
pub mod service;
#[cfg(test)]
mod testing;
