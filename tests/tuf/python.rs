//! The Python that other people's programs run in.

use std::path::{Path, PathBuf};
use std::process::Command;

/// A file beside this one.
pub fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/tuf").join(name)
}

/// The program that is tested beside the shipped ones.
pub fn client() -> PathBuf {
    let programs = Path::new(env!("CARGO_BIN_EXE_lineside-hq")).parent().unwrap();
    let path = programs.join("examples/tuf-conformance");
    assert!(path.exists(), "{} is missing; `cargo build --examples` makes it", path.display());
    path
}

/// An interpreter with requirements.txt: `LINESIDE_PYTHON`, or the one that `tests/tuf/venv` made. If there is none,
/// says so loudly; with `CI=true` that is a failure.
pub fn python(test: &str) -> Option<PathBuf> {
    let made = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/python/bin/python");
    let python = std::env::var_os("LINESIDE_PYTHON").map_or(made, PathBuf::from);
    let has_all = Command::new(&python).args(["-c", "import cryptography, pytest, tuf"]).output();
    if has_all.is_ok_and(|output| output.status.success()) {
        return Some(python);
    }
    skip(test, "an interpreter with tests/tuf/requirements.txt (tests/tuf/venv makes one)");
    None
}

/// Says loudly that a test cannot run here. With `CI=true` that is a failure.
fn skip(test: &str, lacking: &str) {
    assert!(std::env::var("CI").as_deref() != Ok("true"), "{test} cannot run here: it needs {lacking}");
    eprintln!("SKIPPED {test}: it needs {lacking}");
}

/// Whether these programs are installed; skips if not.
pub fn has(test: &str, programs: &[&str]) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let installed = |name: &&&str| std::env::split_paths(&path).any(|dir| dir.join(name).exists());
    match programs.iter().find(|name| !installed(name)) {
        Some(lacking) => {
            skip(test, lacking);
            false
        }
        None => true,
    }
}

/// Runs it and returns what it printed.
pub fn run(command: &mut Command) -> (bool, String) {
    let output = command.output().unwrap();
    let said = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8_lossy(&said).into_owned())
}
