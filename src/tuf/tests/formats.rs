//! §4: what is metadata and what is not, and whose signatures count.

use super::*;

/// A refresh of a repository whose file `path` was changed before it was signed by `signer`'s keys.
fn signed_change(path: &str, role: &str, change: impl FnOnce(&mut Value)) -> Result<(), TrustError> {
    let mut repo = Repo::new();
    repo.hashes = false;
    repo.publish_root();
    repo.publish(&["targets", FIRMWARE]);
    let file: Value = serde_json::from_slice(&repo.files[path]).unwrap();
    let mut signed = file["signed"].clone();
    change(&mut signed);
    repo.files.insert(path.into(), repo.signed(role, &signed));
    repo.client().refresh(&repo)
}

#[test]
fn what_the_specification_does_not_allow_is_refused_even_if_signed() {
    type Change = fn(&mut Value);
    let cases: [(&str, &str, Change, &str); 24] = [
        ("timestamp.json", "timestamp", |signed| signed["_type"] = "snapshot".into(), "type"),
        ("timestamp.json", "timestamp", |signed| signed["version"] = 0.into(), "version is 0"),
        ("timestamp.json", "timestamp", |signed| signed["version"] = "1".into(), "invalid type"),
        ("timestamp.json", "timestamp", |signed| signed["version"] = (-1).into(), "invalid value"),
        ("timestamp.json", "timestamp", |signed| signed["spec_version"] = "2.0.0".into(), "specification"),
        ("timestamp.json", "timestamp", |signed| signed["spec_version"] = "1".into(), "specification"),
        ("timestamp.json", "timestamp", |signed| signed["expires"] = "tomorrow".into(), "year"),
        ("timestamp.json", "timestamp", |signed| signed["meta"] = json!({}), "snapshot.json"),
        (
            "timestamp.json",
            "timestamp",
            |signed| signed["meta"]["targets.json"] = json!({"version": 1}),
            "nothing else",
        ),
        ("timestamp.json", "timestamp", |signed| signed["meta"]["snapshot.json"]["version"] = 0.into(), "version 0"),
        ("2.snapshot.json", "snapshot", |signed| signed["meta"] = json!({}), "targets.json"),
        ("2.snapshot.json", "snapshot", |signed| signed["meta"]["x.json"] = json!({}), "version"),
        ("2.snapshot.json", "snapshot", |signed| drop(signed.as_object_mut().unwrap().remove("expires")), "expires"),
        ("2.root.json", "root", |signed| drop(signed["roles"].as_object_mut().unwrap().remove("snapshot")), "snapshot"),
        ("2.root.json", "root", |signed| signed["roles"]["targets"]["threshold"] = 0.into(), "no signature"),
        ("2.root.json", "root", |signed| signed["roles"]["targets"]["keyids"] = json!(vec!["x"; 33]), "keys"),
        ("2.targets.json", "targets", |signed| signed["targets"]["x"] = json!({"length": 1}), "hashes"),
        ("2.targets.json", "targets", |signed| signed["delegations"]["roles"][0]["threshold"] = 0.into(), "signature"),
        ("2.targets.json", "targets", |signed| signed["delegations"]["roles"][0]["name"] = "root".into(), "root"),
        ("2.targets.json", "targets", |signed| signed["delegations"]["roles"][0]["name"] = "".into(), "name"),
        ("2.targets.json", "targets", |signed| signed["delegations"]["roles"][0]["name"] = "a\nb".into(), "name"),
        (
            "2.targets.json",
            "targets",
            |signed| {
                let role = signed["delegations"]["roles"][0].clone();
                signed["delegations"]["roles"].as_array_mut().unwrap().push(role);
            },
            "twice",
        ),
        (
            "2.targets.json",
            "targets",
            |signed| signed["delegations"]["roles"][0]["path_hash_prefixes"] = json!(["00"]),
            "both",
        ),
        (
            "2.targets.json",
            "targets",
            |signed| {
                let role = signed["delegations"]["roles"][0].as_object_mut().unwrap();
                role.remove("paths");
                role.insert("path_hash_prefixes".into(), json!([0]));
            },
            "list of strings",
        ),
    ];
    for (path, role, change, part) in cases {
        malformed(signed_change(path, role, change), role, part);
    }
}

#[test]
fn what_the_specification_leaves_open_is_accepted() {
    type Change = fn(&mut Value);
    let cases: [(&str, &str, Change); 7] = [
        ("timestamp.json", "timestamp", |signed| signed["spec_version"] = "1.0".into()),
        ("timestamp.json", "timestamp", |signed| signed["spec_version"] = "1.2.34".into()),
        ("timestamp.json", "timestamp", |signed| signed["x-new"] = json!({"b": [1, null], "a": "\u{1f600}\n"})),
        ("2.snapshot.json", "snapshot", |signed| signed["meta"]["other.json"] = json!({"version": 9, "x": true})),
        ("2.root.json", "root", |signed| signed["roles"]["mirrors"] = json!({"keyids": [], "threshold": 1})),
        ("2.targets.json", "targets", |signed| {
            drop(signed["delegations"]["roles"][0].as_object_mut().unwrap().remove("terminating"));
        }),
        ("2.targets.json", "targets", |signed| signed["delegations"]["succinct_roles"] = json!({"bit_length": 8})),
    ];
    for (path, role, change) in cases {
        assert_eq!(signed_change(path, role, change), Ok(()), "{path}");
    }
}

#[test]
fn the_signature_covers_unknown_fields_as_they_came() {
    let mut repo = Repo::new();
    repo.timestamp.extra.insert("x-note".into(), json!({"deep": ["signed"]}));
    repo.publish_timestamp();
    assert_eq!(repo.client().refresh(&repo), Ok(()));
    repo.tamper("timestamp.json", |file| file["signed"]["x-note"]["deep"][0] = "forged".into());
    assert_eq!(repo.client().refresh(&repo), untrusted("timestamp", 0, 1));
}

#[test]
fn white_space_order_and_unsigned_fields_do_not_matter() {
    let mut repo = Repo::new();
    let file: Value = serde_json::from_slice(&repo.files["timestamp.json"]).unwrap();
    let pretty =
        serde_json::to_string_pretty(&json!({"signed": file["signed"], "signatures": file["signatures"], "x": 0.5}));
    repo.files.insert("timestamp.json".into(), pretty.unwrap().into_bytes());
    assert_eq!(repo.client().refresh(&repo), Ok(()));
}

#[test]
fn a_signature_that_does_not_hold_does_not_spoil_one_that_does() {
    let mut repo = Repo::new();
    repo.set_root_role("timestamp", &["ts", "ts2"], 1);
    repo.publish_root();
    for wrong in ["", "zz", "00", &"00".repeat(64), &"ff".repeat(64)] {
        repo.write_timestamp();
        repo.tamper("timestamp.json", |file| {
            let extra = json!({"keyid": key("ts2").public().id(), "sig": wrong});
            file["signatures"].as_array_mut().unwrap().insert(0, extra);
        });
        assert_eq!(repo.client().refresh(&repo), Ok(()), "{wrong}");
    }
}

#[test]
fn hex_in_upper_case_is_the_same_signature() {
    let mut repo = Repo::new();
    repo.tamper("timestamp.json", |file| {
        let sig = &mut file["signatures"][0]["sig"];
        *sig = sig.as_str().unwrap().to_uppercase().into();
    });
    assert_eq!(repo.client().refresh(&repo), Ok(()));
}

#[test]
fn two_signatures_under_one_key_id_are_refused() {
    // §4.2.1, even where one of them would have been enough.
    let mut repo = Repo::new();
    repo.tamper("timestamp.json", |file| {
        let first = file["signatures"][0].clone();
        file["signatures"].as_array_mut().unwrap().push(first);
    });
    malformed(repo.client().refresh(&repo), "timestamp", "one key id");
}

#[test]
fn a_key_that_is_listed_several_times_counts_once() {
    let mut repo = Repo::new();
    repo.set_root_role("timestamp", &["ts", "ts", "ts"], 2);
    repo.publish_root();
    repo.publish(&[]);
    assert_eq!(repo.client().refresh(&repo), untrusted("timestamp", 1, 2));
}

/// A key's JSON with a field more, and so another id.
fn alias(name: &str, note: &str) -> (KeyId, Value) {
    let mut json = key(name).public().to_json();
    json["x-note"] = note.into();
    let id = Digest::of(&canonical::bytes(&json).unwrap()).to_string();
    (KeyId(id), json)
}

#[test]
fn one_key_under_several_ids_counts_once() {
    let mut repo = Repo::new();
    let aliases = [alias("ts", "one"), alias("ts", "two")];
    repo.root.keys.extend(aliases.clone());
    let keyids = aliases.iter().map(|(id, _)| id.clone()).chain([key("ts").public().id()]).collect();
    repo.root.roles.insert("timestamp".into(), RoleKeys { keyids, threshold: 2, extra: BTreeMap::new() });
    repo.publish_root();
    repo.publish(&[]);
    repo.tamper("timestamp.json", |file| {
        let sig = file["signatures"][0]["sig"].clone();
        for (id, _) in &aliases {
            file["signatures"].as_array_mut().unwrap().push(json!({"keyid": id, "sig": sig}));
        }
    });
    assert_eq!(repo.client().refresh(&repo), untrusted("timestamp", 1, 2));
}

#[test]
fn a_key_with_unknown_fields_signs_under_the_id_that_covers_them() {
    let mut repo = Repo::new();
    let (id, json) = alias("ts2", "spare");
    repo.root.keys.insert(id.clone(), json);
    repo.root.roles.get_mut("timestamp").unwrap().keyids = vec![id.clone()];
    repo.publish_root();
    repo.signers.insert("timestamp".into(), vec!["ts2"]);
    repo.publish(&[]);
    assert_eq!(repo.client().refresh(&repo), untrusted("timestamp", 0, 1));
    repo.tamper("timestamp.json", |file| file["signatures"][0]["keyid"] = id.0.into());
    assert_eq!(repo.client().refresh(&repo), Ok(()));
}

#[test]
fn a_key_under_an_id_that_is_not_its_hash_signs_nothing() {
    // §4.3: "clients must calculate each key id". Such a key is not there.
    let mut repo = Repo::new();
    let id = KeyId("my-own-name".into());
    repo.root.keys.insert(id.clone(), key("ts").public().to_json());
    repo.root.roles.get_mut("timestamp").unwrap().keyids = vec![id.clone()];
    repo.publish_root();
    repo.publish(&[]);
    repo.tamper("timestamp.json", |file| file["signatures"][0]["keyid"] = id.0.into());
    assert_eq!(repo.client().refresh(&repo), untrusted("timestamp", 0, 1));
}

#[test]
fn keys_of_unknown_types_are_skipped() {
    let mut repo = Repo::new();
    let rsa = json!({"keytype": "rsa", "scheme": "rsassa-pss-sha256", "keyval": {"public": "-----BEGIN"}});
    let id = KeyId(Digest::of(&canonical::bytes(&rsa).unwrap()).to_string());
    repo.root.keys.insert(id.clone(), rsa.clone());
    repo.root.roles.get_mut("timestamp").unwrap().keyids.push(id.clone());
    repo.publish_root();
    repo.publish(&[]);
    let mut client = repo.client();
    assert_eq!(client.refresh(&repo), Ok(()));
    assert_eq!(client.trusted.root().keys[&id], rsa);

    repo.root.roles.get_mut("timestamp").unwrap().threshold = 2;
    repo.publish_root();
    assert_eq!(repo.client().refresh(&repo), untrusted("timestamp", 1, 2));
}

#[test]
fn every_hash_that_we_can_calculate_must_be_right() {
    use sha2::{Digest as _, Sha512};
    let mut repo = Repo::new();
    let bytes = repo.files["1.snapshot.json"].clone();
    let sha256 = json!(Digest::of(&bytes));
    let sha512 = json!(data_encoding::HEXLOWER.encode(&Sha512::digest(&bytes)));
    let wrong = json!("00".repeat(64));
    for (hashes, expected) in [
        (json!({"sha256": sha256}), Ok(())),
        (json!({"sha512": sha512}), Ok(())),
        (json!({"sha256": sha256, "sha512": sha512, "blake3": "x"}), Ok(())),
        (json!({"sha256": sha256, "sha512": wrong}), mismatch("snapshot")),
        (json!({"sha256": Digest::of(b""), "sha512": sha512}), mismatch("snapshot")),
        (json!({"blake3": "x"}), mismatch("snapshot")),
        (json!({}), mismatch("snapshot")),
    ] {
        let text = hashes.to_string();
        repo.timestamp.meta.get_mut("snapshot.json").unwrap().hashes = serde_json::from_value(hashes).unwrap();
        repo.publish_timestamp();
        assert_eq!(repo.client().refresh(&repo), expected, "{text}");
    }
}

#[test]
fn a_file_that_is_not_the_target_does_not_match_it() {
    let wanted = target("content");
    assert!(wanted.match_bytes(b"content"));
    for other in [&b"contenu"[..], b"conten", b"content ", b""] {
        assert!(!wanted.match_bytes(other));
    }
}
