//! `tokens/ID.toml`: the public half of an enrolment token, kept in git until it is used, so that every desk knows what
//! another one issued. It has no secret.

use std::path::PathBuf;

use anyhow::Context as _;
use serde::{Deserialize, Serialize};

use api::EnrolmentToken;
use durable::{PUBLIC, SHARED_DIR};
use ids::{SiteId, UnixTime};
use repository::layout::Layout;
use settings::MAX_TEXT_BYTES;

/// What is told of a token.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(crate) struct IssuedToken {
    /// The site that an appliance becomes by it.
    pub(crate) site: SiteId,
    /// When it ends.
    pub(crate) expires: UnixTime,
}

fn path(layout: &Layout, token: &str) -> PathBuf {
    layout.dir().join("tokens").join(format!("{token}.toml"))
}

/// Notes a token that was issued here.
pub(crate) fn note(layout: &Layout, token: &EnrolmentToken) -> anyhow::Result<()> {
    let issued = IssuedToken { site: token.site.clone(), expires: token.expires };
    let path = path(layout, &token.token);
    let text = format!(
        "# A token was issued at the desk that made this file, which has its secret half in keys/tokens/. Keep this in git.\n\n{}",
        toml::to_string(&issued).context("cannot write a token")?
    );
    durable::create_dirs(durable::parent(&path), SHARED_DIR).context("cannot make tokens/")?;
    durable::replace(&path, text.as_bytes(), PUBLIC).with_context(|| format!("cannot write {}", path.display()))
}

/// A token that some desk issued; `None` if git does not know it.
pub(crate) fn known(layout: &Layout, token: &str) -> Option<IssuedToken> {
    let text = durable::read_regular(&path(layout, token), MAX_TEXT_BYTES).ok()?;
    toml::from_slice(&text).ok()
}

/// Forgets a token that was used, or that has ended.
pub(crate) fn forget(layout: &Layout, token: &str) -> anyhow::Result<()> {
    let path = path(layout, token);
    durable::remove(&path).with_context(|| format!("cannot remove {}", path.display()))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use crate::enrol;
    use crate::testing::sample;

    #[test]
    fn every_desk_knows_from_git_what_was_issued_and_learns_no_secret() {
        let sample = sample();
        let inventory = crate::lint::read(&sample.layout).0.unwrap().inventory;
        let site = inventory.sites.values().next().unwrap().id.clone();
        let url = "https://hq.example.net:8443";
        let token = enrol::issue(&sample.layout, &site, "sample-office", &inventory.fleet.id, url, None).unwrap();
        let known = super::known(&sample.layout, &token.token).unwrap();
        assert_eq!((known.site, known.expires), (site, token.expires));
        let text = sample.read(&format!("tokens/{}.toml", token.token));
        let secret = sample.read(&format!("keys/tokens/{}.toml", token.token));
        let key = secret.lines().find_map(|line| line.strip_prefix("key = ")).unwrap().trim_matches('"');
        assert!(!text.contains(key) && !text.contains(&token.secret), "{text}");
        super::forget(&sample.layout, &token.token).unwrap();
        assert_eq!(super::known(&sample.layout, &token.token), None);
    }
}
