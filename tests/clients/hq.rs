//! HQ and the way to it: nginx in its place, refused tokens, damage on the way, the end of a process.

use std::fs;
use std::time::Duration;

use super::net::{can_run, text};
use super::site::{BOX_LAN, CISCO, CISCO_FILE, Deployment, HQ, tree};

#[test]
fn nginx_with_client_certificates_serves_the_published_tree_instead_of_hq() {
    if !can_run("nginx_serves_the_tree", &["ip", "nginx", "curl"]) {
        return;
    }
    let mut site = Deployment::with_repository(Some(&format!("https://{HQ}:8444")));
    let dir = site.net.dir();
    let online = site.fleet.join("online");
    let conf = format!(
        "daemon off; pid {dir}/nginx.pid; error_log {dir}/nginx-error.log; worker_processes 1; events {{}}
http {{
  access_log {dir}/nginx-access.log; client_body_temp_path {dir}/b; proxy_temp_path {dir}/p; fastcgi_temp_path {dir}/f;
  uwsgi_temp_path {dir}/u; scgi_temp_path {dir}/s;
  server {{
    listen {HQ}:8444 ssl; root {online}/public;
    ssl_certificate {online}/server.pem; ssl_certificate_key {online}/server.key; ssl_protocols TLSv1.3;
    ssl_client_certificate {online}/ca.pem; ssl_verify_client on; ssl_verify_depth 2;
  }}
}}",
        dir = dir.display(),
        online = online.display()
    );
    // The worker is another user; the test's directories are root's.
    let conf = format!("user root; {conf}");
    fs::write(dir.join("nginx.conf"), conf).unwrap();
    let nginx = site.hq.start(&["nginx", "-c", dir.join("nginx.conf").to_str().unwrap()], &dir.join("nginx.log"));

    site.enroll();
    site.hq(&["publish"]);
    // HQ's own service is away: what follows comes from nginx alone.
    site.serve = None;
    site.start();
    site.polls_until("the release", |status| status["generation"] == 1);
    let phone = site.phone_at(CISCO, "192.168.77.20");
    let fetch = format!("curl -s -m 20 tftp://{BOX_LAN}/{CISCO_FILE}");
    assert_eq!(phone.try_sh(&fetch).stdout, site.preview(CISCO, CISCO_FILE), "{}", nginx.log());

    site.edit("phones.csv", CISCO, &CISCO.to_uppercase());
    site.edit("templates/cisco-8941/SEP.cnf.xml.j2", "</device>", "<!-- changed at HQ --></device>");
    site.hq(&["publish"]);
    site.polls_until("the change", |status| status["generation"] == 2);
    let changed = phone.try_sh(&fetch).stdout;
    assert!(String::from_utf8_lossy(&changed).contains("changed at HQ"));

    // Without a client certificate nginx gives nothing.
    let bare = site.hq.try_sh(&format!("curl -sk -m 5 -o /dev/null -w '%{{http_code}}' https://{HQ}:8444/root.json"));
    assert_eq!(text(&bare), "400");
}

#[test]
fn a_used_a_wrong_and_a_foreign_token_are_refused_with_a_reason_in_both_logs() {
    if !can_run("refused_tokens", &["ip", "curl"]) {
        return;
    }
    let site = Deployment::new();
    let token = site.token();
    let original = fs::read_to_string(&token).unwrap();
    let secret = original.lines().find(|line| line.starts_with("secret")).unwrap();
    let wrong = original.replace(secret, "secret = \"00000000000000000000000000000000\"");
    fs::write(&token, wrong).unwrap();
    let (done, said) = site.try_lineside(&["enroll", token.to_str().unwrap()]);
    assert!(!done && said.contains("does not accept the token's proof"), "{said}");
    assert!(token.exists(), "a token that was not used is not wiped");

    fs::write(&token, &original).unwrap();
    let (done, said) = site.try_lineside(&["enroll", token.to_str().unwrap()]);
    assert!(done, "{said}");

    // Another appliance with the same token.
    fs::write(&token, &original).unwrap();
    fs::remove_dir_all(&site.state).unwrap();
    let (done, said) = site.try_lineside(&["enroll", token.to_str().unwrap()]);
    assert!(!done && said.contains("was used before"), "{said}");

    let log = site.serve.as_ref().unwrap().log();
    assert!(log.contains("proof-wrong") && log.contains("token-used"), "{log}");
}

#[test]
fn a_corrupted_download_is_refused_and_the_old_release_goes_on() {
    if !can_run("a_corrupted_download", &["ip", "curl"]) {
        return;
    }
    let mut site = Deployment::ready();
    let phone = site.phone_at(CISCO, "192.168.77.20");
    let before = site.preview(CISCO, CISCO_FILE);
    let public = site.fleet.join("online/public");
    let old = tree(&public.join("objects"));
    site.edit("templates/cisco-8941/SEP.cnf.xml.j2", "</device>", "<!-- second --></device>");
    site.hq(&["publish"]);
    let fresh: Vec<_> = tree(&public.join("objects")).into_iter().filter(|path| !old.contains(path)).collect();
    assert!(!fresh.is_empty());
    let originals: Vec<Vec<u8>> = fresh.iter().map(|path| fs::read(path).unwrap()).collect();
    for (path, bytes) in fresh.iter().zip(&originals) {
        let mut bytes = bytes.clone();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        fs::write(path, bytes).unwrap();
    }
    site.polls_until("the refusal", |status| status["state"] == "corrupt");
    let status = site.status();
    assert_eq!(status["generation"], 1, "{status:#}");
    let fetch = format!("curl -s -m 20 tftp://{BOX_LAN}/{CISCO_FILE}");
    assert_eq!(phone.try_sh(&fetch).stdout, before);

    for (path, bytes) in fresh.iter().zip(&originals) {
        fs::write(path, bytes).unwrap();
    }
    site.serves(2);
    assert!(String::from_utf8_lossy(&phone.try_sh(&fetch).stdout).contains("second"));
}

#[test]
fn the_site_goes_on_without_hq_and_after_a_restart_and_hq_sees_it_when_it_is_back() {
    if !can_run("the_site_goes_on", &["ip", "curl"]) {
        return;
    }
    let mut site = Deployment::ready();
    let phone = site.phone_at(CISCO, "192.168.77.20");
    let expected = site.preview(CISCO, CISCO_FILE);
    site.serve = None;
    site.polls_until("the outage", |status| status["state"] == "unreachable");
    // The power goes and comes back, HQ is still away.
    site.appliance.as_ref().unwrap().signal("KILL");
    site.appliance = None;
    site.start();
    let fetch = format!("curl -s -m 20 tftp://{BOX_LAN}/{CISCO_FILE}");
    assert_eq!(phone.try_sh(&fetch).stdout, expected, "{}", site.appliance_log());
    site.serve();
    site.serves(1);
    let line = super::net::wait_for(Duration::from_secs(20), || {
        let fleet = site.hq(&["fleet"]);
        let line = fleet.lines().find(|line| line.contains("sample-office"))?.to_owned();
        line.contains(env!("CARGO_PKG_VERSION")).then_some(line)
    });
    assert!(line.is_some(), "{}", site.hq(&["fleet"]));
}

#[test]
fn sigterm_ends_the_appliance_in_time_with_status_0() {
    if !can_run("sigterm", &["ip", "curl"]) {
        return;
    }
    let mut site = Deployment::ready();
    let mut appliance = site.appliance.take().unwrap();
    appliance.signal("TERM");
    let status = appliance.ends_within(Duration::from_secs(10));
    assert!(status.success(), "{status}: {}", appliance.log());
}

#[test]
fn the_published_tree_and_the_card_hold_no_secret_in_clear() {
    if !can_run("no_secret_in_clear", &["ip", "curl"]) {
        return;
    }
    let site = Deployment::ready();
    let config = String::from_utf8(site.preview(CISCO, CISCO_FILE)).unwrap();
    let secret = config.split("<authPassword>").nth(1).or_else(|| config.split("assword>").nth(1)).unwrap();
    let secret = secret.split('<').next().unwrap();
    assert!(secret.len() >= 4, "the sample has a SIP password: {config}");
    let mac = CISCO.replace(':', "");
    for dir in [site.fleet.join("online/public"), site.state.clone()] {
        let files = tree(&dir);
        assert!(files.len() > 5);
        for file in files {
            let bytes = fs::read(&file).unwrap();
            for needle in [secret, mac.as_str(), &mac.to_uppercase(), "sample-office", "cisco-8941"] {
                let found = bytes.windows(needle.len()).any(|window| window == needle.as_bytes());
                assert!(!found, "{needle} is in clear in {}", file.display());
            }
        }
    }
}
