//! A site's statement about its sealing key: this one follows that one, proven to the desk.
//!
//! HQ's host passes it on and cannot make one. The proof is HPKE in auth mode (RFC 9180 §5.1.3): it opens with the desk's
//! key only if whoever has the sender's secret key sealed it. Nothing secret is in it, so what is sealed is empty, and all
//! that is stated is in `info` (§8.1).
//!
//! Auth mode has one limit (§9.1.1): whoever has the desk's key can make a statement in everybody's name, to the desk.

use hpke::aead::ChaCha20Poly1305;
use hpke::kdf::HkdfSha256;
use hpke::{Deserializable as _, OpModeR, OpModeS, Serializable as _};
use serde::{Deserialize, Serialize};

use bundle::recipients::{ENC_BYTES, Kem};
use bundle::{RecipientPublic, RecipientSecret};
use ids::{FleetId, Generation, SiteId};

/// `POST` a [`SealingKeyStatement`], with a valid client certificate. The answer is an empty object.
pub const SEALING_KEY_PATH: &str = "/v1/sealing-key";

type Public = <Kem as hpke::Kem>::PublicKey;
type Secret = <Kem as hpke::Kem>::PrivateKey;

/// What a site says about its sealing key.
///
/// If `from` and `to` differ, `to` follows `from`, and HQ seals to both from now on. If they are the same, a release has
/// opened under that key, and HQ seals to the key before no more.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct SealingKeyStatement {
    /// The key that proves the statement.
    pub from: RecipientPublic,
    /// The key that counts from now on.
    pub to: RecipientPublic,
    /// The release that the site served then. It only grows, so an older statement cannot follow a newer one.
    pub generation: Generation,
    /// The encapsulated key and the tag of the empty text, in hex.
    pub proof: String,
}

impl SealingKeyStatement {
    /// The statement of whoever has `from`, to the desk. `None` if nothing can be proven to that key.
    pub fn prove(
        from: &RecipientSecret,
        to: &RecipientPublic,
        generation: Generation,
        whose: (&FleetId, &SiteId),
        desk: &RecipientPublic,
    ) -> Option<Self> {
        let mut statement = Self { from: from.public(), to: *to, generation, proof: String::new() };
        let (enc, tag) = hpke::single_shot_seal::<ChaCha20Poly1305, HkdfSha256, Kem>(
            &OpModeS::Auth((Secret::from_bytes(from.as_bytes()).ok()?, public(&statement.from)?)),
            &public(desk)?,
            &statement.info(whose),
            b"",
            b"",
        )
        .ok()?;
        statement.proof = data_encoding::HEXLOWER.encode(&[enc.to_bytes().as_slice(), &tag].concat());
        Some(statement)
    }

    /// Whether whoever has `from` stated this, to this desk, of this site.
    pub fn is_proven(&self, whose: (&FleetId, &SiteId), desk: &RecipientSecret) -> bool {
        self.open(whose, desk).is_some_and(|text| text.is_empty())
    }

    fn open(&self, whose: (&FleetId, &SiteId), desk: &RecipientSecret) -> Option<Vec<u8>> {
        let proof = data_encoding::HEXLOWER.decode(self.proof.as_bytes()).ok()?;
        let (enc, tag) = proof.split_at_checked(ENC_BYTES)?;
        hpke::single_shot_open::<ChaCha20Poly1305, HkdfSha256, Kem>(
            &OpModeR::Auth(public(&self.from)?),
            &Secret::from_bytes(desk.as_bytes()).ok()?,
            &<Kem as hpke::Kem>::EncappedKey::from_bytes(enc).ok()?,
            &self.info(whose),
            tag,
            b"",
        )
        .ok()
    }

    /// All that is stated. Ids have no newline.
    fn info(&self, (fleet, site): (&FleetId, &SiteId)) -> Vec<u8> {
        let Self { from, to, generation, .. } = self;
        format!("lineside sealing key 1\n{fleet}\n{site}\n{generation}\n{from:?}\n{to:?}").into_bytes()
    }
}

fn public(key: &RecipientPublic) -> Option<Public> {
    Public::from_bytes(key.as_bytes()).ok()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn ids() -> (FleetId, SiteId) {
        ("f-1".parse().unwrap(), "s-1".parse().unwrap())
    }

    #[test]
    fn a_statement_holds_for_its_site_and_its_desk_and_in_no_other_words() {
        let [old, new, desk, other] = std::array::from_fn(|_| RecipientSecret::generate());
        let (fleet, site) = ids();
        let whose = (&fleet, &site);
        let stated = SealingKeyStatement::prove(&old, &new.public(), Generation(7), whose, &desk.public()).unwrap();
        let json = serde_json::to_string(&stated).unwrap();
        assert_eq!(serde_json::from_str::<SealingKeyStatement>(&json).unwrap(), stated);
        assert!(stated.is_proven(whose, &desk));
        assert!(!stated.is_proven(whose, &other));
        assert!(!stated.is_proven((&fleet, &"s-2".parse().unwrap()), &desk));
        assert!(!stated.is_proven((&"f-2".parse().unwrap(), &site), &desk));
        let mut proof = stated.proof.clone().into_bytes();
        *proof.last_mut().unwrap() ^= 1;
        for changed in [
            SealingKeyStatement { to: other.public(), ..stated.clone() },
            SealingKeyStatement { from: other.public(), ..stated.clone() },
            SealingKeyStatement { generation: Generation(8), ..stated.clone() },
            SealingKeyStatement { proof: String::from_utf8(proof).unwrap(), ..stated.clone() },
            SealingKeyStatement { proof: String::new(), ..stated.clone() },
        ] {
            assert!(!changed.is_proven(whose, &desk), "{changed:?}");
        }
    }

    #[test]
    fn who_has_public_keys_alone_proves_nothing() {
        let [old, new, desk, host] = std::array::from_fn(|_| RecipientSecret::generate());
        let (fleet, site) = ids();
        let whose = (&fleet, &site);
        // What the host can make: a statement by its own key, and then the site's in its place.
        let own = SealingKeyStatement::prove(&host, &new.public(), Generation(7), whose, &desk.public()).unwrap();
        assert!(own.is_proven(whose, &desk));
        assert!(!SealingKeyStatement { from: old.public(), ..own }.is_proven(whose, &desk));
        // Base mode, in which anybody can seal to the desk.
        let stated = SealingKeyStatement {
            from: old.public(),
            to: new.public(),
            generation: Generation(7),
            proof: String::new(),
        };
        let (enc, tag) = hpke::single_shot_seal::<ChaCha20Poly1305, HkdfSha256, Kem>(
            &OpModeS::Base,
            &public(&desk.public()).unwrap(),
            &stated.info(whose),
            b"",
            b"",
        )
        .unwrap();
        let proof = data_encoding::HEXLOWER.encode(&[enc.to_bytes().as_slice(), &tag].concat());
        assert!(!SealingKeyStatement { proof, ..stated }.is_proven(whose, &desk));
    }
}
