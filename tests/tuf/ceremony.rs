//! Keys change, on files and by the shipped program; the site, which pinned the first root, follows.

use std::fs;
use std::path::Path;

use crate::fleet::{Fleet, Site};

fn pending(fleet: &Fleet, version: u64) -> String {
    fleet.layout.signed().join(format!("{version}.root.json.pending")).display().to_string()
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// Root keys 1 and 2 sign, and it is put in place and published.
fn finish(fleet: &Fleet, version: u64) {
    let pending = pending(fleet, version);
    for number in [1, 2] {
        let key = fleet.layout.key(&format!("root-{number}"));
        fleet.hq(&["keys", "sign", &pending, "--yes", "--key", text(&key)]);
    }
    fleet.hq(&["keys", "finish"]);
    fleet.hq(&["publish"]);
}

async fn serving() -> (Fleet, Site) {
    let fleet = Fleet::new().await;
    let mut site = fleet.site("sample-office").await;
    fleet.publish();
    site.takes(1).await;
    (fleet, site)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_site_follows_when_release_and_online_keys_are_replaced() {
    let (mut fleet, mut site) = serving().await;
    let thief = fs::read(fleet.layout.key("release")).unwrap();
    let dry = fleet.hq(&["keys", "rotate", "release", "--dry-run"]);
    assert!(dry.contains("prepared: version 2") && dry.ends_with("nothing was changed\n"), "{dry}");
    fleet.hq(&["keys", "rotate", "release"]);
    fleet.hq(&["keys", "rotate", "online"]);
    let (done, said) = fleet.try_hq(&["keys", "finish"]);
    assert!(!done && said.contains("has 0 of 2 signatures by the keys trusted now"), "{said}");
    finish(&fleet, 2);
    fleet.serve().await;
    site.takes(2).await;
    // The old key is good for nothing.
    fs::write(fleet.layout.key("release"), thief).unwrap();
    let (done, said) = fleet.try_hq(&["publish"]);
    assert!(!done && said.contains("is not the key that root version 2 names"), "{said}");
    fleet.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_site_follows_when_a_lost_root_key_is_replaced_by_a_holders_own() {
    let (mut fleet, mut site) = serving().await;
    let stick = tempfile::tempdir().unwrap();
    let holder = stick.path().join("anna.key");
    fleet.hq(&["keys", "create", text(&holder), "--passphrase"]);
    assert!(fs::read_to_string(&holder).unwrap().starts_with("-----BEGIN AGE ENCRYPTED FILE-----"));
    let lost = fs::read_to_string(fleet.layout.key("root-3")).unwrap();
    let lost = lost.lines().find_map(|line| line.strip_prefix("# public id: ")).unwrap()[..12].to_owned();
    fs::remove_file(fleet.layout.key("root-3")).unwrap();
    let public = stick.path().join("anna.pub");
    fleet.hq(&["keys", "rotate", "root", "--old", &lost, "--key", text(&public)]);
    finish(&fleet, 2);
    site.takes(1).await;
    // Keys go to their holders; Anna's counts now, and her passphrase opens it.
    fleet.hq(&["keys", "hand-over", "root-2", text(stick.path())]);
    fleet.hq(&["keys", "root", "new-version", "--threshold", "firmware=3"]);
    let pending = pending(&fleet, 3);
    fleet.hq(&["keys", "sign", &pending, "--yes", "--key", text(&holder)]);
    let moved = stick.path().join("root-2.key");
    let said = fleet.hq(&["keys", "sign", &pending, "--yes", "--key", text(&moved)]);
    assert!(said.contains("2 of 2 by the keys trusted now"), "{said}");
    assert!(fleet.hq(&["keys", "finish", "--dry-run"]).contains("nothing was changed"));
    fleet.hq(&["keys", "finish"]);
    fleet.hq(&["publish"]);
    site.takes(2).await;
    fleet.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_revoked_firmware_key_and_a_missed_root_do_not_stop_a_site() {
    let (mut fleet, mut site) = serving().await;
    let id = |fleet: &Fleet, name: &str| {
        let key = fs::read_to_string(fleet.layout.key(name)).unwrap();
        key.lines().find_map(|line| line.strip_prefix("# public id: ")).unwrap().to_owned()
    };
    fleet.hq(&["keys", "revoke", "firmware", &id(&fleet, "firmware-1")]);
    finish(&fleet, 2);
    // The site was away during this one.
    fleet.hq(&["keys", "rotate", "firmware", "--old", &id(&fleet, "firmware-2")]);
    finish(&fleet, 3);
    fleet.hq(&["keys", "root", "new-version"]);
    finish(&fleet, 4);
    site.takes(3).await;
    let (done, said) = fleet.try_hq(&["keys", "revoke", "firmware", &id(&fleet, "firmware-3")]);
    assert!(!done && said.contains("would have 1 keys and need 2 signatures"), "{said}");
    fleet.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fleet_whose_keys_have_a_passphrase_publishes_with_it_and_not_without() {
    let dir = tempfile::tempdir().unwrap();
    let hq = |passphrase: &str, arguments: &[&str]| {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_lineside-hq"));
        command.current_dir(dir.path()).args(arguments).env("LINESIDE_PASSPHRASE", passphrase);
        let output = command.stdin(std::process::Stdio::null()).output().unwrap();
        (output.status.success(), String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned())
    };
    let (done, said) = hq("correct horse", &["init", "fleet", "--passphrase"]);
    assert!(done, "{said}");
    for entry in fs::read_dir(dir.path().join("fleet/keys")).unwrap() {
        let path = entry.unwrap().path();
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.starts_with("-----BEGIN AGE ENCRYPTED FILE-----"), "{}", path.display());
    }
    let (done, said) = hq("correct horse", &["--fleet", "fleet", "publish"]);
    assert!(done && said.contains("waiting     for enrolment"), "{said}");
    let (done, said) = hq("wrong", &["--fleet", "fleet", "publish"]);
    assert!(!done && said.contains("does not open"), "{said}");
}
