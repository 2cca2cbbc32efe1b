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
        /// The sealed object it is in.
        object: Digest,
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
        let unreadable =
            |source| CheckError::Unreadable { file: entry.name.clone(), object: entry.blob.digest, source };
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
