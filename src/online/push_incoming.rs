//! Where pushed files wait until all are there: `online/incoming/`, which no site can ask for.
//!
//! A file that is not whole yet ends in `.part`. It gets its name, the SHA-256 of its bytes, when they have that digest.

use std::fs::{self, File};
use std::io::{ErrorKind, Read as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, bail, ensure};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::push::{FileRef, MAX_LIST_BYTES, PushRequest, SignedPush};
use durable::{Disk, PRIVATE, PRIVATE_DIR, SHARED, SHARED_DIR};
use ids::Digest;
use repository::layout::Layout;
use repository::published::newest_root_path;

/// What waits longer than this is deleted: a desk that was interrupted goes on within it.
const KEEP: Duration = Duration::from_secs(7 * 86_400);
/// How many lists wait at once.
const MAX_LISTS: usize = 256;
/// The largest root that is read.
const MAX_ROOT_BYTES: u64 = 64 * 1024;

/// A file that the host lacks, and how much of it has arrived.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lacking {
    /// Which file.
    pub sha256: Digest,
    /// Its first bytes that are there, so that a broken upload goes on behind them.
    pub have: u64,
}

/// The folder of pushed files.
#[derive(Debug, Clone)]
pub struct Incoming {
    layout: Layout,
    dir: PathBuf,
}

/// What came of a piece.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Piece {
    /// So many bytes of the file are there now.
    Kept(u64),
    /// Another part was due: the one behind so many bytes.
    NotThere(u64),
    /// The file was complete and is not what its name says; it was thrown away.
    Wrong,
}

impl Incoming {
    /// The folder of this `online/` directory. Nothing is made yet.
    pub fn new(layout: &Layout) -> Self {
        Self { layout: layout.clone(), dir: layout.online().join("incoming") }
    }

    /// The newest root that this host has, by which pushes are judged.
    pub fn known_root(&self) -> anyhow::Result<Option<Vec<u8>>> {
        let fixed = self.layout.public().join("root.json");
        let path = if fixed.is_file() { Some(fixed) } else { newest_root_path(&self.layout.public().join("root"))? };
        let Some(path) = path else { return Ok(None) };
        durable::read_regular(&path, MAX_ROOT_BYTES)
            .map(Some)
            .with_context(|| format!("cannot read {}", path.display()))
    }

    /// Keeps a verified list, so that the next requests need only name it. What waits for too long is deleted.
    pub fn keep(&self, push: &SignedPush, request: &PushRequest) -> anyhow::Result<()> {
        durable::create_dirs(&self.dir, PRIVATE_DIR).with_context(|| format!("cannot make {}", self.dir.display()))?;
        let lists = self.tidy()?;
        let path = self.list_path(&push.id);
        if path.exists() {
            return Ok(());
        }
        ensure!(lists < MAX_LISTS, "{lists} pushes wait here already; they end by themselves within a week");
        let bytes = serde_json::to_vec(request).context("cannot write a list")?;
        durable::replace(&path, &bytes, PRIVATE).with_context(|| format!("cannot write {}", path.display()))
    }

    /// The list that was kept under this digest, verified again; `None` if there is none.
    pub fn list(&self, id: &Digest) -> anyhow::Result<Option<SignedPush>> {
        let path = self.list_path(id);
        let limit = 2 * MAX_LIST_BYTES as u64 + 512 * MAX_ROOT_BYTES;
        let bytes = match durable::read_regular(&path, limit) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error).with_context(|| format!("cannot read {}", path.display())),
        };
        let request: PushRequest = serde_json::from_slice(&bytes).context("a kept list is damaged")?;
        let push = SignedPush::verify(&request, self.known_root()?.as_deref())?;
        ensure!(push.id == *id, "a kept list is not the one of its name");
        Ok(Some(push))
    }

    /// Whether the list of this digest waits here.
    pub fn waits(&self, id: &Digest) -> bool {
        self.list_path(id).is_file()
    }

    /// Forgets a list that was released.
    pub fn forget(&self, id: &Digest) -> anyhow::Result<()> {
        durable::remove(&self.list_path(id)).context("cannot remove a list")
    }

    /// Which of the list's files are not here yet.
    pub fn lacks(&self, push: &SignedPush) -> Vec<Lacking> {
        let lacking = |file: &FileRef| {
            let have = || fs::symlink_metadata(self.part(&file.sha256)).map_or(0, |part| part.len().min(file.bytes));
            (!self.has(file)).then(|| Lacking { sha256: file.sha256, have: have() })
        };
        push.files().iter().filter_map(lacking).collect()
    }

    /// Appends a piece to a file that a list names, and gives the file its name when it is whole.
    pub fn append(&self, file: &FileRef, from: u64, bytes: &[u8]) -> anyhow::Result<Piece> {
        if self.has(file) {
            return Ok(Piece::Kept(file.bytes));
        }
        let path = self.part(&file.sha256);
        let cannot = || format!("cannot write {}", path.display());
        if fs::symlink_metadata(&path).is_ok_and(|found| !found.is_file()) {
            bail!("{} is no regular file", path.display());
        }
        let mut part = Disk::default().open_end(&path, SHARED).with_context(cannot)?;
        let end = from.saturating_add(bytes.len() as u64);
        if part.end() != from || end > file.bytes {
            return Ok(Piece::NotThere(part.end()));
        }
        if let Err(error) = part.append(bytes) {
            // What is there must be what a desk goes on behind.
            part.truncate(from).with_context(cannot)?;
            return Err(error).with_context(cannot);
        }
        if end < file.bytes {
            return Ok(Piece::Kept(end));
        }
        part.sync().with_context(cannot)?;
        if digest_of(&path)? != file.sha256 {
            durable::remove(&path).with_context(cannot)?;
            return Ok(Piece::Wrong);
        }
        durable::rename(&path, &self.whole(&file.sha256)).with_context(cannot)?;
        Ok(Piece::Kept(end))
    }

    /// The content of a small file that has arrived.
    pub fn read(&self, file: &FileRef) -> anyhow::Result<Vec<u8>> {
        let path = self.whole(&file.sha256);
        let bytes =
            durable::read_regular(&path, file.bytes).with_context(|| format!("cannot read {}", path.display()))?;
        ensure!(FileRef::of(&bytes) == *file, "{} is not what its name says", path.display());
        Ok(bytes)
    }

    /// Puts an object that has arrived into the published tree, where no release names it yet.
    pub fn publish(&self, object: &FileRef) -> anyhow::Result<()> {
        let (from, to) = (self.whole(&object.sha256), self.layout.object(&object.sha256));
        if !is_file_of(&from, object.bytes) {
            ensure!(is_file_of(&to, object.bytes), "object {} has not arrived", object.sha256);
            return Ok(());
        }
        durable::create_dirs(durable::parent(&to), SHARED_DIR)
            .and_then(|()| durable::rename(&from, &to))
            .with_context(|| format!("cannot publish object {}", object.sha256))
    }

    /// Deletes a file that was only needed for the list.
    pub fn remove(&self, file: &FileRef) -> anyhow::Result<()> {
        durable::remove(&self.whole(&file.sha256)).context("cannot tidy up what was pushed")
    }

    fn has(&self, file: &FileRef) -> bool {
        is_file_of(&self.whole(&file.sha256), file.bytes) || is_file_of(&self.layout.object(&file.sha256), file.bytes)
    }

    fn whole(&self, sha256: &Digest) -> PathBuf {
        self.dir.join(sha256.to_string())
    }

    fn part(&self, sha256: &Digest) -> PathBuf {
        self.dir.join(format!("{sha256}.part"))
    }

    fn list_path(&self, id: &Digest) -> PathBuf {
        self.dir.join(format!("{id}.push"))
    }

    /// Deletes what nobody went on with, and returns how many lists wait.
    #[expect(clippy::disallowed_methods, reason = "files' times are the system's, too")]
    fn tidy(&self) -> anyhow::Result<usize> {
        let now = SystemTime::now();
        let mut lists = 0;
        for entry in fs::read_dir(&self.dir).with_context(|| format!("cannot list {}", self.dir.display()))? {
            let entry = entry.context("cannot list incoming/")?;
            let written = entry.metadata().and_then(|metadata| metadata.modified());
            if written.is_ok_and(|written| now.duration_since(written).is_ok_and(|age| age > KEEP)) {
                fs::remove_file(entry.path()).context("cannot tidy up incoming/")?;
            } else if entry.path().extension().is_some_and(|extension| extension == "push") {
                lists += 1;
            }
        }
        Ok(lists)
    }
}

fn is_file_of(path: &Path, bytes: u64) -> bool {
    fs::symlink_metadata(path).is_ok_and(|found| found.is_file() && found.len() == bytes)
}

fn digest_of(path: &Path) -> anyhow::Result<Digest> {
    let mut file = File::open(path).with_context(|| format!("cannot read {}", path.display()))?;
    let (mut hash, mut buffer) = (Sha256::new(), vec![0; 64 * 1024]);
    loop {
        let read = file.read(&mut buffer).with_context(|| format!("cannot read {}", path.display()))?;
        match buffer.get(..read) {
            Some(bytes) if read > 0 => hash.update(bytes),
            _ => return Ok(Digest::from_bytes(hash.finalize().into())),
        }
    }
}
