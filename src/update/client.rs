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
use api::{MAX_BODY_BYTES, Refusal};
use store::{Download, StoreError};

/// Objects are fetched so many at a time.
pub(super) const PARALLEL: usize = 8;
/// Downloads are written to disk in steps of this many bytes, on threads that do not serve phones.
const WRITE_BYTES: usize = 64 * 1024;
/// An object is asked for at most so many times in one poll, and only while each try brings something.
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

/// What a `GET` of a small file brought.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GetOutcome {
    /// The body, and the entity tag to ask with next time.
    Body(Vec<u8>, Option<String>),
    /// The file is still the one of the entity tag (304).
    NotModified,
    /// There is no such file (404 or 403).
    Missing,
}

/// Where the bytes of an object go. Outside tests that is a [`Download`].
pub trait ObjectSink: Send + 'static {
    /// How many bytes are here already.
    fn offset(&self) -> u64;
    /// Throws away the bytes that are here.
    fn restart(&mut self) -> Result<(), StoreError>;
    /// Appends bytes.
    fn write(&mut self, bytes: &[u8]) -> Result<(), StoreError>;
}

impl ObjectSink for Download {
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
            // Objects are fetched side by side, each over a connection that the next one takes up; one connection
            // outlives the time between polls, and a NAT on the way is reminded of it.
            .pool_max_idle_per_host(PARALLEL)
            .pool_idle_timeout(Duration::from_secs(15 * 60))
            .tcp_keepalive(Duration::from_secs(60))
            // No User-Agent: HQ hears the version in check-ins, and this is sent with every poll.
            .build()
            .map_err(|error| TlsError::ClientAuth(chain(&error)))?;
        Ok(Self { http, limits })
    }

    /// Fetches a small file, unless it is still the one of `etag`. More than `max_bytes` is an error.
    pub async fn get(&self, url: &str, max_bytes: u64, etag: Option<&str>) -> Result<GetOutcome, FetchError> {
        let mut request = self.request(Method::GET, url)?;
        if let Some(etag) = etag {
            request = request.header(IF_NONE_MATCH, etag);
        }
        let response = self.send(request, url).await?;
        match response.status() {
            StatusCode::OK => {
                let etag = header(response.headers(), &ETAG).and_then(http::etag);
                Ok(GetOutcome::Body(self.body(response, url, max_bytes).await?, etag))
            }
            StatusCode::NOT_MODIFIED if etag.is_some() => Ok(GetOutcome::NotModified),
            StatusCode::NOT_FOUND => Ok(GetOutcome::Missing),
            // Object stores say so of what is not there; HQ says why it refuses us.
            StatusCode::FORBIDDEN => match self.status(response, url).await {
                refused @ FetchError::Status { refusal: Some(_), .. } => Err(refused),
                _ => Ok(GetOutcome::Missing),
            },
            _ => Err(self.status(response, url).await),
        }
    }

    /// Posts JSON and returns the answer's body, at most [`MAX_BODY_BYTES`] either way.
    pub async fn post(&self, url: &str, json: Vec<u8>) -> Result<Vec<u8>, FetchError> {
        self.post_as("application/json", url, json).await
    }

    /// [`Client::post`] of another media type.
    pub async fn post_as(&self, media_type: &str, url: &str, body: Vec<u8>) -> Result<Vec<u8>, FetchError> {
        let limit = u64::try_from(MAX_BODY_BYTES).unwrap_or(u64::MAX);
        if body.len() > MAX_BODY_BYTES {
            return Err(FetchError::TooLarge { limit });
        }
        let request = self.request(Method::POST, url)?.header("content-type", media_type).body(body);
        let response = self.send(request, url).await?;
        if response.status() == StatusCode::OK {
            self.body(response, url, limit).await
        } else {
            Err(self.status(response, url).await)
        }
    }

    /// Fetches an object of exactly `bytes` bytes into `sink`, going on where it stands. A broken connection is
    /// taken up again while each try brings something. What the sink holds afterwards is still unverified.
    pub async fn object<S: ObjectSink>(&self, url: &str, bytes: u64, mut sink: S) -> Result<S, FetchError> {
        let mut etag = None;
        for tries_left in (0..OBJECT_TRIES).rev() {
            let before = sink.offset();
            if before >= bytes {
                break;
            }
            let broken = match self.object_once(url, bytes, sink, &mut etag).await {
                Ok(sink) => return Ok(sink),
                Err(broken) => broken,
            };
            let may_go_on = matches!(broken.error, FetchError::Truncated(_) | FetchError::Unreachable { .. });
            match broken.sink {
                Some(back) if may_go_on && tries_left > 0 && back.offset() > before => sink = back,
                _ => return Err(broken.error),
            }
            tracing::debug!(url, have = sink.offset(), bytes, "connection broke, resuming");
        }
        Ok(sink)
    }

    /// One request for the rest of an object.
    async fn object_once<S: ObjectSink>(
        &self,
        url: &str,
        bytes: u64,
        mut sink: S,
        etag: &mut Option<String>,
    ) -> Result<S, Broken<S>> {
        let start = sink.offset();
        let mut response = match self.ask_for_object(url, start, etag.as_deref()).await {
            Ok(response) => response,
            Err(error) => return Err(Broken { sink: Some(sink), error }),
        };
        *etag = header(response.headers(), &ETAG).and_then(http::etag);
        let range = header(response.headers(), &CONTENT_RANGE).and_then(http::content_range);
        let the_part = start > 0 && range == Some((start, bytes.saturating_sub(1), bytes));
        let refused = match response.status() {
            StatusCode::PARTIAL_CONTENT if the_part => Ok(()),
            // The whole although a part was asked for.
            StatusCode::OK if start > 0 => sink.restart().map_err(FetchError::from),
            StatusCode::OK => Ok(()),
            // Another part than the one asked for: what is here is of no use with this server.
            StatusCode::PARTIAL_CONTENT | StatusCode::RANGE_NOT_SATISFIABLE => {
                let why = "it sends another part than the one asked for".to_owned();
                let wrong = FetchError::Unreachable { host: host(url), why };
                Err(sink.restart().map_or_else(FetchError::from, |()| wrong))
            }
            StatusCode::NOT_FOUND | StatusCode::FORBIDDEN => Err(FetchError::Missing(url.to_owned())),
            _ => return Err(Broken { sink: Some(sink), error: self.status(response, url).await }),
        };
        let left = bytes.saturating_sub(sink.offset());
        let too_large = response.content_length().is_some_and(|announced| announced > left);
        match refused {
            Ok(()) if too_large => Err(Broken { sink: Some(sink), error: FetchError::TooLarge { limit: bytes } }),
            Ok(()) => self.pour(&mut response, url, left, sink).await,
            Err(error) => Err(Broken { sink: Some(sink), error }),
        }
    }

    async fn ask_for_object(&self, url: &str, start: u64, etag: Option<&str>) -> Result<Response, FetchError> {
        let mut request = self.request(Method::GET, url)?;
        if start > 0 {
            request = request.header(RANGE, format!("bytes={start}-"));
            // Known within one poll only. An object's name is its digest, so other content fails in any case.
            if let Some(etag) = etag.filter(|etag| http::is_strong(etag)) {
                request = request.header(IF_RANGE, etag);
            }
        }
        self.send(request, url).await
    }

    /// Writes a body of exactly `left` bytes.
    async fn pour<S: ObjectSink>(
        &self,
        response: &mut Response,
        url: &str,
        mut left: u64,
        mut sink: S,
    ) -> Result<S, Broken<S>> {
        let mut rate = MinimumRate::new(&self.limits);
        // Most objects are small.
        let room = |left: u64| usize::try_from(left).unwrap_or(usize::MAX).min(WRITE_BYTES);
        let mut buffer = Vec::with_capacity(room(left));
        loop {
            let end = match rate.chunk(response, url).await {
                Ok(Some(bytes)) => match left.checked_sub(u64::try_from(bytes.len()).unwrap_or(u64::MAX)) {
                    Some(rest) => {
                        left = rest;
                        buffer.extend_from_slice(&bytes);
                        None
                    }
                    None => Some(Err(FetchError::TooLarge { limit: sink.offset().saturating_add(left) })),
                },
                Ok(None) if left == 0 => Some(Ok(())),
                Ok(None) => Some(Err(FetchError::Truncated(host(url)))),
                Err(error) => Some(Err(error)),
            };
            if end.is_some() || buffer.len() >= WRITE_BYTES {
                let full = std::mem::replace(&mut buffer, Vec::with_capacity(room(left)));
                let written = blocking(move || {
                    let result = sink.write(&full);
                    (sink, result)
                });
                match written.await {
                    Some((back, Ok(()))) => sink = back,
                    Some((back, Err(error))) => return Err(Broken { sink: Some(back), error: error.into() }),
                    None => return Err(Broken { sink: None, error: crashed().into() }),
                }
            }
            match end {
                Some(Ok(())) => return Ok(sink),
                Some(Err(error)) => return Err(Broken { sink: Some(sink), error }),
                None => {}
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
        let mut rate = MinimumRate::new(&self.limits);
        let mut body = Vec::new();
        while let Some(bytes) = rate.chunk(&mut response, url).await? {
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

/// A download that ended early, and its sink unless the thread that wrote it died.
struct Broken<S> {
    sink: Option<S>,
    error: FetchError,
}

/// Gives up on a body that comes more slowly than [`ClientLimits::min_rate`].
struct MinimumRate {
    window: Duration,
    least: u64,
    until: Instant,
    bytes: u64,
}

impl MinimumRate {
    #[expect(clippy::disallowed_methods, reason = "a service has a clock")]
    fn new(limits: &ClientLimits) -> Self {
        let least = limits.min_rate.saturating_mul(limits.window.as_secs().max(1));
        Self { window: limits.window, least, until: Instant::now() + limits.window, bytes: 0 }
    }

    #[expect(clippy::disallowed_methods, reason = "a service has a clock")]
    async fn chunk(
        &mut self,
        response: &mut Response,
        url: &str,
    ) -> Result<Option<impl std::ops::Deref<Target = [u8]> + use<>>, FetchError> {
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

/// Runs work that may wait for the disk on a thread where that holds nobody up. `None` if it panicked.
pub(super) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    tokio::task::spawn_blocking(work).await.ok()
}

/// The error for a thread that panicked at work on the disk. That is a bug; told as an I/O error, it does not end the
/// updater.
pub(super) fn crashed() -> StoreError {
    let source = std::io::Error::other("the disk thread ended unexpectedly");
    StoreError::Io { action: "work on", path: "the store".into(), source }
}

/// Does `work` within `limit`. `None` if it takes longer.
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

/// What an error comes down to: its two innermost sources. The outer ones say only that a request was being sent.
fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let links: Vec<String> =
        std::iter::successors(Some(error), |error| error.source()).map(ToString::to_string).collect();
    let text = match links.as_slice() {
        [.., outer, inner] if !outer.contains(inner.as_str()) && links.len() > 2 => format!("{outer}: {inner}"),
        [.., inner] => inner.clone(),
        [] => String::new(),
    };
    printable(&text, 512)
}

/// Text from outside, made fit for logs.
fn printable(text: &str, max: usize) -> String {
    text.chars().filter(|c| !c.is_control()).take(max).collect()
}
