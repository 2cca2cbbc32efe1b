#![doc = include_str!("ARCHITECTURE.md")]

// Each room is a crate; `Cargo.toml` says which of them a feature brings.
pub use ids;
pub use telemetry;

#[cfg(any(feature = "appliance", feature = "hq"))]
pub use {access, api, bundle, tuf};

#[cfg(feature = "appliance")]
pub use {appliance, dhcp, ethernet, status, store, tftp, update};

#[cfg(feature = "hq")]
pub use {hq, online, repository, seal};

#[cfg(feature = "demo")]
pub mod demo;
