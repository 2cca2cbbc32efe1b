//! `backup` and `restore`: HQ's host in one file, encrypted with age to the fleet's recovery key.
//!
//! The host learns that key from `public/recipients.json`, which reaches it with what is published and which the release
//! key has signed. So nobody on the host can have backups encrypted to a key of their own, and nobody on the host can read
//! them. `restore` needs `keys/recovery.key`, or the same key elsewhere.

mod age_key;

use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, anyhow, ensure};
use serde::{Deserialize, Serialize};

use crate::{enrol, recipients, revoked};
use bundle::RecipientPublic;
use durable::{PRIVATE, PRIVATE_DIR};
use ids::{FleetId, SiteId, UnixTime};
use online::backup;
use online::db::Db;
use online::db::restored::{GitSite, READMIT_DAYS};
use repository::keyring::{self, KeyKind};
use repository::layout::Layout;
use repository::ledger::Ledger;
use telemetry::Hint as _;

/// A backup that is older than this is a warning.
const OLD: Duration = Duration::from_secs(2 * 86_400);
/// How many backups stay in a folder.
const KEPT: usize = 14;

/// What `backup` leaves for `fleet` and `check`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct BackupRecord {
    at: UnixTime,
    file: PathBuf,
}

fn record_path(layout: &Layout) -> PathBuf {
    layout.online().join("backup.toml")
}

/// Writes a backup of `online/`: to this file, or under its date into this folder. Without either, it goes to
/// `online/backups/`. Returns the file.
pub fn write(layout: &Layout, to: Option<&Path>, now: UnixTime) -> anyhow::Result<PathBuf> {
    let recipient = age_key::recipient(&recovery(layout)?)?;
    let default = layout.online().join("backups");
    if to.is_none() {
        durable::create_dirs(&default, PRIVATE_DIR).with_context(|| format!("cannot make {}", default.display()))?;
    }
    let to = to.unwrap_or(&default);
    let dated = to.is_dir();
    let file = if dated { to.join(format!("hq-{}.age", now.to_string().replace(':', ""))) } else { to.to_owned() };
    let unwritable = || format!("cannot write {}", file.display());
    let mut aside = durable::aside(&file, PRIVATE).with_context(unwritable)?;
    let sealed = age::Encryptor::with_recipients(std::iter::once(&recipient as &dyn age::Recipient))
        .map_err(|error| anyhow!("cannot encrypt: {error}"))?;
    let mut sealed = sealed.wrap_output(AsideWriter(&mut aside)).with_context(unwritable)?;
    backup::write(&layout.online(), &mut sealed, now)?;
    sealed.finish().and_then(|mut rest| rest.flush()).with_context(unwritable)?;
    aside.sync().with_context(unwritable)?;
    durable::rename(&aside.keep(), &file).with_context(unwritable)?;
    if dated {
        forget_old(to)?;
    }
    let record = BackupRecord { at: now, file: file.clone() };
    let text = toml::to_string(&record).context("cannot note the backup")?;
    let path = record_path(layout);
    durable::replace(&path, text.as_bytes(), PRIVATE).with_context(|| format!("cannot write {}", path.display()))?;
    Ok(file)
}

struct AsideWriter<'a>(&'a mut durable::Aside);

impl std::io::Write for AsideWriter<'_> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.append(bytes)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Removes the oldest of our backups in a folder, so that [`KEPT`] stay.
fn forget_old(dir: &Path) -> anyhow::Result<()> {
    let mut ours = Vec::new();
    for entry in fs::read_dir(dir).with_context(|| format!("cannot list {}", dir.display()))? {
        let path = entry.with_context(|| format!("cannot list {}", dir.display()))?.path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if name.strip_prefix("hq-").and_then(|rest| rest.strip_suffix("Z.age")).is_some() {
            ours.push(path);
        }
    }
    // Their names are dates.
    ours.sort();
    let excess = ours.len().saturating_sub(KEPT);
    for path in ours.into_iter().take(excess) {
        durable::remove(&path).with_context(|| format!("cannot remove {}", path.display()))?;
    }
    Ok(())
}

/// The recovery key as the release key has signed it for this host.
fn recovery(layout: &Layout) -> anyhow::Result<RecipientPublic> {
    let public = layout.public();
    let read = |name: &str| -> anyhow::Result<Vec<u8>> {
        let path = public.join(name);
        durable::read_regular(&path, settings::MAX_TEXT_BYTES)
            .with_context(|| format!("cannot read {}", path.display()))
            .hint("`lineside-hq publish` at the desk brings it")
    };
    recipients::recovery_of(&read("root.json")?, &read("recipients.json")?).with_context(|| {
        format!("{} is not signed by the release key of root.json", public.join("recipients.json").display())
    })
}

/// Why people should look at the backups; `None` if there is a new one, or nothing that would be lost yet.
pub(crate) fn warning(layout: &Layout, now: UnixTime) -> Option<String> {
    let hint = "\n  hint: `lineside-hq backup` on HQ's host, daily (lineside-hq-backup.timer)";
    let record = durable::read_regular(&record_path(layout), 64 * 1024).ok();
    let record = record.and_then(|text| toml::from_slice::<BackupRecord>(&text).ok());
    match record {
        Some(record) if now.since(record.at) > OLD => {
            Some(format!("the last backup of HQ's host was made at {}, over two days ago{hint}", record.at))
        }
        Some(_) => None,
        None => {
            let oldest = Db::look(&layout.database()).ok()?.oldest_certificate().ok()??;
            (now.since(oldest) > OLD)
                .then(|| format!("HQ's host was never backed up; its loss would lose the fleet{hint}"))
        }
    }
}

/// Puts a backup back into `online/`, with the recovery key in `key`, and applies what git knows, if this is a fleet
/// directory. Returns lines for people.
pub fn restore(layout: &Layout, file: &Path, key: &Path, now: UnixTime) -> anyhow::Result<Vec<String>> {
    let identity = age_key::identity(&*keyring::load(key, KeyKind::X25519)?)?;
    let sealed = File::open(file).with_context(|| format!("cannot read {}", file.display()))?;
    let decryptor = age::Decryptor::new_buffered(std::io::BufReader::new(sealed))
        .map_err(|error| anyhow!("{} is no backup: {error}", file.display()))?;
    let mut clear = decryptor
        .decrypt(std::iter::once(&identity as &dyn age::Identity))
        .map_err(|error| anyhow!("{} does not open with {}: {error}", file.display(), key.display()))?;
    let header = backup::read(&mut clear, &layout.online(), now)?;
    let mut lines = vec![format!("put {} back as it was at {}", layout.online().display(), header.made)];
    if layout.fleet_toml().is_file() {
        let sites = bring_git(layout, now)?;
        lines.push(format!("applied what git knows of {}", settings::count(sites, "site")));
    } else {
        lines.push(
            "nothing is renewed until the desk publishes: it says whom it locked out since the backup".to_owned(),
        );
    }
    lines.push(format!(
        "for {READMIT_DAYS} days, each enrolled site may renew one certificate that is newer than the backup; `fleet` names them"
    ));
    lines.push("next: start `lineside-hq serve`, then `lineside-hq publish` makes every release anew".to_owned());
    Ok(lines)
}

/// Tells HQ's database what git knows: who is enrolled, and who was locked out. Returns how many sites that are.
pub(crate) fn bring_git(layout: &Layout, now: UnixTime) -> anyhow::Result<usize> {
    let mut problems = Vec::new();
    let inventory = crate::inventory::FleetInventory::read(layout, &mut problems)
        .ok_or_else(|| anyhow!("fleet.toml cannot be read; `lineside-hq check` says why"))?;
    let name = |site: &SiteId| inventory.name_of(site).unwrap_or_else(|| site.to_string());
    let sites = git_sites(layout, &inventory.fleet.id, &name)?;
    Db::open(&layout.database())?.apply_git(&sites, now)?;
    Ok(sites.len())
}

fn git_sites(layout: &Layout, fleet: &FleetId, name: &dyn Fn(&SiteId) -> String) -> anyhow::Result<Vec<GitSite>> {
    let mut sites = enrol::in_git(layout, fleet, name)?;
    for revocation in revoked::Revocations::read(layout)?.all() {
        let site = sites.entry(revocation.site.clone()).or_insert_with(|| GitSite {
            site: revocation.site.clone(),
            fleet: fleet.clone(),
            name: name(&revocation.site),
            enrolled: false,
            revoked_at: None,
            revoked: Default::default(),
            certificates: Vec::new(),
        });
        site.revoked_at = Some(revocation.at);
        site.revoked.clone_from(&revocation.certificates);
    }
    Ok(sites.into_values().collect())
}

/// Before a publish: after a restore, HQ hears what git knows.
pub(crate) fn finish_restore(layout: &Layout, now: UnixTime) -> anyhow::Result<()> {
    if !layout.database().is_file() {
        return Ok(());
    }
    let waits = Db::open_existing(&layout.database())?.last_restore()?.is_some_and(|restored| !restored.applied);
    if waits { bring_git(layout, now).map(drop) } else { Ok(()) }
}

/// Makes HQ's database anew from git and from the certificates that `serve` noted, and what else can be made again.
pub fn rebuild(layout: &Layout, now: UnixTime) -> anyhow::Result<Vec<String>> {
    let mut lines = Vec::new();
    for name in ["ca.key", "ca.pem"] {
        let path = layout.online().join(name);
        if !path.exists() {
            return Err(anyhow!("{} is lost, and sites accept servers of that CA alone", path.display())).hint(
                "`lineside-hq restore FILE` puts it back from a backup; or `lineside-hq keys ca use FILE` takes a standby \
                 CA that the root names",
            );
        }
    }
    ensure!(!layout.database().exists(), "{} is there; move it away first", layout.database().display());
    let mut problems = Vec::new();
    let inventory = crate::inventory::FleetInventory::read(layout, &mut problems)
        .ok_or_else(|| anyhow!("fleet.toml cannot be read; `lineside-hq check` says why"))?;
    let host = crate::init::host_of(&inventory.fleet.url).context("`url` of fleet.toml names no host")?;
    if !layout.online().join("server.pem").exists() {
        online::ca::rename(&layout.online(), std::slice::from_ref(&host))?;
        lines.push(format!("made a certificate of the service for {host}"));
    }
    if !layout.online_key().exists() {
        lines.extend(crate::keys::replace_online_key(layout, now)?);
    }
    let known = online::issued::all(&layout.online())?;
    let newest = known.iter().map(|one| one.issued).max().unwrap_or(UnixTime(0));
    let mut ledger = Ledger::read(layout);
    ledger.was_restored(now);
    ledger.write(layout)?;
    let db = Db::open(&layout.database())?;
    db.restored_from(newest, now)?;
    let name = |site: &SiteId| inventory.name_of(site).unwrap_or_else(|| site.to_string());
    let mut sites = git_sites(layout, &inventory.fleet.id, &name)?;
    for site in &mut sites {
        let of_site = known.iter().filter(|one| one.site == site.site);
        site.certificates.extend(of_site.map(|one| (one.fingerprint, one.issued, one.until)));
    }
    db.apply_git(&sites, now)?;
    lines.push(format!("made the database anew, with {}", settings::count(sites.len(), "site")));
    lines.push(
        "next: start `lineside-hq serve`, then `lineside-hq publish`; once every site has checked in, publish again"
            .to_owned(),
    );
    Ok(lines)
}
