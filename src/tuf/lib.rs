//! Trust: The Update Framework, specification 1.0.x, in its standard wire format.
//!
//! The client workflow is pure: it is given metadata bytes and a time, and says what to fetch next or what is trusted.
//! Read [`schema`] (what is on the wire), [`key`], then [`client`]; HQ signs with [`sign`]. Inside: `json` and
//! `metadata` refuse what is no metadata, `verify` counts signatures, `trusted` keeps verified files and finds targets
//! (`paths`: who is asked for which), and `client` walks §5 step by step.
//!
//! Deliberately absent: key types other than Ed25519 (such keys are skipped), keys whose id is not their hash (§4.3),
//! mirrors, and everything that touches a network, a disk or a clock.

pub mod canonical;
pub mod client;
mod error;
mod json;
pub mod key;
mod metadata;
mod paths;
pub mod schema;
pub mod sign;
mod trusted;
mod verify;

#[cfg(test)]
mod tests;

pub use client::{Ask, MAX_ROLES, MetadataLimits, Refresh, RefreshStep, TrustError, Trusted};
pub use key::{KeyId, PublicKey, SigningKey};
