//! Files under way to this host: which may come, and one writer at a time.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use crate::push::FileRef;
use crate::push_incoming::{Incoming, Piece};
use ids::Digest;

/// The list that was asked about last, so that it is not verified for each piece, and the writer's lock.
#[derive(Debug, Default)]
pub(super) struct Uploads {
    newest: Mutex<Option<(Digest, HashMap<Digest, FileRef>)>>,
    writing: Mutex<()>,
}

impl Uploads {
    /// The file of this digest, if a list that waits here names it.
    pub(super) fn named(&self, incoming: &Incoming, list: &Digest, file: &Digest) -> anyhow::Result<Option<FileRef>> {
        let mut newest = self.newest.lock().unwrap_or_else(PoisonError::into_inner);
        if !incoming.waits(list) {
            return Ok(None);
        }
        if newest.as_ref().is_none_or(|(id, _)| id != list) {
            let Some(push) = incoming.list(list)? else { return Ok(None) };
            *newest = Some((*list, push.files().into_iter().map(|file| (file.sha256, file)).collect()));
        }
        Ok(newest.as_ref().and_then(|(_, files)| files.get(file).copied()))
    }

    /// Appends a piece to a file.
    pub(super) fn append(&self, incoming: &Incoming, file: &FileRef, from: u64, bytes: &[u8]) -> anyhow::Result<Piece> {
        let _one = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        incoming.append(file, from, bytes)
    }
}
