//! Keys of this room. `Debug` prints a fingerprint, never a key; memory is wiped on drop.

use std::fmt;

use data_encoding::HEXLOWER;
use zeroize::Zeroizing;

/// A 32-byte secret that `Debug` shows by its fingerprint only and that is wiped on drop.
#[macro_export]
macro_rules! secret {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, ::zeroize::Zeroize, ::zeroize::ZeroizeOnDrop)]
        pub struct $name([u8; 32]);

        impl $name {
            /// The key with these bytes.
            pub const fn from_bytes(bytes: [u8; 32]) -> Self {
                Self(bytes)
            }

            /// The bytes, for the cryptography and for the one place that keeps the key.
            pub const fn as_bytes(&self) -> &[u8; 32] {
                &self.0
            }
        }

        impl ::std::fmt::Debug for $name {
            fn fmt(&self, f: &mut ::std::fmt::Formatter<'_>) -> ::std::fmt::Result {
                let print = ::ids::Digest::of(&self.0).to_string();
                write!(f, concat!(stringify!($name), "(#{})"), print.get(..8).unwrap_or_default())
            }
        }
    };
}

secret! {
    /// The key of one sealed object. It travels inside encryption only.
    ContentKey
}

secret! {
    /// An X25519 private key that manifests are sealed to: a site's, its spare's or HQ's recovery key.
    RecipientSecret
}

/// 32 bytes from the system's random source.
pub fn random() -> Zeroizing<[u8; 32]> {
    let mut bytes = Zeroizing::new([0; 32]);
    getrandom::fill(bytes.as_mut()).expect("the system's random source works");
    bytes
}

/// An X25519 public key that manifests are sealed to. Written as 64 lower-case hex digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RecipientPublic([u8; 32]);

/// The points of low order on Curve25519, as X25519 reads them: without the highest bit of the last byte (RFC 7748 §5). A
/// shared secret with one of them is zero for everybody (§6.1), so nothing is secret that is sealed to it.
const LOW_ORDER: [&str; 7] = [
    "0000000000000000000000000000000000000000000000000000000000000000",
    "0100000000000000000000000000000000000000000000000000000000000000",
    "e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800",
    "5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157",
    "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
];

impl RecipientPublic {
    /// The key with these bytes. A key that comes from elsewhere goes through [`Self::checked`].
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The key with these bytes, if something can be sealed to it: it is no point of low order, zero among them.
    pub fn checked(bytes: [u8; 32]) -> Result<Self, &'static str> {
        let mut read = bytes;
        if let Some(last) = read.last_mut() {
            *last &= 0x7f;
        }
        if LOW_ORDER.contains(&hex(&read).as_str()) {
            return Err("nothing can be sealed to this key: it is a point of low order");
        }
        Ok(Self(bytes))
    }

    /// The 32 bytes of RFC 7748 §6.1.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Debug for RecipientPublic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex(&self.0))
    }
}

fn hex(bytes: &[u8; 32]) -> String {
    HEXLOWER.encode(bytes)
}

fn from_hex(text: &str) -> Result<[u8; 32], &'static str> {
    let bytes = HEXLOWER.decode(text.as_bytes()).ok().and_then(|bytes| bytes.try_into().ok());
    bytes.ok_or("a key has 64 lower-case hex digits")
}

// No `Display`: what prints a key by accident must not compile.
ids::text_serde!(ContentKey, |key: &Self| hex(&key.0), |text: &str| from_hex(text).map(Self));
ids::text_serde!(RecipientPublic, |key: &Self| hex(&key.0), |text: &str| from_hex(text).and_then(Self::checked));

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]

    use super::*;

    #[test]
    fn a_secret_is_not_shown() {
        let shown = format!("{:?}", ContentKey::from_bytes([0xab; 32]));
        assert!(shown.starts_with("ContentKey(#") && !shown.contains("abab"), "{shown}");
    }

    #[test]
    fn a_sealing_key_of_low_order_is_refused_in_each_of_its_spellings() {
        for low in LOW_ORDER {
            let mut bytes = from_hex(low).unwrap();
            assert!(RecipientPublic::checked(bytes).is_err(), "{low}");
            bytes[31] |= 0x80;
            assert!(RecipientPublic::checked(bytes).is_err(), "{low} with the bit that X25519 ignores");
            let error = serde_json::from_str::<RecipientPublic>(&format!("\"{low}\"")).unwrap_err();
            assert!(error.to_string().contains("low order"), "{error}");
        }
        // The list is whole: the shared secret of what is on it is zero, and HPKE notices; that of a neighbour is not.
        for bytes in [[0; 32], [9; 32], crate::RecipientSecret::generate().public().0] {
            use hpke::{Deserializable as _, OpModeS};
            type Kem = crate::recipients::Kem;
            let key = <Kem as hpke::Kem>::PublicKey::from_bytes(&bytes).unwrap();
            let sealed = hpke::setup_sender::<hpke::aead::ChaCha20Poly1305, hpke::kdf::HkdfSha256, Kem>(
                &OpModeS::Base,
                &key,
                b"",
            );
            assert_eq!(sealed.is_ok(), RecipientPublic::checked(bytes).is_ok(), "{bytes:?}");
        }
    }

    #[test]
    fn keys_survive_json_and_other_lengths_do_not() {
        let key = ContentKey::from_bytes([0xab; 32]);
        let json = serde_json::to_string(&key).unwrap();
        assert_eq!(serde_json::from_str::<ContentKey>(&json).unwrap(), key);
        for wrong in [json.to_uppercase(), json.replacen("ab", "", 1), json.replacen("ab", "zz", 1), "7".to_owned()] {
            assert!(serde_json::from_str::<ContentKey>(&wrong).is_err(), "{wrong}");
            assert!(serde_json::from_str::<RecipientPublic>(&wrong).is_err(), "{wrong}");
        }
    }
}
