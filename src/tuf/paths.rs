//! Which target paths a delegation covers (§4.5): shell patterns, or prefixes of a path's SHA-256.

use super::schema::DelegatedRole;
use ids::Digest;

impl DelegatedRole {
    /// Whether this role is trusted for a target path. A role without patterns and prefixes is for none.
    pub fn covers(&self, path: &str) -> bool {
        if let Some(patterns) = &self.paths {
            return patterns.iter().any(|pattern| matches_path(pattern, path));
        }
        let Some(prefixes) = self.path_hash_prefixes() else { return false };
        let hash = Digest::of(path.as_bytes()).to_string();
        prefixes.into_iter().any(|prefix| hash.starts_with(prefix))
    }
}

/// Shell patterns, one component at a time: a wildcard does not match `/`.
fn matches_path(pattern: &str, path: &str) -> bool {
    let mut patterns = pattern.split('/');
    let mut parts = path.split('/');
    loop {
        match (patterns.next(), parts.next()) {
            (None, None) => return true,
            (Some(pattern), Some(part)) if matches_part(pattern, part) => {}
            _ => return false,
        }
    }
}

/// `fnmatch` of one component: `*`, `?`, `[a-z]`, `[!a-z]`. Takes at most the product of the two lengths in steps,
/// as only the last `*` is ever gone back to.
fn matches_part(pattern: &str, part: &str) -> bool {
    let pattern: Vec<char> = pattern.chars().collect();
    let part: Vec<char> = part.chars().collect();
    let (mut at, mut read) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    while let Some(&c) = part.get(read) {
        if pattern.get(at) == Some(&'*') {
            star = Some((at, read));
            at += 1;
        } else if let Some(next) = matches_one(&pattern, at, c) {
            at = next;
            read += 1;
        } else if let Some((star_at, star_read)) = star {
            // Let the last star take one character more.
            at = star_at + 1;
            read = star_read + 1;
            star = Some((star_at, read));
        } else {
            return false;
        }
    }
    pattern.iter().skip(at).all(|&c| c == '*')
}

/// Where the pattern goes on if its element at `at`, which is no star, matches `c`.
fn matches_one(pattern: &[char], at: usize, c: char) -> Option<usize> {
    match *pattern.get(at)? {
        '?' => Some(at + 1),
        '[' => match set(pattern, at + 1) {
            Some((members, inverted, next)) => (in_set(members, c) != inverted).then_some(next),
            // A bracket that nothing closes stands for itself.
            None => (c == '[').then_some(at + 1),
        },
        literal => (c == literal).then_some(at + 1),
    }
}

/// The members of a `[…]` that begins after its bracket, whether it is inverted, and what follows it.
fn set(pattern: &[char], start: usize) -> Option<(&[char], bool, usize)> {
    let inverted = pattern.get(start) == Some(&'!');
    let first = if inverted { start + 1 } else { start };
    // A `]` in first place is a member.
    let close = pattern.iter().skip(first + 1).position(|&c| c == ']')? + first + 1;
    Some((pattern.get(first..close)?, inverted, close + 1))
}

fn in_set(members: &[char], c: char) -> bool {
    let mut rest = members;
    while let [first, after @ ..] = rest {
        if let ['-', last, after @ ..] = after {
            if (*first..=*last).contains(&c) {
                return true;
            }
            rest = after;
        } else {
            if *first == c {
                return true;
            }
            rest = after;
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    fn role(paths: Option<&[&str]>, prefixes: Option<&[&str]>) -> DelegatedRole {
        let extra = prefixes.map(|prefixes| ("path_hash_prefixes".to_owned(), serde_json::json!(prefixes)));
        DelegatedRole {
            name: "role".into(),
            keyids: vec![],
            threshold: 1,
            terminating: false,
            paths: paths.map(|paths| paths.iter().map(|path| (*path).to_owned()).collect()),
            extra: BTreeMap::from_iter(extra),
        }
    }

    #[test]
    fn patterns_match_as_the_specification_says() {
        let cases = [
            // §4.5's own examples.
            ("targets/*.tgz", "targets/foo.tgz", true),
            ("targets/*.tgz", "targets/foo.txt", false),
            ("foo-version-?.tgz", "foo-version-2.tgz", true),
            ("foo-version-?.tgz", "foo-version-alpha.tgz", false),
            ("*.tgz", "foo.tgz", true),
            ("*.tgz", "targets/foo.tgz", false),
            ("foo.tgz", "foo.tgz", true),
            ("foo.tgz", "foo.tgz2", false),
            // A wildcard stays in its component.
            ("*", "a/b", false),
            ("a?b", "a/b", false),
            ("a[!x]b", "a/b", false),
            ("*/*", "a/b", true),
            ("*", "", true),
            ("?", "", false),
            ("", "", true),
            ("a/*", "a/", true),
            ("*.MD", "README.md", false),
            ("a*b*c", "a-b-b-c", true),
            ("a*b*c", "a-b-b-d", false),
            ("**", "anything", true),
            ("?", "\u{1f600}", true),
            ("[a-c]x", "bx", true),
            ("[!a-c]x", "bx", false),
            ("[]]x", "]x", true),
            ("[-a]", "-", true),
            ("[a-]", "-", true),
            ("[ab", "[ab", true),
            ("[]", "[]", true),
            ("a.c", "abc", false),
        ];
        for (pattern, path, expected) in cases {
            assert_eq!(role(Some(&[pattern]), None).covers(path), expected, "{pattern} {path}");
        }
    }

    #[test]
    fn one_of_several_patterns_is_enough_and_none_is_for_nothing() {
        assert!(role(Some(&["a", "b"]), None).covers("b"));
        assert!(!role(Some(&[]), None).covers("b"));
        assert!(!role(None, None).covers("b"));
    }

    #[test]
    fn a_prefix_of_the_paths_hash_covers_it() {
        let hash = Digest::of(b"some/path").to_string();
        let covers = |prefix: &str| role(None, Some(&["zz", prefix])).covers("some/path");
        assert!(covers(&hash));
        assert!(covers(hash.get(..2).expect("hex")));
        assert!(covers(""));
        assert!(!covers(&format!("{hash}0")));
        assert!(!role(None, Some(&["zz"])).covers("some/path"));
    }

    #[test]
    fn many_stars_cost_little() {
        let pattern = "*a".repeat(2_000);
        assert!(!role(Some(&[&pattern]), None).covers(&"a".repeat(1_999)));
        assert!(role(Some(&[&pattern]), None).covers(&"a".repeat(2_000)));
    }

    proptest! {
        #[test]
        fn a_pattern_without_wildcards_matches_itself_only(a in "[a-c/.]{0,8}", b in "[a-c/.]{0,8}") {
            prop_assert_eq!(matches_path(&a, &b), a == b);
        }

        #[test]
        fn no_pattern_panics(pattern in r"[a-c/*?!\[\]-]{0,16}", path in r"[a-c/\[\]!-]{0,16}") {
            let _ = matches_path(&pattern, &path);
        }
    }
}
