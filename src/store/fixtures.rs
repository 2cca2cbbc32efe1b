//! Helpers for the tests of this room: failing disks and made-up releases.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex};

use super::{Store, StoreError};
use durable::{Disk, Hook, Op};
use ids::{Digest, Generation};

/// A disk that fails where a test wants it to.
#[derive(Debug, Clone, Default)]
pub(super) struct Faults(Arc<Mutex<Plan>>);

#[derive(Debug, Default)]
struct Plan {
    /// Steps that still work; `None` for all.
    left: Option<u64>,
    once: bool,
    struck: bool,
}

impl Faults {
    pub(super) fn none() -> Self {
        Self::default()
    }

    pub(super) fn disk(&self) -> Disk {
        Disk::hooked(Arc::new(self.clone()))
    }

    /// After so many steps, one fails.
    pub(super) fn fail_once_after(&self, steps: u64) {
        *self.0.lock().unwrap() = Plan { left: Some(steps), once: true, struck: false };
    }

    /// After so many steps, all fail: as if the process had died there.
    pub(super) fn die_after(&self, steps: u64) {
        *self.0.lock().unwrap() = Plan { left: Some(steps), once: false, struck: false };
    }

    pub(super) fn heal(&self) {
        self.0.lock().unwrap().left = None;
    }

    /// Whether a step failed since the last plan.
    pub(super) fn struck(&self) -> bool {
        self.0.lock().unwrap().struck
    }
}

impl Hook for Faults {
    fn before(&self, _op: &Op<'_>) -> io::Result<()> {
        let mut plan = self.0.lock().unwrap();
        match &mut plan.left {
            None => return Ok(()),
            Some(0) => {}
            Some(left) => {
                *left -= 1;
                return Ok(());
            }
        }
        plan.struck = true;
        if plan.once {
            plan.left = None;
        }
        Err(io::Error::new(io::ErrorKind::StorageFull, "no space left on device"))
    }
}

/// A made-up release: this room does not look inside.
pub(super) struct Made {
    pub(super) generation: Generation,
    pub(super) manifest: Vec<u8>,
    pub(super) metadata: BTreeMap<String, Vec<u8>>,
    pub(super) objects: Vec<Vec<u8>>,
}

impl Made {
    /// Release `number`: one object that all releases share, and two of its own.
    pub(super) fn number(number: u64) -> Self {
        let metadata = ["root.json", "targets.json", "../../odd/../name.json"];
        Self {
            generation: Generation(number),
            manifest: format!("sealed manifest {number}").into_bytes(),
            metadata: metadata.map(|name| (name.to_owned(), format!("{name} {number}").into_bytes())).into(),
            objects: vec![
                b"shared".to_vec(),
                format!("shard {number}").into_bytes(),
                vec![u8::try_from(number % 251).unwrap(); 3000],
            ],
        }
    }

    pub(super) fn listed(&self) -> Vec<(Digest, u64)> {
        self.objects.iter().map(|bytes| (Digest::of(bytes), bytes.len() as u64)).collect()
    }

    pub(super) fn fetch(&self, store: &Store) -> Result<(), StoreError> {
        self.objects.iter().try_for_each(|bytes| put(store, bytes))
    }

    pub(super) fn stage(&self, store: &Store) -> Result<(), StoreError> {
        store.inner.stage(self.generation, &self.manifest, &self.metadata, &self.listed())
    }

    pub(super) fn install(&self, store: &Store) -> Result<(), StoreError> {
        self.fetch(store)?;
        self.stage(store)?;
        store.activate(self.generation)
    }

    /// Everything of it is there and right.
    pub(super) fn assert_whole(&self, store: &Store) {
        let active = store.active().unwrap().expect("an active release");
        assert_eq!(active.generation, self.generation);
        assert_eq!(active.metadata, self.metadata);
        assert_eq!(active.sealed_manifest, self.manifest);
        self.assert_objects(store);
    }

    pub(super) fn assert_objects(&self, store: &Store) {
        for bytes in &self.objects {
            assert!(store.has(&Digest::of(bytes), bytes.len() as u64));
            assert_eq!(&store.read(&Digest::of(bytes), 1 << 20).unwrap(), bytes);
        }
    }
}

/// Writes one object into the store, as a poll does.
pub(super) fn put(store: &Store, bytes: &[u8]) -> Result<(), StoreError> {
    let mut download = store.download(&Digest::of(bytes), bytes.len() as u64)?;
    let from = usize::try_from(download.offset()).unwrap();
    download.write(&bytes[from..])?;
    download.finish()
}

/// A store with releases 1 to `last` installed, the last of them active.
pub(super) fn installed(dir: &Path, last: u64) -> Store {
    let store = Store::open(dir).unwrap();
    (1..=last).for_each(|number| Made::number(number).install(&store).unwrap());
    store
}

/// A directory in memory where there is such a thing: some tests build thousands of disks.
pub(super) fn in_memory() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap()
}
