//! STREAM (Hoang, Reyhanitabar, Rogaway, Vizár 2015) over ChaCha20-Poly1305, in chunks of [`CHUNK_BYTES`].
//!
//! Each chunk is authenticated with its place and with whether it is the last, so that cutting, extending,
//! swapping or repeating chunks fails, and a reader can start at any of them.

use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};
use ring::error::Unspecified;

use super::limits::{CHUNK_BYTES, TAG_BYTES};

/// ChaCha20-Poly1305 (RFC 8439) under the key of one content.
pub fn cipher(key: &[u8; 32]) -> Result<LessSafeKey, Unspecified> {
    UnboundKey::new(&CHACHA20_POLY1305, key).map(LessSafeKey::new)
}

/// The nonce of STREAM: seven bytes that are zero because no key ever meets a second content, the chunk's place, and
/// whether it is the last.
pub fn nonce(position: u32, last: bool) -> Nonce {
    let [a, b, c, d] = position.to_be_bytes();
    Nonce::assume_unique_for_key([0, 0, 0, 0, 0, 0, 0, a, b, c, d, u8::from(last)])
}

/// Decrypts all chunks. The error is the number of the first chunk that fails authentication, from 0.
pub fn open(key: &[u8; 32], aad: &[u8], sealed: &[u8]) -> Result<Vec<u8>, u64> {
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

/// Decrypts one chunk in place. After an error nothing in `chunk` may be used.
pub fn open_chunk(
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
