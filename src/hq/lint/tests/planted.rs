//! What somebody puts into the fleet directory by a merge request: links, FIFOs, keys. git keeps links.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::os::unix::fs::symlink;

use nix::sys::stat::Mode;

use crate::lint::FleetDir;
use crate::preview::{Preview, preview};
use crate::render::Findings;
use crate::testing::sample;

const KEY: &str = "# release key\nlineside-ed25519 00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff\n";

#[test]
fn a_link_never_leads_to_what_is_elsewhere() {
    let sample = sample();
    let dir = sample.layout.dir();
    let at = |name: &str| dir.join(name);
    let outside = tempfile::tempdir().unwrap();
    fs::write(outside.path().join("shadow"), "root:x").unwrap();
    sample.write("files/tones/ring.raw", "ring").write("files/logo.xml", "<logo/>");
    // What stays in its own folder is followed.
    symlink("tones/ring.raw", at("files/ring.raw")).unwrap();
    symlink("tones", at("files/sounds")).unwrap();
    assert_eq!(sample.problems(), Vec::<String>::new());

    fs::create_dir_all(at("firmware/polycom")).unwrap();
    let (out, link) = ("a link that leads out of the directory", "a link, no regular file");
    let planted = [
        ("../keys/root-1.key", "files/notes.cfg", out),
        ("../keys", "files/all", out),
        ("../phones.csv", "files/list.csv", out),
        ("/proc/self/environ", "files/environ", out),
        ("nowhere.xml", "files/dangling.xml", "the link leads nowhere"),
        ("../../keys/release.key", "firmware/polycom/f.bin", out),
        ("../../files/logo.xml", "firmware/polycom/logo.xml", out),
        ("../../keys/release.key", "templates/polycom/x.cfg.j2", link),
        ("polycom", "templates/other", link),
        ("sample-office.toml", "sites/twin.toml", link),
        ("../keys/release.key", "images/x.raucb", link),
    ];
    fs::create_dir_all(at("images")).unwrap();
    for (to, name, _) in planted {
        symlink(to, at(name)).unwrap();
    }
    symlink(outside.path().join("shadow"), at("files/s.txt")).unwrap();
    let problems = sample.problems();
    for (name, what) in planted.map(|(_, name, what)| (name, what)).into_iter().chain([("files/s.txt", out)]) {
        assert!(problems.contains(&format!("{name}: cannot be read: {what}")), "{name}: {problems:#?}");
    }
    assert_eq!(problems.len(), planted.len() + 1, "{problems:#?}");
}

#[test]
fn no_folder_and_no_file_at_the_top_is_a_link() {
    for name in ["fleet.toml", "phones.csv", "sites", "templates", "files"] {
        let sample = sample();
        let (path, moved) = (sample.layout.dir().join(name), sample.layout.dir().with_file_name("moved"));
        fs::create_dir_all(sample.layout.dir().join("files")).unwrap();
        fs::rename(&path, &moved).unwrap();
        symlink(&moved, &path).unwrap();
        let problems = sample.problems();
        assert!(
            problems.iter().any(|one| one.starts_with(&format!("{name}: cannot be read: a link"))),
            "{problems:#?}"
        );
    }
}

#[test]
fn what_is_no_file_is_named_and_never_waited_for() {
    for name in ["files/a.cfg", "templates/polycom/a.cfg.j2", "sites/a.toml", "images/a.raucb", "firmware/polycom/a"] {
        let sample = sample();
        let path = sample.layout.dir().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        nix::unistd::mkfifo(&path, Mode::S_IRWXU).unwrap();
        assert_eq!(sample.problems(), [format!("{name}: cannot be read: a FIFO, no regular file")]);
    }
}

#[test]
fn what_looks_like_a_key_is_refused_as_a_regular_file_too() {
    let token = "hq = \"https://hq.example.net\"\nfleet = \"f-0011223344556677\"\nsite = \"s-0011223344556677\"\n\
        root-sha256 = \"aa\"\n";
    assert!(!crate::assets::is_key_file(token.as_bytes()), "half a token");
    let secret = "1".repeat(40);
    for text in [
        KEY,
        "-----BEGIN PRIVATE KEY-----\nMC4=\n",
        "Bag Attributes\n-----BEGIN CERTIFICATE-----\nMC4=\n-----END CERTIFICATE-----\n  -----BEGIN EC PRIVATE KEY-----\r\n",
        "-----BEGIN OPENSSH PRIVATE KEY-----\n",
        "-----BEGIN ENCRYPTED PRIVATE KEY-----\n",
        "# created\nAGE-SECRET-KEY-1QQQ\n",
        "age-encryption.org/v1\n-> scrypt x 18\n",
        "-----BEGIN AGE ENCRYPTED FILE-----\n",
        "PuTTY-User-Key-File-3: ssh-ed25519\n",
    ] {
        let sample = sample();
        fs::create_dir_all(sample.layout.dir().join("firmware/polycom")).unwrap();
        sample.write("files/notes.cfg", text).write("templates/polycom/x.cfg.j2", text);
        sample.write("firmware/polycom/f.bin", text);
        let problem = "this looks like a private key, which nobody but its owner may have";
        let all = ["templates/polycom/x.cfg.j2", "files/notes.cfg", "firmware/polycom/f.bin"];
        let mut problems = sample.problems();
        problems.sort();
        let mut all = all.map(|name| format!("{name}: {problem}"));
        all.sort();
        assert_eq!(problems, all, "{text}");
    }
    for text in ["-----BEGIN CERTIFICATE-----\n", "-----BEGIN PUBLIC KEY-----\n", "lineside-ed25519 00\n", &secret] {
        let sample = sample();
        sample.write("files/notes.cfg", text);
        assert_eq!(sample.problems(), Vec::<String>::new(), "{text}");
    }
}

#[test]
fn what_was_put_in_a_files_place_after_the_check_is_not_read() {
    let sample = sample();
    sample.write("files/logo.xml", "<logo/>");
    let fleet = FleetDir::read(&sample.layout, &mut Findings::default()).unwrap();
    let asset = fleet.assets.files().iter().find(|asset| asset.file == "files/logo.xml").unwrap();
    assert_eq!(asset.read().unwrap(), b"<logo/>");
    let path = sample.layout.dir().join("files/logo.xml");
    fs::remove_file(&path).unwrap();
    symlink("../keys/release.key", &path).unwrap();
    assert_eq!(asset.read().unwrap_err().to_string(), "a link that leads out of the directory");
    assert_eq!(sample.problems(), ["files/logo.xml: cannot be read: a link that leads out of the directory"]);
    let shown = preview(&sample.layout, "sample-office", "00:1b:54:00:00:01", "logo.xml");
    assert!(!matches!(shown, Ok(Preview::Served(_))));
}
