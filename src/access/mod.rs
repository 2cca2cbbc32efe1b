//! Who may fetch which file. Pure: no socket, no clock, no disk.
//!
//! TFTP says nothing about who asks. An address is bound to a device by a lease or the kernel's neighbour table
//! ([`devices`]), a file to its owner by the manifest ([`catalog`]), and [`policy`] decides. [`guard`] notices
//! devices that guess. [`owner`] reads MAC addresses out of names.

pub mod catalog;
pub mod content;
pub mod devices;
pub mod guard;
pub mod owner;
pub mod policy;
pub mod release;

pub use catalog::{Catalog, CatalogError};
pub use content::{Content, ContentError, Files};
pub use devices::{DeviceTable, Resolution};
pub use policy::{Decision, Policy, Reason, Request};
pub use release::{MANIFEST_TARGET, Opened, OpenedManifest, ReleaseError};
