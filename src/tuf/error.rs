//! The reasons for which a client rejects metadata.

use ids::UnixTime;

/// Why metadata was rejected. What was trusted before stays trusted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TrustError {
    /// The file is not JSON, or not what §4 says.
    #[error("{role} metadata is malformed: {what}")]
    Malformed {
        /// The role whose file it is: `root`, `timestamp`, `snapshot`, `targets`, or the name of a delegated role.
        role: String,
        /// What breaks the format, in words for people; bounded in length, as it may quote the file.
        what: String,
    },
    /// Fewer trusted keys signed the file than the role's threshold (§5.3.4, §5.4.2, §5.5.3, §5.6.3).
    #[error("{role} metadata has {valid} of {threshold} signatures by trusted keys")]
    Untrusted {
        /// The role whose file it is.
        role: String,
        /// The number of trusted keys whose signature is valid.
        valid: u32,
        /// The number of keys that the delegator asks for.
        threshold: u32,
    },
    /// The version is below one that was trusted before (§5.3.5, §5.4.3, §5.5.5). A role that is no longer listed counts as
    /// version 0.
    #[error("{role} metadata has version {offered}, below {trusted}, which is trusted")]
    Rollback {
        /// The role whose version went down.
        role: String,
        /// The version of the new file, or the one that a new timestamp or snapshot lists.
        offered: u64,
        /// The version that was trusted before.
        trusted: u64,
    },
    /// The file has another version than the one that was asked for (§5.3.5, §5.5.4, §5.6.4).
    #[error("{role} metadata has version {offered}, but {expected} was asked for")]
    WrongVersion {
        /// The role whose file it is.
        role: String,
        /// The version in the file.
        offered: u64,
        /// The next root version, or the version that the timestamp or snapshot lists.
        expected: u64,
    },
    /// The bytes do not match a signed hash or length (§5.5.2, §5.6.2).
    #[error("{role} metadata is not the file that was signed for")]
    Mismatch {
        /// The role whose file it is.
        role: String,
    },
    /// The file has expired: the freeze check (§5.3.10, §5.4.4, §5.5.6, §5.6.5).
    #[error("{role} metadata expired at {expires}")]
    Expired {
        /// The role whose file it is.
        role: String,
        /// The `expires` of the file; it is not after the time of the refresh.
        expires: UnixTime,
    },
    /// The repository does not have a file that it must have.
    #[error("{role} metadata is missing")]
    Missing {
        /// The role whose file is missing.
        role: String,
    },
    /// The file is longer than is read of it ([`MetadataLimits`](crate::MetadataLimits)).
    #[error("{role} metadata is over {limit} bytes")]
    TooLarge {
        /// The role whose file it is.
        role: String,
        /// The most bytes that are read: the limit of the role, or the signed length if that is lower.
        limit: u64,
    },
}
