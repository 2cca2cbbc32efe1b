//! Key files. Each is text with one 32-byte secret and a comment that says what the key is for, mode 0600. It may be
//! encrypted with a passphrase, in the age format with scrypt, so that the age tools read it.

mod passphrase;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, anyhow, bail};
use data_encoding::HEXLOWER;
use zeroize::Zeroizing;

use durable::{PRIVATE, SHARED};
use tuf::{PublicKey, SigningKey};

pub use passphrase::Passphrase;

/// What a key file holds. The first word of its line says it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyKind {
    /// An Ed25519 seed, which signs metadata of one role.
    Ed25519,
    /// An X25519 private key, which opens sealed manifests.
    X25519,
    /// The publisher's secret, from which content keys are derived.
    Publisher,
}

impl KeyKind {
    const fn word(self) -> &'static str {
        match self {
            Self::Ed25519 => "lineside-ed25519",
            Self::X25519 => "lineside-x25519",
            Self::Publisher => "lineside-publisher",
        }
    }
}

/// Writes a new key file, encrypted if there is a passphrase. Refuses to replace a file, because a lost key cannot be
/// made again.
pub fn save(
    path: &Path,
    kind: KeyKind,
    secret: &[u8; 32],
    comment: &str,
    passphrase: Option<&Passphrase>,
) -> anyhow::Result<()> {
    let mut text = Zeroizing::new(String::new());
    for line in comment.lines() {
        text.push_str(&format!("# {line}\n"));
    }
    text.push_str(&format!("{} {}\n", kind.word(), *Zeroizing::new(HEXLOWER.encode(secret))));
    write(path, &text, passphrase)
}

/// Writes the text of a new key file, mode 0600, encrypted if there is a passphrase.
pub fn write(path: &Path, text: &str, passphrase: Option<&Passphrase>) -> anyhow::Result<()> {
    let sealed;
    let text = match passphrase {
        Some(passphrase) => {
            sealed = passphrase.encrypt(text)?;
            &sealed
        }
        None => text,
    };
    durable::create_new(path, text.as_bytes(), PRIVATE)
        .with_context(|| format!("cannot create key file {}", path.display()))
}

/// Reads the text of a key file, and decrypts it if it is encrypted.
pub fn read(path: &Path) -> anyhow::Result<Zeroizing<String>> {
    let text = fs::read_to_string(path).with_context(|| format!("cannot read key {}", path.display()))?;
    let text = Zeroizing::new(text);
    if passphrase::is_encrypted(&text) { passphrase::decrypt(path, &text) } else { Ok(text) }
}

/// Reads the secret of a key file. Fails if the file holds a key of another kind.
pub fn load(path: &Path, kind: KeyKind) -> anyhow::Result<Zeroizing<[u8; 32]>> {
    let text = read(path)?;
    let line = text
        .lines()
        .map(str::trim)
        .find(|line| !line.is_empty() && !line.starts_with('#'))
        .ok_or_else(|| anyhow!("key file {} is empty", path.display()))?;
    let Some((word, hex)) = line.split_once(' ') else { bail!("{} is not a key file", path.display()) };
    if word != kind.word() {
        bail!("{} holds a {word} key, but a {} key is needed", path.display(), kind.word());
    }
    let bytes = Zeroizing::new(HEXLOWER.decode(hex.trim().as_bytes()).unwrap_or_default());
    let secret: [u8; 32] = bytes
        .as_slice()
        .try_into()
        .map_err(|_| anyhow!("{} is damaged: the key is not 64 hex digits", path.display()))?;
    Ok(Zeroizing::new(secret))
}

/// Whether a line is that of a key file that holds the secret.
pub fn is_secret(line: &str) -> bool {
    let kinds = [KeyKind::Ed25519, KeyKind::X25519, KeyKind::Publisher];
    let secret = kinds.iter().find_map(|kind| line.strip_prefix(kind.word())?.strip_prefix(' '));
    secret.is_some_and(|hex| hex.trim().len() == 64 && hex.trim().bytes().all(|byte| byte.is_ascii_hexdigit()))
}

/// The largest file of public keys, in bytes.
const MAX_PUBLIC_BYTES: u64 = 64 * 1024;

/// The comment in the file of an online key.
pub const ONLINE: &str = "Keeps metadata fresh. It cannot change what sites get.";

/// Makes an Ed25519 key and writes its file. The key's id is added to the comment as a further line.
pub fn create(path: &Path, comment: &str, passphrase: Option<&Passphrase>) -> anyhow::Result<SigningKey> {
    let key = SigningKey::generate();
    let comment = format!("{comment}\npublic id: {}", key.public().id().0);
    save(path, KeyKind::Ed25519, &key.seed(), &comment, passphrase)?;
    Ok(key)
}

/// Reads the signing key of an Ed25519 key file.
pub fn load_signing(path: &Path) -> anyhow::Result<SigningKey> {
    Ok(SigningKey::from_seed(&*load(path, KeyKind::Ed25519)?))
}

/// Writes public keys below a comment, each in hex on its own line.
pub fn save_public(path: &Path, keys: &[[u8; 32]], comment: &str) -> anyhow::Result<()> {
    let mut text = String::new();
    for line in comment.lines() {
        text.push_str(&format!("# {line}\n"));
    }
    for key in keys {
        text.push_str(&format!("{}\n", HEXLOWER.encode(key)));
    }
    durable::replace(path, text.as_bytes(), SHARED).with_context(|| format!("cannot write {}", path.display()))
}

/// Reads a file that [`save_public`] wrote, in its order.
pub fn load_public(path: &Path) -> anyhow::Result<Vec<[u8; 32]>> {
    let text = durable::read_regular(path, MAX_PUBLIC_BYTES)
        .and_then(|bytes| String::from_utf8(bytes).map_err(io::Error::other))
        .with_context(|| format!("cannot read {}", path.display()))?;
    text.lines()
        .map(str::trim)
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .map(|line| {
            let bytes = HEXLOWER.decode(line.as_bytes()).unwrap_or_default();
            <[u8; 32]>::try_from(bytes).map_err(|_| anyhow!("{}: a public key has 64 hex digits", path.display()))
        })
        .collect()
}

/// Reads a file that [`save_public`] wrote and checks that each of its keys is an Ed25519 public key.
pub fn load_public_signing(path: &Path) -> anyhow::Result<Vec<PublicKey>> {
    load_public(path)?
        .iter()
        .map(|key| PublicKey::from_bytes(key).ok_or_else(|| anyhow!("{} holds a key that is none", path.display())))
        .collect()
}

/// The `*.key` files of a folder in the order of their names; empty if there is no such folder.
pub fn files(folder: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let listing = match fs::read_dir(folder) {
        Ok(listing) => listing,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error).with_context(|| format!("cannot read {}", folder.display())),
    };
    let mut found = Vec::new();
    for entry in listing {
        let path = entry.with_context(|| format!("cannot read {}", folder.display()))?.path();
        if path.extension().is_some_and(|extension| extension == "key") {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

#[cfg(test)]
mod tests;
