//! What the appliance needs of a system: found from the program, and held against what README.md says.

use std::fs;
use std::path::Path;
use std::process::Command;

use super::net::{can_run, can_run_as, text};
use super::site::{BOX_LAN, CISCO, CISCO_FILE, Deployment, lineside_program};

const README: &str = include_str!("../../README.md");

fn said(words: &[&str]) -> String {
    let output = Command::new(words[0]).args(&words[1..]).output().unwrap();
    assert!(output.status.success(), "{words:?}: {}", text(&output));
    text(&output)
}

/// `2.34` as numbers.
fn version(text: &str) -> Vec<u32> {
    text.split('.').map(|part| part.parse().unwrap_or_else(|_| panic!("{text} is no version"))).collect()
}

/// The version that stands behind a word in the sentence that says what is needed.
fn stated(word: &str) -> Vec<u32> {
    let sentence = README.lines().find(|line| line.contains("**What it needs of a system**")).unwrap();
    let (_, after) = sentence.split_once(&format!("{word} ")).unwrap_or_else(|| panic!("README names no {word}"));
    version(after.split(|c: char| !c.is_ascii_digit() && c != '.').next().unwrap().trim_end_matches('.'))
}

#[test]
fn what_the_program_needs_of_a_system_is_what_the_readme_says() {
    if !can_run_as("what_the_program_needs_of_a_system", &["readelf"], false) {
        return;
    }
    let program = lineside_program();
    let symbols = said(&["readelf", "--wide", "-V", program]);
    let glibc =
        symbols.split("GLIBC_").skip(1).filter_map(|rest| rest.split(|c: char| !c.is_ascii_digit() && c != '.').next());
    let newest = glibc.filter(|found| !found.is_empty()).map(version).max().unwrap();
    assert!(newest <= stated("glibc"), "the program needs glibc {newest:?}, README says {:?}", stated("glibc"));
    // The oldest kernel that its C library starts on; what the program itself asks of one is newer.
    let note = said(&["readelf", "--wide", "-n", program]);
    let (_, abi) = note.split_once("OS: Linux, ABI: ").unwrap();
    let abi = version(abi.split_whitespace().next().unwrap());
    assert!(abi <= stated("Linux"), "the program needs Linux {abi:?}, README says {:?}", stated("Linux"));
    // The libraries, each of glibc or the compiler's.
    let needed = said(&["readelf", "--wide", "-d", program]);
    let needed: Vec<&str> = needed.lines().filter(|line| line.contains("(NEEDED)")).collect();
    for library in &needed {
        let known = ["libc.so.6", "libgcc_s.so.1", "libm.so.6", "ld-linux-"];
        assert!(known.iter().any(|name| library.contains(name)), "{library}");
    }
    assert!(!needed.is_empty());
    // What the package asks for.
    let package = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/systemd/deb")).unwrap();
    let systemd = stated("systemd");
    assert!(package.contains(&format!("systemd (>= {})", systemd[0])), "{systemd:?}");
}

#[test]
fn the_appliance_serves_from_a_chroot_that_holds_nothing_but_its_libraries() {
    if !can_run("the_appliance_serves_from_a_chroot", &["ip", "curl", "ldd", "chroot", "unshare"]) {
        return;
    }
    let mut site = Deployment::new();
    site.enroll();
    site.hq(&["publish"]);
    let root = tempfile::tempdir().unwrap();
    let put = |file: &str| {
        let to = root.path().join(file.trim_start_matches('/'));
        fs::create_dir_all(to.parent().unwrap()).unwrap();
        fs::copy(file, to).unwrap();
    };
    put(lineside_program());
    let libraries = said(&["ldd", lineside_program()]);
    let paths: Vec<&str> = libraries.split_whitespace().filter(|word| word.starts_with('/')).collect();
    assert!((2..6).contains(&paths.len()), "{libraries}");
    for library in &paths {
        put(library);
    }
    // Beside them only what is the site's own: configuration, state and socket.
    let enter = "root=$0; dir=$1; shift; mkdir -p \"$root$dir\" && mount --bind \"$dir\" \"$root$dir\" && exec chroot \"$root\" \"$@\"";
    let dir = site.net.dir();
    site.start_as(&["unshare", "--mount", "sh", "-c", enter, root.path().to_str().unwrap(), dir.to_str().unwrap()]);
    site.serves(1);
    assert!(!root.path().join("etc").exists() && !root.path().join("usr/share").exists());
    let phone = site.phone_at(CISCO, "192.168.77.20");
    let got = phone.try_sh(&format!("curl -s -m 10 tftp://{BOX_LAN}/{CISCO_FILE}"));
    assert!(got.stdout == site.preview(CISCO, CISCO_FILE), "{}\n{}", text(&got), site.appliance_log());
    // Without one of them it does not start: the test can fail.
    fs::remove_file(root.path().join(Path::new(paths[0]).strip_prefix("/").unwrap())).unwrap();
    let started = Command::new("chroot").arg(root.path()).args([lineside_program(), "--version"]).output().unwrap();
    assert!(!started.status.success(), "{}", text(&started));
}
