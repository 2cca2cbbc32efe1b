//! HQ's host: it serves the published tree to sites with a client certificate, enrols appliances, renews their
//! certificates, takes check-ins and shows the fleet as it reported.
//!
//! It runs from `online/` alone, so it can live on a machine that has never seen an offline key. It can neither read
//! nor forge what it serves: this crate does not reach what seals, templates or secrets.
//!
//! Read [`ca`] (certificates), [`db`] (what is remembered), [`admit`] (which appliance may enrol), [`freshen`] (what
//! the online key can do), `clock` (whether this host's clock may sign), [`service`] (the HTTPS service), then [`fleet`]
//! (the table of sites). What a desk pushes from another machine: [`push`], [`push_incoming`], [`push_release`], [`desk`];
//! [`foreign_keys`] looks for keys that do not belong on this host.

#![cfg_attr(test, allow(clippy::disallowed_methods, reason = "tests make and break files as they like"))]

pub mod admit;
pub mod backup;
pub mod ca;
mod clock;
pub mod db;
pub mod desk;
pub mod fleet;
pub mod foreign_keys;
pub mod freshen;
pub mod issued;
pub mod push;
pub mod push_incoming;
pub mod push_release;
pub mod service;
#[cfg(test)]
mod testing;
