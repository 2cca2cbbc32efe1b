//! What a holder is about to sign, in words: a root or a firmware list against the one before it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use serde_json::{Map, Value};

use super::{FleetKeys, Role, parse_root, read_bounded, sign_bytes};
use crate::{assets, images};
use access::ImageApproval;
use ids::Digest;
use repository::layout::Layout;
use tuf::schema::{EXTRA_FIELD, Envelope, FIRMWARE, Root, TIME, Targets};
use tuf::{KeyId, SigningKey};

/// The values of `x-lineside` in a root that have lines of their own.
const TOLD: [&str; 3] = ["ca", FIRMWARE, TIME];

/// A file that a holder is to sign, and the file of the version before, if it is at hand.
pub struct Review {
    bytes: Vec<u8>,
    before: Option<(PathBuf, Vec<u8>)>,
}

impl Review {
    /// Reads the file, and the version before from its folder or from `root/`.
    pub fn read(path: &Path, signed: &Path) -> anyhow::Result<Self> {
        let bytes = read_bounded(path)?;
        let envelope: Envelope<Value> = serde_json::from_slice(&bytes).context("it is no metadata")?;
        let role = match envelope.signed.get("_type").and_then(Value::as_str) {
            Some("root") => "root",
            Some("targets") => FIRMWARE,
            _ => bail!("it is neither a root nor a firmware catalogue"),
        };
        let version = envelope.signed.get("version").and_then(Value::as_u64).unwrap_or_default();
        let name = format!("{}.{role}.json", version.saturating_sub(1));
        let folder = durable::parent(path);
        let before = [folder, signed].into_iter().map(|folder| folder.join(&name)).find(|path| path.is_file());
        let before = before.map(|path| read_bounded(&path).map(|bytes| (path, bytes))).transpose()?;
        Ok(Self { bytes, before })
    }

    /// Adds a holder's signature to what was read, as [`super::add_signature`] does.
    pub fn sign(&self, path: &Path, key: &SigningKey, keys: Option<&FleetKeys>) -> anyhow::Result<()> {
        sign_bytes(path, &self.bytes, key, keys)
    }

    /// The text for the holder. `names` are the names of images by digest, as far as they are known here.
    pub fn text(&self, names: &BTreeMap<Digest, String>) -> anyhow::Result<String> {
        let mut text = String::new();
        match &self.before {
            Some((path, bytes)) => {
                writeln!(text, "against {} (SHA-256 {}):", path.display(), Digest::of(bytes))?;
            }
            None => {
                writeln!(text, "the version before is not here, so everything shows as new; copy it beside the file")?
            }
        }
        let before = self.before.as_ref().map(|(_, bytes)| bytes.as_slice());
        let kind = serde_json::from_slice::<Envelope<Value>>(&self.bytes)?.signed;
        if kind.get("_type").and_then(Value::as_str) == Some("root") {
            let before = before.map(parse_root).transpose()?;
            root(&mut text, before.as_ref(), &parse_root(&self.bytes)?)?;
        } else {
            let parse = |bytes: &[u8]| serde_json::from_slice::<Envelope<Targets>>(bytes).map(|list| list.signed);
            firmware(&mut text, before.map(parse).transpose()?.as_ref(), &parse(&self.bytes)?, names)?;
        }
        Ok(text)
    }
}

/// One line for a value: as it is, or what it was and what it would be.
fn value(text: &mut String, what: &str, before: Option<String>, after: &str) -> std::fmt::Result {
    match before {
        Some(before) if before == after => writeln!(text, "  {what}: {after}"),
        Some(before) => writeln!(text, "~ {what}: {before} -> {after}"),
        None => writeln!(text, "+ {what}: {after}"),
    }
}

/// The lines of a set: what stays, then what comes, then what goes.
fn set(text: &mut String, what: &str, before: &BTreeSet<String>, after: &BTreeSet<String>) -> std::fmt::Result {
    let marked = (before.intersection(after).map(|one| (' ', one)))
        .chain(after.difference(before).map(|one| ('+', one)))
        .chain(before.difference(after).map(|one| ('-', one)));
    for (mark, one) in marked {
        writeln!(text, "{mark} {what} {one}")?;
    }
    Ok(())
}

fn root(text: &mut String, before: Option<&Root>, after: &Root) -> anyhow::Result<()> {
    value(text, "root version", before.map(|root| root.version.to_string()), &after.version.to_string())?;
    value(text, "valid until", before.map(|root| root.expires.to_string()), &after.expires.to_string())?;
    let mut owners: BTreeMap<KeyId, Vec<&str>> = BTreeMap::new();
    for role in Role::ALL {
        let (old, new) = (before.map(|root| role.keys(root)), role.keys(after));
        let must = |keys: &tuf::schema::RoleKeys| format!("{} of {} must sign", keys.threshold, keys.keyids.len());
        value(text, role.word(), old.as_ref().map(must), &must(&new))?;
        let ids = |keys: &[KeyId]| keys.iter().map(|id| id.0.clone()).collect::<BTreeSet<_>>();
        set(text, "  key", &old.map(|keys| ids(&keys.keyids)).unwrap_or_default(), &ids(&new.keyids))?;
        for id in new.keyids {
            owners.entry(id).or_default().push(role.word());
        }
    }
    // TUF has two roles for the online key; they may differ in a root that was not made by `keys`.
    let of = |name: &str| after.roles.get(name).map(|keys| (&keys.keyids, keys.threshold));
    if of("snapshot") != of("timestamp") {
        writeln!(text, "! snapshot and timestamp have different keys or thresholds")?;
    }
    for (id, roles) in owners.into_iter().filter(|(_, roles)| roles.len() > 1) {
        writeln!(text, "! one key for {}: whoever steals {} has all of them", roles.join(" and "), id.0)?;
    }
    for role in [Role::Root, Role::Firmware] {
        if role.keys(after).threshold < 2 {
            writeln!(text, "! one {role} key alone would be enough")?;
        }
    }
    let known = ["root", "targets", "snapshot", "timestamp"];
    for name in after.roles.keys().filter(|name| !known.contains(&name.as_str())) {
        writeln!(text, "! a role that is not known here: {}", printable(name))?;
    }
    let (old, new) = (before.map(extra).unwrap_or_default(), extra(after));
    set(text, "CA", &authorities(&old), &authorities(&new))?;
    if let Some(time) = after.time() {
        writeln!(text, "! sites set the time that they remember to {time}, also if theirs is later")?;
    }
    let rest = |extra: &Map<String, Value>| {
        let rest = extra.iter().filter(|(name, _)| !TOLD.contains(&name.as_str()));
        rest.map(|(name, value)| format!("{}: {}", printable(name), printable(&value.to_string()))).collect()
    };
    set(text, EXTRA_FIELD, &rest(&old), &rest(&new))?;
    Ok(())
}

fn extra(root: &Root) -> Map<String, Value> {
    root.extra.get(EXTRA_FIELD).and_then(Value::as_object).cloned().unwrap_or_default()
}

/// HQ's CAs as people can compare them: by the SHA-256 of each certificate, as enrolment tokens carry it.
fn authorities(extra: &Map<String, Value>) -> BTreeSet<String> {
    let all = match extra.get("ca") {
        Some(one @ Value::String(_)) => vec![one.clone()],
        all => all.and_then(Value::as_array).cloned().unwrap_or_default(),
    };
    let print = |ca: &Value| match online::ca::digest_of(ca.as_str().unwrap_or_default()) {
        Some(digest) => format!("with the certificate of SHA-256 {digest}"),
        None => "that is no certificate".to_owned(),
    };
    all.iter().map(print).collect()
}

fn firmware(
    text: &mut String,
    before: Option<&Targets>,
    after: &Targets,
    names: &BTreeMap<Digest, String>,
) -> anyhow::Result<()> {
    value(text, "firmware list version", before.map(|list| list.version.to_string()), &after.version.to_string())?;
    value(text, "valid until", before.map(|list| list.expires.to_string()), &after.expires.to_string())?;
    if after.delegations.is_some() {
        writeln!(text, "! it lets others sign firmware")?;
    }
    let images = |list: &Targets| -> BTreeSet<String> {
        let line = |(path, target): (&String, &tuf::schema::Target)| {
            let name = target.hashes.sha256.and_then(|digest| names.get(&digest)).map_or("not here", String::as_str);
            let image = ImageApproval::of(target).map_or_else(String::new, |image| {
                let back = if image.may_go_back { ", and may follow a higher version" } else { "" };
                let (compatible, version) = (printable(&image.compatible), printable(&image.version));
                format!("  for boxes {compatible}, version {version}{back}")
            });
            format!("{}  {} bytes  ({}){image}", printable(path), target.length, printable(name))
        };
        list.targets.iter().map(line).collect()
    };
    set(text, "image", &before.map(images).unwrap_or_default(), &images(after))?;
    Ok(())
}

/// The names of the files here that firmware keys may sign for, by digest: the same files that `publish` finds.
pub fn names(layout: &Layout) -> anyhow::Result<BTreeMap<Digest, String>> {
    let mut names = BTreeMap::new();
    for file in assets::present(layout).into_iter().chain(images::present(layout)) {
        let bytes = file.read().with_context(|| format!("cannot read {}", file.file))?;
        names.insert(Digest::of(&bytes), file.name.to_string());
    }
    Ok(names)
}

/// Text from a file that somebody else made, without what could draw on the terminal.
fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '?' } else { c }).take(300).collect()
}
