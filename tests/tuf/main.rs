//! Trust as others see it: The Update Framework's own tools against ours, a second reader of bundles, key ceremonies
//! with a site that follows, and damage to every file that HQ publishes.
//!
//! `python_tuf`, `bundle` and `suite` need an interpreter with tests/tuf/requirements.txt (`tests/tuf/venv` makes one);
//! `suite` also needs a checkout of the conformance suite, which no package registry has.
#![cfg(feature = "demo")]
#![allow(
    unreachable_pub,
    clippy::cast_possible_truncation,
    clippy::disallowed_methods,
    clippy::unwrap_used,
    clippy::indexing_slicing
)]
#![allow(clippy::expect_used, missing_docs)]

mod bundle;
mod ceremony;
mod damage;
mod expiry;
mod fleet;
mod python;
mod python_tuf;
mod suite;
