#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    reason = "tests make files as they like"
)]

use std::path::{Path, PathBuf};

use super::report::{FileReport, PhoneReport, Pulls, SiteReport, content_digits};
use super::*;
use crate::{Alert, CheckIn, PhoneSeen};
use ids::MacAddr;

/// A P-256 key in PKCS#8 that signs nothing else.
fn key() -> PageKey {
    PageKey::from_pkcs8(&std::fs::read(vectors().join("key.pk8")).unwrap()).unwrap()
}

fn vectors() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/vectors/check-in")
}

fn header(state: &StateMap) -> PageHeader {
    PageHeader {
        purpose: PURPOSE.to_owned(),
        fleet: "f-0123456789abcdef".parse().unwrap(),
        site: "s-0123456789abcdef".parse().unwrap(),
        box_id: "00112233445566aa".to_owned(),
        counter: 257,
        base: 0,
        generation: Generation(12),
        time: UnixTime(1_800_000_000),
        nonce: "000102030405060708090a0b0c0d0e0f".to_owned(),
        state: digest(state),
        more: false,
    }
}

fn file(name: &str, at: i64) -> FileReport {
    FileReport {
        name: name.to_owned(),
        outcome: "delivered".to_owned(),
        at: UnixTime(at),
        deliveries: 3,
        failures: 1,
        generation: Generation(11),
        fetched: content_digits(&Digest::of(b"one")),
        wanted: content_digits(&Digest::of(b"two")),
    }
}

fn report() -> SiteReport {
    let told =
        CheckIn { version: "0.1.0".into(), state: "ok".into(), dhcp_mode: "inform".into(), ..CheckIn::default() };
    let mut report = SiteReport::from(&told);
    report.now.uptime_seconds = 86_400;
    report.now.clock_synchronised = true;
    report.pulls = Some(Pulls::then(None, Generation(12), UnixTime(1_799_990_000)));
    report.counters.since = Some(UnixTime(1_799_900_000));
    report.counters.by.insert("tftp.delivered".into(), 4);
    let alert = Alert { code: "scan".into(), text: "\"x\"\n".into(), since: UnixTime(1_799_999_000), count: 2 };
    report.alerts.push(alert);
    let files = vec![file("SEP001B54000001.cnf.xml", 1_799_999_900), file("ringlist.xml", 1_799_999_800)];
    let phone = PhoneReport { known: true, load: "sip88xx.loads".into(), agent: String::new(), files };
    report.phones.insert("001b54000001".parse().unwrap(), phone);
    report
}

fn all(state: &StateMap) -> StateChanges {
    state.iter().map(|(key, value)| (key.clone(), Some(value.clone()))).collect()
}

fn read(state: &StateMap) -> SiteReport {
    SiteReport::read(state.iter().map(|(key, value)| (key.as_str(), value.as_str())))
}

#[test]
fn what_a_site_says_is_read_as_it_was_meant() {
    let report = report();
    let state = report.state();
    assert!(state.iter().all(|(key, value)| key.len() <= MAX_KEY_BYTES && !value.contains('\n')), "{state:?}");
    assert_eq!(read(&state), report);
}

#[test]
fn a_page_is_read_as_it_was_sent_and_proves_the_state_after_it() {
    let state = report().state();
    let page = Page::sign(header(&state), all(&state), &key()).unwrap();
    let read = Page::parse(&page.emit()).unwrap();
    assert_eq!(read, page);
    assert_eq!(read.verify(key().public()), Ok(()));
    assert_eq!(read.apply(StateMap::new()).unwrap().unwrap(), state);
    // On another base it leads elsewhere, which shows.
    assert_eq!(read.apply(StateMap::from([("other".into(), "1".into())])).unwrap(), None);
}

#[test]
fn a_changed_header_a_changed_value_and_another_key_show() {
    let state = report().state();
    let page = Page::sign(header(&state), all(&state), &key()).unwrap();
    let later = Page { signed: page.signed.replace("\"generation\":12", "\"generation\":13"), ..page.clone() };
    assert_ne!(later.signed, page.signed);
    assert_eq!(later.verify(key().public()), Err(PageError::Signature));
    let mut other = key().public().to_vec();
    other[10] ^= 1;
    assert_eq!(page.verify(&other), Err(PageError::Signature));
    let mut forged = page;
    forged.changes.insert("now".into(), Some("{}".into()));
    assert_eq!(forged.apply(StateMap::new()).unwrap(), None);
}

#[test]
fn pages_that_are_none_are_refused() {
    let state = report().state();
    let page = Page::sign(header(&state), all(&state), &key()).unwrap();
    let text = String::from_utf8(page.emit()).unwrap();
    let with = |line: &str| Page::parse(format!("{text}{line}\n").as_bytes()).unwrap_err();
    assert_eq!(with("now {}"), PageError::Malformed, "a key that is there twice");
    for line in ["", " x", "Now {}", "no\u{e4} 1", "a.b 1"] {
        assert_eq!(with(line), PageError::Malformed, "{line:?}");
    }
    assert_eq!(with(&format!("{} 1", "k".repeat(MAX_KEY_BYTES + 1))), PageError::TooLarge);
    assert_eq!(with(&format!("k {}", "v".repeat(MAX_VALUE_BYTES + 1))), PageError::TooLarge);
    assert_eq!(Page::parse(&vec![b'x'; MAX_BODY_BYTES + 1]), Err(PageError::TooLarge));
    for (from, to) in [
        (PURPOSE, "lineside check-in 3"),
        ("00112233445566aa", "00112233445566AA"),
        ("\"counter\":257", "\"counter\":0"),
        ("0c0d0e0f", "0c0d0e"),
    ] {
        assert_eq!(Page::parse(text.replacen(from, to, 1).as_bytes()), Err(PageError::Malformed), "{to}");
    }
    for bytes in [&b""[..], b"\n", b"{}\nx\n", b"\xff\n\xff\n", text.trim_end().as_bytes()] {
        assert_eq!(Page::parse(bytes), Err(PageError::Malformed));
    }
}

#[test]
fn a_state_beyond_its_limits_is_refused_whatever_its_pages_hold() {
    let many: StateMap = (0..=MAX_KEYS).map(|number| (format!("k{number}"), String::new())).collect();
    let header = header(&many);
    let page = Page { header, signed: String::new(), signature: String::new(), changes: StateChanges::new() };
    assert_eq!(page.apply(many), Err(PageError::TooLarge));
    let large = "v".repeat(MAX_STATE_BYTES);
    assert_eq!(page.apply(StateMap::from([("k".into(), large)])), Err(PageError::TooLarge));
}

#[test]
fn what_a_newer_site_adds_is_passed_over() {
    let mut state = report().state();
    state.insert("weather".into(), "[1]".into());
    state.insert("phone/zz".into(), "{}".into());
    let now = state.get_mut("now").unwrap();
    *now = now.replacen('{', "{\"fan\":true,", 1);
    assert_eq!(read(&state), report());
}

#[test]
fn a_phone_with_too_many_files_keeps_the_most_recent() {
    let mut report = report();
    let phone: MacAddr = "001b54000001".parse().unwrap();
    let many = (0..40).map(|number| file(&format!("{number}{}", "x".repeat(200)), 1_800_000_000 - number)).collect();
    report.phones.get_mut(&phone).unwrap().files = many;
    let state = report.state();
    assert!(state["phone/001b54000001"].len() <= report::MAX_PHONE_BYTES);
    assert!(read(&state).phones[&phone].files[0].name.starts_with("0x"));
}

#[test]
fn a_check_in_of_format_1_says_the_same_in_words() {
    let mac: MacAddr = "0004f2aabbcc".parse().unwrap();
    let phone = PhoneSeen {
        mac,
        known: true,
        last_seen: UnixTime(1_800_000_000),
        file: "a.cfg".into(),
        outcome: "delivered".into(),
        bytes: 1,
        retransmissions: 0,
        milliseconds: 1,
        generation: Generation(3),
    };
    let told = CheckIn { state: "ok".into(), phones: vec![phone], ..CheckIn::default() };
    let report = SiteReport::from(&told);
    let last = report.phones[&mac].last().unwrap();
    assert_eq!((last.name.as_str(), last.generation, report.phones[&mac].known), ("a.cfg", Generation(3), true));
}

#[test]
fn the_frozen_page_is_read_and_holds() {
    let bytes = std::fs::read(vectors().join("page")).unwrap();
    let page = Page::parse(&bytes).unwrap();
    assert_eq!(page.emit(), bytes);
    assert_eq!(page.verify(key().public()), Ok(()));
    let state = page.apply(StateMap::new()).unwrap().unwrap();
    assert_eq!(read(&state), report());
    // What this version writes is what that version wrote.
    assert_eq!(state, report().state());
    assert_eq!(page.signed, serde_json::to_string(&header(&state)).unwrap());
    let next = Page::parse(&std::fs::read(vectors().join("next")).unwrap()).unwrap();
    assert_eq!((next.verify(key().public()), next.header.base), (Ok(()), page.header.counter));
    let after = next.apply(state).unwrap().unwrap();
    assert!(!after.contains_key("counters") && after["now"].contains("86700"), "{after:?}");
}

#[test]
fn the_frozen_chain_of_pulls_holds() {
    let one = Pulls::then(None, Generation(1), UnixTime(1_800_000_000));
    let two = Pulls::then(Some(&one), Generation(2), UnixTime(1_800_000_300));
    let heads = std::fs::read_to_string(vectors().join("pulls")).unwrap();
    assert_eq!(heads, format!("{}\n{}\n", one.head, two.head));
}

/// Writes the vectors. They are frozen: this is for a new format's.
#[test]
#[ignore = "the vectors are frozen"]
fn write_the_vectors() {
    let state = report().state();
    let page = Page::sign(header(&state), all(&state), &key()).unwrap();
    std::fs::write(vectors().join("page"), page.emit()).unwrap();
    let mut after = state.clone();
    after.remove("counters");
    let now = after["now"].replace("86400", "86700");
    after.insert("now".into(), now.clone());
    let changes = StateChanges::from([("counters".into(), None), ("now".into(), Some(now))]);
    let next = PageHeader { counter: 258, base: 257, nonce: "ff".repeat(16), ..header(&after) };
    std::fs::write(vectors().join("next"), Page::sign(next, changes, &key()).unwrap().emit()).unwrap();
    let one = Pulls::then(None, Generation(1), UnixTime(1_800_000_000));
    let two = Pulls::then(Some(&one), Generation(2), UnixTime(1_800_000_300));
    std::fs::write(vectors().join("pulls"), format!("{}\n{}\n", one.head, two.head)).unwrap();
}
