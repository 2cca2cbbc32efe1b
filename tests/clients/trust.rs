//! Enrolment, renewal and revocation between the shipped programs, on clocks that are wrong.

use std::fs;
use std::path::{Path, PathBuf};

use super::net::{can_run, sh};
use super::site::{BOX_LAN, CISCO, CISCO_FILE, Deployment, lineside_program};

/// The words before a program that give it another clock, and a kernel that does not trust its own: `time` as
/// libfaketime takes it. The monotonic clock stays.
fn clock(dir: &Path, time: &str) -> Vec<String> {
    let shim = dir.join("unsynchronised.so");
    if !shim.exists() {
        // 5 is TIME_ERROR: a machine of a test may well be synchronised, a box in 1970 is not.
        let source = dir.join("unsynchronised.c");
        fs::write(&source, "int adjtimex(void *timex) { (void)timex; return 5; }\n").unwrap();
        sh(&format!("cc -shared -fPIC -o {} {}", shim.display(), source.display()));
    }
    let library =
        sh("ls /usr/lib/*/faketime/libfaketimeMT.so.1 /usr/lib/faketime/libfaketimeMT.so.1 2>/dev/null | head -n 1");
    let preload = format!("LD_PRELOAD={}:{}", library.trim(), shim.display());
    let own = ["env", &preload, "FAKETIME_DONT_FAKE_MONOTONIC=1", "DONT_FAKE_MONOTONIC=1", "TZ=UTC"];
    own.map(str::to_owned).into_iter().chain([format!("FAKETIME={time}")]).collect()
}

const NEEDS: [&str; 4] = ["ip", "curl", "faketime", "cc"];

fn whole_cycle(time: &str) {
    let mut site = Deployment::new();
    site.under = clock(&site.net.dir(), time);
    site.enroll();
    site.hq(&["publish"]);
    site.start();
    site.serves(1);
    let status = site.status();
    assert_eq!(status["clock-synchronised"], false, "{status:#}");
    let phone = site.phone_at(CISCO, "192.168.77.20");
    let fetch = format!("curl -s -m 20 tftp://{BOX_LAN}/{CISCO_FILE}");
    assert_eq!(phone.try_sh(&fetch).stdout, site.preview(CISCO, CISCO_FILE), "{}", site.appliance_log());
    site.edit("templates/cisco-8941/SEP.cnf.xml.j2", "</device>", "<!-- second --></device>");
    site.hq(&["publish"]);
    site.serves(2);
    assert!(String::from_utf8_lossy(&phone.try_sh(&fetch).stdout).contains("second"), "{}", site.appliance_log());
    // The clock that the process sees is really the wrong one.
    let year: String = time.chars().skip_while(|c| !c.is_ascii_digit()).take(4).collect();
    if time.starts_with('@') {
        assert!(site.appliance_log().contains(&format!("{year}-01-0")), "{}", site.appliance_log());
    }
}

#[test]
fn a_box_in_1970_enrols_fetches_and_serves() {
    if can_run("a_box_in_1970", &NEEDS) {
        whole_cycle("@1970-01-01 00:00:05");
    }
}

#[test]
fn a_box_one_year_behind_enrols_fetches_and_serves() {
    if can_run("a_box_one_year_behind", &NEEDS) {
        whole_cycle("-365d");
    }
}

#[test]
fn hq_three_years_away_from_every_other_clock_publishes_nothing_and_says_what_it_believes() {
    if !can_run("hq_three_years_off", &["faketime", "cc"]) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let fleet = dir.path().join("fleet");
    super::fleet::init(&fleet, &[CISCO]);
    let publish = |time: &str, words: &[&str]| {
        let under = clock(dir.path(), time);
        let output = std::process::Command::new(&under[0])
            .args(&under[1..])
            .arg(super::fleet::hq_program())
            .arg("--fleet")
            .arg(&fleet)
            .arg("publish")
            .args(words)
            .stdin(std::process::Stdio::null())
            .output()
            .unwrap();
        (output.status.success(), super::net::text(&output))
    };
    for (time, told) in [("-1095d", "earlier than"), ("+1095d", "over a day past every other clock")] {
        for words in [&[][..], &["--refresh"]] {
            let (done, said) = publish(time, words);
            assert!(!done && said.contains(told) && said.contains("--clock-is-right"), "{time}: {said}");
        }
    }
    let (done, said) = publish("+0d", &[]);
    assert!(done, "{said}");
    let (done, said) = publish("+1095d", &["--clock-is-right"]);
    assert!(done, "{said}");
}

#[test]
fn a_certificate_that_expired_while_the_branch_was_closed_is_renewed_without_a_visit() {
    if !can_run("renewal_after_expiry", &NEEDS) {
        return;
    }
    let mut site = Deployment::ready();
    let certificate = site.state.join("identity/tls.crt");
    let before = fs::read(&certificate).unwrap();
    // HQ's clock is what counts: there 100 days go by, the certificate was good for 90. The box has lost its time.
    site.appliance = None;
    site.serve = None;
    site.hq_under = clock(&site.net.dir(), "+100d");
    site.serve();
    site.under = clock(&site.net.dir(), "@1970-01-01 00:00:05");
    site.start_anew();
    site.serves(1);
    assert_ne!(fs::read(&certificate).unwrap(), before);
    let log = site.serve.as_ref().unwrap().log();
    assert!(log.contains("certificate-expired"), "{log}");
}

#[test]
fn a_revoked_site_is_told_so_and_goes_on_serving_what_it_has() {
    if !can_run("a_revoked_site", &["ip", "curl"]) {
        return;
    }
    let mut site = Deployment::ready();
    let phone = site.phone_at(CISCO, "192.168.77.20");
    let before = site.preview(CISCO, CISCO_FILE);
    let said = site.hq(&["site", "revoke", "sample-office"]);
    site.polls_until("the revocation", |status| status["state"] == "certificate");
    let status = site.status();
    assert!(status["reason"].as_str().unwrap().contains("(revoked)"), "{status:#}\n{said}");
    assert_eq!(status["generation"], 1);
    let fetch = format!("curl -s -m 20 tftp://{BOX_LAN}/{CISCO_FILE}");
    assert_eq!(phone.try_sh(&fetch).stdout, before, "{}", site.appliance_log());
}

#[test]
fn replaced_hardware_takes_over_and_the_one_before_the_spare_is_locked_out_of_new_releases() {
    if !can_run("replaced_hardware", &["ip", "curl"]) {
        return;
    }
    let mut site = Deployment::ready();
    let first = site.state.clone();
    for (number, name) in [(2, "second"), (3, "third")] {
        site.appliance = None;
        site.state = site.net.dir().join(name);
        site.enroll();
        site.start_anew();
        // What was published before was not sealed to this box.
        site.polls_until("the refusal", |status| status["state"] == "refused");
        let reason = site.status()["reason"].as_str().unwrap().to_owned();
        assert!(reason.starts_with("not-sealed-to-us"), "{reason}");
        site.hq(&["publish"]);
        site.serves(number);
    }
    let phone = site.phone_at(CISCO, "192.168.77.20");
    let fetch = format!("curl -s -m 20 tftp://{BOX_LAN}/{CISCO_FILE}");
    assert_eq!(phone.try_sh(&fetch).stdout, site.preview(CISCO, CISCO_FILE), "{}", site.appliance_log());

    // The box that was replaced twice comes back from the drawer.
    site.appliance = None;
    site.state = first;
    site.start_anew();
    site.polls_until("the refusal", |status| status["state"] == "refused");
    let status = site.status();
    assert!(status["reason"].as_str().unwrap().starts_with("not-sealed-to-us"), "{status:#}");
    assert_eq!(status["generation"], 1);
}

#[test]
fn of_two_appliances_that_race_for_one_token_one_becomes_the_site() {
    if !can_run("two_appliances", &["ip", "curl"]) {
        return;
    }
    let site = Deployment::new();
    let dir = site.net.dir();
    for round in 0..3 {
        let token = fs::read(site.token()).unwrap();
        let racers: Vec<(PathBuf, std::process::Child)> = (0..2)
            .map(|racer| {
                let name = format!("racer-{round}-{racer}");
                let config = dir.join(format!("{name}.toml"));
                let settings = fs::read_to_string(site.config()).unwrap();
                let state = site.state.display().to_string();
                fs::write(&config, settings.replace(&state, dir.join(&name).to_str().unwrap())).unwrap();
                let own = dir.join(format!("{name}.token"));
                fs::write(&own, &token).unwrap();
                let words = [lineside_program(), "--config", config.to_str().unwrap(), "enroll", own.to_str().unwrap()];
                let child = site.site.command(&words).stderr(std::process::Stdio::piped()).spawn().unwrap();
                (dir.join(name), child)
            })
            .collect();
        let mut won = 0;
        for (state, child) in racers {
            let output = child.wait_with_output().unwrap();
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            let enrolled = fs::metadata(state.join("identity/tls.crt")).is_ok_and(|file| file.len() > 0);
            assert_eq!(output.status.success(), enrolled, "{said}");
            assert!(enrolled || said.contains("was used before"), "{said}");
            won += u32::from(enrolled);
        }
        assert_eq!(won, 1, "round {round}");
    }
}
