//! The public conformance suite for TUF clients.
//!
//! It is in no package registry: https://github.com/theupdateframework/tuf-conformance. `TUF_CONFORMANCE` names a
//! checkout; without one this test says so and is skipped, in CI too. What runs in its place everywhere is `python_tuf`, by
//! the same library that the suite is made with.
//!
//! ```sh
//! git clone https://github.com/theupdateframework/tuf-conformance /tmp/tuf-conformance
//! TUF_CONFORMANCE=/tmp/tuf-conformance cargo test --test tuf suite -- --nocapture
//! ```
//!
//! Of the 113 tests of its version 2.4.0 (commit eec841c) 95 pass and 18 are expected to fail, each with its reason in
//! `conformance.xfails`. The plugin `ed25519_keys.py` has the suite sign with Ed25519 where it does not care and would
//! take ECDSA, which Lineside does not trust.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use crate::python::{client, has, python, run, script};

#[test]
fn the_public_conformance_suite_passes() {
    let test = "the_public_conformance_suite";
    let Some(suite) = std::env::var_os("TUF_CONFORMANCE").map(PathBuf::from) else {
        eprintln!("SKIPPED {test}: TUF_CONFORMANCE names no checkout of it");
        return;
    };
    let Some(python) = python(test).filter(|_| has(test, &["faketime"])) else { return };
    // The suite looks for expected failures beside the program.
    let dir = tempfile::tempdir().unwrap();
    let program = dir.path().join("lineside-tuf");
    fs::copy(client(), &program).unwrap();
    fs::copy(script("conformance.xfails"), dir.path().join("lineside-tuf.xfails")).unwrap();
    fs::copy(script("ed25519_keys.py"), dir.path().join("ed25519_keys.py")).unwrap();
    let paths = std::env::join_paths([dir.path(), &suite]).unwrap();
    let mut command = Command::new(python);
    command.args(["-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "ed25519_keys", "-rxfE"]);
    command.arg(suite.join("tuf_conformance")).arg("--entrypoint").arg(&program);
    command.env("PYTHONPATH", paths).env("PYTHONDONTWRITEBYTECODE", "1");
    let (done, said) = run(command.current_dir(dir.path()));
    println!("{said}");
    assert!(done, "{said}");
}
