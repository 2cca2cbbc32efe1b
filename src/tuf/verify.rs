//! One metadata file and the keys that may sign it. Only [`VerifiedMetadata::open`] and [`VerifiedMetadata::open_root`] make
//! a [`VerifiedMetadata`].

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use data_encoding::HEXLOWER_PERMISSIVE;
use serde_json::Value;

use super::error::TrustError;
use super::key::{KeyId, ListedKey, PublicKey};
use super::metadata::{Metadata, read};
use super::schema::{DelegatedRole, Delegations, Hashes, MetaFile, Root, Signature};
use super::{canonical, json};
use ids::UnixTime;

/// Who may sign a role: its usable keys, and how many of them must.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Authority {
    keys: BTreeMap<KeyId, ListedKey>,
    threshold: u32,
}

impl Authority {
    fn new(keys: &BTreeMap<KeyId, Value>, keyids: &[KeyId], threshold: u32) -> Self {
        // An id that is listed twice is one key; keys that we cannot use are not there.
        let usable = keyids.iter().filter_map(|id| Some((id.clone(), ListedKey::from_json(id, keys.get(id)?)?)));
        Self { keys: usable.collect(), threshold }
    }

    /// An authority under which nothing holds.
    pub(super) const fn nobody() -> Self {
        Self { keys: BTreeMap::new(), threshold: u32::MAX }
    }

    /// Who may sign a top-level role, as `root` says.
    pub(super) fn of_root(root: &Root, role: &str) -> Self {
        // `Metadata::check` saw that every top-level role is there. Nobody can sign one that is not.
        root.roles.get(role).map_or_else(Self::nobody, |of| Self::new(&root.keys, &of.keyids, of.threshold))
    }

    /// Who may sign a delegated role, as its delegator says.
    pub(super) fn of_delegation(delegations: &Delegations, role: &DelegatedRole) -> Self {
        Self::new(&delegations.keys, &role.keyids, role.threshold)
    }

    /// Whether a key of this authority is not one of `newer` any more.
    pub(super) fn loses_a_key_in(&self, newer: &Self) -> bool {
        self.keys.keys().any(|id| !newer.keys.contains_key(id))
    }
}

/// A metadata file whose signatures were verified, with its bytes as they came.
pub(super) struct VerifiedMetadata<T> {
    pub(super) bytes: Vec<u8>,
    pub(super) doc: T,
    authority: Authority,
    /// Hashes of `bytes`, calculated once.
    hashes: Hashes,
}

impl VerifiedMetadata<Root> {
    /// A root, if the keys that it lists itself signed it and, where there is an older root, the keys of that one too
    /// (§5.3.4).
    pub(super) fn open_root(bytes: &[u8], older: Option<&Authority>) -> Result<Self, TrustError> {
        let file = Parsed::new("root", bytes)?;
        if let Some(older) = older {
            file.verify("root", older)?;
        }
        let doc: Root = read(file.signed.clone()).map_err(|what| malformed("root", what))?;
        let authority = Authority::of_root(&doc, "root");
        file.verify("root", &authority)?;
        Ok(Self::new(bytes, doc, authority))
    }
}

impl<T: Metadata> VerifiedMetadata<T> {
    /// The file, if enough keys of `authority` signed it and its content is what §4 says. What its version and expiry
    /// have to be is for the caller to know.
    pub(super) fn open(role: &str, bytes: &[u8], authority: &Authority) -> Result<Self, TrustError> {
        let file = Parsed::new(role, bytes)?;
        file.verify(role, authority)?;
        let doc = read(file.signed).map_err(|what| malformed(role, what))?;
        Ok(Self::new(bytes, doc, authority.clone()))
    }

    fn new(bytes: &[u8], doc: T, authority: Authority) -> Self {
        Self { bytes: bytes.to_vec(), hashes: Hashes::of(bytes), doc, authority }
    }

    /// Whether this authority signed the file too. The same keys are not asked twice about the same bytes.
    pub(super) fn check_under(&self, role: &str, authority: &Authority) -> Result<(), TrustError> {
        if self.authority == *authority {
            return Ok(());
        }
        Parsed::new(role, &self.bytes)?.verify(role, authority)
    }

    /// Whether this is the file that `meta` describes.
    pub(super) fn is(&self, meta: &MetaFile) -> bool {
        if self.version() != meta.version {
            return false;
        }
        // The usual case needs no hashing: lookups come here often.
        let same_length = meta.length.is_none_or(|length| u64::try_from(self.bytes.len()) == Ok(length));
        match &meta.hashes {
            Some(hashes) if *hashes == self.hashes => same_length,
            _ => meta.match_bytes(&self.bytes),
        }
    }

    pub(super) fn version(&self) -> u64 {
        self.doc.head().version
    }

    pub(super) fn expires(&self) -> UnixTime {
        self.doc.head().expires
    }

    /// The freeze check of each role (§5.3.10, §5.4.4, §5.5.6, §5.6.5): the expiry must be higher than the time.
    pub(super) fn check_expiry(&self, role: &str, now: UnixTime) -> Result<(), TrustError> {
        let expires = self.expires();
        if expires > now { Ok(()) } else { Err(TrustError::Expired { role: role.into(), expires }) }
    }
}

impl<T: Metadata> fmt::Debug for VerifiedMetadata<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} version {}", T::KIND, self.version())
    }
}

/// A metadata file before it is trusted.
struct Parsed {
    signatures: Vec<Signature>,
    signed: Value,
    /// What is signed: the canonical form of `signed` as it came, unknown fields included (§4).
    message: Vec<u8>,
}

impl Parsed {
    fn new(role: &str, bytes: &[u8]) -> Result<Self, TrustError> {
        let mut file = json::parse(bytes).map_err(|what| malformed(role, what))?;
        let mut part = |name: &str| {
            let part = file.as_object_mut().and_then(|file| file.remove(name));
            part.ok_or_else(|| malformed(role, format!("it has no `{name}`")))
        };
        let signed = part("signed")?;
        let signatures: Vec<Signature> =
            serde_json::from_value(part("signatures")?).map_err(|error| malformed(role, json::short(&error)))?;
        // §4.2.1: several signatures with one key id are not allowed.
        let mut ids = BTreeSet::new();
        if !signatures.iter().all(|signature| ids.insert(&signature.keyid)) {
            return Err(malformed(role, "it has two signatures with one key id".into()));
        }
        let message = canonical::bytes(&signed).map_err(|error| malformed(role, error.to_string()))?;
        Ok(Self { signatures, signed, message })
    }

    fn is_signed_by(&self, key: &PublicKey) -> bool {
        let id = key.id();
        self.signatures.iter().filter(|signature| signature.keyid == id).any(|signature| {
            let bytes = HEXLOWER_PERMISSIVE.decode(signature.sig.as_bytes());
            bytes.is_ok_and(|bytes| key.verifies(&self.message, &bytes))
        })
    }

    /// The threshold (§5.3.4): each key counts once, even under two ids. A signature that does not hold does not count.
    fn verify(&self, role: &str, authority: &Authority) -> Result<(), TrustError> {
        let mut held = BTreeSet::new();
        for signature in &self.signatures {
            let Some(key) = authority.keys.get(&signature.keyid) else { continue };
            let Ok(bytes) = HEXLOWER_PERMISSIVE.decode(signature.sig.as_bytes()) else { continue };
            if key.verifies(&self.message, &bytes) {
                held.insert(key.material());
            }
        }
        let valid = u32::try_from(held.len()).unwrap_or(u32::MAX);
        if valid >= authority.threshold {
            Ok(())
        } else {
            Err(TrustError::Untrusted { role: role.into(), valid, threshold: authority.threshold })
        }
    }
}

/// Which of these keys signed a metadata file.
pub(super) fn signers(bytes: &[u8], keys: &[PublicKey]) -> Result<BTreeSet<KeyId>, TrustError> {
    let file = Parsed::new("metadata", bytes)?;
    Ok(keys.iter().filter(|key| file.is_signed_by(key)).map(PublicKey::id).collect())
}

pub(super) fn malformed(role: &str, what: String) -> TrustError {
    TrustError::Malformed { role: role.into(), what }
}
