//! Sealing, at HQ. Reproducible: every key comes from the publisher's secret and the hash of all that it protects.

use hkdf::Hkdf;
use hpke::aead::ChaCha20Poly1305;
use hpke::kdf::HkdfSha256;
use hpke::{Deserializable as _, OpModeS, Serializable as _};
use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::SeedableRng as _;
use sha2::{Digest as _, Sha256};
use zeroize::Zeroizing;

use crate::{PublisherSecret, packing, stream};
use bundle::limits::{MAX_MANIFEST_BYTES, MAX_RECIPIENTS, MAX_UNPACKED_BYTES};
use bundle::recipients::{Binding, Kem, MAGIC, ManifestError, RECIPIENT_BYTES, SUITE_X25519};
use bundle::{Manifest, RecipientPublic};

/// Seals a manifest to all recipients. The same arguments give the same bytes; the order of the recipients and
/// repeated ones do not matter.
///
/// # Errors
///
/// What [`bundle::recipients::open`] would refuse: a manifest out of bounds, no recipient or more than [`MAX_RECIPIENTS`], a key
/// that nothing can be sealed to (a point of low order).
pub fn seal(
    secret: &PublisherSecret,
    manifest: &Manifest,
    recipients: &[RecipientPublic],
) -> Result<Vec<u8>, ManifestError> {
    manifest.validate()?;
    let json = serde_json::to_vec(manifest).map(Zeroizing::new).expect("a manifest has nothing that JSON cannot say");
    at_most("size in clear", json.len(), MAX_UNPACKED_BYTES)?;
    seal_packed(secret, &Binding::of(manifest), &packing::pack_well(&json), recipients)
}

/// Seals what is packed already; the same bytes from every version of the packer's library.
pub(crate) fn seal_packed(
    secret: &PublisherSecret,
    binding: &Binding,
    packed: &[u8],
    recipients: &[RecipientPublic],
) -> Result<Vec<u8>, ManifestError> {
    let mut recipients = recipients.to_vec();
    recipients.sort_unstable();
    recipients.dedup();
    at_most("number of recipients", recipients.len(), MAX_RECIPIENTS as u64)?;
    let count = u8::try_from(recipients.len()).expect("MAX_RECIPIENTS fits a byte");
    if count == 0 {
        return Err(ManifestError::Malformed("it has no recipient".to_owned()));
    }
    let mut head = [MAGIC.as_slice(), &[SUITE_X25519, count]].concat();
    let keys = ManifestKeys::new(secret, &head, &recipients, packed);
    let file_key = keys.derive(b"lineside manifest key", &[]);
    let mut table = Vec::with_capacity(recipients.len() * RECIPIENT_BYTES);
    for recipient in &recipients {
        let seed = keys.derive(b"lineside manifest recipient ", recipient.as_bytes());
        let (enc, wrapped) = <Kem as hpke::Kem>::PublicKey::from_bytes(recipient.as_bytes())
            .and_then(|public| {
                hpke::single_shot_seal_with_rng::<ChaCha20Poly1305, HkdfSha256, Kem>(
                    &OpModeS::Base,
                    &public,
                    &binding.info(),
                    file_key.as_slice(),
                    &head,
                    &mut ChaCha20Rng::from_seed(*seed),
                )
            })
            .map_err(|_| ManifestError::Malformed(format!("nothing can be sealed to the key {recipient:?}")))?;
        table.extend_from_slice(&recipient.id());
        table.extend_from_slice(&enc.to_bytes());
        table.extend_from_slice(&wrapped);
    }
    head.append(&mut table);
    let body = stream::seal(&file_key, &head, packed);
    head.extend_from_slice(&body);
    at_most("sealed size", head.len(), MAX_MANIFEST_BYTES)?;
    Ok(head)
}

/// Derives the keys of one sealed manifest. The salt covers header, recipients and body: if any of them differs, so does every key,
/// and no key or nonce ever meets two messages.
struct ManifestKeys(Hkdf<Sha256>);

impl ManifestKeys {
    fn new(secret: &PublisherSecret, header: &[u8], recipients: &[RecipientPublic], packed: &[u8]) -> Self {
        let mut everything = Sha256::new();
        everything.update(header);
        for recipient in recipients {
            everything.update(recipient.as_bytes());
        }
        everything.update(packed);
        Self(Hkdf::new(Some(&everything.finalize()), secret.as_bytes()))
    }

    fn derive(&self, what: &[u8], of: &[u8]) -> Zeroizing<[u8; 32]> {
        let mut key = Zeroizing::new([0; 32]);
        self.0.expand_multi_info(&[what, of], key.as_mut()).expect("32 bytes are within what HKDF-SHA256 gives");
        key
    }
}

fn at_most(what: &'static str, value: usize, limit: u64) -> Result<(), ManifestError> {
    let value = value as u64;
    if value > limit { Err(ManifestError::TooLarge { what, value, limit }) } else { Ok(()) }
}

#[cfg(test)]
pub(crate) mod tests;
