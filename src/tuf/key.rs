//! Keys and their ids. We sign with Ed25519 alone; what others sign with ECDSA or RSA is verified, too.

use data_encoding::{HEXLOWER, HEXLOWER_PERMISSIVE};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::canonical;
use super::foreign_key::ForeignKey;
use ids::Digest;

/// The id of a key: SHA-256 of its canonical JSON, in hex (§4.2.1). Kept as text: foreign ids may look otherwise.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct KeyId(pub String);

/// An Ed25519 public key: what HQ's own keys are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublicKey(ed25519_dalek::VerifyingKey);

/// A public key that metadata lists, of any type that we verify (§4.2.2).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum ListedKey {
    /// `ed25519`.
    Ed25519(PublicKey),
    /// `ecdsa-sha2-nistp256` or `rsassa-pss-sha256`.
    Foreign(ForeignKey),
}

impl ListedKey {
    /// The key that metadata lists under this id.
    ///
    /// `None` if it is of a type or form that we do not verify, or if the id is not that of the key (§4.3: clients
    /// calculate each id to verify that it is correct). Such a key counts as not there.
    pub(super) fn from_json(id: &KeyId, json: &Value) -> Option<Self> {
        // The id covers the whole object, fields unknown to us included.
        if Digest::of(&canonical::bytes(json).ok()?).to_string() != id.0 {
            return None;
        }
        let text = |value: &Value, name: &str| value.get(name).and_then(Value::as_str).map(str::to_owned);
        let (keytype, scheme) = (text(json, "keytype")?, text(json, "scheme")?);
        let public = text(json.get("keyval")?, "public")?;
        if (keytype.as_str(), scheme.as_str()) == ("ed25519", "ed25519") {
            let bytes = HEXLOWER_PERMISSIVE.decode(public.as_bytes()).ok()?;
            return PublicKey::from_bytes(&bytes.try_into().ok()?).map(Self::Ed25519);
        }
        ForeignKey::read(&keytype, &scheme, &public).map(Self::Foreign)
    }

    /// Whether `signature` is valid.
    pub(super) fn verifies(&self, message: &[u8], signature: &[u8]) -> bool {
        match self {
            Self::Ed25519(key) => key.verifies(message, signature),
            Self::Foreign(key) => key.verifies(message, signature),
        }
    }

    /// What is the same for two listings of one key, and for no other key.
    pub(super) fn material(&self) -> Vec<u8> {
        match self {
            Self::Ed25519(key) => key.to_bytes().to_vec(),
            Self::Foreign(key) => key.material(),
        }
    }
}

/// An Ed25519 private key. `Debug` prints the public fingerprint; memory is wiped on drop.
#[derive(Clone)]
pub struct SigningKey(ed25519_dalek::SigningKey);

impl SigningKey {
    /// A new key from the system's random source.
    ///
    /// # Panics
    ///
    /// If the system has no random source, as nothing can be kept secret then.
    pub fn generate() -> Self {
        let mut seed = zeroize::Zeroizing::new([0u8; 32]);
        getrandom::fill(seed.as_mut_slice()).expect("the system has a random source");
        Self::from_seed(&seed)
    }

    /// The key with this 32-byte seed (RFC 8032 §5.1.5).
    pub fn from_seed(seed: &[u8; 32]) -> Self {
        Self(ed25519_dalek::SigningKey::from_bytes(seed))
    }

    /// The seed, for the one place that keeps the key.
    pub fn seed(&self) -> zeroize::Zeroizing<[u8; 32]> {
        zeroize::Zeroizing::new(self.0.to_bytes())
    }

    /// The public key that verifies what this key signs.
    pub fn public(&self) -> PublicKey {
        PublicKey(self.0.verifying_key())
    }

    /// Signs bytes (RFC 8032 §5.1.6).
    pub fn sign(&self, message: &[u8]) -> [u8; 64] {
        use ed25519_dalek::Signer as _;
        self.0.sign(message).to_bytes()
    }
}

impl PublicKey {
    /// The key with these 32 bytes, if they are a point of the curve, in its one canonical form (so that a key cannot
    /// count as two), and not of small order.
    pub fn from_bytes(bytes: &[u8; 32]) -> Option<Self> {
        let key = ed25519_dalek::VerifyingKey::from_bytes(bytes).ok()?;
        let canonical = key.to_edwards().compress().to_bytes() == *bytes;
        (canonical && !key.is_weak()).then_some(Self(key))
    }

    /// The key in its 32-byte form (RFC 8032 §5.1.5).
    pub fn to_bytes(&self) -> [u8; 32] {
        self.0.to_bytes()
    }

    /// The Ed25519 key that metadata lists under this id (§4.2.2).
    ///
    /// `None` if it is no Ed25519 key, or if the id is not that of the key. HQ makes and counts only such keys.
    pub fn from_json(id: &KeyId, json: &Value) -> Option<Self> {
        match ListedKey::from_json(id, json)? {
            ListedKey::Ed25519(key) => Some(key),
            ListedKey::Foreign(_) => None,
        }
    }

    /// Its JSON object, as metadata lists it (§4.2.2).
    pub fn to_json(&self) -> Value {
        serde_json::json!({
            "keytype": "ed25519",
            "keyval": { "public": HEXLOWER.encode(&self.to_bytes()) },
            "scheme": "ed25519",
        })
    }

    /// The id under which metadata lists the key (§4.2.1).
    pub fn id(&self) -> KeyId {
        let json = canonical::bytes(&self.to_json()).expect("a key holds no number");
        KeyId(Digest::of(&json).to_string())
    }

    /// Whether `signature` is strictly valid (`verify_strict`: no small-order keys, no malleable forms).
    pub fn verifies(&self, message: &[u8], signature: &[u8]) -> bool {
        ed25519_dalek::Signature::from_slice(signature)
            .is_ok_and(|signature| self.0.verify_strict(message, &signature).is_ok())
    }
}

impl std::fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "SigningKey({:?})", self.public().id())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::indexing_slicing)]
    use super::*;

    fn hex<const N: usize>(text: &str) -> [u8; N] {
        HEXLOWER.decode(text.as_bytes()).expect("hex").try_into().expect("the right length")
    }

    #[test]
    fn signatures_are_those_of_rfc_8032() {
        // RFC 8032 §7.1, test 2.
        let key = SigningKey::from_seed(&hex("4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb"));
        let public = hex("3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c");
        let signature: [u8; 64] = hex(concat!(
            "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da",
            "085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00",
        ));
        assert_eq!(key.public().to_bytes(), public);
        assert_eq!(key.sign(&[0x72]), signature);
        assert!(key.public().verifies(&[0x72], &signature));
        assert!(!key.public().verifies(&[0x73], &signature));
        assert!(!key.public().verifies(&[0x72], &signature[..63]));
    }

    #[test]
    fn the_id_is_the_hash_of_the_canonical_json() {
        // A key and its id from the specification's own example (§4.3).
        let id = KeyId("1bf1c6e3cdd3d3a8420b19199e27511999850f4b376c4547b2f32fba7e80fca3".into());
        let public = hex("72378e5bc588793e58f81c8533da64a2e8f1565c1fcc7f253496394ffc52542c");
        let key = PublicKey::from_bytes(&public).expect("a key");
        assert_eq!(PublicKey::from_json(&key.id(), &key.to_json()), Some(key.clone()));
        let canonical = format!(
            r#"{{"keytype":"ed25519","keyval":{{"public":"{}"}},"scheme":"ed25519"}}"#,
            HEXLOWER.encode(&public)
        );
        assert_eq!(key.id().0, Digest::of(canonical.as_bytes()).to_string());
        assert_eq!(key.id(), id);
    }

    #[test]
    fn a_key_under_another_keys_id_is_no_key() {
        let [one, two] = [[1; 32], [2; 32]].map(|seed| SigningKey::from_seed(&seed).public());
        assert_eq!(PublicKey::from_json(&two.id(), &one.to_json()), None);
        let mut extended = one.to_json();
        extended["x-owner"] = "@somebody".into();
        assert_eq!(PublicKey::from_json(&one.id(), &extended), None, "the id covers unknown fields");
        let id = KeyId(Digest::of(&canonical::bytes(&extended).expect("canonical")).to_string());
        assert_eq!(PublicKey::from_json(&id, &extended), Some(one));
    }

    #[test]
    fn keys_of_other_types_are_not_ours_to_use() {
        let key = SigningKey::from_seed(&[1; 32]).public();
        for (name, value) in [("keytype", "rsa"), ("scheme", "ed448"), ("keyval", "x")] {
            let mut json = key.to_json();
            json[name] = value.into();
            let id = KeyId(Digest::of(&canonical::bytes(&json).expect("canonical")).to_string());
            assert_eq!(PublicKey::from_json(&id, &json), None, "{name}");
        }
    }

    #[test]
    fn a_key_of_small_order_or_not_in_canonical_form_is_no_key() {
        let mut identity = [0; 32];
        identity[0] = 1;
        assert_eq!(PublicKey::from_bytes(&identity), None);
        assert_eq!(PublicKey::from_bytes(&[0; 32]), None);
        assert_eq!(PublicKey::from_bytes(&[0xff; 32]), None);
    }

    #[test]
    fn a_private_key_does_not_print_itself() {
        let key = SigningKey::from_seed(&[7; 32]);
        let printed = format!("{key:?}");
        assert!(printed.contains(&key.public().id().0));
        assert!(!printed.contains(&HEXLOWER.encode(key.seed().as_slice())));
        assert_ne!(SigningKey::generate().public(), SigningKey::generate().public());
    }
}
