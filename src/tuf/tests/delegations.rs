//! §5.6: `targets`, delegated roles and the search among them.

use super::*;

/// A repository with only `targets`, and these delegations: delegator, role, paths, terminating. Each role lists
/// `<role>.only`, and every role lists `all`, with its own name as the content.
fn graph(edges: &[(&str, &'static str, &[&str], bool)]) -> Repo {
    let mut repo = Repo::new();
    for &(delegator, role, paths, terminating) in edges {
        repo.add_role(delegator, role, paths);
        let delegations = repo.of(delegator).delegations.as_mut().unwrap();
        delegations.roles.last_mut().unwrap().terminating = terminating;
    }
    let roles: Vec<String> = repo.targets.keys().cloned().collect();
    for role in &roles {
        for path in [format!("{role}.only"), "all".into()] {
            if role != "targets" {
                repo.of(role).targets.insert(path, target(role));
            }
        }
        repo.write_targets(role);
    }
    repo.publish(&roles.iter().map(String::as_str).collect::<Vec<_>>());
    repo
}

fn who_answers(repo: &Repo, path: &str) -> Option<&'static str> {
    let mut client = repo.current_client();
    let found = client.search(repo, path).unwrap();
    ["A", "B", "C", "D", FIRMWARE].into_iter().find(|role| found == Some(target(role)))
}

#[test]
fn the_search_is_preorder_depth_first() {
    // (delegations, who answers for `all`, which `<role>.only` are found)
    type Edges = &'static [(&'static str, &'static str, &'static [&'static str], bool)];
    let cases: [(Edges, Option<&str>, &[&str]); 8] = [
        (&[("targets", "A", &["*"], false), ("targets", "B", &["*"], false)], Some("A"), &["A", "B"]),
        (
            &[("targets", "A", &["*.only"], false), ("targets", "B", &["*"], false), ("A", "C", &["*"], false)],
            Some("B"),
            &["A", "B", "C"],
        ),
        // Terminating: only its own descendants are asked after it.
        (
            &[("targets", "A", &["*"], false), ("targets", "B", &["*"], false), ("A", "C", &["*"], true)],
            Some("A"),
            &["A", "C"],
        ),
        (
            &[("targets", "A", &["*"], true), ("targets", "B", &["*"], false), ("A", "C", &["*"], false)],
            Some("A"),
            &["A", "C"],
        ),
        // A terminating delegation for other paths ends nothing.
        (&[("targets", "A", &["x"], true), ("targets", "B", &["*"], false)], Some("B"), &["B"]),
        // What a role may not answer for, those below it may not either.
        (&[("targets", "A", &["a/*"], false), ("A", "B", &["*"], false)], None, &[]),
        // A cycle.
        (
            &[("targets", "A", &["*"], false), ("A", "B", &["*"], false), ("B", "A", &["*"], false)],
            Some("A"),
            &["A", "B"],
        ),
        // Reached by the one that may.
        (
            &[
                ("targets", "A", &["x"], false),
                ("targets", "B", &["*"], false),
                ("A", "C", &["*"], false),
                ("B", "C", &["*"], false),
            ],
            Some("B"),
            &["B", "C"],
        ),
    ];
    for (number, (edges, all, found)) in cases.into_iter().enumerate() {
        let repo = graph(edges);
        assert_eq!(who_answers(&repo, "all"), all, "case {number}");
        for role in ["A", "B", "C"] {
            let answer = who_answers(&repo, &format!("{role}.only"));
            assert_eq!(answer, found.contains(&role).then_some(role), "case {number} {role}");
        }
    }
}

#[test]
fn the_top_level_comes_first() {
    let mut repo = graph(&[("targets", "A", &["*"], true)]);
    repo.of("targets").targets.insert("all".into(), target("top"));
    repo.publish(&["targets"]);
    assert!(repo.current_client().fetches(&repo, "all", "top"));
}

#[test]
fn a_role_answers_only_for_the_paths_that_are_delegated_to_it() {
    // The firmware keys cannot replace the manifest.
    let mut repo = Repo::new();
    repo.of("targets").targets.clear();
    for path in ["manifest", "firmware", "firmware/x/y", "firmware/z"] {
        repo.of(FIRMWARE).targets.insert(path.into(), target("f"));
    }
    repo.publish(&["targets", FIRMWARE]);
    let mut client = repo.current_client();
    for path in ["manifest", "firmware", "firmware/x/y"] {
        assert_eq!(client.search(&repo, path), Ok(None), "{path}");
    }
    assert!(client.fetches(&repo, "firmware/z", "f"));
}

#[test]
fn roles_are_fetched_in_preorder_each_once() {
    let mut client = Repo::new().client();
    let repo = graph(&[
        ("targets", "A", &["*"], false),
        ("targets", "B", &["*"], false),
        ("A", "C", &["*"], false),
        ("A", "D", &["*"], false),
        ("D", "A", &["*"], false),
    ]);
    assert_eq!(client.refresh_top_level(&repo), Ok(()));
    assert_eq!(client.asked[3..], ["2.targets.json"], "no delegated role is needed yet");
    assert_eq!(client.search(&repo, "nowhere"), Ok(None));
    assert_eq!(client.asked[4..], ["2.A.json", "2.C.json", "2.D.json", "2.B.json"]);
    assert_eq!(client.search(&repo, "C.only"), Ok(Some(target("C"))));
    assert_eq!(client.asked.len(), 8, "what is held is not fetched again");
    assert_eq!(client.search(&repo, "firmware/x"), Ok(None));
    assert_eq!(client.asked[8..], ["2.firmware.json"], "`*` does not match a slash");
}

#[test]
fn so_many_roles_are_fetched_and_no_more() {
    let mut repo = Repo::new();
    let names: Vec<&'static str> = (0..40).map(|n| &*Box::leak(format!("role-{n}").into_boxed_str())).collect();
    for &role in &names {
        let content = target(role);
        repo.add_role("targets", role, &["*"]).targets.insert(role.into(), content);
        repo.write_targets(role);
    }
    repo.publish(&["targets"]);
    let mut client = repo.current_client();
    client.asked.clear();
    assert_eq!(client.search(&repo, "nowhere"), Ok(None));
    assert_eq!(client.asked.len(), MAX_ROLES - 1, "`targets` counts");
    let mut found = |role: &str| client.search(&repo, role) == Ok(Some(target(role)));
    assert!(names[..MAX_ROLES - 1].iter().all(|role| found(role)));
    assert!(!names[MAX_ROLES - 1..].iter().any(|role| found(role)));
}

#[test]
fn a_role_that_the_snapshot_does_not_list_is_not_fetched_and_ends_searches() {
    let mut repo = graph(&[("targets", "A", &["*"], false), ("targets", "B", &["*"], false)]);
    repo.snapshot.meta.remove("A.json");
    repo.publish(&[]);
    let mut client = repo.current_client();
    assert_eq!(client.search(&repo, "B.only"), Ok(None), "B must not answer where A might have");
    assert!(!client.asked.iter().any(|path| path.contains("A.json")));
    assert_eq!(client.trusted.delegated("A"), None);
}

#[test]
fn a_delegated_role_holds_by_the_threshold_of_its_delegator() {
    let mut repo = Repo::new();
    let mut client = repo.current_client();
    repo.signers.insert(FIRMWARE.into(), vec!["f2"]);
    repo.publish(&[FIRMWARE]);
    assert_eq!(client.refresh(&repo), untrusted("firmware", 1, 2));
    assert_eq!(client.versions(), [1, 2, 2, 1, 1]);
    repo.signers.insert(FIRMWARE.into(), vec!["f2", "t", "r1"]);
    repo.publish(&[FIRMWARE]);
    assert_eq!(client.refresh(&repo), untrusted("firmware", 1, 2), "a stolen release key ships no firmware");
    repo.signers.insert(FIRMWARE.into(), vec!["f2", "f3"]);
    repo.publish(&[FIRMWARE]);
    assert_eq!(client.refresh(&repo), Ok(()));
}

#[test]
fn a_trusted_role_does_not_outlive_its_keys() {
    // The release names new firmware keys; the old listing no longer counts, though the snapshot still names it.
    let mut repo = Repo::new();
    let mut client = repo.current_client();
    repo.of("targets").delegations = None;
    repo.delegate("targets", delegation(FIRMWARE, &["f4"], 1, &["firmware/*"]), &["f4"]);
    repo.publish(&["targets"]);
    assert_eq!(client.refresh(&repo), untrusted("firmware", 0, 1));
    assert_eq!(client.versions(), [1, 2, 2, 2, 0]);
    assert_eq!(client.trusted.target("firmware/a.bin"), None);
    repo.signers.insert(FIRMWARE.into(), vec!["f4"]);
    repo.publish(&[FIRMWARE]);
    assert_eq!(client.refresh(&repo), Ok(()));
    assert!(client.finds("firmware/a.bin", "a 1"));
}

#[test]
fn a_role_that_is_delegated_to_no_more_is_forgotten() {
    let mut repo = Repo::new();
    let mut client = repo.current_client();
    repo.of("targets").delegations = None;
    repo.publish(&["targets"]);
    assert_eq!(client.refresh(&repo), Ok(()));
    assert_eq!(client.trusted.delegated(FIRMWARE), None);
    assert!(!client.trusted.files().contains_key("firmware.json"));
}

#[test]
fn a_role_with_two_delegators_holds_by_the_keys_of_both() {
    let mut repo = graph(&[("targets", "A", &["a"], false), ("targets", "B", &["b"], false)]);
    repo.delegate("A", delegation("C", &["c1"], 1, &["a"]), &["c1"]);
    repo.delegate("B", delegation("C", &["c2"], 1, &["b"]), &["c2"]);
    let mut targets = empty_targets();
    targets.targets.extend([("a".to_owned(), target("C")), ("b".to_owned(), target("C"))]);
    repo.targets.insert("C".into(), targets);
    repo.signers.insert("C".into(), vec!["c1"]);
    let (mut new, mut old) = (repo.client(), repo.current_client());
    repo.publish(&["A", "B", "C"]);
    for client in [&mut new, &mut old] {
        assert_eq!(client.refresh(&repo), Ok(()));
        assert_eq!(client.search(&repo, "a"), Ok(Some(target("C"))), "by the keys that A names");
        assert_eq!(client.search(&repo, "b").map(drop), untrusted("C", 0, 1), "B names others");
        assert_eq!(client.trusted.target("b"), None);
    }
    repo.signers.insert("C".into(), vec!["c1", "c2"]);
    repo.publish(&["C"]);
    for client in [&mut new, &mut old] {
        assert_eq!(client.refresh(&repo), Ok(()));
        assert!(client.fetches(&repo, "a", "C") && client.fetches(&repo, "b", "C"));
    }

    // So it is when it comes from the disk, whoever is asked first.
    let mut files = new.trusted.files();
    for only in ["c1", "c2"] {
        files.insert("C.json".into(), sign::sign(&repo.targets["C"], &[&key(only)]));
        assert_eq!(Trusted::reopen(&files).map(drop), untrusted("C", 0, 1));
    }
}

#[test]
fn delegators_that_change_a_shared_roles_keys_together_lose_nothing() {
    let mut repo = graph(&[("targets", "A", &["a"], false), ("targets", "B", &["b"], false)]);
    for delegator in ["A", "B"] {
        repo.delegate(delegator, delegation("C", &["c1"], 1, &["*"]), &["c1"]);
    }
    let mut targets = empty_targets();
    targets.targets.extend([("a".to_owned(), target("C")), ("b".to_owned(), target("C"))]);
    repo.targets.insert("C".into(), targets);
    repo.signers.insert("C".into(), vec!["c1"]);
    repo.publish(&["A", "B", "C"]);
    let mut client = repo.current_client();
    assert!(client.fetches(&repo, "a", "C") && client.fetches(&repo, "b", "C"));
    for delegator in ["A", "B"] {
        repo.of(delegator).delegations = None;
        repo.delegate(delegator, delegation("C", &["c2"], 1, &["*"]), &["c2"]);
    }
    repo.signers.insert("C".into(), vec!["c2"]);
    repo.publish(&["A", "B", "C"]);
    assert_eq!(client.refresh(&repo), Ok(()));
    assert!(client.fetches(&repo, "a", "C") && client.fetches(&repo, "b", "C"));
}

#[test]
fn targets_and_roles_are_exactly_what_the_snapshot_names() {
    for role in ["targets", FIRMWARE] {
        let mut repo = Repo::new();
        let mut client = repo.current_client();
        repo.publish(&[role]);
        repo.files.insert(format!("2.{role}.json"), repo.files[&format!("1.{role}.json")].clone());
        assert_eq!(client.refresh(&repo), mismatch(role));

        repo.hashes = false;
        repo.publish(&[role]);
        repo.files
            .insert(format!("3.{role}.json"), repo.signed(role, &Targets { version: 4, ..repo.targets[role].clone() }));
        let expected = Err(TrustError::WrongVersion { role: role.into(), offered: 4, expected: 3 });
        assert_eq!(client.refresh(&repo), expected);
        assert_eq!(client.versions(), [1, 3, 3, 1, 1]);
    }
}

#[test]
fn targets_and_roles_that_have_expired_are_not_trusted() {
    for role in ["targets", FIRMWARE] {
        let mut repo = Repo::new();
        let mut client = repo.current_client();
        repo.of(role).expires = NOW;
        repo.publish(&[role]);
        assert_eq!(client.refresh(&repo), expired(role, NOW));
        assert_eq!(client.versions(), [1, 2, 2, 1, 1]);

        // Nor are those that expired since they were fetched.
        repo.of(role).expires = days(1);
        repo.publish(&[role]);
        assert_eq!(client.refresh(&repo), Ok(()));
        client.now = days(1);
        assert_eq!(client.refresh(&repo), expired(role, days(1)));
        assert_eq!(client.asked, ["2.root.json", "timestamp.json"]);
    }
}

#[test]
fn a_role_of_any_name_stays_in_its_directory() {
    for (role, path) in [
        ("../up", "2...%2Fup.json"),
        ("/etc", "2.%2Fetc.json"),
        ("?", "2.%3F.json"),
        ("#", "2.%23.json"),
        ("%2e%2e", "2.%252e%252e.json"),
        ("\u{e4}", "2.%C3%A4.json"),
        ("..", "2....json"),
    ] {
        let mut repo = graph(&[("targets", role, &["*"], false)]);
        let file = repo.files.remove(&format!("2.{role}.json")).unwrap();
        repo.files.insert(path.into(), file);
        let mut client = repo.current_client();
        assert_eq!(client.search(&repo, "all"), Ok(Some(target(role))));
        assert_eq!(client.asked.last().map(String::as_str), Some(path));
        assert!(client.trusted.delegated(role).is_some());
        assert!(client.trusted.files().keys().all(|name| !name.contains(['/', '\\', '\0']) && name.ends_with(".json")));
    }
}

#[test]
fn a_listing_of_thousands_of_files_fits_the_limits() {
    let mut repo = Repo::new();
    for number in 0..8_000 {
        let path = format!("firmware/vendor-model-{number}.bin");
        repo.of(FIRMWARE).targets.insert(path.clone(), target(&path));
    }
    repo.publish(&[FIRMWARE]);
    let client = repo.current_client();
    let path = "firmware/vendor-model-7999.bin";
    assert!(client.finds(path, path));
}
