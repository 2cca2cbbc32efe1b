//! HQ as it ships, in this process, and sites that are enrolled with it.

use std::collections::BTreeMap;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use lineside::access::Files as _;
use lineside::api::CheckIn;
use lineside::hq::init::{self, InitOptions};
use lineside::hq::progress::Silent;
use lineside::hq::publish::{self, PublishOptions, Summary};
use lineside::ids::{FileName, FleetId, SiteId, UnixTime};
use lineside::online::service::{ServeOptions, Server};
use lineside::repository::layout::Layout;
use lineside::status::Stats;
use lineside::store::Store;
use lineside::update::clock::Reading;
use lineside::update::{PollOutcome, SiteIdentity, SystemClock, Updater, UpdaterSettings, enrol, load_active};
use tempfile::TempDir;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

pub const DAY: Duration = Duration::from_secs(86_400);

pub fn now() -> UnixTime {
    UnixTime::of(SystemTime::now())
}

/// A fleet directory and the service over it.
pub struct Fleet {
    pub layout: Layout,
    pub id: FleetId,
    pub address: SocketAddr,
    serving: Option<(CancellationToken, JoinHandle<anyhow::Result<()>>)>,
    pub dir: TempDir,
}

impl Fleet {
    pub async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("fleet");
        let options = InitOptions { name: "Test".into(), url: "https://127.0.0.1:8443".into(), now: now() };
        let id = init::init(&path, &options).unwrap();
        let mut fleet =
            Self { layout: Layout::new(path), id, address: "127.0.0.1:0".parse().unwrap(), serving: None, dir };
        fleet.serve().await;
        // Releases tell sites where HQ is.
        let file = fleet.layout.dir().join("fleet.toml");
        let text = fs::read_to_string(&file).unwrap();
        let url = format!("https://{}", fleet.address);
        assert!(text.contains("https://127.0.0.1:8443"));
        fs::write(file, text.replace("https://127.0.0.1:8443", &url)).unwrap();
        fleet
    }

    /// Starts the service, on the port that it had before.
    pub async fn serve(&mut self) {
        self.serve_as(Ok).await;
    }

    /// `serve --clock-is-right`.
    pub async fn serve_with_a_clock_that_is_right(&mut self) {
        self.serve_as(Server::clock_is_right).await;
    }

    async fn serve_as(&mut self, with: impl FnOnce(Server) -> anyhow::Result<Server>) {
        self.stop().await;
        let server = Server::bind(ServeOptions { dir: self.layout.online(), listen: self.address }).unwrap();
        let server = with(server).unwrap();
        self.address = server.local_addr().unwrap();
        let stop = CancellationToken::new();
        self.serving = Some((stop.clone(), tokio::spawn(server.run(stop))));
    }

    pub async fn stop(&mut self) {
        if let Some((stop, task)) = self.serving.take() {
            stop.cancel();
            task.await.unwrap().unwrap();
        }
    }

    /// Enrols the sample site, or a new one of another name with a phone of its own.
    pub async fn site(&self, name: &str) -> Site {
        if name != "sample-office" {
            init::add_site(&self.layout, name).unwrap();
            let line = format!("00:04:f2:00:09:01,{name},polycom,Branch,901,Branch,901,secret:sip-103\n");
            let phones = fs::read_to_string(self.layout.phones_csv()).unwrap();
            fs::write(self.layout.phones_csv(), phones + &line).unwrap();
        }
        let id = self.site_id(name);
        let dir = tempfile::tempdir().unwrap();
        let state = dir.path().join("state");
        let store = Store::open(&state).unwrap();
        let url = format!("https://{}", self.address);
        let token = lineside::hq::enrol::issue(&self.layout, &id, name, &self.id, &url, None).unwrap();
        let identity = enrol(&token, &store, true).await.unwrap();
        let clock = Clock::new();
        let updater = updater(&store, &identity, &clock);
        Site { id, state, store, identity, updater, clock, _dir: dir }
    }

    fn site_id(&self, name: &str) -> SiteId {
        let text = fs::read_to_string(self.layout.sites().join(format!("{name}.toml"))).unwrap();
        text.parse::<toml::Table>().unwrap()["id"].as_str().unwrap().parse().unwrap()
    }

    pub fn publish_at(&self, now: UnixTime) -> Summary {
        publish::publish(&self.layout, &PublishOptions { sites: None, now }, &mut Silent).unwrap()
    }

    pub fn publish(&self) -> Summary {
        self.publish_at(now())
    }

    /// Runs the shipped program on this fleet; its output if it succeeded.
    pub fn hq(&self, arguments: &[&str]) -> String {
        let (done, said) = self.try_hq(arguments);
        assert!(done, "{arguments:?}: {said}");
        said
    }

    pub fn try_hq(&self, arguments: &[&str]) -> (bool, String) {
        let mut command = Command::new(env!("CARGO_BIN_EXE_lineside-hq"));
        command.arg("--fleet").arg(self.layout.dir()).args(arguments).env("LINESIDE_PASSPHRASE", "correct horse");
        let output = command.output().unwrap();
        let said = [output.stdout, output.stderr].concat();
        (output.status.success(), String::from_utf8_lossy(&said).into_owned())
    }

    /// Adds a line to the configuration of every Cisco phone.
    pub fn edit(&self, what: &str) {
        let path = self.layout.templates().join("cisco-8941/SEP.cnf.xml.j2");
        let text = fs::read_to_string(&path).unwrap();
        fs::write(path, text.replace("</device>", &format!("<!-- {what} --></device>"))).unwrap();
    }

    /// Every published file by its path below `public`.
    pub fn published(&self) -> BTreeMap<PathBuf, Vec<u8>> {
        let mut found = BTreeMap::new();
        walk(&self.layout.public(), &mut |path| {
            let name = path.strip_prefix(self.layout.public()).unwrap().to_owned();
            found.insert(name, fs::read(path).unwrap());
        });
        found
    }
}

fn walk(dir: &Path, each: &mut dyn FnMut(&Path)) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { walk(&path, each) } else { each(&path) }
    }
}

/// An enrolled appliance's pull side.
pub struct Site {
    pub id: SiteId,
    pub state: PathBuf,
    pub store: Store,
    pub identity: SiteIdentity,
    pub updater: Updater,
    pub clock: Arc<Clock>,
    _dir: TempDir,
}

pub fn updater(store: &Store, identity: &SiteIdentity, clock: &Arc<Clock>) -> Updater {
    let settings = UpdaterSettings { start_spread: Duration::ZERO, ..UpdaterSettings::default() };
    let report = || CheckIn { version: "test".to_owned(), ..CheckIn::default() };
    let clock = Box::new(clock.clone());
    Updater::new(store.clone(), identity.clone(), settings, Stats::new(), clock, Arc::new(report))
}

impl Site {
    pub async fn poll(&mut self) -> PollOutcome {
        self.updater.poll_once().await
    }

    /// Polls and expects to serve this generation then.
    pub async fn takes(&mut self, generation: u64) {
        let outcome = self.poll().await;
        assert_eq!(outcome.state.code(), "ok", "{}", outcome.reason);
        assert_eq!(serving(&self.store, &self.identity), generation);
    }

    pub fn serving(&self) -> u64 {
        serving(&self.store, &self.identity)
    }

    pub fn content(&self) -> BTreeMap<FileName, Vec<u8>> {
        content(&self.store, &self.identity)
    }
}

/// The generation that this disk serves.
pub fn serving(store: &Store, identity: &SiteIdentity) -> u64 {
    load_active(store, identity).unwrap().map_or(0, |opened| opened.generation().0)
}

/// Every file that this disk serves, read the way that phones get them.
pub fn content(store: &Store, identity: &SiteIdentity) -> BTreeMap<FileName, Vec<u8>> {
    let opened = load_active(store, identity).unwrap().unwrap();
    let read = |entry: &Arc<lineside::bundle::FileEntry>| {
        let file = store.open(entry).unwrap();
        (0..file.len().div_ceil(65_536)).flat_map(|index| file.chunk(index).unwrap().to_vec()).collect()
    };
    opened.catalog().files().map(|entry| (entry.name.clone(), read(entry))).collect()
}

/// The host's clock, which a test moves ahead.
#[derive(Debug)]
pub struct Clock(Mutex<Duration>);

impl Clock {
    pub fn new() -> Arc<Self> {
        Arc::new(Self(Mutex::default()))
    }

    pub fn advance(&self, by: Duration) {
        *self.0.lock().unwrap() += by;
    }
}

impl SystemClock for Clock {
    fn read(&self) -> Reading {
        let ahead = *self.0.lock().unwrap();
        Reading { system: now().plus(ahead), monotonic: ahead, synchronised: true }
    }
}
