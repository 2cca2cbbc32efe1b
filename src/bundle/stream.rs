//! STREAM (Hoang, Reyhanitabar, Rogaway, Vizár 2015) over ChaCha20-Poly1305, in chunks of [`CHUNK_BYTES`].
//!
//! Each chunk is authenticated with its place and with whether it is the last, so that cutting, extending,
//! swapping or repeating chunks fails, and a reader can start at any of them.

use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};
use ring::error::Unspecified;

use super::limits::{CHUNK_BYTES, TAG_BYTES};

/// The cipher of one content.
fn cipher(key: &[u8; 32]) -> Result<LessSafeKey, Unspecified> {
    UnboundKey::new(&CHACHA20_POLY1305, key).map(LessSafeKey::new)
}

/// The nonce of STREAM: seven bytes that are zero because no key ever meets a second content, the chunk's place, and
/// whether it is the last.
fn nonce(position: u32, last: bool) -> Nonce {
    let [a, b, c, d] = position.to_be_bytes();
    Nonce::assume_unique_for_key([0, 0, 0, 0, 0, 0, 0, a, b, c, d, u8::from(last)])
}

#[cfg(any(feature = "hq", test))]
fn seal_chunk(key: &[u8; 32], aad: &[u8], position: u32, last: bool, chunk: &mut Vec<u8>) -> Result<(), Unspecified> {
    cipher(key)?.seal_in_place_append_tag(nonce(position, last), Aad::from(aad), chunk)
}

/// Encrypts `clear`. Empty content becomes one empty last chunk.
#[cfg(any(feature = "hq", test))]
pub(super) fn seal(key: &[u8; 32], aad: &[u8], clear: &[u8]) -> Vec<u8> {
    let count = super::object::chunks(clear.len() as u64);
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

/// Decrypts everything; the error is the first chunk that does not hold.
pub(super) fn open(key: &[u8; 32], aad: &[u8], sealed: &[u8]) -> Result<Vec<u8>, u64> {
    let mut clear = Vec::with_capacity(sealed.len());
    let mut position = 0u32;
    let mut rest = sealed;
    loop {
        let (now, later) = rest.split_at(rest.len().min(CHUNK_BYTES + TAG_BYTES));
        let mut chunk = now.to_vec();
        // An empty chunk stands for empty content and nothing else: one content has one ciphertext.
        if now.len() <= TAG_BYTES && position > 0 {
            return Err(position.into());
        }
        open_chunk(key, aad, position, later.is_empty(), &mut chunk).map_err(|_| u64::from(position))?;
        clear.append(&mut chunk);
        if later.is_empty() {
            return Ok(clear);
        }
        position = position.checked_add(1).ok_or(u64::MAX)?;
        rest = later;
    }
}

/// Decrypts one chunk in place. On an error nothing in `chunk` is to be used.
pub(super) fn open_chunk(
    key: &[u8; 32],
    aad: &[u8],
    position: u32,
    last: bool,
    chunk: &mut Vec<u8>,
) -> Result<(), Unspecified> {
    let clear = cipher(key)?.open_in_place(nonce(position, last), Aad::from(aad), chunk)?.len();
    chunk.truncate(clear);
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]

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
            assert_eq!(sealed.len() as u64, crate::bundle::object::sealed_bytes(bytes as u64));
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
