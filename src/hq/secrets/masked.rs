//! Comparing files whose secrets are not known: what stands around the secrets must be the same.

use std::collections::BTreeMap;

use zeroize::Zeroizing;

use super::Secrets;
use crate::render::{Body, SiteFile};
use bundle::FileEntry;
use bundle::limits::MAX_FILE_BYTES;
use ids::FileName;
use repository::layout::Layout;

/// Stands for a secret that is not known. These characters are of no script and in no template.
pub(super) const PLACEHOLDER: &str = "\u{f8f0}\u{f8f1}";

/// The rendered files of a site that hold secrets which are not known, by name.
pub(crate) struct Masked(BTreeMap<FileName, Zeroizing<Vec<u8>>>);

impl Masked {
    /// Those of these files; none, if the secrets are known.
    pub(crate) fn of(secrets: &Secrets, files: &[SiteFile]) -> Self {
        let masked = |file: &SiteFile| match &file.body {
            Body::Rendered(bytes) if secrets.are_withheld() && parts(bytes).len() > 1 => {
                Some((file.name.clone(), bytes.clone()))
            }
            _ => None,
        };
        Self(files.iter().filter_map(masked).collect())
    }

    /// Whether a published file is this one with some secrets in it.
    pub(crate) fn fits(&self, layout: &Layout, name: &FileName, published: &FileEntry) -> bool {
        let Some(masked) = self.0.get(name) else { return false };
        let sealed = durable::read_regular(&layout.object(&published.blob.digest), MAX_FILE_BYTES);
        let Ok(sealed) = sealed else { return false };
        let clear = bundle::object::open(&published.blob, &sealed, MAX_FILE_BYTES);
        clear.is_ok_and(|clear| fits(masked, &Zeroizing::new(clear)))
    }
}

/// What stands before, between and after the secrets.
fn parts(bytes: &[u8]) -> Vec<&[u8]> {
    let (mut parts, mut rest) = (Vec::new(), bytes);
    let mark = PLACEHOLDER.as_bytes();
    while let Some(at) = rest.windows(mark.len()).position(|window| window == mark) {
        parts.push(rest.get(..at).unwrap_or_default());
        rest = rest.get(at + mark.len()..).unwrap_or_default();
    }
    parts.push(rest);
    parts
}

fn fits(masked: &[u8], clear: &[u8]) -> bool {
    let parts = parts(masked);
    let [first, between @ .., last] = parts.as_slice() else { return masked == clear };
    let Some(mut rest) = clear.strip_prefix(*first).and_then(|rest| rest.strip_suffix(*last)) else { return false };
    for part in between {
        let found = if part.is_empty() { Some(0) } else { rest.windows(part.len()).position(|window| window == *part) };
        let Some(at) = found else { return false };
        rest = rest.get(at + part.len()..).unwrap_or_default();
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_stands_around_secrets_is_compared() {
        let masked = format!("<user>a</user><pw>{PLACEHOLDER}</pw><pin>{PLACEHOLDER}</pin>");
        let fits = |clear: &str| fits(masked.as_bytes(), clear.as_bytes());
        assert!(fits("<user>a</user><pw>x</pw><pin>yz</pin>"));
        assert!(!fits("<user>b</user><pw>x</pw><pin>yz</pin>"));
        assert!(!fits("<user>a</user><pw>x</pw><pin>yz</pin>\n"));
        assert!(!fits("<user>a</user><pw>x</pw>"));
        assert!(super::fits(b"same", b"same") && !super::fits(b"same", b"other"));
    }
}
