//! The last look at a release before phones get it: every file, and the image, opened and hashed as it will be served.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use access::{Catalog, ContentError, Files};
use bundle::FileEntry;
use ids::{Digest, FileName};

/// Contents that were found good: the digest of the sealed bytes and that of the clear text.
pub type CheckedContents = BTreeSet<(Digest, Digest)>;

/// Why a release does not pass.
#[derive(Debug, Clone, thiserror::Error)]
pub enum CheckError {
    /// A file opens to other content than the release says. No download can mend that.
    #[error("{0} does not have the content that the release says")]
    WrongContent(FileName),
    /// A file does not open.
    #[error("{file}: {source}")]
    Unreadable {
        /// The file's TFTP name.
        file: FileName,
        /// Why it does not open.
        source: ContentError,
    },
}

/// Opens every file of `catalog` that is not in `checked`, each content once, and returns all that is good now.
///
/// It opens two files at a time, the largest first. A site's release is a few images and many small files, and nothing
/// else of the appliance needs the processor for long.
pub fn run(files: &dyn Files, catalog: &Catalog, checked: &CheckedContents) -> Result<CheckedContents, CheckError> {
    let mut good = CheckedContents::new();
    let mut unknown = Vec::new();
    for entry in catalog.contents() {
        let content = (entry.blob.digest, entry.sha256);
        if good.insert(content) && !checked.contains(&content) {
            unknown.push(entry);
        }
    }
    unknown.sort_by_key(|entry| std::cmp::Reverse(entry.blob.clear_bytes));
    let next = AtomicUsize::new(0);
    let work = || {
        while let Some(entry) = unknown.get(next.fetch_add(1, Ordering::Relaxed)) {
            // The other thread stops as well.
            check(files, entry).inspect_err(|_| next.store(unknown.len(), Ordering::Relaxed))?;
        }
        Ok(())
    };
    std::thread::scope(|scope| {
        // One file needs no second thread. If the system has none to give, this thread does all the work.
        let second = std::thread::Builder::new();
        let second = (unknown.len() > 1).then(|| second.name("self-check".to_owned()).spawn_scoped(scope, work).ok());
        work()?;
        // A panic of the second thread goes on in this one, and the updater survives it.
        second.flatten().map_or(Ok(()), |thread| thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
    })?;
    Ok(good)
}

fn check(files: &dyn Files, entry: &Arc<FileEntry>) -> Result<(), CheckError> {
    let unreadable = |source| CheckError::Unreadable { file: entry.name.clone(), source };
    let (bytes, clear) = files.open(entry).and_then(|open| open.digest()).map_err(unreadable)?;
    if clear != entry.sha256 || bytes != entry.blob.clear_bytes {
        return Err(CheckError::WrongContent(entry.name.clone()));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]
    use std::collections::BTreeMap;
    use std::sync::Mutex;
    use std::sync::atomic::AtomicU32;

    use super::*;
    use access::Content;
    use access::content::CHUNK_BYTES;
    use bundle::{Class, ContentKey, Inventory, Manifest, ObjectRef, Packing, Scope, Shard, SiteSettings, Totals};
    use ids::{Generation, UnixTime};

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
            image: None,
        };
        Catalog::new(&manifest, Inventory::default(), vec![shard]).unwrap()
    }

    #[test]
    fn each_content_is_read_once_and_known_ones_not_at_all() {
        let files = Map::default();
        let large = vec![5; 3 * CHUNK_BYTES + 1];
        let catalog = release(&files, &[("a", b"same"), ("b", b"same"), ("c", &large), ("d", b"")]);
        let good = run(&files, &catalog, &CheckedContents::new()).unwrap();
        assert_eq!((good.len(), files.opened.load(Ordering::SeqCst)), (3, 3));
        assert_eq!(run(&files, &catalog, &good).unwrap(), good);
        assert_eq!(files.opened.load(Ordering::SeqCst), 3);
    }

    #[test]
    fn one_bad_file_among_many_is_found_wherever_it_is() {
        let contents: Vec<(String, Vec<u8>)> = (0..40).map(|n| (format!("f{n}"), vec![7; n])).collect();
        let contents: Vec<(&str, &[u8])> = contents.iter().map(|(name, clear)| (name.as_str(), &clear[..])).collect();
        for bad in 0..contents.len() {
            let files = Map::default();
            let catalog = release(&files, &contents);
            files.files.lock().unwrap().insert(Digest::of(contents[bad].1), vec![8; bad]);
            let verdict = run(&files, &catalog, &CheckedContents::new());
            // Nothing is nothing, however it is damaged.
            assert_eq!(verdict.is_err(), bad > 0, "{bad}");
        }
    }

    #[test]
    fn wrong_and_unreadable_content_are_told_apart() {
        let files = Map::default();
        let catalog = release(&files, &[("a", b"right")]);
        files.files.lock().unwrap().insert(Digest::of(b"right"), b"wrong".to_vec());
        assert!(matches!(run(&files, &catalog, &CheckedContents::new()), Err(CheckError::WrongContent(_))));
        files.files.lock().unwrap().clear();
        assert!(matches!(run(&files, &catalog, &CheckedContents::new()), Err(CheckError::Unreadable { .. })));
    }
}
