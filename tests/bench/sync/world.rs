//! HQ and appliances as processes, and a fleet directory that people could have written.

use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::proxy::Proxy;

/// HQ behind the counting proxy.
pub struct Hq {
    pub fleet: PathBuf,
    pub proxy: Proxy,
    serve: Child,
}

/// One appliance that runs.
pub struct Site {
    config: PathBuf,
    state: PathBuf,
    child: Child,
}

impl Hq {
    /// Makes a fleet directory in `dir` and serves it.
    pub fn start(dir: &Path) -> Self {
        let listen: SocketAddr = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let proxy = Proxy::start(listen);
        let fleet = dir.join("fleet");
        let url = format!("https://{}", proxy.address);
        done(Command::new(hq()).arg("init").arg(&fleet).args(["--name", "Bench", "--url", &url]));
        let mut serve = Command::new(hq());
        serve.arg("--fleet").arg(&fleet).args(["serve", "--keys-here", "--listen", &listen.to_string()]);
        let serve = quiet(&mut serve).spawn().unwrap();
        let end = Instant::now() + Duration::from_secs(20);
        while std::net::TcpStream::connect(listen).is_err() {
            assert!(Instant::now() < end, "HQ does not serve");
            std::thread::sleep(Duration::from_millis(20));
        }
        Self { fleet, proxy, serve }
    }

    pub fn write(&self, file: &str, bytes: impl AsRef<[u8]>) {
        let path = self.fleet.join(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }

    /// Runs `lineside-hq` on the fleet directory.
    pub fn run(&self, words: &[&str]) -> String {
        done(Command::new(hq()).arg("--fleet").arg(&self.fleet).args(words))
    }

    /// Enrols an appliance as this site and starts it.
    pub fn appliance(&self, dir: &Path, site: &str) -> Site {
        let dir = dir.join(site);
        fs::create_dir(&dir).unwrap();
        let (state, socket, token) = (dir.join("state"), dir.join("s"), dir.join("token.toml"));
        let config = dir.join("lineside.toml");
        let text = format!(
            "[lan]\ninterface = \"lo\"\nallow-loopback = true\n[storage]\nstate = {state:?}\n[tftp]\nenabled = false\n\
             [dhcp]\nenabled = false\n[update]\npoll-seconds = 86400\n[status]\nsocket = {socket:?}\n[log]\nfilter = \"warn\"\n"
        );
        fs::write(&config, text).unwrap();
        self.run(&["site", "enroll", site, "--output", token.to_str().unwrap()]);
        done(Command::new(lineside()).arg("--config").arg(&config).arg("enroll").arg(&token));
        let child = start(&config);
        let mut site = Site { config, state, child };
        site.ready();
        site
    }
}

fn start(config: &Path) -> Child {
    let mut run = Command::new(lineside());
    quiet(run.arg("--config").arg(config).arg("run")).spawn().unwrap()
}

impl Site {
    fn ready(&mut self) {
        let end = Instant::now() + Duration::from_secs(20);
        while self.try_status().is_none() {
            assert!(Instant::now() < end && self.child.try_wait().unwrap().is_none(), "the appliance does not start");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn try_status(&self) -> Option<serde_json::Value> {
        let output =
            Command::new(lineside()).arg("--config").arg(&self.config).args(["status", "--json"]).output().unwrap();
        output.status.success().then(|| serde_json::from_slice(&output.stdout).unwrap())
    }

    pub fn status(&self) -> serde_json::Value {
        self.try_status().expect("the appliance tells its status")
    }

    /// Asks for a poll.
    pub fn poll(&self) {
        done(Command::new(lineside()).arg("--config").arg(&self.config).args(["status", "--poll"]));
    }

    /// Waits until this generation is served.
    pub fn serves(&self, generation: u64) {
        let end = Instant::now() + Duration::from_secs(180);
        loop {
            let status = self.status();
            if status["generation"] == generation && status["state"] == "ok" {
                return;
            }
            assert!(Instant::now() < end, "generation {generation} does not come: {status:#}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    pub fn stop(&mut self) {
        let _ = Command::new("kill").arg(self.child.id().to_string()).status();
        let _ = self.child.wait();
    }

    /// After [`Site::stop`].
    pub fn start(&mut self) {
        self.child = start(&self.config);
        self.ready();
    }

    /// Where it keeps what it has.
    pub fn state(&self) -> &Path {
        &self.state
    }

    pub fn memory(&self) -> Memory {
        memory(self.child.id())
    }

    pub fn cpu(&self) -> Duration {
        cpu(self.child.id())
    }
}

/// Memory of a process in bytes.
#[derive(Debug, Clone, Copy)]
pub struct Memory {
    /// The most that was resident so far, its program's mapped pages included.
    pub peak: u64,
    /// Resident now without those: stacks and heap.
    pub own: u64,
}

pub fn memory(process: u32) -> Memory {
    let status = fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let field = |name: &str| -> u64 {
        let line = status.lines().find(|line| line.starts_with(name)).unwrap();
        line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
    };
    Memory { peak: field("VmHWM:"), own: field("RssAnon:") }
}

/// Processor time that a process used so far.
pub fn cpu(process: u32) -> Duration {
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).unwrap();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    let ticks: u64 = fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
    Duration::from_millis(ticks * 10)
}

impl Drop for Site {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Drop for Hq {
    fn drop(&mut self) {
        let _ = self.serve.kill();
        let _ = self.serve.wait();
    }
}

fn quiet(command: &mut Command) -> &mut Command {
    if std::env::var_os("BENCH_SHOW").is_none() {
        command.stderr(Stdio::null());
    }
    command.stdin(Stdio::null()).stdout(Stdio::null())
}

/// Runs a program that must succeed and returns what it printed.
pub fn done(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{command:?}\n{out}\n{err}");
    out.into_owned()
}

/// Whether a program is installed.
pub fn has(program: &str) -> bool {
    Command::new("sh").args(["-c", &format!("command -v {program}")]).output().is_ok_and(|found| found.status.success())
}

pub fn hq() -> &'static str {
    env!("CARGO_BIN_EXE_lineside-hq")
}

/// The appliance's program: this build's, or the one that `LINESIDE_PROGRAM` names, which is for the one that ships
/// (`--profile dist`).
pub fn lineside() -> PathBuf {
    std::env::var_os("LINESIDE_PROGRAM").map_or_else(|| env!("CARGO_BIN_EXE_lineside").into(), PathBuf::from)
}
