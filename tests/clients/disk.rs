//! The real process and its disk: killed at any moment, full, and without what may be lost.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::net::{Host, can_run, sh, text};
use super::site::{BOX_LAN, CISCO, CISCO_FILE, Deployment, STRANGER, tree};

fn fetch(phone: &Host) -> Vec<u8> {
    phone.try_sh(&format!("curl -s -m 20 tftp://{BOX_LAN}/{CISCO_FILE}")).stdout
}

/// `kill -9` while releases are activated, `LINESIDE_KILLS` times, 10 without it. 200 times take some minutes:
/// `LINESIDE_KILLS=200 cargo test --test clients kill_9 -- --nocapture`.
#[test]
fn kill_9_during_activation_leaves_the_old_release_or_the_new_one() {
    if !can_run("kill_9_during_activation", &["ip", "curl"]) {
        return;
    }
    let kills: u64 = std::env::var("LINESIDE_KILLS").ok().and_then(|kills| kills.parse().ok()).unwrap_or(10);
    let mut site = Deployment::ready();
    let phone = site.phone_at(CISCO, "192.168.77.20");
    site.edit("templates/cisco-8941/SEP.cnf.xml.j2", "</device>", "<!-- round 0 --></device>");
    site.hq(&["publish"]);
    site.serves(2);
    let (mut old, mut new, mut half) = (0, 0, 0);
    let mut before = site.preview(CISCO, CISCO_FILE);
    let mut chance = 0x9e37_79b9_7f4a_7c15_u64;
    for round in 1..=kills {
        site.edit(
            "templates/cisco-8941/SEP.cnf.xml.j2",
            &format!("<!-- round {} -->", round - 1),
            &format!("<!-- round {round} -->"),
        );
        site.hq(&["publish"]);
        let after = site.preview(CISCO, CISCO_FILE);
        assert_ne!(before, after);
        chance ^= chance << 13;
        chance ^= chance >> 7;
        chance ^= chance << 17;
        site.try_lineside(&["status", "--poll"]);
        let staged = || site.state.join("releases").join((round + 2).to_string()).exists();
        let (any_time, just_then) = (Duration::from_millis(chance % 250), Duration::from_micros(chance % 20_000));
        if round % 2 == 0 {
            std::thread::sleep(any_time);
        } else {
            // From when the new release is staged it takes some milliseconds until it is active.
            let begun = std::time::Instant::now();
            while !staged() && begun.elapsed() < Duration::from_secs(5) {
                std::thread::sleep(Duration::from_micros(100));
            }
            std::thread::sleep(just_then);
        }
        let staged = staged();
        site.appliance.as_ref().unwrap().signal("KILL");
        site.appliance.as_mut().unwrap().ends_within(Duration::from_secs(5));
        site.appliance = None;
        site.start_anew();
        let served = fetch(&phone);
        if served == before {
            old += 1;
            half += u64::from(staged);
        } else {
            assert!(served == after, "round {round}: neither the old nor the new file:\n{}", site.appliance_log());
            new += 1;
        }
        site.serves(round + 2);
        assert!(fetch(&phone) == after, "round {round}: {}", site.appliance_log());
        before = after;
    }
    let log = site.appliance_log();
    for sign in ["trust-rebuilt", "pointer-rebuilt", "pointer-lost", "release-lost", "release-replaced", "panicked"] {
        assert!(!log.contains(sign), "{sign}: {log}");
    }
    println!(
        "{kills} kills: {old} served the old release ({half} of them with the new one half staged), {new} the new one, 0 bad"
    );
}

/// Files of the store that a poll could touch, with their sizes.
fn sizes(dir: &Path) -> BTreeMap<PathBuf, u64> {
    let kept = ["objects", "partial", "releases", "active"];
    let files = tree(dir).into_iter().filter(|path| {
        let below = path.strip_prefix(dir).unwrap();
        kept.iter().any(|name| below.starts_with(name))
    });
    files.map(|path| (path.clone(), fs::metadata(&path).unwrap().len())).collect()
}

struct Mounted(PathBuf);

impl Drop for Mounted {
    fn drop(&mut self) {
        sh(&format!("umount -l {}", self.0.display()));
    }
}

#[test]
fn a_full_disk_is_said_before_anything_is_touched_and_serving_goes_on() {
    if !can_run("a_full_disk", &["ip", "curl", "mount"]) {
        return;
    }
    let mut site = Deployment::new();
    fs::create_dir(&site.state).unwrap();
    sh(&format!("mount -t tmpfs -o size=24m tmpfs {}", site.state.display()));
    let mounted = Mounted(site.state.clone());
    site.enroll();
    site.hq(&["publish"]);
    site.start();
    site.serves(1);
    let phone = site.phone_at(CISCO, "192.168.77.20");
    let before = site.preview(CISCO, CISCO_FILE);

    // Something else fills the card up to the reserve.
    let ballast = site.state.join("ballast");
    sh(&format!("dd if=/dev/zero of={} bs=1M count=8 status=none", ballast.display()));
    let files = sizes(&site.state);
    site.edit("templates/cisco-8941/SEP.cnf.xml.j2", "</device>", "<!-- second --></device>");
    site.hq(&["publish"]);
    site.polls_until("the full disk", |status| status["state"] == "disk-full");
    let status = site.status();
    assert_eq!(status["generation"], 1, "{status:#}");
    assert!(status["reason"].as_str().unwrap().contains("bytes, "), "{status:#}");
    assert_eq!(sizes(&site.state), files, "something was touched");
    assert_eq!(fetch(&phone), before);

    fs::remove_file(ballast).unwrap();
    site.serves(2);
    assert!(String::from_utf8_lossy(&fetch(&phone)).contains("second"));
    site.appliance = None;
    drop(mounted);
}

#[test]
fn what_may_be_lost_outlives_a_restart_and_losing_it_changes_nothing_for_a_phone() {
    if !can_run("what_may_be_lost", &["ip", "curl"]) {
        return;
    }
    let mut site = Deployment::ready();
    let phone = site.phone_at(CISCO, "192.168.77.20");
    let stranger = site.phone_at(STRANGER, "192.168.77.66");
    let expected = site.preview(CISCO, CISCO_FILE);
    let asks = |site: &Deployment| {
        assert_eq!(fetch(&phone), expected, "{}", site.appliance_log());
        let refused = stranger.try_sh(&format!("curl -sS -m 20 tftp://{BOX_LAN}/{CISCO_FILE}"));
        (refused.status.code(), text(&refused))
    };
    let refused = asks(&site);
    let restart = |site: &mut Deployment, meanwhile: &dyn Fn(&Path)| {
        let mut appliance = site.appliance.take().unwrap();
        appliance.signal("TERM");
        assert!(appliance.ends_within(Duration::from_secs(10)).success());
        meanwhile(&site.state.join("cache.sled"));
        site.start_anew();
    };
    let phones = |site: &Deployment| site.status()["phones"].as_array().unwrap().len();

    restart(&mut site, &|cache| assert!(cache.is_dir()));
    super::net::wait_for(Duration::from_secs(10), || (phones(&site) == 2).then_some(()))
        .unwrap_or_else(|| panic!("forgotten: {:#}", site.status()));
    let files = site.status()["files"].clone();
    assert_eq!((files[0]["file"].as_str(), files[0]["outcome"].as_str()), (Some(CISCO_FILE), Some("delivered")));
    assert_eq!(asks(&site), refused);

    restart(&mut site, &|cache| fs::remove_dir_all(cache).unwrap());
    assert_eq!(phones(&site), 0);
    assert_eq!(asks(&site), refused);
    site.serves(1);
}
