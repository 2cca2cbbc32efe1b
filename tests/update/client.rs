//! The HTTPS client against servers that lie, stall and break.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use lineside::ids::UnixTime;
use lineside::store::StoreError;
use lineside::update::client::{Client, ClientLimits, FetchError, GetOutcome, ObjectSink};
use lineside::update::clock::Timekeeper;
use lineside::update::tls::Anchors;

use crate::pki::{Ca, DAY, NOW, SetClock, days, right_time};
use crate::server::{Reply, Request, Server};

fn limits() -> ClientLimits {
    ClientLimits {
        connect: Duration::from_secs(5),
        answer: Duration::from_secs(5),
        min_rate: 1024,
        window: Duration::from_secs(20),
    }
}

fn client(ca: &Ca, time: Timekeeper) -> Client {
    Client::new(Anchors::Pinned(vec![ca.der.clone()]), None, time, limits()).unwrap()
}

/// What a `GET` comes to when the server answers so.
async fn get(handler: impl Fn(&Request) -> Reply + Send + Sync + 'static) -> Result<GetOutcome, FetchError> {
    let ca = Ca::new();
    let server = Server::start(ca.good_server(), handler).await;
    client(&ca, right_time()).get(&format!("{}/x", server.url), 1000, None).await
}

/// The same through a server with this certificate, at this time.
async fn with_certificate(
    config: rustls::ServerConfig,
    anchors: Anchors,
    time: Timekeeper,
) -> Result<GetOutcome, FetchError> {
    let server = Server::start(config, |_| Reply::ok("hello")).await;
    let client = Client::new(anchors, None, time, limits()).unwrap();
    client.get(&format!("{}/x", server.url), 1000, None).await
}

fn hello() -> GetOutcome {
    GetOutcome::Body(b"hello".to_vec(), None)
}

// Answers

#[tokio::test]
async fn a_body_and_its_entity_tag_come_back() {
    let fetched = get(|_| Reply::Full(200, vec![("etag", "\"v1\"".into())], b"hello".to_vec())).await.unwrap();
    assert_eq!(fetched, GetOutcome::Body(b"hello".to_vec(), Some("\"v1\"".to_owned())));
}

#[tokio::test]
async fn an_unchanged_file_is_one_short_answer_on_the_kept_connection() {
    let ca = Ca::new();
    let server = Server::start(ca.good_server(), |request| match request.header("if-none-match") {
        Some("\"v1\"") => Reply::status(304),
        _ => Reply::ok("hello"),
    });
    let server = server.await;
    let client = client(&ca, right_time());
    let url = format!("{}/x", server.url);
    assert_eq!(client.get(&url, 1000, Some("\"v1\"")).await.unwrap(), GetOutcome::NotModified);
    assert_eq!(client.get(&url, 1000, Some("\"v0\"")).await.unwrap(), hello());
}

#[tokio::test]
async fn a_304_that_nobody_asked_for_is_an_error() {
    assert!(matches!(get(|_| Reply::status(304)).await, Err(FetchError::Status { status: 304, .. })));
}

#[tokio::test]
async fn what_is_not_there_is_missing_whether_404_or_403() {
    assert_eq!(get(|_| Reply::status(404)).await.unwrap(), GetOutcome::Missing);
    assert_eq!(get(|_| Reply::status(403)).await.unwrap(), GetOutcome::Missing);
}

#[tokio::test]
async fn a_refusal_says_why() {
    let body = r#"{"code":"revoked","reason":"this site was\u001b[31m revoked"}"#;
    let refused = get(move |_| Reply::Full(403, vec![], body.into())).await.unwrap_err();
    assert!(refused.to_string().contains("this site was[31m revoked (revoked)"), "{refused}");
}

#[tokio::test]
async fn redirects_are_not_followed() {
    let redirect = |_: &Request| Reply::Full(302, vec![("location", "/elsewhere".into())], vec![]);
    assert!(matches!(get(redirect).await, Err(FetchError::Status { status: 302, .. })));
}

#[tokio::test]
async fn a_broken_server_is_an_error_and_its_retry_after_is_read() {
    let error = get(|_| Reply::Full(503, vec![("retry-after", "120".into())], b"<html>".to_vec())).await.unwrap_err();
    assert!(matches!(error, FetchError::Status { status: 503, refusal: None, .. }), "{error}");
    assert_eq!(error.retry_after(), Some(Duration::from_secs(120)));
}

#[tokio::test]
async fn nothing_is_asked_in_compressed_form_and_we_say_who_we_are() {
    let ca = Ca::new();
    let server = Server::start(ca.good_server(), |_| Reply::ok("hello")).await;
    client(&ca, right_time()).get(&format!("{}/x", server.url), 1000, None).await.unwrap();
    let requests = server.requests.lock().unwrap();
    assert_eq!(requests[0].header("accept-encoding"), None);
    assert_eq!(requests[0].header("user-agent"), None, "it costs bytes at every poll");
}

// Limits

#[tokio::test]
async fn an_announced_length_over_the_limit_is_refused_at_once() {
    let reply = |_: &Request| Reply::Hang(b"HTTP/1.1 200 OK\r\ncontent-length: 1001\r\n\r\n".to_vec());
    assert!(matches!(get(reply).await, Err(FetchError::TooLarge { limit: 1000 })));
}

#[tokio::test]
async fn a_body_without_end_is_cut_off_at_the_limit() {
    let reply = |_: &Request| Reply::Endless(b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n".to_vec());
    assert!(matches!(get(reply).await, Err(FetchError::TooLarge { limit: 1000 })));
}

#[tokio::test]
async fn headers_without_end_are_cut_off() {
    let reply = |_: &Request| Reply::Endless(b"HTTP/1.1 200 OK\r\nx: ".to_vec());
    assert!(matches!(get(reply).await, Err(FetchError::Unreachable { .. })));
}

#[tokio::test]
async fn a_body_that_stops_coming_is_given_up() {
    let ca = Ca::new();
    let stalled = |_: &Request| Reply::Hang(b"HTTP/1.1 200 OK\r\ncontent-length: 900\r\n\r\nabc".to_vec());
    let server = Server::start(ca.good_server(), stalled).await;
    let limits = ClientLimits { window: Duration::from_millis(200), ..limits() };
    let client = Client::new(Anchors::Pinned(vec![ca.der.clone()]), None, right_time(), limits).unwrap();
    let result = client.get(&format!("{}/x", server.url), 1000, None).await;
    assert!(matches!(result, Err(FetchError::Stalled(_))), "{result:?}");
}

#[tokio::test]
async fn garbage_is_an_error() {
    for garbage in [&b"\x00\x01\x02garbage\r\n\r\n"[..], b"HTTP/1.1 9999 X\r\n\r\n", b""] {
        let reply = move |_: &Request| Reply::Raw(garbage.to_vec());
        assert!(matches!(get(reply).await, Err(FetchError::Unreachable { .. })), "{garbage:?}");
    }
}

#[tokio::test]
async fn a_body_that_ends_early_is_an_error() {
    let reply = |_: &Request| Reply::Raw(b"HTTP/1.1 200 OK\r\ncontent-length: 900\r\n\r\nabc".to_vec());
    assert!(matches!(get(reply).await, Err(FetchError::Truncated(_))));
}

#[tokio::test]
async fn plain_http_is_refused_before_anything_is_sent() {
    let ca = Ca::new();
    let error = client(&ca, right_time()).get("http://127.0.0.1:1/x", 1, None).await.unwrap_err();
    assert!(matches!(error, FetchError::Url(_)), "{error}");
}

#[tokio::test]
async fn nobody_listening_is_unreachable() {
    let ca = Ca::new();
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let error = client(&ca, right_time()).get(&format!("https://127.0.0.1:{port}/x"), 1, None).await.unwrap_err();
    assert_eq!(error.state().code(), "unreachable", "{error}");
}

#[tokio::test]
async fn a_report_over_the_limit_is_not_sent() {
    let ca = Ca::new();
    let error = client(&ca, right_time()).post("https://127.0.0.1:1/x", vec![0; 16 * 1024 + 1]).await.unwrap_err();
    assert!(matches!(error, FetchError::TooLarge { .. }), "{error}");
}

// Whom we talk to

#[tokio::test]
async fn a_server_of_another_ca_is_refused() {
    let (ours, other) = (Ca::new(), Ca::new());
    let error = with_certificate(other.good_server(), Anchors::Pinned(vec![ours.der]), right_time()).await.unwrap_err();
    assert!(matches!(error, FetchError::Certificate { .. }), "{error}");
}

#[tokio::test]
async fn an_expired_certificate_is_refused_synchronised_or_not() {
    let ca = Ca::new();
    for synchronised in [true, false] {
        let time = Timekeeper::new(SetClock::new(NOW, synchronised), Some(NOW));
        let config = ca.server(days(-30), days(-1));
        let error = with_certificate(config, Anchors::Pinned(vec![ca.der.clone()]), time).await.unwrap_err();
        assert!(matches!(error, FetchError::Certificate { .. }), "{error}");
    }
}

#[tokio::test]
async fn a_certificate_from_our_future_passes_only_while_the_clock_is_unsynchronised() {
    let ca = Ca::new();
    let anchors = || Anchors::Pinned(vec![ca.der.clone()]);
    // The box woke up in 1970 and knows only when it was built; HQ's certificate is of next year.
    let lost = Timekeeper::new(SetClock::new(UnixTime(5), false), None);
    let future = || ca.server(days(300), days(390));
    assert_eq!(with_certificate(future(), anchors(), lost).await.unwrap(), hello());

    let sure = Timekeeper::new(SetClock::new(NOW, true), None);
    let error = with_certificate(future(), anchors(), sure).await.unwrap_err();
    assert!(matches!(error, FetchError::Certificate { .. }), "{error}");
}

#[tokio::test]
async fn a_certificate_that_ends_before_it_begins_is_refused() {
    let ca = Ca::new();
    let lost = Timekeeper::new(SetClock::new(UnixTime(5), false), None);
    let config = ca.server(days(300), UnixTime(days(300).0 - DAY));
    let error = with_certificate(config, Anchors::Pinned(vec![ca.der.clone()]), lost).await.unwrap_err();
    assert!(matches!(error, FetchError::Certificate { .. }), "{error}");
}

#[tokio::test]
async fn enrolment_finds_its_ca_in_the_chain_by_digest() {
    let (ca, other) = (Ca::new(), Ca::new());
    let found = with_certificate(ca.good_server(), Anchors::ByDigest(ca.digest()), right_time()).await;
    assert_eq!(found.unwrap(), hello());
    let error = with_certificate(ca.good_server(), Anchors::ByDigest(other.digest()), right_time()).await.unwrap_err();
    assert!(matches!(error, FetchError::Certificate { .. }), "{error}");
}

#[tokio::test]
async fn a_chain_that_shows_our_ca_without_being_signed_by_it_is_refused() {
    let (ca, other) = (Ca::new(), Ca::new());
    // The other CA's certificate, with ours laid behind it.
    let mut config = other.good_server();
    config.cert_resolver = crate::pki::with_chain(&other, vec![ca.der.clone()]);
    let error = with_certificate(config, Anchors::ByDigest(ca.digest()), right_time()).await.unwrap_err();
    assert!(matches!(error, FetchError::Certificate { .. }), "{error}");
}

#[tokio::test]
async fn a_certificate_for_another_host_is_refused() {
    let ca = Ca::new();
    let server = Server::start(ca.good_server(), |_| Reply::ok("hello")).await;
    let url = server.url.replace("127.0.0.1", "localhost");
    let error = client(&ca, right_time()).get(&url, 1000, None).await.unwrap_err();
    assert!(matches!(error, FetchError::Certificate { .. }), "{error}");
}

#[tokio::test]
async fn tls_before_1_3_is_refused() {
    let ca = Ca::new();
    let config = crate::pki::only_tls12(&ca);
    let error = with_certificate(config, Anchors::Pinned(vec![ca.der.clone()]), right_time()).await.unwrap_err();
    assert!(matches!(error, FetchError::Alert { .. } | FetchError::Unreachable { .. }), "{error}");
}

#[tokio::test]
async fn our_certificate_is_shown_and_a_server_that_misses_it_says_so() {
    let ca = Ca::new();
    let config = || ca.mutual_server();
    let anchors = || Anchors::Pinned(vec![ca.der.clone()]);
    let server = Server::start(config(), |_| Reply::ok("hello")).await;
    let shown = Client::new(anchors(), Some(ca.client_auth()), right_time(), limits()).unwrap();
    assert_eq!(shown.get(&server.url, 1000, None).await.unwrap(), hello());

    let error = with_certificate(config(), anchors(), right_time()).await.unwrap_err();
    assert!(matches!(error, FetchError::Alert { .. }), "{error}");
    assert!(error.calls_for_renewal(false) && !error.calls_for_renewal(true));
}

// Objects

/// What was downloaded so far, as the store would keep it.
#[derive(Debug, Default)]
pub struct Memory {
    pub bytes: Vec<u8>,
    pub restarts: u32,
    pub full_at: Option<usize>,
}

impl ObjectSink for Memory {
    fn offset(&self) -> u64 {
        self.bytes.len() as u64
    }

    fn restart(&mut self) -> Result<(), StoreError> {
        self.restarts += 1;
        self.bytes.clear();
        Ok(())
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), StoreError> {
        if self.full_at.is_some_and(|at| self.bytes.len() + bytes.len() > at) {
            return Err(StoreError::Full { needed: 1, free: 0 });
        }
        self.bytes.extend_from_slice(bytes);
        Ok(())
    }
}

const OBJECT: usize = 700_000;

fn content() -> Vec<u8> {
    (0..OBJECT).map(|at| (at * 7 % 251) as u8).collect()
}

async fn object(
    handler: impl Fn(&Request) -> Reply + Send + Sync + 'static,
    sink: Memory,
) -> (Result<Memory, FetchError>, Vec<Request>) {
    let ca = Ca::new();
    let server = Server::start(ca.good_server(), handler).await;
    let result = client(&ca, right_time()).object(&format!("{}/o", server.url), OBJECT as u64, sink).await;
    let requests = server.requests.lock().unwrap().clone();
    (result, requests)
}

/// Part `from..` of the object, as a server that knows ranges sends it.
fn part(from: usize) -> Reply {
    let range = format!("bytes {from}-{}/{OBJECT}", OBJECT - 1);
    Reply::Full(206, vec![("content-range", range), ("etag", "\"o\"".into())], content()[from..].to_vec())
}

#[tokio::test]
async fn an_object_arrives_whole() {
    let (result, _) = object(|_| Reply::ok(content()), Memory::default()).await;
    assert_eq!(result.unwrap().bytes, content());
}

#[tokio::test]
async fn a_download_goes_on_where_it_stopped() {
    let sink = Memory { bytes: content()[..65_552].to_vec(), ..Memory::default() };
    let (result, requests) = object(|_| part(65_552), sink).await;
    assert_eq!(requests[0].header("range"), Some("bytes=65552-"));
    assert_eq!(result.unwrap().bytes, content());
}

#[tokio::test]
async fn a_connection_that_breaks_is_taken_up_again_under_the_same_entity_tag() {
    let calls = AtomicU32::new(0);
    let handler = move |request: &Request| match calls.fetch_add(1, Ordering::SeqCst) {
        0 => {
            let head = format!("HTTP/1.1 200 OK\r\netag: \"o\"\r\ncontent-length: {OBJECT}\r\n\r\n");
            Reply::Raw([head.as_bytes(), &content()[..300_000]].concat())
        }
        _ => part(request.header("range").unwrap()[6..].trim_end_matches('-').parse().unwrap()),
    };
    let (result, requests) = object(handler, Memory::default()).await;
    assert_eq!(result.unwrap().bytes, content());
    assert_eq!(requests[1].header("if-range"), Some("\"o\""));
}

#[tokio::test]
async fn a_server_without_ranges_is_read_from_the_start() {
    let sink = Memory { bytes: vec![9; 65_552], ..Memory::default() };
    let (result, _) = object(|_| Reply::ok(content()), sink).await;
    let sink = result.unwrap();
    assert_eq!((sink.restarts, sink.bytes), (1, content()));
}

#[tokio::test]
async fn another_part_than_the_one_asked_for_is_not_taken() {
    let sink = Memory { bytes: content()[..65_552].to_vec(), ..Memory::default() };
    let (result, requests) = object(|_| part(65_553), sink).await;
    assert!(matches!(result, Err(FetchError::Unreachable { .. })));
    assert_eq!(requests.len(), 1);
}

#[tokio::test]
async fn an_object_longer_than_signed_is_refused() {
    let (announced, _) = object(|_| Reply::ok([content(), vec![0]].concat()), Memory::default()).await;
    assert!(matches!(announced, Err(FetchError::TooLarge { .. })));
    let endless = |_: &Request| Reply::Endless(b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n".to_vec());
    let (silent, _) = object(endless, Memory::default()).await;
    assert!(matches!(silent, Err(FetchError::TooLarge { .. })));
}

#[tokio::test]
async fn an_object_that_keeps_breaking_without_progress_is_given_up() {
    let broken = |_: &Request| Reply::Raw(b"HTTP/1.1 200 OK\r\ncontent-length: 700000\r\n\r\n".to_vec());
    let (result, requests) = object(broken, Memory::default()).await;
    assert!(matches!(result, Err(FetchError::Truncated(_))));
    assert_eq!(requests.len(), 1);
}

#[tokio::test]
async fn a_missing_object_is_named() {
    let (result, _) = object(|_| Reply::status(404), Memory::default()).await;
    assert_eq!(result.unwrap_err().state().code(), "missing-object");
}

#[tokio::test]
async fn a_full_disk_ends_the_download() {
    let sink = Memory { full_at: Some(400_000), ..Memory::default() };
    let (result, _) = object(|_| Reply::ok(content()), sink).await;
    assert_eq!(result.unwrap_err().state().code(), "disk-full");
}
