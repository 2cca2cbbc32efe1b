//! `revoked.toml`: which sites' appliances were locked out, in git.
//!
//! HQ's host knows it as well. If the host is put back from a backup that is older, this file says what the backup does
//! not know, so that a thief stays out.

use std::collections::BTreeSet;
use std::path::PathBuf;

use anyhow::Context as _;
use serde::{Deserialize, Serialize};

use durable::PUBLIC;
use ids::{Digest, SiteId, UnixTime};
use repository::layout::Layout;
use settings::MAX_TEXT_BYTES;

/// All revocations of a fleet.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Revocations {
    #[serde(default)]
    revoked: Vec<Revocation>,
}

/// One site that was revoked. A token that was issued later may have let another appliance in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Revocation {
    /// The site.
    pub site: SiteId,
    /// When it was last revoked. Every certificate that was issued before is refused.
    pub at: UnixTime,
    /// The fingerprints of certificates that were known then, whatever their dates say.
    #[serde(default)]
    pub certificates: BTreeSet<Digest>,
}

fn path(layout: &Layout) -> PathBuf {
    layout.dir().join("revoked.toml")
}

impl Revocations {
    /// Reads the file; empty if there is none.
    pub fn read(layout: &Layout) -> anyhow::Result<Self> {
        let path = path(layout);
        match durable::read_regular(&path, MAX_TEXT_BYTES) {
            Ok(text) => toml::from_slice(&text).with_context(|| format!("{} is malformed", path.display())),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Self::default()),
            Err(error) => Err(error).with_context(|| format!("cannot read {}", path.display())),
        }
    }

    /// The site's revocation, if it ever was revoked.
    pub fn of(&self, site: &SiteId) -> Option<&Revocation> {
        self.revoked.iter().find(|one| one.site == *site)
    }

    /// All revocations, in the order in which the sites were first revoked.
    pub fn all(&self) -> &[Revocation] {
        &self.revoked
    }

    /// Whether the site is locked out: it was revoked, and no appliance was taken over since.
    pub(crate) fn locks_out(&self, layout: &Layout, site: &SiteId) -> bool {
        self.of(site).is_some() && !layout.enrolled().join(format!("{site}.toml")).exists()
    }
}

/// Notes that a site was revoked.
pub(crate) fn note(layout: &Layout, revocation: Revocation) -> anyhow::Result<()> {
    let mut all = Revocations::read(layout)?;
    match all.revoked.iter_mut().find(|one| one.site == revocation.site) {
        Some(before) => {
            before.at = before.at.max(revocation.at);
            before.certificates.extend(revocation.certificates);
        }
        None => all.revoked.push(revocation),
    }
    let text = format!(
        "# Sites whose appliances were locked out by `site revoke`. Keep it in git: after HQ's host was put back from a\n\
         # backup, this file keeps a thief out that the backup does not know.\n\n{}",
        toml::to_string(&all).context("cannot write revocations")?
    );
    let path = path(layout);
    durable::replace(&path, text.as_bytes(), PUBLIC).with_context(|| format!("cannot write {}", path.display()))
}
