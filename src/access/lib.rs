//! Who may fetch which file. Pure: no socket, no clock, no disk.
//!
//! TFTP says nothing about who asks. An address is bound to a device by a lease or the kernel's neighbour table
//! ([`devices`]), a file to its owner by the manifest ([`catalog`]), and [`policy`] decides. [`guard`] notices
//! devices that guess, [`behind`] phones behind a repeater, [`rate`] those that flood. [`owner`] reads MAC addresses out of names. [`release`] is the only way
//! from signed metadata and sealed bytes to a catalog.

#![cfg_attr(test, allow(clippy::disallowed_methods, reason = "tests have clocks and files as they like"))]

pub mod behind;
pub mod catalog;
pub mod content;
pub mod devices;
pub mod guard;
pub mod image;
pub mod logs;
pub mod owner;
pub mod policy;
pub mod rate;
pub mod release;

pub use behind::PhonesBehind;
pub use catalog::{Catalog, CatalogError};
pub use content::{Content, ContentError, Files};
pub use devices::{AddressChange, DeviceTable, Resolution, SharedDevices};
pub use image::{BoardImage, ImageApproval};
pub use logs::{LogError, LogKind, Logs, OwnLog};
pub use policy::{Decision, FileRequest, GuessingDevice, Policy};
pub use rate::RequestRates;
pub use release::{
    MANIFEST_TARGET, Opened, OpenedManifest, ReleaseError, UnapprovedRelease, firmware_path, metadata_refusal,
};
