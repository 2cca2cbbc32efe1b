//! A whole deployment of shipped programs: HQ on a server, an appliance at a site, phones beside it.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::fleet::{self, after};
pub use super::fleet::{CISCO, CISCO_FILE, HQ, POLYCOM, POLYCOM_FILE};
use super::net::{Host, Net, Running, text, wait_for};

pub const BOX_WAN: &str = "10.99.0.2";
pub const BOX_LAN: &str = "192.168.77.1";

/// A device that no inventory has.
pub const STRANGER: &str = "02:00:00:00:00:99";

/// One HQ, one site.
pub struct Deployment {
    // In the order in which they have to end.
    pub appliance: Option<Running>,
    pub serve: Option<Running>,
    pub net: Net,
    pub hq: Host,
    pub site: Host,
    pub lan: Host,
    pub fleet: PathBuf,
    pub state: PathBuf,
    /// What the appliance's configuration names as the LAN.
    pub interface: String,
    /// What `lineside` is started with, for example another clock.
    pub under: Vec<String>,
    /// What `lineside-hq serve` is started with.
    pub hq_under: Vec<String>,
    phones: u8,
}

impl Deployment {
    /// A fleet with one site of two phones, published for nobody yet, HQ serving.
    pub fn new() -> Self {
        Self::with_repository(None)
    }

    /// The same, with the published tree served from elsewhere.
    pub fn with_repository(repository: Option<&str>) -> Self {
        let mut net = Net::new();
        let (hq, site, lan) = (net.host("hq"), net.host("box"), net.switch("lan"));
        net.cable((&hq, "eth0"), (&site, "wan0"));
        hq.sh(&format!("ip addr add {HQ}/24 dev eth0"));
        site.sh(&format!("ip addr add {BOX_WAN}/24 dev wan0"));
        net.plug(&site, "lan0", &lan, None);
        site.sh(&format!("ip addr add {BOX_LAN}/24 dev lan0"));

        let dir = net.dir();
        let fleet = dir.join("fleet");
        fleet::init(&fleet, &[CISCO, POLYCOM]);
        if let Some(repository) = repository {
            let path = fleet.join("fleet.toml");
            let settings = fs::read_to_string(&path).unwrap();
            let (before, after) = settings.split_once("\nurl = ").expect("fleet.toml has a url");
            fs::write(&path, format!("{before}\nrepository = \"{repository}\"\nurl = {after}")).unwrap();
        }
        let state = dir.join("state");
        let mut this = Self {
            appliance: None,
            serve: None,
            hq,
            site,
            lan,
            fleet,
            state,
            interface: "lan0".to_owned(),
            under: Vec::new(),
            hq_under: Vec::new(),
            phones: 0,
            net,
        };
        this.serve();
        this
    }

    /// Starts `lineside-hq serve`.
    pub fn serve(&mut self) {
        let log = self.net.dir().join("hq.log");
        self.serve = Some(fleet::serve(&self.fleet, &self.hq, &self.hq_under, &log));
    }

    /// Runs `lineside-hq` on the fleet; it must succeed.
    pub fn hq(&self, words: &[&str]) -> String {
        fleet::hq(&self.fleet, words)
    }

    /// Writes the appliance's configuration and returns its path.
    pub fn config(&self) -> PathBuf {
        let path = self.net.dir().join("lineside.toml");
        let (state, socket) = (self.state.display(), self.socket().display().to_string());
        let settings = format!(
            "[lan]\ninterface = \"{}\"\n[storage]\nstate = \"{state}\"\n[update]\npoll-seconds = 60\n[status]\nsocket = \"{socket}\"\n\
             [image]\nstate = \"{}\"\n",
            self.interface,
            self.image_state().display()
        );
        fs::write(&path, settings).unwrap();
        path
    }

    /// Where the system would say which image runs.
    pub fn image_state(&self) -> PathBuf {
        self.net.dir().join("image.toml")
    }

    fn socket(&self) -> PathBuf {
        self.net.dir().join("status.sock")
    }

    /// A token file for the sample site.
    pub fn token(&self) -> PathBuf {
        fleet::token(&self.fleet)
    }

    /// Runs `lineside` at the site: whether it succeeded, and what it said.
    pub fn try_lineside(&self, words: &[&str]) -> (bool, String) {
        let config = self.config();
        let config = config.to_str().unwrap();
        let words = [&[lineside_program(), "--config", config], words].concat();
        let output = self.site.command(&after(&self.under, &words)).output().unwrap();
        (output.status.success(), text(&output))
    }

    /// Enrols the appliance.
    pub fn enroll(&self) -> String {
        let token = self.token();
        let (done, said) = self.try_lineside(&["enroll", token.to_str().unwrap()]);
        assert!(done, "{said}\nHQ:\n{}", self.serve.as_ref().map(Running::log).unwrap_or_default());
        assert!(!token.exists(), "the token file is still there");
        said
    }

    /// Starts the appliance.
    pub fn start(&mut self) {
        self.start_as(&[]);
    }

    /// Starts the appliance through another program, for example `env`.
    pub fn start_as(&mut self, through: &[&str]) {
        let config = self.config();
        let log = self.net.dir().join("appliance.log");
        let words = [through, &[lineside_program(), "--config", config.to_str().unwrap(), "run"]].concat();
        self.appliance = Some(self.site.start(&after(&self.under, &words), &log));
        let ready = wait_for(Duration::from_secs(20), || self.socket().exists().then_some(()));
        ready.unwrap_or_else(|| panic!("the appliance does not start:\n{}", self.appliance_log()));
    }

    /// Starts the appliance after another one, which may have left its socket behind.
    pub fn start_anew(&mut self) {
        let _ = fs::remove_file(self.socket());
        self.start();
    }

    /// Enrolled, published, started, and serving the first release.
    pub fn ready() -> Self {
        let mut this = Self::new();
        this.enroll();
        this.hq(&["publish"]);
        this.start();
        this.serves(1);
        this
    }

    /// What the appliance logged.
    pub fn appliance_log(&self) -> String {
        self.appliance.as_ref().map(Running::log).unwrap_or_default()
    }

    /// `lineside status --json`.
    pub fn status(&self) -> serde_json::Value {
        let (done, said) = self.try_lineside(&["status", "--json"]);
        assert!(done, "{said}");
        serde_json::from_str(&said).unwrap()
    }

    /// Polls now and waits until a condition of the status holds.
    pub fn polls_until(&self, what: &str, holds: impl Fn(&serde_json::Value) -> bool) {
        let mut polled = None;
        wait_for(Duration::from_secs(40), || {
            if polled.is_none_or(|at: std::time::Instant| at.elapsed() > Duration::from_secs(4)) {
                self.try_lineside(&["status", "--poll"]);
                polled = Some(std::time::Instant::now());
            }
            holds(&self.status()).then_some(())
        })
        .unwrap_or_else(|| panic!("{what} did not come:\n{:#}\n{}", self.status(), self.appliance_log()));
    }

    /// Polls until this generation is served.
    pub fn serves(&self, generation: u64) {
        self.polls_until("the generation", |status| status["generation"] == generation && status["state"] == "ok");
    }

    /// Plugs a phone in, without an address.
    pub fn phone(&mut self, mac: &str) -> Host {
        self.phones += 1;
        let phone = self.net.host(&format!("ph{}", self.phones));
        self.net.plug(&phone, "eth0", &self.lan, Some(mac));
        phone
    }

    /// Plugs a phone in with an address that somebody else gave it.
    pub fn phone_at(&mut self, mac: &str, address: &str) -> Host {
        let phone = self.phone(mac);
        phone.sh(&format!("ip addr add {address}/24 dev eth0"));
        phone
    }

    /// What the phone of this address must get under this name, as HQ shows it.
    pub fn preview(&self, mac: &str, name: &str) -> Vec<u8> {
        fleet::preview(&self.fleet, mac, name)
    }

    /// Changes a file of the fleet directory.
    pub fn edit(&self, file: &str, from: &str, to: &str) {
        let path = self.fleet.join(file);
        let before = fs::read_to_string(&path).unwrap();
        assert!(before.contains(from), "`{from}` is not in {file}:\n{before}");
        fs::write(path, before.replacen(from, to, 1)).unwrap();
    }
}

pub fn lineside_program() -> &'static str {
    env!("CARGO_BIN_EXE_lineside")
}

/// Every file below a directory.
pub fn tree(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { found.extend(tree(&path)) } else { found.push(path) }
    }
    found
}
