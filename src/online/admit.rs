//! The decision on an enrolment: may this appliance become a site? Pure; [`crate::db::Db::enrol`] acts on it.

use crate::ca::{Csr, CsrError};
use api::{EnrolRequest, HqRefusal, Refusal};
use bundle::RecipientPublic;
use ids::{Digest, FleetId, SiteId, UnixTime};

/// A token as the database keeps it. The token's secret is not in it.
#[derive(Clone, PartialEq, Eq)]
pub struct TokenRow {
    /// The token's id: 16 hex digits, public.
    pub id: String,
    /// The site that the appliance becomes.
    pub site: SiteId,
    /// The fleet of that site.
    pub fleet: FleetId,
    /// The key that the service checks the proof with ([`api::TokenKeys::service`]), derived from the token's secret.
    pub service_key: [u8; 32],
    /// From this time on the token is refused.
    pub expires: UnixTime,
    /// Whether the site was revoked after it was issued.
    pub revoked: bool,
    /// The appliance that used it, as [`applicant`] names it; `None` while it is unused.
    pub used_by: Option<String>,
}

/// Why an enrolment or renewal was turned away.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// HQ has issued no token with this id.
    #[error("this token was not issued here")]
    TokenUnknown,
    /// Another appliance has used this token.
    #[error("another appliance has used this token; issue a new one")]
    TokenUsed,
    /// More than [`api::TOKEN_HOURS`] have passed since the token was issued.
    #[error("this token has expired; issue a new one")]
    TokenExpired,
    /// The HMAC over the request does not fit the token's secret.
    #[error("the proof does not fit the token")]
    ProofWrong,
    /// The site was revoked after the token or certificate was issued.
    #[error("this site was revoked; issue a new token if it shall come back")]
    Revoked,
    /// The certificate signing request cannot be used.
    #[error("{0}")]
    Malformed(CsrError),
    /// The site had [`crate::db::MAX_CERTIFICATES_A_DAY`] certificates within a day already.
    #[error("too many certificates for this site today; try again tomorrow")]
    TooMany,
    /// HQ's records are from a backup, and the desk has not said yet whom it locked out since.
    #[error("HQ was put back from a backup and waits for its desk to publish")]
    Restoring,
}

impl Refused {
    /// The code of this refusal in HQ's answer.
    pub const fn refusal(&self) -> HqRefusal {
        match self {
            Self::TokenUnknown => HqRefusal::TokenUnknown,
            Self::TokenUsed => HqRefusal::TokenUsed,
            Self::TokenExpired => HqRefusal::TokenExpired,
            Self::ProofWrong => HqRefusal::ProofWrong,
            Self::Revoked => HqRefusal::Revoked,
            Self::Malformed(_) => HqRefusal::Malformed,
            Self::TooMany => HqRefusal::TooMany,
            Self::Restoring => HqRefusal::Unavailable,
        }
    }
}

impl From<&Refused> for Refusal {
    fn from(refused: &Refused) -> Self {
        Self { code: refused.refusal().code().to_owned(), reason: refused.to_string() }
    }
}

/// An enrolment that [`admit`] allows; the certificate is not issued yet.
#[derive(Debug, Clone)]
pub struct Admitted {
    /// The fleet that the token is for.
    pub fleet: FleetId,
    /// The site that the token is for.
    pub site: SiteId,
    /// The certificate signing request; its signature and curve were checked.
    pub csr: Csr,
    /// The appliance that asks, as [`applicant`] names it.
    pub applicant: String,
    /// Whether this appliance was admitted before and lost the answer.
    pub retry: bool,
}

/// Decides on an enrolment. `token` is the row of the token that the request names, `None` if there is none.
pub fn admit(token: Option<&TokenRow>, request: &EnrolRequest, now: UnixTime) -> Result<Admitted, Refused> {
    let token = token.ok_or(Refused::TokenUnknown)?;
    // First of all: a caller who cannot prove the secret learns nothing about the token's state.
    let names = (&token.fleet, &token.site, token.id.as_str());
    let EnrolRequest { csr, recipient, service_proof, .. } = request;
    if request.token != token.id || !api::enrolment_proven(&token.service_key, names, csr, recipient, service_proof) {
        return Err(Refused::ProofWrong);
    }
    if token.revoked {
        return Err(Refused::Revoked);
    }
    let csr = Csr::parse(csr).map_err(Refused::Malformed)?;
    let applicant = applicant(&csr, recipient);
    let retry = match &token.used_by {
        Some(before) if *before != applicant => return Err(Refused::TokenUsed),
        before => before.is_some(),
    };
    if now >= token.expires {
        return Err(Refused::TokenExpired);
    }
    Ok(Admitted { fleet: token.fleet.clone(), site: token.site.clone(), csr, applicant, retry })
}

/// A name for an appliance: a digest over its TLS key and its sealing key. The same keys may ask again, because an
/// answer can be lost on the way.
pub fn applicant(csr: &Csr, recipient: &RecipientPublic) -> String {
    Digest::of(format!("{}\n{recipient:?}", csr.key_digest).as_bytes()).to_string()
}
