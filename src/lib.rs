#![doc = include_str!("ARCHITECTURE.md")]

// Rooms in data-flow order: each may import those above it, never those below (tests/rules.rs).
pub mod ids;
pub mod telemetry;

pub mod api;
pub mod bundle;
pub mod tuf;

pub mod access;

#[cfg(feature = "hq")]
pub mod hq;

#[cfg(feature = "appliance")]
pub mod dhcp;
#[cfg(feature = "appliance")]
pub mod status;
#[cfg(feature = "appliance")]
pub mod store;
#[cfg(feature = "appliance")]
pub mod tftp;
#[cfg(feature = "appliance")]
pub mod update;

#[cfg(feature = "appliance")]
pub mod appliance;

#[cfg(feature = "demo")]
pub mod demo;
