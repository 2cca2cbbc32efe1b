//! The decision: who asks, for what, and what we say.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Instant;

use super::catalog::Catalog;
use super::devices::Resolution;
use crate::bundle::FileEntry;
use crate::ids::{FileName, MacAddr};

/// One request for a file.
#[derive(Debug, Clone, Copy)]
pub struct Request<'a> {
    /// Where it came from.
    pub address: Ipv4Addr,
    /// Who that is.
    pub requester: Resolution,
    /// What is wanted.
    pub name: &'a FileName,
}

/// What to do with a request.
#[derive(Debug, Clone)]
pub enum Decision {
    /// Serve it.
    Serve(Arc<FileEntry>),
    /// `ERROR 1 "File not found"`, at once, whatever the reason is.
    NotFound(Reason),
    /// No answer at all: outside the LAN, or over a rate limit.
    Silence(Reason),
}

/// Why a request was not served. Counted and kept; the requester never learns it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Reason {
    /// No such file in the release.
    NotFound,
    /// It is another device's.
    OtherDevice,
    /// It is for another model.
    OtherModel,
    /// The requester's device is not known or disputed.
    UnknownDevice,
    /// The requester guessed names and is locked out.
    LockedOut,
    /// Too many requests.
    RateLimited,
    /// Not from the site's LAN.
    OutsideLan,
}

impl Reason {
    /// A stable code: `not-found`, `other-device`, …
    pub const fn code(self) -> &'static str {
        match self {
            Self::NotFound => "not-found",
            Self::OtherDevice => "other-device",
            Self::OtherModel => "other-model",
            Self::UnknownDevice => "unknown-device",
            Self::LockedOut => "locked-out",
            Self::RateLimited => "rate-limited",
            Self::OutsideLan => "outside-lan",
        }
    }
}

/// Decides requests and remembers what it must to notice guessing and flooding.
#[derive(Debug)]
pub struct Policy {
    _private: (),
}

/// An event that someone should hear of once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GuessingDevice {
    /// Who, if known.
    pub device: Option<MacAddr>,
    /// From where.
    pub address: Ipv4Addr,
    /// How many names so far.
    pub names: u32,
}

impl Policy {
    /// A policy for clients of `lan` (network and prefix length).
    pub fn new(_lan: (Ipv4Addr, u8)) -> Self {
        todo!()
    }

    /// Decides one request, and says once when a device was locked out by it.
    pub fn decide(
        &mut self,
        _catalog: &Catalog,
        _request: &Request<'_>,
        _now: Instant,
    ) -> (Decision, Option<GuessingDevice>) {
        todo!()
    }
}
