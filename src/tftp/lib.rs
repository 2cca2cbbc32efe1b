//! The TFTP server for phones.
//!
//! It speaks RFC 1350, 2347 (options), 2348 (`blksize`), 2349 (`timeout`, `tsize`) and 7440 (`windowsize`). It serves files,
//! and takes phones' logs at sites that want them.
//!
//! Read [`packet`], then [`options`]. [`transfer`] decides everything about one file that is served, and [`receive`] about one
//! log that is taken. [`endpoint`] decides everything else: it asks [`access`] who may have which file, keeps the transfers
//! and the bounds, and says by which way a packet leaves. None of them knows a socket. [`service`] moves the datagrams.

#![cfg_attr(test, allow(clippy::disallowed_methods, reason = "tests have clocks and files as they like"))]

pub mod endpoint;
pub mod netascii;
pub mod options;
pub mod packet;
pub mod receive;
mod rto;
pub mod service;
pub mod transfer;

pub use service::{BindError, Config, Feeds, PORTS, Service};
