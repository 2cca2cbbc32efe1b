//! The product shown in one unprivileged process: a fresh HQ, two sites and simulated phones, on loopback.
//!
//! Nothing here is a mock of Lineside: HQ and the appliances run the code that is shipped. Only the phones are
//! simulated ([`phone`]), and the LAN is 127.0.0.0/8. [`stage`] sets up HQ and sites. [`scenario`] plays the scenes.
//! [`files`] serves a directory for load tests, as `directory` reads it.

#![expect(clippy::disallowed_methods, reason = "all of it is in a temporary folder")]

pub mod cli;
mod directory;
pub mod files;
pub mod phone;
pub mod scenario;
pub mod stage;
