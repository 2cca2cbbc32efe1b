//! What HQ packs for one site: a manifest, shards of file entries, and the blobs they name.
//!
//! Bytes become checked content here and content becomes bytes; nothing in this room does I/O. The format is
//! written down byte by byte in `FORMAT.md`, enough to write another reader from. Read [`manifest`] first (what a
//! bundle says), then [`object`] and [`recipients`] (how it is sealed and opened).

pub mod key;
pub mod limits;
pub mod manifest;
pub mod object;
pub mod packing;
pub mod recipients;
pub mod shards;
pub mod stream;
pub mod validate;

pub use key::{ContentKey, RecipientPublic, RecipientSecret};
pub use manifest::{
    Class, DhcpMode, DhcpSettings, FileEntry, Image, Inventory, Manifest, ObjectRef, Packing, Phone, Scope, Shard,
    SiteSettings, TftpSettings, Totals, VendorOption,
};
