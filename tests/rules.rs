//! The rules of the house, as `src/ARCHITECTURE.md` states them: who may import whom, where sockets, clocks and
//! tokio may appear, how long a file may be, and which packages the firmware must not carry.

#![allow(clippy::unwrap_used)]

#[path = "rules/codes.rs"]
mod codes;
#[path = "rules/requirements.rs"]
mod requirements;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Lines in a source file: "no file over about 500".
const MAX_LINES: usize = 520;

/// Each room and the rooms that it may import.
const MAY_IMPORT: &[(&str, &[&str])] = &[
    ("ids", &[]),
    ("telemetry", &[]),
    ("tuf", &["ids"]),
    ("bundle", &["ids"]),
    ("api", &["ids", "bundle"]),
    ("access", &["ids", "tuf", "bundle", "api"]),
    ("hq", &["ids", "telemetry", "tuf", "bundle", "api", "access"]),
    ("status", &["ids", "bundle", "api", "access"]),
    ("store", &["ids", "tuf", "bundle", "api", "access"]),
    ("dhcp", &["ids", "bundle", "api", "access", "status"]),
    ("tftp", &["ids", "bundle", "api", "access", "status"]),
    ("update", &["ids", "tuf", "bundle", "api", "access", "store", "status"]),
    ("appliance", &["ids", "telemetry", "tuf", "bundle", "api", "access", "store", "dhcp", "tftp", "update", "status"]),
];

/// What only services, clients, HQ, the appliance's process room and the demo may touch.
const IMPURE: &[&str] =
    &["tokio::", "SystemTime::now", "Instant::now", "std::net::UdpSocket", "std::net::Tcp", "socket2::"];

fn source() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
}

/// Every Rust file below `dir` with its path relative to `src`.
fn files() -> Vec<(String, String)> {
    fn walk(dir: &Path, found: &mut Vec<(String, String)>) {
        for entry in std::fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                walk(&path, found);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let relative = path.strip_prefix(source()).unwrap().to_str().unwrap().to_owned();
                found.push((relative, std::fs::read_to_string(&path).unwrap()));
            }
        }
    }
    let mut found = Vec::new();
    walk(&source(), &mut found);
    assert!(found.len() > 40, "only {} source files were found", found.len());
    found.sort();
    found
}

fn room(path: &str) -> &str {
    path.split(['/', '.']).next().unwrap()
}

/// The code of a file without comments and without its test module.
fn code(text: &str) -> String {
    let body = text.split("\n#[cfg(test)]\nmod tests").next().unwrap();
    body.lines().filter(|line| !line.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n")
}

/// The rooms that a piece of code names by `crate::`.
fn imported(code: &str) -> BTreeSet<String> {
    let mut rooms = BTreeSet::new();
    for (position, _) in code.match_indices("crate::") {
        let rest = &code[position + "crate::".len()..];
        if let Some(list) = rest.strip_prefix('{') {
            let list = &list[..list.find('}').unwrap_or(list.len())];
            rooms.extend(list.split(',').map(|item| item.trim().split("::").next().unwrap().to_owned()));
        } else {
            rooms.insert(rest.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect());
        }
    }
    rooms.remove("");
    rooms
}

#[test]
fn every_room_imports_only_what_lies_above_it() {
    let mut broken = Vec::new();
    for (path, text) in files() {
        let here = room(&path);
        if matches!(here, "lib" | "bin" | "demo") {
            continue;
        }
        let (_, allowed) =
            MAY_IMPORT.iter().find(|(name, _)| *name == here).unwrap_or_else(|| panic!("{path}: no such room"));
        // Tests too: a room that needs a lower one to be tested is in the wrong place.
        for other in imported(&text) {
            if other != here && !allowed.contains(&other.as_str()) {
                broken.push(format!("{path} imports {other}"));
            }
        }
    }
    assert!(broken.is_empty(), "{broken:#?}");
}

#[test]
fn sockets_clocks_and_tokio_stay_in_services() {
    let allowed = |path: &str| {
        let parts: Vec<&str> = path.split('/').collect();
        matches!(room(path), "appliance" | "hq" | "demo" | "bin" | "telemetry")
            || parts.iter().any(|part| matches!(part.trim_end_matches(".rs"), "service" | "client"))
    };
    let mut broken = Vec::new();
    for (path, text) in files().into_iter().filter(|(path, _)| !allowed(path) && !path.contains("test")) {
        let code = code(&text);
        broken.extend(IMPURE.iter().filter(|word| code.contains(**word)).map(|word| format!("{path} uses {word}")));
    }
    assert!(broken.is_empty(), "{broken:#?}");
}

#[test]
fn no_file_is_longer_than_a_reader_can_hold() {
    let long: Vec<String> = files()
        .into_iter()
        .map(|(path, text)| (text.lines().count(), path))
        .filter(|(lines, _)| *lines > MAX_LINES)
        .map(|(lines, path)| format!("{path}: {lines} lines"))
        .collect();
    assert!(long.is_empty(), "over {MAX_LINES} lines: {long:#?}");
}

#[test]
fn the_top_level_is_as_ordered() {
    let ordered = [
        "CHANGELOG.md",
        "Cargo.lock",
        "Cargo.toml",
        "LICENSE",
        "README.md",
        "cross",
        "image",
        "src",
        "systemd",
        "target",
        "tests",
    ];
    let strangers: Vec<String> = std::fs::read_dir(env!("CARGO_MANIFEST_DIR"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().to_str().unwrap().to_owned())
        .filter(|name| !name.starts_with('.') && !ordered.contains(&name.as_str()))
        .collect();
    assert!(strangers.is_empty(), "{strangers:?}");
}

/// The packages that a feature brings into a normal build.
fn packages(feature: &str) -> BTreeSet<String> {
    let output = Command::new(env!("CARGO"))
        .args(["tree", "--offline", "--edges", "normal", "--prefix", "none", "--format", "{p}"])
        .args(["--no-default-features", "--features", feature])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines().filter_map(|line| line.split(' ').next()).map(str::to_owned).collect()
}

#[test]
fn the_firmware_carries_no_package_of_hq() {
    let firmware = packages("appliance");
    for package in ["age", "axum", "csv", "indicatif", "minijinja", "qrcode", "rusqlite", "zstd", "async-tftp"] {
        assert!(!firmware.contains(package), "{package} is in the firmware");
    }
    // What must be there, so that the check above cannot pass on an empty list.
    for package in
        ["tokio", "dhcproto", "reqwest", "rustls", "sha2", "ed25519-dalek", "serde", "sled", "tracing", "hpke"]
    {
        assert!(firmware.contains(package), "{package} is not in the firmware");
    }
}

#[test]
fn hq_carries_no_package_of_the_firmware() {
    let hq = packages("hq");
    for package in ["dhcproto", "sled", "rtnetlink", "reqwest"] {
        assert!(!hq.contains(package), "{package} is in HQ");
    }
    assert!(hq.contains("axum") && hq.contains("minijinja"));
}

#[test]
fn a_use_of_another_room_is_seen_in_every_form() {
    let seen = imported("use crate::{store, hq::x};\nlet y = crate::dhcp::z();\nuse crate::tftp::{A, B};");
    let expected: BTreeSet<String> = ["store", "hq", "dhcp", "tftp"].map(str::to_owned).into();
    assert_eq!(seen, expected);
}
