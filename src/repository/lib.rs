//! The published tree and its keys: what both halves of HQ, the publisher's desk and the host, share.
//!
//! Read [`layout`] (where things are), [`roles`] (what HQ writes into metadata), [`keyring`] (key files), [`tree`] (how
//! files get into the published tree), [`published`] (how they are read back, by the code that sites run), then
//! [`ledger`] (what the publisher remembers), [`lock`] (who writes the tree) and [`expiry`] (what ends soon).

#![cfg_attr(test, allow(clippy::disallowed_methods, reason = "tests make and break files as they like"))]

pub mod expiry;
pub mod keyring;
pub mod layout;
pub mod ledger;
pub mod lock;
pub mod published;
pub mod roles;
pub mod tree;
