//! Sealed objects: blobs, shards and inventories. STREAM over 64 KiB chunks under a content key.

use hkdf::Hkdf;
use sha2::Sha256;
use zeroize::Zeroizing;

use crate::{PublisherSecret, packing, stream};
use bundle::limits::MAX_COMPRESSED_FILE_BYTES;
use bundle::{ContentKey, Inventory, ObjectRef, Packing, Shard};
use ids::Digest;

/// Seals `clear` so that equal content in the same `scope` gives equal bytes. Returns the reference and the ciphertext.
///
/// Equal content in two scopes gives different bytes, so that nobody sees that it is equal, for example at two sites. The
/// reader does not need the scope.
pub fn seal(secret: &PublisherSecret, scope: &str, clear: &[u8], packing: Packing) -> (ObjectRef, Vec<u8>) {
    match packing {
        Packing::Plain => seal_packed(secret, scope, clear, clear.len(), packing),
        Packing::Zstd => seal_packed(secret, scope, &packing::pack(clear), clear.len(), packing),
    }
}

/// Seals a file compressed if that is allowed ([`MAX_COMPRESSED_FILE_BYTES`]) and saves at least 3 %, else plain.
pub fn seal_smaller(secret: &PublisherSecret, scope: &str, clear: &[u8]) -> (ObjectRef, Vec<u8>) {
    if clear.len() as u64 <= MAX_COMPRESSED_FILE_BYTES {
        let packed = packing::pack(clear);
        if packed.len().saturating_mul(100) <= clear.len().saturating_mul(97) {
            return seal_packed(secret, scope, &packed, clear.len(), Packing::Zstd);
        }
    }
    seal(secret, scope, clear, Packing::Plain)
}

/// Seals some of a site's files. See [`bundle::object::open_shard`].
pub fn seal_shard(secret: &PublisherSecret, scope: &str, shard: &Shard) -> (ObjectRef, Vec<u8>) {
    let json = Zeroizing::new(serde_json::to_vec(shard).expect("a shard has nothing that JSON cannot say"));
    seal_packed(secret, scope, &packing::pack_well(&json), json.len(), Packing::Zstd)
}

/// Seals the phones of a site. See [`bundle::object::open_inventory`].
pub fn seal_inventory(secret: &PublisherSecret, scope: &str, inventory: &Inventory) -> (ObjectRef, Vec<u8>) {
    let json = serde_json::to_vec(inventory).expect("an inventory has nothing that JSON cannot say");
    seal(secret, scope, &json, Packing::Zstd)
}

/// Seals content that is packed already. The result does not depend on the version of the packer's library.
pub(crate) fn seal_packed(
    secret: &PublisherSecret,
    scope: &str,
    packed: &[u8],
    clear_bytes: usize,
    packing: Packing,
) -> (ObjectRef, Vec<u8>) {
    // The salt is the hash of exactly the bytes that are encrypted: a key meets one content only, so that the fixed
    // nonces of STREAM are safe, and publishing again gives the same object.
    let source = Hkdf::<Sha256>::new(Some(Digest::of(packed).as_bytes()), secret.as_bytes());
    let mut key = Zeroizing::new([0; 32]);
    source
        .expand_multi_info(&[b"lineside object ", scope.as_bytes()], key.as_mut())
        .expect("32 bytes are within what HKDF-SHA256 gives");
    let sealed = stream::seal(&key, b"", packed);
    let reference = ObjectRef {
        digest: Digest::of(&sealed),
        bytes: sealed.len() as u64,
        key: ContentKey::from_bytes(*key),
        packing,
        clear_bytes: clear_bytes as u64,
    };
    (reference, sealed)
}

#[cfg(test)]
mod tests;
