//! What HQ packs for one site: a manifest, shards of file entries, and the blobs they name.
//!
//! This room turns sealed bytes into checked content. Nothing in it does I/O. `FORMAT.md` describes the format byte by
//! byte, enough to write another reader from. Read [`manifest`] first (what a
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
    Class, DhcpMode, DhcpSettings, FileEntry, HqAddress, Image, Inventory, Manifest, ObjectRef, Packing, Phone, Scope,
    Shard, SiteSettings, TftpSettings, Totals, VendorOption,
};
