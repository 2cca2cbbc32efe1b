//! The command lines of both programs, as people see them: every help, what success says, and typical mistakes.
//!
//! A transcript is a text file beside this one. `## ` begins a remark, `$ ` a command for `sh` (with `> ` before its
//! further lines; `cd` stays), `& ` a program that runs until the transcript ends. What follows is what was printed, standard error
//! with `! ` before each line, and the exit status. `LINESIDE_BLESS=1 cargo test --test cli` writes the files anew:
//! read the difference before you commit it.

#![allow(
    unreachable_pub,
    clippy::cast_possible_truncation,
    clippy::disallowed_methods,
    clippy::unwrap_used,
    clippy::indexing_slicing
)]

mod redact;
mod terminal;

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

/// How long a program that runs beside the others may take to answer.
const START_WITHIN: Duration = Duration::from_secs(60);

/// Makes a test of each transcript.
macro_rules! transcripts {
    ($($test:ident: $file:literal,)*) => {
        const ALL: &[&str] = &[$($file),*];
        $(#[test] fn $test() { replay($file); })*
    };
}

transcripts! {
    the_appliance_helps: "lineside/help.txt",
    the_appliance_checks_its_configuration: "lineside/check-config.txt",
    the_appliance_says_what_went_wrong: "lineside/errors.txt",
    hq_helps: "lineside-hq/help.txt",
    hq_helps_with_keys: "lineside-hq/help-keys.txt",
    hq_begins_a_fleet: "lineside-hq/init.txt",
    hq_checks_plans_and_publishes: "lineside-hq/publish.txt",
    hq_manages_sites_and_secrets: "lineside-hq/site.txt",
    hq_manages_keys: "lineside-hq/keys.txt",
    a_site_from_its_token_to_a_roll_back: "both.txt",
}

/// Where a transcript runs: a folder of its own, with what it started.
struct Stage {
    dir: tempfile::TempDir,
    now_in: PathBuf,
    port: u16,
    beside: Vec<Child>,
}

impl Drop for Stage {
    fn drop(&mut self) {
        for child in &mut self.beside {
            // It may have ended by itself.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

impl Stage {
    fn new() -> Self {
        // Nobody else takes a free port as soon as this.
        let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port();
        let dir = tempfile::tempdir().unwrap();
        Self { now_in: dir.path().to_owned(), dir, port, beside: Vec::new() }
    }

    /// A shell that knows nothing of this machine, its user and the terminal.
    fn shell(&self, words: &[&str]) -> Command {
        let programs = Path::new(env!("CARGO_BIN_EXE_lineside")).parent().unwrap();
        let mut shell = Command::new(words[0]);
        shell
            .args(&words[1..])
            .current_dir(&self.now_in)
            .stdin(Stdio::null())
            .env_clear()
            .env("PATH", format!("{}:/usr/bin:/bin", programs.display()))
            .env("HOME", self.dir.path())
            .env("PORT", self.port.to_string())
            .envs([("COLUMNS", "100"), ("LC_ALL", "C"), ("LINESIDE_LOG", "off"), ("NO_COLOR", "1"), ("TZ", "UTC")]);
        shell
    }

    /// Starts a program and waits until it listens: at `$PORT`, or at `status.sock`.
    fn start(&mut self, script: &str) {
        let child = self
            .shell(&["sh", "-c", &format!("exec {script}")])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        self.beside.push(child);
        let socket = self.now_in.join("status.sock");
        let listens = || match script.contains("$PORT") {
            true => TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)).is_ok(),
            false => socket.exists(),
        };
        let end = Instant::now() + START_WITHIN;
        while !listens() {
            assert!(Instant::now() < end, "`{script}` does not listen");
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    fn run(&self, script: &str) -> String {
        // What waits for ever is a mistake, too.
        let output = self.shell(&["timeout", "60", "sh", "-c", script]).output().unwrap();
        let shown = transcribe(&output);
        // A program of ours that says nothing would be right whatever it did.
        assert!(!script.starts_with("lineside") || shown.lines().count() > 1, "`{script}` says nothing");
        redact::redact(&shown, self.dir.path().to_str().unwrap(), self.port)
    }
}

fn transcribe(output: &Output) -> String {
    let mut shown = String::from_utf8(output.stdout.clone()).unwrap();
    if !shown.is_empty() && !shown.ends_with('\n') {
        shown.push_str("(no line end)\n");
    }
    for line in std::str::from_utf8(&output.stderr).unwrap().lines() {
        let _ = writeln!(shown, "{}", format!("! {line}").trim_end());
    }
    let _ = writeln!(shown, "exit {}", output.status.code().unwrap());
    shown
}

fn path(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cli").join(file)
}

/// Runs the commands of a transcript and compares what they print with what stands there.
fn replay(file: &str) {
    let expected = std::fs::read_to_string(path(file)).unwrap();
    let mut stage = Stage::new();
    let mut seen = String::new();
    let mut lines = expected.lines().peekable();
    while let Some(line) = lines.next() {
        if line.starts_with("## ") {
            let _ = writeln!(seen, "{line}");
        } else if let Some(program) = line.strip_prefix("& ") {
            stage.start(program);
            let _ = writeln!(seen, "{line}\n");
        } else if let Some(command) = line.strip_prefix("$ ") {
            let mut script = command.to_owned();
            let _ = writeln!(seen, "{line}");
            while let Some(more) = lines.peek().and_then(|line| line.strip_prefix("> ")) {
                script.push('\n');
                script.push_str(more);
                let _ = writeln!(seen, "> {more}");
                lines.next();
            }
            match script.strip_prefix("cd ") {
                Some(folder) => stage.now_in.push(folder),
                None => seen.push_str(&stage.run(&script)),
            }
            seen.push('\n');
        }
    }
    assert!(seen.contains("$ lineside"), "{file} runs no program");
    if std::env::var_os("LINESIDE_BLESS").is_some() {
        std::fs::write(path(file), &seen).unwrap();
    } else if seen != expected {
        let differs = seen.lines().zip(expected.lines()).position(|(seen, expected)| seen != expected);
        let line = differs.unwrap_or(seen.lines().count().min(expected.lines().count())) + 1;
        panic!("{file} differs from line {line} on; LINESIDE_BLESS=1 accepts this:\n{seen}");
    }
}

#[test]
fn every_transcript_has_a_test() {
    let mut found = BTreeSet::new();
    for folder in ["", "lineside", "lineside-hq"] {
        for entry in std::fs::read_dir(path(folder)).unwrap() {
            let name = Path::new(folder).join(entry.unwrap().file_name()).to_str().unwrap().to_owned();
            found.extend(name.ends_with(".txt").then_some(name));
        }
    }
    assert_eq!(found, ALL.iter().map(|file| (*file).to_owned()).collect());
}

#[test]
fn every_command_has_its_help_in_a_transcript() {
    fn walk(stage: &Stage, command: &str, found: &mut Vec<String>) {
        found.push(command.to_owned());
        let help = stage.run(&format!("{command} --help"));
        let list = help.split("Commands:\n").nth(1).unwrap_or_default().split("\n\n").next().unwrap();
        for name in list.lines().filter_map(|line| line.strip_prefix("  ")?.split(' ').next()) {
            if !name.is_empty() && name != "help" {
                walk(stage, &format!("{command} {name}"), found);
            }
        }
    }
    for (program, least) in [("lineside", 9), ("lineside-hq", 29)] {
        let mut commands = Vec::new();
        walk(&Stage::new(), program, &mut commands);
        assert!(commands.len() >= least, "{commands:?}");
        let read = |file: &str| std::fs::read_to_string(path(&format!("{program}/{file}")));
        let transcript = read("help.txt").unwrap() + &read("help-keys.txt").unwrap_or_default();
        for command in commands {
            assert!(transcript.contains(&format!("$ {command} --help\n")), "{command} --help is in no transcript");
        }
    }
}
