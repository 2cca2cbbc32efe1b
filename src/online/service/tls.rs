//! The TLS 1.3 configuration. It asks for a client certificate of HQ's CA but does not require one, because an
//! appliance has none before it enrols.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use rustls::client::danger::HandshakeSignatureValid;
use rustls::pki_types::{CertificateDer, UnixTime as TlsTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{ServerConfig, WebPkiClientVerifier};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, OtherError, RootCertStore, SignatureScheme,
};

use crate::ca::{self, Ca};
use ids::UnixTime;

/// The configuration with the service's current certificate, and whether that was renewed in this call, if it may be.
pub(super) fn config(ca: &Ca, now: UnixTime, may_renew: bool) -> anyhow::Result<(Arc<ServerConfig>, bool)> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut roots = RootCertStore::empty();
    for authority in ca.of_clients()? {
        roots.add(authority).context("a CA cannot be a trust anchor")?;
    }
    let inner = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider))
        .allow_unauthenticated()
        .build()
        .context("cannot verify client certificates")?;
    let server = if may_renew { ca.server(now)? } else { ca.present_server()? };
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .context("TLS 1.3 is not there")?
        .with_client_cert_verifier(Arc::new(Renewable { inner }))
        .with_single_cert(server.chain, server.key)
        .context("server.key and server.pem do not belong together")?;
    // Appliances never resume a session, so tickets would only make every handshake longer.
    config.send_tls13_tickets = 0;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok((Arc::new(config), server.renewed))
}

/// The configuration of the operators' port: the same certificate, as it lies on the disk, and no client certificates.
pub(super) fn operators(ca: &Ca) -> anyhow::Result<Arc<ServerConfig>> {
    let server = ca.present_server()?;
    let mut config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .context("TLS 1.3 is not there")?
        .with_no_client_auth()
        .with_single_cert(server.chain, server.key)
        .context("server.key and server.pem do not belong together")?;
    config.send_tls13_tickets = 0;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

/// Verifies client certificates as rustls does, but accepts one that expired at most [`api::RENEWABLE_DAYS`] ago.
///
/// `routes` decides for each request what an expired certificate may do, because a connection can live longer than its
/// certificate anyway.
#[derive(Debug)]
struct Renewable {
    inner: Arc<dyn ClientCertVerifier>,
}

impl ClientCertVerifier for Renewable {
    fn client_auth_mandatory(&self) -> bool {
        self.inner.client_auth_mandatory()
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.inner.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: TlsTime,
    ) -> Result<ClientCertVerified, Error> {
        // A certificate without a site is refused, whatever else it says.
        let identity = ca::identity(end_entity)
            .ok_or_else(|| Error::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(NoSite)))))?;
        let refused = match self.inner.verify_client_cert(end_entity, intermediates, now) {
            Err(Error::InvalidCertificate(CertificateError::Expired | CertificateError::ExpiredContext { .. })) => {
                Error::InvalidCertificate(CertificateError::Expired)
            }
            verdict => return verdict,
        };
        let Ok(not_after) = u64::try_from(identity.not_after.0) else { return Err(refused) };
        let grace = Duration::from_secs(u64::from(api::RENEWABLE_DAYS) * 86_400);
        if now.as_secs() > not_after.saturating_add(grace.as_secs()) {
            return Err(refused);
        }
        // All other checks are made as of the last second in which it was valid.
        self.inner.verify_client_cert(
            end_entity,
            intermediates,
            TlsTime::since_unix_epoch(Duration::from_secs(not_after)),
        )
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.inner.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.inner.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.inner.supported_verify_schemes()
    }
}

/// The client certificate has no SAN URI of a site.
#[derive(Debug, thiserror::Error)]
#[error("the certificate names no site")]
struct NoSite;
