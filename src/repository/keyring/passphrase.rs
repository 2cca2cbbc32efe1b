//! Passphrases of key files: from `LINESIDE_PASSPHRASE`, or asked for on the terminal without echo.

use std::path::Path;
use std::sync::{Mutex, PoisonError};

use age::DecryptError;
use age::secrecy::{ExposeSecret as _, SecretString};
use anyhow::{Context as _, anyhow, bail, ensure};
use zeroize::Zeroizing;

use telemetry::Hint as _;

/// The environment variable through which a program passes the passphrase.
const VARIABLE: &str = "LINESIDE_PASSPHRASE";
/// The least length of a passphrase for a new key, in characters.
const LEAST: usize = 8;
/// scrypt's cost N (RFC 7914) as a power of two: 128 MiB and about half a second for each key.
const WORK: u8 = if cfg!(test) { 10 } else { 17 };
/// The highest cost that is accepted when a file is read, eight times ours, so that a foreign file cannot use up the
/// memory.
const MOST_WORK: u8 = 20;
/// How an encrypted file begins.
const HEAD: &str = "-----BEGIN AGE ENCRYPTED FILE-----";

/// A passphrase of key files. `Debug` does not print it, and its memory is wiped on drop.
#[derive(Debug, Clone)]
pub struct Passphrase(SecretString);

/// The last passphrase that opened a file, so that the holder of several keys types it once.
static LAST: Mutex<Option<Passphrase>> = Mutex::new(None);

impl Passphrase {
    /// Takes a passphrase for new keys from the environment, or asks for it twice on the terminal.
    pub fn for_new_keys() -> anyhow::Result<Self> {
        let new = match from_environment() {
            Some(given) => given,
            None => {
                let first = ask("passphrase for the new keys: ")?;
                let again = ask("once more: ")?;
                ensure!(first.0.expose_secret() == again.0.expose_secret(), "the two are not the same");
                first
            }
        };
        new.checked()
    }

    /// Takes this text as a passphrase for new keys. Fails if it is too short.
    pub fn new(text: &str) -> anyhow::Result<Self> {
        Self(SecretString::from(text.to_owned())).checked()
    }

    fn checked(self) -> anyhow::Result<Self> {
        let length = self.0.expose_secret().chars().count();
        ensure!(length >= LEAST, "a passphrase has at least {LEAST} characters; this one has {length}");
        Ok(self)
    }

    pub(super) fn encrypt(&self, text: &str) -> anyhow::Result<String> {
        let mut recipient = age::scrypt::Recipient::new(self.0.clone());
        recipient.set_work_factor(WORK);
        age::encrypt_and_armor(&recipient, text.as_bytes()).map_err(|error| anyhow!("cannot encrypt the key: {error}"))
    }

    /// Decrypts an armored file; `None` if it was encrypted with another passphrase.
    fn decrypt(&self, text: &str) -> anyhow::Result<Option<Zeroizing<String>>> {
        let mut identity = age::scrypt::Identity::new(self.0.clone());
        identity.set_max_work_factor(MOST_WORK);
        match age::decrypt(&identity, text.as_bytes()) {
            Ok(clear) => {
                let clear = Zeroizing::new(clear);
                let text = std::str::from_utf8(&clear).context("it holds something that is not text")?;
                Ok(Some(Zeroizing::new(text.to_owned())))
            }
            Err(DecryptError::DecryptionFailed | DecryptError::KeyDecryptionFailed) => Ok(None),
            Err(error) => Err(anyhow!("it is damaged, or not encrypted with a passphrase: {error}")),
        }
    }
}

pub(super) fn is_encrypted(text: &str) -> bool {
    text.trim_start().starts_with(HEAD)
}

/// Decrypts the text of a key file with the last passphrase, then with that of the environment, then with one that the
/// holder types (three tries).
pub(super) fn decrypt(path: &Path, text: &str) -> anyhow::Result<Zeroizing<String>> {
    let name = path.display();
    let last = LAST.lock().unwrap_or_else(PoisonError::into_inner).clone();
    for passphrase in last.into_iter().chain(from_environment()) {
        if let Some(clear) = open_with(&passphrase, text).with_context(|| format!("cannot open {name}"))? {
            return Ok(clear);
        }
    }
    if from_environment().is_some() {
        bail!("the passphrase in {VARIABLE} does not open {name}");
    }
    for _ in 0..3 {
        let typed = ask(&format!("passphrase of {name}: "))?;
        if let Some(clear) = open_with(&typed, text).with_context(|| format!("cannot open {name}"))? {
            return Ok(clear);
        }
        eprintln!("that is not it");
    }
    bail!("no passphrase opened {name}")
}

pub(super) fn open_with(passphrase: &Passphrase, text: &str) -> anyhow::Result<Option<Zeroizing<String>>> {
    let clear = passphrase.decrypt(text)?;
    if clear.is_some() {
        *LAST.lock().unwrap_or_else(PoisonError::into_inner) = Some(passphrase.clone());
    }
    Ok(clear)
}

fn from_environment() -> Option<Passphrase> {
    let value = std::env::var(VARIABLE).ok().filter(|value| !value.is_empty())?;
    Some(Passphrase(SecretString::from(value)))
}

fn ask(prompt: &str) -> anyhow::Result<Passphrase> {
    let typed = rpassword::prompt_password(prompt)
        .context("cannot ask for a passphrase, as there is no terminal")
        .hint(format!("put it into the variable {VARIABLE}"))?;
    Ok(Passphrase(SecretString::from(typed)))
}
