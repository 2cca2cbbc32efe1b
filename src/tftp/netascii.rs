//! The netascii mode of RFC 1350 (RFC 764): a line ends in CR LF, a lone CR is sent as CR NUL. It is for text only, because it
//! would destroy an image.

/// The largest text that is translated, in bytes. It is held in memory as a whole, so that `tsize` is exact.
pub const MAX_TEXT_BYTES: u64 = 1024 * 1024;

/// A text as it is sent in netascii; `None` if `bytes` are no text.
///
/// Lines that end in CR LF already stay as they are, as phones' own tools write them.
pub fn translate(bytes: &[u8]) -> Option<Vec<u8>> {
    if bytes.contains(&0) || std::str::from_utf8(bytes).is_err() {
        return None;
    }
    let mut out = Vec::with_capacity(bytes.len() + bytes.len() / 16);
    let mut rest = bytes.iter().copied().peekable();
    while let Some(byte) = rest.next() {
        match byte {
            b'\n' => out.extend_from_slice(b"\r\n"),
            b'\r' if rest.next_if_eq(&b'\n').is_some() => out.extend_from_slice(b"\r\n"),
            b'\r' => out.extend_from_slice(b"\r\0"),
            other => out.push(other),
        }
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn line_ends_become_cr_lf() {
        assert_eq!(translate(b"a\nb\r\nc\rd").as_deref(), Some(&b"a\r\nb\r\nc\r\0d"[..]));
        assert_eq!(translate(b"").as_deref(), Some(&b""[..]));
        assert_eq!(translate(b"\r").as_deref(), Some(&b"\r\0"[..]));
    }

    #[test]
    fn binary_is_not_touched() {
        assert_eq!(translate(b"P0S3\0\x01"), None);
        assert_eq!(translate(b"\xff\xfe"), None);
    }
}
