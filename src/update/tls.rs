//! Which servers this appliance trusts: those of HQ's own CA and no others, even while it does not know the time.

use std::sync::Arc;
use std::time::Duration;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime as TlsTime};
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};

use super::clock::Timekeeper;
use ids::Digest;

/// A certificate chain is looked at up to so many certificates.
const MAX_CHAIN: usize = 8;

/// Where trust in a server begins.
#[derive(Debug, Clone)]
pub enum Anchors {
    /// The CA certificates (DER) that the trusted root names.
    Pinned(Vec<CertificateDer<'static>>),
    /// Enrolment: the CA with this SHA-256, taken from the chain that the server presents.
    ByDigest(Digest),
}

/// What a client shows to a server: its chain and key.
#[derive(Debug)]
pub struct ClientAuth {
    /// The client's certificate and those above it.
    pub chain: Vec<CertificateDer<'static>>,
    /// The private key of the first certificate.
    pub key: PrivateKeyDer<'static>,
}

/// Why no TLS configuration can be made.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A CA certificate that the root names cannot be used.
    #[error("a CA certificate of HQ cannot be used: {0}")]
    Anchor(String),
    /// The root names no CA.
    #[error("no CA certificate of HQ is known")]
    NoAnchor,
    /// The client certificate or key cannot be used.
    #[error("the client certificate cannot be used: {0}")]
    ClientAuth(String),
}

/// The certificates in a PEM text, up to the longest chain that is looked at.
pub fn certificates(pem: &str) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    CertificateDer::pem_slice_iter(pem.as_bytes())
        .take(MAX_CHAIN)
        .collect::<Result<_, _>>()
        .map_err(|error| TlsError::Anchor(error.to_string()))
}

/// A TLS 1.3 client configuration on ring. No resumption: each connection looks at the server's certificate, and a
/// clock that jumps confuses no ticket.
pub fn config(anchors: Anchors, auth: Option<ClientAuth>, time: Timekeeper) -> Result<ClientConfig, TlsError> {
    let provider = Arc::new(ring::default_provider());
    let verifier = Arc::new(Verifier::new(anchors, time, provider.clone())?);
    let wanted = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(|error| TlsError::Anchor(error.to_string()))?
        .dangerous()
        .with_custom_certificate_verifier(verifier);
    let mut config = match auth {
        Some(auth) => wanted
            .with_client_auth_cert(auth.chain, auth.key)
            .map_err(|error| TlsError::ClientAuth(error.to_string()))?,
        None => wanted.with_no_client_auth(),
    };
    config.resumption = rustls::client::Resumption::disabled();
    Ok(config)
}

/// Normal verification (RFC 5280 by webpki: chain, name, validity, usage) with our anchors and our time.
#[derive(Debug)]
struct Verifier {
    anchors: VerifierAnchors,
    time: Timekeeper,
    provider: Arc<CryptoProvider>,
    algorithms: WebPkiSupportedAlgorithms,
}

#[derive(Debug)]
enum VerifierAnchors {
    Pinned(Arc<WebPkiServerVerifier>),
    ByDigest(Digest),
}

impl Verifier {
    fn new(anchors: Anchors, time: Timekeeper, provider: Arc<CryptoProvider>) -> Result<Self, TlsError> {
        let anchors = match anchors {
            Anchors::Pinned(certificates) => VerifierAnchors::Pinned(webpki(certificates, provider.clone())?),
            Anchors::ByDigest(digest) => VerifierAnchors::ByDigest(digest),
        };
        let algorithms = provider.signature_verification_algorithms;
        Ok(Self { anchors, time, provider, algorithms })
    }
}

fn webpki(
    certificates: Vec<CertificateDer<'static>>,
    provider: Arc<CryptoProvider>,
) -> Result<Arc<WebPkiServerVerifier>, TlsError> {
    if certificates.is_empty() {
        return Err(TlsError::NoAnchor);
    }
    let mut roots = RootCertStore::empty();
    for certificate in certificates {
        roots.add(certificate).map_err(|error| TlsError::Anchor(error.to_string()))?;
    }
    WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider)
        .build()
        .map_err(|error| TlsError::Anchor(error.to_string()))
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        _system_now: TlsTime,
    ) -> Result<ServerCertVerified, Error> {
        let intermediates = intermediates.get(..MAX_CHAIN).unwrap_or(intermediates);
        let found;
        let verifier = match &self.anchors {
            VerifierAnchors::Pinned(verifier) => verifier,
            VerifierAnchors::ByDigest(digest) => {
                let ca = intermediates
                    .iter()
                    .find(|certificate| Digest::of(certificate) == *digest)
                    .ok_or(Error::InvalidCertificate(CertificateError::UnknownIssuer))?;
                found = webpki(vec![ca.clone().into_owned()], self.provider.clone())
                    .map_err(|error| Error::General(error.to_string()))?;
                &found
            }
        };
        let seconds = u64::try_from(self.time.without_online_key().0).unwrap_or(0);
        let mut at = TlsTime::since_unix_epoch(Duration::from_secs(seconds));
        // Each certificate of the chain may start later than the one before; time only moves forward here.
        for _ in 0..MAX_CHAIN {
            match verifier.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, at) {
                Err(Error::InvalidCertificate(CertificateError::NotValidYetContext { not_before, .. }))
                    if not_before > at && !self.time.synchronised() =>
                {
                    at = not_before;
                }
                verdict => return verdict,
            }
        }
        Err(Error::InvalidCertificate(CertificateError::NotValidYet))
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, cert, dss, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}
