//! The client workflow (specification §5), as a machine without I/O.

use std::collections::BTreeMap;

use super::schema::{Root, Snapshot, Target, Targets, Timestamp};
use crate::ids::UnixTime;

/// How much of each metadata file is read at the most, in bytes, when nothing signed says it.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// `root`.
    pub root_bytes: u64,
    /// `timestamp`.
    pub timestamp_bytes: u64,
    /// `snapshot`.
    pub snapshot_bytes: u64,
    /// `targets` and delegated roles.
    pub targets_bytes: u64,
    /// How many new roots one refresh follows.
    pub root_rotations: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            root_bytes: 64 * 1024,
            timestamp_bytes: 16 * 1024,
            snapshot_bytes: 64 * 1024,
            targets_bytes: 2 * 1024 * 1024,
            root_rotations: 256,
        }
    }
}

/// Metadata that held: what a client keeps between refreshes. Bytes as they were signed, and what they say.
#[derive(Debug, Clone)]
pub struct Trusted {
    _private: (),
}

impl Trusted {
    /// Trust begins with a root that was pinned (§5.2): its own signatures must hold; expiry is checked later.
    pub fn pin(_root: &[u8]) -> Result<Self, TrustError> {
        todo!()
    }

    /// What was trusted before, re-verified from its bytes by the same steps but without expiry. Files are named as
    /// in [`Trusted::files`]. A file that does not hold is an error: rollback floors must not be lost silently.
    pub fn reopen(_files: &BTreeMap<String, Vec<u8>>) -> Result<Self, TrustError> {
        todo!()
    }

    /// The trusted bytes under unversioned names: `root.json`, `timestamp.json`, `snapshot.json`, `targets.json`,
    /// `firmware.json`, as far as they are there.
    pub fn files(&self) -> BTreeMap<String, Vec<u8>> {
        todo!()
    }

    /// The trusted root.
    pub fn root(&self) -> &Root {
        todo!()
    }

    /// The trusted timestamp.
    pub fn timestamp(&self) -> Option<&Timestamp> {
        todo!()
    }

    /// The trusted snapshot.
    pub fn snapshot(&self) -> Option<&Snapshot> {
        todo!()
    }

    /// The trusted top-level targets.
    pub fn targets(&self) -> Option<&Targets> {
        todo!()
    }

    /// A trusted delegated role.
    pub fn delegated(&self, _role: &str) -> Option<&Targets> {
        todo!()
    }

    /// The target of this path: top level first, then delegations in order, preorder depth first (§5.6.7).
    pub fn target(&self, _path: &str) -> Option<&Target> {
        todo!()
    }

    /// The earliest expiry among the trusted timestamp, snapshot and targets, and root.
    pub fn expires(&self) -> UnixTime {
        todo!()
    }
}

/// What to fetch next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ask {
    /// The role, for messages: `root`, `timestamp`, …
    pub role: String,
    /// Relative to the metadata URL: `2.root.json`, `timestamp.json`, `7.snapshot.json`.
    pub path: String,
    /// Read no more than this.
    pub max_bytes: u64,
    /// Whether its absence is normal (the next root).
    pub may_be_missing: bool,
}

/// What a refresh wants.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Fetch this and say [`Refresh::received`] or [`Refresh::missing`].
    Fetch(Ask),
    /// Everything is trusted and current.
    Done,
}

/// One refresh: specification §5.2 to §5.6, including every delegated role reachable from `targets`.
#[derive(Debug)]
pub struct Refresh {
    _private: (),
}

impl Refresh {
    /// Starts from what is trusted. `now` is fixed for the whole refresh (§5.1).
    pub fn start(_trusted: Trusted, _limits: Limits, _now: UnixTime) -> Self {
        todo!()
    }

    /// What to do next.
    pub fn step(&self) -> Step {
        todo!()
    }

    /// The bytes asked for. An error ends the refresh; [`Refresh::trusted`] then has what held before that.
    pub fn received(&mut self, _bytes: &[u8]) -> Result<(), TrustError> {
        todo!()
    }

    /// The file asked for is not there (HTTP 404 or 403).
    pub fn missing(&mut self) -> Result<(), TrustError> {
        todo!()
    }

    /// What is trusted now: all of the refresh if [`Step::Done`] was reached; else what may be kept of it (§5.3, §5.4:
    /// new roots and a new timestamp are kept even when a later step fails).
    pub fn trusted(&self) -> &Trusted {
        todo!()
    }
}

/// Why metadata was turned away. What was trusted before stays.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TrustError {
    /// Not JSON, or not what the specification says.
    #[error("{role} metadata is malformed: {what}")]
    Malformed {
        /// Of which role.
        role: String,
        /// What is wrong.
        what: String,
    },
    /// Too few valid signatures by trusted keys.
    #[error("{role} metadata has {valid} of {threshold} signatures by trusted keys")]
    Untrusted {
        /// Of which role.
        role: String,
        /// How many held.
        valid: u32,
        /// How many it takes.
        threshold: u32,
    },
    /// A version below one that was trusted before.
    #[error("{role} metadata has version {offered}, below {trusted}, which is trusted")]
    Rollback {
        /// Of which role.
        role: String,
        /// What came.
        offered: u64,
        /// What was there.
        trusted: u64,
    },
    /// Another version than asked for.
    #[error("{role} metadata has version {offered}, but {expected} was asked for")]
    WrongVersion {
        /// Of which role.
        role: String,
        /// What came.
        offered: u64,
        /// What should have.
        expected: u64,
    },
    /// Bytes that do not match a signed hash or length.
    #[error("{role} metadata is not the file that was signed for")]
    Mismatch {
        /// Of which role.
        role: String,
    },
    /// Past its expiry.
    #[error("{role} metadata expired at {expires}")]
    Expired {
        /// Of which role.
        role: String,
        /// When.
        expires: UnixTime,
    },
    /// Not there although it must be.
    #[error("{role} metadata is missing")]
    Missing {
        /// Of which role.
        role: String,
    },
    /// Over a limit.
    #[error("{role} metadata is over {limit} bytes")]
    TooLarge {
        /// Of which role.
        role: String,
        /// How much is allowed.
        limit: u64,
    },
}

impl TrustError {
    /// A stable code for logs, status and check-in: `malformed`, `untrusted`, `rollback`, `wrong-version`,
    /// `mismatch`, `expired`, `missing`, `too-large`.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Malformed { .. } => "malformed",
            Self::Untrusted { .. } => "untrusted",
            Self::Rollback { .. } => "rollback",
            Self::WrongVersion { .. } => "wrong-version",
            Self::Mismatch { .. } => "mismatch",
            Self::Expired { .. } => "expired",
            Self::Missing { .. } => "missing",
            Self::TooLarge { .. } => "too-large",
        }
    }
}
