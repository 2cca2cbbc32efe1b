//! Shards and inventories: what the release key's holder could have put into an object.
#![no_main]

use libfuzzer_sys::fuzz_target;
use bundle::{Packing, object};
use seal::PublisherSecret;

fuzz_target!(|data: &[u8]| {
    let Some((mode, data)) = data.split_first() else { return };
    let secret = PublisherSecret::from_bytes([1; 32]);
    let (mut reference, sealed) = seal::object::seal(&secret, "s", data, Packing::Plain);
    // The bytes as they are, or as a zstd frame of the length that the first of them say.
    if mode & 1 == 1 {
        let Some((length, _)) = data.split_first_chunk::<2>() else { return };
        reference.packing = Packing::Zstd;
        reference.clear_bytes = u16::from_be_bytes(*length).into();
        let (packed, sealed) = seal::object::seal(&secret, "s", data.get(2..).unwrap_or_default(), Packing::Plain);
        (reference.digest, reference.bytes, reference.key) = (packed.digest, packed.bytes, packed.key);
        if let Ok(clear) = object::open(&reference, &sealed, 1 << 16) {
            assert_eq!(clear.len() as u64, reference.clear_bytes);
        }
        let _ = object::open_shard(&reference, &sealed);
        return;
    }
    if let Ok(shard) = object::open_shard(&reference, &sealed) {
        let (reference, sealed) = seal::object::seal_shard(&secret, "s", &shard);
        assert_eq!(object::open_shard(&reference, &sealed).expect("it was valid"), shard);
    }
    if let Ok(inventory) = object::open_inventory(&reference, &sealed) {
        let (reference, sealed) = seal::object::seal_inventory(&secret, "s", &inventory);
        assert_eq!(object::open_inventory(&reference, &sealed).expect("it was valid"), inventory);
    }
});
