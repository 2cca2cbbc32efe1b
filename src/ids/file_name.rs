use std::fmt;
use std::hash::{Hash, Hasher};
use std::str::FromStr;
use std::sync::Arc;

/// The longest name that a phone may ask for or HQ may publish, in bytes.
///
/// The longest name seen from a real phone has under 80 bytes. A TFTP request of 512 octets could carry about 500.
pub const MAX_FILE_NAME_BYTES: usize = 255;

/// A TFTP file name: a key into the catalog, never a path on a disk.
///
/// Parsing normalises what phones really send: it removes a drive letter and leading slashes and backslashes, and makes
/// slashes of other backslashes. The spelling is kept for people. Equality, order and hash ignore ASCII case, because
/// phones do not spell names as their documentation does.
#[derive(Clone)]
pub struct FileName(Arc<str>);

/// Why a text cannot name a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FileNameError {
    /// Nothing is left after normalising.
    #[error("the file name is empty")]
    Empty,
    /// The name has more than [`MAX_FILE_NAME_BYTES`], after normalising.
    #[error("the file name is longer than {MAX_FILE_NAME_BYTES} bytes")]
    TooLong,
    /// The name has NUL or another control character, or is not UTF-8.
    #[error("the file name has a control character or is not UTF-8")]
    Control,
    /// The name has a component that is `.`, `..` or empty.
    #[error("the file name has an empty, `.` or `..` component")]
    Traversal,
}

impl FileName {
    /// The name in these bytes, as they stand in a TFTP request.
    pub fn from_wire(bytes: &[u8]) -> Result<Self, FileNameError> {
        std::str::from_utf8(bytes).map_err(|_| FileNameError::Control)?.parse()
    }

    /// The name as it was spelled, after normalising.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The lower-case form under which the name is compared, for stable sorting and hashing across machines.
    pub fn folded(&self) -> String {
        self.0.to_ascii_lowercase()
    }

    fn folded_bytes(&self) -> impl Iterator<Item = u8> + '_ {
        self.0.bytes().map(|byte| byte.to_ascii_lowercase())
    }
}

impl FromStr for FileName {
    type Err = FileNameError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        // This check comes before the copy below. It leaves room for the few bytes that normalising removes.
        if text.len() > 2 * MAX_FILE_NAME_BYTES {
            return Err(FileNameError::TooLong);
        }
        if text.chars().any(char::is_control) {
            return Err(FileNameError::Control);
        }
        let slashes = text.replace('\\', "/");
        let mut rest = slashes.as_str();
        if let [drive, b':', ..] = rest.as_bytes()
            && drive.is_ascii_alphabetic()
        {
            rest = rest.get(2..).unwrap_or_default();
        }
        let rest = rest.trim_start_matches('/');
        if rest.is_empty() {
            return Err(FileNameError::Empty);
        }
        if rest.len() > MAX_FILE_NAME_BYTES {
            return Err(FileNameError::TooLong);
        }
        if rest.split('/').any(|part| matches!(part, "" | "." | "..")) {
            return Err(FileNameError::Traversal);
        }
        Ok(Self(rest.into()))
    }
}

impl PartialEq for FileName {
    fn eq(&self, other: &Self) -> bool {
        self.0.eq_ignore_ascii_case(&other.0)
    }
}

impl Eq for FileName {}

impl PartialOrd for FileName {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for FileName {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.folded_bytes().cmp(other.folded_bytes())
    }
}

impl Hash for FileName {
    fn hash<H: Hasher>(&self, state: &mut H) {
        for byte in self.folded_bytes() {
            state.write_u8(byte);
        }
        state.write_u8(0xff);
    }
}

impl fmt::Display for FileName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for FileName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

crate::text_serde!(FileName);

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn what_phones_send_becomes_one_spelling() {
        for text in ["/sp-sip.jar", "\\sp-sip.jar", "C:\\sp-sip.jar", "//SP-SIP.jar", "c:/sp-sip.jar"] {
            let name: FileName = text.parse().expect(text);
            assert_eq!(name, "sp-sip.jar".parse().expect("a plain name"), "{text}");
        }
        let cipc: FileName = "/Communicator\\SEP0004F2AABBCC.cnf.xml".parse().expect("Cisco IP Communicator's");
        assert_eq!(cipc.as_str(), "Communicator/SEP0004F2AABBCC.cnf.xml");
    }

    #[test]
    fn case_does_not_matter_to_lookup_but_is_kept() {
        let names: HashSet<FileName> =
            ["Ringlist.xml", "RINGLIST.XML"].iter().map(|text| text.parse().expect("a name")).collect();
        assert_eq!(names.len(), 1);
        assert_eq!(names.iter().next().map(FileName::as_str), Some("Ringlist.xml"));
    }

    #[test]
    fn hostile_names_are_refused() {
        use FileNameError::{Control, Empty, TooLong, Traversal};
        let long = "a".repeat(MAX_FILE_NAME_BYTES + 1);
        let cases = [
            ("", Empty),
            ("///", Empty),
            ("C:\\", Empty),
            ("../etc/passwd", Traversal),
            ("a/../b", Traversal),
            ("a\\..\\b", Traversal),
            ("a//b", Traversal),
            ("./a", Traversal),
            ("a/", Traversal),
            ("a\0b", Control),
            ("a\nb", Control),
            (long.as_str(), TooLong),
        ];
        for (text, error) in cases {
            assert_eq!(text.parse::<FileName>(), Err(error), "{text:?}");
        }
        assert_eq!(FileName::from_wire(b"\xff\xfe"), Err(Control));
    }
}
