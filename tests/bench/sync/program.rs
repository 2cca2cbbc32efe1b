//! Bytes of the appliance's program, built as it ships, and what they are for.
//!
//! Only when asked for by name: it is built with a target directory of its own, which takes minutes. What each package
//! adds is told by `cargo bloat` (`cargo install cargo-bloat`).

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use crate::Table;
use crate::world::done;

/// Packages that only trust needs: signatures, sealing.
const TRUST: [&str; 10] = [
    "aead_stream",
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
    let target = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/bench-program");
    for (profile, goal) in [("release", None), ("dist", Some(7.0))] {
        let mut build = cargo();
        build.args(["build", "--quiet", "--profile", profile, "--target-dir"]).arg(&target).args(FIRMWARE);
        done(&mut build);
        let bytes = std::fs::metadata(target.join(profile).join("lineside")).unwrap().len();
        table.row(format!("lineside for the appliance, profile {profile}"), bytes as f64 / 1e6, "MB", goal);
    }
    parts(&target, table);
}

/// Where the bytes of machine code come from.
fn parts(target: &Path, table: &mut Table) {
    let mut bloat = cargo();
    bloat.args(["bloat", "--profile", "dist", "-n", "0", "--full-fn", "--message-format", "json", "--target-dir"]);
    let output = bloat.arg(target).args(FIRMWARE).output().unwrap();
    if !output.status.success() {
        println!("  cargo bloat is not installed, or failed: {}", String::from_utf8_lossy(&output.stderr));
        return;
    }
    let told: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let mut packages: BTreeMap<String, u64> = BTreeMap::new();
    let mut trust = 0;
    for function in told["functions"].as_array().unwrap() {
        let (name, bytes) = (function["name"].as_str().unwrap_or_default(), function["size"].as_u64().unwrap());
        let package = function["crate"].as_str().unwrap_or("?").to_owned();
        let ours = ["lineside::tuf::", "lineside::bundle::"].iter().any(|room| name.contains(room));
        if ours || TRUST.contains(&package.as_str()) {
            trust += bytes;
        }
        *packages.entry(package).or_default() += bytes;
    }
    table.row("  trust: rooms tuf and bundle, and packages that only they need", trust as f64 / 1e6, "MB", Some(0.5));
    let mut packages: Vec<(u64, String)> = packages.into_iter().map(|(name, bytes)| (bytes, name)).collect();
    packages.sort_unstable_by(|a, b| b.cmp(a));
    for (bytes, name) in packages.into_iter().take(SHOWN) {
        println!("  {:>8} KB  {name}", bytes / 1000);
    }
}

fn cargo() -> Command {
    let mut cargo = Command::new(env!("CARGO"));
    cargo.current_dir(env!("CARGO_MANIFEST_DIR"));
    cargo
}
