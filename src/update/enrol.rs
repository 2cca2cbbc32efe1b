//! Enrolment: a token makes this appliance a site, once. A box ships unopened, and a file on its card is all it needs
//! (I22).
//!
//! Keys are made here and never leave. At any power cut the same token can be tried again with the same keys; once
//! HQ's certificate is in the journal, nothing needs HQ any more and the rest is repeated until it is done.

use data_encoding::HEXLOWER;

use super::anchors::{self, AnchorError};
use super::client::{Client, ClientLimits, FetchError, GetOutcome};
use super::clock::Timekeeper;
use super::clock::service::HostClock;
use super::enrolment_journal::{EnrolmentJournal, FinishError};
use super::identity::{EnrolledSite, IdentityError, SiteIdentity, signing_request};
use super::tls::{Anchors, TlsError};
use api::{self, Certificate, ENROL_PATH, EnrolFailure, EnrolRequest, EnrolmentToken, HqRefusal, ROOT_PATH, TokenKeys};
use bundle::RecipientSecret;
use ids::Digest;
use store::{Store, StoreError};
use tuf::{MetadataLimits, TrustError, Trusted};

/// Why an appliance did not become a site.
#[derive(Debug, thiserror::Error)]
pub enum EnrolError {
    /// HQ says that the token was used.
    #[error("the token was used before; make a new one with `lineside-hq site enroll`")]
    TokenUsed,
    /// HQ says that the token is too old.
    #[error("the token has expired; make a new one with `lineside-hq site enroll`")]
    TokenExpired,
    /// HQ does not know the token.
    #[error("HQ does not know the token; it was withdrawn or is for another HQ")]
    TokenUnknown,
    /// HQ says that the proof is wrong: the token file is damaged, or altered.
    #[error("HQ does not accept the token's proof; the token file is damaged or was altered")]
    ProofWrong,
    /// HQ refuses for another reason.
    #[error("HQ refuses: {reason} ({code})")]
    Refused {
        /// HQ's code.
        code: String,
        /// HQ's words.
        reason: String,
    },
    /// The server is not the HQ that the token names.
    #[error("the server at {hq} is not the HQ of this token: {why}")]
    WrongCa {
        /// HQ's address in the token.
        hq: String,
        /// What is wrong with the server's certificate.
        why: String,
    },
    /// HQ serves another root than the token pins.
    #[error("HQ's root is not the one that the token was made for; make a new token")]
    OtherRoot,
    /// The pinned root does not hold.
    #[error(transparent)]
    Root(#[from] TrustError),
    /// The root is another fleet's or names no CA.
    #[error(transparent)]
    Fleet(#[from] AnchorError),
    /// HQ cannot be reached or answers oddly.
    #[error("HQ cannot be reached: {0}")]
    Unreachable(#[source] FetchError),
    /// HQ's answer cannot be used.
    #[error("HQ's answer cannot be used: {0}")]
    Answer(String),
    /// What HQ issued is not for us, or identity files cannot be written.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The disk refused.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// No TLS configuration can be made from this token.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// No key can be made.
    #[error("no key can be made: {0}")]
    Key(String),
}

impl EnrolError {
    /// How the enrolment ended, as a code says it.
    pub const fn failure(&self) -> EnrolFailure {
        match self {
            Self::TokenUsed => EnrolFailure::TokenUsed,
            Self::TokenExpired => EnrolFailure::TokenExpired,
            Self::TokenUnknown => EnrolFailure::TokenUnknown,
            Self::ProofWrong => EnrolFailure::ProofWrong,
            Self::Refused { .. } => EnrolFailure::Refused,
            Self::WrongCa { .. } | Self::Tls(_) => EnrolFailure::WrongCa,
            Self::OtherRoot | Self::Root(_) => EnrolFailure::OtherRoot,
            Self::Fleet(_) => EnrolFailure::OtherFleet,
            Self::Unreachable(_) => EnrolFailure::Unreachable,
            Self::Answer(_) => EnrolFailure::Answer,
            Self::Identity(_) => EnrolFailure::Identity,
            Self::Store(_) => EnrolFailure::Disk,
            Self::Key(_) => EnrolFailure::Key,
        }
    }

    /// Whether the same token may work later, so the token file should be kept.
    pub const fn may_pass(&self) -> bool {
        matches!(
            self,
            Self::Unreachable(_) | Self::Answer(_) | Self::Identity(_) | Self::Store(_) | Self::WrongCa { .. }
        )
    }
}

impl From<FinishError> for EnrolError {
    fn from(error: FinishError) -> Self {
        match error {
            FinishError::Root(error) => error.into(),
            FinishError::Identity(error) => error.into(),
            FinishError::Store(error) => error.into(),
        }
    }
}

/// Makes this appliance the token's site and returns its identity, which is on disk then.
///
/// Without a synchronised clock HQ's certificate may begin in our future; the token's pins still hold. The caller
/// wipes the token file after success, and after an error that is for good ([`EnrolError::may_pass`]).
pub async fn enrol(
    token: &EnrolmentToken,
    store: &Store,
    clock_synchronised: bool,
) -> Result<SiteIdentity, EnrolError> {
    let time = Timekeeper::new(HostClock::assuming(clock_synchronised), None);
    enrol_with(token, store, time, ClientLimits::default()).await
}

/// [`enrol`] with another clock and other bounds.
pub async fn enrol_with(
    token: &EnrolmentToken,
    store: &Store,
    time: Timekeeper,
    limits: ClientLimits,
) -> Result<SiteIdentity, EnrolError> {
    let mut journal = journal(token, store)?;
    let base = &journal.site.hq;
    let client = Client::new(Anchors::ByDigest(token.ca_sha256), None, time, limits)?;

    // Trust first: the root that the token pins, whole and this fleet's.
    let max = MetadataLimits::default().root_bytes;
    let failed = |error| unreachable_or_wrong(error, &token.hq);
    let root = match client.get(&format!("{base}{ROOT_PATH}"), max, None).await.map_err(failed)? {
        GetOutcome::Body(bytes, _) => bytes,
        GetOutcome::Missing | GetOutcome::NotModified => return Err(EnrolError::Answer("HQ has no root".to_owned())),
    };
    if Digest::of(&root) != token.root_sha256 {
        return Err(EnrolError::OtherRoot);
    }
    anchors::authorities(Trusted::pin(&root)?.root(), &token.fleet)?;

    let body = serde_json::to_vec(&request(token, &journal)?).map_err(|error| EnrolError::Answer(error.to_string()))?;
    let answer = client.post(&format!("{base}{ENROL_PATH}"), body).await.map_err(failed)?;
    let answer: Certificate = serde_json::from_slice(&answer).map_err(|error| EnrolError::Answer(error.to_string()))?;

    journal.root = Some(String::from_utf8(root).map_err(|_| EnrolError::OtherRoot)?);
    journal.certificate = Some(answer.certificate);
    // A certificate that is not for us does not get into the journal.
    journal.identity()?;
    journal.save(store)?;
    Ok(journal.finish(store)?)
}

/// The journal of an earlier try with this token, or a new one with new keys, on disk before HQ hears of them.
fn journal(token: &EnrolmentToken, store: &Store) -> Result<EnrolmentJournal, EnrolError> {
    let trim = |url: &str| url.trim_end_matches('/').to_owned();
    let site = EnrolledSite {
        hq: trim(&token.hq),
        repository: trim(token.repository.as_ref().unwrap_or(&token.hq)),
        fleet: token.fleet.clone(),
        site: token.site.clone(),
        root_sha256: token.root_sha256,
    };
    if let Some(journal) =
        EnrolmentJournal::load(store)?.filter(|journal| journal.token == token.token && journal.site == site)
    {
        return Ok(journal);
    }
    let key = |error: rcgen::Error| EnrolError::Key(error.to_string());
    let tls_key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).map_err(key)?;
    let journal = EnrolmentJournal {
        csr: signing_request(&tls_key, &site).map_err(key)?,
        site,
        token: token.token.clone(),
        tls_key: tls_key.serialize_pem(),
        recipient: HEXLOWER.encode(RecipientSecret::generate().as_bytes()),
        certificate: None,
        root: None,
    };
    journal.save(store)?;
    Ok(journal)
}

fn request(token: &EnrolmentToken, journal: &EnrolmentJournal) -> Result<EnrolRequest, EnrolError> {
    let keys = TokenKeys::derive(&token.secret, &token.fleet, &token.site, &token.token);
    let recipient = journal.recipient()?.public();
    let proof = |key| {
        let about = (&token.fleet, &token.site, token.token.as_str());
        api::enrolment_proof(key, about, &journal.csr, &recipient)
    };
    Ok(EnrolRequest {
        token: token.token.clone(),
        csr: journal.csr.clone(),
        recipient,
        service_proof: proof(&keys.service),
        publisher_proof: proof(&keys.publisher),
        version: env!("CARGO_PKG_VERSION").to_owned(),
    })
}

fn unreachable_or_wrong(error: FetchError, hq: &str) -> EnrolError {
    match error {
        FetchError::Certificate { why, .. } => EnrolError::WrongCa { hq: hq.to_owned(), why },
        FetchError::Status { refusal: Some(refusal), .. } => match HqRefusal::from_code(&refusal.code) {
            Some(HqRefusal::TokenUsed) => EnrolError::TokenUsed,
            Some(HqRefusal::TokenExpired) => EnrolError::TokenExpired,
            Some(HqRefusal::TokenUnknown) => EnrolError::TokenUnknown,
            Some(HqRefusal::ProofWrong) => EnrolError::ProofWrong,
            _ => EnrolError::Refused { code: refusal.code, reason: refusal.reason },
        },
        error => EnrolError::Unreachable(error),
    }
}
