//! zstd (RFC 8878), bounded on the way back.

use std::io::Read as _;

/// The largest window that a frame may ask for: what RFC 8878 §3.1.1.1.2 recommends every decoder to support.
const MAX_WINDOW_BYTES: u64 = 8 * 1024 * 1024;

/// The content of the one zstd frame that `packed` is, or nothing if it is anything else or longer than `limit`.
///
/// Output is taken block by block (at most 128 KiB each), so a frame that claims little and expands to much costs
/// `limit` plus one block, whatever it says.
pub fn unpack(packed: &[u8], limit: u64) -> Option<Vec<u8>> {
    let mut source = packed;
    let mut clear = Vec::new();
    {
        let decoder =
            ruzstd::decoding::StreamingDecoder::new_with_max_window_size(&mut source, MAX_WINDOW_BYTES).ok()?;
        decoder.take(limit.saturating_add(1)).read_to_end(&mut clear).ok()?;
    }
    (source.is_empty() && u64::try_from(clear.len()).is_ok_and(|bytes| bytes <= limit)).then_some(clear)
}
