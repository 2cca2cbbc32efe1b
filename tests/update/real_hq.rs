//! The site against HQ as it ships: fleet directory, publisher and service.

use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use lineside::access::Files as _;
use lineside::api::CheckIn;
use lineside::hq::init::{InitOptions, init};
use lineside::hq::progress::Silent;
use lineside::hq::publish::{PublishOptions, publish};
use lineside::ids::{FileName, Generation, SiteId, UnixTime};
use lineside::online::db::{CheckIns as _, Db};
use lineside::online::service::{ServeOptions, Server};
use lineside::repository::layout::Layout;
use lineside::status::Stats;
use lineside::store::Store;
use lineside::update::{EnrolError, HostClock, Updater, UpdaterSettings, enrol, load_active};
use tokio_util::sync::CancellationToken;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_site_enrols_is_published_to_and_checks_in() {
    let dir = tempfile::tempdir().unwrap();
    let now = || UnixTime::of(std::time::SystemTime::now());
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let url = format!("https://127.0.0.1:{port}");
    let fleet_dir = dir.path().join("fleet");
    let fleet = init(&fleet_dir, &InitOptions { name: "Test".into(), url: url.clone(), now: now() }).unwrap();
    let layout = Layout::new(&fleet_dir);
    let site: SiteId = {
        let text = std::fs::read_to_string(layout.sites().join("sample-office.toml")).unwrap();
        let table: toml::Table = text.parse().unwrap();
        table["id"].as_str().unwrap().parse().unwrap()
    };
    let listen: SocketAddr = format!("127.0.0.1:{port}").parse().unwrap();
    let server = Server::bind(ServeOptions { dir: layout.online(), listen }).unwrap();
    let stop = CancellationToken::new();
    let serving = tokio::spawn(server.run(stop.clone()));

    let store = Store::open(&dir.path().join("state")).unwrap();
    let token = lineside::hq::enrol::issue(&layout, &site, "sample-office", &fleet, &url, None).unwrap();
    let identity = enrol(&token, &store, true).await.unwrap();
    assert_eq!(identity.site(), &site);
    let second = Store::open(&dir.path().join("second")).unwrap();
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
    let db = Db::open(&layout.database()).unwrap();
    let heard = || db.heard(&site).unwrap().unwrap();
    let clock = Box::new(HostClock::assuming(true));
    let mut updater =
        Updater::new(store.clone(), identity.clone(), UpdaterSettings::default(), Stats::new(), clock, report.clone());
    let outcome = updater.poll_once().await;
    assert_eq!(outcome.state.code(), "no-release", "{}", outcome.reason);

    let options = PublishOptions { sites: None, now: now() };
    publish(&layout, &options, &mut Silent).unwrap();
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
    let (clock, again) = (Box::new(HostClock::assuming(true)), report.clone());
    let mut restarted =
        Updater::new(store.clone(), identity.clone(), UpdaterSettings::default(), Stats::new(), clock, again);
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
    let boxes = db.changes(&site, 100).unwrap().into_iter().filter(|change| change.kind == "box").count();
    assert_eq!(boxes, 2);
    // HQ's database comes back as it was before: the site tells everything by itself.
    db_without_states(&layout);
    assert_eq!(restarted.poll_once().await.state.code(), "ok");
    assert_eq!(heard().signed_by, first.signed_by);

    lineside::hq::enrol::revoke(&layout, &site).unwrap();
    let outcome = updater.poll_once().await;
    assert_eq!(outcome.state.code(), "certificate", "{}", outcome.reason);
    stop.cancel();
    serving.await.unwrap().unwrap();
}

/// What a database has that was restored from before the first check-in.
fn db_without_states(layout: &Layout) {
    let database = rusqlite::Connection::open(layout.database()).unwrap();
    database.execute_batch("DELETE FROM site_state; DELETE FROM phone_state;").unwrap();
}
