//! HQ, or whoever stands in its place, does what it should not. Each time `lineside status` says what is wrong, the
//! site serves what it has, waits longer before it asks again, and goes on when it is over.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use lineside::api::CheckIn;
use lineside::ids::Generation;
use lineside::status::{Stats, StatusReport};
use lineside::update::client::ClientLimits;
use lineside::update::{PollOutcome, Updater, UpdaterSettings};

use crate::hq::{Hostile, timestamp_path};
use crate::pki::{Ca, days};
use crate::server::{Reply, Request};
use crate::site::Site;

/// A site that serves generation 1 while generation 2 is published, with a record and little patience.
struct Attacked {
    site: Site,
    stats: Stats,
}

impl Attacked {
    async fn new() -> Self {
        let site = Site::serving().await;
        site.hq.world().publish(&[("a.cfg", b"two"), ("b.cfg", &[8; 200_000])]);
        let mut this = Self { site, stats: Stats::new() };
        this.restart();
        this
    }

    fn restart(&mut self) {
        let client = ClientLimits {
            connect: Duration::from_secs(2),
            answer: Duration::from_secs(2),
            min_rate: 1024,
            window: Duration::from_millis(300),
        };
        let settings = UpdaterSettings { client, ..UpdaterSettings::default() };
        let Site { store, identity, clock, .. } = &self.site;
        let clock = Box::new(clock.clone());
        let (store, identity, stats) = (store.clone(), identity.clone(), self.stats.clone());
        self.site.updater = Updater::new(store, identity, settings, stats, clock, Arc::new(CheckIn::default));
    }

    /// What `lineside status` says after a poll; what is served is as before.
    async fn polls(&mut self) -> (PollOutcome, StatusReport) {
        let outcome = self.site.poll().await;
        let report = StatusReport::of(&self.stats);
        assert_eq!((self.site.generation(), self.site.content("a.cfg")), (1, b"one".to_vec()), "{}", outcome.reason);
        assert_eq!((outcome.state.code(), &outcome.reason), (report.state.as_str(), &report.reason));
        assert_eq!(report.generation, Generation(1));
        assert!(report.text().contains(&format!("{}: ", outcome.state)), "{}", report.text());
        (outcome, report)
    }

    /// With this in HQ's place the state is `state`, for a reason that says `why`. Afterwards all is well again.
    async fn says(mut self, hostile: impl FnMut(&Request) -> Option<Reply> + Send + 'static, state: &str, why: &str) {
        let hostile: Hostile = Box::new(hostile);
        self.site.hq.world().hostile = Some(hostile);
        for _ in 0..2 {
            let (outcome, report) = self.polls().await;
            assert_eq!(report.state, state, "{}", report.reason);
            assert!(report.reason.contains(why), "{}", report.reason);
            assert_eq!(outcome.backs_off, state != "no-release");
        }
        self.site.hq.world().hostile = None;
        self.recovers().await;
    }

    async fn recovers(&mut self) {
        let outcome = self.site.poll().await;
        assert_eq!(outcome.state.code(), "ok", "{}", outcome.reason);
        assert_eq!((self.site.generation(), self.site.content("b.cfg")), (2, vec![8; 200_000]));
    }
}

/// Answers requests whose path has this in it.
fn to(part: &'static str, reply: impl Fn() -> Reply + Send + 'static) -> impl FnMut(&Request) -> Option<Reply> + Send {
    move |request| request.path.contains(part).then(&reply)
}

const HEAD: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 2000\r\n\r\n";

#[tokio::test]
async fn a_timestamp_at_one_byte_a_second_is_given_up() {
    let slow = || Reply::Trickle(HEAD.to_vec(), vec![b'{'; 30]);
    Attacked::new().await.says(to("timestamp.json", slow), "unreachable", "too slowly").await;
}

#[tokio::test]
async fn an_object_at_one_byte_a_second_is_given_up() {
    let slow = || Reply::Trickle(b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n".to_vec(), vec![7; 30]);
    Attacked::new().await.says(to("/objects/", slow), "unreachable", "too slowly").await;
}

#[tokio::test]
async fn a_server_that_never_answers_is_given_up() {
    Attacked::new().await.says(to("timestamp.json", || Reply::Hang(Vec::new())), "unreachable", "").await;
}

#[tokio::test]
async fn a_timestamp_without_end_is_cut_off() {
    let endless = || Reply::Endless(b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n{".to_vec());
    Attacked::new().await.says(to("timestamp.json", endless), "too-large", "bytes allowed").await;
}

#[tokio::test]
async fn an_object_without_end_is_cut_off() {
    let endless = || Reply::Endless(b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n".to_vec());
    Attacked::new().await.says(to("/objects/", endless), "too-large", "bytes allowed").await;
}

#[tokio::test]
async fn a_redirect_is_not_followed_and_said() {
    let redirect = || Reply::Full(302, vec![("location", "https://127.0.0.1:1/".into())], vec![]);
    Attacked::new().await.says(to("timestamp.json", redirect), "http", "302").await;
}

#[tokio::test]
async fn an_object_behind_a_redirect_is_not_taken() {
    let redirect = || Reply::Full(307, vec![("location", "https://127.0.0.1:1/".into())], vec![]);
    Attacked::new().await.says(to("/objects/", redirect), "http", "307").await;
}

#[tokio::test]
async fn a_500_is_said() {
    Attacked::new().await.says(to("/", || Reply::status(500)), "http", "500").await;
}

#[tokio::test]
async fn a_500_for_objects_is_said() {
    Attacked::new().await.says(to("/objects/", || Reply::status(500)), "http", "500").await;
}

#[tokio::test]
async fn a_404_for_everything_looks_like_an_unpublished_site_and_takes_nothing_away() {
    Attacked::new().await.says(to("/", || Reply::status(404)), "no-release", "not published").await;
}

#[tokio::test]
async fn a_404_for_an_object_is_said() {
    Attacked::new().await.says(to("/objects/", || Reply::status(404)), "missing-object", "is not there").await;
}

#[tokio::test]
async fn a_404_for_the_manifest_is_said() {
    Attacked::new().await.says(to(".manifest", || Reply::status(404)), "missing-object", "is not there").await;
}

#[tokio::test]
async fn a_404_for_metadata_below_the_timestamp_is_said() {
    Attacked::new().await.says(to(".snapshot.json", || Reply::status(404)), "refused", "missing").await;
}

#[tokio::test]
async fn garbage_in_place_of_http_is_said() {
    let garbage = || Reply::Raw(b"\x16\x03\x01 220 smtp ready\r\n\r\n".to_vec());
    Attacked::new().await.says(to("/", garbage), "unreachable", "").await;
}

#[tokio::test]
async fn garbage_in_place_of_metadata_is_said() {
    let garbage = || Reply::ok("<html>Please log in to the hotel's network</html>");
    Attacked::new().await.says(to("timestamp.json", garbage), "refused", "malformed").await;
}

#[tokio::test]
async fn garbage_in_place_of_an_object_is_said() {
    let garbage = || Reply::ok("<html>Please log in to the hotel's network</html>");
    let mut site = Attacked::new().await;
    // Too short, too long or other bytes: which it is depends on the object.
    site.site.hq.world().hostile = Some(Box::new(to("/objects/", garbage)));
    let (outcome, _) = site.polls().await;
    assert!(
        ["corrupt", "unreachable", "too-large"].contains(&outcome.state.code()),
        "{}: {}",
        outcome.state,
        outcome.reason
    );
    assert!(outcome.backs_off);
    site.site.hq.world().hostile = None;
    site.recovers().await;
}

#[tokio::test]
async fn a_truncated_timestamp_is_said() {
    let short = || Reply::Raw([HEAD, b"{\"signed\":"].concat());
    Attacked::new().await.says(to("timestamp.json", short), "unreachable", "broke").await;
}

#[tokio::test]
async fn a_certificate_of_another_ca_is_said() {
    shows(|_| Ca::new().good_server()).await;
}

#[tokio::test]
async fn an_expired_certificate_is_said() {
    shows(|ca| ca.server(days(-30), days(-1))).await;
}

#[tokio::test]
async fn a_certificate_that_is_not_yet_valid_is_said_where_the_clock_is_sure() {
    shows(|ca| ca.server(days(3), days(30))).await;
}

async fn shows(certificate: impl FnOnce(&Ca) -> rustls::ServerConfig) {
    let mut attacked = Attacked::new().await;
    let (bad, good) = {
        let world = attacked.site.hq.world();
        (certificate(&world.ca), world.ca.good_server())
    };
    attacked.site.hq.shown.show(&bad);
    attacked.site.hq.server.forget();
    for _ in 0..2 {
        let (outcome, report) = attacked.polls().await;
        assert!(outcome.state.code() == "certificate" && outcome.backs_off, "{}", outcome.reason);
        assert!(report.reason.contains("certificate of 127.0.0.1"), "{}", report.reason);
    }
    // Nothing was told to whoever that was.
    assert!(attacked.site.hq.server.paths().is_empty());
    attacked.site.hq.shown.show(&good);
    attacked.recovers().await;
}

#[tokio::test]
async fn a_cut_connection_costs_at_most_a_chunk_again_even_after_a_restart() {
    let mut attacked = Attacked::new().await;
    let size = 1_000_000_usize;
    let entry = {
        let mut world = attacked.site.hq.world();
        let bytes: Vec<u8> = (0..size as u32).map(|at| (at.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
        world.publish(&[("a.cfg", b"three"), ("big.bin", &bytes)]);
        world.file("big.bin", &bytes)
    };
    let path = crate::hq::object_path(&entry.blob);
    let content = attacked.site.hq.world().tree[&path].clone();
    let (sent, cut) = (Arc::new(AtomicU64::new(0)), Arc::new(Mutex::new(Some(700_000_usize))));
    let (counted, cutting, whole) = (sent.clone(), cut.clone(), content.clone());
    attacked.site.hq.world().hostile = Some(Box::new(move |request: &Request| {
        if request.path != path {
            return None;
        }
        let from = request.header("range").map_or(0, |range| range[6..].trim_end_matches('-').parse().unwrap());
        let until = match *cutting.lock().unwrap() {
            // The line is dead now.
            Some(until) if from > 0 || until == 0 => from.min(until),
            Some(until) => until,
            None => whole.len(),
        };
        counted.fetch_add((until - from) as u64, Ordering::SeqCst);
        let head = match from {
            0 => format!("HTTP/1.1 200 OK\r\netag: \"o\"\r\ncontent-length: {}\r\n\r\n", whole.len()),
            _ => format!(
                "HTTP/1.1 206 X\r\netag: \"o\"\r\ncontent-range: bytes {from}-{}/{}\r\ncontent-length: {}\r\n\r\n",
                whole.len() - 1,
                whole.len(),
                whole.len() - from
            ),
        };
        Some(Reply::Raw([head.as_bytes(), &whole[from..until]].concat()))
    }));
    let (outcome, _) = attacked.polls().await;
    assert_eq!(outcome.state.code(), "unreachable", "{}", outcome.reason);
    let before = sent.load(Ordering::SeqCst);
    assert_eq!(before, 700_000);
    *cut.lock().unwrap() = None;
    attacked.restart();
    let outcome = attacked.site.poll().await;
    assert_eq!(outcome.state.code(), "ok", "{}", outcome.reason);
    assert_eq!(attacked.site.content("big.bin").len(), size);
    let again = sent.load(Ordering::SeqCst) - content.len() as u64;
    println!("{size} bytes, cut after 700,000: {again} bytes sent twice");
    assert!(again <= 66_000, "{again} bytes were sent twice");
}

#[tokio::test]
async fn while_hq_fails_the_site_asks_seldom() {
    let mut attacked = Attacked::new().await;
    attacked.site.hq.world().hostile = Some(Box::new(to("/", || Reply::status(500))));
    attacked.site.hq.server.forget();
    for _ in 0..5 {
        attacked.polls().await;
    }
    // One question and one check-in a poll, no retries inside it; when the next poll comes is `backoff`'s affair.
    let paths = attacked.site.hq.server.paths();
    assert_eq!(paths.iter().filter(|path| **path == timestamp_path()).count(), 5, "{paths:?}");
    assert!(paths.len() <= 10, "{paths:?}");
}
