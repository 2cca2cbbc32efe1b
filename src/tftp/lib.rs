//! TFTP for phones: an engine of our own.
//!
//! It speaks RFC 1350, 2347 (options), 2348 (`blksize`), 2349 (`timeout`, `tsize`) and 7440 (`windowsize`), reads, and the logs that a site takes.
//! Read [`packet`], then [`options`], then [`transfer`], which decides everything about one transfer and knows no
//! socket, and its counterpart [`receive`]; [`service`] moves datagrams, asks [`access`] who may have what, and keeps the bounds.

pub mod netascii;
pub mod options;
pub mod packet;
pub mod receive;
mod rto;
pub mod service;
pub mod transfer;

pub use service::{BindError, Config, Feeds, Service};
