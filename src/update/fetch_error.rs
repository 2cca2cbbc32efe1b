//! What can go wrong between us and a server, and what that means for people and for the next poll.

use std::time::Duration;

use api::Refusal;
use store::StoreError;

/// HQ's codes of refusal that are about our certificate.
const REFUSED_CERTIFICATE: [&str; 4] = ["certificate-expired", "certificate-unknown", "no-certificate", "revoked"];

/// Why something could not be fetched.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// No connection, or it broke.
    #[error("{host} cannot be reached: {why}")]
    Unreachable {
        /// Whom we tried.
        host: String,
        /// What the network said.
        why: String,
    },
    /// The server's certificate is not one of HQ's.
    #[error("the certificate of {host} is refused: {why}")]
    Certificate {
        /// Who showed it.
        host: String,
        /// What is wrong with it.
        why: String,
    },
    /// The server ended TLS with an alert, for example because it refuses our certificate.
    #[error("{host} refuses the connection: {why}")]
    Alert {
        /// Who.
        host: String,
        /// The alert.
        why: String,
    },
    /// Another status than those that mean something.
    #[error("{host} answers with status {status}{}", refusal.as_ref().map(|r| format!(": {} ({})", r.reason, r.code)).unwrap_or_default())]
    Status {
        /// Who.
        host: String,
        /// The status code.
        status: u16,
        /// `Retry-After`, if it came.
        retry_after: Option<Duration>,
        /// HQ's reason, if it gave one.
        refusal: Option<Refusal>,
    },
    /// The object is not there.
    #[error("{0} is not there")]
    Missing(String),
    /// More bytes than allowed.
    #[error("the answer is over the {limit} bytes allowed")]
    TooLarge {
        /// How many are.
        limit: u64,
    },
    /// Fewer bytes than announced.
    #[error("the connection to {0} broke before everything was here")]
    Truncated(String),
    /// Slower than the minimum rate.
    #[error("{0} sends too slowly")]
    Stalled(String),
    /// The disk refused.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Not an `https` URL.
    #[error("`{0}` is no https URL")]
    Url(String),
}

impl FetchError {
    /// A stable code for status and check-in: `unreachable`, `certificate`, `http`, `missing-object`, `too-large`,
    /// `disk`, `disk-full`, `corrupt`.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Unreachable { .. } | Self::Truncated(_) | Self::Stalled(_) | Self::Url(_) => "unreachable",
            Self::Certificate { .. } | Self::Alert { .. } => "certificate",
            Self::Status { refusal: Some(refusal), .. } if REFUSED_CERTIFICATE.contains(&refusal.code.as_str()) => {
                "certificate"
            }
            Self::Status { .. } => "http",
            Self::Missing(_) => "missing-object",
            Self::TooLarge { .. } => "too-large",
            Self::Store(error) => store_code(error),
        }
    }

    /// How long the server asked to be left alone.
    pub const fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Status { retry_after, .. } => *retry_after,
            _ => None,
        }
    }

    /// HQ's code of refusal, if it gave one.
    fn refusal(&self) -> Option<&str> {
        match self {
            Self::Status { refusal: Some(refusal), .. } => Some(&refusal.code),
            _ => None,
        }
    }

    /// Whether a new client certificate may help: HQ says that ours has expired, or somebody refuses us while our
    /// own clock is too unsure to tell.
    pub fn calls_for_renewal(&self, clock_synchronised: bool) -> bool {
        let perhaps = matches!(self, Self::Alert { .. } | Self::Status { status: 400 | 401 | 403 | 495 | 496, .. });
        self.refusal() == Some("certificate-expired") || (perhaps && !clock_synchronised)
    }
}

/// The state code of a disk error.
pub(super) const fn store_code(error: &StoreError) -> &'static str {
    match error {
        StoreError::Full { .. } => "disk-full",
        StoreError::Corrupt(_) | StoreError::Missing(_) => "corrupt",
        StoreError::TooLong { .. } | StoreError::TooLarge { .. } => "too-large",
        StoreError::Conflict(_) => "refused",
        StoreError::TrustLost => "trust-lost",
        _ => "disk",
    }
}
