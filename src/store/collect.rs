//! Deleting what no release needs any more.

use std::collections::HashSet;

use super::error::StoreError;
use super::objects::list;
use super::{OpenStore, lock};
use durable::parent;
use ids::{Digest, Generation};

impl OpenStore {
    pub(super) fn collect(
        &self,
        keep_releases: &HashSet<Generation>,
        keep_objects: &HashSet<Digest>,
    ) -> Result<u64, StoreError> {
        let pointer = lock(&self.pointer);
        let mut needed = keep_objects.clone();
        for generation in [pointer.active, pointer.previous].into_iter().flatten() {
            match self.release_objects(generation) {
                Some(objects) => needed.extend(objects.into_iter().map(|(digest, _)| digest)),
                None if pointer.active == Some(generation) && !keep_releases.contains(&generation) => {
                    // The list of what the active release needs is damaged, so nothing may be deleted.
                    return Ok(0);
                }
                None => {}
            }
        }

        let mut freed = 0u64;
        for generation in self.release_numbers() {
            if pointer.names(generation) || keep_releases.contains(&generation) {
                continue;
            }
            let dir = self.release_dir(generation);
            let bytes: u64 = list(&dir).iter().map(|file| file.bytes).sum();
            // The release is moved aside first, so that at no time half of it is there.
            let aside = self.aside();
            self.disk.rename(&dir, &aside).map_err(StoreError::io("move", &dir))?;
            self.disk.remove_dir(&aside).map_err(StoreError::io("delete", &aside))?;
            freed = freed.saturating_add(bytes);
        }
        // From here on no release on disk lists the objects that are deleted next.
        let releases = self.dir.join("releases");
        self.disk.sync_dir(&releases).map_err(StoreError::io("sync", &releases))?;
        self.load_listed();

        for first in 0..=255u8 {
            for file in list(&self.dir.join("objects").join(format!("{first:02x}"))) {
                if file.digest.is_some_and(|digest| needed.contains(&digest)) {
                    continue;
                }
                if let Some(digest) = &file.digest {
                    lock(&self.seen).remove(digest);
                    lock(&self.handles).remove(digest);
                }
                self.disk.remove_file(&file.path).map_err(StoreError::io("delete", &file.path))?;
                freed = freed.saturating_add(file.bytes);
            }
        }
        let downloading = lock(&self.downloading).clone();
        for file in list(&self.dir.join("partial")) {
            let wanted = |digest: Digest| downloading.contains(&digest) || needed.contains(&digest);
            if !file.digest.is_some_and(wanted) {
                self.disk.remove_file(&file.path).map_err(StoreError::io("delete", parent(&file.path)))?;
                freed = freed.saturating_add(file.bytes);
            }
        }
        Ok(freed)
    }
}
