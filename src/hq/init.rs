//! `init`: makes a fleet directory that works, with samples to change and all its keys.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use anyhow::{Context as _, anyhow, bail};
use data_encoding::HEXLOWER;

use super::{publish, recipients, secrets};
use bundle::RecipientSecret;
use durable::{Batch, PRIVATE_DIR, SHARED, SHARED_DIR};
use ids::{FleetId, SiteId, UnixTime};
use online::ca;
use repository::keyring::{self, KeyKind, Passphrase};
use repository::layout::Layout;
use repository::roles::{self, OFFLINE_KEYS, RootKeys};
use repository::tree;
use settings::count;
use telemetry::Hint as _;
use tuf::{PublicKey, SigningKey, sign};

/// The options of [`init`].
#[derive(Debug, Clone)]
pub struct InitOptions {
    /// The fleet's name, 1 to 100 characters.
    pub name: String,
    /// The URL at which sites will reach HQ: `https://host[:port]`.
    pub url: String,
    /// The time from which the signed root's expiry counts.
    pub now: UnixTime,
}

/// The files of a new fleet directory that need no ids, with their samples.
const FILES: [(&str, &str); 14] = [
    ("README.md", include_str!("samples/README.md")),
    ("phones.csv", include_str!("samples/phones.csv")),
    (".gitignore", include_str!("samples/gitignore")),
    ("files/README.md", include_str!("samples/files.md")),
    ("firmware/README.md", include_str!("samples/firmware.md")),
    ("templates/common/cisco-sip.xml.j2", include_str!("samples/common/cisco-sip.xml.j2")),
    ("templates/cisco-8941/model.toml", include_str!("samples/cisco-8941/model.toml")),
    ("templates/cisco-8941/SEP.cnf.xml.j2", include_str!("samples/cisco-8941/SEP.cnf.xml.j2")),
    ("templates/cisco-9971/model.toml", include_str!("samples/cisco-9971/model.toml")),
    ("templates/cisco-9971/SEP.cnf.xml.j2", include_str!("samples/cisco-9971/SEP.cnf.xml.j2")),
    ("templates/polycom/model.toml", include_str!("samples/polycom/model.toml")),
    ("templates/polycom/mac.cfg.j2", include_str!("samples/polycom/mac.cfg.j2")),
    ("templates/polycom/line.cfg.j2", include_str!("samples/polycom/line.cfg.j2")),
    ("templates/polycom/default.cfg.j2", include_str!("samples/polycom/default.cfg.j2")),
];
const FLEET_TOML: &str = include_str!("samples/fleet.toml");
const SITE_TOML: &str = include_str!("samples/site.toml");
const POLYCOM_COMMON: &str = include_str!("samples/polycom/common.cfg.j2");

/// The secrets of the sample phones' accounts; each gets a random password.
const SAMPLE_SECRETS: [&str; 3] = ["sip-101", "sip-102", "sip-103"];

/// Makes a fleet directory, whole or not at all. If `dir` exists, it must be empty.
pub fn init(dir: &Path, options: &InitOptions) -> anyhow::Result<FleetId> {
    init_with(dir, options, None)
}

/// The same with the offline keys encrypted, if there is a passphrase. The keys that `serve` needs are never encrypted,
/// because it starts without a person.
pub fn init_with(dir: &Path, options: &InitOptions, passphrase: Option<&Passphrase>) -> anyhow::Result<FleetId> {
    if options.name.is_empty() || options.name.len() > 100 || options.name.chars().any(char::is_control) {
        bail!("a fleet's name has 1 to 100 characters");
    }
    let Some(host) = host_of(&options.url) else {
        bail!("`{}` is not https://HOST or https://HOST:PORT", options.url);
    };
    match fs::read_dir(dir) {
        Ok(entries) => {
            let found = entries.count();
            if found > 0 {
                return Err(anyhow!("{} is not empty: it has {}", dir.display(), count(found, "file"))
                    .hint("name a directory that does not exist yet"));
            }
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => return Err(error).with_context(|| format!("cannot look into {}", dir.display())),
    }
    let parent = match dir.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
        _ if dir == Path::new(".") => bail!("name the directory that shall be made, not `.`"),
        _ => Path::new(".").to_owned(),
    };
    durable::create_dirs(&parent, SHARED_DIR).with_context(|| format!("cannot make {}", parent.display()))?;
    let aside = tempfile::Builder::new()
        .prefix(".lineside-init-")
        .tempdir_in(&parent)
        .with_context(|| format!("cannot write in {}", parent.display()))?;
    let fleet = format!("f-{}", random_hex()?).parse::<FleetId>()?;
    fill(&Layout::new(aside.path()), &fleet, &host, options, passphrase)?;
    fs::set_permissions(aside.path(), fs::Permissions::from_mode(0o755))?;
    durable::rename(aside.path(), dir).with_context(|| format!("cannot make {}", dir.display()))?;
    // The directory has moved, so there is nothing left to clean up.
    let _ = aside.keep();
    Ok(fleet)
}

fn fill(
    layout: &Layout,
    fleet: &FleetId,
    host: &str,
    options: &InitOptions,
    passphrase: Option<&Passphrase>,
) -> anyhow::Result<()> {
    for dir in [layout.keys(), layout.online()] {
        durable::create_dirs(&dir, PRIVATE_DIR)?;
    }
    for dir in [layout.signed(), layout.sites(), layout.enrolled()] {
        durable::create_dirs(&dir, SHARED_DIR)?;
    }
    let files = Batch::below(layout.dir());
    let file = |name: &str, text: &str| -> anyhow::Result<()> {
        let path = layout.dir().join(name);
        files.write(&path, text.as_bytes(), SHARED).with_context(|| format!("cannot write {}", path.display()))
    };
    for (name, text) in FILES {
        file(name, &text.replace("@NAME@", &options.name))?;
    }
    file("templates/polycom/common.cfg.j2", POLYCOM_COMMON)?;
    let name = options.name.replace('\\', "\\\\").replace('"', "\\\"");
    file(
        "fleet.toml",
        &FLEET_TOML.replace("@NAME@", &name).replace("@ID@", fleet.as_str()).replace("@URL@", &options.url),
    )?;
    file("sites/sample-office.toml", &site_toml(&new_site_id()?))?;
    file(
        "enrolled/README.md",
        "# enrolled/\n\nThe sealing keys of enrolled sites, pinned by `publish`. Public; a change of key shows in review.\n",
    )?;
    file(
        "root/README.md",
        "# root/\n\nMetadata signed by the offline keys, and public keys. Public; kept in git so that every change shows.\n",
    )?;
    files.sync()?;
    make_keys(layout, fleet, host, options, passphrase)?;
    let sample = SAMPLE_SECRETS
        .into_iter()
        .map(|name| Ok((name.to_owned(), secrets::generate()?)))
        .collect::<anyhow::Result<BTreeMap<_, _>>>()?;
    secrets::init(layout, &sample, passphrase)
}

fn make_keys(
    layout: &Layout,
    fleet: &FleetId,
    host: &str,
    options: &InitOptions,
    passphrase: Option<&Passphrase>,
) -> anyhow::Result<()> {
    let signing = |path: &Path, what: &str| keyring::create(path, what, passphrase);
    let offline = |role: &str, what: &str| -> anyhow::Result<Vec<SigningKey>> {
        (1..=OFFLINE_KEYS)
            .map(|number| {
                let what = format!("{what}: key {number} of {OFFLINE_KEYS}; two must sign. Keep each in another safe.");
                signing(&layout.key(&format!("{role}-{number}")), &what)
            })
            .collect()
    };
    let root = offline("root", "Trust itself")?;
    let firmware = offline("firmware", "What firmware may be served")?;
    let release = signing(&layout.key("release"), "Signs what sites get. Offline.")?;
    let online = keyring::create(&layout.online_key(), keyring::ONLINE, None)?;
    let publisher = RecipientSecret::generate();
    keyring::save(
        &layout.key("publisher"),
        KeyKind::Publisher,
        publisher.as_bytes(),
        "Makes the keys that files are sealed with. Offline.",
        passphrase,
    )?;
    let recovery = RecipientSecret::generate();
    keyring::save(
        &layout.key("recovery"),
        KeyKind::X25519,
        recovery.as_bytes(),
        "Opens everything that was published. Offline; `plan` uses it.",
        passphrase,
    )?;
    keyring::save_public(
        &layout.recovery_public(),
        &[*recovery.public().as_bytes()],
        "The public half of keys/recovery.key: everything published can be opened with that key.",
    )?;
    let public = |keys: &[SigningKey]| keys.iter().map(SigningKey::public).collect::<Vec<PublicKey>>();

    let authority = ca::init(layout, &options.name, &[host.to_owned()])?;
    let keys = RootKeys {
        root: &public(&root),
        targets: release.public(),
        online: online.public(),
        firmware: &public(&firmware),
    };
    let signed = roles::root(1, options.now, fleet, &[authority], &keys);
    let signed = sign::sign(&signed, &root.iter().collect::<Vec<_>>());
    tree::write_file(&layout.signed().join("1.root.json"), &signed)?;
    recipients::sign_statement(layout, fleet, BTreeMap::new(), &release)?;
    publish::publish_root(layout)
}

/// Writes `sites/NAME.toml` with a new random id. Fails if there is such a site.
pub fn add_site(layout: &Layout, name: &str) -> anyhow::Result<SiteId> {
    if !super::inventory::is_site_name(name) {
        bail!("`{name}` cannot name a site; use 1 to 60 letters, digits, hyphens, dots and underscores");
    }
    let path = layout.sites().join(format!("{name}.toml"));
    if path.exists() {
        bail!("there is a site `{name}` already: {}", path.display());
    }
    let id = new_site_id()?;
    tree::write_file(&path, site_toml(&id).as_bytes())?;
    Ok(id)
}

fn site_toml(id: &SiteId) -> String {
    SITE_TOML.replace("@ID@", id.as_str())
}

fn new_site_id() -> anyhow::Result<SiteId> {
    Ok(format!("s-{}", random_hex()?).parse()?)
}

fn random_hex() -> anyhow::Result<String> {
    let mut bytes = [0u8; 8];
    getrandom::fill(&mut bytes).map_err(|error| anyhow::anyhow!("no random numbers from the system: {error}"))?;
    Ok(HEXLOWER.encode(&bytes))
}

/// The host name or address of `https://host[:port]`; `None` if the URL is anything else.
pub(crate) fn host_of(url: &str) -> Option<String> {
    let rest = url.strip_prefix("https://")?.trim_end_matches('/');
    let host = match rest.strip_prefix('[') {
        Some(v6) => v6.split_once(']')?.0,
        None => rest.split_once(':').map_or(rest, |(host, _)| host),
    };
    let good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | ':');
    (!host.is_empty() && host.chars().all(good) && !rest.contains('/')).then(|| host.to_owned())
}

#[cfg(test)]
mod tests;
