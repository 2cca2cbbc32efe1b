//! Trust: The Update Framework, specification 1.0.x, in its standard wire format.
//!
//! The client workflow is pure: told metadata bytes and a time, it says what to fetch next or what is trusted.
//! Read [`schema`] (what is on the wire), [`key`], then [`client`]; HQ signs with [`sign`].

pub mod canonical;
pub mod client;
pub mod key;
pub mod schema;
pub mod sign;

pub use client::{Ask, Limits, Refresh, Step, TrustError, Trusted};
pub use key::{KeyId, PublicKey, SigningKey};
