#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use bundle::limits::{CHUNK_BYTES, MAX_PHONES, MAX_UNPACKED_BYTES, TAG_BYTES};
use bundle::object::{ObjectError, chunks, open, open_chunk, open_inventory, open_shard};

use super::*;
use bundle::{Class, FileEntry, Phone, Scope};
use ids::MacAddr;

const LIMIT: u64 = 1024 * 1024;

fn secret() -> PublisherSecret {
    PublisherSecret::from_bytes([42; 32])
}

fn text(bytes: usize) -> Vec<u8> {
    b"<device><line button=\"1\"/></device>\n".iter().copied().cycle().take(bytes).collect()
}

/// Bytes that no packer makes shorter.
fn noise(bytes: usize) -> Vec<u8> {
    (0u64..).flat_map(|block| *Digest::of(&block.to_be_bytes()).as_bytes()).take(bytes).collect()
}

#[test]
fn content_comes_back_from_either_packing() {
    for packing in [Packing::Plain, Packing::Zstd] {
        for bytes in [0, 1, 1000, CHUNK_BYTES, 3 * CHUNK_BYTES + 5] {
            for clear in [text(bytes), noise(bytes)] {
                let (reference, sealed) = seal(&secret(), "s-1", &clear, packing);
                assert_eq!(reference.clear_bytes, bytes as u64);
                assert_eq!(reference.bytes, sealed.len() as u64);
                assert_eq!(open(&reference, &sealed, LIMIT), Ok(clear));
            }
        }
    }
}

#[test]
fn any_changed_byte_is_refused() {
    let (reference, sealed) = seal(&secret(), "s-1", &text(2000), Packing::Zstd);
    for at in 0..sealed.len() {
        let mut changed = sealed.clone();
        changed[at] ^= 1;
        assert_eq!(open(&reference, &changed, LIMIT), Err(ObjectError::WrongObject), "byte {at}");
        // Even if the reference names the changed bytes, the key does not.
        let reference = ObjectRef { digest: Digest::of(&changed), ..reference.clone() };
        assert_eq!(open(&reference, &changed, LIMIT), Err(ObjectError::Corrupt(0)), "byte {at}");
    }
}

#[test]
fn a_shortened_extended_or_foreign_object_is_refused() {
    let (reference, sealed) = seal(&secret(), "s-1", &text(2000), Packing::Plain);
    assert_eq!(open(&reference, &sealed[..sealed.len() - 1], LIMIT), Err(ObjectError::WrongObject));
    assert_eq!(open(&reference, &[sealed.as_slice(), b"x"].concat(), LIMIT), Err(ObjectError::WrongObject));
    let (_, other) = seal(&secret(), "s-2", &text(2000), Packing::Plain);
    assert_eq!(open(&reference, &other, LIMIT), Err(ObjectError::WrongObject));
    let wrong_key = ObjectRef { key: ContentKey::from_bytes([0; 32]), ..reference };
    assert_eq!(open(&wrong_key, &sealed, LIMIT), Err(ObjectError::Corrupt(0)));
}

#[test]
fn an_object_that_claims_another_size_is_refused() {
    for packing in [Packing::Plain, Packing::Zstd] {
        let (reference, sealed) = seal(&secret(), "s-1", &text(2000), packing);
        for clear_bytes in [0, 1999, 2001] {
            let reference = ObjectRef { clear_bytes, ..reference.clone() };
            assert_eq!(open(&reference, &sealed, LIMIT), Err(ObjectError::Unpack));
        }
        let error = open(&reference, &sealed, 1999).unwrap_err();
        assert_eq!(error, ObjectError::TooLarge { bytes: 2000, limit: 1999 });
    }
}

#[test]
fn a_bomb_is_refused() {
    let (honest, sealed) = seal(&secret(), "s-1", &vec![0; 32 * 1024 * 1024], Packing::Zstd);
    let claims_little = ObjectRef { clear_bytes: 1000, ..honest };
    assert_eq!(open(&claims_little, &sealed, LIMIT), Err(ObjectError::Unpack));
}

#[test]
fn equal_content_in_one_scope_is_one_object_and_in_two_scopes_two() {
    let sealed = |scope: &str| seal(&secret(), scope, &text(500), Packing::Zstd);
    assert_eq!(sealed("s-1"), sealed("s-1"));
    let ((here, _), (there, _)) = (sealed("s-1"), sealed("s-2"));
    assert_ne!(here.digest, there.digest);
    assert_ne!(here.key, there.key);
    let other = PublisherSecret::from_bytes([43; 32]);
    assert_ne!(seal(&other, "s-1", &text(500), Packing::Zstd).0.key, here.key);
}

#[test]
fn compression_is_used_where_it_pays_and_where_it_is_allowed() {
    let most = usize::try_from(MAX_COMPRESSED_FILE_BYTES).unwrap();
    let packing = |clear: &[u8]| seal_smaller(&secret(), "s-1", clear).0.packing;
    assert_eq!(packing(&text(most)), Packing::Zstd);
    assert_eq!(packing(&text(most + 1)), Packing::Plain);
    assert_eq!(packing(&noise(5000)), Packing::Plain);
    assert_eq!(packing(b""), Packing::Plain);
    assert_eq!(packing(b"short"), Packing::Plain);
}

#[test]
fn a_reader_can_start_at_any_chunk() {
    let clear = noise(2 * CHUNK_BYTES + 100);
    let (reference, sealed) = seal(&secret(), "s-1", &clear, Packing::Plain);
    let pieces: Vec<_> = sealed.chunks(CHUNK_BYTES + TAG_BYTES).collect();
    assert_eq!(pieces.len() as u64, chunks(clear.len() as u64));
    for index in [2u32, 0, 1] {
        let at = index as usize;
        let mut chunk = pieces[at].to_vec();
        open_chunk(&reference.key, index, index == 2, &mut chunk).unwrap();
        assert_eq!(chunk, clear.chunks(CHUNK_BYTES).nth(at).unwrap());
        let mut wrong_end = pieces[at].to_vec();
        let error = open_chunk(&reference.key, index, index != 2, &mut wrong_end).unwrap_err();
        assert_eq!(error, ObjectError::Corrupt(index.into()));
        assert!(wrong_end.is_empty(), "bytes that fail authentication do not leave");
        let mut wrong_place = pieces[at].to_vec();
        assert!(open_chunk(&reference.key, index + 1, index == 2, &mut wrong_place).is_err());
    }
    assert!(open_chunk(&reference.key, 0, true, &mut vec![0; 3]).is_err());
}

#[test]
fn shards_and_inventories_come_back() {
    let phone =
        Phone { mac: MacAddr::new([0, 4, 0xf2, 1, 2, 3]), model: "m".to_owned(), label: "reception".to_owned() };
    let inventory = Inventory { phones: vec![phone] };
    let (reference, sealed) = seal_inventory(&secret(), "s-1", &inventory);
    assert_eq!(open_inventory(&reference, &sealed), Ok(inventory));
    assert!(matches!(open_shard(&reference, &sealed), Err(ObjectError::Malformed(_))));

    let (blob, _) = seal_smaller(&secret(), "s-1", &text(300));
    let name = "SEP0004F2010203.cnf.xml".parse().unwrap();
    let (scope, class, sha256) = (Scope::Everyone, Class::Config, Digest::of(&text(300)));
    let shard = Shard { files: vec![FileEntry { name, scope, class, sha256, blob }] };
    let (reference, sealed) = seal_shard(&secret(), "s-1", &shard);
    assert_eq!(open_shard(&reference, &sealed), Ok(shard));
}

#[test]
fn a_part_over_its_limits_is_refused() {
    let phone = Phone { mac: MacAddr::new([0, 4, 0xf2, 1, 2, 3]), model: "m".to_owned(), label: String::new() };
    let many = Inventory { phones: vec![phone; MAX_PHONES + 1] };
    let (reference, sealed) = seal_inventory(&secret(), "s-1", &many);
    assert!(matches!(open_inventory(&reference, &sealed), Err(ObjectError::Malformed(what)) if what.contains("20001")));
    let clear = vec![b' '; usize::try_from(MAX_UNPACKED_BYTES).unwrap() + 1];
    let (reference, sealed) = seal(&secret(), "s-1", &clear, Packing::Zstd);
    assert!(matches!(open_shard(&reference, &sealed), Err(ObjectError::TooLarge { .. })));
}

#[test]
fn a_part_that_is_no_json_is_refused_without_its_keys_in_the_message() {
    let json = br#"{"files":[{"name":"a","scope":"everyone","class":"config","sha256":"00","blob":{"key":"secret"}}]}"#;
    let (reference, sealed) = seal(&secret(), "s-1", json, Packing::Zstd);
    let message = open_shard(&reference, &sealed).unwrap_err().to_string();
    assert!(message.contains("malformed") && !message.contains("secret"), "{message}");
}
