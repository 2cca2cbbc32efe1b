//! The site against HQ as it ships: fleet directory, publisher and service.

use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use clap::Parser as _;
use lineside::access::Files as _;
use lineside::api::CheckIn;
use lineside::bundle::recipients::is_named;
use lineside::hq::cli::{Cli, run};
use lineside::hq::init::{InitOptions, init};
use lineside::ids::{FileName, FleetId, Generation, SiteId, UnixTime};
use lineside::online::db::{CheckIns as _, Db};
use lineside::online::service::{ServeOptions, Server};
use lineside::repository::layout::Layout;
use lineside::status::Stats;
use lineside::store::Store;
use lineside::update::{
    CheckInSource, EnrolError, HostClock, SiteIdentity, Updater, UpdaterSettings, enrol, load_active,
};
use tokio_util::sync::CancellationToken;

/// HQ as it ships: a fleet directory of today, and the service.
struct RealHq {
    dir: tempfile::TempDir,
    layout: Layout,
    fleet: FleetId,
    site: SiteId,
    url: String,
    stop: CancellationToken,
    serving: tokio::task::JoinHandle<anyhow::Result<()>>,
}

impl RealHq {
    fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let now = UnixTime::of(std::time::SystemTime::now());
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let url = format!("https://127.0.0.1:{port}");
        let fleet_dir = dir.path().join("fleet");
        let fleet = init(&fleet_dir, &InitOptions { name: "Test".into(), url: url.clone(), now }).unwrap();
        let layout = Layout::new(&fleet_dir);
        let text = std::fs::read_to_string(layout.sites().join("sample-office.toml")).unwrap();
        let site = text.parse::<toml::Table>().unwrap()["id"].as_str().unwrap().parse().unwrap();
        let listen: SocketAddr = format!("127.0.0.1:{port}").parse().unwrap();
        let server = Server::bind(ServeOptions { dir: layout.online(), listen }).unwrap();
        let stop = CancellationToken::new();
        let serving = tokio::spawn(server.run(stop.clone()));
        Self { dir, layout, fleet, site, url, stop, serving }
    }

    fn token(&self) -> lineside::api::EnrolmentToken {
        lineside::hq::enrol::issue(&self.layout, &self.site, "sample-office", &self.fleet, &self.url, None).unwrap()
    }

    /// What a command of the publisher prints.
    fn command(&self, words: &[&str]) -> String {
        let fleet = self.layout.dir().to_str().unwrap();
        let cli = Cli::parse_from(["lineside-hq", "--fleet", fleet].iter().chain(words));
        let mut out = Vec::new();
        assert!(run(&cli, &mut out).unwrap());
        String::from_utf8(out).unwrap()
    }

    async fn end(self) {
        self.stop.cancel();
        self.serving.await.unwrap().unwrap();
    }
}

fn updater(store: &Store, identity: &SiteIdentity) -> Updater {
    updater_with(store, identity, Arc::new(|| CheckIn { version: "test".into(), ..CheckIn::default() }))
}

fn updater_with(store: &Store, identity: &SiteIdentity, report: CheckInSource) -> Updater {
    let clock = Box::new(HostClock::assuming(true));
    Updater::new(store.clone(), identity.clone(), UpdaterSettings::default(), Stats::new(), clock, report)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_site_enrols_is_published_to_and_checks_in() {
    let hq = RealHq::start();
    let store = Store::open(&hq.dir.path().join("state")).unwrap();
    let token = hq.token();
    let identity = enrol(&token, &store, true).await.unwrap();
    assert_eq!(identity.site(), &hq.site);
    let second = Store::open(&hq.dir.path().join("second")).unwrap();
    assert!(matches!(enrol(&token, &second, true).await, Err(EnrolError::TokenUsed)));

    let up = Arc::new(AtomicU64::new(1));
    let uptime = Arc::clone(&up);
    let report = Arc::new(move || CheckIn {
        version: "test".into(),
        state: "ok".into(),
        // Each poll has news.
        reason: uptime.fetch_add(1, Ordering::Relaxed).to_string(),
        ..CheckIn::default()
    });
    let db = Db::open(&hq.layout.database()).unwrap();
    let heard = || db.heard(&hq.site).unwrap().unwrap();
    let mut updater = updater_with(&store, &identity, report.clone());
    let outcome = updater.poll_once().await;
    assert_eq!(outcome.state.code(), "no-release", "{}", outcome.reason);

    hq.command(&["publish"]);
    let outcome = updater.poll_once().await;
    assert_eq!(outcome.state.code(), "ok", "{}", outcome.reason);
    assert_eq!(outcome.activated.map(|catalog| catalog.generation()), Some(Generation(1)));
    let opened = load_active(&store, &identity).unwrap().unwrap();
    let name: FileName = "SEP001B54000001.cnf.xml".parse().unwrap();
    let file = store.open(opened.catalog().file(&name).unwrap()).unwrap();
    assert!(file.chunk(0).unwrap().starts_with(b"<"));
    assert_eq!(updater.poll_once().await.state.code(), "ok");
    let first = heard();
    let record = std::fs::read_to_string(store.identity_dir().join("check-in.toml")).unwrap();
    assert!(record.contains(first.signed_by.as_ref().unwrap()), "{record}");
    assert_eq!((first.generation, first.report.pulls.as_ref().unwrap().entries), (Generation(1), 1));

    // The process dies and starts again: it knows nothing of what it told, and no counter comes back.
    let mut restarted = updater_with(&store, &identity, report.clone());
    assert_eq!(restarted.poll_once().await.state.code(), "ok");
    let after = heard();
    assert_eq!((&after.signed_by, after.report.pulls.as_ref().unwrap().entries), (&first.signed_by, 1));
    assert!(after.report.appliance.reason > first.report.appliance.reason);
    // The card of before is put back beside it: the same name with a counter that HQ has heard.
    assert_eq!(updater.poll_once().await.state.code(), "ok");
    let both = heard();
    assert_ne!(both.signed_by, first.signed_by, "the box that fell behind took another name");
    // From then on the two are told apart.
    assert_eq!(restarted.poll_once().await.state.code(), "ok");
    assert_eq!(heard().signed_by, first.signed_by);
    let boxes = db.changes(&hq.site, 100).unwrap().into_iter().filter(|change| change.kind == "box").count();
    assert_eq!(boxes, 2);
    // HQ's database comes back as it was before: the site tells everything by itself.
    db_without_states(&hq.layout);
    assert_eq!(restarted.poll_once().await.state.code(), "ok");
    assert_eq!(heard().signed_by, first.signed_by);

    lineside::hq::enrol::revoke(&hq.layout, &hq.site).unwrap();
    let outcome = updater.poll_once().await;
    assert_eq!(outcome.state.code(), "certificate", "{}", outcome.reason);
    hq.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_site_renews_its_sealing_key_and_hq_publishes_to_it_without_a_question() {
    let hq = RealHq::start();
    let store = Store::open(&hq.dir.path().join("state")).unwrap();
    let identity = enrol(&hq.token(), &store, true).await.unwrap();
    let old = identity.recipient().public();
    hq.command(&["publish"]);
    assert_eq!(updater(&store, &identity).poll_once().await.state.code(), "ok");
    assert_eq!(hq.command(&["plan"]), "nothing to publish\n");

    // The key is a year old.
    let path = store.identity_dir().join("sealing-key.toml");
    let mut record: toml::Table = std::fs::read_to_string(&path).unwrap().parse().unwrap();
    record.insert("since".into(), "2025-01-01T00:00:00Z".into());
    std::fs::write(&path, record.to_string()).unwrap();
    let mut updater = updater(&store, &identity);
    assert_eq!(updater.poll_once().await.state.code(), "ok");
    let plan = hq.command(&["plan"]);
    assert!(
        plan.starts_with("+ recipient ") && plan.contains("its new sealing key, proven by the one before"),
        "{plan}"
    );
    hq.command(&["publish"]);
    let outcome = updater.poll_once().await;
    assert_eq!(outcome.activated.map(|catalog| catalog.generation()), Some(Generation(2)), "{}", outcome.reason);
    let key = SiteIdentity::load(&store).unwrap().unwrap().recipient().public();
    assert_ne!(key, old);

    let plan = hq.command(&["plan"]);
    assert!(plan.starts_with("- recipient ") && plan.contains("replaced by its new sealing key"), "{plan}");
    hq.command(&["publish"]);
    let outcome = updater.poll_once().await;
    assert_eq!(outcome.activated.map(|catalog| catalog.generation()), Some(Generation(3)), "{}", outcome.reason);
    let sealed = store.active().unwrap().unwrap().sealed_manifest;
    assert_eq!((is_named(&sealed, &old), is_named(&sealed, &key)), (Some(false), Some(true)));
    assert_eq!(std::fs::read(store.identity_dir().join("recipient-older.key")).unwrap(), b"");
    assert_eq!(hq.command(&["plan"]), "nothing to publish\n");
    hq.end().await;
}

/// What a database has that was restored from before the first check-in.
fn db_without_states(layout: &Layout) {
    let database = rusqlite::Connection::open(layout.database()).unwrap();
    database.execute_batch("DELETE FROM site_state; DELETE FROM phone_state;").unwrap();
}
