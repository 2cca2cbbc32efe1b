//! HQ's certificate authorities as the root lists them: the one in use, and a standby whose key stays offline.
//!
//! Sites accept servers of every CA that the root lists. So the loss of the CA's key is no visit to each site: the standby,
//! which they know already, takes its place.

use std::path::PathBuf;

use anyhow::{Context as _, anyhow, bail, ensure};
use serde_json::Value;
use zeroize::Zeroizing;

use super::{FleetKeys, Role, RoleChange, add_signature};
use ids::{Digest, UnixTime};
use online::ca::{self, Authority};
use repository::keyring::{self, Passphrase};
use repository::layout::Layout;
use telemetry::Hint as _;
use tuf::schema::{EXTRA_FIELD, Root};

/// The CAs that a root lists, in PEM. Roots of old may have one alone, without a list.
pub(super) fn listed(root: &Root) -> Vec<String> {
    match root.extra.get(EXTRA_FIELD).and_then(|extra| extra.get("ca")) {
        Some(Value::String(one)) => vec![one.clone()],
        Some(Value::Array(all)) => all.iter().filter_map(|one| Some(one.as_str()?.to_owned())).collect(),
        _ => Vec::new(),
    }
}

fn key_path(layout: &Layout) -> PathBuf {
    layout.key("standby-ca")
}

/// The standby's certificate: public, in git.
fn certificate_path(layout: &Layout) -> PathBuf {
    layout.signed().join("standby-ca.pem")
}

/// Makes a standby CA in `keys/` and returns the change that lists it in the next root.
pub fn standby(
    layout: &Layout,
    fleet: &str,
    passphrase: Option<&Passphrase>,
    now: UnixTime,
) -> anyhow::Result<RoleChange> {
    let keys = FleetKeys::read(layout)?;
    let mut all = listed(keys.pending().unwrap_or_else(|| keys.trusted()));
    ensure!(all.len() < ca::MOST_LISTED, "the root lists {} CAs already; `keys ca retire` leaves one", all.len());
    let Authority { key, certificate } = Authority::make(&format!("{fleet} standby"), now)?;
    keyring::write(&key_path(layout), &key, passphrase)?;
    let path = certificate_path(layout);
    durable::replace(&path, certificate.as_bytes(), durable::PUBLIC)
        .with_context(|| format!("cannot write {}", path.display()))?;
    all.push(certificate);
    Ok(RoleChange::Authorities(all))
}

/// Puts the standby CA in the place of the one in use. The certificates that sites have stay good, and sites renew them
/// under the new one. Returns lines for people.
pub fn use_standby(layout: &Layout, host: &str) -> anyhow::Result<Vec<String>> {
    let keys = FleetKeys::read(layout)?;
    let path = certificate_path(layout);
    let read = |path: &PathBuf| {
        durable::read_regular(path, 64 * 1024).with_context(|| format!("cannot read {}", path.display()))
    };
    let certificate =
        String::from_utf8(read(&path)?).with_context(|| format!("{} is no certificate", path.display()))?;
    let digest = |pem: &String| ca::digest_of(pem);
    let wanted = ca::digest_of(&certificate).with_context(|| format!("{} is no certificate", path.display()))?;
    let all = listed(keys.trusted());
    if !all.iter().any(|pem| digest(pem) == Some(wanted)) {
        return Err(anyhow!("the root does not list {}, so sites would refuse it", path.display()))
            .hint("`lineside-hq keys ca standby` lists it, before the other one is lost");
    }
    let key = keyring::read(&key_path(layout))?;
    let before: Vec<String> = all.into_iter().filter(|pem| digest(pem) != Some(wanted)).collect();
    ca::replace(
        &layout.online(),
        &Authority { key: Zeroizing::new(key.to_string()), certificate },
        &before,
        &[host.to_owned()],
    )?;
    durable::remove(&key_path(layout)).context("the standby is in use, but its copy in keys/ is still there")?;
    Ok(vec![
        "the standby CA is in use, and the service has a new certificate".to_owned(),
        "next: start `lineside-hq serve` again; sites accept it without a visit".to_owned(),
        "then: `lineside-hq keys ca retire` if the old key may be in somebody's hands, and `keys ca standby` for the next one".to_owned(),
    ])
}

/// The change after which the root lists only the CA in use, and a standby whose key is here.
pub fn retire(layout: &Layout) -> anyhow::Result<RoleChange> {
    let keys = FleetKeys::read(layout)?;
    let mut stay: Vec<Digest> = vec![ca::digest(&layout.online())?];
    if key_path(layout).exists() {
        let standby = std::fs::read_to_string(certificate_path(layout)).unwrap_or_default();
        stay.extend(ca::digest_of(&standby));
    }
    let all = listed(keys.pending().unwrap_or_else(|| keys.trusted()));
    let left: Vec<String> =
        all.iter().filter(|pem| ca::digest_of(pem).is_some_and(|digest| stay.contains(&digest))).cloned().collect();
    if left.is_empty() || left.len() == all.len() {
        bail!("the root lists no other CA than the one in use and the standby");
    }
    Ok(RoleChange::Authorities(left))
}

/// After the online key was lost: makes another one and a root that names it, signed by the root keys that are here.
pub(crate) fn replace_online_key(layout: &Layout, now: UnixTime) -> anyhow::Result<Vec<String>> {
    let mut keys = FleetKeys::read(layout)?;
    let next = keys.next_key(Role::Online);
    let key = if next.exists() { keyring::load_signing(&next)? } else { keys.create_for(Role::Online, None)?.1 };
    let old = RoleChange::Remove(Role::Online, keys.find(Role::Online, None)?);
    if keys.pending().is_none_or(|root| !root.public_keys(&Role::Online.keys(root)).contains(&key.public())) {
        keys.prepare(&[old, RoleChange::Add(Role::Online, key.public())], now)?;
    }
    let path = keys.save()?.to_owned();
    for file in keyring::files(&layout.keys())? {
        let holders = file.file_name().and_then(|name| name.to_str()).is_some_and(|name| name.starts_with("root-"));
        if holders && let Ok(key) = keyring::load_signing(&file) {
            add_signature(&path, &key, Some(&keys))?;
        }
    }
    let mut keys = FleetKeys::read(layout)?;
    if keys.check().is_err() {
        bail!(
            "the online key is lost; a new one waits for its root: each holder runs `lineside-hq keys sign {} --key FILE`, \
             then `lineside-hq keys finish`, then `lineside-hq rebuild` again",
            path.display()
        );
    }
    keys.finish()?;
    ensure!(
        layout.online_key().exists(),
        "the new online key is not in place; `lineside-hq keys finish` puts it there"
    );
    Ok(vec!["made a new online key, and the root that names it".to_owned()])
}
