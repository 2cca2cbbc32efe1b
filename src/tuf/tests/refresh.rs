//! The workflow as a whole: what is asked for, what is kept.

use super::*;

#[test]
fn a_first_refresh_follows_the_chain_and_finds_targets() {
    let repo = Repo::new();
    let client = repo.current_client();
    assert_eq!(client.versions(), [1, 1, 1, 1, 1]);
    let chain = ["2.root.json", "timestamp.json", "1.snapshot.json", "1.targets.json", "1.firmware.json"];
    assert_eq!(client.asked, chain);
    assert!(client.finds("manifest", "manifest 1"));
    assert!(client.finds("firmware/a.bin", "a 1"));
    assert_eq!(client.trusted.target("other"), None);
    assert_eq!(client.trusted.root().extra["x-lineside"], json!({"fleet": "acme"}));
}

#[test]
fn an_unchanged_repository_costs_two_requests() {
    let mut repo = Repo::new();
    let mut client = repo.current_client();
    assert_eq!(client.refresh(&repo), Ok(()));
    assert_eq!(client.asked, ["2.root.json", "timestamp.json"]);
    assert!(client.finds("firmware/a.bin", "a 1"));

    // Signed anew without a change: nor is anything else fetched then.
    repo.publish_timestamp();
    assert_eq!(client.refresh(&repo), Ok(()));
    assert_eq!(client.asked, ["2.root.json", "timestamp.json"]);
    assert_eq!(client.versions(), [1, 2, 1, 1, 1]);
}

#[test]
fn only_the_role_that_changed_is_fetched() {
    for hashes in [true, false] {
        let mut repo = Repo::new();
        repo.hashes = hashes;
        repo.publish(&["targets", FIRMWARE]);
        let mut client = repo.current_client();
        repo.publish(&["targets"]);
        assert_eq!(client.refresh(&repo), Ok(()));
        assert_eq!(client.asked, ["2.root.json", "timestamp.json", "3.snapshot.json", "3.targets.json"]);
        assert_eq!(client.versions(), [1, 3, 3, 3, 2]);
        repo.publish(&[FIRMWARE]);
        assert_eq!(client.refresh(&repo), Ok(()));
        assert_eq!(client.asked, ["2.root.json", "timestamp.json", "4.snapshot.json", "3.firmware.json"]);
    }
}

#[test]
fn not_modified_goes_on_with_the_timestamp_that_is_trusted() {
    let mut repo = Repo::new();
    let mut client = repo.current_client();
    client.conditional = true;
    assert_eq!(client.refresh(&repo), Ok(()));
    assert_eq!(client.asked, ["2.root.json", "timestamp.json"]);
    assert_eq!(client.versions(), [1, 1, 1, 1, 1]);

    // What failed the last time is tried again although the timestamp is the same.
    repo.publish(&[FIRMWARE]);
    let file = repo.files.remove("2.firmware.json").unwrap();
    assert_eq!(client.refresh(&repo), missing("firmware"));
    assert_eq!(client.versions(), [1, 2, 2, 1, 1]);
    repo.files.insert("2.firmware.json".into(), file);
    assert_eq!(client.refresh(&repo), Ok(()));
    assert_eq!(client.asked, ["2.root.json", "timestamp.json", "2.firmware.json"]);
    assert_eq!(client.versions(), [1, 2, 2, 1, 2]);
}

#[test]
fn not_modified_does_not_hold_off_expiry() {
    let repo = Repo::new();
    let mut client = repo.current_client();
    client.conditional = true;
    client.now = days(7);
    assert_eq!(client.refresh(&repo), expired("timestamp", days(7)));
    assert_eq!(client.versions(), [1, 1, 1, 1, 1], "what is served stays");
}

#[test]
fn not_modified_is_no_answer_without_a_trusted_timestamp_or_to_another_question() {
    let repo = Repo::new();
    let mut refresh = Refresh::start(repo.client().trusted, MetadataLimits::default(), NOW);
    assert_eq!(refresh.unchanged(), missing("root"));

    let mut refresh = Refresh::start(repo.client().trusted, MetadataLimits::default(), NOW);
    assert_eq!(refresh.missing(), Ok(()));
    assert_eq!(refresh.unchanged(), missing("timestamp"));
    assert_eq!(refresh.trusted().timestamp(), None);
}

#[test]
fn a_later_failure_keeps_what_held_before_it() {
    // §5.3.8, §5.4.5, §5.5.7: each role is kept as soon as it holds.
    for (role, kept) in [
        ("timestamp", [2, 1, 1, 1, 1]),
        ("snapshot", [2, 2, 1, 1, 1]),
        ("targets", [2, 2, 2, 1, 1]),
        ("firmware", [2, 2, 2, 2, 1]),
    ] {
        let mut repo = Repo::new();
        let mut client = repo.current_client();
        repo.publish_root();
        repo.publish(&["targets", FIRMWARE]);
        let path = if role == "timestamp" { "timestamp.json".into() } else { format!("2.{role}.json") };
        let file = repo.files.remove(&path).unwrap();
        assert_eq!(client.refresh(&repo), missing(role));
        assert_eq!(client.versions(), kept);

        repo.files.insert(path, file);
        assert_eq!(client.refresh(&repo), Ok(()), "the next refresh recovers");
        assert_eq!(client.versions(), [2, 2, 2, 2, 2]);
    }
}

#[test]
fn a_half_finished_refresh_mixes_no_old_role_with_a_new_one() {
    let mut repo = Repo::new();
    let mut client = repo.current_client();
    repo.of("targets").targets.insert("manifest".into(), target("manifest 2"));
    repo.of(FIRMWARE).targets.insert("firmware/a.bin".into(), target("a 2"));
    repo.publish(&["targets", FIRMWARE]);
    let file = repo.files.remove("2.firmware.json").unwrap();
    assert_eq!(client.refresh(&repo), missing("firmware"));
    assert!(client.finds("manifest", "manifest 2"));
    assert_eq!(client.trusted.target("firmware/a.bin"), None, "the snapshot names another one");
    repo.files.insert("2.firmware.json".into(), file);
    assert_eq!(client.refresh(&repo), Ok(()));
    assert!(client.finds("firmware/a.bin", "a 2"));
}

#[test]
fn without_consistent_snapshots_names_have_no_version() {
    // §5.3.12: as the root says, which need not say anything.
    let mut repo = Repo::new();
    repo.root.consistent_snapshot = false;
    repo.publish_root();
    repo.publish(&["targets", FIRMWARE]);
    let client = repo.current_client();
    let chain = ["2.root.json", "3.root.json", "timestamp.json", "snapshot.json", "targets.json", "firmware.json"];
    assert_eq!(client.asked, chain);

    let mut unsaid = serde_json::to_value(&repo.root).unwrap();
    unsaid.as_object_mut().unwrap().remove("consistent_snapshot");
    repo.files.insert("2.root.json".into(), repo.signed("root", &unsaid));
    assert_eq!(repo.current_client().asked, chain);
}

#[test]
fn lengths_and_hashes_are_optional() {
    let mut repo = Repo::new();
    repo.hashes = false;
    repo.publish(&["targets", FIRMWARE]);
    let mut client = repo.client();
    assert_eq!(client.refresh(&repo), Ok(()));
    assert_eq!(client.versions(), [1, 2, 2, 2, 2]);
}

#[test]
fn bytes_are_kept_as_they_came() {
    let mut repo = Repo::new();
    repo.files.get_mut("timestamp.json").unwrap().extend_from_slice(b"  \n");
    let client = repo.current_client();
    assert_eq!(client.trusted.files()["timestamp.json"], repo.files["timestamp.json"]);
    assert_eq!(client.trusted.files()["firmware.json"], repo.files["1.firmware.json"]);
    let names = ["firmware.json", "root.json", "snapshot.json", "targets.json", "timestamp.json"];
    assert!(client.trusted.files().keys().eq(names));
}

#[test]
fn an_endless_file_is_cut_off_at_the_limit_or_at_the_signed_length() {
    let mut repo = Repo::new();
    let endless = |repo: &Repo, path: &str| {
        let mut repo = repo.clone();
        repo.files.get_mut(path).unwrap().resize(3 << 20, b' ');
        repo.client().refresh(&repo)
    };
    let too_large = |role: &str, limit: u64| Err(TrustError::TooLarge { role: role.into(), limit });
    let length = |repo: &Repo, path: &str| repo.files[path].len() as u64;
    assert_eq!(endless(&repo, "timestamp.json"), too_large("timestamp", 16 << 10));
    assert_eq!(endless(&repo, "1.snapshot.json"), too_large("snapshot", length(&repo, "1.snapshot.json")));
    assert_eq!(endless(&repo, "1.firmware.json"), too_large("firmware", length(&repo, "1.firmware.json")));
    repo.hashes = false;
    repo.publish(&["targets", FIRMWARE]);
    assert_eq!(endless(&repo, "2.snapshot.json"), too_large("snapshot", 64 << 10));
    assert_eq!(endless(&repo, "2.targets.json"), too_large("targets", 2 << 20));
    repo.publish_root();
    assert_eq!(endless(&repo, "2.root.json"), too_large("root", 64 << 10));
}

#[test]
fn a_signed_length_over_the_limit_is_not_fetched() {
    let mut repo = Repo::new();
    repo.snapshot.meta.get_mut("firmware.json").unwrap().length = Some(u64::MAX);
    repo.publish(&[]);
    let mut client = repo.client();
    let limit = client.limits.targets_bytes;
    assert_eq!(client.refresh(&repo), Err(TrustError::TooLarge { role: "firmware".into(), limit }));
    assert!(!client.asked.contains(&"1.firmware.json".to_owned()));

    repo.timestamp.meta.get_mut("snapshot.json").unwrap().length = Some(u64::MAX);
    repo.publish_timestamp();
    let limit = client.limits.snapshot_bytes;
    assert_eq!(client.refresh(&repo), Err(TrustError::TooLarge { role: "snapshot".into(), limit }));
}

#[test]
fn reopening_needs_every_file_to_hold_but_no_clock() {
    let mut repo = Repo::new();
    let files = repo.current_client().trusted.files();
    let reopened = Trusted::reopen(&files).unwrap();
    assert!(reopened.target("firmware/a.bin").is_some());
    assert_eq!(reopened.expires(), days(7));

    for name in files.keys() {
        let mut torn = files.clone();
        let file = torn.get_mut(name).unwrap();
        file.truncate(file.len() / 2);
        assert!(Trusted::reopen(&torn).is_err(), "{name}");
    }
    let mut without = files.clone();
    without.remove("root.json");
    assert_eq!(Trusted::reopen(&without).map(drop), missing("root"));
    let mut without = files.clone();
    without.remove("timestamp.json");
    assert_eq!(Trusted::reopen(&without).map(drop), missing("timestamp"));
    let mut more = files.clone();
    more.insert("stranger.json".into(), files["firmware.json"].clone());
    malformed(Trusted::reopen(&more).map(drop), "stranger", "no trusted role delegates to it");

    // A snapshot that is newer than the timestamp knows: the timestamp was put back.
    repo.publish(&[]);
    let mut mixed = repo.current_client().trusted.files();
    mixed.insert("timestamp.json".into(), files["timestamp.json"].clone());
    assert_eq!(Trusted::reopen(&mixed).map(drop), rollback("snapshot", 1, 2));
}

#[test]
fn the_earliest_expiry_counts() {
    let mut repo = Repo::new();
    assert_eq!(repo.client().trusted.expires(), days(365));
    repo.of("targets").expires = days(3);
    repo.of(FIRMWARE).expires = days(2);
    repo.publish(&["targets", FIRMWARE]);
    assert_eq!(repo.current_client().trusted.expires(), days(3), "a delegated role lapses for what it signs alone");
}

#[test]
fn what_is_trusted_can_be_shared_between_threads() {
    fn shared<T: Send + Sync + Clone>(_: &T) {}
    shared(&Repo::new().client().trusted);
}
