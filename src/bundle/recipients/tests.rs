#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use super::*;
use crate::{ContentKey, DhcpMode, DhcpSettings, ObjectRef, Packing, SiteSettings, Totals, VendorOption};
use ids::UnixTime;

pub(crate) fn manifest() -> Manifest {
    let part = |fill: u8| ObjectRef {
        digest: Digest::of(&[fill]),
        bytes: 300,
        key: ContentKey::from_bytes([fill; 32]),
        packing: Packing::Zstd,
        clear_bytes: 1000,
    };
    Manifest {
        format: MANIFEST_FORMAT,
        fleet: "acme".parse().unwrap(),
        site: "s-3f9a".parse().unwrap(),
        generation: Generation(7),
        created: UnixTime(1_700_000_000),
        totals: Totals { files: 3, clear_bytes: 4711, object_bytes: 2000 },
        catalogue_version: 4,
        activation_window: Some((120, 300)),
        settings: SiteSettings {
            dhcp: DhcpSettings {
                mode: DhcpMode::Augment,
                dns: vec![[192, 0, 2, 53].into()],
                vendor_options: vec![VendorOption { vendor_class: "Cisco".to_owned(), code: 43, value: vec![1, 2, 3] }],
                ..DhcpSettings::default()
            },
            ..SiteSettings::default()
        },
        inventory: part(1),
        shards: vec![part(2), part(3)],
        image: None,
    }
}

proptest::proptest! {
    #[test]
    fn no_bytes_make_the_reader_panic(count in 0u8..10, rest in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..400)) {
        let sealed = [MAGIC.as_slice(), &[SUITE_X25519, count], &rest].concat();
        let expected = Binding::of(&manifest());
        proptest::prop_assert!(open(&sealed, &RecipientSecret::from_bytes([1; 32]), &expected).is_err());
        proptest::prop_assert!(open(&rest, &RecipientSecret::from_bytes([1; 32]), &expected).is_err());
        proptest::prop_assert!(parse(&rest).is_err());
    }
}

#[test]
fn a_newer_format_is_recognised_although_its_fields_are_unknown() {
    assert_eq!(parse(br#"{"format":2,"shards":"elsewhere"}"#), Err(ManifestError::TooNew(2)));
    assert!(matches!(parse(br#"{"format":1}"#), Err(ManifestError::Malformed(_))));
    assert!(matches!(parse(b"[]"), Err(ManifestError::Malformed(_))));
}

#[test]
fn a_manifest_survives_json() {
    let json = serde_json::to_vec(&manifest()).unwrap();
    assert_eq!(parse(&json), Ok(manifest()));
}

#[test]
fn new_keys_differ_and_a_public_half_is_what_others_compute() {
    assert_ne!(RecipientSecret::generate(), RecipientSecret::generate());
    // By OpenSSL 3: X25519 of 32 bytes 0x2a and the base point.
    let public = format!("{:?}", RecipientSecret::from_bytes([0x2a; 32]).public());
    assert_eq!(public, "07aaff3e9fc167275544f4c3a6a17cd837f2ec6e78cd8a57b1e3dfb3cc035a76");
}
