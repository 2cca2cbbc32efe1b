#![allow(clippy::unwrap_used, clippy::indexing_slicing)]
use super::super::lint;
use super::super::testing::{NOW, sample};
use super::*;
use std::time::Duration;

use repository::expiry::{of_fleet, of_published};
use tuf::Trusted;

fn options() -> InitOptions {
    InitOptions { name: "Ours".into(), url: "https://hq.example.net".into(), now: NOW }
}

#[test]
fn a_new_fleet_has_no_problems() {
    let report = lint::check(&sample().layout);
    assert_eq!(report.to_string(), "no problems: 1 site, 3 phones, 6 files");
}

#[test]
fn a_directory_that_is_not_empty_is_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("precious"), "").unwrap();
    let error = telemetry::explain(&init(dir.path(), &options()).unwrap_err());
    assert!(error.contains("is not empty: it has 1 file\nhint: "), "{error}");
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
}

#[test]
fn a_failure_leaves_nothing_behind() {
    let dir = tempfile::tempdir().unwrap();
    let bad = InitOptions { url: "http://hq.example.net".into(), ..options() };
    assert!(init(&dir.path().join("fleet"), &bad).is_err());
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[test]
fn an_empty_directory_may_become_the_fleet() {
    let dir = tempfile::tempdir().unwrap();
    init(dir.path(), &options()).unwrap();
    assert!(dir.path().join("fleet.toml").is_file());
}

#[test]
fn keys_are_readable_by_their_owner_only() {
    let sample = sample();
    for dir in [sample.layout.keys(), sample.layout.online()] {
        assert_eq!(fs::metadata(&dir).unwrap().permissions().mode() & 0o777, 0o700);
    }
    let mut seen = 0;
    for entry in fs::read_dir(sample.layout.keys()).unwrap() {
        let path = entry.unwrap().path();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600, "{}", path.display());
        seen += 1;
    }
    assert_eq!(seen, 10);
    assert_eq!(fs::metadata(sample.layout.online_key()).unwrap().permissions().mode() & 0o777, 0o600);
}

#[test]
fn the_signed_root_can_be_pinned_and_names_fleet_and_authority() {
    let sample = sample();
    let bytes = fs::read(sample.layout.signed().join("1.root.json")).unwrap();
    let trusted = Trusted::pin(&bytes).unwrap();
    let root = trusted.root();
    let ours = &root.extra[tuf::schema::EXTRA_FIELD];
    assert!(ours["fleet"].as_str().unwrap().starts_with("f-"));
    assert!(ours["ca"][0].as_str().unwrap().starts_with("-----BEGIN CERTIFICATE-----"));
    assert_eq!((root.roles["root"].threshold, root.roles["root"].keyids.len()), (2, 3));
    assert_eq!(root.expires, NOW.plus(roles::ROOT_LIFE));
    assert_eq!(fs::read(sample.layout.public().join("root.json")).unwrap(), bytes);
}

#[test]
fn an_added_site_has_an_id_of_its_own_and_is_added_once() {
    let sample = sample();
    let id = add_site(&sample.layout, "branch-7").unwrap();
    assert_eq!(id.as_str().len(), 18);
    assert_eq!(sample.problems(), Vec::<String>::new());
    assert!(add_site(&sample.layout, "branch-7").unwrap_err().to_string().contains("already"));
    for name in ["", "../x", "a/b", ".hidden", "-x"] {
        assert!(add_site(&sample.layout, name).is_err(), "{name}");
    }
}

#[test]
fn hosts_are_found_in_urls() {
    let cases = [
        ("https://hq.example.net", Some("hq.example.net")),
        ("https://hq.example.net:8443/", Some("hq.example.net")),
        ("https://192.0.2.1:8443", Some("192.0.2.1")),
        ("https://[2001:db8::1]:8443", Some("2001:db8::1")),
        ("http://hq", None),
        ("https://", None),
        ("https://hq/path", None),
    ];
    for (url, host) in cases {
        assert_eq!(host_of(url).as_deref(), host, "{url}");
    }
}

fn days(days: u64) -> UnixTime {
    NOW.plus(Duration::from_secs(days * 86_400))
}

#[test]
fn nothing_is_said_of_a_new_fleet_and_a_root_that_ends_soon_is_named() {
    let sample = sample();
    assert_eq!(of_fleet(&sample.layout, NOW), []);
    let soon = of_fleet(&sample.layout, days(3650 - 100));
    assert_eq!(soon.len(), 1);
    assert!(soon.first().unwrap().to_string().starts_with("root metadata expires at "), "{soon:?}");
    let late = of_published(&sample.layout, days(3651));
    assert!(late.first().is_some_and(|warning| warning.expired), "{late:?}");
}
