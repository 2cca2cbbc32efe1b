//! Enrolment as the publisher sees it: tokens, the check of an enrolment, and the keys that manifests are sealed to.
//!
//! An enrolment is checked twice, with two keys ([`TokenKeys`]). The online service decides whether the appliance gets
//! a certificate. The publisher alone decides whether releases are sealed to the appliance's key. An attacker who broke
//! into the service can do the first, but not the second. `standing` says how each site stands after that.

mod certificates;
mod standing;

mod renewal;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, anyhow, bail, ensure};
use data_encoding::HEXLOWER;
use serde::{Deserialize, Serialize};
use zeroize::{Zeroize as _, Zeroizing};

use super::host::Host;
use super::issued_tokens;
use super::recipients;
use super::revoked::{self, Revocation};
use api::{self, EnrolmentToken, TokenKeys};
use bundle::RecipientPublic;
use durable::{PRIVATE, PRIVATE_DIR, PUBLIC, SHARED_DIR};
use ids::{Digest, FleetId, SiteId, UnixTime};
use online::admit::TokenRow;
#[cfg(test)]
use online::db::Db;
use online::db::Enrolment;
use online::{ca, issued};
use repository::layout::Layout;
use repository::published::{MAX_METADATA_BYTES, newest_root_path};
use settings::MAX_TEXT_BYTES;
use telemetry::Hint as _;

pub(crate) use certificates::in_git;
use certificates::{PinnedCertificate, note_certificates};
use renewal::SealingKeyHistory;
pub(crate) use renewal::{take_over_sealing_keys, why};
pub(crate) use standing::complete;
pub use standing::{SiteFault, Standing, standing};

/// The number of appliances that a site's manifests are sealed to: the one in use and its spare. If more enrol, the
/// newest count, so that replaced hardware drops out by itself.
pub const MAX_APPLIANCES: usize = 2;

/// The length of a token's id before it is written in hex.
const TOKEN_ID_BYTES: usize = 8;

/// Makes a token that lets one appliance become this site within [`api::TOKEN_HOURS`].
///
/// Only the result holds the secret. The database gets one key that is derived from it, and `keys/tokens/` the other.
#[expect(clippy::disallowed_methods, reason = "a command runs now")]
pub fn issue(
    layout: &Layout,
    site: &SiteId,
    site_name: &str,
    fleet: &FleetId,
    hq_url: &str,
    repository: Option<&str>,
) -> anyhow::Result<EnrolmentToken> {
    for url in [Some(hq_url), repository].into_iter().flatten() {
        ensure!(url.starts_with("https://"), "`{url}` is not an https:// URL; appliances take no other");
    }
    let token = EnrolmentToken {
        hq: hq_url.trim_end_matches('/').to_owned(),
        repository: repository.map(|url| url.trim_end_matches('/').to_owned()),
        fleet: fleet.clone(),
        site: site.clone(),
        root_sha256: newest_root(&layout.dir().join("root"))?,
        ca_sha256: ca::digest(&layout.online())?,
        token: random_hex::<TOKEN_ID_BYTES>()?,
        secret: random_hex::<16>()?,
        expires: UnixTime::of(SystemTime::now()).plus(Duration::from_secs(u64::from(api::TOKEN_HOURS) * 3600)),
    };
    let keys = TokenKeys::derive(&token.secret, fleet, site, &token.token);
    let kept = PublisherToken {
        fleet: fleet.clone(),
        site: site.clone(),
        key: HEXLOWER.encode(&keys.publisher),
        expires: token.expires,
    };
    forget_expired(layout)?;
    let path = kept.save(layout, &token.token)?;
    let row = TokenRow {
        id: token.token.clone(),
        site: site.clone(),
        fleet: fleet.clone(),
        service_key: keys.service,
        expires: token.expires,
        revoked: false,
        used_by: None,
    };
    if let Err(error) = Host::of(layout).and_then(|host| host.add_token(&row, site_name)) {
        durable::remove(&path).with_context(|| format!("cannot remove {}", path.display()))?;
        return Err(error);
    }
    issued_tokens::note(layout, &token)?;
    Ok(token)
}

/// The keys that manifests are sealed to, by site, newest appliance first, after new enrolments were taken over.
///
/// # Errors
///
/// If anything is wrong with any site. Whoever can go on without that site asks [`take_over_new`] and [`standing`].
pub fn recipients(layout: &Layout) -> anyhow::Result<BTreeMap<SiteId, Vec<RecipientPublic>>> {
    take_over_new(layout)?;
    let Standing { recipients, faults } = standing(layout)?;
    match faults.first() {
        None => Ok(recipients),
        Some(first) => {
            let all: Vec<String> = faults.iter().map(|fault| format!("site {}: {}", fault.whose, fault.what)).collect();
            Err(anyhow!("{}", all.join("\n  ")).hint(first.hint.clone()))
        }
    }
}

/// Takes over new enrolments: checks each one's proof with the publisher's key of the token, and pins the appliance's
/// sealing key in `enrolled/`. An enrolment that is not proven stays where it is; [`standing`] names it.
pub fn take_over_new(layout: &Layout) -> anyhow::Result<()> {
    let host = Host::of(layout)?;
    for enrolment in host.new_enrolments()? {
        let Ok(proven) = prove(layout, &enrolment) else { continue };
        // In this order a crash leaves what is needed to do it again: a key that is pinned already is accepted.
        if let Some(appliance) = proven {
            pin(layout, &enrolment.site, appliance)?;
        }
        PublisherToken::remove(layout, &enrolment.token)?;
        issued_tokens::forget(layout, &enrolment.token)?;
        host.accepted(&enrolment.token)?;
    }
    note_certificates(layout)
}

/// Why an enrolment is not believed; `None` if it is.
pub(crate) fn doubt(layout: &Layout, enrolment: &Enrolment) -> Option<String> {
    prove(layout, enrolment).err().map(|error| format!("{error:#}"))
}

/// What [`discard`] put aside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Discarded {
    /// The site that the token was for.
    pub site: SiteId,
    /// The token's id.
    pub token: String,
    /// How many certificates of that appliance are refused from now on.
    pub certificates: usize,
}

/// Puts aside the new enrolments of a site, or the one with this token: the appliance that enrolled is refused, and the
/// site's other appliances stay. Empty if there is none.
pub fn discard(layout: &Layout, which: &str, site: Option<&SiteId>) -> anyhow::Result<Vec<Discarded>> {
    let host = Host::of(layout)?;
    let mut discarded = Vec::new();
    for enrolment in host.new_enrolments()? {
        let meant = enrolment.token == which || enrolment.site.as_str() == which || site == Some(&enrolment.site);
        if !meant {
            continue;
        }
        let certificates = host.discard(&enrolment)?;
        if is_token_id(&enrolment.token) {
            PublisherToken::remove(layout, &enrolment.token)?;
            issued_tokens::forget(layout, &enrolment.token)?;
        }
        discarded.push(Discarded { site: enrolment.site, token: enrolment.token, certificates });
    }
    Ok(discarded)
}

/// Removes the publisher's keys of tokens that nobody used, a month after they expired. Until then an enrolment may
/// wait for the next publish.
#[expect(clippy::disallowed_methods, reason = "a command runs now")]
fn forget_expired(layout: &Layout) -> anyhow::Result<()> {
    let now = UnixTime::of(SystemTime::now());
    remove_tokens(layout, |token| now.since(token.expires) > Duration::from_secs(30 * 86_400))
}

/// Removes the publisher's keys of the tokens that `gone` picks.
fn remove_tokens(layout: &Layout, gone: impl Fn(&PublisherToken) -> bool) -> anyhow::Result<()> {
    let dir = token_dir(layout);
    if !dir.is_dir() {
        return Ok(());
    }
    for entry in fs::read_dir(&dir).context("cannot list keys/tokens/")? {
        let path = entry.context("cannot list keys/tokens/")?.path();
        if PublisherToken::load(&path).is_ok_and(|token| gone(&token)) {
            durable::remove(&path).with_context(|| format!("cannot remove {}", path.display()))?;
            if let Some(token) = path.file_stem().and_then(|stem| stem.to_str()) {
                issued_tokens::forget(layout, token)?;
            }
        }
    }
    Ok(())
}

/// What [`revoke`] did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Revoked {
    /// How many certificates are refused from now on.
    pub certificates: usize,
    /// How many sealing keys the next publish leaves out.
    pub recipients: usize,
}

/// Revokes a site's certificates, its tokens and its sealing keys, at HQ and in git. A new token lets it in again.
#[expect(clippy::disallowed_methods, reason = "a command runs now")]
pub fn revoke(layout: &Layout, site: &SiteId) -> anyhow::Result<Revoked> {
    let now = UnixTime::of(SystemTime::now());
    let path = Pinned::path(layout, site);
    let pinned = path.exists().then(|| Pinned::load(&path).unwrap_or_else(|_| Pinned::new(site.clone())));
    let known = issued::of_site(&layout.online(), site)?.into_iter().map(|one| one.fingerprint);
    let in_git = pinned.iter().flat_map(|pinned| &pinned.certificate).map(|one| one.fingerprint);
    let revocation = Revocation { site: site.clone(), at: now, certificates: known.chain(in_git).collect() };
    let host = Host::of(layout)?;
    // If HQ's records are lost, git is the only place that can say it.
    let certificates = if pinned.is_some() { host.revoke_anyway(site, now)? } else { host.revoke(site, now)? };
    revoked::note(layout, revocation)?;
    remove_tokens(layout, |token| token.site == *site)?;
    let mut recipients = 0;
    if let Some(pinned) = pinned {
        recipients = pinned.keys().len();
        recipients::agree(layout, site, &[], &[])?;
        durable::remove(&path).with_context(|| format!("cannot remove {}", path.display()))?;
    }
    Ok(Revoked { certificates, recipients })
}

/// Checks the proof of one enrolment for the publisher. Returns the appliance to pin; `None` if it is pinned already.
fn prove(layout: &Layout, enrolment: &Enrolment) -> anyhow::Result<Option<Appliance>> {
    // The service's database is not trusted, so the id is checked before it becomes part of a path.
    ensure!(is_token_id(&enrolment.token), "its token id is malformed");
    let recipient: RecipientPublic =
        serde_json::from_value(enrolment.recipient.as_str().into()).context("its sealing key is malformed")?;
    let path = Pinned::path(layout, &enrolment.site);
    let pinned = if path.exists() { Pinned::load(&path)? } else { Pinned::new(enrolment.site.clone()) };
    if pinned.appliance.iter().any(|one| one.token == enrolment.token && one.recipient == recipient) {
        return Ok(None);
    }
    let path = token_dir(layout).join(format!("{}.toml", enrolment.token));
    if !path.exists() {
        match issued_tokens::known(layout, &enrolment.token) {
            Some(_) => bail!(
                "token {} may have been issued on another machine: tokens/{}.toml is here, and its other half is not",
                enrolment.token,
                enrolment.token
            ),
            None => bail!(
                "token {} may have been issued on another machine, where keys/tokens/ has its other half; here it was not \
                 issued, or it was taken over before",
                enrolment.token
            ),
        }
    }
    let token = PublisherToken::load(&path)?;
    ensure!(token.site == enrolment.site, "its token {} is for site {}", enrolment.token, token.site);
    let key: [u8; 32] = HEXLOWER
        .decode(token.key.as_bytes())
        .ok()
        .and_then(|bytes| bytes.try_into().ok())
        .ok_or_else(|| anyhow!("keys/tokens/{}.toml is damaged", enrolment.token))?;
    let key = Zeroizing::new(key);
    let names = (&token.fleet, &token.site, enrolment.token.as_str());
    ensure!(
        api::enrolment_proven(&key, names, &enrolment.csr, &recipient, &enrolment.publisher_proof),
        "its proof does not fit token {}",
        enrolment.token
    );
    let (enrolled, token, sealing_key) = (enrolment.at, enrolment.token.clone(), SealingKeyHistory::default());
    Ok(Some(Appliance { recipient, enrolled, token, sealing_key }))
}

/// Pins a proven appliance as the site's newest.
fn pin(layout: &Layout, site: &SiteId, appliance: Appliance) -> anyhow::Result<()> {
    let path = Pinned::path(layout, site);
    let mut pinned = if path.exists() { Pinned::load(&path)? } else { Pinned::new(site.clone()) };
    let before = pinned.keys();
    pinned.appliance.insert(0, appliance);
    pinned.appliance.truncate(MAX_APPLIANCES);
    recipients::agree(layout, site, &before, &pinned.keys())?;
    pinned.save(&path)
}

/// The file `enrolled/<site-id>.toml`: the sealing keys of a site, newest appliance first.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct Pinned {
    site: SiteId,
    #[serde(default)]
    appliance: Vec<Appliance>,
    /// The certificates that HQ has issued to it, for the day on which HQ's records are lost.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    certificate: Vec<PinnedCertificate>,
}

/// One `[[appliance]]` of that file: its sealing key, when it enrolled, and the id of its token.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct Appliance {
    recipient: RecipientPublic,
    enrolled: UnixTime,
    token: String,
    #[serde(default, skip_serializing_if = "SealingKeyHistory::is_empty")]
    sealing_key: SealingKeyHistory,
}

impl Pinned {
    /// The keys that the site's releases are sealed to.
    fn keys(&self) -> Vec<RecipientPublic> {
        self.appliance.iter().flat_map(Appliance::keys).collect()
    }

    fn new(site: SiteId) -> Self {
        Self { site, appliance: Vec::new(), certificate: Vec::new() }
    }

    fn path(layout: &Layout, site: &SiteId) -> PathBuf {
        layout.enrolled().join(format!("{site}.toml"))
    }

    fn load(path: &Path) -> anyhow::Result<Self> {
        let text =
            durable::read_regular(path, MAX_TEXT_BYTES).with_context(|| format!("cannot read {}", path.display()))?;
        let pinned: Self = toml::from_slice(&text).with_context(|| format!("{} is malformed", path.display()))?;
        ensure!(
            path.file_stem().and_then(|stem| stem.to_str()) == Some(pinned.site.as_str()),
            "{} is about another site, {}",
            path.display(),
            pinned.site
        );
        Ok(pinned)
    }

    fn save(&self, path: &Path) -> anyhow::Result<()> {
        let dir = path.parent().context("a file has a directory")?;
        durable::create_dirs(dir, SHARED_DIR).with_context(|| format!("cannot create {}", dir.display()))?;
        let text = format!(
            "# The public keys that this site's manifests are sealed to, newest appliance first.\n\
             # Written when an enrolment was proven. Keep it in git: a key that changes here shows in review.\n\n{}",
            toml::to_string(self).context("cannot write an enrolment")?
        );
        durable::replace(path, text.as_bytes(), PUBLIC).with_context(|| format!("cannot write {}", path.display()))
    }
}

/// The file `keys/tokens/<token>.toml`: the key with which the publisher checks the proof of an enrolment.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct PublisherToken {
    fleet: FleetId,
    site: SiteId,
    key: String,
    expires: UnixTime,
}

impl Drop for PublisherToken {
    fn drop(&mut self) {
        self.key.zeroize();
    }
}

impl PublisherToken {
    fn save(&self, layout: &Layout, token: &str) -> anyhow::Result<PathBuf> {
        let dir = token_dir(layout);
        durable::create_dirs(&dir, PRIVATE_DIR).with_context(|| format!("cannot create {}", dir.display()))?;
        let path = dir.join(format!("{token}.toml"));
        let body = Zeroizing::new(toml::to_string(self).context("cannot write a token")?);
        let text = Zeroizing::new(format!(
            "# Secret. With it `publish` verifies the sealing key of the appliance that uses token {token}.\n\
             # Removed when that has happened.\n\n{}",
            *body
        ));
        durable::create_new(&path, text.as_bytes(), PRIVATE)
            .with_context(|| format!("cannot create {}", path.display()))?;
        Ok(path)
    }

    fn load(path: &Path) -> anyhow::Result<Self> {
        let text = fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
        let text = Zeroizing::new(text);
        toml::from_str(&text).with_context(|| format!("{} is malformed", path.display()))
    }

    /// Removes the file, so that no second enrolment with this token can be proven.
    fn remove(layout: &Layout, token: &str) -> anyhow::Result<()> {
        let path = token_dir(layout).join(format!("{token}.toml"));
        durable::remove(&path).with_context(|| format!("cannot remove {}", path.display()))
    }
}

fn token_dir(layout: &Layout) -> PathBuf {
    layout.keys().join("tokens")
}

fn is_token_id(text: &str) -> bool {
    text.len() == 2 * TOKEN_ID_BYTES && HEXLOWER.decode(text.as_bytes()).is_ok()
}

fn random_hex<const N: usize>() -> anyhow::Result<String> {
    let mut bytes = Zeroizing::new([0u8; N]);
    getrandom::fill(bytes.as_mut_slice()).map_err(|error| anyhow!("no randomness: {error}"))?;
    Ok(HEXLOWER.encode(bytes.as_slice()))
}

/// SHA-256 of the newest `N.root.json` in a directory.
fn newest_root(dir: &Path) -> anyhow::Result<Digest> {
    let path =
        newest_root_path(dir)?.ok_or_else(|| anyhow!("no signed root in {}; run `init` first", dir.display()))?;
    Ok(Digest::of(
        &durable::read_regular(&path, MAX_METADATA_BYTES).with_context(|| format!("cannot read {}", path.display()))?,
    ))
}

#[cfg(test)]
mod tests;
