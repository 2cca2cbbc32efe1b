//! zstd (RFC 8878) before encryption.

/// The level at HQ: near the best ratio for configurations, at a tenth of the best level's time.
const LEVEL: i32 = 9;

/// The level for manifests and shards: they travel with every change, and there are few of them.
const BEST_LEVEL: i32 = 19;

/// One zstd frame that says how long its content is.
pub(crate) fn pack(clear: &[u8]) -> Vec<u8> {
    zstd::bulk::compress(clear, LEVEL).expect("zstd takes any bytes at a level that it knows")
}

/// One zstd frame like that of the other level, a few percent smaller and ten times as slow to make.
pub(crate) fn pack_well(clear: &[u8]) -> Vec<u8> {
    zstd::bulk::compress(clear, BEST_LEVEL).expect("zstd takes any bytes at a level that it knows")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]

    use proptest::prelude::*;

    use bundle::packing::unpack;

    use super::*;

    #[test]
    fn a_bomb_stops_at_its_limit() {
        // 1 GiB of zeros would be about 100 KB; 64 MiB are enough to see that nothing like it is produced.
        let bomb = pack(&vec![0; 64 * 1024 * 1024]);
        assert!(bomb.len() < 16 * 1024);
        assert_eq!(unpack(&bomb, 100_000), None);
    }

    #[test]
    fn exactly_the_limit_is_allowed_and_one_more_is_not() {
        let packed = pack(&[b'x'; 1000]);
        assert_eq!(unpack(&packed, 1000).map(|clear| clear.len()), Some(1000));
        assert_eq!(unpack(&packed, 999), None);
    }

    #[test]
    fn a_second_frame_or_trailing_bytes_are_refused() {
        let packed = pack(b"configuration");
        assert_eq!(unpack(&[packed.as_slice(), b"x"].concat(), 1000), None);
        assert_eq!(unpack(&[packed.as_slice(), packed.as_slice()].concat(), 1000), None);
        assert_eq!(unpack(&packed[..packed.len() - 1], 1000), None);
        assert_eq!(unpack(b"", 1000), None);
    }

    #[test]
    fn a_frame_with_a_huge_window_is_refused_before_memory_is_taken() {
        // Frame header: magic, descriptor without content size, window descriptor for 1 GiB (exponent 20).
        let frame = [0x28, 0xb5, 0x2f, 0xfd, 0x00, 20 << 3, 0x01, 0x00, 0x00];
        assert_eq!(unpack(&frame, 1000), None);
    }

    proptest! {
        #[test]
        fn no_damage_makes_the_decoder_panic(
            text in proptest::collection::vec(0u8..8, 0..3000),
            hits in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
        ) {
            let mut packed = pack(&text);
            for (at, byte) in hits {
                let at = at.index(packed.len());
                packed[at] = byte;
            }
            if let Some(clear) = unpack(&packed, 10_000) {
                prop_assert!(clear.len() <= 10_000);
            }
        }
    }
}
