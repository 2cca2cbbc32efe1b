//! This appliance's own keys on its card.
//!
//! Where the board has a TPM, systemd hands us a key that only this board can unseal (`systemd/seal`), as the credential
//! `lineside.identity`, and what is secret in the identity is encrypted under it: a card without its board opens
//! nothing. Where there is none, the files are plain and mode 0600. `src/THREATS.md` says what a thief has in each case.

use std::fs;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use zeroize::Zeroizing;

/// The credential's name, and that of its file in `$CREDENTIALS_DIRECTORY`.
const CREDENTIAL: &str = "lineside.identity";
/// How an encrypted file begins; then the nonce, then ChaCha20-Poly1305 (RFC 8439) with the file's name as associated data.
const MAGIC: &[u8] = b"LSREST1\n";
/// A key's length in bytes.
const KEY_BYTES: usize = 32;

/// Why a key file cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum AtRestError {
    /// The file was encrypted on a board whose TPM had the key.
    #[error("it is encrypted for the board that it was made on, and no key to it is here; enrol this appliance anew")]
    NoKey,
    /// The file does not open: the key is another one, or the file was changed.
    #[error("it does not open with this board's key; enrol this appliance anew")]
    WrongKey,
    /// The credential is not a key.
    #[error("the credential {CREDENTIAL} is no key of {KEY_BYTES} bytes")]
    NotAKey,
    /// The credential cannot be read.
    #[error("the credential {CREDENTIAL} cannot be read: {0}")]
    Io(#[from] io::Error),
}

/// Whether a file on the card is encrypted.
pub fn is_encrypted(bytes: &[u8]) -> bool {
    bytes.starts_with(MAGIC)
}

/// The key to the identity's secret files; without one they are plain.
pub struct AtRestKey(Option<LessSafeKey>);

impl AtRestKey {
    /// The key that systemd handed to this process, if it handed over one.
    ///
    /// # Errors
    ///
    /// If the credential is there and is no key: nothing must be written in clear by mistake.
    pub fn of_process() -> Result<Self, AtRestError> {
        match std::env::var_os("CREDENTIALS_DIRECTORY") {
            Some(dir) => Self::in_dir(&PathBuf::from(dir)),
            None => Ok(Self(None)),
        }
    }

    fn in_dir(dir: &Path) -> Result<Self, AtRestError> {
        let file = match fs::File::open(dir.join(CREDENTIAL)) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Self(None)),
            Err(error) => return Err(error.into()),
        };
        let mut bytes = Zeroizing::new(Vec::with_capacity(KEY_BYTES + 1));
        file.take(KEY_BYTES as u64 + 1).read_to_end(&mut bytes)?;
        let key = UnboundKey::new(&CHACHA20_POLY1305, &bytes).map_err(|_| AtRestError::NotAKey)?;
        Ok(Self(Some(LessSafeKey::new(key))))
    }

    /// The bytes that go on the card for `clear`, in a file of this name.
    ///
    /// # Errors
    ///
    /// If the system has no randomness.
    pub fn wrap(&self, name: &str, clear: &[u8]) -> Result<Zeroizing<Vec<u8>>, AtRestError> {
        let Some(key) = &self.0 else { return Ok(Zeroizing::new(clear.to_vec())) };
        let mut nonce = [0; NONCE_LEN];
        getrandom::fill(&mut nonce).map_err(|error| AtRestError::Io(io::Error::other(error)))?;
        let mut body = Zeroizing::new(clear.to_vec());
        let sealed = key.seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), Aad::from(name), &mut *body);
        sealed.map_err(|_| AtRestError::WrongKey)?;
        Ok(Zeroizing::new([MAGIC, &nonce, &body].concat()))
    }

    /// The clear text of a file of this name. A plain file is returned as it is: it was written before there was a key,
    /// so it has been on the card in clear. Only a new enrolment mends that.
    ///
    /// # Errors
    ///
    /// If the file is encrypted and does not open.
    pub fn unwrap(&self, name: &str, bytes: Vec<u8>) -> Result<Vec<u8>, AtRestError> {
        let Some((nonce, body)) = bytes.strip_prefix(MAGIC).map(|rest| rest.split_at(NONCE_LEN.min(rest.len()))) else {
            return Ok(bytes);
        };
        let key = self.0.as_ref().ok_or(AtRestError::NoKey)?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).map_err(|_| AtRestError::WrongKey)?;
        let mut body = body.to_vec();
        let clear = key.open_in_place(nonce, Aad::from(name), &mut body).map_err(|_| AtRestError::WrongKey)?.len();
        body.truncate(clear);
        Ok(body)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]
    use super::*;

    fn board(byte: u8) -> AtRestKey {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join(CREDENTIAL), [byte; KEY_BYTES]).unwrap();
        AtRestKey::in_dir(dir.path()).unwrap()
    }

    #[test]
    fn a_card_without_its_board_opens_nothing() {
        let here = board(1);
        let on_card = here.wrap("tls.key", b"secret").unwrap().to_vec();
        assert!(is_encrypted(&on_card));
        assert!(!on_card.windows(6).any(|window| window == b"secret"));
        assert_eq!(here.unwrap("tls.key", on_card.clone()).unwrap(), b"secret");
        assert!(matches!(AtRestKey(None).unwrap("tls.key", on_card.clone()), Err(AtRestError::NoKey)));
        assert!(matches!(board(2).unwrap("tls.key", on_card.clone()), Err(AtRestError::WrongKey)));
        assert!(matches!(here.unwrap("recipient.key", on_card.clone()), Err(AtRestError::WrongKey)));
        for at in MAGIC.len()..on_card.len() {
            let mut changed = on_card.clone();
            changed[at] ^= 1;
            assert!(here.unwrap("tls.key", changed).is_err(), "{at}");
            assert!(here.unwrap("tls.key", on_card[..at].to_vec()).is_err(), "{at}");
        }
    }

    #[test]
    fn without_a_tpm_files_are_plain_and_stay_readable_when_one_comes() {
        let plain = AtRestKey(None).wrap("tls.key", b"secret").unwrap().to_vec();
        assert_eq!(plain, b"secret");
        assert!(!is_encrypted(&plain));
        assert_eq!(board(1).unwrap("tls.key", plain).unwrap(), b"secret");
    }

    #[test]
    fn a_credential_that_is_no_key_writes_nothing_in_clear() {
        let dir = tempfile::tempdir().unwrap();
        assert!(AtRestKey::in_dir(dir.path()).unwrap().0.is_none());
        for wrong in [0, 31, 33, 4096] {
            fs::write(dir.path().join(CREDENTIAL), vec![1; wrong]).unwrap();
            assert!(matches!(AtRestKey::in_dir(dir.path()), Err(AtRestError::NotAKey)), "{wrong}");
        }
    }
}
