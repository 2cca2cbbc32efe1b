//! The desk's HTTPS client: one connection to HQ's host, which must show a certificate of the CA that was pinned at login.

use std::net::IpAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context as TaskContext, Poll};
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, anyhow, bail, ensure};
use hyper::body::{Body, Bytes, Frame, Incoming, SizeHint};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::header::{AUTHORIZATION, CONTENT_LENGTH, HOST, RETRY_AFTER};
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime as TlsTime};
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use zeroize::Zeroizing;

use api::Refusal;
use ids::Digest;
use online::desk::API;
use telemetry::Hint as _;

/// How long a connection may take to come about.
const CONNECT: Duration = Duration::from_secs(15);
/// How long one request may take: the host looks at thousands of sites' metadata in it.
const REQUEST: Duration = Duration::from_secs(300);
/// How often a request that changes nothing twice is tried.
const TRIES: u32 = 4;
/// The longest wait that an answer may ask for.
const MAX_WAIT: Duration = Duration::from_secs(30);
/// The largest answer in JSON: the table of 100,000 sites.
const MAX_JSON: u64 = 128 * 1024 * 1024;
/// The longest certificate chain that is looked at.
const MAX_CHAIN: usize = 8;

/// The way to HQ's host.
pub(crate) struct Client {
    runtime: tokio::runtime::Runtime,
    tls: TlsConnector,
    server: ServerName<'static>,
    authority: String,
    token: Zeroizing<String>,
    open: Mutex<Option<SendRequest<Whole>>>,
    authority_certificate: Mutex<Option<Vec<u8>>>,
    ca: Digest,
}

/// An answer: its status and its body.
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) body: Vec<u8>,
    again: Option<Duration>,
}

impl Client {
    /// A client for this URL. `name` is the host whose certificate is expected, if the URL names this machine itself (the end
    /// of a tunnel).
    pub(crate) fn new(url: &str, name: &str, ca: Digest, token: Zeroizing<String>) -> anyhow::Result<Self> {
        let wrong = || anyhow!("`{url}` is not https://HOST or https://HOST:PORT");
        let rest = url.strip_prefix("https://").ok_or_else(wrong)?.trim_end_matches('/');
        let (host, port) = split(rest).ok_or_else(wrong)?;
        let authority = if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") };
        let expected = if is_this_machine(host) && !name.is_empty() { name } else { host };
        let server =
            ServerName::try_from(expected.to_owned()).with_context(|| format!("`{expected}` names no host"))?;
        let provider = Arc::new(ring::default_provider());
        let mut config = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .context("TLS 1.3 is not there")?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(PinnedCa { ca, provider }))
            .with_no_client_auth();
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .context("cannot start")?;
        Ok(Self {
            runtime,
            tls: TlsConnector::from(Arc::new(config)),
            server,
            authority,
            token,
            open: Mutex::default(),
            authority_certificate: Mutex::default(),
            ca,
        })
    }

    /// The certificate of the pinned CA in DER, once the host was reached.
    pub(crate) fn ca_certificate(&self) -> Option<Vec<u8>> {
        self.authority_certificate.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn get<T: DeserializeOwned>(&self, path: &str) -> anyhow::Result<T> {
        parse(&self.expect(Method::GET, path, Bytes::new(), MAX_JSON)?)
    }

    /// A file of the published tree; `None` if the host has none of this name.
    pub(crate) fn file(&self, path: &str, limit: u64) -> anyhow::Result<Option<Vec<u8>>> {
        let answer = self.call(&Method::GET, &format!("/tree/{path}"), Bytes::new(), limit)?;
        if answer.status == StatusCode::NOT_FOUND {
            return Ok(None);
        }
        check(&answer)?;
        Ok(Some(answer.body))
    }

    pub(crate) fn post<T: DeserializeOwned>(&self, path: &str, body: &impl Serialize) -> anyhow::Result<T> {
        let body = serde_json::to_vec(body).context("cannot write a request")?;
        parse(&self.expect(Method::POST, path, body.into(), MAX_JSON)?)
    }

    pub(crate) fn put(&self, path: &str, body: Bytes) -> anyhow::Result<Answer> {
        self.call(&Method::PUT, path, body, MAX_JSON)
    }

    fn expect(&self, method: Method, path: &str, body: Bytes, limit: u64) -> anyhow::Result<Vec<u8>> {
        let answer = self.call(&method, path, body, limit)?;
        check(&answer)?;
        Ok(answer.body)
    }

    /// Asks, and asks again after a failure on the way if that cannot do anything twice.
    fn call(&self, method: &Method, path: &str, body: Bytes, limit: u64) -> anyhow::Result<Answer> {
        let mut failed = None;
        for attempt in 0..TRIES {
            let pause = match self.try_call(method, path, body.clone(), limit) {
                Ok(answer) => match answer.again {
                    Some(wait) if answer.status == StatusCode::TOO_MANY_REQUESTS => {
                        failed = Some(check(&answer).err().unwrap_or_else(|| anyhow!("it asks too often")));
                        wait.min(MAX_WAIT)
                    }
                    _ => return Ok(answer),
                },
                Err(error) if *method == Method::POST => return Err(self.told(error)),
                Err(error) => {
                    failed = Some(error);
                    Duration::from_secs(1 << attempt.min(3))
                }
            };
            if attempt + 1 < TRIES {
                std::thread::sleep(pause);
            }
        }
        Err(self.told(failed.unwrap_or_else(|| anyhow!("no answer"))))
    }

    fn told(&self, error: anyhow::Error) -> anyhow::Error {
        let pinned = error.chain().any(|cause| cause.to_string().contains("certificate"));
        let hint = if pinned {
            "it does not show a certificate of the CA that was pinned at login; log in again with a new token if HQ's CA changed"
        } else {
            "see that `lineside-hq serve --operators` runs there and that its port is open from here"
        };
        error.context(format!("HQ's host {} cannot be asked", self.authority)).hint(hint)
    }

    fn try_call(&self, method: &Method, path: &str, body: Bytes, limit: u64) -> anyhow::Result<Answer> {
        let open = self.open.lock().unwrap_or_else(PoisonError::into_inner).take();
        let asked = async {
            let mut ready = None;
            if let Some(mut sender) = open {
                ready = sender.ready().await.is_ok().then_some(sender);
            }
            let mut sender = match ready {
                Some(sender) => sender,
                None => timeout(CONNECT, self.connect()).await.context("it does not answer")??,
            };
            let request = Request::builder()
                .method(method)
                .uri(format!("{API}{path}"))
                .header(HOST, &self.authority)
                .header(AUTHORIZATION, format!("Bearer {}", *self.token))
                .header(CONTENT_LENGTH, body.len())
                .body(Whole(Some(body)))
                .context("cannot write a request")?;
            let response = sender.send_request(request).await.context("the connection broke")?;
            let answer = read(response, limit).await?;
            Ok::<_, anyhow::Error>((sender, answer))
        };
        let (sender, answer) =
            self.runtime.block_on(async { timeout(REQUEST, asked).await.context("it takes too long to answer")? })?;
        *self.open.lock().unwrap_or_else(PoisonError::into_inner) = Some(sender);
        Ok(answer)
    }

    async fn connect(&self) -> anyhow::Result<SendRequest<Whole>> {
        let stream = TcpStream::connect(&self.authority).await.context("it cannot be reached")?;
        stream.set_nodelay(true).context("cannot use the connection")?;
        let stream = self.tls.connect(self.server.clone(), stream).await.context("TLS did not come about")?;
        let shown = stream.get_ref().1.peer_certificates().unwrap_or_default();
        let ca = shown.iter().find(|certificate| Digest::of(certificate) == self.ca).map(|ca| ca.to_vec());
        *self.authority_certificate.lock().unwrap_or_else(PoisonError::into_inner) = ca;
        let (sender, connection) = handshake(TokioIo::new(stream)).await.context("HTTP did not come about")?;
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "the connection to HQ's host ended early");
            }
        });
        Ok(sender)
    }
}

async fn read(response: Response<Incoming>, limit: u64) -> anyhow::Result<Answer> {
    let status = response.status();
    let again = response.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok()?.parse().ok());
    let (mut body, mut bytes) = (response.into_body(), Vec::new());
    while let Some(frame) = std::future::poll_fn(|context| Pin::new(&mut body).poll_frame(context)).await {
        if let Ok(data) = frame.context("the answer broke off")?.into_data() {
            let all = bytes.len().saturating_add(data.len());
            ensure!(u64::try_from(all).is_ok_and(|all| all <= limit), "the answer is over {limit} bytes");
            bytes.extend_from_slice(&data);
        }
    }
    Ok(Answer { status, body: bytes, again: again.map(Duration::from_secs) })
}

/// Fails with the reason of a refusal.
pub(crate) fn check(answer: &Answer) -> anyhow::Result<()> {
    if answer.status.is_success() {
        return Ok(());
    }
    let told = serde_json::from_slice::<Refusal>(&answer.body).ok();
    let reason = told.as_ref().map_or_else(|| answer.status.to_string(), |refusal| printable(&refusal.reason));
    if answer.status == StatusCode::UNAUTHORIZED {
        return Err(anyhow!("HQ's host does not accept the API token: it has ended or was revoked")
            .hint("`lineside-hq api-token add NAME` there makes another, and `lineside-hq login URL` takes it here"));
    }
    bail!("HQ's host refuses: {reason}")
}

fn parse<T: DeserializeOwned>(body: &[u8]) -> anyhow::Result<T> {
    serde_json::from_slice(body).context("HQ's host answers what is not understood here; both need the same version")
}

/// A text of the host for people, without control characters.
pub(crate) fn printable(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(2_000).collect()
}

/// Takes the control characters out of every text in an answer.
pub(crate) fn make_printable(value: &mut serde_json::Value) {
    match value {
        serde_json::Value::String(text) => *text = printable(text),
        serde_json::Value::Array(all) => all.iter_mut().for_each(make_printable),
        serde_json::Value::Object(all) => all.values_mut().for_each(make_printable),
        _ => {}
    }
}

/// Host and port of `HOST`, `HOST:PORT` or `[V6]:PORT`.
fn split(rest: &str) -> Option<(&str, u16)> {
    let (host, port) = match rest.strip_prefix('[') {
        Some(v6) => v6.split_once(']').map(|(host, port)| (host, port.strip_prefix(':')))?,
        None => rest.split_once(':').map_or((rest, None), |(host, port)| (host, Some(port))),
    };
    let port = port.map_or(Ok(8444), str::parse).ok()?;
    let good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | ':');
    (!host.is_empty() && host.chars().all(good)).then_some((host, port))
}

fn is_this_machine(host: &str) -> bool {
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// A request's body.
struct Whole(Option<Bytes>);

impl Body for Whole {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut TaskContext<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        Poll::Ready(self.0.take().filter(|bytes| !bytes.is_empty()).map(|bytes| Ok(Frame::data(bytes))))
    }

    fn is_end_stream(&self) -> bool {
        self.0.as_ref().is_none_or(Bytes::is_empty)
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.0.as_ref().map_or(0, |bytes| bytes.len() as u64))
    }
}

/// Verifies a server as webpki does (chain, name, validity, usage), under the CA with this SHA-256, which the server's chain
/// must have.
#[derive(Debug)]
struct PinnedCa {
    ca: Digest,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for PinnedCa {
    #[expect(clippy::disallowed_methods, reason = "a command runs now")]
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        _: TlsTime,
    ) -> Result<ServerCertVerified, Error> {
        let intermediates = intermediates.get(..MAX_CHAIN).unwrap_or(intermediates);
        let ca = intermediates
            .iter()
            .find(|certificate| Digest::of(certificate) == self.ca)
            .ok_or(Error::InvalidCertificate(CertificateError::UnknownIssuer))?;
        let mut roots = RootCertStore::empty();
        roots.add(ca.clone().into_owned())?;
        let inner = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&self.provider))
            .build()
            .map_err(|error| Error::General(error.to_string()))?;
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let now = TlsTime::since_unix_epoch(since);
        inner.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_has_a_host_and_may_have_a_port() {
        assert_eq!(split("hq.example.net"), Some(("hq.example.net", 8444)));
        assert_eq!(split("hq.example.net:9000"), Some(("hq.example.net", 9000)));
        assert_eq!(split("[2001:db8::1]:9000"), Some(("2001:db8::1", 9000)));
        assert_eq!(split("[2001:db8::1]"), Some(("2001:db8::1", 8444)));
        for wrong in ["", "hq:port", "hq/path", "user@hq", "hq:70000", "[::1"] {
            assert_eq!(split(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn what_the_host_says_is_printed_without_control_characters() {
        assert_eq!(printable("no\u{1b}[2J way\n"), "no[2J way");
    }
}
