//! A site's files in memory, and the release that lists them.

#![allow(clippy::cast_possible_truncation, clippy::indexing_slicing, clippy::unwrap_used)]

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use access::{Catalog, Content, ContentError, Files};
use bundle::manifest::MANIFEST_FORMAT;
use bundle::{
    Class, ContentKey, FileEntry, Inventory, Manifest, ObjectRef, Packing, Phone, Scope, Shard, SiteSettings, Totals,
};
use ids::{Digest, FileName, Generation, MacAddr, UnixTime};

pub(crate) const PHONE_MAC: MacAddr = MacAddr::new([0x00, 0x04, 0xf2, 0, 0, 2]);
pub(crate) const OTHER_MAC: MacAddr = MacAddr::new([0x00, 0x04, 0xf2, 0, 0, 3]);

/// A file: its name, whose it is, of which class, and its bytes.
pub(crate) type Page = (String, Scope, Class, Vec<u8>);

/// Files in memory. A file of this name is damaged from so many bytes on.
#[derive(Default)]
pub(crate) struct Shelf {
    pub(crate) files: HashMap<FileName, Arc<[u8]>>,
    pub(crate) damaged_at: HashMap<FileName, u64>,
    /// Asking for a file of this name panics where packets are moved.
    pub(crate) breaks: Option<FileName>,
    pub(crate) delay: Duration,
}

struct Book {
    bytes: Arc<[u8]>,
    damaged_at: u64,
    breaks: bool,
    delay: Duration,
    reads: AtomicU64,
}

impl Files for Shelf {
    fn open(&self, entry: &Arc<FileEntry>) -> Result<Arc<dyn Content>, ContentError> {
        let bytes = self.files.get(&entry.name).ok_or_else(|| ContentError::Io("gone".to_owned()))?;
        let damaged_at = self.damaged_at.get(&entry.name).copied().unwrap_or(u64::MAX);
        Ok(Arc::new(Book {
            bytes: Arc::clone(bytes),
            damaged_at,
            breaks: self.breaks.as_ref() == Some(&entry.name),
            delay: self.delay,
            reads: AtomicU64::new(0),
        }))
    }
}

impl Content for Book {
    fn len(&self) -> u64 {
        self.bytes.len() as u64
    }

    fn chunk(&self, index: u64) -> Result<Arc<[u8]>, ContentError> {
        std::thread::sleep(self.delay);
        let start = index * 65_536;
        let read = self.reads.fetch_add(1, Ordering::Relaxed);
        assert_eq!(read, index, "every chunk is read once, in order");
        if start >= self.damaged_at {
            return Err(ContentError::Damaged("its tag is wrong".to_owned()));
        }
        let end = self.len().min(start + 65_536);
        Ok(self.bytes[start as usize..end as usize].into())
    }

    fn cached(&self, _index: u64) -> Option<Arc<[u8]>> {
        assert!(!self.breaks, "a mistake in our own code");
        None
    }
}

pub(crate) fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|at| (at / 7 + at / 65_536) as u8).collect()
}

fn contents() -> Vec<Page> {
    let files: Vec<(&str, Scope, Class, Vec<u8>)> = vec![
        ("SEP0004F2000002.cnf.xml", Scope::Device(PHONE_MAC), Class::Config, b"<device>\n</device>\n".to_vec()),
        ("SEP0004F2000003.cnf.xml", Scope::Device(OTHER_MAC), Class::Config, b"<other/>".to_vec()),
        ("ringlist.xml", Scope::Everyone, Class::Locale, b"<rings/>\r\n".to_vec()),
        ("tones.raw", Scope::Everyone, Class::Locale, vec![0, 10, 13, 0]),
        ("empty.tlv", Scope::Everyone, Class::TrustList, Vec::new()),
        ("jar.sbn", Scope::Everyone, Class::Firmware, pattern(700_001)),
        ("exact.bin", Scope::Everyone, Class::Firmware, pattern(131_072)),
        ("damaged.bin", Scope::Everyone, Class::Firmware, pattern(1000)),
        ("half.bin", Scope::Everyone, Class::Firmware, pattern(200_000)),
        ("model.bin", Scope::Model("cisco-7942".to_owned()), Class::Firmware, pattern(3000)),
    ];
    files.into_iter().map(|(name, scope, class, bytes)| (name.to_owned(), scope, class, bytes)).collect()
}

pub(crate) fn shelf_of(pages: Vec<Page>) -> Shelf {
    let files = pages.into_iter().map(|(name, _, _, bytes)| (name.parse().unwrap(), bytes.into())).collect();
    Shelf { files, ..Shelf::default() }
}

pub(crate) fn shelf() -> Shelf {
    let damaged_at = [("damaged.bin", 0), ("half.bin", 65_536)];
    let damaged_at = damaged_at.into_iter().map(|(name, at)| (name.parse().unwrap(), at)).collect();
    Shelf { damaged_at, ..shelf_of(contents()) }
}

fn object(bytes: u64) -> ObjectRef {
    let key = ContentKey::from_bytes([0; 32]);
    ObjectRef { digest: Digest::of(b""), bytes, key, packing: Packing::Plain, clear_bytes: bytes }
}

pub(crate) fn catalog(generation: u64) -> Catalog {
    catalog_with(generation, SiteSettings::default())
}

pub(crate) fn catalog_with(generation: u64, settings: SiteSettings) -> Catalog {
    catalog_of(generation, settings, contents(), &[PHONE_MAC, OTHER_MAC])
}

pub(crate) fn catalog_of(generation: u64, settings: SiteSettings, pages: Vec<Page>, phones: &[MacAddr]) -> Catalog {
    let entry = |(name, scope, class, bytes): Page| FileEntry {
        name: name.parse().unwrap(),
        scope,
        class,
        sha256: Digest::of(&bytes),
        blob: object(bytes.len() as u64),
    };
    let phone = |mac: &MacAddr| Phone { mac: *mac, model: "cisco-7942".to_owned(), label: String::new() };
    let manifest = Manifest {
        format: MANIFEST_FORMAT,
        fleet: "fleet".parse().unwrap(),
        site: "site".parse().unwrap(),
        generation: Generation(generation),
        created: UnixTime(0),
        totals: Totals::default(),
        catalogue_version: 1,
        activation_window: None,
        settings,
        inventory: object(0),
        shards: Vec::new(),
        image: None,
    };
    let shard = Shard { files: pages.into_iter().map(entry).collect() };
    Catalog::new(&manifest, Inventory { phones: phones.iter().map(phone).collect() }, vec![shard]).unwrap()
}
