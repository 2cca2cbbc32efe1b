//! The keys that a run of `publish` needs, and the roots that say which keys are trusted.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, anyhow, bail};

use crate::host::Host;
use bundle::RecipientPublic;
use repository::layout::Layout;
use repository::roles::FirmwareKeys;
use repository::{keyring, published, tree};
use seal::PublisherSecret;
use settings::MAX_TEXT_BYTES;
use telemetry::Hint as _;
use tuf::schema::Root;
use tuf::{SigningKey, Trusted};

/// The keys that sign a release, and the roots that sites follow to trust them.
pub(super) struct Signers {
    /// The keys that publishing needs, all named by the newest root.
    pub(super) keys: PublishKeys,
    /// Every signed root of the fleet directory, by version.
    pub(super) roots: BTreeMap<u64, Vec<u8>>,
}

impl Signers {
    /// Reads the roots, and the keys that the newest one names.
    pub(super) fn read(layout: &Layout, host: &Host) -> anyhow::Result<Self> {
        let roots = roots(layout)?;
        let newest = newest_root(&roots)?;
        let keys = PublishKeys::load(layout, host, newest.root())?;
        Ok(Self { keys, roots })
    }
}

/// The keys that publishing needs. Root, firmware and recovery keys are not among them.
pub(super) struct PublishKeys {
    /// The secret that content keys are derived from.
    pub(super) publisher: PublisherSecret,
    /// The release key, which signs `targets`.
    pub(super) release: SigningKey,
    /// The online key, which signs `snapshot` and `timestamp`; `None` if HQ's host is another machine, which has it.
    pub(super) online: Option<SigningKey>,
    /// HQ's recovery key (public). Every release is sealed to it besides the site's keys.
    pub(super) recovery: RecipientPublic,
    /// The public keys that may sign the firmware catalogue, and how many must.
    pub(super) firmware: FirmwareKeys,
}

impl PublishKeys {
    /// Reads the keys. Fails if the newest root does not name one of them for its role.
    pub(super) fn load(layout: &Layout, host: &Host, root: &Root) -> anyhow::Result<Self> {
        let role = |role: &str, path: PathBuf| -> anyhow::Result<SigningKey> {
            let key = keyring::load_signing(&path)?;
            if !root.roles.get(role).is_some_and(|keys| keys.keyids.contains(&key.public().id())) {
                let (path, version) = (path.display(), root.version);
                return Err(anyhow!("{path} is not the key that root version {version} names for {role}")
                    .hint("`lineside-hq keys show` says which keys are trusted"));
            }
            Ok(key)
        };
        Ok(Self {
            publisher: publisher_secret(layout)?,
            release: role("targets", layout.key("release"))?,
            online: match host {
                Host::Local(_) => Some(role("timestamp", layout.online_key())?),
                Host::Remote(_) => None,
            },
            recovery: recovery_public(layout)?,
            firmware: FirmwareKeys::of(root),
        })
    }
}

/// The secret that content keys are derived from.
pub(crate) fn publisher_secret(layout: &Layout) -> anyhow::Result<PublisherSecret> {
    let secret = keyring::load(&layout.key("publisher"), keyring::KeyKind::Publisher)?;
    Ok(PublisherSecret::from_bytes(*secret))
}

/// HQ's recovery key.
pub(crate) fn recovery_public(layout: &Layout) -> anyhow::Result<RecipientPublic> {
    let path = layout.recovery_public();
    let keys = keyring::load_public(&path)?;
    match keys.as_slice() {
        [key] => RecipientPublic::checked(*key).map_err(|why| anyhow!("{}: {why}", path.display())),
        _ => bail!("{} must hold one key", path.display()),
    }
}

/// The signed roots of the fleet directory by version, the newest last. Fails if there is none.
pub(crate) fn roots(layout: &Layout) -> anyhow::Result<BTreeMap<u64, Vec<u8>>> {
    let roots = published::numbered(&layout.signed(), "root")?;
    if roots.is_empty() {
        bail!("there is no signed root in {}", layout.signed().display());
    }
    Ok(roots)
}

/// Verifies the newest of these roots by the keys that it names itself.
pub(crate) fn newest_root(roots: &BTreeMap<u64, Vec<u8>>) -> anyhow::Result<Trusted> {
    let Some((version, bytes)) = roots.last_key_value() else { bail!("there is no signed root") };
    let root = Trusted::pin(bytes).with_context(|| format!("{version}.root.json does not hold"))?;
    Ok(root)
}

/// Writes the newest root to `public/root.json`, where `serve` finds it for appliances that enrol, and beside it who can open
/// releases, which `backup` reads.
pub(crate) fn publish_root(layout: &Layout) -> anyhow::Result<()> {
    let recipients = "recipients.json";
    if let Ok(signed) = durable::read_regular(&layout.signed().join(recipients), MAX_TEXT_BYTES) {
        write_if_new(&layout.public().join(recipients), &signed)?;
    }
    match roots(layout)?.last_key_value() {
        Some((_, newest)) => write_if_new(&layout.public().join("root.json"), newest),
        None => Ok(()),
    }
}

fn write_if_new(path: &Path, bytes: &[u8]) -> anyhow::Result<()> {
    if durable::holds(path, bytes) { Ok(()) } else { tree::write_file(path, bytes) }
}
