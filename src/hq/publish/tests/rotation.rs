//! Publishing while keys change.

use super::*;
use crate::keys::{self, FleetKeys, Role, RoleChange};
use repository::published;
use tuf::{KeyId, SigningKey, sign};

/// A new root with these changes, signed by root keys 1 and 2.
fn ceremony(fleet: &Enrolled, changes: &[RoleChange]) {
    let layout = &fleet.sample.layout;
    let mut prepared = FleetKeys::read(layout).unwrap();
    prepared.prepare(changes, NOW).unwrap();
    let path = prepared.save().unwrap().to_owned();
    for number in [1, 2] {
        let key = keyring::load_signing(&layout.key(&format!("root-{number}"))).unwrap();
        keys::add_signature(&path, &key, None).unwrap();
    }
    FleetKeys::read(layout).unwrap().finish().unwrap();
}

fn ids(fleet: &Enrolled, role: Role) -> Vec<KeyId> {
    role.keys(FleetKeys::read(&fleet.sample.layout).unwrap().trusted()).keyids
}

/// Replaces the only key of a role.
fn rotate(fleet: &Enrolled, role: Role) {
    let (_, key) = FleetKeys::read(&fleet.sample.layout).unwrap().create_for(role, None).unwrap();
    ceremony(fleet, &[RoleChange::Remove(role, ids(fleet, role)[0].clone()), RoleChange::Add(role, key.public())]);
}

#[test]
fn after_a_change_of_keys_everything_is_signed_anew_and_sites_follow_from_the_first_root() {
    for role in [Role::Release, Role::Online] {
        let fleet = enrolled();
        fleet.publish(NOW);
        rotate(&fleet, role);
        // Nothing of it is out before the next publish.
        assert_eq!(fleet.fetch(NOW).generation(), Generation(1));
        assert!(matches!(fleet.publish(NOW), Outcome::Published { generation: Generation(2), .. }), "{role}");
        assert_eq!(fleet.fetch(NOW).generation(), Generation(2));
        assert_eq!(fleet.publish(NOW), Outcome::Unchanged(Generation(2)));
    }
}

#[test]
fn a_new_root_that_changes_no_other_key_makes_no_new_release() {
    let fleet = enrolled();
    fleet.publish(NOW);
    ceremony(&fleet, &[]);
    assert_eq!(fleet.publish(NOW), Outcome::Refreshed(Generation(1)));
    assert_eq!(fleet.publish(NOW), Outcome::Unchanged(Generation(1)));
    assert!(fleet.sample.layout.site_metadata(&fleet.site).join("2.root.json").is_file());
    fleet.fetch(NOW);
}

#[test]
fn a_key_that_the_root_does_not_name_publishes_nothing() {
    let fleet = enrolled();
    let path = fleet.sample.layout.key("release");
    fs::remove_file(&path).unwrap();
    keyring::create(&path, "another", None).unwrap();
    let error = fleet.try_publish(NOW).unwrap_err().to_string();
    assert!(error.contains("is not the key that root version 1 names for targets"), "{error}");
}

#[test]
fn a_publisher_that_died_between_the_new_root_and_what_it_vouches_for_can_go_on() {
    let fleet = enrolled();
    fleet.publish(NOW);
    rotate(&fleet, Role::Release);
    let layout = &fleet.sample.layout;
    let name = "2.root.json";
    fs::copy(layout.signed().join(name), layout.site_metadata(&fleet.site).join(name)).unwrap();
    assert!(matches!(fleet.publish(NOW), Outcome::Published { generation: Generation(2), .. }));
    fleet.fetch(NOW);
}

#[test]
fn versions_that_a_stolen_online_key_used_up_are_recovered_by_replacing_it() {
    let fleet = enrolled();
    fleet.publish(NOW);
    let layout = &fleet.sample.layout;
    let metadata = layout.site_metadata(&fleet.site);
    let key = keyring::load_signing(&layout.online_key()).unwrap();
    let previous = published::read(layout, &fleet.site).unwrap().unwrap();
    let mut timestamp = previous.timestamp.clone();
    timestamp.version = u64::MAX;
    fs::write(metadata.join("timestamp.json"), sign::sign(&timestamp, &[&key])).unwrap();
    let root = fs::read(layout.signed().join("1.root.json")).unwrap();
    let victim = refresh_from(&metadata, &root, NOW).unwrap();
    rotate(&fleet, Role::Online);
    fleet.publish(NOW);
    let mut refresh = Refresh::start(victim, MetadataLimits::default(), NOW);
    while let RefreshStep::Fetch(ask) = refresh.step() {
        match fs::read(metadata.join(&ask.path)) {
            Ok(bytes) => refresh.received(&bytes).unwrap(),
            Err(_) => refresh.missing().unwrap(),
        }
    }
    assert_eq!(refresh.trusted().targets().unwrap().version, 2);
}

#[test]
fn the_online_part_does_not_sign_with_a_key_that_the_published_root_does_not_name() {
    let fleet = enrolled();
    fleet.publish(NOW);
    rotate(&fleet, Role::Online);
    let before = tree_of(&fleet.sample.layout.public());
    assert_eq!(freshen::refresh(&fleet.sample.layout.online(), NOW.plus(80 * DAY)).unwrap(), 0);
    assert_eq!(tree_of(&fleet.sample.layout.public()), before);
}

#[test]
fn firmware_is_signed_anew_by_its_new_keys_and_holders_can_sign_elsewhere() {
    let fleet = enrolled();
    fleet.publish(NOW);
    let layout = &fleet.sample.layout;
    let stick = tempfile::tempdir().unwrap();
    let holders: Vec<SigningKey> = ["a", "b"]
        .iter()
        .map(|name| keyring::create(&stick.path().join(format!("{name}.key")), "a holder's", None).unwrap())
        .collect();
    let old = ids(&fleet, Role::Firmware);
    let mut changes: Vec<RoleChange> = old.into_iter().map(|id| RoleChange::Remove(Role::Firmware, id)).collect();
    changes.extend(holders.iter().map(|key| RoleChange::Add(Role::Firmware, key.public())));
    ceremony(&fleet, &changes);
    let error = fleet.try_publish(NOW).unwrap_err().to_string();
    assert!(error.contains("needs 2 signatures and has 0"), "{error}");
    let pending = layout.signed().join("2.firmware.json.pending");
    let known = FleetKeys::read(layout).unwrap();
    keys::add_signature(&pending, &holders[0], Some(&known)).unwrap();
    assert!(fleet.try_publish(NOW).unwrap_err().to_string().contains("has 1"));
    let replaced = keyring::load_signing(&layout.key("firmware-1")).unwrap();
    assert!(keys::add_signature(&pending, &replaced, Some(&known)).is_err());
    keys::add_signature(&pending, &holders[1], Some(&known)).unwrap();
    assert!(matches!(fleet.publish(NOW), Outcome::Published { generation: Generation(2), .. }));
    assert!(!pending.exists());
    let release = fleet.fetch(NOW);
    assert_eq!(release.manifest().catalogue_version, 2);
}
