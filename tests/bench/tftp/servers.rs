//! Starting each server as a process on core 0, and what it used.

use std::fs;
use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use crate::load::Phones;

/// The floor first: the others are shown as ratios to it.
pub const KINDS: [&str; 5] = ["floor", "lineside", "dnsmasq", "tftpd-hpa", "async-tftp"];

pub struct Server {
    child: Child,
    address: SocketAddrV4,
    group: Option<Group>,
    /// Lineside's HQ, a process of its own that is not measured; it ends with this.
    _hq: Option<Hq>,
}

/// The demo's HQ: it has published the files, had them pulled and verified, and left the appliance's state in `keep`.
pub struct Hq {
    child: Child,
    pub keep: tempfile::TempDir,
}

impl Hq {
    /// Publishes these files for devices of these addresses.
    pub fn publish(files: &Path, address: SocketAddrV4, neighbours: &[(Ipv4Addr, String)]) -> Option<Self> {
        let keep = tempfile::tempdir().ok()?;
        let mut command = Command::new(env!("CARGO_BIN_EXE_demo"));
        command.arg("--stay").arg("--files").arg(files).arg("--tftp").arg(address.to_string());
        command.arg("--keep").arg(keep.path());
        for (address, mac) in neighbours {
            command.arg("--neighbour").arg(format!("{address}={mac}"));
        }
        command.stdin(Stdio::null()).stdout(Stdio::null());
        let child = command.spawn().ok()?;
        let hq = Self { child, keep };
        let end = Instant::now() + Duration::from_secs(120);
        while !hq.keep.path().join("lineside.toml").exists() {
            if Instant::now() > end {
                return None;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        std::thread::sleep(Duration::from_millis(200));
        Some(hq)
    }
}

impl Drop for Hq {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Server {
    /// Starts a server over `files`, or says that it is not on this machine.
    pub fn start(kind: &str, files: &Path, phones: &Phones) -> Option<Self> {
        let address = free_address();
        let dir = files.to_str()?;
        let me = std::env::current_exe().ok()?;
        let mut hq = None;
        let words: Vec<String> = match kind {
            "floor" | "async-tftp" => {
                vec![me.to_str()?.to_owned(), format!("serve-{kind}"), address.to_string(), dir.to_owned()]
            }
            "lineside" => {
                let mac = |index: u32| format!("02:00:00:00:{:02x}:{:02x}", (index >> 8) & 0xff, index & 0xff);
                let neighbours: Vec<_> = (0..phones.count).map(|index| (phones.address(index), mac(index))).collect();
                hq = Some(Hq::publish(files, address, &neighbours)?);
                let config = hq.as_ref()?.keep.path().join("lineside.toml");
                vec![
                    std::env::var("BENCH_LINESIDE").unwrap_or_else(|_| env!("CARGO_BIN_EXE_lineside").to_owned()),
                    "--config".into(),
                    config.to_str()?.into(),
                    "run".into(),
                ]
            }
            "dnsmasq" => {
                let program = installed("dnsmasq")?;
                ["-k", "-C", "/dev/null", "--port=0", "--enable-tftp", "--tftp-no-fail", "--log-facility=/dev/null"]
                    .iter()
                    .map(|word| (*word).to_owned())
                    .fold(vec![program], |mut words, word| {
                        words.push(word);
                        words
                    })
            }
            "tftpd-hpa" => {
                let program = installed("in.tftpd")?;
                vec![
                    program,
                    "-L".into(),
                    "--user".into(),
                    "root".into(),
                    "--address".into(),
                    address.to_string(),
                    "--secure".into(),
                    dir.to_owned(),
                ]
            }
            other => panic!("no such server: {other}"),
        };
        let mut words = words;
        let mut address = address;
        if kind == "dnsmasq" {
            // dnsmasq serves TFTP on port 69 only, so it gets a loopback address of its own.
            address = SocketAddrV4::new(Ipv4Addr::new(127, 9, 9, 9), 69);
            words.extend([
                format!("--tftp-root={dir}"),
                "--listen-address=127.9.9.9".into(),
                "--bind-interfaces".into(),
                "--tftp-max=1000".into(),
                "--user=root".into(),
            ]);
        }
        let server = Self::of(words, address, hq);
        server.answers(phones).then_some(server)
    }

    /// Starts this command line, which serves on this address.
    pub fn of(words: Vec<String>, address: SocketAddrV4, hq: Option<Hq>) -> Self {
        let group = Group::new();
        let mut command = Command::new("taskset");
        command.args(["-c", "0"]).args(&words).stdin(Stdio::null()).stdout(Stdio::null());
        if std::env::var_os("BENCH_SHOW").is_none() {
            command.stderr(Stdio::null());
        }
        let child = command.spawn().unwrap();
        if let Some(group) = &group {
            group.add(child.id());
        }
        Self { child, address, group, _hq: hq }
    }

    pub fn address(&self) -> SocketAddrV4 {
        self.address
    }

    /// Asks until something comes back.
    pub fn answers(&self, phones: &Phones) -> bool {
        let socket = UdpSocket::bind((phones.address(0), 0)).unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
        let end = Instant::now() + Duration::from_secs(60);
        while Instant::now() < end {
            let _ = socket.send_to(&phones.request(), self.address);
            if let Ok((_, from)) = socket.recv_from(&mut [0; 2048]) {
                let _ = socket.send_to(b"\0\x05\0\0enough\0", from);
                std::thread::sleep(Duration::from_millis(300));
                return true;
            }
        }
        false
    }

    /// CPU time used so far, by it and its children: of the control group where there is one, else from /proc.
    pub fn cpu(&self) -> Duration {
        if let Some(used) = self.group.as_ref().and_then(Group::cpu) {
            return used;
        }
        let nanos: u64 = fs::read_dir(format!("/proc/{}/task", self.child.id()))
            .map(|tasks| {
                tasks
                    .filter_map(|task| fs::read_to_string(task.ok()?.path().join("schedstat")).ok())
                    .filter_map(|stat| stat.split(' ').next()?.parse::<u64>().ok())
                    .sum()
            })
            .unwrap_or(0);
        Duration::from_nanos(nanos)
    }

    /// Resident now: of the process alone, libraries included.
    pub fn resident_bytes(&self) -> Option<u64> {
        self.status("VmRSS:")
    }

    /// The peak counts from here.
    pub fn forget_peak(&self) {
        // 5 resets VmHWM (proc_pid_clear_refs(5)).
        let _ = fs::write(format!("/proc/{}/clear_refs", self.child.id()), "5");
    }

    /// Its processes now, with the children that it forks for each transfer.
    pub fn processes(&self) -> Processes {
        Processes { first: self.child.id(), group: self.group.as_ref().map(|group| group.dir.clone()) }
    }

    /// The most memory it had resident, of its first process.
    pub fn peak_bytes(&self) -> Option<u64> {
        self.status("VmHWM:")
    }

    fn status(&self, name: &str) -> Option<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id())).ok()?;
        let line = status.lines().find_map(|line| line.strip_prefix(name))?;
        line.split_whitespace().next()?.parse::<u64>().ok().map(|kib| kib * 1024)
    }
}

/// The processes of one server, to be asked while it works.
pub struct Processes {
    first: u32,
    group: Option<PathBuf>,
}

impl Processes {
    /// The proportional set sizes of all of them (proc_pid_smaps(5)).
    pub fn proportional_bytes(&self) -> u64 {
        let listed = self.group.as_ref().and_then(|dir| fs::read_to_string(dir.join("cgroup.procs")).ok());
        let all = listed.unwrap_or_else(|| self.first.to_string());
        let of = |process: &str| {
            let rollup = fs::read_to_string(format!("/proc/{process}/smaps_rollup")).ok()?;
            let line = rollup.lines().find_map(|line| line.strip_prefix("Pss:"))?;
            line.split_whitespace().next()?.parse::<u64>().ok().map(|kib| kib * 1024)
        };
        all.lines().filter_map(of).sum()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn free_address() -> SocketAddrV4 {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    match socket.local_addr().unwrap() {
        std::net::SocketAddr::V4(address) => address,
        std::net::SocketAddr::V6(_) => unreachable!("an IPv4 socket has an IPv4 address"),
    }
}

fn installed(program: &str) -> Option<String> {
    ["/usr/sbin", "/usr/bin", "/sbin"]
        .iter()
        .map(|dir| format!("{dir}/{program}"))
        .find(|path| Path::new(path).exists())
}

/// A control group of its own, which also counts children that have ended (tftpd-hpa forks).
struct Group {
    dir: PathBuf,
    /// The file with the CPU time, what stands before the figure in it, and the figure's unit in nanoseconds.
    usage: (&'static str, &'static str, u64),
}

impl Group {
    fn new() -> Option<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!("lineside-bench-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let kinds = [
            ("/sys/fs/cgroup", ("cpu.stat", "usage_usec ", 1_000)),
            ("/sys/fs/cgroup/cpuacct", ("cpuacct.usage", "", 1)),
        ];
        for (root, usage) in kinds {
            let dir = Path::new(root).join(&name);
            if fs::create_dir_all(&dir).is_ok() && dir.join(usage.0).exists() {
                return Some(Self { dir, usage });
            }
            let _ = fs::remove_dir(&dir);
        }
        None
    }

    fn add(&self, process: u32) {
        let _ = fs::write(self.dir.join("cgroup.procs"), process.to_string());
    }

    fn cpu(&self) -> Option<Duration> {
        let (file, before, unit) = self.usage;
        let text = fs::read_to_string(self.dir.join(file)).ok()?;
        let figure = text.lines().find_map(|line| line.strip_prefix(before))?;
        Some(Duration::from_nanos(figure.trim().parse::<u64>().ok()? * unit))
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // The server's children end after it; a group can go when the last of them has.
        for process in fs::read_to_string(self.dir.join("cgroup.procs")).unwrap_or_default().lines() {
            let _ = Command::new("kill").args(["-9", process]).status();
        }
        for _ in 0..20 {
            if fs::remove_dir(&self.dir).is_ok() {
                break;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}
