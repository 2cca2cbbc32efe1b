//! STREAM, the sealing half of [`bundle::stream`].

use bundle::limits::{CHUNK_BYTES, TAG_BYTES};
use bundle::stream::{cipher, nonce};
use ring::aead::Aad;
use ring::error::Unspecified;

fn seal_chunk(key: &[u8; 32], aad: &[u8], position: u32, last: bool, chunk: &mut Vec<u8>) -> Result<(), Unspecified> {
    cipher(key)?.seal_in_place_append_tag(nonce(position, last), Aad::from(aad), chunk)
}

/// Encrypts `clear`. Empty content becomes one empty last chunk.
pub(crate) fn seal(key: &[u8; 32], aad: &[u8], clear: &[u8]) -> Vec<u8> {
    let count = bundle::object::chunks(clear.len() as u64);
    let mut sealed = Vec::with_capacity(clear.len().saturating_add(TAG_BYTES * usize::try_from(count).unwrap_or(0)));
    let mut position = 0u32;
    let mut rest = clear;
    loop {
        let (now, later) = rest.split_at(rest.len().min(CHUNK_BYTES));
        let mut chunk = now.to_vec();
        seal_chunk(key, aad, position, later.is_empty(), &mut chunk)
            .expect("ChaCha20-Poly1305 takes a chunk of 64 KiB");
        sealed.append(&mut chunk);
        if later.is_empty() {
            return sealed;
        }
        position = position.checked_add(1).expect("nothing sealed here is near 2^32 chunks");
        rest = later;
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]

    use bundle::stream::open;

    use super::*;

    const KEY: [u8; 32] = [7; 32];
    const SEALED_CHUNK: usize = CHUNK_BYTES + TAG_BYTES;

    fn content(bytes: usize) -> Vec<u8> {
        (0..bytes).map(|at| u8::try_from(at % 251).unwrap()).collect()
    }

    #[test]
    fn content_of_every_awkward_length_comes_back() {
        for bytes in [0, 1, CHUNK_BYTES - 1, CHUNK_BYTES, CHUNK_BYTES + 1, 3 * CHUNK_BYTES] {
            let sealed = seal(&KEY, b"", &content(bytes));
            assert_eq!(sealed.len() as u64, bundle::object::sealed_bytes(bytes as u64));
            assert_eq!(open(&KEY, b"", &sealed), Ok(content(bytes)), "{bytes} bytes");
        }
    }

    #[test]
    fn a_swapped_or_repeated_chunk_is_refused() {
        let sealed = seal(&KEY, b"", &content(3 * CHUNK_BYTES));
        let mut swapped = sealed.clone();
        swapped[..2 * SEALED_CHUNK].rotate_left(SEALED_CHUNK);
        assert_eq!(open(&KEY, b"", &swapped), Err(0));
        let mut repeated = sealed[..SEALED_CHUNK].to_vec();
        repeated.extend_from_slice(&sealed);
        assert_eq!(open(&KEY, b"", &repeated), Err(1));
    }

    #[test]
    fn content_cut_at_a_chunk_boundary_is_refused() {
        let sealed = seal(&KEY, b"", &content(2 * CHUNK_BYTES));
        assert_eq!(open(&KEY, b"", &sealed[..SEALED_CHUNK]), Err(0));
        assert_eq!(open(&KEY, b"", b""), Err(0));
    }

    #[test]
    fn an_empty_chunk_after_the_end_is_refused_even_if_it_is_genuine() {
        let mut sealed = Vec::new();
        for (position, last, mut chunk) in [(0, false, content(CHUNK_BYTES)), (1, true, Vec::new())] {
            seal_chunk(&KEY, b"", position, last, &mut chunk).unwrap();
            sealed.append(&mut chunk);
        }
        assert_eq!(open(&KEY, b"", &sealed), Err(1));
    }

    #[test]
    fn other_associated_data_or_another_key_is_refused() {
        let sealed = seal(&KEY, b"head", &content(10));
        assert_eq!(open(&KEY, b"dead", &sealed), Err(0));
        assert_eq!(open(&[8; 32], b"head", &sealed), Err(0));
    }
}
