//! One enrolled site and its polls: what it takes, what it turns away, and that serving goes on whatever happens.

use std::sync::Arc;
use std::time::Duration;

use lineside::access::Files as _;
use lineside::api::CheckIn;
use lineside::ids::{Digest, FileName, Generation, UnixTime};
use lineside::status::Stats;
use lineside::store::Store;
use lineside::update::client::ClientLimits;
use lineside::update::enrol::enrol_with;
use lineside::update::{PollOutcome, SiteIdentity, Updater, UpdaterSettings, load_active};
use tempfile::TempDir;
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

use crate::hq::{Hq, object_path, timestamp_path};
use crate::pki::{DAY, NOW, SetClock, days, right_time};

pub struct Site {
    pub hq: Hq,
    pub store: Store,
    pub identity: SiteIdentity,
    pub updater: Updater,
    /// What the updater has told people since it started.
    pub stats: Stats,
    pub clock: Arc<SetClock>,
    pub dir: TempDir,
}

impl Site {
    pub async fn enrolled() -> Self {
        let hq = Hq::start().await;
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("state")).unwrap();
        let identity = enrol_with(&hq.token(), &store, right_time(), ClientLimits::default()).await.unwrap();
        let clock = SetClock::new(NOW, true);
        let (updater, stats) = updater_and_stats(&store, &identity, &clock);
        hq.server.forget();
        Self { hq, store, identity, updater, stats, clock, dir }
    }

    /// The same with a first release of two files.
    pub async fn serving() -> Self {
        let mut site = Self::enrolled().await;
        site.hq.world().publish(&[("a.cfg", b"one"), ("b.cfg", &[7; 200_000])]);
        assert_eq!(site.poll().await.state.code(), "ok");
        assert_eq!(site.generation(), 1);
        site.hq.server.forget();
        site
    }

    pub async fn poll(&mut self) -> PollOutcome {
        self.updater.poll_once().await
    }

    /// What the disk serves.
    pub fn generation(&self) -> u64 {
        load_active(&self.store, &self.identity).unwrap().map_or(0, |opened| opened.generation().0)
    }

    pub fn content(&self, name: &str) -> Vec<u8> {
        let opened = load_active(&self.store, &self.identity).unwrap().unwrap();
        let name: FileName = name.parse().unwrap();
        let file = self.store.open(opened.catalog().file(&name).unwrap()).unwrap();
        (0..file.len().div_ceil(65_536)).flat_map(|index| file.chunk(index).unwrap().to_vec()).collect()
    }

    /// The process dies and starts again.
    pub fn restart(&mut self) {
        (self.updater, self.stats) = updater_and_stats(&self.store, &self.identity, &self.clock);
    }

    /// A poll that must change nothing that is served.
    pub async fn poll_in_vain(&mut self, state: &str) -> PollOutcome {
        let before = self.generation();
        let outcome = self.poll().await;
        assert_eq!(outcome.state.code(), state, "{}", outcome.reason);
        assert!(outcome.activated.is_none());
        assert_eq!(self.generation(), before);
        outcome
    }
}

fn updater(store: &Store, identity: &SiteIdentity, clock: &Arc<SetClock>) -> Updater {
    updater_and_stats(store, identity, clock).0
}

fn updater_and_stats(store: &Store, identity: &SiteIdentity, clock: &Arc<SetClock>) -> (Updater, Stats) {
    let settings = UpdaterSettings { start_spread: Duration::ZERO, ..UpdaterSettings::default() };
    let report = || CheckIn { version: "test".to_owned(), ..CheckIn::default() };
    let clock = Box::new(clock.clone());
    let stats = Stats::new();
    (Updater::new(store.clone(), identity.clone(), settings, stats.clone(), clock, Arc::new(report)), stats)
}

#[tokio::test]
async fn a_new_site_waits_for_its_first_release() {
    let mut site = Site::enrolled().await;
    let outcome = site.poll_in_vain("no-release").await;
    assert!(!outcome.backs_off);
}

#[tokio::test]
async fn a_published_release_is_served() {
    let site = Site::serving().await;
    assert_eq!(site.content("a.cfg"), b"one");
    assert_eq!(site.content("b.cfg"), [7; 200_000]);
}

#[tokio::test]
async fn an_unchanged_release_costs_one_conditional_request() {
    let mut site = Site::serving().await;
    assert_eq!(site.poll().await.state.code(), "ok");
    assert_eq!(site.hq.server.paths(), [timestamp_path()]);
}

#[tokio::test]
async fn hq_hears_of_a_site_that_has_nothing_to_tell_every_quarter_of_an_hour() {
    let mut site = Site::serving().await;
    for minutes in [5, 10, 15, 20] {
        site.clock.advance(Duration::from_secs(5 * 60));
        site.hq.server.forget();
        assert_eq!(site.poll().await.state.code(), "ok");
        let told = site.hq.server.paths().contains(&"/v1/check-in".to_owned());
        assert_eq!(told, minutes == 15, "after {minutes} minutes");
    }
}

#[tokio::test]
async fn a_changed_file_is_fetched_and_unchanged_ones_are_not() {
    let mut site = Site::serving().await;
    site.hq.world().publish(&[("a.cfg", b"two"), ("b.cfg", &[7; 200_000])]);
    let outcome = site.poll().await;
    assert_eq!(outcome.activated.unwrap().generation(), Generation(2));
    assert_eq!(site.content("a.cfg"), b"two");
    // One shard and one file: the inventory and the large file are here already.
    let objects = site.hq.server.paths().iter().filter(|path| path.starts_with("/objects/")).count();
    assert_eq!(objects, 2);
}

#[tokio::test]
async fn everything_is_looked_at_again_after_a_day() {
    let mut site = Site::serving().await;
    site.clock.advance(Duration::from_secs(86_400));
    site.poll().await;
    assert!(site.hq.server.paths().iter().any(|path| path.ends_with("2.root.json")));
}

#[tokio::test]
async fn a_restart_serves_before_there_is_a_network_and_keeps_its_floor() {
    let mut site = Site::serving().await;
    site.hq.world().publish(&[("a.cfg", b"two")]);
    site.poll().await;
    let old = site.hq.world().tree.clone();
    site.restart();
    assert_eq!(site.content("a.cfg"), b"two");
    // An old timestamp, correctly signed, comes back.
    site.hq.world().version -= 1;
    site.hq.world().newest = 1;
    site.hq.world().version -= 1;
    site.hq.world().sign_online();
    let outcome = site.poll_in_vain("refused").await;
    assert!(outcome.reason.starts_with("rollback"), "{}", outcome.reason);
    site.hq.world().tree = old;
    assert_eq!(site.poll().await.state.code(), "ok");
}

#[tokio::test]
async fn metadata_by_a_stranger_is_refused() {
    let mut site = Site::serving().await;
    site.hq.world().online_key = lineside::tuf::SigningKey::from_seed(&[66; 32]);
    site.hq.world().publish(&[("a.cfg", b"evil")]);
    let outcome = site.poll_in_vain("refused").await;
    assert!(outcome.reason.starts_with("untrusted") && outcome.backs_off, "{}", outcome.reason);
}

#[tokio::test]
async fn another_sites_metadata_is_refused_and_leaves_no_trace() {
    let mut site = Site::serving().await;
    let before = site.store.trust().unwrap();
    {
        let mut world = site.hq.world();
        world.named = "s-2".parse().unwrap();
        world.version += 1000;
        world.publish(&[("a.cfg", b"theirs")]);
    }
    let outcome = site.poll_in_vain("refused").await;
    assert!(outcome.reason.starts_with("other-site"), "{}", outcome.reason);
    assert_eq!(site.store.trust().unwrap().unwrap().metadata, before.unwrap().metadata);
}

#[tokio::test]
async fn expired_metadata_is_reported_and_serving_goes_on() {
    let mut site = Site::serving().await;
    site.clock.advance(Duration::from_secs(40 * 86_400));
    site.hq.world().now = days(40);
    site.poll_in_vain("stale").await;
    // Also after a restart, from disk alone.
    site.restart();
    assert_eq!(site.content("a.cfg"), b"one");
    site.hq.world().expires = days(70);
    site.hq.world().sign_online();
    assert_eq!(site.poll().await.state.code(), "ok");
}

#[tokio::test]
async fn a_new_root_is_followed() {
    let mut site = Site::serving().await;
    {
        let mut world = site.hq.world();
        world.targets_key = lineside::tuf::SigningKey::from_seed(&[77; 32]);
        world.publish_root(2, days(500));
        world.publish(&[("a.cfg", b"by the new key")]);
    }
    assert_eq!(site.poll().await.state.code(), "ok");
    assert_eq!(site.content("a.cfg"), b"by the new key");
}

#[tokio::test]
async fn a_corrupt_object_is_turned_away_and_the_right_one_taken_later() {
    let mut site = Site::serving().await;
    let entry = site.hq.world().file("a.cfg", b"two");
    let path = object_path(&entry.blob);
    site.hq.world().publish(&[("a.cfg", b"two")]);
    let good = site.hq.world().tree[&path].clone();
    let mut bad = good.clone();
    bad[3] ^= 1;
    site.hq.world().tree.insert(path.clone(), bad);
    site.poll_in_vain("corrupt").await;
    site.hq.world().tree.insert(path, good);
    assert_eq!(site.poll().await.state.code(), "ok");
    assert_eq!(site.content("a.cfg"), b"two");
}

#[tokio::test]
async fn a_missing_object_changes_nothing() {
    let mut site = Site::serving().await;
    let entry = site.hq.world().file("a.cfg", b"two");
    site.hq.world().publish(&[("a.cfg", b"two")]);
    let bytes = site.hq.world().tree.remove(&object_path(&entry.blob)).unwrap();
    site.poll_in_vain("missing-object").await;
    site.hq.world().tree.insert(object_path(&entry.blob), bytes);
    assert_eq!(site.poll().await.activated.unwrap().generation(), Generation(2));
}

#[tokio::test]
async fn a_file_that_is_not_what_the_release_says_is_given_up_and_a_newer_release_is_taken() {
    let mut site = Site::serving().await;
    let mut entry = site.hq.world().file("a.cfg", b"two");
    entry.sha256 = Digest::of(b"something else");
    site.hq.world().publish_entries(vec![entry]);
    site.poll_in_vain("rolled-back").await;
    assert_eq!(site.store.trust().unwrap().unwrap().rejected, [Generation(2)]);
    assert_eq!(site.content("a.cfg"), b"one");
    // Not tried again, not even after a restart.
    site.restart();
    site.hq.server.forget();
    let outcome = site.poll_in_vain("rolled-back").await;
    assert!(!outcome.backs_off && !site.hq.server.paths().iter().any(|path| path.ends_with(".manifest")));
    // And said at every poll, also while nothing changes.
    site.poll_in_vain("rolled-back").await;
    site.hq.world().publish(&[("a.cfg", b"three")]);
    assert_eq!(site.poll().await.state.code(), "ok");
    assert_eq!(site.content("a.cfg"), b"three");
}

#[tokio::test]
async fn a_release_that_never_opens_is_given_up_after_some_tries() {
    let mut site = Site::serving().await;
    let mut entry = site.hq.world().file("a.cfg", b"two");
    // The key of another file: the object is whole, and opens to nothing.
    entry.blob.key = site.hq.world().file("x.cfg", b"other").blob.key;
    site.hq.world().publish_entries(vec![entry]);
    for _ in 0..3 {
        site.poll_in_vain("corrupt").await;
    }
    site.poll_in_vain("rolled-back").await;
    assert_eq!(site.content("a.cfg"), b"one");
}

#[tokio::test]
async fn bytes_that_rot_under_a_served_file_are_fetched_again() {
    let site = Site::serving().await;
    let opened = load_active(&site.store, &site.identity).unwrap().unwrap();
    let name: FileName = "b.cfg".parse().unwrap();
    let entry = opened.catalog().file(&name).unwrap();
    let hex = entry.blob.digest.to_string();
    let path = site.dir.path().join("state/objects").join(&hex[..2]).join(&hex);
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[70_000] ^= 1;
    std::fs::write(&path, bytes).unwrap();
    // A new process, with nothing in memory: a phone asks and does not get damaged bytes.
    let Site { hq, store, identity, updater: dead, clock, dir, .. } = site;
    drop((store, dead));
    let store = Store::open(&dir.path().join("state")).unwrap();
    let (updater, stats) = updater_and_stats(&store, &identity, &clock);
    let mut site = Site { hq, store, identity, updater, stats, clock, dir };
    let damaged = site.store.open(entry).and_then(|file| file.chunk(1));
    assert!(damaged.is_err());
    assert_eq!(site.poll().await.state.code(), "ok");
    assert_eq!(site.content("b.cfg"), [7; 200_000]);
}

#[tokio::test]
async fn an_object_that_rots_on_disk_is_fetched_again_although_nothing_changed() {
    let mut site = Site::serving().await;
    let opened = load_active(&site.store, &site.identity).unwrap().unwrap();
    let name: FileName = "b.cfg".parse().unwrap();
    let digest = opened.catalog().file(&name).unwrap().blob.digest;
    site.store.quarantine(&digest);
    assert_eq!(site.poll().await.state.code(), "ok");
    assert_eq!(site.content("b.cfg"), [7; 200_000]);
}

#[tokio::test]
async fn a_release_waits_for_its_window() {
    let mut site = Site::serving().await;
    // NOW is 08:00 UTC.
    assert_eq!(NOW.0 % DAY, 8 * 3600);
    site.hq.world().window = Some((22 * 60, 23 * 60));
    site.hq.world().publish(&[("a.cfg", b"two")]);
    let outcome = site.poll_in_vain("waiting").await;
    assert!(!outcome.backs_off);
    site.clock.advance(Duration::from_secs(14 * 3600 + 60));
    assert_eq!(site.poll().await.activated.unwrap().generation(), Generation(2));
}

#[tokio::test]
async fn hq_away_is_unreachable_and_serving_goes_on() {
    let mut site = Site::serving().await;
    let away = Hq::start().await;
    drop(std::mem::replace(&mut site.hq, away));
    site.restart();
    let outcome = site.poll_in_vain("unreachable").await;
    assert!(outcome.backs_off);
    assert_eq!(site.content("a.cfg"), b"one");
}

#[tokio::test]
async fn a_revoked_site_is_told_so() {
    let mut site = Site::serving().await;
    site.hq.world().refuse = Some("revoked");
    let outcome = site.poll_in_vain("certificate").await;
    assert!(outcome.reason.contains("revoked"), "{}", outcome.reason);
}

#[tokio::test]
async fn a_poll_that_breaks_off_at_any_request_leaves_the_old_release_or_the_new_one() {
    let mut site = Site::serving().await;
    site.hq.world().publish(&[("a.cfg", b"two"), ("b.cfg", &[8; 200_000]), ("c.cfg", b"three")]);
    for answers in 0..20 {
        site.hq.world().answers_left = Some(answers);
        let outcome = site.poll().await;
        site.restart();
        let expected: (u64, &[u8]) = if outcome.activated.is_some() { (2, b"two") } else { (1, b"one") };
        assert_eq!((site.generation(), site.content("a.cfg").as_slice()), expected, "after {answers} answers");
        if outcome.activated.is_some() {
            assert!(answers > 5, "{answers}");
            return;
        }
        assert_eq!(outcome.state.code(), "unreachable", "{}", outcome.reason);
    }
    panic!("the release never arrived");
}

#[tokio::test]
async fn a_poll_without_time_left_is_given_up_and_goes_on_next_time() {
    let mut site = Site::serving().await;
    site.hq.world().publish(&[("a.cfg", b"two")]);
    let settings = UpdaterSettings { budget: Duration::ZERO, ..UpdaterSettings::default() };
    let (store, identity, clock) = (site.store.clone(), site.identity.clone(), Box::new(site.clock.clone()));
    site.updater = Updater::new(store, identity, settings, Stats::new(), clock, Arc::new(CheckIn::default));
    let outcome = site.poll_in_vain("unreachable").await;
    assert!(outcome.reason.contains("longer than allowed"), "{}", outcome.reason);
    site.restart();
    assert_eq!(site.poll().await.activated.unwrap().generation(), Generation(2));
}

#[tokio::test]
async fn without_trust_state_nothing_is_accepted() {
    let site = Site::enrolled().await;
    let state = site.dir.path().join("state");
    site.hq.world().publish(&[("a.cfg", b"one")]);
    let (hq, identity, clock) = (site.hq, site.identity, site.clock);
    drop((site.updater, site.store));
    for copy in ["trust.0", "trust.1"] {
        std::fs::write(state.join(copy), b"rubbish").unwrap();
    }
    let store = Store::open(&state).unwrap();
    let outcome = updater(&store, &identity, &clock).poll_once().await;
    assert_eq!(outcome.state.code(), "trust-lost", "{}", outcome.reason);
    assert!(hq.server.paths().is_empty());
    // Enrolling again is the way out.
    hq.world().used_by = None;
    let identity = enrol_with(&hq.token(), &store, right_time(), ClientLimits::default()).await.unwrap();
    hq.world().publish(&[("a.cfg", b"two")]);
    let outcome = updater(&store, &identity, &clock).poll_once().await;
    assert_eq!(outcome.state.code(), "ok", "{}", outcome.reason);
}

#[tokio::test]
async fn a_release_whose_parts_rot_is_replaced_by_the_one_before_until_the_next_poll() {
    let mut site = Site::serving().await;
    site.hq.world().publish(&[("a.cfg", b"two")]);
    site.poll().await;
    let opened = load_active(&site.store, &site.identity).unwrap().unwrap();
    let shard = opened.manifest().shards[0].digest;
    site.store.quarantine(&shard);
    site.restart();
    assert_eq!((site.generation(), site.content("a.cfg")), (1, b"one".to_vec()));
    let outcome = site.poll().await;
    assert_eq!(outcome.state.code(), "ok", "{}", outcome.reason);
    assert_eq!((site.generation(), site.content("a.cfg")), (2, b"two".to_vec()));
}

#[tokio::test]
async fn a_root_that_names_no_authority_is_not_kept_and_a_later_one_mends_it() {
    let mut site = Site::serving().await;
    let pem = std::mem::take(&mut site.hq.world().ca.pem);
    site.hq.world().publish_root(2, days(400));
    site.hq.world().sign_online();
    let outcome = site.poll_in_vain("refused").await;
    assert!(outcome.reason.contains("root"), "{}", outcome.reason);
    site.restart();
    site.hq.world().ca.pem = pem;
    site.hq.world().publish_root(3, days(400));
    assert_eq!(site.poll().await.state.code(), "ok");
}

#[tokio::test]
async fn the_tree_may_be_on_another_host_than_hq() {
    let hq = Hq::start().await;
    let tree = hq.another_host().await;
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(&dir.path().join("state")).unwrap();
    let token = lineside::api::EnrolmentToken { repository: Some(format!("{}/", tree.url)), ..hq.token() };
    let identity = enrol_with(&token, &store, right_time(), ClientLimits::default()).await.unwrap();
    hq.world().publish(&[("a.cfg", b"one")]);
    hq.server.forget();
    let outcome = updater(&store, &identity, &SetClock::new(NOW, true)).poll_once().await;
    assert_eq!(outcome.state.code(), "ok", "{}", outcome.reason);
    // This HQ does not know signed check-ins.
    assert_eq!(hq.server.paths(), ["/v2/check-in", "/v1/check-in"]);
}

// Check-in and time

#[tokio::test]
async fn a_check_in_sets_the_clock_of_a_box_without_one_and_no_floor() {
    let mut site = Site::serving().await;
    site.clock.0.lock().unwrap().synchronised = false;
    site.clock.0.lock().unwrap().system = UnixTime(7);
    site.restart();
    site.hq.world().now = days(20);
    site.poll().await;
    assert_eq!(site.updater.time().now(), days(20));
    assert_eq!(site.store.trust().unwrap().unwrap().time_floor, Some(NOW), "the release's `created`");
    let nonces: Vec<String> = site.hq.world().check_ins.iter().map(|report| report.nonce.clone()).collect();
    assert!(nonces.len() == 2 && nonces[0] != nonces[1] && nonces[0].len() == 32, "{nonces:?}");
}

#[tokio::test]
async fn an_hq_that_knows_no_signed_check_ins_is_told_in_its_format_and_asked_again_after_hours() {
    let mut site = Site::serving().await;
    site.restart();
    site.hq.server.forget();
    for quarter in 0..30 {
        site.clock.advance(Duration::from_secs(15 * 60));
        site.poll().await;
        let paths = site.hq.server.paths();
        let count = |path: &str| paths.iter().filter(|asked| *asked == path).count();
        assert_eq!(count("/v2/check-in"), 1 + quarter / 24, "quarter {quarter}");
        assert_eq!(count("/v1/check-in"), quarter + 1);
    }
}

#[tokio::test]
async fn a_check_in_answer_by_a_stranger_moves_nothing() {
    let mut site = Site::serving().await;
    site.clock.advance(Duration::from_secs(15 * 60));
    let before = site.updater.time().floor();
    site.hq.world().answer_key = lineside::tuf::SigningKey::from_seed(&[66; 32]);
    site.hq.world().now = days(300);
    assert_eq!(site.poll().await.state.code(), "ok");
    assert_eq!(site.updater.time().floor(), before);
}

/// Three years ahead and three years back, said once by the online key: the next honest answer undoes it.
#[tokio::test]
async fn a_wrong_time_of_the_online_key_lasts_until_the_next_answer() {
    for years in [-3, 3] {
        let mut site = Site::serving().await;
        site.hq.world().publish_root(2, days(3650));
        site.hq.world().sign_online();
        assert_eq!(site.poll().await.state.code(), "ok");
        site.clock.0.lock().unwrap().synchronised = false;
        site.clock.advance(Duration::from_secs(15 * 60));
        site.hq.world().now = days(365 * years);
        site.poll().await;
        let floor = site.updater.time().floor();
        assert_eq!(site.updater.time().now(), days(365 * years).max(floor));
        site.clock.advance(Duration::from_secs(15 * 60));
        site.hq.world().now = days(1);
        site.poll().await;
        assert_eq!(site.updater.time().now(), days(1), "{years}");
        site.hq.world().publish(&[("a.cfg", b"two")]);
        site.clock.advance(Duration::from_secs(15 * 60));
        assert_eq!(site.poll().await.state.code(), "ok", "{years}");
        assert_eq!(site.generation(), 2);
    }
}

/// One `publish` under a clock that is three years ahead; then a root that says what time it is.
#[tokio::test]
async fn a_floor_that_a_wrong_clock_at_hq_has_set_is_mended_by_a_root_without_a_visit() {
    let mut site = Site::serving().await;
    site.clock.0.lock().unwrap().synchronised = false;
    {
        let mut world = site.hq.world();
        world.publish_root(2, days(3650));
        (world.now, world.expires) = (days(1095), days(1125));
        world.publish(&[("a.cfg", b"from the future")]);
    }
    assert_eq!(site.poll().await.state.code(), "ok");
    assert_eq!(site.updater.time().floor(), days(1095));
    {
        let mut world = site.hq.world();
        (world.now, world.expires) = (days(2), days(32));
        world.publish(&[("a.cfg", b"of today")]);
    }
    site.clock.advance(Duration::from_secs(15 * 60));
    assert_ne!(site.poll().await.state.code(), "ok", "it looks expired");
    assert_eq!(site.generation(), 2);

    site.hq.world().root_time = Some(days(2));
    site.hq.world().publish_root(3, days(400));
    site.clock.advance(Duration::from_secs(15 * 60));
    let outcome = site.poll().await;
    assert_eq!(outcome.state.code(), "ok", "{}", outcome.reason);
    assert_eq!(site.generation(), 3);
    assert_eq!(site.store.trust().unwrap().unwrap().time_floor, Some(days(2)));
    site.restart();
    assert_eq!(site.poll().await.state.code(), "ok");
    assert!(site.updater.time().floor() < days(3), "a restart does not bring the wrong floor back");
}

#[tokio::test]
async fn an_old_answer_to_another_check_in_moves_nothing() {
    let mut site = Site::serving().await;
    site.clock.advance(Duration::from_secs(15 * 60));
    let before = site.updater.time().floor();
    site.hq.world().replay_nonce = Some("00".repeat(16));
    site.hq.world().now = days(300);
    assert_eq!(site.poll().await.state.code(), "ok");
    assert_eq!(site.updater.time().floor(), before);
}

#[tokio::test]
async fn a_time_past_the_roots_expiry_is_not_believed() {
    let mut site = Site::serving().await;
    site.clock.advance(Duration::from_secs(15 * 60));
    let before = site.updater.time().floor();
    site.hq.world().now = days(3650);
    assert_eq!(site.poll().await.state.code(), "ok");
    assert_eq!(site.updater.time().floor(), before);
}

#[tokio::test]
async fn a_release_that_somebody_holds_back_is_asked_for_in_full() {
    let mut site = Site::serving().await;
    site.clock.advance(Duration::from_secs(15 * 60));
    // HQ knows of generation 2, but the tree that is served still shows the old timestamp.
    site.hq.world().newest = 2;
    site.poll().await;
    site.hq.server.forget();
    site.poll().await;
    let conditional = site.hq.server.requests.lock().unwrap()[0].header("if-none-match").is_some();
    assert!(!conditional);
}

// The certificate

#[tokio::test]
async fn a_certificate_is_renewed_after_sixty_days() {
    let mut site = Site::serving().await;
    site.clock.advance(Duration::from_secs(59 * 86_400));
    site.hq.world().certificate = (days(59), days(149));
    site.poll().await;
    assert!(site.hq.server.paths().contains(&"/v1/renew".to_owned()));
    let renewed = SiteIdentity::load(&site.store).unwrap().unwrap();
    assert_eq!(renewed.valid(), (days(59), days(149)));
    site.hq.server.forget();
    site.poll().await;
    assert!(!site.hq.server.paths().contains(&"/v1/renew".to_owned()));
}

#[tokio::test]
async fn a_certificate_that_hq_calls_expired_is_renewed_although_our_clock_says_otherwise() {
    let mut site = Site::serving().await;
    site.hq.world().refuse = Some("certificate-expired");
    site.poll_in_vain("certificate").await;
    site.hq.world().refuse = None;
    site.hq.server.forget();
    assert_eq!(site.poll().await.state.code(), "ok");
    assert_eq!(site.hq.server.paths()[0], "/v1/renew");
}

// The task

#[tokio::test]
async fn the_task_publishes_new_releases_at_once_when_asked() {
    let Site { hq, store, identity, updater, dir, .. } = Site::enrolled().await;
    hq.world().publish(&[("a.cfg", b"one")]);
    let empty = Arc::new(lineside::access::Catalog::empty(identity.site().clone()));
    let (send, mut catalogs) = watch::channel(empty);
    let (poll_now, stop) = (Arc::new(Notify::new()), CancellationToken::new());
    let (_no_roll_backs, asked) = tokio::sync::mpsc::channel(1);
    let task = tokio::spawn(updater.run(send, poll_now.clone(), asked, stop.clone()));
    catalogs.wait_for(|catalog| catalog.generation() == Generation(1)).await.unwrap();
    hq.world().publish(&[("a.cfg", b"two")]);
    poll_now.notify_one();
    catalogs.wait_for(|catalog| catalog.generation() == Generation(2)).await.unwrap();
    stop.cancel();
    task.await.unwrap();
    drop((store, dir));
}

#[tokio::test]
async fn phones_get_a_new_release_before_hq_hears_of_it() {
    let Site { hq, store, identity, updater, dir, .. } = Site::enrolled().await;
    hq.world().publish(&[("a.cfg", b"one")]);
    let empty = Arc::new(lineside::access::Catalog::empty(identity.site().clone()));
    let (send, catalogs) = watch::channel(empty);
    let (seen, mut at_check_in) = tokio::sync::mpsc::unbounded_channel();
    hq.world().hostile = Some(Box::new(move |request| {
        if request.path == lineside::api::CHECK_IN_PATH {
            let _ = seen.send(catalogs.borrow().generation());
        }
        None
    }));
    let stop = CancellationToken::new();
    let (_no_roll_backs, asked) = tokio::sync::mpsc::channel(1);
    let task = tokio::spawn(updater.run(send, Arc::new(Notify::new()), asked, stop.clone()));
    assert_eq!(at_check_in.recv().await, Some(Generation(1)));
    stop.cancel();
    task.await.unwrap();
    drop((store, dir));
}

// Going back by hand

#[tokio::test]
async fn a_site_that_was_rolled_back_by_hand_stays_there_until_hq_publishes_anew() {
    let Site { hq, store, identity, mut updater, dir, .. } = Site::enrolled().await;
    for content in [b"one", b"two"] {
        hq.world().publish(&[("a.cfg", content)]);
        assert_eq!(updater.poll_once().await.state.code(), "ok");
    }
    let empty = Arc::new(lineside::access::Catalog::empty(identity.site().clone()));
    let (send, mut catalogs) = watch::channel(empty);
    let (poll_now, stop) = (Arc::new(Notify::new()), CancellationToken::new());
    let (roll_backs, asked) = tokio::sync::mpsc::channel(1);
    let task = tokio::spawn(updater.run(send, poll_now.clone(), asked, stop.clone()));
    let (tell, told) = tokio::sync::oneshot::channel();
    roll_backs.send(tell).await.unwrap();
    let said = told.await.unwrap().expect("there is a release to go back to").to_string();
    assert!(said.starts_with("back from generation 2 to 1"), "{said}");
    catalogs.wait_for(|catalog| catalog.generation() == Generation(1)).await.unwrap();

    hq.world().publish(&[("a.cfg", b"three")]);
    poll_now.notify_one();
    let generations = |catalog: &Arc<lineside::access::Catalog>| catalog.generation();
    let after = catalogs.wait_for(|catalog| generations(catalog) != Generation(1)).await.unwrap();
    assert_eq!(generations(&after), Generation(3), "generation 2 was tried again");
    drop(after);
    stop.cancel();
    task.await.unwrap();
    drop((store, dir));
}

#[tokio::test]
async fn there_is_nothing_to_go_back_to_from_the_first_release() {
    let Site { hq, store, mut updater, dir, .. } = Site::enrolled().await;
    hq.world().publish(&[("a.cfg", b"one")]);
    assert_eq!(updater.poll_once().await.state.code(), "ok");
    drop(updater);
    let error = lineside::update::roll_back(&store).unwrap_err();
    assert!(error.to_string().contains("no release before generation 1"), "{error}");
    assert_eq!(store.active_generation(), Some(Generation(1)));
    drop(dir);
}
