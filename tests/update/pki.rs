//! A CA, the certificates that it issues, and a clock that a test sets.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use lineside::ids::{Digest, UnixTime};
use lineside::update::SystemClock;
use lineside::update::clock::{Reading, Timekeeper};
use lineside::update::tls::ClientAuth;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair,
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use time::OffsetDateTime;

/// 2027-01-15, after every build that these tests run in.
pub const NOW: UnixTime = UnixTime(1_800_000_000);
pub const DAY: i64 = 86_400;

pub fn days(days: i64) -> UnixTime {
    UnixTime(NOW.0 + days * DAY)
}

#[derive(Debug)]
pub struct SetClock(pub Mutex<Reading>);

impl SetClock {
    pub fn new(system: UnixTime, synchronised: bool) -> Arc<Self> {
        Arc::new(Self(Mutex::new(Reading { system, monotonic: Duration::ZERO, synchronised })))
    }

    pub fn advance(&self, by: Duration) {
        let mut reading = self.0.lock().unwrap();
        reading.system = reading.system.plus(by);
        reading.monotonic += by;
    }
}

impl SystemClock for SetClock {
    fn read(&self) -> Reading {
        *self.0.lock().unwrap()
    }
}

/// The trusted time, on a box whose clock is right.
pub fn right_time() -> Timekeeper {
    Timekeeper::new(SetClock::new(NOW, true), None)
}

pub struct Ca {
    pub der: CertificateDer<'static>,
    pub pem: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Ca {
    pub fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let certificate = params.self_signed(&key).unwrap();
        let (der, pem) = (certificate.der().clone(), certificate.pem());
        Self { der, pem, issuer: Issuer::new(params, key) }
    }

    pub fn digest(&self) -> Digest {
        Digest::of(&self.der)
    }

    /// A TLS server's configuration with a certificate for 127.0.0.1, the CA behind it.
    pub fn server(&self, from: UnixTime, until: UnixTime) -> rustls::ServerConfig {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
        (params.not_before, params.not_after) = (date(from), date(until));
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        let chain = vec![certificate.der().clone(), self.der.clone()];
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        rustls::ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(chain, key)
            .unwrap()
    }

    /// The same, valid now.
    pub fn good_server(&self) -> rustls::ServerConfig {
        self.server(days(-1), days(30))
    }

    /// The same as [`Ca::good_server`] in PEM: chain and key.
    pub fn server_pem(&self) -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        (format!("{}{}", certificate.pem(), self.pem), key.serialize_pem())
    }

    /// A server that wants a client certificate of this CA.
    pub fn mutual_server(&self) -> rustls::ServerConfig {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(self.der.clone()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let verifier =
            rustls::server::WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone()).build();
        rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_client_cert_verifier(verifier.unwrap())
            .with_cert_resolver(with_chain(self, vec![self.der.clone()]))
    }

    /// A client's certificate and key, valid whatever the day is: the server looks at the real clock.
    pub fn client_auth(&self) -> ClientAuth {
        let key = KeyPair::generate().unwrap();
        let certificate = CertificateParams::default().signed_by(&key, &self.issuer).unwrap();
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        ClientAuth { chain: vec![certificate.der().clone()], key }
    }

    /// A client certificate for a request (PEM), as the request names it.
    pub fn issue(&self, csr: &str, from: UnixTime, until: UnixTime) -> String {
        let mut request = CertificateSigningRequestParams::from_pem(csr).unwrap();
        (request.params.not_before, request.params.not_after) = (date(from), date(until));
        request.signed_by(&self.issuer).unwrap().pem()
    }
}

fn date(at: UnixTime) -> OffsetDateTime {
    OffsetDateTime::from_unix_timestamp(at.0).unwrap()
}

/// A resolver that shows a certificate of `ca` with `behind` after it.
pub fn with_chain(ca: &Ca, behind: Vec<CertificateDer<'static>>) -> Arc<dyn rustls::server::ResolvesServerCert> {
    let key = KeyPair::generate().unwrap();
    let params = CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
    let certificate = params.signed_by(&key, &ca.issuer).unwrap();
    let chain = std::iter::once(certificate.der().clone()).chain(behind).collect();
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let key = rustls::crypto::ring::sign::any_supported_type(&key).unwrap();
    Arc::new(rustls::sign::SingleCertAndKey::from(rustls::sign::CertifiedKey::new(chain, key)))
}

/// A server that was left at TLS 1.2.
pub fn only_tls12(ca: &Ca) -> rustls::ServerConfig {
    rustls::ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS12])
        .unwrap()
        .with_no_client_auth()
        .with_cert_resolver(with_chain(ca, vec![]))
}

/// A certificate that can be changed while the server runs.
#[derive(Debug)]
pub struct Shown(Mutex<Arc<dyn rustls::server::ResolvesServerCert>>);

impl Shown {
    pub fn new(first: Arc<dyn rustls::server::ResolvesServerCert>) -> Arc<Self> {
        Arc::new(Self(Mutex::new(first)))
    }

    /// From now on what this configuration shows is shown.
    pub fn show(&self, config: &rustls::ServerConfig) {
        *self.0.lock().unwrap() = config.cert_resolver.clone();
    }
}

impl rustls::server::ResolvesServerCert for Shown {
    fn resolve(&self, hello: rustls::server::ClientHello<'_>) -> Option<Arc<rustls::sign::CertifiedKey>> {
        self.0.lock().unwrap().resolve(hello)
    }
}
