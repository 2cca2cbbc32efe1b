//! The only HTTPS client of the appliance: bounded in bytes, rate and time; no redirect, proxy or compression.
//!
//! Everything that it brings is unverified. Metadata is small and comes back whole; objects go straight to disk.

use std::future::Future;
use std::time::Duration;

use reqwest::header::{CONTENT_RANGE, ETAG, HeaderMap, HeaderName, IF_NONE_MATCH, IF_RANGE, RANGE, RETRY_AFTER};
use reqwest::{Method, RequestBuilder, Response, StatusCode};
use tokio::time::Instant;

use super::clock::Timekeeper;
pub use super::fetch_error::FetchError;
use super::http;
use super::tls::{self, Anchors, ClientAuth, TlsError};
use crate::api::{MAX_BODY_BYTES, Refusal};
use crate::store::{Download, StoreError};

/// Downloads are written to disk in steps of this many bytes, away from the threads that serve phones.
const WRITE_BYTES: usize = 256 * 1024;
/// An object is asked for so many times in one poll while each try brings something.
const OBJECT_TRIES: u32 = 4;

/// Bounds on every exchange.
#[derive(Debug, Clone, Copy)]
pub struct ClientLimits {
    /// To connect, TLS included.
    pub connect: Duration,
    /// From the request to the answer's headers.
    pub answer: Duration,
    /// Bodies slower than this, in bytes a second averaged over [`ClientLimits::window`], are given up.
    pub min_rate: u64,
    /// See [`ClientLimits::min_rate`].
    pub window: Duration,
}

impl Default for ClientLimits {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(10),
            answer: Duration::from_secs(30),
            min_rate: 1024,
            window: Duration::from_secs(30),
        }
    }
}

/// What a `GET` of something small came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fetched {
    /// The body, and the entity tag to ask with next time.
    Body(Vec<u8>, Option<String>),
    /// Still what the entity tag says (304).
    NotModified,
    /// Not there (404 or 403).
    Missing,
}

/// Where an object's bytes go. [`Download`] is the real one.
pub trait Sink: Send + 'static {
    /// How many bytes are here already.
    fn offset(&self) -> u64;
    /// Throws them away.
    fn restart(&mut self) -> Result<(), StoreError>;
    /// Appends.
    fn write(&mut self, bytes: &[u8]) -> Result<(), StoreError>;
}

impl Sink for Download {
    fn offset(&self) -> u64 {
        Self::offset(self)
    }

    fn restart(&mut self) -> Result<(), StoreError> {
        Self::restart(self)
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), StoreError> {
        Self::write(self, bytes)
    }
}

/// Connections to HQ and to whoever serves the published tree. Clones share them.
#[derive(Debug, Clone)]
pub struct Client {
    http: reqwest::Client,
    limits: ClientLimits,
}

impl Client {
    /// A client that trusts servers under `anchors` only, and shows `auth`.
    pub fn new(
        anchors: Anchors,
        auth: Option<ClientAuth>,
        time: Timekeeper,
        limits: ClientLimits,
    ) -> Result<Self, TlsError> {
        let config = tls::config(anchors, auth, time)?;
        let http = reqwest::Client::builder()
            .tls_backend_preconfigured(config)
            .https_only(true)
            .http1_only()
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .retry(reqwest::retry::never())
            .connect_timeout(limits.connect)
            // One connection is kept between polls; a NAT on the way is reminded of it.
            .pool_max_idle_per_host(1)
            .pool_idle_timeout(Duration::from_secs(15 * 60))
            .tcp_keepalive(Duration::from_secs(60))
            .user_agent(concat!("lineside/", env!("CARGO_PKG_VERSION")))
            .build()
            .map_err(|error| TlsError::ClientAuth(chain(&error)))?;
        Ok(Self { http, limits })
    }

    /// Fetches something small, if it is not what `etag` says. More than `max_bytes` is an error.
    pub async fn get(&self, url: &str, max_bytes: u64, etag: Option<&str>) -> Result<Fetched, FetchError> {
        let mut request = self.request(Method::GET, url)?;
        if let Some(etag) = etag {
            request = request.header(IF_NONE_MATCH, etag);
        }
        let response = self.send(request, url).await?;
        match response.status() {
            StatusCode::OK => {
                let etag = header(response.headers(), &ETAG).and_then(http::etag);
                Ok(Fetched::Body(self.body(response, url, max_bytes).await?, etag))
            }
            StatusCode::NOT_MODIFIED if etag.is_some() => Ok(Fetched::NotModified),
            StatusCode::NOT_FOUND => Ok(Fetched::Missing),
            // Object stores say so of what is not there; HQ says why it refuses us.
            StatusCode::FORBIDDEN => match self.status(response, url).await {
                refused @ FetchError::Status { refusal: Some(_), .. } => Err(refused),
                _ => Ok(Fetched::Missing),
            },
            _ => Err(self.status(response, url).await),
        }
    }

    /// Posts JSON and returns the answer's body, at most [`MAX_BODY_BYTES`] either way.
    pub async fn post(&self, url: &str, json: Vec<u8>) -> Result<Vec<u8>, FetchError> {
        let limit = u64::try_from(MAX_BODY_BYTES).unwrap_or(u64::MAX);
        if json.len() > MAX_BODY_BYTES {
            return Err(FetchError::TooLarge { limit });
        }
        let request = self.request(Method::POST, url)?.header("content-type", "application/json").body(json);
        let response = self.send(request, url).await?;
        if response.status() == StatusCode::OK {
            self.body(response, url, limit).await
        } else {
            Err(self.status(response, url).await)
        }
    }

    /// Fetches an object of exactly `bytes` bytes into `sink`, going on where it stands. A broken connection is
    /// taken up again while each try brings something. What the sink holds afterwards is still unverified.
    pub async fn object<S: Sink>(&self, url: &str, bytes: u64, mut sink: S) -> Result<S, FetchError> {
        let mut etag = None;
        let mut tries = 0;
        while sink.offset() < bytes {
            let before = sink.offset();
            let (back, result) = self.object_once(url, bytes, sink, &mut etag).await;
            sink = back.ok_or_else(|| FetchError::Truncated(host(url)))?;
            tries += 1;
            match result {
                Err(FetchError::Truncated(_) | FetchError::Unreachable { .. })
                    if tries < OBJECT_TRIES && sink.offset() > before =>
                {
                    tracing::debug!(url, have = sink.offset(), bytes, "connection broke, resuming");
                }
                Err(error) => return Err(error),
                Ok(()) => {}
            }
        }
        Ok(sink)
    }

    /// One request for the rest of an object. The sink comes back unless the thread that writes died.
    async fn object_once<S: Sink>(
        &self,
        url: &str,
        bytes: u64,
        mut sink: S,
        etag: &mut Option<String>,
    ) -> (Option<S>, Result<(), FetchError>) {
        let start = sink.offset();
        let asked = self.request(Method::GET, url).map(|mut request| {
            if start > 0 {
                request = request.header(RANGE, format!("bytes={start}-"));
                // Known only within a poll; an object's name is its digest, so another content fails there anyway.
                if let Some(etag) = etag.as_ref().filter(|etag| http::is_strong(etag)) {
                    request = request.header(IF_RANGE, etag.as_str());
                }
            }
            request
        });
        let response = match asked {
            Ok(request) => self.send(request, url).await,
            Err(error) => Err(error),
        };
        let mut response = match response {
            Ok(response) => response,
            Err(error) => return (Some(sink), Err(error)),
        };
        *etag = header(response.headers(), &ETAG).and_then(http::etag);
        let range = header(response.headers(), &CONTENT_RANGE).and_then(http::content_range);
        match response.status() {
            StatusCode::PARTIAL_CONTENT if start > 0 && range == Some((start, bytes.saturating_sub(1), bytes)) => {}
            // The range was not honoured, or is not the one asked for: from the start, in this or the next request.
            StatusCode::OK | StatusCode::PARTIAL_CONTENT | StatusCode::RANGE_NOT_SATISFIABLE => {
                if start > 0
                    && let Err(error) = sink.restart()
                {
                    return (Some(sink), Err(error.into()));
                }
                if response.status() != StatusCode::OK {
                    let why = "the server sends another part than the one asked for".to_owned();
                    return (Some(sink), Err(FetchError::Unreachable { host: host(url), why }));
                }
            }
            StatusCode::NOT_FOUND | StatusCode::FORBIDDEN => {
                return (Some(sink), Err(FetchError::Missing(url.to_owned())));
            }
            _ => return (Some(sink), Err(self.status(response, url).await)),
        }
        let left = bytes.saturating_sub(sink.offset());
        if response.content_length().is_some_and(|announced| announced > left) {
            return (Some(sink), Err(FetchError::TooLarge { limit: bytes }));
        }
        self.pour(&mut response, url, left, sink).await
    }

    /// Writes a body of exactly `left` bytes.
    async fn pour<S: Sink>(
        &self,
        response: &mut Response,
        url: &str,
        mut left: u64,
        sink: S,
    ) -> (Option<S>, Result<(), FetchError>) {
        let mut pace = Pace::new(&self.limits);
        let mut sink = Some(sink);
        let mut buffer = Vec::with_capacity(WRITE_BYTES);
        loop {
            let chunk = pace.chunk(response, url).await;
            let ended = match &chunk {
                Ok(Some(bytes)) => match left.checked_sub(u64::try_from(bytes.len()).unwrap_or(u64::MAX)) {
                    Some(rest) => {
                        left = rest;
                        buffer.extend_from_slice(bytes);
                        None
                    }
                    None => return (sink, Err(FetchError::TooLarge { limit: left })),
                },
                Ok(None) if left == 0 => Some(Ok(())),
                Ok(None) => Some(Err(FetchError::Truncated(host(url)))),
                Err(_) => Some(chunk.map(|_| ())),
            };
            if (ended.is_some() && !buffer.is_empty()) || buffer.len() >= WRITE_BYTES {
                let full = std::mem::replace(&mut buffer, Vec::with_capacity(WRITE_BYTES));
                let Some(mut owned) = sink.take() else { return (None, Ok(())) };
                let written = blocking(move || {
                    let result = owned.write(&full);
                    (owned, result)
                });
                match written.await {
                    Some((owned, Ok(()))) => sink = Some(owned),
                    Some((owned, Err(error))) => return (Some(owned), Err(error.into())),
                    None => return (None, Ok(())),
                }
            }
            if let Some(result) = ended {
                return (sink, result);
            }
        }
    }

    fn request(&self, method: Method, url: &str) -> Result<RequestBuilder, FetchError> {
        let parsed = reqwest::Url::parse(url).ok().filter(|url| url.scheme() == "https");
        Ok(self.http.request(method, parsed.ok_or_else(|| FetchError::Url(url.to_owned()))?))
    }

    async fn send(&self, request: RequestBuilder, url: &str) -> Result<Response, FetchError> {
        let limit = self.limits.connect + self.limits.answer;
        match tokio::time::timeout(limit, request.send()).await {
            Ok(Ok(response)) => Ok(response),
            Ok(Err(error)) => Err(network(&error, url)),
            Err(_) => Err(FetchError::Unreachable { host: host(url), why: "no answer in time".to_owned() }),
        }
    }

    /// A whole body of at most `max_bytes`.
    async fn body(&self, mut response: Response, url: &str, max_bytes: u64) -> Result<Vec<u8>, FetchError> {
        let too_large = || FetchError::TooLarge { limit: max_bytes };
        if response.content_length().is_some_and(|announced| announced > max_bytes) {
            return Err(too_large());
        }
        let max = usize::try_from(max_bytes).unwrap_or(usize::MAX);
        let mut pace = Pace::new(&self.limits);
        let mut body = Vec::new();
        while let Some(bytes) = pace.chunk(&mut response, url).await? {
            if bytes.len() > max.saturating_sub(body.len()) {
                return Err(too_large());
            }
            body.extend_from_slice(&bytes);
        }
        Ok(body)
    }

    /// The error for a status that says no.
    async fn status(&self, response: Response, url: &str) -> FetchError {
        let status = response.status().as_u16();
        let retry_after = header(response.headers(), &RETRY_AFTER).and_then(http::retry_after);
        let body = self.body(response, url, 4096).await.unwrap_or_default();
        let refusal = serde_json::from_slice(&body).ok().map(|refusal: Refusal| Refusal {
            code: printable(&refusal.code, 64),
            reason: printable(&refusal.reason, 256),
        });
        FetchError::Status { host: host(url), status, retry_after, refusal }
    }
}

/// Gives up on a body that comes too slowly.
struct Pace {
    window: Duration,
    least: u64,
    until: Instant,
    bytes: u64,
}

impl Pace {
    fn new(limits: &ClientLimits) -> Self {
        let least = limits.min_rate.saturating_mul(limits.window.as_secs().max(1));
        Self { window: limits.window, least, until: Instant::now() + limits.window, bytes: 0 }
    }

    async fn chunk(
        &mut self,
        response: &mut Response,
        url: &str,
    ) -> Result<Option<impl AsRef<[u8]> + std::ops::Deref<Target = [u8]> + use<>>, FetchError> {
        loop {
            match tokio::time::timeout_at(self.until, response.chunk()).await {
                Ok(Ok(chunk)) => {
                    let length = chunk.as_ref().map_or(0, |bytes| bytes.len());
                    self.bytes = self.bytes.saturating_add(u64::try_from(length).unwrap_or(u64::MAX));
                    return Ok(chunk);
                }
                Ok(Err(error)) if is_truncation(&error) => return Err(FetchError::Truncated(host(url))),
                Ok(Err(error)) => return Err(network(&error, url)),
                Err(_) if self.bytes < self.least => return Err(FetchError::Stalled(host(url))),
                Err(_) => {
                    self.bytes = 0;
                    self.until = Instant::now() + self.window;
                }
            }
        }
    }
}

/// Runs something that may wait for the disk where that holds nobody up. `None` if it panicked.
pub(super) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    tokio::task::spawn_blocking(work).await.ok()
}

/// Ends `work` after `limit`.
pub(super) async fn within<T>(limit: Duration, work: impl Future<Output = T>) -> Option<T> {
    tokio::time::timeout(limit, work).await.ok()
}

fn header<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

/// Host and port of a URL, for messages.
fn host(url: &str) -> String {
    let parsed = reqwest::Url::parse(url).ok();
    let host = parsed.as_ref().and_then(|url| Some((url.host_str()?, url.port_or_known_default()?)));
    host.map_or_else(|| url.to_owned(), |(host, port)| format!("{host}:{port}"))
}

/// What went wrong on the network, with TLS told apart.
fn network(error: &reqwest::Error, url: &str) -> FetchError {
    let host = host(url);
    match tls_error(error) {
        Some(rustls::Error::AlertReceived(alert)) => FetchError::Alert { host, why: format!("{alert:?}") },
        Some(tls @ (rustls::Error::InvalidCertificate(_) | rustls::Error::NoCertificatesPresented)) => {
            FetchError::Certificate { host, why: tls.to_string() }
        }
        _ => FetchError::Unreachable { host, why: chain(error) },
    }
}

fn tls_error<'a>(error: &'a (dyn std::error::Error + 'static)) -> Option<&'a rustls::Error> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(tls) = error.downcast_ref() {
            return Some(tls);
        }
        let inner = error.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
        if let Some(inner) = inner {
            return tls_error(inner);
        }
        next = error.source();
    }
    None
}

/// Whether a body ended early: hyper says so in words, rustls when there was no close_notify.
fn is_truncation(error: &reqwest::Error) -> bool {
    error.is_decode() && tls_error(error).is_none()
}

/// An error with its sources, which `Display` of the outermost leaves out.
fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(error) = next {
        let more = error.to_string();
        if !text.contains(&more) {
            text.push_str(": ");
            text.push_str(&more);
        }
        next = error.source();
    }
    printable(&text, 512)
}

/// Text from outside, made fit for logs.
fn printable(text: &str, max: usize) -> String {
    text.chars().filter(|c| !c.is_control()).take(max).collect()
}
