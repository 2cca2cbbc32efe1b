//! Which of two versions of the system is the lower one, as RAUC counts for `min-bundle-version`: `MAJOR.MINOR.PATCH` (the
//! last two may be missing), a pre-release after `-`, and after `+` what does not count (semver.org).

use std::cmp::Ordering;

/// Whether `new` is lower than `old`; `None` if one of them is no such version.
pub(super) fn is_lower(new: &str, old: &str) -> Option<bool> {
    Some(parse(new)?.compare(&parse(old)?) == Ordering::Less)
}

struct Version<'a> {
    core: [u64; 3],
    pre_release: Option<&'a str>,
}

fn parse(text: &str) -> Option<Version<'_>> {
    let text = text.rsplit_once('+').map_or(text, |(version, _)| version);
    let (numbers, pre_release) =
        text.rsplit_once('-').map_or((text, None), |(numbers, pre_release)| (numbers, Some(pre_release)));
    let mut core = [0; 3];
    let mut places = core.iter_mut();
    for number in numbers.split('.') {
        *places.next()? = unsigned(number)?;
    }
    Some(Version { core, pre_release })
}

fn unsigned(text: &str) -> Option<u64> {
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok())?
}

impl Version<'_> {
    fn compare(&self, other: &Self) -> Ordering {
        self.core.cmp(&other.core).then_with(|| match (self.pre_release, other.pre_release) {
            (None, None) => Ordering::Equal,
            (None, Some(_)) => Ordering::Greater,
            (Some(_), None) => Ordering::Less,
            (Some(own), Some(others)) => own.split('.').map(Field::of).cmp(others.split('.').map(Field::of)),
        })
    }
}

/// A part of a pre-release. Numbers come before words.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
enum Field<'a> {
    Number(u64),
    Word(&'a str),
}

impl<'a> Field<'a> {
    fn of(text: &'a str) -> Self {
        unsigned(text).map_or(Self::Word(text), Self::Number)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn versions_count_as_rauc_counts() {
        let order = [
            "0",
            "0.9",
            "1-alpha",
            "1-alpha.1",
            "1-alpha.beta",
            "1-rc.2",
            "1-rc.10",
            "1",
            "1.2",
            "1.10",
            "2.0.1",
            "10",
        ];
        for (at, old) in order.iter().enumerate() {
            for (other, new) in order.iter().enumerate() {
                assert_eq!(is_lower(new, old), Some(other < at), "{new} after {old}");
            }
        }
        for (new, old) in [("1.0", "1"), ("1.0.0", "1"), ("1+b", "1+a"), ("0.1.0+throw-away-keys", "0.1")] {
            assert_eq!((is_lower(new, old), is_lower(old, new)), (Some(false), Some(false)), "{new} {old}");
        }
        for no_version in
            ["", "v1", "1.2.3.4", "1.", "1.x", "2.0~rc1", "unknown", "-1", "+1", "1 ", "99999999999999999999"]
        {
            assert_eq!((is_lower(no_version, "1"), is_lower("1", no_version)), (None, None), "{no_version}");
        }
    }
}
