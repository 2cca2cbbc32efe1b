//! Public keys that others sign with: ECDSA on P-256 and RSA-PSS, both with SHA-256. We verify and never sign with them.

use std::fmt;

use ring::signature::{ECDSA_P256_SHA256_ASN1, RSA_PSS_2048_8192_SHA256, RsaPublicKeyComponents, UnparsedPublicKey};
use rustls_pki_types::SubjectPublicKeyInfoDer;
use rustls_pki_types::pem::PemObject as _;
use x509_parser::prelude::{FromDer as _, SubjectPublicKeyInfo};
use x509_parser::public_key::PublicKey as Spki;

/// The longest PEM text that is read, in bytes; an RSA key of 8192 bits has some 1,400.
const MAX_PEM_BYTES: usize = 4096;

/// The length of an uncompressed point of P-256: 0x04, x, y (SEC 1 §2.3.3).
const P256_POINT_BYTES: usize = 65;

/// A public key of a type that is not Ed25519.
#[derive(Clone, PartialEq, Eq)]
pub(super) enum ForeignKey {
    /// The point, uncompressed. ring refuses one that is not on the curve.
    EcdsaP256(Vec<u8>),
    /// Modulus and exponent, big endian, without leading zeros. ring takes 2048 to 8192 bits.
    RsaPss { modulus: Vec<u8>, exponent: Vec<u8> },
}

impl ForeignKey {
    /// The key in the forms that securesystemslib writes: a PEM `SubjectPublicKeyInfo` (RFC 5280 §4.1.2.7), and for keys
    /// with `keytype` `ecdsa-sha2-nistp256` the point in hex, too. `None` for every other type and form.
    pub(super) fn read(keytype: &str, scheme: &str, public: &str) -> Option<Self> {
        match (keytype, scheme) {
            ("ecdsa" | "ecdsa-sha2-nistp256", "ecdsa-sha2-nistp256") => Self::ecdsa(public),
            ("rsa", "rsassa-pss-sha256") => Self::rsa(public),
            _ => None,
        }
    }

    fn ecdsa(public: &str) -> Option<Self> {
        let ec = |key: Spki<'_>| match key {
            Spki::EC(point) => Some(point.data().to_vec()),
            _ => None,
        };
        let hex = data_encoding::HEXLOWER_PERMISSIVE.decode(public.as_bytes()).ok();
        let point = hex.or_else(|| spki(public, ec))?;
        (point.len() == P256_POINT_BYTES && point.first() == Some(&4)).then_some(Self::EcdsaP256(point))
    }

    fn rsa(public: &str) -> Option<Self> {
        let trimmed = |number: &[u8]| number.iter().skip_while(|byte| **byte == 0).copied().collect::<Vec<u8>>();
        spki(public, |key| match key {
            Spki::RSA(key) => Some(Self::RsaPss { modulus: trimmed(key.modulus), exponent: trimmed(key.exponent) }),
            _ => None,
        })
    }

    /// Whether `signature` is valid: ASN.1 for ECDSA (RFC 3279 §2.2.3), a salt as long as the hash for RSA-PSS.
    pub(super) fn verifies(&self, message: &[u8], signature: &[u8]) -> bool {
        match self {
            Self::EcdsaP256(point) => {
                UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, point).verify(message, signature).is_ok()
            }
            Self::RsaPss { modulus, exponent } => {
                let key = RsaPublicKeyComponents { n: modulus, e: exponent };
                key.verify(&RSA_PSS_2048_8192_SHA256, message, signature).is_ok()
            }
        }
    }

    /// What is the same for two listings of one key.
    pub(super) fn material(&self) -> Vec<u8> {
        match self {
            Self::EcdsaP256(point) => point.clone(),
            Self::RsaPss { modulus, .. } => modulus.clone(),
        }
    }
}

impl fmt::Debug for ForeignKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::EcdsaP256(_) => "ecdsa-sha2-nistp256",
            Self::RsaPss { .. } => "rsassa-pss-sha256",
        })
    }
}

/// What `read` finds in a PEM `SubjectPublicKeyInfo` with nothing behind it.
fn spki<T>(pem: &str, read: impl FnOnce(Spki<'_>) -> Option<T>) -> Option<T> {
    if pem.len() > MAX_PEM_BYTES {
        return None;
    }
    let der = SubjectPublicKeyInfoDer::from_pem_slice(pem.as_bytes()).ok()?;
    let (rest, info) = SubjectPublicKeyInfo::from_der(&der).ok()?;
    if !rest.is_empty() {
        return None;
    }
    read(info.parsed().ok()?)
}

#[cfg(test)]
mod tests;
