//! The site against HQ as it ships: fleet directory, publisher and service.

use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;

use lineside::access::Files as _;
use lineside::api::CheckIn;
use lineside::hq::init::{InitOptions, init};
use lineside::hq::progress::Silent;
use lineside::hq::publish::{PublishOptions, publish};
use lineside::ids::{FileName, Generation, SiteId, UnixTime};
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

    let report = Arc::new(|| CheckIn { version: "test".into(), ..CheckIn::default() });
    let clock = Box::new(HostClock::assuming(true));
    let mut updater =
        Updater::new(store.clone(), identity.clone(), UpdaterSettings::default(), Stats::new(), clock, report);
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

    lineside::hq::enrol::revoke(&layout, &site).unwrap();
    let outcome = updater.poll_once().await;
    assert_eq!(outcome.state.code(), "certificate", "{}", outcome.reason);
    stop.cancel();
    serving.await.unwrap().unwrap();
}
