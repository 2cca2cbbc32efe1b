//! What HQ writes.

use super::schema::Envelope;
use super::*;

fn envelope(bytes: &[u8]) -> Envelope<Value> {
    serde_json::from_slice(bytes).unwrap()
}

#[test]
fn the_same_arguments_give_the_same_bytes() {
    let repo = Repo::new();
    let (one, two) = (key("one"), key("two"));
    let bytes = sign::sign(&repo.root, &[&one, &two]);
    assert_eq!(bytes, sign::sign(&repo.root, &[&two, &one, &two]));
    let ids: Vec<KeyId> = envelope(&bytes).signatures.into_iter().map(|signature| signature.keyid).collect();
    let mut sorted = vec![one.public().id(), two.public().id()];
    sorted.sort();
    assert_eq!(ids, sorted);
}

#[test]
fn a_ceremony_adds_one_signature_after_the_other() {
    let mut repo = Repo::new();
    repo.root.version = 2;
    let draft = sign::sign(&repo.root, &[]);
    let first = sign::add_signature(&draft, &key("r3")).unwrap();
    repo.files.insert("2.root.json".into(), first.clone());
    assert_eq!(repo.client().refresh(&repo), untrusted("root", 1, 2));
    let second = sign::add_signature(&first, &key("r1")).unwrap();
    repo.files.insert("2.root.json".into(), second.clone());
    assert_eq!(repo.current_client().versions()[0], 2);

    assert_eq!(sign::add_signature(&second, &key("r3")).unwrap(), second, "signing twice changes nothing");
    assert_eq!(second, sign::sign(&repo.root, &[&key("r1"), &key("r3")]), "nor does it matter who is first");
}

#[test]
fn adding_a_signature_leaves_what_is_signed_as_it_is() {
    let file = br#"{ "signatures": [], "signed": {"z": [1, 2], "a": "\u00e4\n", "_type": "x"} }"#;
    let signed = sign::add_signature(file, &key("r1")).unwrap();
    assert_eq!(envelope(&signed).signed, envelope(file).signed);
    let message = "{\"_type\":\"x\",\"a\":\"\u{e4}\n\",\"z\":[1,2]}";
    let sig = data_encoding::HEXLOWER.decode(envelope(&signed).signatures[0].sig.as_bytes()).unwrap();
    assert!(key("r1").public().verifies(message.as_bytes(), &sig));
}

#[test]
fn what_is_no_metadata_file_is_not_signed() {
    for file in [
        "",
        "{}",
        "[]",
        r#"{"signed":{}}"#,
        r#"{"signatures":[],"signed":{"a":1,"a":2}}"#,
        r#"{"signatures":[],"signed":0.5}"#,
    ] {
        malformed(sign::add_signature(file.as_bytes(), &key("r1")).map(drop), "metadata", "");
    }
}

#[test]
fn the_wire_format_is_that_of_the_specification() {
    let bytes = sign::sign(
        &sign::timestamp(3, days(7), sign::meta_file(2, b"{}"), Some(json!({"site": "s-1"}))),
        &[&key("ts")],
    );
    let written: Value = serde_json::from_slice(&bytes).unwrap();
    assert_eq!(
        written["signed"],
        json!({
            "_type": "timestamp",
            "spec_version": "1.0.34",
            "version": 3,
            "expires": "2027-01-22T08:00:00Z",
            "meta": { "snapshot.json": {
                "version": 2,
                "length": 2,
                "hashes": { "sha256": "44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a" },
            } },
            "x-lineside": { "site": "s-1" },
        })
    );
    assert_eq!(written["signatures"][0]["keyid"], json!(key("ts").public().id()));
    assert!(bytes.ends_with(b"\n"));
}

#[test]
fn a_delegation_by_hq_is_terminating_and_lists_its_keys() {
    let keys = [key("f1").public(), key("f2").public()];
    let made = sign::delegation(FIRMWARE, sign::Signers { keys: &keys, threshold: 2 }, &["firmware/*"]);
    assert_eq!(made.roles.len(), 1);
    assert!(made.roles[0].terminating && made.roles[0].covers("firmware/x"));
    assert!(made.roles[0].keyids.iter().all(|id| made.keys.contains_key(id)));
    assert_eq!((made.roles[0].keyids.len(), made.roles[0].threshold), (2, 2));
}

#[test]
fn what_is_written_is_what_is_read() {
    let repo = Repo::new();
    let written = repo.signed("root", &repo.root);
    let read: Envelope<Root> = serde_json::from_slice(&written).unwrap();
    assert_eq!(read.signed, repo.root);
    let written = repo.signed("targets", &repo.targets["targets"]);
    let read: Envelope<Targets> = serde_json::from_slice(&written).unwrap();
    assert_eq!(read.signed, repo.targets["targets"]);
}
