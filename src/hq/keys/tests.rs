#![allow(clippy::unwrap_used, clippy::indexing_slicing)]
use std::time::Duration;

use super::*;
use crate::testing::{NOW, Sample, sample};
use access::ImageApproval;

fn read(sample: &Sample) -> FleetKeys {
    FleetKeys::read(&sample.layout).unwrap()
}

fn root_key(sample: &Sample, number: u32) -> SigningKey {
    keyring::load_signing(&sample.layout.key(&format!("root-{number}"))).unwrap()
}

fn sign_with(sample: &Sample, path: &Path, number: u32) {
    add_signature(path, &root_key(sample, number), Some(&read(sample))).unwrap();
}

/// Prepares, has root keys 1 and 2 sign, and puts it in place.
fn ceremony(sample: &Sample, changes: &[RoleChange]) -> Vec<String> {
    let mut keys = read(sample);
    keys.prepare(changes, NOW).unwrap();
    let path = keys.save().unwrap().to_owned();
    sign_with(sample, &path, 1);
    sign_with(sample, &path, 2);
    read(sample).finish().unwrap()
}

#[test]
fn a_new_version_takes_two_holders_and_then_is_the_newest() {
    let sample = sample();
    let mut keys = read(&sample);
    keys.prepare(&[], NOW.plus(Duration::from_secs(86_400))).unwrap();
    let path = keys.save().unwrap().to_owned();
    assert!(read(&sample).finish().unwrap_err().to_string().contains("has 0 of 2 signatures by the keys trusted now"));
    sign_with(&sample, &path, 3);
    assert!(read(&sample).check().unwrap_err().to_string().contains("has 1 of 2"));
    // The same holder again is still one.
    sign_with(&sample, &path, 3);
    assert!(read(&sample).check().is_err());
    sign_with(&sample, &path, 1);
    assert_eq!(read(&sample).finish().unwrap().len(), 1);
    assert_eq!(read(&sample).trusted().version, 2);
    assert!(read(&sample).pending().is_none() && !path.exists());
}

#[test]
fn a_root_says_what_time_it_is_once() {
    let sample = sample();
    let mut keys = read(&sample);
    keys.prepare(&[RoleChange::Time(NOW)], NOW).unwrap();
    assert!(keys.describe().unwrap().contains("sites set the time that they remember to"));
    // A further change keeps what the draft says.
    keys.prepare(&[], NOW).unwrap();
    assert_eq!(keys.pending().unwrap().time(), Some(NOW));
    ceremony(&sample, &[RoleChange::Time(NOW)]);
    let mut keys = read(&sample);
    assert_eq!(keys.trusted().time(), Some(NOW));
    keys.prepare(&[], NOW).unwrap();
    assert_eq!(keys.pending().unwrap().time(), None, "the next one does not set clocks back");
}

#[test]
fn a_root_key_is_replaced_only_with_signatures_of_the_old_and_of_the_new_root() {
    let sample = sample();
    let lost = root_key(&sample, 3).public().id();
    let mut keys = read(&sample);
    let (made, fresh) = keys.create_for(Role::Root, None).unwrap();
    assert!(made.ends_with("root-4.key"));
    let raise = RoleChange::Threshold(Role::Root, 3);
    keys.prepare(&[RoleChange::Remove(Role::Root, lost), RoleChange::Add(Role::Root, fresh.public()), raise], NOW)
        .unwrap();
    let path = keys.save().unwrap().to_owned();
    sign_with(&sample, &path, 1);
    sign_with(&sample, &path, 2);
    // Enough for the old root; the new one wants three of its own.
    let error = read(&sample).check().unwrap_err().to_string();
    assert!(error.contains("has 2 of 3 signatures by the keys that it names"), "{error}");
    sign_with(&sample, &path, 4);
    read(&sample).finish().unwrap();
    assert_eq!(read(&sample).trusted().roles["root"].threshold, 3);
}

#[test]
fn a_signature_that_would_not_count_is_refused() {
    let sample = sample();
    let mut keys = read(&sample);
    keys.prepare(&[], NOW).unwrap();
    let path = keys.save().unwrap().to_owned();
    let stranger = SigningKey::from_seed(&[9; 32]);
    assert!(add_signature(&path, &stranger, Some(&keys)).unwrap_err().to_string().contains("would not count"));
    let release = keyring::load_signing(&sample.layout.key("release")).unwrap();
    assert!(add_signature(&path, &release, Some(&keys)).is_err());
    // Where nothing is known of the fleet, the holder decides.
    add_signature(&path, &stranger, None).unwrap();
    assert!(add_signature(&sample.layout.fleet_toml(), &release, None).is_err());
}

#[test]
fn a_root_that_would_lock_people_out_is_not_prepared() {
    let sample = sample();
    let mut keys = read(&sample);
    let ids = Role::Root.keys(keys.trusted()).keyids;
    let mut refused = |changes: &[RoleChange], why: &str| {
        let error = keys.prepare(changes, NOW).unwrap_err().to_string();
        assert!(error.contains(why), "{error}");
    };
    let remove = |id: &KeyId| RoleChange::Remove(Role::Root, id.clone());
    refused(&[remove(&ids[0]), remove(&ids[1])], "would have 1 keys and need 2");
    refused(&[RoleChange::Threshold(Role::Root, 0)], "would need no signature");
    refused(&[RoleChange::Threshold(Role::Firmware, 4)], "would have 3 keys and need 4");
    refused(&[RoleChange::Remove(Role::Release, ids[0].clone())], "release has no key");
    refused(&[RoleChange::Add(Role::Release, root_key(&sample, 1).public())], "cannot be for root and for release");
    refused(&[RoleChange::Add(Role::Root, root_key(&sample, 1).public())], "already");
}

#[test]
fn a_change_drops_signatures_on_the_earlier_draft() {
    let sample = sample();
    let mut keys = read(&sample);
    keys.prepare(&[], NOW).unwrap();
    let path = keys.save().unwrap().to_owned();
    sign_with(&sample, &path, 1);
    let mut keys = read(&sample);
    keys.prepare(&[RoleChange::Threshold(Role::Firmware, 3)], NOW).unwrap();
    keys.save().unwrap();
    assert!(read(&sample).check().unwrap_err().to_string().contains("has 0 of 2"));
    assert!(read(&sample).discard().unwrap() && !path.exists());
    assert!(!read(&sample).discard().unwrap());
}

#[test]
fn a_rotated_online_key_is_put_where_serve_finds_it() {
    let sample = sample();
    let keys = read(&sample);
    let old = keys.find(Role::Online, None).unwrap();
    let (path, fresh) = keys.create_for(Role::Online, Some(&Passphrase::new("long enough").unwrap())).unwrap();
    assert!(path.ends_with("online.next.key"));
    let next =
        ceremony(&sample, &[RoleChange::Remove(Role::Online, old), RoleChange::Add(Role::Online, fresh.public())]);
    assert!(next[0].contains("publish") && next[1].contains("start `lineside-hq serve` again"), "{next:?}");
    // Not encrypted: `serve` starts by itself.
    assert_eq!(keyring::load_signing(&sample.layout.online_key()).unwrap().public(), fresh.public());
    assert!(!path.exists());
    let root = read(&sample);
    assert_eq!(root.trusted().roles["snapshot"], root.trusted().roles["timestamp"]);
    assert_eq!(root.trusted().roles["snapshot"].keyids, [fresh.public().id()]);
}

#[test]
fn what_would_be_trusted_is_said_before_it_is() {
    let sample = sample();
    let mut keys = read(&sample);
    let firmware = Role::Firmware.keys(keys.trusted()).keyids;
    let fresh = SigningKey::from_seed(&[8; 32]).public();
    keys.prepare(
        &[RoleChange::Remove(Role::Firmware, firmware[2].clone()), RoleChange::Add(Role::Firmware, fresh.clone())],
        NOW,
    )
    .unwrap();
    let said = keys.describe().unwrap();
    let short = |id: &KeyId| id.0[..16].to_owned();
    assert!(said.contains("root version 1, valid until 2036-"), "{said}");
    assert!(said.contains("prepared: version 2"), "{said}");
    assert!(said.contains("release   1 of 1 must sign\n"), "{said}");
    assert!(said.contains(&format!("  + {}\n", short(&fresh.id()))), "{said}");
    assert!(said.contains(&format!("  - {}  ", short(&firmware[2]))), "{said}");
    assert!(said.contains("firmware-1.key\n") && said.contains("online/online.key\n"), "{said}");
    assert!(said.contains("  0 of 2 by the keys trusted now\n"), "{said}");
    // Nothing of it is on disk.
    assert!(read(&sample).pending().is_none());
}

#[test]
fn a_key_handed_over_is_at_its_holders_and_nowhere_else() {
    let sample = sample();
    let stick = tempfile::tempdir().unwrap();
    let before = root_key(&sample, 2).public();
    assert!(hand_over(&sample.layout, "root-9", stick.path(), None).is_err());
    assert!(hand_over(&sample.layout, "../online/online", stick.path(), None).is_err());
    let copy = hand_over(&sample.layout, "root-2", stick.path(), None).unwrap();
    assert_eq!(keyring::load_signing(&copy).unwrap().public(), before);
    assert!(!sample.layout.key("root-2").exists());
}

#[test]
fn keys_are_meant_by_the_beginning_of_their_id() {
    let sample = sample();
    let keys = read(&sample);
    let id = Role::Root.keys(keys.trusted()).keyids[1].clone();
    assert_eq!(keys.find(Role::Root, Some(&id.0[..20])).unwrap(), id);
    assert!(keys.find(Role::Root, None).unwrap_err().to_string().contains("say which one"));
    assert!(keys.find(Role::Root, Some("zz")).is_err());
    assert_eq!(keys.find(Role::Release, None).unwrap(), keys.trusted().roles["targets"].keyids[0]);
}

#[test]
fn a_ceremony_that_was_interrupted_after_the_root_goes_on_with_the_keys() {
    let sample = sample();
    let keys = read(&sample);
    let old = keys.find(Role::Release, None).unwrap();
    let (path, fresh) = keys.create_for(Role::Release, None).unwrap();
    let aside = sample.layout.dir().join("not yet");
    fs::rename(&path, &aside).unwrap();
    ceremony(&sample, &[RoleChange::Remove(Role::Release, old), RoleChange::Add(Role::Release, fresh.public())]);
    fs::rename(&aside, &path).unwrap();
    assert_eq!(read(&sample).finish().unwrap().len(), 1);
    assert_eq!(keyring::load_signing(&sample.layout.key("release")).unwrap().public(), fresh.public());
    assert!(read(&sample).finish().unwrap_err().to_string().contains("no new root is prepared"));
}

fn review(sample: &Sample, path: &Path) -> String {
    let names = names(&sample.layout).unwrap();
    Review::read(path, &sample.layout.signed()).unwrap().text(&names).unwrap()
}

#[test]
fn a_holder_sees_that_a_root_gives_everything_to_one_key() {
    let sample = sample();
    let online = keyring::load_signing(&sample.layout.online_key()).unwrap().public();
    let mut keys = read(&sample);
    keys.prepare(&[], NOW).unwrap();
    let mut root = keys.pending().unwrap().clone();
    let lost: Vec<String> = Role::Root.keys(&root).keyids.iter().map(|id| id.0.clone()).collect();
    for role in ["root", "targets"] {
        root.roles.insert(
            role.to_owned(),
            tuf::schema::RoleKeys { keyids: vec![online.id()], threshold: 1, extra: BTreeMap::new() },
        );
    }
    root.expires = "2099-01-01T00:00:00Z".parse().unwrap();
    root.extra.get_mut(EXTRA_FIELD).unwrap()["fleet"] = "f-other".into();
    root.extra.get_mut(EXTRA_FIELD).unwrap()["ca"] = serde_json::json!(["none"]);
    root.extra.get_mut(EXTRA_FIELD).unwrap()["time"] = serde_json::json!(NOW);
    let path = sample.layout.signed().join("2.root.json.pending");
    sample.write("root/2.root.json.pending", sign::sign(&root, &[]));
    let text = review(&sample, &path);
    for line in [
        "~ root: 2 of 3 must sign -> 1 of 1 must sign",
        &format!("-   key {}", lost[0]),
        &format!("+   key {}", online.id().0),
        "! one key for root and release and online",
        "! one root key alone would be enough",
        "-> 2099-01-01T00:00:00Z",
        "~ root version: 1 -> 2",
        "- CA with the certificate of SHA-256 ",
        "+ CA that is no certificate",
        "+ x-lineside fleet: \"f-other\"",
        "! sites set the time that they remember to 2026-11-20",
    ] {
        assert!(text.contains(line), "{line}\n{text}");
    }
    // On a holder's machine there may be this one file.
    let stick = tempfile::tempdir().unwrap();
    let copy = stick.path().join("2.root.json.pending");
    fs::copy(&path, &copy).unwrap();
    let alone = Review::read(&copy, Path::new("nowhere")).unwrap().text(&BTreeMap::new()).unwrap();
    assert!(alone.contains("the version before is not here") && alone.contains("+ root: 1 of 1 must sign"), "{alone}");
    fs::copy(sample.layout.signed().join("1.root.json"), stick.path().join("1.root.json")).unwrap();
    let beside = Review::read(&copy, Path::new("nowhere")).unwrap().text(&BTreeMap::new()).unwrap();
    assert!(beside.contains("~ root: 2 of 3 must sign -> 1 of 1 must sign"), "{beside}");
}

#[test]
fn a_root_that_changes_nothing_but_its_expiry_shows_nothing_else() {
    let sample = sample();
    let mut keys = read(&sample);
    keys.prepare(&[], NOW.plus(Duration::from_secs(86_400))).unwrap();
    let text = review(&sample, keys.save().unwrap());
    let changed: Vec<&str> = text.lines().skip(1).filter(|line| !line.starts_with(' ')).collect();
    assert!(
        matches!(changed.as_slice(), [version, valid]
        if version.starts_with("~ root version: 1 -> 2") && valid.starts_with("~ valid until: ")),
        "{text}"
    );
}

#[test]
fn a_holder_of_a_firmware_key_sees_the_images_by_name() {
    let sample = sample();
    sample.write("firmware/polycom/new.ld", b"image");
    let images = BTreeMap::from([
        (ids::Digest::of(b"image"), (5, None)),
        (ids::Digest::of(b"\x1b[2J"), (7, None)),
        (
            ids::Digest::of(b"os"),
            (
                9,
                Some(ImageApproval {
                    compatible: "lineside-arm64".into(),
                    version: "1.4\x1b".into(),
                    may_go_back: true,
                }),
            ),
        ),
    ]);
    let list = roles::firmware(1, NOW, &"f-1".parse().unwrap(), &images);
    sample.write("root/1.firmware.json.pending", sign::sign(&list, &[]));
    let text = review(&sample, &sample.layout.signed().join("1.firmware.json.pending"));
    let digest = ids::Digest::of(b"image");
    assert!(text.contains(&format!("+ image firmware/{digest}  5 bytes  (new.ld)")), "{text}");
    assert!(text.contains("7 bytes  (not here)"), "{text}");
    let box_image = "9 bytes  (not here)  for boxes lineside-arm64, version 1.4?, and may follow a higher version";
    assert!(text.contains(box_image), "{text}");
}

#[test]
fn a_file_behind_a_link_that_stays_inside_is_shown_by_name_and_one_outside_is_not_read() {
    let sample = sample();
    let link = |to: &str, at: &str| std::os::unix::fs::symlink(to, sample.layout.dir().join(at)).unwrap();
    sample.write("firmware/polycom/5.9/new.ld", b"image").write("files/tones/ring.raw", b"ring");
    sample.write("outside.ld", b"outside").write("images/box_1.raucb", b"box").write("firmware/cisco-8941/x", b"x");
    link("5.9", "firmware/polycom/now");
    link("5.9/new.ld", "firmware/polycom/zz.ld");
    link("../../outside.ld", "firmware/polycom/out.ld");
    link(".", "files/tones/circle");
    let names = names(&sample.layout).unwrap();
    let of = |content: &[u8]| names.get(&ids::Digest::of(content)).map(String::as_str);
    assert_eq!(of(b"image"), Some("zz.ld"), "{names:?}");
    assert!(of(b"ring").unwrap().ends_with("ring.raw") && of(b"box") == Some("box_1.raucb") && of(b"x") == Some("x"));
    assert_eq!(of(b"outside"), None);
    // Behind a link alone, it is here, too.
    sample.write("firmware/polycom/.kept/only.ld", b"only");
    assert_eq!(names.get(&ids::Digest::of(b"only")), None);
    link(".kept/only.ld", "firmware/polycom/only.ld");
    let names = super::names(&sample.layout).unwrap();
    assert_eq!(names.get(&ids::Digest::of(b"only")).map(String::as_str), Some("only.ld"));
}

#[test]
fn a_recovery_key_or_a_pinned_key_of_low_order_is_refused() {
    let sample = sample();
    let zero = "00".repeat(32);
    let site = crate::lint::read(&sample.layout).0.unwrap().inventory.sites["sample-office"].id.clone();
    let pinned = format!(
        "site = \"{site}\"\n[[appliance]]\nrecipient = \"{zero}\"\nenrolled = \"2026-11-20T00:00:00Z\"\ntoken = \"00\"\n"
    );
    sample.write(&format!("enrolled/{site}.toml"), pinned);
    let error = crate::enrol::recipients(&sample.layout).unwrap_err();
    assert!(format!("{error:#}").contains("low order"), "{error:#}");
    fs::remove_file(sample.layout.enrolled().join(format!("{site}.toml"))).unwrap();
    sample.write("root/recovery.pub", format!("{zero}\n"));
    let options = crate::publish::PublishOptions { sites: None, now: NOW };
    let error = crate::publish::publish(&sample.layout, &options, &mut crate::progress::Silent).unwrap_err();
    assert!(format!("{error:#}").contains("low order"), "{error:#}");
}

#[test]
fn what_was_shown_is_what_is_signed() {
    let sample = sample();
    let mut keys = read(&sample);
    keys.prepare(&[], NOW).unwrap();
    let path = keys.save().unwrap().to_owned();
    let review = Review::read(&path, &sample.layout.signed()).unwrap();
    // Somebody changes the file while the holder reads.
    keys.prepare(&[RoleChange::Time(NOW)], NOW).unwrap();
    keys.save().unwrap();
    review.sign(&path, &root_key(&sample, 1), Some(&read(&sample))).unwrap();
    assert_eq!(read(&sample).pending().unwrap().time(), None);
}
