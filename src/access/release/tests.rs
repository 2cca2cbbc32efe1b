#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use std::collections::HashMap;

use serde_json::json;

use super::*;
use bundle::shards::{shard_count, shard_of};
use bundle::{Image, Inventory, Packing, Phone, Scope, Shard, SiteSettings, Totals};
use ids::{MacAddr, UnixTime};
use seal::PublisherSecret;
use tuf::schema::Hashes;

const SECRET: PublisherSecret = PublisherSecret::from_bytes([9; 32]);
const SITE_KEY: RecipientSecret = RecipientSecret::from_bytes([5; 32]);
const PHONE: MacAddr = MacAddr::new([0, 4, 0xf2, 0xaa, 0xbb, 0xcc]);
const IMAGE: &[u8] = b"an image that phones flash";

/// A published release, in pieces that a test can change before it is opened.
struct Published {
    targets: Targets,
    firmware: Option<Targets>,
    /// Of timestamp and snapshot.
    others: Vec<Option<Value>>,
    sealed: Vec<u8>,
    objects: HashMap<Digest, Vec<u8>>,
}

fn fleet() -> FleetId {
    "acme".parse().unwrap()
}

fn site() -> SiteId {
    "s-3f9a".parse().unwrap()
}

fn extra(fleet: &str, site: &str) -> Value {
    json!({ "fleet": fleet, "site": site })
}

fn role(version: u64, targets: &[(&str, &[u8])]) -> Targets {
    let target = |bytes: &[u8]| Target {
        length: bytes.len() as u64,
        hashes: Hashes { sha256: Some(Digest::of(bytes)), others: BTreeMap::new() },
        custom: None,
        extra: BTreeMap::new(),
    };
    Targets {
        kind: "targets".to_owned(),
        spec_version: "1.0.33".to_owned(),
        version,
        expires: UnixTime(0),
        targets: targets.iter().map(|(path, bytes)| ((*path).to_owned(), target(bytes))).collect(),
        delegations: None,
        extra: [(EXTRA_FIELD.to_owned(), extra("acme", "s-3f9a"))].into(),
    }
}

fn publish(files: &[(&str, Class, &[u8])]) -> Published {
    publish_changed(files, |_| ())
}

fn publish_changed(files: &[(&str, Class, &[u8])], change: impl FnOnce(&mut Vec<Shard>)) -> Published {
    let mut objects = HashMap::new();
    let mut keep = |(reference, sealed): (ObjectRef, Vec<u8>)| {
        objects.insert(reference.digest, sealed);
        reference
    };
    let mut shards = vec![Shard::default(); shard_count(files.len())];
    let count = shards.len();
    for (name, class, clear) in files {
        let name: FileName = name.parse().unwrap();
        let blob = keep(seal::object::seal_smaller(&SECRET, "acme", clear));
        let shard = shard_of(&name, count);
        let entry = FileEntry { name, scope: Scope::Device(PHONE), class: *class, sha256: Digest::of(clear), blob };
        shards[shard].files.push(entry);
    }
    change(&mut shards);
    let phone = Phone { mac: PHONE, model: "cisco-8941".to_owned(), label: "reception".to_owned() };
    let inventory = keep(seal::object::seal_inventory(&SECRET, "s-3f9a", &Inventory { phones: vec![phone] }));
    let manifest = Manifest {
        format: 1,
        fleet: fleet(),
        site: site(),
        generation: Generation(7),
        created: UnixTime(1_700_000_000),
        totals: Totals::default(),
        catalogue_version: 3,
        activation_window: None,
        settings: SiteSettings::default(),
        inventory,
        shards: shards.iter().map(|shard| keep(seal::object::seal_shard(&SECRET, "s-3f9a", shard))).collect(),
        image: None,
    };
    let sealed = seal::manifest::seal(&SECRET, &manifest, &[SITE_KEY.public()]).unwrap();
    let own = extra("acme", "s-3f9a");
    Published {
        targets: role(7, &[(MANIFEST_TARGET, &sealed)]),
        firmware: Some(role(3, &[("image.bin", IMAGE)])),
        others: vec![Some(own.clone()), Some(own)],
        sealed,
        objects,
    }
}

impl Published {
    fn signed(&self) -> Signed<'_> {
        let extras = self.others.iter().map(Option::as_ref).chain([self.targets.extra.get(EXTRA_FIELD)]).collect();
        Signed { targets: &self.targets, firmware: self.firmware.as_ref(), extras }
    }

    fn open(&self) -> Result<OpenedManifest, ReleaseError> {
        OpenedManifest::open_signed(&self.signed(), &self.sealed, &SITE_KEY, &fleet(), &site())
    }

    fn complete(&self) -> Result<Opened, ReleaseError> {
        let mut read = |part: &ObjectRef| self.objects.get(&part.digest).cloned().ok_or("it is not here".to_owned());
        self.open()?.read_signed(&self.signed(), &mut read)?.approve_signed(&self.signed(), None)
    }
}

fn usual() -> Published {
    publish(&[
        ("SEP0004F2AABBCC.cnf.xml", Class::Config, b"<device/>"),
        ("0004f2aabbcc.cfg", Class::Config, b"<device/>"),
        ("image.sbn", Class::Firmware, IMAGE),
    ])
}

#[test]
fn a_release_opens_to_its_files_phones_and_objects() {
    let published = usual();
    let opened = published.complete().unwrap();
    assert_eq!(opened.generation(), Generation(7));
    assert_eq!(opened.sealed_manifest(), published.sealed);
    assert_eq!(opened.catalog().files().count(), 3);
    assert_eq!(opened.catalog().phone(PHONE).map(|phone| phone.label.as_str()), Some("reception"));
    // Two files of equal content are one blob; then the image, the inventory and two shards.
    let objects = opened.objects();
    assert_eq!(objects.len(), 5);
    assert!(objects.iter().all(|reference| published.objects.contains_key(&reference.digest)));
    let entry = opened.catalog().file(&"image.sbn".parse().unwrap()).unwrap();
    let clear = object::open(&entry.blob, &published.objects[&entry.blob.digest], 1000).unwrap();
    assert_eq!(clear, IMAGE);
}

#[test]
fn metadata_of_another_site_or_fleet_is_refused_wherever_it_stands() {
    for wrong in
        [extra("acme", "s-other"), extra("other", "s-3f9a"), json!({}), json!("acme"), json!({"fleet": "acme"})]
    {
        for at in 0..3 {
            let mut published = usual();
            match published.others.get_mut(at) {
                Some(other) => *other = Some(wrong.clone()),
                None => drop(published.targets.extra.insert(EXTRA_FIELD.to_owned(), wrong.clone())),
            }
            assert_eq!(published.open().unwrap_err().refusal().code(), "other-site", "{wrong} at {at}");
        }
    }
    let mut published = usual();
    published.targets.extra.clear();
    assert_eq!(published.open().unwrap_err().refusal().code(), "other-site");
}

#[test]
fn a_manifest_that_was_not_signed_for_is_refused_before_it_is_opened() {
    let mut published = usual();
    published.sealed.push(0);
    assert_eq!(published.open().unwrap_err(), ReleaseError::Mismatch);
    let mut published = usual();
    published.targets.targets.get_mut(MANIFEST_TARGET).unwrap().length += 1;
    assert_eq!(published.open().unwrap_err(), ReleaseError::Mismatch);
    let mut published = usual();
    published.targets.targets.get_mut(MANIFEST_TARGET).unwrap().hashes.sha256 = None;
    assert_eq!(published.open().unwrap_err(), ReleaseError::Mismatch);
    let mut published = usual();
    published.targets.targets.clear();
    assert_eq!(published.open().unwrap_err(), ReleaseError::NoManifest);
}

#[test]
fn a_manifest_under_another_version_or_for_another_key_is_refused() {
    let mut published = usual();
    published.targets.version = 8;
    assert_eq!(published.open().unwrap_err().refusal().code(), "not-sealed-to-us");
    let published = usual();
    let stranger = RecipientSecret::from_bytes([6; 32]);
    let error =
        OpenedManifest::open_signed(&published.signed(), &published.sealed, &stranger, &fleet(), &site()).unwrap_err();
    assert_eq!(error, ReleaseError::Manifest(ManifestError::NotForUs));
}

#[test]
fn a_release_is_completed_by_the_metadata_that_opened_it() {
    let published = usual();
    let opened = published.open().unwrap();
    let mut newer = usual();
    newer.targets = role(8, &[(MANIFEST_TARGET, b"another")]);
    let error = opened.read_signed(&newer.signed(), &mut |_| Err("unread".to_owned())).unwrap_err();
    assert_eq!(error, ReleaseError::Mismatch);
}

#[test]
fn a_missing_or_damaged_part_is_refused() {
    let published = usual();
    let parts: Vec<_> = published.open().unwrap().parts().cloned().collect();
    assert_eq!(parts.len(), 3);
    for part in parts {
        let mut without = usual();
        without.objects.remove(&part.digest);
        assert_eq!(without.complete().unwrap_err(), ReleaseError::Unreadable("it is not here".to_owned()));
        let mut damaged = usual();
        damaged.objects.get_mut(&part.digest).unwrap()[0] ^= 1;
        assert_eq!(damaged.complete().unwrap_err().refusal().code(), "corrupt");
    }
}

#[test]
fn firmware_that_the_firmware_keys_did_not_list_is_refused() {
    let error = publish(&[("image.sbn", Class::Firmware, b"another image")]).complete().unwrap_err();
    assert_eq!(error, ReleaseError::UnlistedFirmware("image.sbn".parse().unwrap()));
    let mut published = usual();
    published.firmware = None;
    assert_eq!(published.complete().unwrap_err().refusal().code(), "unlisted-firmware");
    // Listed under the right digest, but with another length.
    let mut published = usual();
    published.firmware.as_mut().unwrap().targets.get_mut("image.bin").unwrap().length += 1;
    assert_eq!(published.complete().unwrap_err().refusal().code(), "unlisted-firmware");
    // The release key's own targets do not count.
    let mut published = usual();
    published.firmware = None;
    published.targets.targets.extend(role(3, &[("image.bin", IMAGE)]).targets);
    assert_eq!(published.complete().unwrap_err().refusal().code(), "unlisted-firmware");
}

#[test]
fn where_the_list_has_lapsed_images_that_are_served_stay_and_none_comes() {
    let served = usual().complete().unwrap();
    let again = |published: &Published, served: &Opened| {
        let mut read = |part: &ObjectRef| published.objects.get(&part.digest).cloned().ok_or(String::new());
        let parts = published.open()?.read_signed(&published.signed(), &mut read)?;
        assert_eq!(parts.firmware_path(), Some(firmware_path(&Digest::of(IMAGE))));
        parts.approve_signed(&published.signed(), Some(served)).map(drop)
    };
    assert_eq!(again(&usual(), &served), Ok(()));
    // It is not on the list that is held: a restart would refuse it.
    let mut unlisted = usual();
    unlisted.firmware = None;
    assert_eq!(again(&unlisted, &served).unwrap_err().refusal().code(), "unlisted-firmware");
    // It is listed and not served.
    let without = publish(&[("0004f2aabbcc.cfg", Class::Config, b"<device/>")]).complete().unwrap();
    assert_eq!(again(&usual(), &without).unwrap_err().refusal().code(), "unlisted-firmware");
    let configurations = publish(&[("0004f2aabbcc.cfg", Class::Config, b"<device/>")]);
    let mut read = |part: &ObjectRef| configurations.objects.get(&part.digest).cloned().ok_or(String::new());
    let parts = configurations.open().unwrap().read_signed(&configurations.signed(), &mut read).unwrap();
    assert_eq!(parts.firmware_path(), None, "no list is needed");
}

#[test]
fn an_image_of_the_appliance_that_the_firmware_keys_did_not_list_is_refused() {
    let with_image = |content: &[u8]| {
        let mut published = usual();
        let (blob, sealed) = seal::object::seal(&SECRET, "fleet", content, Packing::Plain);
        published.objects.insert(blob.digest, sealed);
        let mut opened = published.open().unwrap();
        let (version, compatible) = ("2.0".to_owned(), "lineside-arm64".to_owned());
        opened.manifest.image = Some(Image { version, compatible, sha256: Digest::of(content), blob });
        let mut read = |part: &ObjectRef| published.objects.get(&part.digest).cloned().ok_or(String::new());
        opened.read_signed(&published.signed(), &mut read)?.approve_signed(&published.signed(), None)
    };
    // Small as it is: an image is never anything else.
    assert_eq!(with_image(b"evil").unwrap_err().refusal().code(), "unlisted-firmware");
    let opened = with_image(IMAGE).unwrap();
    let image = opened.catalog().image().unwrap();
    assert!(opened.objects().contains(&image.bundle.blob));
    assert!(opened.catalog().file(&image.bundle.name).is_none());
}

#[test]
fn an_image_does_not_pass_under_another_class() {
    let image = vec![0x5a; usize::try_from(MAX_UNLISTED_FILE_BYTES).unwrap() + 1];
    let files = [("dictionary.xml", Class::Locale, image.as_slice())];
    assert_eq!(publish(&files).complete().unwrap_err().refusal().code(), "unlisted-firmware");
    let mut listed = publish(&files);
    listed.firmware = Some(role(4, &[("dictionary.xml", &image)]));
    listed.complete().unwrap();
    publish(&[("dictionary.xml", Class::Locale, &image[1..])]).complete().unwrap();
}

#[test]
fn a_release_that_lists_a_file_twice_is_refused() {
    let published = publish_changed(&[("a.cfg", Class::Config, b"a")], |shards| {
        let entry = shards[0].files[0].clone();
        shards[0].files.push(FileEntry { name: "A.CFG".parse().unwrap(), ..entry });
    });
    assert_eq!(published.complete().unwrap_err().refusal().code(), "duplicate");
}

#[test]
fn one_object_under_two_keys_is_refused() {
    let published = publish_changed(&[("a.cfg", Class::Config, b"a"), ("b.cfg", Class::Config, b"a")], |shards| {
        shards[0].files[0].blob.key = bundle::ContentKey::from_bytes([0; 32]);
    });
    assert_eq!(published.complete().unwrap_err().refusal().code(), "malformed");
}

#[test]
fn a_file_out_of_bounds_is_refused() {
    let published = publish_changed(&[("a.cfg", Class::Config, b"a")], |shards| {
        shards[0].files[0].blob.packing = Packing::Plain;
        shards[0].files[0].blob.clear_bytes = u64::MAX;
    });
    assert_eq!(published.complete().unwrap_err().refusal().code(), "too-large");
}

#[test]
fn the_release_key_cannot_name_other_firmware_keys_than_the_root_does() {
    use tuf::sign::{self, Signers, TopLevel};
    use tuf::{PublicKey, SigningKey};

    let [root_key, thief, honest] = [[1; 32], [2; 32], [3; 32]].map(|seed| SigningKey::from_seed(&seed));
    let keys: [PublicKey; 2] = [honest.public(), root_key.public()];
    let all = Signers { keys: &keys, threshold: 1 };
    let top = TopLevel { root: all, targets: all, snapshot: all, timestamp: all };
    let named = json!({ "firmware": { "keyids": [keys[0].id(), keys[1].id()], "threshold": 2 } });
    let root = sign::root(1, UnixTime(0), top, Some(named));
    let delegating = |keys: &[PublicKey], threshold| Targets {
        delegations: Some(sign::delegation(FIRMWARE, Signers { keys, threshold }, &["firmware/*"])),
        ..role(1, &[])
    };
    assert!(may_delegate_firmware(&root, &delegating(&keys, 2)));
    assert!(!may_delegate_firmware(&root, &delegating(&[thief.public()], 1)), "keys of the thief's own");
    assert!(!may_delegate_firmware(&root, &delegating(&keys, 1)), "fewer signatures");
    assert!(!may_delegate_firmware(&root, &delegating(&[honest.public(), thief.public()], 2)), "one of each");
    assert!(!may_delegate_firmware(&root, &role(1, &[])), "no delegation of its own");
    let silent = sign::root(1, UnixTime(0), top, None);
    assert!(!may_delegate_firmware(&silent, &delegating(&keys, 2)), "a root that names nobody");
}

/// The manifest names an image of the appliance, which the firmware keys list with this `custom`.
fn with_image(custom: Option<Value>) -> Result<Opened, ReleaseError> {
    let mut published = usual();
    let mut manifest = published.open().unwrap().manifest().clone();
    let (blob, sealed) = seal::object::seal_smaller(&SECRET, "acme", b"a bundle");
    published.objects.insert(blob.digest, sealed);
    let (version, compatible) = ("2.0".to_owned(), "lineside-arm64".to_owned());
    manifest.image = Some(Image { version, compatible, sha256: Digest::of(b"a bundle"), blob });
    published.sealed = seal::manifest::seal(&SECRET, &manifest, &[SITE_KEY.public()]).unwrap();
    published.targets = role(7, &[(MANIFEST_TARGET, &published.sealed)]);
    let firmware = published.firmware.as_mut().unwrap();
    firmware.targets.extend(role(3, &[("bundle", b"a bundle")]).targets);
    firmware.targets.get_mut("bundle").unwrap().custom = custom;
    published.complete()
}

#[test]
fn an_image_of_the_appliance_says_what_the_firmware_keys_bind_it_to() {
    let approval = |custom| with_image(custom).unwrap().catalog().image().unwrap().approval.clone();
    let signed = ImageApproval { compatible: "lineside-arm64".into(), version: "1.0".into(), may_go_back: false };
    assert_eq!(signed.to_custom(), json!({"image": {"compatible": "lineside-arm64", "version": "1.0"}}));
    assert_eq!(approval(Some(signed.to_custom())), Some(signed.clone()));
    let back = ImageApproval { may_go_back: true, ..signed };
    assert_eq!(approval(Some(back.to_custom())), Some(back));
    // An older publisher, or one that does not know it for an image: the release is taken all the same.
    for none in [None, Some(json!({})), Some(json!({"image": {"version": "1.0"}})), Some(json!({"image": 7}))] {
        assert_eq!(approval(none), None);
    }
}
