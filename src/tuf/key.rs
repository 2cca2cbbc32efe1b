//! Ed25519 keys and their ids.

use serde::{Deserialize, Serialize};

/// The id of a key: SHA-256 of its canonical JSON, in hex (§4.2.1). Kept as text: foreign ids may look otherwise.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct KeyId(pub String);

/// An Ed25519 public key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublicKey(ed25519_dalek::VerifyingKey);

/// An Ed25519 private key. `Debug` prints the public fingerprint; memory is wiped on drop.
#[derive(Clone)]
pub struct SigningKey(ed25519_dalek::SigningKey);

impl SigningKey {
    /// A new key from the system's random source.
    pub fn generate() -> Self {
        todo!()
    }

    /// The key with this 32-byte seed (RFC 8032 §5.1.5).
    pub fn from_seed(seed: &[u8; 32]) -> Self {
        Self(ed25519_dalek::SigningKey::from_bytes(seed))
    }

    /// The seed, for the one place that keeps the key.
    pub fn seed(&self) -> zeroize::Zeroizing<[u8; 32]> {
        zeroize::Zeroizing::new(self.0.to_bytes())
    }

    /// The public half.
    pub fn public(&self) -> PublicKey {
        PublicKey(self.0.verifying_key())
    }

    /// Signs bytes.
    pub fn sign(&self, _message: &[u8]) -> [u8; 64] {
        todo!()
    }
}

impl PublicKey {
    /// The key with these 32 bytes, if they are a point of the curve.
    pub fn from_bytes(_bytes: &[u8; 32]) -> Option<Self> {
        todo!()
    }

    /// Its TUF id.
    pub fn id(&self) -> KeyId {
        todo!()
    }

    /// Whether `signature` is strictly valid (`verify_strict`: no small-order keys, no malleable forms).
    pub fn verifies(&self, _message: &[u8], _signature: &[u8]) -> bool {
        todo!()
    }
}

impl std::fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "SigningKey({:?})", self.public().id())
    }
}
