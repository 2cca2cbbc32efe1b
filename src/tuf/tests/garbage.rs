//! Whatever comes, nothing panics and nothing forged is trusted.

use std::sync::LazyLock;

use proptest::prelude::*;

use super::*;

/// Every stage of a refresh at which bytes come in, with what is trusted at it.
fn stages(repo: &Repo) -> Vec<Refresh> {
    let mut stages = Vec::new();
    let files: Vec<Option<&str>> =
        vec![Some("2.root.json"), None, Some("timestamp.json"), Some("2.snapshot.json"), Some("2.targets.json")];
    for stop in 0..files.len() {
        let mut refresh = Refresh::start(repo.client().trusted, MetadataLimits::default(), NOW);
        for file in files.iter().take(stop) {
            match file {
                Some(path) => refresh.received(&repo.files[*path]).unwrap(),
                None => refresh.missing().unwrap(),
            }
        }
        stages.push(refresh);
    }
    stages
}

/// A search that waits for `firmware.json`.
fn waiting_search(repo: &Repo) -> Search {
    let mut client = repo.client();
    client.refresh_top_level(repo).unwrap();
    Search::start(client.trusted, "firmware/a.bin", MetadataLimits::default(), NOW).unwrap()
}

fn repo() -> &'static Repo {
    static REPO: LazyLock<Repo> = LazyLock::new(|| {
        let mut repo = Repo::new();
        // No hashes: signatures alone must hold what comes.
        repo.hashes = false;
        repo.publish_root();
        repo.publish(&["targets", FIRMWARE]);
        repo
    });
    &REPO
}

fn json_value() -> impl Strategy<Value = Value> {
    let names = prop::sample::select(vec![
        "signed",
        "signatures",
        "_type",
        "version",
        "expires",
        "meta",
        "roles",
        "keys",
        "keyids",
        "threshold",
        "targets",
        "delegations",
        "snapshot.json",
        "targets.json",
        "spec_version",
        "name",
        "paths",
        "hashes",
        "sha256",
        "length",
        "x",
    ]);
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        prop::sample::select(vec![
            "root",
            "timestamp",
            "snapshot",
            "targets",
            "1.0.0",
            "2030-01-01T00:00:00Z",
            "",
            "\u{0}"
        ])
        .prop_map(Value::from),
        any::<String>().prop_map(Value::from),
    ];
    leaf.prop_recursive(5, 48, 6, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
            prop::collection::btree_map(names.clone(), inner, 0..6)
                .prop_map(|members| members.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()),
        ]
    })
}

/// Changes one value somewhere inside; `path` picks the way down.
fn mutate(value: &mut Value, path: &[usize], with: &Value) {
    let Some((&step, rest)) = path.split_first() else {
        *value = with.clone();
        return;
    };
    match value {
        Value::Array(items) if !items.is_empty() => {
            let place = step % items.len();
            mutate(&mut items[place], rest, with);
        }
        Value::Object(members) if !members.is_empty() => {
            let place = step % members.len();
            let member = members.iter_mut().nth(place).unwrap().1;
            mutate(member, rest, with);
        }
        other => *other = with.clone(),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn no_bytes_panic_the_client(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        for mut refresh in stages(repo()) {
            prop_assert!(refresh.received(&bytes).is_err());
        }
        prop_assert!(waiting_search(repo()).received(&bytes).is_err());
        prop_assert!(Trusted::pin(&bytes).is_err());
        prop_assert!(sign::add_signature(&bytes, &key("r1")).is_err());
    }

    #[test]
    fn no_json_panics_the_client(signed in json_value(), signatures in json_value(), whole in json_value()) {
        for value in [json!({"signed": signed, "signatures": signatures}), whole] {
            let bytes = serde_json::to_vec(&value).unwrap();
            for mut refresh in stages(repo()) {
                prop_assert!(refresh.received(&bytes).is_err());
            }
            prop_assert!(waiting_search(repo()).received(&bytes).is_err());
        }
    }

    #[test]
    fn no_signed_json_panics_the_client(
        stage in 0usize..6,
        path in prop::collection::vec(any::<usize>(), 1..7),
        with in json_value(),
    ) {
        // The key holder himself is hostile: any content, properly signed.
        let repo = repo();
        let (role, file) = [
            ("root", "2.root.json"), ("root", "2.root.json"), ("timestamp", "timestamp.json"),
            ("snapshot", "2.snapshot.json"), ("targets", "2.targets.json"), (FIRMWARE, "2.firmware.json"),
        ][stage];
        let mut signed = serde_json::from_slice::<Value>(&repo.files[file]).unwrap()["signed"].clone();
        mutate(&mut signed, &path, &with);
        prop_assume!(canonical::bytes(&signed).is_ok());
        let mut hostile = repo.clone();
        hostile.files.insert(file.into(), repo.signed(role, &signed));
        let mut client = repo.client();
        // What comes of it may be an error or not; what is left opens again (`Client::refresh`).
        let _ = client.refresh(&hostile);
        let _ = client.trusted.target("firmware/a.bin");
        let _ = client.refresh(repo);
    }

    #[test]
    fn metadata_with_anything_changed_never_verifies(
        stage in 0usize..6,
        path in prop::collection::vec(any::<usize>(), 0..7),
        with in json_value(),
    ) {
        let repo = repo();
        let file = ["2.root.json", "2.root.json", "timestamp.json", "2.snapshot.json", "2.targets.json", "2.firmware.json"][stage];
        let honest: Value = serde_json::from_slice(&repo.files[file]).unwrap();
        let mut forged = honest.clone();
        mutate(&mut forged["signed"], &path, &with);
        prop_assume!(forged != honest);
        let mut hostile = repo.clone();
        hostile.files.insert(file.into(), serde_json::to_vec(&forged).unwrap());
        let before = hostile.client().refresh(&hostile);
        prop_assert!(before.is_err());
        let mut client = repo.current_client();
        let versions = client.versions();
        // A client that has the honest file either refuses the forged one or does not ask for it.
        if client.refresh(&hostile).is_ok() {
            prop_assert!(client.trusted.files().values().all(|bytes| *bytes != hostile.files[file]));
        }
        prop_assert_eq!(client.versions(), versions);
    }

    #[test]
    fn metadata_with_one_bit_changed_is_refused_or_says_the_same(stage in 0usize..6, at in any::<usize>(), bit in 0u8..8) {
        let repo = repo();
        let file = ["2.root.json", "2.root.json", "timestamp.json", "2.snapshot.json", "2.targets.json", "2.firmware.json"][stage];
        let mut hostile = repo.clone();
        let bytes = hostile.files.get_mut(file).unwrap();
        let place = at % bytes.len();
        bytes[place] ^= 1 << bit;
        let mut client = repo.client();
        if client.refresh(&hostile).is_ok() {
            // White space, hex digits in upper case, or one signature more than needed.
            let said = |bytes: &[u8]| serde_json::from_slice::<Value>(bytes).unwrap()["signed"].clone();
            prop_assert_eq!(said(&hostile.files[file]), said(&repo.files[file]));
        }
    }
}
