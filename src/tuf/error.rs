//! Why metadata is turned away.

use ids::UnixTime;

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
    /// A version below one that was trusted before; 0 for a role that is no longer listed.
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
