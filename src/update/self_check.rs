//! The last look at a release before phones get it: every file opened and hashed as it will be served.

use std::collections::BTreeSet;

use sha2::{Digest as _, Sha256};

use crate::access::content::CHUNK_BYTES;
use crate::access::{Catalog, ContentError, Files};
use crate::ids::{Digest, FileName};

/// Contents that were checked: the sealed bytes' digest and the clear text's.
pub type Checked = BTreeSet<(Digest, Digest)>;

/// Why a release does not pass.
#[derive(Debug, Clone, thiserror::Error)]
pub enum CheckError {
    /// It opens to other content than the release says. No download can mend that.
    #[error("{0} does not have the content that the release says")]
    WrongContent(FileName),
    /// It does not open.
    #[error("{file}: {source}")]
    Unreadable {
        /// Which file.
        file: FileName,
        /// What is wrong.
        source: ContentError,
    },
}

/// Opens every file of `catalog` that is not in `checked`, each content once, and returns all that is good now.
pub fn run(files: &dyn Files, catalog: &Catalog, checked: &Checked) -> Result<Checked, CheckError> {
    let mut good = Checked::new();
    for entry in catalog.files() {
        let content = (entry.blob.digest, entry.sha256);
        if checked.contains(&content) || good.contains(&content) {
            good.insert(content);
            continue;
        }
        let unreadable = |source| CheckError::Unreadable { file: entry.name.clone(), source };
        let open = files.open(entry).map_err(unreadable)?;
        let mut hasher = Sha256::new();
        let mut bytes: u64 = 0;
        for index in 0..open.len().div_ceil(u64::try_from(CHUNK_BYTES).unwrap_or(u64::MAX)) {
            let chunk = open.chunk(index).map_err(unreadable)?;
            bytes = bytes.saturating_add(u64::try_from(chunk.len()).unwrap_or(u64::MAX));
            hasher.update(&chunk);
        }
        let clear = Digest::from_bytes(hasher.finalize().into());
        if clear != entry.sha256 || bytes != entry.blob.clear_bytes {
            return Err(CheckError::WrongContent(entry.name.clone()));
        }
        good.insert(content);
    }
    Ok(good)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]
    use std::collections::BTreeMap;
    use std::sync::atomic::{AtomicU32, Ordering};
    use std::sync::{Arc, Mutex};

    use super::*;
    use crate::access::Content;
    use crate::bundle::{
        Class, ContentKey, FileEntry, Inventory, Manifest, ObjectRef, Packing, Scope, Shard, SiteSettings, Totals,
    };
    use crate::ids::{Generation, UnixTime};

    struct Clear(Vec<u8>);

    impl Content for Clear {
        fn len(&self) -> u64 {
            self.0.len() as u64
        }

        fn chunk(&self, index: u64) -> Result<Arc<[u8]>, ContentError> {
            Ok(self.0.chunks(CHUNK_BYTES).nth(usize::try_from(index).unwrap()).unwrap().into())
        }
    }

    /// Files in memory by the digest of their blob, and how often any was opened.
    #[derive(Default)]
    struct Map {
        files: Mutex<BTreeMap<Digest, Vec<u8>>>,
        opened: AtomicU32,
    }

    impl Files for Map {
        fn open(&self, entry: &Arc<FileEntry>) -> Result<Arc<dyn Content>, ContentError> {
            self.opened.fetch_add(1, Ordering::SeqCst);
            match self.files.lock().unwrap().get(&entry.blob.digest) {
                Some(clear) => Ok(Arc::new(Clear(clear.clone()))),
                None => Err(ContentError::Damaged("gone".to_owned())),
            }
        }
    }

    fn object(clear: &[u8]) -> ObjectRef {
        let (bytes, key) = (clear.len() as u64, ContentKey::from_bytes([0; 32]));
        ObjectRef { digest: Digest::of(clear), bytes, key, packing: Packing::Plain, clear_bytes: bytes }
    }

    fn release(files: &Map, contents: &[(&str, &[u8])]) -> Catalog {
        let entry = |(name, clear): &(&str, &[u8])| {
            let blob = object(clear);
            files.files.lock().unwrap().insert(blob.digest, clear.to_vec());
            let (scope, class) = (Scope::Everyone, Class::Config);
            FileEntry { name: name.parse().unwrap(), scope, class, sha256: Digest::of(clear), blob }
        };
        let shard = Shard { files: contents.iter().map(entry).collect() };
        let manifest = Manifest {
            format: 1,
            fleet: "f-1".parse().unwrap(),
            site: "s-1".parse().unwrap(),
            generation: Generation(1),
            created: UnixTime(0),
            totals: Totals::default(),
            catalogue_version: 0,
            activation_window: None,
            settings: SiteSettings::default(),
            inventory: object(b"inventory"),
            shards: vec![object(b"shard")],
        };
        Catalog::new(&manifest, Inventory::default(), vec![shard]).unwrap()
    }

    #[test]
    fn each_content_is_read_once_and_known_ones_not_at_all() {
        let files = Map::default();
        let large = vec![5; 3 * CHUNK_BYTES + 1];
        let catalog = release(&files, &[("a", b"same"), ("b", b"same"), ("c", &large), ("d", b"")]);
        let good = run(&files, &catalog, &Checked::new()).unwrap();
        assert_eq!((good.len(), files.opened.load(Ordering::SeqCst)), (3, 3));
        assert_eq!(run(&files, &catalog, &good).unwrap(), good);
        assert_eq!(files.opened.load(Ordering::SeqCst), 3);
    }

    #[test]
    fn wrong_and_unreadable_content_are_told_apart() {
        let files = Map::default();
        let catalog = release(&files, &[("a", b"right")]);
        files.files.lock().unwrap().insert(Digest::of(b"right"), b"wrong".to_vec());
        assert!(matches!(run(&files, &catalog, &Checked::new()), Err(CheckError::WrongContent(_))));
        files.files.lock().unwrap().clear();
        assert!(matches!(run(&files, &catalog, &Checked::new()), Err(CheckError::Unreadable { .. })));
    }
}
