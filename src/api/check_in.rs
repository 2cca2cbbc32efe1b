//! Signed check-ins, format 2. `CHECK-IN.md` describes them byte by byte.
//!
//! What a site tells is a map of short texts, its *state* ([`StateMap`]). A page carries the difference between the state
//! that HQ has and a newer one, and a signed header ([`PageHeader`]) with the digest of the newer one. So one signature
//! proves a whole state, however many pages it took, and whoever keeps the state and the last header can prove it again.

pub mod report;

use std::collections::BTreeMap;

use data_encoding::BASE64URL_NOPAD;
use ring::rand::SystemRandom;
use ring::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _, UnparsedPublicKey,
};
use serde::{Deserialize, Serialize};

use super::MAX_BODY_BYTES;
use ids::{Digest, FleetId, Generation, SiteId, UnixTime};

/// `POST` a page of a signed check-in, with a valid client certificate. The answer is a [`CheckInAnswer`](super::CheckInAnswer)
/// whose text is an [`Acknowledgement`]. An HQ that does not know the path answers 404 or 405; a site then sends a
/// [`CheckIn`](super::CheckIn).
pub const SIGNED_CHECK_IN_PATH: &str = "/v2/check-in";
/// The media type of a page.
pub const PAGE_TYPE: &str = "application/vnd.lineside.check-in";
/// What the header of every page says it is, so that its signature can be mistaken for nothing else.
pub const PURPOSE: &str = "lineside check-in 2";
/// What an [`Acknowledgement`] says it is.
pub const ACKNOWLEDGEMENT_PURPOSE: &str = "lineside check-in 2 acknowledgement";
/// The longest key of a state, in bytes.
pub const MAX_KEY_BYTES: usize = 64;
/// The longest value of a state, in bytes.
pub const MAX_VALUE_BYTES: usize = 6 * 1024;
/// The most keys of a state: as many phones as a site remembers, and what it says of itself.
pub const MAX_KEYS: usize = 2_048 + 256;
/// The most bytes of all keys and values of a state.
pub const MAX_STATE_BYTES: usize = 4 * 1024 * 1024;

/// What a site tells of itself and its phones: values in JSON by key ([`report`] says which there are).
pub type StateMap = BTreeMap<String, String>;

/// The changes of a page: a new value for each key, or `None` for one that is gone.
pub type StateChanges = BTreeMap<String, Option<String>>;

/// The signed part of a page.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct PageHeader {
    /// Always [`PURPOSE`].
    pub purpose: String,
    /// The fleet of the site.
    pub fleet: FleetId,
    /// The site that tells.
    pub site: SiteId,
    /// The box that tells: 16 hex digits that it made at random once. Two boxes with one identity have two of them.
    #[serde(rename = "box")]
    pub box_id: String,
    /// Grows with every page that this box ever sends, over power cuts, too.
    pub counter: u64,
    /// The counter of the page whose state this one changes; 0 if it changes the empty state.
    pub base: u64,
    /// The generation that the site serves; 0 for none.
    pub generation: Generation,
    /// What the box's clock says.
    pub time: UnixTime,
    /// 16 random bytes in hex. HQ signs them in its answer, so that the answer cannot be an old one.
    pub nonce: String,
    /// [`digest`] of the state after this page.
    pub state: Digest,
    /// Whether the site has more to tell, in further pages.
    pub more: bool,
}

/// What HQ signs in its answer to a page.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Acknowledgement {
    /// Always [`ACKNOWLEDGEMENT_PURPOSE`].
    pub purpose: String,
    /// The site that HQ answers.
    pub site: SiteId,
    /// [`PageHeader::nonce`], unchanged.
    pub nonce: String,
    /// The time of HQ's clock.
    pub time: UnixTime,
    /// The newest generation published for the site.
    pub newest: Generation,
    /// What became of the page.
    pub verdict: PageVerdict,
    /// The counter of the last page that HQ took from this box; 0 for none.
    pub counter: u64,
    /// The digest of the state that HQ has of this box; that of the empty state if it has none.
    pub state: Digest,
}

/// What became of a page.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PageVerdict {
    /// HQ has the state that the page leads to.
    Taken,
    /// HQ has not the state that the page changes. The site tells all anew, or goes on from what HQ says it has.
    Resync,
    /// HQ has heard this counter from this box already, or a higher one. The box takes a new name.
    OldCounter,
}

/// Why a page is not one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PageError {
    /// It is too long, or not of the form of a page.
    #[error("this is no page of a check-in")]
    Malformed,
    /// A key, a value or the whole state is over its limit.
    #[error("the check-in is over its limits")]
    TooLarge,
    /// The signature is not the site's.
    #[error("the check-in is not signed by the key of this certificate")]
    Signature,
}

/// A page as it travels: the header's line, its signature, and a line for each change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    /// The header as it was read.
    pub header: PageHeader,
    /// The exact text that is signed: the header in JSON.
    pub signed: String,
    /// ECDSA on P-256 with SHA-256 over that text: r and s, 32 bytes each (RFC 7518 §3.4), in base64url.
    pub signature: String,
    /// What changes.
    pub changes: StateChanges,
}

impl Page {
    /// Signs a header and puts the changes behind it. `None` if the key cannot sign.
    pub fn sign(header: PageHeader, changes: StateChanges, key: &PageKey) -> Option<Self> {
        let signed = serde_json::to_string(&header).ok()?;
        let signature = key.sign(signed.as_bytes())?;
        Some(Self { header, signed, signature, changes })
    }

    /// The page in bytes.
    pub fn emit(&self) -> Vec<u8> {
        let mut text = format!("{}\n{}\n", self.signed, self.signature);
        for (key, value) in &self.changes {
            text.push_str(key);
            if let Some(value) = value {
                text.push(' ');
                text.push_str(value);
            }
            text.push('\n');
        }
        text.into_bytes()
    }

    /// Reads a page. Its signature is not verified yet.
    pub fn parse(bytes: &[u8]) -> Result<Self, PageError> {
        if bytes.len() > MAX_BODY_BYTES {
            return Err(PageError::TooLarge);
        }
        let text = std::str::from_utf8(bytes).map_err(|_| PageError::Malformed)?;
        let mut lines = text.strip_suffix('\n').ok_or(PageError::Malformed)?.split('\n');
        let (signed, signature) = (lines.next().unwrap_or_default(), lines.next().ok_or(PageError::Malformed)?);
        let header: PageHeader = serde_json::from_str(signed).map_err(|_| PageError::Malformed)?;
        let hex = |text: &str, bytes| {
            data_encoding::HEXLOWER.decode(text.as_bytes()).is_ok_and(|decoded: Vec<u8>| decoded.len() == bytes)
        };
        if header.purpose != PURPOSE || !hex(&header.box_id, 8) || !hex(&header.nonce, 16) || header.counter == 0 {
            return Err(PageError::Malformed);
        }
        let mut changes = StateChanges::new();
        for line in lines {
            let (key, value) = match line.split_once(' ') {
                Some((key, value)) => (key, Some(value.to_owned())),
                None => (line, None),
            };
            let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '-' | '/');
            if key.is_empty() || !key.chars().all(plain) {
                return Err(PageError::Malformed);
            }
            if key.len() > MAX_KEY_BYTES || value.as_ref().is_some_and(|value| value.len() > MAX_VALUE_BYTES) {
                return Err(PageError::TooLarge);
            }
            if changes.insert(key.to_owned(), value).is_some() {
                return Err(PageError::Malformed);
            }
        }
        Ok(Self { header, signed: signed.to_owned(), signature: signature.to_owned(), changes })
    }

    /// Whether the holder of this P-256 key (the uncompressed point of its certificate) signed the header.
    pub fn verify(&self, public_key: &[u8]) -> Result<(), PageError> {
        verify(&self.signed, &self.signature, public_key)
    }

    /// The state after this page, if it is the one that the header promises. `None` says that `base` is not the state that
    /// the page was made for.
    pub fn apply(&self, mut base: StateMap) -> Result<Option<StateMap>, PageError> {
        for (key, value) in &self.changes {
            match value {
                Some(value) => drop(base.insert(key.clone(), value.clone())),
                None => drop(base.remove(key)),
            }
        }
        if base.len() > MAX_KEYS
            || base.iter().map(|(key, value)| key.len() + value.len()).sum::<usize>() > MAX_STATE_BYTES
        {
            return Err(PageError::TooLarge);
        }
        Ok((digest(&base) == self.header.state).then_some(base))
    }
}

/// Whether `signature` is that of the header `signed` by this P-256 key. For whoever kept both.
pub fn verify(signed: &str, signature: &str, public_key: &[u8]) -> Result<(), PageError> {
    let signature = BASE64URL_NOPAD.decode(signature.as_bytes()).map_err(|_| PageError::Signature)?;
    UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, public_key)
        .verify(signed.as_bytes(), &signature)
        .map_err(|_| PageError::Signature)
}

/// The key that signs a site's pages: that of its client certificate.
pub struct PageKey(EcdsaKeyPair);

impl PageKey {
    /// The P-256 key in PKCS#8 (RFC 5958). `None` if it is no such key.
    pub fn from_pkcs8(der: &[u8]) -> Option<Self> {
        EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, der, &SystemRandom::new()).ok().map(Self)
    }

    /// The public key: the uncompressed point (SEC 1 §2.3.3).
    pub fn public(&self) -> &[u8] {
        self.0.public_key().as_ref()
    }

    fn sign(&self, text: &[u8]) -> Option<String> {
        let signature = self.0.sign(&SystemRandom::new(), text).ok()?;
        Some(BASE64URL_NOPAD.encode(signature.as_ref()))
    }
}

impl std::fmt::Debug for PageKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("PageKey(..)")
    }
}

/// The digest of a state: SHA-256 over a line `KEY SP SHA-256-of-the-value LF` for each key, in the keys' byte order.
pub fn digest(state: &StateMap) -> Digest {
    digest_of(state.iter().map(|(key, value)| (key.as_str(), Digest::of(value.as_bytes()))))
}

/// [`digest`] from keys in their order and the digests of their values.
pub fn digest_of<'a>(values: impl Iterator<Item = (&'a str, Digest)>) -> Digest {
    use sha2::Digest as _;
    let mut hash = sha2::Sha256::new();
    for (key, value) in values {
        hash.update(key.as_bytes());
        hash.update(b" ");
        hash.update(value.to_string().as_bytes());
        hash.update(b"\n");
    }
    Digest::from_bytes(hash.finalize().into())
}

#[cfg(test)]
mod tests;
