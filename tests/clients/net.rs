//! Hosts on one machine: network namespaces joined by virtual cables, gone when the test ends.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

static NEXT: AtomicU32 = AtomicU32::new(0);

/// Whether this machine can run a test that needs root, namespaces and these programs. If not, says so loudly; with
/// `CI=true` that is a failure.
pub fn can_run(test: &str, programs: &[&str]) -> bool {
    can_run_as(test, programs, true)
}

/// The same for a test that may do without root.
pub fn can_run_as(test: &str, programs: &[&str], root: bool) -> bool {
    let mut lacking: Vec<String> =
        programs.iter().filter(|name| !installed(name)).map(|name| (*name).to_owned()).collect();
    if root && fs::metadata("/proc/self").unwrap().uid() != 0 {
        lacking.push("root".to_owned());
    }
    if std::env::var_os("LINESIDE_EMULATED").is_some() {
        eprintln!("SKIPPED {test}: qemu-user knows neither packet sockets nor the neighbour table");
        return false;
    }
    if lacking.is_empty() {
        return true;
    }
    let lacking = lacking.join(", ");
    assert!(std::env::var("CI").as_deref() != Ok("true"), "{test} cannot run here: it needs {lacking}");
    eprintln!("SKIPPED {test}: it needs {lacking}");
    false
}

fn installed(program: &str) -> bool {
    let path = std::env::var("PATH").unwrap_or_default() + ":/usr/sbin:/sbin";
    path.split(':').any(|dir| Path::new(dir).join(program).exists())
}

/// A network of namespaces with a scratch directory. Dropping it ends every process in it and removes it.
pub struct Net {
    tag: String,
    namespaces: Vec<String>,
    dir: tempfile::TempDir,
}

impl Net {
    pub fn new() -> Self {
        let tag = format!("ls{}x{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        Self { tag, namespaces: Vec::new(), dir: tempfile::tempdir().unwrap() }
    }

    /// The scratch directory.
    pub fn dir(&self) -> PathBuf {
        self.dir.path().to_owned()
    }

    /// Adds a host.
    pub fn host(&mut self, name: &str) -> Host {
        let namespace = format!("{}-{name}", self.tag);
        sh(&format!("ip netns add {namespace} && ip -n {namespace} link set lo up"));
        self.namespaces.push(namespace.clone());
        Host { namespace }
    }

    /// Adds a host that is a switch.
    pub fn switch(&mut self, name: &str) -> Host {
        let host = self.host(name);
        host.sh("ip link add br0 type bridge forward_delay 0 && ip link set br0 up");
        host
    }

    /// Plugs a cable from a host's new interface into a switch.
    pub fn plug(&self, host: &Host, interface: &str, switch: &Host, mac: Option<&str>) {
        let port = format!("p{}", NEXT.fetch_add(1, Ordering::Relaxed));
        let (a, b) = (&host.namespace, &switch.namespace);
        sh(&format!("ip link add {interface} netns {a} type veth peer name {port} netns {b}"));
        if let Some(mac) = mac {
            host.sh(&format!("ip link set {interface} address {mac}"));
        }
        switch.sh(&format!("ip link set {port} master br0 && ip link set {port} up"));
        host.sh(&format!("ip link set {interface} up"));
    }

    /// Plugs a cable between two hosts.
    pub fn cable(&self, (a, a_interface): (&Host, &str), (b, b_interface): (&Host, &str)) {
        let (a_ns, b_ns) = (&a.namespace, &b.namespace);
        sh(&format!("ip link add {a_interface} netns {a_ns} type veth peer name {b_interface} netns {b_ns}"));
        a.sh(&format!("ip link set {a_interface} up"));
        b.sh(&format!("ip link set {b_interface} up"));
    }
}

impl Drop for Net {
    fn drop(&mut self) {
        for namespace in &self.namespaces {
            let _ = Command::new("sh")
                .args(["-c", &format!("ip netns pids {namespace} | xargs -r kill -9; ip netns del {namespace}")])
                .stderr(Stdio::null())
                .status();
        }
    }
}

/// One host of a [`Net`].
#[derive(Clone)]
pub struct Host {
    pub namespace: String,
}

impl Host {
    /// Runs a shell line in it, which must succeed.
    pub fn sh(&self, line: &str) -> String {
        let output = self.try_sh(line);
        assert!(output.status.success(), "`{line}` failed: {}", text(&output));
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Runs a shell line in it.
    pub fn try_sh(&self, line: &str) -> Output {
        self.command(&["sh", "-c", line]).output().unwrap()
    }

    /// A command in it, to be started.
    pub fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.namespace]).args(words).stdin(Stdio::null());
        command
    }

    /// Makes names known to its resolver, for programs that start from now on.
    pub fn hosts(&self, text: &str) -> Hosts {
        // `ip netns exec` puts this over /etc.
        let dir = Path::new("/etc/netns").join(&self.namespace);
        fs::create_dir_all(&dir).unwrap();
        fs::write(dir.join("hosts"), text).unwrap();
        Hosts(dir)
    }

    /// Runs a function on a thread whose sockets are this host's.
    pub fn inside<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> std::thread::JoinHandle<T> {
        let namespace = fs::File::open(format!("/run/netns/{}", self.namespace)).unwrap();
        std::thread::spawn(move || {
            nix::sched::setns(namespace, nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
            work()
        })
    }

    /// Starts a program in it, its output going to a file.
    pub fn start(&self, words: &[&str], log: &Path) -> Running {
        let file = fs::File::options().create(true).append(true).open(log).unwrap();
        let child = self
            .command(words)
            .env("LINESIDE_LOG", "debug")
            .stdout(file.try_clone().unwrap())
            .stderr(file)
            .spawn()
            .unwrap_or_else(|error| panic!("{words:?}: {error}"));
        Running { child, log: log.to_owned() }
    }
}

/// The names of a host; gone when dropped.
pub struct Hosts(PathBuf);

impl Drop for Hosts {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A program that was started; killed when dropped.
pub struct Running {
    child: Child,
    log: PathBuf,
}

impl Running {
    /// Its process.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    pub fn signal(&self, name: &str) {
        sh(&format!("kill -{name} {}", self.child.id()));
    }

    /// Waits for its end.
    pub fn ends_within(&mut self, limit: Duration) -> std::process::ExitStatus {
        wait_for(limit, || self.child.try_wait().unwrap())
            .unwrap_or_else(|| panic!("still running after {limit:?}:\n{}", self.log()))
    }

    /// What it printed.
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Waits until it printed this.
    pub fn says(&self, what: &str) {
        wait_for(Duration::from_secs(30), || self.log().contains(what).then_some(()))
            .unwrap_or_else(|| panic!("never said `{what}`:\n{}", self.log()));
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Asks until there is an answer or the limit is over.
pub fn wait_for<T>(limit: Duration, mut ask: impl FnMut() -> Option<T>) -> Option<T> {
    let end = Instant::now() + limit;
    loop {
        if let Some(answer) = ask() {
            return Some(answer);
        }
        if Instant::now() > end {
            return None;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Runs a shell line on this machine, which must succeed.
pub fn sh(line: &str) -> String {
    let output = Command::new("sh").args(["-c", line]).stdin(Stdio::null()).output().unwrap();
    assert!(output.status.success(), "`{line}` failed: {}", text(&output));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Everything that a command printed.
pub fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}
