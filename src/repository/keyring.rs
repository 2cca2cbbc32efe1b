//! Key files: one 32-byte secret each, as text with a comment that says what it is for, mode 0600; as they are, or
//! encrypted with a passphrase (the age format with scrypt, so that the age tools read them).

mod passphrase;

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, anyhow, bail};
use data_encoding::HEXLOWER;
use zeroize::Zeroizing;

use durable::{PRIVATE, SHARED};
use tuf::{PublicKey, SigningKey};

pub use passphrase::Passphrase;

/// What a key file holds; the first word of its line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// An Ed25519 seed: signs metadata of one role.
    Ed25519,
    /// An X25519 private key: opens manifests.
    X25519,
    /// The publisher's secret, which content keys are derived from.
    Publisher,
}

impl Kind {
    const fn word(self) -> &'static str {
        match self {
            Self::Ed25519 => "lineside-ed25519",
            Self::X25519 => "lineside-x25519",
            Self::Publisher => "lineside-publisher",
        }
    }
}

/// Writes a new key file, encrypted if there is a passphrase. Refuses to replace one: a key that is gone is gone.
pub fn save(
    path: &Path,
    kind: Kind,
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

/// The text of a key file, decrypted if it is encrypted.
pub fn read(path: &Path) -> anyhow::Result<Zeroizing<String>> {
    let text = fs::read_to_string(path).with_context(|| format!("cannot read key {}", path.display()))?;
    let text = Zeroizing::new(text);
    if passphrase::is_encrypted(&text) { passphrase::decrypt(path, &text) } else { Ok(text) }
}

/// Reads a key file of this kind.
pub fn load(path: &Path, kind: Kind) -> anyhow::Result<Zeroizing<[u8; 32]>> {
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

/// What a file with an online key says of itself.
pub const ONLINE: &str = "Keeps metadata fresh. It cannot change what sites get.";

/// Makes an Ed25519 key and its file. The comment gets the key's id as a further line.
pub fn create(path: &Path, comment: &str, passphrase: Option<&Passphrase>) -> anyhow::Result<SigningKey> {
    let key = SigningKey::generate();
    let comment = format!("{comment}\npublic id: {}", key.public().id().0);
    save(path, Kind::Ed25519, &key.seed(), &comment, passphrase)?;
    Ok(key)
}

/// Reads an Ed25519 key file.
pub fn load_signing(path: &Path) -> anyhow::Result<SigningKey> {
    Ok(SigningKey::from_seed(&*load(path, Kind::Ed25519)?))
}

/// Writes public keys, one in hex a line, below a comment.
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

/// Reads the public keys of a file.
pub fn load_public(path: &Path) -> anyhow::Result<Vec<[u8; 32]>> {
    let text = fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    text.lines()
        .map(str::trim)
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .map(|line| {
            let bytes = HEXLOWER.decode(line.as_bytes()).unwrap_or_default();
            <[u8; 32]>::try_from(bytes).map_err(|_| anyhow!("{}: a public key has 64 hex digits", path.display()))
        })
        .collect()
}

/// Reads the Ed25519 public keys of a file.
pub fn load_public_signing(path: &Path) -> anyhow::Result<Vec<PublicKey>> {
    load_public(path)?
        .iter()
        .map(|key| PublicKey::from_bytes(key).ok_or_else(|| anyhow!("{} holds a key that is none", path.display())))
        .collect()
}

/// The key files of a folder by name; none if there is no folder.
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
