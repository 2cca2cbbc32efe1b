//! The certificates that HQ has issued, in git: if HQ's host is lost with all that it knew, they are known still.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::{Pinned, standing};
use ids::{Digest, FleetId, SiteId, UnixTime};
use online::db::restored::GitSite;
use online::issued;
use repository::layout::Layout;

/// One `[[certificate]]` of `enrolled/<site-id>.toml`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(super) struct PinnedCertificate {
    /// SHA-256 of the certificate in DER.
    pub(super) fingerprint: Digest,
    /// Its public key (SubjectPublicKeyInfo in DER), in hex.
    pub(super) key: String,
    /// When it was issued, by HQ's clock.
    pub(super) issued: UnixTime,
    /// The end of its validity.
    pub(super) until: UnixTime,
}

/// What git says of each enrolled site, by `enrolled/`. A file that cannot be read is left out.
pub(crate) fn in_git(
    layout: &Layout,
    fleet: &FleetId,
    name: &dyn Fn(&SiteId) -> String,
) -> anyhow::Result<BTreeMap<SiteId, GitSite>> {
    let readable = standing::pinned_files(layout)?.into_iter().filter_map(|(_, pinned)| pinned.ok());
    let site = |pinned: Pinned| GitSite {
        fleet: fleet.clone(),
        name: name(&pinned.site),
        enrolled: !pinned.appliance.is_empty(),
        revoked_at: None,
        revoked: BTreeSet::new(),
        certificates: pinned.certificate.iter().map(|one| (one.fingerprint, one.issued, one.until)).collect(),
        site: pinned.site,
    };
    Ok(readable.map(|pinned| (pinned.site.clone(), site(pinned))).collect())
}

/// Copies what HQ's host noted of the certificates of enrolled sites. A file is written only if it changes.
pub(super) fn note_certificates(layout: &Layout) -> anyhow::Result<()> {
    if !issued::folder(&layout.online()).is_dir() {
        return Ok(());
    }
    for (path, pinned) in standing::pinned_files(layout)? {
        let Ok(mut pinned) = pinned else { continue };
        let certificates: Vec<PinnedCertificate> = issued::of_site(&layout.online(), &pinned.site)?
            .into_iter()
            .map(|one| PinnedCertificate {
                fingerprint: one.fingerprint,
                key: one.key,
                issued: one.issued,
                until: one.until,
            })
            .collect();
        if !certificates.is_empty() && certificates != pinned.certificate {
            pinned.certificate = certificates;
            pinned.save(&path)?;
        }
    }
    Ok(())
}
