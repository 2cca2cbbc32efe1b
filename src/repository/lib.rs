//! The published tree and its keys: what the publisher's desk and HQ's host share.
//!
//! Read [`layout`] (the paths), [`roles`] (what HQ writes into metadata), [`keyring`] (key files), [`tree`] (how files
//! get into the published tree), [`published`] (how they are read back, by the code that sites run), then [`ledger`]
//! (what the publisher remembers), [`collect`] (what is deleted), [`lock`] (who may write the tree), [`witness`] (which clock
//! may sign), [`ownership`] (whose the files are) and [`expiry`] (what expires soon).

#![cfg_attr(test, allow(clippy::disallowed_methods, reason = "tests make and break files as they like"))]

pub mod collect;
pub mod expiry;
pub mod keyring;
pub mod layout;
pub mod ledger;
pub mod lock;
pub mod ownership;
pub mod published;
pub mod roles;
pub mod tree;
pub mod witness;
