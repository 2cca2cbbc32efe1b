//! An enrolment under way, in `enrolling.toml`, and how an appliance goes on with it after a power cut.
//!
//! The journal holds the keys and the request, so that a retry sends the very same request. Once it holds HQ's
//! certificate, the rest needs nothing but the disk: [`SiteIdentity::load`] finishes it.

use std::cmp::Ordering;
use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use zeroize::{Zeroize as _, Zeroizing};

use super::anchors;
use super::clock::build_time;
use super::identity::{self, EnrolledSite, IdentityError, JOURNAL, SiteIdentity, damaged};
use bundle::RecipientSecret;
use store::{Store, StoreError, TrustState};
use tuf::schema::Root;
use tuf::{TrustError, Trusted};

/// Why an enrolment cannot be finished although HQ's certificate is here.
#[derive(Debug, thiserror::Error)]
pub(super) enum FinishError {
    /// The pinned root does not hold.
    #[error(transparent)]
    Root(#[from] TrustError),
    /// The certificate is not ours, or identity files cannot be written.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The disk refused.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl SiteIdentity {
    /// The identity on disk; `None` before enrolment. Finishes an enrolment that a power cut interrupted.
    pub fn load(store: &Store) -> Result<Option<Self>, IdentityError> {
        if let Some(journal) = EnrolmentJournal::load(store)?
            && journal.certificate.is_some()
        {
            journal.finish(store).map_err(|error| damaged(JOURNAL, error))?;
        }
        Self::read(store)
    }
}

/// What a retry after a power cut needs, so that it sends the very same request.
#[derive(Clone, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(super) struct EnrolmentJournal {
    /// What the token says.
    pub(super) site: EnrolledSite,
    /// [`api::EnrolmentToken::token`].
    pub(super) token: String,
    /// The private TLS key (PKCS#8, PEM).
    pub(super) tls_key: String,
    /// The signing request (PKCS#10, PEM).
    pub(super) csr: String,
    /// The key that manifests are sealed to, in 64 hex digits.
    pub(super) recipient: String,
    /// The certificate that HQ issued (PEM), once it is here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) certificate: Option<String>,
    /// The bytes of the pinned root, which come with the certificate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) root: Option<String>,
}

impl Drop for EnrolmentJournal {
    fn drop(&mut self) {
        self.tls_key.zeroize();
        self.recipient.zeroize();
    }
}

impl EnrolmentJournal {
    /// The enrolment under way, if there is one. A journal that cannot be read is none: enrolment starts again.
    pub(super) fn load(store: &Store) -> Result<Option<Self>, IdentityError> {
        let text = match identity::read(&store.identity_dir(), JOURNAL) {
            Err(IdentityError::Damaged { .. }) => None,
            other => other?.filter(|text| !text.is_empty()),
        };
        Ok(text.and_then(|text| toml::from_str(&text).ok()))
    }

    pub(super) fn save(&self, store: &Store) -> Result<(), IdentityError> {
        let text = Zeroizing::new(toml::to_string(self).map_err(|error| damaged(JOURNAL, error))?);
        identity::write(store, JOURNAL, text.as_bytes())
    }

    /// The enrolment is over; keys live in their own files now.
    pub(super) fn clear(store: &Store) -> Result<(), IdentityError> {
        identity::write(store, JOURNAL, b"")
    }

    pub(super) fn recipient(&self) -> Result<RecipientSecret, IdentityError> {
        identity::secret(&self.recipient).ok_or_else(|| damaged(JOURNAL, "the sealing key is not 64 hex digits"))
    }

    /// The identity that the journal's keys and certificate make.
    pub(super) fn identity(&self) -> Result<SiteIdentity, IdentityError> {
        let certificate = self.certificate.clone().unwrap_or_default();
        SiteIdentity::new(self.site.clone(), Zeroizing::new(self.tls_key.clone()), certificate, self.recipient()?)
    }

    /// Does the last part, which needs nothing but the disk and may be repeated: it stores trust and identity, and
    /// empties the journal.
    pub(super) fn finish(&self, store: &Store) -> Result<SiteIdentity, FinishError> {
        let mut identity = self.identity()?;
        identity.succeed(store);
        let root = self.root.as_deref().unwrap_or_default();
        let pinned = Trusted::pin(root.as_bytes())?;
        let before = match store.trust() {
            Ok(state) => state.unwrap_or_default(),
            // A new enrolment is the way out of this.
            Err(StoreError::TrustLost) => TrustState::default(),
            Err(error) => return Err(error.into()),
        };
        // The same site enrolled again keeps its rollback floors; another root or site begins anew. Time begins anew in any
        // case: the first release under the new identity says what time it is.
        let kept = match continued(&before.metadata, &pinned, &self.site) {
            Some(trusted) => TrustState { metadata: trusted.files(), ..before },
            None => TrustState { metadata: pinned.files(), ..TrustState::default() },
        };
        store.save_trust(&TrustState { time_floor: Some(build_time()), ..kept })?;
        identity.save(store)?;
        Self::clear(store)?;
        Ok(identity)
    }
}

/// The trust that is here already, if it is this site's, under the newer of its root and the pinned one. The two must share
/// a root key: an HQ that was set up anew under the same name shares none, so it is another HQ.
fn continued(metadata: &BTreeMap<String, Vec<u8>>, pinned: &Trusted, site: &EnrolledSite) -> Option<Trusted> {
    let trusted = Trusted::reopen(metadata).ok()?;
    let (ours, theirs) = (trusted.root(), pinned.root());
    let keys = |root: &Root| root.roles.get("root").map(|role| role.keyids.clone()).unwrap_or_default();
    let shares_a_key = keys(ours).iter().any(|id| keys(theirs).contains(id));
    let same_root = trusted.files().get("root.json") == pinned.files().get("root.json");
    let EnrolledSite { fleet, site, .. } = site;
    let our_site = trusted.timestamp().is_none_or(|timestamp| anchors::check_site(timestamp, fleet, site).is_ok());
    let one_fleet = our_site && anchors::authorities(ours, fleet).is_ok();
    match ours.version.cmp(&theirs.version) {
        _ if !one_fleet => None,
        Ordering::Equal => same_root.then_some(trusted),
        Ordering::Greater => shares_a_key.then_some(trusted),
        Ordering::Less => shares_a_key.then(|| trusted.under(pinned)),
    }
}
