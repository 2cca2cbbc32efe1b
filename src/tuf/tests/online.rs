//! §5.4 and §5.5: timestamp and snapshot.

use super::*;

#[test]
fn an_older_timestamp_is_a_rollback() {
    let mut repo = Repo::new();
    let old = repo.files["timestamp.json"].clone();
    repo.publish(&[]);
    let mut client = repo.current_client();
    repo.files.insert("timestamp.json".into(), old);
    assert_eq!(client.refresh(&repo), rollback("timestamp", 1, 2));
    assert_eq!(client.versions(), [1, 2, 2, 1, 1]);
}

#[test]
fn another_timestamp_of_the_same_version_is_discarded() {
    // §5.4.3.1: no error, and what is trusted goes on.
    let mut repo = Repo::new();
    let mut client = repo.current_client();
    let before = client.trusted.files()["timestamp.json"].clone();
    repo.timestamp.meta.get_mut("snapshot.json").unwrap().version = 100;
    repo.timestamp.expires = days(100);
    repo.write_timestamp();
    assert_eq!(client.refresh(&repo), Ok(()));
    assert_eq!(client.trusted.files()["timestamp.json"], before);
    assert_eq!(client.asked, ["2.root.json", "timestamp.json"]);

    repo.signers.insert("timestamp".into(), vec!["thief"]);
    repo.write_timestamp();
    assert_eq!(client.refresh(&repo), untrusted("timestamp", 0, 1), "it must be signed all the same");
}

#[test]
fn a_frozen_timestamp_is_noticed_when_it_expires() {
    let repo = Repo::new();
    let mut client = repo.current_client();
    client.now = UnixTime(days(7).0 - 1);
    assert_eq!(client.refresh(&repo), Ok(()));
    client.now = days(7);
    assert_eq!(client.refresh(&repo), expired("timestamp", days(7)));
    assert_eq!(repo.clone().client().refresh(&repo), Ok(()));
}

#[test]
fn an_expired_trusted_timestamp_gives_way_to_a_current_one_but_not_to_an_expired_one() {
    let mut repo = Repo::new();
    let mut client = repo.current_client();
    client.now = days(20);
    repo.timestamp.expires = days(20);
    repo.snapshot.expires = days(30);
    repo.publish(&[]);
    assert_eq!(client.refresh(&repo), expired("timestamp", days(20)));
    assert_eq!(client.versions(), [1, 1, 1, 1, 1], "an expired timestamp is not kept");
    repo.timestamp.expires = days(21);
    repo.publish_timestamp();
    assert_eq!(client.refresh(&repo), Ok(()));
    assert_eq!(client.versions(), [1, 3, 2, 1, 1]);
}

#[test]
fn a_timestamp_that_names_an_older_snapshot_is_a_rollback() {
    for hashes in [true, false] {
        let mut repo = Repo::new();
        repo.hashes = hashes;
        repo.publish(&[]);
        let mut client = repo.current_client();
        repo.snapshot.version = 0;
        repo.publish(&[]);
        assert_eq!(client.refresh(&repo), rollback("snapshot", 1, 2));
        assert_eq!(client.versions(), [1, 2, 2, 1, 1], "nor is the timestamp kept");
    }
}

#[test]
fn a_missing_timestamp_is_an_error() {
    let mut repo = Repo::new();
    let mut client = repo.current_client();
    repo.files.remove("timestamp.json");
    assert_eq!(client.refresh(&repo), missing("timestamp"));
}

#[test]
fn a_snapshot_is_exactly_what_the_timestamp_names() {
    let mut repo = Repo::new();
    let mut client = repo.current_client();
    repo.publish(&[]);
    let honest = repo.clone();

    // Mix and match: another snapshot, properly signed, under this one's name.
    repo.files.insert("2.snapshot.json".into(), repo.files["1.snapshot.json"].clone());
    assert_eq!(client.refresh(&repo), mismatch("snapshot"));
    assert_eq!(client.versions(), [1, 2, 1, 1, 1]);

    // Of the same length too.
    repo = honest.clone();
    repo.tamper("2.snapshot.json", |file| file["signed"]["expires"] = "2031-01-01T00:00:00Z".into());
    assert_eq!(client.refresh(&repo), mismatch("snapshot"));

    // Where the timestamp has no hash, the version must do.
    repo = honest;
    repo.hashes = false;
    repo.publish(&[]);
    repo.files.insert("3.snapshot.json".into(), repo.files["2.snapshot.json"].clone());
    let expected = Err(TrustError::WrongVersion { role: "snapshot".into(), offered: 2, expected: 3 });
    assert_eq!(client.refresh(&repo), expected);
}

#[test]
fn a_snapshot_that_has_expired_is_not_trusted() {
    let mut repo = Repo::new();
    let mut client = repo.current_client();
    repo.snapshot.expires = NOW;
    repo.publish(&["targets"]);
    assert_eq!(client.refresh(&repo), expired("snapshot", NOW));
    assert_eq!(client.versions(), [1, 2, 1, 1, 1]);
    assert!(client.finds("manifest", "manifest 1"));
}

#[test]
fn a_trusted_snapshot_that_has_expired_since_is_noticed_without_a_fetch() {
    let mut repo = Repo::new();
    let mut client = repo.current_client();
    repo.timestamp.expires = days(60);
    repo.publish_timestamp();
    client.now = days(8);
    assert_eq!(client.refresh(&repo), expired("snapshot", days(7)));
    assert_eq!(client.asked, ["2.root.json", "timestamp.json"]);
}

#[test]
fn a_snapshot_in_which_a_role_goes_down_is_a_rollback() {
    for (role, other) in [("targets", FIRMWARE), (FIRMWARE, "targets")] {
        let mut repo = Repo::new();
        let old = repo.of(role).clone();
        repo.publish(&[role]);
        let mut client = repo.current_client();
        *repo.of(role) = old;
        repo.write_targets(role);
        repo.publish(&[other]);
        assert_eq!(client.refresh(&repo), rollback(role, 1, 2));
        assert_eq!(client.versions()[..3], [1, 3, 2]);
    }
}

#[test]
fn a_snapshot_that_lists_a_role_no_longer_is_a_rollback() {
    let mut repo = Repo::new();
    let mut client = repo.current_client();
    repo.snapshot.meta.remove("firmware.json");
    repo.publish(&[]);
    assert_eq!(client.refresh(&repo), rollback("firmware", 0, 1));
    assert_eq!(client.versions(), [1, 2, 1, 1, 1]);
}

#[test]
fn stolen_online_keys_make_no_content() {
    // The thief signs a snapshot and a timestamp for targets of his own, with the online keys that he has.
    let mut repo = Repo::new();
    let mut client = repo.current_client();
    repo.of("targets").targets.insert("manifest".into(), target("the thief's"));
    for signers in [&["s"][..], &["ts"], &["s", "ts"], &["thief"], &[]] {
        let mut hostile = repo.clone();
        hostile.signers.insert("targets".into(), signers.to_vec());
        hostile.publish(&["targets"]);
        assert_eq!(client.refresh(&hostile), untrusted("targets", 0, 1));
        assert!(!client.finds("manifest", "the thief's"));
        client = Repo::new().current_client();
    }
}

#[test]
fn each_role_is_signed_by_its_own_keys_only() {
    for role in ["timestamp", "snapshot", "targets", FIRMWARE] {
        let threshold = if role == FIRMWARE { 2 } else { 1 };
        for thieves in [vec!["thief"], vec!["r1", "r2", "r3"], vec![]] {
            let mut repo = Repo::new();
            let mut client = repo.current_client();
            repo.signers.insert(role.into(), thieves);
            repo.publish(&["targets", FIRMWARE]);
            assert_eq!(client.refresh(&repo), untrusted(role, 0, threshold));
        }
    }
}

#[test]
fn a_file_of_another_role_does_not_pass_even_under_the_same_keys() {
    let mut repo = Repo::new();
    for role in ["timestamp", "snapshot", "targets"] {
        repo.set_root_role(role, &["one"], 1);
        repo.signers.insert(role.into(), vec!["one"]);
    }
    repo.publish_root();
    let mut snapshot = serde_json::to_value(&repo.snapshot).unwrap();
    snapshot["meta"] = json!({"snapshot.json": {"version": 1}});
    repo.files.insert("timestamp.json".into(), repo.signed("timestamp", &snapshot));
    malformed(repo.client().refresh(&repo), "timestamp", "type");
}

#[test]
fn a_timestamp_key_alone_cannot_make_a_saved_state_unreadable() {
    // The same snapshot version with another hash: refused, and what was saved opens again (`Client::refresh`).
    let mut repo = Repo::new();
    let mut client = repo.current_client();
    let meta = repo.timestamp.meta.get_mut("snapshot.json").unwrap();
    meta.hashes = Some(super::super::schema::Hashes::of(b"other"));
    repo.publish_timestamp();
    assert_eq!(client.refresh(&repo), mismatch("snapshot"));
    repo.publish(&["targets"]);
    assert_eq!(client.refresh(&repo), Ok(()));
}

#[test]
fn thresholds_hold_for_every_role() {
    for role in ["timestamp", "snapshot", "targets"] {
        for (signers, valid) in [(vec!["a", "b", "c"], 3), (vec!["a", "c"], 2), (vec!["b"], 1), (vec!["a", "thief"], 1)]
        {
            let mut repo = Repo::new();
            repo.set_root_role(role, &["a", "b", "c"], 2);
            repo.publish_root();
            repo.signers.insert(role.into(), signers);
            repo.publish(&["targets"]);
            let expected = if valid >= 2 { Ok(()) } else { untrusted(role, valid, 2) };
            assert_eq!(repo.client().refresh(&repo), expected);
        }
    }
}

#[test]
fn a_threshold_above_the_number_of_keys_is_never_reached() {
    let mut repo = Repo::new();
    repo.set_root_role("snapshot", &["a", "b"], 3);
    repo.signers.insert("snapshot".into(), vec!["a", "b"]);
    repo.publish_root();
    repo.publish(&[]);
    let mut client = repo.client();
    assert_eq!(client.refresh(&repo), untrusted("snapshot", 2, 3));
    assert_eq!(client.versions(), [2, 2, 0, 0, 0]);
}
