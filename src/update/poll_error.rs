//! Why a poll did not end well, and what that means for the state of the site and for the next poll.

use std::time::Duration;

use super::anchors::AnchorError;
use super::check_in::AnswerError;
use super::fetch_error::{FetchError, store_state};
use super::identity::IdentityError;
use super::refresh::RefreshError;
use super::self_check::CheckError;
use super::tls::TlsError;
use access::{ReleaseError, metadata_refusal};
use api::{ReleaseRefusal, SiteState};
use ids::{Generation, UnixTime};
use store::StoreError;
use tuf::TrustError;

/// Why a poll did not end well.
#[derive(Debug, thiserror::Error)]
pub enum PollError {
    /// Something could not be fetched or stored.
    #[error(transparent)]
    Fetch(#[from] FetchError),
    /// Metadata was turned away.
    #[error("{code}: {0}", code = metadata_refusal(.0))]
    Trust(#[from] TrustError),
    /// Metadata is another site's, or does not say whose it is.
    #[error("{code}: {0}", code = ReleaseRefusal::OtherSite)]
    Other(#[from] AnchorError),
    /// The release was turned away.
    #[error("{code}: {0}", code = .0.refusal())]
    Release(#[from] ReleaseError),
    /// HQ has published nothing for this site.
    #[error("HQ has not published a release for this site yet")]
    NoRelease,
    /// The release in the signed metadata was given up here before.
    #[error("generation {0} failed its check here and is not tried again; publish a newer one")]
    Rejected(Generation),
    /// A person at the site went back from the release in the signed metadata.
    #[error(
        "a person went back from generation {0} here, and it is not tried again; `lineside-hq publish --again SITE` brings \
         its content as a newer one"
    )]
    LeftByHand(Generation),
    /// Other content than what is served bears the same number.
    #[error(
        "generation {0} is served here, and HQ has published other content under that number; `lineside-hq publish --again \
         SITE` brings it as a newer one"
    )]
    SameNumber(Generation),
    /// The release failed its self-check just now.
    #[error("generation {generation} is not activated: {source}")]
    SelfCheck {
        /// The generation of the release.
        generation: Generation,
        /// What is wrong with it.
        source: CheckError,
    },
    /// The activation window is shut.
    #[error("generation {0} is here and waits for the activation window")]
    Waiting(Generation),
    /// Signed metadata is past its expiry.
    #[error("the signed metadata expired at {0}; HQ must sign it again (`lineside-hq publish`)")]
    Stale(UnixTime),
    /// The trust state is gone.
    #[error("the trust state is lost ({0}); enrol this appliance again")]
    TrustLost(String),
    /// The total budget of a poll is used up.
    #[error("the poll took longer than allowed; it goes on where it stopped next time")]
    Budget,
    /// No TLS configuration can be made.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// HQ's answer to a check-in or a renewal cannot be used.
    #[error(transparent)]
    Answer(#[from] AnswerError),
    /// The identity cannot be used.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The disk refused.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl PollError {
    /// The state that the site is in for status and check-in.
    pub fn state(&self) -> SiteState {
        match self {
            Self::Fetch(error) => error.state(),
            Self::Trust(TrustError::Expired { .. }) | Self::Stale(_) => SiteState::Stale,
            Self::Trust(_) | Self::Other(_) | Self::Release(_) | Self::SameNumber(_) => SiteState::Refused,
            Self::NoRelease => SiteState::NoRelease,
            Self::Rejected(_) | Self::LeftByHand(_) | Self::SelfCheck { source: CheckError::WrongContent(_), .. } => {
                SiteState::RolledBack
            }
            Self::SelfCheck { .. } => SiteState::Corrupt,
            Self::Waiting(_) => SiteState::Waiting,
            Self::TrustLost(_) => SiteState::TrustLost,
            Self::Budget => SiteState::Unreachable,
            Self::Tls(_) => SiteState::Certificate,
            Self::Answer(_) => SiteState::Answer,
            Self::Identity(_) => SiteState::Identity,
            Self::Store(error) => store_state(error),
        }
    }

    /// How long the server asked to be left alone.
    pub const fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Fetch(error) => error.retry_after(),
            _ => None,
        }
    }

    /// Whether the next poll should come later than usual. Waiting for HQ to publish is not a failure.
    pub const fn backs_off(&self) -> bool {
        !matches!(self, Self::NoRelease | Self::Stale(_) | Self::Waiting(_) | Self::Rejected(_) | Self::LeftByHand(_))
    }
}

impl From<RefreshError> for PollError {
    fn from(error: RefreshError) -> Self {
        match error {
            RefreshError::Fetch(error) => error.into(),
            RefreshError::Trust(error) => error.into(),
            RefreshError::Other(error) => error.into(),
        }
    }
}
