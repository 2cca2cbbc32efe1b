//! A site with a home router, a phone and a way to HQ, and HQ itself, around the virtual machine.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

pub use super::fleet::CISCO_FILE as FILE;
use super::fleet::{self, CISCO as PHONE, HQ};
use super::net::{Host, Net, Running, wait_for};

/// The size of the blocks in which the phone asks for its file.
const BLOCK: usize = 64;

const CLASS: &str = "Cisco Systems, Inc. IP Phone CP-8941";

/// What QEMU and the network around it need.
pub const PROGRAMS: &[&str] =
    &["ip", "curl", "dnsmasq", "busybox", "nmap", "mcopy", "qemu-system-x86_64", "rauc", "dd", "gzip"];

pub struct Lan {
    // In the order in which they have to end.
    pub serve: Option<Running>,
    _router: Running,
    pub net: Net,
    pub switch: Host,
    pub phone: Host,
    hq: Host,
    pub fleet: PathBuf,
}

impl Lan {
    /// HQ with a site and a phone in its inventory, serving; a home router with DHCP; the switch has a port `tap0`.
    pub fn new() -> Self {
        let mut net = Net::new();
        let (hq, router, phone, switch) = (net.host("hq"), net.host("rt"), net.host("ph"), net.switch("lan"));
        net.cable((&hq, "eth0"), (&router, "wan0"));
        net.plug(&router, "lan0", &switch, None);
        net.plug(&phone, "lan0", &switch, Some(PHONE));
        switch.sh("ip tuntap add tap0 mode tap && ip link set tap0 master br0 up");
        hq.sh(&format!("ip addr add {HQ}/24 dev eth0 && ip route add 192.168.77.0/24 via 10.99.0.2"));
        router.sh("ip addr add 10.99.0.2/24 dev wan0 && ip addr add 192.168.77.1/24 dev lan0");
        router.sh("echo 1 >/proc/sys/net/ipv4/ip_forward");
        let dir = net.dir();
        let leases = format!("--dhcp-leasefile={}", dir.join("leases").display());
        let words = [
            &["dnsmasq", "--no-daemon", "--conf-file=/dev/null", "--port=0", "--dhcp-authoritative", "--user=root"][..],
            &["--interface=lan0", "--dhcp-range=192.168.77.100,192.168.77.150,1h", "--dhcp-option=3,192.168.77.1"],
            &["--log-dhcp", &leases],
        ]
        .concat();
        let running = router.start(&words, &dir.join("router.log"));

        let fleet = dir.join("fleet");
        fleet::init(&fleet, &[PHONE]);
        // Soon enough for a test.
        let path = fleet.join("fleet.toml");
        let settings = fs::read_to_string(&path).unwrap();
        assert!(settings.contains("poll-seconds = 300"));
        fs::write(&path, settings.replace("poll-seconds = 300", "poll-seconds = 60")).unwrap();

        let mut this = Self { serve: None, _router: running, net, switch, phone, hq, fleet };
        this.serve();
        this
    }

    /// Starts `lineside-hq serve`.
    pub fn serve(&mut self) {
        self.serve = Some(fleet::serve(&self.fleet, &self.hq, &[], &self.net.dir().join("hq.log")));
    }

    /// Runs `lineside-hq` on the fleet; it must succeed.
    pub fn hq(&self, words: &[&str]) -> String {
        fleet::hq(&self.fleet, words)
    }

    /// A token file for the site.
    pub fn token(&self) -> PathBuf {
        fleet::token(&self.fleet)
    }

    /// Publishes as soon as the site has enrolled, for until then there is no key to seal to.
    pub fn publish_once_enrolled(&self, limit: Duration, why: impl Fn() -> String) {
        wait_for(limit, || {
            std::thread::sleep(Duration::from_millis(500));
            self.serve.as_ref().unwrap().log().contains("enrolled").then_some(())
        })
        .unwrap_or_else(|| panic!("not enrolled:\n{}\n{}", self.serve.as_ref().unwrap().log(), why()));
        self.hq(&["publish"]);
    }

    /// HQ gives the site the update that `image/build` made in this folder.
    pub fn offers(&self, folder: &str) {
        let said = self.hq(&["image", "add", image(folder).join("update.raucb").to_str().unwrap()]);
        let name = said.split_once("images/").unwrap().1.split_once(".raucb").unwrap().0;
        let path = self.fleet.join("sites/sample-office.toml");
        let settings = fs::read_to_string(&path).unwrap();
        let without = settings.split("\n[update]\nimage").next().unwrap();
        fs::write(&path, format!("{without}\n[update]\nimage = \"{name}\"\n")).unwrap();
        println!("{}", self.hq(&["publish"]).lines().last().unwrap_or_default());
    }

    /// Waits until HQ's view of the site holds this.
    pub fn hears(&self, what: &str, limit: Duration, why: impl Fn() -> String) {
        wait_for(limit, || {
            std::thread::sleep(Duration::from_secs(1));
            self.hq(&["fleet", "sample-office"]).contains(what).then_some(())
        })
        .unwrap_or_else(|| panic!("HQ does not say `{what}`:\n{}\n{}", self.hq(&["fleet", "sample-office"]), why()));
    }

    /// What the phone must get, as HQ shows it: a file of its own, and many blocks as [`Lan::fetch`] takes it.
    pub fn expected(&self) -> Vec<u8> {
        let file = fleet::preview(&self.fleet, PHONE, FILE);
        assert!(file.len() > 20 * BLOCK, "{} bytes", file.len());
        file
    }

    /// The phone asks for an address once; what it was told, as `name=value` words, if it got one.
    pub fn lease(&self) -> Option<String> {
        let dir = self.net.dir();
        let (script, seen) = (dir.join("udhcpc"), dir.join("seen"));
        let _ = fs::remove_file(&seen);
        let code = format!("#!/bin/sh\n[ \"$1\" = bound ] && env >{}\nexit 0\n", seen.display());
        fs::write(&script, code).unwrap();
        self.phone.sh(&format!("chmod +x {}", script.display()));
        let line =
            format!("busybox udhcpc -i lan0 -f -q -n -t 4 -T 2 -s {} -O tftp -O 150 -V '{CLASS}'", script.display());
        self.phone.try_sh(&line);
        fs::read_to_string(seen).ok()
    }

    /// The lease as soon as it has the appliance in it: a value of it.
    pub fn lease_with_us(&self, limit: Duration, why: impl Fn() -> String) -> Lease {
        let mut last = None;
        wait_for(limit, || {
            last = self.lease();
            Lease::of(last.as_deref()?)
        })
        .unwrap_or_else(|| panic!("no lease with options 66 and 150: {last:?}\n{}", why()))
    }

    /// Configures the phone as it was told.
    pub fn take(&self, lease: &Lease) {
        self.phone.sh(&format!("ip addr flush dev lan0 && ip addr add {}/24 dev lan0", lease.address));
    }

    /// What the phone gets from there, if anything, within five seconds. Its own file leaves the box as frames, which
    /// the box's firewall does not see, so that each ACK must be let in for itself.
    pub fn fetch(&self, server: &str) -> Option<Vec<u8>> {
        let output = self.phone.try_sh(&format!("curl -s -m 5 --tftp-blksize {BLOCK} tftp://{server}/{FILE}"));
        output.status.success().then_some(output.stdout)
    }
}

/// What the phone was told.
#[derive(Debug)]
pub struct Lease {
    pub address: String,
    /// The server that granted it.
    pub from: String,
    /// Option 66, and 150.
    pub tftp: String,
    pub option_150: String,
}

impl Lease {
    fn of(told: &str) -> Option<Self> {
        let value =
            |name: &str| told.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('=')).map(str::to_owned);
        let option_150 = value("opt150")?;
        Some(Self { address: value("ip")?, from: value("serverid")?, tftp: value("tftp")?, option_150 })
    }

    /// Option 150 as dotted decimal; busybox shows it in hexadecimal.
    pub fn option_150(&self) -> String {
        let bytes: Vec<String> = (0..self.option_150.len() / 2)
            .filter_map(|at| u8::from_str_radix(self.option_150.get(at * 2..at * 2 + 2)?, 16).ok())
            .map(|byte| byte.to_string())
            .collect();
        bytes.join(".")
    }
}

/// What an image of this version calls itself: these are signed by throw-away keys.
pub fn built(version: &str) -> String {
    format!("{version}+throw-away-keys")
}

/// What `image/build` left for this architecture.
pub fn image(arch: &str) -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let dir = std::env::var_os("LINESIDE_IMAGES").map_or_else(|| root.join("target/image"), PathBuf::from).join(arch);
    assert!(dir.join("disk.img").exists(), "there is no image in {}: image/build --arch {arch}", dir.display());
    dir
}
