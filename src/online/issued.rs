//! Each certificate that the CA has issued, as a small file: `issued/SITE/FINGERPRINT` beside the database.
//!
//! The database says which of them are revoked. If it is lost, these files and the desk's copy of them in git say at
//! least which certificates there are.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use data_encoding::HEXLOWER;
use rustls::pki_types::CertificateDer;
use serde::{Deserialize, Serialize};

use durable::{PRIVATE, PRIVATE_DIR};
use ids::{Digest, SiteId, UnixTime};

/// The largest such file that is read, in bytes.
const MAX_BYTES: u64 = 4096;

/// What is kept of a certificate.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct IssuedCertificate {
    /// The site that it names.
    pub site: SiteId,
    /// Its serial number in hex.
    pub serial: String,
    /// SHA-256 of the certificate in DER.
    pub fingerprint: Digest,
    /// Its public key (SubjectPublicKeyInfo in DER), in hex.
    pub key: String,
    /// When it was issued, by HQ's clock.
    pub issued: UnixTime,
    /// The end of its validity.
    pub until: UnixTime,
}

/// The folder of all of them.
pub fn folder(online: &Path) -> PathBuf {
    online.join("issued")
}

/// The public key of a certificate (SubjectPublicKeyInfo in DER), in hex.
pub fn public_key(certificate: &CertificateDer<'_>) -> anyhow::Result<String> {
    let (_, parsed) = x509_parser::parse_x509_certificate(certificate).context("a certificate cannot be read back")?;
    Ok(HEXLOWER.encode(parsed.public_key().raw))
}

/// SHA-256 of a public key as [`public_key`] gives it; `None` if it is no hex.
pub(crate) fn key_digest(key: &str) -> Option<Digest> {
    HEXLOWER.decode(key.as_bytes()).ok().map(|der| Digest::of(&der))
}

/// Keeps a certificate, and forgets those of its site that are too old to be renewed.
pub(crate) fn keep(online: &Path, certificate: &IssuedCertificate) -> anyhow::Result<()> {
    let dir = folder(online).join(certificate.site.as_str());
    durable::create_dirs(&dir, PRIVATE_DIR).with_context(|| format!("cannot make {}", dir.display()))?;
    let dead = Duration::from_secs(u64::from(api::RENEWABLE_DAYS) * 86_400);
    for old in of_site(online, &certificate.site)? {
        if certificate.issued.since(old.until) > dead {
            let path = dir.join(old.fingerprint.to_string());
            durable::remove(&path).with_context(|| format!("cannot remove {}", path.display()))?;
        }
    }
    let path = dir.join(certificate.fingerprint.to_string());
    durable::replace(&path, &serde_json::to_vec(certificate)?, PRIVATE)
        .with_context(|| format!("cannot write {}", path.display()))
}

/// The certificates of a site, the oldest first. A file that cannot be read is left out.
pub fn of_site(online: &Path, site: &SiteId) -> anyhow::Result<Vec<IssuedCertificate>> {
    let dir = folder(online).join(site.as_str());
    let mut found = Vec::new();
    for path in entries(&dir)? {
        let named = path.file_name().and_then(|name| name.to_str()?.parse::<Digest>().ok());
        let Ok(bytes) = durable::read_regular(&path, MAX_BYTES) else { continue };
        let Ok(certificate) = serde_json::from_slice::<IssuedCertificate>(&bytes) else { continue };
        if named == Some(certificate.fingerprint) && certificate.site == *site {
            found.push(certificate);
        }
    }
    found.sort_by(|a, b| (a.issued, &a.serial).cmp(&(b.issued, &b.serial)));
    Ok(found)
}

/// The certificates of all sites.
pub fn all(online: &Path) -> anyhow::Result<Vec<IssuedCertificate>> {
    let mut found = Vec::new();
    for dir in entries(&folder(online))? {
        if let Some(site) = dir.file_name().and_then(|name| name.to_str()?.parse::<SiteId>().ok()) {
            found.extend(of_site(online, &site)?);
        }
    }
    Ok(found)
}

fn entries(dir: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let listing = match fs::read_dir(dir) {
        Ok(listing) => listing,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error).with_context(|| format!("cannot list {}", dir.display())),
    };
    let mut paths = Vec::new();
    for entry in listing {
        paths.push(entry.with_context(|| format!("cannot list {}", dir.display()))?.path());
    }
    paths.sort();
    Ok(paths)
}
