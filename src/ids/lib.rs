//! The types that every room uses. They are parsed once, where a value enters the program.
//!
//! A value of one of these types cannot be malformed, so no other code checks it again. [`text_serde!`] makes them text
//! in JSON and TOML. [`TokenBucket`] is the one way to limit how often something happens.

#![cfg_attr(test, allow(clippy::disallowed_methods, reason = "tests have clocks and files as they like"))]

mod digest;
mod file_name;
mod lan;
mod mac;
mod names;
mod text_serde;
mod token_bucket;

pub use digest::{Digest, DigestError};
pub use file_name::{FileName, FileNameError, MAX_FILE_NAME_BYTES};
pub use lan::{Lan, LanError, is_private, is_private_or_loopback};
pub use mac::{MacAddr, MacAddrError, Oui};
pub use names::{FleetId, Generation, IdError, MAX_ID_BYTES, SiteId, UnixTime};
pub use token_bucket::{Rate, TokenBucket};
