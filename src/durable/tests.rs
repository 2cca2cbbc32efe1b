#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use std::os::unix::fs::{MetadataExt as _, symlink};
use std::sync::{Arc, Mutex};

use super::*;

/// Records all steps, by the names of the files; the step that `fails` names fails.
#[derive(Debug, Default)]
struct Recorder {
    steps: Mutex<Vec<String>>,
    fails: Option<&'static str>,
}

impl Recorder {
    fn disk(fails: Option<&'static str>) -> (Arc<Self>, Disk) {
        let recorder = Arc::new(Self { steps: Mutex::default(), fails });
        (Arc::clone(&recorder), Disk::hooked(recorder))
    }

    fn steps(&self) -> Vec<String> {
        self.steps.lock().unwrap().clone()
    }
}

impl Hook for Recorder {
    fn before(&self, op: &Op<'_>) -> io::Result<()> {
        let name = |path: &Path| path.file_name().unwrap().to_str().unwrap().to_owned();
        let step = match op {
            Op::CreateDir(path) => format!("create dir {}", name(path)),
            Op::CreateFile(path) => format!("create {}", name(path)),
            Op::Write { path, bytes, .. } => format!("write {} {}", bytes.len(), name(path)),
            Op::Truncate { path, bytes } => format!("cut {bytes} {}", name(path)),
            Op::SyncFile(path) => format!("sync {}", name(path)),
            Op::SyncDir(path) => format!("sync dir {}", name(path)),
            Op::SyncAll => "sync all".to_owned(),
            Op::Rename { from, to } => format!("rename {} {}", name(from), name(to)),
            Op::RemoveFile(path) => format!("remove {}", name(path)),
            Op::RemoveDir(path) => format!("remove dir {}", name(path)),
        };
        let refused = self.fails.is_some_and(|fails| step.starts_with(fails));
        self.steps.lock().unwrap().push(step);
        if refused { Err(io::Error::other("refused")) } else { Ok(()) }
    }
}

/// A folder called `home` in a temporary one, which is removed after the test.
fn home() -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let home = dir.path().join("home");
    fs::create_dir(&home).unwrap();
    (dir, home)
}

fn mode(path: &Path) -> u32 {
    fs::symlink_metadata(path).unwrap().mode() & 0o7777
}

fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<_> =
        fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// The umask of this process: the mode bits that every new file loses.
fn umask() -> u32 {
    let (_dir, home) = home();
    fs::write(home.join("probe"), b"").unwrap();
    SHARED & !mode(&home.join("probe"))
}

#[test]
fn replace_creates_writes_syncs_renames_and_syncs_the_folder_in_this_order() {
    let (_dir, home) = home();
    let (recorder, disk) = Recorder::disk(None);
    disk.replace(&home.join("f"), b"12345", PUBLIC).unwrap();
    assert_eq!(
        recorder.steps(),
        ["create .f.new", "write 5 .f.new", "sync .f.new", "rename .f.new f", "sync dir home"]
    );
    assert_eq!(disk.written(), 5);
}

#[test]
fn create_new_makes_the_file_and_its_name_durable() {
    let (_dir, home) = home();
    let (recorder, disk) = Recorder::disk(None);
    disk.create_new(&home.join("f"), b"12345", PRIVATE).unwrap();
    assert_eq!(recorder.steps(), ["create f", "write 5 f", "sync f", "sync dir home"]);
}

#[test]
fn files_have_the_bytes_and_the_mode_that_were_asked_for() {
    let (_dir, home) = home();
    for wanted in [PRIVATE, PUBLIC, SHARED, 0o640] {
        let (new, replaced, prepared) = (home.join("new"), home.join("replaced"), home.join("prepared"));
        create_new(&new, b"new", wanted).unwrap();
        replace(&replaced, b"older and longer", PUBLIC).unwrap();
        replace(&replaced, b"replaced", wanted).unwrap();
        rename(&prepare(&prepared, b"prepared", wanted).unwrap(), &prepared).unwrap();
        for path in [&new, &replaced, &prepared] {
            assert_eq!(fs::read_to_string(path).unwrap(), path.file_name().unwrap().to_str().unwrap());
            assert_eq!(mode(path), wanted & !umask(), "{} of mode {wanted:o}", path.display());
        }
        fs::remove_file(&new).unwrap();
    }
    assert_eq!(names(&home), ["prepared", "replaced"]);
}

#[test]
fn create_new_leaves_alone_what_is_there_and_follows_no_link() {
    let (_dir, home) = home();
    let (there, link) = (home.join("there"), home.join("link"));
    create_new(&there, b"old", PRIVATE).unwrap();
    symlink(home.join("nowhere"), &link).unwrap();
    for path in [&there, &link] {
        let error = create_new(path, b"new", PRIVATE).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AlreadyExists);
    }
    assert_eq!(fs::read(&there).unwrap(), b"old");
    assert!(!home.join("nowhere").exists());
    ensure(&there, PRIVATE).unwrap();
    assert_eq!(fs::read(&there).unwrap(), b"old");
}

#[test]
fn a_link_that_was_planted_under_the_temporary_name_is_not_followed() {
    let (_dir, home) = home();
    let (victim, path) = (home.join("victim"), home.join("f"));
    fs::write(&victim, b"precious").unwrap();
    fs::set_permissions(&victim, fs::Permissions::from_mode(0o640)).unwrap();
    let write_batch = |path: &Path| {
        let batch = Batch::below(&home);
        batch.write(path, b"new", PRIVATE).unwrap();
        batch.sync().unwrap();
    };
    let writers: [&dyn Fn(&Path); 3] = [
        &|path| replace(path, b"new", PRIVATE).unwrap(),
        &|path| rename(&prepare(path, b"new", PRIVATE).unwrap(), path).unwrap(),
        &write_batch,
    ];
    for write in writers {
        symlink(&victim, home.join(".f.new")).unwrap();
        write(&path);
        assert_eq!(fs::read(&path).unwrap(), b"new");
        assert!(fs::symlink_metadata(&path).unwrap().is_file());
        assert_eq!((fs::read(&victim).unwrap().as_slice(), mode(&victim)), (b"precious".as_slice(), 0o640));
        assert_eq!(names(&home), ["f", "victim"]);
    }
}

#[test]
fn a_link_under_the_name_itself_is_replaced_not_followed() {
    let (_dir, home) = home();
    let (victim, path) = (home.join("victim"), home.join("f"));
    fs::write(&victim, b"precious").unwrap();
    symlink(&victim, &path).unwrap();
    replace(&path, b"new", PRIVATE).unwrap();
    assert!(fs::symlink_metadata(&path).unwrap().is_file());
    assert_eq!(fs::read(&victim).unwrap(), b"precious");
}

#[test]
fn what_a_crash_left_is_replaced_and_its_mode_goes_with_it() {
    let (_dir, home) = home();
    let path = home.join("f");
    fs::write(home.join(".f.new"), b"half of something much longer").unwrap();
    fs::set_permissions(home.join(".f.new"), fs::Permissions::from_mode(0o666)).unwrap();
    let (recorder, disk) = Recorder::disk(None);
    disk.replace(&path, b"new", PRIVATE).unwrap();
    assert_eq!(recorder.steps()[..2], ["remove .f.new", "create .f.new"]);
    assert_eq!((fs::read(&path).unwrap().as_slice(), mode(&path)), (b"new".as_slice(), 0o600));
    assert_eq!(names(&home), ["f"]);
}

#[test]
fn what_was_planted_and_cannot_be_removed_stops_nobody() {
    let (_dir, home) = home();
    fs::create_dir(home.join(".f.new")).unwrap();
    fs::write(home.join(".f.new/inside"), b"").unwrap();
    for content in [b"one", b"two"] {
        replace(&home.join("f"), content, PRIVATE).unwrap();
        assert_eq!(fs::read(home.join("f")).unwrap(), content);
        assert_eq!(names(&home), [".f.new", "f"]);
    }
}

#[test]
fn a_step_that_fails_leaves_the_old_content_and_nothing_else() {
    for fails in ["create .f.new", "write", "sync .f.new", "rename"] {
        let (_dir, home) = home();
        let path = home.join("f");
        replace(&path, b"old", PUBLIC).unwrap();
        let (_, disk) = Recorder::disk(Some(fails));
        disk.replace(&path, b"new", PUBLIC).unwrap_err();
        assert_eq!(fs::read(&path).unwrap(), b"old", "{fails}");
        assert_eq!(names(&home), ["f"], "{fails}");
    }
}

#[test]
fn a_step_that_fails_leaves_no_new_file() {
    for fails in ["create", "write", "sync f", "sync dir"] {
        let (_dir, home) = home();
        let (_, disk) = Recorder::disk(Some(fails));
        disk.create_new(&home.join("f"), b"new", PRIVATE).unwrap_err();
        assert!(names(&home).is_empty(), "{fails}");
    }
}

#[test]
fn of_two_writers_at_once_the_one_that_lost_the_name_fails() {
    let (_dir, home) = home();
    let path = home.join("f");
    let mut first = aside(&path, PUBLIC).unwrap();
    first.append(b"first").unwrap();
    let mut second = aside(&path, PUBLIC).unwrap();
    second.append(b"sec").unwrap();
    first.put_in_place().unwrap_err();
    assert!(!path.exists());
    second.append(b"ond").unwrap();
    second.put_in_place().unwrap();
    assert_eq!(fs::read(&path).unwrap(), b"second");
    assert_eq!(names(&home), ["f"]);
}

#[test]
fn what_is_not_put_in_place_goes_away() {
    let (_dir, home) = home();
    let mut begun = aside(&home.join("f"), PUBLIC).unwrap();
    io::copy(&mut b"half".as_slice(), &mut begun).unwrap();
    assert_eq!(names(&home), [".f.new"]);
    drop(begun);
    assert!(names(&home).is_empty());
}

#[test]
fn a_path_without_a_name_is_refused() {
    for path in ["/", "..", ""] {
        assert_eq!(replace(Path::new(path), b"", PUBLIC).unwrap_err().kind(), io::ErrorKind::InvalidInput, "{path:?}");
    }
}

#[test]
fn new_folders_are_synced_into_those_above_them() {
    let (_dir, home) = home();
    let (recorder, disk) = Recorder::disk(None);
    disk.create_dirs(&home.join("a/b"), PRIVATE_DIR).unwrap();
    assert_eq!(recorder.steps(), ["create dir a", "create dir b", "sync dir home", "sync dir a"]);
    assert_eq!((mode(&home.join("a")), mode(&home.join("a/b"))), (0o700, 0o700));
    disk.create_dirs(&home.join("a/b"), PRIVATE_DIR).unwrap();
    assert_eq!(recorder.steps().len(), 4, "there is nothing to do");
    fs::write(home.join("file"), b"").unwrap();
    disk.create_dirs(&home.join("file"), PRIVATE_DIR).unwrap_err();
}

#[test]
fn a_rename_is_synced_where_the_file_was_and_where_it_is() {
    let (_dir, home) = home();
    create_dirs(&home.join("away"), PRIVATE_DIR).unwrap();
    create_new(&home.join("f"), b"key", PRIVATE).unwrap();
    let (recorder, disk) = Recorder::disk(None);
    rename_on(&disk, &home.join("f"), &home.join("away/g")).unwrap();
    assert_eq!(recorder.steps(), ["rename f g", "sync dir away", "sync dir home"]);
    assert_eq!(names(&home), ["away"]);
    assert_eq!(fs::read(home.join("away/g")).unwrap(), b"key");
}

#[test]
fn a_wiped_file_is_overwritten_synced_and_removed() {
    let (_dir, home) = home();
    let (path, other) = (home.join("token"), home.join("same file"));
    create_new(&path, b"secret", PRIVATE).unwrap();
    fs::hard_link(&path, &other).unwrap();
    let (recorder, disk) = Recorder::disk(None);
    disk.wipe(&path).unwrap();
    assert_eq!(recorder.steps(), ["write 6 token", "sync token", "remove token", "sync dir home"]);
    assert_eq!(fs::read(&other).unwrap(), b"######");
    assert_eq!(names(&home), ["same file"]);
    remove(&path).unwrap();
    remove(&home.join("no folder/f")).unwrap();
    assert_eq!(wipe(&path).unwrap_err().kind(), io::ErrorKind::NotFound);
}

#[test]
fn a_batch_syncs_few_files_one_by_one_and_the_folders_above_them_to_its_root() {
    let (_dir, home) = home();
    let (recorder, disk) = Recorder::disk(None);
    let root = home.join("root");
    let batch = Batch::on(disk, &root);
    batch.write(&root.join("a/one"), b"1", PUBLIC).unwrap();
    let aside = batch.prepare(&root.join("two"), b"2", PUBLIC).unwrap();
    assert_eq!(
        recorder.steps(),
        [
            "create dir root",
            "create dir a",
            "sync dir home",
            "create .one.new",
            "write 1 .one.new",
            "rename .one.new one",
            "create .two.new",
            "write 1 .two.new"
        ]
    );
    batch.sync().unwrap();
    let mut synced = recorder.steps().split_off(8);
    // Threads sync the files in any order.
    synced[..2].sort();
    assert_eq!(synced, ["sync .two.new", "sync one", "sync dir root", "sync dir a"]);

    batch.put_in_place(&aside, &root.join("two")).unwrap();
    batch.sync().unwrap();
    assert_eq!(recorder.steps().split_off(12), ["rename .two.new two", "sync two", "sync dir root"]);
    batch.sync().unwrap();
    assert_eq!(recorder.steps().len(), 15, "there is nothing left to do");
}

#[test]
fn a_batch_syncs_many_files_with_one_call() {
    let (_dir, home) = home();
    let (recorder, disk) = Recorder::disk(None);
    let batch = Batch::on(disk, &home);
    for number in 0..=batch::MAX_SINGLE_SYNCS {
        batch.write(&home.join(number.to_string()), b"x", PUBLIC).unwrap();
    }
    batch.sync().unwrap();
    let synced: Vec<String> = recorder.steps().into_iter().filter(|step| step.starts_with("sync")).collect();
    assert_eq!(synced, ["sync all"]);
}

#[test]
fn a_batch_that_cannot_sync_a_file_names_it() {
    let (_dir, home) = home();
    let (_, disk) = Recorder::disk(Some("sync f"));
    let batch = Batch::on(disk, &home);
    batch.write(&home.join("e"), b"x", PUBLIC).unwrap();
    batch.write(&home.join("f"), b"x", PUBLIC).unwrap();
    let error = batch.sync().unwrap_err().to_string();
    assert_eq!(error, format!("cannot sync {}: refused", home.join("f").display()));
}

#[test]
fn a_lock_file_is_made_once_and_never_through_a_link() {
    let (_dir, home) = home();
    let path = home.join("lock");
    let held = lock_file(&path).unwrap();
    held.lock().unwrap();
    assert_eq!(mode(&path), 0o600);
    assert!(lock_file(&path).unwrap().try_lock().is_err());
    symlink(home.join("elsewhere"), home.join("link")).unwrap();
    lock_file(&home.join("link")).unwrap_err();
    assert!(!home.join("elsewhere").exists());
}

#[test]
fn a_file_is_read_up_to_its_limit() {
    let (_dir, home) = home();
    let path = home.join("f");
    assert_eq!(read_limited(&path, 3).unwrap(), None);
    create_new(&path, b"abc", PRIVATE).unwrap();
    assert_eq!(read_limited(&path, 3).unwrap().unwrap(), b"abc");
    assert_eq!(read_limited(&path, 2).unwrap_err().kind(), io::ErrorKind::InvalidData);
}

#[test]
fn a_folder_is_kept_private() {
    let (_dir, home) = home();
    fs::set_permissions(&home, fs::Permissions::from_mode(0o755)).unwrap();
    keep_private(&home).unwrap();
    assert_eq!(mode(&home), 0o700);
}
