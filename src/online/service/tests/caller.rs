//! A running service and those who call it, over real TLS and by hand-written HTTP.

use std::collections::BTreeMap;
use std::fs;

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer, ServerName};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio_rustls::TlsConnector;

use super::super::*;
use crate::testing::{Appliance, csr, fleet, token_for};
use api::{self, Certificate, EnrolmentToken, Refusal};
use ids::Digest;
use repository::layout::Layout;

/// A running service, and what its callers need.
pub(super) struct Hq {
    _dir: tempfile::TempDir,
    pub layout: Layout,
    pub address: SocketAddr,
    stop: CancellationToken,
    running: tokio::task::JoinHandle<anyhow::Result<()>>,
}

/// An answer as it came.
#[derive(Debug)]
pub(super) struct Got {
    pub status: u16,
    pub headers: BTreeMap<String, String>,
    pub body: Vec<u8>,
}

/// One caller; a connection per request.
#[derive(Clone)]
pub(super) struct Caller {
    pub address: SocketAddr,
    pub tls: Arc<rustls::ClientConfig>,
}

impl Hq {
    pub(super) async fn start() -> Self {
        Self::start_after(|_| ()).await
    }

    /// The same, with something done to the directory before.
    pub(super) async fn start_after(prepare: impl FnOnce(&Layout)) -> Self {
        let (dir, layout) = fleet();
        prepare(&layout);
        let options = ServeOptions { dir: layout.online(), listen: "127.0.0.1:0".parse().unwrap() };
        let server = Server::bind(options).unwrap();
        let address = server.local_addr().unwrap();
        let stop = CancellationToken::new();
        let running = tokio::spawn(server.run(stop.clone()));
        Self { _dir: dir, layout, address, stop, running }
    }

    pub(super) async fn end(self) {
        self.stop.cancel();
        self.running.await.unwrap().unwrap();
    }

    pub(super) fn stranger(&self) -> Caller {
        self.caller(None)
    }

    pub(super) fn caller(&self, identity: Option<(String, rcgen::KeyPair)>) -> Caller {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(self.layout.online().join("ca.pem")).unwrap()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = rustls::ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_root_certificates(roots);
        let tls = match identity {
            None => builder.with_no_client_auth(),
            Some((chain, key)) => {
                let chain = CertificateDer::pem_slice_iter(chain.as_bytes()).collect::<Result<_, _>>().unwrap();
                builder.with_client_auth_cert(chain, PrivatePkcs8KeyDer::from(key.serialize_der()).into()).unwrap()
            }
        };
        Caller { address: self.address, tls: Arc::new(tls) }
    }

    pub(super) async fn enrolled(&self, token: &EnrolmentToken, seed: u8) -> Caller {
        let appliance = Appliance::new(seed);
        let answer = self.stranger().post(api::ENROL_PATH, &appliance.request(token)).await;
        let certificate: Certificate = answer.json();
        self.caller(Some((certificate.certificate, appliance.key)))
    }

    /// A site that has enrolled.
    pub(super) async fn site(&self, site: &str, seed: u8) -> Caller {
        self.enrolled(&token_for(&self.layout, site), seed).await
    }

    /// A certificate of our CA that the database does not know.
    pub(super) fn certificate_for(&self, site: &str, now: UnixTime) -> (String, rcgen::KeyPair) {
        let key = rcgen::KeyPair::generate().unwrap();
        let csr = crate::ca::Csr::parse(&csr(&key)).unwrap();
        let ca = Ca::load(&self.layout.online()).unwrap();
        (ca.issue_client(&csr, &"f-1".parse().unwrap(), &site.parse().unwrap(), now).unwrap().chain, key)
    }

    /// A site that enrolled back then.
    pub(super) async fn recorded(&self, site: &str, then: UnixTime) -> Caller {
        let token = token_for(&self.layout, site);
        let appliance = Appliance::new(1);
        let ca = Ca::load(&self.layout.online()).unwrap();
        let db = Db::open(&self.layout.database()).unwrap();
        let issue = |csr: &ca::Csr, fleet: &_, site: &_| ca.issue_client(csr, fleet, site, then);
        let (_, issued) = db.enrol(&appliance.request(&token), then, issue).unwrap().unwrap();
        self.caller(Some((issued.chain, appliance.key)))
    }

    pub(super) fn publish(&self, site: &str, timestamp: &[u8]) {
        let dir = self.layout.public().join("sites").join(site).join("metadata");
        fs::create_dir_all(&dir).unwrap();
        fs::write(dir.join("timestamp.json"), timestamp).unwrap();
    }

    pub(super) fn object(&self, bytes: &[u8]) -> String {
        let name = Digest::of(bytes).to_string();
        let path = format!("objects/{}/{name}", &name[..2]);
        fs::create_dir_all(self.layout.public().join(&path).parent().unwrap()).unwrap();
        fs::write(self.layout.public().join(&path), bytes).unwrap();
        format!("/{path}")
    }
}

pub(super) type Connection = tokio_rustls::client::TlsStream<TcpStream>;

impl Caller {
    pub(super) async fn connect(&self) -> std::io::Result<Connection> {
        let stream = TcpStream::connect(self.address).await?;
        let name = ServerName::try_from("localhost").unwrap();
        TlsConnector::from(Arc::clone(&self.tls)).connect(name, stream).await
    }

    pub(super) async fn try_send(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> std::io::Result<Got> {
        let mut connection = self.connect().await?;
        let headers = [headers, &[("connection", "close")]].concat();
        request(&mut connection, method, path, &headers, body).await
    }

    pub(super) async fn send(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Got {
        self.try_send(method, path, headers, body).await.unwrap()
    }

    pub(super) async fn get(&self, path: &str, headers: &[(&str, &str)]) -> Got {
        self.send("GET", path, headers, b"").await
    }

    pub(super) async fn post<T: serde::Serialize>(&self, path: &str, body: &T) -> Got {
        self.send("POST", path, &[], &serde_json::to_vec(body).unwrap()).await
    }
}

/// Sends a request exactly as it is written here: no library tidies the path up.
pub(super) async fn request(
    connection: &mut Connection,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &[u8],
) -> std::io::Result<Got> {
    let mut text = format!("{method} {path} HTTP/1.1\r\nhost: localhost\r\n");
    if method == "POST" {
        text.push_str(&format!("content-length: {}\r\n", body.len()));
    }
    for (name, value) in headers {
        text.push_str(&format!("{name}: {value}\r\n"));
    }
    text.push_str("\r\n");
    connection.write_all(text.as_bytes()).await?;
    connection.write_all(body).await?;
    read_answer(connection, method == "HEAD").await
}

pub(super) async fn read_answer(connection: &mut Connection, head: bool) -> std::io::Result<Got> {
    let mut text = Vec::new();
    while !text.ends_with(b"\r\n\r\n") {
        text.push(connection.read_u8().await?);
    }
    let text = String::from_utf8(text).unwrap();
    let mut lines = text.trim_end().lines();
    let status = lines.next().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
    let headers: BTreeMap<String, String> = lines
        .map(|line| line.split_once(": ").unwrap())
        .map(|(name, value)| (name.to_lowercase(), value.to_owned()))
        .collect();
    let len = headers.get("content-length").map_or(0, |len| len.parse().unwrap());
    let mut body = vec![0; if head { 0 } else { len }];
    connection.read_exact(&mut body).await?;
    Ok(Got { status, headers, body })
}

impl Got {
    pub(super) fn json<T: serde::de::DeserializeOwned>(&self) -> T {
        assert_eq!(self.status, 200, "{}", String::from_utf8_lossy(&self.body));
        serde_json::from_slice(&self.body).unwrap()
    }

    pub(super) fn refusal(&self) -> Refusal {
        serde_json::from_slice(&self.body).unwrap()
    }
}
