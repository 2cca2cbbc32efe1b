//! Images of the appliance: RAUC bundles in `images/`, and what the manifest of each says.
//!
//! A bundle in the `verity` format ends with its signature, a CMS message that holds the manifest as text, and the
//! signature's length in the last 8 bytes, big-endian. The appliance checks the signature with the key in its own
//! system. Here the manifest is only read, to know which image it is before anything is published.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context as _, anyhow, bail};

use super::assets::Asset;
use super::inventory::{entries, is_note};
use access::ImageApproval;
use bundle::limits::MAX_FILE_BYTES;
use bundle::validate::is_image_name;
use durable::{Links, SHARED, SHARED_DIR};
use ids::Digest;
use repository::layout::Layout;
use settings::Problem;
use telemetry::Hint as _;

/// The suffix of a bundle's file name.
const SUFFIX: &str = ".raucb";
/// The suffix of the file that allows an image to follow a higher version; what is in it is for people.
const MAY_GO_BACK: &str = ".may-go-back";
/// How `image/build` ends the version of what it signs with keys of its checkout.
pub const THROW_AWAY: &str = "+throw-away-keys";
/// The first bytes of a bundle: the magic number of a little-endian squashfs.
const MAGIC: &[u8] = b"hsqs";
/// The largest signature, in bytes; RAUC has the same limit.
const MAX_SIGNATURE_BYTES: u64 = 64 * 1024;

/// One image of the appliance in `images/`.
#[derive(Debug, Clone)]
pub struct ImageFile {
    /// The bundle's file, which is sealed and served as it is.
    pub asset: Arc<Asset>,
    /// The hardware that it is for: `compatible` of its manifest.
    pub compatible: String,
    /// The version in its manifest.
    pub version: String,
    /// Whether it may follow a higher version: a file `NAME.may-go-back` stands beside the bundle.
    pub may_go_back: bool,
}

impl ImageFile {
    /// What the firmware keys sign for it.
    pub fn approval(&self) -> ImageApproval {
        let Self { compatible, version, may_go_back, .. } = self.clone();
        ImageApproval { compatible, version, may_go_back }
    }
}

/// All images, by the name that `image = "…"` uses: `COMPATIBLE_VERSION`.
#[derive(Debug, Default)]
pub struct Images {
    by_name: BTreeMap<String, ImageFile>,
}

impl Images {
    /// Reads the manifests of all bundles in `images/`. What is wrong goes to `problems`.
    pub fn read(layout: &Layout, problems: &mut Vec<Problem>) -> Self {
        let mut by_name = BTreeMap::new();
        let found = entries(layout, "images", Links::Refused, problems);
        let names: BTreeSet<String> = found.iter().map(|(file, _)| file.clone()).collect();
        for (file, is_dir) in found {
            let full = format!("images/{file}");
            if let Some(name) = file.strip_suffix(MAY_GO_BACK).filter(|_| !is_dir) {
                if !names.contains(&format!("{name}{SUFFIX}")) {
                    problems.push(Problem::at_file(full, format!("there is no image {name}")));
                }
                continue;
            }
            let Some(name) = file.strip_suffix(SUFFIX).filter(|_| !is_dir) else {
                if is_dir || !is_note(&file) {
                    problems.push(
                        Problem::at_file(full, "only images of the appliance belong here")
                            .hint("`lineside-hq image add FILE.raucb` puts one here"),
                    );
                }
                continue;
            };
            let asset = match file.parse() {
                Ok(name) => Asset::at(layout, &full, &full, name),
                Err(error) => {
                    problems.push(Problem::at_file(full, format!("{error}")));
                    continue;
                }
            };
            let found = asset.and_then(|asset| Ok((asset.open()?, asset)));
            match found.map_err(anyhow::Error::from).and_then(|(opened, asset)| Ok((look(opened)?, asset))) {
                Ok((found, asset)) if found.name() == name => {
                    let RaucBundle { compatible, version, .. } = found;
                    let may_go_back = names.contains(&format!("{name}{MAY_GO_BACK}"));
                    let image = ImageFile { asset: Arc::new(asset), compatible, version, may_go_back };
                    by_name.insert(name.to_owned(), image);
                }
                Ok((found, _)) => problems.push(
                    Problem::at_file(full, format!("this is the image {}", found.name()))
                        .hint(format!("name it {}{SUFFIX}", found.name())),
                ),
                Err(error) => problems.push(Problem::at_file(full, format!("{error:#}"))),
            }
        }
        Self { by_name }
    }

    /// The image of this name; `None` if it is not in `images/`.
    pub fn get(&self, name: &str) -> Option<&ImageFile> {
        self.by_name.get(name)
    }

    /// The names of all images, in their order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.by_name.keys().map(String::as_str)
    }

    /// All images. The firmware keys must sign for each.
    pub fn all(&self) -> impl Iterator<Item = &ImageFile> {
        self.by_name.values()
    }
}

/// Every bundle in `images/` that can be read, whatever it says of itself.
pub(super) fn present(layout: &Layout) -> Vec<Arc<Asset>> {
    let found = entries(layout, "images", Links::Refused, &mut Vec::new());
    let bundle = |(file, is_dir): (String, bool)| {
        let full = format!("images/{file}");
        let name = file.parse().ok().filter(|_| !is_dir && file.ends_with(SUFFIX))?;
        Asset::at(layout, &full, &full, name).ok().map(Arc::new)
    };
    found.into_iter().filter_map(bundle).collect()
}

/// Puts a bundle into `images/`, and returns its name there.
///
/// # Errors
///
/// If the file is no bundle of the `verity` format, or another bundle of the same name is there.
pub fn add(layout: &Layout, bundle: &Path) -> anyhow::Result<String> {
    let found = File::open(bundle).map_err(anyhow::Error::from).and_then(look);
    let found = found.with_context(|| format!("{} is no image of the appliance", bundle.display()))?;
    let name = found.name();
    let target = layout.images().join(format!("{name}{SUFFIX}"));
    durable::create_dirs(&layout.images(), SHARED_DIR).context("cannot make images/")?;
    if fs::symlink_metadata(&target).is_ok() {
        let there =
            digest(durable::regular_file(&target)).with_context(|| format!("cannot read {}", target.display()))?;
        if there == digest(File::open(bundle)).with_context(|| format!("cannot read {}", bundle.display()))? {
            return Ok(name);
        }
        return Err(anyhow!("another image {name} is there already").hint("a new image has a new version"));
    }
    copy(bundle, &target).with_context(|| format!("cannot write {}", target.display()))?;
    Ok(name)
}

fn copy(from: &Path, to: &Path) -> io::Result<()> {
    let mut from = File::open(from)?;
    let mut new = durable::aside(to, from.metadata()?.mode() & SHARED)?;
    io::copy(&mut from, &mut new)?;
    new.put_in_place()
}

fn digest(file: io::Result<File>) -> io::Result<Digest> {
    let mut bytes = Vec::new();
    file?.take(MAX_FILE_BYTES).read_to_end(&mut bytes)?;
    Ok(Digest::of(&bytes))
}

/// What is known of a bundle: hardware and version from its manifest, and the size of the file.
#[derive(Debug, PartialEq, Eq)]
struct RaucBundle {
    compatible: String,
    version: String,
    bytes: u64,
}

impl RaucBundle {
    fn name(&self) -> String {
        format!("{}_{}", self.compatible, self.version)
    }
}

/// Reads a bundle's manifest. Fails if the file is too large or is no bundle.
fn look(mut file: File) -> anyhow::Result<RaucBundle> {
    let bytes = file.metadata()?.len();
    if bytes > MAX_FILE_BYTES {
        bail!("it has {bytes} bytes, over the {MAX_FILE_BYTES} allowed");
    }
    let signature = signature(&mut file, bytes).context("it is no RAUC bundle")?;
    let (compatible, version) = manifest(&signature)?;
    Ok(RaucBundle { compatible, version, bytes })
}

/// Reads the signature at the end of a bundle.
fn signature(file: &mut File, bytes: u64) -> io::Result<Vec<u8>> {
    let not = |why| io::Error::new(io::ErrorKind::InvalidData, why);
    let mut magic = [0; 4];
    file.read_exact(&mut magic)?;
    if magic != MAGIC {
        return Err(not("it is no squashfs"));
    }
    file.seek(SeekFrom::Start(bytes.saturating_sub(8)))?;
    let mut length = [0; 8];
    file.read_exact(&mut length)?;
    let length = u64::from_be_bytes(length);
    let start = bytes.checked_sub(8).and_then(|end| end.checked_sub(length));
    let Some(start) = start.filter(|_| (1..=MAX_SIGNATURE_BYTES).contains(&length)) else {
        return Err(not("it has no signature at its end"));
    };
    file.seek(SeekFrom::Start(start))?;
    let mut signature = Vec::new();
    file.take(length).read_to_end(&mut signature)?;
    Ok(signature)
}

/// Finds `compatible` and `version` in the section `[update]` of the manifest that a signature holds.
fn manifest(signature: &[u8]) -> anyhow::Result<(String, String)> {
    const BEGIN: &[u8] = b"[update]\n";
    let none =
        || anyhow!("its signature holds no manifest; bundles of the format `plain` are not taken, make a `verity` one");
    let at = signature.windows(BEGIN.len()).position(|window| window == BEGIN).ok_or_else(none)?;
    let text = signature.get(at + BEGIN.len()..).unwrap_or_default();
    let (mut compatible, mut version) = (None, None);
    for line in text.split(|byte| *byte == b'\n') {
        let Ok(line) = std::str::from_utf8(line) else { break };
        match line.split_once('=') {
            Some(("compatible", value)) => compatible = Some(value.trim().to_owned()),
            Some(("version", value)) => version = Some(value.trim().to_owned()),
            _ if line.starts_with('[') => break,
            _ => {}
        }
    }
    let good = |name: Option<String>, what: &str| {
        let name = name.with_context(|| format!("its manifest names no {what}"))?;
        if is_image_name(&name) { Ok(name) } else { bail!("its {what} is not 1 to 64 letters, digits and .+~_-") }
    };
    Ok((good(compatible, "compatible")?, good(version, "version")?))
}

#[cfg(test)]
pub(super) mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]
    use super::*;

    /// Bytes that look like a bundle from outside.
    pub(crate) fn bundle(compatible: &str, version: &str) -> Vec<u8> {
        let signature =
            format!("\x30DER [update]\ncompatible={compatible}\nversion={version}\n\n[bundle]\nformat=verity\n");
        let length = u64::try_from(signature.len()).unwrap().to_be_bytes();
        [MAGIC, &[7; 5000], signature.as_bytes(), &length].concat()
    }

    fn fleet() -> (tempfile::TempDir, Layout) {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout::new(dir.path());
        (dir, layout)
    }

    fn write(dir: &Path, name: &str, bytes: &[u8]) -> std::path::PathBuf {
        let path = dir.join(name);
        fs::write(&path, bytes).unwrap();
        path
    }

    #[test]
    fn an_image_is_named_by_its_hardware_and_version() {
        let (dir, layout) = fleet();
        let file = write(dir.path(), "x.raucb", &bundle("lineside-arm64", "1.2.3+git5"));
        assert_eq!(add(&layout, &file).unwrap(), "lineside-arm64_1.2.3+git5");
        // Again is nothing; another one under the same name is refused.
        add(&layout, &file).unwrap();
        assert_eq!(fs::read_dir(layout.images()).unwrap().count(), 1);
        let mut other = bundle("lineside-arm64", "1.2.3+git5");
        other[100] = 8;
        let error = telemetry::explain(&add(&layout, &write(dir.path(), "y.raucb", &other)).unwrap_err());
        assert!(error.contains("a new image has a new version"), "{error}");

        let mut problems = Vec::new();
        let images = Images::read(&layout, &mut problems);
        assert!(problems.is_empty(), "{problems:?}");
        let image = images.get("lineside-arm64_1.2.3+git5").unwrap();
        assert_eq!((image.compatible.as_str(), image.version.as_str()), ("lineside-arm64", "1.2.3+git5"));
        assert_eq!(image.asset.bytes, fs::metadata(&file).unwrap().len());
    }

    #[test]
    fn an_image_is_not_copied_through_a_link_that_somebody_planted() {
        let (dir, layout) = fleet();
        let victim = write(dir.path(), "victim", b"precious");
        fs::create_dir(layout.images()).unwrap();
        std::os::unix::fs::symlink(&victim, layout.images().join(".c_1.raucb.new")).unwrap();
        let file = write(dir.path(), "x.raucb", &bundle("c", "1"));
        add(&layout, &file).unwrap();
        let copied = layout.images().join("c_1.raucb");
        assert_eq!(fs::read(&copied).unwrap(), fs::read(&file).unwrap());
        assert_eq!(fs::metadata(&copied).unwrap().mode(), fs::metadata(&file).unwrap().mode());
        assert_eq!(fs::read(&victim).unwrap(), b"precious");
        assert_eq!(fs::read_dir(layout.images()).unwrap().count(), 1);
    }

    #[test]
    fn what_is_no_bundle_is_refused_with_the_reason() {
        let (dir, layout) = fleet();
        let good = bundle("c", "1");
        let cut = &good[..good.len() - 3];
        let long = [&good[..good.len() - 8], &u64::MAX.to_be_bytes()].concat();
        for (bytes, why) in [
            (&b""[..], "it is no RAUC bundle"),
            (b"#!/bin/sh\nexit\n", "it is no squashfs"),
            (cut, "no signature at its end"),
            (&long, "no signature at its end"),
            (&bundle("c", "a b"), "its version is not"),
            (&bundle("../../etc", "1"), "its compatible is not"),
            (&[MAGIC, &[1; 99], &7u64.to_be_bytes()].concat(), "no manifest"),
        ] {
            let error = add(&layout, &write(dir.path(), "x", bytes)).unwrap_err();
            assert!(format!("{error:#}").contains(why), "{error:#} instead of {why}");
        }
        assert_eq!(fs::read_dir(layout.images()).map_or(0, Iterator::count), 0);
    }

    #[test]
    fn a_file_of_another_name_or_kind_is_a_problem() {
        let (_dir, layout) = fleet();
        fs::create_dir(layout.images()).unwrap();
        write(&layout.images(), "wrong.raucb", &bundle("c", "1"));
        write(&layout.images(), "notes.txt", b"hello");
        write(&layout.images(), "README.md", b"hello");
        let mut problems = Vec::new();
        assert_eq!(Images::read(&layout, &mut problems).names().count(), 0);
        let text: Vec<String> = problems.iter().map(ToString::to_string).collect();
        assert_eq!(text.len(), 2, "{text:?}");
        assert!(text.iter().any(|line| line.contains("c_1")), "{text:?}");
    }
}
