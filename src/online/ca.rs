//! HQ's certificate authority, on P-256 only.
//!
//! It signs two kinds of certificate: the service's own, and one client certificate per appliance, whose SAN URI names
//! the site (I4). The CA takes only the public key from a request and sets subject, names, usages and dates itself.

use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, anyhow, bail, ensure};
use data_encoding::HEXLOWER;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, SanType, SerialNumber, SubjectPublicKeyInfo,
};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, CertificateSigningRequestDer, PrivateKeyDer};
use time::OffsetDateTime;
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::FromDer as _;
use zeroize::Zeroizing;

use crate::issued::{self, IssuedCertificate};
use durable::{PRIVATE, PRIVATE_DIR};
use ids::{Digest, FleetId, SiteId, UnixTime};
use repository::layout::Layout;
use repository::witness::ClockRecord;

const DAY: Duration = Duration::from_secs(86_400);
/// How long the CA's certificate is valid: longer than an SD card that pins it lasts.
const CA_LIFE: Duration = Duration::from_secs(20 * 365 * 86_400);
/// How long the service's certificate is valid. `serve` renews it by itself.
const SERVER_LIFE: Duration = Duration::from_secs(2 * 365 * 86_400);
/// The service's certificate is renewed when less than this is left.
const SERVER_RENEWAL: Duration = Duration::from_secs(30 * 86_400);
/// The CAs that were in use before this one, in PEM.
const BEFORE: &str = "ca-before.pem";
/// Sites take a root that lists at most so many CAs.
pub const MOST_LISTED: usize = 8;
/// The service's certificate names at most so many hosts, the newest first.
const MAX_NAMES: usize = 8;
/// How much earlier than now certificates begin to be valid, for clocks that are a little behind.
const SLACK: Duration = Duration::from_secs(300);

/// Makes a CA and the service's certificate for these host names and addresses, in `online/`.
///
/// Returns the CA certificate in PEM. Refuses to replace an existing CA: every site has it pinned.
#[expect(clippy::disallowed_methods, reason = "a service has a clock")]
pub fn init(layout: &Layout, fleet_name: &str, host_names: &[String]) -> anyhow::Result<String> {
    ensure!(!host_names.is_empty(), "HQ needs at least one host name or address that sites reach it under");
    let names = host_names.iter().map(|name| san(name)).collect::<anyhow::Result<Vec<_>>>()?;
    let dir = layout.online();
    durable::create_dirs(&dir, PRIVATE_DIR).with_context(|| format!("cannot create {}", dir.display()))?;
    let now = UnixTime::of(SystemTime::now());

    let Authority { key, certificate } = Authority::make(fleet_name, now)?;
    create_secret(&dir.join("ca.key"), &key)?;
    create_secret(&dir.join("ca.pem"), &certificate)?;
    Ca::load(&dir)?.issue_server(&names, now)?;
    // A person makes a fleet, and no site knows its time yet.
    ClockRecord::change(layout, |record| {
        record.confirm(now);
        record.signed = Some(now);
    })?;
    Ok(certificate)
}

/// A CA, or a server, that was just certified, in PEM.
pub struct Authority {
    /// Its private key.
    pub key: Zeroizing<String>,
    /// Its certificate; a server's is followed by the CA's.
    pub certificate: String,
}

impl Authority {
    /// Makes a CA. Nothing is written.
    pub fn make(fleet_name: &str, now: UnixTime) -> anyhow::Result<Self> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).context("cannot make the CA's key")?;
        let mut params = CertificateParams::default();
        params.distinguished_name = common_name(&format!("{} Lineside CA", printable(fleet_name)));
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        (params.not_before, params.not_after) = validity(now, CA_LIFE)?;
        params.serial_number = Some(serial()?);
        let certificate = params.self_signed(&key).context("cannot make the CA's certificate")?.pem();
        Ok(Self { key: Zeroizing::new(key.serialize_pem()), certificate })
    }
}

/// Puts another CA in the place of the one in `online`, with a certificate of the service for these names. The clients of
/// the CAs `before` stay known: what HQ's records say of each certificate decides.
#[expect(clippy::disallowed_methods, reason = "a service has a clock")]
pub fn replace(online: &Path, with: &Authority, before: &[String], host_names: &[String]) -> anyhow::Result<()> {
    let names = host_names.iter().map(|name| san(name)).collect::<anyhow::Result<Vec<_>>>()?;
    durable::create_dirs(online, PRIVATE_DIR).with_context(|| format!("cannot create {}", online.display()))?;
    replace_secret(&online.join(BEFORE), &before.concat())?;
    replace_secret(&online.join("ca.key"), &with.key)?;
    replace_secret(&online.join("ca.pem"), &with.certificate)?;
    Ca::load(online)?.issue_server(&names, UnixTime::of(SystemTime::now()))
}

/// The CAs that were in use before this one. Their clients may come, as far as HQ's records know their certificates.
pub(crate) fn before(online: &Path) -> anyhow::Result<Vec<CertificateDer<'static>>> {
    let path = online.join(BEFORE);
    if path.exists() { read_chain(&path) } else { Ok(Vec::new()) }
}

/// Whether the service's certificate names this host; `None` if there is none that can be read.
pub fn names_host(online: &Path, host: &str) -> Option<bool> {
    let leaf = read_chain(&online.join("server.pem")).ok()?.into_iter().next()?;
    let (_, parsed) = x509_parser::parse_x509_certificate(&leaf).ok()?;
    let wanted = san(host).ok()?;
    Some(server_names(&parsed).ok()?.contains(&wanted))
}

/// Makes a new server certificate for other host names and addresses. A running service uses it after its next start.
#[expect(clippy::disallowed_methods, reason = "a service has a clock")]
pub fn rename(online: &Path, host_names: &[String]) -> anyhow::Result<()> {
    ensure!(!host_names.is_empty(), "HQ needs at least one host name or address that sites reach it under");
    let names = host_names.iter().map(|name| san(name)).collect::<anyhow::Result<Vec<_>>>()?;
    Ca::load(online)?.issue_server(&names, UnixTime::of(SystemTime::now()))
}

/// Makes a new server certificate that names this host besides those that it names already.
#[expect(clippy::disallowed_methods, reason = "a service has a clock")]
pub fn also_name(online: &Path, host: &str) -> anyhow::Result<()> {
    let leaf = read_chain(&online.join("server.pem"))?.into_iter().next().context("server.pem is empty")?;
    let (_, parsed) = x509_parser::parse_x509_certificate(&leaf).context("server.pem is no certificate")?;
    let mut names = vec![san(host)?];
    names.extend(server_names(&parsed)?.into_iter().filter(|name| Some(name) != san(host).ok().as_ref()));
    names.truncate(MAX_NAMES);
    Ca::load(online)?.issue_server(&names, UnixTime::of(SystemTime::now()))
}

/// SHA-256 of the CA certificate in DER, as enrolment tokens carry it.
pub fn digest(online: &Path) -> anyhow::Result<Digest> {
    let path = online.join("ca.pem");
    let der =
        CertificateDer::from_pem_file(&path).map_err(|error| anyhow!("cannot read {}: {error}", path.display()))?;
    Ok(Digest::of(&der))
}

/// SHA-256 of a certificate in PEM; `None` if it is none.
pub fn digest_of(pem: &str) -> Option<Digest> {
    CertificateDer::from_pem_slice(pem.as_bytes()).ok().map(|der| Digest::of(&der))
}

/// The CA: its certificate, and the key that signs with it.
pub struct Ca {
    dir: PathBuf,
    issuer: Issuer<'static, KeyPair>,
    certificate: CertificateDer<'static>,
    pem: String,
}

/// A client certificate that the CA has issued.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Issued {
    /// The client certificate and after it the CA's, in PEM.
    pub chain: String,
    /// The end of its validity (`notAfter`).
    pub expires: UnixTime,
    /// The certificate's serial number in hex.
    pub serial: String,
    /// SHA-256 of the certificate in DER, by which the database finds it.
    pub fingerprint: Digest,
}

/// What a client certificate says, after the CA's signature held.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// The fleet, from the SAN URI.
    pub fleet: FleetId,
    /// The site, from the SAN URI. The service takes a caller's site from nowhere else.
    pub site: SiteId,
    /// The end of the certificate's validity (`notAfter`).
    pub not_after: UnixTime,
    /// SHA-256 of the certificate in DER, by which the database finds it.
    pub fingerprint: Digest,
    /// The certificate itself, in DER.
    pub certificate: Arc<[u8]>,
}

/// A certificate signing request whose key is on P-256 and signed the request (proof of possession).
#[derive(Debug, Clone)]
pub struct Csr {
    key: SubjectPublicKeyInfo,
    /// SHA-256 of the public key (SubjectPublicKeyInfo in DER).
    pub key_digest: Digest,
}

/// Why a request for a certificate was turned away.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CsrError {
    /// It is not PKCS#10 in PEM.
    #[error("the request is not a PKCS#10 certificate signing request in PEM")]
    Malformed,
    /// Its key is of another curve or algorithm than P-256.
    #[error("the request's key is not on P-256")]
    Key,
    /// It is not signed by the key it holds.
    #[error("the request's signature does not hold")]
    Signature,
}

impl Csr {
    /// Parses a PKCS#10 request (RFC 2986) and checks its signature and curve.
    pub fn parse(pem: &str) -> Result<Self, CsrError> {
        let der = CertificateSigningRequestDer::from_pem_slice(pem.as_bytes()).map_err(|_| CsrError::Malformed)?;
        let (rest, request) = X509CertificationRequest::from_der(&der).map_err(|_| CsrError::Malformed)?;
        if !rest.is_empty() {
            return Err(CsrError::Malformed);
        }
        let raw = request.certification_request_info.subject_pki.raw;
        // The curve is checked first, because the signature's algorithm does not tell it.
        let key = SubjectPublicKeyInfo::from_der(raw).map_err(|_| CsrError::Key)?;
        if rcgen::PublicKeyData::algorithm(&key) != &PKCS_ECDSA_P256_SHA256 {
            return Err(CsrError::Key);
        }
        request.verify_signature().map_err(|_| CsrError::Signature)?;
        Ok(Self { key, key_digest: Digest::of(raw) })
    }
}

impl Ca {
    /// Reads `ca.key` and `ca.pem` in `dir`.
    pub fn load(dir: &Path) -> anyhow::Result<Self> {
        let read = |name: &str| {
            let path = dir.join(name);
            fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))
        };
        let key = Zeroizing::new(read("ca.key")?);
        let pem = read("ca.pem")?;
        let key = KeyPair::from_pem_and_sign_algo(&key, &PKCS_ECDSA_P256_SHA256)
            .with_context(|| format!("{} is not a P-256 key", dir.join("ca.key").display()))?;
        let not_certificate = || format!("{} is not a certificate", dir.join("ca.pem").display());
        let certificate = CertificateDer::from_pem_slice(pem.as_bytes())
            .map_err(|error| anyhow!("{error}: {}", not_certificate()))?;
        let (_, parsed) = x509_parser::parse_x509_certificate(&certificate).with_context(not_certificate)?;
        ensure!(
            parsed.public_key().subject_public_key.data == key.public_key_raw(),
            "{} is not the key of ca.pem beside it",
            dir.join("ca.key").display()
        );
        let issuer = Issuer::from_ca_cert_der(&certificate, key).with_context(not_certificate)?;
        Ok(Self { dir: dir.to_owned(), issuer, certificate, pem })
    }

    /// The CAs whose client certificates may come: this one, and those before it.
    pub(crate) fn of_clients(&self) -> anyhow::Result<Vec<CertificateDer<'static>>> {
        Ok(std::iter::once(self.certificate.clone()).chain(before(&self.dir)?).collect())
    }

    /// The CA certificate in DER.
    pub fn certificate(&self) -> &CertificateDer<'static> {
        &self.certificate
    }

    /// Issues a client certificate for a site, valid for [`api::CERTIFICATE_DAYS`] from `now`.
    pub fn issue_client(&self, csr: &Csr, fleet: &FleetId, site: &SiteId, now: UnixTime) -> anyhow::Result<Issued> {
        let uri = api::site_uri(fleet, site);
        let mut params = CertificateParams::default();
        params.distinguished_name = common_name(site.as_str());
        params.subject_alt_names = vec![SanType::URI(uri.as_str().try_into().context("the site's URI is not ASCII")?)];
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        params.use_authority_key_identifier_extension = true;
        (params.not_before, params.not_after) = validity(now, DAY.saturating_mul(api::CERTIFICATE_DAYS))?;
        let number = serial()?;
        let serial = HEXLOWER.encode(&number.to_bytes());
        params.serial_number = Some(number);
        let expires = UnixTime(params.not_after.unix_timestamp());
        let certificate = params.signed_by(&csr.key, &self.issuer).context("cannot sign a client certificate")?;
        let fingerprint = Digest::of(certificate.der());
        let key = issued::public_key(certificate.der())?;
        let kept = IssuedCertificate { site: site.clone(), serial, fingerprint, key, issued: now, until: expires };
        issued::keep(&self.dir, &kept)?;
        Ok(Issued { chain: format!("{}{}", certificate.pem(), self.pem), expires, serial: kept.serial, fingerprint })
    }

    /// The service's chain and key. It first makes a new certificate for the same names, if the one on the disk has
    /// less than 30 days left, begins in the future (it was made under a clock that was ahead) or does not fit its key
    /// (after a crash between the two files).
    pub fn server(&self, now: UnixTime) -> anyhow::Result<ServerCertificate> {
        let (key_path, chain_path) = (self.dir.join("server.key"), self.dir.join("server.pem"));
        let leaf = read_chain(&chain_path)?.into_iter().next().ok_or_else(|| anyhow!("server.pem is empty"))?;
        let (_, parsed) = x509_parser::parse_x509_certificate(&leaf)
            .with_context(|| format!("{} is not a certificate", chain_path.display()))?;
        let names = server_names(&parsed)?;
        let not_after = UnixTime(parsed.validity().not_after.timestamp());
        let fits = fs::read_to_string(&key_path)
            .ok()
            .map(Zeroizing::new)
            .and_then(|pem| KeyPair::from_pem(&pem).ok())
            .is_some_and(|key| key.public_key_raw() == parsed.public_key().subject_public_key.data.as_ref());
        let begins = UnixTime(parsed.validity().not_before.timestamp());
        let renewed = !fits || not_after.since(now) < SERVER_RENEWAL || begins > now;
        if renewed {
            self.issue_server(&names, now)?;
        }
        Ok(ServerCertificate { renewed, ..self.present_server()? })
    }

    /// The service's chain and key as they are on the disk: for a host that does not know what time it is.
    pub fn present_server(&self) -> anyhow::Result<ServerCertificate> {
        let path = self.dir.join("server.key");
        let key =
            PrivateKeyDer::from_pem_file(&path).map_err(|error| anyhow!("cannot read {}: {error}", path.display()))?;
        Ok(ServerCertificate { chain: read_chain(&self.dir.join("server.pem"))?, key, renewed: false })
    }

    fn issue_server(&self, names: &[SanType], now: UnixTime) -> anyhow::Result<()> {
        let Authority { key, certificate } = self.server_for(names, now)?;
        replace_secret(&self.dir.join("server.key"), &key)?;
        replace_secret(&self.dir.join("server.pem"), &certificate)
    }

    /// A key and a chain for a web server of one's own under this host's name, which sites accept as they accept HQ's. Nobody
    /// renews it but whoever asks again.
    pub fn certificate_for(&self, host: &str, now: UnixTime) -> anyhow::Result<Authority> {
        self.server_for(&[san(host)?], now)
    }

    fn server_for(&self, names: &[SanType], now: UnixTime) -> anyhow::Result<Authority> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).context("cannot make the service's key")?;
        let mut params = CertificateParams::default();
        params.distinguished_name = common_name("Lineside HQ");
        params.subject_alt_names = names.to_vec();
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.use_authority_key_identifier_extension = true;
        (params.not_before, params.not_after) = validity(now, SERVER_LIFE)?;
        params.serial_number = Some(serial()?);
        let leaf = params.signed_by(&key, &self.issuer).context("cannot sign the service's certificate")?.pem();
        // The CA's certificate follows: an enrolling appliance knows only its SHA-256 and looks for it in the chain.
        Ok(Authority { key: Zeroizing::new(key.serialize_pem()), certificate: format!("{leaf}{}", self.pem) })
    }
}

/// The service's certificate with its key, as the TLS configuration takes them.
pub struct ServerCertificate {
    /// The service's certificate, then the CA's.
    pub chain: Vec<CertificateDer<'static>>,
    /// The private key of the service's certificate.
    pub key: PrivateKeyDer<'static>,
    /// Whether [`Ca::server`] made it in this call.
    pub renewed: bool,
}

/// Reads the site out of a client certificate whose signature has been checked.
///
/// `None` unless its only name is a URI that names a fleet and a site.
pub fn identity(certificate: &CertificateDer<'_>) -> Option<Identity> {
    let (_, parsed) = x509_parser::parse_x509_certificate(certificate).ok()?;
    let names = parsed.subject_alternative_name().ok()??;
    let [GeneralName::URI(uri)] = names.value.general_names.as_slice() else { return None };
    let (fleet, site) = api::parse_site_uri(uri)?;
    Some(Identity {
        fleet,
        site,
        not_after: UnixTime(parsed.validity().not_after.timestamp()),
        fingerprint: Digest::of(certificate),
        certificate: Arc::from(certificate.as_ref()),
    })
}

fn read_chain(path: &Path) -> anyhow::Result<Vec<CertificateDer<'static>>> {
    CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect)
        .map_err(|error| anyhow!("cannot read {}: {error}", path.display()))
}

fn server_names(certificate: &x509_parser::certificate::X509Certificate<'_>) -> anyhow::Result<Vec<SanType>> {
    let names = certificate.subject_alternative_name().ok().flatten().context("server.pem names no host")?;
    let text = names.value.general_names.iter().filter_map(|name| match name {
        GeneralName::DNSName(name) => Some((*name).to_owned()),
        GeneralName::IPAddress(octets) => address(octets).map(|address| address.to_string()),
        _ => None,
    });
    text.map(|name| san(&name)).collect()
}

fn address(octets: &[u8]) -> Option<IpAddr> {
    let v4 = <[u8; 4]>::try_from(octets).map(IpAddr::from);
    v4.or_else(|_| <[u8; 16]>::try_from(octets).map(IpAddr::from)).ok()
}

fn san(name: &str) -> anyhow::Result<SanType> {
    if let Ok(address) = name.parse::<IpAddr>() {
        return Ok(SanType::IpAddress(address));
    }
    // Only what rustls takes as a server name.
    if rustls::pki_types::DnsName::try_from(name).is_err() {
        bail!("`{name}` is neither a host name nor an IP address");
    }
    Ok(SanType::DnsName(name.try_into().with_context(|| format!("`{name}` is not ASCII"))?))
}

fn common_name(text: &str) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    name.push(DnType::CommonName, text);
    name
}

/// Shortens a fleet's name for the CA's common name: X.520 allows 64 characters, and ours takes 13 of them.
fn printable(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(50).collect()
}

fn validity(now: UnixTime, life: Duration) -> anyhow::Result<(OffsetDateTime, OffsetDateTime)> {
    let at = |time: UnixTime| OffsetDateTime::from_unix_timestamp(time.0).context("the clock is out of range");
    Ok((at(UnixTime(now.0.saturating_sub(SLACK.as_secs().cast_signed())))?, at(now.plus(life))?))
}

/// A random serial number of 127 bits. RFC 5280 §4.1.2.2 wants it positive, unique and at most 20 octets long.
fn serial() -> anyhow::Result<SerialNumber> {
    let mut bytes = [0u8; 16];
    getrandom::fill(&mut bytes).map_err(|error| anyhow!("no randomness: {error}"))?;
    if let Some(first) = bytes.first_mut() {
        *first = (*first & 0x7f) | 0x40;
    }
    Ok(SerialNumber::from_slice(&bytes))
}

fn create_secret(path: &Path, text: &str) -> anyhow::Result<()> {
    durable::create_new(path, text.as_bytes(), PRIVATE).with_context(|| format!("cannot create {}", path.display()))
}

fn replace_secret(path: &Path, text: &str) -> anyhow::Result<()> {
    durable::replace(path, text.as_bytes(), PRIVATE).with_context(|| format!("cannot replace {}", path.display()))
}

#[cfg(test)]
mod tests;
