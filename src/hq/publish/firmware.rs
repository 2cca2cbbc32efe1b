//! The firmware catalogue (role `firmware`): every image that may be served at all, signed by two of three offline
//! keys.
//!
//! It is signed only when the set of images changed or its year is nearly over, and it is kept in git. So people who
//! publish every day need no firmware key.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, anyhow};

use crate::render::FleetDir;
use ids::{Digest, UnixTime};
use repository::keyring;
use repository::layout::Layout;
use repository::published::numbered;
use repository::roles::{self, FirmwareKeys};
use repository::tree;
use settings::count;
use telemetry::Hint as _;
use tuf::SigningKey;
use tuf::schema::{Envelope, Targets};
use tuf::sign;

/// The signed firmware catalogue.
#[derive(Debug)]
pub(super) struct Catalogue {
    /// The version of its metadata.
    pub version: u64,
    /// The metadata with its signatures, byte for byte.
    pub bytes: Vec<u8>,
    /// When the metadata expires.
    pub expires: UnixTime,
}

impl Catalogue {
    fn of(version: u64, bytes: Vec<u8>) -> anyhow::Result<Self> {
        let listed: Envelope<Targets> = serde_json::from_slice(&bytes).context("the firmware catalogue is damaged")?;
        Ok(Self { version, bytes, expires: listed.signed.expires })
    }
}

/// The catalogue of all firmware that any model serves, and of all images of the appliance. Signs a new one if need be.
///
/// If too few of the keys are at hand, it leaves `root/N.firmware.json.pending` with the signatures that it could make
/// and fails. Holders add theirs with `keys sign`, and the next run uses the file.
pub(super) fn catalogue(
    layout: &Layout,
    fleet: &FleetDir,
    keys: &FirmwareKeys,
    now: UnixTime,
) -> anyhow::Result<Catalogue> {
    let mut images = BTreeMap::new();
    let of_phones = fleet.assets.firmware().map(|asset| (asset, None));
    let of_appliances = fleet.images.all().map(|image| (&image.asset, Some(image.approval())));
    for (asset, approval) in of_phones.chain(of_appliances) {
        let bytes = fs::read(&asset.path).with_context(|| format!("cannot read {}", asset.file))?;
        images.insert(Digest::of(&bytes), (u64::try_from(bytes.len()).unwrap_or(u64::MAX), approval));
    }
    let mut wanted = roles::firmware(0, now, &fleet.inventory.fleet.id, &images);
    let newest = numbered(&layout.signed(), "firmware")?.pop_last();
    wanted.version = match newest {
        Some((version, bytes)) if is_current(&bytes, &wanted, now)? && signatures(&bytes, keys)? >= keys.threshold => {
            return Catalogue::of(version, bytes);
        }
        Some((version, _)) => version.saturating_add(1),
        None => 1,
    };
    let version = wanted.version;
    let path = layout.signed().join(format!("{version}.firmware.json"));
    let pending = pending_path(&path);
    let mut bytes = match fs::read(&pending) {
        Ok(begun) if is_current(&begun, &wanted, now)? => begun,
        _ => sign::sign(&wanted, &[]),
    };
    for key in keys_at_hand(layout, keys, signatures(&bytes, keys)?)? {
        bytes = sign::add_signature(&bytes, &key)?;
    }
    let have = signatures(&bytes, keys)?;
    if have < keys.threshold {
        tree::write_file(&pending, &bytes)?;
        let files = count(images.len(), "file");
        let lacking = anyhow!("the firmware catalogue ({files}) needs {} signatures and has {have}", keys.threshold);
        return Err(lacking.hint(format!(
            "each holder of a firmware key runs `lineside-hq keys sign {} --key FILE`; then publish again",
            pending.display()
        )));
    }
    tree::write_file(&path, &bytes)?;
    if pending.exists() {
        fs::remove_file(&pending).with_context(|| format!("cannot remove {}", pending.display()))?;
    }
    Catalogue::of(version, bytes)
}

/// The file in which metadata waits for signatures before it becomes `path`.
pub(crate) fn pending_path(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".pending");
    name.into()
}

/// Whether a catalogue lists exactly the wanted images and is not due to be signed anew.
fn is_current(bytes: &[u8], wanted: &Targets, now: UnixTime) -> anyhow::Result<bool> {
    let listed: Envelope<Targets> =
        serde_json::from_slice(bytes).context("a firmware catalogue in root/ is damaged")?;
    let fresh = !roles::is_near(listed.signed.expires, roles::TARGETS_LIFE, 4, now);
    Ok(fresh && listed.signed.targets == wanted.targets)
}

fn signatures(bytes: &[u8], keys: &FirmwareKeys) -> anyhow::Result<u32> {
    Ok(u32::try_from(sign::signed_by(bytes, &keys.keys)?.len()).unwrap_or(u32::MAX))
}

/// The firmware keys in `keys/firmware-*.key` that `keys` names, at most as many as signatures are still needed.
fn keys_at_hand(layout: &Layout, keys: &FirmwareKeys, have: u32) -> anyhow::Result<Vec<SigningKey>> {
    let wanted = usize::try_from(keys.threshold.saturating_sub(have)).unwrap_or(usize::MAX);
    let mut found = Vec::new();
    for path in keyring::files(&layout.keys())? {
        let name = path.file_stem().and_then(|name| name.to_str()).unwrap_or_default();
        if found.len() < wanted && name.starts_with("firmware") {
            let key = keyring::load_signing(&path)?;
            if keys.keys.contains(&key.public()) {
                found.push(key);
            }
        }
    }
    Ok(found)
}
