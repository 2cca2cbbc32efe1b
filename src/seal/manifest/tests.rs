#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use bundle::limits::{MAX_MANIFEST_BYTES, MAX_UNPACKED_BYTES};
use bundle::manifest::MANIFEST_FORMAT;
use bundle::recipients::{ENC_BYTES, HEADER_BYTES, ID_BYTES, open, split};
use bundle::{
    ContentKey, DhcpMode, DhcpSettings, ObjectRef, Packing, RecipientSecret, SiteSettings, Totals, VendorOption,
};
use ids::{Digest, Generation, UnixTime};

use super::*;

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

fn secret() -> PublisherSecret {
    PublisherSecret::from_bytes([42; 32])
}

fn key(fill: u8) -> RecipientSecret {
    RecipientSecret::from_bytes([fill; 32])
}

fn recipients() -> Vec<RecipientPublic> {
    [1, 2, 3].map(|fill| key(fill).public()).to_vec()
}

fn sealed() -> Vec<u8> {
    seal(&secret(), &manifest(), &recipients()).unwrap()
}

fn binding() -> Binding {
    Binding::of(&manifest())
}

#[test]
fn every_recipient_opens_it_and_nobody_else() {
    let sealed = sealed();
    for fill in [1, 2, 3] {
        assert_eq!(open(&sealed, &key(fill), &binding()).as_ref(), Ok(&manifest()));
    }
    assert_eq!(open(&sealed, &key(4), &binding()), Err(ManifestError::NotForUs));
}

#[test]
fn any_changed_byte_is_refused_by_every_recipient() {
    let sealed = sealed();
    for at in 0..sealed.len() {
        let mut changed = sealed.clone();
        changed[at] ^= 0x80;
        for fill in [1, 2, 3] {
            assert!(open(&changed, &key(fill), &binding()).is_err(), "byte {at} and recipient {fill}");
        }
    }
}

#[test]
fn any_shortened_or_extended_one_is_refused() {
    let sealed = sealed();
    for bytes in 0..sealed.len() {
        assert!(open(&sealed[..bytes], &key(1), &binding()).is_err(), "{bytes} bytes");
    }
    assert!(open(&[sealed.as_slice(), &[0]].concat(), &key(1), &binding()).is_err());
}

#[test]
fn another_fleet_site_or_generation_is_refused() {
    let sealed = sealed();
    for wrong in [
        Binding { fleet: "other".parse().unwrap(), ..binding() },
        Binding { site: "s-other".parse().unwrap(), ..binding() },
        Binding { generation: Generation(8), ..binding() },
    ] {
        assert_eq!(open(&sealed, &key(1), &wrong), Err(ManifestError::NotForUs), "{wrong:?}");
    }
}

#[test]
fn sealing_again_gives_the_same_bytes_in_whatever_order_recipients_come() {
    let mut reversed = recipients();
    reversed.reverse();
    reversed.push(recipients()[0]);
    assert_eq!(seal(&secret(), &manifest(), &reversed).unwrap(), sealed());
}

#[test]
fn another_manifest_or_set_of_recipients_shares_no_key() {
    let first = sealed();
    let fewer = seal(&secret(), &manifest(), &recipients()[..2]).unwrap();
    let newer = Manifest { generation: Generation(8), ..manifest() };
    let newer = seal(&secret(), &newer, &recipients()).unwrap();
    let encs = |sealed: &[u8]| -> Vec<Vec<u8>> {
        let (head, _) = split(sealed).unwrap();
        head[HEADER_BYTES..].chunks_exact(RECIPIENT_BYTES).map(|line| line[ID_BYTES..][..ENC_BYTES].to_vec()).collect()
    };
    let mut all = [encs(&first), encs(&fewer), encs(&newer)].concat();
    all.sort();
    all.dedup();
    assert_eq!(all.len(), 3 + 2 + 3);
}

#[test]
fn a_suite_of_the_future_asks_for_an_update() {
    let mut sealed = sealed();
    sealed[4] = 2;
    assert_eq!(open(&sealed, &key(1), &binding()), Err(ManifestError::UnknownSuite(2)));
}

#[test]
fn too_many_recipients_are_refused_on_both_sides() {
    let many: Vec<_> = (1..=9).map(|fill| key(fill).public()).collect();
    assert!(matches!(seal(&secret(), &manifest(), &many), Err(ManifestError::TooLarge { value: 9, .. })));
    assert!(matches!(seal(&secret(), &manifest(), &[]), Err(ManifestError::Malformed(_))));
    let mut sealed = sealed();
    for count in [0, 9, 255] {
        sealed[5] = count;
        assert!(matches!(open(&sealed, &key(1), &binding()), Err(ManifestError::TooLarge { .. })));
    }
}

#[test]
fn a_manifest_that_says_another_release_than_it_is_sealed_for_is_refused() {
    let json = serde_json::to_vec(&manifest()).unwrap();
    let other = Binding { generation: Generation(8), ..binding() };
    let sealed = seal_packed(&secret(), &other, &packing::pack(&json), &recipients()).unwrap();
    assert_eq!(open(&sealed, &key(1), &other), Err(ManifestError::NotForUs));
}

#[test]
fn a_bomb_in_a_manifest_is_refused() {
    let bomb = packing::pack(&vec![b' '; 2 * usize::try_from(MAX_UNPACKED_BYTES).unwrap()]);
    let sealed = seal_packed(&secret(), &binding(), &bomb, &recipients()).unwrap();
    assert!(matches!(open(&sealed, &key(1), &binding()), Err(ManifestError::Malformed(_))));
}

#[test]
fn a_manifest_over_its_size_is_refused_on_both_sides() {
    let large = vec![0; usize::try_from(MAX_MANIFEST_BYTES).unwrap()];
    let error = seal_packed(&secret(), &binding(), &large, &recipients()).unwrap_err();
    assert!(matches!(error, ManifestError::TooLarge { what: "sealed size", .. }));
    assert!(matches!(open(&[large, vec![0]].concat(), &key(1), &binding()), Err(ManifestError::TooLarge { .. })));
}

#[test]
fn a_key_that_hides_nothing_is_refused() {
    let zero = RecipientPublic::from_bytes([0; 32]);
    assert!(matches!(seal(&secret(), &manifest(), &[zero]), Err(ManifestError::Malformed(_))));
}

#[test]
fn a_manifest_out_of_bounds_is_not_sealed() {
    let wrong = Manifest { shards: vec![], ..manifest() };
    assert!(matches!(seal(&secret(), &wrong, &recipients()), Err(ManifestError::Malformed(_))));
}
