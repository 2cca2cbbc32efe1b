#![allow(clippy::unwrap_used)]
use super::*;

#[test]
fn an_encrypted_key_opens_with_its_passphrase_and_is_not_in_the_file() {
    let dir = tempfile::tempdir().unwrap();
    let (path, plain) = (dir.path().join("a.key"), dir.path().join("b.key"));
    let passphrase = Passphrase::new("correct horse").unwrap();
    save(&path, KeyKind::Ed25519, &[7; 32], "what for", Some(&passphrase)).unwrap();
    save(&plain, KeyKind::Ed25519, &[7; 32], "what for", None).unwrap();
    let text = fs::read_to_string(&path).unwrap();
    assert!(text.starts_with("-----BEGIN AGE ENCRYPTED FILE-----"));
    assert!(!text.contains("0707") && !text.contains("lineside-ed25519"));
    assert_eq!(*passphrase::open_with(&passphrase, &text).unwrap().unwrap(), fs::read_to_string(&plain).unwrap());
    let other = Passphrase::new("battery staple").unwrap();
    assert!(passphrase::open_with(&other, &text).unwrap().is_none());
    let cut = &text[..text.len() / 2];
    assert!(passphrase::open_with(&passphrase, cut).is_err());
    assert!(!format!("{passphrase:?}").contains("horse"));
    assert!(Passphrase::new("short").unwrap_err().to_string().contains("at least 8"));
}

#[test]
fn a_plain_key_is_read_as_ever_and_another_kind_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.key");
    save(&path, KeyKind::X25519, &[7; 32], "what for", None).unwrap();
    assert_eq!(*load(&path, KeyKind::X25519).unwrap(), [7; 32]);
    assert!(load(&path, KeyKind::Ed25519).unwrap_err().to_string().contains("holds a lineside-x25519 key"));
    assert!(save(&path, KeyKind::X25519, &[8; 32], "", None).is_err(), "it must not be replaced");
    assert_eq!(files(dir.path()).unwrap(), [path]);
}

/// A file that is not ours, and a link to it under `name`.
fn plant(dir: &Path, name: &str) -> PathBuf {
    let victim = dir.join("victim");
    fs::write(&victim, "precious").unwrap();
    std::os::unix::fs::symlink(&victim, dir.join(name)).unwrap();
    victim
}

#[test]
fn public_keys_replace_what_has_their_name_and_follow_no_link() {
    for name in ["keys.pub", ".keys.pub.new"] {
        let dir = tempfile::tempdir().unwrap();
        let victim = plant(dir.path(), name);
        let path = dir.path().join("keys.pub");
        save_public(&path, &[[7; 32]], "what for").unwrap();
        assert_eq!(load_public(&path).unwrap(), [[7; 32]]);
        assert!(fs::symlink_metadata(&path).unwrap().is_file());
        assert_eq!(fs::read_to_string(victim).unwrap(), "precious");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2);
    }
}

#[test]
fn a_secret_key_is_private_and_never_written_through_a_link() {
    let dir = tempfile::tempdir().unwrap();
    let victim = plant(dir.path(), "a.key");
    save(&dir.path().join("a.key"), KeyKind::Ed25519, &[7; 32], "what for", None).unwrap_err();
    assert_eq!(fs::read_to_string(victim).unwrap(), "precious");
    save(&dir.path().join("b.key"), KeyKind::Ed25519, &[7; 32], "what for", None).unwrap();
    let mode = fs::metadata(dir.path().join("b.key")).unwrap().permissions();
    assert_eq!(std::os::unix::fs::PermissionsExt::mode(&mode) & 0o777, 0o600);
}
