//! The frozen vectors in `tests/vectors/bundle`: what was sealed once opens for ever, and nothing else seals alike.

#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use bundle::limits::MAX_UNPACKED_BYTES;
use bundle::recipients::{self, Binding};
use bundle::{Class, FileEntry, Inventory, Manifest, ObjectRef, Packing, Phone, RecipientSecret, Scope, Shard};

use crate::manifest::{self, seal_packed};
use crate::{PublisherSecret, object};
use ids::{Digest, MacAddr};

/// `vectors.json`: everything that a reader of the sealed files needs, and the publisher's secret to make them again.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Vectors {
    publisher_secret: String,
    recipient_secrets: Vec<String>,
    fleet: String,
    site: String,
    generation: u64,
    /// The scope that each object was sealed in, and its reference.
    objects: std::collections::BTreeMap<String, (String, ObjectRef)>,
}

fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/vectors/bundle")
}

fn read(name: &str) -> Vec<u8> {
    std::fs::read(directory().join(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

fn load() -> Vectors {
    serde_json::from_slice(&read("vectors.json")).unwrap()
}

fn bytes(hex: &str) -> [u8; 32] {
    data_encoding::HEXLOWER.decode(hex.as_bytes()).unwrap().try_into().unwrap()
}

impl Vectors {
    fn secret(&self) -> PublisherSecret {
        PublisherSecret::from_bytes(bytes(&self.publisher_secret))
    }

    fn recipients(&self) -> Vec<RecipientSecret> {
        self.recipient_secrets.iter().map(|hex| RecipientSecret::from_bytes(bytes(hex))).collect()
    }

    fn binding(&self) -> Binding {
        let generation = ids::Generation(self.generation);
        Binding { fleet: self.fleet.parse().unwrap(), site: self.site.parse().unwrap(), generation }
    }
}

#[test]
fn the_frozen_manifest_opens_for_every_recipient() {
    let (vectors, sealed) = (load(), read("manifest.sealed"));
    for key in vectors.recipients() {
        let manifest = recipients::open(&sealed, &key, &vectors.binding()).unwrap();
        let clear: Manifest = serde_json::from_slice(&read("manifest.json")).unwrap();
        assert_eq!(manifest, clear);
        assert_eq!(manifest.inventory, vectors.objects["inventory"].1);
    }
}

#[test]
fn sealing_the_frozen_manifest_again_gives_its_bytes() {
    let (vectors, sealed) = (load(), read("manifest.sealed"));
    let keys = vectors.recipients();
    let packed = recipients::open_packed(&sealed, &keys[0], &vectors.binding()).unwrap();
    let public: Vec<_> = keys.iter().map(RecipientSecret::public).collect();
    assert_eq!(seal_packed(&vectors.secret(), &vectors.binding(), &packed, &public), Ok(sealed));
}

#[test]
fn the_frozen_objects_open_and_sealing_them_again_gives_their_bytes() {
    let vectors = load();
    assert_eq!(vectors.objects.len(), 5);
    for (name, (scope, reference)) in &vectors.objects {
        let sealed = read(&format!("{name}.sealed"));
        let clear = bundle::object::open(reference, &sealed, MAX_UNPACKED_BYTES).unwrap();
        assert_eq!(Digest::of(&clear), Digest::of(&read(&format!("{name}.clear"))), "{name}");
        let packed = bundle::stream::open(reference.key.as_bytes(), b"", &sealed).unwrap();
        let again = object::seal_packed(&vectors.secret(), scope, &packed, clear.len(), reference.packing);
        assert_eq!(again, (reference.clone(), sealed), "{name}");
    }
    let shard = bundle::object::open_shard(&vectors.objects["shard"].1, &read("shard.sealed")).unwrap();
    assert_eq!(shard.files[0].blob, vectors.objects["config"].1);
    let inventory = bundle::object::open_inventory(&vectors.objects["inventory"].1, &read("inventory.sealed")).unwrap();
    assert_eq!(inventory.phones[0].label, "reception");
}

/// Writes the vectors. Only for a format that was never released: after that, if a test above fails, the code is wrong.
#[test]
#[ignore = "writes the vectors; see its description"]
fn write_the_vectors() {
    let hex = |fill: u8| data_encoding::HEXLOWER.encode(&[fill; 32]);
    let mut vectors = Vectors {
        publisher_secret: hex(0x11),
        recipient_secrets: vec![hex(0x21), hex(0x22), hex(0x23)],
        fleet: "acme".to_owned(),
        site: "s-3f9a".to_owned(),
        generation: 7,
        objects: std::collections::BTreeMap::new(),
    };
    let write = |name: &str, bytes: &[u8]| std::fs::write(directory().join(name), bytes).unwrap();
    let secret = vectors.secret();
    let mut keep = |name: &str, scope: &str, clear: &[u8], (reference, sealed): (ObjectRef, Vec<u8>)| {
        write(&format!("{name}.clear"), clear);
        write(&format!("{name}.sealed"), &sealed);
        vectors.objects.insert(name.to_owned(), (scope.to_owned(), reference.clone()));
        reference
    };
    let config = b"<device>\n  <sipPassword>not a real one</sipPassword>\n</device>\n".repeat(20);
    let image: Vec<u8> = (0..70_000u32).map(|at| u8::try_from(at % 251).unwrap()).collect();
    keep("empty", "acme", b"", object::seal(&secret, "acme", b"", Packing::Plain));
    let config_ref = keep("config", "s-3f9a", &config, object::seal_smaller(&secret, "s-3f9a", &config));
    let image_ref = keep("image", "acme", &image, object::seal(&secret, "acme", &image, Packing::Plain));
    let phone: MacAddr = "0004f2aabbcc".parse().unwrap();
    let file = |name: &str, scope, class, clear: &[u8], blob| FileEntry {
        name: name.parse().unwrap(),
        scope,
        class,
        sha256: Digest::of(clear),
        blob,
    };
    let shard = Shard {
        files: vec![
            file("SEP0004F2AABBCC.cnf.xml", Scope::Device(phone), Class::Config, &config, config_ref),
            file("image.bin", Scope::Model("cisco-8941".to_owned()), Class::Firmware, &image, image_ref),
        ],
    };
    let inventory =
        Inventory { phones: vec![Phone { mac: phone, model: "cisco-8941".to_owned(), label: "reception".to_owned() }] };
    let json = serde_json::to_vec(&shard).unwrap();
    let shard_ref = keep("shard", "s-3f9a", &json, object::seal_shard(&secret, "s-3f9a", &shard));
    let json = serde_json::to_vec(&inventory).unwrap();
    let inventory_ref = keep("inventory", "s-3f9a", &json, object::seal_inventory(&secret, "s-3f9a", &inventory));
    let manifest = Manifest { inventory: inventory_ref, shards: vec![shard_ref], ..crate::manifest::tests::manifest() };
    let public: Vec<_> = vectors.recipients().iter().map(RecipientSecret::public).collect();
    write("manifest.json", &serde_json::to_vec(&manifest).unwrap());
    write("manifest.sealed", &manifest::seal(&vectors.secret(), &manifest, &public).unwrap());
    write("vectors.json", &serde_json::to_vec_pretty(&vectors).unwrap());
}
