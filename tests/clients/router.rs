//! DHCP and the neighbour table against independent clients, in network namespaces of their own.
//! The room itself runs in a thread of the test here, so that its lease log and its restart are the test's.

use std::fs;
use std::io::Write as _;
use std::net::Ipv4Addr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Mutex, RwLock};
use std::time::{Duration, Instant};

use lineside::access::{Catalog, DeviceTable, Resolution};
use lineside::appliance::interface;
use lineside::appliance::neighbours::NeighbourService;
use lineside::bundle::{DhcpMode, DhcpSettings};
use lineside::dhcp::{Config, Feeds, Lease, LeaseLog, MemoryLog, Service};
use lineside::ids::{self, MacAddr};
use lineside::status::Stats;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use super::net::can_run;

const SERVER: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 2);
const ROUTER: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);
const PHONE: [u8; 6] = [0x00, 0x04, 0xf2, 0xaa, 0xbb, 0xcc];

#[test]
fn dhclient_learns_66_and_150_and_keeps_its_address_over_our_restart() {
    if !can_run("dhclient_learns_66_and_150_and_keeps_its_address_over_our_restart", &["ip", "dhclient", "busybox"]) {
        return;
    }
    let lan = Lan::new("dhc");
    let log = SharedLog::default();
    let site = lan.serve(all(), Box::new(log.clone()));
    site.wait_until_all();
    let first = lan.dhclient();
    println!("dhclient: {first}");
    assert!(first.contains("fixed-address 10.77.0.1"), "{first}");
    assert!(first.contains("option tftp-server-name \"10.77.0.2\""), "{first}");
    assert!(first.contains("option tftp150 10.77.0.2,10.77.0.3"), "{first}");
    drop(site);
    // The client remembers its lease: INIT-REBOOT to a server that knows it from its log, at once.
    let site = lan.serve(all(), Box::new(log));
    let second = lan.dhclient();
    let address = |text: &str| text.rsplit("fixed-address ").next().unwrap().split(';').next().unwrap().to_owned();
    assert_eq!(address(&first), address(&second));
    drop(site);
}

#[test]
fn an_address_that_a_machine_in_the_range_has_by_hand_is_never_offered() {
    if !can_run("an_address_that_a_machine_in_the_range_has_by_hand_is_never_offered", &["ip", "busybox"]) {
        return;
    }
    let lan = Lan::new("use");
    let site = lan.serve(all(), Box::new(MemoryLog::default()));
    site.wait_until_all();
    let address = |seen: &str| seen.split(' ').find_map(|word| word.strip_prefix("ip=")).unwrap().to_owned();
    let usual = address(&lan.udhcpc());
    drop(site);
    // An appliance that has lost its leases would choose the same address again; now a printer has it.
    lan.run("r", &["ip", "address", "add", &format!("{usual}/24"), "dev", "lan0"]);
    let site = lan.serve(all(), Box::new(MemoryLog::default()));
    site.wait_until_all();
    let other = address(&lan.udhcpc());
    println!("{usual} is in use, {other} was leased");
    assert_ne!(usual, other);
    drop(site);
}

#[test]
fn the_neighbour_table_is_followed_and_asked_for() {
    if !can_run("the_neighbour_table_is_followed_and_asked_for", &["ip", "busybox"]) {
        return;
    }
    let lan = Lan::new("nei");
    let address = Ipv4Addr::new(10, 77, 0, 50);
    lan.run("c", &["ip", "address", "add", "10.77.0.50/24", "dev", "lan0"]);
    let devices: Arc<RwLock<DeviceTable>> = Arc::default();
    let (ask, asked) = mpsc::channel(16);
    let stop = CancellationToken::new();
    let (table, ended) = (devices.clone(), stop.clone());
    let task = lan.in_server(move || async move {
        let lan = interface::find(Some("lan0"), false).unwrap();
        assert_eq!((lan.address(), lan.lan.prefix_len()), (SERVER, 24));
        NeighbourService::new(lan, table, Stats::new()).run(asked, ended).await.unwrap();
    });
    let resolved = || devices.read().unwrap().resolve(address);
    assert_eq!(resolved(), Resolution::Unknown);
    let begin = Instant::now();
    ask.blocking_send(address).unwrap();
    until("the phone is known", || resolved() == Resolution::Device(MacAddr::new(PHONE)));
    println!("resolved in {:?}", begin.elapsed());
    // Another device claims the address by gratuitous ARP, as a thief would.
    lan.run("c", &["ip", "link", "set", "lan0", "address", "02:00:00:00:00:66"]);
    lan.run("c", &["busybox", "arping", "-U", "-c", "2", "-I", "lan0", "10.77.0.50"]);
    let thief = Resolution::Device(MacAddr::new([2, 0, 0, 0, 0, 0x66]));
    until("the change is seen", || resolved() == thief);
    // It is asked for again when it is lost, and nobody is there any more.
    lan.run("c", &["ip", "address", "del", "10.77.0.50/24", "dev", "lan0"]);
    lan.run("s", &["ip", "neighbour", "flush", "dev", "lan0"]);
    until("the entry is gone", || resolved() == Resolution::Unknown);
    stop.cancel();
    task.join().unwrap();
}

fn all() -> DhcpSettings {
    DhcpSettings {
        mode: DhcpMode::All,
        range: Some((Ipv4Addr::new(10, 77, 0, 100), Ipv4Addr::new(10, 77, 0, 120))),
        routers: vec![ROUTER],
        tftp_servers: vec![SERVER, Ipv4Addr::new(10, 77, 0, 3)],
        phone_classes: vec!["Polycom-".to_owned()],
        ..DhcpSettings::default()
    }
}

fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !holds() {
        assert!(begin.elapsed() < Duration::from_secs(10), "never: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// A bridge with three hosts on it: server, client, router.
struct Lan {
    name: &'static str,
    files: tempfile::TempDir,
}

impl Lan {
    fn new(name: &'static str) -> Self {
        let lan = Self { name, files: tempfile::tempdir().unwrap() };
        lan.clear();
        lan.host(&["ip", "netns", "add", &lan.ns("b")]);
        lan.run("b", &["ip", "link", "add", "br0", "type", "bridge"]);
        lan.run("b", &["ip", "link", "set", "br0", "up"]);
        for (host, address) in [("s", "10.77.0.2/24"), ("c", ""), ("r", "10.77.0.1/24")] {
            let (ns, bridge) = (lan.ns(host), lan.ns("b"));
            lan.host(&["ip", "netns", "add", &ns]);
            lan.host(&["ip", "-n", &bridge, "link", "add", host, "type", "veth", "peer", "name", "lan0", "netns", &ns]);
            lan.run("b", &["ip", "link", "set", host, "master", "br0", "up"]);
            if host == "c" {
                lan.run(host, &["ip", "link", "set", "lan0", "address", &MacAddr::new(PHONE).to_string()]);
            }
            lan.run(host, &["ip", "link", "set", "lo", "up"]);
            lan.run(host, &["ip", "link", "set", "lan0", "up"]);
            if !address.is_empty() {
                lan.run(host, &["ip", "address", "add", address, "dev", "lan0"]);
            }
        }
        lan
    }

    fn ns(&self, host: &str) -> String {
        format!("ls-{}-{}-{host}", self.name, std::process::id())
    }

    fn host(&self, command: &[&str]) -> String {
        let (program, arguments) = command.split_first().unwrap();
        let output = Command::new(program).args(arguments).output().unwrap();
        String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned()
    }

    fn run(&self, host: &str, command: &[&str]) -> String {
        let ns = self.ns(host);
        self.host(&[&["ip", "netns", "exec", ns.as_str()], command].concat())
    }

    /// Runs a future in the server's namespace, on a thread of its own.
    fn in_server<F: Future<Output = ()>>(
        &self,
        make: impl FnOnce() -> F + Send + 'static,
    ) -> std::thread::JoinHandle<()> {
        let ns = fs::File::open(format!("/run/netns/{}", self.ns("s"))).unwrap();
        std::thread::spawn(move || {
            nix::sched::setns(ns, nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(make());
        })
    }

    fn serve(&self, local: DhcpSettings, leases: Box<dyn LeaseLog + Send>) -> Site {
        lineside::telemetry::start("lineside=debug");
        let stop = CancellationToken::new();
        let ended = stop.clone();
        let thread = self.in_server(move || async move {
            let service = Service::bind(Config::on_lan("lan0".to_owned(), ids::Lan::new(SERVER, 24))).unwrap();
            let (_sender, catalog) = watch::channel(Arc::new(Catalog::empty("lab".parse().unwrap())));
            let devices: Arc<RwLock<DeviceTable>> = Arc::default();
            let (_ask, asked) = mpsc::channel(16);
            let lan = interface::find(Some("lan0"), false).unwrap();
            let neighbours = NeighbourService::new(lan, devices.clone(), Stats::new()).run(asked, ended.clone());
            let feeds = Feeds { catalog, local, devices, leases, stats: Stats::new() };
            let (served, followed) = tokio::join!(service.run(feeds, ended), neighbours);
            served.unwrap();
            followed.unwrap();
        });
        Site { stop, thread: Some(thread) }
    }

    fn file(&self, name: &str, text: &str) -> String {
        let path = self.files.path().join(name);
        fs::File::create(&path).unwrap().write_all(text.as_bytes()).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        path.to_string_lossy().into_owned()
    }

    /// One run of dhclient; the lease as it wrote it.
    fn dhclient(&self) -> String {
        let config = self.file(
            "dhclient.conf",
            "option tftp150 code 150 = array of ip-address;\n\
             request subnet-mask, routers, tftp-server-name, tftp150;\ntimeout 20;\n",
        );
        let script = self.file("script", "#!/bin/sh\nexit 0\n");
        let leases = self.files.path().join("leases").to_string_lossy().into_owned();
        let pid = self.files.path().join("pid").to_string_lossy().into_owned();
        let log = self
            .run("c", &["dhclient", "-v", "-1", "-cf", &config, "-sf", &script, "-lf", &leases, "-pf", &pid, "lan0"]);
        println!("{log}");
        self.end(&pid);
        fs::read_to_string(leases).unwrap()
    }

    /// Ends the process whose id is in a file.
    fn end(&self, file: &str) {
        if let Ok(pid) = fs::read_to_string(file) {
            self.host(&["kill", pid.trim()]);
        }
    }

    /// One run of udhcpc; what its script was told.
    fn udhcpc(&self) -> String {
        let seen = self.files.path().join("seen").to_string_lossy().into_owned();
        let script = self.file("udhcpc", &format!("#!/bin/sh\n[ \"$1\" = bound ] && env > {seen}\nexit 0\n"));
        let mut command = vec!["busybox", "udhcpc", "-i", "lan0", "-f", "-q", "-n", "-t", "5", "-s", &script];
        command.extend(["-O", "tftp", "-O", "150", "-V", "Polycom-SPIP670"]);
        println!("{}", self.run("c", &command));
        let text = fs::read_to_string(&seen).unwrap_or_default();
        let told = ["ip=", "mask=", "router=", "siaddr=", "serverid=", "lease=", "tftp=", "opt"];
        text.lines().filter(|line| told.iter().any(|name| line.starts_with(name))).collect::<Vec<_>>().join(" ")
    }

    fn clear(&self) {
        for host in ["b", "s", "c", "r"] {
            if Path::new(&format!("/run/netns/{}", self.ns(host))).exists() {
                self.host(&["ip", "netns", "del", &self.ns(host)]);
            }
        }
    }
}

impl Drop for Lan {
    fn drop(&mut self) {
        self.clear();
    }
}

struct Site {
    stop: CancellationToken,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Site {
    /// Other servers get their chance first.
    fn wait_until_all(&self) {
        std::thread::sleep(Duration::from_millis(8500));
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        self.stop.cancel();
        self.thread.take().map(std::thread::JoinHandle::join);
    }
}

/// A log that outlives a service.
#[derive(Clone, Default)]
struct SharedLog(Arc<Mutex<MemoryLog>>);

impl LeaseLog for SharedLog {
    fn load(&mut self) -> Vec<Lease> {
        self.0.lock().unwrap().load()
    }

    fn commit(&mut self, lease: &Lease) -> std::io::Result<()> {
        self.0.lock().unwrap().commit(lease)
    }
}
