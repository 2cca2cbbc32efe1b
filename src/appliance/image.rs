//! The system image of the appliance: which one runs, which one the release wants, and how a new one is handed to the
//! installer.
//!
//! The appliance may neither write to the slots nor run a program. It puts the release's RAUC bundle, complete and as
//! signed, into a folder that the system's installer watches (`lineside-os-install.path`). The installer checks RAUC's
//! own signature, writes the other slot and restarts the machine. The system then writes into a file what became of the
//! image, and the appliance reports that to HQ. Without that file the appliance is a package on somebody's Debian, not
//! an image of ours; then nothing is ever installed.

mod version;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;
use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::card::Card;
use super::clock;
use access::content::CHUNK_BYTES;
use access::{BoardImage, Catalog, Files};
use api::{AlertCode, ImageSeen};
use bundle::validate::is_image_name;
use durable::{Disk, SHARED, SHARED_DIR};
use ids::{Digest, UnixTime};
use status::Stats;
use update::plan::may_activate;

/// The folder that the installer watches, within the state directory.
const FOLDER: &str = "os";
/// The file name under which the installer takes a bundle.
const BUNDLE: &str = "install.raucb";
/// The name of the bundle while it is being written; the installer ignores it.
const PART: &str = "install.raucb.part";
/// The file beside a bundle that may be lower than what runs: its SHA-256. The installer lets RAUC take that one.
const MAY_GO_BACK: &str = "install.may-go-back";
/// The largest file of the system that is read, in bytes; a real one has under 500.
const MAX_STATE_BYTES: u64 = 16 * 1024;
/// How often the file of the system and the clock are looked at.
const LOOK_EVERY: Duration = Duration::from_secs(30);
/// How long the installer may take to pick up a bundle before that becomes an alert.
const INSTALL_WITHIN: Duration = Duration::from_secs(30 * 60);
/// The alert while the image that the release wants does not run here.
const ALERT: AlertCode = AlertCode::Image;

/// What the system says about its image, in TOML. A key that is missing is empty.
/// `image/rootfs/usr/lib/lineside/os/state` writes it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
struct ImageState {
    version: String,
    slot: String,
    good: bool,
    compatible: Option<String>,
    tried_version: String,
    tried_sha256: String,
    outcome: String,
    /// The slot that the boot loader could not read; empty if it could.
    unreadable: String,
}

impl ImageState {
    /// Reads the file of the system. `None` if it is too large or not understood, which is also logged.
    fn read(path: &Path) -> Option<Self> {
        let bytes = fs::metadata(path).ok()?.len();
        let text = if bytes > MAX_STATE_BYTES { None } else { fs::read_to_string(path).ok() };
        match text.as_deref().map(toml::from_str::<Self>) {
            Some(Ok(state)) if is_image_name(&state.version) => Some(state),
            _ => {
                warn!(path = %path.display(), "the system's word about its image is not understood");
                None
            }
        }
    }

    fn compatible(&self) -> String {
        self.compatible.clone().unwrap_or_else(|| {
            let arch = match std::env::consts::ARCH {
                "aarch64" => "arm64",
                "x86_64" => "amd64",
                other => other,
            };
            format!("lineside-{arch}")
        })
    }

    /// What somebody should know about the card.
    fn damage(&self) -> Option<String> {
        let slot: String = self.unreadable.chars().filter(char::is_ascii_alphanumeric).take(1).collect();
        let version = &self.version;
        (!slot.is_empty()).then(|| {
            format!(
                "slot {slot} could not be read at the last start; {version} runs from slot {}. An update writes it anew; \
                 if that does not help, the card is worn out",
                self.seen().slot
            )
        })
    }

    fn seen(&self) -> ImageSeen {
        ImageSeen {
            version: self.version.clone(),
            slot: self.slot.chars().filter(char::is_ascii_alphanumeric).take(1).collect(),
            good: self.good,
            outcome: self.outcome.chars().filter(|c| !c.is_control()).take(200).collect(),
        }
    }
}

/// What is to be done about the image that the release wants.
#[derive(Debug, Clone, PartialEq, Eq)]
enum InstallDecision {
    /// It runs already, or the release names none.
    Nothing,
    /// Not now: this boot has not passed its health check yet, or it is outside the activation window.
    Wait,
    /// The installer shall get it now.
    Install,
    /// It is never installed here; the text says why, for people.
    Refuse(String),
}

fn decide(image: Option<&BoardImage>, state: &ImageState, now: UnixTime) -> InstallDecision {
    let Some(image) = image else { return InstallDecision::Nothing };
    if image.version == state.version {
        return InstallDecision::Nothing;
    }
    let own = state.compatible();
    let (new, runs) = (&image.version, &state.version);
    // The release key alone named it so. What it is, the firmware keys say.
    let Some(approval) = &image.approval else {
        return InstallDecision::Refuse(format!(
            "image {new} is not bound to hardware and version by the firmware keys; it stays at {runs}. \
             Publish again with a current lineside-hq"
        ));
    };
    if (&approval.version, &approval.compatible) != (new, &image.compatible) {
        return InstallDecision::Refuse(format!(
            "the release calls an image {new} for {}, and the firmware keys signed it as {} for {}; it stays at {runs}",
            image.compatible, approval.version, approval.compatible
        ));
    }
    if image.compatible != own {
        return InstallDecision::Refuse(format!(
            "image {} is for {}, and this is {own}; it stays at {}",
            image.version, image.compatible, state.version
        ));
    }
    if state.tried_sha256.parse::<Digest>().is_ok_and(|tried| tried == image.bundle.sha256) {
        // An image is tried once: a bad one must not restart the box of a site again and again.
        return InstallDecision::Refuse(format!(
            "image {} was tried ({}); this runs {}. Publish a newer one",
            image.version, state.outcome, state.version
        ));
    }
    if !approval.may_go_back {
        match version::is_lower(new, runs) {
            Some(false) => {}
            Some(true) => {
                return InstallDecision::Refuse(format!(
                    "image {new} is lower than {runs}, which runs, and the firmware keys do not allow that; it stays"
                ));
            }
            None => {
                return InstallDecision::Refuse(format!(
                    "whether image {new} is lower than {runs} cannot be told, and the firmware keys do not allow it; it stays"
                ));
            }
        }
    }
    // Before this boot has passed, the other slot must stay: it is what the machine falls back to.
    if state.good && may_activate(image.window, now) { InstallDecision::Install } else { InstallDecision::Wait }
}

/// The task that hands images to the installer and reports which one runs.
pub struct ImageService {
    /// The file in which the system says which image runs and what became of the last one.
    pub state_file: PathBuf,
    /// The state directory; the installer's folder is in it.
    pub state: PathBuf,
    /// The release that is served, which may name an image.
    pub catalog: watch::Receiver<Arc<Catalog>>,
    /// Opens the files of that release.
    pub files: Arc<dyn Files>,
    /// The record that is told which image runs and what became of the last one.
    pub stats: Stats,
}

impl ImageService {
    /// Looks at the system's file every 30 s and at each new release, until `stop`.
    pub async fn run(mut self, stop: CancellationToken) {
        let card = Card::of(&self.state);
        let folder = self.state.join(FOLDER);
        // An earlier process may have left half a bundle.
        let _ = fs::remove_file(folder.join(PART));
        let mut look = interval(LOOK_EVERY);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (mut handed, mut releases, mut told) = (None, true, None);
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                _ = look.tick() => {}
                changed = self.catalog.changed(), if releases => releases = changed.is_ok(),
            }
            if let Some(bytes) = card.as_ref().and_then(Card::written) {
                self.stats.card_written(bytes);
            }
            if !self.state_file.exists() {
                continue;
            }
            let Some(state) = ImageState::read(&self.state_file) else { continue };
            self.stats.image(state.seen());
            let catalog = Arc::clone(&self.catalog.borrow_and_update());
            let alert = if folder.join(BUNDLE).exists() {
                let since = *handed.get_or_insert_with(clock::now);
                let late = clock::now().since(since) > INSTALL_WITHIN;
                late.then(|| "an image was handed to the installer, which has not taken it".to_owned())
            } else {
                handed = None;
                match decide(catalog.image(), &state, clock::now()) {
                    InstallDecision::Nothing | InstallDecision::Wait => None,
                    InstallDecision::Refuse(why) => Some(why),
                    InstallDecision::Install => match self.hand_over(&catalog, &folder).await {
                        Ok(()) => None,
                        Err(error) => Some(format!("an image cannot be handed to the installer: {error}")),
                    },
                }
            };
            let alert = match (state.damage(), alert) {
                (Some(damage), Some(alert)) => Some(format!("{damage}. Also: {alert}")),
                (damage, alert) => damage.or(alert),
            };
            if told != alert {
                self.stats.clear_alert(ALERT);
                if let Some(text) = &alert {
                    warn!("{text}");
                    self.stats.alert(ALERT, text.clone());
                }
                told = alert;
            }
        }
    }

    async fn hand_over(&self, catalog: &Catalog, folder: &Path) -> io::Result<()> {
        let Some(image) = catalog.image().cloned() else { return Ok(()) };
        info!(version = image.version, compatible = image.compatible, "a new image goes to the installer");
        let (files, folder) = (Arc::clone(&self.files), folder.to_owned());
        let written = tokio::task::spawn_blocking(move || write(&*files, &image, &folder));
        written.await.map_err(io::Error::other)?
    }
}

/// Writes the bundle in clear. It gets the name that the installer takes only when all of it is on the disk and has the
/// length and SHA-256 that were signed for.
fn write(files: &dyn Files, image: &BoardImage, folder: &Path) -> io::Result<()> {
    durable::create_dirs(folder, SHARED_DIR)?;
    let allowance = folder.join(MAY_GO_BACK);
    if image.approval.as_ref().is_some_and(|approval| approval.may_go_back) {
        durable::replace(&allowance, format!("{}\n", image.bundle.sha256).as_bytes(), SHARED)?;
    } else if allowance.exists() {
        durable::remove(&allowance)?;
    }
    let content = files.open(&image.bundle).map_err(io::Error::other)?;
    // `part` is removed when a step fails, because the disk may be full of it.
    let mut part = Disk::default().aside_named(&folder.join(PART), &folder.join(BUNDLE), SHARED)?;
    for index in 0..content.len().div_ceil(CHUNK_BYTES as u64) {
        part.append(&content.chunk(index).map_err(io::Error::other)?)?;
    }
    let (bytes, sha256) = content.digest().map_err(io::Error::other)?;
    if (bytes, sha256) != (image.bundle.blob.clear_bytes, image.bundle.sha256) {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "it is not what the release says"));
    }
    part.put_in_place()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use access::{Content, ContentError, ImageApproval};
    use bundle::{Class, ContentKey, FileEntry, ObjectRef, Packing, Scope};

    const NOON: UnixTime = UnixTime(1_800_014_400);

    fn image(version: &str, content: &[u8]) -> BoardImage {
        let clear_bytes = content.len() as u64;
        let key = ContentKey::from_bytes([0; 32]);
        let blob = ObjectRef { digest: Digest::of(b"sealed"), bytes: 1, key, packing: Packing::Plain, clear_bytes };
        let (name, scope) = ("image.raucb".parse().unwrap(), Scope::Everyone);
        let bundle = FileEntry { name, scope, class: Class::Firmware, sha256: Digest::of(content), blob };
        let (version, compatible) = (version.to_owned(), "lineside-arm64".to_owned());
        let approval = ImageApproval { compatible: compatible.clone(), version: version.clone(), may_go_back: false };
        BoardImage { version, compatible, bundle: Arc::new(bundle), window: None, approval: Some(approval) }
    }

    fn running(version: &str) -> ImageState {
        let (version, slot, good) = (version.to_owned(), "A".to_owned(), true);
        ImageState { version, slot, good, compatible: Some("lineside-arm64".to_owned()), ..ImageState::default() }
    }

    #[test]
    fn what_the_system_says_is_read_and_nonsense_is_no_image() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state.toml");
        assert_eq!(ImageState::read(&path), None);
        let said = "version = \"1.2\"\nslot = \"B\"\ngood = true\ncompatible = \"lineside-arm64\"\nfuture = 1\n\
                    tried_version = \"1.3\"\ntried_sha256 = \"00\"\noutcome = \"fell back: \\u001b[2J three boots\"\n";
        fs::write(&path, said).unwrap();
        let state = ImageState::read(&path).unwrap();
        assert_eq!((state.version.as_str(), state.good), ("1.2", true));
        let seen = state.seen();
        assert_eq!((seen.slot.as_str(), seen.outcome.as_str()), ("B", "fell back: [2J three boots"));
        for nonsense in ["version = \"a b\"\n", "version = 1\n", "<html>", &"#".repeat(20_000)] {
            fs::write(&path, nonsense).unwrap();
            assert_eq!(ImageState::read(&path), None, "{}", nonsense.len());
        }
    }

    #[test]
    fn an_image_is_installed_once_at_its_time_on_its_hardware_and_from_a_good_boot() {
        let new = image("1.3", b"new");
        assert_eq!(decide(None, &running("1.2"), NOON), InstallDecision::Nothing);
        assert_eq!(decide(Some(&new), &running("1.3"), NOON), InstallDecision::Nothing);
        assert_eq!(decide(Some(&new), &running("1.2"), NOON), InstallDecision::Install);
        let doubtful = ImageState { good: false, ..running("1.2") };
        assert_eq!(decide(Some(&new), &doubtful, NOON), InstallDecision::Wait);
        let night = BoardImage { window: Some((60, 240)), ..new.clone() };
        assert_eq!(decide(Some(&night), &running("1.2"), NOON), InstallDecision::Wait);
        assert_eq!(decide(Some(&night), &running("1.2"), UnixTime(NOON.0 - 9 * 3600)), InstallDecision::Install);

        let mut other = BoardImage { compatible: "lineside-amd64".to_owned(), ..new.clone() };
        other.approval.as_mut().unwrap().compatible = "lineside-amd64".to_owned();
        assert!(refusal(&other, &running("1.2")).contains("is for lineside-amd64, and this is lineside-arm64"));
        let fell = ImageState {
            tried_version: "1.3".to_owned(),
            tried_sha256: new.bundle.sha256.to_string(),
            outcome: "fell back: three boots were not good".to_owned(),
            ..running("1.2")
        };
        let InstallDecision::Refuse(why) = decide(Some(&new), &fell, NOON) else { panic!("tried again") };
        assert!(why.contains("three boots"), "{why}");
        // Another bundle is tried again.
        assert_eq!(decide(Some(&image("1.4", b"newer")), &fell, NOON), InstallDecision::Install);
    }

    fn refusal(image: &BoardImage, state: &ImageState) -> String {
        let InstallDecision::Refuse(why) = decide(Some(image), state, NOON) else { panic!("{image:?} is taken") };
        why
    }

    #[test]
    fn an_image_is_what_the_firmware_keys_signed_whatever_the_release_key_calls_it() {
        let unbound = BoardImage { approval: None, ..image("1.3", b"new") };
        assert!(refusal(&unbound, &running("1.2")).contains("not bound"));
        // An old image under a new version, and another board's.
        let old = BoardImage { version: "1.3".to_owned(), ..image("1.1", b"old") };
        assert!(refusal(&old, &running("1.2")).contains("signed it as 1.1 for lineside-arm64"));
        let mut other = image("1.3", b"new");
        other.approval.as_mut().unwrap().compatible = "lineside-amd64".to_owned();
        assert!(refusal(&other, &running("1.2")).contains("signed it as 1.3 for lineside-amd64"));
    }

    #[test]
    fn a_lower_image_is_refused_without_the_firmware_keys_allowance() {
        for (new, runs) in [("1.1", "1.2"), ("1.9", "1.10"), ("1.2-rc.1", "1.2"), ("1.2", "1.2.1")] {
            let mut lower = image(new, b"old");
            assert!(refusal(&lower, &running(runs)).contains("is lower than"), "{new} after {runs}");
            lower.approval.as_mut().unwrap().may_go_back = true;
            assert_eq!(decide(Some(&lower), &running(runs), NOON), InstallDecision::Install, "{new} after {runs}");
        }
        assert_eq!(decide(Some(&image("1.10", b"new")), &running("1.9"), NOON), InstallDecision::Install);
        for (new, runs) in [("2.0~rc1", "1.2"), ("1.3", "unknown")] {
            assert!(refusal(&image(new, b"new"), &running(runs)).contains("cannot be told"), "{new} after {runs}");
        }
    }

    #[test]
    fn a_slot_that_could_not_be_read_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state.toml");
        let text = "version = \"1.2\"\nslot = \"B\"\ngood = true\n";
        fs::write(&path, text).unwrap();
        assert_eq!(ImageState::read(&path).unwrap().damage(), None);
        fs::write(&path, format!("{text}unreadable = \"A\"\n")).unwrap();
        let damage = ImageState::read(&path).unwrap().damage().unwrap();
        assert!(damage.starts_with("slot A could not be read at the last start; 1.2 runs from slot B"), "{damage}");
    }

    struct FilesInMemory(Vec<u8>);

    impl Content for FilesInMemory {
        fn len(&self) -> u64 {
            self.0.len() as u64
        }

        fn chunk(&self, index: u64) -> Result<Arc<[u8]>, ContentError> {
            Ok(self.0.chunks(CHUNK_BYTES).nth(usize::try_from(index).unwrap()).unwrap().into())
        }
    }

    impl Files for FilesInMemory {
        fn open(&self, _: &Arc<FileEntry>) -> Result<Arc<dyn Content>, ContentError> {
            Ok(Arc::new(Self(self.0.clone())))
        }
    }

    #[test]
    fn the_installer_gets_the_whole_bundle_or_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join(FOLDER);
        let content: Vec<u8> = (0..CHUNK_BYTES * 2 + 77).map(|at| u8::try_from(at % 251).unwrap()).collect();
        let wanted = image("1.3", &content);
        let wrong = write(&FilesInMemory(content.iter().map(|byte| byte ^ 1).collect()), &wanted, &folder).unwrap_err();
        assert_eq!(wrong.to_string(), "it is not what the release says");
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 0);
        write(&FilesInMemory(content.clone()), &wanted, &folder).unwrap();
        assert_eq!(fs::read(folder.join(BUNDLE)).unwrap(), content);
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 1);

        // The allowance to go back is this bundle's alone.
        let mut lower = wanted;
        lower.approval.as_mut().unwrap().may_go_back = true;
        write(&FilesInMemory(content.clone()), &lower, &folder).unwrap();
        let allowance = fs::read_to_string(folder.join(MAY_GO_BACK)).unwrap();
        assert_eq!(allowance.trim(), Digest::of(&content).to_string());
        lower.approval = None;
        write(&FilesInMemory(content), &lower, &folder).unwrap();
        assert!(!folder.join(MAY_GO_BACK).exists());
    }
}
