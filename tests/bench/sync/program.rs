//! Bytes of the appliance's program, built as it ships, and what they are for.
//!
//! Only when asked for by name: it is built with a target directory of its own, which takes minutes. What each package
//! adds is the sum of its functions in the symbol table (`nm` of binutils). What the linker merged or inlined counts
//! where it ended up.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::Table;
use crate::world::done;

/// Packages that only trust needs: signatures, sealing.
const TRUST: [&str; 9] = [
    "chacha20",
    "chacha20poly1305",
    "curve25519_dalek",
    "ed25519_dalek",
    "hkdf",
    "hmac",
    "hpke",
    "poly1305",
    "x25519_dalek",
];
const FIRMWARE: [&str; 5] = ["--no-default-features", "--features", "appliance", "--bin", "lineside"];
/// The largest packages that are shown.
const SHOWN: usize = 16;

pub fn chapter(table: &mut Table) {
    println!("\nthe appliance's program");
    let program = build();
    let stripped = program.with_extension("stripped");
    done(Command::new("strip").arg("-o").arg(&stripped).arg(&program));
    let bytes = std::fs::metadata(stripped).unwrap().len();
    table.row("lineside for the appliance, profile dist", bytes as f64 / 1e6, "MB", Some(7.0));

    let packages =
        packages(&done(Command::new("nm").args(["--demangle", "--print-size", "--defined-only"]).arg(program)));
    let code: u64 = packages.values().sum();
    table.row("  of which machine code and tables with a name", code as f64 / 1e6, "MB", None);
    let trust = packages.iter().filter(|(name, _)| is_trust(name)).map(|(_, bytes)| bytes).sum::<u64>();
    table.row("  trust: rooms tuf and bundle, and packages that only they need", trust as f64 / 1e6, "MB", Some(0.5));
    let mut packages: Vec<(u64, String)> = packages.into_iter().map(|(name, bytes)| (bytes, name)).collect();
    packages.sort_unstable_by(|a, b| b.cmp(a));
    for (index, (bytes, name)) in packages.into_iter().enumerate() {
        if index < SHOWN || is_trust(&name) {
            println!("  {:>8.1} KB  {name}{}", bytes as f64 / 1e3, if is_trust(&name) { " (trust)" } else { "" });
        }
    }
}

/// The program with its symbols, otherwise as it ships.
fn build() -> PathBuf {
    let target = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/bench-program");
    let mut build = Command::new(env!("CARGO"));
    build.current_dir(env!("CARGO_MANIFEST_DIR")).env("CARGO_PROFILE_DIST_STRIP", "none");
    build.args(["build", "--quiet", "--profile", "dist", "--target-dir"]).arg(&target).args(FIRMWARE);
    done(&mut build);
    target.join("dist/lineside")
}

fn is_trust(package: &str) -> bool {
    TRUST.contains(&package) || ["tuf", "bundle"].contains(&package)
}

/// Bytes by package; ours by room.
fn packages(symbols: &str) -> BTreeMap<String, u64> {
    let mut found = BTreeMap::new();
    for line in symbols.lines() {
        let mut words = line.splitn(4, ' ');
        let (Some(_), Some(size), Some(kind), Some(name)) = (words.next(), words.next(), words.next(), words.next())
        else {
            continue;
        };
        let Ok(size) = u64::from_str_radix(size, 16) else { continue };
        if "tTrRdD".contains(kind) {
            *found.entry(package(name)).or_default() += size;
        }
    }
    found
}

/// `<&mut hyper::x as core::y>::z` is hyper's; what has no path is C.
fn package(name: &str) -> String {
    let bare = name.trim_start_matches(|c: char| !c.is_alphanumeric() && c != '_').trim_start_matches("mut ");
    let bare = bare.trim_start_matches("dyn ");
    let mut path = bare.split("::");
    let first = path.next().unwrap_or_default();
    let sound = !first.is_empty() && first.chars().all(|c| c.is_alphanumeric() || c == '_');
    match (sound, path.next()) {
        (true, Some(room)) if first == "lineside" => {
            format!("lineside::{}", room.split(|c: char| !c.is_alphanumeric() && c != '_').next().unwrap_or_default())
        }
        (true, Some(_)) => first.to_owned(),
        _ => "C and assembly (ring, libc)".to_owned(),
    }
}
