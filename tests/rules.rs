//! The rules of the house, as `src/ARCHITECTURE.md` states them: which room may depend on which, where sockets, clocks and
//! tokio may appear, how long a file may be, and which packages the firmware must not carry.

#![allow(unreachable_pub, clippy::unwrap_used, clippy::indexing_slicing)]

#[path = "rules/codes.rs"]
mod codes;
#[path = "rules/disk.rs"]
mod disk;
#[path = "rules/requirements.rs"]
mod requirements;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Lines in a source file of the rooms, tests beside the code included.
const MAX_LINES: usize = 510;

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

/// The rooms of the table in `src/ARCHITECTURE.md`, and what each may depend on, with what those may.
fn table() -> BTreeMap<String, BTreeSet<String>> {
    let text = std::fs::read_to_string(source().join("ARCHITECTURE.md")).unwrap();
    let mut direct = BTreeMap::new();
    let (_, rooms) = text.split_once("\n## Rooms\n").unwrap();
    let (rooms, _) = rooms.split_once("\n## ").unwrap();
    for line in rooms.lines().filter(|line| line.starts_with("| `")) {
        let cells: Vec<&str> = line.trim_matches('|').split(" | ").collect();
        let names = |cell: &str| -> Vec<String> { cell.split('`').skip(1).step_by(2).map(str::to_owned).collect() };
        let [rooms, _, may] = cells[..] else { continue };
        for room in names(rooms) {
            direct.insert(room, (names(may), may.contains("all of the site")));
        }
    }
    let mut table: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for (room, (named, site)) in &direct {
        let mut may: BTreeSet<String> = BTreeSet::new();
        let mut next = named.clone();
        if *site {
            next.extend(direct.keys().filter(|name| !OF_HQ.contains(&name.as_str()) && *name != room).cloned());
        }
        while let Some(name) = next.pop() {
            if may.insert(name.clone()) {
                next.extend(direct[&name].0.iter().cloned());
            }
        }
        table.insert(room.clone(), may);
    }
    table
}

/// The rooms that no appliance has.
const OF_HQ: &[&str] = &["seal", "repository", "online", "hq"];

#[test]
fn rooms_depend_on_what_the_map_says_and_on_nothing_else() {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--offline", "--no-deps", "--format-version", "1"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let table = table();
    let mut crates = BTreeSet::new();
    let mut broken = Vec::new();
    for package in metadata["packages"].as_array().unwrap() {
        let room = package["name"].as_str().unwrap();
        if room == "lineside" {
            continue;
        }
        crates.insert(room.to_owned());
        let may = table.get(room).unwrap_or_else(|| panic!("{room} is not on the map"));
        for dependency in package["dependencies"].as_array().unwrap() {
            let name = dependency["name"].as_str().unwrap();
            // A site's rooms are tested with what HQ's desk seals.
            let tests_seal = dependency["kind"] == "dev" && name == "seal";
            if dependency["path"].is_string() && !may.contains(name) && !tests_seal {
                broken.push(format!("{room} depends on {name}"));
            }
        }
    }
    assert!(broken.is_empty(), "{broken:#?}");
    assert_eq!(crates, table.keys().cloned().collect(), "the map lists the crates");
    assert!(!table["online"].contains("seal") && !table["appliance"].contains("seal"), "who serves cannot seal");
}

#[test]
fn sockets_clocks_and_tokio_stay_in_services() {
    let allowed = |path: &str| {
        let parts: Vec<&str> = path.split('/').collect();
        matches!(room(path), "appliance" | "hq" | "online" | "demo" | "bin" | "telemetry")
            || parts.iter().any(|part| matches!(part.trim_end_matches(".rs"), "service" | "client" | "packet_sockets"))
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
