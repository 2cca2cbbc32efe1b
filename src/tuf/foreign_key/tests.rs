//! Keys and signatures that securesystemslib made (tests/vectors/tuf/keys), each over `message`.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use data_encoding::HEXLOWER;
use serde_json::Value;

use crate::key::{KeyId, ListedKey};
use crate::{PublicKey, canonical};
use ids::Digest;

const VECTORS: [&str; 2] = [
    include_str!("../../../tests/vectors/tuf/keys/ecdsa.json"),
    include_str!("../../../tests/vectors/tuf/keys/rsa.json"),
];

struct Vector {
    id: KeyId,
    key: Value,
    signature: Vec<u8>,
}

fn vectors() -> Vec<Vector> {
    let read = |text: &&str| {
        let json: Value = serde_json::from_str(text).unwrap();
        Vector {
            id: KeyId(json["keyid"].as_str().unwrap().to_owned()),
            key: json["key"].clone(),
            signature: HEXLOWER.decode(json["sig"].as_str().unwrap().as_bytes()).unwrap(),
        }
    };
    VECTORS.iter().map(read).collect()
}

/// The key under the id that it has after a change.
fn changed(key: &Value, change: impl FnOnce(&mut Value)) -> Option<ListedKey> {
    let mut key = key.clone();
    change(&mut key);
    let id = KeyId(Digest::of(&canonical::bytes(&key).unwrap()).to_string());
    ListedKey::from_json(&id, &key)
}

#[test]
fn signatures_of_others_verify_and_no_changed_one_does() {
    for Vector { id, key, signature } in vectors() {
        let listed = ListedKey::from_json(&id, &key).unwrap();
        assert!(listed.verifies(b"message", &signature), "{listed:?}");
        assert!(!listed.verifies(b"massage", &signature), "{listed:?}");
        assert!(!listed.verifies(b"message", &signature[1..]), "{listed:?}");
        for place in 0..signature.len() {
            let mut signature = signature.clone();
            signature[place] ^= 1;
            assert!(!listed.verifies(b"message", &signature), "{listed:?} {place}");
        }
    }
}

#[test]
fn keys_of_others_are_never_keys_of_hq() {
    assert!(vectors().iter().all(|vector| PublicKey::from_json(&vector.id, &vector.key).is_none()));
}

#[test]
fn a_key_whose_scheme_or_form_is_another_is_no_key() {
    for Vector { key, .. } in vectors() {
        assert!(changed(&key, |_| {}).is_some());
        for scheme in ["rsa-pkcs1v15-sha256", "ecdsa-sha2-nistp384", "ed25519", "", "rsassa-pss-sha512"] {
            assert_eq!(changed(&key, |key| key["scheme"] = scheme.into()), None, "{scheme}");
        }
        for public in ["", "00", "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n", &"A".repeat(10_000)] {
            assert_eq!(changed(&key, |key| key["keyval"]["public"] = public.into()), None, "{public:.40}");
        }
    }
    let [ecdsa, rsa] = vectors().try_into().ok().unwrap();
    assert_eq!(changed(&ecdsa.key, |key| key["keyval"] = rsa.key["keyval"].clone()), None);
    assert_eq!(changed(&rsa.key, |key| key["keyval"] = ecdsa.key["keyval"].clone()), None);
}

#[test]
fn one_key_listed_in_two_forms_is_one_key() {
    let [ecdsa, _] = vectors().try_into().ok().unwrap();
    let pem = changed(&ecdsa.key, |_| {}).unwrap();
    let hex = changed(&ecdsa.key, |key| key["keyval"]["public"] = HEXLOWER.encode(&pem.material()).into()).unwrap();
    let typed = changed(&ecdsa.key, |key| key["keytype"] = "ecdsa-sha2-nistp256".into()).unwrap();
    assert!(pem.material() == hex.material() && pem.material() == typed.material());
    assert!(hex.verifies(b"message", &ecdsa.signature));
}
