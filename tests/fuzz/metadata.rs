//! TUF metadata: files of strangers, and files that the right keys signed whatever they say.
#![no_main]

use std::collections::BTreeMap;
use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use ids::{Digest, UnixTime};
use tuf::sign::{self, Signers, TopLevel};
use tuf::{MetadataLimits, Refresh, SigningKey, RefreshStep, Trusted, canonical};
use serde_json::Value;

const NOW: UnixTime = UnixTime(1_800_000_000);

struct Fixed {
    key: SigningKey,
    root: Vec<u8>,
    timestamp: Vec<u8>,
    snapshot: Vec<u8>,
}

/// One key signs all; the timestamp and snapshot say nothing of lengths and hashes, so that any file fits.
static FIXED: LazyLock<Fixed> = LazyLock::new(|| {
    let key = SigningKey::from_seed(&[1; 32]);
    let public = [key.public()];
    let signers = Signers { keys: &public, threshold: 1 };
    let later = UnixTime(4_000_000_000);
    let all = TopLevel { root: signers, targets: signers, snapshot: signers, timestamp: signers };
    let root = sign::sign(&sign::root(1, later, all, None), &[&key]);
    let meta = || {
        let mut meta = sign::meta_file(1, b"");
        (meta.length, meta.hashes) = (None, None);
        meta
    };
    let files = [("targets.json".to_owned(), meta()), ("firmware.json".to_owned(), meta())];
    let snapshot = sign::sign(&sign::snapshot(1, later, BTreeMap::from(files), None), &[&key]);
    let timestamp = sign::sign(&sign::timestamp(1, later, meta(), None), &[&key]);
    Fixed { key, root, timestamp, snapshot }
});

fuzz_target!(|data: &[u8]| {
    let Some((mode, data)) = data.split_first() else { return };
    let fixed = &*FIXED;
    let pinned = || Trusted::pin(&fixed.root).expect("our own root holds");
    let signed = || {
        let value: Value = serde_json::from_slice(data).ok()?;
        // Numbers that are no integers cannot be signed.
        canonical::bytes(&value).ok()?;
        Some(sign::sign(&value, &[&fixed.key]))
    };
    // What the fuzzer's file answers; everything before it is ours.
    let (role, file) = match mode % 8 {
        0 => return drop(Trusted::pin(data)),
        1 => ("root", Some(data.to_vec())),
        2 => ("timestamp", Some(data.to_vec())),
        3 => return drop(sign::add_signature(data, &fixed.key)),
        4 => ("root", signed()),
        5 => ("timestamp", signed()),
        6 => ("snapshot", signed()),
        _ => ("targets", signed()),
    };
    let Some(file) = file else { return };
    let mut refresh = Refresh::start(pinned(), MetadataLimits::default(), NOW);
    while let RefreshStep::Fetch(ask) = refresh.step() {
        let told = match ask.role.as_str() {
            asked if asked == role => refresh.received(&file),
            "timestamp" => refresh.received(&fixed.timestamp),
            "snapshot" => refresh.received(&fixed.snapshot),
            "root" => refresh.missing(),
            // Delegated roles: the same file once more.
            _ => refresh.received(&file),
        };
        if told.is_err() {
            break;
        }
    }
    // What is trusted can be stored and trusted again, and answers any question.
    let trusted = refresh.trusted();
    let files = trusted.files();
    let again = Trusted::reopen(&files).expect("what was trusted holds again");
    assert_eq!(again.files(), files);
    for path in ["manifest", "firmware/x", &Digest::of(data).to_string()] {
        assert_eq!(trusted.target(path), again.target(path));
    }
});
