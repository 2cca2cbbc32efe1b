//! What devices wrote: a small ring of logs, outside everything that is served.
//!
//! One file for each device's log, `logs/<mac>-app.log` or `logs/<mac>-boot.log`: uploads one after the other, each
//! under a line that says when it came, and of all that the newest [`MAX_LOG_BYTES`]. When all logs together outgrow
//! [`MAX_LOGS_BYTES`], the file that was not written for longest goes. They are clear text, for people; a site that
//! does not want them on its card does not take them.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use super::{OpenStore, Store, lock};
use access::logs::MAX_LOG_BYTES;
use access::{LogError, Logs, OwnLog};
use durable::{PRIVATE, PRIVATE_DIR, read_limited};
use ids::UnixTime;

/// The most that all logs take together.
pub const MAX_LOGS_BYTES: u64 = 8 * 1024 * 1024;

/// The least bytes that a file counts for: one block of the file system.
const LEAST_BYTES: u64 = 4096;

/// The shortest time between two uploads of one log. Phones write theirs at start and every few hours.
pub const EVERY: Duration = Duration::from_secs(30);

/// The most bytes that are written for logs within [`BUDGET_TIME`], so that nobody wears out the card.
pub const BUDGET_BYTES: u64 = 32 * 1024 * 1024;

/// The time after which [`BUDGET_BYTES`] may be written again.
pub const BUDGET_TIME: Duration = Duration::from_secs(60 * 60);

/// What this process has written for logs, to bound how often and how much.
#[derive(Debug, Default)]
pub(super) struct LogBudget {
    /// When each log was last written. Only devices of the inventory have logs, so the map is bounded.
    last: HashMap<OwnLog, Instant>,
    since: Option<Instant>,
    bytes: u64,
}

/// A log that is kept, as it is listed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeptLog {
    /// The device and the kind of its log.
    pub log: OwnLog,
    /// The size of the file, at most [`MAX_LOG_BYTES`].
    pub bytes: u64,
    /// When it was last written, by the system's clock.
    pub written: SystemTime,
}

impl Logs for Store {
    fn keep(&self, log: OwnLog, text: &[u8], at: UnixTime, now: Instant) -> Result<(), LogError> {
        if text.len() as u64 > MAX_LOG_BYTES {
            return Err(LogError::TooLong);
        }
        // Held to the end: one upload at a time is written.
        let mut budget = lock(&self.inner.logs);
        budget.allow(log, now)?;
        self.inner.keep_log(log, text, at).map_err(|error| LogError::Io(error.to_string())).map(|bytes| {
            budget.bytes = budget.bytes.saturating_add(bytes);
        })
    }
}

impl LogBudget {
    fn allow(&mut self, log: OwnLog, now: Instant) -> Result<(), LogError> {
        if self.since.is_none_or(|since| now.saturating_duration_since(since) >= BUDGET_TIME) {
            self.since = Some(now);
            self.bytes = 0;
            self.last.retain(|_, last| now.saturating_duration_since(*last) < EVERY);
        }
        let soon = self.last.get(&log).is_some_and(|last| now.saturating_duration_since(*last) < EVERY);
        if soon || self.bytes >= BUDGET_BYTES {
            return Err(LogError::TooOften);
        }
        self.last.insert(log, now);
        Ok(())
    }
}

impl OpenStore {
    /// Adds to a log and makes room. Returns how many bytes were written.
    fn keep_log(&self, log: OwnLog, text: &[u8], at: UnixTime) -> io::Result<u64> {
        let dir = self.dir.join("logs");
        if !dir.is_dir() {
            self.disk.create_dir(&dir, PRIVATE_DIR)?;
            self.disk.sync_dir(&self.dir)?;
        }
        let path = dir.join(log.to_string());
        // A file that is not as we write it (too long, unreadable) is begun anew.
        let mut whole = read_limited(&path, MAX_LOG_BYTES).ok().flatten().unwrap_or_default();
        whole.extend_from_slice(format!("== {} bytes, {at}\n", text.len()).as_bytes());
        whole.extend_from_slice(text);
        if whole.last().is_some_and(|last| *last != b'\n') {
            whole.push(b'\n');
        }
        let newest = newest_lines(&whole);
        let others: Vec<KeptLog> = kept_in(&dir)?.into_iter().filter(|kept| kept.log != log).collect();
        for old in too_many(others, newest.len() as u64) {
            self.disk.remove_file(&dir.join(old.to_string()))?;
        }
        self.disk.replace_through(&self.aside(), &path, newest, PRIVATE)?;
        Ok(newest.len() as u64)
    }
}

/// The end of a log that is not longer than it may be, from the start of a line if there is one.
fn newest_lines(whole: &[u8]) -> &[u8] {
    let limit = usize::try_from(MAX_LOG_BYTES).unwrap_or(usize::MAX);
    let Some(cut) = whole.len().checked_sub(limit).filter(|cut| *cut > 0) else { return whole };
    let rest = whole.get(cut..).unwrap_or_default();
    let line = rest.iter().position(|byte| *byte == b'\n').map_or(0, |end| end + 1);
    rest.get(line..).filter(|lines| !lines.is_empty()).unwrap_or(rest)
}

/// Which of `kept` must go, the oldest first, so that `bytes` more fit.
fn too_many(mut kept: Vec<KeptLog>, bytes: u64) -> Vec<OwnLog> {
    let takes = |bytes: u64| bytes.max(LEAST_BYTES);
    let mut total = kept.iter().map(|log| takes(log.bytes)).sum::<u64>().saturating_add(takes(bytes));
    kept.sort_by_key(|log| (log.written, log.log));
    let mut gone = Vec::new();
    for old in kept {
        if total <= MAX_LOGS_BYTES {
            break;
        }
        total = total.saturating_sub(takes(old.bytes));
        gone.push(old.log);
    }
    gone
}

/// The logs that are kept under this state directory, the newest first. Needs no store, so that it can be asked while
/// the appliance runs.
///
/// # Errors
///
/// If the directory is there and cannot be read.
pub fn kept(state: &Path) -> io::Result<Vec<KeptLog>> {
    match kept_in(&state.join("logs")) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        other => other.map(|mut kept| {
            kept.sort_by_key(|log| (std::cmp::Reverse(log.written), log.log));
            kept
        }),
    }
}

/// What is kept of one log, at most [`MAX_LOG_BYTES`]; `None` if nothing is. Bytes as the device sent them: not to be
/// shown on a terminal as they are.
///
/// # Errors
///
/// If it cannot be read.
pub fn read(state: &Path, log: OwnLog) -> io::Result<Option<Vec<u8>>> {
    read_limited(&path(state, log), MAX_LOG_BYTES)
}

fn path(state: &Path, log: OwnLog) -> PathBuf {
    state.join("logs").join(log.to_string())
}

fn kept_in(dir: &Path) -> io::Result<Vec<KeptLog>> {
    let mut kept = Vec::new();
    for entry in fs::read_dir(dir)?.flatten() {
        let log = entry.file_name().to_str().and_then(OwnLog::named);
        if let (Some(log), Ok(meta)) = (log, entry.metadata()) {
            kept.push(KeptLog { log, bytes: meta.len(), written: meta.modified().unwrap_or(SystemTime::UNIX_EPOCH) });
        }
    }
    Ok(kept)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]

    use std::os::unix::fs::PermissionsExt as _;

    use super::*;
    use access::LogKind;
    use ids::MacAddr;

    fn log(number: u16, kind: LogKind) -> OwnLog {
        let [high, low] = number.to_be_bytes();
        OwnLog { device: MacAddr::new([0, 4, 0xf2, 0, high, low]), kind }
    }

    /// A store, and a time that every upload may come at.
    fn store() -> (tempfile::TempDir, Store, impl FnMut() -> Instant) {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let mut now = Instant::now();
        let later = move || {
            now += BUDGET_TIME;
            now
        };
        (dir, store, later)
    }

    #[test]
    fn uploads_follow_one_another_in_a_private_file() {
        let (dir, store, mut later) = store();
        assert_eq!(kept(dir.path()).unwrap(), []);
        let app = log(2, LogKind::App);
        store.keep(app, b"booted", UnixTime(0), later()).unwrap();
        store.keep(app, b"registered\n", UnixTime(60), later()).unwrap();
        store.keep(log(2, LogKind::Boot), b"", UnixTime(60), later()).unwrap();
        let text = String::from_utf8(read(dir.path(), app).unwrap().unwrap()).unwrap();
        assert_eq!(text, "== 6 bytes, 1970-01-01T00:00:00Z\nbooted\n== 11 bytes, 1970-01-01T00:01:00Z\nregistered\n");
        assert_eq!(kept(dir.path()).unwrap().len(), 2);
        let mode = fs::metadata(path(dir.path(), app)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert_eq!(read(dir.path(), log(3, LogKind::App)).unwrap(), None);
    }

    #[test]
    fn of_a_long_log_the_newest_lines_stay() {
        let (dir, store, mut later) = store();
        let app = log(2, LogKind::App);
        let line = [&[b'x'; 99][..], b"\n"].concat();
        let most = line.repeat(usize::try_from(MAX_LOG_BYTES).unwrap() / 100);
        store.keep(app, &most, UnixTime(0), later()).unwrap();
        store.keep(app, b"the last word", UnixTime(0), later()).unwrap();
        let text = read(dir.path(), app).unwrap().unwrap();
        assert!(text.len() as u64 <= MAX_LOG_BYTES && text.len() as u64 > MAX_LOG_BYTES - 200, "{}", text.len());
        assert!(text.ends_with(b"the last word\n"));
        assert!(text.starts_with(&line), "no line is cut");
        // One line as long as all may be, and one byte more than that.
        store.keep(app, &vec![b'y'; most.len()], UnixTime(0), later()).unwrap();
        assert!(read(dir.path(), app).unwrap().unwrap().len() as u64 <= MAX_LOG_BYTES);
        let too_long = vec![0; usize::try_from(MAX_LOG_BYTES).unwrap() + 1];
        assert_eq!(store.keep(app, &too_long, UnixTime(0), later()), Err(LogError::TooLong));
    }

    #[test]
    fn all_logs_together_stay_within_8_mb_and_the_oldest_goes() {
        let (dir, store, mut later) = store();
        let text = vec![b'z'; 250_000];
        for number in 0..40 {
            store.keep(log(number, LogKind::App), &text, UnixTime(0), later()).unwrap();
            // The order must not hang on the resolution of the file system's clock.
            let at = SystemTime::UNIX_EPOCH + Duration::from_secs(1000 + u64::from(number));
            fs::File::open(path(dir.path(), log(number, LogKind::App))).unwrap().set_modified(at).unwrap();
        }
        let all = kept(dir.path()).unwrap();
        let total: u64 = all.iter().map(|one| one.bytes).sum();
        assert!(total <= MAX_LOGS_BYTES && total > MAX_LOGS_BYTES - 300_000, "{total}");
        assert_eq!(all.first().unwrap().log, log(39, LogKind::App));
        assert!(!all.iter().any(|one| one.log == log(0, LogKind::App)));
        // Many tiny ones count for what they take.
        let tiny = |number| KeptLog { log: log(number, LogKind::App), bytes: 1, written: SystemTime::UNIX_EPOCH };
        assert_eq!(too_many((0..3000).map(tiny).collect(), 1).len(), 3001 - 2048);
    }

    #[test]
    fn who_writes_too_often_is_refused_and_others_are_not() {
        let (_dir, store, _) = store();
        let (app, start) = (log(2, LogKind::App), Instant::now());
        store.keep(app, b"1", UnixTime(0), start).unwrap();
        assert_eq!(store.keep(app, b"2", UnixTime(0), start), Err(LogError::TooOften));
        store.keep(log(2, LogKind::Boot), b"1", UnixTime(0), start).unwrap();
        store.keep(log(3, LogKind::App), b"1", UnixTime(0), start).unwrap();
        store.keep(app, b"2", UnixTime(0), start + EVERY).unwrap();
    }

    #[test]
    fn what_is_written_in_an_hour_is_bounded_for_all_together() {
        let mut budget = LogBudget::default();
        let start = Instant::now();
        budget.allow(log(1, LogKind::App), start).unwrap();
        budget.bytes = BUDGET_BYTES;
        assert_eq!(budget.allow(log(2, LogKind::App), start), Err(LogError::TooOften));
        budget.allow(log(2, LogKind::App), start + BUDGET_TIME).unwrap();
    }

    #[test]
    fn what_is_not_a_log_is_neither_listed_nor_deleted() {
        let (dir, store, mut later) = store();
        store.keep(log(1, LogKind::App), b"1", UnixTime(0), later()).unwrap();
        let other = dir.path().join("logs/notes.txt");
        fs::write(&other, vec![0; 9_000_000]).unwrap();
        store.keep(log(2, LogKind::App), b"1", UnixTime(0), later()).unwrap();
        assert_eq!(kept(dir.path()).unwrap().len(), 2);
        assert!(other.exists());
    }
}
