//! An append-only log of records that survives power cuts: what the appliance promised to others, such as leases.
//!
//! The file begins with eight bytes of magic. Each record has a length (u32), a checksum (the first eight bytes of the SHA-256
//! of length and content) and the content. A record that is not whole ends the log: a power cut tore it, and nobody was told
//! that it was written. If a whole record follows it, the medium damaged it, and it alone is left out.

use std::fs::TryLockError;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};

use super::error::StoreError;
use durable::{Disk, DiskFile, PRIVATE, parent};

const MAGIC: &[u8; 8] = b"LSJRNAL\x01";
const HEAD_BYTES: usize = 12;

/// The most bytes of one record.
pub const MAX_RECORD_BYTES: usize = 64 * 1024;

/// The most bytes of a journal. Its owner must [`Journal::rewrite`] it long before.
pub const MAX_JOURNAL_BYTES: u64 = 16 * 1024 * 1024;

/// An open journal. One handle at a time has it: the file is locked.
#[derive(Debug)]
pub struct Journal {
    disk: Disk,
    path: PathBuf,
    file: DiskFile,
    /// Where the last whole record ends. A failed append may have left bytes behind it.
    end: u64,
    dirty: bool,
    cut: u64,
}

impl Journal {
    /// Opens a journal, made if absent, and returns its records, oldest first. What a power cut tore is cut off.
    /// A journal that is open elsewhere is [`StoreError::Locked`].
    pub fn open(path: &Path) -> Result<(Self, Vec<Vec<u8>>), StoreError> {
        Self::open_on(Disk::default(), path)
    }

    pub(super) fn open_on(disk: Disk, path: &Path) -> Result<(Self, Vec<Vec<u8>>), StoreError> {
        let mut file = disk.open_end(path, PRIVATE).map_err(StoreError::io("open", path))?;
        lock_file(&file, path)?;
        // What a rewrite that a power cut ended left behind.
        disk.remove_file(&aside(path)).map_err(StoreError::io("delete", path))?;
        let mut bytes = Vec::new();
        file.file().take(MAX_JOURNAL_BYTES).read_to_end(&mut bytes).map_err(StoreError::io("read", path))?;
        let (records, end) = parse(&bytes);
        let cut = file.end() - end;
        if end == 0 {
            file.truncate(0).map_err(StoreError::io("cut", path))?;
            file.append(MAGIC).map_err(StoreError::io("write", path))?;
            file.sync().map_err(StoreError::io("sync", path))?;
            disk.sync_dir(parent(path)).map_err(StoreError::io("sync", path))?;
        } else if cut > 0 {
            file.truncate(end).map_err(StoreError::io("cut", path))?;
            file.sync().map_err(StoreError::io("sync", path))?;
        }
        let end = file.end();
        Ok((Self { disk, path: path.to_owned(), file, end, dirty: false, cut }, records))
    }

    /// The number of bytes that were no whole record and were cut off at opening.
    pub const fn cut_bytes(&self) -> u64 {
        self.cut
    }

    /// The length of the file in bytes. It tells the owner when to [`Journal::rewrite`].
    pub const fn bytes(&self) -> u64 {
        self.end
    }

    /// Appends a record of at most [`MAX_RECORD_BYTES`]. Durable when it returns; after an error it is not there.
    pub fn append(&mut self, record: &[u8]) -> Result<(), StoreError> {
        let frame = frame(record)?;
        if self.end.saturating_add(frame.len() as u64) > MAX_JOURNAL_BYTES {
            return Err(StoreError::TooLarge { what: "journal", limit: MAX_JOURNAL_BYTES });
        }
        self.undo_failed()?;
        let written = self.file.append(&frame).and_then(|()| self.file.sync_data());
        if let Err(error) = written {
            self.dirty = true;
            let _ = self.undo_failed();
            return Err(StoreError::io("write", &self.path)(error));
        }
        self.end = self.file.end();
        Ok(())
    }

    /// Replaces all records by these, all or nothing.
    pub fn rewrite<R: AsRef<[u8]>>(&mut self, records: &[R]) -> Result<(), StoreError> {
        let mut bytes = MAGIC.to_vec();
        for record in records {
            bytes.extend_from_slice(&frame(record.as_ref())?);
            if bytes.len() as u64 > MAX_JOURNAL_BYTES {
                return Err(StoreError::TooLarge { what: "journal", limit: MAX_JOURNAL_BYTES });
            }
        }
        let aside = aside(&self.path);
        let mut file = self.disk.create(&aside, PRIVATE).map_err(StoreError::io("create", &aside))?;
        // Locked before it has the name, so that nobody can come between.
        lock_file(&file, &aside)?;
        let renamed =
            file.append(&bytes).and_then(|()| file.sync()).and_then(|()| self.disk.rename(&aside, &self.path));
        if let Err(error) = renamed {
            let _ = self.disk.remove_file(&aside);
            return Err(StoreError::io("write", &self.path)(error));
        }
        file.renamed(&self.path);
        self.end = file.end();
        self.file = file;
        self.dirty = false;
        self.disk.sync_dir(parent(&self.path)).map_err(StoreError::io("sync", &self.path))
    }

    /// Cuts off what a failed append left, so that later records are not lost behind it.
    fn undo_failed(&mut self) -> Result<(), StoreError> {
        if self.dirty {
            self.file.truncate(self.end).map_err(StoreError::io("cut", &self.path))?;
            self.dirty = false;
        }
        Ok(())
    }
}

fn aside(path: &Path) -> PathBuf {
    path.with_extension("new")
}

fn lock_file(file: &DiskFile, path: &Path) -> Result<(), StoreError> {
    match file.file().try_lock() {
        Ok(()) => Ok(()),
        Err(TryLockError::WouldBlock) => Err(StoreError::Locked),
        Err(TryLockError::Error(source)) => Err(StoreError::io("lock", path)(source)),
    }
}

fn checksum(length: &[u8; 4], record: &[u8]) -> [u8; 8] {
    let sum: [u8; 32] = Sha256::new_with_prefix(length).chain_update(record).finalize().into();
    sum.first_chunk::<8>().copied().unwrap_or_default()
}

fn frame(record: &[u8]) -> Result<Vec<u8>, StoreError> {
    let too_large = || StoreError::TooLarge { what: "record", limit: MAX_RECORD_BYTES as u64 };
    let length = u32::try_from(record.len()).ok().filter(|_| record.len() <= MAX_RECORD_BYTES).ok_or_else(too_large)?;
    let length = length.to_be_bytes();
    let mut bytes = Vec::with_capacity(HEAD_BYTES + record.len());
    bytes.extend_from_slice(&length);
    bytes.extend_from_slice(&checksum(&length, record));
    bytes.extend_from_slice(record);
    Ok(bytes)
}

/// The whole records and where the last one ends; 0 if the file does not begin with the magic.
fn parse(bytes: &[u8]) -> (Vec<Vec<u8>>, u64) {
    let mut records = Vec::new();
    let Some(mut rest) = bytes.strip_prefix(MAGIC) else { return (records, 0) };
    while let Some((record, after)) = parse_record(rest) {
        if let Some(whole) = record {
            records.push(whole.to_vec());
        } else if !matches!(parse_record(after), Some((Some(_), _))) {
            break;
        }
        rest = after;
    }
    (records, (bytes.len() - rest.len()) as u64)
}

/// A record, `None` in its place if its checksum is wrong, and what is behind it.
fn parse_record(bytes: &[u8]) -> Option<(Option<&[u8]>, &[u8])> {
    let (length, rest) = bytes.split_first_chunk::<4>()?;
    let (sum, rest) = rest.split_first_chunk::<8>()?;
    let bytes = usize::try_from(u32::from_be_bytes(*length)).ok().filter(|bytes| *bytes <= MAX_RECORD_BYTES)?;
    let (record, rest) = rest.split_at_checked(bytes)?;
    Some(((checksum(length, record) == *sum).then_some(record), rest))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]
    use super::*;
    use crate::fixtures::Faults;

    fn at(dir: &tempfile::TempDir) -> PathBuf {
        dir.path().join("leases.log")
    }

    #[test]
    fn records_come_back_in_order() {
        let dir = tempfile::tempdir().unwrap();
        let (mut journal, records) = Journal::open(&at(&dir)).unwrap();
        assert!(records.is_empty());
        for record in [b"one".as_slice(), b"", b"three"] {
            journal.append(record).unwrap();
        }
        drop(journal);
        let (journal, records) = Journal::open(&at(&dir)).unwrap();
        assert_eq!(records, [b"one".to_vec(), b"".to_vec(), b"three".to_vec()]);
        assert_eq!(journal.cut_bytes(), 0);
    }

    #[test]
    fn a_torn_tail_is_cut_wherever_it_was_torn() {
        let dir = tempfile::tempdir().unwrap();
        let (mut journal, _) = Journal::open(&at(&dir)).unwrap();
        journal.append(b"first").unwrap();
        let first = journal.bytes();
        journal.append(b"second").unwrap();
        drop(journal);
        let whole = std::fs::read(at(&dir)).unwrap();
        for length in 0..whole.len() {
            std::fs::write(at(&dir), &whole[..length]).unwrap();
            let (mut journal, records) = Journal::open(&at(&dir)).unwrap();
            let expected: &[Vec<u8>] = if length as u64 >= first { &[b"first".to_vec()] } else { &[] };
            assert_eq!(records, expected, "cut at {length}");
            journal.append(b"after").unwrap();
            drop(journal);
            let (_, records) = Journal::open(&at(&dir)).unwrap();
            assert_eq!(records.last().unwrap(), b"after", "cut at {length}");
        }
    }

    #[test]
    fn a_record_that_the_medium_damaged_is_left_out_alone() {
        let dir = tempfile::tempdir().unwrap();
        let (mut journal, _) = Journal::open(&at(&dir)).unwrap();
        [b"one", b"two", b"six"].iter().for_each(|record| journal.append(*record).unwrap());
        drop(journal);
        let mut bytes = std::fs::read(at(&dir)).unwrap();
        let middle = bytes.windows(3).position(|window| window == b"two").unwrap();
        bytes[middle] ^= 1;
        std::fs::write(at(&dir), bytes).unwrap();
        let (mut journal, records) = Journal::open(&at(&dir)).unwrap();
        assert_eq!((records, journal.cut_bytes()), (vec![b"one".to_vec(), b"six".to_vec()], 0));
        journal.append(b"ten").unwrap();
        drop(journal);
        assert_eq!(Journal::open(&at(&dir)).unwrap().1.len(), 3);
    }

    #[test]
    fn zeros_behind_the_end_are_no_records() {
        let dir = tempfile::tempdir().unwrap();
        let (mut journal, _) = Journal::open(&at(&dir)).unwrap();
        journal.append(b"one").unwrap();
        drop(journal);
        let mut bytes = std::fs::read(at(&dir)).unwrap();
        bytes.extend_from_slice(&[0; 4096]);
        std::fs::write(at(&dir), bytes).unwrap();
        let (journal, records) = Journal::open(&at(&dir)).unwrap();
        assert_eq!((records, journal.cut_bytes()), (vec![b"one".to_vec()], 4096));
    }

    #[test]
    fn a_journal_that_grew_by_damage_still_opens() {
        let dir = tempfile::tempdir().unwrap();
        let (mut journal, _) = Journal::open(&at(&dir)).unwrap();
        journal.append(b"one").unwrap();
        drop(journal);
        std::fs::OpenOptions::new().write(true).open(at(&dir)).unwrap().set_len(MAX_JOURNAL_BYTES * 10).unwrap();
        let (mut journal, records) = Journal::open(&at(&dir)).unwrap();
        assert_eq!(records, [b"one".to_vec()]);
        journal.append(b"two").unwrap();
        drop(journal);
        assert_eq!(Journal::open(&at(&dir)).unwrap().1.len(), 2);
    }

    #[test]
    fn a_rewrite_replaces_all_records_and_appending_goes_on() {
        let dir = tempfile::tempdir().unwrap();
        let (mut journal, _) = Journal::open(&at(&dir)).unwrap();
        (0..100u8).for_each(|number| journal.append(&[number; 100]).unwrap());
        let before = journal.bytes();
        journal.rewrite(&[b"kept"]).unwrap();
        assert!(journal.bytes() < before);
        journal.append(b"new").unwrap();
        assert!(matches!(Journal::open(&at(&dir)), Err(StoreError::Locked)));
        drop(journal);
        let (_, records) = Journal::open(&at(&dir)).unwrap();
        assert_eq!(records, [b"kept".to_vec(), b"new".to_vec()]);
    }

    #[test]
    fn a_full_disk_loses_neither_old_records_nor_later_ones() {
        for step in 0.. {
            let dir = tempfile::tempdir().unwrap();
            let faults = Faults::none();
            let (mut journal, _) = Journal::open_on(faults.disk(), &at(&dir)).unwrap();
            journal.append(b"before").unwrap();
            faults.fail_once_after(step);
            let appended = journal.append(b"during").is_ok();
            let rewritten = journal.rewrite(&[b"rewritten"]).is_ok();
            let struck = faults.struck();
            faults.heal();
            journal.append(b"after").unwrap();
            drop(journal);
            let (_, records) = Journal::open(&at(&dir)).unwrap();
            assert_eq!(records.last().unwrap(), b"after", "step {step}");
            match (appended, rewritten) {
                // Only the sync of the directory can fail after the rename: then the new records are there too.
                (true, false) => {
                    assert!(records[0] == b"before" && records[1] == b"during" || records[0] == b"rewritten")
                }
                _ => assert_eq!(records[0], b"rewritten", "step {step}"),
            }
            if !struck {
                assert!(step >= 6, "{step} steps");
                break;
            }
        }
    }

    #[test]
    fn what_is_too_large_is_refused_before_it_is_written() {
        let dir = tempfile::tempdir().unwrap();
        let (mut journal, _) = Journal::open(&at(&dir)).unwrap();
        let before = journal.bytes();
        assert!(matches!(journal.append(&vec![0; MAX_RECORD_BYTES + 1]), Err(StoreError::TooLarge { .. })));
        assert_eq!(journal.bytes(), before);
        journal.append(&vec![0; MAX_RECORD_BYTES]).unwrap();
    }
}
