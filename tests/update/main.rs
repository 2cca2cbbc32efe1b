//! The appliance's pull side against a server that says anything: `client` the HTTPS client, `enrol` and `site` a
//! whole tiny HQ in one process.
#![cfg(feature = "demo")]
#![allow(
    unreachable_pub,
    clippy::cast_possible_truncation,
    clippy::disallowed_methods,
    clippy::unwrap_used,
    clippy::indexing_slicing
)]
#![allow(clippy::expect_used, missing_docs)]

mod again;
mod client;
mod clocks;
mod enrol;
mod firmware;
mod hostile;
mod hq;
mod nginx;
mod pki;
mod real_hq;
mod restore;
mod sealing_key;
mod server;
mod site;
