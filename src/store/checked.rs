//! The container of small files, which shows whether they are whole: magic, sequence number, length, content, and the
//! SHA-256 of all that.

use sha2::{Digest as _, Sha256};

/// The first eight bytes of a file, which say what it holds. The last of them is the version of the format.
pub(super) type FileMagic = [u8; 8];

const HEAD_BYTES: usize = 24;
const SUM_BYTES: usize = 32;

/// The bytes that the container adds to its content.
pub(super) const OVERHEAD_BYTES: u64 = (HEAD_BYTES + SUM_BYTES) as u64;

/// The file that holds `body`.
pub(super) fn emit(magic: &FileMagic, sequence: u64, body: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(HEAD_BYTES + body.len() + SUM_BYTES);
    bytes.extend_from_slice(magic);
    bytes.extend_from_slice(&sequence.to_be_bytes());
    bytes.extend_from_slice(&(body.len() as u64).to_be_bytes());
    bytes.extend_from_slice(body);
    let sum = Sha256::digest(&bytes);
    bytes.extend_from_slice(&sum);
    bytes
}

/// The sequence number and the content of a file; `None` for anything that [`emit`] did not make with this magic.
pub(super) fn parse<'a>(magic: &FileMagic, bytes: &'a [u8]) -> Option<(u64, &'a [u8])> {
    let (covered, sum) = bytes.split_at_checked(bytes.len().checked_sub(SUM_BYTES)?)?;
    if Sha256::digest(covered).as_slice() != sum {
        return None;
    }
    let rest = covered.strip_prefix(magic)?;
    let (sequence, rest) = rest.split_first_chunk::<8>()?;
    let (length, body) = rest.split_first_chunk::<8>()?;
    (u64::from_be_bytes(*length) == body.len() as u64).then_some((u64::from_be_bytes(*sequence), body))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]
    use super::*;

    const KIND: &FileMagic = b"LSTEST\0\x01";

    #[test]
    fn what_was_wrapped_comes_back() {
        assert_eq!(parse(KIND, &emit(KIND, 7, b"body")), Some((7, b"body".as_slice())));
        assert_eq!(parse(KIND, &emit(KIND, u64::MAX, b"")), Some((u64::MAX, b"".as_slice())));
    }

    #[test]
    fn every_cut_and_every_flipped_bit_is_noticed() {
        let whole = emit(KIND, 7, b"body");
        for length in 0..whole.len() {
            assert_eq!(parse(KIND, &whole[..length]), None, "cut at {length}");
        }
        for bit in 0..whole.len() * 8 {
            let mut damaged = whole.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(parse(KIND, &damaged), None, "bit {bit}");
        }
    }

    #[test]
    fn a_file_of_another_kind_is_refused() {
        assert_eq!(parse(b"LSTEST\0\x02", &emit(KIND, 7, b"body")), None);
    }
}
