//! What a backup of HQ's host holds: everything that `serve` needs and nobody could make again.
//!
//! That is the database, the CA, the online key, the service's certificate, the publisher's ledger, the clock record, and
//! the metadata and manifests of what is published. Objects are left out: `publish` makes them again. Whoever writes a
//! backup encrypts it; here are only its parts and their order.
//!
//! The form: one line of JSON ([`Header`]), then the content of each file, one after the other.

use std::fs;
use std::io::{BufRead as _, BufReader, Read, Write};
use std::path::Path;

use anyhow::{Context as _, ensure};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::db::Db;
use durable::{PRIVATE, PRIVATE_DIR, SHARED, SHARED_DIR};
use ids::{Digest, SiteId, UnixTime};
use repository::layout::Layout;
use repository::ledger::Ledger;
use repository::ownership;

/// The version of the form.
const FORMAT: u32 = 1;
/// The longest first line, in bytes: 100,000 sites with some files each.
const MAX_HEADER_BYTES: u64 = 256 * 1024 * 1024;
/// The largest single file, in bytes.
const MAX_FILE_BYTES: u64 = 64 * 1024 * 1024 * 1024;
/// The files beside the database, as far as they are there. `serve` makes the last two again by itself.
const FILES: [&str; 10] = [
    "ca.key",
    "ca.pem",
    "ca-before.pem",
    "online.key",
    "ledger.jsonl",
    "clock.toml",
    "public/root.json",
    "public/recipients.json",
    "server.key",
    "server.pem",
];
/// The database's file.
const DATABASE: &str = "hq.sqlite";

/// The first line of a backup.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Header {
    format: u32,
    /// When it was made, by the host's clock. It is taken before the database is copied.
    pub made: UnixTime,
    files: Vec<Part>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Part {
    name: String,
    bytes: u64,
    sha256: Digest,
}

/// Writes a backup of this `online/` directory. A running `serve` is not disturbed.
pub fn write(online: &Path, out: &mut dyn Write, now: UnixTime) -> anyhow::Result<()> {
    let copy = online.join(".backup.sqlite");
    durable::remove(&copy).with_context(|| format!("cannot remove {}", copy.display()))?;
    let written = Db::open_existing(&online.join(DATABASE))
        .and_then(|db| db.copy_to(&copy))
        .and_then(|()| write_parts(online, &copy, out, now));
    durable::remove(&copy).with_context(|| format!("cannot remove {}", copy.display()))?;
    written
}

fn write_parts(online: &Path, database: &Path, out: &mut dyn Write, now: UnixTime) -> anyhow::Result<()> {
    let mut parts = vec![(DATABASE.to_owned(), database.to_owned())];
    let listed = FILES.iter().map(|name| ((*name).to_owned(), online.join(name)));
    parts.extend(listed.filter(|(_, path)| path.symlink_metadata().is_ok_and(|found| found.is_file())));
    for needed in ["ca.key", "ca.pem", "online.key"] {
        ensure!(parts.iter().any(|(name, _)| name == needed), "{} is not there", online.join(needed).display());
    }
    let public = online.join("public");
    for folder in ["metadata", "targets"] {
        for site in names(&public.join("sites"))? {
            let dir = public.join("sites").join(&site).join(folder);
            for file in names(&dir)? {
                // A file that is being written has no name yet.
                if !file.starts_with('.') {
                    parts.push((format!("public/sites/{site}/{folder}/{file}"), dir.join(&file)));
                }
            }
        }
    }
    // A file may be replaced while this runs, so each is read once.
    let mut header = Header { format: FORMAT, made: now, files: Vec::new() };
    let mut contents = Vec::new();
    for (name, path) in parts {
        let content = match durable::read_regular(&path, MAX_FILE_BYTES) {
            Ok(content) => content,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound && name.starts_with("public/") => continue,
            Err(error) => return Err(error).with_context(|| format!("cannot read {}", path.display())),
        };
        let bytes = u64::try_from(content.len()).unwrap_or(u64::MAX);
        header.files.push(Part { name, bytes, sha256: Digest::of(&content) });
        contents.push(Zeroizing::new(content));
    }
    serde_json::to_writer(&mut *out, &header).context("cannot write the backup")?;
    out.write_all(b"\n").context("cannot write the backup")?;
    for content in contents {
        out.write_all(&content).context("cannot write the backup")?;
    }
    Ok(())
}

/// Puts a backup into `online`, which must not exist or hold nothing that a backup holds. The database then waits for
/// what the desk knows ([`Db::apply_git`]). Returns when the backup was made.
pub fn read(input: &mut dyn Read, online: &Path, now: UnixTime) -> anyhow::Result<Header> {
    for name in FILES.iter().chain([&DATABASE]) {
        let path = online.join(name);
        ensure!(path.symlink_metadata().is_err(), "{} is there; move {} away first", path.display(), online.display());
    }
    let mut input = BufReader::new(input);
    let mut line = Vec::new();
    input.by_ref().take(MAX_HEADER_BYTES).read_until(b'\n', &mut line).context("the backup cannot be read")?;
    let header: Header = serde_json::from_slice(&line).context("this is no backup of HQ")?;
    ensure!(header.format == FORMAT, "the backup has format {}; this version reads {FORMAT}", header.format);
    for part in &header.files {
        ensure!(is_ours(&part.name) && part.bytes <= MAX_FILE_BYTES, "a backup has no file `{}`", part.name);
    }
    // Nothing that `serve` needs is in place before all of it is whole.
    let aside = durable::parent(online).join(".online-restored");
    if aside.symlink_metadata().is_ok() {
        fs::remove_dir_all(&aside).with_context(|| format!("cannot remove {}", aside.display()))?;
    }
    for part in &header.files {
        let path = aside.join(&part.name);
        // What is published may be read by a web server that is another user.
        let published = part.name.starts_with("public/");
        let (mode, dir_mode) = if published { (SHARED, SHARED_DIR) } else { (PRIVATE, PRIVATE_DIR) };
        durable::create_dirs(&aside, PRIVATE_DIR)?;
        durable::create_dirs(durable::parent(&path), dir_mode)?;
        let mut content = Zeroizing::new(Vec::new());
        input.by_ref().take(part.bytes).read_to_end(&mut content).context("the backup cannot be read")?;
        ensure!(Digest::of(&content) == part.sha256, "the backup is damaged: {} is not what it was", part.name);
        durable::create_new(&path, &content, mode).with_context(|| format!("cannot write {}", path.display()))?;
    }
    let layout = Layout::of_online(&aside);
    Db::open_existing(&layout.database())?.restored_from(header.made, now)?;
    let mut ledger = Ledger::read(&layout);
    ledger.was_restored(now);
    ledger.write(&layout)?;
    put_in_place(&aside, online)?;
    Ok(header)
}

/// Moves the entries of `aside` to `online`.
fn put_in_place(aside: &Path, online: &Path) -> anyhow::Result<()> {
    if online.symlink_metadata().is_err() {
        durable::rename(aside, online).with_context(|| format!("cannot make {}", online.display()))?;
        return ownership::begin(online);
    }
    let public = online.join("public");
    if public.symlink_metadata().is_ok() {
        // What is published may be newer than the backup.
        for name in ["root.json", "recipients.json"] {
            let (from, to) = (aside.join("public").join(name), public.join(name));
            if from.exists() {
                durable::rename(&from, &to).with_context(|| format!("cannot make {}", to.display()))?;
            }
        }
        fs::remove_dir_all(aside.join("public"))?;
    }
    for name in names(aside)? {
        let (from, to) = (aside.join(&name), online.join(&name));
        // SQLite's own files beside the database belong to no other database.
        durable::rename(&from, &to).with_context(|| format!("cannot make {}", to.display()))?;
    }
    fs::remove_dir(aside).with_context(|| format!("cannot remove {}", aside.display()))
}

/// Whether a backup may hold a file of this name.
fn is_ours(name: &str) -> bool {
    if name == DATABASE || FILES.contains(&name) {
        return true;
    }
    let mut parts = name.split('/');
    let head = (parts.next(), parts.next(), parts.next(), parts.next(), parts.next(), parts.next());
    let (Some("public"), Some("sites"), Some(site), Some("metadata" | "targets"), Some(file), None) = head else {
        return false;
    };
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | '%');
    site.parse::<SiteId>().is_ok() && !file.starts_with('.') && !file.is_empty() && file.chars().all(plain)
}

fn names(dir: &Path) -> anyhow::Result<Vec<String>> {
    let listing = match fs::read_dir(dir) {
        Ok(listing) => listing,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error).with_context(|| format!("cannot list {}", dir.display())),
    };
    let mut names = Vec::new();
    for entry in listing {
        names.extend(entry.with_context(|| format!("cannot list {}", dir.display()))?.file_name().into_string().ok());
    }
    names.sort();
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_backup_holds_no_other_files() {
        for name in
            ["hq.sqlite", "ca.key", "public/sites/s-1/metadata/timestamp.json", "public/sites/s-1/targets/a.manifest"]
        {
            assert!(is_ours(name), "{name}");
        }
        let others = [
            "../ca.key",
            "/etc/passwd",
            "keys/root-1.key",
            "public/sites/../metadata/x",
            "public/sites/s-1/metadata/../../x",
            "public/sites/s-1/metadata/.x",
            "public/sites/s-1/metadata/a/b",
            "public/objects/00/x",
            "",
        ];
        for name in others {
            assert!(!is_ours(name), "{name}");
        }
    }
}
