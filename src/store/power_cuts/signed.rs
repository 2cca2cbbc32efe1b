//! A small publisher: releases that are really signed and sealed, and what an appliance does to believe one.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use std::collections::BTreeMap;

use serde_json::json;

use crate::fixtures::put;
use crate::{Store, StoredRelease, TrustState};
use access::{Files as _, MANIFEST_TARGET, Opened, OpenedManifest};
use bundle::{Class, FileEntry, Inventory, Manifest, Packing, RecipientSecret, Scope, Shard, SiteSettings, Totals};
use ids::{Digest, FleetId, Generation, SiteId, UnixTime};
use seal::PublisherSecret;
use tuf::sign::{self, Signers, TopLevel};
use tuf::{MetadataLimits, Refresh, RefreshStep, SigningKey, TrustError, Trusted};

const NOW: UnixTime = UnixTime(1_800_000_000);
const LATER: UnixTime = UnixTime(1_900_000_000);
const SECRET: PublisherSecret = PublisherSecret::from_bytes([9; 32]);
const SITE_KEY: RecipientSecret = RecipientSecret::from_bytes([5; 32]);

fn fleet() -> FleetId {
    "acme".parse().unwrap()
}

fn site() -> SiteId {
    "s-1".parse().unwrap()
}

fn key(seed: u8) -> SigningKey {
    SigningKey::from_seed(&[seed; 32])
}

/// What one phone is served in generation `number`: a name and bytes each.
pub(super) fn files(number: u64) -> [(&'static str, Vec<u8>); 3] {
    let image = (0..70_000u32).map(|at| (at.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    [
        ("shared.cfg", b"the same in every release".to_vec()),
        ("phone.cfg", format!("<device>{number}</device>").repeat(300).into_bytes()),
        ("image.bin", image),
    ]
}

/// A published generation: metadata by file name, the sealed manifest, objects.
pub(super) struct Published {
    tree: BTreeMap<String, Vec<u8>>,
    sealed: Vec<u8>,
    objects: Vec<Vec<u8>>,
}

pub(super) fn root() -> Vec<u8> {
    let (root, targets, online) = (key(1).public(), key(2).public(), key(3).public());
    let one = |key| Signers { keys: std::slice::from_ref(key), threshold: 1 };
    let signers =
        TopLevel { root: one(&root), targets: one(&targets), snapshot: one(&online), timestamp: one(&online) };
    sign::sign(&sign::root(1, LATER, signers, Some(json!({ "fleet": "acme" }))), &[&key(1)])
}

/// Generation `number`, the same bytes each time.
pub(super) fn publish(number: u64) -> Published {
    let mut objects = Vec::new();
    let mut shard = Shard::default();
    for (name, clear) in files(number) {
        let packing = if clear.len() > 65_536 { Packing::Plain } else { Packing::Zstd };
        let (blob, sealed) = seal::object::seal(&SECRET, "acme", &clear, packing);
        objects.push(sealed);
        let (scope, class) = (Scope::Everyone, Class::Config);
        shard.files.push(FileEntry { name: name.parse().unwrap(), scope, class, sha256: Digest::of(&clear), blob });
    }
    shard.files.sort_by(|a, b| a.name.cmp(&b.name));
    let (inventory, sealed) = seal::object::seal_inventory(&SECRET, "s-1", &Inventory::default());
    objects.push(sealed);
    let (shard, sealed) = seal::object::seal_shard(&SECRET, "s-1", &shard);
    objects.push(sealed);
    let manifest = Manifest {
        format: 1,
        fleet: fleet(),
        site: site(),
        generation: Generation(number),
        created: NOW,
        totals: Totals::default(),
        catalogue_version: 0,
        activation_window: None,
        settings: SiteSettings::default(),
        inventory,
        shards: vec![shard],
        image: None,
    };
    let sealed = seal::manifest::seal(&SECRET, &manifest, &[SITE_KEY.public()]).unwrap();
    let own = || Some(json!({ "fleet": "acme", "site": "s-1" }));
    let target = sign::target(sealed.len() as u64, Digest::of(&sealed));
    let targets = BTreeMap::from([(MANIFEST_TARGET.to_owned(), target)]);
    let targets = sign::sign(&sign::targets(number, LATER, targets, None, own()), &[&key(2)]);
    let meta = BTreeMap::from([("targets.json".to_owned(), sign::meta_file(number, &targets))]);
    let snapshot = sign::sign(&sign::snapshot(number, LATER, meta, own()), &[&key(3)]);
    let timestamp = sign::timestamp(number, LATER, sign::meta_file(number, &snapshot), own());
    let timestamp = sign::sign(&timestamp, &[&key(3)]);
    let tree = [
        ("timestamp.json".to_owned(), timestamp),
        (format!("{number}.snapshot.json"), snapshot),
        (format!("{number}.targets.json"), targets),
    ];
    Published { tree: tree.into(), sealed, objects }
}

impl Published {
    /// What an appliance that trusts `trusted` makes of this tree.
    pub(super) fn refresh(&self, trusted: Trusted) -> Result<Trusted, TrustError> {
        let mut machine = Refresh::start(trusted, MetadataLimits::default(), NOW);
        while let RefreshStep::Fetch(ask) = machine.step() {
            match self.tree.get(&ask.path) {
                Some(bytes) => machine.received(bytes)?,
                None => machine.missing()?,
            }
        }
        Ok(machine.trusted().clone())
    }

    /// Fetches and opens the release as a poll does. The objects are in the store then.
    pub(super) fn fetch(&self, store: &Store, trusted: &Trusted) -> Opened {
        for object in &self.objects {
            // A resumed download may turn out to be spoiled; the second attempt starts over.
            put(store, object).or_else(|_| put(store, object)).unwrap();
        }
        open(store, trusted, &self.sealed)
    }

    /// One whole update, from the refresh to the deletion of old objects.
    pub(super) fn install(&self, store: &Store) {
        let trusted = self.refresh(trusted(store)).unwrap();
        save(store, &trusted);
        let opened = self.fetch(store, &trusted);
        store.stage(&opened, &trusted.files()).unwrap();
        store.activate(opened.generation()).unwrap();
    }
}

pub(super) fn save(store: &Store, trusted: &Trusted) {
    let state = TrustState { metadata: trusted.files(), time_floor: Some(NOW), ..TrustState::default() };
    store.save_trust(&state).unwrap();
}

/// What the store's trust state stands for, or the pinned root at the very start.
pub(super) fn trusted(store: &Store) -> Trusted {
    match store.trust().unwrap() {
        Some(state) => Trusted::reopen(&state.metadata).unwrap(),
        None => Trusted::pin(&root()).unwrap(),
    }
}

fn open(store: &Store, trusted: &Trusted, sealed: &[u8]) -> Opened {
    let manifest = OpenedManifest::open(trusted, sealed, &SITE_KEY, &fleet(), &site()).unwrap();
    let mut read = |part: &bundle::ObjectRef| store.read(&part.digest, part.bytes).map_err(|error| error.to_string());
    manifest.complete(trusted, &mut read).unwrap()
}

/// Verifies a stored release from its bytes and reads every file as a phone gets it.
pub(super) fn assert_served(store: &Store, release: &StoredRelease, name: &str) {
    let trusted = Trusted::reopen(&release.metadata).unwrap();
    let opened = open(store, &trusted, &release.sealed_manifest);
    assert_eq!(opened.generation(), release.generation, "{name}");
    for (file, clear) in files(release.generation.0) {
        let entry = opened.catalog().file(&file.parse().unwrap()).unwrap();
        let content = store.open(entry).unwrap();
        let chunks = 0..content.len().div_ceil(access::content::CHUNK_BYTES as u64);
        let served: Vec<u8> = chunks.flat_map(|index| content.chunk(index).unwrap().to_vec()).collect();
        assert!(served == clear, "{name}: {file} is not what generation {} says", release.generation);
    }
}

/// Everything below what is trusted is refused, signed or not.
pub(super) fn assert_no_way_back(trusted: &Trusted, older: &[Published], name: &str) {
    for (number, older) in (1..).zip(older) {
        let error = older.refresh(trusted.clone()).unwrap_err();
        assert!(matches!(error, TrustError::Rollback { .. }), "{name}: generation {number} passes: {error}");
    }
}
