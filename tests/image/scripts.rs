//! The image's own scripts, each by itself: what they keep, say and refuse.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use super::net::{can_run, text};

fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("image/rootfs/usr/lib/lineside/os").join(name)
}

/// A slot state as the boot loader keeps it: four bytes of CRC-32, `name=value` each with a NUL, zeros.
fn state(text: &str) -> Vec<u8> {
    let mut body = vec![0; 16_380];
    body[..text.len()].copy_from_slice(text.as_bytes());
    [crc32(&body).to_le_bytes().to_vec(), body].concat()
}

fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(u32::MAX, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| (crc >> 1) ^ (0xedb8_8320 & (crc & 1).wrapping_neg()))
    })
}

/// The two copies, in a directory that stands for the FAT partition.
struct Slots(tempfile::TempDir);

impl Slots {
    fn new(env: &[u8], bak: &[u8]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("slots.env"), env).unwrap();
        fs::write(dir.path().join("slots.bak"), bak).unwrap();
        Self(dir)
    }

    fn run(&self, program: &str, words: &[&str]) -> Output {
        let mut command = Command::new(script(program));
        command.args(words).env("LINESIDE_BOOT", self.0.path()).env("LINESIDE_RUN", self.0.path());
        command.output().unwrap()
    }

    fn value(&self, name: &str) -> String {
        let output = self.run("fw_printenv", &["-n", name]);
        assert!(output.status.success(), "{}", text(&output));
        text(&output).trim().to_owned()
    }

    fn copies(&self) -> (Vec<u8>, Vec<u8>) {
        (fs::read(self.0.path().join("slots.env")).unwrap(), fs::read(self.0.path().join("slots.bak")).unwrap())
    }
}

const OLD: &str = "BOOT_ORDER=A B\0BOOT_A_LEFT=2\0BOOT_B_LEFT=0\0\0";
const NEW: &str = "BOOT_ORDER=B A\0BOOT_A_LEFT=3\0BOOT_B_LEFT=1\0\0";

#[test]
fn slot_state_is_read_from_the_copy_that_is_whole() {
    if !can_run("slot_state", &["fw_printenv", "gzip", "od"]) {
        return;
    }
    let mut torn = state(NEW);
    torn[2000] = 1;
    assert_eq!(Slots::new(&state(NEW), &state(OLD)).value("BOOT_ORDER"), "B A", "the first goes before");
    assert_eq!(Slots::new(&torn, &state(OLD)).value("BOOT_ORDER"), "A B");
    assert_eq!(Slots::new(b"short", &state(OLD)).value("BOOT_ORDER"), "A B");
    assert_eq!(Slots::new(&state(NEW), &torn).value("BOOT_ORDER"), "B A");
    let both = Slots::new(&torn, &torn).run("fw_printenv", &["BOOT_ORDER"]);
    assert!(!both.status.success() && text(&both).contains("neither copy"), "{}", text(&both));
}

#[test]
fn a_new_slot_state_is_in_both_copies_and_heals_a_torn_one() {
    if !can_run("slot_state_is_written", &["fw_setenv", "fw_printenv", "gzip", "od"]) {
        return;
    }
    let mut torn = state(NEW);
    torn[9] ^= 1;
    let slots = Slots::new(&torn, &state(OLD));
    let output = slots.run("fw_setenv", &["BOOT_A_LEFT", "3"]);
    assert!(output.status.success(), "{}", text(&output));
    let (env, bak) = slots.copies();
    assert_eq!(env, bak);
    assert_eq!(env.len(), 16_384, "its place on the FAT stays the same");
    assert_eq!((slots.value("BOOT_A_LEFT"), slots.value("BOOT_ORDER")), ("3".to_owned(), "A B".to_owned()));
    assert_eq!(env[..4], crc32(&env[4..]).to_le_bytes(), "the boot loader accepts it");
}

#[test]
fn a_slot_that_rauc_takes_the_boots_from_is_not_known_to_be_good() {
    if !can_run("a_slot_that_rauc_takes_the_boots_from", &["fw_setenv", "fw_printenv", "gzip", "od"]) {
        return;
    }
    let old = "BOOT_ORDER=A B\0BOOT_A_LEFT=2\0BOOT_B_LEFT=3\0BOOT_A_GOOD=1\0BOOT_B_GOOD=1\0BOOT_UNREADABLE=B\0\0";
    let slots = Slots::new(&state(old), &state(old));
    let set = |words: &[&str]| assert!(slots.run("fw_setenv", words).status.success());
    set(&["BOOT_A_LEFT", "3"]);
    assert_eq!((slots.value("BOOT_A_GOOD"), slots.value("BOOT_UNREADABLE")), ("1".to_owned(), "B".to_owned()));
    // As at the beginning of an installation: what could not be read there is written anew.
    set(&["BOOT_B_LEFT", "0"]);
    assert_eq!((slots.value("BOOT_A_GOOD"), slots.value("BOOT_B_GOOD")), ("1".to_owned(), "0".to_owned()));
    assert_eq!(slots.value("BOOT_UNREADABLE"), "");
    let (env, bak) = slots.copies();
    assert!(env == bak && env[..4] == crc32(&env[4..]).to_le_bytes());
    let slots = Slots::new(&state(old), &state(old));
    assert!(slots.run("fw_setenv", &["BOOT_A_LEFT", "0"]).status.success());
    assert_eq!((slots.value("BOOT_A_GOOD"), slots.value("BOOT_UNREADABLE")), ("0".to_owned(), "B".to_owned()));
}

/// The system's places, under a scratch directory.
struct System(tempfile::TempDir);

impl System {
    fn new(version: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        for folder in ["data", "run", "bin"] {
            fs::create_dir(dir.path().join(folder)).unwrap();
        }
        let this = Self(dir);
        fs::write(this.at("os-release"), format!("ID=debian\nIMAGE_VERSION={version}\n")).unwrap();
        fs::write(this.at("cmdline"), "quiet lineside.slot=B rauc.slot=B panic=10\n").unwrap();
        this
    }

    fn at(&self, path: &str) -> PathBuf {
        self.0.path().join(path)
    }

    /// A program that scripts find first.
    fn stub(&self, name: &str, code: &str) {
        let path = self.at("bin").join(name);
        fs::write(&path, format!("#!/bin/sh\n{code}\n")).unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
    }

    fn run(&self, name: &str) -> Output {
        let path = format!("{}:{}", self.at("bin").display(), std::env::var("PATH").unwrap());
        let mut command = Command::new(script(name));
        command.env("PATH", path).env("LINESIDE_RUN", self.at("run")).env("LINESIDE_DATA", self.at("data"));
        command.env("LINESIDE_RELEASE", self.at("os-release")).env("LINESIDE_CMDLINE", self.at("cmdline"));
        command.env("LINESIDE_BOOT", self.0.path()).env("LINESIDE_MACHINE_ID", self.at("machine-id"));
        command.env("LINESIDE_BUNDLE", self.at("install.raucb")).env("LINESIDE_IDENTITY", self.at("site.toml"));
        command.env("LINESIDE_SECONDS", "1").output().unwrap()
    }

    fn state(&self) -> toml::Table {
        let output = self.run("state");
        assert!(output.status.success(), "{}", text(&output));
        self.said()
    }

    fn said(&self) -> toml::Table {
        fs::read_to_string(self.at("run/state.toml")).unwrap().parse().unwrap()
    }

    fn tried(&self) -> toml::Table {
        fs::read_to_string(self.at("data/tried")).unwrap().parse().unwrap()
    }
}

#[test]
fn the_state_says_what_runs_and_how_the_last_update_went() {
    let system = System::new("2.0~rc1");
    let state = system.state();
    assert_eq!(state["version"].as_str(), Some("2.0~rc1"));
    assert_eq!((state["slot"].as_str(), state["good"].as_bool()), (Some("B"), Some(false)));
    assert!(!state.contains_key("outcome") && !state.contains_key("tried_version"));

    fs::write(system.at("run/good"), "").unwrap();
    fs::write(system.at("data/tried"), "version = \"2.0~rc1\"\nsha256 = \"ab\"\nstate = \"installed\"\n").unwrap();
    let state = system.state();
    assert_eq!((state["good"].as_bool(), state["outcome"].as_str()), (Some(true), Some("installed")));
    assert_eq!((state["tried_version"].as_str(), state["tried_sha256"].as_str()), (Some("2.0~rc1"), Some("ab")));

    fs::write(system.at("data/tried"), "version = \"3\"\nsha256 = \"ab\"\nstate = \"installed\"\n").unwrap();
    assert_eq!(system.state()["outcome"].as_str(), Some("fell back: it did not start"));
    fs::write(system.at("data/unhealthy"), "3 was not \"healthy\": \\ \u{7}no\nmore").unwrap();
    let outcome = system.state()["outcome"].as_str().unwrap().to_owned();
    assert!(outcome.starts_with("fell back: 3 was not healthy:  no"), "{outcome}");
    fs::write(system.at("data/unhealthy"), "x".repeat(5000)).unwrap();
    assert!(system.state()["outcome"].as_str().unwrap().len() <= 200);

    fs::write(system.at("data/tried"), "version = \"3\"\nsha256 = \"ab\"\nstate = \"installing\"\n").unwrap();
    assert!(!system.state().contains_key("outcome"), "it is not over");
}

#[test]
fn a_slot_that_the_boot_loader_could_not_read_is_told() {
    if !can_run("a_slot_that_the_boot_loader_could_not_read", &["fw_printenv", "gzip", "od"]) {
        return;
    }
    let system = System::new("1");
    assert!(!system.state().contains_key("unreadable"), "nothing is known of the slots here");
    let copy = |unreadable: &str| {
        fs::write(system.at("slots.env"), state(&format!("BOOT_ORDER=A B\0BOOT_UNREADABLE={unreadable}\0\0"))).unwrap();
    };
    copy("A");
    assert_eq!(system.state()["unreadable"].as_str(), Some("A"));
    copy("\"; good = true");
    assert!(!system.state().contains_key("unreadable"));
}

#[test]
fn a_good_boot_is_written_down_for_the_boot_loader() {
    if !can_run("a_good_boot_is_written_down", &["fw_setenv", "fw_printenv", "gzip", "od"]) {
        return;
    }
    let system = System::new("1");
    fs::write(system.at("slots.env"), state("BOOT_ORDER=B A\0BOOT_A_GOOD=0\0BOOT_B_GOOD=0\0\0")).unwrap();
    fs::write(system.at("slots.bak"), "").unwrap();
    fs::write(system.at("machine-id"), "0123456789abcdef0123456789abcdef\n").unwrap();
    system.stub("rauc", "exit 0");
    system.stub("systemctl", "exit 0");
    let output = system.run("good");
    assert!(output.status.success(), "{}", text(&output));
    let env = fs::read(system.at("slots.env")).unwrap();
    let names = String::from_utf8_lossy(&env[4..]).into_owned();
    assert!(names.contains("BOOT_B_GOOD=1") && names.contains("BOOT_A_GOOD=0"), "{names}");
    assert!(names.contains("MACHINE_ID=0123456789abcdef") && system.said()["good"].as_bool() == Some(true), "{names}");
}

#[test]
fn a_lower_update_is_taken_with_the_allowance_for_it_alone() {
    let system = System::new("2");
    system.stub(
        "rauc",
        "[ \"$1\" = install ] && echo \"$@\" >>\"$LINESIDE_DATA/asked\" && exit 0\necho \"RAUC_MF_VERSION='1'\"",
    );
    system.stub("systemctl", "exit 0");
    let bundle = system.at("install.raucb").display().to_string();
    let asked = |allowance: Option<&str>| {
        let _ = fs::remove_file(system.at("data/asked"));
        fs::write(&bundle, "bundle").unwrap();
        if let Some(sha256) = allowance {
            fs::write(system.at("install.may-go-back"), format!("{sha256}\n")).unwrap();
        }
        assert!(system.run("install").status.success());
        assert!(!system.at("install.may-go-back").exists() && !Path::new(&bundle).exists());
        fs::read_to_string(system.at("data/asked")).unwrap()
    };
    let (own, other) = (lineside::ids::Digest::of(b"bundle"), lineside::ids::Digest::of(b"another"));
    assert_eq!(asked(None), format!("install {bundle}\n"));
    assert_eq!(asked(Some(&other.to_string())), format!("install {bundle}\n"));
    assert_eq!(asked(Some(&own.to_string())), format!("install --ignore-version-limit {bundle}\n"));
}

#[test]
fn an_update_is_written_down_before_the_restart_and_taken_away() {
    let system = System::new("1");
    fs::write(system.at("install.raucb"), "bundle").unwrap();
    system.stub("rauc", "[ \"$1\" = install ] && cp \"$LINESIDE_DATA/tried\" \"$LINESIDE_DATA/then\" && exit 0\necho \"RAUC_MF_VERSION='2'\"");
    system.stub("systemctl", "echo \"$@\" >>\"$LINESIDE_DATA/asked\"");
    let output = system.run("install");
    assert!(output.status.success(), "{}", text(&output));
    let tried = system.tried();
    assert_eq!((tried["version"].as_str(), tried["state"].as_str()), (Some("2"), Some("installed")));
    assert_eq!(tried["sha256"].as_str(), Some(&*lineside::ids::Digest::of(b"bundle").to_string()));
    assert!(!system.at("install.raucb").exists());
    assert_eq!(fs::read_to_string(system.at("data/asked")).unwrap(), "--no-block reboot\n");
    let then: toml::Table = fs::read_to_string(system.at("data/then")).unwrap().parse().unwrap();
    assert_eq!(then["state"].as_str(), Some("installing"), "it was written down before it was tried");
}

#[test]
fn an_update_that_rauc_refuses_is_told_and_never_restarts() {
    let system = System::new("1");
    fs::write(system.at("install.raucb"), "bundle").unwrap();
    system.stub("rauc", "echo 'working' >&2; echo 'signature \"verification\" failed' >&2; exit 1");
    system.stub("systemctl", "echo \"$@\" >>\"$LINESIDE_DATA/asked\"");
    assert!(system.run("install").status.success());
    assert_eq!(system.said()["outcome"].as_str(), Some("refused: signature verification failed"));
    assert!(!system.at("install.raucb").exists() && !system.at("data/asked").exists());
    assert_eq!(system.tried()["failed"].as_str(), Some("signature verification failed"));
}

#[test]
fn an_update_that_is_interrupted_three_times_is_given_up() {
    let system = System::new("1");
    // The machine goes down while RAUC writes.
    system.stub("rauc", "[ \"$1\" = install ] && kill -9 $PPID\necho \"RAUC_MF_VERSION='2'\"");
    system.stub("systemctl", "echo \"$@\" >>\"$LINESIDE_DATA/asked\"");
    fs::write(system.at("install.raucb"), "bundle").unwrap();
    for attempt in ["1", "2", "3"] {
        assert!(!system.run("install").status.success());
        assert!(system.at("install.raucb").exists(), "it is tried again");
        assert_eq!(system.tried()["attempt"].as_str(), Some(attempt));
    }
    assert!(system.run("install").status.success());
    assert_eq!(system.said()["outcome"].as_str(), Some("refused: interrupted three times"));
    assert!(!system.at("install.raucb").exists() && !system.at("data/asked").exists());
}

#[test]
fn what_is_no_file_is_no_update() {
    let system = System::new("1");
    std::os::unix::fs::symlink("/etc/hostname", system.at("install.raucb")).unwrap();
    system.stub("rauc", "touch \"$LINESIDE_DATA/called\"");
    assert!(system.run("install").status.success());
    assert!(!system.at("install.raucb").is_symlink() && !system.at("data/called").exists());
}

#[test]
fn a_boot_is_healthy_when_the_daemon_says_so_or_when_no_site_is_there_yet() {
    let system = System::new("2");
    system.stub("systemctl", "echo activating");
    system.stub("lineside", "exit 0");
    assert!(system.run("health").status.success(), "no site yet");
    system.stub("systemctl", "echo failed");
    assert!(!system.run("health").status.success(), "enrolment does not even run");

    fs::write(system.at("site.toml"), "").unwrap();
    assert!(system.run("health").status.success());
    system.stub("lineside", "echo 'not healthy: nothing was served' >&2; exit 1");
    assert!(!system.run("health").status.success());
    let why = fs::read_to_string(system.at("data/unhealthy")).unwrap();
    assert_eq!(why, "2 was not healthy: not healthy: nothing was served\n");
}

/// A data partition with keys on it, and a FAT partition with these files.
fn reset(files: &[&str], blkdiscard: &str) -> Option<(Output, Vec<u8>, Vec<String>)> {
    if !can_run("factory_reset", &["mkfs.ext4", "debugfs", "dumpe2fs", "e2fsck", "wipefs"]) {
        return None;
    }
    let system = System::new("1");
    let identity = system.at("tree/lib/private/lineside/identity");
    fs::create_dir_all(&identity).unwrap();
    fs::write(identity.join("tls.key"), "SECRET".repeat(400)).unwrap();
    fs::write(identity.join("hpke.key"), "SECRET".repeat(9)).unwrap();
    fs::write(system.at("tree/lib/private/lineside/release"), "served".repeat(400)).unwrap();
    let disk = system.at("disk");
    fs::File::create(&disk).unwrap().set_len(24 << 20).unwrap();
    let made = Command::new("mkfs.ext4").args(["-q", "-F", "-d"]).arg(system.at("tree")).arg(&disk).status().unwrap();
    assert!(made.success());
    assert!(holds(&fs::read(&disk).unwrap(), b"SECRET"));
    fs::create_dir(system.at("boot")).unwrap();
    for file in files {
        fs::write(system.at("boot").join(file), "").unwrap();
    }
    system.stub("blkdiscard", blkdiscard);
    let path = format!("{}:{}", system.at("bin").display(), std::env::var("PATH").unwrap());
    let output = Command::new(script("reset"))
        .env("PATH", path)
        .env("LINESIDE_PART", &disk)
        .env("LINESIDE_BOOT", system.at("boot"))
        .output()
        .unwrap();
    let left = fs::read_dir(system.at("boot")).unwrap();
    let mut left: Vec<String> = left.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    left.sort();
    Some((output, fs::read(disk).unwrap(), left))
}

fn holds(bytes: &[u8], part: &[u8]) -> bool {
    bytes.windows(part.len()).any(|window| window == part)
}

#[test]
fn a_reset_removes_every_file_that_asks_for_it_and_no_other() {
    let files = ["factory-reset.txt.txt", "Factory-Reset (1).rtf", "factory-reset", "lineside-token.toml", "slots.env"];
    let Some((output, _, left)) = reset(&files, "exit 0") else { return };
    assert!(output.status.success(), "{}", text(&output));
    assert_eq!(left, ["lineside-token.toml", "slots.env"]);
}

#[test]
fn a_reset_overwrites_the_keys_even_where_the_card_keeps_what_is_discarded() {
    let Some((output, disk, _)) = reset(&["factory-reset"], "exit 0") else { return };
    assert!(output.status.success(), "{}", text(&output));
    assert!(!holds(&disk, b"SECRET") && holds(&disk, b"served"), "the card discarded nothing");
}

#[test]
fn a_reset_overwrites_all_where_nothing_can_be_discarded() {
    let Some((output, disk, left)) = reset(&["factory-reset"], "exit 1") else { return };
    assert!(output.status.success(), "{}", text(&output));
    assert!(disk.iter().all(|byte| *byte == 0) && disk.len() == 24 << 20);
    assert!(left.is_empty());
}
