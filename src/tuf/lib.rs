//! Trust: The Update Framework, specification 1.0.x, in its standard wire format.
//!
//! The client workflow is pure: it is given metadata bytes and a time, and says what to fetch next or what is trusted.
//! Read [`schema`] (what is on the wire), [`key`], then [`client`]; HQ signs with [`sign`]. Inside: `json` and
//! `metadata` refuse what is no metadata, `verify` counts signatures, `trusted` keeps verified files and finds targets
//! (`paths`: who is asked for which), `client` walks §5.2 to §5.6 step by step, and [`search`]
//! finds a target, and fetches the delegated roles that it needs for that (§5.6.7).
//!
//! Deliberately absent: signing with other keys than Ed25519 (`foreign_key` verifies ECDSA P-256 and RSA-PSS), keys whose
//! id is not their hash (§4.3), mirrors, and everything that touches a network, a disk or a clock.

pub mod canonical;
pub mod client;
mod error;
mod foreign_key;
mod json;
pub mod key;
mod metadata;
mod paths;
pub mod schema;
pub mod search;
pub mod sign;
mod trusted;
mod verify;

#[cfg(test)]
mod tests;

pub use client::{Ask, MAX_ROLES, MetadataLimits, Refresh, RefreshStep, TrustError, Trusted};
pub use key::{KeyId, PublicKey, SigningKey};
pub use search::{Search, SearchStep};
