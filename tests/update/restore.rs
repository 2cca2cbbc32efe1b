//! HQ's host is lost. One command puts it back, and every site polls again without a visit.

use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::sync::Arc;

use lineside::api::CheckIn;
use lineside::hq::init::{self, InitOptions, init};
use lineside::hq::progress::Silent;
use lineside::hq::publish::{PublishOptions, Summary, publish};
use lineside::hq::{backup, enrol};
use lineside::ids::{FleetId, Generation, SiteId, UnixTime};
use lineside::online::service::{ServeOptions, Server};
use lineside::repository::layout::Layout;
use lineside::status::Stats;
use lineside::store::Store;
use lineside::update::{HostClock, PollOutcome, Updater, UpdaterSettings, enrol as enrol_appliance};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

struct Hq {
    dir: tempfile::TempDir,
    layout: Layout,
    fleet: FleetId,
    url: String,
    listen: SocketAddr,
    serving: Option<(CancellationToken, JoinHandle<anyhow::Result<()>>)>,
}

impl Hq {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let url = format!("https://127.0.0.1:{port}");
        let path = dir.path().join("fleet");
        let fleet = init(&path, &InitOptions { name: "Test".into(), url: url.clone(), now: now() }).unwrap();
        let listen = format!("127.0.0.1:{port}").parse().unwrap();
        Self { dir, layout: Layout::new(path), fleet, url, listen, serving: None }
    }

    fn start(&mut self) {
        let server = Server::bind(ServeOptions { dir: self.layout.online(), listen: self.listen }).unwrap();
        let stop = CancellationToken::new();
        self.serving = Some((stop.clone(), tokio::spawn(server.run(stop))));
    }

    async fn stop(&mut self) {
        let (stop, serving) = self.serving.take().unwrap();
        stop.cancel();
        serving.await.unwrap().unwrap();
    }

    fn site(&self, name: &str) -> SiteId {
        let text = std::fs::read_to_string(self.layout.sites().join(format!("{name}.toml"))).unwrap();
        text.parse::<toml::Table>().unwrap()["id"].as_str().unwrap().parse().unwrap()
    }

    /// An appliance that enrols as this site.
    async fn enrolled(&self, name: &str, state: &str) -> Updater {
        let site = self.site(name);
        let token = enrol::issue(&self.layout, &site, name, &self.fleet, &self.url, None).unwrap();
        let store = Store::open(&self.dir.path().join(state)).unwrap();
        let identity = enrol_appliance(&token, &store, true).await.unwrap();
        let report = Arc::new(|| CheckIn { version: "test".into(), ..CheckIn::default() });
        let clock = Box::new(HostClock::assuming(true));
        Updater::new(store, identity, UpdaterSettings::default(), Stats::new(), clock, report)
    }

    fn publish(&self) -> Summary {
        publish(&self.layout, &PublishOptions { sites: None, now: now() }, &mut Silent).unwrap()
    }

    fn backup(&self) -> PathBuf {
        backup::write(&self.layout, Some(&self.dir.path().join("hq.age")), now()).unwrap()
    }

    /// The disk of HQ's host dies; what is left is git, the offline keys and this file.
    async fn dies_and_is_put_back(&mut self, file: &std::path::Path) {
        self.stop().await;
        std::fs::remove_dir_all(self.layout.online()).unwrap();
        backup::restore(&self.layout, file, &self.layout.key("recovery"), now()).unwrap();
        self.start();
    }

    /// What git does not know yet: which certificates were issued since the last publish.
    fn forget_certificates_in_git(&self, name: &str) {
        let path = self.layout.enrolled().join(format!("{}.toml", self.site(name)));
        let text = std::fs::read_to_string(&path).unwrap();
        std::fs::write(&path, text.split("\n[[certificate]]").next().unwrap()).unwrap();
    }
}

fn now() -> UnixTime {
    UnixTime::of(std::time::SystemTime::now())
}

fn is_ok(outcome: &PollOutcome) {
    assert_eq!(outcome.state.code(), "ok", "{}", outcome.reason);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_the_loss_of_the_host_one_command_brings_every_site_back() {
    let mut hq = Hq::new();
    init::add_site(&hq.layout, "branch").unwrap();
    hq.start();
    let (mut office, mut branch) = (hq.enrolled("sample-office", "a").await, hq.enrolled("branch", "b").await);
    hq.publish();
    for site in [&mut office, &mut branch] {
        is_ok(&site.poll_once().await);
    }
    let file = hq.backup();
    let sealed = std::fs::read(&file).unwrap();
    assert!(sealed.starts_with(b"age-encryption.org/v1"), "nobody on the host reads it");

    hq.dies_and_is_put_back(&file).await;
    for site in [&mut office, &mut branch] {
        is_ok(&site.poll_once().await);
    }
    let summary = hq.publish();
    assert_eq!(summary.faults, []);
    for site in [&mut office, &mut branch] {
        let outcome = site.poll_once().await;
        is_ok(&outcome);
        assert_eq!(outcome.activated.map(|catalog| catalog.generation()), Some(Generation(101)));
    }
    hq.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn yesterdays_backup_lets_each_site_back_in_and_a_thief_stays_out() {
    let mut hq = Hq::new();
    for name in ["branch", "depot"] {
        init::add_site(&hq.layout, name).unwrap();
    }
    hq.start();
    // In yesterday's backup, and stolen since.
    let mut known_thief = hq.enrolled("branch", "known").await;
    hq.publish();
    is_ok(&known_thief.poll_once().await);
    let file = hq.backup();
    tokio::time::sleep(std::time::Duration::from_millis(1100)).await;

    // Today: two sites enrol, and two are locked out again.
    let mut honest = hq.enrolled("sample-office", "honest").await;
    let mut new_thief = hq.enrolled("depot", "new").await;
    hq.publish();
    is_ok(&honest.poll_once().await);
    is_ok(&new_thief.poll_once().await);
    enrol::revoke(&hq.layout, &hq.site("branch")).unwrap();
    enrol::revoke(&hq.layout, &hq.site("depot")).unwrap();
    hq.forget_certificates_in_git("sample-office");

    hq.dies_and_is_put_back(&file).await;
    // Its certificate is newer than the backup: it may renew, and nothing else.
    let refused = honest.poll_once().await;
    assert_eq!(refused.state.code(), "certificate", "{}", refused.reason);
    hq.publish();
    let back = honest.poll_once().await;
    is_ok(&back);
    assert!(back.activated.is_some());
    let db = lineside::online::db::Db::open(&hq.layout.database()).unwrap();
    assert_eq!(
        db.readmitted().unwrap().into_iter().map(|(site, _)| site).collect::<Vec<_>>(),
        [hq.site("sample-office")]
    );
    for thief in [&mut known_thief, &mut new_thief] {
        for _ in 0..3 {
            assert_eq!(thief.poll_once().await.state.code(), "certificate", "it stays out");
        }
    }
    hq.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_database_is_made_anew_from_git_and_the_issued_certificates() {
    let mut hq = Hq::new();
    hq.start();
    let mut office = hq.enrolled("sample-office", "a").await;
    hq.publish();
    is_ok(&office.poll_once().await);
    hq.stop().await;
    for name in ["hq.sqlite", "hq.sqlite-wal", "hq.sqlite-shm", "online.key", "server.pem", "server.key"] {
        let _ = std::fs::remove_file(hq.layout.online().join(name));
    }
    std::fs::remove_dir_all(hq.layout.public()).unwrap();
    let lines = backup::rebuild(&hq.layout, now()).unwrap();
    assert!(lines.iter().any(|line| line.contains("a new online key")), "{lines:?}");
    hq.start();
    hq.publish();
    let outcome = office.poll_once().await;
    is_ok(&outcome);
    assert_eq!(outcome.activated.map(|catalog| catalog.generation()), Some(Generation(101)));
    hq.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_loss_of_the_ca_is_a_root_and_no_visit() {
    use lineside::hq::keys::{self, FleetKeys};
    use lineside::repository::keyring;

    let mut hq = Hq::new();
    hq.start();
    let mut office = hq.enrolled("sample-office", "a").await;
    let change = keys::standby(&hq.layout, "Test", None, now()).unwrap();
    let mut prepared = FleetKeys::read(&hq.layout).unwrap();
    prepared.prepare(&[change], now()).unwrap();
    let path = prepared.save().unwrap().to_owned();
    for number in [1, 2] {
        let key = keyring::load_signing(&hq.layout.key(&format!("root-{number}"))).unwrap();
        keys::add_signature(&path, &key, None).unwrap();
    }
    FleetKeys::read(&hq.layout).unwrap().finish().unwrap();
    hq.publish();
    is_ok(&office.poll_once().await);
    hq.stop().await;

    std::fs::remove_file(hq.layout.online().join("ca.key")).unwrap();
    std::fs::remove_file(hq.layout.online().join("ca.pem")).unwrap();
    keys::use_standby(&hq.layout, "127.0.0.1").unwrap();
    hq.start();
    is_ok(&office.poll_once().await);
    // A new appliance trusts the new CA from its token on.
    let mut spare = hq.enrolled("sample-office", "b").await;
    hq.publish();
    is_ok(&spare.poll_once().await);
    is_ok(&office.poll_once().await);
    hq.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hq_moves_to_another_name_and_a_name_that_it_does_not_have_cuts_no_site_off() {
    use lineside::hq::cli::{Cli, Command, run};
    use lineside::online::ca;

    let mut hq = Hq::new();
    hq.start();
    let mut office = hq.enrolled("sample-office", "a").await;
    hq.publish();
    is_ok(&office.poll_once().await);

    let path = hq.layout.fleet_toml();
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, text.replace("https://127.0.0.1:", "https://localhost:")).unwrap();
    let command = Command::Publish {
        sites: Vec::new(),
        refresh: false,
        clock_is_right: true,
        yes: true,
        again: false,
        outdated: false,
    };
    let mut said = Vec::new();
    run(&Cli { fleet: hq.layout.dir().to_owned(), command }, &mut said).unwrap();
    let said = String::from_utf8(said).unwrap();
    assert!(said.contains("made a certificate for the host of `url`"), "{said}");
    assert_eq!(ca::names_host(&hq.layout.online(), "localhost"), Some(true));
    assert_eq!(ca::names_host(&hq.layout.online(), "127.0.0.1"), Some(true), "the old name stays");
    hq.stop().await;
    hq.start();
    let told = office.poll_once().await;
    is_ok(&told);
    assert!(told.activated.is_some(), "a signed release says where HQ is");

    // From now on the old name would not be accepted.
    hq.stop().await;
    ca::rename(&hq.layout.online(), &["localhost".to_owned()]).unwrap();
    hq.start();
    is_ok(&office.poll_once().await);

    // The new name goes away again: what the token said is asked next.
    hq.stop().await;
    ca::rename(&hq.layout.online(), &["127.0.0.1".to_owned()]).unwrap();
    hq.start();
    assert_ne!(office.poll_once().await.state.code(), "ok");
    is_ok(&office.poll_once().await);
    hq.stop().await;
}
