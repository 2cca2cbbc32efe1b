//! Enrolment.

use std::collections::BTreeMap;

use super::layout::Layout;
use crate::api::EnrolmentToken;
use crate::bundle::RecipientPublic;
use crate::ids::{FleetId, SiteId};

/// Issues a token.
pub fn issue(
    _layout: &Layout,
    _site: &SiteId,
    _site_name: &str,
    _fleet: &FleetId,
    _hq_url: &str,
    _repository: Option<&str>,
) -> anyhow::Result<EnrolmentToken> {
    todo!()
}

/// The keys that each enrolled site's manifests are sealed to.
pub fn recipients(_layout: &Layout) -> anyhow::Result<BTreeMap<SiteId, Vec<RecipientPublic>>> {
    Ok(BTreeMap::new())
}
