//! §5.3: the chain of roots.

use super::*;

#[test]
fn every_root_between_is_followed() {
    let mut repo = Repo::new();
    repo.signers.insert("root".into(), vec!["r1", "r2", "r3", "r4"]);
    repo.set_root_role("root", &["r1", "r3", "r4"], 2);
    repo.publish_root();
    repo.set_root_role("root", &["r4", "r5"], 2);
    repo.signers.insert("root".into(), vec!["r3", "r4", "r5"]);
    repo.publish_root();
    let client = repo.current_client();
    assert_eq!(client.versions(), [3, 1, 1, 1, 1]);
    assert_eq!(client.asked[..3], ["2.root.json", "3.root.json", "4.root.json"]);
}

#[test]
fn a_new_root_needs_the_thresholds_of_the_old_and_the_new_keys() {
    // (new keys, new threshold, signers, what comes of it), from r1 r2 r3, 2 of them.
    type Case = (&'static [&'static str], u32, &'static [&'static str], Result<(), TrustError>);
    let cases: [Case; 10] = [
        (&["r1", "r2", "r3"], 2, &["r1", "r3"], Ok(())),
        (&["r1", "r2", "r3"], 2, &["r1"], untrusted("root", 1, 2)),
        (&["r1", "r2", "r3"], 2, &["r1", "thief"], untrusted("root", 1, 2)),
        (&["r1", "r2", "r3"], 3, &["r1", "r2"], untrusted("root", 2, 3)),
        (&["r1", "r2", "r3"], 1, &["r1"], untrusted("root", 1, 2)),
        (&["r1", "r2", "r3"], 1, &["r1", "r2"], Ok(())),
        (&["r4", "r5"], 2, &["r4", "r5"], untrusted("root", 0, 2)),
        (&["r4", "r5"], 2, &["r1", "r2", "r4"], untrusted("root", 1, 2)),
        (&["r4", "r5"], 2, &["r1", "r2", "r4", "r5"], Ok(())),
        (&["r3", "r4"], 2, &["r1", "r3", "r4"], Ok(())),
    ];
    for (names, threshold, signers, expected) in cases {
        let mut repo = Repo::new();
        let mut client = repo.current_client();
        repo.set_root_role("root", names, threshold);
        repo.signers.insert("root".into(), signers.to_vec());
        repo.publish_root();
        assert_eq!(client.refresh(&repo), expected, "{names:?} {threshold} {signers:?}");
        assert_eq!(client.versions()[0], if expected.is_ok() { 2 } else { 1 });
    }
}

#[test]
fn a_root_has_exactly_the_next_version() {
    let mut repo = Repo::new();
    repo.publish_root();
    let mut client = repo.current_client();
    let old = repo.files["1.root.json"].clone();
    for (bytes, expected) in [
        (old, rollback("root", 1, 2)),
        (repo.files["2.root.json"].clone(), rollback("root", 2, 2)),
        (
            repo.signed("root", &Root { version: 4, ..repo.root.clone() }),
            Err(TrustError::WrongVersion { role: "root".into(), offered: 4, expected: 3 }),
        ),
    ] {
        repo.files.insert("3.root.json".into(), bytes);
        assert_eq!(client.refresh(&repo), expected);
        assert_eq!(client.versions()[0], 2);
    }
}

#[test]
fn the_last_version_there_can_be_has_no_successor() {
    let mut repo = Repo::new();
    repo.root.version = u64::MAX;
    repo.files.insert("1.root.json".into(), repo.signed("root", &repo.root));
    let mut client = repo.client();
    assert_eq!(client.refresh(&repo), Ok(()));
    assert_eq!(client.asked[0], "18446744073709551616.root.json");
    repo.files.insert("18446744073709551616.root.json".into(), repo.files["1.root.json"].clone());
    assert_eq!(client.refresh(&repo), rollback("root", u64::MAX, u64::MAX));
}

#[test]
fn only_so_many_roots_are_followed_at_once() {
    let mut repo = Repo::new();
    for _ in 0..5 {
        repo.publish_root();
    }
    let mut client = repo.client();
    client.limits.root_rotations = 3;
    assert_eq!(client.refresh(&repo), Ok(()));
    assert_eq!(client.versions(), [4, 1, 1, 1, 1]);
    assert!(!client.asked.contains(&"5.root.json".to_owned()));
    assert_eq!(client.refresh(&repo), Ok(()));
    assert_eq!(client.versions()[0], 6);
}

#[test]
fn an_expired_root_between_does_not_matter_but_an_expired_last_one_does() {
    let mut repo = Repo::new();
    repo.root.expires = days(1);
    repo.publish_root();
    repo.root.expires = days(365);
    repo.publish_root();
    let mut client = repo.client();
    client.now = days(2);
    assert_eq!(client.refresh(&repo), Ok(()));

    repo.root.expires = days(2);
    repo.publish_root();
    repo.publish(&["targets"]);
    assert_eq!(client.refresh(&repo), expired("root", days(2)), "expiry is the first moment it is expired");
    assert_eq!(client.versions(), [4, 1, 1, 1, 1], "the root is kept, nothing else is updated");
    client.now = UnixTime(days(2).0 - 1);
    assert_eq!(client.refresh(&repo), Ok(()));
}

#[test]
fn a_pinned_root_must_hold_by_its_own_keys() {
    let mut repo = Repo::new();
    repo.signers.insert("root".into(), vec!["r1"]);
    repo.write_root();
    assert_eq!(Trusted::pin(&repo.files["1.root.json"]).map(drop), untrusted("root", 1, 2));
    repo.signers.insert("root".into(), vec!["r1", "r3"]);
    repo.root.expires = UnixTime(0);
    repo.write_root();
    assert!(Trusted::pin(&repo.files["1.root.json"]).is_ok(), "expiry does not matter yet");
    malformed(Trusted::pin(&repo.files["timestamp.json"]).map(drop), "root", "");
}

#[test]
fn a_stolen_release_key_that_the_root_revoked_signs_nothing() {
    let mut repo = Repo::new();
    let mut client = repo.current_client();
    repo.set_root_role("targets", &["t2"], 1);
    repo.publish_root();
    // The thief has the online keys too, and still cannot make the old release key count.
    repo.of("targets").targets.insert("manifest".into(), target("the thief's"));
    repo.publish(&["targets"]);
    assert_eq!(client.refresh(&repo), untrusted("targets", 0, 1));
    assert_eq!(client.trusted.target("manifest"), None);
    assert_eq!(client.versions(), [2, 2, 2, 0, 0], "what only the revoked key signed is forgotten");

    repo.signers.insert("targets".into(), vec!["t2"]);
    repo.of("targets").targets.insert("manifest".into(), target("manifest 2"));
    repo.publish(&["targets"]);
    assert_eq!(client.refresh(&repo), Ok(()));
    assert!(client.finds("manifest", "manifest 2"));
}

#[test]
fn firmware_is_not_fetched_again_because_the_release_key_changed() {
    let mut repo = Repo::new();
    let mut client = repo.current_client();
    repo.set_root_role("targets", &["t2"], 1);
    repo.signers.insert("targets".into(), vec!["t2"]);
    repo.publish_root();
    repo.publish(&["targets"]);
    assert_eq!(client.refresh(&repo), Ok(()));
    assert!(!client.asked.contains(&"1.firmware.json".to_owned()));
    assert!(client.finds("firmware/a.bin", "a 1"));
}

#[test]
fn a_fast_forward_is_recovered_from_by_new_online_keys() {
    // §5.3.11, for either key.
    for (role, names) in [("timestamp", ["ts2"]), ("snapshot", ["s2"])] {
        let mut repo = Repo::new();
        let good = repo.clone();
        repo.timestamp.version = u64::MAX - 1;
        repo.snapshot.version = 1_000_000;
        repo.publish(&[]);
        let mut client = repo.current_client();
        assert_eq!(client.refresh(&good), rollback("timestamp", 1, u64::MAX));

        repo = good;
        repo.set_root_role(role, &names, 1);
        repo.signers.insert(role.into(), names.to_vec());
        repo.publish_root();
        repo.publish(&[]);
        assert_eq!(client.refresh(&repo), Ok(()), "{role}");
        assert_eq!(client.versions(), [2, 2, 2, 1, 1]);
    }
}

#[test]
fn a_fast_forward_of_targets_is_recovered_from_too() {
    let mut repo = Repo::new();
    let good = repo.clone();
    repo.of("targets").version = 99;
    repo.add_role("targets", "planted", &["x"]);
    repo.publish(&["planted", "targets"]);
    let mut client = repo.current_client();
    assert_eq!(client.versions()[3], 100);

    repo = good;
    repo.set_root_role("snapshot", &["s2"], 1);
    repo.signers.insert("snapshot".into(), vec!["s2"]);
    repo.publish_root();
    repo.publish(&["targets"]);
    assert_eq!(client.refresh(&repo), Ok(()));
    assert_eq!(client.versions(), [2, 2, 2, 2, 1]);
    assert_eq!(client.trusted.delegated("planted"), None);
}

#[test]
fn a_key_that_is_added_to_an_online_role_gives_up_no_rollback_floor() {
    let mut repo = Repo::new();
    let old = repo.files["timestamp.json"].clone();
    repo.publish(&["targets"]);
    let mut client = repo.current_client();
    repo.set_root_role("timestamp", &["ts", "ts2"], 1);
    repo.publish_root();
    repo.files.insert("timestamp.json".into(), old);
    assert_eq!(client.refresh(&repo), rollback("timestamp", 1, 2));
    assert_eq!(client.versions(), [2, 2, 2, 2, 1]);
}

#[test]
fn a_rotation_whose_root_has_expired_leaves_a_state_that_opens_again() {
    let mut repo = Repo::new();
    let mut client = repo.current_client();
    repo.set_root_role("timestamp", &["ts2"], 1);
    repo.root.expires = NOW;
    repo.publish_root();
    // `Client::refresh` reopens what is left.
    assert_eq!(client.refresh(&repo), expired("root", NOW));
    assert_eq!(client.versions(), [2, 0, 0, 1, 1]);
    repo.root.expires = days(365);
    repo.signers.insert("timestamp".into(), vec!["ts2"]);
    repo.publish_root();
    repo.publish_timestamp();
    assert_eq!(client.refresh(&repo), Ok(()));
    assert_eq!(client.versions(), [3, 2, 1, 1, 1]);
}

#[test]
fn a_key_that_leaves_an_online_role_takes_the_floors_with_it_even_if_another_signed_too() {
    let mut repo = Repo::new();
    repo.set_root_role("timestamp", &["ts", "ts2"], 1);
    repo.signers.insert("timestamp".into(), vec!["ts", "ts2"]);
    repo.publish_root();
    let good = repo.clone();
    repo.timestamp.version = 1_000_000;
    repo.publish_timestamp();
    let mut client = repo.current_client();
    repo = good;
    repo.set_root_role("timestamp", &["ts"], 1);
    repo.signers.insert("timestamp".into(), vec!["ts"]);
    repo.publish_root();
    repo.publish_timestamp();
    assert_eq!(client.refresh(&repo), Ok(()));
    assert_eq!(client.versions(), [3, 2, 1, 1, 1]);
}

#[test]
fn a_file_with_too_few_signatures_for_a_higher_threshold_is_forgotten() {
    for role in ["timestamp", "snapshot"] {
        let mut repo = Repo::new();
        repo.set_root_role(role, &["a", "b"], 1);
        repo.signers.insert(role.into(), vec!["a"]);
        repo.publish_root();
        repo.publish(&[]);
        let mut client = repo.current_client();
        repo.set_root_role(role, &["a", "b"], 2);
        repo.publish_root();
        // The server has the old files still; `Client::refresh` reopens what is left.
        assert_eq!(client.refresh(&repo), untrusted(role, 1, 2));
        repo.signers.insert(role.into(), vec!["a", "b"]);
        repo.publish(&[]);
        assert_eq!(client.refresh(&repo), Ok(()));
    }
}
