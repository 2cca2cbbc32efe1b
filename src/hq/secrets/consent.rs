//! Whether the program that `secrets-command` names may be run. `fleet.toml` is in git, so anybody whose commit is pulled
//! could name another one; a person says here, outside git, which one is meant.

use std::path::PathBuf;

use anyhow::{Context as _, anyhow, ensure};

use crate::ask;
use durable::{PRIVATE, PRIVATE_DIR};
use repository::layout::Layout;
use telemetry::Hint as _;

/// The file with the program and its arguments, as JSON.
fn path(layout: &Layout) -> PathBuf {
    layout.keys().join("secrets-command.allowed")
}

fn text(command: &[String]) -> anyhow::Result<String> {
    serde_json::to_string(command).context("cannot write a command")
}

/// Notes that this program may be run, and returns it for people.
pub fn allow(layout: &Layout, command: &[String]) -> anyhow::Result<String> {
    ensure!(!command.is_empty(), "fleet.toml names no `secrets-command`");
    let text = text(command)?;
    durable::create_dirs(&layout.keys(), PRIVATE_DIR).context("cannot make keys/")?;
    let path = path(layout);
    durable::replace(&path, format!("{text}\n").as_bytes(), PRIVATE)
        .with_context(|| format!("cannot write {}", path.display()))?;
    Ok(text)
}

/// Fails unless this program may be run. If there is somebody to ask, asks.
pub(super) fn needed(layout: &Layout, command: &[String]) -> anyhow::Result<()> {
    let text = text(command)?;
    let allowed = durable::read_regular(&path(layout), 64 * 1024).unwrap_or_default();
    if String::from_utf8_lossy(&allowed).trim_end() == text {
        return Ok(());
    }
    let question = format!("fleet.toml has `secrets-command` run {text}.\nMay it run on this machine, from now on?");
    if ask::is_yes(&question)? {
        return allow(layout, command).map(drop);
    }
    Err(anyhow!("nobody here agreed to run the program of `secrets-command`, {text}")).hint(
        "if it is the right one, answer y, or say `lineside-hq secret allow-command` once; the answer stays in keys/",
    )
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::lint;
    use crate::secrets::Secrets;
    use crate::testing::sample;

    #[test]
    fn a_program_of_git_runs_only_once_a_person_agreed() {
        let sample = sample();
        let ran = sample.layout.dir().join("ran");
        let script = format!("touch {}; echo value", ran.display());
        let line = format!("secrets-command = [\"sh\", \"-c\", \"{script}\"]\n");
        sample.replace("fleet.toml", "[defaults.dhcp]", &format!("{line}\n[defaults.dhcp]"));
        let (fleet, report) = lint::read(&sample.layout);
        let fleet = fleet.unwrap();
        assert!(report.is_clean() && report.notes.iter().any(|note| note.contains("was not run")), "{report}");
        assert!(!ran.exists(), "check runs nothing");
        let command = &fleet.inventory.fleet.secrets_command;
        allow(&sample.layout, command).unwrap();
        let secrets = Secrets::open(&sample.layout, &fleet.inventory.fleet).unwrap();
        let secrets = secrets.for_use(&sample.layout, &fleet.inventory.fleet).unwrap();
        assert_eq!(secrets.resolve("sip-101").unwrap().as_str(), "value");
        assert!(ran.exists());
        // Another program in a later commit is another question.
        let other = [command.as_slice(), &["x".to_owned()]].concat();
        assert_ne!(text(&other).unwrap(), text(command).unwrap());
    }
}
