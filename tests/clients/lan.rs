//! A LAN with a router that others wrote, the shipped appliance, a phone, a PC, and somebody who writes down every frame.

#![allow(dead_code)]

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::time::Duration;

use super::net::{Host, Net, Running, sh, text, wait_for};

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

    /// Starts it at 10.78.0.1, leasing .50 to .99.
    fn start(self, host: &Host, dir: &std::path::Path, seconds: u32) -> Running {
        let file = |name: &str, text: String| {
            fs::write(dir.join(name), text).unwrap();
            dir.join(name).to_str().unwrap().to_owned()
        };
        let log = dir.join("router.log");
        match self {
            Self::Dnsmasq | Self::DnsmasqAuthoritative => {
                let range = format!("--dhcp-range=10.78.0.50,10.78.0.99,{seconds}s");
                let leases = format!("--dhcp-leasefile={}", file("router.leases", String::new()));
                let mut words =
                    vec!["dnsmasq", "--keep-in-foreground", "--conf-file=/dev/null", "--port=0", "--interface=eth0"];
                words.extend(["--user=root", "--log-dhcp", "--log-facility=-", &range, &leases]);
                if self == Self::DnsmasqAuthoritative {
                    words.push("--dhcp-authoritative");
                }
                host.start(&words, &log)
            }
            Self::Dhcpd => {
                let config = format!(
                    "authoritative; default-lease-time {seconds}; max-lease-time {seconds}; \
                     subnet 10.78.0.0 netmask 255.255.255.0 {{ range 10.78.0.50 10.78.0.99; option routers 10.78.0.1; }}\n"
                );
                let (config, leases) = (file("dhcpd.conf", config), file("router.leases", String::new()));
                let pid = dir.join("dhcpd.pid").to_str().unwrap().to_owned();
                host.start(&["dhcpd", "-4", "-f", "-d", "-cf", &config, "-lf", &leases, "-pf", &pid, "eth0"], &log)
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
                host.start(&["sh", "-c", &line], &log)
            }
            Self::Udhcpd => {
                let leases = file("router.leases", String::new());
                let config = format!(
                    "start 10.78.0.50\nend 10.78.0.99\ninterface eth0\nlease_file {leases}\npidfile /dev/null\n\
                     option subnet 255.255.255.0\noption router 10.78.0.1\noption lease {seconds}\nmin_lease 20\n"
                );
                let config = file("udhcpd.conf", config);
                host.start(&["udhcpd", "-f", "-I", "10.78.0.1", &config], &log)
            }
        }
    }
}

/// A LAN: a router, the box, a phone, a PC, and somebody who writes down every frame.
pub struct Lan {
    _net: Net,
    pub phone: Host,
    pub pc: Host,
    pub dir: PathBuf,
    switch: Host,
    pub site: Host,
    _router: Option<Running>,
    appliance: Option<Running>,
    capture: Option<Running>,
}

impl Lan {
    pub fn new(router: Option<Router>, seconds: u32) -> Self {
        let mut net = Net::new();
        let switch = net.switch("switch");
        let (host, site, phone, pc) = (net.host("router"), net.host("box"), net.host("phone"), net.host("pc"));
        for (host, mac) in [(&host, None), (&site, Some(BOX_MAC)), (&phone, Some(PHONE)), (&pc, Some(PC))] {
            net.plug(host, "eth0", &switch, mac);
        }
        host.sh("ip address add 10.78.0.1/24 dev eth0");
        site.sh(&format!("ip address add {BOX}/24 dev eth0"));
        let dir = net.dir();
        let running = router.map(|router| router.start(&host, &dir, seconds));
        let mut lan =
            Self { _net: net, phone, pc, dir, switch, site, _router: running, appliance: None, capture: None };
        lan.capture();
        lan
    }

    fn capture(&mut self) {
        let words = ["tcpdump", "-i", "br0", "-n", "-e", "-U", "-w", "lan.pcap", "udp port 67 or udp port 68"];
        let mut words: Vec<String> = words.map(str::to_owned).to_vec();
        words[7] = self.dir.join("lan.pcap").to_str().unwrap().to_owned();
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let capture = self.switch.start(&words, &self.dir.join("tcpdump.log"));
        capture.says("listening on");
        self.capture = Some(capture);
    }

    /// Starts the shipped appliance with this `[dhcp]` table, and waits until it does what it is to do.
    pub fn serve(&mut self, dhcp: &str, label: &str) {
        let state = self.dir.join("state");
        let config = format!(
            "[lan]\ninterface = \"eth0\"\n[storage]\nstate = {:?}\n[status]\nsocket = {:?}\n[dhcp]\n{dhcp}\n\
             phone-classes = [\"Polycom-\", \"AastraIPPhone\"]\n",
            state.to_str().unwrap(),
            self.dir.join("status.sock").to_str().unwrap(),
        );
        let path = self.dir.join("lineside.toml");
        fs::write(&path, config).unwrap();
        let program = env!("CARGO_BIN_EXE_lineside");
        let log = self.dir.join("lineside.log");
        self.appliance = Some(self.site.start(&[program, "--config", path.to_str().unwrap(), "run"], &log));
        wait_for(Duration::from_secs(30), || self.status().contains(label).then_some(()))
            .unwrap_or_else(|| panic!("never `{label}`:\n{}\n{}", self.status(), self.log()));
    }

    pub fn status(&self) -> String {
        let program = env!("CARGO_BIN_EXE_lineside");
        let config = self.dir.join("lineside.toml");
        let words = [program, "--config", config.to_str().unwrap(), "status", "--json"];
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

    /// Frames on the LAN that fit a filter, one line each.
    pub fn frames(&self, filter: &str) -> Vec<String> {
        // What was just sent is written within its buffer time.
        std::thread::sleep(Duration::from_millis(300));
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
        let path = self.dir.join("lan.pcap");
        let output = sh(&format!("tcpdump -n -e -vv -tt -r {} 2>/dev/null", path.display()));
        let count = output.matches("DHCP-Message (53), length 1: NACK").count();
        if count > 0 {
            println!("{output}");
        }
        count
    }
}
