//! Everything that seals and packs: what [`bundle`] opens is made here, at the publisher's desk and nowhere else.
//!
//! `FORMAT.md` of `bundle` says what the bytes are. Sealing is reproducible: every key comes from the publisher's secret
//! ([`PublisherSecret`]) and the hash of what it protects. Read [`object`] (blobs, shards, inventories), then
//! [`manifest`].

#![cfg_attr(test, allow(clippy::disallowed_methods, reason = "tests make and break files as they like"))]

pub mod manifest;
pub mod object;

mod key;
mod packing;
mod stream;
#[cfg(test)]
mod vectors;

pub use key::PublisherSecret;
