//! Who writes files. `.clippy.toml` forbids it to all but `durable`; here stands who is excepted, and that nobody lifts the
//! rule for a whole room.

use super::{code, files};

/// What writes, makes or renames a file without the care that `durable` takes.
const BY_HAND: &[&str] = &[
    "fs::write(",
    "fs::copy(",
    "fs::rename(",
    "fs::hard_link(",
    "fs::create_dir",
    "DirBuilder",
    "File::create",
    ".create(true)",
    ".create_new(true)",
    ".truncate(true)",
    "NamedTempFile",
];

/// Who may, and why.
const EXCEPTED: &[(&str, &str)] = &[
    ("appliance/notify.rs", "the LED's word: below /run, and systemd waits for this very write"),
    ("durable/disk.rs", "everybody else comes here"),
    ("status/service.rs", "the folder of a socket, below /run"),
    ("store/cache.rs", "what may be lost"),
];

/// Whole files that only tests are made of, and the demo, whose folder is gone when it ends.
fn lasts(path: &str) -> bool {
    let tests = ["test", "store/cache_cuts", "store/power_cuts/", "store/fixtures", "seal/vectors"];
    !path.starts_with("demo/") && !tests.iter().any(|word| path.contains(word))
}

#[test]
fn what_lasts_is_written_by_durable_alone() {
    let mut by_hand = Vec::new();
    for (path, text) in files().into_iter().filter(|(path, _)| lasts(path)) {
        // Tests that others of the room borrow from are a module of this kind.
        let code = code(text.split("\n#[cfg(test)]\npub(super) mod tests").next().unwrap());
        by_hand.extend(BY_HAND.iter().filter(|word| code.contains(**word)).map(|word| (path.clone(), *word)));
    }
    let (excepted, broken): (Vec<_>, Vec<_>) =
        by_hand.into_iter().partition(|(path, _)| EXCEPTED.iter().any(|(excepted, _)| excepted == path));
    assert!(broken.is_empty(), "{broken:#?}");
    for (path, why) in EXCEPTED {
        assert!(excepted.iter().any(|(found, _)| found == path), "{path} needs no exception any more: {why}");
    }
}

#[test]
fn clippy_knows_what_only_durable_may_call() {
    let rules = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/.clippy.toml")).unwrap();
    for method in ["write", "copy", "rename", "create_dir", "File::create", "OpenOptions::create"] {
        assert!(rules.contains(&format!("\"std::fs::{method}\"")), "{method}");
    }
    for (path, text) in files().into_iter().filter(|(path, _)| path.ends_with("/lib.rs")) {
        let lifted = text.lines().find(|line| line.starts_with("#!") && line.contains("disallowed_methods"));
        assert!(lifted.is_none_or(|line| line.starts_with("#![cfg_attr(test,")), "{path} lifts the rule");
    }
}
