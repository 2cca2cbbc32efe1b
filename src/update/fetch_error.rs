//! What can go wrong between us and a server, and what that means for people and for the next poll.

use std::time::Duration;

use api::{HqRefusal, Refusal, SiteState};
use store::StoreError;

/// Why something could not be fetched.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// No connection, or it broke.
    #[error("{host} cannot be reached: {why}")]
    Unreachable {
        /// The host and port that we tried.
        host: String,
        /// What the network said.
        why: String,
    },
    /// The server's certificate is not one of HQ's.
    #[error("the certificate of {host} is refused: {why}")]
    Certificate {
        /// The host and port that showed it.
        host: String,
        /// What is wrong with the certificate.
        why: String,
    },
    /// The server ended TLS with an alert, for example because it refuses our certificate.
    #[error("{host} refuses the connection: {why}")]
    Alert {
        /// The host and port.
        host: String,
        /// TLS's name of the alert.
        why: String,
    },
    /// A status that has no meaning here.
    #[error("{host} answers with status {status}{}", refusal.as_ref().map(|r| format!(": {} ({})", r.reason, r.code)).unwrap_or_default())]
    Status {
        /// The host and port.
        host: String,
        /// The status code of HTTP.
        status: u16,
        /// `Retry-After`, if it came.
        retry_after: Option<Duration>,
        /// HQ's reason, if it gave one.
        refusal: Option<Refusal>,
    },
    /// The object is not there.
    #[error("{0} is not there")]
    Missing(String),
    /// More bytes came, or were announced, than are allowed.
    #[error("the answer is over the {limit} bytes allowed")]
    TooLarge {
        /// How many bytes are allowed.
        limit: u64,
    },
    /// Fewer bytes came than were announced.
    #[error("the connection to {0} broke before everything was here")]
    Truncated(String),
    /// The bytes came more slowly than the minimum rate.
    #[error("{0} sends too slowly")]
    Stalled(String),
    /// The disk refused.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The address is no `https` URL.
    #[error("`{0}` is no https URL")]
    Url(String),
}

impl FetchError {
    /// The state of a site whose poll ended with this.
    pub fn state(&self) -> SiteState {
        match self {
            Self::Unreachable { .. } | Self::Truncated(_) | Self::Stalled(_) | Self::Url(_) => SiteState::Unreachable,
            Self::Certificate { .. } | Self::Alert { .. } => SiteState::Certificate,
            Self::Status { .. } if self.refusal().is_some_and(HqRefusal::is_about_certificate) => {
                SiteState::Certificate
            }
            Self::Status { .. } => SiteState::Http,
            Self::Missing(_) => SiteState::MissingObject,
            Self::TooLarge { .. } => SiteState::TooLarge,
            Self::Store(error) => store_state(error),
        }
    }

    /// How long the server asked to be left alone.
    pub const fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Status { retry_after, .. } => *retry_after,
            _ => None,
        }
    }

    /// Why HQ refuses, if it said so in a code that we know.
    pub fn refusal(&self) -> Option<HqRefusal> {
        match self {
            Self::Status { refusal: Some(refusal), .. } => HqRefusal::from_code(&refusal.code),
            _ => None,
        }
    }

    /// Whether a new client certificate may help. HQ may say that ours has expired; or a server refuses us while our
    /// clock is too unsure to tell why.
    pub fn calls_for_renewal(&self, clock_synchronised: bool) -> bool {
        let perhaps = matches!(self, Self::Alert { .. } | Self::Status { status: 400 | 401 | 403 | 495 | 496, .. });
        self.refusal() == Some(HqRefusal::CertificateExpired) || (perhaps && !clock_synchronised)
    }
}

/// The state of a site whose poll ended with this error of the disk.
pub(super) const fn store_state(error: &StoreError) -> SiteState {
    match error {
        StoreError::Full { .. } => SiteState::DiskFull,
        StoreError::Corrupt(_) | StoreError::Missing(_) => SiteState::Corrupt,
        StoreError::TooLong { .. } | StoreError::TooLarge { .. } => SiteState::TooLarge,
        StoreError::Conflict(_) => SiteState::Refused,
        StoreError::TrustLost => SiteState::TrustLost,
        _ => SiteState::Disk,
    }
}
