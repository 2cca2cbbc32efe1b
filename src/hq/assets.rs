//! Files that phones get as they are: those of `files/` and `firmware/FOLDER/`.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::sync::Arc;

use crate::inventory::{entries, is_note};
use crate::loads;
use crate::templates::{ModelSet, Templates};
use bundle::limits::{MAX_FILE_BYTES, MAX_UNLISTED_FILE_BYTES};
use ids::FileName;
use repository::layout::Layout;
use settings::Problem;

/// How deep folders may be nested in `files/` and `firmware/FOLDER/`.
const MAX_DEPTH: usize = 8;

/// A file of the fleet directory that is served as it is. It was seen, but not read yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asset {
    /// The name by which phones ask for it.
    pub name: FileName,
    /// The path relative to the fleet directory, for messages.
    pub file: String,
    /// The path by which it is read.
    pub path: PathBuf,
    /// Its size in bytes when it was seen.
    pub bytes: u64,
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
        let mut firmware = BTreeMap::new();
        for (folder, _, is_dir) in entries(layout, "firmware", problems) {
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
    match fs::read(&asset.path) {
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
    for (file, path, is_dir) in entries(layout, &folder, problems) {
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
        match fs::metadata(&path) {
            Ok(metadata) if metadata.len() > MAX_FILE_BYTES => problems.push(Problem::at_file(
                full,
                format!("the file is {} bytes, over the {MAX_FILE_BYTES} allowed", metadata.len()),
            )),
            Ok(metadata) => found.push(Arc::new(Asset { name, file: full, path, bytes: metadata.len() })),
            Err(error) => problems.push(settings::unreadable(&full, &error)),
        }
    }
}
