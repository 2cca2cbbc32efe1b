//! Enrolment: a token makes this appliance a site, once. A box ships unopened, and a file on its card is all it needs
//! (I22).
//!
//! Keys are made here and never leave. At any power cut the same token can be tried again with the same keys; once
//! HQ's certificate is in the journal, nothing needs HQ any more and the rest is repeated until it is done.

use std::collections::BTreeMap;

use data_encoding::HEXLOWER;
use zeroize::Zeroizing;

use super::anchors::{self, AnchorError};
use super::client::{Client, ClientLimits, FetchError, Fetched};
use super::clock::Timekeeper;
use super::identity::{Identity, IdentityError, Journal, Site};
use super::tls::{Anchors, TlsError};
use api::{self, Certificate, ENROL_PATH, EnrolRequest, EnrolmentToken, ROOT_PATH, TokenKeys};
use bundle::RecipientSecret;
use ids::Digest;
use store::{Store, StoreError, TrustState};
use tuf::{Limits, TrustError, Trusted};

/// Why an appliance did not become a site.
#[derive(Debug, thiserror::Error)]
pub enum EnrolError {
    /// HQ says that the token was used.
    #[error("the token was used before; make a new one with `lineside-hq site enroll`")]
    TokenUsed,
    /// HQ says that it is too old.
    #[error("the token has expired; make a new one with `lineside-hq site enroll`")]
    TokenExpired,
    /// HQ does not know it.
    #[error("HQ does not know the token; it was withdrawn or is for another HQ")]
    TokenUnknown,
    /// HQ says that the proof is wrong: the file is damaged, or altered.
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
        /// Where.
        hq: String,
        /// What is wrong.
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
    /// No TLS with this token.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// No key can be made.
    #[error("no key can be made: {0}")]
    Key(String),
}

impl EnrolError {
    /// A stable code: `token-used`, `token-expired`, `token-unknown`, `proof-wrong`, `refused`, `wrong-ca`,
    /// `other-root`, `other-fleet`, `unreachable`, `answer`, `identity`, `disk`, `key`.
    pub const fn code(&self) -> &'static str {
        match self {
            Self::TokenUsed => "token-used",
            Self::TokenExpired => "token-expired",
            Self::TokenUnknown => "token-unknown",
            Self::ProofWrong => "proof-wrong",
            Self::Refused { .. } => "refused",
            Self::WrongCa { .. } | Self::Tls(_) => "wrong-ca",
            Self::OtherRoot | Self::Root(_) => "other-root",
            Self::Fleet(_) => "other-fleet",
            Self::Unreachable(_) => "unreachable",
            Self::Answer(_) => "answer",
            Self::Identity(_) => "identity",
            Self::Store(_) => "disk",
            Self::Key(_) => "key",
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

/// Makes this appliance the token's site and returns its identity, which is on disk then.
///
/// Without a synchronised clock HQ's certificate may begin in our future; the token's pins still hold. Wipe the
/// token file after success, and after an error that [`EnrolError::may_pass`] says is for good.
pub async fn enrol(token: &EnrolmentToken, store: &Store, clock_synchronised: bool) -> Result<Identity, EnrolError> {
    let time = Timekeeper::new(super::service::HostClock::assuming(clock_synchronised), None);
    enrol_with(token, store, time, ClientLimits::default()).await
}

/// [`enrol`] with another clock and other bounds.
pub async fn enrol_with(
    token: &EnrolmentToken,
    store: &Store,
    time: Timekeeper,
    limits: ClientLimits,
) -> Result<Identity, EnrolError> {
    let mut journal = journal(token, store)?;
    let base = &journal.site.hq;
    let client = Client::new(Anchors::ByDigest(token.ca_sha256), None, time, limits)?;

    // Trust first: the root that the token pins, whole and this fleet's.
    let max = Limits::default().root_bytes;
    let failed = |error| unreachable_or_wrong(error, &token.hq);
    let root = match client.get(&format!("{base}{ROOT_PATH}"), max, None).await.map_err(failed)? {
        Fetched::Body(bytes, _) => bytes,
        Fetched::Missing | Fetched::NotModified => return Err(EnrolError::Answer("HQ has no root".to_owned())),
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
    identity(&journal)?;
    journal.save(store)?;
    finish(store, &journal)
}

/// The journal of an earlier try with this token, or a new one with new keys, on disk before HQ hears of them.
fn journal(token: &EnrolmentToken, store: &Store) -> Result<Journal, EnrolError> {
    let trim = |url: &str| url.trim_end_matches('/').to_owned();
    let site = Site {
        hq: trim(&token.hq),
        repository: trim(token.repository.as_ref().unwrap_or(&token.hq)),
        fleet: token.fleet.clone(),
        site: token.site.clone(),
        root_sha256: token.root_sha256,
    };
    if let Some(journal) = Journal::load(store)?.filter(|journal| journal.token == token.token && journal.site == site)
    {
        return Ok(journal);
    }
    let key = |error: rcgen::Error| EnrolError::Key(error.to_string());
    let tls_key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).map_err(key)?;
    let journal = Journal {
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

/// A PKCS#10 request for our key that names our site (PEM). HQ decides what the certificate says.
pub(super) fn signing_request(key: &rcgen::KeyPair, site: &Site) -> Result<String, rcgen::Error> {
    let mut params = rcgen::CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(rcgen::DnType::CommonName, site.site.as_str());
    let uri = api::site_uri(&site.fleet, &site.site).try_into()?;
    params.subject_alt_names = vec![rcgen::SanType::URI(uri)];
    params.serialize_request(key)?.pem()
}

fn request(token: &EnrolmentToken, journal: &Journal) -> Result<EnrolRequest, EnrolError> {
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

fn identity(journal: &Journal) -> Result<Identity, EnrolError> {
    let certificate = journal.certificate.clone().unwrap_or_default();
    Ok(Identity::new(journal.site.clone(), Zeroizing::new(journal.tls_key.clone()), certificate, journal.recipient()?)?)
}

/// The last part, which needs nothing but the disk and may be repeated: trust, identity, and the journal's end.
pub(super) fn finish(store: &Store, journal: &Journal) -> Result<Identity, EnrolError> {
    let identity = identity(journal)?;
    let root = journal.root.as_deref().unwrap_or_default();
    let pinned = Trusted::pin(root.as_bytes())?;
    let before = match store.trust() {
        Ok(state) => state.unwrap_or_default(),
        // This is what enrolling again is for.
        Err(StoreError::TrustLost) => TrustState::default(),
        Err(error) => return Err(error.into()),
    };
    // The same site enrolled again keeps its rollback floors; another root or site begins anew. Time goes on.
    if !continues(&before.metadata, &pinned, journal) {
        let state = TrustState { metadata: pinned.files(), time_floor: before.time_floor, rejected: Vec::new() };
        store.save_trust(&state)?;
    }
    identity.save(store)?;
    Journal::clear(store)?;
    Ok(identity)
}

/// Whether trust that is here already is this site's, under this very root or a later one that shares a key with it.
/// An HQ that was set up anew under the same name is another one.
fn continues(metadata: &BTreeMap<String, Vec<u8>>, pinned: &Trusted, journal: &Journal) -> bool {
    let Ok(trusted) = Trusted::reopen(metadata) else { return false };
    let (ours, theirs) = (trusted.root(), pinned.root());
    let keys = |root: &tuf::schema::Root| root.roles.get("root").map(|role| role.keyids.clone()).unwrap_or_default();
    let shares_a_key = keys(ours).iter().any(|id| keys(theirs).contains(id));
    let same_root = trusted.files().get("root.json") == pinned.files().get("root.json");
    let Site { fleet, site, .. } = &journal.site;
    let our_site = trusted.timestamp().is_none_or(|timestamp| anchors::check_site(timestamp, fleet, site).is_ok());
    (same_root || (ours.version > theirs.version && shares_a_key))
        && our_site
        && anchors::authorities(ours, fleet).is_ok()
}

fn unreachable_or_wrong(error: FetchError, hq: &str) -> EnrolError {
    match error {
        FetchError::Certificate { why, .. } => EnrolError::WrongCa { hq: hq.to_owned(), why },
        FetchError::Status { refusal: Some(refusal), .. } => match refusal.code.as_str() {
            "token-used" => EnrolError::TokenUsed,
            "token-expired" => EnrolError::TokenExpired,
            "token-unknown" => EnrolError::TokenUnknown,
            "proof-wrong" => EnrolError::ProofWrong,
            _ => EnrolError::Refused { code: refusal.code, reason: refusal.reason },
        },
        error => EnrolError::Unreachable(error),
    }
}
