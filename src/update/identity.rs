//! Who this appliance is: its keys, its certificate, and where HQ is. All are files in the store's `identity/`, mode
//! 0600; [`super::at_rest`] keeps the secret ones.
//!
//! `site.toml` is written last, so an identity is whole or it is not there.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use data_encoding::HEXLOWER;
use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem::PemObject as _;
use serde::{Deserialize, Serialize};
use x509_parser::prelude::{FromDer as _, GeneralName, X509Certificate};
use zeroize::Zeroizing;

use super::at_rest::{AtRestError, AtRestKey, is_encrypted};
use super::release;
use super::tls::{self, ClientAuth};
use api::check_in::PageKey;
use api::{parse_site_uri, site_uri};
use bundle::RecipientSecret;
use ids::{Digest, FleetId, SiteId, UnixTime};
use store::{Store, StoreError};

const TLS_KEY: &str = "tls.key";
/// A TLS key that waits for its certificate.
const NEXT_TLS_KEY: &str = "tls-next.key";
const TLS_CERTIFICATE: &str = "tls.crt";
const RECIPIENT_KEY: &str = "recipient.key";
/// The sealing keys before that one, as long as a release on the card needs them.
const OLDER_RECIPIENT_KEYS: &str = "recipient-older.key";
/// A sealing key that waits for a release under it.
const NEXT_RECIPIENT_KEY: &str = "recipient-next.key";
const SITE: &str = "site.toml";
/// The file of [`super::enrolment_journal`].
pub(super) const JOURNAL: &str = "enrolling.toml";
/// The files that are encrypted where the board can keep a key to them.
const SECRET: [&str; 6] = [TLS_KEY, NEXT_TLS_KEY, RECIPIENT_KEY, OLDER_RECIPIENT_KEYS, NEXT_RECIPIENT_KEY, JOURNAL];
/// No identity file is larger, in bytes; the journal holds a root.
const MAX_FILE_BYTES: u64 = 256 * 1024;
/// The first word of a key file's line, as in HQ's own key files.
const RECIPIENT_WORD: &str = "lineside-x25519";

/// What enrolment settled, in `site.toml`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct EnrolledSite {
    /// Where HQ is: `https://host[:port]`, no slash at the end.
    pub hq: String,
    /// Where the published tree is. HQ serves it itself unless another host does.
    pub repository: String,
    /// The fleet whose HQ enrolled this appliance.
    pub fleet: FleetId,
    /// The site that this appliance became; its certificate names the same.
    pub site: SiteId,
    /// SHA-256 of the root that enrolment pinned.
    pub root_sha256: Digest,
}

/// One appliance's identity. `Debug` shows no key.
#[derive(Clone)]
pub struct SiteIdentity {
    site: EnrolledSite,
    tls_key: Arc<Zeroizing<String>>,
    certificate: String,
    valid: (UnixTime, UnixTime),
    recipient: RecipientSecret,
    older_recipients: Vec<RecipientSecret>,
    next_recipient: Option<RecipientSecret>,
    encrypted_at_rest: bool,
}

/// Why there is no usable identity.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// A file cannot be read.
    #[error("cannot read {path}: {source}")]
    Read {
        /// The file below `identity/` in the state directory.
        path: PathBuf,
        /// What the operating system said.
        source: std::io::Error,
    },
    /// A file is not what it should be.
    #[error("{file} is damaged: {why}")]
    Damaged {
        /// Its name in `identity/`.
        file: &'static str,
        /// What is wrong with it.
        why: String,
    },
    /// The certificate is not ours.
    #[error(transparent)]
    Certificate(#[from] CertificateError),
    /// The disk refused.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Why a certificate that HQ issued is not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CertificateError {
    /// It is no certificate.
    #[error("HQ's answer holds no certificate: {0}")]
    Malformed(String),
    /// It is for another key than ours.
    #[error("the certificate is for another key")]
    OtherKey,
    /// It is for another site than ours.
    #[error("the certificate names `{0}`, not this site")]
    OtherSite(String),
}

impl SiteIdentity {
    /// The identity on disk; `None` before enrolment.
    pub(super) fn read(store: &Store) -> Result<Option<Self>, IdentityError> {
        let dir = store.identity_dir();
        let Some(site) = read(&dir, SITE)? else { return Ok(None) };
        let site: EnrolledSite = toml::from_str(&site).map_err(|error| damaged(SITE, error.message()))?;
        let file = |name| read(&dir, name)?.ok_or_else(|| damaged(name, "it is missing"));
        let (tls_key, certificate, recipient) = (file(TLS_KEY)?, file(TLS_CERTIFICATE)?, file(RECIPIENT_KEY)?);
        let recipient = parse_recipients(&recipient).into_iter().next();
        let recipient = recipient.ok_or_else(|| damaged(RECIPIENT_KEY, "it holds no key"))?;
        let made = Self::new(site.clone(), tls_key, certificate.to_string(), recipient.clone());
        let mut identity = match (made, read(&dir, NEXT_TLS_KEY)?.filter(|key| !key.is_empty())) {
            // The power went between the certificate and its key.
            (Err(IdentityError::Certificate(CertificateError::OtherKey)), Some(next)) => {
                let identity = Self::new(site, next, certificate.to_string(), recipient)?;
                identity.save_tls_key(store)?;
                identity
            }
            (made, _) => made?,
        };
        identity.older_recipients = beside(&dir, OLDER_RECIPIENT_KEYS);
        identity.next_recipient = next_recipient(&dir).filter(|next| *next != identity.recipient);
        let encrypted = |name| std::fs::read(dir.join(name)).is_ok_and(|bytes| is_encrypted(&bytes));
        identity.encrypted_at_rest = encrypted(TLS_KEY) && encrypted(RECIPIENT_KEY);
        Ok(Some(identity))
    }

    /// An identity of checked parts: key and certificate belong together and name this site.
    pub fn new(
        site: EnrolledSite,
        tls_key: Zeroizing<String>,
        certificate: String,
        recipient: RecipientSecret,
    ) -> Result<Self, IdentityError> {
        let valid = check_certificate(&certificate, &tls_key, &site.fleet, &site.site)?;
        Ok(Self {
            site,
            tls_key: Arc::new(tls_key),
            certificate,
            valid,
            recipient,
            older_recipients: Vec::new(),
            next_recipient: None,
            encrypted_at_rest: false,
        })
    }

    /// Whether the secret files that this was read from are encrypted for this board.
    pub fn encrypted_at_rest(&self) -> bool {
        self.encrypted_at_rest
    }

    /// Writes the whole identity, `site.toml` last.
    pub fn save(&self, store: &Store) -> Result<(), IdentityError> {
        let site = toml::to_string(&self.site).map_err(|error| damaged(SITE, error))?;
        write(store, TLS_KEY, self.tls_key.as_bytes())?;
        write(store, TLS_CERTIFICATE, self.certificate.as_bytes())?;
        // The keys of a release that is still needed come first: at no power cut are they in neither file.
        self.save_older_recipients(store)?;
        self.save_recipient(store)?;
        write(store, SITE, site.as_bytes())?;
        Ok(())
    }

    /// Writes the sealing key that counts. The one that waited is that one, or was another identity's.
    fn save_recipient(&self, store: &Store) -> Result<(), IdentityError> {
        let recipient = recipient_lines(std::slice::from_ref(&self.recipient));
        write(store, RECIPIENT_KEY, recipient.as_bytes())?;
        let waits = store.identity_dir().join(NEXT_RECIPIENT_KEY).exists();
        if waits { write(store, NEXT_RECIPIENT_KEY, b"") } else { Ok(()) }
    }

    /// The same identity with a new sealing key that waits for a release under it, on disk before HQ hears of it.
    pub(super) fn with_next_recipient(mut self, store: &Store) -> Result<Self, IdentityError> {
        let next = RecipientSecret::generate();
        write(store, NEXT_RECIPIENT_KEY, recipient_lines(std::slice::from_ref(&next)).as_bytes())?;
        self.next_recipient = Some(next);
        Ok(self)
    }

    /// The same identity, where the sealing key that waited counts now if the active release opens under it. At no power
    /// cut is a key in no file: the one before goes among the older ones first.
    pub(super) fn promoted(mut self, store: &Store) -> Result<Self, IdentityError> {
        let opens = |next: &RecipientSecret| release::active_opens(store, next, self.fleet(), self.site());
        let Some(next) = self.next_recipient.clone().filter(opens) else { return Ok(self) };
        let before = std::mem::replace(&mut self.recipient, next);
        self.older_recipients.retain(|key| *key != before);
        self.older_recipients.insert(0, before);
        self.next_recipient = None;
        self.save_older_recipients(store)?;
        self.save_recipient(store)?;
        Ok(self)
    }

    /// Takes over the sealing keys of the identity on the card that releases there still need, if it is the same site's.
    /// Another site's keys are forgotten.
    pub(super) fn succeed(&mut self, store: &Store) {
        let dir = store.identity_dir();
        let text = |name| read(&dir, name).ok().flatten();
        let before: Option<EnrolledSite> = text(SITE).and_then(|site| toml::from_str(&site).ok());
        if before.is_some_and(|site| (&site.fleet, &site.site) == (self.fleet(), self.site())) {
            let current = text(RECIPIENT_KEY).map(|text| parse_recipients(&text)).unwrap_or_default();
            let others = next_recipient(&dir).into_iter().chain(beside(&dir, OLDER_RECIPIENT_KEYS));
            for key in current.into_iter().chain(others) {
                if !self.older_recipients.contains(&key) {
                    self.older_recipients.push(key);
                }
            }
            self.drop_unneeded(store);
        }
    }

    /// Forgets the older sealing keys that no release on the card needs, in memory. Returns whether there were any.
    fn drop_unneeded(&mut self, store: &Store) -> bool {
        let older = std::mem::take(&mut self.older_recipients);
        let before = older.len();
        self.older_recipients = release::needed_keys(store, &self.recipient, older);
        self.older_recipients.len() < before
    }

    /// The same identity without the older sealing keys that no release on the card needs, saved.
    pub(super) fn without_unneeded(mut self, store: &Store) -> Result<Self, IdentityError> {
        if self.drop_unneeded(store) {
            self.save_older_recipients(store)?;
        }
        Ok(self)
    }

    fn save_older_recipients(&self, store: &Store) -> Result<(), IdentityError> {
        let lines = recipient_lines(&self.older_recipients);
        if self.older_recipients.is_empty() && !store.identity_dir().join(OLDER_RECIPIENT_KEYS).exists() {
            return Ok(());
        }
        write(store, OLDER_RECIPIENT_KEYS, if self.older_recipients.is_empty() { b"" } else { lines.as_bytes() })
    }

    /// Makes the next TLS key, on disk before HQ hears of it. Returns the key and the request for its certificate.
    pub(super) fn next_tls_key(&self, store: &Store) -> Result<(Zeroizing<String>, String), IdentityError> {
        let failed = |error: rcgen::Error| damaged(NEXT_TLS_KEY, error);
        let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).map_err(failed)?;
        let pem = Zeroizing::new(key.serialize_pem());
        write(store, NEXT_TLS_KEY, pem.as_bytes())?;
        Ok((pem, signing_request(&key, &self.site).map_err(failed)?))
    }

    /// The same identity with the next TLS key and its certificate, checked and saved. The write of the certificate is the
    /// switch: before it the old pair counts, after it the new one.
    pub fn renewed(
        &self,
        store: &Store,
        tls_key: Zeroizing<String>,
        certificate: String,
    ) -> Result<Self, IdentityError> {
        let valid = check_certificate(&certificate, &tls_key, &self.site.fleet, &self.site.site)?;
        let newer = Self { valid, certificate, tls_key: Arc::new(tls_key), ..self.clone() };
        write(store, TLS_CERTIFICATE, newer.certificate.as_bytes())?;
        newer.save_tls_key(store)?;
        Ok(newer)
    }

    fn save_tls_key(&self, store: &Store) -> Result<(), IdentityError> {
        write(store, TLS_KEY, self.tls_key.as_bytes())?;
        write(store, NEXT_TLS_KEY, b"")
    }

    /// What enrolment settled.
    pub const fn settled(&self) -> &EnrolledSite {
        &self.site
    }

    /// The fleet whose HQ enrolled this appliance.
    pub const fn fleet(&self) -> &FleetId {
        &self.site.fleet
    }

    /// The site that this appliance became.
    pub const fn site(&self) -> &SiteId {
        &self.site.site
    }

    /// The key that manifests are sealed to.
    pub const fn recipient(&self) -> &RecipientSecret {
        &self.recipient
    }

    /// The sealing key that follows as soon as a release opens under it.
    pub(super) const fn next_recipient(&self) -> Option<&RecipientSecret> {
        self.next_recipient.as_ref()
    }

    /// The keys that open manifests here: the newest one first, last those that a release on the card still needs.
    pub(super) fn recipients(&self) -> impl Iterator<Item = &RecipientSecret> {
        self.next_recipient.iter().chain(std::iter::once(&self.recipient)).chain(&self.older_recipients)
    }

    /// When the client certificate begins and ends.
    pub const fn valid(&self) -> (UnixTime, UnixTime) {
        self.valid
    }

    /// The certificate and key that TLS shows to HQ.
    pub(super) fn client_auth(&self) -> Result<ClientAuth, IdentityError> {
        let chain = tls::certificates(&self.certificate).map_err(|error| damaged(TLS_CERTIFICATE, error))?;
        let key = PrivateKeyDer::from_pem_slice(self.tls_key.as_bytes()).map_err(|error| damaged(TLS_KEY, error))?;
        Ok(ClientAuth { chain, key })
    }
}

impl SiteIdentity {
    /// The key that signs check-ins: that of the certificate. `None` if it is not one that can.
    pub(super) fn page_key(&self) -> Option<PageKey> {
        match PrivateKeyDer::from_pem_slice(self.tls_key.as_bytes()).ok()? {
            PrivateKeyDer::Pkcs8(der) => PageKey::from_pkcs8(der.secret_pkcs8_der()),
            _ => None,
        }
    }
}

impl std::fmt::Debug for SiteIdentity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SiteIdentity").field("site", &self.site).field("valid", &self.valid).finish_non_exhaustive()
    }
}

/// A PKCS#10 request for our key that names our site (PEM). HQ decides what the certificate says.
pub(super) fn signing_request(key: &rcgen::KeyPair, site: &EnrolledSite) -> Result<String, rcgen::Error> {
    let mut params = rcgen::CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(rcgen::DnType::CommonName, site.site.as_str());
    let uri = site_uri(&site.fleet, &site.site).try_into()?;
    params.subject_alt_names = vec![rcgen::SanType::URI(uri)];
    params.serialize_request(key)?.pem()
}

/// When a certificate chain begins and ends, if its first certificate is for this key and names this site.
fn check_certificate(
    pem: &str,
    tls_key: &str,
    fleet: &FleetId,
    site: &SiteId,
) -> Result<(UnixTime, UnixTime), CertificateError> {
    let malformed = |why: String| CertificateError::Malformed(why);
    let chain = tls::certificates(pem).map_err(|error| malformed(error.to_string()))?;
    let first = chain.first().ok_or_else(|| malformed("it is empty".to_owned()))?;
    let (_, certificate) = X509Certificate::from_der(first).map_err(|error| malformed(error.to_string()))?;
    let key = rcgen::KeyPair::from_pem(tls_key).map_err(|error| malformed(error.to_string()))?;
    if certificate.public_key().subject_public_key.data.as_ref() != key.public_key_raw() {
        return Err(CertificateError::OtherKey);
    }
    let names = certificate.subject_alternative_name().map_err(|error| malformed(error.to_string()))?;
    let uris: Vec<&str> = names
        .iter()
        .flat_map(|names| &names.value.general_names)
        .filter_map(|name| if let GeneralName::URI(uri) = name { Some(*uri) } else { None })
        .collect();
    let wanted = (fleet.clone(), site.clone());
    if !uris.iter().any(|uri| parse_site_uri(uri).as_ref() == Some(&wanted) && *uri == site_uri(fleet, site)) {
        return Err(CertificateError::OtherSite(
            uris.join(", ").chars().filter(|c| !c.is_control()).take(120).collect(),
        ));
    }
    let validity = certificate.validity();
    Ok((UnixTime(validity.not_before.timestamp()), UnixTime(validity.not_after.timestamp())))
}

fn parse_recipients(text: &str) -> Vec<RecipientSecret> {
    text.lines().filter_map(|line| secret(line.trim().strip_prefix(RECIPIENT_WORD)?.trim())).collect()
}

/// The sealing keys of a file beside the one that counts. A file that cannot be read is none: an older key is needed only by
/// a release that HQ has replaced, and HQ seals to the key before until a new one is proven to open.
fn beside(dir: &Path, name: &'static str) -> Vec<RecipientSecret> {
    match read(dir, name) {
        Ok(text) => text.map(|text| parse_recipients(&text)).unwrap_or_default(),
        Err(error) => {
            tracing::warn!(%error, "sealing keys cannot be read");
            Vec::new()
        }
    }
}

fn next_recipient(dir: &Path) -> Option<RecipientSecret> {
    beside(dir, NEXT_RECIPIENT_KEY).into_iter().next()
}

/// The text of a file of sealing keys.
fn recipient_lines(keys: &[RecipientSecret]) -> Zeroizing<String> {
    let mut text = Zeroizing::new("# Opens this site's manifests. It never leaves this appliance.\n".to_owned());
    for key in keys {
        let hex = Zeroizing::new(HEXLOWER.encode(key.as_bytes()));
        text.push_str(RECIPIENT_WORD);
        text.push(' ');
        text.push_str(&hex);
        text.push('\n');
    }
    text
}

pub(super) fn secret(hex: &str) -> Option<RecipientSecret> {
    let bytes = Zeroizing::new(HEXLOWER.decode(hex.as_bytes()).ok()?);
    bytes.as_slice().try_into().ok().map(RecipientSecret::from_bytes)
}

pub(super) fn read(dir: &Path, name: &'static str) -> Result<Option<Zeroizing<String>>, IdentityError> {
    let path = dir.join(name);
    match std::fs::metadata(&path) {
        Ok(meta) if meta.len() > MAX_FILE_BYTES => return Err(damaged(name, "it is too large")),
        _ => {}
    }
    match std::fs::read(&path) {
        Ok(bytes) => {
            let at_rest = |error: AtRestError| damaged(name, error);
            let bytes = if SECRET.contains(&name) {
                AtRestKey::of_process().and_then(|key| key.unwrap(name, bytes)).map_err(at_rest)?
            } else {
                bytes
            };
            let text = String::from_utf8(bytes).map_err(|_| damaged(name, "it is not text"))?;
            Ok(Some(Zeroizing::new(text)))
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(IdentityError::Read { path, source }),
    }
}

pub(super) fn write(store: &Store, name: &'static str, bytes: &[u8]) -> Result<(), IdentityError> {
    let path = Path::new("identity").join(name);
    // An emptied journal is no secret, and has to look empty.
    if !SECRET.contains(&name) || bytes.is_empty() {
        return Ok(store.write_file(&path, bytes)?);
    }
    let wrapped =
        AtRestKey::of_process().and_then(|key| key.wrap(name, bytes)).map_err(|error| damaged(name, error))?;
    Ok(store.write_file(&path, &wrapped)?)
}

pub(super) fn damaged(file: &'static str, why: impl ToString) -> IdentityError {
    IdentityError::Damaged { file, why: why.to_string() }
}
