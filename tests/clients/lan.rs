//! A LAN with a router that others wrote, the shipped appliance, a phone, a PC, and somebody who writes down every frame.

#![allow(dead_code)]

use std::fs;
use std::net::SocketAddrV4;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU16, AtomicUsize, Ordering};
use std::time::Duration;

use super::net::{Host, Net, Running, sh, text, wait_for};
use super::wire::{raw, udp_frame};

pub const BOX: &str = "10.78.0.2";
pub const BOX_MAC: &str = "02:00:00:00:02:02";
pub const PHONE: &str = "00:04:f2:aa:bb:01";
pub const PC: &str = "3c:97:0e:00:00:01";

/// A router's server, and what starts it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Router {
    Dnsmasq,
    DnsmasqAuthoritative,
    Dhcpd,
    Kea,
    Udhcpd,
}

impl Router {
    pub const fn program(self) -> &'static str {
        match self {
            Self::Dnsmasq | Self::DnsmasqAuthoritative => "dnsmasq",
            Self::Dhcpd => "dhcpd",
            Self::Kea => "kea-dhcp4",
            Self::Udhcpd => "udhcpd",
        }
    }

    /// Starts it at 10.78.0.1, leasing .50 to .99, on one processor if one is named.
    fn start(self, host: &Host, dir: &Path, seconds: u32, processor: Option<usize>) -> Running {
        let begin = |words: &[&str], log: &Path| host.start(&on(processor, words), log);
        let file = |name: &str, text: String| {
            fs::write(dir.join(name), text).unwrap();
            dir.join(name).to_str().unwrap().to_owned()
        };
        let log = dir.join("router.log");
        match self {
            Self::Dnsmasq | Self::DnsmasqAuthoritative => {
                let range = format!("--dhcp-range=10.78.0.50,10.78.0.99,{seconds}s");
                let leases = format!("--dhcp-leasefile={}", file("router.leases", String::new()));
                let mut words = vec![
                    "dnsmasq",
                    "--keep-in-foreground",
                    "--conf-file=/dev/null",
                    "--port=0",
                    "--pid-file",
                    "--interface=eth0",
                ];
                words.extend(["--user=root", "--log-dhcp", "--log-facility=-", &range, &leases]);
                if self == Self::DnsmasqAuthoritative {
                    words.push("--dhcp-authoritative");
                }
                begin(&words, &log)
            }
            Self::Dhcpd => {
                let config = format!(
                    "authoritative; default-lease-time {seconds}; max-lease-time {seconds}; \
                     subnet 10.78.0.0 netmask 255.255.255.0 {{ range 10.78.0.50 10.78.0.99; option routers 10.78.0.1; }}\n"
                );
                let (config, leases) = (file("dhcpd.conf", config), file("router.leases", String::new()));
                let pid = dir.join("dhcpd.pid").to_str().unwrap().to_owned();
                begin(&["dhcpd", "-4", "-f", "-d", "-cf", &config, "-lf", &leases, "-pf", &pid, "eth0"], &log)
            }
            Self::Kea => {
                let config = format!(
                    r#"{{"Dhcp4": {{"interfaces-config": {{"interfaces": ["eth0"]}}, "authoritative": true,
                    "lease-database": {{"type": "memfile", "persist": false}}, "valid-lifetime": {seconds},
                    "subnet4": [{{"subnet": "10.78.0.0/24", "id": 1, "pools": [{{"pool": "10.78.0.50-10.78.0.99"}}],
                    "option-data": [{{"name": "routers", "data": "10.78.0.1"}}]}}],
                    "loggers": [{{"name": "kea-dhcp4", "severity": "INFO", "output_options": [{{"output": "stdout"}}]}}]}}}}"#
                );
                let config = file("kea.conf", config);
                let dir = dir.to_str().unwrap();
                let line = format!("KEA_PIDFILE_DIR={dir} KEA_LOCKFILE_DIR={dir} exec kea-dhcp4 -c {config}");
                begin(&["sh", "-c", &line], &log)
            }
            Self::Udhcpd => {
                let leases = file("router.leases", String::new());
                let config = format!(
                    "start 10.78.0.50\nend 10.78.0.99\ninterface eth0\nlease_file {leases}\npidfile /dev/null\n\
                     option subnet 255.255.255.0\noption router 10.78.0.1\noption lease {seconds}\nmin_lease 20\n"
                );
                let config = file("udhcpd.conf", config);
                begin(&["udhcpd", "-f", "-I", "10.78.0.1", &config], &log)
            }
        }
    }
}

/// A command line on one processor, if one is named.
fn on<'a>(processor: Option<usize>, words: &[&'a str]) -> Vec<&'a str> {
    const NAMES: [&str; 4] = ["0", "1", "2", "3"];
    let pinned = processor.map(|number| ["taskset", "-c", NAMES[number % NAMES.len()]]);
    pinned.into_iter().flatten().chain(words.iter().copied()).collect()
}

/// Whether systemd-networkd is here; skips loudly if not.
pub fn has_networkd() -> bool {
    let here = Path::new("/lib/systemd/systemd-networkd").exists();
    assert!(here || std::env::var("CI").as_deref() != Ok("true"), "it needs /lib/systemd/systemd-networkd");
    if !here {
        eprintln!("SKIPPED: it needs /lib/systemd/systemd-networkd");
    }
    here
}

/// An interpreter with scapy: `LINESIDE_PYTHON`, or what `tests/tuf/venv` made. If there is none, says so loudly; with
/// `CI=true` that is a failure.
fn python() -> Option<PathBuf> {
    let made = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/target/python/bin/python"));
    let python = std::env::var_os("LINESIDE_PYTHON").map_or(made, PathBuf::from);
    let has_scapy = Command::new(&python).args(["-c", "import scapy"]).output();
    if has_scapy.is_ok_and(|output| output.status.success()) {
        return Some(python);
    }
    assert!(std::env::var("CI").as_deref() != Ok("true"), "no scapy; tests/tuf/venv makes an interpreter with it");
    eprintln!("NOT CHECKED that messages are well-formed: no scapy (tests/tuf/venv makes an interpreter with it)");
    None
}

/// A LAN: a router, the box, a phone, a PC, and somebody who writes down every frame.
pub struct Lan {
    _net: Net,
    pub phone: Host,
    pub pc: Host,
    pub dir: PathBuf,
    switch: Host,
    pub site: Host,
    /// What the appliance's configuration names as the LAN.
    pub interface: &'static str,
    host: Host,
    processor: Option<usize>,
    router: Option<Running>,
    appliance: Option<Running>,
    capture: Option<Running>,
}

impl Lan {
    /// Router and box share one processor, where real-time priority decides who is first: an unoptimised build on a machine
    /// that runs many tests is no match otherwise. The race itself is the benchmark's.
    pub fn new(router: Option<Router>, seconds: u32) -> Self {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let processors = std::thread::available_parallelism().map_or(1, usize::from).min(4);
        Self::on(router, seconds, Some(NEXT.fetch_add(1, Ordering::Relaxed) % processors))
    }

    /// Everybody runs where the kernel likes.
    pub fn free(router: Router, seconds: u32) -> Self {
        Self::on(Some(router), seconds, None)
    }

    fn on(router: Option<Router>, seconds: u32, processor: Option<usize>) -> Self {
        let mut net = Net::new();
        let switch = net.switch("switch");
        let (host, site, phone, pc) = (net.host("router"), net.host("box"), net.host("phone"), net.host("pc"));
        for (host, mac) in [(&host, None), (&site, Some(BOX_MAC)), (&phone, Some(PHONE)), (&pc, Some(PC))] {
            net.plug(host, "eth0", &switch, mac);
        }
        host.sh("ip address add 10.78.0.1/24 dev eth0");
        site.sh(&format!("ip address add {BOX}/24 dev eth0"));
        let dir = net.dir();
        let running = router.map(|router| router.start(&host, &dir, seconds, processor));
        let mut lan = Self {
            _net: net,
            phone,
            pc,
            dir,
            switch,
            site,
            interface: "eth0",
            host,
            processor,
            router: running,
            appliance: None,
            capture: None,
        };
        lan.capture();
        lan
    }

    fn capture(&mut self) {
        let words = ["tcpdump", "-i", "br0", "-n", "-e", "-U", "-w", "lan.pcap", "udp port 67 or udp port 68 or vlan"];
        let mut words: Vec<String> = words.map(str::to_owned).to_vec();
        words[7] = self.dir.join("lan.pcap").to_str().unwrap().to_owned();
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let capture = self.switch.start(&words, &self.dir.join("tcpdump.log"));
        capture.says("listening on");
        self.capture = Some(capture);
    }

    /// Starts a router's server.
    pub fn start_router(&self, router: Router, seconds: u32) -> Running {
        router.start(&self.host, &self.dir, seconds, self.processor)
    }

    /// Starts a server's command line at the router's place.
    pub fn start_router_with(&self, words: &[&str]) -> Running {
        self.start_at(&self.host, words, "router.log")
    }

    /// Starts a command line in a host, where router and box run.
    pub fn start_at(&self, host: &Host, words: &[&str], log: &str) -> Running {
        host.start(&on(self.processor, words), &self.dir.join(log))
    }

    /// Another router takes the place of the one that was there.
    pub fn replace_router(&mut self, router: Router, seconds: u32) {
        self.router = None;
        self.router = Some(self.start_router(router, seconds));
    }

    /// The router's hardware address.
    pub fn router_mac(&self) -> String {
        self.host.sh("cat /sys/class/net/eth0/address").trim().to_owned()
    }

    /// Stops the appliance as systemd does.
    pub fn stop(&mut self) {
        if let Some(mut appliance) = self.appliance.take() {
            appliance.signal("TERM");
            appliance.ends_within(Duration::from_secs(12));
        }
    }

    /// Stops the appliance and takes its memory.
    pub fn forget(&mut self) {
        self.stop();
        let _ = fs::remove_dir_all(self.dir.join("state"));
    }

    /// Starts the shipped appliance with this `[dhcp]` table, and waits until it does what it is to do.
    pub fn serve(&mut self, dhcp: &str, label: &str) {
        self.start(dhcp);
        self.becomes(label);
    }

    /// Waits until the appliance does what it is to do.
    pub fn becomes(&self, label: &str) {
        wait_for(Duration::from_secs(30), || self.status().contains(label).then_some(()))
            .unwrap_or_else(|| panic!("never `{label}`:\n{}\n{}", self.status(), self.log()));
    }

    /// Starts the shipped appliance with this `[dhcp]` table.
    pub fn start(&mut self, dhcp: &str) {
        let state = self.dir.join("state");
        let config = format!(
            "[lan]\ninterface = {:?}\n[storage]\nstate = {:?}\n[status]\nsocket = {:?}\n[dhcp]\n{dhcp}\n\
             phone-classes = [\"Polycom-\", \"AastraIPPhone\"]\n",
            self.interface,
            state.to_str().unwrap(),
            self.dir.join("status.sock").to_str().unwrap(),
        );
        let path = self.dir.join("lineside.toml");
        fs::write(&path, config).unwrap();
        let program = env!("CARGO_BIN_EXE_lineside");
        let log = self.dir.join("lineside.log");
        // Its predecessor holds the state and the ports.
        self.appliance = None;
        self.appliance =
            Some(self.site.start(&on(self.processor, &[program, "--config", path.to_str().unwrap(), "run"]), &log));
    }

    pub fn status(&self) -> String {
        let program = env!("CARGO_BIN_EXE_lineside");
        let config = self.dir.join("lineside.toml");
        let words = [program, "--config", config.to_str().unwrap(), "status", "--json"];
        text(&self.site.command(&words).output().unwrap())
    }

    /// The status as people read it.
    pub fn status_text(&self) -> String {
        let config = self.dir.join("lineside.toml");
        let words = [env!("CARGO_BIN_EXE_lineside"), "--config", config.to_str().unwrap(), "status"];
        text(&self.site.command(&words).output().unwrap())
    }

    pub fn log(&self) -> String {
        let read = |name: &str| fs::read_to_string(self.dir.join(name)).unwrap_or_default();
        format!("{}\n--- router\n{}", read("lineside.log"), read("router.log"))
    }

    pub fn script(&self, name: &str, text: &str) -> String {
        let path = self.dir.join(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        path.to_str().unwrap().to_owned()
    }

    /// A lease as busybox udhcpc got it.
    pub fn udhcpc(&self, host: &Host, class: &str) -> String {
        let seen = self.dir.join("seen");
        let _ = fs::remove_file(&seen);
        let keep = format!(
            "#!/bin/sh\n[ \"$1\" = bound ] && env | grep -E '^([a-z]+|opt[0-9]+)=' > {}\nexit 0\n",
            seen.display()
        );
        let script = self.script("udhcpc.sh", &keep);
        let output = host.try_sh(&format!(
            "busybox udhcpc -i eth0 -f -q -n -t 8 -T 2 -s {script} -O tftp -O 150 -O lease -V {class}"
        ));
        fs::read_to_string(&seen).unwrap_or_else(|_| format!("no lease: {}", text(&output)))
    }

    /// A lease as dhclient wrote it to its file.
    pub fn dhclient(&self, host: &Host, class: &str) -> String {
        let config = self.script(
            "dhclient.conf",
            &format!(
                "option tftp150 code 150 = array of ip-address;\nsend vendor-class-identifier \"{class}\";\n\
                 request subnet-mask, routers, dhcp-lease-time, tftp-server-name, tftp150;\ntimeout 20;\n"
            ),
        );
        let (leases, pid) = (self.dir.join("dhclient.leases"), self.dir.join("dhclient.pid"));
        let output = host.try_sh(&format!(
            "dhclient -4 -v -1 -sf /bin/true -cf {config} -lf {} -pf {} eth0; kill $(cat {})",
            leases.display(),
            pid.display(),
            pid.display()
        ));
        let kept = fs::read_to_string(&leases).unwrap_or_default();
        let last = kept.rsplit("lease {").next().unwrap_or_default().to_owned();
        assert!(last.contains("fixed-address"), "no lease: {}\n{}", text(&output), self.log());
        last
    }

    /// A lease as dhcpcd told its hook.
    pub fn dhcpcd(&self, host: &Host, class: &str, more: &str) -> String {
        let seen = self.dir.join("dhcpcd.seen");
        let _ = fs::remove_file(&seen);
        let hook = self.script(
            "dhcpcd.hook",
            &format!(
                "#!/bin/sh\ncase $reason in BOUND|INFORM|REBOOT) env > {0}.new; mv {0}.new {0};; esac\n",
                seen.display()
            ),
        );
        let config = self.script(
            "dhcpcd.conf",
            "option tftp_server_name\nnohook resolv.conf\ndefine 150 array ipaddress tftp150\noption 150\n",
        );
        // Its leases of other tests, and of this machine, are none of this phone's.
        host.try_sh(&format!("for dir in /var/lib/dhcpcd /run/dhcpcd; do mkdir -p $dir; mount -t tmpfs none $dir; done; dhcpcd -4 -1 -B -t 20 -A --noconfigure -f {config} -c {hook} -i '{class}' {more} eth0"));
        fs::read_to_string(&seen).unwrap_or_else(|_| format!("no lease: {}", self.log()))
    }

    /// What systemd-networkd says while it gets a lease. It reads neither 66 nor 150 and says of each message that it
    /// ignores them.
    pub fn networkd(&self, host: &Host, class: &str) -> String {
        let network = self.script(
            "eth0.network",
            &format!(
                "[Match]\nName=eth0\n[Network]\nDHCP=ipv4\nLinkLocalAddressing=no\nIPv6AcceptRA=no\n\
                 [DHCPv4]\nVendorClassIdentifier={class}\nRequestOptions=66 150\nClientIdentifier=mac\n"
            ),
        );
        let log = self.dir.join("networkd.log");
        // Devices are as udev left them only where /sys can be written; and it keeps its state with its own user.
        let line = format!(
            "mount -o remount,ro,bind /sys; mount -t tmpfs none /run/systemd; cd /run/systemd; \
             mkdir -p network netif/leases netif/links netif/lldp; cp {network} network/; chown -R systemd-network: netif; \
             SYSTEMD_LOG_LEVEL=debug SYSTEMD_LOG_TARGET=console /lib/systemd/systemd-networkd > {log} 2>&1 & \
             for i in $(seq 100); do grep -q 'acquired from' {log} && break; sleep 0.1; done; kill -9 $!; \
             ip address flush dev eth0",
            log = log.display()
        );
        host.try_sh(&line);
        fs::read_to_string(&log).unwrap_or_default()
    }

    /// Makes sure that whoever read the whole capture finds every message of ours well-formed.
    pub fn is_well_formed(&self) {
        let Some(python) = python() else { return };
        self.written();
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/clients/well_formed.py");
        let capture = self.dir.join("lan.pcap");
        let output = Command::new(python).args([script, capture.to_str().unwrap(), BOX_MAC]).output().unwrap();
        println!("{}", text(&output));
        assert!(output.status.success(), "scapy objects:\n{}", text(&output));
    }

    /// Waits until everything that was sent by now is written down: until a frame is that is sent after it. It is for nobody.
    fn written(&self) {
        static MARKS: AtomicU16 = AtomicU16::new(1);
        let port = MARKS.fetch_add(1, Ordering::Relaxed);
        let (from, to) =
            (SocketAddrV4::new([203, 0, 113, 1].into(), port), SocketAddrV4::new([203, 0, 113, 2].into(), 68));
        let (mark, nobody) = ([2, 0, 0, 0, 0xff, 1], [2, 0, 0, 0, 0xff, 2]);
        raw(&self.switch, "br0").send(&udp_frame((mark, nobody), from, to, b"")).unwrap();
        let path = self.dir.join("lan.pcap");
        let read = format!("tcpdump -n -r {} 'src 203.0.113.1 and udp src port {port}' 2>/dev/null", path.display());
        // The last frame may be written in part.
        let written = || Command::new("sh").args(["-c", &read]).output().is_ok_and(|output| !output.stdout.is_empty());
        wait_for(Duration::from_secs(20), || written().then_some(())).expect("whoever writes down the frames goes on");
    }

    /// Frames on the LAN that fit a filter, one line each.
    pub fn frames(&self, filter: &str) -> Vec<String> {
        self.written();
        let path = self.dir.join("lan.pcap");
        let output = sh(&format!("tcpdump -n -e -vv -r {} '{filter}' 2>/dev/null", path.display()));
        output
            .split("\n")
            .filter(|line| !line.starts_with(['\t', ' ']) && !line.is_empty())
            .map(str::to_owned)
            .collect()
    }

    /// NAKs, whoever sent them: option 53 is 6, wherever it is.
    pub fn naks(&self) -> usize {
        self.written();
        let path = self.dir.join("lan.pcap");
        let output = sh(&format!("tcpdump -n -e -vv -tt -r {} 2>/dev/null", path.display()));
        let count = output.matches("DHCP-Message (53), length 1: NACK").count();
        if count > 0 {
            println!("{output}");
        }
        count
    }
}
