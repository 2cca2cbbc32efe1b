//! The command line that the public TUF client conformance suite drives, on Lineside's own client: its workflow
//! ([`lineside::tuf`]) and its HTTPS client ([`lineside::update::client`]). Not shipped.
//!
//! The suite serves plain HTTP and the client refuses that. So a TLS front on loopback, made here, stands between
//! them; it changes no byte of what passes.
#![allow(clippy::disallowed_methods, clippy::unwrap_used, clippy::expect_used)]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::SystemTime;

use anyhow::{Context as _, anyhow, bail, ensure};
use clap::{Parser, Subcommand};
use lineside::ids::UnixTime;
use lineside::store::StoreError;
use lineside::tuf::schema::Target;
use lineside::tuf::{MetadataLimits, Refresh, RefreshStep, Search, SearchStep, Trusted};
use lineside::update::HostClock;
use lineside::update::client::{Client, ClientLimits, GetOutcome, ObjectSink};
use lineside::update::clock::Timekeeper;
use lineside::update::tls::Anchors;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

#[derive(Parser)]
struct Arguments {
    /// Where trusted metadata is kept, under names without versions
    #[arg(long)]
    metadata_dir: PathBuf,
    #[arg(long)]
    metadata_url: Option<String>,
    /// Several are fetched in this order; the first that fails ends it
    #[arg(long)]
    target_name: Vec<String>,
    #[arg(long)]
    target_base_url: Option<String>,
    #[arg(long)]
    target_dir: Option<PathBuf>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Init { trusted_root: PathBuf },
    Refresh,
    Download,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    match run(Arguments::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::from(1)
        }
    }
}

async fn run(arguments: Arguments) -> anyhow::Result<()> {
    let dir = &arguments.metadata_dir;
    if let Command::Init { trusted_root } = &arguments.command {
        fs::copy(trusted_root, dir.join("root.json"))?;
        return Ok(());
    }
    let front = Front::new()?;
    let url = front.before(arguments.metadata_url.as_deref().context("--metadata-url is missing")?).await?;
    let mut trusted = refresh(&front.client, dir, &url).await?;
    if let Command::Download = arguments.command {
        let base = front.before(arguments.target_base_url.as_deref().context("--target-base-url is missing")?).await?;
        let out = arguments.target_dir.as_deref().context("--target-dir is missing")?;
        for name in &arguments.target_name {
            download(&front.client, &mut trusted, (dir, &url), &base, name, out)
                .await
                .with_context(|| format!("target {name}"))?;
        }
    }
    Ok(())
}

/// One refresh; what held is kept, whatever becomes of the rest.
async fn refresh(client: &Client, dir: &Path, url: &str) -> anyhow::Result<Trusted> {
    let mut files = BTreeMap::new();
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let name = entry.file_name().into_string().map_err(|name| anyhow!("{} is no role's file", name.display()))?;
        files.insert(name, fs::read(entry.path())?);
    }
    let trusted = Trusted::reopen(&files).context("what is in the metadata directory")?;
    let mut machine = Refresh::start(trusted, MetadataLimits::default(), UnixTime::of(SystemTime::now()));
    let result = loop {
        let RefreshStep::Fetch(ask) = machine.step() else { break Ok(()) };
        let told = match client.get(&format!("{url}{}", ask.path), ask.max_bytes, None).await {
            Ok(GetOutcome::Body(bytes, _)) => machine.received(&bytes),
            Ok(GetOutcome::Missing | GetOutcome::NotModified) => machine.missing(),
            Err(error) => break Err(anyhow::Error::new(error)),
        };
        if let Err(error) = told {
            break Err(error.into());
        }
    };
    keep(dir, machine.trusted())?;
    result.map(|()| machine.trusted().clone())
}

fn keep(dir: &Path, trusted: &Trusted) -> anyhow::Result<()> {
    for entry in fs::read_dir(dir)? {
        fs::remove_file(entry?.path())?;
    }
    for (name, bytes) in trusted.files() {
        fs::write(dir.join(name), bytes)?;
    }
    Ok(())
}

/// One search; what held is kept, whatever becomes of the rest.
async fn search(
    client: &Client,
    trusted: &mut Trusted,
    (dir, url): (&Path, &str),
    name: &str,
) -> anyhow::Result<Target> {
    let now = UnixTime::of(SystemTime::now());
    let mut machine = Search::start(trusted.clone(), name, MetadataLimits::default(), now)?;
    let result = loop {
        let ask = match machine.step() {
            SearchStep::Fetch(ask) => ask,
            SearchStep::Found(target) => break Ok(target),
            SearchStep::NotFound => break Err(anyhow!("nobody whom we trust lists it")),
        };
        let told = match client.get(&format!("{url}{}", ask.path), ask.max_bytes, None).await {
            Ok(GetOutcome::Body(bytes, _)) => machine.received(&bytes),
            Ok(GetOutcome::Missing | GetOutcome::NotModified) => machine.missing(),
            Err(error) => break Err(anyhow::Error::new(error)),
        };
        if let Err(error) = told {
            break Err(error.into());
        }
    };
    *trusted = machine.trusted().clone();
    keep(dir, trusted)?;
    result
}

async fn download(
    client: &Client,
    trusted: &mut Trusted,
    kept: (&Path, &str),
    base: &str,
    name: &str,
    out: &Path,
) -> anyhow::Result<()> {
    let target = &search(client, trusted, kept, name).await?;
    let file = out.join(percent(name, false));
    if fs::read(&file).is_ok_and(|bytes| target.match_bytes(&bytes)) {
        return Ok(());
    }
    let path = match digest(target) {
        Some(digest) if trusted.root().consistent_snapshot => {
            let (folder, last) = name.rsplit_once('/').map_or(("", name), |(folder, last)| (folder, last));
            if folder.is_empty() { format!("{digest}.{last}") } else { format!("{folder}/{digest}.{last}") }
        }
        _ => name.to_owned(),
    };
    let body = client.object(&format!("{base}{}", percent(&path, true)), target.length, Body(Vec::new())).await?;
    ensure!(target.match_bytes(&body.0), "what came is not what was signed");
    Ok(fs::write(file, body.0)?)
}

fn digest(target: &Target) -> Option<String> {
    let other = || Some(target.hashes.others.get("sha512")?.as_str()?.to_owned());
    target.hashes.sha256.map(|digest| digest.to_string()).or_else(other)
}

fn percent(text: &str, slashes: bool) -> String {
    let mut out = String::new();
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) || (slashes && byte == b'/') {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

struct Body(Vec<u8>);

impl ObjectSink for Body {
    fn offset(&self) -> u64 {
        u64::try_from(self.0.len()).unwrap()
    }

    fn restart(&mut self) -> Result<(), StoreError> {
        self.0.clear();
        Ok(())
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), StoreError> {
        self.0.extend_from_slice(bytes);
        Ok(())
    }
}

/// TLS in front of plain HTTP, with a CA of its own that its client trusts.
struct Front {
    client: Client,
    tls: TlsAcceptor,
}

impl Front {
    fn new() -> anyhow::Result<Self> {
        let ca_key = KeyPair::generate()?;
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let ca = params.self_signed(&ca_key)?.der().clone();
        let key = KeyPair::generate()?;
        // Valid from 1975 to 4096: the suite sets the clock as it likes.
        let leaf =
            CertificateParams::new(vec!["127.0.0.1".to_owned()])?.signed_by(&key, &Issuer::new(params, ca_key))?;
        let chain: Vec<CertificateDer<'static>> = vec![leaf.der().clone(), ca.clone()];
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let config = rustls::ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_single_cert(chain, key)?;
        let time = Timekeeper::new(HostClock::assuming(true), None);
        let client = Client::new(Anchors::Pinned(vec![ca]), None, time, ClientLimits::default())?;
        Ok(Self { client, tls: TlsAcceptor::from(Arc::new(config)) })
    }

    /// The URL of a front before `url`, with a slash at its end.
    async fn before(&self, url: &str) -> anyhow::Result<String> {
        let Some((host, path)) = url.strip_prefix("http://").and_then(|rest| rest.split_once('/')) else {
            bail!("{url} is not http://HOST:PORT/PATH");
        };
        let (listener, host, tls) = (TcpListener::bind("127.0.0.1:0").await?, host.to_owned(), self.tls.clone());
        let address = listener.local_addr()?;
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (host, tls) = (host.clone(), tls.clone());
                tokio::spawn(async move {
                    let mut near = tls.accept(stream).await?;
                    let mut far = TcpStream::connect(host).await?;
                    tokio::io::copy_bidirectional(&mut near, &mut far).await
                });
            }
        });
        Ok(format!("https://{address}/{}/", path.trim_end_matches('/')))
    }
}
