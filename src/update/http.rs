//! The few header values that the client reads, parsed and bounded.

use std::time::Duration;

/// The longest entity tag that is remembered, in bytes.
const MAX_ETAG_BYTES: usize = 256;

/// `Retry-After` in its seconds form (RFC 9110 §10.2.3). The date form needs a clock that both sides share, so it is
/// left alone; back-off covers it.
pub(super) fn retry_after(value: &str) -> Option<Duration> {
    value.trim().parse().ok().map(Duration::from_secs)
}

/// An entity tag worth repeating (RFC 9110 §8.8.3): quoted, printable, short.
pub(super) fn etag(value: &str) -> Option<String> {
    let value = value.trim();
    let opaque = value.strip_prefix("W/").unwrap_or(value);
    let inner = opaque.strip_prefix('"')?.strip_suffix('"')?;
    let printable = inner.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'"');
    (value.len() <= MAX_ETAG_BYTES && printable).then(|| value.to_owned())
}

/// Only a strong tag may be used with `If-Range` (RFC 9110 §13.1.5).
pub(super) fn is_strong(etag: &str) -> bool {
    etag.starts_with('"')
}

/// `Content-Range: bytes first-last/total` (RFC 9110 §14.4) as first, last and total.
pub(super) fn content_range(value: &str) -> Option<(u64, u64, u64)> {
    let (range, total) = value.trim().strip_prefix("bytes ")?.split_once('/')?;
    let (first, last) = range.split_once('-')?;
    let (first, last, total) = (first.parse().ok()?, last.parse().ok()?, total.parse().ok()?);
    (first <= last && last < total).then_some((first, last, total))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retry_after_is_seconds() {
        assert_eq!(retry_after(" 120 "), Some(Duration::from_secs(120)));
        for text in ["", "-1", "soon", "Wed, 21 Oct 2026 07:28:00 GMT", "99999999999999999999999"] {
            assert_eq!(retry_after(text), None, "{text}");
        }
    }

    #[test]
    fn odd_entity_tags_are_not_repeated() {
        assert_eq!(etag("\"abc-1\""), Some("\"abc-1\"".to_owned()));
        assert_eq!(etag("W/\"x\""), Some("W/\"x\"".to_owned()));
        for text in ["", "abc", "\"a", "\"a\"b\"", "\"a\r\nX: y\"", "*", &format!("\"{}\"", "a".repeat(300))] {
            assert_eq!(etag(text), None, "{text}");
        }
        assert!(is_strong("\"a\"") && !is_strong("W/\"a\""));
    }

    #[test]
    fn a_content_range_must_make_sense() {
        assert_eq!(content_range("bytes 65552-99/100"), None);
        assert_eq!(content_range("bytes 50-99/100"), Some((50, 99, 100)));
        for text in ["bytes 5-4/10", "bytes 0-10/10", "bytes */10", "bytes 0-9/*", "items 0-9/10", "bytes 0-9", ""] {
            assert_eq!(content_range(text), None, "{text}");
        }
    }
}
