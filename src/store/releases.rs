//! Releases on disk: metadata, sealed manifest, the list of their objects, and an index with checksums of all that.
//!
//! A release is there if its index is whole and every file is the one that the index says. It is written aside and
//! renamed, so a power cut leaves all of it or nothing.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::error::StoreError;
use super::{OpenStore, Store, checked, lock};
use bundle::limits::{MAX_FILES, MAX_MANIFEST_BYTES, MAX_SHARDS};
use durable::{PRIVATE, PRIVATE_DIR, read_limited};
use ids::{Digest, Generation};

const INDEX: &checked::FileMagic = b"LSINDEX\x01";
const MAX_INDEX_BYTES: u64 = 64 * 1024;

/// The most metadata files of a release, delegated roles included.
const MAX_METADATA_FILES: usize = 64;

/// The most bytes of one metadata file.
const MAX_METADATA_BYTES: u64 = 4 * 1024 * 1024;

/// The most objects of a release: files, shards and the inventory.
const MAX_OBJECTS: usize = MAX_FILES + MAX_SHARDS + 1;

const OBJECT_ENTRY_BYTES: usize = 40;

/// An empty file in the directory of a release that has been active; see [`super::pointer`].
const ACTIVATED: &str = "activated";

/// A release as it lies on disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredRelease {
    /// The number of the release; a newer release has a higher one.
    pub generation: Generation,
    /// The metadata it was verified with, under unversioned names.
    pub metadata: BTreeMap<String, Vec<u8>>,
    /// The manifest as it was fetched: sealed to the site, at most `MAX_MANIFEST_BYTES`.
    pub sealed_manifest: Vec<u8>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Index {
    generation: Generation,
    manifest: FileDigest,
    objects: FileDigest,
    /// File `n.json` holds the metadata of this name: names come from outside and become no paths.
    metadata: Vec<(String, FileDigest)>,
}

/// The checksum and the length of one file of the release.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct FileDigest {
    sha256: Digest,
    bytes: u64,
}

impl FileDigest {
    fn of(bytes: &[u8]) -> Self {
        Self { sha256: Digest::of(bytes), bytes: bytes.len() as u64 }
    }

    fn read(&self, path: &Path, limit: u64) -> Option<Vec<u8>> {
        let bytes = read_limited(path, self.bytes.min(limit)).ok()??;
        (Self::of(&bytes) == *self).then_some(bytes)
    }
}

impl Store {
    /// The sealed release that the pointer names: generation, metadata files, sealed manifest. Whoever calls
    /// re-verifies it with [`access::OpenedManifest`]. If it is damaged, one that was active before takes its
    /// place, and [`Store::recoveries`] says so.
    pub fn active(&self) -> Result<Option<StoredRelease>, StoreError> {
        self.inner.active()
    }

    /// The release that was active before; `None` if there is none, or if it is damaged.
    pub fn previous(&self) -> Result<Option<StoredRelease>, StoreError> {
        let previous = lock(&self.inner.pointer).previous;
        Ok(previous.and_then(|generation| self.inner.load_release(generation)))
    }
}

impl OpenStore {
    pub(super) fn release_dir(&self, generation: Generation) -> PathBuf {
        self.dir.join("releases").join(generation.to_string())
    }

    /// Generations that have a directory, whole or not, newest first.
    pub(super) fn release_numbers(&self) -> Vec<Generation> {
        let Ok(entries) = fs::read_dir(self.dir.join("releases")) else { return Vec::new() };
        let number = |entry: io::Result<fs::DirEntry>| {
            let name = entry.ok()?.file_name().into_string().ok()?;
            let number: u64 = name.parse().ok()?;
            (number.to_string() == name).then_some(Generation(number))
        };
        let mut numbers: Vec<_> = entries.filter_map(number).collect();
        numbers.sort_unstable_by(|a, b| b.cmp(a));
        numbers
    }

    /// A whole release; `None` if it is absent or damaged in any part.
    pub(super) fn load_release(&self, generation: Generation) -> Option<StoredRelease> {
        let dir = self.release_dir(generation);
        let index = self.load_index(generation)?;
        index.objects.read(&dir.join("objects"), (MAX_OBJECTS * OBJECT_ENTRY_BYTES) as u64)?;
        let sealed_manifest = index.manifest.read(&dir.join("manifest"), MAX_MANIFEST_BYTES)?;
        let mut metadata = BTreeMap::new();
        for (number, (name, file)) in index.metadata.into_iter().enumerate() {
            metadata.insert(name, file.read(&dir.join(format!("{number}.json")), MAX_METADATA_BYTES)?);
        }
        Some(StoredRelease { generation, metadata, sealed_manifest })
    }

    /// The objects that a release needs, with their lengths in bytes; `None` if its list of objects is damaged.
    pub(super) fn release_objects(&self, generation: Generation) -> Option<Vec<(Digest, u64)>> {
        let index = self.load_index(generation)?;
        let path = self.release_dir(generation).join("objects");
        let bytes = index.objects.read(&path, (MAX_OBJECTS * OBJECT_ENTRY_BYTES) as u64)?;
        let (entries, rest) = bytes.as_chunks::<OBJECT_ENTRY_BYTES>();
        let entry = |entry: &[u8; OBJECT_ENTRY_BYTES]| {
            let (digest, bytes) = entry.split_first_chunk::<32>()?;
            Some((Digest::from_bytes(*digest), u64::from_be_bytes(bytes.try_into().ok()?)))
        };
        if rest.is_empty() { entries.iter().map(entry).collect() } else { None }
    }

    fn load_index(&self, generation: Generation) -> Option<Index> {
        let bytes = read_limited(&self.release_dir(generation).join("index"), MAX_INDEX_BYTES).ok()??;
        let (_, body) = checked::parse(INDEX, &bytes)?;
        let index: Index = serde_json::from_slice(body).ok()?;
        (index.generation == generation && index.metadata.len() <= MAX_METADATA_FILES).then_some(index)
    }

    /// Remembers which objects whole releases list.
    pub(super) fn load_listed(&self) {
        let mut listed = std::collections::HashSet::new();
        for generation in self.release_numbers() {
            listed.extend(self.release_objects(generation).unwrap_or_default().into_iter().map(|(digest, _)| digest));
        }
        *lock(&self.listed) = listed;
    }

    pub(super) fn stage(
        &self,
        generation: Generation,
        sealed_manifest: &[u8],
        metadata: &BTreeMap<String, Vec<u8>>,
        objects: &[(Digest, u64)],
    ) -> Result<(), StoreError> {
        check_size("sealed manifest", sealed_manifest.len() as u64, MAX_MANIFEST_BYTES)?;
        check_size("number of metadata files", metadata.len() as u64, MAX_METADATA_FILES as u64)?;
        check_size("number of objects", objects.len() as u64, MAX_OBJECTS as u64)?;
        for bytes in metadata.values() {
            check_size("metadata file", bytes.len() as u64, MAX_METADATA_BYTES)?;
        }
        if let Some((missing, _)) = objects.iter().find(|(digest, bytes)| !self.has(digest, *bytes)) {
            return Err(StoreError::Missing(*missing));
        }
        // One at a time, and not while the pointer moves or things are deleted.
        let pointer = lock(&self.pointer);

        let mut list = Vec::with_capacity(objects.len() * OBJECT_ENTRY_BYTES);
        for (digest, bytes) in objects {
            list.extend_from_slice(digest.as_bytes());
            list.extend_from_slice(&bytes.to_be_bytes());
        }
        let index = Index {
            generation,
            manifest: FileDigest::of(sealed_manifest),
            objects: FileDigest::of(&list),
            metadata: metadata.iter().map(|(name, bytes)| (name.clone(), FileDigest::of(bytes))).collect(),
        };
        let dir = self.release_dir(generation);
        if self.load_release(generation).is_some() {
            let there = self.load_index(generation);
            let same = there.is_some_and(|there| there.manifest == index.manifest && there.objects == index.objects);
            if same {
                // Its objects may have been fetched again since; the metadata may be older, which is as well.
                return self.disk.sync_all(&self.dir).map_err(StoreError::io("sync", &self.dir));
            }
            if pointer.names(generation) {
                return Err(StoreError::Conflict(generation));
            }
        }
        if dir.exists() {
            let aside = self.aside();
            self.disk.rename(&dir, &aside).map_err(StoreError::io("move", &dir))?;
            self.disk.remove_dir(&aside).map_err(StoreError::io("delete", &aside))?;
        }

        // Objects first, all with one call, so that a release that is there has its objects.
        self.disk.sync_all(&self.dir).map_err(StoreError::io("sync", &self.dir))?;

        let aside = self.aside();
        let written = self.write_release(&aside, &index, sealed_manifest, &list, metadata);
        let renamed = written.and_then(|()| {
            self.disk.rename(&aside, &dir).map_err(StoreError::io("rename", &aside))?;
            let releases = self.dir.join("releases");
            self.disk.sync_dir(&releases).map_err(StoreError::io("sync", &releases))
        });
        if renamed.is_err() {
            let _ = self.disk.remove_dir(&aside);
        }
        renamed?;
        lock(&self.listed).extend(objects.iter().map(|(digest, _)| *digest));
        drop(pointer);
        Ok(())
    }

    fn write_release(
        &self,
        dir: &Path,
        index: &Index,
        sealed_manifest: &[u8],
        objects: &[u8],
        metadata: &BTreeMap<String, Vec<u8>>,
    ) -> Result<(), StoreError> {
        let write = |name: &str, bytes: &[u8]| {
            let path = dir.join(name);
            self.disk.write_new(&path, bytes, PRIVATE).map_err(StoreError::io("write", &path))
        };
        self.disk.create_dir(dir, PRIVATE_DIR).map_err(StoreError::io("create", dir))?;
        write("manifest", sealed_manifest)?;
        write("objects", objects)?;
        for (number, bytes) in metadata.values().enumerate() {
            write(&format!("{number}.json"), bytes)?;
        }
        // Content of names and numbers only: it always becomes JSON.
        let body = serde_json::to_vec(index).map_err(io::Error::from).map_err(StoreError::io("write", dir))?;
        check_size("index", body.len() as u64 + checked::OVERHEAD_BYTES, MAX_INDEX_BYTES)?;
        write("index", &checked::emit(INDEX, index.generation.0, &body))?;
        self.disk.sync_dir(dir).map_err(StoreError::io("sync", dir))
    }

    /// Notes in the directory of the release that it is about to be active.
    pub(super) fn mark_activated(&self, generation: Generation) -> Result<(), StoreError> {
        let dir = self.release_dir(generation);
        let path = dir.join(ACTIVATED);
        if path.exists() {
            return Ok(());
        }
        self.disk.create(&path, PRIVATE).map_err(StoreError::io("create", &path))?;
        self.disk.sync_dir(&dir).map_err(StoreError::io("sync", &dir))
    }

    /// Removes that note, because the release failed its self-check.
    pub(super) fn unmark_activated(&self, generation: Generation) -> Result<(), StoreError> {
        let dir = self.release_dir(generation);
        let path = dir.join(ACTIVATED);
        if !path.exists() {
            return Ok(());
        }
        self.disk.remove_file(&path).map_err(StoreError::io("delete", &path))?;
        self.disk.sync_dir(&dir).map_err(StoreError::io("sync", &dir))
    }

    pub(super) fn was_activated(&self, generation: Generation) -> bool {
        self.release_dir(generation).join(ACTIVATED).exists()
    }
}

fn check_size(what: &'static str, value: u64, limit: u64) -> Result<(), StoreError> {
    if value > limit { Err(StoreError::TooLarge { what, limit }) } else { Ok(()) }
}
