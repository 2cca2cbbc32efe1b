//! The `firmware` role: every image that may be served at all, signed by two of three offline keys.
//!
//! It is signed only when the set of images changed or its year is nearly over, and kept in git, so that whoever
//! publishes every day needs no firmware key.

use std::collections::BTreeMap;
use std::fs;

use anyhow::{Context as _, bail};

use super::previous::numbered;
use super::tree;
use crate::hq::keyring;
use crate::hq::layout::Layout;
use crate::hq::problem::count;
use crate::hq::render::FleetDir;
use crate::hq::trust;
use crate::ids::{Digest, UnixTime};
use crate::tuf::SigningKey;
use crate::tuf::schema::{Envelope, Targets};
use crate::tuf::sign;

/// The signed firmware catalogue.
#[derive(Debug)]
pub(super) struct Catalogue {
    /// Its version.
    pub version: u64,
    /// As it was signed.
    pub bytes: Vec<u8>,
    /// When it expires.
    pub expires: UnixTime,
}

/// The catalogue of all firmware that any model serves; signs a new one if need be.
pub(super) fn catalogue(layout: &Layout, fleet: &FleetDir, now: UnixTime) -> anyhow::Result<Catalogue> {
    let mut images: BTreeMap<Digest, u64> = BTreeMap::new();
    for asset in fleet.assets.firmware() {
        let bytes = fs::read(&asset.path).with_context(|| format!("cannot read {}", asset.file))?;
        images.insert(Digest::of(&bytes), u64::try_from(bytes.len()).unwrap_or(u64::MAX));
    }
    let newest = numbered(&layout.signed(), "firmware")?.pop_last();
    let mut version = 1;
    if let Some((number, bytes)) = newest {
        let listed: Envelope<Targets> = serde_json::from_slice(&bytes)
            .with_context(|| format!("{number}.firmware.json in {} is damaged", layout.signed().display()))?;
        let fresh = !trust::is_near(listed.signed.expires, trust::TARGETS_LIFE, 4, now);
        let wanted = trust::firmware(0, now, &fleet.inventory.fleet.id, &images).targets;
        if fresh && listed.signed.targets == wanted {
            return Ok(Catalogue { version: number, bytes, expires: listed.signed.expires });
        }
        version = number.saturating_add(1);
    }
    let keys = offline_keys(layout, images.len())?;
    let keys: Vec<&SigningKey> = keys.iter().collect();
    let catalogue = trust::firmware(version, now, &fleet.inventory.fleet.id, &images);
    let expires = catalogue.expires;
    let bytes = sign::sign(&catalogue, &keys);
    tree::write_file(&layout.signed().join(format!("{version}.firmware.json")), &bytes)?;
    Ok(Catalogue { version, bytes, expires })
}

/// The firmware keys that are here; at least as many as must sign.
fn offline_keys(layout: &Layout, images: usize) -> anyhow::Result<Vec<SigningKey>> {
    let mut keys = Vec::new();
    for number in 1..=trust::OFFLINE_KEYS {
        let path = layout.key(&format!("firmware-{number}"));
        if path.exists() {
            keys.push(keyring::load_signing(&path)?);
        }
    }
    if keys.len() < usize::try_from(trust::OFFLINE_THRESHOLD).unwrap_or(usize::MAX) {
        bail!(
            "the firmware catalogue ({}) must be signed anew by {} firmware keys, but {} here; publish once where they are",
            count(images, "file"),
            trust::OFFLINE_THRESHOLD,
            if keys.len() == 1 { "one is".to_owned() } else { format!("{} are", keys.len()) }
        );
    }
    Ok(keys)
}
