//! Files that phones get as they are: those of `files/` and `firmware/FOLDER/`.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::inventory::{entries, is_note};
use crate::loads;
use crate::templates::{ModelSet, Templates};
use bundle::limits::{MAX_FILE_BYTES, MAX_UNLISTED_FILE_BYTES};
use durable::{Folder, Links};
use ids::FileName;
use repository::layout::Layout;
use settings::Problem;

/// How deep folders may be nested in `files/` and `firmware/FOLDER/`.
const MAX_DEPTH: usize = 8;
/// The most files in `files/` and in `firmware/FOLDER/`, as links to folders make many out of a few.
const MAX_FILES: usize = 100_000;
/// The largest file in which a key is looked for, in bytes. Keys are shorter than 10 KB in every format.
const MAX_KEY_FILE_BYTES: u64 = 64 * 1024;

/// A file of the fleet directory that is served as it is. It was seen, but not read yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asset {
    /// The name by which phones ask for it.
    pub name: FileName,
    /// The path relative to the fleet directory, for messages.
    pub file: String,
    /// Its size in bytes when it was seen.
    pub bytes: u64,
    /// The fleet directory, and the folder in it that no link may lead out of.
    dir: PathBuf,
    within: String,
}

impl Asset {
    /// The file at this path in the fleet directory, which phones or sites ask for by `name`. Links may lead around in the
    /// folder `within`.
    ///
    /// # Errors
    ///
    /// As [`Folder::file`].
    pub(super) fn at(layout: &Layout, file: &str, within: &str, name: FileName) -> io::Result<Self> {
        let mut asset =
            Self { name, file: file.to_owned(), bytes: 0, dir: layout.dir().to_owned(), within: within.to_owned() };
        asset.bytes = asset.open()?.metadata()?.size();
        Ok(asset)
    }

    /// Opens it. It was looked at before, but meanwhile somebody may have put something else in its place.
    ///
    /// # Errors
    ///
    /// As [`Folder::file`].
    pub fn open(&self) -> io::Result<File> {
        Folder::open(&self.dir)?.file(Path::new(&self.file), Links::Within(Path::new(&self.within)))
    }

    /// Reads it whole.
    ///
    /// # Errors
    ///
    /// As [`Folder::read`], where the limit is [`MAX_FILE_BYTES`].
    pub fn read(&self) -> io::Result<Vec<u8>> {
        Folder::open(&self.dir)?.read(Path::new(&self.file), Links::Within(Path::new(&self.within)), MAX_FILE_BYTES)
    }
}

/// All files that are served as they are.
#[derive(Debug, Default)]
pub struct Assets {
    files: Vec<Arc<Asset>>,
    /// The firmware that is served, by template folder, with the files that its `.loads` files list.
    firmware: BTreeMap<String, Vec<Arc<Asset>>>,
}

impl Assets {
    /// Lists `files/` and `firmware/`. What is wrong goes to `problems`.
    pub fn read(layout: &Layout, templates: &Templates, problems: &mut Vec<Problem>) -> Self {
        let mut files = Vec::new();
        walk(layout, "files", "", 0, &mut files, problems);
        files.retain(|asset| !holds_key(asset, problems));
        let mut firmware = BTreeMap::new();
        for (folder, is_dir) in entries(layout, "firmware", Links::Refused, problems) {
            if is_dir && !templates.sets.contains_key(&folder) {
                problems.push(
                    Problem::at_file(format!("firmware/{folder}"), format!("there is no templates/{folder}"))
                        .hint("firmware of a model lies in a folder named as its templates"),
                );
            } else if !is_dir && !is_note(&folder) {
                problems.push(
                    Problem::at_file(format!("firmware/{folder}"), "only folders of models belong here")
                        .hint("put it into firmware/MODEL/, named as in templates/"),
                );
            }
        }
        for set in templates.sets.values() {
            let mut present = Vec::new();
            walk(layout, &format!("firmware/{}", set.name), "", 0, &mut present, problems);
            present.retain(|asset| !holds_key(asset, problems));
            firmware.insert(set.name.clone(), served(set, &present, problems));
        }
        Self { files, firmware }
    }

    /// The files of `files/`.
    pub fn files(&self) -> &[Arc<Asset>] {
        &self.files
    }

    /// The firmware that is served to the phones of a template folder.
    pub fn firmware_of(&self, set: &str) -> &[Arc<Asset>] {
        self.firmware.get(set).map_or(&[], Vec::as_slice)
    }

    /// All files that the firmware keys must sign for: firmware that any site serves, and every other file over
    /// [`MAX_UNLISTED_FILE_BYTES`], because sites refuse a file of that size that is not in the firmware catalogue.
    pub fn firmware(&self) -> impl Iterator<Item = &Arc<Asset>> {
        let large = self.files.iter().filter(|asset| asset.bytes > MAX_UNLISTED_FILE_BYTES);
        self.firmware.values().flatten().chain(large)
    }
}

/// Every file of `files/` and of the folders of `firmware/` that can be read, whether or not anybody serves it.
pub(super) fn present(layout: &Layout) -> Vec<Arc<Asset>> {
    // What is wrong is told where the folders are read to be published.
    let (mut found, mut problems) = (Vec::new(), Vec::new());
    walk(layout, "files", "", 0, &mut found, &mut problems);
    for (folder, is_dir) in entries(layout, "firmware", Links::Refused, &mut problems) {
        if is_dir {
            let mut of_folder = Vec::new();
            walk(layout, &format!("firmware/{folder}"), "", 0, &mut of_folder, &mut problems);
            found.append(&mut of_folder);
        }
    }
    found
}

/// The files that `firmware = […]` of a model names, and those that the `.loads` files among them list.
fn served(set: &ModelSet, present: &[Arc<Asset>], problems: &mut Vec<Problem>) -> Vec<Arc<Asset>> {
    let by_name: BTreeMap<&FileName, &Arc<Asset>> = present.iter().map(|asset| (&asset.name, asset)).collect();
    let mut served: BTreeMap<FileName, Arc<Asset>> = BTreeMap::new();
    for wanted in &set.firmware {
        let problem = |message: String| Problem::at_line(set.file(), wanted.line, message);
        let name = match wanted.name.parse::<FileName>() {
            Ok(name) => name,
            Err(error) => {
                problems.push(problem(format!("`{}`: {error}", wanted.name)));
                continue;
            }
        };
        let Some(asset) = by_name.get(&name) else {
            problems.push(
                problem(format!("firmware/{}/{name} is named here, but is not there", set.name))
                    .hint("put the file there, or take its name out"),
            );
            continue;
        };
        served.insert(name.clone(), Arc::clone(asset));
        if !name.folded().ends_with(".loads") {
            continue;
        }
        for listed in loads_of(asset, problems) {
            let part = listed.parse::<FileName>().ok().and_then(|part| by_name.get_key_value(&part));
            match part {
                Some((part, asset)) => {
                    served.insert((*part).clone(), Arc::clone(asset));
                }
                None => problems.push(
                    Problem::at_file(&asset.file, format!("lists {listed}, which is not in firmware/{}", set.name))
                        .hint("unpack all files of the firmware's archive into that folder"),
                ),
            }
        }
    }
    served.into_values().collect()
}

fn loads_of(asset: &Asset, problems: &mut Vec<Problem>) -> Vec<String> {
    if asset.bytes > loads::MAX_LOADS_BYTES {
        problems.push(Problem::at_file(&asset.file, "a .loads file of this size is none"));
        return Vec::new();
    }
    match asset.read() {
        Ok(bytes) => loads::listed(&bytes),
        Err(error) => {
            problems.push(settings::unreadable(&asset.file, &error));
            Vec::new()
        }
    }
}

/// Adds all files below `root` to `found`. Phones ask for them by their path relative to it.
fn walk(
    layout: &Layout,
    root: &str,
    below: &str,
    depth: usize,
    found: &mut Vec<Arc<Asset>>,
    problems: &mut Vec<Problem>,
) {
    let folder = if below.is_empty() { root.to_owned() } else { format!("{root}/{below}") };
    if depth > MAX_DEPTH {
        problems.push(Problem::at_file(folder, format!("folders are more than {MAX_DEPTH} deep here")));
        return;
    }
    for (file, is_dir) in entries(layout, &folder, Links::Within(Path::new(root)), problems) {
        if found.len() >= MAX_FILES {
            problems.push(Problem::at_file(root, format!("there are over {MAX_FILES} files here")));
            return;
        }
        let relative = if below.is_empty() { file.clone() } else { format!("{below}/{file}") };
        let full = format!("{root}/{relative}");
        if is_dir {
            walk(layout, root, &relative, depth + 1, found, problems);
            continue;
        }
        if is_note(&file) {
            continue;
        }
        let name = match relative.parse::<FileName>() {
            Ok(name) if name.as_str() == relative => name,
            Ok(_) => {
                problems.push(Problem::at_file(
                    full,
                    "phones cannot ask for this name: it has a backslash or a drive letter",
                ));
                continue;
            }
            Err(error) => {
                problems.push(Problem::at_file(full, error.to_string()));
                continue;
            }
        };
        match Asset::at(layout, &full, root, name) {
            Ok(asset) if asset.bytes > MAX_FILE_BYTES => problems.push(Problem::at_file(
                full,
                format!("the file is {} bytes, over the {MAX_FILE_BYTES} allowed", asset.bytes),
            )),
            Ok(asset) => found.push(Arc::new(asset)),
            Err(error) => problems.push(settings::unreadable(&full, &error)),
        }
    }
}

/// Whether a file that phones would get looks like a secret of somebody. Then that is a problem.
fn holds_key(asset: &Asset, problems: &mut Vec<Problem>) -> bool {
    let mut bytes = Vec::new();
    let read = |file: File| file.take(MAX_KEY_FILE_BYTES).read_to_end(&mut bytes);
    if asset.bytes > MAX_KEY_FILE_BYTES || asset.open().and_then(read).is_err() || !is_key_file(&bytes) {
        return false;
    }
    problems.push(key_file(asset.file.clone()));
    true
}

/// The problem with a file that looks like a key.
pub(super) fn key_file(file: String) -> Problem {
    Problem::at_file(file, "this looks like a private key, which nobody but its owner may have")
        .hint("take it out of the fleet directory; if it was in git or published, make a new one")
}

/// Whether this is the text of a private key or a token: a key file of this program (encrypted or not), one in PEM
/// (RFC 7468), of age, of OpenSSH or of PuTTY, or an enrolment token.
pub(super) fn is_key_file(bytes: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(bytes) else { return false };
    text.lines().map(str::trim).any(|line| {
        let pem = line.strip_prefix("-----BEGIN ").is_some_and(|label| label.ends_with("PRIVATE KEY-----"));
        let begins = |words: &[&str]| words.iter().any(|word| line.starts_with(word));
        pem || begins(&["AGE-SECRET-KEY-1", "age-encryption.org/v1", "-----BEGIN AGE ENCRYPTED FILE-----"])
            || begins(&["PuTTY-User-Key-File-"])
            || repository::keyring::is_secret(line)
    }) || toml::from_str::<api::EnrolmentToken>(text).is_ok()
}
